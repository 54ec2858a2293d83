"""Episodes against the definition: counts, order, labels, uniform draws; the same from memory and from disk."""

import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from metalearn.fewshot import episodes
from metalearn.fewshot.data import Preparation, Split
from metalearn.fewshot.episodes import EpisodeBatches, EpisodeSettings
from metalearn.run.compilation import CompileClock

SIZES = (5, 9, 4, 7, 6, 5)


def marked_split(sizes=SIZES, side=2) -> Split:
    """Each image says in its first two pixels which class and which image of the class it is."""
    offsets = np.cumsum([0, *sizes])
    images = np.zeros((offsets[-1], side, side, 1), np.uint8)
    for c, size in enumerate(sizes):
        images[offsets[c] : offsets[c + 1], 0, 0, 0] = c
        images[offsets[c] : offsets[c + 1], 0, 1, 0] = np.arange(size)
    return Split("marked train", images, tuple(f"class {c}" for c in range(len(sizes))), offsets)


def marks(x: jax.Array) -> np.ndarray:
    """[rows, 2]: class, image."""
    return np.rint(255 * np.asarray(x)[..., 0, :2, 0]).astype(int)


def assert_uniform(counts, least=1e-4):
    """Chi-square: fails once in 10,000 for a right sampler, and the keys are fixed."""
    counts = np.asarray(counts)
    assert counts.min() > 20, f"too few draws for a test: {counts}"
    assert scipy.stats.chisquare(counts.ravel()).pvalue > least, counts


