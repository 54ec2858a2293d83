import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.architectures import architecture
from metalearn.languages.states import Feature, edited_logits, features, states
from metalearn.languages.tokens import START, VOCABULARY
from tests.languages.counting import FIRST, UNITS, counting_model, counting_networks

H = 3


@functools.cache
def two_networks(name):
    model = architecture(name, VOCABULARY, H)
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
    return model, jax.tree.map(lambda x: 3 * x, params)


def random_tokens(strings, time):
    tokens = np.random.default_rng(0).integers(START, VOCABULARY, size=(strings, time)).astype(np.int32)
    tokens[:, 0] = START
    return tokens


class StatesTest(parameterized.TestCase):
    @parameterized.parameters(
        ("lstm", ["hidden", "cell"], [H, H]),
        ("clipped_lstm", ["hidden", "cell"], [H, H]),
        ("gru", ["hidden"], [H]),
        ("queue", ["hidden", "memory", "place"], [H, 32 * 16, 33]),
    )
    def test_features(self, name, parts, sizes):
        expected = [
            Feature(layer, part, unit)
            for layer in range(2)
            for part, size in zip(parts, sizes, strict=True)
            for unit in range(size)
        ]
        self.assertSequenceEqual(features(*two_networks(name)), expected)

    @parameterized.parameters("lstm", "gru")
    def test_the_top_layer_speaks(self, name):
        """The output is affine in the hidden state of the top layer, and `logits` takes another way to it."""
        model, params = two_networks(name)
        tokens = random_tokens(4, 6)
        tokens[1, 3] = START
        top = [i for i, f in enumerate(features(model, params)) if (f.layer, f.part) == (1, "hidden")]
        hidden = states(model, params, tokens)[..., top]
        expected = jax.vmap(lambda params: model.logits(params, tokens, None))(params)
        found = jnp.einsum("pstd,pvd->pstv", hidden, params.embedding) + params.output_bias[:, None, None]
        chex.assert_trees_all_close(found, expected, atol=1e-5)

    def test_cells_of_an_lstm(self):
        """h = o tanh(c) is smaller than tanh(c), and of its sign."""
        model, params = two_networks("lstm")
        of_part = lambda part: [i for i, f in enumerate(features(model, params)) if f.part == part]
        found = np.asarray(states(model, params, random_tokens(4, 6)))
        ratio = found[..., of_part("hidden")] / np.tanh(found[..., of_part("cell")])
        self.assertTrue(((ratio > 0) & (ratio < 1)).all())


class EditTest(parameterized.TestCase):
    def test_against_a_slow_loop(self):
        """Two edits of an LSTM's state, at some moments of some strings."""
        model, params = two_networks("lstm")
        params = jax.tree.map(lambda x: x[0], params)
        tokens, rng = random_tokens(3, 5), np.random.default_rng(1)
        at = rng.random(tokens.shape) < 0.4
        keep, add = rng.normal(size=(2, 2, 4 * H)).astype(np.float32)
        found = jax.jit(lambda *arrays: edited_logits(model, params, *arrays))(tokens, at, keep, add)
        advance = jax.jit(model.advance)
        for edit in range(2):
            for row, moments in enumerate(at):
                carry = model.start(params, 1)
                for time, token in enumerate(tokens[row]):
                    carry, logits = advance(params, carry, token[None])
                    chex.assert_trees_all_close(found[edit, row, time], logits[0], atol=1e-5)
                    if moments[time]:
                        flat = jnp.concatenate([x[0] for layer in carry for x in layer])
                        flat = (keep[edit] * flat + add[edit]).reshape(2, 2, 1, H)
                        carry = tuple(type(layer)(*rows) for layer, rows in zip(carry, flat, strict=True))

    def test_is_felt_from_the_next_token_on(self):
        model, params = counting_model(), counting_networks(("AnBn", 99))
        one = jax.tree.map(lambda x: x[0], params)
        tokens = np.array([[START, 4, 4, 5, 5, 5]], np.int32)
        at = np.array([[0, 0, 1, 0, 0, 0]], bool)
        add = np.eye(UNITS, dtype=np.float32)[[FIRST]]
        before, after = (
            edited_logits(model, one, tokens, at, np.ones_like(add), scale * add)[0, 0].argmax(-1) for scale in (0, 1)
        )
        self.assertSequenceEqual(before.tolist(), [4, 4, 4, 5, 3, 3])
        self.assertSequenceEqual(after.tolist(), [4, 4, 4, 5, 5, 3])


if __name__ == "__main__":
    absltest.main()
