"""Withholding: drawn languages that equal an evaluation language are recognised, others are not."""

import dataclasses
import re
import time
from collections.abc import Callable

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from metalearn.languages.grammar import Concat, Epsilon, Grammar, Leaf, Or, Plus, Sigma
from metalearn.languages.metagrammar import sample_grammar
from metalearn.languages.withholding import is_withheld, withhold

A, B, C = Leaf((0,)), Leaf((1,)), Leaf((2,))


@dataclasses.dataclass(frozen=True)
class Language:
    alphabet: str
    make: Callable[[int, np.random.Generator], str]
    test: Callable[[str], bool]

    def sample(self, rng, count):
        return [self.make(int(n), rng) for n in rng.geometric(1 / 3, size=count)]

    def contains(self, string):
        return self.test(string)


def equal_blocks(letters):
    def test(string):
        n = len(string) // len(letters)
        return n > 0 and string == "".join(letter * n for letter in letters)

    return Language(letters, lambda n, rng: "".join(letter * n for letter in letters), test)


def word(n, rng):
    return "".join(rng.choice(["a", "b"], size=n))


def copied(n, rng):
    half = word(n, rng)
    return half + half


EVALUATION = {
    "An": equal_blocks("a"),
    "AnBn": equal_blocks("ab"),
    "AnBnCn": equal_blocks("abc"),
    "ABn": Language("ab", lambda n, rng: "ab" * n, lambda s: bool(re.fullmatch("(ab)+", s))),
    "AB": Language("ab", word, lambda s: bool(re.fullmatch("[ab]+", s))),
    "XX": Language("ab", copied, lambda s: len(s) > 0 and s[: len(s) // 2] == s[len(s) // 2 :] and set(s) <= set("ab")),
    "AAA": Language("a", lambda n, rng: "a" * min(n, 3), lambda s: s in ("a", "aa", "aaa")),
}

EQUAL = {
    "An": Grammar(2, (0,), (Plus((A,), 0),)),
    "An_fast_decay": Grammar(2, (0,), (Plus((A,), 0),), stop=0.52),
    "An_slow_decay": Grammar(2, (0,), (Plus((A,), 0),), stop=0.15),
    "An_other_symbol": Grammar(4, (0,), (Plus((Epsilon(), Leaf((3,))), 1),)),
    "AnBn": Grammar(2, (0,), (Plus((A, B), 1),)),
    "AnBn_by_synchrony": Grammar(2, (0, 0), (Plus((Leaf((0, 1)),), 0),), stop=0.45),
    "AnBn_renamed": Grammar(5, (0,), (Plus((Leaf((4,)), B), 1),)),
    "AnBnCn": Grammar(3, (0, 0, 0), (Plus((Leaf((0, 1, 2)),), 0),)),
    "AnBnCn_renamed": Grammar(3, (0, 0, 0), (Plus((Leaf((2, 0, 1)),), 0),)),
    "ABn": Grammar(2, (0,), (Plus((A, B), 0),)),
    "ABn_renamed": Grammar(2, (0,), (Plus((B, A), 0),)),
    "AB": Grammar(2, (0,), (Plus((Sigma(),), 0),)),
    "XX": Grammar(2, (0, 0), (Plus((Sigma(),), 0),)),
    "AAA": Grammar(2, (0,), (Or((A, Or((Concat((A, A)), Concat((A, A, A)))))),)),
}


def powers(low, high):
    """The finite language a^low, ..., a^high, the longest the rarest."""
    one = Concat((A,) * low)
    return one if low == high else Or((one, powers(low + 1, high)))


DIFFERENT = {
    "empty": Grammar(2, (0,), (Epsilon(),)),
    "one_string": Grammar(2, (0,), (A,)),
    "one_member_of_AnBn": Grammar(2, (0,), (Concat((A, A, B, B)),)),
    "A2n": Grammar(2, (0,), (Plus((A, A), 0),)),
    "finite_part_of_An": Grammar(2, (0,), (Or((A, Concat((A, A)))),)),
    "An_up_to_8": Grammar(2, (0,), (powers(1, 8),)),
    "An_or_nothing": Grammar(2, (0,), (Or((Plus((A,), 0), Epsilon())),)),
    "AnBn_from_2": Grammar(2, (0,), (Concat((A, Plus((A, B), 1), B)),)),
    "AnBm": Grammar(2, (0, 1), (Plus((A,), 0), Plus((B,), 0))),
    "AnBn_and_more": Grammar(2, (0,), (Or((Plus((A, B), 1), B)),)),
    "AnBnAn": Grammar(2, (0, 0, 0), (Plus((Leaf((0, 1, 0)),), 0),)),
    "three_letters": Grammar(3, (0,), (Plus((Sigma(),), 0),)),
    "XXX": Grammar(2, (0, 0, 0), (Plus((Sigma(),), 0),)),
    "ABCn": Grammar(3, (0,), (Plus((A, B, C), 0),)),
}


class WithholdingTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        prepared = withhold(EVALUATION.values(), np.random.default_rng(0))
        cls.withheld = dict(zip(EVALUATION, prepared, strict=True))

    @parameterized.product(name=list(EQUAL), count=[30, 1100])
    def test_equal_languages_are_withheld(self, name, count):
        rng = np.random.default_rng(1)
        strings = EQUAL[name].sample(rng, count)
        self.assertTrue(is_withheld(EQUAL[name], strings, self.withheld.values(), rng))
        target = name.split("_")[0]  # and by the right language, not by any other
        self.assertTrue(is_withheld(EQUAL[name], strings, [self.withheld[target]], rng))
        others = [language for key, language in self.withheld.items() if key != target]
        self.assertFalse(is_withheld(EQUAL[name], strings, others, rng))

    @parameterized.product(name=list(DIFFERENT), count=[30, 1100])
    def test_other_languages_are_kept(self, name, count):
        rng = np.random.default_rng(2)
        strings = DIFFERENT[name].sample(rng, count)
        self.assertFalse(is_withheld(DIFFERENT[name], strings, self.withheld.values(), rng))

    def test_a_symbol_that_first_shows_in_the_further_draws(self):
        rare = C
        for _ in range(3):
            rare = Or((A, rare))
        grammar = Grammar(3, (0,), (Or((Plus((A,), 0), rare)),))
        strings = [(0,) * n for n in range(1, 12) for _ in range(100)]  # an unlucky sample without the symbol c
        rng = np.random.default_rng(3)
        self.assertFalse(is_withheld(grammar, strings, self.withheld.values(), rng))

    def test_same_seed_same_answers(self):
        def answers():
            rng = np.random.default_rng(4)
            grammars = [sample_grammar(rng) for _ in range(100)]
            return [is_withheld(g, g.sample(rng, 100), self.withheld.values(), rng) for g in grammars]

        first = answers()
        self.assertEqual(first, answers())
        self.assertBetween(sum(first), 1, 25)  # a^n alone is several per cent of all languages

    def test_common_strings(self):
        # (2/3)^(n-1) / 3 is above half a per cent up to n = 11, within the error of 10,000 draws.
        found = self.withheld["An"].common
        self.assertEqual(found, tuple("a" * n for n in range(1, len(found) + 1)))
        self.assertBetween(len(found), 10, 12)
        self.assertEqual(self.withheld["AAA"].common, ("aaa", "a", "aa"))

    def test_without_frequent_strings_there_is_nothing_to_compare(self):
        spread = Language("ab", lambda n, rng: word(40, rng), lambda s: len(s) == 40)
        with self.assertRaisesRegex(ValueError, "no string of the language over 'ab'"):
            withhold([spread], np.random.default_rng(5), draws=500)

    @pytest.mark.slow
    def test_speed(self):
        rng = np.random.default_rng(6)
        seconds = []
        for _ in range(300):
            grammar = sample_grammar(rng)
            strings = grammar.sample(rng, 1100)
            start = time.perf_counter()
            is_withheld(grammar, strings, self.withheld.values(), rng)
            seconds.append(time.perf_counter() - start)
        self.assertLess(np.median(seconds), 0.001)


if __name__ == "__main__":
    absltest.main()
