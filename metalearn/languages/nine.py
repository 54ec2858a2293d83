"""The nine languages that Goodale, Mascarenhas & Lakretz (2025) meta-train on one at a time: mechanisms by class.

|                   | counting | copying | brackets                                              |
|-------------------|----------|---------|-------------------------------------------------------|
| regular           | An       | AB      | Brackets: ()^n                                        |
| context-free      | AnBn     | XXR     | Dyck: all balanced strings                            |
| context-sensitive | AnBnCn   | XX      | CrossDyck: () and [], each balanced; pairs may cross  |

The nine are those that readers of the paper report. How strings are drawn, the alphabet of the copying languages and
which crossing language it is are not known; these are ours. The size n of a string (letters of the word, pairs of
brackets, repetitions) is G(1/3) in all nine, and all strings of one size are equally likely: the languages differ in
what they make of n, not in n.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from metalearn.languages.families import Blocks
from metalearn.languages.language import Language
from metalearn.languages.targets import target
from metalearn.languages.word_families import Balanced

Family = Literal["counting", "copying", "brackets"]


class MechanismLanguage(NamedTuple):
    """A language, and what it takes to predict it.

    family: its column in the table above.
    counters: (member, or the beginning of one) -> {name: [len + 1] ints, its value after each prefix}. Who sees the
        last symbol and which counters are zero knows what may follow. None where the last symbol is enough (An, AB) and
        none where memory is a word (XX, XXR). The depth in Brackets is but a state, 0 or 1.
    of_size: (n >= 1, generator) -> a member of size n, uniformly drawn.
    """

    language: Language
    family: Family
    counters: Callable[[str], dict[str, np.ndarray]]
    of_size: Callable[[int, np.random.Generator], str]


def _nine(
    family: Family, language: Language, member: Callable[[int, np.random.Generator], str], **counters: str
) -> MechanismLanguage:
    """counters: name -> the symbols at which it goes up and down."""

    def count(string: str) -> dict[str, np.ndarray]:
        steps = {name: [(s == pair[0]) - (s == pair[1]) for s in string] for name, pair in counters.items()}
        return {name: np.cumsum([0, *changes]) for name, changes in steps.items()}

    def of_size(size: int, rng: np.random.Generator) -> str:
        if size < 1:
            raise ValueError(f"{language.name}: the sizes of its strings are 1, 2, 3, ..., got {size}")
        return member(size, rng)

    return MechanismLanguage(language, family, count, of_size)


def _word(size: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("ab"), size))


def _mirrored(size: int, rng: np.random.Generator) -> str:
    word = _word(size, rng)
    return word + word[::-1]


_DYCK, _CROSS_DYCK = Balanced(("()",)), Balanced(("()", "[]"))

_LANGUAGES = (
    _nine("counting", target("An"), lambda n, rng: n * "a"),
    _nine("copying", target("AB"), _word),
    _nine(
        "brackets",
        Language("Brackets", "()^n, n >= 1", "()", Blocks((lambda n: "()" * n,)), "regular", "finite state"),
        lambda n, rng: n * "()",
        depth="()",
    ),
    _nine("counting", target("AnBn"), lambda n, rng: n * "a" + n * "b", **{"#a-#b": "ab"}),
    _nine("copying", target("XXR"), _mirrored),
    _nine(
        "brackets",
        Language(
            "Dyck",
            "balanced strings of ()",
            "()",
            _DYCK,
            "context-free",
            "1 counter",
            note="All balanced strings, unlike the evaluation language of that name (Yang & Piantadosi 2022).",
        ),
        lambda n, rng: _DYCK.sample_of_size(rng, n, 1)[0],
        depth="()",
    ),
    _nine(
        "counting",
        target("AnBnCn"),
        lambda n, rng: n * "a" + n * "b" + n * "c",
        **{"#a-#b": "ab", "#b-#c": "bc"},
    ),
    _nine("copying", target("XX"), lambda n, rng: 2 * _word(n, rng)),
    _nine(
        "brackets",
        Language(
            "CrossDyck",
            "balanced strings of () shuffled with balanced strings of []",
            "()[]",
            _CROSS_DYCK,
            "context-sensitive",
            "2 counters",
            note="Either kind of bracket may be absent; ([)] is a member.",
        ),
        lambda n, rng: _CROSS_DYCK.sample_of_size(rng, n, 1)[0],
        **{"depth ()": "()", "depth []": "[]"},
    ),
)

NINE: Mapping[str, MechanismLanguage] = MappingProxyType({entry.language.name: entry for entry in _LANGUAGES})
"""The nine by name: regular, context-free, context-sensitive, each by family."""
