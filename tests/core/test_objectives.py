"""Weights of the objectives, by their definition."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.core import objectives


class ObjectivesTest(parameterized.TestCase):
    def test_terminal(self):
        np.testing.assert_array_equal(objectives.terminal(3), [0, 0, 0, 1])

    def test_every_update(self):
        np.testing.assert_array_equal(objectives.every_update(3), [0, 1, 1, 1])

    def test_discounted(self):
        np.testing.assert_allclose(objectives.discounted(3, 0.5), [1, 0.5, 0.25, 0.125], rtol=1e-15)
        np.testing.assert_allclose(objectives.discounted(2, 0.25, dt=0.5), [0.5, 0.25, 0.125], rtol=1e-15)
        np.testing.assert_array_equal(objectives.discounted(2, 1.0), [1, 1, 1])

    def test_discounted_tends_to_the_integral(self):
        gamma, horizon = 0.6, 3.0
        integral = (gamma**horizon - 1) / np.log(gamma)
        errors = [abs(objectives.discounted(n, gamma, horizon / n)[:-1].sum() - integral) for n in (100, 200)]
        self.assertLess(errors[1], 0.01)
        self.assertAlmostEqual(errors[0] / errors[1], 2, places=1)  # first order, as of a left Riemann sum

    def test_annealed(self):
        third = 1 / 3
        for progress, expected in (
            (0.0, [0, third, third, third]),
            (0.5, [0, third / 2, third / 2, 2 * third]),
            (1.0, [0, 0, 0, 1]),
            (7.0, [0, 0, 0, 1]),
            (-1.0, [0, third, third, third]),
        ):
            weights = jax.jit(objectives.annealed, static_argnums=0)(3, progress)
            np.testing.assert_allclose(weights, expected, atol=1e-7)
            np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)

    def test_annealed_reaches_exact_zeros(self):
        """Only exact zeros are skipped."""
        np.testing.assert_array_equal(objectives.annealed(5, jnp.float32(1))[:-1], np.zeros(5))
        np.testing.assert_array_equal(objectives.annealed(1, 0.3), [0, 1])

    @parameterized.parameters(
        (lambda: objectives.terminal(0), "updates=0"),
        (lambda: objectives.every_update(-2), "updates=-2"),
        (lambda: objectives.annealed(0, 0.5), "updates=0"),
        (lambda: objectives.discounted(-1, 0.5), "updates=-1"),
        (lambda: objectives.discounted(3, 0.0), r"gamma=0.0 must lie in \(0, 1\]"),
        (lambda: objectives.discounted(3, 1.5), r"gamma=1.5 must lie in \(0, 1\]"),
        (lambda: objectives.discounted(3, 0.5, dt=0.0), "dt=0.0 must be positive"),
    )
    def test_errors(self, call, message):
        with self.assertRaisesRegex(ValueError, message):
            call()


if __name__ == "__main__":
    absltest.main()
