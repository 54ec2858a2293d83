"""NPBML in both its forms, and the memory of second order through ResNet-12.

Sizes of the first two are those of maml.py: 64 filters, images 28x28x1, 5 ways, 1 shot, 15 queries a class, 5 inner
steps. What is timed is the library's own outer step on a batch of tasks spread over all devices.

last block: what the released code does (`CODE`), but with the scores of prototypes, not of a relation network. Blocks
    below the last are passed once per task. The peer is the outer step of MAML.
full: the paper's form (`PAPER`): four blocks move, each has a warp, and support and query drive the updates. The peer
    is the outer step of MAML on support and query, whose support set is both together, labels included: these change
    nothing in what it costs. "full/efficiency" is

        (operations of the full form / its seconds) / (operations of the peer / its seconds),

    the two taking turns at the clock, where the operations of both are 11 K + 3 passes: K updates on all images, second
    order, recomputed, and the judgement of the query. Below 1, NPBML does less of such work in a second. Its weights
    that stay in the inner loop (warps, modulation) need no gradient there, and 8 K + 3 passes would do. The share of
    the limit counts so, and a second row, "full/efficiency, least", too.

Counted (see ladder.py) are the multiply-adds of convolutions and of modulation by maps. Networks of the loss, and
modulation by means, have one row for each image.

memory of ResNet-12: MAML on support and query, as above, at the full size of 84x84x3 with 64 to 512 filters, one task,
    the backend's own convolutions; compiled only. The ratio is to plain inner gradients with all residuals kept.
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import ladder, maml
from benchmarks.harness import Row
from metalearn.core.inner_gradient import INNER_GRADIENTS
from metalearn.core.unroll import MEMORIES
from metalearn.fewshot.encoders import Encoder, four_conv, resnet12
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.family import CODE, PAPER, Algorithm, Biases, Setting, algorithm
from metalearn.fewshot.family.learner import Meta

NAME = "npbml"
LAST_BLOCK = dataclasses.replace(CODE, scores="prototypes")
Rung = ladder.Rung
"""How the inner gradient is differentiated, what the unroll keeps, and how a device works through its tasks."""
RUNGS: tuple[Rung, ...] = (
    ("mixed", "recompute", "map"),
    ("mixed", "residuals", "map"),
    ("plain", "residuals", "map"),
    ("mixed", "recompute", "vmap"),
)
FULL_RUNGS: tuple[Rung, ...] = (("mixed", "recompute", "map"),)
MEMORY_RUNGS: tuple[Rung, ...] = tuple(itertools.product(reversed(INNER_GRADIENTS), MEMORIES))
"""The first is what the others are compared with."""


class Forward(NamedTuple):
    """Floating-point operations of one image, forward.

    below: blocks that are passed once per task, before those that move.
    moving: convolutions that the inner loop moves.
    staying: what it passes and leaves as it is.
    """

    below: float
    moving: float
    staying: float


def forward(sizes: maml.Sizes, biases: Biases) -> Forward:
    """Of the four-layer network with these biases."""
    first = 0 if biases.adapted == "all" else sizes.blocks - 1
    below = moving = staying = 0.0
    for number in range(sizes.blocks):
        inputs, last = sizes.channels if number == 0 else sizes.filters, number == sizes.blocks - 1
        places = (sizes.size // 2**number) ** 2
        after = places if biases.warp_place == "convolution" else (sizes.size // 2 ** (number + 1)) ** 2
        product = lambda at, width, outputs: 2.0 * at * width * outputs
        convolution, others = product(places, 9 * inputs, sizes.filters), 0.0
        by_maps = biases.film in ("encoder", "both") and biases.film_input == "maps"
        if biases.warps == "all" or biases.warps == "last" and last:
            others += product(after, 9 * sizes.filters, sizes.filters)
            others += product(after, sizes.filters, 2 * sizes.filters) * by_maps
        if biases.film_blocks == "all" or last:
            others += product(places, inputs, 2 * sizes.filters) * by_maps
        if number < first:
            below += convolution + others
        else:
            moving, staying = moving + convolution, staying + others
    return Forward(below, moving, staying)


def operations(sizes: maml.Sizes, biases: Biases, rung: Rung, alike: bool = False) -> float:
    """Least floating-point operations of one task's meta-gradient, where support and query drive the updates.

    Args:
        alike: counts weights that stay in the inner loop as if they moved.
    """
    inner_gradient, memory, _ = rung
    query = sizes.ways * sizes.queries
    both = sizes.ways * sizes.shots + query
    of = forward(sizes, biases)
    passes = lambda moves: ladder.passes(inner_gradient, memory, sizes.updates, both, query, moves=moves)
    learned = 3 if biases.initialisation == "all" else 1
    return of.below * learned * (both + query) + of.moving * passes(True) + of.staying * passes(alike)


def npbml(sizes: maml.Sizes, biases: Biases, inner_gradient: str) -> Algorithm:
    """NPBML on the four-layer network."""
    encoder = four_conv(sizes.filters, sizes.channels, sizes.size, blocks=sizes.blocks)
    return algorithm("npbml", _setting(sizes, encoder, inner_gradient), biases=biases)


def on_both(tasks: Episode) -> Episode:
    """Tasks, leaves [tasks, ...], whose support sets hold the query images and their labels as well."""

    def joined(support: Any, query: Any) -> Any:
        return np.concatenate([support, query], 1)

    x, y = joined(tasks.support_x, tasks.query_x), joined(tasks.support_y, tasks.query_y)
    return Episode(x, y, tasks.query_x, tasks.query_y)


def rows(
    sizes: maml.Sizes | None = None,
    large: maml.Sizes | None = None,
    filters: Sequence[int] = (64, 128, 256, 512),
    rounds: int = 5,
) -> Iterator[Row]:
    """Both forms, then memory of a ResNet-12 of these filters at the large size."""
    sizes = sizes or maml.Sizes()
    yield from _climb("last block", LAST_BLOCK, RUNGS, sizes, rounds, "maml", maml.problem(sizes)[1])
    yield from _full(dataclasses.replace(sizes, tasks=2), rounds)
    yield from _memory(large or maml.Sizes(size=84, channels=3, tasks=1), filters)


def _full(sizes: maml.Sizes, rounds: int) -> Iterator[Row]:
    """The full form, and its efficiency."""
    peer = "maml on support and query"
    climbed = yield from _climb("full", PAPER, FULL_RUNGS, sizes, rounds, peer, on_both(maml.problem(sizes)[1]))
    rung, times = climbed.best, climbed.times
    theirs = dataclasses.replace(sizes, shots=sizes.shots + sizes.queries).operations(*rung[:2])
    for name, alike in (("efficiency", True), ("efficiency, least", False)):
        ours = operations(sizes, PAPER, rung, alike)
        note = f"{ours:.3g} operations, of {peer} {theirs:.3g}"
        yield Row(f"{NAME}/full/{name}", ours / times["ours"] / (theirs / times[peer]), "times", note=note)


def _climb(
    form: str, biases: Biases, rungs: Sequence[Rung], sizes: maml.Sizes, rounds: int, peer: str, peers_tasks: Episode
) -> Generator[Row, None, ladder.Climbed]:
    """A form of NPBML by rung, and the fastest against the limit and MAML with the same rung."""

    def program(rung: Rung) -> ladder.Program:
        inner_gradient, memory, task_axis = rung
        of = npbml(sizes, biases, inner_gradient)
        return _outer_step(of, of.init(jax.random.key(0)), maml.problem(sizes)[1], memory, task_axis)

    def peers(rung: Rung, fastest: ladder.Program) -> tuple[dict[str, Any], str]:
        inner_gradient, memory, task_axis = rung
        of = maml.learner(sizes, "patches", inner_gradient)
        theirs = _outer_step(of, of.init(jax.random.key(0)), peers_tasks, memory, task_axis)
        return {peer: theirs.step}, f"peer: {peer}"

    of_rung = lambda rung: operations(sizes, biases, rung)
    return ladder.climb(f"{NAME}/{form}", rungs, sizes.tasks, program, of_rung, peers, rounds)


def _memory(sizes: maml.Sizes, filters: Sequence[int]) -> Iterator[Row]:
    """Temporary memory of second order through ResNet-12 by rung; see the module's docstring."""
    encoder = resnet12(filters, sizes.channels, sizes.size, convolution="direct")
    tasks = on_both(maml.problem(dataclasses.replace(sizes, filters=1))[1])
    kept = None
    for inner_gradient, memory in MEMORY_RUNGS:
        of = algorithm("maml", _setting(sizes, encoder, inner_gradient))
        meta = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(of.init, jax.random.key(0)))
        program = _outer_step(of, meta, tasks, memory, "map")
        kept = program.memory_mib if kept is None else kept
        yield Row(
            f"{NAME}/resnet12 {sizes.size}x{sizes.size}: {inner_gradient} {memory}",
            program.memory_mib,
            "MiB/task",
            ratio_to_peer=kept / program.memory_mib,
            compile_seconds=program.compile_seconds,
        )


def _setting(sizes: maml.Sizes, encoder: Encoder, inner_gradient: str) -> Setting:
    return Setting(encoder, sizes.ways, sizes.updates, sizes.rate, inner_gradient=inner_gradient)


def _outer_step(of: Algorithm, meta: Meta, tasks: Episode, memory: str, task_axis: str) -> ladder.Program:
    assert isinstance(of.objective, np.ndarray)
    return ladder.outer_step(of.process, of.objective, meta, tasks, memory, task_axis)
