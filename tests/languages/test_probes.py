import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from metalearn.languages.nine import NINE
from metalearn.languages.probes import (
    PENALTIES,
    TOP,
    CountedPrefixes,
    counted_prefixes,
    direction,
    probe_counters,
    probe_states,
    read,
)
from metalearn.languages.states import states
from metalearn.languages.tokens import FIRST_SYMBOL, START, encode
from tests.languages.counting import FIRST, SECOND, UNITS, counting_model, counting_networks

A, B, C = range(FIRST_SYMBOL, FIRST_SYMBOL + 3)


def strings_of(name, sizes):
    rng = np.random.default_rng(0)
    return {n: [NINE[name].of_size(n, rng)] for n in sizes}


def made_up(count, seed=0):
    """CountedPrefixes of no language: random values of one counter, sizes 1 .. 12, two symbols, each its own string."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(A, C, size=(count, 30)).astype(np.int32)
    times = rng.integers(30, size=count)
    return CountedPrefixes(
        tokens, np.arange(count), times, 1 + np.arange(count) % 12, ("count",), rng.normal(size=(count, 1))
    )


class PrefixesTest(absltest.TestCase):
    def test_by_hand(self):
        found = counted_prefixes(NINE["AnBn"], {3: ["aaabbb"], 1: ["ab", "ab"], 2: ["aabb"]})
        self.assertEqual(found.names, ("#a-#b",))
        of_prefix = {}
        for row, time, size, (value,) in zip(found.rows, found.times, found.sizes, found.values, strict=True):
            prefix = "".join("ab"[t - A] for t in found.tokens[row, 1 : time + 1])
            self.assertEqual(found.tokens[row, 0], START)
            self.assertNotIn(prefix, of_prefix)
            of_prefix[prefix] = (int(size), value)
        one = {"": (1, 0), "a": (1, 1), "ab": (1, 0)}
        two = {"aa": (2, 2), "aab": (2, 1), "aabb": (2, 0)}
        three = {"aaa": (3, 3), "aaab": (3, 2), "aaabb": (3, 1), "aaabbb": (3, 0)}
        self.assertEqual(of_prefix, one | two | three)

    def test_no_counters(self):
        with self.assertRaisesRegex(ValueError, "XXR has no counters"):
            counted_prefixes(NINE["XXR"], {1: ["aa"]})


class RidgeTest(parameterized.TestCase):
    @parameterized.parameters(5, 200)  # fewer and more features than prefixes
    def test_scikit_learn_does_the_same(self, features):
        rng, prefixes = np.random.default_rng(2), made_up(120)
        x = prefixes.values * rng.normal(size=features) + 3 * rng.normal(size=(120, features)) + 5
        y, short, smaller = prefixes.values[:, 0], prefixes.sizes <= 9, prefixes.sizes <= 6

        def of(rows, penalty):
            mean, scale = x[rows].mean(0), x[rows].std(0)
            fit = Ridge(alpha=rows.sum() * penalty, tol=1e-12).fit((x[rows] - mean) / scale, y[rows])
            return fit, lambda rows: fit.predict((x[rows] - mean) / scale)

        validation = [np.mean((of(smaller, p)[1](short & ~smaller) - y[short & ~smaller]) ** 2) for p in PENALTIES]
        fit, predict = of(short, PENALTIES[np.argmin(validation)])
        probe, scores = probe_states(x, prefixes, longest=9)
        self.assertEqual(probe.penalty, PENALTIES[np.argmin(validation)])
        chex.assert_trees_all_close(probe.weights[:, 0], fit.coef_, rtol=1e-6, atol=1e-9)
        chex.assert_trees_all_close(probe.bias[0], fit.intercept_, atol=1e-9)
        self.assertAlmostEqual(scores.r2[0], r2_score(y[~short], predict(~short)), places=6)
        self.assertAlmostEqual(scores.r2_short[0], r2_score(y[short], predict(short)), places=6)
        expected = [np.corrcoef(x[~short, i], y[~short])[0, 1] for i in range(features)]
        chex.assert_trees_all_close(scores.correlation[:, 0], np.array(expected), atol=1e-9)

    def test_how_many_units(self):
        """A counter that is the sum of four units, of variance 8, 4, 2 and 1 in 15, among others that are noise."""
        rng, prefixes = np.random.default_rng(0), made_up(4000)
        x = rng.normal(size=(4000, 20))
        parts = np.sqrt([8, 4, 2, 1])
        prefixes = prefixes._replace(values=(x[:, [7, 3, 11, 5]] @ parts)[:, None])
        probe, scores = probe_states(x, prefixes, longest=9)
        self.assertSequenceEqual(scores.ranking[:4, 0].tolist(), [7, 3, 11, 5])
        expected = np.array([8, 12, 15, 15, 15, 15]) / 15
        chex.assert_trees_all_close(scores.top_r2[:, 0], expected, atol=0.03)
        self.assertEqual(scores.units_needed, [4])
        probe, scores = probe_states(x, prefixes, longest=9, columns=[2, 3, 7])
        self.assertSequenceEqual(scores.ranking[:3, 0].tolist(), [7, 3, 2])
        self.assertEqual(np.count_nonzero(np.delete(probe.weights, [2, 3, 7])), 0)
        self.assertAlmostEqual(scores.r2[0], 12 / 15, delta=0.03)

    def test_units_that_are_still_in_short_strings(self):
        """A rectified unit may be: it gets no weight, whatever it does in long ones."""
        prefixes = made_up(240)
        still = np.where(prefixes.sizes > 9, np.random.default_rng(0).normal(size=240), 0.3)
        probe, scores = probe_states(np.stack([still, prefixes.values[:, 0]], 1), prefixes, longest=9)
        self.assertAlmostEqual(probe.weights[0, 0], 0, places=12)
        self.assertGreater(scores.r2[0], 0.9999)
        self.assertEqual(scores.units_needed, [1])

    def test_the_control_can_be_known(self):
        """By states that say the last token and the position modulo 7, and in no other way."""
        prefixes = made_up(600)
        last = prefixes.tokens[prefixes.rows, prefixes.times] - A
        clock = np.eye(14)[7 * last + prefixes.times % 7]
        noise = np.random.default_rng(3).normal(size=(600, 14))
        _, knows = probe_states(np.concatenate([clock, prefixes.values], 1), prefixes, longest=9)
        _, counts = probe_states(np.concatenate([noise, prefixes.values], 1), prefixes, longest=9)
        _, neither = probe_states(noise, prefixes, longest=9)
        chex.assert_trees_all_close(np.array([knows.control, knows.control_short]), np.ones(2), atol=1e-4)
        chex.assert_trees_all_close(np.array([knows.r2[0], counts.r2[0]]), np.ones(2), atol=1e-4)
        self.assertAlmostEqual(knows.selectivity[0], 0, delta=1e-4)
        self.assertLess(counts.control, 0.01)
        self.assertGreater(counts.selectivity[0], 0.98)
        self.assertAlmostEqual(neither.selectivity[0], 0, delta=0.05)

    def test_a_wide_probe_memorises_the_control_of_short_strings_only(self):
        prefixes = made_up(120)
        _, scores = probe_states(np.random.default_rng(0).normal(size=(120, 500)), prefixes, longest=9)
        self.assertGreater(scores.control_short, scores.control + 0.05)

    @parameterized.parameters(
        (2, "at least three sizes up to longest=2"), (12, "one beyond"), (9, "'count' has one value only")
    )
    def test_errors(self, longest, message):
        prefixes = made_up(60)
        if longest == 9:
            prefixes = prefixes._replace(values=np.zeros((60, 1)))
        with self.assertRaisesRegex(ValueError, message):
            probe_states(np.zeros((60, 2)), prefixes, longest)


class CountersTest(absltest.TestCase):
    def test_finds_exact_counters(self):
        model, params = counting_model(), counting_networks(("AnBnCn", 99), ("AB", 99))
        prefixes = counted_prefixes(NINE["AnBnCn"], strings_of("AnBnCn", range(1, 17)))
        probe, scores = probe_counters(model, params, prefixes, longest=8)
        chex.assert_trees_all_close(scores.r2, np.ones((2, 2)), atol=1e-6)
        chex.assert_trees_all_close(scores.top_r2, np.ones((2, len(TOP), 2)), atol=1e-6)
        self.assertTrue((scores.units_needed == 1).all())
        self.assertTrue((scores.ranking[:, 0] == [FIRST, SECOND]).all())
        chex.assert_trees_all_close(scores.correlation[:, [FIRST, SECOND], [0, 1]], np.ones((2, 2)), atol=1e-6)
        self.assertTrue((scores.selectivity > 0.8).all(), scores.selectivity)
        # What was counted may be read anywhere, and is written into one unit.
        tokens = encode([[0] * 30 + [1] * 30 + [2] * 30])[:, :-1]
        of_a = np.concatenate([np.arange(31), np.arange(29, -1, -1), np.zeros(30)])
        of_b = np.concatenate([np.zeros(31), np.arange(1, 31), np.arange(29, -1, -1)])
        readings = read(probe, np.asarray(states(model, params, tokens)))
        chex.assert_trees_all_close(readings, np.broadcast_to(np.stack([of_a, of_b], 1), (2, 1, 91, 2)), atol=1e-3)
        for counter, unit in enumerate((FIRST, SECOND)):
            expected = np.tile(np.eye(UNITS)[unit], (2, 1))
            chex.assert_trees_all_close(direction(probe, counter, "unit"), expected, atol=1e-5)
            chex.assert_trees_all_close(direction(probe, counter, "probe"), expected, atol=1e-3)
            chex.assert_trees_all_close(direction(probe, counter)[:, [FIRST, SECOND]], expected[:, [3, 5]], atol=1e-5)

    def test_finds_none_where_memory_is_finite(self):
        model, params = counting_model(), counting_networks(("AnBn", 99), ("AnBn", 3))
        prefixes = counted_prefixes(NINE["AnBn"], strings_of("AnBn", range(1, 25)))
        _, scores = probe_counters(model, params, prefixes, longest=12)
        self.assertGreater(scores.r2[0, 0], 0.9999)
        self.assertLess(scores.r2[1, 0], 0.2)

    def test_networks_are_probed_one_by_one(self):
        """The second of two is as if it were alone, and sees no column but its own."""
        model, params = counting_model(), counting_networks(("AnBn", 99), ("AnBn", 3))
        prefixes = counted_prefixes(NINE["AnBn"], strings_of("AnBn", range(1, 9)))
        together = probe_counters(model, params, prefixes, longest=5)
        alone = probe_counters(model, jax.tree.map(lambda x: x[1:], params), prefixes, longest=5)
        chex.assert_trees_all_equal(jax.tree.map(lambda x: x[1:], together), alone)


class DirectionTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        rng, prefixes = np.random.default_rng(0), made_up(3000)
        last = prefixes.tokens[prefixes.rows, prefixes.times]
        self.values = rng.normal(size=(3000, 2))
        self.slopes, offsets = rng.normal(size=(6, 2)), 5 * rng.normal(size=(20, 6))
        self.states = self.values @ self.slopes.T + offsets[last] + 0.1 * rng.normal(size=(3000, 6))
        # The second counter goes with the first, and both with the last token.
        self.values[:, 1] += self.values[:, 0]
        self.slopes[:, 0] -= self.slopes[:, 1]
        self.values += (last == A)[:, None]
        probe, _ = probe_states(self.states, prefixes._replace(names=("a", "b"), values=self.values), longest=9)
        self.probe = jax.tree.map(lambda x: x[None], probe)

    def test_pattern_is_how_the_state_is_written(self):
        chex.assert_trees_all_close(self.probe.pattern[0], self.slopes, atol=0.02)
        chex.assert_trees_all_equal(direction(self.probe, 1), self.probe.pattern[..., 1])

    def test_probe_direction_is_the_smallest_that_moves_the_reading(self):
        arrow = direction(self.probe, 1, "probe")
        reading = lambda x: read(self.probe, x[None, None, None])[0, 0, 0, 1]
        self.assertAlmostEqual(reading(self.states[0] + arrow[0]) - reading(self.states[0]), 1, places=6)
        # It has no part along anything that leaves the reading as it is.
        weights = self.probe.weights[0, :, 1]
        still = np.eye(6) - np.outer(weights, weights) / (weights @ weights)
        chex.assert_trees_all_close(still @ (arrow / self.probe.scale)[0], np.zeros(6), atol=1e-9)

    def test_random_direction(self):
        size = lambda arrow: np.linalg.norm(arrow / self.probe.scale)
        one, other = (direction(self.probe, 0, "random", seed) for seed in (0, 1))
        self.assertAlmostEqual(size(one), size(direction(self.probe, 0)), places=6)
        self.assertGreater(size(one - other), 0.1 * size(one))

    def test_unknown(self):
        with self.assertRaisesRegex(ValueError, "along='up' is unknown"):
            direction(self.probe, 0, "up")


if __name__ == "__main__":
    absltest.main()
