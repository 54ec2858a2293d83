"""Mixed models of data with planted effects."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

from metalearn.run.mixed import mixed_model

GAINS, SLOPE, STEEPER = {"none": 0.0, "regular": 0.1, "counting": 0.3}, 0.2, -0.05
ITEMS, SEEDS, ITEM, SEED, REST = 12, 5, 0.15, 0.05, 0.08


def planted(rest=REST):
    """Rows with the effects above; counting languages have a less steep slope."""
    rng = np.random.default_rng(0)
    of_item, of_seed = (rng.normal(size=n) for n in (ITEMS, SEEDS))
    of_item, of_seed = (x - x.mean() for x in (of_item, of_seed))  # so that the intercept is the planted one
    rows = {name: [] for name in ("score", "kind", "n", "item", "seed")}
    for kind, n, item, seed in itertools.product(GAINS, (0.0, 1.0, 2.0), range(ITEMS), range(SEEDS)):
        slope = SLOPE + STEEPER * (kind == "counting")
        score = 0.4 + GAINS[kind] + slope * n + ITEM * of_item[item] + SEED * of_seed[seed] + rest * rng.normal()
        for name, value in zip(rows, (score, kind, n, f"item {item}", seed), strict=True):
            rows[name].append(value)
    return rows


class MixedModelTest(parameterized.TestCase):
    def test_finds_what_was_planted(self):
        rows = planted()
        found = mixed_model("score ~ kind * n", rows, ("item", "seed"))
        self.assertTrue(found.converged)
        self.assertEqual((found.n, found.message), (540, ""))
        expected = {
            "Intercept": 0.4,
            "kind[T.regular]": 0.1,
            "kind[T.counting]": 0.3,
            "n": SLOPE,
            "kind[T.regular]:n": 0.0,
            "kind[T.counting]:n": STEEPER,
        }
        self.assertSameElements(found.effects, expected)
        for name, value in expected.items():
            self.assertBetween(value, found.effects[name].low, found.effects[name].high, name)
        # Of balanced data the error of a contrast is known: 180 rows on either side, slopes over n of variance 2/3.
        slope = found.effects["kind[T.counting]:n"]
        width = 2 * 1.959964 * found.deviations["rest"] * np.sqrt(2 / (180 * 2 / 3))
        np.testing.assert_allclose(slope.high - slope.low, width, rtol=1e-3)
        self.assertLess(found.effects["kind[T.counting]"].p, 1e-6)
        self.assertGreater(found.effects["kind[T.regular]:n"].p, 0.05)
        # And restricted maximum likelihood is analysis of variance: what means of a level vary more than the rest does.
        scores = np.reshape(rows["score"], (9, ITEMS, SEEDS))
        rest = found.deviations["rest"]
        np.testing.assert_allclose(rest, REST, rtol=0.1)
        for name, means, each in (("item", scores.mean((0, 2)), 9 * SEEDS), ("seed", scores.mean((0, 1)), 9 * ITEMS)):
            np.testing.assert_allclose(found.deviations[name], np.sqrt(means.var(ddof=1) - rest**2 / each), rtol=1e-3)

    def test_says_where_nothing_varies(self):
        rows = planted()
        rows["half"] = [i % 2 for i in range(len(rows["score"]))]
        found = mixed_model("score ~ kind", rows, ("item", "half"), confidence=0.5)
        self.assertTrue(found.converged)
        self.assertEqual(found.message, "No variance between levels of half was found.")

    def test_does_not_converge(self):
        rows = planted(rest=0.0)
        rows["score"] = [0.0] * len(rows["score"])
        found = mixed_model("score ~ kind * n", rows, ("item", "seed"))
        self.assertFalse(found.converged)
        self.assertRegex(found.message, "with random intercepts of item, seed did not converge .*: leave out a random")

    @parameterized.parameters(
        ({"score": [0.0, 1.0], "item": ["a"]}, ("item",), "columns must be vectors of one length"),
        ({"score": [0.0, np.nan], "item": ["a", "b"]}, ("item",), r"columns \['score'\] hold values"),
        ({"score": [0.0, 1.0], "item": ["a", "a"]}, ("item",), "'item' needs a column with at least two levels"),
        ({"score": [0.0, 1.0]}, ("seed",), "'seed' needs a column"),
    )
    def test_errors(self, rows, random, message):
        with self.assertRaisesRegex(ValueError, message):
            mixed_model("score ~ 1", rows, random)


if __name__ == "__main__":
    absltest.main()
