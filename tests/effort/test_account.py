"""The account of a plan against slow loops, finite differences, and trajectories that diverge."""

import dataclasses

import jax
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.effort import controls, moments, networks
from metalearn.effort.account import account
from metalearn.effort.system import Plan, Problem, Scenario, controlled, trajectory, value
from tests.effort.problems import (
    CASES,
    TASK_A,
    TASK_B,
    InDoublePrecision,
    any_signal,
    at,
    paper_flow,
    paper_loss,
    slow_run,
    together,
    two_gaussians,
)
from tests.effort.problems import weights as any_weights

WEIGHTS = any_weights(0, 3, 4, 2)
STEPS, DT, GAMMA, REWARD, DECAY, NOISE = 6, 0.1, 0.8, 2.0, 0.05, 0.3
TURN = np.array([0, 0, 1, 1, 0, 0])


class AccountTest(InDoublePrecision):
    @parameterized.parameters("gain", "learning rate")
    def test_by_a_slow_loop_and_finite_differences(self, name):
        case = CASES[name]
        control = case.control()
        signal = any_signal(control, 0, STEPS)
        system = controlled(networks.linear((3, 4, 2)), control, DECAY, NOISE)
        problem = Problem(system, control.cost, STEPS, DT, GAMMA, REWARD, memory="residuals")
        scenario = Scenario(together(TASK_A, TASK_B), TURN)
        told = account(problem, Plan(WEIGHTS, signal), scenario)
        task = lambda n: (TASK_A, TASK_B)[TURN[n]]

        def run(signal):
            acts = [case.acts(at(signal, n)) for n in range(STEPS)]
            return slow_run(
                lambda w, n: paper_flow(w, task(n), acts[n], DECAY),
                lambda w, n: paper_loss(w, task(n), acts[n], DECAY, NOISE),
                lambda n: acts[n].cost, WEIGHTS, STEPS, DT, GAMMA, REWARD,
            )  # fmt: skip

        slow = run(signal)
        close = lambda a, b, r=1e-12: np.testing.assert_allclose(a, b, rtol=r, atol=r)
        close(told.time, DT * np.arange(STEPS))
        close(told.loss, slow.losses)
        close(told.cost, slow.costs)
        close(told.reward, -REWARD * slow.losses - slow.costs)
        close(told.earned[-1], slow.value)
        close(
            told.earned[2], sum(GAMMA ** (n * DT) * DT * (-REWARD * slow.losses[n] - slow.costs[n]) for n in range(3))
        )
        for kept, seen in zip(zip(*slow.states, strict=True), told.weights, strict=True):
            close(seen, np.stack(kept))

        leaves, structure = jax.tree.flatten(signal)
        h = 1e-6
        for n in range(STEPS):

            def moved(by, n=n):
                """The signal of step n, along its first entry and a direction in which all entries differ."""
                rng = np.random.default_rng(3)
                changed = [leaf.copy() for leaf in leaves]
                for leaf in changed:
                    leaf[n] += by * rng.normal(size=leaf.shape[1:])
                return jax.tree.unflatten(structure, changed)

            rng = np.random.default_rng(3)
            along = lambda slopes, n=n, rng=rng: sum(
                np.sum(np.asarray(leaf)[n] * rng.normal(size=leaf.shape[1:])) for leaf in jax.tree.leaves(slopes)
            )
            marginal = (run(moved(h)).value - run(moved(-h)).value) / (2 * h) / (GAMMA ** (n * DT) * DT)
            close(along(told.marginal), marginal, 1e-6)
            rng = np.random.default_rng(3)
            fixed = lambda by, n=n: (
                -REWARD * paper_loss(slow.states[n], task(n), case.acts(at(moved(by), n)), DECAY, NOISE)
                - case.acts(at(moved(by), n)).cost
            )
            along = lambda slopes, n=n, rng=rng: sum(
                np.sum(np.asarray(leaf)[n] * rng.normal(size=leaf.shape[1:])) for leaf in jax.tree.leaves(slopes)
            )
            close(along(told.immediate), (fixed(h) - fixed(-h)) / (2 * h), 1e-6)
        # The last control teaches nothing any more.
        for marginal, immediate in zip(jax.tree.leaves(told.marginal), jax.tree.leaves(told.immediate), strict=True):
            close(marginal[-1], immediate[-1])
            self.assertGreater(np.abs(marginal[0] - immediate[0]).max(), 1e-3)

    def test_a_future_that_counts_nothing_is_told_all_the_same(self):
        """gamma^t rounds to zero after the second state."""
        control = controls.learning_rate(0.1)
        system = controlled(networks.linear((3, 4, 2)), control)
        problem = lambda gamma: Problem(system, control.cost, STEPS, 2.5, gamma, memory="residuals")
        plan = Plan(jax.tree.map(lambda w: 0.1 * w, WEIGHTS), np.linspace(-0.95, -0.9, STEPS))
        told, whole = (account(problem(gamma), plan, Scenario(TASK_A)) for gamma in (1e-99, 1.0))
        np.testing.assert_allclose(told.loss, whole.loss, rtol=1e-12)
        self.assertGreater(np.abs(np.diff(told.loss)).min(), 1e-4)

    def test_momentum(self):
        control = controls.learning_rate(0.1)
        problem = Problem(
            controlled(networks.linear((3, 4, 2)), control), control.cost, STEPS, DT, momentum=0.5, memory="residuals"
        )
        plan = Plan(WEIGHTS, np.zeros(STEPS))
        told = account(problem, plan, Scenario(TASK_A))
        np.testing.assert_allclose(told.earned[-1], value(problem, plan, Scenario(TASK_A)), rtol=1e-12)
        final = trajectory(problem, plan, Scenario(TASK_A)).final.weights
        for seen, expected in zip(told.weights, final, strict=True):
            np.testing.assert_allclose(seen[-1], expected, rtol=1e-12)


