"""Members of the evaluation languages by slow, literal enumeration: the oracle of `test_targets.py`.

`members(name)` holds all members of up to `COMPLETE[len(alphabet)]` symbols, and longer ones. It also holds, for every
prefix of up to `settled(name)` symbols and every symbol that may follow it, a member that shows this.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator

COMPLETE = {1: 12, 2: 9, 3: 7, 4: 6, 5: 5}
N = range(1, 13)
NM = list(itertools.product(range(1, 10), repeat=2))
SWAP = {"a": "b", "b": "a"}


def every(alphabet: str, longest: int, shortest: int = 0) -> Iterator[str]:
    """All strings of these lengths, shortest first."""
    for length in range(shortest, longest + 1):
        yield from map("".join, itertools.product(alphabet, repeat=length))


def matching(condition: str | Callable[[str], bool], longest: int = 10, alphabet: str = "ab") -> Iterator[str]:
    """All non-empty strings that match the pattern or satisfy the predicate."""
    test = re.compile(condition).fullmatch if isinstance(condition, str) else condition
    return (s for s in every(alphabet, longest, 1) if test(s))


def images(function: Callable[[str], str]) -> Iterator[str]:
    return (function(x) for x in every("ab", 8, 1))


def swapped(x: str) -> str:
    return "".join(SWAP[c] for c in x)


def brackets() -> Iterator[str]:
    generation = ["()"]
    for _ in range(8):
        yield from generation
        generation = [s for inner in generation for s in (f"({inner})", f"(){inner}")]


def two_tails() -> Iterator[str]:
    parts = [s for s in every("ab", 8) if any(s.endswith("a" * n + "b" * n) for n in range(1, 5))]
    return (x + y for x, y in itertools.product(parts, repeat=2) if x != y and len(x + y) <= 10)


def numerals() -> Iterator[str]:
    for size in N:
        for runs in itertools.combinations(range(9, 0, -1), size):
            yield "".join("a" + "b" * k for k in runs)


MEMBERS: dict[str, Callable[[], Iterable[str]]] = {
    "An": lambda: matching("a+", 12, "a"),
    "AB": lambda: matching("[ab]+"),
    "ABn": lambda: matching("(ab)+", 16),
    "AAA": lambda: matching("a{1,3}", 12, "a"),
    "AAAA": lambda: matching("a{1,4}", 12, "a"),
    "AnBm": lambda: matching("a+b+"),
    "GoldenMean": lambda: matching(lambda s: "aa" not in s),
    "Even": lambda: matching("b*((aa)+b+)*(aa)*"),
    "ApBAp": lambda: matching("a+ba+"),
    "ApBApp": lambda: matching(r"a+(ba+)(\1)*", 12),
    "AsBAsp": lambda: matching(r"a*(ba*)(\1)*", 12),
    "CountA2": lambda: matching("b*ab*a[ab]*"),
    "CountAEven": lambda: matching("b*(ab*ab*)*"),
    "aABb": lambda: matching("a[ab]+b"),
    "AnBn": lambda: (n * "a" + n * "b" for n in N),
    "Dyck": brackets,
    "AnB2n": lambda: (n * "a" + n * "bb" for n in N),
    "AnCBn": lambda: (n * "a" + "c" + n * "b" for n in N),
    "AnABn": lambda: (n * "a" + n * "ab" for n in N),
    "ABnABAn": lambda: (n * "ab" + n * "aba" for n in N),
    "AnBmCn": lambda: (n * "a" + m * "b" + n * "c" for n, m in NM),
    "AnBmA2n": lambda: (n * "a" + m * "b" + n * "aa" for n, m in NM),
    "AnBnC2n": lambda: (n * "a" + n * "b" + n * "cc" for n in N),
    "AnBmCm": lambda: (n * "a" + m * "b" + m * "c" for n, m in NM),
    "AnBmCnpm": lambda: (n * "a" + m * "b" + n * "c" + m * "c" for n, m in NM),
    "AnBmCnm": lambda: (n * "a" + m * "b" + n * (m * "c") for n, m in NM),
    "AnBk": lambda: (n * "a" + k * "b" for n in range(1, 10) for k in range(n + 1, 20)),
    "AnBmCmAn": lambda: (n * "a" + m * "b" + m * "c" + n * "a" for n, m in NM),
    "AnB2nC3n": lambda: (n * "a" + n * "bb" + n * "ccc" for n in N),
    "AnBnp1Cnp2": lambda: (n * "a" + n * "b" + "b" + n * "c" + "cc" for n in N),
    "AnUBn": lambda: matching("a+|b+"),
    "AnUAnBn": lambda: itertools.chain.from_iterable((n * "a", n * "a" + n * "b") for n in N),
    "ABnUBAn": lambda: matching("(ab)+|(ba)+"),
    "XX": lambda: matching(r"([ab]+)\1", 14),
    "XXX": lambda: images(lambda x: "".join([x, x, x])),
    "XY": lambda: (x + y for x, y in itertools.product(every("ab", 8, 1), repeat=2) if x != y and len(x + y) <= 9),
    "XXR": lambda: matching(lambda s: len(s) % 2 == 0 and list(s) == list(reversed(s)), 12),
    "XXI": lambda: images(lambda x: x + swapped(x)),
    "XXRI": lambda: images(lambda x: x + swapped("".join(reversed(x)))),
    "An2": lambda: (n * (n * "a") for n in N),
    "AnBmCnDm": lambda: (n * "a" + m * "b" + n * "c" + m * "d" for n, m in NM),
    "AnBmAnBm": lambda: (2 * (n * "a" + m * "b") for n, m in NM),
    "AnBmAnBmCCC": lambda: (2 * (n * "a" + m * "b") + "ccc" for n, m in NM),
    "AnBnCn": lambda: (n * "a" + n * "b" + n * "c" for n in N),
    "AnBnCnDn": lambda: ("".join(n * c for c in "abcd") for n in N),
    "AnBnCnDnEn": lambda: ("".join(n * c for c in "abcde") for n in N),
    "A2en": lambda: (k * "a" for k in (1, 2, 4, 8, 16, 32, 64)),
    "ABnen": lambda: (n * (n * "ab") for n in N),
    "Count": lambda: itertools.accumulate("a" + k * "b" for k in N),
    "ChineseNumeral": numerals,
    "ABAnBn": two_tails,
    "ABaaaAB": lambda: matching("[ab]+aaa[ab]+"),
    "Unequal": lambda: matching(lambda s: 2 * s.count("a") != len(s)),
    "Bach2": lambda: matching(lambda s: 2 * s.count("a") == len(s), 12),
    "Bach3": lambda: matching(lambda s: s.count("a") == s.count("b") == s.count("c"), 9, "abc"),
    "WeW": lambda: images(lambda x: "".join(x for _ in x)),
}


@functools.cache
def members(name: str) -> frozenset[str]:
    """The members that are enumerated for this language."""
    return frozenset(MEMBERS[name]())


def settled(name: str) -> int:
    """Longest prefix whose valid continuations all have a witness among the members."""
    return {"Bach3": 2, "ApBApp": 4, "AsBAsp": 4}.get(name, 5)
