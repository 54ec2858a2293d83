"""A section of the results page, and its table of scores."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.formal_languages.lab.contrasts import METRIC, Comparison, extent, few
from experiments.formal_languages.lab.drawings import estimate
from experiments.formal_languages.lab.records import METRICS, Scores
from metalearn.run import Verdict


class Drawing(NamedTuple):
    """A figure: `draw` writes it to a path; the caption says what one sees."""

    caption: str
    draw: Callable[[pathlib.Path], None]


class Section(NamedTuple):
    """What one experiment found.

    name: of the experiment.
    title: its question.
    paragraph: what was found, in words and numbers.
    drawings: by name of the figure.
    verdicts: on claims.
    tables: caption -> Markdown.
    """

    name: str
    title: str
    paragraph: str
    drawings: Mapping[str, Drawing]
    verdicts: Sequence[Verdict]
    tables: Mapping[str, str]


def section(
    name: str,
    title: str,
    opening: str,
    compared: Sequence[Comparison],
    drawings: Mapping[str, Drawing],
    tables: Mapping[str, str],
) -> Section:
    """A section whose paragraph is an opening and the sentences of its comparisons."""
    words = " ".join([opening, *(comparison.sentence for comparison in compared)])
    return Section(name, title, words, drawings, [comparison.verdict for comparison in compared], tables)


def score_table(scores: Scores, conditions: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Caption and rows of the means of all three scores at every N.

    Args:
        conditions: label -> arguments of `Scores.table`.
    """
    at = few(scores)
    numbers = [f"N = {n:,}" for n in scores.strings]
    rows = []
    for label, condition in conditions.items():
        for metric, where in METRICS.items():
            tables = {n: scores.table(strings=n, metric=metric, **condition) for n in scores.strings}
            mean, below, above = estimate(tables[at])
            interval = "-" if np.isnan(below) else f"{mean - below:.3f} to {mean + above:.3f}"
            cells = [f"{np.nanmean(table):.3f}" for table in tables.values()]
            rows.append([label if metric == "continuation" else "", where, *cells, interval])
    seeds = len(scores.seeds)
    about = f"{seeds} seed{'s' * (seeds != 1)} x {len(scores.targets)} targets"
    caption = f"Continuation F1, mean over {about}, the language meta-trained on left out."
    return {caption: markdown(["", "F1", *numbers, f"95 % interval at N = {at}"], rows)}


def judged_by(scores: Scores) -> str:
    """By what claims are judged, for titles and openings."""
    return f"F1 {METRICS[METRIC]}, N = {few(scores)}"


def size(scores: Scores) -> str:
    """ "3 seeds x 9 targets"."""
    return extent(np.zeros((len(scores.seeds), len(scores.targets))))


def named(source: str) -> str:
    """A source in words."""
    return "no meta-training" if source == "none" else source.replace(":", ", ")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))
