"""What the experiment says: gains by start, by procedure and by both, verdicts on claims, tables and one figure.

With F(start, procedure) the F1 of a condition, of one network and one target:

    benefit        F(learned, p) - F(random, plain)
    by_start       F(learned, plain) - F(random, plain)
    by_procedure   F(random, p) - F(random, plain)
    interaction    benefit - by_start - by_procedure

All are means of differences over sources, paired by seed and target; the language of meta-training is left out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.formal_languages.lab.contrasts import FEW, MARGIN, METRIC, OURS, extent, mean_of, samples
from experiments.formal_languages.lab.drawings import INTERVAL, bars, estimate, finish
from experiments.formal_languages.lab.records import METRICS, Metric
from experiments.learned_procedures.config import BASELINE, Condition, Config
from experiments.learned_procedures.cost import meta_parameters
from metalearn.run import PALETTE, Claim, RunPaths, Verdict, figure, judge
from metalearn.run.files import csv_text, write_atomic

Scores = Mapping[Condition, np.ndarray]
"""Condition -> [strings, metrics, sources, seeds, targets]; of the baseline, one "source" that stands for all."""
Weights = Mapping[Condition, float]
"""What each condition counts in a sum of F1."""

PARTS = ("by_start", "by_procedure", "interaction", "benefit")
WORDS = {
    "rate": "rate",
    "loss": "loss",
    "preconditioner": "preconditioner",
    "both": "loss and preconditioner",
    "all": "loss, preconditioner and modulation",
}
"""Procedures in words, after "a learned"."""


class Report(NamedTuple):
    """What is said.

    shown: tables for a terminal, each rows and their columns with formats.
    result: what else goes to result.json.
    """

    verdicts: list[Verdict]
    shown: Sequence[tuple[list[dict[str, Any]], Mapping[str, str]]]
    result: dict[str, Any]


class Order(NamedTuple):
    """A claim: the sum of weight times F1 lies between `above` and `below`."""

    statement: str
    weights: Weights
    above: float = 0.0
    below: float = math.inf


def contrast(
    config: Config, scores: Scores, weights: Weights, strings: int, metric: Metric = METRIC, source: str | None = None
) -> np.ndarray:
    """Sum over conditions of weight times F1, [seeds, targets]: of one source, or the mean over sources.

    NaN where the network was meta-trained on the target.
    """
    at, which = config.targets.strings.index(strings), list(METRICS).index(metric)
    shape = (len(config.sources), config.seeds, len(config.targets.languages))
    table = np.zeros(shape)
    for condition, weight in weights.items():
        table += weight * np.broadcast_to(scores[condition][at, which], shape)
    for place, name in enumerate(config.sources):
        table[place, :, [target == name for target in config.targets.languages]] = np.nan
    return mean_of(table) if source is None else table[config.sources.index(source)]


def parts_of(procedure: str) -> dict[str, dict[Condition, float]]:
    """The benefit of a procedure and its parts, by name of PARTS, as weights of conditions."""
    whole, start = Condition("learned", procedure), Condition("learned", "plain")
    alone = Condition("random", procedure)
    return {
        "by_start": {start: 1.0, BASELINE: -1.0},
        "by_procedure": {alone: 1.0, BASELINE: -1.0},
        "interaction": {whole: 1.0, start: -1.0, alone: -1.0, BASELINE: 1.0},
        "benefit": {whole: 1.0, BASELINE: -1.0},
    }


def orders(procedures: Sequence[str]) -> Iterator[Order]:
    """The claims, for these procedures; the last of them is the whole procedure."""
    start, rate, full = Condition("learned", "plain"), Condition("random", "rate"), procedures[-1]
    parts, name = parts_of(full), WORDS.get(full, full)
    yield Order("A learned start helps plain descent", parts["by_start"])
    yield Order("From random weights a learned rate is as good as the chosen one", {rate: 1, BASELINE: -1},
                -MARGIN, MARGIN)  # fmt: skip
    learned = [p for p in procedures if p not in ("plain", "rate")]
    for p in learned:
        words = f"a learned {WORDS[p]} does more than a learned rate"
        yield Order(f"From random weights {words}", {Condition("random", p): 1, rate: -1})
    for p in learned:
        words = f"a learned {WORDS[p]} does more than a learned rate"
        yield Order(f"From a learned start {words}", {Condition("learned", p): 1, Condition("learned", "rate"): -1})
    yield Order(f"A learned start brings more than a learned {name} from random weights",
                {start: 1, Condition("random", full): -1})  # fmt: skip
    for part, words in (("by_start", "A learned start"), ("by_procedure", f"A learned {name}")):
        yield Order(f"{words} alone brings at least half of what both bring", _sum(parts[part], parts["benefit"], -0.5))
    yield Order(f"A learned start and a learned {name} together bring less than the sum of each alone",
                parts["interaction"], -math.inf, 0.0)  # fmt: skip


def _sum(one: Weights, other: Weights, times: float) -> dict[Condition, float]:
    """One and `times` the other."""
    return {c: one.get(c, 0.0) + times * other.get(c, 0.0) for c in {**one, **other}}


def verdicts(config: Config, scores: Scores) -> list[Verdict]:
    """On the claims, by the scores after few strings."""
    judged, strings = [], few(config)
    for order in orders(config.procedures):
        table = contrast(config, scores, order.weights, strings)
        statistic = f"difference of F1 {METRICS[METRIC]}, N = {strings}, {extent(table)}, mean over sources"
        values = samples(table)
        claim = Claim(order.statement, OURS, statistic, order.above, order.below)
        judged.append(judge(claim, values, method="t" if values.ndim == 1 else "crossed"))
    return judged


def few(config: Config) -> int:
    """N at which claims are judged: FEW of the laboratory, or the nearest measured one."""
    return min(config.targets.strings, key=lambda n: abs(math.log(n / FEW)))


def condition_rows(config: Config, scores: Scores) -> list[dict[str, Any]]:
    """Of each condition, N and source, and of all sources, the F1; intervals are of the first score."""
    rows = []
    for condition in config.conditions:
        for strings in config.targets.strings:
            for source in (None, *config.sources):
                of = lambda metric, c=condition, n=strings, s=source: contrast(config, scores, {c: 1.0}, n, metric, s)
                mean, below, above = estimate(of(METRIC))
                rows.append(
                    {"start": condition.start, "procedure": condition.procedure, "strings": strings}
                    | {"source": source or "all", METRIC: mean, "low": mean - below, "high": mean + above}
                    | {name: float(np.nanmean(of(name))) for name in METRICS if name != METRIC}
                    | {"meta_parameters": meta_parameters(config, condition), "cells": extent(of(METRIC))}
                )
    return rows


def decomposition_rows(config: Config, scores: Scores) -> list[dict[str, Any]]:
    """Of each procedure and N the benefit, its parts with their intervals, and their shares of it."""
    rows = []
    for procedure in config.procedures[1:]:
        for strings in config.targets.strings:
            found = {
                part: estimate(contrast(config, scores, weights, strings))
                for part, weights in parts_of(procedure).items()
            }
            row: dict[str, Any] = {"procedure": procedure, "strings": strings}
            for part, (mean, below, above) in found.items():
                row |= {part: mean, f"{part}_low": mean - below, f"{part}_high": mean + above}
            row |= {f"{part}_share": found[part][0] / found["benefit"][0] for part in PARTS[:-1]}
            rows.append(row)
    return rows


def report(config: Config, rates: Mapping[str, float], scores: Scores, paths: RunPaths) -> Report:
    """Writes tables and figure, and returns what there is to say."""
    conditions, parts = condition_rows(config, scores), decomposition_rows(config, scores)
    write_atomic(paths.root / "table.csv", csv_text(conditions))
    write_atomic(paths.root / "decomposition.csv", csv_text(parts))
    _draw(config, rates, scores, paths)
    shown = [row for row in conditions if row["source"] == "all"]
    numbers = dict.fromkeys((METRIC, "low", "high", *(m for m in METRICS if m != METRIC)), "{:.3f}")
    columns = {"start": "", "procedure": "", "strings": ""} | numbers | {"meta_parameters": "{:,}"}
    signed = {part: "{:+.3f}" for part in PARTS} | {f"{part}_share": "{:.0%}" for part in PARTS[:-1]}
    return Report(
        verdicts(config, scores),
        [(shown, columns), (parts, {"procedure": "", "strings": ""} | signed)],
        {"conditions": conditions, "decomposition": parts},
    )


_STARTS = {"random": "start drawn anew", "learned": "learned start"}
_PARTS = {
    "by_start": "by the start alone",
    "by_procedure": "by the procedure alone",
    "interaction": "interaction",
    "benefit": "by both together",
}

_TICKS = {"both": "loss and\npreconditioner", "all": "both and\nmodulation"}


def _draw(config: Config, rates: Mapping[str, float], scores: Scores, paths: RunPaths) -> None:
    """F1 of all conditions, and below it the benefit taken apart."""
    strings = few(config)
    of = lambda weights: contrast(config, scores, weights, strings)
    colours = [PALETTE[name] for name in ("sky", "blue", "orange", "vermillion", "purple", "green")]
    with figure(paths.figure("learned_procedures"), rows=2, size=(9.0, 3.6)) as ((above,), (below,)):
        names = [_TICKS.get(procedure, procedure) for procedure in config.procedures]
        series = {
            words: {name: of({Condition(start, p): 1.0}) for name, p in zip(names, config.procedures, strict=True)}
            for start, words in _STARTS.items()
        }
        bars(above, names, series, colours[:2])
        above.set(ylabel="continuation F1", ylim=(0, 1), title="F1, by what is learned of the procedure")
        above.legend(loc="upper left", ncols=2)
        gains = {
            words: {name: of(parts_of(p)[part]) for name, p in zip(names[1:], config.procedures[1:], strict=True)}
            for part, words in _PARTS.items()
        }
        bars(below, names[1:], gains, colours[2:])
        below.set(
            ylabel="gain of F1",
            title="What F1 gains over plain descent from random weights, and by which part of what is learned",
        )
        sources = " or ".join(config.sources)
        whose = extent(of({BASELINE: 1.0}))
        finish(
            below,
            f"Start or procedure? F1 {METRICS[METRIC]} after {config.test_updates} updates on N = {strings} strings, "
            f"{whose}, learned on {sources}",
            f"{INTERVAL}; dots: seeds. Inner rates, each the best for plain descent: {rates['random']:g} from weights "
            f"drawn anew, {rates['learned']:g} from a learned start.",
        )
