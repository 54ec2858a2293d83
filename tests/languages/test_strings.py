import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.strings import sample_strings, string_log_probabilities, token_log_probabilities
from metalearn.languages.tokens import END, PAD, START, UNKNOWN, encode
from tests.languages.models import (
    SYMBOLS,
    VOCABULARY,
    A,
    B,
    enumerated,
    markov,
    next_token,
    table,
    three_lstms,
    true_log_probabilities,
)


class TokenTest(parameterized.TestCase):
    @parameterized.product(nucleus=(0.05, 0.5, 0.9, 0.99, 1.0), temperature=(0.5, 1.0, 3.0))
    def test_nucleus_and_temperature(self, nucleus, temperature):
        logits = 3 * jax.random.normal(jax.random.key(0), (40, 15))
        rank, drawn = token_log_probabilities(logits, nucleus, temperature)
        expected = np.array([next_token(row, nucleus, temperature) for row in np.asarray(logits)])
        chex.assert_trees_all_close(np.exp(rank), expected[:, 0], atol=1e-6)
        chex.assert_trees_all_close(np.exp(drawn), expected[:, 1], atol=1e-6)

    def test_the_token_that_crosses_the_nucleus_is_kept(self):
        _, drawn = token_log_probabilities(jnp.log(jnp.array([0.3, 0.5, 0.2])), 0.6, 1.0)
        chex.assert_trees_all_close(np.exp(drawn), np.array([0.375, 0.625, 0.0]), atol=1e-6)

    def test_equal_tokens_do_not_all_cross_it(self):
        _, drawn = token_log_probabilities(jnp.zeros(4), 0.5, 1.0)
        chex.assert_trees_all_close(np.exp(drawn), np.array([0.5, 0.5, 0.0, 0.0]), atol=1e-6)


class LogProbabilityTest(parameterized.TestCase):
    @parameterized.product(nucleus=(0.5, 0.9, 1.0), temperature=(0.5, 1.0))
    def test_equal_products_of_token_probabilities(self, nucleus, temperature):
        model, params = three_lstms()
        rank, drawn = string_log_probabilities(
            model, params, encode(list(enumerated(3)[0])), nucleus=nucleus, temperature=temperature, symbols=SYMBOLS
        )
        self.assertEqual(rank.dtype, jnp.float32)
        for pair, of_one in enumerate(enumerated(3)):
            truth = true_log_probabilities(of_one, nucleus, temperature)
            expected_rank, expected_drawn = np.array(list(truth.values())).T
            chex.assert_trees_all_close(rank[pair], expected_rank, atol=1e-4)
            chex.assert_trees_all_close(drawn[pair], expected_drawn, atol=1e-4)

    def test_what_is_no_string_has_probability_zero(self):
        model, params = three_lstms()
        rows = np.array(
            [
                [START, A, END, PAD],
                [START, A, B, A],  # cut
                [PAD, PAD, PAD, PAD],
                [START, A, UNKNOWN, END],
                [START, VOCABULARY - 1, END, PAD],  # the spare token
                [A, A, END, PAD],
                [START, A, B, END],  # longer than max_symbols
            ]
        )
        _, drawn = string_log_probabilities(model, params, rows, max_symbols=1, symbols=SYMBOLS)
        drawn = np.asarray(drawn)
        self.assertTrue(np.all(np.isfinite(drawn[:, 0])))
        self.assertTrue(np.all(drawn[:, 1:] == -np.inf))

    def test_what_follows_the_end_does_not_matter(self):
        model, params = three_lstms()
        rows = np.array([[START, A, END, PAD, PAD], [START, A, END, END, A]])
        _, drawn = string_log_probabilities(model, params, rows, symbols=SYMBOLS)
        chex.assert_trees_all_equal(drawn[:, 0], drawn[:, 1])

    def test_a_broken_model_has_no_strings(self):
        params = jnp.full((1, VOCABULARY, VOCABULARY), jnp.nan)
        rank, drawn = string_log_probabilities(markov(), params, encode([(0, 1)]), symbols=SYMBOLS)
        self.assertEqual((float(rank[0, 0]), float(drawn[0, 0])), (-np.inf, -np.inf))

    def test_reading_token_by_token_gives_the_same_logits(self):
        model, params = three_lstms()
        one = jax.tree.map(lambda x: x[1], params)
        tokens = jax.random.randint(jax.random.key(1), (5, 7), 0, VOCABULARY)
        _, steps = jax.lax.scan(lambda carry, t: model.advance(one, carry, t), model.start(one, 5), tokens.T)
        chex.assert_trees_all_close(steps.swapaxes(0, 1), jax.jit(model.logits)(one, tokens, None), atol=1e-5)


