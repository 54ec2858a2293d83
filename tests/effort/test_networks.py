"""Networks against explicit examples: averages over a finite data set whose moments they are given."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.effort import networks
from tests.core.problems import compiled
from tests.effort.problems import HIDDEN, INPUTS, OUTPUTS, InDoublePrecision, examples, moments, weights

WIDTHS = {1: (INPUTS, OUTPUTS), 2: (INPUTS, HIDDEN, OUTPUTS), 3: (INPUTS, HIDDEN, 2, OUTPUTS)}
EMPHASIS = np.array([0.3, 1.7])


def average_loss(predict, x, y, emphasis):
    """1/2 E sum_c e_c (y_c - yhat_c)^2, example by example."""
    return sum(0.5 * jnp.sum(emphasis * (b - predict(a)) ** 2) for a, b in zip(x, y, strict=True)) / len(x)


def chain(matrices, x):
    for matrix in matrices:
        x = matrix @ x
    return x


def close(actual, expected):
    chex.assert_trees_all_close(actual, expected, rtol=1e-11, atol=1e-12)


class LinearTest(InDoublePrecision):
    def setUp(self):
        super().setUp()
        self.x, self.y = examples(0)
        self.task = moments(self.x, self.y)

    @parameterized.parameters(*WIDTHS)
    def test_loss_and_descent_are_those_of_the_examples(self, depth):
        network, w = networks.linear(WIDTHS[depth]), weights(1, *WIDTHS[depth])
        on_examples = lambda w: average_loss(lambda x: chain(w, x), self.x, self.y, EMPHASIS)
        loss, gradient = compiled(jax.value_and_grad(on_examples))(w)
        close(compiled(network.loss)(w, self.task, EMPHASIS), loss)
        close(compiled(network.descent)(w, self.task, EMPHASIS), jax.tree.map(np.negative, gradient))
        close(network.predict(w, self.x), np.stack([chain(w, x) for x in self.x]))

    @parameterized.parameters(*WIDTHS)
    def test_emphasis_of_one_may_be_a_scalar(self, depth):
        network, w = networks.linear(WIDTHS[depth]), weights(1, *WIDTHS[depth])
        for function in (network.loss, network.descent):
            close(function(w, self.task, 1.0), function(w, self.task, np.ones(OUTPUTS)))

    @parameterized.parameters(*WIDTHS)
    def test_derived_equations_equal_those_written_by_hand(self, depth):
        network, w = networks.linear(WIDTHS[depth]), weights(1, *WIDTHS[depth])
        derived = networks.derived(network.init, network.predict, network.loss)
        close(compiled(derived.descent)(w, self.task, EMPHASIS), compiled(network.descent)(w, self.task, EMPHASIS))

    def test_initial_weights(self):
        w = networks.linear((50, 40, 30), scale=0.2).init(jax.random.key(0))
        chex.assert_shape(w, [(40, 50), (30, 40)])
        for leaf in w:  # both moments within five standard errors
            self.assertLess(abs(leaf.mean()), 5 * 0.2 / leaf.size**0.5)
            self.assertLess(abs(leaf.var() / 0.04 - 1), 5 * (2 / leaf.size) ** 0.5)
        self.assertLess(abs(np.corrcoef(w[0].ravel()[:1200], w[1].ravel())[0, 1]), 5 / 1200**0.5)

    @parameterized.parameters(((3,), 0.1, "widths"), ((3, 0, 2), 0.1, "widths"), ((3, 2), -0.1, "scale=-0.1"))
    def test_bad_sizes(self, widths, scale, named):
        with self.assertRaisesRegex(ValueError, named):
            networks.linear(widths, scale)


class TanhTest(InDoublePrecision):
    def setUp(self):
        super().setUp()
        self.x, self.y = examples(0)
        self.task = moments(self.x, self.y)
        self.weights = weights(1, INPUTS, HIDDEN, OUTPUTS)

    def hidden(self, first):
        """f + J (x - m) for each example: [examples, H]; and the slope at the mean."""
        mean = self.x.mean(0)
        rest = np.tanh(first @ mean)
        slope = 1 - rest**2
        return rest + (self.x - mean) @ (slope[:, None] * first).T, slope

    def test_loss_is_that_of_the_linearised_hidden_layer(self):
        network = networks.tanh_first_order(INPUTS, HIDDEN, OUTPUTS)
        hidden, _ = self.hidden(self.weights[0])
        errors = self.y - hidden @ self.weights[1].T
        expected = np.mean(0.5 * np.sum(EMPHASIS * errors**2, -1))
        close(network.loss(self.weights, self.task, EMPHASIS), expected)

    def test_corrected_equations(self):
        """dW2 is the gradient; dW1 is what the examples give with the slope held at the mean."""
        network = networks.tanh_first_order(INPUTS, HIDDEN, OUTPUTS)
        hidden, slope = self.hidden(self.weights[0])
        errors = EMPHASIS * (self.y - hidden @ self.weights[1].T)
        first = slope[:, None] * (self.weights[1].T @ errors.T @ self.x) / len(self.x)
        second = errors.T @ hidden / len(self.x)
        moved = compiled(network.descent)(self.weights, self.task, EMPHASIS)
        close(moved, (first, second))
        gradient = compiled(jax.grad(network.loss))(self.weights, self.task, EMPHASIS)
        close(moved[1], -gradient[1])
        self.assertGreater(np.abs(moved[0] + gradient[0]).max(), 1e-2)  # as the docstring says

    def test_released_equations(self):
        """Both mean corrections of dW2 have the other sign; dW1 and the loss are the same."""
        released = networks.tanh_first_order(INPUTS, HIDDEN, OUTPUTS, equations="released")
        corrected = networks.tanh_first_order(INPUTS, HIDDEN, OUTPUTS)
        mean_x, mean_y = self.x.mean(0), self.y.mean(0)
        rest = np.tanh(self.weights[0] @ mean_x)
        jacobian = np.diag(1 - rest**2) @ self.weights[0]
        outputs_hidden = np.outer(mean_y, rest) + (self.task.xy.T + np.outer(mean_y, mean_x)) @ jacobian.T
        hidden_hidden = np.outer(rest, rest) + jacobian @ (self.task.xx + np.outer(mean_x, mean_x)) @ jacobian.T
        second = outputs_hidden - self.weights[1] @ hidden_hidden
        moved = released.descent(self.weights, self.task, np.ones(OUTPUTS))
        usual = corrected.descent(self.weights, self.task, np.ones(OUTPUTS))
        close(moved[1], second)
        close(moved[0], usual[0])
        self.assertGreater(np.abs(moved[1] - usual[1]).max(), 1e-2)
        close(released.loss(self.weights, self.task, EMPHASIS), corrected.loss(self.weights, self.task, EMPHASIS))

    def test_exact_where_inputs_do_not_vary(self):
        """Then first order is all there is: loss and equations are those of the network itself."""
        network = networks.tanh_first_order(INPUTS, HIDDEN, OUTPUTS)
        x = np.broadcast_to(self.x[0], self.x.shape)
        task = moments(x, self.y)
        forward = lambda w, x: w[1] @ jnp.tanh(w[0] @ x)
        on_examples = lambda w: average_loss(lambda x: forward(w, x), x, self.y, EMPHASIS)
        loss, gradient = compiled(jax.value_and_grad(on_examples))(self.weights)
        close(network.loss(self.weights, task, EMPHASIS), loss)
        close(network.descent(self.weights, task, EMPHASIS), jax.tree.map(np.negative, gradient))
        close(network.predict(self.weights, self.x), np.stack([forward(self.weights, x) for x in self.x]))

    def test_initial_weights(self):
        w = networks.tanh_first_order(50, 40, 30, scale=0.2).init(jax.random.key(0))
        chex.assert_shape(w, [(40, 50), (30, 40)])
        self.assertLess(abs(w[0].std() - 0.2), 0.02)

    def test_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "equations='exact' is unknown.*corrected.*released"):
            networks.tanh_first_order(2, 3, 1, equations="exact")
        with self.assertRaisesRegex(ValueError, r"widths=\(2, 0, 1\)"):
            networks.tanh_first_order(2, 0, 1)
        with self.assertRaisesRegex(ValueError, "scale=-1"):
            networks.tanh_first_order(2, 3, 1, scale=-1)


if __name__ == "__main__":
    absltest.main()
