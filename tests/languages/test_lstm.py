"""The LSTM against a slow loop after PyTorch's equations, and its hand-written gradient against automatic ones."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.test_util import check_grads

from metalearn.languages.lstm import _recurrence, lstm
from metalearn.languages.tokens import VOCABULARY
from tests.core.problems import compiled
from tests.languages.slow_lstm import random_params, slow_logits


def random_tokens(strings, time, vocabulary=VOCABULARY):
    return np.random.default_rng(0).integers(vocabulary, size=(strings, time)).astype(np.int32)


def plain_recurrence(driven, weights, keep):
    """What `_recurrence` computes, differentiated by JAX alone."""

    def step(carry, row):
        h, c = carry
        driven, keep = row
        h, c = jnp.where(keep > 0, h, 0), jnp.where(keep > 0, c, 0)
        i, f, g, o = jnp.split(driven + h @ weights, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((driven.shape[1], weights.shape[0]), driven.dtype)
    return jax.lax.scan(step, (zeros, zeros), (driven, keep))[1]


class ModelTest(parameterized.TestCase):
    def test_the_published_size(self):
        shapes = jax.eval_shape(lstm(VOCABULARY, 1024).init, jax.random.key(0))
        self.assertEqual(sum(leaf.size for leaf in jax.tree.leaves(shapes)), 16_808_975)

    @parameterized.product(units=(1, 7), layers=(1, 3))
    def test_parameter_count(self, units, layers):
        shapes = jax.eval_shape(lstm(VOCABULARY, units, layers).init, jax.random.key(0))
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        self.assertEqual(count, VOCABULARY * (units + 1) + layers * (8 * units**2 + 8 * units))

    def test_initialisation(self):
        units = 100
        params = lstm(VOCABULARY, units, 2).init(jax.random.key(0))
        chex.assert_trees_all_equal(params.output_bias, jnp.zeros(VOCABULARY))
        uniform = [(params.embedding, 0.1), *((leaf, units**-0.5) for leaf in jax.tree.leaves(params.layers))]
        for leaf, bound in uniform:
            share = np.asarray(leaf).ravel() / bound
            self.assertLessEqual(np.abs(share).max(), 1)
            # Moments of U(-1, 1) within five standard errors.
            self.assertLess(abs(share.mean()), 5 * (1 / 3 / share.size) ** 0.5)
            self.assertLess(abs((share**2).mean() - 1 / 3), 5 * (4 / 45 / share.size) ** 0.5)
        values = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params.layers)])
        self.assertGreater(len(set(values.tolist())), 0.99 * len(values))  # no two leaves are drawn alike

    @parameterized.parameters(1, 2)
    def test_logits_are_those_of_a_slow_loop(self, layers):
        with jax.enable_x64(True):
            model = lstm(VOCABULARY, 5, layers)
            params, tokens = random_params(model), random_tokens(3, 7)
            expected = slow_logits(params, tokens)
            chex.assert_trees_all_close(np.asarray(compiled(model.logits)(params, tokens)), expected, atol=1e-12)

    @parameterized.parameters(1, 2)
    def test_reading_token_by_token(self, layers):
        with jax.enable_x64(True):
            model = lstm(VOCABULARY, 5, layers)
            params, tokens = random_params(model), random_tokens(3, 7)
            carry, advance = model.start(params, 3), compiled(model.advance)
            expected = slow_logits(params, tokens)
            for time in range(tokens.shape[1]):
                carry, logits = advance(params, carry, tokens[:, time])
                chex.assert_trees_all_close(np.asarray(logits), expected[:, time], atol=1e-12)
            self.assertEqual({leaf.shape[0] for leaf in jax.tree.leaves(carry)}, {3})


class RecurrenceTest(parameterized.TestCase):
    """The hand-written gradient, and what the core takes of it: a gradient of a gradient, or a tangent of one."""

    TIME, BATCH, UNITS = 6, 3, 4

    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        draw = np.random.default_rng(0).normal
        shapes = (self.TIME, self.BATCH, 4 * self.UNITS), (self.UNITS, 4 * self.UNITS)
        self.arguments, self.directions = (tuple(draw(size=shape) for shape in shapes) for _ in range(2))
        keep = np.random.default_rng(1).integers(2, size=(self.TIME, self.BATCH, 1)).astype(float)
        self.recurrence, self.plain = (
            lambda *a, f=f: f(*a, keep) for f in (functools.partial(_recurrence, jnp.matmul), plain_recurrence)
        )
        self.assertTrue(0 < keep[1:].sum() < keep[1:].size)
        self.seen = draw(size=(self.TIME, self.BATCH, self.UNITS))

    def value(self, recurrence, *arguments):
        """A scalar that is not linear in the states, so that the incoming gradient depends on them, as from a loss."""
        return jnp.sum(jnp.sin(recurrence(*arguments)) * self.seen)

    def check(self, of_value):
        hand_written, automatic = (
            compiled(functools.partial(of_value, functools.partial(self.value, recurrence)))(*self.arguments)
            for recurrence in (self.recurrence, self.plain)
        )
        chex.assert_trees_all_close(hand_written, automatic, rtol=1e-11, atol=1e-12)

    def test_value_and_gradient(self):
        self.check(lambda value, *arguments: jax.value_and_grad(value, argnums=(0, 1))(*arguments))

    def test_gradient_of_the_gradient(self):
        def along_directions(value, *arguments):
            gradient = jax.grad(value, argnums=(0, 1))(*arguments)
            return sum(jnp.vdot(g, d) for g, d in zip(gradient, self.directions, strict=True))

        self.check(
            lambda value, *arguments: jax.grad(functools.partial(along_directions, value), argnums=(0, 1))(*arguments)
        )

    def test_tangent_of_the_gradient(self):
        self.check(
            lambda value, *arguments: jax.jvp(jax.grad(value, argnums=(0, 1)), arguments, self.directions)[1],
        )

    def test_finite_differences_of_first_and_second_order(self):
        value = jax.jit(functools.partial(self.value, self.recurrence))
        check_grads(value, self.arguments, order=2, modes=["rev"], atol=1e-6, rtol=1e-6)


if __name__ == "__main__":
    absltest.main()
