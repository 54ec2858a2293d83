"""Claims and verdicts."""

import json
import math

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from metalearn.run import files
from metalearn.run.claims import Claim, Verdict, collect, from_result, judge, table
from metalearn.run.directory import RunDirectory
from metalearn.run.errors import RunDirectoryError
from metalearn.run.intervals import bootstrap_interval, t_interval
from tests.run.folder_case import FolderCase

BETTER = Claim("A beats B", "table 2", "accuracy difference", above=0.0)


class ClaimsTest(FolderCase):
    def test_t_interval_by_hand(self):
        verdict = judge(BETTER, [1.0, 2.0, 3.0])
        half = 4.302652729911275 / math.sqrt(3)  # t with 2 degrees of freedom at 0.975, standard deviation 1
        np.testing.assert_allclose((verdict.estimate, verdict.low, verdict.high), (2.0, 2 - half, 2 + half))
        self.assertEqual((verdict.holds, verdict.n, verdict.word), (None, 3, "inconclusive"))

    @parameterized.parameters(
        ([1.0, 1.1, 0.9], {"above": 0.0}, True), ([-1.0, -1.1, -0.9], {"above": 0.0}, False),
        ([1.0, -1.1, 0.5], {"above": 0.0}, None), ([1.0, 1.1, 0.9], {"below": 0.0}, False),
        ([1.0, 1.1, 0.9], {"above": 0.5, "below": 1.5}, True), ([1.0, 1.1, 0.9], {"above": 1.0, "below": 2.0}, None),
        ([1.0, 1.1, 0.9], {"above": 2.0, "below": 3.0}, False), ([5.0], {"above": 0.0}, None),
        ([0.0, 0.0, 0.0], {"above": 0.0}, False),
    )  # fmt: skip
    def test_verdicts(self, samples, bounds, expected):
        for method in ("t", "bootstrap"):
            if method == "t" or len(samples) != 3 or expected is not None:  # three samples say little to a bootstrap
                self.assertIs(judge(Claim("x", "y", "z", **bounds), samples, method=method).holds, expected)

    def test_bootstrap_of_a_median(self):
        samples = np.random.default_rng(1).exponential(size=60)
        verdict = judge(Claim("x", "y", "median", above=0.1), samples, method="bootstrap", statistic=np.median)
        self.assertEqual(verdict.estimate, np.median(samples))
        # Oracle: the distribution-free interval of a median from order statistics.
        ranks = stats.binom.ppf([0.025, 0.975], 60, 0.5).astype(int)
        low, high = np.sort(samples)[[ranks[0] - 1, ranks[1]]]
        np.testing.assert_allclose((verdict.low, verdict.high), (low, high), atol=0.15)
        self.assertTrue(verdict.holds)

    def test_intervals_cover_as_often_as_they_say(self):
        rng = np.random.default_rng(0)
        low, high = t_interval(rng.normal(3.0, 2.0, size=(5, 4000)), 0.8)
        self.assertAlmostEqual(np.mean((low < 3.0) & (3.0 < high)), 0.8, delta=0.02)  # 3 standard errors
        inside = 0
        for _ in range(200):
            low, high = bootstrap_interval(rng.normal(size=40), np.mean, 0.8, resamples=300)
            inside += low < 0.0 < high
        self.assertAlmostEqual(inside / 200, 0.8, delta=0.1)

    @parameterized.parameters(
        ({"samples": []}, r"non-empty vector, got shape \(0,\)"),
        ({"samples": [[1.0]]}, r"got shape \(1, 1\)"),
        ({"samples": [1.0, np.nan, np.inf]}, "2 of 3 samples are not finite"),
        ({"samples": [1.0], "confidence": 95}, "confidence must lie between 0 and 1, got 95"),
        ({"samples": [1.0], "method": "z"}, "method must be 't', 'bootstrap' or 'crossed', got 'z'"),
        ({"samples": [1.0], "statistic": np.median}, "give method='bootstrap'"),
    )
    def test_errors(self, arguments, message):
        with self.assertRaisesRegex(ValueError, message):
            judge(BETTER, **arguments)

    def test_claims_that_cannot_fail(self):
        with self.assertRaisesRegex(ValueError, "cannot fail: set above, below or both"):
            Claim("x", "y", "z")
        with self.assertRaisesRegex(ValueError, "above=1.0 must be less than below=1.0"):
            Claim("x", "y", "z", above=1.0, below=1.0)

    @parameterized.parameters(([1.0, 2.0, 4.0],), ([1.0],))
    def test_result_round_trip(self, samples):
        verdict = judge(BETTER, samples)
        self.assertEqual(from_result(json.loads(files.json_text(verdict))), verdict)

    def test_table(self):
        verdicts = [Verdict(BETTER, True, 0.5, 0.25, 0.75, 8), judge(Claim("p|q", "s", "t", above=1, below=2), [3.0])]
        lines = table(verdicts).splitlines()
        self.assertEqual(lines[2], "| A beats B | table 2 | accuracy difference | > 0 | 0.5 [0.25, 0.75] | 8 | holds |")
        self.assertEqual(lines[3], "| p/q | s | t | > 1 and < 2 | 3 [-inf, inf] | 1 | inconclusive |")

    def test_collect(self):
        for seed, accuracy in enumerate((0.5, 0.75)):
            with RunDirectory.open(self.folder / str(seed), {"seed": seed}) as run:
                run.finish({"accuracy": {"test": accuracy}})
        folders = [self.folder / "0", self.folder / "1"]
        np.testing.assert_array_equal(collect(folders, "accuracy.test"), [0.5, 0.75])
        with self.assertRaisesRegex(KeyError, "'accuracy.train' .'train' is missing"):
            collect(folders, "accuracy.train")
        with self.assertRaisesRegex(RunDirectoryError, "result.json cannot be read"):
            collect([self.folder / "2"], "accuracy.test")


if __name__ == "__main__":
    absltest.main()
