import chex
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.effort import moments
from metalearn.effort.moments import Moments
from tests.effort.problems import InDoublePrecision


def slow_moments(x, y) -> Moments:
    """An average over examples one by one."""
    total = None
    for a, b in zip(x, y, strict=True):
        one = Moments(np.outer(a, a), np.outer(a, b), np.outer(b, b), a, b)
        total = one if total is None else Moments(*(t + o for t, o in zip(total, one, strict=True)))
    return Moments(*(t / len(x) for t in total))


def data(seed: int, examples: int = 7, inputs: int = 3, outputs: int = 2):
    random = np.random.default_rng(seed)
    return random.normal(1.0, 1.0, (examples, inputs)), random.normal(-0.5, 1.0, (examples, outputs))


def every_pair(left, right):
    """All pairs of an example of `left` and one of `right`: the product distribution of two finite data sets."""
    (x1, y1), (x2, y2) = left, right
    i, j = (index.ravel() for index in np.indices((len(x1), len(x2))))
    return (x1[i], y1[i]), (x2[j], y2[j])


class MomentsTest(InDoublePrecision):
    def test_moments_of_examples(self):
        x, y = data(0)
        chex.assert_trees_all_close(moments.moments_of(x, y), slow_moments(x, y), rtol=1e-12)

    @parameterized.parameters(
        (np.zeros(3), np.zeros((3, 1)), r"\(3,\), \(3, 1\)"),
        (np.zeros((3, 2)), np.zeros((4, 1)), r"\(3, 2\), \(4, 1\)"),
        (np.zeros((0, 2)), np.zeros((0, 1)), r"\(0, 2\)"),
        (np.array([[np.nan]]), np.zeros((1, 1)), "NaN or infinity"),
        (np.zeros((1, 1)), np.array([[np.inf]]), "NaN or infinity"),
    )
    def test_bad_examples(self, x, y, message):
        with self.assertRaisesRegex(ValueError, message):
            moments.moments_of(x, y)


class BestLinearTest(InDoublePrecision):
    def test_least_squares(self):
        x, y = data(1)
        solution, residuals, *_ = np.linalg.lstsq(x, y, rcond=None)
        task = slow_moments(x, y)
        np.testing.assert_allclose(moments.best_linear(task), solution.T, rtol=1e-10)
        np.testing.assert_allclose(moments.best_loss(task), 0.5 * residuals.sum() / len(x), rtol=1e-10)

    def test_input_that_is_always_zero(self):
        x, y = data(2)
        x[:, 1] = 0
        _, residuals, *_ = np.linalg.lstsq(x[:, [0, 2]], y, rcond=None)
        task = slow_moments(x, y)
        np.testing.assert_allclose(moments.best_linear(task)[:, 1], 0, atol=1e-12)
        np.testing.assert_allclose(moments.best_loss(task), 0.5 * residuals.sum() / len(x), rtol=1e-10)


class CombinationsTest(InDoublePrecision):
    def test_side_by_side(self):
        left, right = every_pair(data(3, 4, 2, 1), data(4, 5, 3, 2))
        joint = slow_moments(np.hstack([left[0], right[0]]), np.hstack([left[1], right[1]]))
        result = moments.side_by_side([slow_moments(*left), slow_moments(*right)])
        chex.assert_trees_all_close(result, joint, rtol=1e-12, atol=1e-12)
        self.assertEqual(result.xy.shape, (5, 3))

    def test_mixture(self):
        # Shares 2/8 and 6/8: the data of both together.
        first, second = data(5, 2), data(6, 6)
        together = slow_moments(np.vstack([first[0], second[0]]), np.vstack([first[1], second[1]]))
        tasks = moments.stacked([slow_moments(*first), slow_moments(*second)])
        chex.assert_trees_all_close(moments.mixture(np.array([0.25, 0.75]), tasks), together, rtol=1e-12)

    def test_product_mixture(self):
        # The released formula, written out over pairs of tasks.
        tasks, shares = [slow_moments(*data(7 + i)) for i in range(3)], np.array([0.2, 0.5, 0.3])

        def slow(name, left, right):
            total = 0.0
            for i, one in enumerate(tasks):
                for j, other in enumerate(tasks):
                    met = getattr(one, name) if i == j else np.outer(getattr(one, left), getattr(other, right))
                    total = total + shares[i] * shares[j] * met
            return total

        result = moments.product_mixture(shares, moments.stacked(tasks))
        np.testing.assert_allclose(result.xx, slow("xx", "x", "x"), rtol=1e-12)
        np.testing.assert_allclose(result.xy, slow("xy", "x", "y"), rtol=1e-12)
        np.testing.assert_allclose(result.yy, slow("yy", "y", "y"), rtol=1e-12)
        np.testing.assert_allclose(result.x, sum(s * t.x for s, t in zip(shares, tasks, strict=True)), rtol=1e-12)
        np.testing.assert_allclose(result.y, sum(s * t.y for s, t in zip(shares, tasks, strict=True)), rtol=1e-12)

    def test_product_mixture_is_the_average_of_independent_examples(self):
        # sum_i s_i x_i over independent draws of each task, by enumerating all pairs of examples.
        first, second = data(10, 4), data(11, 5)
        left, right = every_pair(first, second)
        x, y = (0.3 * a + 0.7 * b for a, b in zip(left, right, strict=True))
        tasks = moments.stacked([slow_moments(*first), slow_moments(*second)])
        result = moments.product_mixture(np.array([0.3, 0.7]), tasks)
        chex.assert_trees_all_close(result, slow_moments(x, y), rtol=1e-12, atol=1e-12)

    def test_bad_combinations(self):
        task, wider = slow_moments(*data(0)), slow_moments(*data(0, inputs=4))
        with self.assertRaisesRegex(ValueError, r"same inputs and outputs.*\(3, 2\), \(4, 2\)"):
            moments.stacked([task, wider])
        with self.assertRaisesRegex(ValueError, "one or more"):
            moments.stacked([])
        with self.assertRaisesRegex(ValueError, "at least one task"):
            moments.side_by_side([])


class CheckedTest(InDoublePrecision):
    def setUp(self):
        super().setUp()
        self.task = slow_moments(*data(12))

    def test_real_moments_pass(self):
        self.assertIs(moments.checked(self.task), self.task)

    @parameterized.parameters(
        ("xy", np.zeros((2, 3)), r"moments.xy has shape \(2, 3\); with 3 inputs and 2 outputs it must be \(3, 2\)"),
        ("y", np.zeros(3), r"moments.y has shape \(3,\).*must be \(2,\)"),
        ("xx", np.full((3, 3), np.nan), "moments.xx holds NaN"),
        ("xx", np.triu(np.ones((3, 3))), r"moments.xx is not symmetric.* 1$"),
        ("yy", np.array([[1.0, 0.25], [0.0, 1.0]]), r"moments.yy is not symmetric.*0.25"),
        ("xy", np.full((3, 2), 9.0), "no data have these moments.*eigenvalue -"),
        ("x", np.full(3, 9.0), "no data have these moments"),  # a mean larger than the second moment allows
    )
    def test_others_do_not(self, name, value, message):
        with self.assertRaisesRegex(ValueError, message):
            moments.checked(self.task._replace(**{name: value}))


if __name__ == "__main__":
    absltest.main()
