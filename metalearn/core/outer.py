"""The outer loop's step: a batch of tasks in, better meta-parameters out. One jitted function.

Each device unrolls its share of the tasks; gradients are averaged over all tasks, then one optax update follows on
replicated meta-parameters. A non-finite meta-gradient changes nothing but the counters. `outer_loops` takes several
loops at once, each with meta-parameters and tasks of its own, and gives each device its share of the loops.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metalearn.core.meta_gradient import Estimator, exact
from metalearn.core.process import LearningProcess, Meta, Metrics, Task
from metalearn.core.sharding import AXIS, replicate, shard_tasks, task_mesh

TASK_AXES = ("vmap", "map")
_OWN_METRICS = {"value", "losses", "gradient_norm", "skipped", "skipped_in_a_row"}


class OuterState(NamedTuple):
    """State of meta-training.

    meta: the meta-parameters.
    optimizer_state: of the outer optimiser.
    step: int32, number of outer steps taken, skipped ones included; the only clock.
    skipped: int32, steps skipped for a non-finite meta-gradient.
    skipped_in_a_row: int32, the latest such steps without one that counted in between.
    """

    meta: Meta
    optimizer_state: Any
    step: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array


class OuterLoop(NamedTuple):
    """Meta-training as a pair of functions, and the jitted core of the second.

    init(meta) -> OuterState, replicated over the mesh.
    step(state, tasks, key) -> (OuterState, metrics). `tasks`: leaves [tasks, ...]. Donates `state`: it must not be used
        again. Metrics, all averaged over tasks: "value" (the objective), "losses" [K + 1], "gradient_norm", "skipped",
        "skipped_in_a_row", and those of the process's loss, [K + 1, ...] each.
    jitted: what `step` calls once tasks are placed; for lowering, export and cost analysis.
    """

    init: Callable[[Meta], OuterState]
    step: Callable[[OuterState, Task, jax.Array], tuple[OuterState, Metrics]]
    jitted: Any


def outer_loop(
    process: LearningProcess,
    objective: np.ndarray | Callable[[jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator = exact,
    memory: str = "recompute",
    segment: int | None = None,
    task_axis: str = "vmap",
    mesh: Mesh | None = None,
) -> OuterLoop:
    """Builds the outer loop of a learning process.

    Args:
        objective: [K + 1] weights over the trajectory (objectives.py), or a function from the outer step (traced
            int32 scalar) to them, as for `objectives.annealed`.
        optimizer: the outer optimiser, any optax transformation.
        estimator: see meta_gradient.py.
        memory, segment: see unroll.py.
        task_axis: "vmap" computes the tasks of one device side by side; "map" one after the other, with the memory of
            one. Which is faster depends on the learner: small matrix products gain from "vmap".
        mesh: the devices to spread tasks over; all by default.

    Raises:
        ValueError: unknown task_axis; at the first step, a metric of the process under a name of the outer loop's own.
    """
    mesh = task_mesh() if mesh is None else mesh
    estimate = _mean_estimate(process, objective, estimator, memory, segment, task_axis)

    def mean_estimate(state: OuterState, tasks: Task, keys: jax.Array) -> tuple[Meta, Metrics]:
        # Devices that share a task have each a share of its losses, see `sum_in_parts`.
        return jax.tree.map(lambda x: jax.lax.pmean(x, mesh.axis_names), estimate(state, tasks, keys))

    # check_vma off: then the gradient inside is that of each device's own tasks, and the pmean above is all there is
    # to combine. With it on, JAX would sum the gradient of the replicated meta-parameters over devices by itself.
    sharded_estimate = jax.shard_map(
        mean_estimate, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=P(), check_vma=False
    )

    def outer_step(state: OuterState, tasks: Task, key: jax.Array) -> tuple[OuterState, Metrics]:
        return _moved(optimizer, state, *sharded_estimate(state, tasks, _task_keys(state, tasks, key)))

    # The next call takes this one's results: they must lie where `init` put the first state.
    jitted = jax.jit(outer_step, donate_argnums=0, out_shardings=NamedSharding(mesh, P()))
    return OuterLoop(
        lambda meta: replicate(_first_state(optimizer, meta), mesh),
        _in_turn(lambda state, tasks, key: jitted(state, shard_tasks(tasks, mesh), key), mesh),
        jitted,
    )


def outer_loops(
    process: LearningProcess,
    objective: np.ndarray | Callable[[jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator = exact,
    memory: str = "recompute",
    segment: int | None = None,
    task_axis: str = "vmap",
    mesh: Mesh | None = None,
) -> OuterLoop:
    """Several outer loops that know nothing of each other, in one compiled step: `outer_loop` for a leading axis.

    Seeds, or whatever else is trained in the same shapes, so share a compilation and fill the devices without having to
    exchange gradients. `init` takes metas, leaves [loops, ...]; `step` takes states, tasks with leaves [loops, tasks,
    ...] and keys [loops], and returns metrics [loops, ...]. The loops of one device run one after the other: on a CPU
    products with weights of several loops at once are no faster than those of one.

    Args and errors are those of `outer_loop`, but that `mesh` spreads loops, whose number must be a multiple of its
        devices.
    """
    mesh = task_mesh() if mesh is None else mesh
    estimate = _mean_estimate(process, objective, estimator, memory, segment, task_axis)

    def one_step(state: OuterState, tasks: Task, key: jax.Array) -> tuple[OuterState, Metrics]:
        return _moved(optimizer, state, *estimate(state, tasks, _task_keys(state, tasks, key)))

    def every_step(states: OuterState, tasks: Task, keys: jax.Array) -> tuple[OuterState, Metrics]:
        return jax.lax.map(lambda loop: one_step(*loop), (states, tasks, keys))

    sharded = jax.shard_map(every_step, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False)
    jitted = jax.jit(sharded, donate_argnums=0, out_shardings=NamedSharding(mesh, P(AXIS)))
    first = jax.vmap(lambda meta: _first_state(optimizer, meta))
    return OuterLoop(
        lambda metas: shard_tasks(first(jax.tree.map(lambda x: jnp.array(x, copy=True), metas)), mesh),
        _in_turn(lambda states, tasks, keys: jitted(states, *shard_tasks((tasks, keys), mesh)), mesh),
        jitted,
    )


def _in_turn(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`step`, which on several devices of a CPU waits for the state it is given before it is dispatched.

    There, programs and copies between devices share one thread per core, and with a hundred steps queued each may come
    to wait for what only another could do: loops that never looked at a result hung for ever on two busy cores.
    """
    if mesh.size == 1 or mesh.devices.flat[0].platform != "cpu":
        return step
    return lambda state, *others: step(jax.block_until_ready(state), *others)


