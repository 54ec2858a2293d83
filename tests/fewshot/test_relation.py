"""The relation network against its definition in numpy, and as a learner."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.core import unroll
from metalearn.fewshot.encoders import parameter_count
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.family.metric import relation
from metalearn.fewshot.relation import relation_network, scored
from tests.core.problems import compiled
from tests.fewshot import slow_encoder, tiny

NETWORK = relation_network(tiny.WAYS, (2, 2, 3), channels=1, size=tiny.SIZE, convolution="direct")


def residual_blocks(params, maps, pooled):
    """Blocks of ResNet-12, the first `pooled` of which halve their maps."""
    for number, (kernels, norms) in enumerate(zip(params.kernels, params.norms, strict=True)):
        inside = maps
        for which in range(3):
            inside = slow_encoder.relu(inside) if which else inside
            inside = slow_encoder.batch_norm(slow_encoder.convolution(inside, kernels[which]), norms[which])
        maps = slow_encoder.relu(inside + slow_encoder.batch_norm(maps @ kernels[3], norms[3]))
        maps = slow_encoder.pool(maps) if number < pooled else maps
    return maps


def slow_scores(params, task):
    """Image by image and class by class: 8x8 images become maps of 2x2, which one of the two last blocks can halve."""
    support, query = (residual_blocks(params.encoder, x, 2) for x in (task.support_x, task.query_x))
    classes = [support[task.support_y == way].sum(0) for way in range(tiny.WAYS)]
    pairs = np.array([np.concatenate([of_class, image], -1) for image in query for of_class in classes])
    features = residual_blocks(params.comparer, pairs, 1).mean((1, 2))
    return 1 / (1 + np.exp(-(features @ params.last.weights + params.last.bias))).reshape(len(query), tiny.WAYS)


class RelationTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.task = tiny.new_task()
        shapes = jax.eval_shape(NETWORK.init, jax.random.key(0))
        self.params = tiny.randomised(jax.tree.map(lambda x: np.zeros(x.shape), shapes))

    def test_scores_and_loss(self):
        expected = slow_scores(self.params, self.task)
        self.assertGreater(expected.std(), 1e-3)
        of = relation(tiny.setting(), NETWORK)
        found = compiled(
            lambda params, task: (
                scored(NETWORK, params, task).scores,
                unroll(of.process, of.objective, {"relation": params}, task, jax.random.key(0)),
            )
        )(self.params, self.task)
        np.testing.assert_allclose(found[0], expected, rtol=1e-9)
        truth = np.eye(tiny.WAYS)[self.task.query_y]
        np.testing.assert_allclose(found[1].value, np.mean((expected - truth) ** 2), rtol=1e-9)
        right = np.mean(expected.argmax(1) == self.task.query_y)
        np.testing.assert_allclose(found[1].metrics["accuracy"], [right], rtol=1e-9)
        self.assertEqual(of.normalisation, "transductive")

    def test_a_scored_episode_is_the_episode_and_its_scores_are_constants(self):
        found = jax.eval_shape(lambda params: scored(NETWORK, params, self.task), self.params)
        self.assertEqual(found._fields[:4], self.task._fields)
        slopes = compiled(jax.grad(lambda params: scored(NETWORK, params, self.task).scores.sum()))(self.params)
        self.assertEqual(max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes)), 0)

    @parameterized.parameters((84, 3), (32, 3), (28, 1))
    def test_size(self, size, channels):
        """25.3 million weights, as the sheet of the released code says."""
        network = relation_network(5, channels=channels, size=size)
        shapes = jax.eval_shape(network.init, jax.random.key(0))
        np.testing.assert_allclose(parameter_count(shapes), 25.3e6, rtol=2e-3)
        images = lambda count: np.zeros((count, size, size, channels), np.float32)
        episode = Episode(images(5), np.arange(5), images(10), np.arange(10) // 2)
        self.assertEqual(jax.eval_shape(network.scores, shapes, episode).shape, (10, 5))


if __name__ == "__main__":
    absltest.main()
