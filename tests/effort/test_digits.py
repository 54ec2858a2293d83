"""Digits against scikit-image's own output, against the losses published for MNIST, and against damaged files."""

import functools
import gzip
import pathlib
import struct
import sys
import tempfile
import unittest.mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.effort import digits, moments
from metalearn.effort.moments import Moments
from tests.effort.problems import InDoublePrecision
from tests.shared_data import DATA, needs_data

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = NAMES

# skimage.transform.resize(image, (5, 5)) of scikit-image 0.26 for the two images of `pattern`.
SHRUNK_28 = [
    [0.1976295088, 0.4990924286, 0.4384351918, 0.5178342089, 0.5362391698],
    [0.3376563727, 0.5483158128, 0.5282338400, 0.5543955943, 0.5220261782],
    [0.4804264772, 0.5194671840, 0.4865693447, 0.4319947086, 0.4525574165],
    [0.6089663291, 0.5096100585, 0.5216125348, 0.5106679095, 0.4930368006],
    [0.6848399979, 0.4682802183, 0.4937895289, 0.5579826681, 0.5201044059],
]
SHRUNK_8 = [
    [0.1527449579, 0.4981420645, 0.6826007303, 0.5259079321, 0.6870793667],
    [0.6491044735, 0.3326465859, 0.3356097958, 0.1705540875, 0.5209737352],
    [0.4591870962, 0.7213552933, 0.5150255846, 0.4623128781, 0.6229528657],
    [0.5873128781, 0.2730293052, 0.2218127524, 0.8507732712, 0.3537238898],
    [0.3476218589, 0.6919071804, 0.7164745668, 0.4009783503, 0.5599468550],
]


def pattern(pixels: int, rows: int, values: int) -> np.ndarray:
    row, column = np.indices((pixels, pixels))
    return ((rows * row + 3 * column**2) % values).astype(np.uint8)


def slow_resized(image: np.ndarray, size: int) -> np.ndarray:
    """Pixel by pixel: a Gaussian cut off at 4 standard deviations, then linear interpolation; mirrored edges."""
    pixels = len(image)
    sigma = max((pixels / size - 1) / 2, 0)

    def mirrored(i):
        i = abs(i) % (2 * (pixels - 1))
        return min(i, 2 * (pixels - 1) - i)

    def along_first(values):
        reach = int(4 * sigma + 0.5)
        offsets = range(-reach, reach + 1)
        kernel = np.array([np.exp(-0.5 * (d / sigma) ** 2) if sigma else 1.0 for d in offsets])
        kernel /= kernel.sum()
        smooth = [sum(k * values[mirrored(i + d)] for k, d in zip(kernel, offsets, strict=True)) for i in range(pixels)]
        result = []
        for i in range(size):
            place = (i + 0.5) * pixels / size - 0.5  # centres of pixels
            low = int(np.floor(place))
            part = place - low
            result.append((1 - part) * smooth[mirrored(low)] + part * smooth[mirrored(low + 1)])
        return np.array(result)

    return along_first(along_first(image.astype(float)).T).T


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class FolderTest(parameterized.TestCase):
    """A folder of small files: digits 0, 1 and 2, three test images."""

    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        random = np.random.default_rng(0)
        self.images = random.integers(256, size=(6, 8, 8)).astype(np.uint8)
        self.labels = np.array([2, 0, 1, 1, 2, 1], np.uint8)
        self.test_images = random.integers(256, size=(3, 8, 8)).astype(np.uint8)
        self.write(IMAGES, idx(self.images))
        self.write(LABELS, idx(self.labels))

    def write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)


class ResizedTest(parameterized.TestCase):
    @parameterized.parameters((28, 7, 256, 255, SHRUNK_28), (8, 5, 17, 16, SHRUNK_8))
    def test_as_scikit_image_does(self, pixels, rows, values, white, expected):
        result = digits.resized(pattern(pixels, rows, values)[None], 5)[0] / white
        np.testing.assert_allclose(result, expected, atol=1e-9)

    @parameterized.parameters((28, 5), (8, 5), (9, 3), (6, 6), (5, 1), (4, 7))
    def test_as_a_slow_loop_does(self, pixels, size):
        image = np.random.default_rng(pixels).uniform(size=(pixels, pixels))
        np.testing.assert_allclose(digits.resized(image[None], size)[0], slow_resized(image, size), atol=1e-12)

    def test_many_images_and_sides_that_differ(self):
        images = np.random.default_rng(0).integers(256, size=(9000, 4, 3)).astype(np.uint8)
        result = digits.resized(images, 2)
        self.assertEqual(result.shape, (9000, 2, 2))
        for i in (0, 4500, 8999):
            np.testing.assert_allclose(result[i], digits.resized(images[i : i + 1], 2)[0], atol=1e-12)


