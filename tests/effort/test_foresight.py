"""Uncertain schedules and short sight: limits whose answer is known, averages by hand, and hedging."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from metalearn.effort import controls, networks
from metalearn.effort.foresight import expected_value, receding_horizon, switched_at
from metalearn.effort.optimise import quasi_newton
from metalearn.effort.system import Plan, Problem, Scenario, controlled, value
from tests.core.problems import compiled
from tests.effort.problems import TASK_A, TASK_B, InDoublePrecision, any_signal, together, two_gaussians
from tests.effort.problems import weights as any_weights

WEIGHTS = any_weights(0, 3, 3, 2, scale=0.3)
TASKS = together(TASK_A, TASK_B)


def switching(control: controls.Control, steps: int = 24) -> Problem:
    return Problem(controlled(networks.linear((3, 3, 2)), control), control.cost, steps, 0.03, 0.9)


class SwitchTest(parameterized.TestCase):
    def test_by_enumeration(self):
        np.testing.assert_array_equal(switched_at(5, [2]), [0, 0, 1, 1, 1])
        np.testing.assert_array_equal(
            switched_at(5, [[1, 3], [4, 9], [0, 9]]), [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
        )
        np.testing.assert_array_equal(switched_at(5, [1, 2, 3], tasks=3), [0, 1, 2, 0, 0])


class ExpectedValueTest(InDoublePrecision):
    def test_average_over_scenarios(self):
        control = controls.gain(WEIGHTS, 0.3)
        problem = switching(control)
        plan = Plan(WEIGHTS, any_signal(control, 0, problem.steps))
        times, p = [3, 10, 24], np.array([0.2, 0.5, 0.3])
        each = compiled(partial(value, problem))
        worth = [float(each(plan, Scenario(TASKS, np.int32(np.arange(24) >= time)))) for time in times]
        self.assertGreater(np.ptp(worth), 0.01)
        scenarios = Scenario(together(TASKS, TASKS, TASKS), switched_at(24, np.array(times)[:, None]))
        expected = compiled(lambda plan: expected_value(problem, plan, scenarios, p))(plan)
        np.testing.assert_allclose(expected, p @ worth, rtol=1e-12)

    def test_hedging_pays(self):
        """Of three controls, each best for what it was made for, the one made for the mixture is best on average."""
        control = controls.gain(WEIGHTS, 0.1)
        problem = dataclasses.replace(switching(control), memory="residuals")
        scenarios = Scenario(together(TASKS, TASKS), switched_at(24, [[6], [18]]))
        expected = lambda signal, p: expected_value(problem, Plan(WEIGHTS, signal), scenarios, p)
        evaluate = jax.jit(jax.value_and_grad(expected))
        start = controls.constant(control, 24)
        worth = {}
        for name, p in (("early", [1.0, 0.0]), ("late", [0.0, 1.0]), ("hedged", [0.5, 0.5])):
            believed = lambda signal, p=p: evaluate(signal, jnp.array(p))
            found = quasi_newton(expected, start, -0.5, 0.5, 200, 1e-5, value_and_gradient=believed)
            worth[name] = {q: float(evaluate(found.signal, jnp.array(q))[0]) for q in ((1.0, 0), (0, 1.0), (0.5, 0.5))}
        for q, best in (((1.0, 0), "early"), ((0, 1.0), "late"), ((0.5, 0.5), "hedged")):
            for name in worth.keys() - {best}:
                self.assertGreater(worth[best][q], worth[name][q] + 1e-4, (q, best, name))

    def test_errors(self):
        control = controls.learning_rate(0.1)
        problem, plan = switching(control), Plan(WEIGHTS, np.zeros(24))
        scenarios = Scenario(together(TASK_A, TASK_B))
        for p, message in (
            (np.ones(3) / 3, r"probabilities have shape \(3,\), but a leaf of scenarios \(2, 3, 3\)"),
            (np.array([0.5, 0.6]), "must sum to 1"),
            (np.array([-0.5, 1.5]), "must not be negative"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                expected_value(problem, plan, scenarios, p)


class RecedingHorizonTest(InDoublePrecision):
    """Single neuron, its gain g >= 0."""

    steps = 40

    def setUp(self):
        super().setUp()
        self.weights = (np.array([[0.05]]),)
        self.control = controls.gain(self.weights, 0.3, cost="quadratic")
        system = controlled(networks.linear((1, 1)), self.control, decay=0.1)
        self.problem = Problem(system, self.control.cost, self.steps, 0.02, 0.9, memory="residuals")
        self.start = Plan(self.weights, controls.constant(self.control, self.steps))
        self.scenario = Scenario(two_gaussians(2.0, 1.0))

    def run_with(self, look_ahead, replan=1, tolerance=1e-7):
        return receding_horizon(
            self.problem, self.start, self.scenario, 0.0, 0.5, look_ahead, replan, tolerance=tolerance
        )

    def test_sight_of_all_is_the_optimum_of_the_whole_trajectory(self):
        whole = lambda signal: value(self.problem, Plan(self.weights, signal), self.scenario)
        optimum = quasi_newton(whole, self.start.signal, 0.0, 0.5, tolerance=1e-7)
        at_once = self.run_with(self.steps, self.steps)
        self.assertLen(at_once.evaluations, 1)
        np.testing.assert_allclose(at_once.value, optimum.value, rtol=1e-9)
        # Bellman: to plan again on the way, up to the end, changes nothing.
        again = self.run_with(self.steps, 8)
        np.testing.assert_allclose(again.value, optimum.value, rtol=1e-8)
        np.testing.assert_allclose(again.signal[0], optimum.signal[0], atol=1e-3)

    def test_sight_of_the_present_alone(self):
        """max over g of mu w~ - (mu^2 + sigma^2) w~^2 / 2 - beta g^2, w~ = w (1 + g), at each step, in closed form."""
        applied = self.run_with(1)
        w, expected = 0.05, []
        for _ in range(self.steps):
            g = np.clip((2 * w - 5 * w**2) / (5 * w**2 + 2 * 0.3), 0, 0.5)
            expected.append(g)
            w += 0.02 * ((2 - 5 * w * (1 + g)) * (1 + g) - 0.1 * w)
        self.assertGreater(max(expected), 0.1)
        np.testing.assert_allclose(applied.signal[0][:, 0, 0], expected, atol=1e-5)
        worth = value(self.problem, Plan(self.weights, applied.signal), self.scenario)
        np.testing.assert_allclose(applied.value, worth, rtol=1e-12)

    @pytest.mark.slow
    def test_more_foresight_is_worth_more(self):
        values = [float(self.run_with(look, replan, 1e-5).value) for look, replan in ((1, 1), (8, 4), (20, 4), (40, 8))]
        self.assertEqual(values, sorted(values))
        self.assertGreater(values[1], values[0] + 1e-4)

    def test_momentum_and_turns_carry_over_from_window_to_window(self):
        """Looking at all there is, with windows that do not divide the steps: still the open-loop optimum."""
        control = controls.learning_rate(1.0)
        problem = dataclasses.replace(switching(control, 10), momentum=0.5, memory="residuals")
        scenario = Scenario(TASKS, switched_at(10, [5]))
        start = Plan(WEIGHTS, np.zeros(10))
        whole = lambda signal: value(problem, Plan(WEIGHTS, signal), scenario)
        optimum = quasi_newton(whole, start.signal, -1.0, 1.0, tolerance=1e-7)
        applied = receding_horizon(problem, start, scenario, -1.0, 1.0, 10, 4, tolerance=1e-7)
        self.assertLen(applied.evaluations, 3)
        self.assertBetween(np.ptp(optimum.signal[4:]), 0.1, 0.99)  # there is something to get wrong
        np.testing.assert_allclose(applied.signal, optimum.signal, atol=1e-4)

    def test_other_weights_and_tasks_share_what_is_compiled(self):
        traced = []
        flow = self.problem.system.flow

        def counted(*arguments):
            traced.append(1)
            return flow(*arguments)

        self.problem = dataclasses.replace(self.problem, system=self.problem.system._replace(flow=counted))
        first = self.run_with(3, 2, 1e-3).value
        self.assertNotEmpty(traced)
        traced.clear()
        self.start = self.start._replace(weights=(np.array([[0.3]]),))
        self.scenario = Scenario(two_gaussians(1.0, 1.0))
        self.assertGreater(abs(self.run_with(3, 2, 1e-3).value - first), 1e-3)
        self.assertEmpty(traced)

    def test_errors(self):
        for look_ahead, replan, message in (
            (0, 1, "look_ahead=0 must be in 1 .. 40"),
            (41, 1, "look_ahead=41 must be in 1 .. 40"),
            (5, 6, "replan=6 must be in 1 .. look_ahead=5"),
            (5, 0, "replan=0"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                self.run_with(look_ahead, replan)


if __name__ == "__main__":
    absltest.main()
