"""What the experiment says: figures, the per-language table, verdicts on the papers' claims."""

import csv
import io
from collections.abc import Mapping

import numpy as np

from experiments.formal_languages.distilled.config import Config
from experiments.formal_languages.distilled.evaluation import LEARNERS, MEMORISATION, Scores
from metalearn.languages.targets import target
from metalearn.run import PALETTE, Claim, RunPaths, Verdict, figure, judge, mean_with_band
from metalearn.run.files import write_atomic

Results = Mapping[tuple[str, int], Scores]
"""(learner, N) -> scores."""

COLOURS = {
    "meta-trained": PALETTE["blue"],
    "pre-trained": PALETTE["green"],
    "standard": PALETTE["vermillion"],
    MEMORISATION: "#777777",
}

# McCoy & Griffiths 2025, results over 56 languages, networks of 1024 units: N -> (mean, lowest, highest of 40 runs).
PUBLISHED = {
    "meta-trained": {
        1: (0.283, 0.266, 0.297),
        10: (0.659, 0.644, 0.681),
        100: (0.888, 0.868, 0.901),
        1000: (0.940, 0.921, 0.947),
        10_000: (0.952, 0.947, 0.956),
    },
    "pre-trained": {
        1: (0.279, 0.247, 0.303),
        10: (0.294, 0.247, 0.345),
        100: (0.759, 0.724, 0.797),
        1000: (0.928, 0.920, 0.937),
        10_000: (0.951, 0.943, 0.953),
    },
    "standard": {
        1: (0.190, 0.160, 0.218),
        10: (0.303, 0.292, 0.314),
        100: (0.562, 0.547, 0.580),
        1000: (0.898, 0.879, 0.915),
        10_000: (0.945, 0.921, 0.951),
    },
    MEMORISATION: {n: (f, f, f) for n, f in {1: 0.0813, 10: 0.3620, 100: 0.7642, 1000: 0.9253, 10_000: 0.9643}.items()},
}


def by_seed(results: Results, learner: str, strings: int, score: str) -> np.ndarray:
    """[seeds], the mean over languages; languages for which the score is not defined are left out."""
    return np.nanmean(results[learner, strings][score], axis=1)


def draw(paths: RunPaths, config: Config, results: Results) -> None:
    """Figures: scores by number of strings, and top-25 F-score by kind of language."""
    sizes = config.evaluation.strings
    languages, seeds = len(config.languages), config.seeds
    about = f"{config.model.units} units, {languages} languages, {seeds} seeds"
    with figure(paths.figure("score_by_strings"), columns=2, size=(6.2, 4.6)) as axes:
        for learner in (*LEARNERS, MEMORISATION):
            runs = np.stack([by_seed(results, learner, n, "f_score") for n in sizes], axis=1)
            mean_with_band(axes[0, 0], sizes, runs, label=f"{learner}, here", color=COLOURS[learner])
            published = {n: PUBLISHED[learner][n] for n in sizes if n in PUBLISHED[learner]}
            middle, low, high = np.array(list(published.values())).reshape(-1, 3).T
            axes[0, 0].errorbar(
                list(published),
                middle,
                (middle - low, high - middle),
                linestyle=":",
                marker="o",
                markersize=4,
                capsize=3,
                linewidth=1.2,
                color=COLOURS[learner],
                label=f"{learner}, published",
            )
        for learner in LEARNERS:
            runs = np.stack([by_seed(results, learner, n, "constrained") for n in sizes], axis=1)
            mean_with_band(axes[0, 1], sizes, runs, label=learner, color=COLOURS[learner])
        axes[0, 0].set(ylabel="F-score of the 25 most probable strings", title=f"Top-25 F-score: {about}")
        axes[0, 1].set(ylabel="continuation F1", title="Continuation F1 where something is forbidden")
        for axis in axes[0]:
            axis.set(xscale="log", xlabel="strings learned from (N)", ylim=(0, 1), xticks=sizes)
            axis.set_xticklabels([f"{n:,}" for n in sizes])
            axis.minorticks_off()
        axes[0, 0].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        axes[0, 1].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        axes[0, 0].figure.supxlabel(
            "lines: mean over seeds, bands: its 95 % t-interval; "
            "dotted: McCoy & Griffiths 2025 (1024 units), bars: range of their 40 runs",
            fontsize=8,
        )
    _draw_classes(paths, config, results)


