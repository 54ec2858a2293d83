"""Cells against slow loops, their memories against Python's own, and what their states can and cannot do."""

import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.test_util import check_grads

from metalearn.languages.architectures import CELLS, architecture, memory
from metalearn.languages.model import Strings, cross_entropy
from metalearn.languages.recurrent import recurrent
from metalearn.languages.tokens import START, VOCABULARY
from metalearn.languages.transformer import transformer
from tests.core.problems import compiled
from tests.languages.slow_lstm import random_params, sigmoid

UNITS, DEPTH, WIDTH, HEADS = 4, 3, 2, 2


def model_of(name, layers=1):
    if name in ("stack", "queue"):  # shallow, so that it overflows in the tests
        return recurrent(memory(name, DEPTH, WIDTH), VOCABULARY, UNITS, layers)
    if name == "transformer":  # short-sighted, for the same reason
        return recurrent(transformer(HEADS, DEPTH), VOCABULARY, 2 * UNITS, layers)
    return architecture(name, VOCABULARY, UNITS, layers)


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def slow_transformer(params, state, x):
    """Past keys and values are a list. Rotary positions are a product of complex numbers."""
    attend, attended, widen, narrow = map(np.asarray, params)
    normalised = lambda x: x / np.sqrt((x @ x) / len(x) + 1e-5)
    half = len(x) // HEADS // 2
    past, position = ([], 0) if state is None else state

    def turned(part):
        return (part[:half] + 1j * part[half:]) * np.exp(1j * position / 10_000 ** (np.arange(half) / half))

    q, k, v = (np.split(part, HEADS) for part in np.split(normalised(x) @ attend, 3))
    past = [*past, ([turned(part) for part in k], v)][-DEPTH:]
    heads = []
    for head in range(HEADS):
        products = [(turned(q[head]) * keys[head].conj()).real.sum() / np.sqrt(2 * half) for keys, _ in past]
        heads.append(softmax(np.array(products)) @ np.array([values[head] for _, values in past]))
    x = x + np.concatenate(heads) @ attended
    wide = normalised(x) @ widen
    gelu = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    x = x + gelu @ narrow
    return (past, position + 1), x


def slow_cell(name, params, state, x):
    """One layer and one step for one string, [H]; state None at the beginning."""
    if name == "transformer":
        return slow_transformer(params, state, x)
    gates = params.gates if name in ("stack", "queue") else params
    w_ih, w_hh = np.asarray(gates.input_weights).T, np.asarray(gates.hidden_weights).T
    b_ih, b_hh = np.asarray(gates.input_bias), np.asarray(gates.hidden_bias)
    size = len(x)
    part = lambda vector, n: vector[n * size : (n + 1) * size]
    if name == "gru":
        h = np.zeros(size) if state is None else state
        a, b = w_ih @ x + b_ih, w_hh @ h + b_hh
        r, z = sigmoid(part(a, 0) + part(b, 0)), sigmoid(part(a, 1) + part(b, 1))
        n = np.tanh(part(a, 2) + r * part(b, 2))
        h = (1 - z) * n + z * h
        return h, h
    if name in ("elman", "relu"):
        h = np.zeros(size) if state is None else state
        h = w_ih @ x + b_ih + w_hh @ h + b_hh
        h = np.tanh(h) if name == "elman" else np.maximum(h, 0)
        return h, h
    if name in ("lstm", "clipped_lstm"):
        h, c = (np.zeros(size), np.zeros(size)) if state is None else state
        a = w_ih @ x + b_ih + w_hh @ h + b_hh
        i, f, g, o = sigmoid(part(a, 0)), sigmoid(part(a, 1)), np.tanh(part(a, 2)), sigmoid(part(a, 3))
        c = f * c + i * g
        c = np.minimum(np.maximum(c, -1), 1) if name == "clipped_lstm" else c
        h = o * np.tanh(c)
        return (h, c), h
    h, cells, place = (np.zeros(size), np.zeros((DEPTH, WIDTH)), np.eye(DEPTH + 1)[0]) if state is None else state
    h = np.tanh(w_ih @ x + b_ih + w_hh @ h + b_hh + np.asarray(params.read).T @ cells[0])
    push, pop, stay = softmax(np.asarray(params.action).T @ h + np.asarray(params.action_bias))
    pushed = np.tanh(np.asarray(params.push).T @ h)
    new, where = np.zeros_like(cells), np.zeros_like(place)
    for d in range(DEPTH):
        if name == "stack":
            grown = pushed if d == 0 else cells[d - 1]
        else:
            grown = cells[d] + place[d] * pushed
        new[d] = push * grown + pop * (cells[d + 1] if d + 1 < DEPTH else 0) + stay * cells[d]
    for d in range(DEPTH + 1):
        where[min(d + 1, DEPTH)] += push * place[d]
        where[max(d - 1, 0)] += pop * place[d]
        where[d] += stay * place[d]
    return (h, new, where), h


