import collections
import itertools
import math
import re
import zipfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from metalearn.languages.families import Automaton, Blocks
from metalearn.languages.language import END, Language, top_strings
from metalearn.languages.targets import TARGETS, target
from tests.languages.members import COMPLETE, MEMBERS, every, members, settled
from tests.shared_data import DATA, needs_data

# Mean length and number of distinct strings in the published samples of a million strings (of 100,000 where marked).
PUBLISHED = {
    "An": (3.0, 33),
    "AB": (3.0, 13566),
    "ABn": (6.0, 34),
    "AAA": (1.57, 3),
    "AAAA": (1.73, 4),
    "AnBm": (6.0, 493),
    "GoldenMean": (3.0, 4923),
    "Even": (4.2, 12850),
    "ApBAp": (5.0, 204),
    "ApBApp": (7.99, 1228),
    "AsBAsp": (5.0, 1212),
    "CountA2": (4.99, 25117),
    "CountAEven": (3.0, 10541),
    "aABb": (5.0, 13717),
    "AnBn": (5.99, 35),
    "Dyck": (5.99, 10631),
    "AnB2n": (9.0, 32),
    "AnCBn": (7.0, 33),
    "AnABn": (9.01, 34),
    "ABnABAn": (15.01, 32),
    "AnBmCn": (8.99, 502),
    "AnBmA2n": (12.0, 482),
    "AnBnC2n": (12.0, 33),
    "AnBmCm": (9.0, 487),
    "AnBmCnpm": (11.99, 497),
    "AnBmCnm": (15.0, 491),
    "AnBk": (8.99, 488),
    "AnBmCmAn": (12.0, 484),
    "AnB2nC3n": (17.98, 33),
    "AnBnp1Cnp2": (11.99, 33),
    "AnUBn": (3.0, 63),
    "AnUAnBn": (4.51, 61),
    "ABnUBAn": (6.0, 60),
    "XX": (6.0, 13669),
    "XXX": (9.0, 13617),
    "XY": (6.26, 51663),
    "XXR": (5.99, 13634),
    "XXI": (5.99, 13697),
    "XXRI": (6.0, 13661),
    "An2": (6.01, 20),
    "AnBmCnDm": (12.0, 477),
    "AnBmAnBm": (11.99, 486),
    "AnBmAnBmCCC": (15.0, 481),
    "AnBnCn": (9.01, 35),
    "AnBnCnDn": (12.02, 32),
    "AnBnCnDnEn": (15.02, 34),
    "A2en": (1.34, 10),
    "ABnen": (6.0, 13),
    "Count": (8.74, 26),
    "ChineseNumeral": (30.03, 21365),
    "ABAnBn": (14.4, 61677),
    "ABaaaAB": (8.99, 77521),
    "Unequal": (2.97, 13646),
    "Bach2": (6.0, 51944),
    "Bach3": (8.98, 29915),
    "WeW": (14.98, 13671),
}
PUBLISHED_DRAWS = collections.defaultdict(lambda: 1_000_000, ChineseNumeral=100_000, Bach3=100_000)

ALL = [(name, language) for name, language in TARGETS.items()]


def chi_square_p_value(language: Language, counts: dict[str, int]) -> float:
    """Fit of observed counts to the exact probabilities; strings expected fewer than 40 times form one cell."""
    total = sum(counts.values())
    # A string expected 40 times or more occurs 10 times but for a chance of 1e-9: no cell depends on the counts.
    expectations = {s: total * language.probability(s) for s, count in counts.items() if count >= 10}
    frequent = [s for s, expectation in expectations.items() if expectation >= 40]
    observed, expected = [counts[s] for s in frequent], [expectations[s] for s in frequent]
    rest = total - sum(observed), total - sum(expected)
    if rest[1] >= 5 or not frequent:
        observed, expected = [*observed, rest[0]], [*expected, rest[1]]
    else:
        observed[-1], expected[-1] = observed[-1] + rest[0], expected[-1] + rest[1]
    return float(stats.chisquare(observed, expected).pvalue)


