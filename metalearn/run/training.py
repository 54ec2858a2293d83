"""The training loop that every experiment runs: exact resumption, metrics one step behind, checkpoints, progress.

What the loop promises: killed at any moment and called again with the same arguments, it ends with the same state and
the same metrics.csv, bit for bit, as a call that was never interrupted (on the same kind of device). It asks in return
that `step_fn` depends on nothing but the state and the step index: batches come from `fold_in(key, step)` or the like.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.run.checkpoints import Checkpoints
from metalearn.run.compilation import CompileClock
from metalearn.run.directory import RunPaths
from metalearn.run.errors import NonFiniteMetaGradient
from metalearn.run.metrics import CsvLog, EventLog
from metalearn.run.processes import is_first
from metalearn.run.progress import Progress

StateT = TypeVar("StateT")
Metrics = Mapping[str, Any]

SKIPPED = "skipped_in_a_row"


def train(
    directory: RunPaths,
    state: StateT,
    step_fn: Callable[[StateT, int], tuple[StateT, Metrics]],
    *,
    steps: int,
    checkpoint_every: int,
    log_every: int = 1,
    keep: int = 3,
    max_nonfinite_in_a_row: int = 10,
    evaluate: Callable[[StateT, int], Metrics] | None = None,
    evaluate_every: int | None = None,
    examples_per_step: int | None = None,
    progress: Progress | None = None,
    name: str = "training",
) -> StateT:
    """Runs `step_fn` until `steps` steps are done, going on from the newest sound checkpoint of the directory.

    Args:
      directory: an opened `RunDirectory`, or a stage of one.
      state: the initial state, any pytree. It may be donated by `step_fn` and must not be used afterwards.
      step_fn: `(state, step index from 0) -> (state, metrics)`. Keeps structure, shapes, types and placement of the
        state. Metrics are scalars under the same names at every step; `skipped_in_a_row`, if among them, counts the
        steps since the last finite meta-gradient.
      steps: how many steps make the run.
      checkpoint_every: steps between checkpoints; the last step is always saved.
      log_every: steps between rows of metrics.csv (values of that step, not means); the last step is always logged.
      keep: how many checkpoints stay.
      max_nonfinite_in_a_row: at so many skipped steps the run stops.
      evaluate: `(state, steps done) -> metrics`, written to evaluation.csv. It must not donate the state.
      evaluate_every: steps between evaluations (default: only after the last step).
      examples_per_step: to report examples/s as well.
      progress: where to show progress; by default a bar or lines on standard error.
      name: what to call this training there.

    Returns:
      The state after `steps` steps.

    Raises:
      NonFiniteMetaGradient: see `max_nonfinite_in_a_row`; names the step. Checkpoints stay as they are.
      CheckpointError: there are checkpoints but no sound one.
      ValueError: an argument is out of range, or `step_fn` changes the type of the state.
    """
    _check_positive(steps=steps, checkpoint_every=checkpoint_every, log_every=log_every)
    if evaluate_every is not None:
        _check_positive(evaluate_every=evaluate_every)
    state = _strongly_typed(state)
    with Checkpoints(directory.checkpoints, keep=keep) as checkpoints:
        restored = checkpoints.restore_latest(state)
        start = 0
        if restored is not None:
            start, state = restored.step, restored.state
        if start > steps:
            raise ValueError(
                f"{directory.root} is already at step {start}, beyond steps={steps}: choose another --workdir."
            )
        progress = progress or Progress(steps, name, start=start)
        with _Recorder(directory, start, examples_per_step) as recorder, progress, CompileClock() as compiling:
            if restored is not None:
                for warning in restored.warnings:
                    progress.message(f"warning: {warning}")
                progress.message(f"going on from the checkpoint of step {start}")
            pending: tuple[int, Metrics] | None = None
            saved = start

            def drain() -> None:
                """Waits for the metrics of the last step but one, so that the device always has work queued."""
                nonlocal pending
                if pending is None:
                    return
                done, metrics = pending[0], {name: np.asarray(value) for name, value in pending[1].items()}
                pending = None
                in_a_row = int(metrics.get(SKIPPED, 0))
                if in_a_row >= max_nonfinite_in_a_row:
                    recorder.log(done, metrics, compiling)
                    raise NonFiniteMetaGradient(
                        f"the meta-gradient was not finite {in_a_row} steps in a row, up to step {done} of {steps}. "
                        f"The last checkpoint is that of step {saved}. Lower the learning rates or clip the gradient "
                        "(in another --workdir), or allow more with max_nonfinite_in_a_row."
                    )
                progress.update(done, **_shown(metrics))
                if done % log_every == 0 or done == steps:
                    recorder.log(done, metrics, compiling)

            try:
                for index in range(start, steps):
                    signature = _signature(state) if index == start else None
                    state, metrics = step_fn(state, index)
                    if signature is not None:
                        _check_signature(signature, _signature(state))
                    done = index + 1
                    drain()
                    pending = (done, metrics)
                    last = done == steps
                    evaluating = evaluate is not None and (last or (evaluate_every and done % evaluate_every == 0))
                    saving = last or done % checkpoint_every == 0
                    if evaluating or saving:
                        drain()
                    if evaluating and evaluate is not None:
                        recorder.evaluation(done, evaluate(state, done))
                    if saving:
                        recorder.flush()  # first the rows, then the checkpoint that says they are there
                        checkpoints.save(done, state)
                        saved = done
            except KeyboardInterrupt:
                progress.message(f"interrupted: the same command goes on from step {saved}")
                raise
    return state


class _Recorder:
    """The files a training writes to: reproducible columns in metrics.csv, everything of the clock elsewhere."""

    def __init__(self, directory: RunPaths, start: int, examples_per_step: int | None):
        self._primary = is_first()
        if not self._primary:
            return
        self._examples = examples_per_step
        self._metrics = CsvLog(directory.metrics, resume_step=start)
        self._timing = CsvLog(directory.timing, resume_step=start)
        self._evaluation = CsvLog(directory.evaluation, resume_step=start)
        self._events = EventLog(directory.events, resume_step=start)
        self._began = self._last_time = time.monotonic()
        self._last_step = start
        self._last_compiling = 0.0

    def log(self, step: int, metrics: Metrics, compiling: CompileClock) -> None:
        if not self._primary:
            return
        self._metrics.write(step, metrics)
        now = time.monotonic()
        busy = max(now - self._last_time - (compiling.seconds - self._last_compiling), 1e-9)
        timing = {"steps_per_second": (step - self._last_step) / busy}
        if self._examples is not None:
            timing["examples_per_second"] = timing["steps_per_second"] * self._examples
        timing |= {
            "compile_seconds": compiling.seconds,
            "compile_cache_hits": compiling.cache_hits,
            "elapsed_seconds": now - self._began,
        }
        self._timing.write(step, timing)
        self._events.write(step, metrics)
        self._events.write(step, timing, prefix="timing/")
        self._last_time, self._last_step, self._last_compiling = now, step, compiling.seconds

    def evaluation(self, step: int, metrics: Metrics) -> None:
        if self._primary:
            self._evaluation.write(step, metrics)
            self._events.write(step, metrics, prefix="evaluation/")

    def flush(self) -> None:
        if self._primary:
            for log in (self._metrics, self._timing, self._evaluation, self._events):
                log.flush()

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._primary:
            for log in (self._metrics, self._timing, self._evaluation, self._events):
                log.close()


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def _shown(metrics: Metrics) -> dict[str, Any]:
    """The one metric a progress bar has room for."""
    name = "loss" if "loss" in metrics else next(iter(metrics), None)
    return {} if name is None else {name: metrics[name]}


@dataclasses.dataclass(frozen=True)
class _Leaf:
    name: str
    type: str
    sharding: Any
    ndim: int


def _strongly_typed(tree: Any) -> Any:
    """Weak types do not survive a checkpoint: without them, a resumed run compiles the program of the first one."""

    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype) if _is_weak(leaf) else leaf, tree)


def _is_weak(leaf: Any) -> bool:
    return bool(getattr(leaf, "weak_type", False))


def _signature(tree: Any) -> list[_Leaf]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        _Leaf(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" + (" (weak type)" if _is_weak(leaf) else ""),
            getattr(leaf, "sharding", None),
            jnp.ndim(leaf),
        )
        for path, leaf in leaves
    ]


def _check_signature(before: list[_Leaf], after: list[_Leaf]) -> None:
    if [leaf.name for leaf in before] != [leaf.name for leaf in after]:
        changed = sorted({leaf.name for leaf in before} ^ {leaf.name for leaf in after})
        raise ValueError(f"step_fn changes the structure of the state (at {', '.join(changed[:5])}): keep it the same.")
    for old, new in zip(before, after, strict=True):
        if old.type != new.type:
            raise ValueError(
                f"step_fn changes leaf {old.name!r} of the state from {old.type} to {new.type}: cast it, or every "
                "step compiles anew and a resumed run is not exact."
            )
        both = old.sharding is not None and new.sharding is not None
        if both and not new.sharding.is_equivalent_to(old.sharding, old.ndim):
            raise ValueError(
                f"step_fn moves leaf {old.name!r} of the state from {old.sharding} to {new.sharding}: place the "
                "initial state there (jax.device_put), or a resumed run may not be exact."
            )
