"""The look of every figure: no pyplot state, readable sizes, colours that colour-blind readers can tell apart.

with figure(run.figure("learning_curve"), columns=2) as axes:
    mean_with_band(axes[0, 0], steps, losses, label="MAML")
    axes[0, 0].set(xlabel="meta-step", ylabel="loss (nats)")
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from metalearn.run import files
from metalearn.run.intervals import t_interval

# Okabe & Ito, "Color Universal Design" (2008), black last.
PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
}

STYLE: Any = {
    "figure.dpi": 100.0,
    "savefig.dpi": 150.0,
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.labelsize": 11.0,
    "legend.fontsize": 10.0,
    "legend.frameon": False,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(color=list(PALETTE.values())),
}


@contextlib.contextmanager
def figure(
    path: str | os.PathLike[str], *, rows: int = 1, columns: int = 1, size: tuple[float, float] = (4.8, 3.4)
) -> Iterator[np.ndarray]:
    """Yields axes [rows, columns] in the house style and saves the figure to `path` (PNG) when the block ends well.

    Args:
      path: where to; replaced atomically.
      rows, columns: number of axes.
      size: width and height of one of them in inches.
    """
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        yield canvas.subplots(rows, columns, squeeze=False)
        save_figure(canvas, path)


def save_figure(fig: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, atomically and without the date or version: the same drawing gives the same bytes."""
    with files.atomic_writer(path) as file:
        fig.savefig(file, format="png", dpi=STYLE["savefig.dpi"], metadata={"Software": None})


def mean_with_band(
    axes: Axes,
    x: ArrayLike,
    runs: ArrayLike,
    *,
    label: str | None = None,
    color: str | None = None,
    confidence: float = 0.95,
) -> None:
    """Draws the mean over runs and Student's confidence band around it (no band for a single run).

    Args:
      axes: where to.
      x: [points].
      runs: [runs, points].
      label: for the legend.
      color: by default the next of the palette.
      confidence: of the band, pointwise.

    Raises:
      ValueError: the shapes do not fit.
    """
    x, runs = np.asarray(x, dtype=np.float64), np.asarray(runs, dtype=np.float64)
    if runs.ndim != 2 or x.shape != runs.shape[1:]:
        raise ValueError(f"x must be [points] and runs [runs, points], got {x.shape} and {runs.shape}.")
    (line,) = axes.plot(x, runs.mean(axis=0), label=label, color=color)
    if len(runs) > 1:
        low, high = t_interval(runs, confidence)
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
