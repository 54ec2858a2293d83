"""What of NPBML's accuracy is meta-training, what the query images, what the pre-trained encoder? Nobody published it.

Rows are {inductive, + L^Q, + joint batch-norm} x {pre-trained, from scratch} x {meta-trained, eta = 0}. "Inductive" is
strict: neither the loss nor any normalisation has more than one query image at a time.
"""

from collections.abc import Mapping

import numpy as np

from experiments.npbml.config import Config
from experiments.npbml.report import COLUMNS, Found, Report, about, half_width, rows_result, samples_of, table
from experiments.npbml.rows import QUERY_USE, cell_name
from metalearn.run import PALETTE, Claim, RunPaths, Verdict, figure, judge, read_csv

ASKED = "asked by the reviewers of Raymond et al. 2024; no numbers are published"
GROUPS = {
    "pre-trained": (True, True),
    "from scratch": (False, True),
    "pre-trained,\neta = 0": (True, False),
    "from scratch,\neta = 0": (False, False),
}
"""Label -> whether pre-trained, and whether meta-trained."""
COLOURS = dict(zip(QUERY_USE, (PALETTE["blue"], PALETTE["vermillion"], PALETTE["green"]), strict=True))
MARKERS = dict(zip(QUERY_USE, "osD", strict=True))


def fairness(config: Config, found: Mapping[str, Found], paths: RunPaths) -> Report:
    """Of the experiment "fairness"."""
    spent = pretraining_seconds(config, paths)
    before = {name: spent * of.row.pretrained for name, of in found.items()}
    rows = table(config, found, before=before)
    for row in rows:
        of = found[row["name"]]
        row |= {
            "familiar": 100 * familiar(of).mean(),
            "gap": 100 * gap(of).mean(),
            "gap_interval": 100 * float(np.mean(half_width(gap(of)))),
            "pretraining_seconds": before[row["name"]],
        }
    columns = dict(COLUMNS)
    del columns["published"]
    columns |= {"familiar": "{:.2f}", "gap": "{:+.2f}", "gap_interval": "{:.2f}"}
    result = rows_result(found)
    for name, of in found.items():
        result["rows"][name] |= {"familiar_accuracy": familiar(of).mean(), "gap": gap(of).mean()}
    _draw(config, found, before, paths)
    return Report(rows, columns, verdicts(config, found), result)


def familiar(of: Found) -> np.ndarray:
    """[seeds, episodes], accuracy on episodes of training classes after the last update."""
    return of.measured["familiar"][..., -1]


def gap(of: Found) -> np.ndarray:
    """[seeds, episodes], meta-overfitting: accuracy on training classes minus that on test classes.

    The episodes of the two are independent, so how they are paired does not matter for the interval of the mean.
    """
    return familiar(of) - of.accuracy


def pretraining_seconds(config: Config, paths: RunPaths) -> float:
    """Steps of pre-training times their median duration; the median over seeds."""
    timings = [read_csv(paths.stage(f"pretraining_{seed}").timing) for seed in range(config.seeds)]
    return config.pretraining.steps * float(np.median([np.median(1 / of["steps_per_second"]) for of in timings]))


def verdicts(config: Config, found: Mapping[str, Found]) -> list[Verdict]:
    """On what the rows differ in."""
    of = lambda use, pretrained=True, trained=True: found[cell_name(use, pretrained, trained)]
    one, two, three = QUERY_USE
    more = {
        "Meta-training helps a pre-trained learner that has no use of query images": (of(one), of(one, trained=False)),
        "Meta-training helps a pre-trained learner with L^Q": (of(two), of(two, trained=False)),
        "Meta-training helps a pre-trained learner with joint batch-norm": (of(three), of(three, trained=False)),
        "L^Q helps a pre-trained learner": (of(two), of(one)),
        "Joint batch-norm helps a pre-trained learner beside L^Q": (of(three), of(two)),
        "Without meta-training, joint batch-norm helps already": (of(three, trained=False), of(two, trained=False)),
        "Pre-training helps where query images are not used": (of(one), of(one, pretrained=False)),
        "Pre-training helps beside joint batch-norm": (of(three), of(three, pretrained=False)),
    }
    judged = []
    for statement, (better, worse) in more.items():
        samples, method, whose = samples_of(config, better.accuracy - worse.accuracy)
        statistic = f"difference of test accuracies, paired, {whose}"
        judged.append(judge(Claim(statement, ASKED, statistic, above=0.0), samples, method=method))
    samples, method, whose = samples_of(config, gap(of(three)))
    claim = Claim(
        "NPBML is more accurate on new episodes of its training classes than on test classes",
        ASKED,
        f"difference of accuracies, {whose}",
        above=0.0,
    )
    return [*judged, judge(claim, samples, method=method)]


def _draw(config: Config, found: Mapping[str, Found], before: Mapping[str, float], paths: RunPaths) -> None:
    with figure(paths.figure("fairness"), rows=2, columns=2, size=(5.6, 3.8)) as axes:
        (accuracy, by_seconds), (by_parameters, gaps) = axes
        for shift, use in zip((-0.2, 0.0, 0.2), QUERY_USE, strict=True):
            style = {"fmt": MARKERS[use], "color": COLOURS[use], "capsize": 3}
            cells = [found[cell_name(use, *group)] for group in GROUPS.values()]
            for panel, values in ((accuracy, [of.accuracy for of in cells]), (gaps, [gap(of) for of in cells])):
                errors = 100 * np.array([half_width(value) for value in values]).T
                means = [100 * value.mean() for value in values]
                panel.errorbar(np.arange(len(cells)) + shift, means, yerr=errors, label=use, **style)
            for of in cells:
                if of.row.trained:
                    steps, curve = of.outcome.steps, 100 * of.outcome.validated.mean(0)
                    clock = before[of.row.name] + steps * of.outcome.seconds
                    line = "-" if of.row.pretrained else "--"
                    by_seconds.plot(clock, curve, linestyle=line, marker=MARKERS[use], ms=4, color=COLOURS[use])
                    style["mfc"] = COLOURS[use] if of.row.pretrained else "none"
                    error = 100 * np.array(half_width(of.accuracy))[:, None]
                    by_parameters.errorbar(of.outcome.meta_parameters, 100 * of.accuracy.mean(), yerr=error, **style)
        for panel in (accuracy, gaps):
            panel.set_xticks(range(len(GROUPS)), list(GROUPS), fontsize=9)
        gaps.axhline(0, color="black", linewidth=0.8)
        accuracy.set(ylabel="test accuracy (%), bars: 95 %", title="Accuracy")
        gaps.set(ylabel="points, bars: 95 %", title="Training classes minus test classes")
        by_seconds.set(
            xlabel="seconds of pre-training and meta-training",
            ylabel="validation accuracy (%)",
            title="At equal seconds (dashed: from scratch)",
        )
        by_parameters.set(xlabel="meta-parameters", ylabel="test accuracy (%)", title="By size (open: from scratch)")
        accuracy.figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        accuracy.figure.suptitle(about(config), fontsize=10)
