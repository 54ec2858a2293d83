"""Work saved by scoring distinct query strings, weighted by how often they occur, instead of all 1,000.

Or each distinct prefix, which saves what strings have in common. Counted in tokens that one judgement of one episode
runs through the network, padding included, over languages drawn from the metagrammar at the paper's sizes. The mean
over episodes is what time follows; it is made by the few languages with hundreds of distinct strings, while the factor
of a typical language is far larger.
"""

import itertools
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks import meta_training
from benchmarks.harness import Row
from metalearn.languages.episodes import EpisodeBatches, EpisodeSettings
from metalearn.languages.model import Strings
from metalearn.languages.tokens import PAD, START

NAME = "distinct_strings"
_TOGETHER = 10  # strings that are padded to the longest among them, where strings are scored one batch at a time


def rows(
    languages: int = 500, settings: EpisodeSettings | None = None, grids: EpisodeSettings | None = None
) -> Iterator[Row]:
    """Mean tokens per episode by each way of scoring, episodes of one language each as `EpisodeBatches` pads them.

    grids: settings of the same episodes as prefixes.
    """
    settings, grids = settings or EpisodeSettings(), grids or meta_training.EPISODES
    batches = EpisodeBatches(jax.random.key(0), 1, settings)
    queries = [jax.tree.map(lambda x: x[0], batches(step).query) for step in range(languages)]
    lengths, counts = zip(*map(_strings, queries), strict=True)
    every = np.array([settings.query_strings * (query.tokens.shape[1] - 1) for query in queries])
    ours = np.array([query.tokens[:, 1:].size for query in queries])
    rng = np.random.default_rng(0)
    tens = np.array([_padded_in_batches(rng, *own) for own in zip(lengths, counts, strict=True)])
    unit = "tokens/episode"
    yield Row(f"{NAME}/all strings", every.mean(), unit, note=f"{settings.query_strings} padded as ours are")
    yield Row(f"{NAME}/all strings in tens", tens.mean(), unit, note="each ten padded to the longest of them")
    note = f"{languages} languages; peer: all strings, over the means"
    yield Row(f"{NAME}/distinct", ours.mean(), unit, ratio_to_peer=every.mean() / ours.mean(), note=note)
    yield Row(f"{NAME}/distinct without padding", float(np.mean([own.sum() for own in lengths])), unit)
    laid_out = EpisodeBatches(jax.random.key(0), 1, grids)
    prefixes = [laid_out(step).query for step in range(languages)]
    cells = np.array([(each.counts > 0).any((2, 3, 4)).sum() * each.tokens[0, 0].size for each in prefixes])
    yield Row(f"{NAME}/prefixes in grids", cells.mean(), unit, ratio_to_peer=every.mean() / cells.mean(), note=note)
    each_once = [float((each.tokens != PAD).sum()) for each in prefixes]
    yield Row(f"{NAME}/prefixes without padding", float(np.mean(each_once)), unit)
    factors = every / ours
    yield Row(f"{NAME}/factor of the mean language", factors.mean(), "times", note=f"median {np.median(factors):.3g}")


def _strings(query: Strings) -> tuple[np.ndarray, np.ndarray]:
    """Tokens to predict in each distinct string, and how often it occurs: [strings] each."""
    tokens, weights = np.asarray(query.tokens), np.asarray(query.counts)
    lengths, counts = [], []
    for row, weight in zip(tokens, weights, strict=True):
        starts = [*np.flatnonzero(row == START), int(np.sum(row != PAD))]
        for begin, end in itertools.pairwise(starts):
            lengths.append(end - begin - 1)
            counts.append(int(weight[begin]))
    return np.array(lengths), np.array(counts)


def _padded_in_batches(rng: np.random.Generator, lengths: np.ndarray, counts: np.ndarray) -> int:
    drawn = rng.permutation(np.repeat(lengths, counts))
    return sum(len(batch) * int(batch.max()) for batch in np.split(drawn, range(_TOGETHER, len(drawn), _TOGETHER)))
