"""Tables 3 and 4 of the paper: which component brings how much, ours beside the published."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.npbml.config import Config
from experiments.npbml.report import (
    COLUMNS,
    Found,
    Report,
    about,
    half_width,
    number,
    published,
    published_for,
    rows_result,
    samples_of,
    table,
)
from metalearn.run import PALETTE, Claim, RunPaths, Verdict, figure, judge


class Order(NamedTuple):
    """A claim about rows: the sum of weight * accuracy over `weights` is positive."""

    statement: str
    weights: Mapping[str, float]


def _more(better: str, worse: str, statement: str) -> Order:
    return Order(statement, {better: 1.0, worse: -1.0})


ORDERS: Mapping[str, Sequence[Order]] = {
    "table_3": (
        _more("+ preconditioner", "initialisation", "A learned preconditioner helps"),
        _more("+ loss", "initialisation", "A learned loss helps"),
        _more("+ loss", "+ preconditioner", "The loss helps more than the preconditioner"),
        _more("+ preconditioner, loss", "+ loss", "Beside the loss, the preconditioner still helps"),
        _more("+ preconditioner, loss", "+ preconditioner", "Beside the preconditioner, the loss still helps"),
        _more("NPBML", "+ preconditioner, loss", "Modulation helps beside all others"),
        _more("NPBML", "initialisation", "All components together help"),
    ),
    "table_4": (
        _more("inductive", "base", "L^S alone helps"),
        _more("transductive", "base", "L^Q alone helps"),
        _more("regulariser", "base", "R alone helps"),
        _more("all three", "inductive", "All three help more than L^S alone"),
        _more("all three", "transductive", "All three help more than L^Q alone"),
        _more("all three", "regulariser", "All three help more than R alone"),
        Order(
            "Together the three bring less than their sum",
            {"inductive": 1.0, "transductive": 1.0, "regulariser": 1.0, "all three": -1.0, "base": -2.0},
        ),
    ),
}
"""What the tables say, row against row; by experiment."""


def ablation(name: str, config: Config, found: Mapping[str, Found], paths: RunPaths) -> Report:
    """Of the experiments "table_3" and "table_4"."""
    rows = table(config, found, name)
    first = next(iter(found))
    reference = printed(name)
    for row in rows:
        row |= {"gain": row["accuracy"] - rows[0]["accuracy"], "paper": reference[row["name"]]}
        row["paper_gain"] = number(reference[row["name"]]) - number(reference[first])
    _draw(name, config, found, paths)
    columns = dict(COLUMNS)
    del columns["published"]
    columns |= {"gain": "{:+.2f}", "paper": "", "paper_gain": "{:+.2f}"}
    return Report(rows, columns, verdicts(name, config, found), rows_result(found))


def printed(name: str) -> dict[str, str]:
    """The paper's accuracies of that table by row, in %: mini-ImageNet, 5-way 5-shot, 4-CONV."""
    return {row: cell for (of, *_, row), cell in published().items() if of == name}


def verdicts(name: str, config: Config, found: Mapping[str, Found]) -> list[Verdict]:
    """On what the table says."""
    judged = []
    for order in ORDERS[name]:
        values = np.asarray(sum(weight * found[row].accuracy for row, weight in order.weights.items()))
        samples, method, whose = samples_of(config, values)
        statistic = f"difference of test accuracies, paired, {whose}"
        if len(order.weights) > 2:
            statistic = f"sum of the gains less the gain together, paired, {whose}"
        source = f"Raymond et al. 2024, {name.replace('_', ' ')}"
        judged.append(judge(Claim(order.statement, source, statistic, above=0.0), samples, method=method))
    return judged


def _draw(name: str, config: Config, found: Mapping[str, Found], paths: RunPaths) -> None:
    """Accuracies, and what each row gains over the first one."""
    names, base = list(found), next(iter(found.values())).accuracy
    places = np.arange(len(names))[::-1]
    reference = {row: number(cell) for row, cell in printed(name).items()}
    ours, theirs = PALETTE["blue"], PALETTE["vermillion"]
    with figure(paths.figure(name), columns=2, size=(5.4, 1.4 + 0.45 * len(names))) as ((left, right),):
        for axes, values in (
            (left, [of.accuracy for of in found.values()]),
            (right, [of.accuracy - base for of in found.values()]),
        ):
            means = [100 * value.mean() for value in values]
            errors = 100 * np.array([half_width(value) for value in values]).T
            axes.errorbar(means, places, xerr=errors, fmt="o", color=ours, capsize=3, label="here, 95 % interval")
            for value, place in zip(values, places, strict=True):
                if config.seeds > 1:
                    axes.plot(100 * value.mean(1), np.full(len(value), place - 0.18), ".", color=ours, alpha=0.5, ms=5)
            axes.set_yticks(places, names)
            axes.set_ylim(-0.6, len(names) - 0.4)
        gains = [reference[row] - reference[names[0]] for row in names]
        style = {"ls": "none", "marker": "D", "mfc": "none", "color": theirs}
        right.plot(gains, places, label="paper: mini-ImageNet, 5-way 5-shot", **style)
        right.axvline(0, color="black", linewidth=0.8)
        left.set(xlabel="test accuracy (%)", title="Test (small dots: seeds)")
        right.set(xlabel=f"points above {names[0]!r}", title="Gain, paired")
        right.set_yticks(places, [])
        here = [published_for(config, name, row) for row in names]
        if any(here):
            left.plot([number(cell) if cell else np.nan for cell in here], places, **style)
        left.figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
        left.figure.suptitle(f"{name.replace('_', ' ').capitalize()}: {about(config)}", fontsize=9)
