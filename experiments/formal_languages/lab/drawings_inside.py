"""Figures of what is inside the networks; S being seeds, bars and bands Student's intervals over them."""

import contextlib
import pathlib
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from experiments.formal_languages.lab.drawings import COLOURS, NOTHING, finish, mean_over_seeds
from experiments.formal_languages.lab.found_inside import (
    STAGES,
    UNTRAINED,
    Ablations,
    Lengths,
    Probes,
    Shifts,
    Trace,
    seeds_in_words,
)
from metalearn.run import PALETTE, figure

STAGE_COLOURS = dict(zip(STAGES, (NOTHING, PALETTE["blue"], PALETTE["vermillion"]), strict=True)) | {UNTRAINED: NOTHING}
OVER_SEEDS = "95 % intervals: Student's over seeds; dots: seeds"


@contextlib.contextmanager
def panels(
    path: pathlib.Path, titles: Sequence[str], size: tuple[float, float], columns: int = 3, rows: int = 1
) -> Iterator[np.ndarray]:
    """Axes [panels, rows], at most so many columns of panels, each of some rows under one title."""
    columns = min(columns, len(titles))
    blocks = -(-len(titles) // columns)
    with figure(path, rows=rows * blocks, columns=columns, size=size) as axes:
        places = axes.reshape(blocks, rows, columns).transpose(0, 2, 1).reshape(-1, rows)
        for place, title in zip(places, titles, strict=False):
            place[0].set_title(textwrap.fill(title, int(size[0] / 0.105)))
        for unused in places[len(titles) :].flat:
            unused.set_axis_off()
        yield places[: len(titles)]


def draw_probes(found: Sequence[Probes], path: pathlib.Path) -> None:
    """R^2 by counter and stage: bars; selectivity: hollow marks."""
    with panels(path, [of.title for of in found], (5.4, 3.9)) as axes:
        for (place,), of in zip(axes, found, strict=True):
            r2 = np.maximum(of.r2, 0)
            stands = [
                seed_bars(
                    place, of.counters, r2.transpose(0, 2, 1), STAGES, [STAGE_COLOURS[stage] for stage in STAGES]
                ),
                of.selectivity.mean(-1),
            ]
            place.plot(*map(np.ravel, stands), "D", mfc="white", mec="black", ms=5, label="selectivity", zorder=4)
            place.set(ylim=(min(0, 1.1 * of.selectivity.mean(-1).min()), 1.05), ylabel="R² at held-out lengths")
        finish(
            axes[0, 0],
            f"How well a linear probe reads the counters, {seeds_in_words(found[0].r2.shape[-1])}",
            f"{OVER_SEEDS}; selectivity: R² minus that of a probe for random labels",
        )


def draw_traces(found: Sequence[Trace], path: pathlib.Path) -> None:
    """The true counter as steps, what is read at each stage as lines, over the symbols of a string."""
    with panels(path, [f"{of.title}: {of.counter}" for of in found], (6.4, 3.2), columns=2) as axes:
        for (place,), of in zip(axes, found, strict=True):
            times = np.arange(len(of.true))
            for stage, values in of.read.items():
                place.plot(times, values, marker=".", color=STAGE_COLOURS[stage], label=f"read, {stage}")
            place.step(times, of.true, where="mid", color="black", linewidth=1.2, linestyle="--", label="true counter")
            place.set_xticks(times, ["^", *of.string], fontsize=8 if len(times) < 40 else 5)
            place.set_ylabel("value of the counter")
        finish(
            axes[0, 0],
            "Counters along one string longer than those that probes were fitted on, read from one network",
            "one seed, so no interval; below: the symbols of the string, ^ its beginning",
        )


def draw_ablations(found: Sequence[Ablations], path: pathlib.Path) -> None:
    """Drop of F1 by target, those that need a counter first."""
    with panels(path, [of.title for of in found], (6.2, 3.8)) as axes:
        for (place,), of in zip(axes, found, strict=True):
            order = np.argsort([not counting for counting in of.counting], kind="stable")
            drops = np.stack([(of.intact - of.named)[:, order], (of.intact - of.random)[:, order]])
            labels = [of.targets[i] for i in order]
            seed_bars(place, labels, drops, ("units the probe names", "as many random units"), COLOURS[:2])
            place.axvline(sum(of.counting) - 0.5, color="black", linewidth=0.8, linestyle=":")
            place.set(xlabel="has a counter | has none", ylabel="drop of F1")
        limits = np.array([place.get_ylim() for place in axes.flat])
        for place in axes.flat:
            place.set_ylim(limits.min(), limits.max())  # so that networks can be compared
        finish(
            axes[0, 0],
            "What is lost when units are clamped to their mean: F1 where something is forbidden, "
            f"{seeds_in_words(len(found[0].intact))}",
            OVER_SEEDS,
        )


def draw_shifts(found: Sequence[Shifts], path: pathlib.Path) -> None:
    """Moved end by what was added to the counter; a counter that is used lies on the diagonal."""
    with panels(path, [of.title for of in found], (4.4, 3.9)) as axes:
        for (place,), of in zip(axes, found, strict=True):
            place.plot(of.deltas, of.deltas, color="black", linewidth=1.0, linestyle="--", label="a counter")
            for label, values, colour in (
                ("along the counter", of.moved, COLOURS[0]),
                ("in random directions, either way", of.random * np.sign(of.deltas), NOTHING),
            ):
                mean, half = mean_over_seeds(values)
                place.errorbar(of.deltas, mean, half, marker="o", capsize=3, color=colour, label=label)
            endless = 100 * np.mean(np.isnan(of.moved))
            place.annotate(f"{endless:.0f} % never end", (0.97, 0.04), xycoords="axes fraction", ha="right", fontsize=9)
            place.set(xlabel="added to the counter", ylabel="end moves by (symbols)")
        finish(
            axes[0, 0],
            f"Shifting a counter moves the predicted end, {seeds_in_words(len(found[0].moved))}",
            "95 % intervals: Student's over seeds",
        )


def draw_lengths(found: Sequence[Lengths], path: pathlib.Path) -> None:
    """F1 by size (upper row) and by position (lower row)."""
    with panels(path, [of.title for of in found], (5.0, 3.2), rows=2) as axes:
        for (upper, lower), of in zip(axes, found, strict=True):
            for label, values in of.by_size.items():
                _curve(upper, of.sizes, values, label)
            for label, values in of.by_position.items():
                _curve(lower, np.arange(values.shape[1]), values, label)
            upper.axvspan(min(of.sizes), of.trained, color="gray", alpha=0.15, linewidth=0, label="sizes learned from")
            upper.set(xlabel="size n", xscale="log", ylim=(0, 1.02), ylabel="F1")
            upper.set_xticks(of.sizes, [f"{n}" for n in of.sizes], fontsize=8)
            upper.minorticks_off()
            lower.set(xlabel="position in the string", ylim=(0, 1.02), ylabel="F1")
        finish(
            axes[0, 0],
            "F1 by size (above; where something is forbidden) and at each position (below), "
            f"{seeds_in_words(len(next(iter(found[0].by_size.values()))))}",
            "95 % bands: Student's over seeds",
        )


def seed_bars(
    axes: Axes, groups: Sequence[str], values: np.ndarray, labels: Sequence[str], colours: Sequence[str]
) -> np.ndarray:
    """Bars side by side with Student's intervals and a dot for each seed.

    Args:
        values: [labels, S, groups].

    Returns:
        [labels, groups], where on the axis each bar stands.
    """
    width = 0.8 / len(labels)
    shifts = width * (np.arange(len(labels)) - (len(labels) - 1) / 2)
    stands = shifts[:, None] + np.arange(len(groups))
    for places, of, label, colour in zip(stands, values, labels, colours, strict=True):
        mean, half = mean_over_seeds(of)
        axes.bar(places, mean, 0.92 * width, color=colour, label=label, zorder=2)
        axes.errorbar(places, mean, half, fmt="none", ecolor="black", capsize=2, elinewidth=1.0, zorder=3)
        for place, by_seed in zip(places, of.T, strict=True):
            across = place + 0.3 * width * np.linspace(-1, 1, len(by_seed))
            axes.plot(across, by_seed, ".", color="black", ms=3.5, alpha=0.55, zorder=3)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups, rotation=25, ha="right", rotation_mode="anchor", fontsize=9)
    axes.grid(axis="x", visible=False)
    return stands


def _curve(axes: Axes, x: np.ndarray, values: np.ndarray, label: str) -> None:
    colour = STAGE_COLOURS[label]
    mean, half = mean_over_seeds(values)
    axes.plot(x, mean, marker="." if len(x) < 20 else None, color=colour, label=label)
    axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
