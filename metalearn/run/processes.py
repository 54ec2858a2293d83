"""Which of the processes of a run writes its files."""

import jax


def is_first() -> bool:
    """Whether this is the first, usually the only, process. Starts no JAX backend in a run of one process."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0
