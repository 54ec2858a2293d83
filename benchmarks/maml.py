"""Second-order MAML of the four-layer convolutional network, by rung of the ladder, and the same in PyTorch.

Default sizes: 64 filters, images 28x28x1, 5 ways, 1 shot, 15 queries a class, 5 inner steps. What is timed is the
library's own outer step on a batch of tasks spread over all devices. Rungs differ in how the convolution is computed,
in how the inner gradient is differentiated, in what the unroll keeps, and in how a device works through its tasks.

Then: what a task costs alone, against what it costs in the batch; the fastest rung for images 84x84x3 with 32 filters;
and the memory of each rung at both sizes, compiled only, against what PyTorch's loop takes.

For the limit (see ladder.py) only the multiply-adds of convolutions are counted; normalisation and pooling move memory.
"""

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import ladder
from benchmarks.harness import Row, best_seconds, missing
from metalearn.core.inner_gradient import INNER_GRADIENTS
from metalearn.core.outer import TASK_AXES
from metalearn.fewshot.encoders import four_conv
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.family import Algorithm, Setting, algorithm

NAME = "maml"
TOLERANCE = 1e-6
"""How far the peer's gradient may be from ours, relative to its norm, in float64. In float32, batch normalisation over
few images turns rounding into differences of one per cent."""
Rung = ladder.Rung
"""How convolutions are computed, how the inner gradient is differentiated, what the unroll keeps, and how a device
works through its tasks."""
RUNGS: tuple[Rung, ...] = (
    *itertools.product(("patches",), INNER_GRADIENTS, ("residuals", "recompute"), TASK_AXES),
    *itertools.product(("direct",), ("mixed",), ("residuals",), TASK_AXES),
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the problem. queries: of each class; tasks: in a batch; rate: of the inner loop."""

    filters: int = 64
    blocks: int = 4
    size: int = 28
    channels: int = 1
    ways: int = 5
    shots: int = 1
    queries: int = 15
    updates: int = 5
    tasks: int = 4
    rate: float = 0.01

    def forward(self) -> float:
        """Floating-point operations of the convolutions, for one image."""
        inputs = (self.channels, *[self.filters] * self.blocks)[: self.blocks]
        return sum(2.0 * (self.size // 2**b) ** 2 * 9 * count * self.filters for b, count in enumerate(inputs))

    def operations(self, inner_gradient: str, memory: str) -> float:
        """Least floating-point operations of one task's meta-gradient."""
        support, query = self.ways * self.shots, self.ways * self.queries
        return self.forward() * ladder.passes(inner_gradient, memory, self.updates, support, query)


def learner(sizes: Sizes, convolution: str, inner_gradient: str) -> Algorithm:
    """MAML at these sizes."""
    encoder = four_conv(sizes.filters, sizes.channels, sizes.size, blocks=sizes.blocks, convolution=convolution)
    setting = Setting(encoder, sizes.ways, sizes.updates, sizes.rate, inner_gradient=inner_gradient)
    return algorithm("maml", setting)


def problem(sizes: Sizes, dtype: type = np.float32, seed: int = 0) -> tuple[Any, Episode]:
    """Initial weights, and a batch of tasks, leaves [tasks, ...]: a random image for each class, and noise."""
    rng = np.random.default_rng(seed)
    shape = (sizes.size, sizes.size, sizes.channels)
    classes = rng.normal(size=(sizes.tasks, sizes.ways, 1, *shape))

    def images(count: int) -> tuple[Any, Any]:
        x = classes + rng.normal(size=(sizes.tasks, sizes.ways, count, *shape))
        y = np.tile(np.repeat(np.arange(sizes.ways, dtype=np.int32), count), (sizes.tasks, 1))
        return x.reshape(sizes.tasks, -1, *shape).astype(dtype), y

    meta = learner(sizes, "patches", "mixed").init(jax.random.key(seed))
    return jax.tree.map(lambda x: np.asarray(x, dtype), meta), Episode(*images(sizes.shots), *images(sizes.queries))


def program(
    sizes: Sizes, rung: Rung, dtype: type = np.float32, devices: Sequence[jax.Device] | None = None
) -> ladder.Program:
    """Compiles the outer step of one rung, on all devices or on these."""
    convolution, inner_gradient, memory, task_axis = rung
    of = learner(sizes, convolution, inner_gradient)
    assert isinstance(of.objective, np.ndarray)
    return ladder.outer_step(of.process, of.objective, *problem(sizes, dtype), memory, task_axis, devices)


def rows(sizes: Sizes | None = None, large: Sizes | None = None, rounds: int = 5) -> Iterator[Row]:
    """Every rung, the fastest against the limit and PyTorch, one task alone, large images, and memory."""
    sizes = sizes or Sizes()
    large = large or Sizes(filters=32, size=84, channels=3, tasks=2)
    climbed = yield from _climb(NAME, RUNGS, sizes, rounds)
    yield from _alone(sizes, climbed, rounds)
    yield from _climb(f"{NAME} {_named(large)}", (climbed.best,), large, rounds)
    for problem_sizes in (sizes, large):
        yield from _memory(dataclasses.replace(problem_sizes, tasks=1))


def _climb(name: str, rungs: Sequence[Rung], sizes: Sizes, rounds: int) -> Generator[Row, None, ladder.Climbed]:
    """These rungs, and the fastest of them against the limit and PyTorch."""
    operations = lambda rung: sizes.operations(*rung[1:3])
    peers = lambda rung, fastest: _peers(sizes, rung)
    return ladder.climb(name, rungs, sizes.tasks, lambda rung: program(sizes, rung), operations, peers, rounds)


def _named(sizes: Sizes) -> str:
    return f"{sizes.size}x{sizes.size}x{sizes.channels}, {sizes.filters} filters"


def _alone(sizes: Sizes, climbed: ladder.Climbed, rounds: int) -> Iterator[Row]:
    """One task on one device; and how much a task costs in a batch under vmap on one device, relative to that."""
    *how, _ = climbed.best
    rung = (*how, "vmap")
    one = jax.devices()[:1]
    alone = program(dataclasses.replace(sizes, tasks=1), rung)
    batch = program(sizes, rung, devices=one)
    times = best_seconds({"alone": alone.step, "batch": batch.step}, rounds)
    yield Row(f"{NAME}/one task alone", times["alone"], "s/task", peak_memory_mib=alone.memory_mib)
    cliff = times["batch"] / sizes.tasks / times["alone"]
    note = "time of a task in the batch, on one device, over that of a task alone"
    yield Row(f"{NAME}/vmap of {sizes.tasks} over one", cliff, "times", peak_memory_mib=batch.memory_mib, note=note)


def _memory(sizes: Sizes) -> Iterator[Row]:
    """Memory of one task by rung; the peer is PyTorch's loop."""
    name = f"{NAME}/memory {_named(sizes)}"
    theirs = None
    if not missing("torch", "bench"):
        from benchmarks import maml_torch as peer

        theirs = peer.peak_memory_mib(sizes)
        yield Row(f"{name}: pytorch", theirs, "MiB/task", note="" if theirs else "needs /proc of Linux")
    for rung in RUNGS:
        if rung[-1] == "vmap":
            ours = program(sizes, rung)
            yield Row(
                f"{name}: {' '.join(rung[:-1])}",
                ours.memory_mib,
                "MiB/task",
                ratio_to_peer=theirs / ours.memory_mib if theirs else None,
                compile_seconds=ours.compile_seconds,
            )


def _peers(sizes: Sizes, rung: Rung) -> tuple[dict[str, Callable[[], Any]], str]:
    """The same meta-gradients in PyTorch, checked to be the same, by name; and a note on what the ratio is to."""
    absent = missing("torch", "bench")
    if absent:
        return {}, absent
    from benchmarks import maml_torch as peer

    check_peers(dataclasses.replace(sizes, tasks=1), rung)
    calls = {
        f"pytorch {name}": peer.meta_gradient(variant, *problem(sizes), sizes.rate, sizes.updates)
        for name, variant in peer.VARIANTS.items()
    }
    return calls, "peer: the fastest PyTorch variant"


def check_peers(sizes: Sizes, rung: Rung, tolerance: float = TOLERANCE) -> None:
    """Compares meta-gradients in float64.

    Raises:
        ValueError: a variant of the peer computes something else.
    """
    from benchmarks import maml_torch as peer

    with jax.enable_x64(True):
        ours = program(sizes, rung, np.float64).step()
        reference = jax.tree.map(np.asarray, ours)
        double = problem(sizes, np.float64)
    for name, variant in peer.VARIANTS.items():
        theirs = peer.meta_gradient(variant, *double, sizes.rate, sizes.updates)()
        error = ladder.relative_error(theirs, reference)
        if not error <= tolerance:
            raise ValueError(f"pytorch {name} differs from ours by {error:.1e} of its norm, more than {tolerance:.0e}")
