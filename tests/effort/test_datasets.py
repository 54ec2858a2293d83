import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.effort import datasets, moments
from metalearn.effort.datasets import Dataset
from metalearn.effort.moments import Moments
from tests.core.problems import compiled
from tests.effort.problems import InDoublePrecision

DRAWS = 20_000
# One program each: op by op, every operation would be compiled on its own.
draw = lambda dataset, seed, batch: compiled(dataset.sample, static_argnums=1)(jax.random.key(seed), batch)
draw_shares = lambda dataset, seed, batch, shares: compiled(dataset.sample_shares, static_argnums=1)(
    jax.random.key(seed), batch, jnp.asarray(shares)
)


def random_arrays(seed: int, inputs: int = 2, outputs: int = 2):
    random = np.random.default_rng(seed)
    return random.normal(1.0, 1.0, (6, inputs)), random.normal(-0.5, 1.0, (6, outputs))


def three_classes() -> Dataset:
    """One-hot classes of 1, 2 and 3 examples."""
    x = np.arange(12.0).reshape(6, 2)
    return datasets.from_arrays(x, np.eye(3)[[2, 1, 0, 2, 1, 2]])


def taken_together() -> Dataset:
    return datasets.mixture([datasets.task_a(), datasets.task_b()])


SETS = {
    "two_gaussians": lambda: datasets.two_gaussians(1.5, 0.7),
    "task_a": datasets.task_a,
    "task_b": datasets.task_b,
    "correlated": lambda: datasets.correlated_gaussians((0.5, -2.0), (0.3, 2.0), 0.35),
    "semantic": lambda: datasets.semantic(3),
    "arrays": lambda: datasets.from_arrays(*random_arrays(0)),
    "classes": three_classes,
    "side_by_side": lambda: datasets.side_by_side([datasets.task_a(), three_classes(), datasets.semantic(2)]),
    "mixture": taken_together,
}


