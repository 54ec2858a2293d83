"""What must hold of learning under control: limits, conserved quantities, symmetries, solutions in closed form."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.effort import controls, networks
from metalearn.effort.system import Plan, Problem, Scenario, controlled, taking_turns, trajectory, value
from tests.core.problems import compiled
from tests.effort.problems import (
    BETA,
    CASES,
    HIDDEN,
    INPUTS,
    OUTPUTS,
    TASK_A,
    TASK_B,
    Acts,
    InDoublePrecision,
    any_signal,
    examples,
    moments,
    paper_flow,
    semantic,
    together,
    two_gaussians,
)
from tests.effort.problems import weights as any_weights

WEIGHTS = any_weights(0, INPUTS, HIDDEN, OUTPUTS)
TASK = moments(*examples(0))


def learning(control, *, widths=(INPUTS, HIDDEN, OUTPUTS), steps=21, dt=0.05, decay=0.0):
    """(weights, task, signal, turn) -> the trajectory, compiled once."""
    problem = Problem(controlled(networks.linear(widths), control, decay), control.cost, steps, dt, memory="residuals")
    run = compiled(functools.partial(trajectory, problem))
    return lambda weights, task, signal, turn=None: run(Plan(weights, signal), Scenario(task, turn))


def learn(weights, task, control=None, signal=None, *, turn=None, steps=21, **settings):
    """The trajectory; the neutral signal where none is given."""
    control = control or controls.no_control()
    signal = controls.constant(control, steps) if signal is None else signal
    widths = (weights[0].shape[1], *(len(w) for w in weights))
    return learning(control, widths=widths, steps=steps, **settings)(weights, task, signal, turn)


def close(actual, expected, tolerance=1e-12):
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


class FirstOrderCase(InDoublePrecision):
    def assertFirstOrder(self, error):
        """error(updates) halves when the time step does."""
        coarse, fine = error(200), error(400)
        self.assertGreater(fine, 1e-9)
        self.assertBetween(coarse / fine, 1.9, 2.1)


class NoControlTest(InDoublePrecision):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with jax.enable_x64(True):
            cls.baseline = learn(WEIGHTS, TASK, decay=0.1)

    @parameterized.parameters(*CASES)
    def test_a_neutral_signal_changes_no_bit(self, name):
        control = CASES[name].control()
        found = learn(WEIGHTS, TASK, control, decay=0.1)
        chex.assert_trees_all_equal(found.final.weights, self.baseline.final.weights)
        chex.assert_trees_all_equal(found.metrics["loss"], self.baseline.metrics["loss"])
        costs = {"learning rate from none": 1, "class active": OUTPUTS, "task vector": 2, "task active": 2}
        cost = BETA * costs.get(name, 0) * sum(0.05 * 0.99 ** (0.05 * n) for n in range(21))
        close(found.value, self.baseline.value + cost)

    def test_a_single_task_in_the_data(self):
        control, signal = controls.task_modulation(1, BETA), np.linspace(0, 2, 21)[:, None]
        found = learn(WEIGHTS, together(TASK), control, signal, decay=0.1)
        close(found.metrics["loss"], self.baseline.metrics["loss"])

    def test_a_single_task_to_engage_with(self):
        found = learn(WEIGHTS, TASK, controls.task_engagement((OUTPUTS,), BETA), decay=0.1)
        close(found.losses, self.baseline.losses)

    def test_equal_tasks_in_turn(self):
        found = learn(WEIGHTS, together(TASK, TASK), turn=taking_turns(21, 4), decay=0.1)
        close(found.losses, self.baseline.losses)

    def test_ascent_never_lowers_v(self):
        control = controls.gain(any_weights(0, 1, 1), BETA, 0.0, 0.5, "quadratic")
        problem = Problem(controlled(networks.linear((1, 1)), control, 0.1), control.cost, 60, 0.01)
        plan = lambda g: Plan((jnp.zeros((1, 1)),), (g,))
        ascend = compiled(jax.value_and_grad(lambda g: value(problem, plan(g), Scenario(two_gaussians(2.0, 1.0)))))
        g, values = jnp.zeros((60, 1, 1)), []
        for _ in range(15):
            v, gradient = ascend(g)
            values.append(v)
            g = jnp.clip(g + gradient, 0.0, 0.5)
        self.assertTrue(np.all(np.diff(values) > 0))


class BalanceTest(FirstOrderCase):
    """Q = W1 W1^T - W2^T W2 obeys dQ/dt = -2 lambda (1 + rho) Q; only its diagonal does under gains."""

    END = 1.0

    def drift(self, control, signal, decay, warped, updates, of=lambda q: q):
        imbalance = lambda w: w[0] @ w[0].T - w[1].T @ w[1]
        times = np.arange(updates + 1) * self.END / updates
        rows = None if signal is None else signal(times[:, None])
        found = learn(WEIGHTS, TASK, control, rows, steps=updates + 1, dt=self.END / updates, decay=decay)
        return np.abs(of(imbalance(found.final.weights) - imbalance(WEIGHTS) * np.exp(-2 * decay * warped))).max()

    @parameterized.parameters(
        (controls.no_control, None, 0.0, 1.0),
        (controls.no_control, None, 0.3, 1.0),
        (
            lambda: controls.learning_rate(BETA),
            lambda t: 0.8 * np.sin(3 * t)[:, 0],
            0.3,
            1 + 0.8 * (1 - np.cos(3)) / 3,
        ),
        (lambda: controls.class_engagement(OUTPUTS, BETA), lambda t: 1 + np.sin([0.0, 2.0] + 3 * t), 0.0, 1.0),
    )
    def test_whole(self, control, signal, decay, warped):
        self.assertFirstOrder(lambda updates: self.drift(control(), signal, decay, warped, updates))

    def test_diagonal_under_gains(self):
        control = controls.gain(WEIGHTS, BETA)

        def signal(t):
            wave = lambda w: 0.5 * np.sin(np.arange(w.size) + 4 * t).reshape(-1, *w.shape)
            return tuple(map(wave, WEIGHTS))

        drift = functools.partial(self.drift, control, signal, 0.3, 1.0)
        self.assertFirstOrder(lambda updates: drift(updates, np.diag))
        self.assertGreater(drift(200), 10 * drift(200, np.diag))


class FloorTest(InDoublePrecision):
    """Decay of both layers is a penalty on the product's singular values: min data loss(W) + lambda |W|_*."""

    @parameterized.parameters(
        (4, 0.01, (2, 1.10083, 0.68939, 0.34823, 0.13663), (0, 1, 2, 4, 8)),
        (4, 0.0, (2, 1.0625, 0.625, 0.25, 0), (0, 1, 2, 4, 8)),
        (3, 0.01, (1.5, 0.65126, 0.29338, 0.06298), (0, 1, 2, 4)),
    )
    def test_plateaus_of_the_semantic_task(self, levels, decay, losses, modes):
        """Where only the first modes are learned, nothing moves."""
        task = semantic(levels)
        items = len(task.xx)
        u, s, vt = np.linalg.svd(task.xy.T, full_matrices=False)
        rotation = np.linalg.qr(any_weights(0, 10, 10)[0])[0][:, : len(s)]
        system = controlled(networks.linear((items, 10, len(u))), controls.no_control(), decay)
        loss, flow = compiled(system.loss), compiled(system.flow)
        for expected, learned in zip(losses, modes, strict=True):
            root = np.sqrt(np.where(np.arange(len(s)) < learned, np.maximum(s - decay, 0) * items, 0))
            weights = rotation * root @ vt, u * root @ rotation.T
            self.assertAlmostEqual(float(loss(weights, (), task)), expected, delta=5.1e-6)
            close(flow(weights, (), task), tuple(np.zeros_like(w) for w in weights))

    def test_learning_ends_at_the_floor(self):
        """Of proximal descent on W alone; the numbers stand to six digits for tasks A and B."""

        def floor(task, decay):
            w, step = np.zeros((2, 3)), 1 / np.linalg.eigvalsh(task.xx).max()
            for _ in range(1000):
                u, s, vt = np.linalg.svd(w + step * (task.xy.T - w @ task.xx), full_matrices=False)
                w = u * np.maximum(s - step * decay, 0) @ vt
            data = 0.5 * np.trace(task.yy) - np.trace(task.xy @ w) + 0.5 * np.trace(w @ task.xx @ w.T)
            return data + decay * np.linalg.svd(w, compute_uv=False).sum()

        def end(task, decay):
            system = controlled(networks.linear((3, 3, 2)), controls.no_control(), decay)
            problem = Problem(system, controls.no_control().cost, 2001, 0.03, memory="residuals")
            return trajectory(problem, Plan(start, ()), Scenario(task)).losses[-1]

        start = any_weights(0, 3, 3, 2, scale=0.01)
        tasks, decays = (TASK_A, TASK_A, TASK_B, TASK_B), np.array([0.01, 0.001, 0.01, 0.001])
        found = compiled(jax.vmap(end))(together(*tasks), decays)
        close(found, np.array([floor(*pair) for pair in zip(tasks, decays, strict=True)]), 2e-6)
        np.testing.assert_allclose(found, [0.257567, 0.251297, 0.192406, 0.185771], atol=2e-6)

    def test_all_of_the_semantic_task_is_learned_in_the_end(self):
        found = learn(any_weights(0, 4, 6, 7, scale=0.01), semantic(3), steps=801, dt=0.1, decay=0.01)
        self.assertAlmostEqual(float(found.losses[-1]), 0.06298, delta=1e-5)


