"""What all recurrent language models share: dropout, types, the beginning of strings, and what they refuse."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.architectures import CELLS, architecture
from metalearn.languages.lstm import lstm
from metalearn.languages.recurrent import Cell, recurrent
from metalearn.languages.tokens import START, VOCABULARY
from tests.core.problems import compiled
from tests.languages.slow_lstm import cell, random_params, slow_logits


def random_tokens(strings, time):
    return np.random.default_rng(0).integers(VOCABULARY, size=(strings, time)).astype(np.int32)


class AssemblyTest(parameterized.TestCase):
    def test_a_cell_of_ones_own(self):
        """One that adds up its scaled inputs, from 1: all sums since the last START, at once."""
        adding = Cell(
            init=lambda key, units: jnp.zeros(()),
            start=lambda units, batch, dtype: {"sum": jnp.ones((batch, units, 1), dtype)},
            drive=lambda scale, x: scale * x,
            step=lambda scale, state, driven: (
                {"sum": state["sum"] + driven[..., None]},
                state["sum"][..., 0] + driven,
            ),
        )
        with jax.enable_x64(True):
            model, tokens = recurrent(adding, VOCABULARY, 3, layers=1), random_tokens(2, 8)
            tokens[0, 5] = START
            params = random_params(model)
            (scale,), embedding = params.layers, params.embedding
            begin = [np.maximum.accumulate(np.where(row == START, np.arange(8), 0)) for row in tokens]
            sums = [
                [1 + scale * embedding[row[first : t + 1]].sum(0) for t, first in enumerate(firsts)]
                for row, firsts in zip(tokens, begin, strict=True)
            ]
            expected = np.array(sums) @ embedding.T + params.output_bias
            chex.assert_trees_all_close(np.asarray(compiled(model.logits)(params, tokens)), expected, atol=1e-12)
            carry, advance = model.start(params, 2), compiled(model.advance)
            for time in range(8):
                carry, logits = advance(params, carry, tokens[:, time])
                chex.assert_trees_all_close(np.asarray(logits), expected[:, time], atol=1e-12)

    @parameterized.product(name=tuple(CELLS), dtype=(jnp.float32, jnp.bfloat16))
    def test_keeps_the_type_of_the_weights(self, name, dtype):
        model = architecture(name, VOCABULARY, 8, dropout=0.5)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
        logits = jax.eval_shape(model.logits, params, random_tokens(2, 3), jax.random.key(0))
        self.assertEqual((logits.dtype, logits.shape), (dtype, (2, 3, VOCABULARY)))

    @parameterized.parameters(
        ({"vocabulary": 0}, "vocabulary=0"),
        ({"units": 0}, "units=0"),
        ({"layers": 0}, "layers=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
    )
    def test_bad_sizes(self, wrong, message):
        for of_sizes in (lstm, lambda **sizes: architecture("gru", **sizes)):
            with self.assertRaisesRegex(ValueError, message):
                of_sizes(**({"vocabulary": 15, "units": 4} | wrong))


class DropoutTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.tokens = random_tokens(2, 5)

    @parameterized.parameters((0.3, None), (0.0, 1))
    def test_is_off_without_a_key_or_a_rate(self, rate, seed):
        model = lstm(VOCABULARY, 8, 2, dropout=rate)
        params, key = random_params(model), None if seed is None else jax.random.key(seed)
        logits = compiled(model.logits)(params, self.tokens, key)
        chex.assert_trees_all_close(np.asarray(logits), slow_logits(params, self.tokens), atol=1e-12)

    def test_is_a_function_of_the_key(self):
        model = lstm(VOCABULARY, 8, 2, dropout=0.3)
        params, logits = random_params(model), compiled(model.logits)
        one, same, other = (logits(params, self.tokens, jax.random.key(seed)) for seed in (1, 1, 2))
        chex.assert_trees_all_equal(one, same)
        self.assertGreater(np.abs(one - other).min(axis=-1).max(), 1e-4)

    def test_drops_in_three_places_and_keeps_the_mean(self):
        """With one unit and one token the output can only take four values, whose probabilities are known."""
        rate, strings = 0.3, 20_000
        model = lstm(VOCABULARY, 1, 2, dropout=rate)
        params, tokens = random_params(model), np.full((strings, 1), 5, np.int32)
        logits = np.asarray(compiled(model.logits)(params, tokens, jax.random.key(1)))[:, 0]
        zero, kept = np.zeros(1), 1 / (1 - rate)
        bottom, top = (lambda x, layer=layer: cell(layer, x, zero, zero)[0] for layer in params.layers)
        embedding = np.asarray(params.embedding)
        outcomes = [  # hidden output, probability
            (zero, rate),
            (kept * top(zero), (1 - rate) * rate),
            (kept * top(kept * bottom(zero)), (1 - rate) ** 2 * rate),
            (kept * top(kept * bottom(kept * embedding[5])), (1 - rate) ** 3),
        ]
        found = np.zeros(strings, bool)
        for hidden, probability in outcomes:
            expected = embedding @ hidden + np.asarray(params.output_bias)
            equal = np.abs(logits - expected).max(axis=-1) < 1e-12
            self.assertAlmostEqual(equal.mean(), probability, delta=5 * (0.25 / strings) ** 0.5)
            self.assertFalse((found & equal).any())
            found |= equal
        self.assertTrue(found.all())


if __name__ == "__main__":
    absltest.main()
