"""What a formal language is to this library: a distribution over strings and the facts that papers report about it.

A `StringDistribution` answers four questions, each exactly: give me strings; how probable is this string; does it
belong to the language; which symbols may follow this prefix. A `Language` is a distribution with a name and a place
in the Chomsky hierarchy. Families of distributions are in `families.py` and `word_families.py`.
"""

import abc
import dataclasses
import math
from typing import Final, Literal

import numpy as np

END: Final = "$"
"""The pseudo-symbol by which `valid_next` says that the string may end; no language has it in its alphabet."""

ChomskyClass = Literal["finite", "regular", "context-free", "context-sensitive"]


class StringDistribution(abc.ABC):
    """A probability distribution over strings; its support is a formal language."""

    @abc.abstractmethod
    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """`count` independent strings."""

    @abc.abstractmethod
    def log_probability(self, string: str) -> float:
        """Natural logarithm of the probability of exactly this string, `-inf` outside the support."""

    @abc.abstractmethod
    def valid_next(self, prefix: str) -> frozenset[str]:
        """Symbols that follow `prefix` in some string of the support; `END` among them if `prefix` is a member.

        The set is empty if no string of the support begins with `prefix`.
        """

    def contains(self, string: str) -> bool:
        """Whether the string is in the support."""
        return self.log_probability(string) > -math.inf


@dataclasses.dataclass(frozen=True)
class Language:
    """A named formal language together with the distribution that its strings are drawn from.

    Membership, class and mechanism all refer to the strings *as sampled*. Where a label in the literature promises
    another set, `note` says so.
    """

    name: str
    """Identifier used by Yang and Piantadosi (2022), for example "AnBn"."""
    definition: str
    """The set in one line, for example "a^n b^n, n >= 1"."""
    alphabet: str
    """The symbols, each once, for example "ab"."""
    distribution: StringDistribution
    """Where the strings come from."""
    chomsky_class: ChomskyClass
    """Smallest class of the hierarchy that contains the support."""
    mechanism: str
    """Smallest memory with which a real-time learner predicts the language, for example "1 counter"."""
    note: str = ""
    """What a reader should know who expects another language under this name."""

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """`count` independent strings, a million in about a second.

        Raises:
            ValueError: `count` is negative.
        """
        if count < 0:
            raise ValueError(f"{self.name}: the number of strings to sample must be >= 0, got count={count}")
        return self.distribution.sample(rng, count)

    def contains(self, string: str) -> bool:
        """Whether the string can be sampled."""
        return self.distribution.contains(string)

    def log_probability(self, string: str) -> float:
        """Natural logarithm of the probability of the string, `-inf` if it cannot be sampled."""
        return self.distribution.log_probability(string)

    def probability(self, string: str) -> float:
        """Probability of the string; underflows to 0 for members of many hundred symbols."""
        return math.exp(self.distribution.log_probability(string))

    def valid_next(self, prefix: str) -> frozenset[str]:
        """Symbols that can follow `prefix` in some string of the language, `END` ("$") if the string may end here.

        The set is empty if no string of the language begins with `prefix`.
        """
        return self.distribution.valid_next(prefix)


def top_strings(
    language: Language, k: int, rng: np.random.Generator, draws: int = 1_000_000
) -> list[tuple[str, float]]:
    """The `k` most probable strings among `draws` samples, ranked by exact probability.

    Candidates are sampled, their order is not: ties are broken by length and then alphabetically, so that two
    generators give the same list. A string of probability p is overlooked with probability (1 - p)^draws, that is 2e-9
    for p = 2e-5 and a million draws. The list is shorter than `k` where fewer distinct strings occur, as for a^(2^n).

    Args:
        language: the language.
        k: number of strings wanted; 25 in Yang and Piantadosi (2022).
        rng: source of the candidates.
        draws: number of samples from which candidates are taken.

    Returns:
        At most `k` pairs of string and probability, most probable first.

    Raises:
        ValueError: `k` or `draws` is negative.
    """
    if k < 0:
        raise ValueError(f"{language.name}: the number of top strings must be >= 0, got k={k}")
    candidates = set(language.sample(rng, draws))
    # Rounded, since strings of equal probability may differ in the last digits of its logarithm.
    ranked = sorted((-round(language.log_probability(s), 9), len(s), s) for s in candidates)
    return [(string, language.probability(string)) for _, _, string in ranked[:k]]