class BadMomentsTest(InDoublePrecision):
    @parameterized.parameters(
        ({"xx": np.array([[1.0, 0.5, 0], [0.1, 1, 0], [0, 0, 1]])}, "moments.xx is not symmetric"),
        ({"yy": 0.1 * np.eye(2)}, "no data have these moments"),
        ({"xy": np.zeros((2, 3))}, r"moments.xy has shape \(2, 3\)"),
    )
    def test_moments_of_no_data_are_refused(self, wrong, message):
        control = CASES["gain"].control()
        problem = Problem(controlled(networks.linear((3, 4, 2)), control), control.cost, STEPS, DT)
        plan = Plan(WEIGHTS, any_signal(control, 0, STEPS))
        bad = moments.Moments(*TASK_A)._replace(**wrong)
        with self.assertRaisesRegex(ValueError, message):
            account(problem, plan, Scenario(bad))

    def test_so_is_the_second_of_two_tasks(self):
        control = CASES["gain"].control()
        problem = Problem(controlled(networks.linear((3, 4, 2)), control), control.cost, STEPS, DT)
        both = together(TASK_A, moments.Moments(*TASK_B)._replace(yy=0.1 * np.eye(2)))
        with self.assertRaisesRegex(ValueError, "no data have these moments"):
            account(problem, Plan(WEIGHTS, any_signal(control, 0, STEPS)), Scenario(both, TURN))


class DivergenceTest(InDoublePrecision):
    def problem(self, dt, steps=60):
        """dw/dt = 2 - 5 w, of which Euler steps are stable for dt < 2 / 5 alone."""
        control = controls.gain((np.zeros((1, 1)),), 0.1)
        return Problem(controlled(networks.linear((1, 1)), control), control.cost, steps, dt, memory="residuals")

    def plan(self, problem):
        return Plan((np.full((1, 1), 3.0),), (np.zeros((problem.steps, 1, 1)),))

    def test_names_the_step(self):
        scenario = Scenario(together(two_gaussians(2.0, 1.0)), np.zeros(60, np.int32))
        problem = self.problem(1e7)
        w, first = np.float64(3.0), 0
        with np.errstate(over="ignore", invalid="ignore"):
            while np.isfinite(0.5 * (1 - 4 * w + 5 * w**2)):
                w, first = w + 1e7 * (2 - 5 * w), first + 1
        self.assertBetween(first, 5, 59)
        with self.assertRaisesRegex(
            FloatingPointError, f"dt=1e\\+07 diverge: the loss of state n={first} .*, and so .* dt=78125: look at"
        ):
            account(problem, self.plan(problem), scenario)

    def test_names_a_dt_that_works(self):
        """dt = 1/2 would be finite to the same time, as it diverges more slowly; dt = 1/8 converges."""
        problem = self.problem(1.0, 600)
        with self.assertRaisesRegex(FloatingPointError, r"; with dt=0.125 it stays finite to the same time"):
            account(problem, self.plan(problem), Scenario(two_gaussians(2.0, 1.0)))
        finer = dataclasses.replace(problem, dt=0.125, steps=4800)
        self.assertTrue(np.isfinite(account(finer, self.plan(finer), Scenario(two_gaussians(2.0, 1.0))).loss).all())

    def test_trouble_at_the_start(self):
        problem = self.problem(0.1, 3)
        plan = self.plan(problem)._replace(weights=(np.full((1, 1), np.nan),))
        with self.assertRaisesRegex(FloatingPointError, "state n=0 is not finite; look at the initial weights"):
            account(problem, plan, Scenario(two_gaussians(2.0, 1.0)))


if __name__ == "__main__":
    absltest.main()
