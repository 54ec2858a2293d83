"""Averaged learning against slow loops of the paper's equations, an adaptive ODE solver and finite differences."""

import functools

import chex
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.effort import controls, networks
from metalearn.effort.system import Plan, Problem, Scenario, System, controlled, taking_turns, trajectory, value
from tests.core.problems import compiled
from tests.effort.problems import (
    BETA,
    CASES,
    HIDDEN,
    INPUTS,
    OUTPUTS,
    Acts,
    Case,
    InDoublePrecision,
    any_signal,
    at,
    examples,
    moments,
    paper_flow,
    paper_loss,
    slow_run,
    together,
    two_gaussians,
)
from tests.effort.problems import weights as any_weights

DECAY, NOISE = 0.05, 0.3
WEIGHTS = any_weights(0, INPUTS, HIDDEN, OUTPUTS)
TASKS = [moments(*examples(seed)) for seed in (0, 1)]


def learner(control: controls.Control) -> System:
    return controlled(networks.linear((INPUTS, HIDDEN, OUTPUTS)), control, DECAY, NOISE)


def close(actual, expected, tolerance=1e-12):
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


class FlowTest(InDoublePrecision):
    @parameterized.parameters(*CASES)
    def test_minus_the_gradient_of_what_is_learned(self, name):
        """rate (1/2 E sum_c e_c (y_c - yhat_c)^2 + lambda/2 |W|^2), over explicit examples."""
        control = CASES[name].control()
        signal = at(any_signal(control, 1, 1), 0)
        acts = CASES[name].acts(signal)
        x, y = examples(0)

        def learned(weights):
            first, second = (w * (1 + g) for w, g in zip(weights, acts.gains, strict=True))
            data = 0.5 * jnp.mean(((y - x @ first.T @ second.T) ** 2) @ acts.emphasis)
            return acts.rate * (data + 0.5 * DECAY * sum(jnp.sum(w**2) for w in weights))

        flow = compiled(learner(control).flow)(WEIGHTS, signal, TASKS[0])
        close(flow, jax.tree.map(np.negative, compiled(jax.grad(learned))(WEIGHTS)))

    @parameterized.parameters(*CASES)
    def test_performance_is_unweighted(self, name):
        control = CASES[name].control()
        signal = at(any_signal(control, 1, 1), 0)
        expected = paper_loss(WEIGHTS, TASKS[0], CASES[name].acts(signal), DECAY, NOISE)
        close(learner(control).loss(WEIGHTS, signal, TASKS[0]), expected)

    def test_tasks_side_by_side_descend_the_sum_of_their_own_losses(self):
        """Two independent tasks: every pair of their examples is as likely. psi weighs each task's own loss."""
        rng = np.random.default_rng(0)
        one, two = [(rng.normal(1, 1, (3, i)), rng.normal(1, 1, (3, o))) for i, o in ((2, 1), (1, 2))]
        pair = lambda a, b: np.array([[*p, *q] for p in a for q in b])
        x, y = pair(one[0], two[0]), pair(one[1], two[1])
        psi = np.array([0.4, 1.7])
        weights = any_weights(2, 3, HIDDEN, 3)

        def learned(weights):
            squares = (y - x @ weights[0].T @ weights[1].T) ** 2
            losses = [0.5 * jnp.mean(jnp.sum(part, -1)) for part in (squares[:, :1], squares[:, 1:])]
            return psi[0] * losses[0] + psi[1] * losses[1]

        system = controlled(networks.linear((3, HIDDEN, 3)), controls.task_engagement((1, 2), BETA))
        flow = compiled(system.flow)(weights, psi, moments(x, y))
        close(flow, jax.tree.map(np.negative, compiled(jax.grad(learned))(weights)))

    def test_gains_of_a_tanh_network(self):
        """The equations act on W (1 + G), their result is multiplied by 1 + G, and decay is of the raw weights."""
        network = networks.tanh_first_order(INPUTS, HIDDEN, OUTPUTS)
        control = controls.gain(WEIGHTS, BETA)
        gains = at(any_signal(control, 1, 1), 0)
        tilde = tuple(w * (1 + g) for w, g in zip(WEIGHTS, gains, strict=True))
        inside = compiled(network.descent)(tilde, TASKS[0], 1.0)
        expected = tuple((1 + g) * d - DECAY * w for g, d, w in zip(gains, inside, WEIGHTS, strict=True))
        close(compiled(controlled(network, control, DECAY).flow)(WEIGHTS, gains, TASKS[0]), expected)