class MnistFilesTest(FolderTest):
    def expected(self, images, labels, subset) -> Moments:
        x, y = [], []
        for image, label in zip(images, labels, strict=True):
            if label in subset:
                x.append([*slow_resized(image / 255, 5).ravel(), 1])
                y.append([float(label == digit) for digit in subset])
        x, y = np.array(x), np.array(y)
        return Moments(x.T @ x / len(x), x.T @ y / len(x), y.T @ y / len(x), x.mean(0), y.mean(0))

    def assert_close(self, first, second):
        for name, one, other in zip(Moments._fields, first, second, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12, err_msg=name)

    @parameterized.parameters(((2, 1),), ((0, 1, 2),), ((1,),))
    def test_subset_in_the_order_given(self, subset):
        dataset = digits.digits(subset, self.folder)
        self.assert_close(dataset.moments, self.expected(self.images, self.labels, subset))
        self.assertEqual(dataset.outputs, tuple(map(str, subset)))
        self.assertIsNone(dataset.test)

    def test_classes_are_the_digits(self):
        dataset = digits.digits((2, 1), str(self.folder))
        sample = jax.jit(dataset.sample_part)
        for part, digit in enumerate((2, 1)):
            x, y = sample(jax.random.key(part), np.full(50, part))
            images = {
                tuple(slow_resized(image / 255, 5).ravel().round(6)) for image in self.images[self.labels == digit]
            }
            self.assertEqual({tuple(row) for row in np.asarray(x)[:, :-1].round(6).tolist()}, images)
            np.testing.assert_array_equal(y, np.tile(np.eye(2)[part], (50, 1)))

    def test_compressed_and_with_test_files(self):
        test_labels = np.array([1, 0, 2], np.uint8)
        for name, array in zip(NAMES, (self.images, self.labels, self.test_images, test_labels), strict=True):
            (self.folder / name).unlink(missing_ok=True)
            self.write(name + ".gz", gzip.compress(idx(array)))
        dataset = digits.digits((0, 1), self.folder)
        self.assert_close(dataset.moments, self.expected(self.images, self.labels, (0, 1)))
        self.assert_close(dataset.test, self.expected(self.test_images, test_labels, (0, 1)))

    def test_unpacked_under_the_compressed_name(self):
        (self.folder / LABELS).rename(self.folder / f"{LABELS}.gz")
        self.assert_close(digits.digits((0, 1), self.folder).moments, self.expected(self.images, self.labels, (0, 1)))


class BadInputTest(FolderTest):
    def fails(self, message: str, subset=(0, 1), **options):
        with self.assertRaisesRegex(ValueError, message):
            digits.digits(subset, self.folder, **options)

    @parameterized.parameters(
        (
            "wrong number of dimensions",
            b"\0\0\x08\x01" + b"\0" * 20,
            r"begin with the bytes 00 00 08 03.*found 00 00 08 01",
        ),
        ("a web page", b"\n<!DOCTYPE html><html>", "found 0a 3c 21 44.*a web page.*download it again"),
        ("nothing", b"", "found nothing"),
        ("only a magic number", b"\0\0\x08\x03\0\0", "expected a header of 16 bytes, found 6"),
        ("no images", idx(np.zeros((0, 8, 8), np.uint8)), r"shape \(0, 8, 8\)"),
    )
    def test_not_images(self, _, content, message):
        self.write(IMAGES, content)
        self.fails(f"{IMAGES}: .*{message}")

    @parameterized.parameters((-1, 399), (1, 401))
    def test_wrong_length(self, by, found):
        content = idx(self.images)
        self.write(IMAGES, content[:by] if by < 0 else content + b"\0" * by)
        self.fails(rf"{IMAGES}: .*shape \(6, 8, 8\): expected 400 bytes, found {found}; download it again")

    @parameterized.parameters(
        ("cut short", lambda packed: packed[:-20]),
        ("damaged inside", lambda packed: packed[:40] + bytes([packed[40] ^ 255]) + packed[41:]),
        ("a damaged header", lambda packed: packed[:2] + b"\xff" + packed[3:]),
        ("no such kind of block", lambda packed: packed[:10] + b"\xff" + packed[11:]),
    )
    def test_damaged_gzip(self, _, damage):
        (self.folder / IMAGES).unlink()
        self.write(IMAGES + ".gz", damage(gzip.compress(idx(self.images))))
        self.fails(rf"{IMAGES}.gz: damaged gzip file .*download it again")

    def test_missing_files(self):
        (self.folder / LABELS).unlink()
        self.fails(f"holds neither {LABELS} nor {LABELS}.gz")
        with self.assertRaisesRegex(ValueError, "folder='/no/such/folder' holds neither"):
            digits.digits((0, 1), "/no/such/folder")

    def test_half_of_the_test_files(self):
        self.write(TEST_IMAGES, idx(self.test_images))
        self.fails(f"holds neither {TEST_LABELS}")

    def test_images_and_labels_of_different_numbers(self):
        self.write(LABELS, idx(self.labels[:-1]))
        self.fails("holds 6 images and .* 5 labels")

    def test_missing_digit(self):
        self.fails(rf"{LABELS}: no examples of \[7\]; the labels are \[0, 1, 2\]", subset=(1, 7))

    @parameterized.parameters(((),), ((1, 1),), ((1, 10),), (("1",),))
    def test_bad_subset(self, subset):
        self.fails("must be different digits from 0 to 9", subset=subset)

    def test_bad_size(self):
        self.fails("size=0", size=0)


