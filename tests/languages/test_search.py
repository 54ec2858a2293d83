import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.search import most_probable
from metalearn.languages.strings import sample_strings
from metalearn.languages.tokens import END, FIRST_SYMBOL, PAD, START
from tests.languages.models import (
    SYMBOLS,
    VOCABULARY,
    A,
    B,
    enumerated,
    markov,
    table,
    three_lstms,
    true_log_probabilities,
)

LONGEST = 5


def search(model, params, k=25, **settings):
    # One k and one budget for nearly all tests, so that they share a compiled function.
    return most_probable(model, params, k, **dict(symbols=SYMBOLS, budget=512) | settings)


class AgainstEnumerationTest(parameterized.TestCase):
    @parameterized.product(nucleus=(0.5, 0.9, 1.0), temperature=(0.5, 1.0, 2.0), rarest=(0.0, 0.002))
    def test_finds_exactly_the_best(self, nucleus, temperature, rarest):
        settings = dict(nucleus=nucleus, temperature=temperature)
        found = search(*three_lstms(), max_symbols=LONGEST, rarest=rarest, **settings)
        for best, of_one in zip(found, enumerated(LONGEST), strict=True):
            truth = true_log_probabilities(of_one, **settings)
            possible = {s: r for s, (r, drawn) in truth.items() if r > -np.inf and drawn >= np.log(rarest or 1e-300)}
            expected = sorted(possible, key=lambda s: -possible[s])[:25]
            self.assertTrue(best.complete)
            self.assertEqual(best.rank.dtype, np.float32)
            self.assertLen(set(best.strings), len(best.strings))
            self.assertLen(best.strings, len(expected))
            chex.assert_trees_all_close(best.rank, np.array([possible[s] for s in expected]), atol=1e-4)
            chex.assert_trees_all_close(best.drawn, np.array([truth[s][1] for s in best.strings]), atol=1e-4)
            # The same set, but for strings that tie with the last in float32.
            clear = {s for s in expected if possible[s] > possible[expected[-1]] + 1e-4} if expected else set()
            self.assertLessEqual(clear, set(best.strings))

    def test_more_strings_than_there_are(self):
        for best in search(*three_lstms(), max_symbols=2):
            self.assertTrue(best.complete)
            self.assertLen(best.strings, 1 + 3 + 9)


class KnownModelTest(parameterized.TestCase):
    def test_geometric(self):
        params = table({START: {A: 1.0}, A: {A: 0.75, END: 0.25}})
        (best,) = search(markov(), params)
        self.assertTrue(best.complete)
        self.assertEqual(best.strings, tuple((0,) * n for n in range(1, 26)))
        expected = np.log(0.25) + np.arange(25) * np.log(0.75)
        chex.assert_trees_all_close(best.rank, expected, rtol=1e-5)
        # At temperature 1/2 odds are squared: 9 to 1.
        (best,) = search(markov(), params, temperature=0.5)
        chex.assert_trees_all_close(best.rank, np.log(0.1) + np.arange(25) * np.log(0.9), rtol=1e-5)
        chex.assert_trees_all_close(best.drawn, expected, rtol=1e-5)

    def test_rank_and_draws_favour_different_strings(self):
        """A long chain of likely tokens wins at a low temperature although it is hardly ever drawn."""
        rows = {
            START: {A: 0.5, B: 0.5},
            A: {A: 0.8, END: 0.2},
            B: {END: 0.25, **dict.fromkeys((PAD, START, VOCABULARY - 1), 0.25)},
        }
        params = table(rows)
        (best,) = search(markov(), params, temperature=0.25)
        self.assertCountEqual(best.strings, [(0,) * n for n in range(1, 25)] + [(1,)])
        (best,) = search(markov(), params, temperature=0.25, rarest=1e-3)
        self.assertTrue(best.complete)
        # 0.5 * 0.8^(n - 1) * 0.2 >= 0.001 up to n = 21
        self.assertCountEqual(best.strings, [(0,) * n for n in range(1, 22)] + [(1,)])

    def test_mass_on_other_tokens_is_lost(self):
        params = table({START: {A: 0.4, PAD: 0.5, END: 0.1}, A: {END: 0.5, START: 0.5}})
        (best,) = search(markov(), params)
        self.assertEqual(best.strings, ((0,), ()))
        chex.assert_trees_all_close(np.exp(best.drawn), np.array([0.2, 0.1]), rtol=1e-5)
        self.assertTrue(best.complete)

    def test_a_certain_string(self):
        params = table({START: {A: 1.0}, A: {B: 1.0}, B: {END: 1.0}})
        (best,) = search(markov(), params)
        self.assertEqual((best.strings, best.complete), (((0, 1),), True))
        chex.assert_trees_all_equal(best.rank, np.zeros(1, np.float32))

    def test_a_model_that_never_ends(self):
        params = table({START: {A: 1.0}, A: {A: 1.0}})
        (best,) = search(markov(), params, max_symbols=20)
        self.assertEqual((best.strings, best.complete), ((), True))
        (best,) = search(markov(), params, max_symbols=2000, budget=32)
        self.assertEqual((best.strings, best.complete), ((), False))

    def test_a_broken_model_has_no_strings(self):
        params = jnp.stack([jnp.full((VOCABULARY, VOCABULARY), jnp.nan), table({START: {END: 1.0}})[0]])
        broken, sound = search(markov(), params)
        self.assertEqual((broken.strings, broken.complete), ((), True))
        self.assertEqual((sound.strings, sound.complete), (((),), True))

    def test_equal_strings_are_in_order_of_length_then_symbols(self):
        rows = {START: {A: 1 / 3, B: 1 / 3, END: 1 / 3}, A: {END: 1.0}, B: {END: 1.0}}
        (best,) = search(markov(), table(rows))
        self.assertEqual(best.strings, ((), (0,), (1,)))


