"""The nine languages against brute force: a predicate for each, and what may follow spelled out as a table."""

import collections
import functools
import math
import re

import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.language import END
from metalearn.languages.nine import NINE
from metalearn.languages.targets import TARGETS
from tests.languages.members import every
from tests.languages.test_targets import chi_square_p_value


def reduces(string, *pairs):
    """Whether each kind of bracket, the others erased, vanishes by deleting neighbours."""
    for opener, closer in pairs:
        rest = "".join(s for s in string if s in opener + closer)
        while opener + closer in rest:
            rest = rest.replace(opener + closer, "")
        if rest:
            return False
    return bool(string)


def blocks(letters):
    return lambda s: len(s) > 0 and s == "".join(letter * (len(s) // len(letters)) for letter in letters)


IS_MEMBER = {
    "An": re.compile("a+").fullmatch,
    "AB": re.compile("[ab]+").fullmatch,
    "Brackets": re.compile(r"(\(\))+").fullmatch,
    "AnBn": blocks("ab"),
    "XXR": lambda s: len(s) > 0 and len(s) % 2 == 0 and list(s) == list(reversed(s)),
    "Dyck": lambda s: reduces(s, "()"),
    "AnBnCn": blocks("abc"),
    "XX": re.compile(r"([ab]+)\1").fullmatch,
    "CrossDyck": lambda s: reduces(s, "()", "[]"),
}
SYMBOLS_OF_SIZE = dict(zip(IS_MEMBER, (1, 1, 2, 2, 2, 2, 3, 2, 2), strict=True))
LONGEST = 8


def open_brackets(u, kind):
    return u.count(kind[0]) - u.count(kind[1])


def after_blocks(u, letters):
    """While the first block lasts it may go on; then every block is as long as the first, in order."""
    size = u.count(letters[0])
    if u == letters[0] * size:
        return letters[0] + (letters[1] if size else "")
    return next((letter for letter in letters[1:] if u.count(letter) < size), END)


# What may follow a prefix u of a member.
TABLE = {
    "An": lambda u: "a" + END * bool(u),
    "AB": lambda u: "ab" + END * bool(u),
    "Brackets": lambda u: ")" if len(u) % 2 else "(" + END * bool(u),
    "AnBn": lambda u: after_blocks(u, "ab"),
    "XXR": lambda u: "ab" + END * bool(IS_MEMBER["XXR"](u)),
    "Dyck": lambda u: "(" + (")" if open_brackets(u, "()") else END * bool(u)),
    "AnBnCn": lambda u: after_blocks(u, "abc"),
    "XX": lambda u: "ab" + END * bool(IS_MEMBER["XX"](u)),
    "CrossDyck": lambda u: (
        "([" + ")" * (open_brackets(u, "()") > 0) + "]" * (open_brackets(u, "[]") > 0) + END * reduces(u, "()", "[]")
    ),
}


@functools.cache
def members(name):
    """All members of up to LONGEST symbols."""
    return [s for s in every(NINE[name].language.alphabet, LONGEST, 1) if IS_MEMBER[name](s)]


class NineTest(parameterized.TestCase):
    def test_the_table(self):
        self.assertEqual(list(NINE), list(IS_MEMBER))
        for name, entry in NINE.items():
            self.assertEqual(entry.language.name, name)
            self.assertEqual(entry.language is TARGETS.get(name), name in TARGETS and name != "Dyck")
        cells = [(entry.language.chomsky_class, entry.family) for entry in NINE.values()]
        classes, families = ("regular", "context-free", "context-sensitive"), ("counting", "copying", "brackets")
        self.assertEqual(cells, [(of_class, family) for of_class in classes for family in families])

    @parameterized.parameters(*NINE)
    def test_membership_and_probability(self, name):
        """All strings of one size are equally likely, and the size is geometric."""
        language, oracle = NINE[name].language, members(name)
        of_length = collections.Counter(map(len, oracle))
        for string in every(language.alphabet, LONGEST):
            if IS_MEMBER[name](string):
                size = len(string) / SYMBOLS_OF_SIZE[name]
                expected = 1 / 3 * (2 / 3) ** (size - 1) / of_length[len(string)]
                self.assertAlmostEqual(language.log_probability(string), math.log(expected), places=12, msg=string)
            else:
                self.assertEqual(language.log_probability(string), -math.inf, string)
        total = math.fsum(map(language.probability, oracle))
        self.assertAlmostEqual(total, 1 - (2 / 3) ** (LONGEST // SYMBOLS_OF_SIZE[name]), places=12)

    @parameterized.parameters(*NINE)
    def test_valid_next(self, name):
        language, table = NINE[name].language, TABLE[name]
        longest = LONGEST if len(language.alphabet) < 4 else 6
        for prefix in every(language.alphabet, longest):
            reached = all(symbol in table(prefix[:i]) for i, symbol in enumerate(prefix))
            self.assertEqual(language.valid_next(prefix), frozenset(table(prefix) if reached else ""), prefix)
            self.assertEqual(reached and END in table(prefix), bool(IS_MEMBER[name](prefix)), prefix)
        self.assertEqual(language.valid_next(language.alphabet[0] + "z"), frozenset())

    @parameterized.parameters(*NINE)
    def test_sample_frequencies(self, name):
        language = NINE[name].language
        strings = language.sample(np.random.default_rng(0), 50_000)
        self.assertGreater(chi_square_p_value(language, collections.Counter(strings)), 1e-3 / len(NINE))
        self.assertEqual(language.sample(np.random.default_rng(0), 0), [])

    @parameterized.parameters(*NINE)
    def test_of_size(self, name):
        """Small sizes reach every member equally often; large ones are members of the right length."""
        of_size, rng = NINE[name].of_size, np.random.default_rng(1)
        for size in (1, 2):
            oracle = [s for s in members(name) if len(s) == size * SYMBOLS_OF_SIZE[name]]
            counts = collections.Counter(of_size(size, rng) for _ in range(400))
            self.assertEqual(set(counts), set(oracle))
            expected = 400 / len(oracle)
            for count in counts.values():
                self.assertLess(abs(count - expected), 4.5 * math.sqrt(expected))
        string = of_size(120, rng)
        self.assertLen(string, 120 * SYMBOLS_OF_SIZE[name])
        self.assertTrue(IS_MEMBER[name](string) and NINE[name].language.contains(string))
        with self.assertRaisesRegex(ValueError, f"{name}: .*got 0"):
            of_size(0, rng)

    @parameterized.parameters(*NINE)
    def test_the_last_symbol_and_the_zeros_of_the_counters_say_what_may_follow(self, name):
        """Except in the copying languages; and where there are counters, none can be missed."""
        entry = NINE[name]
        counted = [(s[:t], entry.counters(s), t) for s in members(name) for t in range(len(s) + 1)]

        def decides(names):
            follows = collections.defaultdict(set)
            for prefix, counters, t in counted:
                follows[prefix[-1:], *(counters[n][t] == 0 for n in names)].add(entry.language.valid_next(prefix))
            return all(len(sets) == 1 for sets in follows.values())

        names = list(entry.counters(""))
        self.assertEqual(decides(names), name not in ("XX", "XXR"))
        if name != "Brackets":
            for left_out in names:
                self.assertFalse(decides([n for n in names if n != left_out]))

    def test_counters(self):
        symbols = {
            "Brackets": {"depth": "()"},
            "AnBn": {"#a-#b": "ab"},
            "Dyck": {"depth": "()"},
            "AnBnCn": {"#a-#b": "ab", "#b-#c": "bc"},
            "CrossDyck": {"depth ()": "()", "depth []": "[]"},
        }
        for name, entry in NINE.items():
            for string in members(name):
                found = entry.counters(string)
                self.assertEqual(list(found), list(symbols.get(name, {})))
                for counter, (up, down) in symbols.get(name, {}).items():
                    slow = [string[:t].count(up) - string[:t].count(down) for t in range(len(string) + 1)]
                    self.assertEqual(found[counter].tolist(), slow)


if __name__ == "__main__":
    absltest.main()
