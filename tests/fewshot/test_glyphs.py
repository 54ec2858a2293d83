"""Glyphs: look-alikes are one class, drawings are repeatable and readable, and splits share no shape."""

import importlib
import tempfile
import unicodedata

import numpy as np
import pytest
from absl.testing import absltest

from metalearn.fewshot.data import load

# The package exports a function of the same name as the module.
drawing = importlib.import_module("metalearn.fewshot.data.glyphs")


class GlyphsTest(absltest.TestCase):
    def test_capital_a_of_three_scripts_looks_alike_and_other_letters_do_not(self):
        names = [
            "A",
            "\N{GREEK CAPITAL LETTER ALPHA}",
            "\N{CYRILLIC CAPITAL LETTER A}",
            "B",
            "\N{CYRILLIC SMALL LETTER ZHE}",
        ]
        alike = drawing.likeness(names)
        np.testing.assert_allclose(alike, alike.T, atol=1e-5)
        self.assertGreater(alike[:3, :3].min(), 0.99)
        self.assertLess(np.max(alike[:3, 3:]), 0.8)
        self.assertLess(alike[3, 4], 0.8)

    def test_candidates_are_visible_characters_of_many_scripts(self):
        names = drawing.characters()
        self.assertGreater(len(names), 3000)
        self.assertNotIn("\N{BRAILLE PATTERN BLANK}", names)
        self.assertGreaterEqual(min(map(len, names.values())), 8)
        scripts = {unicodedata.name(name).split()[0] for name in names}
        self.assertContainsSubset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "BRAILLE"}, scripts)

    def test_drawings_are_repeatable_and_differ(self):
        images = drawing.drawings("R")
        self.assertEqual((images.shape, images.dtype), ((20, 28, 28, 1), np.uint8))
        np.testing.assert_array_equal(images, drawing.drawings("R"))
        self.assertLen({image.tobytes() for image in images}, 20)
        self.assertGreater(images.max((1, 2, 3)).min(), 150)  # bright ink in each
        self.assertLess(images.mean((1, 2, 3)).max(), 128)  # on a dark ground

    @pytest.mark.slow
    def test_splits_share_no_shape_and_classes_can_be_told_apart(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        splits = load(None, "glyphs", cache=folder.name)
        counts = [len(split.classes) for split in splits]
        self.assertGreater(sum(counts), 1000)
        np.testing.assert_allclose(np.array(counts) / sum(counts), [0.64, 0.16, 0.2], atol=0.01)
        self.assertLen({name for split in splits for name in split.classes}, sum(counts))
        # What `likeness` does not look at: the mean of the drawings, which no pair across splits may share.
        means = [split.images.reshape(-1, 20, 784).astype(np.float32).mean(1) for split in splits]
        means = [mean - mean.mean(1, keepdims=True) for mean in means]
        means = [mean / np.linalg.norm(mean, axis=1, keepdims=True) for mean in means]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            self.assertLess((means[one] @ means[other].T).max(), 0.985)
        # The nearest of five classes by one image each, on raw pixels, is far better than chance.
        rng, right = np.random.default_rng(0), 0
        for _ in range(1000):
            classes = rng.choice(counts[2], 5, replace=False)
            first, second = rng.choice(20, 2, replace=False)
            start = splits.test.offsets[classes]
            support = splits.test.images[start + first].reshape(5, -1).astype(float)
            query = splits.test.images[start[0] + second].reshape(-1).astype(float)
            right += np.argmin(((support - query) ** 2).sum(1)) == 0
        self.assertBetween(right / 1000, 0.4, 0.95)


if __name__ == "__main__":
    absltest.main()
