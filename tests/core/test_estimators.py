"""Estimators against closed forms and hand-written loops; the identity in place of a missing first-order step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from metalearn.core import (
    ESTIMATORS,
    LearningProcess,
    displacement,
    estimator_named,
    exact,
    first_order,
    gradient_process,
    implicit,
    objectives,
    optax_rule,
    stepwise,
    truncated,
)
from tests.core.problems import compiled, linear_regression, slow_states


def quadratic_maml(task, start, updates, rate):
    """In numpy: loss and exact gradient of the query loss after `updates` steps, and the query gradient there.

    With the inner loss |X w - y|^2 / 2n, an update is w -> A w + c with A = 1 - rate X'X / n, so dw_K/dw_0 = A^K.
    """
    x, y, query_x, query_y = (np.asarray(task[name]) for name in ("x", "y", "query_x", "query_y"))
    hessian, linear = x.T @ x / len(y), x.T @ y / len(y)
    jacobian = np.linalg.matrix_power(np.eye(len(start)) - rate * hessian, updates)
    optimum = np.linalg.solve(hessian, linear)
    last = optimum + jacobian @ (start - optimum)
    error = query_x @ last - query_y
    query_gradient = query_x.T @ error / len(query_y)
    return 0.5 * np.mean(error**2), jacobian.T @ query_gradient, query_gradient


class QuadraticTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.problem = linear_regression()
        self.task = self.problem.new_task(7)
        self.oracle = quadratic_maml(self.task, self.problem.meta["w"], updates=5, rate=0.3)

    def estimate(self, estimator):
        of_one = compiled(estimator(self.problem.process(), objectives.terminal(5)))
        return of_one(self.problem.meta, self.task, jax.random.key(0))

    @parameterized.parameters(lambda: exact, lambda: truncated(5), lambda: truncated(9), lambda: truncated(None))
    def test_second_order(self, estimator):
        value, gradient, _ = self.oracle
        estimate = self.estimate(estimator())
        np.testing.assert_allclose(estimate.trajectory.value, value, rtol=1e-12)
        np.testing.assert_allclose(estimate.gradient["w"], gradient, rtol=1e-12)

    @parameterized.parameters(lambda: first_order, lambda: truncated(0))
    def test_first_order_is_the_query_gradient_at_the_adapted_weights(self, estimator):
        value, second_order, query_gradient = self.oracle
        estimate = self.estimate(estimator())
        np.testing.assert_allclose(estimate.trajectory.value, value, rtol=1e-12)
        np.testing.assert_allclose(estimate.gradient["w"], query_gradient, rtol=1e-12)
        self.assertGreater(np.linalg.norm(query_gradient - second_order), 0.1 * np.linalg.norm(second_order))

    def test_truncated_keeps_the_last_jacobians(self):
        x = np.asarray(self.task["x"])
        jacobian = np.eye(3) - 0.3 * x.T @ x / len(x)
        expected = jacobian.T @ jacobian.T @ self.oracle[2]
        np.testing.assert_allclose(self.estimate(truncated(2)).gradient["w"], expected, rtol=1e-12)

    def test_stepwise_keeps_the_jacobian_of_the_update_that_made_each_state(self):
        x, y = np.asarray(self.task["query_x"]), np.asarray(self.task["query_y"])
        jacobian = np.eye(3) - 0.3 * np.asarray(self.task["x"]).T @ self.task["x"] / len(self.task["x"])
        weights = np.array([0.5, 1.0, 0.0, 2.0, 0.0, 1.0])
        states = slow_states(self.problem, self.problem.meta, self.task)
        along = [x.T @ (x @ w - y) / len(y) for w in states]
        expected = weights[0] * along[0] + jacobian.T @ sum(w * g for w, g in zip(weights[1:], along[1:], strict=True))
        found = compiled(stepwise(self.problem.process(), weights))(self.problem.meta, self.task, jax.random.key(0))
        np.testing.assert_allclose(found.gradient["w"], expected, rtol=1e-12)
        values = [0.5 * np.mean((x @ w - y) ** 2) for w in states]
        np.testing.assert_allclose(found.trajectory.value, weights @ values, rtol=1e-12)
        chex.assert_trees_all_close(found.trajectory.final.params, states[-1], rtol=1e-12)

    def test_displacement(self):
        expected = self.problem.meta["w"] - slow_states(self.problem, self.problem.meta, self.task)[-1]
        np.testing.assert_allclose(self.estimate(displacement).gradient["w"], expected, rtol=1e-12)

    @parameterized.parameters(False, True)
    def test_implicit_at_the_optimum(self, strength_is_an_input):
        """|X w - y|^2 / 2n + c |w - start|^2 / 2 is least at w = (X'X / n + c)^-1 (X'y / n + c start).

        As an input, c has one row more than there are updates, which is seen by the loss and drives nothing.
        """
        strength, last, updates = 0.8, 5.0, 80
        squares = lambda w, task, part: 0.5 * jnp.mean((task[part + "x"] @ w - task[part + "y"]) ** 2)
        process = gradient_process(
            init=lambda meta, task, key: meta["w"],
            inputs=lambda meta, task, key: (
                jnp.full(updates + 1, strength).at[-1].set(last) if strength_is_an_input else ()
            ),
            inner_loss=lambda meta, w, input, task: (
                squares(w, task, "") + (input if strength_is_an_input else strength) / 2 * jnp.sum((w - meta["w"]) ** 2)
            ),
            outer_loss=lambda meta, w, input, task: (
                meta["scale"] * squares(w, task, "query_") * (input if strength_is_an_input else last),
                {},
            ),
            rule=optax_rule(optax.sgd(0.3)),
        )
        meta = {"w": self.problem.meta["w"], "scale": np.array(1.7)}
        estimator = implicit(3)(process, objectives.terminal(updates))
        found = compiled(estimator)(meta, self.task, jax.random.key(0))
        x, y, query_x, query_y = (np.asarray(self.task[name]) for name in ("x", "y", "query_x", "query_y"))
        system = x.T @ x / len(y) + strength * np.eye(3)
        optimum = np.linalg.solve(system, x.T @ y / len(y) + strength * meta["w"])
        error = query_x @ optimum - query_y
        expected = 1.7 * last * strength * np.linalg.solve(system, query_x.T @ error / len(query_y))
        np.testing.assert_allclose(found.gradient["w"], expected, rtol=1e-8)
        np.testing.assert_allclose(found.gradient["scale"], last * 0.5 * np.mean(error**2), rtol=1e-8)

    def test_final_state(self):
        final = self.estimate(exact).trajectory.final
        chex.assert_trees_all_close(
            final.params, slow_states(self.problem, self.problem.meta, self.task)[-1], rtol=1e-12
        )


class PreparedTest(parameterized.TestCase):
    """What `prepare` makes of a task once is what computing it at every update would make of it."""

    ESTIMATORS = {
        "exact": exact,
        "truncated": truncated(2),
        "first_order": first_order,
        "stepwise": stepwise,
        "displacement": displacement,
        "implicit": implicit(3),
    }

    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        problem = linear_regression()

        def prepare(meta, task):
            return task | {name: jnp.tanh(task[name] @ meta["body"]) for name in ("x", "query_x")}

        def process(at_every_update):
            """The start is taken from features as well."""

            def of(function):
                if not at_every_update:
                    return function
                return lambda meta, *rest: function(meta, *rest[:-1], prepare(meta, rest[-1]))

            start = of(lambda meta, task: meta["w"] + task["x"].mean(0))
            tied = lambda meta, w: jnp.sum((w - meta["w"]) ** 2)
            inner = lambda meta, w, input, task: problem.inner_loss(meta, w, input, task) + tied(meta, w)
            return gradient_process(
                init=lambda meta, task, key: start(meta, task),
                inputs=lambda meta, task, key: (),
                inner_loss=of(inner),
                outer_loss=of(lambda meta, w, input, task: (problem.outer_loss(meta, w, task), {})),
                rule=optax_rule(optax.sgd(0.2)),
            )

        self.once, self.always = process(False)._replace(prepare=prepare), process(True)
        self.meta = problem.meta | {"body": np.random.default_rng(0).normal(size=(3, 3))}
        self.task = problem.new_task(7)

    @parameterized.parameters(*ESTIMATORS)
    def test_every_estimator(self, name):
        of = lambda process: compiled(self.ESTIMATORS[name](process, objectives.terminal(4)))
        once, always = (of(process)(self.meta, self.task, jax.random.key(0)) for process in (self.once, self.always))
        chex.assert_trees_all_close(once, always, rtol=1e-10)
        self.assertGreater(np.abs(once.gradient["body"]).max(), 1e-3)

    @parameterized.parameters("residuals", "recompute", "segments")
    def test_finite_differences(self, memory):
        of_one = compiled(exact(self.once, objectives.terminal(4), memory=memory))
        estimate = lambda meta: of_one(meta, self.task, jax.random.key(0))
        direction = np.random.default_rng(1).normal(size=(3, 3))
        moved = lambda size: self.meta | {"body": self.meta["body"] + size * direction}
        slope = (estimate(moved(1e-5)).trajectory.value - estimate(moved(-1e-5)).trajectory.value) / 2e-5
        np.testing.assert_allclose(np.sum(estimate(self.meta).gradient["body"] * direction), slope, rtol=1e-7)


def euler_process(dt):
    """ds/dt = a s^2 + u(t), whose loss sees the control: no gradient descent, and no first-order step."""
    return LearningProcess(
        init=lambda meta, task, key: {"s": meta["s"], "count": jnp.zeros((), jnp.int32)},
        inputs=lambda meta, task, key: meta["u"],
        step=lambda meta, state, u, task: {
            "s": state["s"] + dt * (meta["a"] * state["s"] ** 2 + u),
            "count": state["count"] + 1,
        },
        loss=lambda meta, state, u, task: (state["s"] ** 3 * task + u**2, {}),
    )


class IdentityJacobianTest(parameterized.TestCase):
    """Without `first_order_step`, ds_{k+1}/ds_k is the identity; the rest of the update is differentiated."""

    @parameterized.product(horizon=(0, 2, 4), memory=("residuals", "recompute", "segments"))
    def test_against_the_chain_rule_by_hand(self, horizon, memory):
        with jax.enable_x64(True):
            updates, dt, task = 4, 0.3, 1.7
            meta = {"s": np.array(0.4), "a": np.array(-0.6), "u": np.array([0.3, -0.2, 0.5, 0.1, 0.7])}
            weights = np.array([0.5, 0.0, 1.0, 2.0, 1.5])
            estimator = truncated(horizon)(euler_process(dt), weights, memory=memory, segment=3)
            estimate = compiled(estimator)(meta, np.array(task), jax.random.key(0))

        states = [meta["s"]]
        for k in range(updates):
            states.append(states[-1] + dt * (meta["a"] * states[-1] ** 2 + meta["u"][k]))
        value = sum(w * (s**3 * task + u**2) for w, s, u in zip(weights, states, meta["u"], strict=True))
        expected = {"s": 0.0, "a": 0.0, "u": 2 * weights * meta["u"]}
        along_state = 0.0  # dJ/ds_k, backwards
        for k in reversed(range(updates + 1)):
            along_state += weights[k] * 3 * states[k] ** 2 * task
            if k == 0:
                expected["s"] = along_state
                break
            before = states[k - 1]
            expected["a"] += along_state * dt * before**2
            expected["u"][k - 1] += along_state * dt
            if k > updates - horizon:
                along_state *= 1 + dt * meta["a"] * 2 * before
        np.testing.assert_allclose(estimate.trajectory.value, value, rtol=1e-12)
        chex.assert_trees_all_close(estimate.gradient, expected, rtol=1e-12)
        self.assertEqual(estimate.trajectory.final["count"], updates)


class PassThroughTest(absltest.TestCase):
    def test_values_are_those_of_the_step_even_where_not_finite(self):
        """A state may well hold the smallest loss so far, which begins at infinity."""
        process = LearningProcess(
            init=lambda meta, task, key: {"best": jnp.inf, "x": meta},
            inputs=lambda meta, task, key: (),
            step=lambda meta, state, input, task: {"best": jnp.minimum(state["best"], jnp.inf), "x": 2 * state["x"]},
            loss=lambda meta, state, input, task: (state["x"], {}),
        )
        estimate = compiled(first_order(process, objectives.terminal(2)))(1.5, (), jax.random.key(0))
        self.assertEqual(estimate.trajectory.final["best"], np.inf)
        self.assertEqual(estimate.trajectory.value, 6.0)
        self.assertEqual(estimate.gradient, 1.0)


class NamesTest(parameterized.TestCase):
    @parameterized.parameters(
        ("exact", exact), ("first_order", first_order), ("stepwise", stepwise), ("displacement", displacement)
    )
    def test_names(self, name, estimator):
        self.assertIs(estimator_named(name), estimator)

    def test_names_that_take_a_number(self):
        """Truncated by hand in one dimension: x -> x/2 four times, judged by x. Implicit: a fixed point."""
        process = LearningProcess(
            init=lambda meta, task, key: meta,
            inputs=lambda meta, task, key: (),
            step=lambda meta, state, input, task: state / 2,
            loss=lambda meta, state, input, task: (state, {}),
        )
        for horizon in (1, 3):
            estimator = estimator_named("truncated", horizon=horizon)
            found = estimator(process, objectives.terminal(4))(1.0, (), jax.random.key(0)).gradient
            self.assertEqual(found, 0.5**horizon)
        # s = s / 2 + meta at the fixed point: ds/dmeta = 2.
        tied = process._replace(step=lambda meta, state, input, task: state / 2 + meta)
        estimator = estimator_named("implicit", iterations=1)
        self.assertEqual(estimator(tied, objectives.terminal(4))(1.0, (), jax.random.key(0)).gradient, 2.0)

    def test_all_names(self):
        for name in ESTIMATORS:
            self.assertTrue(callable(estimator_named(name, horizon=1, iterations=1)))

    def test_errors_name_what_to_change(self):
        with self.assertRaisesRegex(ValueError, "estimator='maml' is unknown.*" + ".*".join(ESTIMATORS)):
            estimator_named("maml")
        with self.assertRaisesRegex(ValueError, "needs a horizon"):
            estimator_named("truncated", iterations=2)
        with self.assertRaisesRegex(ValueError, "needs iterations"):
            estimator_named("implicit", horizon=2)
        with self.assertRaisesRegex(ValueError, "horizon=-1 must not be negative"):
            estimator_named("truncated", horizon=-1)
        with self.assertRaisesRegex(ValueError, "iterations=0"):
            implicit(0)
        with self.assertRaisesRegex(ValueError, "the last state only"):
            implicit(1)(linear_regression().process(), objectives.every_update(2))


if __name__ == "__main__":
    absltest.main()