class TableTest(parameterized.TestCase):
    def test_is_complete_and_in_order(self):
        self.assertEqual(list(TARGETS), list(PUBLISHED))
        self.assertEqual(list(TARGETS), list(MEMBERS))
        self.assertLen(TARGETS, 56)

    def test_entries_are_well_formed(self):
        for name, language in TARGETS.items():
            self.assertEqual(language.name, name)
            self.assertIs(target(name), language)
            self.assertIn(language.chomsky_class, ("finite", "regular", "context-free", "context-sensitive"))
            self.assertNotIn(END, language.alphabet)
            self.assertEqual(set("".join(members(name))), set(language.alphabet), name)

    def test_classes_follow_the_strings_and_not_the_published_labels(self):
        classes = {
            "AAA": "finite",
            "AnBm": "regular",
            "XY": "regular",
            "AnUAnBn": "context-free",
            "Bach2": "context-free",
            "XXI": "context-sensitive",
            "Bach3": "context-sensitive",
            "ApBApp": "context-sensitive",
        }
        self.assertEqual({name: target(name).chomsky_class for name in classes}, classes)


class MembershipTest(parameterized.TestCase):
    @parameterized.named_parameters(ALL)
    def test_contains_exactly_the_enumerated_members(self, language):
        oracle = members(language.name)
        for string in every(language.alphabet, COMPLETE[len(language.alphabet)]):
            self.assertEqual(language.contains(string), string in oracle, string)
        for string in oracle:
            self.assertTrue(language.contains(string), string)

    @parameterized.named_parameters(ALL)
    def test_valid_next_is_what_some_member_does_next(self, language):
        longest = settled(language.name)
        following = collections.defaultdict(set)
        for string in members(language.name):
            for length in range(min(longest, len(string)) + 1):
                following[string[:length]].add((string + END)[length])
        for prefix in every(language.alphabet, longest):
            self.assertEqual(language.valid_next(prefix), frozenset(following[prefix]), prefix)

    @parameterized.named_parameters(ALL)
    def test_valid_next_allows_every_sampled_string(self, language):
        for string in language.sample(np.random.default_rng(1), 60):
            for length, symbol in enumerate((string + END)[:150]):
                self.assertIn(symbol, language.valid_next(string[:length]), string)

    @parameterized.named_parameters(ALL)
    def test_foreign_symbols_and_the_empty_string(self, language):
        for prefix in ("z", language.alphabet[0] + "z", END):
            self.assertEqual(language.valid_next(prefix), frozenset())
            self.assertFalse(language.contains(prefix))
            self.assertEqual(language.probability(prefix), 0.0)
        self.assertFalse(language.contains(""))


class SamplingTest(parameterized.TestCase):
    @parameterized.named_parameters(ALL)
    def test_mean_length_is_as_published(self, language):
        lengths = [len(s) for s in language.sample(np.random.default_rng(2), 100_000)]
        published, _ = PUBLISHED[language.name]
        error = np.std(lengths) * math.sqrt(1 / 100_000 + 1 / PUBLISHED_DRAWS[language.name])
        # 0.005 is the rounding of the published figure.
        self.assertLess(abs(np.mean(lengths) - published), 4 * error + 0.005)

    @parameterized.parameters("AnBn", "A2en", "ApBApp", "Dyck", "XX", "Bach3")
    def test_number_of_distinct_strings_is_as_published(self, name):
        self._check_distinct(name)

    @parameterized.parameters(*TARGETS)
    @pytest.mark.slow
    def test_number_of_distinct_strings_is_as_published_everywhere(self, name):
        self._check_distinct(name)

    def _check_distinct(self, name):
        counts = collections.Counter(target(name).sample(np.random.default_rng(3), PUBLISHED_DRAWS[name]))
        # With Poisson counts of mean r, the number of distinct strings has variance sum exp(-r) (1 - exp(-r)), at most
        # sum r exp(-r), which is the expected number of strings that occur once (estimated, hence at least 1).
        deviation = math.sqrt(2 * max(1, sum(count == 1 for count in counts.values())))
        self.assertLessEqual(abs(len(counts) - PUBLISHED[name][1]), 4 * deviation, f"{len(counts)} distinct strings")

    @parameterized.named_parameters(ALL)
    def test_frequencies_fit_the_exact_probabilities(self, language):
        counts = collections.Counter(language.sample(np.random.default_rng(4), 50_000))
        self.assertGreater(chi_square_p_value(language, counts), 1e-3 / len(TARGETS))

    @parameterized.named_parameters(ALL)
    def test_probabilities_of_all_short_strings_sum_to_how_often_strings_are_short(self, language):
        draws, longest = 20_000, COMPLETE[len(language.alphabet)]
        total = math.fsum(language.probability(s) for s in members(language.name) if len(s) <= longest)
        short = sum(len(s) <= longest for s in language.sample(np.random.default_rng(5), draws))
        self.assertLessEqual(total, 1 + 1e-12)
        self.assertLess(abs(short / draws - total), 4.5 * math.sqrt(total * (1 - total) / draws) + 1e-12)

    @parameterized.named_parameters(ALL)
    def test_a_seed_fixes_the_strings_and_no_draws_are_fine(self, language):
        first, same, other = (language.sample(np.random.default_rng(seed), 200) for seed in (6, 6, 7))
        self.assertLen(first, 200)
        self.assertTrue(all(type(s) is str for s in first))
        self.assertEqual(first, same)
        self.assertNotEqual(first, other)
        self.assertEqual(language.sample(np.random.default_rng(6), 0), [])

    def test_order_carries_no_information(self):
        # Strings are grouped internally by size; a sampler that returned them grouped would fail here.
        for language in TARGETS.values():
            lengths = np.array([len(s) for s in language.sample(np.random.default_rng(8), 20_000)], float)
            ranks = stats.rankdata(lengths)
            correlation = np.corrcoef(ranks[:-1], ranks[1:])[0, 1]
            self.assertLess(abs(correlation), 4.5 / math.sqrt(len(lengths)), language.name)