def slow_logits(name, params, tokens):
    embedding, result = np.asarray(params.embedding), np.zeros((*tokens.shape, VOCABULARY))
    for s, string in enumerate(tokens):
        states = [None] * len(params.layers)
        for t, token in enumerate(string):
            if token == START:
                states = [None] * len(states)
            x = embedding[token]
            for n, layer in enumerate(params.layers):
                states[n], x = slow_cell(name, layer, states[n], x)
            result[s, t] = embedding @ x + np.asarray(params.output_bias)
    return result


def random_tokens(strings, time):
    return np.random.default_rng(0).integers(VOCABULARY, size=(strings, time)).astype(np.int32)


class CellTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))

    @parameterized.product(name=tuple(CELLS), layers=(1, 2))
    def test_logits_and_reading_are_those_of_a_slow_loop(self, name, layers):
        """The tokens hold STARTs, after which nothing before may matter, and are too many for the memories."""
        model = model_of(name, layers)
        params, tokens = random_params(model), random_tokens(2, 9)
        tokens[0, 4] = START
        expected = slow_logits(name, params, tokens)
        np.testing.assert_allclose(compiled(model.logits)(params, tokens), expected, atol=1e-12)
        carry, advance = model.start(params, 2), compiled(model.advance)
        for time in range(tokens.shape[1]):
            carry, logits = advance(params, carry, tokens[:, time])
            np.testing.assert_allclose(logits, expected[:, time], atol=1e-12)

    @parameterized.parameters(*(name for name in CELLS if name != "lstm"))  # it has its own, in test_lstm
    def test_finite_differences(self, name):
        model, tokens = model_of(name), random_tokens(2, 5)
        loss = functools.partial(cross_entropy, model, strings=Strings(tokens, np.ones(2, np.float32)))
        check_grads(jax.jit(loss), (random_params(model, scale=0.5),), order=1, modes=["rev"], rtol=1e-6, atol=1e-6)


