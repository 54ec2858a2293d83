"""The inner gradient with discrete leaves, frozen leaves and low precision; inner rules that carry state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from metalearn.core import exact, first_order, gradient_process, objectives, optax_rule, truncated, unroll
from tests.core.problems import compiled, normal

INNER = ("plain", "mixed")


def noise(key):
    """A number in [0, 1) from a typed key; drawing properly would take most of these tests' time to compile."""
    return (jax.random.key_data(key)[-1] % 97) / 97


def noisy_process(inner_gradient, rule=None):
    """Regression on rows picked by an integer input, with noise from a typed key in the input and one in the task."""

    def inner_loss(meta, w, input, task):
        shift = (0.1 * noise(input["key"]) + noise(task["key"])).astype(w.dtype)
        error = task["x"][input["rows"]] @ (w * meta["scale"]) - task["y"][input["rows"]] + shift
        return jnp.where(input["on"], jnp.sum(error**2 * task["count"][input["rows"]]), 0.0)

    return gradient_process(
        init=lambda meta, task, key: meta["w"],
        inputs=lambda meta, task, key: {
            "key": task["keys"],
            "rows": jnp.array([[0, 1, 2], [2, 3, 0], [1, 1, 3]]),
            "on": jnp.array([True, True, True]),
            "rate": meta["rates"],
        },
        inner_loss=inner_loss,
        outer_loss=lambda meta, w, input, task: (jnp.sum((task["x"] @ w - task["y"]) ** 2), {}),
        rule=rule or optax_rule(optax.identity(), lambda meta, input: input["rate"]),
        inner_gradient=inner_gradient,
    )


def noisy_value(meta, task):
    """The same by hand: the gradient of the inner loss is written out, so that nothing is differentiated twice."""
    rows_of = np.array([[0, 1, 2], [2, 3, 0], [1, 1, 3]])
    w = meta["w"]
    for k in range(3):
        rows = rows_of[k]
        shift = (0.1 * noise(task["keys"][k]) + noise(task["key"])).astype(w.dtype)
        x = task["x"][rows] * meta["scale"]
        error = x @ w - task["y"][rows] + shift
        w = w - meta["rates"][k] * 2 * x.T @ (task["count"][rows] * error)
    return jnp.sum((task["x"] @ w - task["y"]) ** 2)


def noisy_example(dtype="float64"):
    meta = {
        "w": jnp.asarray(normal(0, 2), dtype),
        "scale": jnp.asarray([0.7, 1.1], dtype),
        "rates": jnp.asarray([0.05, 0.02, 0.04], dtype),
        "unused": jnp.ones((2, 2), dtype),
    }
    task = {
        "x": jnp.asarray(normal(1, 4, 2), dtype),
        "y": jnp.asarray(normal(2, 4), dtype),
        "count": jnp.array([1, 2, 1, 3]),
        "key": jax.random.key(5),
        "keys": jax.random.split(jax.random.key(6), 3),
    }
    return meta, task


class DiscreteLeavesTest(parameterized.TestCase):
    @parameterized.parameters(*INNER)
    def test_integers_booleans_keys_and_unused_leaves(self, inner):
        with jax.enable_x64(True):
            meta, task = noisy_example()
            process, weights = noisy_process(inner), objectives.terminal(3)
            estimate = compiled(exact(process, weights))(meta, task, jax.random.key(0))
            value, gradient = compiled(jax.value_and_grad(noisy_value))(meta, task)
            np.testing.assert_allclose(estimate.trajectory.value, value, rtol=1e-12)
            chex.assert_trees_all_close(estimate.gradient, gradient, rtol=1e-10)
            chex.assert_trees_all_equal(estimate.gradient["unused"], jnp.zeros((2, 2)))

    def test_first_order_and_truncated_accept_them_too(self):
        """With the horizon at 1 of 3 updates, all that second order adds is the last update's."""
        with jax.enable_x64(True):
            meta, task = noisy_example()
            process, weights = noisy_process("mixed"), objectives.terminal(3)
            final = compiled(lambda: unroll(process, weights, meta, task, jax.random.key(0)).final.params)()
            query_gradient = 2 * task["x"].T @ (task["x"] @ final - task["y"])
            first = compiled(first_order(process, weights))(meta, task, jax.random.key(0)).gradient
            np.testing.assert_allclose(first["w"], query_gradient, rtol=1e-12)
            rows = np.array([1, 1, 3])
            x = np.asarray(task["x"][rows] * meta["scale"])
            jacobian = np.eye(2) - 0.04 * 2 * x.T @ (np.array([2, 2, 3])[:, None] * x)
            last = compiled(truncated(1)(process, weights))(meta, task, jax.random.key(0)).gradient
            np.testing.assert_allclose(last["w"], jacobian.T @ query_gradient, rtol=1e-12)

    def test_side_by_side_with_a_key_for_each_task(self):
        with jax.enable_x64(True):
            meta, task = noisy_example()
            tasks = jax.tree.map(lambda x: jnp.stack([x, x]), task) | {"key": jax.random.split(jax.random.key(7), 2)}
            of_tasks = jax.vmap(exact(noisy_process("mixed"), objectives.terminal(3)), in_axes=(None, 0, None))
            gradients = compiled(of_tasks)(meta, tasks, jax.random.key(0)).gradient
            for i in range(2):
                expected = compiled(jax.grad(noisy_value))(meta, jax.tree.map(lambda x, i=i: x[i], tasks))
                chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], gradients), expected, rtol=1e-10)

    def test_unknown_inner_gradient(self):
        with self.assertRaisesRegex(ValueError, "inner_gradient='forward' is unknown.*mixed.*plain"):
            noisy_process("forward")


