"""Meta-training works at all: after one string of a simple language a network knows the language, and only then."""

import functools

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from metalearn.core import objectives, outer_loop, task_mesh
from metalearn.languages.adaptation import Adaptation, AdaptationSettings
from metalearn.languages.episodes import EpisodeBatches, EpisodeSettings
from metalearn.languages.lstm import lstm
from metalearn.languages.simple import MAX_LENGTH, MIN_LENGTH, SimpleLanguage, draw_simple, simple_language
from metalearn.languages.strings import sample_strings
from metalearn.languages.tokens import SYMBOLS, VOCABULARY
from metalearn.languages.training import OptimizerSettings, meta_learning, outer_optimizer

TASKS, LANGUAGES, DRAWS = 4, 64, 200


class LanguageTest(parameterized.TestCase):
    def test_languages_and_their_strings(self):
        rng = np.random.default_rng(0)
        languages = [simple_language(rng) for _ in range(2000)]
        self.assertEqual({x.length for x in languages}, set(range(MIN_LENGTH, MAX_LENGTH + 1)))
        self.assertEqual({x.first for x in languages}, set(range(SYMBOLS)))
        self.assertEqual({x.last for x in languages}, set(range(SYMBOLS)))
        for language in languages[:20]:
            strings = language.sample(rng, 300)
            self.assertLen(strings, 300)
            self.assertTrue(all(map(language.contains, strings)))
            self.assertEqual({s for string in strings for s in string[1:-1]}, set(range(SYMBOLS)))

    @parameterized.parameters(
        ((4, 0, 0, 5), True), ((4, 0, 5), False), ((3, 0, 0, 5), False), ((4, 0, 0, 4), False), ((), False)
    )
    def test_membership(self, string, member):
        self.assertEqual(SimpleLanguage(4, 4, 5).contains(string), member)

    def test_one_draw_is_of_one_language(self):
        strings = draw_simple(np.random.default_rng(3), 50)
        language = SimpleLanguage(len(strings[0]), strings[0][0], strings[0][-1])
        self.assertTrue(all(map(language.contains, strings)))
        self.assertGreater(len(set(strings)), 5)


@functools.cache
def model():
    return lstm(VOCABULARY, units=64, layers=1)


@functools.cache
def adaptation():
    return Adaptation(model(), AdaptationSettings(batch=1, length=MAX_LENGTH + 2, group=LANGUAGES))


def meta_trained(steps):
    sizes = EpisodeSettings(1, 1, 1, 16, MAX_LENGTH + 2, row_sizes=(16,), length_sizes=(MAX_LENGTH + 2,))
    batches = EpisodeBatches(jax.random.key(1), TASKS, sizes, draw_simple)
    optimizer = outer_optimizer(OptimizerSettings(warm_up=0.1), steps)
    loop = outer_loop(
        meta_learning(model()), objectives.terminal(1), optimizer, memory="residuals", mesh=task_mesh(tasks=TASKS)
    )
    state = loop.init(model().init(jax.random.key(0)))
    for step in range(steps):
        state, _ = loop.step(state, batches(step), jax.random.key(2))
    return jax.device_get(state.meta)


def after_one_string(weights, updates=1):
    """Shares of the draws that are in the language, and that are the one string learned from, over new languages."""
    rng = np.random.default_rng(4)
    languages = [simple_language(rng) for _ in range(LANGUAGES)]
    known = [language.sample(rng, 1) for language in languages]
    params = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], LANGUAGES, axis=0), weights)
    adapted = adaptation()(params, known, (updates, 0), jax.random.key(5))
    drawn = sample_strings(model(), adapted, jax.random.key(6), DRAWS, max_symbols=MAX_LENGTH + 3)
    members = sum(n for x, counter in zip(languages, drawn, strict=True) for s, n in counter.items() if x.contains(s))
    repeated = sum(counter[string] for counter, (string,) in zip(drawn, known, strict=True))
    return members / (LANGUAGES * DRAWS), repeated / (LANGUAGES * DRAWS)


class MetaTrainingTest(parameterized.TestCase):
    def check(self, steps, least):
        members, repeated = after_one_string(meta_trained(steps))
        self.assertGreater(members, least)
        self.assertLess(repeated, 0.06)  # it generalises: a uniform middle repeats 0.022 of the time on average

    @parameterized.parameters((1, 0.01), (20, 0.05))
    def test_random_weights_learn_next_to_nothing_from_one_string(self, updates, most):
        """Measured: 0.02 % after one update as in meta-training, 2.4 % after twenty."""
        members, _ = after_one_string(model().init(jax.random.key(0)), updates)
        self.assertLess(members, most)

    def test_meta_trained_for_a_short_time(self):
        """Measured: 88 %, after 1,600 languages."""
        self.check(steps=400, least=0.8)

    @pytest.mark.slow
    def test_meta_trained(self):
        """Measured: 98.4 %, after 4,000 languages; the released code trains on 5,000."""
        self.check(steps=1000, least=0.95)


if __name__ == "__main__":
    absltest.main()