class ModesTest(FirstOrderCase):
    """Aligned layers stay aligned, each mode's strength is logistic (Saxe et al. 2014); its clock is that of rho."""

    SINGULAR, SPREAD, DECAY, START, END = np.array([3.0, 1.0]), 0.7, 0.1, np.array([0.05, 0.2]), 1.5

    def error(self, control, signal, warp, updates):
        orthonormal = lambda seed, rows: np.linalg.qr(any_weights(seed, 2, rows)[0])[0]
        u, vt, r = orthonormal(0, 2), orthonormal(1, 3).T, orthonormal(2, 4)
        xy = (u * self.SINGULAR @ vt).T
        task = TASK._replace(xx=self.SPREAD * np.eye(3), xy=xy)
        weights = r * np.sqrt(self.START) @ vt, u * np.sqrt(self.START) @ r.T
        dt = self.END / updates
        rows = signal(np.arange(updates + 1) * dt)
        found = learn(weights, task, control, rows, steps=updates + 1, dt=dt, decay=self.DECAY).final.weights
        final = (self.SINGULAR - self.DECAY) / self.SPREAD
        growth = np.exp(-2 * (self.SINGULAR - self.DECAY) * warp(self.END))
        strength = final / (1 + (final / self.START - 1) * growth)
        return np.abs(found[1] @ found[0] - u * strength @ vt).max()

    def test_logistic(self):
        self.assertFirstOrder(functools.partial(self.error, controls.no_control(), lambda t: (), lambda t: t))

    def test_the_learning_rate_is_a_time_warp(self):
        signal, warp = lambda t: 0.8 * np.sin(3 * t), lambda t: t + 0.8 * (1 - np.cos(3 * t)) / 3
        self.assertFirstOrder(functools.partial(self.error, controls.learning_rate(BETA), signal, warp))


