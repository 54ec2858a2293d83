"""A whole meta-training episode of McCoy & Griffiths (2025), and the same in PyTorch.

An episode is a language drawn from the metagrammar: K support batches of 10 strings, K uniform on 1 .. 20, one inner
SGD step each at rate 1, and 1,000 query strings that judge the weights after every update. Two layers of 64 units,
second order, no dropout. The paper takes one episode for each outer step, and so does what is timed: the library's own
outer step, its episodes laid out as prefixes, the query shared by all devices.

PyTorch does it twice: as its users write it, adding up losses to differentiate their sum, and with the gradient of each
judgement taken at once, which asks for an expert and takes less memory and time. All calls take turns, are made twice
in a row, and count with the best of all for each language. Seconds, shares and ratios are of the means over languages;
the notes tell how the ratios of single languages spread. Loss and gradient of each language agree or the benchmark
stops.

For the limit each distinct prefix passes 4 H^2 multiply-adds through the first layer, whose input is looked up, 8 H^2
through every other layer, and H V through the output; 11 times for the update that reads it, 3 times for a judgement.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import ladder
from benchmarks.harness import Row, best_seconds, matrix_product, missing
from metalearn.core import PARTS, objectives, shard_tasks, task_mesh
from metalearn.languages.episodes import Episode, EpisodeBatches, EpisodeSettings
from metalearn.languages.lstm import lstm
from metalearn.languages.model import Strings
from metalearn.languages.tokens import PAD, START, VOCABULARY
from metalearn.languages.training import meta_learning
from metalearn.run import Progress

NAME, OURS = "meta_training", "metalearn"
USERS, EXPERTS = "pytorch, losses added up", "pytorch, judgement by judgement"
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
"""How far the peer's loss may be from ours, relatively, and its gradient, relative to its norm: both are float32."""
GRIDS = tuple(itertools.product((2, 3, 4, 6, 8, 12, 16, 20, 28, 40, 60, 84, 112), (1, 2, 4, 8, 15)))
EPISODES = EpisodeSettings(grid_times=tuple(t for t, _ in GRIDS), grid_rows=tuple(r for _, r in GRIDS))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the problem. rate: of the inner SGD; languages: how many are drawn."""

    units: int = 64
    layers: int = 2
    rate: float = 1.0
    languages: int = 20
    episodes: EpisodeSettings = EPISODES

    def operations(self, episode: Episode) -> float:
        """Least floating-point operations of the meta-gradient of an episode of prefixes."""
        token = 2.0 * (4 * self.units**2 + 8 * self.units**2 * (self.layers - 1) + self.units * VOCABULARY)
        support, query = (int(np.sum(prefixes.tokens != PAD)) for prefixes in episode)
        return token * (11 * support + 3 * len(episode.support.tokens) * query)


class Drawn(NamedTuple):
    """One language: our episode, and the strings of the peer, padded to the longest of each batch."""

    prefixes: Episode
    support: list[np.ndarray]
    query: np.ndarray


def drawn(sizes: Sizes) -> Iterator[Drawn]:
    """The languages, each with the same strings in both forms."""
    in_rows = dataclasses.replace(sizes.episodes, grid_times=(), grid_rows=())
    ours, theirs = (EpisodeBatches(jax.random.key(0), 1, settings) for settings in (sizes.episodes, in_rows))
    for step in range(sizes.languages):
        prefixes, rows = (jax.tree.map(lambda x: x[0], batches(step)) for batches in (ours, theirs))
        yield Drawn(prefixes, [_trimmed(batch) for batch in rows.support.tokens], whole_sample(rows.query))


def whole_sample(packed: Strings) -> np.ndarray:
    """Token strings [strings, time] of packed rows, each as often as it occurs, padded to the longest."""
    strings = []
    for row, counts in zip(np.asarray(packed.tokens), np.asarray(packed.counts), strict=True):
        starts = [*np.flatnonzero(row == START), int(np.sum(row != PAD))]
        for begin, end in itertools.pairwise(starts):
            strings += [row[begin:end]] * int(counts[begin])
    sample = np.full((len(strings), max(map(len, strings))), PAD, np.int32)
    for place, string in zip(sample, strings, strict=True):
        place[: len(string)] = string
    return sample


def _trimmed(tokens: np.ndarray) -> np.ndarray:
    return tokens[:, : int(np.sum(tokens != PAD, axis=1).max())]


class Ours:
    """The outer step on one episode; compiles once for all episodes of the same shapes."""

    def __init__(self, sizes: Sizes):
        """See the class."""
        model = lstm(VOCABULARY, sizes.units, sizes.layers)
        self.params = model.init(jax.random.key(0))
        self.mesh = task_mesh(tasks=1, parts=True)
        self.process = meta_learning(model, sizes.rate, axis=PARTS)
        self.programs: dict[Any, ladder.Compiled] = {}

    def __call__(self, episode: Episode) -> Callable[[], tuple[Any, jax.Array]]:
        """A call that computes the meta-gradient and the sum of losses of an episode."""
        # In place before the clock starts, as the peer's tensors are: training places a batch while it uses another.
        tasks = shard_tasks(jax.tree.map(lambda x: np.asarray(x)[None], episode), self.mesh)
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(tasks))
        if shapes not in self.programs:
            objective = objectives.every_update(len(episode.support.tokens))
            self.programs[shapes] = ladder.compiled(
                self.process, objective, self.params, tasks, "residuals", "map", self.mesh
            )
        return functools.partial(self.programs[shapes].run, tasks)


def rows(sizes: Sizes | None = None, rounds: int = 2) -> Iterator[Row]:
    """Mean seconds per episode of ours and of PyTorch, their ratios, and what compiling took."""
    sizes = sizes or Sizes()
    product, product_operations = matrix_product()
    ours = Ours(sizes)
    absent = missing("torch", "bench")
    times: dict[str, list[float]] = {}
    limits = []
    with Progress(sizes.languages, NAME) as progress:
        for number, language in enumerate(drawn(sizes)):
            calls = {OURS: ours(language.prefixes)} | ({} if absent else _peers(sizes, language))
            check({name: jax.device_get(call()) for name, call in calls.items()})  # and warms up
            best = best_seconds(calls | {"product": product}, rounds, in_row=2, warm=True)
            limits.append(sizes.operations(language.prefixes) * best.pop("product") / product_operations)
            for name, value in best.items():
                times.setdefault(name, []).append(value)
            progress.update(number + 1, **{name: of[-1] for name, of in times.items()})
    yield from _summary(ours, times, float(np.mean(limits)), absent)


def _peers(sizes: Sizes, language: Drawn) -> dict[str, Callable[[], tuple[Any, Any]]]:
    from benchmarks.meta_training_torch import episode

    params = lstm(VOCABULARY, sizes.units, sizes.layers).init(jax.random.key(0))
    written = functools.partial(episode, params, language.support, language.query, sizes.rate)
    return {USERS: written(at_once=False), EXPERTS: written(at_once=True)}


def check(results: dict[str, tuple[Any, Any]]) -> None:
    """Compares gradients and losses, by name, with those of the first.

    Raises:
        ValueError: one of them is something else.
    """
    (first, (gradient, value)), *others = results.items()
    for name, (other_gradient, other_value) in others:
        error = ladder.relative_error(other_gradient, gradient)
        loss_error = abs(float(other_value) / float(value) - 1)
        if not (error <= GRADIENT_TOLERANCE and loss_error <= LOSS_TOLERANCE):
            raise ValueError(
                f"{name} differs from {first} by {error:.1e} of the gradient's norm and {loss_error:.1e} of the loss; "
                f"rounding explains {GRADIENT_TOLERANCE:.0e} and {LOSS_TOLERANCE:.0e} at most"
            )


def _summary(ours: Ours, times: dict[str, list[float]], limit: float, absent: str) -> Iterator[Row]:
    unit, programs = "s/episode", ours.programs.values()
    means = {name: float(np.mean(of)) for name, of in times.items()}
    own = means.pop(OURS)
    yield Row(
        f"{NAME}/{OURS}",
        own,
        unit,
        share_of_limit=limit / own,
        ratio_to_peer=None if absent else means[USERS] / own,
        peak_memory_mib=max(program.memory_mib for program in programs),
        compile_seconds=sum(program.compile_seconds for program in programs),
        note=f"{len(programs)} programs compiled; {_spread(times[OURS])}",
    )
    for name, mean in means.items():
        yield Row(f"{NAME}/{name}", mean, unit, note=_spread(times[name]))
        ratios = np.array(times[name]) / times[OURS]
        yield Row(f"{NAME}/times as fast as {name}", mean / own, "times", note=_spread(ratios))
    if absent:
        yield Row(f"{NAME}/pytorch", None, unit, note=absent)


def _spread(values: Sequence[float] | np.ndarray) -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{len(values)} languages: least {low:.3g}, median {middle:.3g}, most {high:.3g}"
