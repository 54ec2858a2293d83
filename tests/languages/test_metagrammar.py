"""The distribution over languages: rule and leaf probabilities, ablations, and the statistics of what it draws."""

import collections
import itertools
import time

import chex
import numpy as np
import pytest
import scipy.stats
from absl.testing import absltest, parameterized

from metalearn.languages.grammar import Concat, Epsilon, Leaf, Or, Plus, Sigma
from metalearn.languages.metagrammar import (
    MetagrammarSettings,
    leaf_probabilities,
    rule_probabilities,
    sample_grammar,
)
from tests.languages.test_grammar import fits

RULE = {Leaf: "terminal", Sigma: "terminal", Epsilon: "terminal", Or: "or", Plus: "plus", Concat: "concat"}


def children_of(node):
    return getattr(node, "children", ())


def descendants(node):
    for child in children_of(node):
        yield child
        yield from descendants(child)


class RuleTest(parameterized.TestCase):
    def test_rule_probabilities(self):
        chex.assert_trees_all_close(
            rule_probabilities(top=True), {"terminal": 1 / 49, "or": 16 / 49, "plus": 16 / 49, "concat": 16 / 49}
        )
        chex.assert_trees_all_close(
            rule_probabilities(top=False), {"terminal": 16 / 19, "or": 1 / 19, "plus": 1 / 19, "concat": 1 / 19}
        )

    def test_rule_probabilities_without_recursion(self):
        chex.assert_trees_all_close(
            rule_probabilities(top=True, recursion=False), {"terminal": 1 / 33, "or": 16 / 33, "concat": 16 / 33}
        )
        chex.assert_trees_all_close(
            rule_probabilities(top=False, recursion=False), {"terminal": 16 / 18, "or": 1 / 18, "concat": 1 / 18}
        )

    def test_leaf_probabilities(self):
        chex.assert_trees_all_close(leaf_probabilities(2, "coded"), {"sigma": 0.25, "epsilon": 0.375, "tuple": 0.375})
        chex.assert_trees_all_close(leaf_probabilities(2, "described"), {"sigma": 0.25, "epsilon": 0.25, "tuple": 0.5})
        for size in range(2, 11):
            coded = leaf_probabilities(size, "coded")
            self.assertAlmostEqual(coded["epsilon"], (size + 1) / (size + 2) * 2 / (size + 2))
            self.assertAlmostEqual(coded["tuple"], (size + 1) / (size + 2) * size / (size + 2))

    @parameterized.product(variant=["coded", "described"], recursion=[True, False])
    def test_frequencies(self, variant, recursion):
        rng = np.random.default_rng(1)
        settings = MetagrammarSettings(leaf=variant, recursion=recursion)
        grammars = [sample_grammar(rng, settings) for _ in range(4000)]
        roots = collections.Counter(RULE[type(root)] for g in grammars for root in g.classes)
        inner = collections.Counter(RULE[type(n)] for g in grammars for r in g.classes for n in descendants(r))
        for found, top in ((roots, True), (inner, False)):
            expected = rule_probabilities(top, recursion)
            self.assertEqual(set(found), set(expected))
            p = scipy.stats.chisquare(
                [found[rule] for rule in expected], [x * found.total() for x in expected.values()]
            ).pvalue
            self.assertGreater(p, 1e-4)
        for size in (2, 3):
            leaves = collections.Counter(
                type(n)
                for g in grammars
                for r in g.classes
                for n in (r, *descendants(r))
                if g.vocabulary == size and RULE[type(n)] == "terminal"
            )
            first = 1 / (size + 2)
            epsilon = first if variant == "described" else (1 - first) * 2 * first
            expected_leaves = np.array([first, epsilon, 1 - first - epsilon]) * leaves.total()
            p = scipy.stats.chisquare([leaves[Sigma], leaves[Epsilon], leaves[Leaf]], expected_leaves).pvalue
            self.assertGreater(p, 1e-4)

    def test_vocabulary_slots_synchrony_children_and_positions(self):
        rng = np.random.default_rng(2)
        grammars = [sample_grammar(rng) for _ in range(6000)]
        geometric = {k: 6000 * 0.5**k for k in range(1, 40)}
        capped = {k + 1: 6000 * 0.5**k for k in range(1, 9)} | {10: 6000 * 0.5**8}
        self.assertGreater(fits(collections.Counter(g.vocabulary for g in grammars), capped), 1e-4)
        self.assertGreater(fits(collections.Counter(len(g.slots) for g in grammars), geometric), 1e-4)
        for n in (2, 3):  # z_j uniform on 1..n, up to the names of the classes
            patterns = collections.Counter(g.slots for g in grammars if len(g.slots) == n)
            expected = collections.Counter()
            for z in itertools.product(range(n), repeat=n):
                names = {label: i for i, label in enumerate(dict.fromkeys(z))}
                expected[tuple(names[label] for label in z)] += patterns.total() / n**n
            self.assertGreater(fits(patterns, expected), 1e-4)
        pluses = [r for g in grammars for r in g.classes if isinstance(r, Plus)]
        concats = [r for g in grammars for r in g.classes if isinstance(r, Concat)]
        for found in (pluses, concats):
            counts = collections.Counter(len(node.children) for node in found)
            self.assertGreater(fits(counts, {k: len(found) * 0.5**k for k in range(1, 40)}), 1e-4)
        for m in (2, 3):
            positions = collections.Counter(node.position for node in pluses if len(node.children) == m)
            self.assertEqual(set(positions), set(range(m)))
            self.assertGreater(scipy.stats.chisquare(list(positions.values())).pvalue, 1e-4)

    def test_stop_is_the_discretised_normal(self):
        rng = np.random.default_rng(3)
        count = 8000
        found = collections.Counter(round(100 * sample_grammar(rng).stop) for _ in range(count))
        self.assertGreaterEqual(min(found), 15)
        self.assertLessEqual(max(found), 52)
        edges = np.r_[-np.inf, np.arange(15.5, 52), np.inf] / 100
        mass = np.diff(scipy.stats.norm(0.33, 0.05).cdf(edges))
        expected = {k: count * m for k, m in zip(range(15, 53), mass, strict=True)}
        self.assertGreater(fits(found, expected), 1e-4)


