"""The readers on real images: counts, class lists and pixels of Omniglot, CIFAR-FS and FC-100."""

import io
import pathlib
import pickle
import tempfile
import zipfile

import numpy as np
import pytest
from absl.testing import absltest
from PIL import Image

from metalearn.fewshot.data import load
from tests.shared_data import DATA, needs_data


@needs_data
class RealDataTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_omniglot(self):
        splits = load(DATA / "omniglot", "omniglot", cache=self.folder)
        self.assertEqual([len(split.classes) for split in splits], [1028, 172, 423])
        self.assertTrue(all((np.diff(split.offsets) == 20).all() for split in splits))
        with np.load(DATA / "omniglot" / "omniglot_28.npz") as stored:
            for i, split in enumerate(splits):
                rows = np.repeat(stored["class_vinyals_split"] == i, 20)
                self.assertEqual(split.images.sum(dtype=np.int64), stored["images"][rows].sum(dtype=np.int64))

    @pytest.mark.slow
    def test_omniglot_from_its_original_drawings(self):
        with np.load(DATA / "omniglot" / "omniglot_105.npz") as stored:
            ink = np.unpackbits(stored["packed"], axis=2, count=105).astype(bool)
            alphabets, characters = stored["alphabets"][stored["class_alphabet"]], stored["class_character"]
            background = stored["class_background"]
        for part, chosen in (("background", background), ("evaluation", ~background)):
            with zipfile.ZipFile(self.folder / f"images_{part}.zip", "w") as archive:
                for c in np.flatnonzero(chosen):
                    for i in range(20):
                        stream = io.BytesIO()
                        Image.fromarray(~ink[20 * c + i]).save(stream, "PNG")
                        name = f"images_{part}/{alphabets[c]}/{characters[c]}/{c:04d}_{i + 1:02d}.png"
                        archive.writestr(name, stream.getvalue())
        drawn = load(self.folder, "omniglot", cache=self.folder / "cache")
        packed = load(DATA / "omniglot", "omniglot", cache=self.folder / "cache")
        for one, other in zip(drawn, packed, strict=True):
            self.assertEqual(one.classes, other.classes)
            np.testing.assert_allclose(one.images.astype(int), other.images, atol=2)

    @pytest.mark.slow
    def test_cifar_100_from_its_parts_and_from_the_official_batches(self):
        mean = np.array([129.304, 124.070, 112.434])  # of the official training images
        first = {name: load(DATA / "cifar100", name, cache=self.folder / "cache") for name in ("cifar-fs", "fc100")}
        for name, counts in (("cifar-fs", [64, 16, 20]), ("fc100", [60, 20, 20])):
            self.assertEqual([len(split.classes) for split in first[name]], counts)
            self.assertTrue(all((np.diff(split.offsets) == 600).all() for split in first[name]))
            sums = sum(split.images.sum((0, 1, 2), dtype=np.int64) for split in first[name])
            np.testing.assert_allclose(sums / (60_000 * 1024), mean, atol=0.5)
        by_class = {
            name: split.images[start : start + 600]
            for split in first["cifar-fs"]
            for name, start in zip(split.classes, split.offsets[:-1], strict=True)
        }
        names = sorted(by_class)
        official = self.folder / "cifar-100-python"
        official.mkdir()
        for part, chosen in (("train", slice(0, 500)), ("test", slice(500, 600))):
            images = np.concatenate([by_class[name][chosen] for name in names])
            labels = np.repeat(np.arange(100), len(images) // 100)
            order = np.random.default_rng(0).permutation(len(images))
            data = images[order].transpose(0, 3, 1, 2).reshape(len(images), -1)
            (official / part).write_bytes(pickle.dumps({"data": data, "fine_labels": labels[order].tolist()}))
        (official / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
        again = load(self.folder, "fc100", cache=self.folder / "cache")
        for one, other in zip(again, first["fc100"], strict=True):
            self.assertEqual(one.classes, other.classes)
            for start, stop in zip(one.offsets[:-1], one.offsets[1:], strict=True):
                rows = [np.sort(images[start:stop].reshape(600, -1).sum(1)) for images in (one.images, other.images)]
                np.testing.assert_array_equal(*rows)


if __name__ == "__main__":
    absltest.main()
