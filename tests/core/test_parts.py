"""A sum in parts is the sum: values and gradients against closed forms, and what it keeps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.core import sum_in_parts
from tests.core.problems import compiled

ROWS = np.random.default_rng(0).normal(size=(7, 3))


def squares(params, rows):
    """1/2 sum over rows of (row . w + b)^2, whose gradient is known in closed form."""
    return 0.5 * jnp.sum((rows["x"] @ params["w"] + params["b"]) ** 2)


class SumInPartsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.params = {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array(0.25)}
        error = ROWS @ np.array([0.5, -1.0, 2.0]) + 0.25
        self.value, self.gradient = 0.5 * error @ error, {"w": ROWS.T @ error, "b": error.sum()}

    @parameterized.parameters(1, 2, 3, 5, 7, 100)
    def test_value_and_gradient_are_those_of_the_whole(self, size):
        in_parts = sum_in_parts(squares, size)
        value, gradient = compiled(jax.value_and_grad(in_parts))(self.params, {"x": ROWS})
        np.testing.assert_allclose(value, self.value, rtol=1e-13)
        np.testing.assert_allclose(compiled(in_parts)(self.params, {"x": ROWS}), self.value, rtol=1e-13)
        chex.assert_trees_all_close(gradient, self.gradient, rtol=1e-12)

    @parameterized.parameters(
        (2, 0, 0), (2, 0, 2), (2, 1, 3), (2, 2, 4), (2, 3, 4), (2, 4, 4), (2, 3, 2), (3, 1, 3), (5, 0, 1), (5, 1, 2)
    )
    def test_other_parts_are_not_computed(self, size, begin, end):
        """They may hold what is not even a number."""
        self.check_own(size, begin, end)

    @parameterized.parameters((7, 0, 1), (7, 0, 0), (7, 1, 1), (100, 0, 1), (100, 0, 0))
    def test_nor_is_an_only_part_that_is_not_own(self, size, begin, end):
        self.check_own(size, begin, end)

    def check_own(self, size, begin, end):
        """With bounds that are traced, against the closed form for the rows between them."""
        place = np.arange(len(ROWS)) // size
        own = (begin <= place) & (place < end)
        rows = np.where(own[:, None], ROWS, np.nan)
        in_parts = compiled(jax.value_and_grad(lambda p, x, own: 3 * sum_in_parts(squares, size)(p, x, own)))
        value, gradient = in_parts(self.params, {"x": rows}, (begin, end))
        error = ROWS[own] @ np.array([0.5, -1.0, 2.0]) + 0.25
        np.testing.assert_allclose(value, 1.5 * error @ error, rtol=1e-13)
        chex.assert_trees_all_close(gradient, {"w": 3 * ROWS[own].T @ error, "b": 3 * error.sum()}, rtol=1e-12)

    def test_what_follows_the_sum_scales_the_gradient(self):
        gradient = compiled(jax.grad(lambda p: jnp.sin(sum_in_parts(squares, 2)(p, {"x": ROWS}))))(self.params)
        chex.assert_trees_all_close(gradient, jax.tree.map(lambda g: np.cos(self.value) * g, self.gradient), rtol=1e-11)

    def test_side_by_side_and_in_second_derivatives(self):
        rows = np.stack([ROWS, 2 * ROWS, ROWS - 1])
        of_whole = jax.vmap(jax.hessian(lambda p, x: squares(p, {"x": x})), (None, 0))(self.params, rows)
        in_parts = lambda p, x: sum_in_parts(squares, 3)(p, {"x": x})
        reverse_twice = jax.vmap(jax.jacrev(jax.grad(in_parts)), (None, 0))(self.params, rows)
        chex.assert_trees_all_close(reverse_twice, of_whole, rtol=1e-12)

    def test_memory_is_that_of_a_part(self):
        rows = {"x": np.zeros((4096, 3))}
        deep = lambda params, rows: squares(params, {"x": jnp.sin(jnp.exp(jnp.sin(rows["x"] * params["w"])))})
        temporary = lambda f: (
            compiled(jax.grad(f)).lower(self.params, rows).compile().memory_analysis().temp_size_in_bytes
        )
        self.assertLess(temporary(sum_in_parts(deep, 64)), temporary(deep) / 8)

    def test_a_size_below_one_is_refused(self):
        with self.assertRaisesRegex(ValueError, "size=0"):
            sum_in_parts(squares, 0)


if __name__ == "__main__":
    absltest.main()
