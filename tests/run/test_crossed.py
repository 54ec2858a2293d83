"""Intervals of the mean of a table whose rows and columns are both samples."""

import math

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from metalearn.run.claims import Claim, judge
from metalearn.run.intervals import crossed_interval, crossed_mean


def drawn(rng, rows, columns, by_row, by_column, rest):
    """A table of mean 0 with these standard deviations of row, column and rest."""
    cells = rest * rng.normal(size=(rows, columns))
    return cells + by_row * rng.normal(size=(rows, 1)) + by_column * rng.normal(size=(1, columns))


class CrossedMeanTest(parameterized.TestCase):
    def test_by_hand(self):
        # Row means 2 and 4, column means 2 and 4, mean 3, rest -/+ 1/2: mean squares 4, 4 and 1.
        found = crossed_mean([[1.5, 2.5], [2.5, 5.5]])
        np.testing.assert_allclose(found, (3.0, math.sqrt(7 / 4), 49 / (16 + 16 + 1)))

    @parameterized.parameters((1.0, 0.2, 0.5), (0.0, 1.0, 1.0))
    def test_error_is_the_spread_of_means(self, *deviations):
        rng = np.random.default_rng(1)
        found = [crossed_mean(drawn(rng, 6, 8, *deviations)) for _ in range(2000)]
        by_row, by_column, rest = np.square(deviations)
        expected = by_row / 6 + by_column / 8 + rest / 48
        np.testing.assert_allclose(np.mean([of.error**2 for of in found]), expected, rtol=0.05)
        np.testing.assert_allclose(np.var([of.estimate for of in found]), expected, rtol=0.1)

    def test_holes(self):
        table = np.random.default_rng(2).normal(size=(3, 5))
        with_holes = np.insert(np.insert(table, 2, np.nan, axis=1), 0, np.nan, axis=0)
        self.assertEqual(crossed_mean(with_holes), crossed_mean(table))
        self.assertEqual(crossed_interval(with_holes), crossed_interval(table))
        table[1, 2] = np.nan
        self.assertAlmostEqual(crossed_mean(table).estimate, np.nanmean(table))
        low, high = crossed_interval(table)
        self.assertBetween(np.nanmean(table), low, high)

    def test_one_row_says_nothing_of_others(self):
        for shape in ((1, 9), (9, 1)):
            self.assertEqual(crossed_interval(np.arange(9.0).reshape(shape)), (-math.inf, math.inf))
            self.assertEqual(crossed_mean(np.arange(9.0).reshape(shape))[:2], (4.0, math.inf))

    def test_no_spread(self):
        self.assertEqual(crossed_interval(np.full((3, 4), 0.25)), (0.25, 0.25))
        up_to_rounding = np.full((2, 3), 0.2)  # of which the bootstrap's spread is zero and the error is not
        up_to_rounding[1, 2] -= np.spacing(0.2)
        np.testing.assert_allclose(crossed_interval(up_to_rounding), 0.2, rtol=1e-15)

    @parameterized.parameters(
        ([1.0, 2.0], {}, r"expected a table \[rows, columns\]"),
        ([[np.nan]], {}, r"expected a table \[rows, columns\]"),
        ([[1.0, np.inf]], {}, r"expected a table \[rows, columns\]"),
        ([[1.0, 2.0], [3.0, 5.0]], {"method": "t"}, "method must be 'widened', 'percentile' or 'BCa', got 't'"),
    )
    def test_errors(self, table, arguments, message):
        with self.assertRaisesRegex(ValueError, message):
            crossed_interval(table, **arguments)


class CrossedIntervalTest(parameterized.TestCase):
    @parameterized.parameters((1.0, 0.0, 0.1), (1.0, 1.0, 1.0), (0.3, 1.0, 0.5))
    def test_covers_as_often_as_it_says(self, *deviations):
        """Three seeds: as it should where percentiles are far from it."""
        rng, inside = np.random.default_rng(0), np.zeros(2)
        for seed in range(400):
            table = drawn(rng, 3, 9, *deviations)
            for place, method in enumerate(("widened", "percentile")):
                low, high = crossed_interval(table, method=method, resamples=400, seed=seed)
                inside[place] += low < 0 < high
        self.assertAlmostEqual(inside[0] / 400, 0.95, delta=0.033)  # 3 standard errors
        self.assertLess(inside[1] / 400, 0.93)

    def test_percentiles_of_a_slow_loop(self):
        table = np.random.default_rng(3).exponential(size=(7, 5))
        table[2, 3] = np.nan
        rng, means = np.random.default_rng(4), []
        for _ in range(20_000):
            rows, columns = rng.integers(7, size=7), rng.integers(5, size=5)
            means.append(np.nanmean([table[row, column] for row in rows for column in columns]))
        found = crossed_interval(table, 0.9, method="percentile", resamples=20_000)
        np.testing.assert_allclose(found, np.percentile(means, [5, 95]), rtol=0.02)

    def test_many_rows_and_columns_need_no_widening(self):
        table = drawn(np.random.default_rng(5), 60, 60, 1.0, 1.0, 0.1) + 2
        widened, percentile, corrected = (
            crossed_interval(table, method=method, resamples=2000) for method in ("widened", "percentile", "BCa")
        )
        np.testing.assert_allclose(widened, percentile, atol=0.03)
        np.testing.assert_allclose(widened, corrected, atol=0.05)

    def test_width_is_that_of_student(self):
        table = np.random.default_rng(6).normal(size=(3, 9))
        mean, error, freedom = crossed_mean(table)
        low, high = crossed_interval(table, 0.9, resamples=20_000)
        expected = stats.t.interval(0.9, freedom, mean, error)
        np.testing.assert_allclose(high - low, expected[1] - expected[0], rtol=0.05)

    def test_claims(self):
        claim = Claim("A beats B", "table 2", "difference", above=0.0)
        table = np.array([[1.0, 1.2, np.nan], [0.9, 1.1, 1.3]])
        verdict = judge(claim, table, method="crossed", seed=7)
        self.assertEqual((verdict.low, verdict.high), crossed_interval(table, seed=7))
        self.assertEqual((verdict.estimate, verdict.n, verdict.holds), (np.nanmean(table), 5, True))
        self.assertIs(judge(claim, -table, method="crossed").holds, False)
        self.assertIsNone(judge(claim, table[:1], method="crossed").holds)


if __name__ == "__main__":
    absltest.main()
