"""Second-order meta-gradient of the LSTM language learner, by rung of the memory ladder, and the same in PyTorch.

Default sizes: two layers of 64 units, 10 inner SGD steps at rate 1 on 10 strings of 20 tokens each, judged once at the
end on 100 strings. What is timed is the library's own outer step on a batch of tasks spread over all devices.

For the limit (see ladder.py) a forward pass takes 8 H^2 multiply-adds a token and layer plus H V for the output;
element-wise work is not counted.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import ladder
from benchmarks.harness import Row, missing
from metalearn.core import objectives
from metalearn.core.inner_gradient import INNER_GRADIENTS
from metalearn.core.outer import TASK_AXES
from metalearn.core.unroll import MEMORIES
from metalearn.languages.episodes import Episode
from metalearn.languages.lstm import lstm
from metalearn.languages.model import Strings
from metalearn.languages.recurrent import RecurrentParams
from metalearn.languages.tokens import FIRST_SYMBOL, START, SYMBOLS, VOCABULARY
from metalearn.languages.training import meta_learning

NAME = "lstm_meta_gradient"
TOLERANCE = 1e-4
"""How far the peer's gradient may be from ours, relative to its norm: both are float32."""
Rung = ladder.Rung
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
        rows = ladder.passes(inner_gradient, memory, self.updates, self.support, self.query)
        return token * self.length * rows


def problem(sizes: Sizes, seed: int = 0) -> tuple[RecurrentParams, Episode]:
    """Initial weights, and a batch of tasks of uniformly random strings without padding, leaves [tasks, ...]."""
    rng = np.random.default_rng(seed)

    def strings(*shape: int) -> Strings:
        tokens = rng.integers(FIRST_SYMBOL, FIRST_SYMBOL + SYMBOLS, (*shape, sizes.length + 1), np.int32)
        tokens[..., 0] = START
        return Strings(tokens, np.ones(shape, np.float32))

    support = strings(sizes.tasks, sizes.updates, sizes.support)
    params = lstm(VOCABULARY, sizes.units, sizes.layers).init(jax.random.key(seed))
    return params, Episode(support, strings(sizes.tasks, sizes.query))


def program(sizes: Sizes, rung: Rung) -> ladder.Program:
    """Compiles the outer step of one rung."""
    inner_gradient, memory, task_axis, query = rung
    params, tasks = problem(sizes)
    process = meta_learning(
        lstm(VOCABULARY, sizes.units, sizes.layers), sizes.rate, inner_gradient, PART if query == "parts" else None
    )
    return ladder.outer_step(process, objectives.terminal(sizes.updates), params, tasks, memory, task_axis)


def rows(sizes: Sizes | None = None, rounds: int = 7) -> Iterator[Row]:
    """Every rung, then the fastest against the limit and PyTorch, and its memory against that of keeping residuals."""
    sizes = sizes or Sizes(tasks=2 * len(jax.devices()))
    found = yield from ladder.climb(
        NAME,
        RUNGS,
        sizes.tasks,
        lambda rung: program(sizes, rung),
        lambda rung: sizes.operations(*rung[:2]),
        lambda rung, fastest: _peers(sizes, fastest.step()),
        rounds,
    )
    kept = found.programs["plain", "residuals", found.best[2], "whole"].memory_mib
    yield Row(f"{NAME}/memory of residuals over best", kept / found.programs[found.best].memory_mib, "times")
    yield Row(f"{NAME}/matrix product", found.gflops, "GFLOP/s")


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
        error = ladder.relative_error(call(), gradient)
        if not error <= TOLERANCE:
            raise ValueError(
                f"{name} differs from ours by {error:.1e} of its norm; rounding explains {TOLERANCE:.0e} at most"
            )
    return calls, "peer: the fastest PyTorch variant"
