"""Errors a launch shows as one message, without a traceback: the user can act on them."""


class RunError(RuntimeError):
    """Something about a run that its user, not its author, can put right."""


class RunDirectoryError(RunError):
    """The run directory cannot be used: it belongs to another config, another process, or is damaged or read-only."""


class CheckpointError(RunError):
    """Checkpoints exist but none can be used, or the state to save does not fit in one."""


class MetricsError(RunError):
    """A row does not fit the columns of its file, or the file is damaged."""


class NonFiniteMetaGradient(FloatingPointError, RunError):
    """The meta-gradient was not finite for the configured number of steps in a row."""
