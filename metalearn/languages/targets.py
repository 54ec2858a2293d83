"""The 56 languages on which Yang and Piantadosi (2022, PNAS 119(5)) and McCoy and Griffiths (2025) score learners.

One entry below is one language; to add a language is to add an entry. The distributions are those of the published
corpora, quirks included: see `Language.note`. Exponents are runs, G(p) is the geometric distribution on 1, 2, ...;
counts and word lengths follow G(1/3) where an entry does not say otherwise.
"""

import difflib
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from metalearn.languages.families import Automaton, Blocks, Finite, Union
from metalearn.languages.language import END, Language
from metalearn.languages.word_families import (
    Conditioned,
    CountedTail,
    DescendingRuns,
    DistinctPair,
    Image,
    RightLinearDyck,
    Shuffled,
    Words,
)

_finite = functools.partial(Language, chomsky_class="finite", mechanism="finite state")
_regular = functools.partial(Language, chomsky_class="regular", mechanism="finite state")
_free = functools.partial(Language, chomsky_class="context-free", mechanism="1 counter")
_sensitive = functools.partial(Language, chomsky_class="context-sensitive", mechanism="2 counters")


def _blocks(*blocks: Callable[..., str], stop: float = 1 / 3, low: int = 1) -> Blocks:
    return Blocks(blocks, stop, low)


_A_N = _blocks(lambda n: "a" * n)
_A_N_B_N = _blocks(lambda n: "a" * n, lambda n: "b" * n)
_SWAP = str.maketrans("ab", "ba")

_GOLDEN_MEAN = Automaton(
    {
        "free": (("a", "after a", 1 / 3), ("b", "free", 1 / 3), ("a", END, 1 / 6), ("b", END, 1 / 6)),
        "after a": (("b", "free", 2 / 3), ("b", END, 1 / 3)),
    }
)
_EVEN = Automaton(
    {
        "even": (("a", "odd", 2 / 5), ("b", "even", 2 / 5), ("b", END, 1 / 5)),
        "odd": (("a", "even", 2 / 3), ("a", END, 1 / 3)),
    }
)
_A_WORD_B = Automaton(
    {
        "start": (("a", "word", 1.0),),
        "word": (("a", "more", 1 / 2), ("b", "more", 1 / 2)),
        "more": (("a", "more", 1 / 3), ("b", "more", 1 / 3), ("b", END, 1 / 3)),
    }
)
_WORD_AAA_WORD = Automaton(
    {
        "left": (("a", "more", 1 / 2), ("b", "more", 1 / 2)),
        "more": (("a", "more", 1 / 3), ("b", "more", 1 / 3), ("a", "aa", 1 / 3)),
        "aa": (("a", "a", 1.0),),
        "a": (("a", "right", 1.0),),
        "right": (("a", "right", 1 / 3), ("b", "right", 1 / 3), ("a", END, 1 / 6), ("b", END, 1 / 6)),
    }
)

# How often two random words are equal: sum over n of (G(1/3) at n)^2 2^-n.
_EQUAL_WORDS = 1 / 14
# The same for two draws of `CountedTail`: 2/7 for the random words, 1/5 for the counts.
_EQUAL_TAILS = 2 / 35
# How often #a differs from #b in a random word, from the generating function of the central binomial coefficients.
_UNEQUAL_COUNTS = (3 - 3 / math.sqrt(5)) / 2

_SHARED_Y = "One y is drawn per string and used in every group: the regular language {} is only its label."

