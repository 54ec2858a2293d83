"""A single grammar: the meaning of each operator, the sampler against slow definitions, the printed form, errors."""

import collections
import itertools
import math

import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from metalearn.languages.grammar import Concat, Epsilon, Grammar, Leaf, Or, Plus, Sigma
from metalearn.languages.metagrammar import MetagrammarSettings, sample_grammar

A, B, C = Leaf((0,)), Leaf((1,)), Leaf((2,))


def slow_string(grammar, rng):
    """The definition, taken literally: one string, one node visit at a time, lists of tuples."""

    def evaluate(node, width):
        if isinstance(node, Leaf):
            return [node.symbols]
        if isinstance(node, Sigma):
            return [(int(rng.integers(grammar.vocabulary)),) * width]
        if isinstance(node, Epsilon):
            return []
        if isinstance(node, Or):
            return evaluate(node.children[int(rng.integers(2))], width)
        if isinstance(node, Concat):
            return [row for child in node.children for row in evaluate(child, width)]
        out = []
        while True:
            blocks = [evaluate(child, width) for child in node.children]
            out = sum(blocks[: node.position], []) + out + sum(blocks[node.position :], [])
            if rng.random() < grammar.stop:
                return out

    rows = [evaluate(root, grammar.slots.count(i)) for i, root in enumerate(grammar.classes)]
    seen = collections.Counter()
    text = []
    for i in grammar.slots:
        text += [row[seen[i]] for row in rows[i]]
        seen[i] += 1
    return tuple(text)


def distribution(grammar):
    """All strings of a language without repetition and their probabilities, by enumeration of the choices."""

    def outcomes(node, width):
        if isinstance(node, Leaf):
            return [((node.symbols,), 1.0)]
        if isinstance(node, Sigma):
            return [(((s,) * width,), 1 / grammar.vocabulary) for s in range(grammar.vocabulary)]
        if isinstance(node, Epsilon):
            return [((), 1.0)]
        if isinstance(node, Or):
            return [(rows, p / 2) for child in node.children for rows, p in outcomes(child, width)]
        assert isinstance(node, Concat)
        combined = itertools.product(*(outcomes(child, width) for child in node.children))
        return [(sum((rows for rows, _ in parts), ()), math.prod(p for _, p in parts)) for parts in combined]

    table = collections.Counter()
    for parts in itertools.product(*(outcomes(root, grammar.slots.count(i)) for i, root in enumerate(grammar.classes))):
        text, seen = (), collections.Counter()
        for i in grammar.slots:
            text += tuple(row[seen[i]] for row in parts[i][0])
            seen[i] += 1
        table[text] += math.prod(p for _, p in parts)
    return table


def fits(found, expected):
    """Chi-square p value of counts against expected counts; cells below 5 are pooled with what `expected` lacks."""
    common = [key for key, mean in expected.items() if mean >= 5]
    rest = found.total() - sum(expected[key] for key in common)
    observed = [found[key] for key in common] + [found.total() - sum(found[key] for key in common)]
    means = [expected[key] for key in common] + [rest]
    if rest < 5:
        observed, means = [*observed[:-2], sum(observed[-2:])], [*means[:-2], sum(means[-2:])]
    return scipy.stats.chisquare(observed, means).pvalue if len(means) > 1 else 1.0


