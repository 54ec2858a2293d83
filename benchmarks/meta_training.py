"""A whole meta-training episode of McCoy & Griffiths (2025), and the same in PyTorch.

An episode is a language drawn from the metagrammar: K support batches of 10 strings, K uniform on 1 .. 20, one inner
SGD step each at rate 1, and 1,000 query strings that judge the weights after every update. Two layers of 64 units,
second order, no dropout. The paper takes one episode for each outer step, and so does what is timed: the library's own
outer step, its episodes laid out as prefixes, the query shared by all devices.

Ours counts with the best of a few calls for each language, PyTorch with its only one, which takes seconds; of its
variants the one that was fastest in the first languages goes on to the others. Seconds, shares and ratios are of the
means over languages; the ratio of the single languages is a row of its own. Loss and gradient of each language agree or
the benchmark stops.

For the limit each distinct prefix passes 4 H^2 multiply-adds through the first layer, whose input is looked up, 8 H^2
through every other layer, and H V through the output; 11 times for the update that reads it, 3 times for a judgement.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import ladder
from benchmarks.harness import Row, matrix_product, missing, seconds
from metalearn.core import PARTS, objectives, shard_tasks, task_mesh
from metalearn.languages.episodes import Episode, EpisodeBatches, EpisodeSettings
from metalearn.languages.lstm import lstm
from metalearn.languages.model import Strings
from metalearn.languages.tokens import PAD, START, VOCABULARY
from metalearn.languages.training import meta_learning
from metalearn.run import Progress

NAME, OURS = "meta_training", "metalearn"
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
"""How far the peer's loss may be from ours, relatively, and its gradient, relative to its norm: both are float32."""
VARIANTS_TRIED = 3
"""Languages on which all variants of PyTorch are tried."""
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


def rows(sizes: Sizes | None = None, rounds: int = 3) -> Iterator[Row]:
    """Mean seconds per episode of ours and of PyTorch, their ratio, and what compiling took."""
    sizes = sizes or Sizes()
    product, product_operations = matrix_product()
    ours = Ours(sizes)
    absent = missing("torch", "bench")
    times: dict[str, list[float]] = {}
    limits = []
    with Progress(sizes.languages, NAME) as progress:
        for number, language in enumerate(drawn(sizes)):
            call = ours(language.prefixes)
            results = {OURS: jax.device_get(call())}  # the next call takes its memory
            best = {OURS: float("inf"), "product": float("inf")}
            jax.block_until_ready(product())
            for _ in range(rounds):
                best[OURS] = min(best[OURS], seconds(call))
                best["product"] = min(best["product"], seconds(product))
            for name, peer in ({} if absent else _peers(sizes, language)).items():
                if number < VARIANTS_TRIED or name == _fastest(times):
                    began = time.perf_counter()
                    results[name] = peer()
                    best[name] = time.perf_counter() - began
            check(results)
            limits.append(sizes.operations(language.prefixes) * best.pop("product") / product_operations)
            for name, value in best.items():
                times.setdefault(name, []).append(value)
            progress.update(number + 1, **{name: of[-1] for name, of in times.items()})
    yield from _summary(ours, times, float(np.mean(limits)), absent)


def _fastest(times: dict[str, list[float]]) -> str:
    """The variant of PyTorch that took the least time in the languages that all were tried on."""
    peers = {name: sum(of[:VARIANTS_TRIED]) for name, of in times.items() if name != OURS}
    return min(peers, key=peers.__getitem__)


def _peers(sizes: Sizes, language: Drawn) -> dict[str, Callable[[], tuple[Any, Any]]]:
    from benchmarks.lstm_meta_gradient_torch import LOGITS
    from benchmarks.meta_training_torch import episode

    params = lstm(VOCABULARY, sizes.units, sizes.layers).init(jax.random.key(0))
    return {
        f"pytorch {name}": episode(logits, params, language.support, language.query, sizes.rate)
        for name, logits in LOGITS.items()
    }


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
    unit, each, programs = "s/episode", np.array(times[OURS]), ours.programs.values()
    peer = None if absent else np.array(times[_fastest(times)])
    yield Row(
        f"{NAME}/{OURS}",
        float(each.mean()),
        unit,
        share_of_limit=limit / each.mean(),
        ratio_to_peer=None if peer is None else peer.mean() / each.mean(),
        peak_memory_mib=max(program.memory_mib for program in programs),
        compile_seconds=sum(program.compile_seconds for program in programs),
        note=f"{len(programs)} programs compiled; {_spread(each)}",
    )
    for name, of in times.items():
        if name != OURS:
            yield Row(f"{NAME}/{name}", float(np.mean(of)), unit, note=_spread(np.array(of)))
    if peer is None:
        yield Row(f"{NAME}/pytorch", None, unit, note=absent)
        return
    ratios = peer / each
    yield Row(f"{NAME}/ratio of a language", float(np.median(ratios)), "times", note=_spread(ratios))


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{len(values)} languages: least {low:.3g}, median {middle:.3g}, most {high:.3g}"
