"""The loss: a mean over predicted tokens, the same for distinct strings with counts as for the whole sample."""

import collections
import functools

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.lstm import lstm
from metalearn.languages.model import Strings, cross_entropy
from metalearn.languages.tokens import END, FIRST_SYMBOL, PAD, VOCABULARY, encode
from tests.core.problems import compiled
from tests.languages.slow_lstm import random_params, slow_logits

SAMPLE = [(0,), (1, 2, 1), (0,), (), (0,), (9, 8, 7, 6), (), (1, 2, 1)]
MODEL = lstm(VOCABULARY, 4, 1)


def strings_of(sample, counts=None, length=8, rows=len(SAMPLE)):
    """Padded to one shape, so that one program serves all tests; a row of count 0 holds nothing but PAD."""
    tokens = encode(sample, length)
    counts = np.ones(len(sample)) if counts is None else np.asarray(counts)
    tokens = np.pad(tokens, ((0, rows - len(sample)), (0, 0)), constant_values=PAD)
    return Strings(tokens, np.pad(counts, (0, rows - len(sample))).astype(np.float32))


@functools.cache
def loss_and_gradient():
    return compiled(jax.value_and_grad(functools.partial(cross_entropy, MODEL)))


def slow_loss(params, strings):
    """Token by token, from the slow LSTM."""
    surprises = []
    for row, logits in zip(strings.tokens, slow_logits(params, strings.tokens[:, :-1]), strict=True):
        for target, at in zip(row[1:], logits, strict=True):
            if target != PAD:
                surprises.append(-(at[target] - np.log(np.exp(at).sum())))
    return np.mean(surprises)


class CrossEntropyTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.params = random_params(MODEL)

    def loss(self, strings):
        return float(loss_and_gradient()(self.params, strings)[0])

    def check_equal(self, one, other):
        """Loss and gradient, up to the order in which float64 numbers are added."""
        of_one, of_other = (loss_and_gradient()(self.params, strings) for strings in (one, other))
        chex.assert_trees_all_close(of_one, of_other, rtol=1e-12, atol=1e-15)

    def test_is_the_mean_over_symbols_and_ends_of_a_slow_loop(self):
        strings = strings_of(SAMPLE)
        np.testing.assert_allclose(self.loss(strings), slow_loss(self.params, strings), rtol=1e-12)

    def test_distinct_strings_with_counts_are_the_whole_sample(self):
        counts = collections.Counter(SAMPLE)
        self.assertLess(len(counts), len(SAMPLE))
        self.check_equal(strings_of(list(counts), list(counts.values())), strings_of(SAMPLE))

    @parameterized.parameters(1, 3, 20)
    def test_scoring_a_few_rows_at_once_changes_nothing(self, at_once):
        strings = strings_of(SAMPLE)
        parts = compiled(jax.value_and_grad(functools.partial(cross_entropy, MODEL, at_once=at_once)))
        chex.assert_trees_all_close(
            parts(self.params, strings), loss_and_gradient()(self.params, strings), rtol=1e-12, atol=1e-15
        )

    def test_padding_contributes_nothing(self):
        self.check_equal(strings_of(SAMPLE), strings_of(SAMPLE, length=17, rows=20))

    @parameterized.parameters(PAD, END, FIRST_SYMBOL + 3)
    def test_rows_that_never_occur_contribute_nothing(self, token):
        strings = strings_of(SAMPLE[:5])
        other = strings.tokens.copy()
        other[5:] = token
        self.check_equal(strings, strings._replace(tokens=other))

    def test_no_string_at_all_is_zero_and_not_nan(self):
        nothing = loss_and_gradient()(self.params, strings_of(SAMPLE, np.zeros(len(SAMPLE))))
        chex.assert_trees_all_equal(nothing, (np.zeros(()), jax.tree.map(np.zeros_like, self.params)))

    def test_is_a_mean_over_tokens_not_over_strings(self):
        short, long = (), (1, 2, 3, 4, 5)  # 1 and 6 predicted tokens
        of_short, of_long, of_both = (self.loss(strings_of(sample)) for sample in ([short], [long], [short, long]))
        np.testing.assert_allclose(of_both, (of_short + 6 * of_long) / 7, rtol=1e-12)
        self.assertGreater(abs(of_short - of_long), 1e-3)

    def test_a_truncated_string_is_not_told_to_end(self):
        whole = strings_of([(1, 2, 3, 4, 5, 6)])  # START, six symbols, END: just fits
        cut = strings_of([(1, 2, 3, 4, 5, 6, 7)])
        logits = slow_logits(self.params, whole.tokens[:1, :-1])[0, -1]
        of_end, of_seventh = (np.log(np.exp(logits).sum()) - logits[t] for t in (END, FIRST_SYMBOL + 7))
        np.testing.assert_allclose(7 * (self.loss(whole) - self.loss(cut)), of_end - of_seventh, rtol=1e-10)

    def test_the_key_drives_dropout(self):
        loss = compiled(functools.partial(cross_entropy, lstm(VOCABULARY, 4, 1, dropout=0.5)))
        dropped = {float(loss(self.params, strings_of(SAMPLE), jax.random.key(seed))) for seed in range(3)}
        self.assertLen(dropped | {self.loss(strings_of(SAMPLE))}, 4)


if __name__ == "__main__":
    absltest.main()
