"""Optimal controls against closed forms, and the orderings that the paper reports, on small problems."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

from metalearn.effort import controls, datasets, networks
from metalearn.effort.optimise import ascend, quasi_newton
from metalearn.effort.system import Plan, Problem, Scenario, controlled, taking_turns, trajectory, value
from tests.effort.problems import InDoublePrecision


def optimum(problem, control, weights, scenario, iterations=300, tolerance=1e-6):
    """The best signal, and the losses along it and without control."""
    of = lambda signal: value(problem, Plan(weights, signal), scenario)
    alone = controls.constant(control, problem.steps)
    found = quasi_newton(of, alone, control.lower, control.upper, iterations, tolerance)
    along = jax.jit(lambda signal: trajectory(problem, Plan(weights, signal), scenario).metrics["loss"])
    return found, np.asarray(along(found.signal)), np.asarray(along(alone))


class LearningRateTest(InDoublePrecision):
    """Learning-rate control warps time, so that Pontryagin's conditions can be solved for the rate."""

    @parameterized.parameters((1.0, 0.0, 1.0), (1.0, 0.0, 2.0), (1.0, -1.0, 4.0), (0.8, 0.0, 1.0), (0.8, -1.0, 0.3))
    def test_the_optimum_is_the_closed_form(self, gamma, offset, beta):
        """1 + rho = sqrt(1 + M / beta) for o = 0 and sqrt(M / beta) for o = -1, where M is what learning still brings:

        M(t) = L(t) - L(T) - kappa integral_t^T (what control costs beyond M / 2) dt', kappa = -ln gamma.
        """
        dt, steps = 2.5e-3, 4000
        network = networks.linear((2, 4, 3), 0.1)
        control = controls.learning_rate(beta, offset)
        problem = Problem(controlled(network, control), control.cost, steps, dt, gamma)
        scenario = Scenario(datasets.semantic(2).moments)
        found, losses, _ = optimum(problem, control, network.init(jax.random.key(0)), scenario)
        speed = 1 + np.asarray(found.signal)
        # Costs times speed over what the rate earns, integrated from the end.
        rest = 2 * beta * ((speed - 1) * speed if offset == 0 else speed**2)
        later = np.cumsum(rest[::-1])[::-1] * dt
        left = losses - losses[-1] + np.log(gamma) * later
        closed = np.sqrt(np.maximum((1 if offset == 0 else 0) + left / beta, 0))
        inside = (speed < 1.99) & (np.arange(steps) < 0.8 * steps)
        self.assertGreater(inside.mean(), 0.5)
        self.assertGreater(np.ptp(speed[inside]), 0.1)  # a schedule worth the name
        np.testing.assert_allclose(speed[inside], closed[inside], rtol=0.01)