class SlowLoopTest(InDoublePrecision):
    """T states, T controls, T - 1 updates."""

    STEPS, DT, GAMMA, REWARD = 7, 0.1, 0.5, 1.5

    def check(self, case: Case, tasks, turn=None, momentum=0.0, memory="segments"):
        control = case.control()
        signal = any_signal(control, 3, self.STEPS)
        acts = [case.acts(at(signal, n)) for n in range(self.STEPS)]
        task = lambda n: tasks[0 if turn is None else turn[n]]
        expected = slow_run(
            lambda w, n: paper_flow(w, task(n), acts[n], DECAY),
            lambda w, n: paper_loss(w, task(n), acts[n], DECAY, NOISE),
            lambda n: acts[n].cost,
            WEIGHTS,
            self.STEPS,
            self.DT,
            self.GAMMA,
            self.REWARD,
            momentum,
        )
        settings = {"momentum": momentum, "memory": memory, "segment": 2}
        problem = Problem(learner(control), control.cost, self.STEPS, self.DT, self.GAMMA, self.REWARD, **settings)
        scenario = Scenario(tasks[0]) if turn is None else Scenario(together(*tasks), jnp.asarray(turn))
        found = compiled(functools.partial(trajectory, problem))(Plan(WEIGHTS, signal), scenario)
        close(found.metrics, {"loss": expected.losses, "cost": expected.costs})
        close(found.losses, self.REWARD * expected.losses + expected.costs)
        close(found.final.weights, expected.states[-1])
        close(-found.value, expected.value)

    @parameterized.parameters(*CASES)
    def test_every_control(self, name):
        self.check(CASES[name], TASKS)

    @parameterized.parameters("residuals", "recompute", "segments")
    def test_task_switch_with_momentum(self, memory):
        self.check(CASES["gain"], TASKS, turn=[1, 0, 0, 1, 1, 1, 0], momentum=0.7, memory=memory)

    def test_task_switch_without_control(self):
        self.check(Case(controls.no_control, lambda signal: Acts(0.0)), TASKS, turn=[0, 0, 1, 1, 0, 0, 1])

    def test_turns_as_numpy_arrays_without_jit(self):
        """Tasks of numpy cannot be indexed by the turns of a scan."""
        problem = Problem(learner(controls.no_control()), lambda signal: jnp.zeros(()), 3, self.DT)
        scenario = Scenario(together(*TASKS), np.array([0, 1, 1]))
        found = trajectory(problem, Plan(WEIGHTS, ()), scenario)
        close(found.losses[0], paper_loss(WEIGHTS, TASKS[0], Acts(0.0), DECAY, NOISE))
        close(found.losses[2], paper_loss(found.final.weights, TASKS[1], Acts(0.0), DECAY, NOISE))

    def test_no_control_at_all(self):
        self.check(Case(controls.no_control, lambda signal: Acts(0.0)), TASKS)

    def test_shares_of_the_tasks(self):
        """dW = sum_tau s_tau (equations with that Sigma_x and the Sigma_xy of task tau); judged on the first task."""
        control = controls.task_modulation(2, BETA)
        signal = any_signal(control, 3, self.STEPS)
        nothing = Acts(0.0)

        def flow(weights, n):
            shares = np.exp(signal[n]) / np.exp(signal[n]).sum()
            met = lambda i, j, own, right: (
                getattr(TASKS[i], own) if i == j else np.outer(TASKS[i].x, getattr(TASKS[j], right))
            )
            xx = sum(shares[i] * shares[j] * met(i, j, "xx", "x") for i in range(2) for j in range(2))
            moved = [np.zeros_like(w) for w in weights]
            for tau in range(2):
                xy = sum(shares[i] * met(i, tau, "xy", "y") for i in range(2))
                part = paper_flow(weights, TASKS[tau]._replace(xx=xx, xy=xy), nothing)
                moved = [m + shares[tau] * p for m, p in zip(moved, part, strict=True)]
            return [m - DECAY * w for m, w in zip(moved, weights, strict=True)]

        expected = slow_run(
            flow,
            lambda w, n: paper_loss(w, TASKS[0], nothing, DECAY, NOISE),
            lambda n: BETA * ((signal[n] ** 2).sum() - 2) ** 2 / 2,
            WEIGHTS,
            self.STEPS,
            self.DT,
            self.GAMMA,
        )
        problem = Problem(learner(control), control.cost, self.STEPS, self.DT, self.GAMMA)
        scenario = Scenario(together(*TASKS))
        found = compiled(functools.partial(trajectory, problem))(Plan(WEIGHTS, signal), scenario)
        close(found.metrics, {"loss": expected.losses, "cost": expected.costs})
        close(-found.value, expected.value)

    def test_a_single_state(self):
        control = controls.learning_rate(BETA)
        problem = Problem(learner(control), control.cost, 1, self.DT, self.GAMMA)
        found = trajectory(problem, Plan(WEIGHTS, np.array([0.5])), Scenario(TASKS[0]))
        close(found.final.weights, WEIGHTS)
        loss = paper_loss(WEIGHTS, TASKS[0], Acts(0.0), DECAY, NOISE)
        close(-found.value, -self.DT * (loss + BETA * 0.25))

    def test_turns(self):
        np.testing.assert_array_equal(taking_turns(8, 3), [0, 0, 0, 1, 1, 1, 0, 0])
        np.testing.assert_array_equal(taking_turns(5, 1, tasks=3), [0, 1, 2, 0, 1])
        chex.assert_type(taking_turns(3, 1), jnp.int32)


