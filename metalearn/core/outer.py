"""The outer loop's step: a batch of tasks in, better meta-parameters out. One jitted function.

Each device unrolls its share of the tasks; gradients are averaged over all tasks, then one optax update follows on
replicated meta-parameters. A non-finite meta-gradient changes nothing but the counters.
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
    if task_axis not in TASK_AXES:
        raise ValueError(f"task_axis={task_axis!r} is unknown; choose one of {TASK_AXES}")
    mesh = task_mesh() if mesh is None else mesh

    def init(meta: Meta) -> OuterState:
        zero = jnp.zeros((), jnp.int32)
        meta = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), meta)  # weakly typed leaves would retrace
        return replicate(OuterState(meta, optimizer.init(meta), zero, zero, zero), mesh)

    def mean_estimate(state: OuterState, tasks: Task, keys: jax.Array) -> tuple[Meta, Metrics]:
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
        mean = lambda x: jax.lax.pmean(x.mean(0), AXIS)
        return jax.tree.map(mean, (estimates.gradient, metrics))

    # check_vma off: then the gradient inside is that of each device's own tasks, and the pmean above is all there is
    # to combine. With it on, JAX would sum the gradient of the replicated meta-parameters over devices by itself.
    sharded_estimate = jax.shard_map(
        mean_estimate, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=P(), check_vma=False
    )

    def outer_step(state: OuterState, tasks: Task, key: jax.Array) -> tuple[OuterState, Metrics]:
        count = jax.tree.leaves(tasks)[0].shape[0]
        keys = jax.random.split(jax.random.fold_in(key, state.step), count)
        gradient, metrics = sharded_estimate(state, tasks, keys)
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

    # The next call takes this one's results: they must lie where `init` put the first state.
    jitted = jax.jit(outer_step, donate_argnums=0, out_shardings=NamedSharding(mesh, P()))
    return OuterLoop(init, lambda state, tasks, key: jitted(state, shard_tasks(tasks, mesh), key), jitted)
