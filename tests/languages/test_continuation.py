import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.continuation import (
    continuation_scores,
    continuations,
    mean_score,
    position_means,
    score_continuations,
    stack_continuations,
    string_means,
)
from metalearn.languages.lstm import lstm
from metalearn.languages.targets import TARGETS, target
from metalearn.languages.tokens import END, FIRST_SYMBOL, PAD, START, VOCABULARY, decode, symbols_to_letters

A, B, C = range(FIRST_SYMBOL, FIRST_SYMBOL + 3)


def literally(probabilities, valid):
    """Precision, recall and F1 of one position as they are defined. Probabilities [V]."""
    allowed = [x for x in range(len(valid)) if valid[x]]
    bad = sum(float(probabilities[x]) for x in range(len(valid)) if not valid[x])
    precision = sum(float(probabilities[x]) for x in allowed)
    recall = sum(float(probabilities[x]) > bad for x in allowed) / len(allowed)
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def scores(probabilities, allowed):
    """Scores of one position, from probabilities and the valid tokens."""
    valid = np.isin(np.arange(len(probabilities)), allowed)
    with np.errstate(divide="ignore"):
        found = continuation_scores(jnp.log(jnp.asarray(probabilities, jnp.float32)), jnp.asarray(valid))
    return tuple(float(x) for x in found)


class ScoreTest(parameterized.TestCase):
    @parameterized.parameters(1, 7, 14)
    def test_uniform_knows_nothing(self, k):
        precision, recall, f1 = scores(np.full(15, 1 / 15), range(k))
        self.assertAlmostEqual(precision, k / 15, places=5)
        self.assertEqual((recall, f1), (0, 0))

    def test_uniform_where_everything_is_valid(self):
        chex.assert_trees_all_close(scores(np.full(15, 1 / 15), range(15)), (1.0, 1.0, 1.0), rtol=1e-6)

    def test_one_of_two(self):
        chex.assert_trees_all_close(scores(np.eye(15)[4], (4, 5)), (1.0, 0.5, 2 / 3), rtol=1e-6)

    def test_uniform_over_the_valid(self):
        chex.assert_trees_all_close(scores(np.isin(np.arange(15), (3, 4, 5)) / 3, (3, 4, 5)), (1.0,) * 3, rtol=1e-6)

    @parameterized.parameters((0.9, 1.0), (0.51, 1.0), (0.49, 0.0), (0.1, 0.0))
    def test_a_single_valid_token(self, p, recall):
        probabilities = np.full(15, (1 - p) / 14)
        probabilities[4] = p
        expected = (p, recall, 2 * p / (p + 1) * recall)
        chex.assert_trees_all_close(scores(probabilities, (4,)), expected, rtol=1e-5)

    def test_an_equal_mass_does_not_beat(self):
        self.assertEqual(scores([0.5, 0.5], (0,)), (0.5, 0.0, 0.0))

    def test_each_valid_token_must_beat_all_invalid_mass_alone(self):
        precision, recall, _ = scores([0.4, 0.25, 0.15, 0.1, 0.1], (0, 1, 2))
        self.assertAlmostEqual(precision, 0.8, places=6)
        self.assertAlmostEqual(recall, 2 / 3, places=6)

    def test_nothing_right_is_zero_not_nan(self):
        self.assertEqual(scores(np.eye(15)[4], (5,)), (0, 0, 0))
        self.assertEqual(scores(np.full(15, 1 / 15), ()), (0, 0, 0))

    def test_tiny_invalid_mass_is_not_rounded_away(self):
        """In log space: 1 - precision would be 0 in float32, and every token above it."""
        logits = jnp.array([0.0, -30.0, -25.0])
        found = continuation_scores(logits, jnp.array([True, True, False]))
        self.assertEqual(float(found.recall), 0.5)

    @parameterized.parameters(0.5, 3.0, 10.0)
    def test_against_the_wording(self, scale):
        keys = jax.random.split(jax.random.key(0))
        logits = scale * jax.random.normal(keys[0], (3, 20, 15))
        valid = jax.random.bernoulli(keys[1], 0.3, logits.shape).at[..., 0].set(True)
        found = jax.jit(continuation_scores)(logits, valid)
        probabilities = np.exp(np.asarray(logits, np.float64))
        probabilities /= probabilities.sum(-1, keepdims=True)
        rows = zip(probabilities.reshape(-1, 15), np.asarray(valid).reshape(-1, 15), strict=True)
        expected = np.array([literally(*row) for row in rows]).reshape(3, 20, 3)
        chex.assert_trees_all_close(np.stack(found, -1), expected, atol=1e-5)


