"""Random changes of images against Pillow, against every window of a padded image, and against known distributions."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized
from PIL import Image, ImageEnhance

from metalearn.fewshot.data import DATASETS, USUAL, Preparation, augmented, preparation


def some_images(count=1, side=6, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)


def repeated(image, count):
    return jnp.broadcast_to(jnp.asarray(image), (count, *image.shape))


class PreparationTest(parameterized.TestCase):
    def test_normalisation(self):
        images = some_images(2)
        mean, deviation = np.array([0.5071, 0.4867, 0.4408]), np.array([0.2675, 0.2565, 0.2761])
        prepared = USUAL["cifar-fs"](jax.random.key(0), images)
        np.testing.assert_allclose(prepared, (images / 255 - mean) / deviation, rtol=1e-4, atol=1e-5)
        self.assertEqual(prepared.dtype, jnp.float32)
        np.testing.assert_allclose(USUAL["glyphs"](jax.random.key(0), images), images / 255, rtol=1e-6)

    def test_every_published_data_set_has_its_usual_preparation(self):
        self.assertEqual(set(USUAL), set(DATASETS) - {"folders"} | {"glyphs"})

    def test_padded_crops_are_windows_and_half_are_mirrored_each_as_often(self):
        image = some_images(side=5)[0]
        change = jax.jit(Preparation(crop="padded", padding=2, flip=True))
        changed = np.asarray(change(jax.random.key(0), repeated(image, 4000)))
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        windows = [padded[i : i + 5, j : j + 5] for i in range(5) for j in range(5)]
        counts = {window[:, ::way].tobytes(): 0 for window in windows for way in (1, -1)}
        self.assertLen(counts, 50)
        for found in np.rint(255 * changed).astype(np.uint8):
            counts[found.tobytes()] += 1  # KeyError for anything else
        self.assertGreater(scipy.stats.chisquare(list(counts.values())).pvalue, 1e-4)

    def test_resized_crops_have_the_published_sizes_and_lie_anywhere(self):
        # On a plane, the slopes of the resampled image are the shares of width and height, and the value at its
        # centre is the centre of the part. Away from the edges linear resampling keeps a plane.
        side = 64
        rows, columns = np.indices((side, side), np.float32) + 0.5
        plane = jnp.asarray(np.stack([rows, columns], -1) / side)
        crop = jax.jit(jax.vmap(lambda numbers: preparation._resized_crop(numbers[:2], numbers[2:], plane)))
        x = np.asarray(crop(np.random.default_rng(0).uniform(size=(3000, 4)).astype(np.float32)))
        near, far = side // 4, 3 * side // 4
        scale = side / (far - near)
        height = (x[:, far, side // 2, 0] - x[:, near, side // 2, 0]) * scale
        width = (x[:, side // 2, far, 1] - x[:, side // 2, near, 1]) * scale
        inside = np.maximum(height, width) < 0.99  # parts that were not cut
        area, ratio = (height * width)[inside], (width / height)[inside]
        self.assertBetween(area.min(), 0.079, 0.1)
        self.assertBetween(np.log(ratio).min(), np.log(0.745), np.log(0.77))
        self.assertBetween(np.log(ratio).max(), np.log(1.3), np.log(1.34))
        small = area < 0.5  # never cut, so of the drawn distribution
        self.assertGreater(scipy.stats.kstest((area[small] - 0.08) / 0.42, "uniform").pvalue, 1e-4)
        x, height = x[inside], height[inside]
        middle = (x[:, near, side // 2, 0] + x[:, far, side // 2, 0]) / 2 - height / side / 2
        place = (middle - height / 2) / (1 - height)
        self.assertGreater(scipy.stats.kstest(place, "uniform").pvalue, 1e-4)

    def test_an_uncut_resized_crop_is_the_image(self):
        image = jnp.asarray(some_images()[0], jnp.float32) / 255
        with mock.patch.multiple(preparation, _AREA=(1.0, 1.0), _RATIO=(1.0, 1.0)):
            found = jax.jit(preparation._resized_crop)(jnp.full(2, 0.3), jnp.full(2, 0.7), image)
        np.testing.assert_allclose(found, image, atol=1e-6)

    @parameterized.parameters(*range(6))
    def test_jitter_is_that_of_pillow(self, seed):
        image = some_images(side=16)[0]
        factors = np.random.default_rng(seed).uniform(0.6, 1.4, 3)
        found = np.asarray(preparation._jittered(factors, jnp.asarray(image, jnp.float32) / 255))
        expected = Image.fromarray(image)
        for change, factor in zip(("Brightness", "Contrast", "Color"), factors, strict=True):
            expected = getattr(ImageEnhance, change)(expected).enhance(factor)
        np.testing.assert_allclose(255 * found, np.asarray(expected), atol=5)  # Pillow rounds after each change

    def test_jitter_factors_are_uniform(self):
        # A grey constant image has no contrast or saturation to change, so what it shows is its brightness.
        image = np.full((2, 2, 3), 128, np.uint8)
        x = np.asarray(jax.jit(Preparation(jitter=0.4))(jax.random.key(0), repeated(image, 2000)))[:, 0, 0, 0]
        self.assertGreater(scipy.stats.kstest((x / (128 / 255) - 0.6) / 0.8, "uniform").pvalue, 1e-4)

    def test_each_image_changes_by_itself(self):
        change = jax.jit(augmented(USUAL["mini-imagenet"]))
        images = some_images(3)
        one, same = change(jax.random.key(0), images), change(jax.random.key(0), images)
        np.testing.assert_array_equal(one, same)
        others = np.concatenate([255 - images[:1], images[1:2], images[:1]])
        np.testing.assert_allclose(change(jax.random.key(0), others)[1], one[1], rtol=1e-5, atol=1e-5)
        twins = np.asarray(change(jax.random.key(0), repeated(images[0], 3)))
        self.assertLen({twin.tobytes() for twin in twins}, 3)

    @parameterized.parameters(
        (dict(crop="random"), "crop='random'"),
        (dict(crop="padded"), "padding=0"),
        (dict(padding=2), "padding=2"),
        (dict(jitter=2.0), "jitter=2.0"),
        (dict(mean=(0.5,)), "value per channel"),
        (dict(mean=(0.5,), deviation=(0.0,)), "value per channel"),
    )
    def test_fields_that_do_not_fit(self, fields, message):
        with self.assertRaisesRegex(ValueError, message):
            Preparation(**fields)

    def test_a_mean_for_colour_on_grey_images(self):
        with self.assertRaisesRegex(ValueError, "3 channels; the images have 1"):
            USUAL["fc100"](jax.random.key(0), some_images(channels=1))


if __name__ == "__main__":
    absltest.main()