class EquivalenceTest(InDoublePrecision):
    def test_engagement_with_tasks_is_engagement_with_their_classes(self):
        psi = any_signal(controls.task_engagement((1, 1), BETA), 0, 21)
        one = learn(WEIGHTS, TASK, controls.task_engagement((1, 1), BETA), psi, decay=0.1)
        other = learn(WEIGHTS, TASK, controls.class_engagement(2, BETA), np.sqrt(psi), decay=0.1)
        close((one.metrics["loss"], one.final), (other.metrics["loss"], other.final))

    @parameterized.parameters(
        (lambda: controls.class_engagement(OUTPUTS, BETA), 0.7, 0.7**2, 0.0),
        (lambda: controls.task_engagement((1, 1), BETA), 0.7, 0.7, 0.0),
        (lambda: controls.learning_rate(BETA), -0.3, 0.7, 0.2),
    )
    def test_constant_engagement_rescales_time(self, control, signal, speed, decay):
        control = control()
        rows = jax.tree.map(lambda leaf: np.full((21, *leaf.shape), signal), control.neutral)
        found = learn(WEIGHTS, TASK, control, rows, decay=decay)
        base = learn(WEIGHTS, TASK, dt=0.05 * speed, decay=decay)
        close((found.metrics["loss"], found.final), (base.metrics["loss"], base.final))

    def test_engagement_with_a_single_class_is_a_learning_rate(self):
        x, y = examples(0)
        weights, task = any_weights(1, INPUTS, HIDDEN, 1), moments(x, y[:, :1])
        phi = np.random.default_rng(0).uniform(0, 1.4, (21, 1))
        one = learn(weights, task, controls.class_engagement(1, BETA), phi)
        other = learn(weights, task, controls.learning_rate(BETA), phi[:, 0] ** 2 - 1)
        close((one.metrics["loss"], one.final), (other.metrics["loss"], other.final))


