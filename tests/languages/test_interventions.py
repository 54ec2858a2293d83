import chex
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.continuation import continuations
from metalearn.languages.interventions import ablate, shift_counter
from metalearn.languages.nine import NINE
from tests.languages.counting import FIRST, SECOND, UNITS, counting_model, counting_networks

SIZES = np.arange(1, 7)


def of_sizes(name):
    rng = np.random.default_rng(0)
    return continuations(NINE[name].language, [NINE[name].of_size(int(n), rng) for n in SIZES])


class AblationTest(parameterized.TestCase):
    def test_counters_matter_where_one_must_count(self):
        """Clamped to its mean of 1.9, the counter stands at 0.9 after each b: so there is no end."""
        params = counting_networks(("AnBn", 99), ("AnBn", 99))
        found = ablate(counting_model(), params, [[FIRST], [SECOND]], of_sizes("AnBn"), draws=3)
        right = np.mean(2 * SIZES / (2 * SIZES + 1))
        for field, without in (("continuation", right), ("constrained", right), ("may_end", 0)):
            chex.assert_trees_all_close(getattr(found.intact, field), np.ones(2), atol=1e-5)
            chex.assert_trees_all_close(getattr(found.ablated, field), np.array([without, 1]), atol=1e-5)
        # Others than the counter do nothing; beside the second counter, the first may be among those drawn.
        chex.assert_trees_all_close(found.random.continuation[0], np.ones(3), atol=1e-5)
        self.assertTrue(np.isclose(found.random.continuation[1][:, None], [right, 1], atol=1e-5).any(1).all())

    def test_counters_do_not_matter_elsewhere(self):
        found = ablate(counting_model(), counting_networks(("AB", 99)), [[FIRST, SECOND]], of_sizes("AB"), draws=1)
        for scores in (found.intact, found.ablated):
            chex.assert_trees_all_close(scores.continuation, np.ones(1), atol=1e-5)
            chex.assert_trees_all_close(scores.may_end, np.ones(1), atol=1e-5)

    def test_the_mean_is_that_of_the_test(self):
        """On ab and aabb the counter's mean is 5/8: it then stands below 1/2 after each b, and aab seems to end."""
        test = continuations(NINE["AnBn"].language, ["ab", "aabb"])
        found = ablate(counting_model(), counting_networks(("AnBn", 99)), [[FIRST]], test, draws=0)
        chex.assert_trees_all_close(found.ablated.continuation, np.array([(1 + 4 / 5) / 2]), atol=1e-5)
        chex.assert_trees_all_close(found.ablated.may_end, np.ones(1), atol=1e-5)
        self.assertEqual(found.random.may_end.shape, (1, 0))

    def test_too_many(self):
        with self.assertRaisesRegex(ValueError, "5 of 8 units are ablated in the hidden of layer 0"):
            ablate(counting_model(), counting_networks(("AnBn", 99)), [np.arange(5)], of_sizes("AnBn"))


class ShiftTest(parameterized.TestCase):
    @parameterized.parameters(
        ("AnBn", ["aaaaa", "a" * 9], "b", "$", "ab", FIRST, [5, 9]),
        ("Dyck", ["(((((", "((()((("], ")", "$", "()", FIRST, [5, 5]),
        ("AnBnCn", ["aaaa", "a" * 7], "b", "c", "abc", FIRST, [4, 7]),
        ("AnBnCn", ["aaaabbbb"], "c", "$", "abc", SECOND, [4]),
    )
    def test_the_end_moves_with_the_counter(self, name, openings, closer, stop, alphabet, unit, expected):
        arrow = np.eye(UNITS)[[unit]]
        params = counting_networks((name, 99))
        of = lambda arrow: shift_counter(
            counting_model(), params, arrow, openings, closer, stop, alphabet=alphabet, deltas=(-3, -1, 0.2, 2, 4)
        )
        found = of(arrow)
        moved = np.array([-3, -1, 0, 2, 4])  # counters are whole in the eyes of this network
        chex.assert_trees_all_equal(found.ends[0], np.array(expected)[:, None] + moved * 1.0)
        chex.assert_trees_all_equal(found.moved[0], np.tile(moved * 1.0, (len(openings), 1)))
        self.assertAlmostEqual(found.slope[0], 30 / 30.04, places=6)
        self.assertEqual(found.known, [1])
        others = of(1 - np.eye(UNITS)[[FIRST]] - np.eye(UNITS)[[SECOND]])
        self.assertEqual(others.slope, [0])

    def test_what_does_not_end_is_unknown(self):
        """Sigma+ never prefers its end; a counter that ends at 3 forgets what is added to it beyond."""
        params = counting_networks(("AB", 99), ("AnBn", 3))
        arrow = np.tile(np.eye(UNITS)[FIRST], (2, 1))
        found = shift_counter(
            counting_model(), params, arrow, ["a" * 8], "b", alphabet="ab", deltas=(-2, 1, 5, 40), beyond=2
        )
        self.assertTrue(np.isnan(found.ends[0]).all() and np.isnan(found.slope[0]))
        chex.assert_trees_all_equal(found.ends[1], np.array([[1.0, 4, 4, 4]]))
        self.assertSequenceEqual(found.known.tolist(), [0, 1])

    def test_what_was_said_before_the_shift_does_not_count(self):
        """After aabb the network would stop, and stops at the next b too; shifted by 3, it is ready after three."""
        params, arrow = counting_networks(("AnBn", 99)), np.eye(UNITS)[[FIRST]]
        found = shift_counter(counting_model(), params, arrow, ["aabb"], "b", alphabet="ab", deltas=(3,))
        self.assertEqual((found.ends.item(), found.moved.item()), (3, 2))

    def test_what_ends_too_late_is_unknown(self):
        params, arrow = counting_networks(("AnBn", 99)), 3 * np.eye(UNITS)[[FIRST]]
        found = shift_counter(counting_model(), params, arrow, ["aa"], "b", alphabet="ab", deltas=(1, 2), beyond=2)
        chex.assert_trees_all_equal(found.ends[0], np.array([[5, np.nan]]))  # 2 + 2 + 2 closers are read
        self.assertEqual((found.slope, found.known), (3, 0.5))


if __name__ == "__main__":
    absltest.main()