def _first_state(optimizer: optax.GradientTransformation, meta: Meta) -> OuterState:
    zero = jnp.zeros((), jnp.int32)
    meta = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), meta)  # weakly typed leaves would retrace
    return OuterState(meta, optimizer.init(meta), zero, zero, zero)


def _task_keys(state: OuterState, tasks: Task, key: jax.Array) -> jax.Array:
    return jax.random.split(jax.random.fold_in(key, state.step), jax.tree.leaves(tasks)[0].shape[0])


def _mean_estimate(
    process: LearningProcess, objective: Any, estimator: Estimator, memory: str, segment: int | None, task_axis: str
) -> Callable[[OuterState, Task, jax.Array], tuple[Meta, Metrics]]:
    """(state, tasks, keys [tasks]) -> meta-gradient and metrics, means over these tasks."""
    if task_axis not in TASK_AXES:
        raise ValueError(f"task_axis={task_axis!r} is unknown; choose one of {TASK_AXES}")

    def estimate(state: OuterState, tasks: Task, keys: jax.Array) -> tuple[Meta, Metrics]:
        weights = objective(state.step) if callable(objective) else objective
        of_one = estimator(process, weights, memory=memory, segment=segment)
        if task_axis == "vmap":
            estimates = jax.vmap(of_one, in_axes=(None, 0, 0))(state.meta, tasks, keys)
        else:
            estimates = jax.lax.map(lambda row: of_one(state.meta, *row), (tasks, keys))
        trajectory = estimates.trajectory
        clash = _OWN_METRICS & trajectory.metrics.keys()
        if clash:
            raise ValueError(f"the process's loss reports {sorted(clash)}, names that the outer loop uses: rename them")
        metrics = {"value": trajectory.value, "losses": trajectory.losses, **trajectory.metrics}
        return jax.tree.map(lambda x: x.mean(0), (estimates.gradient, metrics))

    return estimate


def _moved(
    optimizer: optax.GradientTransformation, state: OuterState, gradient: Meta, metrics: Metrics
) -> tuple[OuterState, Metrics]:
    """The state after one update along the meta-gradient, or only a later one if that is not finite."""
    finite = jnp.isfinite(metrics["value"])
    for leaf in jax.tree.leaves(gradient):
        finite &= jnp.isfinite(leaf).all()
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.meta)
    moved = (optax.apply_updates(state.meta, updates), optimizer_state)
    kept = (state.meta, state.optimizer_state)
    meta, optimizer_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, kept)
    skipped = 1 - finite.astype(jnp.int32)
    in_a_row = skipped * (state.skipped_in_a_row + 1)
    state = OuterState(meta, optimizer_state, state.step + 1, state.skipped + skipped, in_a_row)
    metrics |= {"gradient_norm": optax.tree.norm(gradient), "skipped": state.skipped, "skipped_in_a_row": in_a_row}
    return state, metrics