class SymmetryTest(InDoublePrecision):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with jax.enable_x64(True):
            control = controls.gain(WEIGHTS, BETA)
            learned = learning(control, decay=0.1)
            cls.gains, cls.neutral = any_signal(control, 0, 21), controls.constant(control, 21)
            cls.losses = staticmethod(lambda weights, gains: learned(weights, TASK, gains).losses)

    def test_rotation_of_the_hidden_layer(self):
        """Without gains only, as those act weight by weight."""
        rotation = np.linalg.qr(any_weights(5, HIDDEN, HIDDEN)[0])[0]
        rotated = rotation @ WEIGHTS[0], WEIGHTS[1] @ rotation.T
        close(self.losses(rotated, self.neutral), self.losses(WEIGHTS, self.neutral))
        self.assertGreater(np.abs(self.losses(rotated, self.gains) - self.losses(WEIGHTS, self.gains)).max(), 1e-2)

    def test_order_and_sign_of_hidden_units(self):
        order, sign = np.array([2, 0, 3, 1]), np.array([1, -1, -1, 1])
        weights = sign[:, None] * WEIGHTS[0][order], sign * WEIGHTS[1][:, order]
        gains = self.gains[0][:, order], self.gains[1][:, :, order]
        close(self.losses(weights, gains), self.losses(WEIGHTS, self.gains))

    @parameterized.parameters(
        ((1, 0, 2, 3), (0, 1, 2, 4, 3, 5, 6)),  # siblings
        ((2, 3, 0, 1), (0, 2, 1, 5, 6, 3, 4)),  # whole branches
    )
    def test_semantic_siblings(self, items, nodes):
        items, nodes, weights = list(items), list(nodes), any_weights(0, 4, HIDDEN, 7)
        control = controls.class_engagement(7, BETA)
        phi, learned = any_signal(control, 0, 21), learning(control, widths=(4, HIDDEN, 7))
        moved = learned((weights[0][:, items], weights[1][nodes]), semantic(3), phi[:, nodes])
        close(moved.losses, learned(weights, semantic(3), phi).losses)


