"""The averages of the soft committee against quadrature, its equations against online learning at finite N."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from absl.testing import absltest, parameterized

from metalearn.effort import controls
from metalearn.effort.account import course
from metalearn.effort.committee import Overlaps, activities, committee, overlaps, slope_field, slopes
from metalearn.effort.optimise import ascend
from metalearn.effort.system import Plan, Problem, Scenario, trajectory, value
from tests.core.problems import compiled
from tests.effort.problems import InDoublePrecision

g = lambda h: scipy.special.erf(h / np.sqrt(2))
slope = lambda h: np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)


def quadrature(covariance: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [nodes^F, F] and weights of a Gauss-Hermite rule for N(0, covariance)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    size = len(covariance)
    grid = np.stack(np.meshgrid(*[points] * size, indexing="ij"), -1).reshape(-1, size)
    weight = functools.reduce(np.multiply.outer, [weights / weights.sum()] * size).ravel()
    return grid @ np.linalg.cholesky(covariance).T, weight


class AveragesTest(InDoublePrecision):
    def test_against_quadrature(self):
        factor = np.random.default_rng(0).normal(size=(4, 4)) / 2
        covariance = factor @ factor.T + 0.1 * np.eye(4)
        h, weight = quadrature(covariance, 22)
        pairs = (slope(h[:, :2, None]) * slope(h[:, None, :2]) * weight[:, None, None]).reshape(len(h), 4)
        fours = pairs.T @ (g(h)[:, :, None] * g(h)[:, None, :]).reshape(len(h), 16)
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=3e-5)
        close(activities(covariance), (g(h) * weight[:, None]).T @ g(h))
        close(slope_field(covariance, 2), np.einsum("pa,pb,pc->abc", slope(h[:, :2]) * weight[:, None], h, g(h)))
        both, plain = compiled(slopes, static_argnums=1)(covariance, 2)
        close(both, fours.reshape(2, 2, 4, 4))
        close(plain, pairs.sum(0).reshape(2, 2))
        self.assertGreater(np.abs(both).min(), 1e-3)

    def test_generalisation_error_over_examples(self):
        rng = np.random.default_rng(1)
        student, teacher = rng.normal(size=(3, 5)) / 2, rng.normal(size=(2, 5)) / 2
        gains = np.array([0.3, -0.2, 0.0])
        system = committee(controls.gain(jnp.ones(3), 0.1), 3, 2, 5, noise=0.4)
        expected = system.loss(overlaps(student, teacher), gains, teacher @ teacher.T)
        x = rng.normal(size=(400_000, 5))
        errors = g(x @ teacher.T).sum(1) - g(x @ student.T) @ (1 + gains)
        sampled = 0.5 * errors**2 + 0.5 * 0.4**2
        self.assertLess(abs(float(expected) - sampled.mean()), 4 * sampled.std() / np.sqrt(len(x)))


class OnlineLearningTest(InDoublePrecision):
    def test_overlaps_of_learning_from_single_examples(self):
        """N = 200 inputs: the mean over runs, up to its standard error and O(1 / N)."""
        inputs, students, teachers, steps, runs = 200, 2, 2, 800, 60
        rate, noise = 1.2, 0.3
        rng = np.random.default_rng(0)
        student = rng.normal(size=(students, inputs)) * 0.7 / np.sqrt(inputs)
        teacher = rng.normal(size=(teachers, inputs)) / np.sqrt(inputs)
        time = np.arange(steps) / inputs
        gains = np.stack([0.3 * np.sin(time), 0.2 * np.cos(time)], 1)
        faster = 0.5 * np.cos(2 * time)
        control = controls.Control(
            (jnp.zeros(students), jnp.zeros(())), -1.0, 1.0, lambda signal: 0.0,
            weights=lambda v, signal: v * (1 + signal[0]), rate=lambda signal: 1 + signal[1],
        )  # fmt: skip

        j = np.broadcast_to(student, (runs, students, inputs)).copy()
        for n in range(steps - 1):
            x = rng.normal(size=(runs, inputs))
            fields = np.einsum("rki,ri->rk", j, x)
            v = 1 + gains[n]
            error = g(x @ teacher.T).sum(1) + noise * rng.normal(size=runs) - g(fields) @ v
            j += (1 + faster[n]) * rate / inputs * (v * slope(fields) * error[:, None])[:, :, None] * x[:, None]
        drawn = np.einsum("rki,mi->rkm", j, teacher), np.einsum("rki,rli->rkl", j, j)

        system = committee(control, students, teachers, inputs, rate, noise)
        problem = Problem(system, control.cost, steps, 1 / inputs, memory="residuals")
        plan = Plan(Overlaps(student @ teacher.T, student @ student.T), (gains, faster))
        along = compiled(lambda plan: course(problem, plan, Scenario(teacher @ teacher.T)).weights)(plan)
        for ran, averaged in zip(drawn, along, strict=True):
            error = ran.std(0) / np.sqrt(runs)
            np.testing.assert_array_less(np.abs(ran.mean(0) - averaged[-1]), 4 * error + 4 / inputs)
            self.assertGreater(np.abs(averaged[-1] - averaged[0]).max(), 0.25)
            self.assertLess(error.max(), 0.02)

    def test_who_knows_all_learns_no_more(self):
        teacher = np.random.default_rng(0).normal(size=(2, 4))
        task = teacher @ teacher.T
        system = committee(controls.no_control(), 2, 2, 4)
        same = overlaps(teacher[::-1], teacher)
        chex.assert_trees_all_close(system.flow(same, (), task), jax.tree.map(np.zeros_like, same), atol=1e-14)
        np.testing.assert_allclose(system.loss(same, (), task), 0, atol=1e-14)

    def test_initial_overlaps(self):
        """Of random vectors of norm `scale` beside an orthonormal teacher: means and spread over seeds."""
        system = committee(controls.no_control(), 3, 2, 50, scale=0.5)
        drawn = jax.vmap(system.init)(jax.random.split(jax.random.key(0), 400))
        chex.assert_shape(drawn.student_teacher, (400, 3, 2))
        np.testing.assert_allclose(np.mean(drawn.student_student, 0), 0.25 * np.eye(3), atol=0.01)
        np.testing.assert_allclose(np.std(drawn.student_teacher, 0), 0.5 / np.sqrt(50), rtol=0.15)


class ControlTest(InDoublePrecision):
    def setUp(self):
        super().setUp()
        self.weights = Overlaps(np.array([[0.2, 0.1], [0.1, 0.3]]), np.array([[0.5, 0.1], [0.1, 0.4]]))
        self.scenario = Scenario(np.eye(2))

    def problem(self, control, rate):
        system = committee(control, 2, 2, 10, rate)
        return Problem(system, control.cost, 12, 0.2, 1.0, memory="residuals")

    @parameterized.parameters("learning rate", "gain")
    def test_gradient(self, name):
        control = {
            "learning rate": controls.learning_rate(0.1),
            "gain": controls.gain(jnp.ones(2), 0.1),
        }[name]
        problem = self.problem(control, 1.0)
        signal = np.random.default_rng(0).uniform(-0.5, 0.5, (12, *control.neutral.shape))
        evaluate = compiled(
            jax.value_and_grad(lambda signal: value(problem, Plan(self.weights, signal), self.scenario))
        )
        way = np.random.default_rng(1).normal(size=signal.shape)
        numeric = (evaluate(signal + 1e-6 * way)[0] - evaluate(signal - 1e-6 * way)[0]) / 2e-6
        np.testing.assert_allclose(np.sum(evaluate(signal)[1] * way), numeric, rtol=1e-6)

    @pytest.mark.slow
    def test_a_rate_too_high_for_single_examples_is_turned_down(self):
        """eta = 8 is beyond what online learning stands (the eta^2 term); control brings learning back."""
        control = controls.learning_rate(0.0, lower=-1.0, upper=0.0)
        problem = self.problem(control, 8.0)
        worth = lambda signal: value(problem, Plan(self.weights, signal), self.scenario)
        found = compiled(lambda start: ascend(worth, start, -1.0, 0.0, optax.adam(0.05), 100))(np.zeros(12))
        losses = [
            np.asarray(trajectory(problem, Plan(self.weights, signal), self.scenario).metrics["loss"])
            for signal in (np.zeros(12), found.signal)
        ]
        self.assertGreater(losses[0][-1], losses[0][0])
        self.assertLess(losses[1][-1], 0.5 * losses[1][0])
        self.assertLess(float(found.signal[0]), -0.3)

    @parameterized.parameters(
        ({"control": controls.class_engagement(1, 0.1)}, "cannot act through `emphasis`"),
        ({"students": 0}, "students=0 and teachers=2"),
        ({"teachers": 11}, "inputs=10 no fewer than teachers"),
        ({"rate": -1.0}, "rate=-1.0 must not be negative"),
        ({"scale": -1.0}, "scale=-1.0 must not be negative"),
    )
    def test_errors(self, options, message):
        usual = {"control": controls.no_control(), "students": 2, "teachers": 2, "inputs": 10}
        with self.assertRaisesRegex(ValueError, message):
            committee(**(usual | options))


if __name__ == "__main__":
    absltest.main()
