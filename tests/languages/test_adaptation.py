"""Adaptation of many learners at once is, for each of them, a plain loop of SGD and then AdamW over its own strings."""

import dataclasses
import functools

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.core import task_mesh
from metalearn.languages.adaptation import Adaptation, AdaptationSettings, only_embedding_and_output, protocol
from metalearn.languages.architectures import CELLS, architecture
from metalearn.languages.lstm import lstm
from metalearn.languages.model import Strings, cross_entropy
from metalearn.languages.tokens import VOCABULARY, encode
from tests.core.problems import compiled
from tests.languages.slow_lstm import random_params

SETTINGS = AdaptationSettings(sgd_rate=0.7, adamw_rate=0.02, weight_decay=0.3, batch=4, length=20, group=4)


@functools.cache
def model(dropout=0.0):
    return lstm(VOCABULARY, 3, 1, dropout)


@functools.cache
def adaptation(devices=4, dropout=0.0, **settings):
    changed = AdaptationSettings(**(vars(SETTINGS) | settings))
    return Adaptation(model(dropout), changed, task_mesh(jax.devices()[:devices]))


@functools.cache
def loss_and_gradient():
    return compiled(jax.value_and_grad(functools.partial(cross_entropy, model())))


def weights(learners):
    return jax.tree.map(lambda *x: np.stack(x), *(random_params(model(), seed) for seed in range(learners)))


def learner(params, i):
    return jax.tree.map(lambda x: x[i], params)


