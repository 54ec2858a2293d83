import chex
import numpy as np
from absl.testing import absltest

from metalearn.languages.lengths import length_curves
from metalearn.languages.nine import NINE
from tests.languages.counting import counting_model, counting_networks


class LengthCurvesTest(absltest.TestCase):
    def test_a_counter_that_ends(self):
        """At 5, that is: beyond, the network ends after 5 b's, wrong until there are n of them."""
        sizes = np.array([1, 4, 6, 20, 80])
        params = counting_networks(("AnBn", 99), ("AnBn", 5))
        strings = {int(n): ["a" * n + "b" * n] for n in reversed(sizes)}
        found = length_curves(counting_model(), params, NINE["AnBn"].language, strings)
        wrong = np.maximum(sizes - 5, 0)
        expected = np.stack([np.ones(5), 1 - wrong / (2 * sizes + 1)])
        chex.assert_trees_all_equal(found.sizes, sizes)
        chex.assert_trees_all_close(found.by_size.continuation, expected, atol=1e-5)
        chex.assert_trees_all_close(found.by_size.constrained, expected, atol=1e-5)
        chex.assert_trees_all_close(found.by_size.may_end, np.ones((2, 5)), atol=1e-5)
        of_position = []
        for t in range(161):
            reach = [n for n in sizes if 2 * n >= t]
            of_position.append(np.mean([not n + 5 <= t < 2 * n for n in reach]))
        chex.assert_trees_all_close(found.by_position, np.stack([np.ones(161), of_position]), atol=1e-5)

    def test_several_strings_of_a_size(self):
        """The mean over them; in Sigma+ nothing is forbidden but the empty string."""
        params = counting_networks(("AnBn", 99))
        found = length_curves(counting_model(), params, NINE["AB"].language, {2: ["aa", "ab"], 3: ["abb"]})
        # For a^n b^n: START {a} of {a, b}; after a {a, b} of {a, b, END}; after ab {END}: precision 1, recall 1/k.
        f1 = lambda said, valid: 2 * said / (said + valid)
        first, second = f1(1, 2) + 2 * f1(2, 3), f1(1, 2) + f1(2, 3) + f1(1, 3)
        chex.assert_trees_all_close(found.by_size.continuation[0, 0], (first / 3 + second / 3) / 2, atol=1e-5)
        chex.assert_trees_all_close(found.by_size.may_end[0, 0], (f1(2, 3) + (f1(2, 3) + f1(1, 3)) / 2) / 2, atol=1e-5)


if __name__ == "__main__":
    absltest.main()