def assert_draws_have(expected: Moments, x, y):
    """Sample averages within 5.5 standard errors of `expected`, entry by entry (a few hundred entries in all)."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    products = Moments(
        np.einsum("ni,nj->nij", x, x), np.einsum("ni,nj->nij", x, y), np.einsum("ni,nj->nij", y, y), x, y
    )
    for name, sampled, wanted in zip(Moments._fields, products, expected, strict=True):
        error = sampled.std(0) / np.sqrt(len(x))
        excess = np.abs(sampled.mean(0) - wanted) - 5.5 * error
        np.testing.assert_array_less(excess, 1e-9, err_msg=f"moments.{name}")


class SamplesTest(InDoublePrecision):
    @parameterized.parameters(*SETS)
    def test_samples_have_the_moments(self, name):
        dataset = SETS[name]()
        moments.checked(dataset.moments)
        x, y = draw(dataset, 1, DRAWS)
        inputs, outputs = dataset.moments.xy.shape
        chex.assert_shape(x, (DRAWS, inputs))
        chex.assert_shape(y, (DRAWS, outputs))
        self.assertLen(dataset.outputs, outputs)
        assert_draws_have(dataset.moments, x, y)

    @parameterized.parameters("semantic", "classes", "mixture")
    def test_samples_of_given_shares_have_the_mixture_of_the_parts(self, name):
        dataset = SETS[name]()
        parts = len(dataset.parts.x)
        shares = np.arange(parts, dtype=float)  # none of the first; only ratios count
        x, y = draw_shares(dataset, 2, DRAWS, shares)
        expected = Moments(*(np.average(leaf, axis=0, weights=shares) for leaf in dataset.parts))
        assert_draws_have(expected, x, y)

    def test_draws_of_a_key_are_those_of_the_key(self):
        dataset = datasets.task_a()
        one, same, other = (draw(dataset, seed, 4) for seed in (0, 0, 1))
        chex.assert_trees_all_equal(one, same)
        self.assertGreater(np.abs(one[0] - other[0]).max(), 0.01)


class PrecisionTest(parameterized.TestCase):
    @parameterized.parameters("task_a", "classes", "mixture")
    def test_samples_are_in_the_precision_of_jax(self, name):
        dataset = SETS[name]()
        x, y = jax.eval_shape(lambda key: dataset.sample(key, 3), jax.random.key(0))
        self.assertEqual((x.dtype, y.dtype), (jnp.float32, jnp.float32))

    def test_moments_of_arrays_are_not_rounded(self):
        x, y = random_arrays(9)
        task = datasets.from_arrays(x, y, bias=False).moments
        np.testing.assert_allclose(task.xx, x.T @ x / 6, rtol=1e-14)


class GaussiansTest(InDoublePrecision):
    def test_two_gaussians(self):
        dataset = datasets.two_gaussians()
        chex.assert_trees_all_close(dataset.moments, Moments(*map(np.array, ([[5.0]], [[2.0]], [[1.0]], [0.0], [0.0]))))
        np.testing.assert_allclose(moments.best_loss(dataset.moments), 0.1)

    def test_the_label_decides_the_mean(self):
        x, y = draw(datasets.two_gaussians(3.0, 0.01), 0, 100)
        self.assertEqual(set(np.ravel(y)), {-1.0, 1.0})
        np.testing.assert_allclose(x, 3 * y, atol=0.06)

    def test_a_sweep_is_a_vmap(self):
        def floor_and_input(mu, sigma):
            dataset = datasets.two_gaussians(mu, sigma)
            return moments.best_loss(dataset.moments), dataset.sample(jax.random.key(0), 5)[0]

        mu, sigma = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, 2.0])
        floors, x = jax.jit(jax.vmap(floor_and_input))(mu, sigma)
        np.testing.assert_allclose(floors, 0.5 * sigma**2 / (mu**2 + sigma**2), atol=1e-12)
        np.testing.assert_allclose(np.abs(x[1]), 2.0)

    @parameterized.parameters(
        (
            datasets.task_a,
            [[10, -1.8, 0], [-1.8, 2, 0], [0, 0, 1]],
            [[3, -1.8], [-0.6, 1], [0, 0]],
            -0.6,
            0.2505967,
            (3.65011, 0.52601),
        ),
        (
            datasets.task_b,
            [[5, -2.4, 0], [-2.4, 5, 0], [0, 0, 1]],
            [[-2, -1.2], [1.2, 2], [0, 0]],
            0.6,
            0.1850312,
            (3.2, 0.8),
        ),
    )
    def test_tasks_of_the_paper(self, build, xx, xy, correlation, loss, singular):
        task = build().moments
        yy = np.array([[1, correlation], [correlation, 1]])
        expected = Moments(np.array(xx, float), np.array(xy, float), yy, np.array([0.0, 0, 1]), np.zeros(2))
        chex.assert_trees_all_close(task, expected, atol=1e-12)
        np.testing.assert_allclose(moments.best_loss(task), loss, atol=5e-8)
        np.testing.assert_allclose(np.linalg.svd(task.xy)[1], singular, atol=5e-6)

    def test_the_best_map_of_one_task_on_the_other(self):
        a, b = datasets.task_a().moments, datasets.task_b().moments

        def loss(weights, task):
            return 0.5 * np.trace(task.yy - 2 * weights @ task.xy + weights @ task.xx @ weights.T)

        np.testing.assert_allclose(loss(np.asarray(moments.best_linear(a)), b), 1.47789, atol=5e-6)
        np.testing.assert_allclose(loss(np.asarray(moments.best_linear(b)), a), 2.59339, atol=5e-6)

    def test_correlated_by_a_sum_over_labels(self):
        # E over y of the conditional moments of x given y, for different deviations and a dependence of 0.35.
        means, deviations, p = np.array([0.5, -2.0]), np.array([0.3, 2.0]), 0.35
        xx, xy, yy = np.zeros((3, 3)), np.zeros((3, 2)), np.zeros((2, 2))
        for first in (-1, 1):
            for second, probability in ((first, 0.5 * (1 - p)), (-first, 0.5 * p)):
                y = np.array([first, second])
                x = np.append(means * y, 1)
                xx += probability * (np.outer(x, x) + np.diag([*deviations**2, 0]))
                xy += probability * np.outer(x, y)
                yy += probability * np.outer(y, y)
        expected = Moments(xx, xy, yy, np.array([0.0, 0, 1]), np.zeros(2))
        dataset = datasets.correlated_gaussians(means, deviations, p)
        chex.assert_trees_all_close(dataset.moments, expected, atol=1e-12)

    @parameterized.parameters((0.0, 1.0), (1.0, -1.0))
    def test_certain_dependence(self, dependence, sign):
        _, y = draw(datasets.correlated_gaussians((1, 1), (1, 1), dependence), 0, 50)
        np.testing.assert_array_equal(y[:, 1], sign * y[:, 0])

    def test_traced_dependence(self):
        floor = lambda p: moments.best_loss(datasets.correlated_gaussians((1.0, 2.0), (1.0, 1.0), p).moments)
        # Independent labels: each problem on its own, 1/2 sigma^2 / (mu^2 + sigma^2).
        np.testing.assert_allclose(jax.jit(floor)(0.5), 0.5 * (1 / 2 + 1 / 5))

    @parameterized.parameters(
        (lambda: datasets.two_gaussians(sigma=-1.0), "sigma=-1.0"),
        (lambda: datasets.two_gaussians(mu=np.nan), "mu=nan"),
        (lambda: datasets.correlated_gaussians((1.0, 1.0), (1.0, -1.0), 0.5), "deviations="),
        (lambda: datasets.correlated_gaussians((1.0, 1.0), (1.0, 1.0), 1.2), r"dependence=1.2.*\[0, 1\]"),
        (lambda: datasets.correlated_gaussians((1.0, 1.0), (1.0, 1.0), -0.1), "dependence=-0.1"),
        (lambda: datasets.correlated_gaussians((1.0, np.inf), (1.0, 1.0), 0.1), "means="),
        (lambda: datasets.correlated_gaussians((1.0, 1.0, 1.0), (1.0, 1.0), 0.1), r"means has shape \(3,\)"),
    )
    def test_bad_arguments(self, build, message):
        with self.assertRaisesRegex(ValueError, message):
            build()


class SemanticTest(InDoublePrecision):
    def ancestors(self, levels: int) -> np.ndarray:
        """Features [items, nodes] by climbing from each leaf of a heap-ordered tree to its root."""
        items, nodes = 2 ** (levels - 1), 2**levels - 1
        features = np.zeros((items, nodes))
        for item in range(items):
            node = items + item  # heap numbers start at 1; leaves are the last ones
            while node >= 1:
                features[item, node - 1] = 1
                node //= 2
        return features

    @parameterized.parameters(1, 2, 3, 4, 6)
    def test_moments_by_climbing_the_tree(self, levels):
        features = self.ancestors(levels)
        items = len(features)
        expected = Moments(
            np.eye(items) / items,
            features / items,
            features.T @ features / items,
            np.full(items, 1 / items),
            features.mean(0),
        )
        dataset = datasets.semantic(levels)
        chex.assert_trees_all_close(dataset.moments, expected, atol=1e-12)
        np.testing.assert_array_equal(features.sum(1), levels)
        np.testing.assert_allclose(moments.best_loss(dataset.moments), 0, atol=1e-12)

    def test_four_levels_of_the_paper(self):
        dataset = datasets.semantic(4)
        expected = np.sqrt([15, 7, 3, 3, 1, 1, 1, 1]) / 8
        np.testing.assert_allclose(np.linalg.svd(dataset.moments.xy)[1], expected, rtol=1e-12)
        self.assertEqual(dataset.outputs[:8], ("root", "0", "1", "00", "01", "10", "11", "000"))
        # The loss of a network that answers zero: each of the 4 active features costs 1/2.
        np.testing.assert_allclose(0.5 * np.trace(dataset.moments.yy), 2)

    def test_the_class_of_a_node_is_the_items_below_it(self):
        dataset = datasets.semantic(3)
        sample = compiled(lambda shares: dataset.sample_shares(jax.random.key(3), 60, shares))
        for number, name in enumerate(dataset.outputs):
            x, _ = map(np.asarray, sample(np.eye(7)[number]))
            below = [item for item in range(4) if f"{item:02b}".startswith("" if name == "root" else name)]
            self.assertEqual(set(np.argmax(x, 1).tolist()), set(below))

    @parameterized.parameters(0, -1, 2.0, "4")
    def test_bad_levels(self, levels):
        with self.assertRaisesRegex(ValueError, f"levels={levels!r} must be an integer of at least 1"):
            datasets.semantic(levels)


class ArraysTest(InDoublePrecision):
    def test_bias_is_the_last_input(self):
        x, y = random_arrays(1)
        with_bias, without = datasets.from_arrays(x, y), datasets.from_arrays(x, y, bias=False)
        self.assertEqual((with_bias.moments.x.shape, without.moments.x.shape), ((3,), (2,)))
        np.testing.assert_allclose(with_bias.moments.xx[2], [*x.mean(0), 1])
        np.testing.assert_allclose(with_bias.moments.xx[:2, :2], without.moments.xx)
        _, residuals, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
        np.testing.assert_allclose(moments.best_loss(with_bias.moments), 0.5 * residuals.sum() / len(x))

    def test_draws_are_stored_examples(self):
        x, y = random_arrays(2)
        drawn_x, drawn_y = map(np.asarray, draw(datasets.from_arrays(x, y, bias=False), 0, 100))
        which = np.argmin(np.abs(x[:, None] - drawn_x).sum(-1), 0)
        self.assertEqual(set(which), set(range(6)))
        np.testing.assert_allclose(drawn_x, x[which])
        np.testing.assert_allclose(drawn_y, y[which])

    def test_the_class_of_an_output_is_the_examples_that_have_it(self):
        dataset = three_classes()
        members = ([2], [1, 4], [0, 3, 5])  # by hand, from the labels 2, 1, 0, 2, 1, 2
        sample = compiled(dataset.sample_part)
        for part, rows in enumerate(members):
            x, y = sample(jax.random.key(part), jnp.full(200, part))
            self.assertEqual(sorted(set((np.asarray(x)[:, 0] / 2).astype(int).tolist())), rows)
            np.testing.assert_array_equal(y, np.tile(np.eye(3)[part], (200, 1)))
            np.testing.assert_allclose(dataset.parts.x[part][0], np.mean([2.0 * row for row in rows]))

    def test_counts_of_classes_follow_the_shares(self):
        _, y = draw_shares(three_classes(), 5, DRAWS, [1.0, 0.0, 3.0])
        counts = np.asarray(y).sum(0)
        self.assertEqual(counts[1], 0)
        self.assertAlmostEqual(counts[0] / DRAWS, 0.25, delta=5 * np.sqrt(0.25 * 0.75 / DRAWS))

    @parameterized.parameters(
        ("a value is not 0 or 1", [[0, 2], [1, 0]]),
        ("an output is never on", [[1, 0], [1, 0]]),
        ("an example has no output on", [[1, 0], [0, 1], [0, 0]]),
    )
    def test_data_without_classes(self, _, y):
        dataset = datasets.from_arrays(np.ones((len(y), 1)), y, name="mine")
        self.assertIsNone(dataset.parts)
        with self.assertRaisesRegex(ValueError, "'mine' has no classes"):
            dataset.sample_shares(jax.random.key(0), 2, [0.5, 0.5])

    def test_held_out_data(self):
        test = random_arrays(4)
        dataset = datasets.from_arrays(*random_arrays(3), test=test)
        np.testing.assert_allclose(dataset.test.xy[:2], test[0].T @ test[1] / 6)
        np.testing.assert_allclose(dataset.test.xy[2], test[1].mean(0))

    @parameterized.parameters(
        ([[1.0, np.nan]], [[1.0]], {}, "training data of 'arrays': .*NaN"),
        ([1.0, 2.0], [[1.0], [2.0]], {}, r"training data of 'arrays': .*\(2,\), \(2, 1\)"),
        ([[1.0]], [[1.0], [2.0]], {}, r"\(1, 1\), \(2, 1\)"),
        ([[1.0]], [[1.0]], {"outputs": ("a", "b")}, "2 names for 1 outputs"),
        ([[1.0]], [[1.0]], {"test": ([[1.0]], [[np.inf]])}, "test data of 'arrays': .*NaN or infinity"),
        ([[1.0]], [[1.0]], {"test": ([[1.0, 2.0]], [[1.0]])}, "must have 2 inputs and 1 outputs, not 3 and 1"),
    )
    def test_bad_arrays(self, x, y, options, message):
        with self.assertRaisesRegex(ValueError, message):
            datasets.from_arrays(x, y, **options)

    @parameterized.parameters(
        ([0.5, 0.5], r"shape \(3,\), one each, but have \(2,\)"),
        ([0.5, 0.6, -0.1], "none negative"),
        ([0.0, 0.0, 0.0], "not all zero"),
        ([1.0, np.nan, 1.0], "must be finite"),
    )
    def test_bad_shares(self, shares, message):
        with self.assertRaisesRegex(ValueError, message):
            three_classes().sample_shares(jax.random.key(0), 2, shares)


class CombinationsTest(InDoublePrecision):
    def test_side_by_side_pairs_are_independent(self):
        # All pairs of an example of one and an example of the other.
        one, other = random_arrays(6, 2, 1), random_arrays(7, 1, 2)
        i, j = (index.ravel() for index in np.indices((6, 6)))
        x, y = np.c_[one[0][i], other[0][j]], np.c_[one[1][i], other[1][j]]
        make = lambda arrays, name: datasets.from_arrays(*arrays, bias=False, name=name, test=arrays)
        joint = datasets.side_by_side([make(one, "one"), make(other, "other")])
        expected = Moments(x.T @ x / 36, x.T @ y / 36, y.T @ y / 36, x.mean(0), y.mean(0))
        chex.assert_trees_all_close(joint.moments, expected, rtol=1e-12)
        chex.assert_trees_all_close(joint.test, expected, rtol=1e-12)
        self.assertEqual(joint.outputs, ("one: 0", "other: 0", "other: 1"))

    def test_mixture_keeps_each_task_whole(self):
        # Tasks that tell by their first input, and whose output is 10 times the second input, plus the first.
        def task(number):
            x = np.c_[np.full(4, number), np.arange(4.0)]
            return datasets.from_arrays(x, 10 * x[:, 1:] + number, bias=False, name=f"task {number}")

        dataset = datasets.mixture([task(0), task(1), task(2)])
        x, y = map(np.asarray, draw_shares(dataset, 0, DRAWS, [0.2, 0.0, 0.6]))
        np.testing.assert_array_equal(y[:, 0], 10 * x[:, 1] + x[:, 0])
        self.assertEqual(set(x[:, 0]), {0.0, 2.0})
        self.assertAlmostEqual(np.mean(x[:, 0] == 0), 0.25, delta=5 * np.sqrt(0.25 * 0.75 / DRAWS))
        x, _ = map(np.asarray, draw(dataset, 1, DRAWS))
        shares = np.bincount(x[:, 0].astype(int)) / DRAWS
        np.testing.assert_allclose(shares, 1 / 3, atol=5 * np.sqrt(2 / 9 / DRAWS))

    def test_names_of_the_outputs_of_a_mixture(self):
        pair = lambda first, second: datasets.from_arrays([[0.0], [1.0]], np.eye(2), outputs=(first, second))
        self.assertEqual(datasets.mixture([pair("0", "1"), pair("7", "1")]).outputs, ("0/7", "1"))

    def test_held_out_data_only_where_all_tasks_have_some(self):
        x, y = random_arrays(8)
        with_test, without = datasets.from_arrays(x, y, test=(x, 3 * y)), datasets.from_arrays(x, y)
        np.testing.assert_allclose(datasets.mixture([with_test, with_test]).test.yy, 9 * y.T @ y / 6)
        self.assertIsNone(datasets.mixture([with_test, without]).test)
        self.assertIsNone(datasets.side_by_side([with_test, without]).test)

    def test_bad_combinations(self):
        with self.assertRaisesRegex(ValueError, "at least one data set"):
            datasets.side_by_side([])
        with self.assertRaisesRegex(ValueError, r"same inputs and outputs.*\(3, 2\), \(1, 1\)"):
            datasets.mixture([datasets.task_a(), datasets.two_gaussians()])


if __name__ == "__main__":
    absltest.main()
