"""Figures: drawn without pyplot, saved whole, bands where the interval says."""

import matplotlib
import numpy as np
from absl.testing import absltest
from matplotlib.figure import Figure
from scipy import stats

from metalearn.run.figures import PALETTE, figure, mean_with_band, save_figure
from tests.run.folder_case import FolderCase


class FiguresTest(FolderCase):
    def test_saves_a_png_of_the_asked_size_twice_the_same(self):
        paths = [self.folder / f"{i}.png" for i in range(2)]
        before = matplotlib.rcParams["font.size"]
        for path in paths:
            with figure(path, rows=2, columns=3, size=(2.0, 1.5)) as axes:
                self.assertEqual(axes.shape, (2, 3))
                axes[0, 0].plot([1, 2], [3, 4])
                self.assertEqual(axes[0, 0].lines[0].get_color(), PALETTE["blue"])
        data = paths[0].read_bytes()
        self.assertEqual(data[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual([int.from_bytes(data[16:20]), int.from_bytes(data[20:24])], [900, 450])  # 150 dots per inch
        self.assertEqual(data, paths[1].read_bytes())
        self.assertEqual(matplotlib.rcParams["font.size"], before)

    def test_a_failing_drawing_leaves_nothing(self):
        with self.assertRaises(ZeroDivisionError), figure(self.folder / "x.png"):
            raise ZeroDivisionError
        self.assertEmpty(list(self.folder.iterdir()))

    def test_mean_with_band(self):
        runs = np.random.default_rng(0).normal(size=(6, 4))
        axes = Figure().subplots()
        mean_with_band(axes, [0, 1, 2, 3], runs, label="a", confidence=0.9)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), runs.mean(0))
        outline = axes.collections[0].get_paths()[0].vertices
        for point in range(4):
            low, high = stats.t.interval(0.9, 5, runs[:, point].mean(), stats.sem(runs[:, point]))
            ys = outline[outline[:, 0] == point, 1]
            np.testing.assert_allclose([ys.min(), ys.max()], [low, high])
        mean_with_band(axes, [0, 1, 2, 3], runs[:1])
        self.assertLen(axes.collections, 1)
        with self.assertRaisesRegex(ValueError, r"got \(3,\) and \(6, 4\)"):
            mean_with_band(axes, [0, 1, 2], runs)

    def test_save_figure(self):
        save_figure(Figure(), self.folder / "x.png")
        self.assertEqual([path.name for path in self.folder.iterdir()], ["x.png"])


if __name__ == "__main__":
    absltest.main()
