"""Meta-training episodes: languages drawn from the metagrammar, as support batches and a query sample.

One episode is one language: K support batches of 10 strings, each used for one inner update, and a query sample from
the same language (McCoy & Griffiths 2025, methods). Most languages of the metagrammar have few distinct strings, most
of them short and beginning alike. So the query is kept as distinct strings with counts, packed end to end into rows,
or, for recurrent networks, as distinct prefixes (prefixes.py): the loss is the same. Episode i is a pure function of
(key, i), so every run with the same key sees the same languages in the same order, wherever it was interrupted.
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from metalearn.languages import tokens
from metalearn.languages.metagrammar import MetagrammarSettings, sample_grammar
from metalearn.languages.model import Strings
from metalearn.languages.prefixes import Prefixes, cheapest, fit, stacked_grids, work
from metalearn.languages.randomness import host_rng
from metalearn.languages.withholding import Withheld, is_withheld

T = TypeVar("T")


class Episode(NamedTuple):
    """One language.

    support: tokens [updates, strings, time], counts [updates, strings]; a row is a string. Or as the query, with an
        axis [updates] in front, where `EpisodeSettings.support_rows` asks for it.
    query: tokens [rows, time], counts [rows, time - 1]; a row is several strings, see `packed`.

    Where `EpisodeSettings.grid_times` asks for it, both are prefixes: a grid for each update, and grids of the query.
    """

    support: Strings | Prefixes
    query: Strings | Prefixes


@dataclasses.dataclass(frozen=True)
class EpisodeSettings:
    """Sizes of an episode."""

    min_updates: int = 1
    """Fewest support batches; their number is drawn uniformly for each outer step."""
    max_updates: int = 20
    """Most support batches."""
    support_strings: int = 10
    """Strings in a support batch."""
    query_strings: int = 1000
    """Strings in the query sample, before equal ones are merged."""
    length: int = 100
    """Tokens a string may have, START and END included; longer ones are cut."""
    row_sizes: tuple[int, ...] = (4, 16, 64, 256, 1000)
    """Numbers of query rows to pad to, ascending. Each size used compiles once; fewer sizes compile less, more sizes
    pad less. The last must be query_strings."""
    length_sizes: tuple[int, ...] = (20, 100)
    """Numbers of tokens to pad to, ascending; the last must be length."""
    support_rows: tuple[int, ...] = ()
    """Numbers of rows to pack a support batch into, as the query is, ascending; the last must be support_strings. Less
    work where strings are short or alike. None: a row is a string."""
    grid_times: tuple[int, ...] = ()
    """Times of the grids that support batches and query are laid out in as prefixes, instead of in rows: less work, for
    recurrent networks. The cheapest that holds all is taken, and several of them for a query. None: rows."""
    grid_rows: tuple[int, ...] = ()
    """Rows of each of these grids."""

    def __post_init__(self) -> None:
        """Checks that sizes fit together."""
        if not 1 <= self.min_updates <= self.max_updates:
            raise ValueError(f"min_updates={self.min_updates} must lie in 1 .. max_updates={self.max_updates}")
        if min(self.support_strings, self.query_strings) < 1 or self.length < 3:
            raise ValueError("support_strings and query_strings must be at least 1, and length at least 3")
        for name, sizes, last in (
            ("row_sizes", self.row_sizes, self.query_strings),
            ("length_sizes", self.length_sizes, self.length),
            *([("support_rows", self.support_rows, self.support_strings)] if self.support_rows else []),
        ):
            if not sizes or list(sizes) != sorted(set(sizes)) or sizes[-1] != last:
                raise ValueError(f"{name}={sizes} must ascend and end at {last}")
        if len(self.grid_times) != len(self.grid_rows):
            raise ValueError(f"grid_times={self.grid_times} and grid_rows={self.grid_rows} must be of equal length")
        # As many rows as strings suffice, and a prefix waits for siblings at most as often as there are other strings.
        strings, times = self.support_strings, self.length + self.support_strings - 2
        if self.grid_times and not any(t >= times and r >= strings for t, r in self.grids):
            raise ValueError(
                f"one of the grids must have at least grid_times={times} and grid_rows={strings}, to hold any "
                f"{strings} strings of {self.length} tokens; they are {self.grids}"
            )

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(times, rows) of each grid, the least work first."""
        return tuple(sorted(zip(self.grid_times, self.grid_rows, strict=True), key=work))