class PrecisionTest(parameterized.TestCase):
    @parameterized.product(inner=INNER, dtype=("bfloat16", "float32"))
    def test_dtypes_are_kept_and_values_close(self, inner, dtype):
        meta, task = noisy_example(dtype)
        estimate = compiled(exact(noisy_process(inner), objectives.terminal(3)))(meta, task, jax.random.key(0))
        chex.assert_trees_all_equal_dtypes(estimate.gradient, meta)
        chex.assert_trees_all_equal_shapes(estimate.gradient, meta)
        self.assertEqual(estimate.trajectory.final.params.dtype, dtype)
        if dtype == "float32":
            chex.assert_trees_all_close(estimate.gradient, compiled(jax.grad(noisy_value))(meta, task), rtol=2e-4)

    @parameterized.parameters(*INNER)
    def test_low_precision_weights_with_float32_rates(self, inner):
        meta, task = noisy_example("bfloat16")
        meta["rates"] = meta["rates"].astype("float32")
        estimate = jax.eval_shape(exact(noisy_process(inner), objectives.terminal(3)), meta, task, jax.random.key(0))
        chex.assert_trees_all_equal_dtypes(estimate.gradient, meta)
        self.assertEqual(estimate.trajectory.final.params.dtype, "bfloat16")


def quadratic_process(rule, curvature, inner_gradient="mixed"):
    """Inner loss sum c (w - t)^2 / 2 with gradient c (w - t); outer loss sum (w - 2)^2."""
    return gradient_process(
        init=lambda meta, task, key: meta,
        inputs=lambda meta, task, key: (),
        inner_loss=lambda meta, w, input, task: 0.5 * jnp.sum(curvature * (w - task) ** 2),
        outer_loss=lambda meta, w, input, task: (jnp.sum((w - 2.0) ** 2), {}),
        rule=rule,
        inner_gradient=inner_gradient,
    )


class RuleTest(parameterized.TestCase):
    """Rules that carry state, by hand on a quadratic."""

    @parameterized.product(inner=INNER, eps_root=(0.0, 1e-8))
    def test_adam_at_an_exactly_zero_gradient(self, inner, eps_root):
        """sqrt has no derivative at 0: why the inner Adam needs eps_root."""
        with jax.enable_x64(True):
            start, goal, curvature = np.array([1.0, 0.3]), np.array([1.0, 0.9]), np.array([2.0, 1.5])  # w_0 = t there
            rate, eps = 0.01, 1e-8
            process = quadratic_process(optax_rule(optax.adam(rate, eps=eps, eps_root=eps_root)), curvature, inner)
            estimate = compiled(exact(process, objectives.terminal(1)))(start, goal, jax.random.key(0))
        gradient = curvature * (start - goal)
        # After one update the bias-corrected moments are the gradient and its square, so the update is
        # -rate g / (sqrt(g^2 + eps_root) + eps).
        root = np.sqrt(gradient**2 + eps_root)
        final = start - rate * gradient / (root + eps)
        np.testing.assert_allclose(estimate.trajectory.final.params, final, rtol=1e-10)
        if eps_root == 0:
            self.assertTrue(np.isnan(estimate.gradient[0]))
            self.assertTrue(np.isfinite(estimate.gradient[1]))
            return
        slope = (root + eps - gradient**2 / root) / (root + eps) ** 2
        np.testing.assert_allclose(estimate.gradient, 2 * (final - 2) * (1 - rate * curvature * slope), rtol=1e-10)

    @parameterized.product(inner=INNER, memory=("recompute", "segments"))
    def test_momentum_is_carried(self, inner, memory):
        with jax.enable_x64(True):
            start, goal, rate, decay, updates = np.array([0.2, -0.4]), np.array([1.0, 0.5]), 0.1, 0.8, 5
            curvature = np.array([2.0, 0.7])
            process = quadratic_process(optax_rule(optax.sgd(rate, momentum=decay)), curvature, inner)
            estimator = exact(process, objectives.terminal(updates), memory=memory, segment=2)
            estimate = compiled(estimator)(start, goal, jax.random.key(0))
        # A linear recurrence of (w, velocity) and of their derivatives by w_0, elementwise.
        w, velocity, dw, dvelocity = start.copy(), np.zeros(2), np.ones(2), np.zeros(2)
        for _ in range(updates):
            velocity, dvelocity = decay * velocity + curvature * (w - goal), decay * dvelocity + curvature * dw
            w, dw = w - rate * velocity, dw - rate * dvelocity
        np.testing.assert_allclose(estimate.trajectory.final.params, w, rtol=1e-12)
        np.testing.assert_allclose(estimate.trajectory.final.rule_state[0].trace, velocity, rtol=1e-12)
        np.testing.assert_allclose(estimate.gradient, 2 * (w - 2) * dw, rtol=1e-12)

    def test_rates_scale_what_the_transformation_returns(self):
        """A scalar, a pytree of scalars and a pytree of arrays; the sign turns the gradient into a descent."""
        params = {"a": jnp.ones(2), "b": jnp.ones(())}
        gradient = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
        for rates, expected in (
            (0.1, {"a": [-0.1, -0.2], "b": -0.3}),
            ({"a": 0.1, "b": 0.5}, {"a": [-0.1, -0.2], "b": -1.5}),
            ({"a": jnp.array([0.1, 1.0]), "b": 0.5}, {"a": [-0.1, -2.0], "b": -1.5}),
        ):
            rule = optax_rule(optax.identity(), lambda meta, input, rates=rates: rates)
            updates, _ = rule.update((), (), gradient, rule.init(params), params)
            chex.assert_trees_all_close(
                updates, jax.tree.map(jnp.asarray, expected, is_leaf=lambda x: isinstance(x, list))
            )


if __name__ == "__main__":
    absltest.main()