class GradientTest(InDoublePrecision):
    """Of V, by finite differences; all three memories."""

    STEPS = 5

    def problem(self, control, **settings):
        return Problem(learner(control), control.cost, self.STEPS, 0.1, 0.9, **settings)

    def check(self, name, scenario, memories, **settings):
        control = CASES[name].control()
        plan = Plan(WEIGHTS, any_signal(control, 4, self.STEPS))
        of = functools.partial(value, self.problem(control, **settings))
        flat, unravel = jax.flatten_util.ravel_pytree(plan)
        moved = 1e-6 * np.concatenate([np.eye(flat.size), -np.eye(flat.size)])
        values = compiled(jax.vmap(lambda point: of(unravel(point), scenario)))(flat + moved)
        expected = (values[: flat.size] - values[flat.size :]) / 2e-6
        self.assertGreater(np.abs(expected).min(), 1e-8)  # there is something to compare, everywhere
        gradients = []
        for memory in memories:
            of = functools.partial(value, self.problem(control, memory=memory, **settings))
            gradients.append(compiled(jax.grad(lambda point, of=of: of(unravel(point), scenario)))(flat))
            self.assertLess(np.abs(gradients[-1] - expected).max() / np.abs(expected).max(), 1e-6)
            close(gradients[-1], gradients[0])

    def test_gains_in_turn_with_momentum(self):
        scenario = Scenario(together(*TASKS), taking_turns(self.STEPS, 4))
        self.check("gain", scenario, ("residuals", "recompute", "segments"), momentum=0.5)

    @parameterized.parameters("learning rate", "class vector")
    def test_one_task(self, name):
        self.check(name, Scenario(TASKS[0]), ("recompute",))

    def test_the_last_control_acts_on_its_own_instant_only(self):
        """dV/dg_{T-1} = alpha gamma^t dv/dg."""
        last, discount = self.STEPS - 1, 0.1 * 0.9 ** ((self.STEPS - 1) * 0.1)
        gain = CASES["gain"].control()
        plan = Plan(WEIGHTS, any_signal(gain, 4, self.STEPS))
        problem = self.problem(gain, memory="residuals")

        def minus_v(plan):
            found = trajectory(problem, plan, Scenario(TASKS[0]))
            return found.value, found.final.weights

        found, final = compiled(jax.grad(minus_v, has_aux=True))(plan)
        tilde = [w * (1 + g[last]) for w, g in zip(final, plan.signal, strict=True)]
        error = TASKS[0].xy.T - tilde[1] @ tilde[0] @ TASKS[0].xx  # - dL / dW
        size = sum((g[last] ** 2).sum() for g in plan.signal)
        cost = lambda g: 2 * BETA * g[last] * np.exp(BETA * size)
        expected = (
            discount * (tilde[1].T @ error * final[0] - cost(plan.signal[0])),
            discount * (error @ tilde[0].T * final[1] - cost(plan.signal[1])),
        )
        close(at(found.signal, last), jax.tree.map(np.negative, expected))

    @parameterized.parameters(0.0, -1.0)
    def test_the_last_learning_rate_only_costs(self, offset):
        last, discount = self.STEPS - 1, 0.1 * 0.9 ** ((self.STEPS - 1) * 0.1)
        control = controls.learning_rate(BETA, offset)
        rho = any_signal(control, 4, self.STEPS)
        of = compiled(jax.grad(functools.partial(value, self.problem(control, memory="residuals"))))
        found = of(Plan(WEIGHTS, rho), Scenario(TASKS[0])).signal[last]
        close(found, -2 * discount * BETA * (rho[last] - offset))

    def test_traced_settings(self):
        """gamma and dt may be traced, for sweeps in one compiled call."""
        control = controls.learning_rate(BETA)
        plan = Plan(WEIGHTS, any_signal(control, 4, self.STEPS))

        def of(gamma, dt):
            return value(Problem(learner(control), control.cost, self.STEPS, dt, gamma), plan, Scenario(TASKS[0]))

        settings = np.array([0.3, 1.0]), np.array([0.1, 0.05])
        fixed = compiled(lambda: [of(*pair) for pair in zip(*settings, strict=True)])()
        close(compiled(jax.vmap(of))(*settings), np.array(fixed))


