"""The figures' parts: tables [seeds, targets] as bars, lines and squares, with their intervals and seeds.

Where nothing else is said a mark is the mean over seeds and targets, its bar or band the interval below, and the dots
beside it are seeds.
"""

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from scipy import special

from experiments.formal_languages.lab.contrasts import samples
from metalearn.run import PALETTE
from metalearn.run.intervals import crossed_interval, t_interval

INTERVAL = "95 % intervals: bootstrap over seeds and targets, widened for few seeds"
NOTHING = "#777777"  # no meta-training
COLOURS = tuple(PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black"))
CLASS_COLOURS = {
    "none": NOTHING,
    "regular": PALETTE["orange"],
    "context-free": PALETTE["sky"],
    "context-sensitive": PALETTE["blue"],
}
SHADES = "cividis"  # dark to bright also for who cannot tell colours apart
PUBLISHED: dict[str, Any] = {"marker": "D", "mfc": "none", "mec": PALETTE["black"], "ls": "none", "ms": 6, "zorder": 4}


def estimate(table: np.ndarray) -> tuple[float, float, float]:
    """Mean of a table and how far its 95 % interval reaches below and above; NaN where there is none."""
    if np.isnan(table).all():
        return math.nan, math.nan, math.nan
    mean, values = float(np.nanmean(table)), samples(table)
    low, high = map(float, t_interval(values) if values.ndim == 1 else crossed_interval(values, resamples=1999))
    return (mean, mean - low, high - mean) if math.isfinite(low) else (mean, math.nan, math.nan)


def marks(axes: Axes, places: np.ndarray, tables: Sequence[np.ndarray], **style: Any) -> None:
    """Means with error bars, and a dot for each seed."""
    means, below, above = np.array([estimate(table) for table in tables]).T
    axes.errorbar(places, means, (below, above), **style)
    _seeds(axes, places, tables)


def bars(
    axes: Axes, groups: Sequence[str], series: Mapping[str, Mapping[str, np.ndarray]], colours: Sequence[str] = COLOURS
) -> dict[tuple[str, str], float]:
    """Bars side by side. series: label -> group -> table; a group without this label has no bar.

    Returns:
        (label, group) -> where on the axis its bar stands.
    """
    width = 0.8 / max(len(series), 1)
    present = {group: [label for label, tables in series.items() if group in tables] for group in groups}
    stands = {
        (label, group): place + width * (number - (len(labels) - 1) / 2)
        for place, (group, labels) in enumerate(present.items())
        for number, label in enumerate(labels)
    }
    for (label, tables), colour in zip(series.items(), colours, strict=False):
        of = [group for group in groups if group in tables]
        places = [stands[label, group] for group in of]
        means, below, above = np.array([estimate(tables[group]) for group in of]).reshape(-1, 3).T
        axes.bar(places, means, 0.92 * width, color=colour, label=label, zorder=2)
        axes.errorbar(places, means, (below, above), fmt="none", ecolor="black", capsize=2, elinewidth=1.0, zorder=3)
        _seeds(axes, places, [tables[group] for group in of], 0.3 * width)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="x", visible=False)
    return stands


def by_strings(
    axes: Axes, strings: Sequence[int], series: Mapping[str, Sequence[np.ndarray]], colours: Mapping[str, str]
) -> None:
    """Lines over N with bands. series: label -> a table for each N."""
    for number, (label, tables) in enumerate(series.items()):
        means, below, above = np.array([estimate(table) for table in tables]).T
        marker = "osD^vPX*"[number % 8]  # so that lines differ in more than their colour
        axes.plot(strings, means, marker=marker, ms=5, color=colours[label], label=label)
        axes.fill_between(strings, means - below, means + above, color=colours[label], alpha=0.15, linewidth=0)
    axes.set(xscale="log", xlabel="strings adapted to (N)", xticks=strings)
    axes.set_xticklabels([f"{n:,}" for n in strings])
    axes.minorticks_off()


def squares(
    axes: Axes,
    cells: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    hatched: np.ndarray | None = None,
    under: Mapping[tuple[int, int], str] = {},
) -> Any:
    """A matrix in shades from 0 to 1 with its numbers and what is to stand `under` them.

    Args:
        hatched: [rows, columns] bool, squares that are no transfer.
    """
    image = axes.imshow(cells, vmin=0, vmax=1, cmap=SHADES, aspect="auto")
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            colour = "white" if value < 0.55 else "black"
            text = "\n".join([f"{value:.2f}", *([under[row, column]] if (row, column) in under else [])])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5)
        if hatched is not None and hatched[row, column]:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor=PALETTE["vermillion"], lw=0))
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.grid(visible=False)
    return image


def shade_bar(image: Any, axes: Sequence[Axes], label: str) -> None:
    """What the shades of `squares` mean."""
    axes[0].figure.colorbar(image, ax=list(axes), label=label, shrink=0.8)


def nothing_line(axes: Axes, table: np.ndarray, label: str = "no meta-training") -> None:
    """The level of networks that were not meta-trained, across the axes."""
    mean, below, above = estimate(table)
    axes.axhline(mean, color=NOTHING, linestyle="--", label=label, zorder=1)
    if not math.isnan(below):
        axes.axhspan(mean - below, mean + above, color=NOTHING, alpha=0.12, linewidth=0, zorder=0)


def finish(axes: Axes, title: str, below: str = INTERVAL) -> None:
    """Title over the whole figure; under it one legend and lines of fine print."""
    canvas = axes.figure
    assert isinstance(canvas, Figure)
    width = canvas.get_figwidth()
    fitting = lambda text, inches: "\n".join(textwrap.fill(line, int(width / inches)) for line in text.splitlines())
    canvas.suptitle(fitting(title, 0.09), fontsize=12)
    below = fitting(below, 0.065)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = int(width / (0.6 + 0.075 * max(map(len, labels))))  # inches of a sign and of a letter
        legend = canvas.legend(
            handles, labels, loc="outside lower center", fontsize=9, ncols=max(1, min(columns, len(labels)))
        )
        legend.set_title(below)
        legend.get_title().set_fontsize(8)
    else:
        canvas.supxlabel(below, fontsize=8)


def mean_over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of [S, ...] over seeds and half of Student's 95 % interval; NaNs are left out, NaN where there is none."""
    count = (~np.isnan(values)).sum(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of empty means, which are NaN as they should be
        mean, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0, ddof=1)
    t = special.stdtrit(np.maximum(count - 1, 1), 0.975)
    return mean, np.where(count > 1, t * spread / np.sqrt(np.maximum(count, 1)), np.nan)


def _seeds(axes: Axes, places: ArrayLike, tables: Sequence[np.ndarray], spread: float = 0.06) -> None:
    for place, table in zip(np.asarray(places), tables, strict=True):
        means = table[:, ~np.isnan(table).all(0)].mean(1) if table.size else table
        if len(means) > 1:
            across = place + np.linspace(-spread, spread, len(means))
            axes.plot(across, means, ".", color="black", ms=3.5, alpha=0.55, zorder=3)