class SingleNeuronTest(InDoublePrecision):
    """dw/dt = mu (1+g) - ((mu^2 + sigma^2) (1+g)^2 + lambda) w, with the settings of the paper's figure."""

    MU, SIGMA, DECAY, DT, STEPS = 2.0, 1.0, 0.1, 1e-3, 600

    def problem(self, beta=0.3, steps=STEPS, **settings):
        control = controls.gain((jnp.zeros((1, 1)),), beta, 0.0, 0.5, "quadratic")
        system = controlled(networks.linear((1, 1)), control, self.DECAY)
        return Problem(system, control.cost, steps, memory="residuals", **{"dt": self.DT, **settings})

    def plan(self, g, start=0.0):
        return Plan((jnp.full((1, 1), start),), (jnp.reshape(g, (-1, 1, 1)),))

    @property
    def scenario(self):
        return Scenario(two_gaussians(self.MU, self.SIGMA))

    def weight(self, n, g=0.0, start=0.0):
        """Of Euler's rule, exactly."""
        speed = (self.MU**2 + self.SIGMA**2) * (1 + g) ** 2 + self.DECAY
        end = self.MU * (1 + g) / speed
        return end + (start - end) * (1 - speed * self.DT) ** n

    def loss(self, w, g=0.0):
        tilde = w * (1 + g)
        data = 0.5 * (1 - 2 * self.MU * tilde + (self.MU**2 + self.SIGMA**2) * tilde**2)
        return data + 0.5 * self.DECAY * w**2

    def test_closed_form_at_constant_gain(self):
        run = compiled(functools.partial(trajectory, self.problem()))
        n = np.arange(self.STEPS)
        for g, start in ((0.0, 0.0), (0.4, 0.9)):
            found = run(self.plan(jnp.full(self.STEPS, g), start), self.scenario)
            close(found.metrics["loss"], self.loss(self.weight(n, g, start), g), 1e-11)
            close(found.final.weights[0][0, 0], self.weight(self.STEPS - 1, g, start), 1e-11)

    def test_published_baseline(self):
        found = compiled(functools.partial(trajectory, self.problem()))(self.plan(jnp.zeros(self.STEPS)), self.scenario)
        n = np.array([0, 100, 250, 500, 599])
        np.testing.assert_allclose(self.weight(n), [0, 0.1570, 0.2829, 0.3617, 0.3738], atol=5.1e-5)
        np.testing.assert_allclose(found.metrics["loss"][n], [0.5, 0.2489, 0.1383, 0.1102, 0.1087], atol=5.1e-5)
        np.testing.assert_allclose(found.final.weights[0][0, 0], 0.373819, atol=5.1e-7)
        np.testing.assert_allclose(-found.value, -0.10293605, atol=1e-8)

    def test_without_a_future_only_the_first_instant_counts(self):
        """gamma -> 0: V = -dt (L_0 + C_0), and dV/dg_0 is the derivative of that."""
        g, w = 0.2, 0.3
        problem = self.problem(steps=10, dt=1.0, gamma=1e-12)
        found = compiled(jax.value_and_grad(lambda g: value(problem, self.plan(g, w), self.scenario)))
        v, gradient = found(jnp.full(10, g))
        close(v, -self.loss(w, g) - 0.3 * g**2, 1e-10)
        instant = w * (self.MU - (self.MU**2 + self.SIGMA**2) * w * (1 + g)) - 2 * 0.3 * g
        close(gradient, np.array([instant] + 9 * [0.0]), 1e-9)

    def test_dear_control_is_proportional_to_what_it_gains(self):
        """beta -> infinity: g = (dV/dg at 0) / (2 beta alpha gamma^t), up to 1 / beta of itself."""

        def gradient(beta, g):
            return jax.grad(lambda g: value(self.problem(beta, 60, dt=0.01), self.plan(g), self.scenario))(g)

        run = compiled(gradient)
        left = []
        for beta in (1e2, 1e4):
            gained = run(beta, jnp.zeros(60))
            best = gained / (2 * beta * 0.01 * 0.99 ** (0.01 * np.arange(60)))
            left.append(np.abs(run(beta, best)).max() / np.abs(gained).max())
        self.assertLess(left[0], 0.05)
        self.assertBetween(left[0] / left[1], 95, 105)


class SharedStartTest(InDoublePrecision):
    def test_a_horizon_of_one_state_does_not_look_ahead(self):
        """Initial weights for several tasks: the gradient is that of the mean loss where they stand."""
        tasks = [moments(*examples(seed)) for seed in range(3)]
        system = controlled(networks.linear((INPUTS, HIDDEN, OUTPUTS)), controls.no_control(), 0.1)
        problem = Problem(system, controls.no_control().cost, 1, 0.5)

        def mean_value(weights):
            return jnp.mean(jax.vmap(lambda task: value(problem, Plan(weights, ()), Scenario(task)))(together(*tasks)))

        flows = [paper_flow(WEIGHTS, task, Acts(0.0), 0.1) for task in tasks]
        expected = tuple(0.5 * sum(parts) / 3 for parts in zip(*flows, strict=True))
        close(compiled(jax.grad(mean_value))(WEIGHTS), expected)


if __name__ == "__main__":
    absltest.main()