class HorizonTest(InDoublePrecision):
    """What lies beyond the horizon does not count, as if the trajectory ended there."""

    def test_known_and_traced(self):
        control = controls.learning_rate(BETA)
        rho = jnp.asarray(any_signal(control, 4, 5))

        def of(rho, steps, horizon):
            problem = Problem(learner(control), control.cost, steps, 0.1, 0.9, horizon=horizon, memory="residuals")
            return value(problem, Plan(WEIGHTS, rho), Scenario(TASKS[0]))

        ends = compiled(lambda: [of(rho[:steps], steps, None) for steps in (1, 3, 5)])()
        known = compiled(lambda: [of(rho, 5, horizon) for horizon in (1, 3, 5)])()
        close(known, ends)
        v, gradient = compiled(jax.vmap(jax.value_and_grad(of), (None, None, 0)), static_argnums=1)(
            rho, 5, np.array([1, 3, 5])
        )
        close(v, np.array(ends))
        np.testing.assert_array_equal(gradient != 0, np.arange(5) < np.array([[1], [3], [5]]))


class OdeTest(InDoublePrecision):
    """Euler's states and V against a solver with an error of 1e-10, for signals that are smooth in t."""

    END, GAMMA = 1.0, 0.7

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with jax.enable_x64(True):
            rate, gain = controls.learning_rate(BETA), controls.gain(WEIGHTS, BETA)
            wave = lambda t: jax.tree.map(
                lambda leaf: 0.4 * jnp.sin(3 * t + jnp.arange(leaf.size).reshape(leaf.shape)), gain.neutral
            )
            tanh = networks.tanh_first_order(INPUTS, HIDDEN, OUTPUTS)
            cls.learners = {
                "gain": (learner(gain), gain.cost, wave),
                "learning rate": (learner(rate), rate.cost, lambda t: jnp.cos(4 * t)),
                "tanh": (controlled(tanh, gain, DECAY, NOISE), gain.cost, wave),
            }

            def slopes(t, state, _):
                """Of the weights and of V, for all learners at once: a solver is slow to compile."""
                result = {}
                for name, (system, cost, signal) in cls.learners.items():
                    weights, _ = state[name]
                    u = signal(t)
                    reward = -system.loss(weights, u, TASKS[0]) - cost(u)
                    result[name] = system.flow(weights, u, TASKS[0]), cls.GAMMA**t * reward
                return result

            solve = compiled(
                lambda start: (
                    diffrax.diffeqsolve(
                        diffrax.ODETerm(slopes),
                        diffrax.Tsit5(),
                        0.0,
                        cls.END,
                        0.01,
                        start,
                        stepsize_controller=diffrax.PIDController(rtol=1e-10, atol=1e-10),
                    ).ys
                )
            )
            weights = jax.tree.map(jnp.asarray, WEIGHTS)
            cls.exact = at(solve({name: (weights, jnp.zeros(())) for name in cls.learners}), -1)

    @parameterized.parameters("gain", "learning rate", "tanh")
    def test_first_order_in_dt(self, name):
        system, cost, signal = self.learners[name]
        weights, worth = self.exact[name]
        errors = []
        for updates in (150, 300):
            dt = self.END / updates
            # One state more than V needs, as the left sum stops one step before the end.
            problem = Problem(system, cost, updates + 1, dt, self.GAMMA, memory="residuals")
            signals = jax.vmap(signal)(np.arange(updates + 1) * dt)
            found = compiled(functools.partial(trajectory, problem))(Plan(WEIGHTS, signals), Scenario(TASKS[0]))
            v = -problem.discounts()[:-1] @ found.losses[:-1]
            apart = [np.abs(a - b).max() for a, b in zip(found.final.weights, weights, strict=True)]
            errors.append([max(apart), abs(v - worth)])
        coarse, fine = np.array(errors)
        self.assertLess(fine.max(), 0.01)
        for ratio in coarse / fine:
            self.assertBetween(ratio, 1.9, 2.1)


class BadArgumentsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"steps": 0}, "steps=0"),
        ({"dt": 0.0}, "dt=0.0 must be positive"),
        ({"dt": -0.1}, "dt=-0.1 must be positive"),
        ({"dt": float("nan")}, "dt=nan must be positive"),
        ({"gamma": 0.0}, r"gamma=0.0 must be in \(0, 1\]"),
        ({"gamma": 1.1}, "gamma=1.1"),
        ({"momentum": 1.0}, r"momentum=1.0 must be in \[0, 1\)"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"horizon": 0}, r"horizon=0 must be in 1 \.\. steps=3"),
        ({"horizon": 4}, r"horizon=4 must be in 1 \.\. steps=3"),
    )
    def test_problem(self, settings, message):
        system = controlled(networks.linear((1, 1)), controls.no_control())
        with self.assertRaisesRegex(ValueError, message):
            Problem(system, lambda signal: 0.0, **{"steps": 3, "dt": 0.1, **settings})

    @parameterized.parameters(({"decay": -0.1}, "decay=-0.1"), ({"noise": -0.1}, "noise=-0.1"))
    def test_controlled(self, settings, message):
        with self.assertRaisesRegex(ValueError, f"{message} must not be negative"):
            controlled(networks.linear((1, 1)), controls.no_control(), **settings)

    @parameterized.parameters(4, 6)
    def test_rows_of_the_signal_and_of_the_turns(self, rows):
        """One row fewer would otherwise pass as inputs that drive updates only."""
        control = controls.learning_rate(BETA)
        problem = Problem(controlled(networks.linear((1, 1)), control), control.cost, 5, 0.1)
        weights, task = any_weights(0, 1, 1), two_gaussians(2.0, 1.0)
        with self.assertRaisesRegex(ValueError, rf"signal has shape \({rows},\), but needs 5 rows"):
            value(problem, Plan(weights, np.zeros(rows)), Scenario(task))
        with self.assertRaisesRegex(ValueError, rf"turn has shape \({rows},\), but needs 5 rows"):
            value(problem, Plan(weights, np.zeros(5)), Scenario(together(task, task), np.zeros(rows, int)))

    @parameterized.parameters(([0, 2, 1], "0 .. 2"), ([-1, 0, 1], "-1 .. 1"))
    def test_turns_that_number_no_task(self, turn, seen):
        task = two_gaussians(2.0, 1.0)
        for kind in (np.array, jnp.array):
            with self.assertRaisesRegex(
                ValueError, rf"turn has entries in {seen}, but a leaf of task has shape \(2, 1"
            ):
                Scenario(together(task, task), kind(turn))
        with self.assertRaisesRegex(ValueError, r"has shape \(1, 1\)"):
            Scenario(task, np.array([0, 1]))

    def test_memory(self):
        system = controlled(networks.linear((1, 1)), controls.no_control())
        problem = Problem(system, lambda signal: jnp.zeros(()), 5, 0.1, memory="all")
        with self.assertRaisesRegex(ValueError, "memory='all' is unknown"):
            value(problem, Plan(any_weights(0, 1, 1), ()), Scenario(two_gaussians(2.0, 1.0)))


class ExportTest(absltest.TestCase):
    def test_lowers_for_every_platform_and_computes_the_same(self):
        weights = jax.tree.map(np.float32, WEIGHTS)
        control = controls.gain(weights, BETA)
        problem = Problem(learner(control), control.cost, 5, 0.1)
        scenario = Scenario(jax.tree.map(np.float32, together(*TASKS)), taking_turns(5, 2))
        arguments = Plan(weights, jax.tree.map(np.float32, any_signal(control, 0, 5))), scenario
        function = jax.jit(jax.value_and_grad(functools.partial(value, problem)))
        platforms = ("cpu", "cuda", "tpu")
        exported = jax.export.export(function, platforms=platforms)(*arguments)
        self.assertEqual(exported.platforms, platforms)
        chex.assert_trees_all_close(jax.jit(exported.call)(*arguments), function(*arguments), rtol=1e-5, atol=1e-7)
        chex.assert_type(jax.tree.leaves(exported.out_avals), jnp.float32)


if __name__ == "__main__":
    absltest.main()
