"""Two kinds of networks compared: a verdict on a claim, and a sentence that says it in words and numbers.

What is compared are tables of differences, [seeds, targets], paired by seed and target and NaN where one of the two
was meta-trained on the target. Claims are judged by the F1 where something is forbidden (all other positions are easy)
and after few strings (after many, all networks are good), both chosen before looking.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.formal_languages.lab.records import Metric, Scores
from metalearn.run import Claim, Verdict, judge
from metalearn.run.equivalence import equivalence

METRIC: Metric = "constrained"
FEW = 10  # strings, where the fact sheet's pilot found the contrast
MARGIN = 0.05  # of equivalence: about what two adaptation sets of the same language differed by in that pilot

ABSTRACT = "Goodale et al. 2025, abstract"
REPORTED = "Goodale et al. 2025, as others report it"
OURS = "ours"


class Comparison(NamedTuple):
    """What a comparison found; `sentence` ends with its numbers in brackets and a full stop."""

    verdict: Verdict
    sentence: str


def few(scores: Scores) -> int:
    """N at which claims are judged: FEW, or the next measured number of strings."""
    return min(scores.strings, key=lambda n: abs(math.log(n / FEW)))


def at_few(scores: Scores, source: str, **condition: Any) -> np.ndarray:
    """The table by which claims are judged, of `source`; condition as of `Scores.has`. All NaN if it is not there."""
    if not scores.has(source, **condition):
        return np.full((len(scores.seeds), len(scores.targets)), np.nan)
    return scores.table(source, strings=few(scores), metric=METRIC, **condition)


def mean_of(tables: Iterable[np.ndarray]) -> np.ndarray:
    """Mean over tables, cell by cell, of those that have this cell."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.nanmean(np.stack(list(tables)), axis=0)


def only(table: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """The table with all other columns left out."""
    kept = np.full_like(table, np.nan)
    kept[:, columns] = table[:, columns]
    return kept


def more(
    one: str, other: str, difference: np.ndarray, statement: str, source: str, *, above: float = 0.0, what: str = ""
) -> list[Comparison]:
    """Whether `one` scores more than `other`, or at most -above less; nothing where there is nothing to compare.

    Args:
        one, other: in words, to be the subject and the end of a sentence.
        difference: one minus other, [seeds, targets].
        statement, source, above: of the claim.
        what: the statistic; by default the difference of F1.
    """
    claim = Claim(statement, source, _statistic(what, difference, "95 %"), above=above)
    if np.isnan(difference).all():
        return []
    values = samples(difference)
    verdict = judge(claim, values, method="t" if values.ndim == 1 else "crossed")
    less = f"{-above:g} or more below" if above else "below"
    words = {
        True: f"{one} score {'at most ' + format(-above, 'g') + ' below' if above else 'above'} {other}",
        False: f"{one} score {less} {other}",
        None: f"whether {one} score {'as high as' if above else 'above'} {other} cannot be told",
    }[verdict.holds]
    return [Comparison(verdict, f"{_capital(words)} ({numbers(verdict)}).")]


def same(
    one: str, other: str, difference: np.ndarray, statement: str, source: str, *, what: str = ""
) -> list[Comparison]:
    """Whether `one` and `other` score the same within MARGIN, by two one-sided tests at 5 %; arguments as of `more`."""
    if np.isnan(difference).all():
        return []
    found = equivalence(samples(difference), MARGIN)
    verdict = found.verdict(statement, source, _statistic(what, difference, "90 % (two one-sided tests at 5 %)"))
    words = {
        "equivalent": f"{one} and {other} score the same within {MARGIN:g}",
        "different": f"{one} and {other} differ by more than {MARGIN:g}",
        "inconclusive": f"whether {one} and {other} score the same within {MARGIN:g} cannot be told",
    }[found.word]
    return [Comparison(verdict, f"{_capital(words)} ({numbers(verdict)}, p = {found.p:.2g}).")]


def samples(table: np.ndarray) -> np.ndarray:
    """The table; of one target only its seeds, [seeds]: it is then about this target, not about others like it."""
    columns = ~np.isnan(table).all(0)
    return table[:, columns][:, 0] if columns.sum() == 1 else table


def extent(table: np.ndarray) -> str:
    """ "3 seeds x 8 targets", of the cells that are there."""
    there = ~np.isnan(table)
    seeds, targets = int(there.any(1).sum()), int(there.any(0).sum())
    return f"{seeds} seed{'s' * (seeds != 1)} x {targets} target{'s' * (targets != 1)}"


def numbers(verdict: Verdict) -> str:
    """Estimate, interval and n of a verdict, to stand in brackets."""
    if math.isinf(verdict.low):
        return f"{verdict.estimate:+.3f}; one seed or target gives no interval"
    interval = f"{100 * verdict.confidence:.0f} % interval {verdict.low:+.3f} to {verdict.high:+.3f}"
    return f"{verdict.estimate:+.3f}, {interval}, n = {verdict.n}"


def _statistic(what: str, difference: np.ndarray, interval: str) -> str:
    return f"{what or 'difference of F1'}, {extent(difference)}; {interval} interval"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
