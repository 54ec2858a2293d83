"""Pools: bins, the cache, weights of strings, description lengths of the metagrammar, and the bias."""

import collections
import dataclasses
import itertools
import math
import pathlib
import tempfile
from unittest import mock

import chex
import jax
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from metalearn.languages import pools
from metalearn.languages.episodes import EpisodeBatches, EpisodeSettings
from metalearn.languages.grammar import Concat, Epsilon, Grammar, Leaf, Or, Plus, Sigma
from metalearn.languages.metagrammar import MetagrammarSettings, sample_grammar
from metalearn.languages.minimalist import DerivesNothing, Lexicon, SearchSettings
from metalearn.languages.pools import (
    PoolLanguage,
    PoolSettings,
    biased,
    effective_number,
    metagrammar_description_length,
    metagrammar_language,
    metagrammar_pool,
    minimalist_language,
    minimalist_pool,
    shares,
)

COUNTING = Lexicon.parse("a :: s= b= s \n b :: b \n :: s", "s")
SMALL = PoolSettings(lowest=6, bins=8, skipped=(1, 3), per_bin=2, first_strings=30)


def fixed(length, symbol=0):
    """A language whose only string is one symbol."""
    return PoolLanguage(f"language {symbol}", length, lambda rng, count: [(symbol,)] * count)


class BiasTest(parameterized.TestCase):
    @parameterized.parameters(2.0, -3.0, 0.25, math.inf, -math.inf)
    def test_languages_are_drawn_with_the_softmax(self, tau):
        lengths = [7.0, 8.5, 8.5, 10.0]
        weights = np.array([math.exp(-length / tau) for length in lengths])
        expected = weights / weights.sum()
        pool = [fixed(length, symbol) for symbol, length in enumerate(lengths)]
        chex.assert_trees_all_close(shares(pool, tau), expected, rtol=1e-12)
        draw, rng, count = biased(pool, tau), np.random.default_rng(2), 4000
        languages = [set(draw(rng, 3)) for _ in range(count)]
        self.assertTrue(all(len(language) == 1 for language in languages))  # all strings of a call are of one language
        counts = collections.Counter(symbol for language in languages for (symbol,) in language)
        common = expected * count >= 5
        self.assertLessEqual(sum(counts[i] for i in np.flatnonzero(~common)), 30)
        observed = [counts[i] for i in np.flatnonzero(common)]
        means = expected[common] / expected[common].sum() * sum(observed)
        self.assertGreater(scipy.stats.chisquare(observed, means).pvalue, 1e-4)

    def test_a_tiny_tau_is_the_simplest_or_the_most_complex_language(self):
        pool = [fixed(8.0), fixed(6.0), fixed(105.0), fixed(105.0)]
        for tau in (1e-3, 1e-300, 5e-324):
            chex.assert_trees_all_equal(shares(pool, tau), np.array([0.0, 1.0, 0.0, 0.0]))
            chex.assert_trees_all_equal(shares(pool, -tau), np.array([0.0, 0.0, 0.5, 0.5]))
            self.assertAlmostEqual(effective_number(pool, tau), 1)
            self.assertAlmostEqual(effective_number(pool, -tau), 2)

    def test_effective_number(self):
        self.assertAlmostEqual(effective_number([fixed(float(n)) for n in range(9)], math.inf), 9)
        # Weights 1 : 1/2, entropy ln 3 - 2/3 ln 2.
        pool = [fixed(1.0), fixed(1.0 + math.log(2))]
        self.assertAlmostEqual(effective_number(pool, 1.0), 3 / 2 ** (2 / 3))

    def test_episodes(self):
        settings = EpisodeSettings(1, 1, 4, 20, 12, row_sizes=(4, 20), length_sizes=(12,))
        batch = EpisodeBatches(jax.random.key(0), 3, settings, biased([minimalist_language(COUNTING)], 1.0))(0)
        chex.assert_shape(batch.support.tokens, (3, 1, 4, 12))

    def test_errors(self):
        with self.assertRaisesRegex(ValueError, "the pool has no languages"):
            biased([], 1.0)
        for tau in (0.0, -0.0, math.nan):
            with self.assertRaisesRegex(ValueError, "tau must be positive"):
                biased([fixed(1.0)], tau)
        with self.assertRaisesRegex(ValueError, "description of 'language 5' has no finite length"):
            shares([fixed(1.0), fixed(math.inf, 5)], 1.0)


