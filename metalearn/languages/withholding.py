"""Keeping the evaluation languages out of meta-training (McCoy & Griffiths 2025, appendix A.3).

The paper rejects a drawn language if all its strings occur in the evaluation corpora and, of 100,000 further draws, the
top-25 F-score against one of the corpora is 1. Here the evaluation languages are code, so a corpus is replaced by a
membership test and by the language's most frequent strings:

    precision 1    the 25 most frequent strings of the drawn language are members of the evaluation language
    recall 1       the (up to 25) most frequent strings of the evaluation language occur among the draws

Symbols: the paper compares symbol i with the i-th letter of the alphabet. Because the symbols of every episode are
permuted, a language that equals an evaluation language up to renaming would teach the same thing, so any one-to-one
renaming of the symbols counts here. Against the 56 languages in `targets` this withholds 11 % of what the metagrammar
draws (mostly a^n); with symbols held fixed it would be 6 % (3,000 languages).
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Protocol

import numpy as np

from metalearn.languages.grammar import Grammar

# Rarer strings are not asked for: a drawn language whose lengths decay faster (p up to 0.52 against the 1/3 of most
# evaluation languages) must still show all common strings in 10,000 draws.
_SHARE = 0.005
# In so many strings an equal language is nearly sure to show the more frequent half of the common strings. Nearly every
# other language fails there, on the first string or two, and is dismissed before anything costly happens.
_FEW = 1000


class EvaluationLanguage(Protocol):
    """What this module asks of a language."""

    @property
    def alphabet(self) -> str:
        """All letters."""

    def sample(self, rng: np.random.Generator, count: int, /) -> list[str]:
        """Draws `count` strings."""

    def contains(self, string: str, /) -> bool:
        """Whether the language has the string."""


@dataclasses.dataclass(frozen=True)
class Withheld:
    """An evaluation language as the comparison needs it.

    Attributes:
        alphabet: its letters.
        contains: its membership test.
        common: its most frequent strings, the most frequent first.
    """

    alphabet: str
    contains: Callable[[str], bool]
    common: tuple[str, ...]


def withhold(
    languages: Iterable[EvaluationLanguage], rng: np.random.Generator, top: int = 25, draws: int = 10_000
) -> tuple[Withheld, ...]:
    """Prepares evaluation languages for `is_withheld`, once per run: finds the `top` strings among `draws` draws.

    Raises:
        ValueError: for a language without any string above a share of 0.005, which no sample could recognise.
    """
    withheld = []
    for language in languages:
        counts = collections.Counter(language.sample(rng, draws)).most_common(top)
        common = tuple(string for string, count in counts if count >= _SHARE * draws)
        if not common:
            raise ValueError(
                f"no string of the language over {language.alphabet!r} has a share of {_SHARE} in {draws} draws, "
                "so an equal language cannot be recognised by its frequent strings; leave it out"
            )
        withheld.append(Withheld(language.alphabet, language.contains, common))
    return tuple(withheld)


def is_withheld(
    grammar: Grammar,
    strings: Sequence[tuple[int, ...]],
    withheld: Sequence[Withheld],
    rng: np.random.Generator,
    top: int = 25,
    draws: int = 10_000,
) -> bool:
    """Whether a drawn language equals one of the `withheld` languages up to a renaming of its symbols.

    Args:
        grammar: the drawn language.
        strings: strings that were sampled from it, as many as there are; more are drawn only where they are needed.
        withheld: what `withhold` returned; a sequence, as it is gone through more than once.
        rng: source of the further draws.
        top: number of most frequent strings of the drawn language that must be members.
        draws: number of further draws on which the final comparison rests.
    """
    if len(strings) < _FEW:
        if not _may_equal(strings, withheld):
            return False
        strings = [*strings, *grammar.sample(rng, _FEW - len(strings))]
    seen = set(strings)
    symbols = sorted(set().union(*seen))
    shortest_first = sorted(seen, key=len)  # short strings are cheap to test and rule out most candidates
    counts: collections.Counter[tuple[int, ...]] = collections.Counter()
    for language in withheld:
        if len(symbols) != len(language.alphabet):
            continue
        frequent = language.common[: (len(language.common) + 1) // 2]
        for letters in itertools.permutations(language.alphabet):
            symbol_of = dict(zip(letters, symbols, strict=True))
            letter_of = dict(zip(symbols, letters, strict=True))
            if not _all_found(frequent, symbol_of, seen) or not _all_members(shortest_first, letter_of, language):
                continue
            if not counts:
                counts.update(strings)
                counts.update(grammar.sample(rng, draws))
            best = [string for string, _ in counts.most_common(top)]
            if _all_found(language.common, symbol_of, counts) and _all_members(best, letter_of, language):
                return True
    return False


def _may_equal(strings: Sequence[tuple[int, ...]], withheld: Sequence[Withheld]) -> bool:
    """Whether all of few strings are members of some withheld language, for some naming of the symbols they show."""
    seen = sorted(set(strings), key=len)
    symbols = sorted(set().union(*seen))
    return any(
        _all_members(seen, dict(zip(symbols, letters, strict=True)), language)
        for language in withheld
        for letters in itertools.permutations(language.alphabet, len(symbols))
    )


def _all_found(texts: Iterable[str], symbol_of: dict[str, int], strings: Container[tuple[int, ...]]) -> bool:
    return all(tuple(symbol_of[letter] for letter in text) in strings for text in texts)


def _all_members(strings: Iterable[tuple[int, ...]], letter_of: dict[int, str], language: Withheld) -> bool:
    # Further draws may hold a symbol that none of the first strings had; it is no letter of the language.
    return all(
        letter_of.keys() >= set(string) and language.contains("".join([letter_of[symbol] for symbol in string]))
        for string in strings
    )