class ProbabilityTest(parameterized.TestCase):
    @parameterized.parameters(
        ("AAA", "aaa", 1 / 7),
        ("AAAA", "aa", 4 / 15),
        ("AnBm", "aab", 2 / 27),
        ("GoldenMean", "aba", 1 / 27),
        ("Even", "aab", 2 / 5 * 2 / 3 * 1 / 5),
        ("ApBAp", "aaba", 1 / 8),
        ("ApBApp", "abaabaa", 1 / 2 * 1 / 4 * 1 / 4),
        ("AsBAsp", "b", 1 / 8),
        ("aABb", "aabb", 1 / 3 * 2 / 3 / 4),
        ("AnBk", "abbb", 2 / 27),
        ("AnUAnBn", "ab", 1 / 6),
        ("Dyck", "()()()", 1 / 3 * 4 / 9 / 4),
        ("A2en", "aaaa", 4 / 125),
        ("ABnen", "abababab", 2 / 9),
        ("Count", "ababb", 6 / 25),
        ("ChineseNumeral", "abbab", 2 / 9 * 1 / 9),
        ("ChineseNumeral", "abbbbab", 2 / 9 * 1 / 3 * 4 / 27),
        ("ABaaaAB", "aaaaa", 1 / 36),
        ("ABaaaAB", "aaaaaa", 2 * 1 / 3 * 2 / 9 / 8),
        ("Bach2", "abba", 2 / 9 / 6),
        ("Bach3", "cba", 1 / 18),
        ("WeW", "abab", 2 / 9 / 4),
    )
    def test_by_hand(self, name, string, probability):
        self.assertAlmostEqual(target(name).probability(string), probability, places=14)

    def test_conditioned_words_by_summing_over_lengths(self):
        geometric = [0.0, *(1 / 3 * (2 / 3) ** (n - 1) for n in range(1, 200))]
        ways = {
            "CountA2": lambda n: 2**n - 1 - n,
            "CountAEven": lambda n: sum(math.comb(n, k) for k in range(0, n + 1, 2)),
            "Unequal": lambda n: 2**n - (math.comb(n, n // 2) if n % 2 == 0 else 0),
        }
        for name, count in ways.items():
            accepted = math.fsum(geometric[n] * count(n) / 2**n for n in range(1, 200))
            self.assertAlmostEqual(target(name).probability("aabaa"), geometric[5] / 32 / accepted, places=14)

    def test_pairs_by_summing_over_all_ways_to_draw_them(self):
        def word(x):
            return (1 / 3) * (2 / 3) ** (len(x) - 1) / 2 ** len(x) if x else 0.0

        def tail(x):
            sizes = (n for n in range(1, len(x) // 2 + 1) if x.endswith("a" * n + "b" * n))
            return sum(1 / 2 * (1 / 4) ** (len(x) - 2 * n) * 1 / 3 * (2 / 3) ** (n - 1) for n in sizes)

        equal = {
            "XY": math.fsum(2**n * ((1 / 3) * (2 / 3) ** (n - 1) / 2**n) ** 2 for n in range(1, 80)),
            "ABAnBn": math.fsum(
                2**k * (1 / 2 * (1 / 4) ** k * 1 / 3 * (2 / 3) ** (n - 1)) ** 2 for k in range(60) for n in range(1, 80)
            ),
        }
        for name, part in {"XY": word, "ABAnBn": tail}.items():
            for string in every("ab", 8, 1):
                cuts = ((string[:i], string[i:]) for i in range(len(string)))
                expected = sum(part(x) * part(y) for x, y in cuts if x != y) / (1 - equal[name])
                self.assertAlmostEqual(target(name).probability(string), expected, places=14, msg=string)

    def test_long_strings_do_not_underflow_in_logarithms(self):
        string = "ab" * 600
        self.assertTrue(target("AB").contains(string) and target("XX").contains(string))
        self.assertAlmostEqual(
            target("GoldenMean").log_probability(string), 599 * math.log(2 / 9) + math.log(1 / 9), places=6
        )


class TrapTest(parameterized.TestCase):
    """Where the published samples are not what their labels promise."""

    def test_apbapp_and_asbasp_share_one_y(self):
        for name, label in (("ApBApp", "a+(ba+)+"), ("AsBAsp", "a*(ba*)+")):
            language = target(name)
            self.assertTrue(language.contains("aabaaabaaabaaa"))
            self.assertTrue(re.fullmatch(label, "aabaaabaabaaa"))
            self.assertFalse(language.contains("aabaaabaabaaa"))
            self.assertEqual(language.valid_next("abaaba"), {"a"})
            self.assertEqual(language.valid_next("abaabaa"), {"b", END})
        self.assertTrue(target("AsBAsp").contains("bb"))
        self.assertFalse(target("ApBApp").contains("bb"))

    def test_dyck_reaches_only_right_linear_shapes(self):
        language = target("Dyck")
        for pairs in range(1, 7):
            reached = [s for s in every("()", 2 * pairs, 2 * pairs) if language.contains(s)]
            self.assertLen(reached, 2 ** (pairs - 1))
        self.assertFalse(language.contains("(())()"))
        self.assertEqual(language.valid_next("(())"), {END})
        self.assertEqual(language.valid_next("((()())"), {")"})

    def test_xy_is_cofinite(self):
        missing = [s for s in every("ab", 9, 1) if not target("XY").contains(s)]
        self.assertEqual(missing, ["a", "b", "aa", "bb"])

    def test_abanbn_is_two_draws(self):
        language = target("ABAnBn")
        self.assertEqual([s for s in every("ab", 4) if language.contains(s)], [])
        self.assertFalse(language.contains("abbbaabb"[3:]))
        self.assertTrue(language.contains("abaab"))
        self.assertFalse(language.contains("aabaab"))

    def test_support_sizes(self):
        for name, size in (("AAA", 3), ("AAAA", 4), ("A2en", 10)):
            language = target(name)
            support = [n for n in range(1, 1000) if language.contains("a" * n)]
            self.assertLen(support, size)
            outside = 1 - math.fsum(language.probability("a" * n) for n in support)
            self.assertAlmostEqual(outside, 0.2**10 if name == "A2en" else 0.0, places=12)

    def test_long_tails_are_members(self):
        tails = {
            "A2en": "a" * 512,
            "An2": "a" * 441,
            "WeW": "ab" * 17 + "b",
            "Count": "".join("a" + "b" * k for k in range(1, 27)),
            "AnBmCnm": "a" * 19 + "b" * 20 + "c" * 380,
            "ChineseNumeral": "".join("a" + "b" * k for k in range(60, 1, -1)),
        }
        tails["WeW"] *= len(tails["WeW"])
        for name, string in tails.items():
            language = target(name)
            self.assertTrue(language.contains(string), name)
            self.assertIn(END, language.valid_next(string), name)
            self.assertFalse(language.contains(string[:-1]) and language.contains(string + "aab"), name)
            self.assertIn(string[-1], language.valid_next(string[:-1]), name)


class TopStringsTest(absltest.TestCase):
    def test_single_count(self):
        top = top_strings(target("AnBn"), 20, np.random.default_rng(0), 400_000)
        self.assertEqual([s for s, _ in top], ["a" * n + "b" * n for n in range(1, 21)])
        np.testing.assert_allclose(
            [p for _, p in top], [(1 / 3) * (2 / 3) ** (n - 1) for n in range(1, 21)], rtol=1e-12
        )

    def test_ties_are_broken_by_length_and_letters_whatever_the_draws(self):
        first, second = (top_strings(target("AB"), 25, np.random.default_rng(seed), 50_000) for seed in (1, 2))
        self.assertEqual(first, second)
        self.assertEqual([s for s, _ in first], list(itertools.islice(every("ab", 4, 1), 25)))

    def test_is_short_where_few_strings_occur(self):
        self.assertEqual(
            [s for s, _ in top_strings(target("AAA"), 25, np.random.default_rng(3), 1000)], ["a", "aa", "aaa"]
        )

    def test_negative_sizes(self):
        with self.assertRaisesRegex(ValueError, "AnBn: .* got k=-1"):
            top_strings(target("AnBn"), -1, np.random.default_rng(0))
        with self.assertRaisesRegex(ValueError, "AnBn: .* got count=-5"):
            top_strings(target("AnBn"), 1, np.random.default_rng(0), draws=-5)


class ErrorTest(parameterized.TestCase):
    @parameterized.parameters(
        ("AnBnC", "AnBnCn"), ("anbn", "AnBn"), ("dyk", "Dyck"), ("ChineseNumber", "ChineseNumeral")
    )
    def test_unknown_language_lists_close_matches(self, wrong, suggestion):
        with self.assertRaisesRegex(ValueError, f"unknown language '{wrong}': did you mean .*{suggestion}"):
            target(wrong)

    def test_unknown_language_lists_all_if_none_is_close(self):
        with self.assertRaisesRegex(ValueError, "unknown language '@@': the languages are An, AB, .*WeW"):
            target("@@")

    def test_negative_count(self):
        for language in TARGETS.values():
            with self.assertRaisesRegex(ValueError, f"{language.name}: .* must be >= 0, got count=-1"):
                language.sample(np.random.default_rng(0), -1)

    def test_a_block_may_introduce_one_count(self):
        with self.assertRaisesRegex(ValueError, "block 1 takes 3 counts where 1 are known"):
            Blocks((lambda n: "a" * n, lambda n, m, k: "b" * (n + m + k)))

    def test_an_automaton_is_checked(self):
        with self.assertRaisesRegex(ValueError, "state 's' must sum to 1, got 0.5"):
            Automaton({"s": (("a", END, 0.5),)})
        with self.assertRaisesRegex(ValueError, r"state 's' lead to unknown states \['t'\]"):
            Automaton({"s": (("a", "t", 1.0),)})


@needs_data
class CorpusTest(parameterized.TestCase):
    """The published samples: a million strings a language, 100,000 for the two whose largest file is not at hand."""

    def _corpus(self, name: str) -> dict[str, int]:
        file = f"{name}{'' if PUBLISHED_DRAWS[name] == 1_000_000 else '-100000'}.txt"
        with zipfile.ZipFile(DATA / "formal_languages" / "yang_piantadosi.zip") as archive:
            lines = archive.read(file).decode().splitlines()
        return {string: int(count) for string, count in (line.split("\t") for line in lines if line.strip())}

    @parameterized.named_parameters(ALL)
    def test_frequencies_and_members(self, language):
        counts = self._corpus(language.name)
        self.assertGreater(chi_square_p_value(language, counts), 0.01 / len(TARGETS))
        strings = sorted(counts, key=len)
        for string in strings[:: max(1, len(strings) // 1000)] + strings[-20:]:
            self.assertTrue(language.contains(string), string)


if __name__ == "__main__":
    absltest.main()
