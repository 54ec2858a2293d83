"""Two one-sided tests, against the arithmetic of their definition."""

import math

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats
from statsmodels.stats import weightstats

from metalearn.run.claims import Claim, Verdict
from metalearn.run.equivalence import equivalence
from metalearn.run.intervals import crossed_mean


class EquivalenceTest(parameterized.TestCase):
    def test_by_hand(self):
        # Mean 0, standard deviation 0.02, n = 4: t = 0.05 / 0.01 = 5 with 3 degrees of freedom on either side.
        found = equivalence(np.sqrt(3) * np.array([0.01, -0.01, 0.01, -0.01]), 0.05)
        self.assertAlmostEqual(found.p, 0.00770, places=5)  # a table of Student's distribution
        self.assertAlmostEqual(found.high, 2.353363 * 0.01, places=7)
        self.assertEqual((found.word, found.p_difference, found.n), ("equivalent", 1.0, 4))

    def test_as_others_compute_it(self):
        samples = np.random.default_rng(0).normal(0.02, 0.05, size=12)
        found = equivalence(samples, 0.04, alpha=0.1)
        expected = weightstats.DescrStatsW(samples)
        np.testing.assert_allclose(found.p, expected.ttost_mean(-0.04, 0.04)[0])
        np.testing.assert_allclose(found.p_difference, stats.ttest_1samp(samples, 0).pvalue)
        np.testing.assert_allclose((found.low, found.high), expected.tconfint_mean(0.2))

    @parameterized.parameters(
        ([0.01, 0.0, -0.01], 0.05, "equivalent", True),
        ([0.21, 0.2, 0.19], 0.05, "different", False),
        ([-0.21, -0.2, -0.19], 0.05, "different", False),
        ([0.05, 0.04, 0.06], 0.05, "inconclusive", None),
        ([0.5, 0.0, -0.5], 0.05, "inconclusive", None),
        ([0.0], 0.05, "inconclusive", None),
        ([0.02, 0.02], 0.05, "equivalent", True),
        ([0.05, 0.05], 0.05, "different", False),
    )
    def test_words(self, samples, margin, word, holds):
        found = equivalence(samples, margin)
        self.assertEqual(found.word, word)
        self.assertEqual(found.p < 0.05, word == "equivalent")
        claim = Claim("no difference", "abstract", "F1", above=-margin, below=margin)
        expected = Verdict(claim, holds, found.estimate, found.low, found.high, len(samples), 0.9)
        self.assertEqual(found.verdict("no difference", "abstract", "F1"), expected)

    def test_table(self):
        table = np.random.default_rng(1).normal(size=(3, 6))
        table[:, 2] = np.nan
        found, (mean, error, freedom) = equivalence(table, 2.0), crossed_mean(table)
        np.testing.assert_allclose((found.low, found.high), stats.t.interval(0.9, freedom, mean, error))
        np.testing.assert_allclose(found.p, stats.t.sf((2.0 - abs(mean)) / error, freedom))
        self.assertEqual(found.n, 15)
        self.assertEqual(equivalence(table[:1], 2.0).high, math.inf)

    def test_rejects_as_often_as_it_says(self):
        """At a difference of exactly the margin, equivalence is found in alpha of the cases."""
        samples = np.random.default_rng(2).normal(1.0, 0.3, size=(4000, 8))
        wrong = np.mean([equivalence(row, 1.0).word == "equivalent" for row in samples])
        self.assertAlmostEqual(wrong, 0.05, delta=0.011)  # 3 standard errors

    @parameterized.parameters(
        ([1.0], 0.0, 0.05, "margin must be positive, got 0.0"),
        ([1.0], 0.1, 0.5, "alpha must lie between 0 and 0.5, got 0.5"),
        ([], 0.1, 0.05, r"samples must be finite and \[n\]"),
        ([np.nan], 0.1, 0.05, r"samples must be finite and \[n\]"),
        (np.zeros((1, 1, 1)), 0.1, 0.05, r"samples must be finite and \[n\]"),
    )
    def test_errors(self, samples, margin, alpha, message):
        with self.assertRaisesRegex(ValueError, message):
            equivalence(samples, margin, alpha=alpha)


if __name__ == "__main__":
    absltest.main()