def random_corpora(learners, size, longest=7, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda: [tuple(rng.integers(3, size=rng.integers(longest + 1)).tolist()) for _ in range(size)]
    return [draw() for _ in range(learners)]


def slow(params, corpus, epochs, order, settings=SETTINGS, moves=lambda name: True):
    """One learner by a Python loop: SGD, then AdamW (Loshchilov & Hutter 2019) with decay on everything that moves."""

    def batches(count):
        for _ in range(count):
            for begin in range(0, len(order), settings.batch):
                tokens = encode([corpus[i] for i in order[begin : begin + settings.batch]], settings.length)
                padded = np.full((settings.batch, settings.length), 1, np.int32)
                padded[: len(tokens)] = tokens
                counts = np.arange(settings.batch) < len(tokens)
                strings = Strings(padded, counts.astype(np.float32))
                yield lambda params, strings=strings: loss_and_gradient()(params, strings)[1]

    movable = jax.tree_util.tree_map_with_path(lambda path, _: moves(jax.tree_util.keystr(path)), params)
    for gradient_at in batches(epochs[0]):
        params = jax.tree.map(
            lambda p, g, moves: p - moves * settings.sgd_rate * g, params, gradient_at(params), movable
        )
    m = v = jax.tree.map(np.zeros_like, params)
    for t, gradient_at in enumerate(batches(epochs[1]), start=1):
        gradient = gradient_at(params)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, gradient)
        params = jax.tree.map(
            lambda p, m, v, moves, t=t: (
                p
                - moves
                * settings.adamw_rate
                * ((m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + settings.weight_decay * p)
            ),
            params,
            m,
            v,
            movable,
        )
    return jax.tree.map(np.asarray, params)


class AdaptationTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.addClassCleanup(jax.config.update, "jax_disable_most_optimizations", False)
        jax.config.update("jax_disable_most_optimizations", True)  # nearly all of the time is spent compiling

    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.key = jax.random.key(0)

    def check(self, corpora, epochs, made_by=None, settings=SETTINGS, moves=lambda name: True):
        params = weights(len(corpora))
        adapted = (made_by or adaptation())(params, corpora, epochs, self.key)
        for i, (corpus, key) in enumerate(zip(corpora, jax.random.split(self.key, len(corpora)), strict=True)):
            # The order is drawn once from the learner's own key; nothing else of the oracle knows the library.
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), len(corpus)))
            expected = slow(learner(params, i), corpus, epochs, order, settings, moves)
            chex.assert_trees_all_close(learner(adapted, i), expected, rtol=1e-8, atol=1e-10)
        return params, adapted

    @parameterized.named_parameters(
        ("one_string", 1, (3, 2)),
        ("one_batch", 4, (2, 1)),
        ("several_batches_and_a_rest", 11, (2, 2)),
        ("no_sgd", 5, (0, 2)),
        ("no_adamw", 5, (2, 0)),
    )
    def test_is_a_plain_loop_for_each_learner(self, size, epochs):
        self.check(random_corpora(3, size), epochs)

    def test_learners_one_after_the_other(self):
        self.check(random_corpora(3, 5), (2, 1), adaptation(learner_axis="map"))

    def test_learners_may_have_keys_of_their_own(self):
        """Then they learn alike wherever they stand, in the order that their key draws."""
        corpus = random_corpora(1, 11)[0]
        params = jax.tree.map(lambda x: np.stack([x[0]] * 3), weights(1))
        keys = jax.random.split(self.key, 2)[np.array([0, 1, 0])]
        adapted = adaptation()(params, [corpus] * 3, (2, 2), keys)
        chex.assert_trees_all_equal(learner(adapted, 0), learner(adapted, 2))
        order = np.asarray(jax.random.permutation(jax.random.fold_in(keys[1], 0), len(corpus)))
        expected = slow(learner(params, 1), corpus, (2, 2), order)
        chex.assert_trees_all_close(learner(adapted, 1), expected, rtol=1e-8, atol=1e-10)

    def test_strings_are_cut_at_the_length(self):
        corpora = random_corpora(2, 5, longest=40)
        self.assertGreater(max(len(s) for corpus in corpora for s in corpus), SETTINGS.length)
        self.check(corpora, (1, 1))

    def test_strings_longer_than_the_usual_sizes(self):
        corpora = [[(0, 1) * 140]]
        settings = dataclasses.replace(SETTINGS, length=290, batch=1, group=1)
        self.check(corpora, (1, 0), adaptation(devices=1, length=290, batch=1, group=1), settings)

    def test_batches_of_different_lengths(self):
        """Some updates are padded to 16 tokens and some to 20; learners of unlike lengths share a group."""
        corpora = [[(0,) * n for n in range(12)], [(1,) * (n % 3) for n in range(12)], [(2,) * 18, *[()] * 11]]
        self.check(corpora, (1, 1))

    def test_groups_idle_learners_and_devices_make_no_difference(self):
        """Six learners on four devices in two groups, of which the second is half idle; and one after the other."""
        corpora, params, done = random_corpora(6, 5), weights(6), []
        together = adaptation()(params, corpora, (2, 1), self.key, done.append)
        self.assertEqual(done, [4, 6])
        alone = adaptation(devices=1, group=1)(params, corpora, (2, 1), self.key, done.append)
        self.assertEqual(done[2:], [1, 2, 3, 4, 5, 6])
        chex.assert_trees_all_close(together, alone, rtol=1e-9, atol=1e-11)

    def check_moves(self, moves, names):
        """The other weights are the very same numbers after both rules; those named are not."""
        made_by = Adaptation(model(), SETTINGS, task_mesh(jax.devices()[:1]), moves)
        before, after = self.check(random_corpora(2, 5), (2, 1), made_by, moves=lambda name: name in names)
        leaves = jax.tree_util.tree_leaves_with_path(before)
        for (path, leaf), adapted in zip(leaves, jax.tree.leaves(after), strict=True):
            self.assertEqual(leaf.tobytes() != adapted.tobytes(), jax.tree_util.keystr(path) in names)

    def test_layers_may_stay_as_they_are(self):
        self.check_moves(only_embedding_and_output, (".embedding", ".output_bias"))

    def test_any_weights_may_stay_as_they_are(self):
        """What moves is said leaf by leaf here."""
        name = ".layers[0].hidden_weights"
        self.check_moves(
            lambda params: jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path) == name, params),
            (name,),
        )

    def test_some_weights_must_move(self):
        still = Adaptation(model(), SETTINGS, moves=lambda params: False)
        with self.assertRaisesRegex(ValueError, "False everywhere: at least one"):
            still(weights(1), random_corpora(1, 5), (1, 0), self.key)

    def test_dropout_and_order_come_from_the_key(self):
        corpora = [random_corpora(1, 6)[0]] * 3
        params = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), weights(1))
        adapt = adaptation(dropout=0.5)
        first, same, other = (adapt(params, corpora, (1, 0), jax.random.key(seed)) for seed in (1, 1, 2))
        chex.assert_trees_all_equal(first, same)
        found = [learner(result, i).embedding for result in (first, other) for i in range(3)]
        for i, one in enumerate(found):  # every learner and every key has masks and an order of its own
            for another in found[:i]:
                self.assertGreater(np.abs(one - another).max(), 1e-3)

    def test_the_given_weights_stay_as_they_are(self):
        params = weights(4)
        before = jax.tree.map(np.copy, params)
        adaptation()(params, random_corpora(4, 5), (2, 1), self.key)
        chex.assert_trees_all_equal(params, before)

    @parameterized.named_parameters(
        ("none", [], 0, "got sizes"),
        ("an_empty_one", [[]], 1, "non-empty"),
        ("unequal", [[(1,)], [(1,), (2,)]], 2, "of one size"),
        ("unknown_symbol", [[(1,)], [(12,)]], 2, r"\(12,\) has a symbol outside the vocabulary"),
        ("too_few_weights", [[(1,)], [(1,)], [(1,)]], 2, "weights of 2 learners.*3 corpora"),
        ("too_many_weights", [[(1,)], [(1,)]], 3, "weights of 3 learners.*2 corpora"),
    )
    def test_errors(self, corpora, learners, message):
        with self.assertRaisesRegex(ValueError, message):
            adaptation()(weights(max(learners, 1)), corpora, (1, 0), self.key)

    @parameterized.parameters(({"batch": 0}, "batch=0"), ({"group": 0}, "group=0"), ({"length": 2}, "length=2"))
    def test_settings_out_of_range(self, wrong, message):
        with self.assertRaisesRegex(ValueError, message):
            AdaptationSettings(**wrong)

    @parameterized.parameters(("lstm", 0), *((name, 1) for name in CELLS))
    def test_one_update_lowers_for_every_kind_of_device(self, name, phase):
        of_name = architecture(name, VOCABULARY, 8, 1)
        start, step = Adaptation(of_name, SETTINGS, task_mesh(jax.devices()[:1]))._rules[phase]
        moving = jax.tree.map(lambda x: np.stack([x] * 4), random_params(of_name))
        learners, still = jax.eval_shape(start, moving), jax.tree.map(lambda _: None, moving)
        rows, counts = np.zeros((4, 4, 16), np.uint8), np.zeros((4, 4), np.float32)
        platforms = ("cpu", "cuda", "tpu")
        arguments = (learners, still, rows, counts, jax.random.split(self.key, 4), np.int32(0))
        self.assertEqual(jax.export.export(step, platforms=platforms)(*arguments).platforms, platforms)


