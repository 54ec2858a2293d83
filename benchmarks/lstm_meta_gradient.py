"""Second-order meta-gradient of the LSTM language learner, by rung of the memory ladder, and the same in PyTorch.

Default sizes: two layers of 64 units, 10 inner SGD steps at rate 1 on 10 strings of 20 tokens each, judged once at the
end on 100 strings. What is timed is the library's own outer step on a batch of tasks spread over all devices.

The limit: with K inner steps, one forward pass per step as the unit, second order costs 9 K where the inner step's
residuals are kept and 11 K where they are recomputed, and the judgement 3 passes over the query strings. A forward pass
takes 8 H^2 multiply-adds a token and layer plus H V for the output; element-wise work is not counted.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.harness import Row, best_seconds, compile_timed, matrix_product, missing
from metalearn.core import LearningProcess, exact, objectives, outer_loop, shard_tasks, task_mesh
from metalearn.core.inner_gradient import INNER_GRADIENTS
from metalearn.core.outer import TASK_AXES
from metalearn.core.unroll import MEMORIES
from metalearn.languages.episodes import Episode
from metalearn.languages.lstm import LSTMParams, lstm
from metalearn.languages.model import Strings
from metalearn.languages.tokens import FIRST_SYMBOL, START, SYMBOLS, VOCABULARY
from metalearn.languages.training import meta_learning

NAME = "lstm_meta_gradient"
TOLERANCE = 1e-4
"""How far the peer's gradient may be from ours, relative to its norm: both are float32."""
Rung = tuple[str, str, str, str]
"""How the inner gradient is differentiated, what the unroll keeps, how a device works through its tasks, and whether
the query is judged "whole" or by "parts" of 25 strings."""
RUNGS: tuple[Rung, ...] = (
    *itertools.product(INNER_GRADIENTS, MEMORIES, TASK_AXES, ("whole",)),
    *itertools.product(("mixed",), ("residuals", "recompute"), TASK_AXES, ("parts",)),
)
PART = 25


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the problem. tasks: in a batch; length: tokens predicted per string; rate: of the inner SGD."""

    units: int = 64
    layers: int = 2
    updates: int = 10
    support: int = 10
    query: int = 100
    length: int = 20
    tasks: int = 4
    rate: float = 1.0

    def operations(self, inner_gradient: str, memory: str) -> float:
        """Least floating-point operations of one task's meta-gradient."""
        token = 2.0 * (8 * self.units**2 * self.layers + self.units * VOCABULARY)
        passes = 9 if (memory, inner_gradient) == ("residuals", "plain") else 11
        return token * self.length * (passes * self.updates * self.support + 3 * self.query)


def problem(sizes: Sizes, seed: int = 0) -> tuple[LSTMParams, Episode]:
    """Initial weights, and a batch of tasks of uniformly random strings without padding, leaves [tasks, ...]."""
    rng = np.random.default_rng(seed)

    def strings(*shape: int) -> Strings:
        tokens = rng.integers(FIRST_SYMBOL, FIRST_SYMBOL + SYMBOLS, (*shape, sizes.length + 1), np.int32)
        tokens[..., 0] = START
        return Strings(tokens, np.ones(shape, np.float32))

    support = strings(sizes.tasks, sizes.updates, sizes.support)
    params = lstm(VOCABULARY, sizes.units, sizes.layers).init(jax.random.key(seed))
    return params, Episode(support, strings(sizes.tasks, sizes.query))


@dataclasses.dataclass(frozen=True)
class Program:
    """One rung, compiled. `step` returns the mean meta-gradient over tasks, like params."""

    step: Callable[[], Any]
    compile_seconds: float
    memory_mib: float


def program(sizes: Sizes, rung: Rung) -> Program:
    """Compiles the outer step of one rung."""
    inner_gradient, memory, task_axis, query = rung
    params, tasks = problem(sizes)
    process = meta_learning(
        lstm(VOCABULARY, sizes.units, sizes.layers), sizes.rate, inner_gradient, PART if query == "parts" else None
    )
    return outer_step(process, objectives.terminal(sizes.updates), params, tasks, memory, task_axis)


