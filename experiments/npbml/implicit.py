"""The implicit biases of a meta-trained NPBML: figures, and verdicts on section 4 of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.npbml.config import Config
from experiments.npbml.inside import MARGINS, PER_UPDATE
from experiments.npbml.report import COLUMNS, Found, Report, about, draw_by_update, rows_result, samples_of, table
from metalearn.run import PALETTE, Claim, RunPaths, Verdict, figure, judge
from metalearn.run.intervals import t_interval

SCALAR = 0.9
"""Cosine from which on we call a step that of plain cross-entropy at another rate."""
_COLOURS = list(PALETTE.values())


def implicit(config: Config, found: Mapping[str, Found], paths: RunPaths) -> Report:
    """Of the experiment "implicit"."""
    (of,) = found.values()
    inside = of.measured
    rows = table(config, found)
    rows[0] |= {name: np.nanmean(inside[name]) for name in ("step_size", "alignment", "pull")}
    columns = dict(COLUMNS) | dict.fromkeys(("step_size", "alignment"), "{:.3f}") | {"pull": "{:.3g}"}
    result = rows_result(found) | {"implicit": {name: by_update(inside[name]) for name in PER_UPDATE}}
    result["implicit"]["modulation"] = modulation(inside)
    _draw_landscape(config, inside["landscape"], paths)
    _draw_rates(config, inside, paths)
    _draw_adaptation(config, found, inside, paths)
    return Report(rows, columns, verdicts(config, inside), result)


def by_update(values: np.ndarray) -> dict[str, Any]:
    """Mean over seeds and tasks of values [seeds, tasks, K, ...], and their standard deviation over tasks (the mean
    over seeds); None where there is none.
    """
    there = ~np.isnan(values).all((0, 1))
    mean, spread = np.full((2, *there.shape), np.nan)
    mean[there] = np.nanmean(values[:, :, there], (0, 1))
    spread[there] = np.nanstd(values[:, :, there], 1).mean(0)
    return {"mean": mean, "over_tasks": spread}


def modulation(inside: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of the scales and offsets of maps: variance of their means over tasks and over the images of a task, per value,
    means over seeds; and the share of the former.
    """
    tasks = inside["embedding"].var(1).mean()
    images = inside["within"].mean()
    return {"over_tasks": tasks, "over_images": images, "share_of_tasks": tasks / max(tasks + images, 1e-30)}


def verdicts(config: Config, inside: Mapping[str, np.ndarray]) -> list[Verdict]:
    """On section 4; independent samples are tasks, crossed with seeds where there are several."""
    whole = lambda name: np.nanmean(inside[name].reshape(*inside[name].shape[:2], -1), -1)
    source = "Raymond et al. 2024, section 4"
    claims = [
        (
            "The learned loss makes longer steps than cross-entropy",
            "equation 15",
            "effective step size, relative to the inner rate, mean over updates",
            {"above": 1.0},
            whole("step_size"),
        ),
        (
            "Its steps are those of cross-entropy at another rate",
            "equation 15",
            "cosine of the gradients of M and of cross-entropy, mean over updates",
            {"above": SCALAR},
            whole("alignment"),
        ),
        (
            "Without being shown the update's number, it makes a schedule that falls",
            "equation 15",
            "effective step size at the last update minus that at the first",
            {"below": 0.0},
            inside["step_size"][:, :, -1] - inside["step_size"][:, :, 0],
        ),
        (
            "Warps act as a learning rate of their layer",
            "equation 16",
            "cosine of delta and omega omega^T delta, mean over updates and warps",
            {"above": SCALAR},
            whole("warp_alignment"),
        ),
        (
            "The regulariser draws weights to zero",
            "weight regularisation",
            "lambda such that weight decay would draw alike, mean over updates",
            {"above": 0.0},
            whole("pull"),
        ),
    ]
    judged = []
    for statement, where, statistic, bounds, values in claims:
        samples, method, whose = samples_of(config, values)
        whose = whose.replace("test episodes", "tasks")
        judged.append(
            judge(Claim(statement, f"{source}, {where}", f"{statistic}; {whose}", **bounds), samples, method=method)
        )
    return judged