def _draw_classes(paths: RunPaths, config: Config, results: Results) -> None:
    classes = [target(name).chomsky_class for name in config.languages]
    kinds = [c for c in ("finite", "regular", "context-free", "context-sensitive") if c in classes]
    sizes = config.evaluation.strings
    with figure(paths.figure("score_by_class"), columns=len(sizes), size=(3.9, 3.8)) as axes:
        for axis, n in zip(axes[0], sizes, strict=True):
            for place, learner in enumerate((*LEARNERS, MEMORISATION)):
                scores = results[learner, n]["f_score"]
                rows = np.stack([scores[:, [c == kind for c in classes]].mean(1) for kind in kinds], axis=1)
                spread = rows.std(0, ddof=1) if len(rows) > 1 else np.zeros(len(kinds))
                x = np.arange(len(kinds)) + 0.2 * (place - 1.5)
                axis.bar(x, rows.mean(0), 0.19, yerr=spread, capsize=2, color=COLOURS[learner], label=learner)
            labels = [kind.replace("-", "-\n") + f"\n({classes.count(kind)})" for kind in kinds]
            axis.set_xticks(range(len(kinds)), labels, fontsize=8)
            axis.set(ylim=(0, 1.05), title=f"N = {n:,}", ylabel="top-25 F-score")
        axes[0, 0].legend(fontsize=8)
        axes[0, 0].figure.suptitle("F-score by class of the target (number of languages); bars: s.d. over seeds")


def table(config: Config, results: Results) -> str:
    """CSV: a row per language, a column per learner and N with the top-25 F-score, mean over seeds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [(learner, n) for n in config.evaluation.strings for learner in (*LEARNERS, MEMORISATION)]
    writer.writerow(["language", "definition", "class", *(f"{learner} N={n}" for learner, n in columns)])
    for i, name in enumerate(config.languages):
        language = target(name)
        means = [f"{results[column]['f_score'][:, i].mean():.4f}" for column in columns]
        writer.writerow([name, language.definition, language.chomsky_class, *means])
    means = [f"{results[column]['f_score'].mean():.4f}" for column in columns]
    writer.writerow(["mean", "", "", *means])
    return text.getvalue()


def verdicts(config: Config, results: Results) -> list[Verdict]:
    """The papers' claims that this experiment can contradict."""
    found = []
    for n in config.evaluation.strings:
        for other in ("standard", "pre-trained", MEMORISATION):
            ahead = PUBLISHED["meta-trained"].get(n, (0,))[0] > PUBLISHED[other].get(n, (1,))[0]
            if not ahead:
                continue
            claim = Claim(
                f"From {n} strings, meta-trained networks learn more than {other}",
                "McCoy & Griffiths 2025, results on 56 languages",
                "difference of top-25 F-scores, mean over languages, paired by seed",
                above=0.0,
            )
            difference = by_seed(results, "meta-trained", n, "f_score") - by_seed(results, other, n, "f_score")
            found.append(judge(claim, difference))
    return found


def summary(config: Config, results: Results) -> str:
    """A table for the terminal: mean top-25 F-score by learner and N, with the published value in brackets."""
    sizes = config.evaluation.strings
    lines = ["top-25 F-score (published, 1024 units)" + "".join(f"{f'N = {n:,}':>18}" for n in sizes)]
    for learner in (*LEARNERS, MEMORISATION):
        cells = []
        for n in sizes:
            published = PUBLISHED[learner].get(n)
            beside = f" ({published[0]:.3f})" if published else ""
            cells.append(f"{by_seed(results, learner, n, 'f_score').mean():.3f}{beside}")
        lines.append(f"  {learner:<36}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def write_table(paths: RunPaths, config: Config, results: Results) -> None:
    """Writes `per_language.csv` into the run directory."""
    write_atomic(paths.root / "per_language.csv", table(config, results))