def distinct(strings: Iterable[Sequence[int]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The distinct strings in order of first occurrence, and how often each occurs."""
    counts = collections.Counter(map(tuple, strings))
    return list(counts), list(counts.values())


def pad_size(needed: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` (ascending) that holds `needed`; the last where none does."""
    return next((size for size in sizes if size >= needed), sizes[-1])


def draw_language(
    rng: np.random.Generator,
    count: int,
    metagrammar: MetagrammarSettings | None = None,
    withheld: Sequence[Withheld] = (),
) -> list[tuple[int, ...]]:
    """`count` strings of a language drawn from the metagrammar; one that equals a `withheld` language is redrawn."""
    while True:
        grammar = sample_grammar(rng, metagrammar)
        strings = grammar.sample(rng, count)
        if not withheld or not is_withheld(grammar, strings, withheld, rng):
            return strings


class EpisodeBatches:
    """Batches of episodes by outer step: `batches(step)` -> Episode whose leaves have a leading axis [tasks].

    Args:
        key: typed key; episode i is drawn from `fold_in(key, i)`.
        tasks: episodes in a batch.
        settings: sizes.
        language: (generator, count) -> that many strings of one language, anew at each call; by default
            `draw_language` without withholding.
    """

    def __init__(
        self,
        key: jax.Array,
        tasks: int,
        settings: EpisodeSettings,
        language: Callable[[np.random.Generator, int], Sequence[Sequence[int]]] = draw_language,
    ):
        """See the class."""
        self._key, self._tasks, self._settings, self._language = key, tasks, settings, language

    def __call__(self, step: int) -> Episode:
        """The batch of outer step `step`."""
        sizes = self._settings
        step_rng = host_rng(jax.random.fold_in(jax.random.fold_in(self._key, 1), step))
        updates = int(step_rng.integers(sizes.min_updates, sizes.max_updates + 1))
        drawn = [self._draw(step * self._tasks + i, updates) for i in range(self._tasks)]
        if sizes.grid_times:
            return self._prefixes(drawn, updates)
        longest = max(len(s) for support, query, _ in drawn for s in [*support, *query[0]]) + 2
        length = pad_size(longest, sizes.length_sizes)
        queries = _padded(
            [packed(kinds, counts, length, permutation) for _, (kinds, counts), permutation in drawn], sizes.row_sizes
        )
        return Episode(self._supports(drawn, updates, length), queries)

    def _draw(self, index: int, updates: int):
        sizes = self._settings
        rng = host_rng(jax.random.fold_in(jax.random.fold_in(self._key, 0), index))
        supports = updates * sizes.support_strings
        strings = self._language(rng, supports + sizes.query_strings)
        return strings[:supports], distinct(strings[supports:]), rng.permutation(tokens.SYMBOLS)

    def _prefixes(self, drawn, updates: int) -> Episode:
        sizes, size = self._settings, self._settings.support_strings
        batches = [
            _token_strings(*distinct(strings[i * size : (i + 1) * size]), length=sizes.length, permutation=permutation)
            for strings, _, permutation in drawn
            for i in range(updates)
        ]
        for times, rows in sizes.grids:
            grids = [fit(*batch, times, rows) for batch in batches]
            if None not in grids:
                break
        support = jax.tree.map(lambda *x: np.stack(x).reshape(len(drawn), updates, *x[0].shape), *grids)
        samples = [
            _token_strings(kinds, counts, sizes.length, permutation) for _, (kinds, counts), permutation in drawn
        ]
        return Episode(support, stacked_grids(cheapest(samples, sizes.grids)))

    def _supports(self, drawn, updates: int, length: int) -> Strings:
        if not self._settings.support_rows:
            encoded = np.stack([tokens.encode(strings, length, permutation) for strings, _, permutation in drawn])
            encoded = encoded.reshape(len(drawn), updates, -1, length)
            return Strings(encoded, np.ones(encoded.shape[:3], np.float32))
        size = self._settings.support_strings
        batches = [
            packed(*distinct(strings[i * size : (i + 1) * size]), length, permutation)
            for strings, _, permutation in drawn
            for i in range(updates)
        ]
        rows = _padded(batches, self._settings.support_rows)
        return jax.tree.map(lambda x: x.reshape(len(drawn), updates, *x.shape[1:]), rows)


def packed(
    strings: Sequence[Sequence[int]], counts: Sequence[int], length: int, permutation: np.ndarray | None = None
) -> Strings:
    """Strings packed end to end into few rows, the longest first and each into the first row that has room.

    Args:
        strings, counts: distinct strings and how often each occurs.
        length: tokens of a row; longer strings are cut.
        permutation: see `tokens.encode`.

    Returns:
        tokens [rows, length]; counts [rows, length - 1], that of the string which the predicted token belongs to, 0 for
        padding.
    """
    encoded = tokens.encode(strings, length, permutation)
    sizes = np.sum(encoded != tokens.PAD, axis=1)
    rows = np.full((len(strings), length), tokens.PAD, np.int32)
    weights = np.zeros((len(strings), length), np.float32)
    used = np.zeros(len(strings), int)
    for i in np.argsort(-sizes, kind="stable"):
        row = int(np.argmax(used + sizes[i] <= length))
        place = slice(used[row], used[row] + sizes[i])
        rows[row, place] = encoded[i, : sizes[i]]
        weights[row, place] = counts[i]
        used[row] = place.stop
    filled = max(int(np.count_nonzero(used)), 1)
    return Strings(rows[:filled], (weights * (rows != tokens.START))[:filled, 1:])


def _token_strings(
    strings: Sequence[Sequence[int]], counts: Sequence[int], length: int, permutation: np.ndarray
) -> tuple[list[list[int]], Sequence[int]]:
    """Token strings without padding, and their counts."""
    return [row[row != tokens.PAD].tolist() for row in tokens.encode(strings, length, permutation)], counts


def stack_episodes(batches: Sequence[Episode]) -> Episode:
    """Batches of as many episodes of as many updates each, stacked along a new first axis.

    Their strings are packed (`EpisodeSettings.support_rows`). Rows and lengths are padded to the largest among them.
    """
    shape = lambda part: np.max([part(batch).tokens.shape for batch in batches], axis=0)
    padded = lambda part: [_padded_to(part(batch), shape(part)) for batch in batches]
    stack = lambda each: jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    return Episode(stack(padded(lambda e: e.support)), stack(padded(lambda e: e.query)))


def _padded(each: Sequence[Strings], sizes: Sequence[int]) -> Strings:
    """Packed strings with as many rows as the smallest of `sizes` that holds them all, stacked."""
    rows = pad_size(max(len(strings.tokens) for strings in each), sizes)
    padded = [_padded_to(strings, (rows, strings.tokens.shape[1])) for strings in each]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def _padded_to(strings: Strings, shape: Sequence[int]) -> Strings:
    """Packed strings with PAD after their last rows and columns, so that tokens have this shape."""
    more = [(0, wanted - had) for wanted, had in zip(shape, strings.tokens.shape, strict=True)]
    return Strings(np.pad(strings.tokens, more, constant_values=tokens.PAD), np.pad(strings.counts, more))


class Prefetched:
    """Computes `make(step + 1)` on a second thread while step's batch is in use; for steps asked for in order."""

    def __init__(self, make: Callable[[int], T]):
        """See the class."""
        self._make = make
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._next: tuple[int, concurrent.futures.Future] | None = None

    def __call__(self, step: int):
        """`make(step)`."""
        ready = self._next
        result = ready[1].result() if ready is not None and ready[0] == step else self._make(step)
        self._next = step + 1, self._pool.submit(self._make, step + 1)
        return result