_LANGUAGES = (
    _regular("An", "a^n, n >= 1", "a", _A_N),
    _regular("AB", "{a,b}^+", "ab", Words()),
    _regular("ABn", "(ab)^n, n >= 1", "ab", _blocks(lambda n: "ab" * n)),
    _finite("AAA", "{a, aa, aaa}", "a", Finite({"a": 4, "aa": 2, "aaa": 1})),
    _finite("AAAA", "{a, aa, aaa, aaaa}", "a", Finite({"a": 8, "aa": 4, "aaa": 2, "aaaa": 1})),
    _regular("AnBm", "a^n b^m; n, m >= 1", "ab", _blocks(lambda n: "a" * n, lambda n, m: "b" * m)),
    _regular("GoldenMean", "non-empty strings over {a,b} without the substring aa", "ab", _GOLDEN_MEAN),
    _regular("Even", "non-empty strings over {a,b} whose maximal runs of a have even length", "ab", _EVEN),
    _regular(
        "ApBAp",
        "a^x b a^y; x, y of G(1/2)",
        "ab",
        _blocks(lambda x: "a" * x, lambda: "b", lambda x, y: "a" * y, stop=1 / 2),
    ),
    _sensitive(
        "ApBApp",
        "a^x (b a^y)^z; x, y, z of G(1/2)",
        "ab",
        _blocks(lambda x: "a" * x, lambda x, y: "b" + "a" * y, lambda x, y, z: ("b" + "a" * y) * (z - 1), stop=1 / 2),
        note=_SHARED_Y.format("a^+ (b a^+)^+"),
    ),
    _sensitive(
        "AsBAsp",
        "a^x b a^y (b a^y)^z; x, y, z of G(1/2) - 1",
        "ab",
        _blocks(lambda x: "a" * x, lambda x, y: "b" + "a" * y, lambda x, y, z: ("b" + "a" * y) * z, stop=1 / 2, low=0),
        note=_SHARED_Y.format("a^* (b a^*)^+"),
    ),
    _regular("CountA2", "w in {a,b}^+ with #a >= 2", "ab", Conditioned(lambda w: w.count("a") >= 2, 3 / 8)),
    _regular("CountAEven", "w in {a,b}^+ with #a even", "ab", Conditioned(lambda w: w.count("a") % 2 == 0, 1 / 2)),
    _regular("aABb", "a {a,b}^+ b", "ab", _A_WORD_B),
    _free("AnBn", "a^n b^n, n >= 1", "ab", _A_N_B_N),
    _free(
        "Dyck",
        "S -> (S) | ()S | ()",
        "()",
        RightLinearDyck(),
        note="Of the balanced strings of n pairs only 2^(n-1) are reached: (())() is not.",
    ),
    _free("AnB2n", "a^n b^2n, n >= 1", "ab", _blocks(lambda n: "a" * n, lambda n: "b" * (2 * n))),
    _free("AnCBn", "a^n c b^n, n >= 1", "abc", _blocks(lambda n: "a" * n, lambda: "c", lambda n: "b" * n)),
    _free("AnABn", "a^n (ab)^n, n >= 1", "ab", _blocks(lambda n: "a" * n, lambda n: "ab" * n)),
    _free("ABnABAn", "(ab)^n (aba)^n, n >= 1", "ab", _blocks(lambda n: "ab" * n, lambda n: "aba" * n)),
    _free(
        "AnBmCn",
        "a^n b^m c^n; n, m >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n: "c" * n),
    ),
    _free(
        "AnBmA2n",
        "a^n b^m a^2n; n, m >= 1",
        "ab",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n: "a" * (2 * n)),
    ),
    _sensitive(
        "AnBnC2n",
        "a^n b^n c^2n, n >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n: "b" * n, lambda n: "c" * (2 * n)),
    ),
    _free(
        "AnBmCm",
        "a^n b^m c^m; n, m >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n, m: "c" * m),
    ),
    _free(
        "AnBmCnpm",
        "a^n b^m c^(n+m); n, m >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n, m: "c" * (n + m)),
    ),
    _sensitive(
        "AnBmCnm",
        "a^n b^m c^(nm); n, m >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n, m: "c" * (n * m)),
        mechanism="non-linear (product)",
    ),
    _free("AnBk", "a^n b^(n+m); n, m >= 1", "ab", _blocks(lambda n: "a" * n, lambda n, m: "b" * (n + m))),
    _free(
        "AnBmCmAn",
        "a^n b^m c^m a^n; n, m >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n, m: "c" * m, lambda n: "a" * n),
        mechanism="2 counters or a stack",
    ),
    _sensitive(
        "AnB2nC3n",
        "a^n b^2n c^3n, n >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n: "b" * (2 * n), lambda n: "c" * (3 * n)),
    ),
    _sensitive(
        "AnBnp1Cnp2",
        "a^n b^(n+1) c^(n+2), n >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n: "b" * (n + 1), lambda n: "c" * (n + 2)),
    ),
    _regular("AnUBn", "a^n or b^n, n >= 1", "ab", Union(_A_N, _blocks(lambda n: "b" * n))),
    _free("AnUAnBn", "a^n or a^n b^n, n >= 1", "ab", Union(_A_N, _A_N_B_N)),
    _regular(
        "ABnUBAn",
        "(ab)^n or (ba)^n, n >= 1",
        "ab",
        Union(_blocks(lambda n: "ab" * n), _blocks(lambda n: "ba" * n)),
    ),
    _sensitive("XX", "xx, x in {a,b}^+", "ab", Image(lambda x: x + x, lambda s: s[: len(s) // 2]), mechanism="copy"),
    _sensitive("XXX", "xxx, x in {a,b}^+", "ab", Image(lambda x: 3 * x, lambda s: s[: len(s) // 3]), mechanism="copy"),
    _regular(
        "XY",
        "xy; x, y in {a,b}^+, x != y",
        "ab",
        DistinctPair(Words(), _EQUAL_WORDS),
        note="Lengths of x and y may differ, so these are ab, ba and all strings of length >= 3.",
    ),
    _free(
        "XXR",
        "x followed by its reverse, x in {a,b}^+",
        "ab",
        Image(lambda x: x + x[::-1], lambda s: s[: len(s) // 2]),
        mechanism="stack",
    ),
    _sensitive(
        "XXI",
        "x followed by x with a and b swapped, x in {a,b}^+",
        "ab",
        Image(lambda x: x + x.translate(_SWAP), lambda s: s[: len(s) // 2]),
        mechanism="copy",
    ),
    _free(
        "XXRI",
        "x followed by its reverse with a and b swapped, x in {a,b}^+",
        "ab",
        Image(lambda x: x + x[::-1].translate(_SWAP), lambda s: s[: len(s) // 2]),
        mechanism="stack",
    ),
    _sensitive(
        "An2", "a^(n^2), n of G(1/2)", "a", _blocks(lambda n: "a" * n**2, stop=1 / 2), mechanism="non-linear (square)"
    ),
    _sensitive(
        "AnBmCnDm",
        "a^n b^m c^n d^m; n, m >= 1",
        "abcd",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n: "c" * n, lambda n, m: "d" * m),
    ),
    _sensitive(
        "AnBmAnBm",
        "a^n b^m a^n b^m; n, m >= 1",
        "ab",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n, m: "a" * n + "b" * m),
    ),
    _sensitive(
        "AnBmAnBmCCC",
        "a^n b^m a^n b^m ccc; n, m >= 1",
        "abc",
        _blocks(lambda n: "a" * n, lambda n, m: "b" * m, lambda n, m: "a" * n + "b" * m + "ccc"),
    ),
    _sensitive(
        "AnBnCn", "a^n b^n c^n, n >= 1", "abc", _blocks(lambda n: "a" * n, lambda n: "b" * n, lambda n: "c" * n)
    ),
    _sensitive(
        "AnBnCnDn",
        "a^n b^n c^n d^n, n >= 1",
        "abcd",
        _blocks(lambda n: "a" * n, lambda n: "b" * n + "c" * n + "d" * n),
        mechanism="2 counters (transfer) or 3",
    ),
    _sensitive(
        "AnBnCnDnEn",
        "a^n b^n c^n d^n e^n, n >= 1",
        "abcde",
        _blocks(lambda n: "a" * n, lambda n: "b" * n + "c" * n + "d" * n + "e" * n),
        mechanism="2 counters (transfer) or 4",
    ),
    _sensitive(
        "A2en",
        "a^(2^n), n of G(4/5) - 1",
        "a",
        _blocks(lambda n: "a" * 2**n, stop=4 / 5, low=0),
        mechanism="non-linear (exponential)",
    ),
    _sensitive(
        "ABnen",
        "(ab)^(n^2), n of G(2/3)",
        "ab",
        _blocks(lambda n: "ab" * n**2, stop=2 / 3),
        mechanism="non-linear (square)",
    ),
    _sensitive(
        "Count",
        "ab abb abbb ... a b^k, k of G(2/5)",
        "ab",
        _blocks(lambda k: "".join("a" + "b" * i for i in range(1, k + 1)), stop=2 / 5),
        mechanism="2 counters (transfer)",
    ),
    _sensitive(
        "ChineseNumeral",
        "a b^k1 a b^k2 ... a b^kl, k1 > k2 > ... > kl >= 1",
        "ab",
        DescendingRuns(),
        mechanism="2 counters (transfer)",
    ),
    _free(
        "ABAnBn",
        "xy; x, y in {a,b}^* a^n b^n with their own n >= 1, x != y",
        "ab",
        DistinctPair(CountedTail(), _EQUAL_TAILS),
        mechanism="1 counter (guessing)",
        note="Labelled {a,b}^+ a^n b^n, but every string is two such draws in a row.",
    ),
    _regular("ABaaaAB", "{a,b}^+ aaa {a,b}^+", "ab", _WORD_AAA_WORD),
    _free(
        "Unequal",
        "w in {a,b}^+ with #a != #b",
        "ab",
        Conditioned(lambda w: w.count("a") != w.count("b"), _UNEQUAL_COUNTS),
        mechanism="1 signed counter",
    ),
    _free("Bach2", "w with #a = #b >= 1", "ab", Shuffled(), mechanism="1 signed counter"),
    _sensitive("Bach3", "w with #a = #b = #c >= 1", "abc", Shuffled(alphabet="abc"), mechanism="2 signed counters"),
    _sensitive(
        "WeW",
        "x^|x|, x in {a,b}^+",
        "ab",
        Image(lambda x: x * len(x), lambda s: s[: math.isqrt(len(s))]),
        mechanism="copy and count",
    ),
)

TARGETS: Mapping[str, Language] = MappingProxyType({language.name: language for language in _LANGUAGES})
"""The languages by name, in the order of Yang and Piantadosi's table."""


def target(name: str) -> Language:
    """The evaluation language of this name.

    Args:
        name: a key of `TARGETS`, for example "AnBnCn".

    Raises:
        ValueError: there is no such language; the message lists the closest names.
    """
    if name in TARGETS:
        return TARGETS[name]
    spelled = {known.lower(): known for known in TARGETS}
    close = [spelled[match] for match in difflib.get_close_matches(name.lower(), spelled, n=5)]
    hint = f"did you mean {', '.join(close)}?" if close else f"the languages are {', '.join(TARGETS)}"
    raise ValueError(f"unknown language {name!r}: {hint}")
