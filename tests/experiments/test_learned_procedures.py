"""Learned procedures under a language learner: against plain meta-training, differences, and layers written out."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.learned_procedures.learner import PROCEDURES, bent, descended, init_procedure, procedural, token_rows
from metalearn.core import exact, objectives, unroll
from metalearn.languages.episodes import Episode
from metalearn.languages.lstm import lstm
from metalearn.languages.model import Strings, cross_entropy
from metalearn.languages.tokens import END, PAD, START
from metalearn.languages.training import meta_learning
from tests.core.problems import compiled
from tests.languages.models import VOCABULARY, A, B

UPDATES = 2
MODEL = lstm(VOCABULARY, units=3, layers=1)


def new_task():
    support = np.array([[[START, A, B, END], [START, B, END, PAD]], [[START, A, END, PAD], [START, B, B, END]]])
    query = np.array([[START, A, A, END], [START, END, PAD, PAD]])
    return Episode(Strings(support, np.array([[1.0, 2.0], [1.0, 1.0]])), Strings(query, np.array([1.0, 3.0])))


class DoubleCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.key = jax.random.key(0)
        self.start = jax.tree.map(lambda x: np.asarray(x, np.float64), MODEL.init(jax.random.key(1)))

    def meta(self, name, noise):
        draw = np.random.default_rng(0).normal
        procedure = init_procedure(self.key, self.start, PROCEDURES[name])
        return {"start": self.start} | jax.tree.map(lambda x: noise * draw(size=np.shape(x)), procedure)


class ProcedureTest(DoubleCase):
    @parameterized.parameters("rate", "all")
    def test_neutral_is_meta_training(self, name):
        weights = objectives.every_update(UPDATES)
        found = compiled(exact(procedural(MODEL, 0.7), weights))(self.meta(name, 0.0), new_task(), self.key)
        plain = compiled(exact(meta_learning(MODEL, 0.7), weights))(self.start, new_task(), self.key)
        np.testing.assert_allclose(found.trajectory.losses, plain.trajectory.losses, rtol=1e-12)
        for mine, theirs in zip(*map(jax.tree.leaves, (found.gradient["start"], plain.gradient)), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-13)

    @parameterized.parameters("rate", "all")
    def test_gradient(self, name):
        of_one = compiled(exact(procedural(MODEL, 0.7), objectives.every_update(UPDATES)))
        meta, task, draw = self.meta(name, 0.1), new_task(), np.random.default_rng(1).normal
        # At an array of zeros, such as the first output bias, its norm has a kink and the inner gradient a jump.
        meta["start"] = jax.tree.map(lambda x: x + 0.3 * draw(size=x.shape), self.start)
        gradient = of_one(meta, task, self.key).gradient
        for part in meta:
            direction = jax.tree.map(np.zeros_like, meta)
            direction[part] = jax.tree.map(lambda x: draw(size=np.shape(x)), meta[part])
            moved = lambda by, d=direction: jax.tree.map(lambda x, d: np.asarray(x + by * d), meta, d)
            ahead, behind = (of_one(moved(by), task, self.key).trajectory.value for by in (1e-5, -1e-5))
            along = sum(np.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
            with self.subTest(part):
                self.assertGreater(abs(along), 1e-6)
                np.testing.assert_allclose(along, (ahead - behind) / 2e-5, rtol=1e-6)

    def test_a_rate_is_a_rate(self):
        weights = objectives.every_update(UPDATES)
        meta = {"start": self.start, "rate": jnp.log(2.5)}
        found = compiled(lambda m: unroll(procedural(MODEL, 0.4), weights, m, new_task(), self.key).losses)(meta)
        faster = meta_learning(MODEL, 1.0)
        expected = compiled(lambda m: unroll(faster, weights, m, new_task(), self.key).losses)(self.start)
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    def test_preconditioned_weights_are_those_of_layers_with_maps(self):
        draw = np.random.default_rng(2).normal
        theta, omega, x = draw(size=(3, 6)), np.eye(3) + 0.3 * draw(size=(2, 3, 3)), draw(size=(5, 3))
        mapped = lambda theta: jnp.concatenate([theta[:, :3] @ omega[0], theta[:, 3:] @ omega[1]], -1)
        loss = lambda weights: jnp.mean(jnp.tanh(x @ weights) ** 3)
        expected = mapped(theta - 0.2 * jax.grad(lambda theta: loss(mapped(theta)))(theta))
        found = mapped(theta) - 0.2 * bent(omega - np.eye(3), jax.grad(loss)(mapped(theta)))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(bent(np.full((1, 1, 1), 0.5), theta), 2.25 * theta, rtol=1e-12)

    def test_what_the_loss_sees(self):
        p = np.array([0.5, 0.3, 0.2])
        (((surprise, entropy, margin),),) = token_rows(jnp.log(p)[None, None] + 4, jnp.array([[1]]))
        np.testing.assert_allclose(surprise, -np.log(0.3), rtol=1e-12)
        np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), rtol=1e-12)
        np.testing.assert_allclose(margin, np.log(0.3 / 0.5), rtol=1e-12)

    def test_without_networks_the_loss_is_cross_entropy(self):
        strings = jax.tree.map(lambda x: x[0], new_task().support)
        found = descended(MODEL, {}, self.start, strings, None)
        np.testing.assert_allclose(found, cross_entropy(MODEL, self.start, strings), rtol=1e-12)

    def test_without_a_start_each_episode_begins_at_random(self):
        begin = procedural(MODEL).init
        one, other = (begin({}, new_task(), jax.random.key(seed)).params.embedding for seed in (0, 1))
        self.assertGreater(np.abs(one - other).min(), 0)


if __name__ == "__main__":
    absltest.main()