class BudgetTest(parameterized.TestCase):
    def test_exhaustion_is_reported(self):
        """END is so rare that very many prefixes are more probable than the 25th string."""
        share = (1 - 1e-4) / SYMBOLS
        row = {**dict.fromkeys(range(FIRST_SYMBOL, FIRST_SYMBOL + SYMBOLS), share), END: 1e-4}
        easy = {START: {A: 1.0}, A: {A: 0.5, END: 0.5}}
        hard = dict.fromkeys((START, *range(FIRST_SYMBOL, FIRST_SYMBOL + SYMBOLS)), row)
        params = jnp.concatenate([table(rows) for rows in (hard, easy)])
        short, other = search(markov(), params, budget=8)
        self.assertFalse(short.complete)
        self.assertFalse(other.complete)  # 25 strings a^n lie 25 prefixes deep
        stopped, finished = search(markov(), params)
        self.assertEqual((stopped.complete, finished.complete), (False, True))
        # What was found is sound all the same.
        chex.assert_trees_all_close(
            stopped.rank, np.array([math.log(1e-4) + len(s) * math.log(share) for s in stopped.strings]), rtol=1e-5
        )
        self.assertLen(stopped.strings, 25)


class AgainstDrawsTest(parameterized.TestCase):
    def test_frequent_strings_are_found_with_their_frequency(self):
        count = 4000
        model, params = three_lstms()
        found = search(model, params, nucleus=0.95)
        drawn = sample_strings(model, params, jax.random.key(2), count, nucleus=0.95, symbols=SYMBOLS, max_symbols=30)
        for best, counts in zip(found, drawn, strict=True):
            self.assertTrue(best.complete)
            for string, log_p in zip(best.strings, best.drawn, strict=True):
                p = math.exp(log_p)
                self.assertAlmostEqual(counts[string] / count, p, delta=4.5 * math.sqrt(p * (1 - p) / count) + 1e-3)
            rarest = math.exp(best.drawn.min())
            often = {s for s, n in counts.items() if n / count > rarest + 5 * math.sqrt(rarest / count)}
            self.assertLessEqual(often, set(best.strings))


class ErrorTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(k=0), "k=0"),
        (dict(budget=0), "budget=0"),
        (dict(rarest=-0.1), "rarest=-0.1"),
        (dict(nucleus=0.0), "nucleus=0.0"),
        (dict(temperature=-1.0), "temperature=-1.0"),
        (dict(symbols=0), "symbols=0"),
    )
    def test_settings(self, settings, message):
        with self.assertRaisesRegex(ValueError, message):
            search(*three_lstms(), **settings)


if __name__ == "__main__":
    absltest.main()
