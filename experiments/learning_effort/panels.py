"""Panels of the figures: each a function draw(axes, outcome). Task time is the number of the step."""

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from experiments.learning_effort.published import Curve
from experiments.learning_effort.studies import Experiment, Outcome
from metalearn.run import PALETTE, RunPaths, figure

Panel = Callable[[Axes, Outcome], None]

BASELINE, CONTROL = PALETTE["black"], PALETTE["vermillion"]
COLOURS = tuple(PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black"))
SEQUENTIAL = "viridis"  # of sweeps
TIME = "task time n (steps)"


def draw(paths: RunPaths, name: str, experiment: Experiment, outcome: Outcome) -> None:
    """The figure `name` of an experiment's panels."""
    panels = experiment.panels
    columns = min(len(panels), experiment.columns)
    rows = -(-len(panels) // columns)
    with figure(paths.figure(name), rows=rows, columns=columns, size=(4.3, 3.7)) as axes:
        for panel, place in zip(panels, axes.flat, strict=False):
            panel(place, outcome)
            if experiment.until is not None and place.get_xlabel() == TIME:
                place.set_xlim(0, min(experiment.until, len(outcome.n)))
        for unused in axes.flat[len(panels) :]:
            unused.set_axis_off()
        lanes = len(outcome.control.value)
        many = f"; mean and range over {lanes} initial weights" if lanes > 1 and not outcome.points else ""
        axes.flat[0].figure.suptitle(f"{experiment.title} ({outcome.data}{many})", fontsize=12)


def along(axes: Axes, outcome: Outcome, runs: np.ndarray, **how: Any) -> None:
    """Mean of runs [lanes, T] over the step n, and their range, as a mean of a few such runs has no sharp interval."""
    (line,) = axes.plot(outcome.n, runs.mean(0), **how)
    if len(runs) > 1:
        axes.fill_between(outcome.n, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel(TIME)


def legend(axes: Axes, **how: Any) -> None:
    """A legend that is readable over curves."""
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", **how)


def markers(axes: Axes, outcome: Outcome, curve: Curve, colour: Any, label: str | None = "published") -> None:
    """Published points, as far as the trajectory goes."""
    inside = {n: value for n, value in curve.items() if n < len(outcome.n)}
    if inside:
        axes.plot(list(inside), list(inside.values()), "o", ms=5, mfc="none", mec=colour, label=label, zorder=3)


def loss(published: Mapping[str, Curve] | None = None, log: bool = False, label: str = "published") -> Panel:
    """Loss with and without control, and that of learning from samples (first of the initial weights) pale."""

    def panel(axes: Axes, outcome: Outcome) -> None:
        for which, colour in (("baseline", BASELINE), ("control", CONTROL)):
            if outcome.validation is not None:
                losses = getattr(outcome.validation, which).mean(0)
                axes.plot(outcome.validation.steps, losses, color=colour, alpha=0.35, linewidth=3.5)
            along(axes, outcome, getattr(outcome, which).loss, label=which, color=colour)
            markers(axes, outcome, (published or {}).get(which, {}), colour, None)
        if published:
            axes.plot([], [], "o", ms=5, mfc="none", mec="gray", label=label)
        if outcome.validation is not None:
            axes.plot([], [], color="gray", alpha=0.35, linewidth=3.5, label="from samples")
        axes.set(ylabel="expected loss L", title="Loss", yscale="log" if log else "linear")
        legend(axes)

    return panel


def reward(axes: Axes, outcome: Outcome) -> None:
    """Net reward v = -L - C."""
    along(axes, outcome, outcome.baseline.reward, label="baseline", color=BASELINE)
    along(axes, outcome, outcome.control.reward, label="control", color=CONTROL)
    axes.set(ylabel="net reward v = -L - C", title="Instantaneous net reward")
    legend(axes)


def cost(axes: Axes, outcome: Outcome) -> None:
    """C: what the control costs."""
    along(axes, outcome, outcome.control.cost, color=CONTROL)
    axes.set(ylabel="cost C", title="Cost of control")


def gap(axes: Axes, outcome: Outcome) -> None:
    """L_B - L_C: what the control saves in loss."""
    axes.axhline(0, color="gray", linewidth=0.8)
    along(axes, outcome, outcome.baseline.loss - outcome.control.loss, color=CONTROL)
    axes.set(ylabel="$L_B - L_C$", title="Loss without minus with control")


def gap_to(published: Curve) -> Panel:
    """As `gap`, with published points."""

    def panel(axes: Axes, outcome: Outcome) -> None:
        gap(axes, outcome)
        markers(axes, outcome, published, CONTROL)
        if min(published) < len(outcome.n):
            axes.legend()

    return panel


def in_order(count: int) -> list[Any]:
    """Colours from dark to bright."""
    return [matplotlib.colormaps[SEQUENTIAL](x) for x in np.linspace(0, 0.92, count)]


def measures(names: Mapping[str, str], ylabel: str, title: str, published: Mapping[str, Curve] | None = None) -> Panel:
    """Scalar measures of the controlled run: names of measures -> labels."""

    def panel(axes: Axes, outcome: Outcome) -> None:
        for (name, label), colour in zip(names.items(), COLOURS, strict=False):
            along(axes, outcome, outcome.control.measures[name], label=label, color=colour)
            markers(axes, outcome, (published or {}).get(name, {}), colour)
        axes.set(ylabel=ylabel, title=title)
        if len(names) > 1 or published:
            axes.legend()

    return panel


def both(names: Mapping[str, str], ylabel: str, title: str, published: Mapping[str, Mapping[str, Curve]] = {}) -> Panel:
    """Scalar measures with (solid) and without (dashed) control; published: name -> "control", "baseline" -> curve."""

    def panel(axes: Axes, outcome: Outcome) -> None:
        for (name, label), colour in zip(names.items(), COLOURS, strict=False):
            along(axes, outcome, outcome.control.measures[name], label=f"{label}, control", color=colour)
            middle = outcome.baseline.measures[name].mean(0)
            axes.plot(outcome.n, middle, "--", color=colour, label=f"{label}, baseline")
            for which in published.get(name, {}):
                markers(axes, outcome, published[name][which], colour, None)
        axes.set(ylabel=ylabel, title=title)
        axes.legend(fontsize=8)

    return panel


def family(axes: Axes, outcome: Outcome, values: np.ndarray, runs: np.ndarray, label: str, log: bool = False) -> None:
    """Curves of a sweep: runs [points, T], coloured by values [points], with a colour bar."""
    norm = (matplotlib.colors.LogNorm if log else matplotlib.colors.Normalize)(values.min(), values.max())
    colours = matplotlib.colormaps[SEQUENTIAL]
    for value, run in zip(values, runs, strict=True):
        axes.plot(outcome.n, run, color=colours(norm(value)), linewidth=1.0)
    axes.figure.colorbar(matplotlib.cm.ScalarMappable(norm, colours), ax=axes, label=label)
    axes.set_xlabel(TIME)
