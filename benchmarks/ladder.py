"""Second-order meta-gradients by rung of the ladder: what all benchmarks of the outer step have in common.

The limit: with K inner steps, one forward pass per step as the unit, second order costs 9 K where the inner step's
residuals are kept and 11 K where they are recomputed, and the judgement 3 passes over the query.
"""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from benchmarks.harness import Row, best_seconds, compile_timed, matrix_product
from metalearn.core import LearningProcess, exact, outer_loop, shard_tasks, task_mesh

Rung = tuple[str, ...]
"""A way to compute the same; what its parts mean is each benchmark's to say."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One rung, compiled. `step` returns the mean meta-gradient over tasks, like meta."""

    step: Callable[[], Any]
    compile_seconds: float
    memory_mib: float


class Compiled(NamedTuple):
    """A compiled outer step that moves nothing: run(tasks) -> (mean meta-gradient, mean value of the objective)."""

    run: Callable[[Any], tuple[Any, jax.Array]]
    compile_seconds: float
    memory_mib: float


def compiled(
    process: LearningProcess,
    objective: np.ndarray,
    meta: Any,
    tasks: Any,
    memory: str,
    task_axis: str,
    mesh: jax.sharding.Mesh,
) -> Compiled:
    """Compiles the outer step for batches of the shapes of `tasks`, leaves [tasks, ...]."""
    # Keeps the meta-gradient as its state and moves nothing, so that every call does the same work.
    optimizer = optax.chain(optax.trace(0.0), optax.scale(0.0))
    loop = outer_loop(process, objective, optimizer, estimator=exact, memory=memory, task_axis=task_axis, mesh=mesh)
    state, key = loop.init(meta), jax.random.key(0)
    program, seconds = compile_timed(loop.jitted.lower(state, shard_tasks(tasks, mesh), key))

    def run(tasks: Any) -> tuple[Any, jax.Array]:
        nonlocal state
        state, metrics = program(state, shard_tasks(tasks, mesh), key)
        return state.optimizer_state[0].trace, metrics["value"]

    temporary = program.memory_analysis().temp_size_in_bytes  # of one device
    return Compiled(run, seconds, temporary / 2**20)


def outer_step(
    process: LearningProcess,
    objective: np.ndarray,
    meta: Any,
    tasks: Any,
    memory: str,
    task_axis: str,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Compiles the outer step of a process on a batch of tasks, leaves [tasks, ...], spread over `devices` (all)."""
    count = len(jax.tree.leaves(tasks)[0])
    mesh = task_mesh(devices, tasks=count)
    step, tasks = compiled(process, objective, meta, tasks, memory, task_axis, mesh), shard_tasks(tasks, mesh)
    side_by_side = count // mesh.size if task_axis == "vmap" else 1
    return Program(lambda: step.run(tasks)[0], step.compile_seconds, step.memory_mib / side_by_side)


def passes(inner_gradient: str, memory: str, updates: int, support: int, query: int, *, moves: bool = True) -> int:
    """Least forward passes that one task's meta-gradient is worth; support and query: passes that one of each takes.

    moves: whether the weights passed move in the inner loop. If not, an update needs three passes less: no gradient
        with respect to them, and not the two that differentiate it.
    """
    each = 9 if (memory, inner_gradient) == ("residuals", "plain") else 11
    return (each if moves else each - 3) * updates * support + 3 * query


class Climbed(NamedTuple):
    """What `climb` found: all programs, the fastest rung, and the rate of a large matrix product in GFLOP/s.

    times: wall seconds of a call of the fastest ("ours"), of the product ("product") and of its peers, taken in turns.
    """

    programs: dict[Rung, Program]
    best: Rung
    gflops: float
    times: dict[str, float]


Peers = Callable[[Rung, Program], tuple[dict[str, Callable[[], Any]], str]]


def climb(
    name: str,
    rungs: Sequence[Rung],
    tasks: int,
    program: Callable[[Rung], Program],
    operations: Callable[[Rung], float],
    peers: Peers,
    rounds: int,
) -> Generator[Row, None, Climbed]:
    """Rows of every rung, then of the fastest against the limit and its peers.

    Args:
        tasks: in the batch that a program works on.
        operations: least floating-point operations of one task.
        peers: of the fastest rung: calls that compute the same, by name (none: they cannot be had), and a note.
    """
    product, product_operations = matrix_product()
    programs: dict[Rung, Program] = {}
    seconds: dict[Rung, float] = {}

    def row(what: str, rung: Rung, times: dict[str, float], ratio: float | None = None, note: str = "") -> Row:
        limit = tasks * operations(rung) * times["product"] / product_operations
        return Row(
            f"{name}/{what}",
            times["ours"] / tasks,
            "s/task",
            share_of_limit=limit / times["ours"],
            ratio_to_peer=ratio,
            peak_memory_mib=programs[rung].memory_mib,
            compile_seconds=programs[rung].compile_seconds,
            note=note,
        )

    for rung in rungs:
        programs[rung] = program(rung)
        times = best_seconds({"ours": programs[rung].step, "product": product}, max(rounds // 2, 1))
        seconds[rung] = times["ours"]
        yield row(" ".join(rung), rung, times)

    best = min(seconds, key=seconds.__getitem__)
    calls, note = peers(best, programs[best])
    times = best_seconds({"ours": programs[best].step, "product": product, **calls}, rounds)
    for peer in calls:
        yield Row(f"{name}/{peer}", times[peer] / tasks, "s/task")
    if not calls:
        yield Row(f"{name}/pytorch", None, "s/task", note=note)
    ratio = min(times[peer] for peer in calls) / times["ours"] if calls else None
    yield row("best", best, times, ratio, f"{' '.join(best)}; {note}")
    return Climbed(programs, best, product_operations / times["product"] / 1e9, times)


def relative_error(gradient: Any, reference: Any) -> float:
    """Norm of the difference over the norm of the reference, over whole pytrees, in float64."""
    flat = lambda tree: np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
    return float(np.linalg.norm(flat(gradient) - flat(reference)) / np.linalg.norm(flat(reference)))
