"""What each control does to a learner and what it costs, against the paper's formulas in plain numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.effort import controls
from tests.effort.problems import (
    BETA,
    CASES,
    HIDDEN,
    INPUTS,
    OUTPUTS,
    InDoublePrecision,
    any_signal,
    at,
    examples,
    moments,
    together,
)
from tests.effort.problems import weights as any_weights

BOUNDS = {
    "gain": (-0.5, 0.5),
    "gain, quadratic": (-0.5, 0.5),
    "gain of output neurons": (-0.5, 0.5),
    "learning rate": (-1, 1),
    "learning rate from none": (-1, 1),
    "class vector": (0, 2),
    "class active": (0, 1),
    "class attention": (0, 2),
    "task vector": (0, 2),
    "task active": (0, 1),
    "task attention": (0, 2),
}
COST_OF_NEUTRAL = {
    "learning rate from none": BETA,
    "class active": OUTPUTS * BETA,
    "task vector": 2 * BETA,
    "task active": 2 * BETA,
}


def close(actual, expected):
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-13)


class ControlsTest(InDoublePrecision):
    @parameterized.parameters(*CASES)
    def test_what_it_does_and_costs(self, name):
        control, weights = CASES[name].control(), any_weights(0, INPUTS, HIDDEN, OUTPUTS)
        for n in range(3):
            signal = at(any_signal(control, 1, 3), n)
            acts = CASES[name].acts(signal)
            close(control.cost(signal), acts.cost)
            close(
                control.weights(weights, signal), tuple(w * (1 + g) for w, g in zip(weights, acts.gains, strict=True))
            )
            close(control.emphasis(signal) * np.ones(OUTPUTS), acts.emphasis)
            close(control.rate(signal) * 1.0, acts.rate)

    @parameterized.parameters(*CASES)
    def test_neutral_and_bounds(self, name):
        control = CASES[name].control()
        self.assertEqual((control.lower, control.upper), BOUNDS[name])
        close(control.cost(control.neutral), COST_OF_NEUTRAL.get(name, 0.0))
        for leaf in jax.tree.leaves(control.neutral):
            self.assertTrue(np.all((control.lower <= leaf) & (leaf <= control.upper)))

    def test_no_control(self):
        control = controls.no_control()
        self.assertEmpty(jax.tree.leaves(control.neutral))
        close(control.cost(()), 0.0)
        self.assertEmpty(jax.tree.leaves(controls.perturbed(control, 5, jax.random.key(0), 0.1)))

    def test_small_exponential_costs_keep_their_digits(self):
        """exp(z) - 1 rounds away all digits of z = 1e-20."""
        like = any_weights(0, 1, 1)
        cost = controls.gain(like, 1.0).cost((jnp.full((1, 1), 1e-10),))
        np.testing.assert_allclose(cost, 1e-20, rtol=1e-12)

    def test_gains_from_shapes_alone(self):
        network_weights = any_weights(0, INPUTS, HIDDEN, OUTPUTS)
        shapes = jax.eval_shape(lambda: network_weights)
        close(controls.gain(shapes, BETA).neutral, controls.gain(network_weights, BETA).neutral)

    def test_tasks_with_several_outputs(self):
        control = controls.task_engagement((1, 3, 2), BETA)
        close(control.emphasis(np.array([0.5, 1.0, 2.0])), np.array([0.5, 1, 1, 1, 2, 2]))
        chex.assert_shape(control.neutral, (3,))

    def test_bases_of_both_layers(self):
        """G_l = sum_b nu_lb B_lb, pattern by pattern."""
        rng = np.random.default_rng(0)
        first, second = rng.normal(size=(3, HIDDEN, INPUTS)), rng.normal(size=(2, OUTPUTS, HIDDEN))
        control = controls.gain_basis((first, second), BETA, cost="quadratic")
        nu = rng.normal(size=3), rng.normal(size=2)
        combine = lambda coefficients, patterns: sum(c * b for c, b in zip(coefficients, patterns, strict=True))
        gains = combine(nu[0], first), combine(nu[1], second)
        weights = any_weights(0, INPUTS, HIDDEN, OUTPUTS)
        close(control.weights(weights, nu), tuple(w * (1 + g) for w, g in zip(weights, gains, strict=True)))
        close(control.cost(nu), BETA * sum((g**2).sum() for g in gains))

    def test_single_weights(self):
        patterns = np.array(controls.single_weight_basis(jax.random.key(0), 8, (2, 4)))
        chex.assert_shape(patterns, (8, 2, 4))
        np.testing.assert_array_equal(patterns.sum((1, 2)), 1)
        np.testing.assert_array_equal(patterns.sum(0), 1)  # each weight once
        few = np.array(controls.single_weight_basis(jax.random.key(0), 3, (2, 4)))
        self.assertEqual((few.sum(0).max(), few.sum()), (1, 3))

    def test_constant_and_perturbed(self):
        control = controls.class_engagement(3, BETA, "active")  # starts at its upper bound
        np.testing.assert_array_equal(controls.constant(control, 4), np.ones((4, 3)))
        noisy = controls.perturbed(control, 1000, jax.random.key(0), 0.1)
        self.assertLessEqual(noisy.max(), 1)
        below = noisy[noisy < 1]
        self.assertLess(abs(below.size / noisy.size - 0.5), 5 * 0.5 / 3000**0.5)
        self.assertLess(abs(np.mean((below - 1) ** 2) / 0.01 - 1), 5 * (2 / 1500) ** 0.5)

    def test_leaves_are_perturbed_differently(self):
        first, second = controls.perturbed(controls.gain(any_weights(0, 5, 5, 5), 1.0), 2, jax.random.key(0), 1e-3)
        self.assertFalse(np.any(first == second))
        self.assertFalse(np.any(first[0] == first[1]))


class TaskModulationTest(InDoublePrecision):
    def setUp(self):
        super().setUp()
        self.data = [examples(seed) for seed in (0, 1, 2)]
        self.tasks = [moments(x, y) for x, y in self.data]
        self.signal = np.array([0.2, 1.9, 1.0])
        self.shares = np.exp(self.signal) / np.exp(self.signal).sum()

    def test_exact_mixture_is_that_of_the_pooled_examples(self):
        control = controls.task_modulation(3, BETA, "exact")
        weight = np.repeat(self.shares, [len(x) for x, _ in self.data]) / len(self.data[0][0])
        x, y = (np.concatenate(parts) for parts in zip(*self.data, strict=True))
        expected = ((x.T * weight) @ x, (x.T * weight) @ y, (y.T * weight) @ y, weight @ x, weight @ y)
        close(tuple(control.drives(together(*self.tasks), self.signal)), expected)

    def test_released_mixture_lets_each_pair_of_tasks_meet(self):
        control = controls.task_modulation(3, BETA)
        driving = control.drives(together(*self.tasks), self.signal)
        for name, left, right in (("xx", "x", "x"), ("xy", "x", "y"), ("yy", "y", "y")):
            expected = 0.0
            for i, one in enumerate(self.tasks):
                for j, other in enumerate(self.tasks):
                    met = getattr(one, name) if i == j else np.outer(getattr(one, left), getattr(other, right))
                    expected = expected + self.shares[i] * self.shares[j] * met
            close(getattr(driving, name), expected)

    def test_judged(self):
        tasks = together(*self.tasks)
        close(controls.task_modulation(3, BETA).judged(tasks), self.tasks[0])
        mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *self.tasks)
        close(controls.task_modulation(3, BETA, judge="mean").judged(tasks), mean)

    def test_cost(self):
        control = controls.task_modulation(3, BETA)
        close(control.cost(self.signal), BETA * ((self.signal**2).sum() - 3) ** 2 / 3)
        close(control.cost(control.neutral), 0.0)
        self.assertEqual((control.lower, control.upper), (0, 2))


class BadArgumentsTest(parameterized.TestCase):
    @parameterized.parameters(
        (lambda: controls.gain((), 1.0, cost="cubic"), "cost='cubic' is unknown.*exponential.*quadratic"),
        (lambda: controls.gain_basis((), 1.0, cost="cubic"), "cost='cubic' is unknown"),
        (lambda: controls.class_engagement(2, 1.0, "passive"), "kind='passive' is unknown.*vector.*active.*attention"),
        (lambda: controls.task_engagement((1, 1), 1.0, "passive"), "kind='passive' is unknown"),
        (lambda: controls.task_modulation(2, 1.0, "true"), "moments='true' is unknown.*released.*exact"),
        (lambda: controls.task_modulation(2, 1.0, judge="last"), "judge='last' is unknown.*first.*mean"),
        (lambda: controls.single_weight_basis(jax.random.key(0), 9, (2, 4)), "patterns=9.*only 8 weights"),
    )
    def test_refused(self, build, message):
        with self.assertRaisesRegex(ValueError, message):
            build()

    def test_another_number_of_bases_than_of_layers(self):
        control = controls.gain_basis((None, controls.neuron_basis(OUTPUTS, HIDDEN)), BETA)
        with self.assertRaisesRegex(ValueError, "2 bases for a network of 1 layers"):
            control.weights(any_weights(0, HIDDEN, OUTPUTS), control.neutral)


if __name__ == "__main__":
    absltest.main()