class ScikitLearnTest(parameterized.TestCase):
    def test_its_digits(self):
        from sklearn.datasets import load_digits

        self.enter_context(jax.enable_x64(True))
        stored = load_digits()
        images = stored.images[np.isin(stored.target, (3, 8))] / 16
        labels = stored.target[np.isin(stored.target, (3, 8))]
        x = np.array([[*slow_resized(image, 5).ravel(), 1] for image in images])
        y = np.stack([labels == 8, labels == 3], 1).astype(float)
        dataset = digits.digits((8, 3))
        np.testing.assert_allclose(dataset.moments.xx, x.T @ x / len(x), atol=1e-12)
        np.testing.assert_allclose(dataset.moments.xy, x.T @ y / len(x), atol=1e-12)
        _, residuals, *_ = np.linalg.lstsq(x, y, rcond=None)
        np.testing.assert_allclose(moments.best_loss(dataset.moments), 0.5 * residuals.sum() / len(x), rtol=1e-9)

    def test_not_installed(self):
        with unittest.mock.patch.dict(sys.modules, {"sklearn": None}):
            with self.assertRaisesRegex(ImportError, r"metalearn\[digits\].*or give a folder"):
                digits.digits((0, 1))


@needs_data
class PublishedTest(InDoublePrecision):
    """Best linear losses on MNIST at 5 x 5 pixels, from the notebooks published with Carrasco-Davis et al. (2024)."""

    @classmethod
    @functools.cache
    def losses(cls) -> np.ndarray:
        """Best loss [10, 10] of each pair of digits; zero on the diagonal."""
        with tempfile.TemporaryDirectory() as folder, np.load(DATA / "mnist" / "mnist.npz") as stored:
            for name, key in zip(NAMES[:2], ("x_train", "y_train"), strict=True):
                (pathlib.Path(folder) / name).write_bytes(idx(stored[key]))
            dataset = digits.digits(folder=folder)
        losses = np.zeros((10, 10))
        for i, j in zip(*np.triu_indices(10, 1), strict=True):
            # The training data of a pair: each digit in the share that it has there, as y is one-hot.
            shares = np.where(np.isin(np.arange(10), (i, j)), dataset.moments.y, 0)
            pair = moments.mixture(shares / shares.sum(), dataset.parts)
            losses[i, j] = losses[j, i] = moments.best_loss(pair)
        return losses

    @parameterized.parameters(
        (0, 1, 0.0208858, 7),
        (7, 1, 0.0358321, 7),
        (8, 9, 0.0546940, 7),
        (3, 8, 0.0885047, 7),
        (5, 3, 0.0879403, 7),
        (1, 3, 0.0478, 4),
    )
    def test_pairs(self, one, other, published, digits_given):
        np.testing.assert_allclose(self.losses()[one, other], published, atol=0.51 * 10.0**-digits_given)

    def test_difficulty_of_each_digit(self):
        published = [0.0306, 0.0382, 0.0487, 0.0500, 0.0403, 0.0543, 0.0356, 0.0405, 0.0537, 0.0459]
        # The published means are over ten numbers: they count the zero of a digit against itself.
        np.testing.assert_allclose(self.losses().sum(1) / 10, published, atol=0.51e-4)
        self.assertEqual(np.argsort(self.losses().sum(1)).tolist(), [0, 6, 1, 4, 7, 9, 2, 3, 8, 5])


if __name__ == "__main__":
    absltest.main()
