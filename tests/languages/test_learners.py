"""Meta-training and pre-training of language models: gradients, optimiser, and programs for other devices."""

import functools

import chex
import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized

from metalearn.core import PARTS, exact, first_order, objectives, outer_loop, task_mesh
from metalearn.languages.architectures import CELLS, architecture
from metalearn.languages.episodes import Episode
from metalearn.languages.lstm import lstm
from metalearn.languages.model import Strings, cross_entropy
from metalearn.languages.prefixes import fit, grids_of
from metalearn.languages.tokens import PAD, VOCABULARY, encode
from metalearn.languages.training import (
    AT_ONCE,
    OptimizerSettings,
    meta_learning,
    outer_optimizer,
    pre_training,
)
from tests.core.problems import compiled
from tests.languages.slow_lstm import random_params

MODEL = lstm(VOCABULARY, 4, 1)
RATE = 0.7


def episode(updates):
    """Strings of different lengths, a truncated one, counts above 1 and rows that only pad."""
    rng = np.random.default_rng(0)
    draw = lambda count: [tuple(rng.integers(3, size=rng.integers(7))) for _ in range(count)]
    support = np.stack([encode(draw(4), 6) for _ in range(updates)])
    query = Strings(encode(draw(4), 6), np.array([3, 1, 2, 0], np.float32))
    return Episode(Strings(support, np.ones(support.shape[:2], np.float32)), query)


def in_prefixes(task, times=6, rows=1):
    """The same episode laid out as prefixes."""

    def sample(strings):
        kept = [(row, count) for row, count in zip(strings.tokens, strings.counts, strict=True) if count]
        return [row[row != PAD].tolist() for row, _ in kept], [int(count) for _, count in kept]

    stack = lambda grids: jax.tree.map(lambda *x: np.stack(x), *grids)
    support = [fit(*sample(batch_of(task, k)), times, 4) for k in range(len(task.support.tokens))]
    return Episode(stack(support), stack(grids_of(*sample(task.query), times, rows)))


def batch_of(task, k):
    return jax.tree.map(lambda x: x[k], task.support)


def squared(tree):
    return sum(float(np.vdot(leaf, leaf)) for leaf in jax.tree.leaves(tree))


def relative_error(found, expected):
    difference = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), found, expected)
    return (squared(difference) / squared(expected)) ** 0.5


@functools.cache
def loss_and_gradient():
    return compiled(jax.value_and_grad(functools.partial(cross_entropy, MODEL)))


def states(params, task, updates):
    """theta_0 .. theta_K of plain SGD, update by update."""
    result = [params]
    for k in range(updates):
        _, gradient = loss_and_gradient()(result[-1], batch_of(task, k))
        result.append(jax.tree.map(lambda p, g: np.asarray(p) - RATE * np.asarray(g), result[-1], gradient))
    return result


def query_loss(params, task):
    return float(loss_and_gradient()(params, task.query)[0])


class GradientTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.params, self.key = random_params(MODEL, scale=0.6), jax.random.key(0)

    def numerical_gradient(self, value):
        """Central differences, parameter by parameter."""
        flat, unflatten = jax.flatten_util.ravel_pytree(self.params)
        flat, width = np.asarray(flat), 1e-5
        unflatten = compiled(unflatten)

        def slope(direction):
            ahead, behind = (value(unflatten(flat + by * direction)) for by in (width, -width))
            return (float(ahead) - float(behind)) / (2 * width)

        return unflatten(np.array([slope(direction) for direction in np.eye(flat.size)]))

    @parameterized.parameters(1, 3)
    def test_meta_gradient(self, updates):
        """Both inner gradients against finite differences of the two lines that define the objective."""
        task = episode(updates)

        def value(params):
            return sum(query_loss(p, task) for p in states(params, task, updates)[1:])

        expected = self.numerical_gradient(value)
        for inner in ("mixed", "plain"):
            of_one = exact(meta_learning(MODEL, RATE, inner), objectives.every_update(updates), memory="residuals")
            estimate = compiled(of_one)(self.params, task, self.key)
            np.testing.assert_allclose(estimate.trajectory.value, value(self.params), rtol=1e-12)
            self.assertLess(relative_error(estimate.gradient, expected), 1e-7)

    @parameterized.parameters("mixed", "plain")
    def test_prefixes_have_the_meta_gradient_of_the_strings(self, inner):
        task = episode(2)
        self.assertGreater(len(in_prefixes(task).query.tokens), 1)
        of_one = compiled(exact(meta_learning(MODEL, RATE, inner), objectives.every_update(2), memory="residuals"))
        strings, prefixes = (of_one(self.params, t, self.key) for t in (task, in_prefixes(task)))
        np.testing.assert_allclose(prefixes.trajectory.losses, strings.trajectory.losses, rtol=1e-12)
        chex.assert_trees_all_close(prefixes.gradient, strings.gradient, rtol=1e-9, atol=1e-12)

    @parameterized.parameters((5, True), (1, True), (3, False))
    def test_devices_that_share_an_episode_take_the_same_step(self, updates, prefixes):
        """Four of them, one task, against the gradient of the strings on one device. State 0 counts as well."""
        task, objective = episode(updates), np.linspace(0.5, 1.0, updates + 1)
        mesh = task_mesh(tasks=1, parts=True)
        process = meta_learning(MODEL, RATE, at_once=None if prefixes else 1, axis=PARTS)
        loop = outer_loop(process, objective, optax.sgd(1.0), mesh=mesh, memory="residuals")
        tasks = jax.tree.map(lambda x: x[None], in_prefixes(task, times=9) if prefixes else task)
        state, metrics = loop.step(loop.init(self.params), tasks, self.key)
        self.assertLen(state.step.sharding.device_set, 4)
        of_one = exact(meta_learning(MODEL, RATE), objective, memory="residuals")
        expected = compiled(of_one)(self.params, task, self.key)
        np.testing.assert_allclose(metrics["losses"], expected.trajectory.losses, rtol=1e-12)
        moved = jax.tree.map(lambda p, g: p - g, self.params, expected.gradient)
        chex.assert_trees_all_close(jax.device_get(state.meta), moved, rtol=1e-9, atol=1e-12)

    def test_first_order_is_the_gradient_at_the_adapted_weights(self):
        updates, task = 3, episode(3)
        of_one = first_order(meta_learning(MODEL, RATE), objectives.terminal(updates), memory="recompute")
        estimate = compiled(of_one)(self.params, task, self.key)

        adapted = states(self.params, task, updates)[-1]
        chex.assert_trees_all_close(estimate.trajectory.final.params, adapted, rtol=1e-11, atol=1e-13)
        _, expected = loss_and_gradient()(adapted, task.query)
        chex.assert_trees_all_close(estimate.gradient, expected, rtol=1e-9, atol=1e-12)

    def test_meta_gradient_with_dropout(self):
        """The masks are drawn from the key, so that with one key the objective is a function like any other."""
        task, model = episode(2), lstm(VOCABULARY, 4, 1, dropout=0.3)
        of_one = compiled(exact(meta_learning(model, RATE), objectives.every_update(2), memory="recompute"))
        estimate = of_one(self.params, task, self.key)
        expected = self.numerical_gradient(lambda params: of_one(params, task, self.key).trajectory.value)
        self.assertLess(relative_error(estimate.gradient, expected), 1e-7)
        other = of_one(self.params, task, jax.random.key(1))
        self.assertGreater(abs(other.trajectory.value - estimate.trajectory.value), 1e-3)

    def test_pre_training_is_the_sum_of_the_same_losses_at_one_point(self):
        updates, task = 3, episode(3)

        support = [loss_and_gradient()(self.params, batch_of(task, k)) for k in range(updates)]
        query = loss_and_gradient()(self.params, task.query)
        expected = jax.tree.map(lambda q, *s: sum(s) + updates * q, query, *support)
        of_one = exact(pre_training(MODEL), AT_ONCE, memory="recompute")
        estimate = compiled(of_one)(self.params, task, self.key)
        found = (estimate.trajectory.value, estimate.gradient)
        chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


class OptimizerTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))

    def test_is_adamw_behind_a_clip_with_warm_up_and_cosine(self):
        """Thirty steps against AdamW written out, in NumPy: Loshchilov & Hutter (2019), algorithm 2."""
        steps, warm, peak, decay, clip = 30, 6, 0.02, 0.3, 1.0
        optimizer = outer_optimizer(OptimizerSettings(peak, decay, clip, warm / steps), steps)
        params = random_params(MODEL)
        state = optimizer.init(params)
        update = compiled(optimizer.update)
        slow = jax.tree.map(np.array, params)
        m = v = jax.tree.map(np.zeros_like, params)
        rng = np.random.default_rng(1)
        for t in range(steps):
            scale = 0.1 if t % 2 else 0.01  # norms on both sides of the clip
            gradient = jax.tree.map(lambda x, scale=scale: scale * rng.normal(size=x.shape), params)
            updates, state = update(gradient, state, params)
            params = jax.tree.map(np.add, params, updates)
            norm = squared(gradient) ** 0.5
            self.assertEqual(norm > clip, t % 2 == 1)
            gradient = jax.tree.map(lambda g, norm=norm: g * min(1, clip / norm), gradient)
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, gradient)
            cosine = 0.5 * (1 + np.cos(np.pi * (t - warm) / (steps - warm)))
            rate = peak * (t / warm if t < warm else cosine)

            def move(path, p, m, v, t=t, rate=rate):
                weight = 0 if jax.tree_util.keystr(path).endswith("bias") else decay
                direction = (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
                return p - rate * (direction + weight * p)

            slow = jax.tree_util.tree_map_with_path(move, slow, m, v)
            chex.assert_trees_all_close(params, slow, rtol=1e-6, atol=1e-8)

    def test_which_weights_decay(self):
        """With a gradient of zero nothing but decay is left."""
        optimizer = outer_optimizer(OptimizerSettings(0.1, 0.5, 1.0, 0.0), 10)
        params = random_params(MODEL)
        state, gradient = optimizer.init(params), jax.tree.map(np.zeros_like, params)
        _, state = optimizer.update(gradient, state, params)  # the first step has a learning rate of zero
        updates, _ = optimizer.update(gradient, state, params)
        biases = [updates.output_bias, *(b for layer in updates.layers for b in (layer.input_bias, layer.hidden_bias))]
        self.assertEqual([float(np.abs(b).max()) for b in biases], [0.0] * 3)
        for name in ("input_weights", "hidden_weights"):
            kept = getattr(updates.layers[0], name) / getattr(params.layers[0], name)
            np.testing.assert_allclose(kept, -0.05, rtol=1e-6)
        np.testing.assert_allclose(updates.embedding / params.embedding, -0.05, rtol=1e-6)

    def test_the_learning_rate_ends_at_zero(self):
        optimizer = outer_optimizer(OptimizerSettings(0.1, 0.5, 1.0, 0.2), 5)
        params = random_params(MODEL)
        gradient = jax.tree.map(np.ones_like, params)
        state, sizes = optimizer.init(params), []
        for _ in range(6):
            updates, state = optimizer.update(gradient, state, params)
            sizes.append(float(np.abs(updates.output_bias).max()))
        self.assertEqual(sizes[0], 0)
        self.assertAlmostEqual(sizes[1], 0.1, places=5)
        self.assertEqual(sorted(sizes[1:], reverse=True), sizes[1:])
        self.assertAlmostEqual(sizes[5], 0, places=7)

    @parameterized.product(steps=(1, 2, 10), warm_up=(0.0, 0.96, 1.0))
    def test_short_runs_and_long_warm_ups(self, steps, warm_up):
        optimizer = outer_optimizer(OptimizerSettings(warm_up=warm_up), steps)
        gradient = {"weights": np.ones(1)}
        state, sizes = optimizer.init(gradient), []
        for _ in range(steps):
            updates, state = optimizer.update(gradient, state, gradient)
            sizes.append(float(np.abs(updates["weights"][0])))
        self.assertTrue(np.isfinite(sizes).all())
        self.assertEqual(sizes[0], 0)
        if steps > 1:
            self.assertGreater(max(sizes), 0.004)

    @parameterized.parameters(
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"warm_up": 1.5}, "warm_up=1.5"),
    )
    def test_settings_out_of_range(self, wrong, message):
        with self.assertRaisesRegex(ValueError, message):
            OptimizerSettings(**wrong)


class ExportTest(parameterized.TestCase):
    @parameterized.parameters(
        *(("meta-training", name, "strings") for name in CELLS),
        ("meta-training", "lstm", "prefixes"),
        ("pre-training", "lstm", "strings"),
    )
    def test_the_outer_step_lowers_for_every_kind_of_device(self, kind, name, layout):
        model = architecture(name, VOCABULARY, 8, 1, dropout=0.1)
        process, weights = {
            "meta-training": (meta_learning(model), objectives.every_update(2)),
            "pre-training": (pre_training(model), AT_ONCE),
        }[kind]
        optimizer = outer_optimizer(OptimizerSettings(), 10)
        loop = outer_loop(process, weights, optimizer, memory="residuals", mesh=task_mesh(jax.devices()[:1]))
        task = episode(2) if layout == "strings" else in_prefixes(episode(2))
        tasks = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), task)
        state = jax.eval_shape(loop.init, jax.eval_shape(model.init, jax.random.key(0)))
        platforms = ("cpu", "cuda", "tpu")
        exported = jax.export.export(loop.jitted, platforms=platforms)(state, tasks, jax.random.key(0))
        self.assertEqual(exported.platforms, platforms)


if __name__ == "__main__":
    absltest.main()
