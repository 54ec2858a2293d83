"""The "simple" task: languages of which one string tells everything (McCoy & Griffiths 2025, released code).

All strings of a language have the same length, the same first and the same last symbol; what stands between is random.
A network that has learned to learn such languages knows one after a single string; one that has not cannot even know
that these three facts, and nothing else, matter. It is the smallest test that meta-training works:

    EpisodeBatches(key, tasks, EpisodeSettings(1, 1, 1, 100, MAX_LENGTH + 2, ...), draw_simple)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metalearn.languages.tokens import SYMBOLS

MIN_LENGTH, MAX_LENGTH = 3, 7


class SimpleLanguage(NamedTuple):
    """Strings of `length` symbols 0 .. 9 that begin with `first` and end with `last`."""

    length: int
    first: int
    last: int

    def sample(self, rng: np.random.Generator, count: int) -> list[tuple[int, ...]]:
        """`count` independent strings; the symbols between the first and the last are uniform."""
        symbols = rng.integers(SYMBOLS, size=(count, self.length))
        symbols[:, 0], symbols[:, -1] = self.first, self.last
        return list(map(tuple, symbols.tolist()))

    def contains(self, string: Sequence[int]) -> bool:
        """Whether the string has the right length, first and last symbol."""
        return len(string) == self.length and string[0] == self.first and string[-1] == self.last


def simple_language(rng: np.random.Generator) -> SimpleLanguage:
    """A random language: length uniform over 3 .. 7, first and last symbol uniform over the ten symbols."""
    length = int(rng.integers(MIN_LENGTH, MAX_LENGTH + 1))
    return SimpleLanguage(length, int(rng.integers(SYMBOLS)), int(rng.integers(SYMBOLS)))


def draw_simple(rng: np.random.Generator, count: int) -> list[tuple[int, ...]]:
    """`count` strings of one random language: the `language` argument of `EpisodeBatches`."""
    return simple_language(rng).sample(rng, count)