class SampleTest(parameterized.TestCase):
    @parameterized.parameters((3, 2, 1), (6, 1, 3))
    def test_an_episode_is_what_it_is_defined_to_be(self, ways, shots, queries):
        settings = EpisodeSettings(ways, shots, queries)
        images = episodes.on_device(marked_split())
        for seed in range(20):
            episode = episodes.sample(jax.random.key(seed), images, settings)
            chex.assert_shape(episode.support_x, (ways * shots, 2, 2, 1))
            chex.assert_shape(episode.query_x, (ways * queries, 2, 2, 1))
            chex.assert_type([episode.support_x, episode.query_x], jnp.float32)
            chex.assert_type([episode.support_y, episode.query_y], jnp.int32)
            self.assertEqual(episode.support_y.tolist(), [way for way in range(ways) for _ in range(shots)])
            self.assertEqual(episode.query_y.tolist(), [way for way in range(ways) for _ in range(queries)])
            support, query = marks(episode.support_x), marks(episode.query_x)
            classes = support[::shots, 0]
            self.assertLen(set(classes.tolist()), ways)
            np.testing.assert_array_equal(support[:, 0], classes[np.asarray(episode.support_y)])
            np.testing.assert_array_equal(query[:, 0], classes[np.asarray(episode.query_y)])
            drawn = [tuple(row) for row in np.concatenate([support, query]).tolist()]
            self.assertLen(set(drawn), len(drawn))
            self.assertTrue(all(image < SIZES[c] for c, image in drawn))

    def test_draws_are_uniform(self):
        settings = EpisodeSettings(2, 2, 2)
        members = jnp.asarray(episodes.members_of(marked_split((5, 9, 4))))
        draw = jax.jit(jax.vmap(lambda key: episodes.draw_rows(key, members, settings)[0]))
        rows = np.asarray(draw(jax.random.split(jax.random.key(0), 6000)))
        classes = np.searchsorted([5, 14], rows, side="right")
        self.assertTrue((classes == classes[:, :, :1]).all())
        pairs = 3 * classes[:, 0, 0] + classes[:, 1, 0]
        counts = np.bincount(pairs, minlength=9).reshape(3, 3)
        np.testing.assert_array_equal(np.diag(counts), 0)
        assert_uniform(counts[~np.eye(3, dtype=bool)])
        for c, (start, size) in enumerate(((0, 5), (5, 9), (14, 4))):
            of_class = rows[classes[:, :, 0] == c] - start
            for position in range(4):
                assert_uniform(np.bincount(of_class[:, position], minlength=size))
            ordered = size * of_class[:, 0] + of_class[:, 3]  # a support image, a query image
            counts = np.bincount(ordered, minlength=size**2).reshape(size, size)
            np.testing.assert_array_equal(np.diag(counts), 0)
            assert_uniform(counts[~np.eye(size, dtype=bool)])

    def test_rotations_are_classes_of_their_own(self):
        split = marked_split((3, 3))
        split.images[:] = np.random.default_rng(0).integers(0, 256, split.images.shape)
        settings = EpisodeSettings(3, 1, 2, rotations=True)
        images = episodes.on_device(split)
        originals = {split.images[i].tobytes(): i // 3 for i in range(6)}
        batch = jax.vmap(lambda key: episodes.sample(key, images, settings))(jax.random.split(jax.random.key(1), 500))
        x = np.rint(255 * np.concatenate([batch.support_x, batch.query_x], 1)).astype(np.uint8)
        y = np.concatenate([batch.support_y, batch.query_y], 1)
        counts = np.zeros(8, int)
        for task in range(len(x)):
            found = []
            for image, label in zip(x[task], y[task], strict=True):
                turns = [k for k in range(4) if np.rot90(image, -k).tobytes() in originals]
                self.assertLen(turns, 1)
                found.append((label, 4 * originals[np.rot90(image, -turns[0]).tobytes()] + turns[0]))
            by_label = dict(found)
            self.assertLen(set(found), 3)  # one rotated class per label
            self.assertLen(set(by_label.values()), 3)  # and all different
            counts[by_label[0]] += 1
        assert_uniform(counts)

    def test_images_for_classification_are_uniform_and_rightly_labelled(self):
        images = episodes.on_device(marked_split((2, 5, 3)))
        x, y = episodes.sample_images(jax.random.key(0), images, 4000)
        found = marks(x)
        np.testing.assert_array_equal(found[:, 0], y)
        assert_uniform(np.bincount(np.array([0, 2, 7])[found[:, 0]] + found[:, 1], minlength=10))

    @parameterized.parameters(
        (dict(ways=7), "ways=7, but marked train has 6 classes"),
        (dict(ways=5, shots=2, queries=3), "need 5 images a class, but class 'class 2' of marked train has 4"),
        (dict(ways=25, shots=1, queries=1, rotations=True), "has 24 classes with rotations"),
    )
    def test_splits_that_are_too_small(self, fields, message):
        with self.assertRaisesRegex(ValueError, message):
            EpisodeBatches(jax.random.key(0), 1, marked_split(), EpisodeSettings(**fields))

    def test_other_errors(self):
        for fields in (dict(ways=0), dict(shots=0), dict(queries=0)):
            with self.assertRaisesRegex(ValueError, "at least 1"):
                EpisodeSettings(**fields)
        with self.assertRaisesRegex(ValueError, "tasks=0"):
            EpisodeBatches(jax.random.key(0), 0, marked_split(), EpisodeSettings(2, 1, 1))
        oblong = Split("oblong", np.zeros((4, 2, 3, 1), np.uint8), ("a", "b"), np.array([0, 2, 4]))
        with self.assertRaisesRegex(ValueError, "2 x 3 pixels"):
            EpisodeSettings(2, 1, 1, rotations=True).check(oblong)


class BatchesTest(parameterized.TestCase):
    SETTINGS = EpisodeSettings(3, 1, 2, rotations=True)
    CHANGES = Preparation((0.3,), (0.2,), crop="padded", padding=1, flip=True)

    def test_batches_are_episodes_by_number_from_memory_and_from_disk(self):
        split = marked_split(side=3)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        np.save(f"{folder.name}/images.npy", split.images)
        stored = Split(split.name, np.load(f"{folder.name}/images.npy", mmap_mode="r"), split.classes, split.offsets)
        key = jax.random.key(3)
        images = episodes.on_device(split)
        batches = EpisodeBatches(key, 4, split, self.SETTINGS, self.CHANGES)
        streamed = EpisodeBatches(key, 4, stored, self.SETTINGS, self.CHANGES, streamed=True)
        seen = set()
        for step in (0, 5, 0):
            batch = batches(step)
            for task in range(4):
                alone = episodes.sample(jax.random.fold_in(key, 4 * step + task), images, self.SETTINGS, self.CHANGES)
                chex.assert_trees_all_close(jax.tree.map(lambda leaf, task=task: leaf[task], batch), alone, rtol=1e-6)
                seen.add(np.asarray(alone.query_x).tobytes())
            chex.assert_trees_all_close(streamed(step), batch, rtol=1e-6)
        self.assertLen(seen, 8)

    @parameterized.parameters(False, True)
    def test_all_steps_share_one_program(self, streamed):
        batches = EpisodeBatches(jax.random.key(0), 2, marked_split(), EpisodeSettings(2, 1, 1), streamed=streamed)
        batches(0)
        with CompileClock() as clock:
            for step in range(1, 4):
                batches(step)
        self.assertEqual(clock.programs, 0)

    def test_gathering_from_disk_keeps_the_order_asked_for(self):
        images = np.arange(10)[:, None] * np.ones((1, 3), int)
        rows = np.array([[7, 2, 7], [0, 9, 2]])
        np.testing.assert_array_equal(episodes.gathered(images, rows), images[rows])


if __name__ == "__main__":
    absltest.main()