class ProtocolTest(parameterized.TestCase):
    """All thirty cells of the published tables (SGD epochs, AdamW epochs, nucleus, temperature)."""

    SIZES = (1, 10, 100, 1000, 10_000)
    CELLS = {
        ("logs", "meta-trained"): "5/1/1.0/0.5 5/1/1.0/0.5 10/5/.99/0.5 10/5/.99/0.5 10/5/.99/1.0",
        ("logs", "standard"): "10/1/.99/1.0 5/5/.99/0.5 10/5/.99/0.5 10/5/.99/0.5 10/5/.99/1.0",
        ("logs", "pre-trained"): "10/5/1.0/1.0 10/5/.99/1.0 10/5/.99/0.5 5/5/.99/0.5 5/5/.99/0.5",
        ("appendix", "meta-trained"): "5/1/1.0/0.5 5/1/1.0/0.5 10/5/.99/0.5 10/5/.99/0.5 5/5/.99/0.5",
        ("appendix", "standard"): "10/1/1.0/0.5 10/1/.99/0.5 10/5/.99/0.5 10/5/.99/1.0 10/5/.99/0.5",
        ("appendix", "pre-trained"): "10/5/1.0/1.0 10/5/.99/1.0 10/5/.99/0.5 5/5/.99/0.5 5/5/.99/0.5",
    }

    def test_published_values(self):
        for (source, learner_name), cells in self.CELLS.items():
            for strings, cell in zip(self.SIZES, cells.split(), strict=True):
                expected = tuple(map(float, cell.split("/")))
                self.assertEqual(tuple(protocol(source, learner_name, strings)), expected, (source, learner_name))

    def test_between_two_sizes_the_smaller_counts(self):
        self.assertEqual(protocol("logs", "pre-trained", 9), protocol("logs", "pre-trained", 1))
        self.assertEqual(protocol("logs", "pre-trained", 99), protocol("logs", "pre-trained", 10))
        self.assertEqual(protocol("logs", "standard", 10**6), protocol("logs", "standard", 10_000))

    @parameterized.parameters(("paper", "standard", 1), ("logs", "untrained", 1), ("logs", "standard", 0))
    def test_errors_name_what_there_is(self, source, learner_name, strings):
        with self.assertRaisesRegex(ValueError, "choose from .*logs.*appendix.*meta-trained"):
            protocol(source, learner_name, strings)


if __name__ == "__main__":
    absltest.main()