class MemoryTest(parameterized.TestCase):
    """With actions made certain, the memories are Python's."""

    @parameterized.parameters("stack", "queue")
    def test_is_a_stack_or_a_queue(self, kind):
        cell, units, depth = memory(kind, 6, 5), 5, 6
        params = cell.init(jax.random.key(0), units)
        # The first three inputs are wired to the three actions, the others say what is pushed.
        wire = jnp.zeros((units, units)).at[jnp.arange(units), jnp.arange(units)].set(3.0)
        gates = jax.tree.map(jnp.zeros_like, params.gates)._replace(input_weights=wire)
        action = jnp.zeros((units, 3)).at[jnp.arange(3), jnp.arange(3)].set(200.0)
        keeps = jnp.diag(jnp.array([0.0, 0.0, 0.0, 0.5, 0.5]))
        params = params._replace(gates=gates, read=jnp.zeros((units, units)), action=action, push=keeps)
        carry, held = cell.start(units, 1, jnp.float32), collections.deque()
        step = compiled(lambda params, carry, x: cell.step(params, carry, cell.drive(params, x)))
        rng = np.random.default_rng(1)
        for _ in range(40):
            act = 0 if len(held) == 0 else 1 if len(held) == depth else rng.integers(3)
            content = rng.normal(size=2)
            carry, _ = step(params, carry, jnp.asarray(np.concatenate([np.eye(3)[act], content]))[None])
            if act == 0:
                pushed = np.tanh(0.5 * np.tanh(3 * content))
                held.appendleft(pushed) if kind == "stack" else held.append(pushed)
            elif act == 1:
                held.popleft()
            expected = np.zeros((depth, 2))
            expected[: len(held)] = np.array(held).reshape(-1, 2)
            np.testing.assert_allclose(carry[1][0, :, 3:], expected, atol=1e-5)

    def test_errors(self):
        with self.assertRaisesRegex(ValueError, "kind='heap'.*'stack' or 'queue'"):
            memory("heap")
        with self.assertRaisesRegex(ValueError, "depth=0"):
            memory("stack", 0)
        with self.assertRaisesRegex(ValueError, "width=0"):
            memory("stack", 3, 0)


class TransformerTest(parameterized.TestCase):
    @parameterized.parameters(0.5, 0.0)
    def test_second_derivative(self, scale):
        """Also where all weights are zero: a length has no derivative there, unless it is kept away from zero."""
        with jax.enable_x64(True):
            model, tokens = model_of("transformer"), random_tokens(2, 5)
            loss = functools.partial(cross_entropy, model, strings=Strings(tokens, np.ones(2, np.float32)))
            at, along = random_params(model, scale=scale), random_params(model, 1)
            derivatives = compiled(lambda at: jax.jvp(jax.grad(loss), (at,), (along,)))
            _, second = derivatives(at)
            moved = lambda by: jax.tree.map(lambda a, b: a + by * b, at, along)
            ahead, behind = (derivatives(moved(by))[0] for by in (1e-5, -1e-5))
            slope = jax.tree.map(lambda a, b: (a - b) / 2e-5, ahead, behind)
            chex.assert_trees_all_close(second, slope, rtol=1e-4, atol=1e-4)

    def test_errors(self):
        with self.assertRaisesRegex(ValueError, "heads=0 and context=256"):
            transformer(heads=0)
        with self.assertRaisesRegex(ValueError, "units=12 must be a multiple of 8: 4 heads"):
            architecture("transformer", VOCABULARY, 12).init(jax.random.key(0))


class StateTest(parameterized.TestCase):
    @parameterized.parameters(("gru", True), ("elman", True), ("clipped_lstm", True), ("lstm", False), ("relu", False))
    def test_which_states_are_bounded(self, name, bounded):
        """Weights that make an LSTM or ReLU network add one at each step drive no bounded state beyond its bound."""
        model = architecture(name, VOCABULARY, 2, 1)
        params = jax.tree.map(lambda x: jnp.zeros(x.shape), jax.eval_shape(model.init, jax.random.key(0)))
        layer = params.layers[0]
        count = layer.input_bias.shape[0] // 2
        layer = layer._replace(input_bias=jnp.full_like(layer.input_bias, 10.0 if count > 1 else 1.0))
        layer = layer._replace(hidden_weights=jnp.tile(jnp.eye(2), (1, count)) if count == 1 else layer.hidden_weights)
        params = params._replace(layers=(layer,))
        carry, advance = model.start(params, 1), compiled(model.advance)
        for _ in range(50):
            carry, _ = advance(params, carry, jnp.array([5]))
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(carry))
        self.assertLessEqual(largest, 1.0) if bounded else self.assertGreater(largest, 40.0)

    def test_unknown_name(self):
        with self.assertRaisesRegex(ValueError, "'rnn' is unknown; choose one of lstm, gru"):
            architecture("rnn", VOCABULARY, 3)


if __name__ == "__main__":
    absltest.main()