class ContinuationsTest(parameterized.TestCase):
    def test_by_hand(self):
        """a^n b^n: first an a; after it anything but the end; then b until they are as many."""
        test = continuations(target("AnBn"), ["aabb", "ab"])
        chex.assert_trees_all_equal(test.tokens, np.array([[START, A, A, B, B, END], [START, A, B, END, PAD, PAD]]))
        expected = [[{A}, {A, B}, {A, B}, {B}, {END}], [{A}, {A, B}, {END}, set(), set()]]
        found = [[set(np.flatnonzero(at).tolist()) for at in string] for string in test.valid]
        self.assertEqual(found, expected)
        counted = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
        chex.assert_trees_all_equal(test.positions, counted)
        # Nowhere are a, b and the end all valid.
        chex.assert_trees_all_equal(test.constrained, counted)
        chex.assert_trees_all_equal(test.may_end, np.array([[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]], bool))

    def test_an_unconstrained_language(self):
        """Over {a, b}^+ only the end of the empty string is forbidden."""
        test = continuations(target("AB"), ["ba", "a"])
        chex.assert_trees_all_equal(test.constrained, np.array([[1, 0, 0], [1, 0, 0]], bool))
        chex.assert_trees_all_equal(test.may_end, np.array([[0, 1, 1], [0, 1, 0]], bool))

    def test_agrees_with_every_language(self):
        rng = np.random.default_rng(0)
        for name, language in TARGETS.items():
            strings = [s for s in language.sample(rng, 12) if len(s) < 40]
            test = continuations(language, strings)
            for row, valid, positions in zip(test.tokens, test.valid, test.positions, strict=True):
                self.assertEqual(positions.sum(), len(decode(row)) + 1, name)
                for time in np.flatnonzero(positions):
                    prefix = symbols_to_letters(decode(row[: time + 1]), language.alphabet)
                    expected = {
                        END if x == "$" else FIRST_SYMBOL + language.alphabet.index(x)
                        for x in language.valid_next(prefix)
                    }
                    self.assertEqual(set(np.flatnonzero(valid[time]).tolist()), expected, (name, prefix))

    @parameterized.parameters(
        ([], "AnBn: .* at least one test string"),
        (["ab", "aab"], "'aab' is not in AnBn, .*: it ends too early"),
        (["abb"], "'abb' is not in AnBn, .*: no string continues 'ab' that way"),
        (["abc"], r"\['c'\], outside its alphabet 'ab'"),
    )
    def test_errors(self, strings, message):
        with self.assertRaisesRegex(ValueError, message):
            continuations(target("AnBn"), strings)

    def test_stacking(self):
        with self.assertRaisesRegex(ValueError, "at least one language"):
            stack_continuations([])
        one = target("An")
        with self.assertRaisesRegex(ValueError, r"\[15, 20\]"):
            stack_continuations([continuations(one, ["a"]), continuations(one, ["a"], vocabulary=20)])


class MeanTest(parameterized.TestCase):
    def test_by_hand(self):
        values = np.array([[1.0, 0.5, 0.0], [0.2, 9.0, 9.0], [9.0, 9.0, 9.0]], np.float32)
        counted = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
        chex.assert_trees_all_close(string_means(values, counted), np.array([0.5, 0.2, np.nan]), rtol=1e-6)
        chex.assert_trees_all_close(mean_score(values, counted), np.array(0.35), rtol=1e-6)
        chex.assert_trees_all_close(position_means(values, counted), np.array([0.6, 0.5, 0.0]), rtol=1e-6)
        self.assertTrue(np.isnan(mean_score(values, np.zeros_like(counted))))

    def test_several_models_and_restricted_positions(self):
        """Padding to a common shape changes nothing; each model meets its own language."""
        model = lstm(VOCABULARY, units=5)
        params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
        params = jax.tree.map(lambda x: 6 * x, params)
        each = [
            continuations(target("AnBmCn"), ["abc", "aabbbcc", "abbc"]),
            continuations(target("Dyck"), ["()", "(())"]),
        ]
        together = stack_continuations(each)
        found = jax.jit(lambda params, test: score_continuations(model, params, test))(params, together)
        for pair, test in enumerate(each):
            one = jax.tree.map(lambda x: x[pair], params)  # noqa: B023
            logits = np.asarray(jax.jit(model.logits)(one, test.tokens[:, :-1], None), np.float64)
            probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            for field in ("positions", "constrained", "may_end"):
                of_strings = []
                for p, valid, counted in zip(probabilities, test.valid, getattr(test, field), strict=True):
                    steps = [literally(p[t], valid[t])[2] for t in range(len(counted)) if counted[t]]
                    of_strings.append(np.mean(steps))
                chex.assert_trees_all_close(
                    mean_score(found.f1, getattr(together, field))[pair], np.array(np.mean(of_strings)), atol=1e-5
                )


if __name__ == "__main__":
    absltest.main()