class DrawTest(parameterized.TestCase):
    def test_same_seed_same_language_and_strings(self):
        for seed in range(20):
            one, two = (np.random.default_rng(seed) for _ in range(2))
            first, second = sample_grammar(one), sample_grammar(two)
            self.assertEqual(first, second)
            self.assertEqual(first.sample(one, 50), second.sample(two, 50))
        self.assertGreater(len({str(sample_grammar(np.random.default_rng(seed))) for seed in range(20)}), 10)

    def test_settings(self):
        rng = np.random.default_rng(7)
        for _ in range(500):
            plain = sample_grammar(rng, MetagrammarSettings(recursion=False, max_vocabulary=3))
            self.assertLessEqual(plain.vocabulary, 3)
            for root in plain.classes:
                self.assertFalse(any(isinstance(node, Plus) for node in (root, *descendants(root))))
            self.assertEqual(sample_grammar(rng, MetagrammarSettings(synchrony=False)).slots, (0,))

    def test_too_costly_languages_are_redrawn(self):
        rng, same = np.random.default_rng(8), np.random.default_rng(8)
        drawn = [sample_grammar(same) for _ in range(300)]
        kept = [g for g in drawn if g.work <= 10]
        self.assertLess(len(kept), 300)
        limited = [sample_grammar(rng, MetagrammarSettings(max_work=10)) for _ in kept]
        self.assertEqual(limited, kept)

    @parameterized.named_parameters(
        ("leaf", "leaf", lambda: MetagrammarSettings(leaf="printed")),
        ("max_vocabulary", "max_vocabulary", lambda: MetagrammarSettings(max_vocabulary=1)),
        ("max_work", "max_work", lambda: MetagrammarSettings(max_work=float("nan"))),
    )
    def test_errors(self, message, make):
        with self.assertRaisesRegex(ValueError, message):
            make()


class StatisticsTest(parameterized.TestCase):
    """Figures measured by others on the authors' program: 4,000 languages as coded, about 1,100 strings each."""

    def check(self, languages, strings, seed):
        rng = np.random.default_rng(seed)
        lengths, distinct, roots = [], [], []
        for _ in range(languages):
            grammar = sample_grammar(rng)
            drawn = grammar.sample(rng, strings)
            lengths.append([len(s) for s in drawn])
            distinct.append(len(set(drawn)))
            roots += [RULE[type(root)] for root in grammar.classes]
        length, distinct = np.array(lengths), np.array(distinct)
        # Both sides are samples of languages, so their errors add; 4 standard errors are allowed.
        errors = 4 * (1 / languages + 1 / 4000) ** 0.5

        def near(per_language, expected):
            self.assertLess(abs(np.mean(per_language) - expected), errors * np.std(per_language))

        def quantile_near(values, share, expected):
            below, up_to = (
                np.reshape(x, (languages, -1)).mean(axis=1) for x in (values < expected, values <= expected)
            )
            self.assertLess(below.mean() - errors * below.std(), share)
            self.assertGreater(up_to.mean() + errors * up_to.std(), share)

        near((length == 0).mean(axis=1), 0.168)
        near(length.mean(axis=1), 6.7)
        for share, expected in ((0.5, 2), (0.9, 14), (0.99, 70)):
            quantile_near(length, share, expected)
        for rule, expected in (("concat", 0.330), ("or", 0.327), ("plus", 0.324), ("terminal", 0.019)):
            near([root == rule for root in roots], expected)
        if strings == 1100:
            for most, expected in ((1, 0.22), (2, 0.39), (5, 0.51), (25, 0.68)):
                near(distinct <= most, expected)
            for share, expected in ((0.5, 4), (0.75, 115), (0.9, 504)):
                quantile_near(distinct, share, expected)

    def test_many_languages(self):
        self.check(4000, 100, seed=10)

    def test_many_strings(self):
        self.check(1000, 1100, seed=11)

    @pytest.mark.slow
    def test_full_size(self):
        self.check(12_000, 1100, seed=12)

    @pytest.mark.slow
    def test_speed(self):
        rng = np.random.default_rng(13)
        seconds = []
        for _ in range(300):
            grammar = sample_grammar(rng)
            start = time.perf_counter()
            grammar.sample(rng, 1100)
            seconds.append(time.perf_counter() - start)
        self.assertLess(np.median(seconds), 0.02)


if __name__ == "__main__":
    absltest.main()