class SampleTest(parameterized.TestCase):
    @parameterized.parameters(1.0, 0.8)
    def test_frequencies(self, nucleus):
        model, params = three_lstms()
        count = 3000  # not a multiple of what is drawn at once
        samples = sample_strings(
            model, params, jax.random.key(5), count, nucleus=nucleus, max_symbols=3, symbols=SYMBOLS
        )
        for pair, counts in enumerate(samples):
            truth = true_log_probabilities(enumerated(3)[pair], nucleus)
            self.assertLessEqual(set(counts), {s for s, (_, drawn) in truth.items() if drawn > -np.inf})
            p = np.exp([drawn for _, drawn in truth.values()])
            seen = np.array([counts[string] for string in truth])
            deviation = (seen - count * p) / np.sqrt(count * p * (1 - p) + 1e-9)
            self.assertLess(np.abs(deviation[p > 0.005]).max(initial=0), 4.5)
            # The rest was lost: ended by no END within three symbols, or by a token that is no symbol.
            lost = p.sum()
            self.assertAlmostEqual(seen.sum() / count, lost, delta=4.5 * np.sqrt(lost * (1 - lost) / count) + 1e-6)

    def test_models_draw_independently_and_keys_matter(self):
        model, params = three_lstms()
        same = jax.tree.map(lambda x: jnp.repeat(x[:1], 2, 0), params)
        first, second = sample_strings(model, same, jax.random.key(0), 200, symbols=SYMBOLS)
        again, _ = sample_strings(model, same, jax.random.key(0), 200, symbols=SYMBOLS)
        other, _ = sample_strings(model, same, jax.random.key(1), 200, symbols=SYMBOLS)
        self.assertEqual(first, again)
        self.assertNotEqual(first, second)
        self.assertNotEqual(first, other)

    def test_a_model_that_never_ends(self):
        params = table({START: {A: 1.0}, A: {A: 1.0}})
        (counts,) = sample_strings(markov(), params, jax.random.key(0), 10, symbols=SYMBOLS)
        self.assertEmpty(counts)

    def test_the_longest_string_is_kept(self):
        params = table({START: {A: 1.0}, A: {B: 1.0}, B: {END: 1.0}})
        model = markov()
        (counts,) = sample_strings(model, params, jax.random.key(0), 10, symbols=SYMBOLS, max_symbols=2)
        self.assertEqual(counts, {(0, 1): 10})
        (counts,) = sample_strings(model, params, jax.random.key(0), 10, symbols=SYMBOLS, max_symbols=1)
        self.assertEmpty(counts)


class ErrorTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(nucleus=0.0), "nucleus=0.0"),
        (dict(nucleus=1.5), "nucleus=1.5"),
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(temperature=float("nan")), "temperature=nan"),
        (dict(max_symbols=-1), "max_symbols=-1"),
        (dict(symbols=5), "1 .. 4"),
    )
    def test_settings(self, settings, message):
        model, params = three_lstms()
        with self.assertRaisesRegex(ValueError, message):
            string_log_probabilities(model, params, encode([(0,)]), **{"symbols": SYMBOLS} | settings)

    def test_tokens_of_another_number_of_models(self):
        model, params = three_lstms()
        with self.assertRaisesRegex(ValueError, r"must be \[3, strings, time\]"):
            string_log_probabilities(model, params, np.zeros((2, 4, 5), np.int32), symbols=SYMBOLS)

    def test_nothing_to_draw(self):
        model, params = three_lstms()
        with self.assertRaisesRegex(ValueError, "count=0"):
            sample_strings(model, params, jax.random.key(0), 0, symbols=SYMBOLS)


if __name__ == "__main__":
    absltest.main()
