"""Learning from mini-batches against slow loops, exact moments of SGD, averaged equations and finite differences."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

from metalearn.effort import controls, datasets, networks
from metalearn.effort.optimise import ascend
from metalearn.effort.sampled import example_loss, sampled_flow, sampled_value, validate
from metalearn.effort.system import Plan, Problem, Scenario, controlled, taking_turns, trajectory
from tests.core.problems import compiled
from tests.effort.problems import CASES, InDoublePrecision, any_signal, at, slow_run
from tests.effort.problems import weights as any_weights

DECAY, NOISE = 0.05, 0.3
WEIGHTS = any_weights(0, 3, 4, 2)
LINEAR = networks.linear((3, 4, 2))


def batches(draw, steps: int, key):
    """What a run draws, in the order that the core hands out keys: those of the updates, split off the second."""
    _, inputs_key = jax.random.split(key)
    examples = []
    for n, step_key in enumerate(jax.random.split(inputs_key, steps)):
        of_examples, of_noise = jax.random.split(step_key)
        x, y = draw(n, of_examples)
        examples.append((np.asarray(x), np.asarray(y) + NOISE * np.asarray(jax.random.normal(of_noise, y.shape))))
    return examples


class StepTest(InDoublePrecision):
    @parameterized.parameters("gain", "learning rate", "class vector")
    def test_a_run_is_a_slow_loop_over_the_same_batches(self, name):
        """Back-propagation by hand through the two layers, one example after the other."""
        steps, dt, batch, key = 5, 0.1, 3, jax.random.key(1)
        control = CASES[name].control()
        signal = any_signal(control, 2, steps)
        problem = Problem(controlled(LINEAR, control, DECAY, NOISE), control.cost, steps, dt, momentum=0.3)
        data = datasets.task_a()
        flow = sampled_flow(LINEAR, control, data, batch, DECAY, NOISE)
        run = compiled(lambda plan, scenario: sampled_value(problem, flow, plan, scenario, key))
        drawn = batches(lambda n, k: data.sample(k, batch), steps, key)

        def by_hand(weights, n):
            acts = CASES[name].acts(at(signal, n))
            gains = [1 + g for g in acts.gains]
            first, second = (w * g for w, g in zip(weights, gains, strict=True))
            moved = [np.zeros_like(w) for w in weights]
            for x, y in zip(*drawn[n], strict=True):
                error = acts.emphasis * (y - second @ (first @ x))
                moved[0] += gains[0] * np.outer(second.T @ error, x) / batch
                moved[1] += gains[1] * np.outer(error, first @ x) / batch
            return [acts.rate * (m - DECAY * w) for m, w in zip(moved, weights, strict=True)]

        slow = slow_run(
            by_hand,
            lambda weights, n: float(problem.system.loss(weights, at(signal, n), data.moments)),
            lambda n: CASES[name].acts(at(signal, n)).cost,
            WEIGHTS, steps, dt, 0.99, momentum=0.3,
        )  # fmt: skip
        np.testing.assert_allclose(run(Plan(WEIGHTS, signal), Scenario(data.moments)), slow.value, rtol=1e-12)

    def test_any_network_learns_by_its_predictions(self):
        """tanh, whose slope is written down here; performance on given examples."""
        steps, dt, batch, key = 6, 0.1, 3, jax.random.key(1)
        network = networks.tanh_first_order(3, 4, 2)
        control = controls.learning_rate(0.3)
        rho = any_signal(control, 2, steps)
        data = datasets.task_a()
        held_out = data.sample(jax.random.key(9), 7)
        judged = controlled(network, control)._replace(loss=example_loss(network, control, DECAY, NOISE))
        problem = Problem(judged, control.cost, steps, dt)
        flow = sampled_flow(network, control, data, batch, DECAY, NOISE)
        drawn = batches(lambda n, k: data.sample(k, batch), steps, key)

        def by_hand(weights, n):
            x, y = drawn[n]
            hidden = np.tanh(x @ weights[0].T)
            error = (y - hidden @ weights[1].T) / batch
            moved = ((error @ weights[1]) * (1 - hidden**2)).T @ x, error.T @ hidden
            return [(1 + rho[n]) * (m - DECAY * w) for m, w in zip(moved, weights, strict=True)]

        def loss(weights, n):
            x, y = map(np.asarray, held_out)
            squares = (y - np.tanh(x @ weights[0].T) @ weights[1].T) ** 2
            return 0.5 * squares.mean(0).sum() + NOISE**2 + 0.5 * DECAY * sum((w**2).sum() for w in weights)

        slow = slow_run(by_hand, loss, lambda n: 0.3 * rho[n] ** 2, WEIGHTS, steps, dt, 0.99)
        run = compiled(lambda plan, scenario: sampled_value(problem, flow, plan, scenario, key))
        np.testing.assert_allclose(run(Plan(WEIGHTS, rho), Scenario(held_out)), slow.value, rtol=1e-12)

    def test_the_mean_over_batches_is_the_averaged_flow(self):
        """Semantic data, class shares: the moments of a mixture are what many batches average to."""
        data = datasets.semantic(2)
        network, phi = networks.linear((2, 2, 3)), np.array([0.5, 2.0, 1.0])
        weights = any_weights(3, 2, 2, 3)
        control = controls.class_engagement(3, 0.1)
        shares = phi / phi.sum()
        mixed = jax.tree.map(lambda leaf: np.tensordot(shares, leaf, 1), data.parts)
        first, second = weights
        error = mixed.xy.T - second @ first @ mixed.xx
        expected = second.T @ error, error @ first.T
        flow = sampled_flow(network, control, data, 2, shares=lambda phi: phi)
        keys = jax.random.split(jax.random.key(0), 5_000)
        flows = compiled(jax.vmap(lambda key: flow(weights, phi, None, key)))(keys)
        for drawn, mean in zip(flows, expected, strict=True):
            error = np.std(drawn, 0) / np.sqrt(len(keys))
            np.testing.assert_array_less(np.abs(np.mean(drawn, 0) - mean), 4.5 * error + 1e-12)
            self.assertLess(error.max(), 0.02)

    def test_softmax_shares_of_tasks(self):
        """u is a large preference: all examples come from the second of two tasks, whose inputs are all 2."""
        one = lambda value: datasets.from_arrays([[value]], [[3.0]], bias=False)
        control = controls.task_modulation(2, 0.1)
        flow = sampled_flow(
            networks.linear((1, 1)), control, datasets.mixture([one(1.0), one(2.0)]), 4, shares=jax.nn.softmax
        )
        moved = compiled(lambda w, u: flow((w,), u, None, jax.random.key(0)))(np.array([[0.5]]), np.array([0.0, 50.0]))
        chex.assert_trees_all_close(moved, (np.array([[(3 - 0.5 * 2) * 2.0]]),))

    def test_tasks_take_turns(self):
        """One example each, so that a batch shows its task: the trajectory is that of full batches."""
        x, y = np.array([1.0, 2.0]), np.array([3.0, -1.0])
        tasks = [datasets.from_arrays([[a]], [[b]], bias=False) for a, b in zip(x, y, strict=True)]
        network, control = networks.linear((1, 1)), controls.no_control()
        steps, dt = 7, 0.1
        problem = Problem(controlled(network, control), control.cost, steps, dt)
        data = datasets.mixture(tasks)
        scenario = Scenario(data.parts, taking_turns(steps, 2))
        flow = sampled_flow(network, control, data, 3)
        keys = jax.random.split(jax.random.key(0), 2)
        ran = compiled(lambda w: validate(problem, flow, Plan((w,), ()), scenario, keys))(np.zeros((1, 1)))
        w, losses = 0.0, []
        for n in range(steps):
            a, b = x[n // 2 % 2], y[n // 2 % 2]
            losses.append(0.5 * (b - w * a) ** 2)
            w += dt * (b - w * a) * a
        np.testing.assert_allclose(ran.losses, [losses] * 2, rtol=1e-12)


class ValidateTest(InDoublePrecision):
    def test_records_every_so_many_states_of_runs_that_differ(self):
        control = controls.learning_rate(0.3)
        steps = 8
        plan = Plan(WEIGHTS, any_signal(control, 0, steps))
        data = datasets.task_a()
        problem = Problem(controlled(LINEAR, control), control.cost, steps, 0.05)
        flow = sampled_flow(LINEAR, control, data, 2)
        keys = jax.random.split(jax.random.key(0), 3)
        seen = lambda every, runs: validate(problem, flow, plan, Scenario(data.moments), keys[:runs], every)
        all_states, some, alone = compiled(lambda: (seen(1, 3), seen(3, 3), seen(3, 1)))()
        np.testing.assert_array_equal(some.steps, [0, 3, 6])
        np.testing.assert_allclose(some.losses, all_states.losses[:, ::3], rtol=1e-13)
        self.assertEqual(len(np.unique(all_states.losses[:, -1])), 3)
        np.testing.assert_allclose(some.mean, np.mean(some.losses, 0))
        np.testing.assert_allclose(some.error, np.std(some.losses, 0, ddof=1) / np.sqrt(3), atol=1e-12)
        self.assertTrue(np.isnan(alone.error).all())

    @parameterized.parameters((0.02, 4), (0.02, 1), (0.005, 4))
    def test_mean_loss_is_that_of_the_exact_moments_of_sgd(self, dt, batch):
        """Single neuron: E[w] and E[w^2] after each batch in closed form, u = x y ~ N(mu, sigma^2)."""
        mu, sigma, time, runs = 1.0, 0.7, 2.0, 3000
        steps = round(time / dt)
        network, control = networks.linear((1, 1)), controls.no_control()
        data = datasets.two_gaussians(mu, sigma)
        problem = Problem(controlled(network, control), control.cost, steps + 1, dt)
        flow = sampled_flow(network, control, data, batch)
        keys = jax.random.split(jax.random.key(batch), runs)
        plan = Plan((np.zeros((1, 1)),), ())
        ran = compiled(lambda plan: validate(problem, flow, plan, Scenario(data.moments), keys, steps // 10))(plan)
        square = mu**2 + sigma**2
        fourth = mu**4 + 6 * mu**2 * sigma**2 + 3 * sigma**4
        third = mu**3 + 3 * mu * sigma**2
        a2 = square**2 + (fourth - square**2) / batch
        ab = square * mu + (third - square * mu) / batch
        b2 = mu**2 + sigma**2 / batch
        first, second, exact, averaged = 0.0, 0.0, [], []
        for _ in range(steps + 1):
            exact.append(0.5 * (1 - 2 * mu * first + square * second))
            averaged.append(0.5 * (1 - 2 * mu * first + square * first**2))
            second = (1 - 2 * dt * square + dt**2 * a2) * second + 2 * dt * (mu - dt * ab) * first + dt**2 * b2
            first = first + dt * (mu - square * first)
        exact, averaged = np.array(exact)[ran.steps], np.array(averaged)[ran.steps]
        np.testing.assert_array_less(np.abs(ran.mean - exact), 4 * ran.error + 1e-12)
        # The test sees the gap to the averaged equations, which is proportional to dt / batch.
        gap = exact[-1] - averaged[-1]
        self.assertGreater(gap, 6 * ran.error[-1])
        self.assertBetween(gap / (dt / batch), 0.045, 0.06)

    @parameterized.parameters((32, 20, 3e-3), (512, 10, 1.2e-3))
    @pytest.mark.slow
    def test_task_a_without_control(self, batch, runs, most):
        """800 steps of 5e-3: the averaged equations stand in for SGD to about 1e-3."""
        network, control = networks.linear((3, 6, 2)), controls.no_control()
        data = datasets.task_a()
        problem = Problem(controlled(network, control), control.cost, 800, 5e-3)
        plan = Plan(tuple(20 * w for w in network.init(jax.random.key(0))), ())
        flow = sampled_flow(network, control, data, batch)
        keys = jax.random.split(jax.random.key(batch), runs)
        ran = compiled(lambda plan: validate(problem, flow, plan, Scenario(data.moments), keys, 50))(plan)
        averaged = compiled(lambda plan: trajectory(problem, plan, Scenario(data.moments)))(plan).metrics["loss"]
        self.assertLess(float(np.max(np.abs(ran.mean - averaged[::50]))), most)
        self.assertGreater(float(averaged[0] - averaged[-1]), 0.6)


class ControlTest(InDoublePrecision):
    """Control of a run of sampled learning, by common random numbers."""

    def setUp(self):
        super().setUp()
        network = networks.tanh_first_order(3, 3, 2)
        self.data = datasets.task_a()
        self.weights = any_weights(2, 3, 3, 2, scale=0.3)
        self.control = controls.gain(self.weights, 0.3)
        judged = controlled(network, self.control)._replace(loss=example_loss(network, self.control, 0.01))
        self.problem = Problem(judged, self.control.cost, 12, 0.1)
        self.flow = sampled_flow(network, self.control, self.data, 8, 0.01)
        self.scenario = Scenario(self.data.sample(jax.random.key(5), 64))

    def test_gradient_of_the_value_of_a_run(self):
        key = jax.random.key(3)
        run = lambda signal: sampled_value(self.problem, self.flow, Plan(self.weights, signal), self.scenario, key)
        signal = any_signal(self.control, 0, 12)
        evaluate = compiled(jax.value_and_grad(run))
        _, slope = evaluate(signal)
        for seed in range(4):
            way = jax.tree.map(lambda leaf, s=seed: np.random.default_rng(s).normal(size=leaf.shape), signal)
            ahead, behind = (jax.tree.map(lambda u, d, h=h: u + h * d, signal, way) for h in (1e-6, -1e-6))
            numeric = float(evaluate(ahead)[0] - evaluate(behind)[0]) / 2e-6
            exact = sum(float(np.sum(s * d)) for s, d in zip(slope, way, strict=True))
            np.testing.assert_allclose(numeric, exact, rtol=1e-6)

    @pytest.mark.slow
    def test_optimised_on_some_batches_it_pays_on_others(self):
        problem = dataclasses.replace(self.problem, memory="residuals")
        mean_value = lambda signal, keys: jnp.mean(
            jax.vmap(lambda key: sampled_value(problem, self.flow, Plan(self.weights, signal), self.scenario, key))(
                keys
            )
        )
        used, fresh = jax.random.split(jax.random.key(0), 2)
        used, fresh = jax.random.split(used, 4), jax.random.split(fresh, 64)
        start = controls.constant(self.control, 12)
        found = compiled(
            lambda start: ascend(lambda signal: mean_value(signal, used), start, -0.5, 0.5, optax.adam(0.02), 60)
        )(start)
        judge = compiled(mean_value)
        self.assertGreater(judge(found.signal, fresh), judge(start, fresh) + 0.02)


class ErrorsTest(parameterized.TestCase):
    def flow(self, network=LINEAR, control=None, dataset=None, batch=2, **options):
        return sampled_flow(network, control or controls.no_control(), dataset or datasets.task_a(), batch, **options)

    def test_on_making_one(self):
        with self.assertRaisesRegex(ValueError, "batch=0 must be at least 1"):
            self.flow(batch=0)
        with self.assertRaisesRegex(ValueError, "say by `shares`"):
            self.flow(control=controls.task_modulation(2, 0.1))

    def test_on_use(self):
        weights = jax.tree.map(jnp.float32, WEIGHTS)
        key = jax.random.key(0)
        with self.assertRaisesRegex(ValueError, "'task A' has no parts to take turns"):
            self.flow()(weights, (), jnp.int32(0), key)
        with self.assertRaisesRegex(ValueError, "either shares or turns"):
            self.flow(shares=lambda signal: signal)(weights, jnp.ones(2), jnp.int32(0), key)
        narrow = networks.linear((3, 1))
        with self.assertRaisesRegex(ValueError, r"predicts outputs \(2, 1\), but those of the data are \(2, 2\)"):
            self.flow(network=narrow)((jnp.ones((1, 3)),), (), None, key)

    def test_of_validation(self):
        control = controls.no_control()
        problem = Problem(controlled(LINEAR, control), control.cost, 3, 0.1)
        plan, scenario = Plan(jax.tree.map(jnp.float32, WEIGHTS), ()), Scenario(datasets.task_a().moments)
        with self.assertRaisesRegex(ValueError, "every=0"):
            validate(problem, self.flow(), plan, scenario, jax.random.split(jax.random.key(0), 2), 0)
        with self.assertRaisesRegex(ValueError, "one key for each run"):
            validate(problem, self.flow(), plan, scenario, jax.random.key(0))


if __name__ == "__main__":
    absltest.main()
