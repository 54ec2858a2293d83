"""Unrolls a learning process and judges the states that its objective weighs.

What the unroll keeps for the backward pass is chosen by name (K updates, state size S, R residuals of one update):

| memory      | kept      | extra work              | take it when                                        |
|-------------|-----------|-------------------------|-----------------------------------------------------|
| "residuals" | K (S + R) | none                    | the inner gradient is "mixed", or K R fits easily   |
| "recompute" | K S + R   | one forward pass        | R is large (plain inner gradients, big losses)      |
| "segments"  | 2 sqrt(K) | one forward pass        | K is in the thousands (ODEs)                        |

This is orthogonal to how the inner gradient is differentiated (inner_gradient.py).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core.process import Input, LearningProcess, Meta, Metrics, State, Task

MEMORIES = ("residuals", "recompute", "segments")


class Trajectory(NamedTuple):
    """What came of an unroll.

    value: scalar, sum_k weight_k * loss_k.
    final: state K.
    losses: [K + 1]; zero for states whose weight is zero.
    metrics: leaves [K + 1, ...]; zero for states whose weight is zero.
    """

    value: jax.Array
    final: State
    losses: jax.Array
    metrics: Metrics


def unroll(
    process: LearningProcess,
    weights: np.ndarray | jax.Array,
    meta: Meta,
    task: Task,
    key: jax.Array,
    *,
    memory: str = "recompute",
    segment: int | None = None,
    exact_updates: int | None = None,
) -> Trajectory:
    """Runs `process` for len(weights) - 1 updates. Differentiable with respect to meta; jit, vmap and grad apply.

    Args:
        weights: [K + 1], see objectives.py.
        memory: "residuals", "recompute" or "segments".
        segment: updates per segment, for "segments"; by default about sqrt(K).
        exact_updates: gradients flow exactly through that many last updates and to first order through those before
            (see LearningProcess.first_order_step). None: through all. The values are the same in any case.

    Raises:
        ValueError: weights that are no vector, inputs with neither K nor K + 1 rows, unknown memory, or segment < 1.
    """
    if np.ndim(weights) != 1 or len(weights) == 0:
        raise ValueError(
            f"weights must be a vector, one for each of the K + 1 states, but their shape is {np.shape(weights)}"
        )
    updates = len(weights) - 1
    init_key, inputs_key = jax.random.split(key)
    task = process.prepare(meta, task)
    state = process.init(meta, task, init_key)
    inputs = process.inputs(meta, task, inputs_key)
    rows, shown = driving_rows(inputs, updates)
    row = lambda k: jax.tree.map(lambda x: x[k], inputs) if shown else None

    def judge(state: State, input: Input) -> tuple[jax.Array, Metrics]:
        return process.loss(meta, state, input, task)

    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(judge, state, row(0)))
    needed = None if isinstance(weights, jax.Array) else np.asarray(weights) != 0

    def judge_if(state: State, input: Input, weight: Any, known: bool | None) -> tuple[jax.Array, Metrics]:
        if known is None:
            return jax.lax.cond(weight != 0, judge, lambda *_: nothing, state, input)
        return judge(state, input) if known else nothing

    def judge_state(state: State, k: int) -> tuple[jax.Array, Metrics]:
        return judge_if(state, row(k), weights[k], None if needed is None else bool(needed[k]))

    if updates == 0:
        return _trajectory(weights, state, jax.tree.map(lambda a: a[None], judge_state(state, 0)))

    # All states but one are judged inside the scan, next to an update. If state 0 counts, each is judged right before
    # its own update, which lets the two share what they compute; else right after the update that made it. If only
    # state K counts, none is.
    only_last = needed is not None and not needed[:-1].any()
    before = needed is None or bool(needed[0])
    within = slice(None, -1) if before else slice(1, None)
    known = True if needed is not None and needed[within].all() else None
    judged_rows = jax.tree.map(lambda x: x[within], inputs) if shown and not before else None

    def body_of(step):
        def body(state, row):
            drive, input, weight = row
            moved = step(meta, state, drive, task)
            if only_last:
                return moved, None
            if before:
                return moved, judge_if(state, drive if shown else None, weight, known)
            return moved, judge_if(moved, input, weight, known)

        return body

    scanned = (rows, judged_rows, jnp.asarray(weights[within]))
    inexact = 0 if exact_updates is None else max(updates - exact_updates, 0)
    pieces = []
    for step, begin, end in ((first_order_step(process), 0, inexact), (process.step, inexact, updates)):
        if begin < end:
            piece = jax.tree.map(lambda x, b=begin, e=end: x[b:e], scanned)
            state, judged = _scan(body_of(step), state, piece, end - begin, memory, segment)
            pieces.append(judged)

    if only_last:
        pieces = [jax.tree.map(lambda a: jnp.zeros((updates, *a.shape), a.dtype), nothing)]
    outside = jax.tree.map(lambda a: a[None], judge_state(state, updates) if before or only_last else nothing)
    parts = [*pieces, outside] if before or only_last else [outside, *pieces]
    return _trajectory(weights, state, jax.tree.map(lambda *p: jnp.concatenate(p), *parts))


def _trajectory(weights, state: State, judged: tuple[jax.Array, Metrics]) -> Trajectory:
    losses, metrics = judged
    return Trajectory(jnp.asarray(weights, losses.dtype) @ losses, state, losses, metrics)


def driving_rows(inputs: Any, updates: int) -> tuple[Any, bool]:
    """Those of a process's inputs that drive its K updates, and whether losses are shown inputs too.

    Raises:
        ValueError: neither K nor K + 1 rows.
    """
    leaves = jax.tree.leaves(inputs)
    if not leaves:
        return inputs, False
    shapes = [np.shape(leaf) for leaf in leaves]
    if () in shapes:
        raise ValueError("process.inputs returned a leaf without any axis: each needs a leading one over the updates")
    lengths = {shape[0] for shape in shapes}
    if lengths == {updates}:
        return inputs, False
    if lengths == {updates + 1}:
        return jax.tree.map(lambda x: x[:-1], inputs), True
    raise ValueError(
        f"an objective of {updates + 1} weights makes {updates} updates, so process.inputs must return {updates} rows "
        f"(inputs that drive updates only) or {updates + 1} (inputs that losses see too), but its leaves have "
        f"{sorted(lengths)}"
    )


def first_order_step(process: LearningProcess) -> Callable[[Meta, State, Input, Task], State]:
    """The step for the part of a trajectory that is differentiated to first order."""
    if process.first_order_step is not None:
        return process.first_order_step

    def straight_through(meta, state, input, task):
        moved = process.step(meta, jax.lax.stop_gradient(state), input, task)
        real = lambda m: jnp.issubdtype(jnp.result_type(m), jnp.inexact)
        return jax.tree.map(lambda m, s: _with_tangent_of(m, s) if real(m) else m, moved, state)

    return straight_through


@jax.custom_jvp
def _with_tangent_of(moved: jax.Array, state: jax.Array) -> jax.Array:
    """`moved`, whose derivative has that of `state` added. (moved + (state - its copy) would make NaN of infinity.)"""
    return moved


@_with_tangent_of.defjvp
def _(primals, tangents):
    return primals[0], tangents[0] + tangents[1]


def _scan(body, state: State, rows: Any, length: int, memory: str, segment: int | None) -> tuple[State, Any]:
    """`jax.lax.scan` of `length` updates, with the chosen memory."""
    if memory == "residuals":
        return jax.lax.scan(body, state, rows, length)
    if memory == "recompute":
        # Inside a scan the compiler cannot merge the recomputation with the forward pass, so no barrier is needed.
        return jax.lax.scan(jax.checkpoint(body, prevent_cse=False), state, rows, length)
    if memory == "segments":
        if segment is not None and segment < 1:
            raise ValueError(
                f"segment={segment} must be at least 1, the updates per segment; None chooses about sqrt(K)"
            )
        size = min(segment or max(round(np.sqrt(length)), 1), length)
        whole = length - length % size
        fold = lambda x: x[:whole].reshape(whole // size, size, *x.shape[1:])
        one_segment = jax.checkpoint(lambda state, rows: jax.lax.scan(body, state, rows), prevent_cse=False)
        state, judged = jax.lax.scan(one_segment, state, jax.tree.map(fold, rows))
        judged = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), judged)
        if whole == length:
            return state, judged
        state, rest = one_segment(state, jax.tree.map(lambda x: x[whole:], rows))
        return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), judged, rest)
    raise ValueError(f"memory={memory!r} is unknown; choose one of {MEMORIES}")