def _draw_landscape(config: Config, values: np.ndarray, paths: RunPaths) -> None:
    """values: [seeds, 3, ways, margins, 2]."""
    names = ("cross-entropy", "cross-entropy + $L^S$ (support image)", "$L^Q$ (query image)")
    with figure(paths.figure("landscape"), columns=2, size=(5.2, 3.8)) as ((level, slope),):
        for which, (name, colour, line) in enumerate(
            zip(names, ("black", *_COLOURS[:2]), ("--", "-", "-."), strict=True)
        ):
            for axes, curves in (
                (level, values[:, which, :, :, 0] - values[:, which, :, MARGINS.index(0.0), None, 0]),
                (slope, values[:, which, :, :, 1]),
            ):
                curves = curves.reshape(-1, len(MARGINS))
                above = 4 - which  # what is dashed is drawn above what it may coincide with
                axes.plot(MARGINS, curves.mean(0), color=colour, linestyle=line, label=name, zorder=above)
                axes.fill_between(MARGINS, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0)
        level.set(xlabel="logit margin of the right class", ylabel="loss (nats), less that at 0", title="Learned loss")
        slope.set(xlabel="logit margin of the right class", ylabel="slope (nats)", title="Its slope")
        level.figure.legend(*level.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
        level.figure.suptitle(
            f"{about(config)}\nlines: mean, bands: range over positions of the class and seeds", fontsize=9
        )


def _draw_rates(config: Config, inside: Mapping[str, np.ndarray], paths: RunPaths) -> None:
    blocks = inside["block_step_size"].shape[-1] - 1
    labels = ["last block"] if blocks == 1 else [f"block {number + 1}" for number in range(blocks)]
    warps = [f"warp {number + 1}" for number in range(inside["warp_rate"].shape[-1])]
    with figure(paths.figure("rates"), rows=2, columns=3, size=(4.6, 3.6)) as axes:
        (steps, by_block, rates), (terms, pull, cosines) = axes
        _lines(steps, inside["step_size"][..., None], ["all weights"])
        _lines(by_block, inside["block_step_size"], [*labels, "head"])
        _lines(rates, inside["warp_rate"], warps)
        _lines(terms, inside["terms"], ["$L^S$", "$L^Q$", "$R$"])
        _lines(pull, inside["pull"][..., None], ["$R$"])
        _lines(cosines, inside["alignment"][..., None], ["M and cross-entropy"])
        _lines(cosines, inside["warp_alignment"], warps, len(_COLOURS) // 2)
        for panel in (steps, by_block, rates):
            panel.axhline(1, color="black", linewidth=0.8, linestyle=":")
            panel.set_ylabel("relative to the inner rate")
        steps.set_title("Effective step size (eq. 15)")
        by_block.set_title("The same by block")
        rates.set_title("Rates of the warps (eq. 16)")
        terms.set(title="Length of gradients", ylabel="relative to cross-entropy's")
        pull.axhline(0, color="black", linewidth=0.8)
        pull.set(title="Pull of the regulariser", ylabel=r"as weight decay, $\lambda$")
        cosines.set(title="How much a rate explains", ylabel="cosine")
        for panel in axes.flat:
            panel.set_xlabel("before update")
            panel.set_xlim(0.7, inside["step_size"].shape[2] + 0.3)
            panel.xaxis.get_major_locator().set_params(integer=True)
            if len(panel.lines) > 2:
                panel.legend(fontsize=8)
        steps.figure.suptitle(
            f"{about(config)}\nmarks: mean and 95 % interval over tasks, bands: standard deviation over tasks",
            fontsize=9,
        )


def _lines(axes: Axes, values: np.ndarray, labels: Sequence[str], offset: int = 0) -> None:
    """A line for each of the last axis of values [seeds, tasks, K, lines], seeds and tasks taken together."""
    for number, label in enumerate(labels):
        pooled = values[..., number].reshape(-1, values.shape[2])
        there = ~np.isnan(pooled).any(0)
        x, pooled = 1 + np.flatnonzero(there), pooled[:, there]
        mean, spread = pooled.mean(0), pooled.std(0)
        low, high = t_interval(pooled)
        colour = _COLOURS[(offset + number) % len(_COLOURS)]
        errors = (mean - low, high - mean) if len(pooled) > 1 else None
        axes.errorbar(x, mean, yerr=errors, marker="osD^vP"[number % 6], ms=4, capsize=3, label=label, color=colour)
        axes.fill_between(x, mean - spread, mean + spread, alpha=0.15, linewidth=0, color=colour)


def _draw_adaptation(
    config: Config, found: Mapping[str, Found], inside: Mapping[str, np.ndarray], paths: RunPaths
) -> None:
    """Accuracy by inner update, and tasks by how they modulate the maps, in the plane where they differ most."""
    embedding = inside["embedding"][0]
    centred = embedding - embedding.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(centred), 2))
    plane[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    shares = np.zeros(2)
    shares[: min(2, len(sizes))] = (sizes**2 / max(np.sum(sizes**2), 1e-30))[:2]
    about_spread = modulation(inside)
    with figure(paths.figure("adaptation"), columns=2, size=(5.2, 3.8)) as ((by_step, spread),):
        draw_by_update(by_step, found)
        accuracy = 100 * inside["states"][0, :, -1]
        points = spread.scatter(*plane.T, c=accuracy, cmap="cividis", s=14)
        spread.figure.colorbar(points, ax=spread, label="accuracy on the task (%)")
        spread.set(
            xlabel=f"first component ({100 * shares[0]:.0f} % of variance)",
            ylabel=f"second ({100 * shares[1]:.0f} %)",
            title=f"Modulation of {len(plane)} tasks, one seed:\n"
            f"{100 * about_spread['share_of_tasks']:.0f} % of variance between tasks",
        )
        by_step.figure.suptitle(about(config), fontsize=9)
