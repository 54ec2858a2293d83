"""A sum in parts is the sum: values and gradients against closed forms, and what it keeps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.core import PARTS, sum_in_parts, task_mesh
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

    @parameterized.parameters((2, 0), (2, 3), (2, 6), (2, 7), (3, 2), (5, 2), (100, 7))
    def test_parts_beyond_those_used_are_not_computed(self, size, used):
        """They may hold what is not even a number."""
        summed = min(-(-used // size) * size, len(ROWS))
        rows = np.where(np.arange(len(ROWS))[:, None] < summed, ROWS, np.nan)
        in_parts = compiled(jax.value_and_grad(sum_in_parts(squares, size)))
        value, gradient = in_parts(self.params, {"x": rows}, used)
        error = ROWS[:summed] @ np.array([0.5, -1.0, 2.0]) + 0.25
        np.testing.assert_allclose(value, 0.5 * error @ error, rtol=1e-13)
        chex.assert_trees_all_close(gradient, {"w": ROWS[:summed].T @ error, "b": error.sum()}, rtol=1e-12)

    @parameterized.product(
        [
            {"size": 2, "used": None},
            {"size": 1, "used": None},
            {"size": 1, "used": 2},
            {"size": 2, "used": 7},
            {"size": 5, "used": None},
            {"size": 2, "used": 3},
            {"size": 100, "used": None},
            {"size": 100, "used": 0},
        ],
        turn=(0, 1, 6),
    )
    def test_devices_take_turns(self, size, used, turn):
        """Each part on one of four devices, however few there are: the mean over devices is the sum."""
        summed = len(ROWS) if used is None else min(-(-used // size) * size, len(ROWS))
        rows = np.where(np.arange(len(ROWS))[:, None] < summed, ROWS, np.nan)
        values, gradients = self.of_devices(size, rows, used, turn)
        error = ROWS[:summed] @ np.array([0.5, -1.0, 2.0]) + 0.25
        np.testing.assert_allclose(np.mean(values), 1.5 * error @ error, rtol=1e-13)
        mean = jax.tree.map(lambda x: x.mean(0), gradients)
        chex.assert_trees_all_close(mean, {"w": 3 * ROWS[:summed].T @ error, "b": 3 * error.sum()}, rtol=1e-12)

    @parameterized.parameters((7, 1), (3, 3), (2, 4))
    def test_devices_go_on_where_they_left_off(self, size, parts):
        """Of four sums of one, three or four parts each device computes as many parts."""
        values = np.array([self.of_devices(size, ROWS, None, turn)[0] for turn in range(4)])
        error = 0.5 * (ROWS @ np.array([0.5, -1.0, 2.0]) + 0.25) ** 2
        each = np.add.reduceat(error, range(0, len(ROWS), size))
        self.assertLen(each, parts)
        for turn, device in np.ndindex(4, 4):
            own = [each[part] for part in range(parts) if (turn * parts + part) % 4 == device]
            np.testing.assert_allclose(values[turn, device], 3 * 4 * np.sum(own), rtol=1e-13)

    def of_devices(self, size, rows, used, turn):
        """Value and gradient, on each of four devices, of three times the sum."""
        of_own = jax.value_and_grad(lambda p, x: 3 * sum_in_parts(squares, size, PARTS)(p, {"x": x}, used, turn))
        own = lambda p, x: jax.tree.map(lambda leaf: leaf[None], of_own(p, x))
        mesh = task_mesh(tasks=1, parts=True)
        spread = jax.shard_map(own, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(PARTS), check_vma=False)
        return compiled(spread)(self.params, rows)

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