class OrderingTest(parameterized.TestCase):
    def test_classes_of_a_hierarchy_from_the_root_to_the_leaves(self):
        dataset = datasets.semantic(4)
        network = networks.linear((8, 12, 15), 0.01)
        control = controls.class_engagement(15, 5.0)
        problem = Problem(controlled(network, control), control.cost, 1500, 0.02)
        scenario = Scenario(jax.tree.map(jnp.float32, dataset.moments))
        found, with_control, without = optimum(problem, control, network.init(jax.random.key(0)), scenario, 30)
        level = np.array([0 if name == "root" else len(name) for name in dataset.outputs])
        means = np.stack([np.asarray(found.signal)[:, level == k].mean(1) for k in range(4)])
        self.assertTrue((np.diff(means[:, 0]) <= 0).all() and means[0, 0] > means[2, 0] > means[3, 0], means[:, 0])
        # When each level is let go: later, with all learned, engagement returns to where it costs nothing.
        learning = means[:, : problem.steps * 3 // 5]
        let_go = [np.flatnonzero(level >= 0.9 * level.max()).max() for level in learning]
        self.assertTrue((np.diff(let_go) > 0).all(), let_go)
        self.assertLess(with_control.sum(), without.sum())

    def test_the_easier_of_two_tasks_first_and_the_harder_for_longer(self):
        one = lambda mean: datasets.correlated_gaussians((mean, mean), (1.0, 1.0), 0.5)
        moments = datasets.side_by_side([one(3.0), one(1.0)]).moments
        network = networks.linear((6, 8, 4), 0.01)
        control = controls.task_engagement((2, 2), 0.1, "attention")
        problem = Problem(controlled(network, control), control.cost, 1500, 5e-3)
        scenario = Scenario(jax.tree.map(jnp.float32, moments))
        found, _, _ = optimum(problem, control, network.init(jax.random.key(0)), scenario, 30)
        easy, hard = np.asarray(found.signal).T
        dropped = lambda effort: np.flatnonzero(effort > 1.1).max()
        self.assertLess(dropped(easy), dropped(hard))
        self.assertGreater((hard - easy)[dropped(easy) : dropped(hard)].mean(), 0.05)
        np.testing.assert_allclose([easy[-1], hard[-1]], 1.0, atol=0.05)

    @pytest.mark.slow
    def test_costs_of_a_task_switch_shrink_and_effort_anticipates_it(self):
        every, switches = 600, 6
        tasks = [datasets.task_a().moments, datasets.task_b().moments]
        scenario = Scenario(
            jax.tree.map(lambda *leaves: jnp.stack(leaves).astype(jnp.float32), *tasks),
            taking_turns(every * switches, every),
        )
        network = networks.linear((3, 8, 2), 0.01)
        weights = network.init(jax.random.key(0))
        control = controls.gain(weights, 0.3)
        problem = Problem(controlled(network, control, 0.001), control.cost, every * switches, 0.015)
        found, with_control, without = optimum(problem, control, weights, scenario, 30, 1e-3)
        at_switch = np.arange(1, switches) * every
        peaks, left_alone = with_control[at_switch], without[at_switch]
        to_b, to_a = slice(0, None, 2), slice(1, None, 2)
        np.testing.assert_allclose(left_alone[to_b], 1.5, atol=0.05)
        np.testing.assert_allclose(left_alone[to_a], 2.59, atol=0.15)
        self.assertTrue((np.diff(peaks[to_b]) < 0).all() and (np.diff(peaks[to_a]) < 0).all(), peaks)
        self.assertLess(peaks[-1], 0.6 * left_alone[-1])
        effort = sum(np.sqrt(np.mean(np.square(g), (1, 2))) for g in found.signal)
        for n in at_switch:
            self.assertGreater(effort[n - 1], 1.05 * effort[n - every // 3], f"before the switch at {n}")


class InitialWeightsTest(absltest.TestCase):
    """The MAML cast: common initial weights of several tasks, chosen for the first states or for many."""

    def test_a_longer_horizon_serves_the_whole_trajectory(self):
        network = networks.linear((3, 6, 2), 0.01)
        tasks = [datasets.correlated_gaussians((a, b), (1.0, 1.0), p).moments for a, b, p in
                 ((3.0, 1.0, 0.8), (1.0, 3.0, 0.2), (2.0, -2.0, 0.4))]  # fmt: skip
        scenarios = Scenario(jax.tree.map(lambda *leaves: jnp.stack(leaves).astype(jnp.float32), *tasks))
        none = controls.no_control()

        def losses(weights, steps):
            problem = Problem(controlled(network, none), none.cost, steps, 1e-3, gamma=1.0)
            one = lambda scenario: trajectory(problem, Plan(weights, ()), scenario).metrics["loss"]
            return jax.vmap(one)(scenarios).mean(0)

        start = network.init(jax.random.key(0))
        whole = {}
        for horizon in (2, 30):
            of = functools.partial(lambda weights, horizon: -jnp.sum(losses(weights, horizon)), horizon=horizon)
            # Adam from small weights, as in the paper. The optimum itself would use weights so large that learning is
            # at the edge of stability, which is good for a short horizon and bad after it.
            found = jax.jit(lambda w, of=of: ascend(of, w, -10.0, 10.0, optax.adam(0.01), 200))(start)
            whole[horizon] = float(jax.jit(lambda w: losses(w, 1000).mean())(found.signal))
        self.assertGreater(whole[2], 1.1 * whole[30])


if __name__ == "__main__":
    absltest.main()
