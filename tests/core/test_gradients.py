"""Every memory rung and inner gradient gives the gradient that a hand-written loop and finite differences give."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from metalearn.core import exact, first_order, truncated, unroll
from tests.core.problems import PROBLEMS, Problem, compiled, slow_value

# The problems make 3 to 5 updates, so that segments of 2 leave a remainder in all but learned_loss, which makes 4.
RESIDUALS = {"memory": "residuals"}
RECOMPUTE = {"memory": "recompute"}
SEGMENTS = {"memory": "segments"}
SEGMENTS_OF_2 = {"memory": "segments", "segment": 2}
SEGMENTS_OF_3 = {"memory": "segments", "segment": 3}
MEMORY = (RESIDUALS, RECOMPUTE, SEGMENTS, SEGMENTS_OF_2, SEGMENTS_OF_3)
ALL = tuple(itertools.product(("plain", "mixed"), MEMORY))


def dense_weights(problem: Problem) -> np.ndarray:
    return np.linspace(0.5, 1.5, problem.updates + 1)


def all_close(actual, expected):
    chex.assert_trees_all_close(actual, expected, rtol=1e-10, atol=1e-10)


def row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


class GradientsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.key = jax.random.key(0)

    def slow(self, problem, horizon=None):
        value = functools.partial(slow_value, problem, dense_weights(problem), horizon=horizon)
        return compiled(jax.value_and_grad(value))

    def check_exact(self, problem, cases):
        weights, meta, task = dense_weights(problem), problem.meta, problem.new_task(2)
        expected = self.slow(problem)(meta, task)
        for inner, rung in cases:
            with self.subTest(inner=inner, **rung):
                estimate = compiled(exact(problem.process(inner), weights, **rung))(meta, task, self.key)
                all_close((estimate.trajectory.value, estimate.gradient), expected)

    def check_differences(self, problem, inner, rung):
        """Central differences along random directions."""
        weights, meta, task = dense_weights(problem), problem.meta, problem.new_task(3)
        of_one = compiled(exact(problem.process(inner), weights, **rung))
        gradient = of_one(meta, task, self.key).gradient
        for seed in range(3):
            width, generator = 1e-5, np.random.default_rng(seed)
            direction = jax.tree.map(lambda x, g=generator: g.normal(size=np.shape(x)), meta)
            moved = lambda by, d=direction: jax.tree.map(lambda x, d: np.asarray(x + by * d), meta, d)
            ahead, behind = (of_one(moved(by), task, self.key).trajectory.value for by in (width, -width))
            along = sum(np.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
            np.testing.assert_allclose(along, (ahead - behind) / (2 * width), rtol=1e-7)

    def check_truncated(self, problem, cases):
        weights, meta, task = dense_weights(problem), problem.meta, problem.new_task(4)
        for horizon, estimator, inner, rung in cases:
            with self.subTest(horizon=horizon, inner=inner, **rung):
                estimate = compiled(estimator(problem.process(inner), weights, **rung))(meta, task, self.key)
                expected = self.slow(problem, horizon)(meta, task)
                all_close((estimate.trajectory.value, estimate.gradient), expected)

    def check_many_tasks(self, problem, inner):
        weights, meta, tasks, count = dense_weights(problem), problem.meta, problem.tasks(3), 3
        process, keys, slow = problem.process(inner), jax.random.split(self.key, count), self.slow(problem)
        values, gradients = jax.tree.map(lambda *x: jnp.stack(x), *(slow(meta, row(tasks, i)) for i in range(count)))

        side_by_side = compiled(jax.vmap(exact(process, weights), in_axes=(None, 0, 0)))(meta, tasks, keys)
        all_close(side_by_side.gradient, gradients)

        def mean_value(meta):
            return jax.vmap(lambda task, key: unroll(process, weights, meta, task, key).value)(tasks, keys).mean()

        expected = (values.mean(), jax.tree.map(lambda g: g.mean(0), gradients))
        all_close(compiled(jax.value_and_grad(mean_value))(meta), expected)

    def test_exact_linear_regression(self):
        cases = itertools.product(("plain", "mixed"), (RESIDUALS, RECOMPUTE, SEGMENTS_OF_2))
        self.check_exact(PROBLEMS["linear_regression"](), cases)

    def test_exact_learned_loss(self):
        self.check_exact(PROBLEMS["learned_loss"](), (("plain", RECOMPUTE), ("mixed", SEGMENTS_OF_3)))

    @parameterized.parameters(
        ("linear_regression", "plain", SEGMENTS_OF_2),
        ("mlp", "mixed", SEGMENTS),
        ("lstm", "mixed", RECOMPUTE),
        ("learned_loss", "mixed", RESIDUALS),
    )
    def test_central_differences(self, name, inner, rung):
        self.check_differences(PROBLEMS[name](), inner, rung)

    @parameterized.parameters(*PROBLEMS)
    @pytest.mark.slow  # innermost, or parameterized loses it
    def test_exact_on_every_rung(self, name):
        self.check_exact(PROBLEMS[name](), ALL)

    def test_truncated_and_first_order(self):
        first = (0, first_order, "mixed", RECOMPUTE)
        last_two = (2, truncated(2), "mixed", SEGMENTS_OF_2)
        self.check_truncated(PROBLEMS["linear_regression"](), (first, last_two))
        self.check_truncated(PROBLEMS["learned_loss"](), (last_two,))

    @parameterized.parameters(*PROBLEMS)
    @pytest.mark.slow  # innermost, or parameterized loses it
    def test_every_horizon(self, name):
        problem = PROBLEMS[name]()
        horizons = range(problem.updates + 2)  # K + 1: beyond the first update, too
        how = (("plain", SEGMENTS_OF_2), ("mixed", RESIDUALS))
        self.check_truncated(problem, [(h, truncated(h), *how[h % 2]) for h in horizons])

    @parameterized.parameters("plain", "mixed")
    def test_vmap_of_grad_and_grad_of_vmap(self, inner):
        self.check_many_tasks(PROBLEMS["linear_regression"](), inner)

    @parameterized.parameters(*itertools.product(("mlp", "lstm", "learned_loss"), ("plain", "mixed")))
    @pytest.mark.slow  # innermost, or parameterized loses it
    def test_vmap_of_grad_and_grad_of_vmap_of_networks(self, name, inner):
        self.check_many_tasks(PROBLEMS[name](), inner)

    @parameterized.parameters(RECOMPUTE, SEGMENTS_OF_2)
    def test_meta_parameters_side_by_side(self, **rung):
        problem = PROBLEMS["linear_regression"]()
        task, slow = problem.new_task(5), self.slow(problem)
        metas = jax.tree.map(lambda x: jnp.stack([x, 0.8 * x]), problem.meta)
        of_one = exact(problem.process(), dense_weights(problem), **rung)
        gradients = compiled(jax.vmap(of_one, in_axes=(0, None, None)))(metas, task, self.key).gradient
        for i in range(2):
            all_close(row(gradients, i), slow(row(metas, i), task)[1])

    def test_plain_can_be_differentiated_forwards_and_mixed_says_no(self):
        problem = PROBLEMS["linear_regression"]()
        weights, task = dense_weights(problem), problem.new_task(6)
        value = lambda inner: lambda meta: unroll(problem.process(inner), weights, meta, task, self.key).value
        slow = lambda meta: slow_value(problem, weights, meta, task)
        direction = jax.tree.map(jnp.ones_like, problem.meta)
        along = lambda value: compiled(lambda meta: jax.jvp(value, (meta,), (direction,)))(problem.meta)
        all_close(along(value("plain")), along(slow))
        with self.assertRaisesRegex(TypeError, "forward-mode"):
            along(value("mixed"))


if __name__ == "__main__":
    absltest.main()