class MinimalistLanguageTest(parameterized.TestCase):
    def assert_drawn(self, language, weights):
        rng, count = np.random.default_rng(4), 6000
        counts = collections.Counter(language.sample(rng, count))
        strings = [(0,) * n + (1,) * n for n in range(16)]
        self.assertLessEqual(set(counts), set(strings))
        means = np.array(weights) / sum(weights) * count
        observed = np.array([counts[string] for string in strings])
        cells = [i for i in range(16) if means[i] >= 5]
        tail = [i for i in range(16) if means[i] < 5]
        if tail:
            observed, means = (
                np.append(observed[cells], observed[tail].sum()),
                np.append(means[cells], means[tail].sum()),
            )
        self.assertGreater(scipy.stats.chisquare(observed, means).pvalue, 1e-4)

    def test_weights_of_strings(self):
        """a^n b^n has probability 2^-(n + 1); n = 0 .. 15 is found, as in the test of `derive`."""
        flattened = [1 + math.floor(1000 * 2.0 ** (-(n + 1) / 10)) for n in range(16)]
        self.assertEqual(flattened[:2], [934, 871])
        self.assert_drawn(minimalist_language(COUNTING), flattened)
        self.assert_drawn(
            minimalist_language(COUNTING, temperature=3.0), [1 + 1000 * 2 ** (-(n + 1) / 3) // 1 for n in range(16)]
        )
        self.assert_drawn(minimalist_language(COUNTING, temperature=None), [2.0**-n for n in range(16)])

    def test_fields_and_errors(self):
        language = minimalist_language(COUNTING, SearchSettings(strings=2))
        self.assertEqual(language.text, str(COUNTING))
        self.assertAlmostEqual(language.description_length, COUNTING.description_length)
        self.assertEqual(set(language.sample(np.random.default_rng(0), 50)), {(), (0, 1)})
        with self.assertRaises(DerivesNothing):
            minimalist_language(Lexicon.parse("a :: t= s", "s"))
        for make in (
            lambda: minimalist_language(COUNTING, temperature=0.0),
            lambda: minimalist_pool(jax.random.key(0), temperature=-1.0),
        ):
            with self.assertRaisesRegex(ValueError, "temperature must be positive"):
                make()


class DescriptionLengthTest(parameterized.TestCase):
    @parameterized.parameters(
        (MetagrammarSettings(),),
        (MetagrammarSettings(leaf="described", max_vocabulary=3),),
        (MetagrammarSettings(recursion=False, synchrony=False, max_vocabulary=2),),
    )
    def test_frequencies_of_drawn_grammars(self, settings):
        rng, count = np.random.default_rng(7), 4000
        drawn = [dataclasses.replace(sample_grammar(rng, settings), stop=0.33) for _ in range(count)]
        counts = collections.Counter(drawn)
        stops = [dataclasses.replace(drawn[0], stop=n / 100) for n in range(15, 53)]
        log_stop = metagrammar_description_length(drawn[0], settings) + np.log(
            sum(math.exp(-metagrammar_description_length(grammar, settings)) for grammar in stops)
        )  # minus the log-probability of 0.33, given the rest
        expected = {g: count * math.exp(log_stop - metagrammar_description_length(g, settings)) for g in counts}
        common = [g for g, mean in expected.items() if mean >= 6]
        self.assertGreater(len(common), 10)
        rest = count - sum(expected[g] for g in common)
        observed = [*(counts[g] for g in common), count - sum(counts[g] for g in common)]
        self.assertGreater(scipy.stats.chisquare(observed, [*(expected[g] for g in common), rest]).pvalue, 1e-4)

    def test_stops(self):
        rng, count = np.random.default_rng(5), 3000
        counts = collections.Counter(sample_grammar(rng).stop for _ in range(count))
        nats = {n / 100: metagrammar_description_length(Grammar(2, (0,), (Sigma(),), n / 100)) for n in range(15, 53)}
        total = sum(math.exp(-length) for length in nats.values())
        # Two symbols (1/2), one slot (1/2), a terminal at the root (1/49), Sigma (1/4).
        self.assertAlmostEqual(total, 1 / 2 / 2 / 49 / 4)
        means = {stop: count * math.exp(-length) / total for stop, length in nats.items()}
        common = [stop for stop, mean in means.items() if mean >= 5]
        rest = count - sum(means[stop] for stop in common)
        observed = [*(counts[stop] for stop in common), count - sum(counts[stop] for stop in common)]
        self.assertGreater(scipy.stats.chisquare(observed, [*(means[stop] for stop in common), rest]).pvalue, 1e-4)

    def test_by_hand(self):
        def ratio(one, other):
            return math.exp(metagrammar_description_length(other) - metagrammar_description_length(one))

        a = Leaf((0,))
        start = Grammar(2, (0,), (a,))
        # The leaf "tuple" has probability 3/8 with two symbols, 12/25 with three.
        self.assertAlmostEqual(ratio(Grammar(3, (0,), (a,)), start), (1 / 4 * 12 / 25 / 3) / (1 / 2 * 3 / 8 / 2))
        self.assertAlmostEqual(ratio(Grammar(2, (0,), (Sigma(),)), start), (1 / 4) / (3 / 8 / 2))
        inner = 16 / 19 * 3 / 8 / 2
        for root, probability in (
            (Or((a, a)), 16 / 49 * inner**2),
            (Concat((a,)), 16 / 49 / 2 * inner),
            (Plus((a, a, a), 2), 16 / 49 / 8 / 3 * inner**3),
            (Concat((a, Epsilon())), 16 / 49 / 4 * inner * 16 / 19 * 3 / 8),
            (Concat((Concat((a,)),)), 16 / 49 / 2 / 19 / 2 * inner),
        ):
            self.assertAlmostEqual(ratio(Grammar(2, (0,), (root,)), start), probability / (1 / 49 * 3 / 8 / 2))
        # Two slots of one class: 2 of 4 patterns, and a pair of symbols; three slots, two alike: 3 ways of 27 each are
        # six namings of one pattern.
        self.assertAlmostEqual(ratio(Grammar(2, (0, 0), (Leaf((0, 1)),)), start), 1 / 2 * 2 / 4 / 2)
        three = Grammar(2, (0, 1, 0), (Leaf((0, 1)), a))
        self.assertAlmostEqual(ratio(three, start), 1 / 4 * 6 / 27 * (1 / 49 * 3 / 8 / 4))
        renamed = Grammar(2, (1, 0, 1), (a, Leaf((0, 1))))
        self.assertAlmostEqual(ratio(three, renamed), 1)

    @parameterized.parameters(
        (Grammar(1, (0,), (Sigma(),)), MetagrammarSettings()),
        (Grammar(4, (0,), (Sigma(),)), MetagrammarSettings(max_vocabulary=3)),
        (Grammar(2, (0, 1), (Sigma(), Sigma())), MetagrammarSettings(synchrony=False)),
        (Grammar(2, (0,), (Plus((Sigma(),), 0),)), MetagrammarSettings(recursion=False)),
        (Grammar(2, (0,), (Sigma(),), 0.14), MetagrammarSettings()),
        (Grammar(2, (0,), (Sigma(),), 0.333), MetagrammarSettings()),
    )
    def test_what_cannot_be_drawn(self, grammar, settings):
        self.assertEqual(metagrammar_description_length(grammar, settings), math.inf)


class PoolTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enter_context(tempfile.TemporaryDirectory())

    def make(self, family, seed=0, settings=SMALL):
        make = {"minimalist": minimalist_pool, "metagrammar": metagrammar_pool}[family]
        if family == "metagrammar":
            settings = dataclasses.replace(settings, lowest=7, skipped=())
        return make(jax.random.key(seed), settings, cache=self.folder)

    @parameterized.parameters("minimalist", "metagrammar")
    def test_bins_strings_and_cache(self, family):
        pool = self.make(family)
        lowest, bins = (6, [0, 2, 4, 5, 6, 7]) if family == "minimalist" else (7, range(8))
        lengths = [language.description_length for language in pool]
        self.assertEqual(collections.Counter(math.floor(x) - lowest for x in lengths), {i: 2 for i in bins})
        self.assertEqual(lengths, sorted(lengths))
        for language in pool:
            strings = language.sample(np.random.default_rng(1), 2000)
            self.assertGreaterEqual(len(set(strings)), 10)
            self.assertLessEqual(set(itertools.chain(*strings)), set(range(10)))
            if family == "minimalist":
                again = minimalist_language(Lexicon.parse(language.text, "0", "abcdefg"), SearchSettings(strings=30))
                self.assertEqual(again.sample(np.random.default_rng(1), 2000), strings)
                self.assertAlmostEqual(again.description_length, language.description_length)

        with mock.patch.object(pools, "_fill", side_effect=AssertionError("built again")):
            stored = self.make(family)
            with self.assertRaisesRegex(AssertionError, "built again"):
                self.make(family, seed=1)
        for one, other in zip(pool, stored, strict=True):
            self.assertEqual(one[:2], other[:2])
            self.assertEqual(*(language.sample(np.random.default_rng(3), 50) for language in (one, other)))
        # A damaged file is built anew, and gives the same pool.
        (path,) = pathlib.Path(self.folder).iterdir()
        path.write_text(path.read_text()[:100])
        self.assertEqual([language[:2] for language in self.make(family)], [language[:2] for language in pool])
        other = self.make(family, seed=1)
        self.assertNotEqual([language.text for language in other], [language.text for language in pool])

    def test_grammars_survive_storage(self):
        rng = np.random.default_rng(0)
        for _ in range(200):
            for root in sample_grammar(rng).classes:
                self.assertEqual(pools._read(pools._written(root)), root)

    def test_bins_that_do_not_fill(self):
        settings = PoolSettings(lowest=6, bins=3, skipped=(), per_bin=1, max_draws=1500)
        with self.assertRaisesRegex(ValueError, r"after 1500 languages the bins \[1\] of 3 still lack 1 .*skipped"):
            self.make("minimalist", settings=settings)

    @parameterized.parameters(
        ({"bins": 0}, "at least 1"),
        ({"first_strings": 5}, "first_strings=5 must be at least fewest_strings=10"),
        ({"skipped": (100,)}, "must be some, not all, of the bins 0 .. 99"),
        ({"bins": 1, "skipped": (0,)}, "not all"),
    )
    def test_settings_that_do_not_fit(self, wrong, message):
        with self.assertRaisesRegex(ValueError, message):
            PoolSettings(**wrong)

    def test_a_language_of_the_metagrammar(self):
        grammar = Grammar(2, (0,), (Plus((Sigma(),), 0),))
        language = metagrammar_language(grammar)
        self.assertEqual(language.text, str(grammar))
        self.assertEqual(language.description_length, metagrammar_description_length(grammar))
        self.assertEqual(*(f(np.random.default_rng(0), 9) for f in (language.sample, grammar.sample)))


if __name__ == "__main__":
    absltest.main()
