"""The convolution against a loop over positions, in every way and under what learners do with it."""

import re
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.fewshot import convolution
from metalearn.fewshot.convolution import CONVOLUTIONS, conv3x3, default_convolution
from tests.core.problems import compiled
from tests.fewshot import slow_encoder


class ConvolutionTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.draw = np.random.default_rng(0).normal

    @parameterized.product(how=(*CONVOLUTIONS, None), shape=((2, 5, 4, 3), (1, 1, 1, 2), (3, 2, 7, 1)))
    def test_is_that_of_a_slow_loop(self, how, shape):
        maps, kernel = self.draw(size=shape), self.draw(size=(3, 3, shape[-1], 4))
        expected = slow_encoder.convolution(maps, kernel)
        np.testing.assert_allclose(conv3x3(maps, kernel, how), expected, atol=1e-12)

    def test_tells_up_from_down_and_left_from_right(self):
        """A single one in the input shows the kernel, turned by half a turn."""
        maps, kernel = np.zeros((1, 3, 3, 1)), np.arange(9.0).reshape(3, 3, 1, 1)
        maps[0, 1, 1] = 1
        for how in CONVOLUTIONS:
            np.testing.assert_array_equal(np.ravel(conv3x3(jnp.asarray(maps), kernel, how)), np.arange(9.0)[::-1])

    @parameterized.parameters(*CONVOLUTIONS)
    def test_gradients(self, how):
        """The map is linear in either argument: both gradients follow from the slow loop, entry by entry."""
        maps, kernel, seen = self.draw(size=(2, 3, 3, 2)), self.draw(size=(3, 3, 2, 2)), self.draw(size=(2, 3, 3, 2))
        value = lambda maps, kernel: jnp.vdot(conv3x3(maps, kernel, how), seen)
        along_maps, along_kernel = compiled(jax.grad(value, argnums=(0, 1)))(maps, kernel)
        units = lambda x: np.eye(x.size).reshape(-1, *x.shape)
        expected = [np.vdot(slow_encoder.convolution(unit, kernel), seen) for unit in units(maps)]
        np.testing.assert_allclose(np.ravel(along_maps), expected, atol=1e-12)
        expected = [np.vdot(slow_encoder.convolution(maps, unit), seen) for unit in units(kernel)]
        np.testing.assert_allclose(np.ravel(along_kernel), expected, atol=1e-12)

    @parameterized.parameters((1, 6), (2, 3), (3, 2), (5, 2))
    def test_as_many_images_at_a_time_as_fit(self, fitting, parts):
        """Of six images: value, gradients and second derivatives are those of all together, of which loops remain."""
        maps, kernel = self.draw(size=(6, 3, 4, 2)), self.draw(size=(3, 3, 2, 5))
        tangents = self.draw(size=maps.shape), self.draw(size=kernel.shape)

        def found(how):
            value = lambda *a: jnp.sum(jnp.sin(conv3x3(*a, how)))
            along = lambda *a: jax.jvp(jax.grad(value, argnums=(0, 1)), a, tangents)
            return compiled(lambda *a: (conv3x3(*a, how), along(*a)))(maps, kernel)

        of_one = 9 * 8 * 3 * 4 * 2
        with mock.patch.object(convolution, "_AT_ONCE", fitting * of_one + 1):
            result = found("patches")
            length = re.search(
                r"scan\[.*?length=(\d+)", str(jax.make_jaxpr(lambda *a: conv3x3(*a))(maps, kernel)), re.DOTALL
            )
        self.assertEqual(int(length[1]), parts)
        np.testing.assert_allclose(result[0], slow_encoder.convolution(maps, kernel), atol=1e-12)
        chex.assert_trees_all_close(result, found("direct"), atol=1e-12)

    @parameterized.parameters(*CONVOLUTIONS)
    def test_a_batch_of_kernels(self, how):
        maps, kernels = self.draw(size=(3, 2, 4, 4, 2)), self.draw(size=(3, 3, 3, 2, 5))
        together = compiled(jax.vmap(lambda m, k: conv3x3(m, k, how)))(maps, kernels)
        for one, m, k in zip(together, maps, kernels, strict=True):
            np.testing.assert_allclose(one, slow_encoder.convolution(m, k), atol=1e-12)

    @parameterized.parameters(*CONVOLUTIONS)
    def test_keeps_the_type(self, how):
        shape = jax.eval_shape(
            lambda m, k: conv3x3(m, k, how),
            jnp.zeros((1, 2, 2, 1), jnp.bfloat16),
            jnp.zeros((3, 3, 1, 2), jnp.bfloat16),
        )
        self.assertEqual(shape.dtype, jnp.bfloat16)

    def test_the_default_of_this_backend(self):
        self.assertEqual(default_convolution(), "patches" if jax.default_backend() == "cpu" else "direct")

    def test_errors_name_what_to_change(self):
        with self.assertRaisesRegex(ValueError, "convolution='fft' is unknown; choose one of.*patches"):
            conv3x3(np.zeros((1, 2, 2, 1)), np.zeros((3, 3, 1, 1)), "fft")
        with self.assertRaisesRegex(ValueError, r"\(1, 2, 2, 1\) and \(3, 3, 2, 1\)"):
            conv3x3(np.zeros((1, 2, 2, 1)), np.zeros((3, 3, 2, 1)))


if __name__ == "__main__":
    absltest.main()