def outer_step(
    process: LearningProcess, objective: np.ndarray, meta: Any, tasks: Any, memory: str, task_axis: str
) -> Program:
    """Compiles the outer step of a process on a batch of tasks, leaves [tasks, ...], spread over all devices."""
    count = len(jax.tree.leaves(tasks)[0])
    mesh = task_mesh(tasks=count)
    # Keeps the meta-gradient as its state and moves nothing, so that every call does the same work.
    optimizer = optax.chain(optax.trace(0.0), optax.scale(0.0))
    loop = outer_loop(process, objective, optimizer, estimator=exact, memory=memory, task_axis=task_axis, mesh=mesh)
    state, tasks, key = loop.init(meta), shard_tasks(tasks, mesh), jax.random.key(0)
    compiled, seconds = compile_timed(loop.jitted.lower(state, tasks, key))

    def step() -> Any:
        nonlocal state
        state, _ = compiled(state, tasks, key)
        return state.optimizer_state[0].trace

    side_by_side = count // mesh.size if task_axis == "vmap" else 1
    temporary = compiled.memory_analysis().temp_size_in_bytes  # of one device
    return Program(step, seconds, temporary / side_by_side / 2**20)


def rows(sizes: Sizes | None = None, rounds: int = 7) -> Iterator[Row]:
    """Every rung, then the fastest against the limit and PyTorch, and its memory against that of keeping residuals."""
    sizes = sizes or Sizes(tasks=2 * len(jax.devices()))
    product, product_operations = matrix_product()

    def row(name: str, rung: Rung, times: dict[str, float], ratio: float | None = None, note: str = "") -> Row:
        limit = sizes.tasks * sizes.operations(*rung[:2]) * times["product"] / product_operations
        compiled = programs[rung]
        return Row(
            f"{NAME}/{name}",
            times["ours"] / sizes.tasks,
            "s/task",
            share_of_limit=limit / times["ours"],
            ratio_to_peer=ratio,
            peak_memory_mib=compiled.memory_mib,
            compile_seconds=compiled.compile_seconds,
            note=note,
        )

    programs: dict[Rung, Program] = {}
    seconds: dict[Rung, float] = {}
    for rung in RUNGS:
        programs[rung] = program(sizes, rung)
        times = best_seconds({"ours": programs[rung].step, "product": product}, max(rounds // 2, 1))
        seconds[rung] = times["ours"]
        yield row(" ".join(rung), rung, times)

    best = min(seconds, key=seconds.__getitem__)
    ours = programs[best].step
    peers, note = _peers(sizes, ours())
    times = best_seconds({"ours": ours, "product": product, **peers}, rounds)
    peer_seconds = {name: times[name] / sizes.tasks for name in peers}
    for name, value in peer_seconds.items():
        yield Row(f"{NAME}/{name}", value, "s/task")
    if not peers:
        yield Row(f"{NAME}/pytorch", None, "s/task", note=note)
    ratio = min(peer_seconds.values()) * sizes.tasks / times["ours"] if peers else None
    yield row("best", best, times, ratio, f"{' '.join(best)}; {note}")
    kept = programs["plain", "residuals", best[2], "whole"].memory_mib
    yield Row(f"{NAME}/memory of residuals over best", kept / programs[best].memory_mib, "times")
    yield Row(f"{NAME}/matrix product", product_operations / times["product"] / 1e9, "GFLOP/s")


def _peers(sizes: Sizes, gradient: Any) -> tuple[dict[str, Callable[[], Any]], str]:
    """The same meta-gradients in PyTorch, checked to be the same, by name; and a note on what the ratio is to."""
    absent = missing("torch", "bench")
    if absent:
        return {}, absent
    from benchmarks import lstm_meta_gradient_torch as peer

    params, tasks = problem(sizes)
    calls = {
        f"pytorch {name}": peer.meta_gradient(variant, params, tasks, sizes.rate)
        for name, variant in peer.VARIANTS.items()
    }
    for name, call in calls.items():
        error = relative_error(call(), gradient)
        if not error <= TOLERANCE:
            raise ValueError(
                f"{name} differs from ours by {error:.1e} of its norm; rounding explains {TOLERANCE:.0e} at most"
            )
    return calls, "peer: the fastest PyTorch variant"


def relative_error(gradient: Any, reference: Any) -> float:
    """Norm of the difference over the norm of the reference, over whole pytrees, in float64."""
    flat = lambda tree: np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
    return float(np.linalg.norm(flat(gradient) - flat(reference)) / np.linalg.norm(flat(reference)))