class OperatorTest(parameterized.TestCase):
    def draw(self, grammar, count=4000, seed=0):
        return grammar.sample(np.random.default_rng(seed), count)

    def assert_geometric(self, numbers, stop):
        expected = {k: len(numbers) * stop * (1 - stop) ** (k - 1) for k in range(1, 200)}
        self.assertGreater(fits(collections.Counter(numbers), expected), 1e-4)

    @parameterized.named_parameters(
        ("one_child", (A,), 0, lambda n: (0,) * n),
        ("repeats_right", (A, C), 0, lambda n: (0, 2) * n),
        ("embeds", (A, C), 1, lambda n: (0,) * n + (2,) * n),
        ("embeds_two_left", (A, B, C), 2, lambda n: (0, 1) * n + (2,) * n),
        ("embeds_two_right", (A, B, C), 1, lambda n: (0,) * n + (1, 2) * n),
    )
    def test_plus(self, children, position, expected):
        strings = self.draw(Grammar(3, (0,), (Plus(children, position),), stop=0.4))
        rounds = [len(s) // len(children) for s in strings]
        self.assertEqual(strings, [expected(n) for n in rounds])
        self.assert_geometric(rounds, 0.4)

    def test_plus_evaluates_children_afresh(self):
        strings = self.draw(Grammar(2, (0,), (Plus((Sigma(),), 0),), stop=0.3))
        pairs = collections.Counter(s for s in strings if len(s) == 2)
        self.assertEqual(set(pairs), set(itertools.product(range(2), repeat=2)))
        self.assertGreater(scipy.stats.chisquare(list(pairs.values())).pvalue, 1e-4)

    def test_nested_plus(self):
        strings = self.draw(Grammar(2, (0,), (Plus((Plus((A,), 0), B), 0),), stop=0.33), 500)
        for s in strings:
            text = "".join("ab"[i] for i in s)
            self.assertRegex(text, r"^(a+b)+$")
        self.assertTrue(any(s[:4] == (0, 1, 0, 0) for s in strings))  # inner rounds differ between outer rounds

    def test_three_synchronised_slots(self):
        strings = self.draw(Grammar(3, (0, 0, 0), (Plus((Leaf((0, 1, 2)),), 0),), stop=0.35))
        rounds = [len(s) // 3 for s in strings]
        self.assertEqual(strings, [(0,) * n + (1,) * n + (2,) * n for n in rounds])
        self.assert_geometric(rounds, 0.35)

    def test_sigma_copies_the_same_symbol_into_synchronised_slots(self):
        strings = self.draw(Grammar(3, (0, 0), (Plus((Sigma(),), 0),)))
        for s in strings:
            self.assertEqual(s[: len(s) // 2], s[len(s) // 2 :])
        self.assertEqual({s[0] for s in strings}, {0, 1, 2})

    def test_or_chooses_the_same_branch_in_synchronised_slots(self):
        strings = self.draw(Grammar(4, (0, 0), (Or((Leaf((0, 1)), Leaf((2, 3)))),)))
        counts = collections.Counter(strings)
        self.assertEqual(set(counts), {(0, 1), (2, 3)})
        self.assertGreater(scipy.stats.chisquare(list(counts.values())).pvalue, 1e-4)

    def test_interleaved_classes(self):
        grammar = Grammar(3, (0, 1, 0), (Plus((Leaf((0, 2)),), 0), Plus((Leaf((1,)),), 0)))
        strings = self.draw(grammar)
        shapes = []
        for s in strings:
            n, m, k = (s.count(symbol) for symbol in range(3))
            self.assertEqual(s, (0,) * n + (1,) * m + (2,) * k)
            self.assertEqual(n, k)
            shapes.append((n, m))
        self.assertLess(abs(np.corrcoef(np.array(shapes).T)[0, 1]), 4 / len(shapes) ** 0.5)  # classes are independent

    def test_epsilon_and_concat(self):
        self.assertEqual(self.draw(Grammar(2, (0,), (Epsilon(),)), 3), [()] * 3)
        self.assertEqual(self.draw(Grammar(2, (0,), (Concat((A, Epsilon(), B, A)),)), 3), [(0, 1, 0)] * 3)
        self.assertEqual(self.draw(Grammar(2, (0,), (Plus((A,), 0),)), 0), [])

    def test_finite_languages_against_enumeration(self):
        rng = np.random.default_rng(5)
        settings = MetagrammarSettings(recursion=False)
        tested, values = 0, []
        while tested < 60:
            grammar = sample_grammar(rng, settings)
            if grammar.size > 12 or grammar.vocabulary > 4 or len(grammar.slots) > 3:
                continue
            exact = distribution(grammar)
            self.assertAlmostEqual(sum(exact.values()), 1)
            found = collections.Counter(grammar.sample(rng, 2000))
            self.assertLessEqual(set(found), set(exact))
            tested += 1
            values.append(fits(found, {s: 2000 * p for s, p in exact.items()}))
        self.assertGreater(min(values), 1e-4 / 6)

    def test_languages_with_repetition_against_the_slow_sampler(self):
        rng = np.random.default_rng(6)
        values = []
        for _ in range(60):
            grammar = sample_grammar(rng)
            fast = collections.Counter(grammar.sample(rng, 1000))
            slow = collections.Counter(slow_string(grammar, rng) for _ in range(1000))
            keys = [s for s in fast | slow if fast[s] + slow[s] >= 10]
            rows = [[c[s] for s in keys] + [1000 - sum(c[s] for s in keys)] for c in (fast, slow)]
            table = np.array(rows)[:, np.sum(rows, axis=0) > 0]
            values.append(scipy.stats.chi2_contingency(table).pvalue if table.shape[1] > 1 else 1.0)
            lengths = [len(s) for s in fast.elements()], [len(s) for s in slow.elements()]
            values.append(scipy.stats.ks_2samp(*lengths, method="asymp").pvalue)
        self.assertGreater(min(values), 1e-4 / 6)


class GrammarTest(parameterized.TestCase):
    def test_work_and_size(self):
        grammar = Grammar(
            3,
            (0, 1),
            (
                Plus(
                    (
                        A,
                        Or((B, Concat((A, C)))),
                    ),
                    1,
                ),
                Sigma(),
            ),
            stop=0.25,
        )
        self.assertEqual(grammar.size, 8)
        # or: 1 + (1 + 3) / 2 = 3; plus: 1 + 4 rounds of 1 + 3; and the other class 1
        self.assertAlmostEqual(grammar.work, 1 + 4 * (1 + 3) + 1)

    def test_mean_length_is_the_closed_form(self):
        # Plus over (a, b | ab): 1 / 0.25 rounds of 1 + (1 + 2) / 2 symbols.
        grammar = Grammar(2, (0,), (Plus((A, Or((B, Concat((A, B))))), 1),), stop=0.25)
        lengths = [len(s) for s in grammar.sample(np.random.default_rng(9), 20_000)]
        self.assertLess(abs(np.mean(lengths) - 10), 5 * np.std(lengths) / len(lengths) ** 0.5)

    @parameterized.named_parameters(
        (
            "counting",
            Grammar(3, (0, 0, 0), (Plus((Leaf((0, 1, 2)),), 0),)),
            "a^n b^n c^n with n ~ Geom(0.33), Σ = {a, b, c}",
        ),
        ("embedding", Grammar(2, (0,), (Plus((A, B, A), 2),), 0.4), "(a b)^n a^n with n ~ Geom(0.40), Σ = {a, b}"),
        ("copying", Grammar(2, (0, 0), (Plus((Sigma(),), 0),)), "(Σ1)^n (Σ1)^n with n ~ Geom(0.33), Σ = {a, b}"),
        ("any", Grammar(2, (0,), (Plus((Sigma(),), 0),)), "Σ^n with n ~ Geom(0.33), Σ = {a, b}"),
        ("choice", Grammar(2, (0,), (Or((A, Concat((B, Epsilon())))),)), "(a | b ε) with Σ = {a, b}"),
        (
            "interleaved",
            Grammar(2, (0, 1, 0), (Plus((Leaf((0, 1)),), 0), Plus((B,), 0))),
            "a^n b^m b^n with n ~ Geom(0.33), Σ = {a, b}",
        ),
        (
            "same_choice",
            Grammar(4, (0, 0), (Or((Leaf((0, 1)), Leaf((2, 3)))),)),
            "(a | c)1 (b | d)1 with Σ = {a, b, c, d}",
        ),
    )
    def test_str(self, grammar, expected):
        self.assertEqual(str(grammar), expected)

    @parameterized.named_parameters(
        ("short_leaf", "one symbol for each of the 2 slots", lambda: Grammar(2, (0, 0), (A,))),
        ("symbol", "outside 0..1", lambda: Grammar(2, (0,), (C,))),
        ("deep_symbol", "outside 0..1", lambda: Grammar(2, (0,), (Or((A, Plus((C,), 0))),))),
        ("classes", "each of the 1 classes", lambda: Grammar(2, (0, 1), (A,))),
        ("unused_class", "each of the 2 classes", lambda: Grammar(2, (0,), (A, B))),
        ("branches", "Or needs 2 children, got 3", lambda: Grammar(2, (0,), (Or((A, B, A)),))),
        ("childless", "at least one child", lambda: Grammar(2, (0,), (Concat(()),))),
        ("position", "position", lambda: Grammar(2, (0,), (Plus((A,), 1),))),
        ("stop", "stop", lambda: Grammar(2, (0,), (A,), stop=0.0)),
        ("vocabulary", "vocabulary", lambda: Grammar(27, (0,), (A,))),
        ("count", "count", lambda: Grammar(2, (0,), (A,)).sample(np.random.default_rng(0), -1)),
    )
    def test_errors(self, message, make):
        with self.assertRaisesRegex(ValueError, message):
            make()


if __name__ == "__main__":
    absltest.main()
