"""A paper's claims as objects: what is said and where, the statistic that tests it, and a verdict with an interval.

    claim = Claim("MAML beats training from scratch", "table 2", "accuracy difference, paired by seed", above=0.0)
    verdict = judge(claim, accuracy_maml - accuracy_scratch)
    print(table([verdict]))

A claim holds when the whole confidence interval satisfies it, fails when none of the interval does, and is inconclusive
otherwise. A claim that fails is a finding and is reported as such.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from metalearn.run.directory import RunPaths
from metalearn.run.intervals import bootstrap_interval, crossed_interval, t_interval


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper that numbers can contradict.

    Attributes:
      statement: the claim in one sentence.
      source: section, figure or table of the paper.
      statistic: what is averaged over which independent samples, with its unit.
      above, below: the claim says that the statistic lies between these; give one for a comparison, both for a value.
    """

    statement: str
    source: str
    statistic: str
    above: float = -math.inf
    below: float = math.inf

    def __post_init__(self) -> None:
        """Refuses a claim that everything or nothing satisfies."""
        if not self.above < self.below:
            raise ValueError(f"claim {self.statement!r}: above={self.above} must be less than below={self.below}.")
        if math.isinf(self.above) and math.isinf(self.below):
            raise ValueError(f"claim {self.statement!r} cannot fail: set above, below or both.")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the samples say about a claim.

    Attributes:
      claim: the claim.
      holds: True, False, or None for inconclusive.
      estimate, low, high: the statistic and its confidence interval.
      n: number of samples; independent ones, or cells of a table of crossed ones.
      confidence: of the interval.
    """

    claim: Claim
    holds: bool | None
    estimate: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    @property
    def word(self) -> str:
        """The verdict in one word."""
        return "inconclusive" if self.holds is None else "holds" if self.holds else "fails"


def judge(
    claim: Claim,
    samples: ArrayLike,
    *,
    confidence: float = 0.95,
    method: Literal["t", "bootstrap", "crossed"] = "t",
    statistic: Callable[..., ArrayLike] = np.mean,
    seed: int = 0,
) -> Verdict:
    """Tests a claim on independent samples.

    Args:
      claim: the claim.
      samples: [n] values of the statistic, one per independent run, task or language; for a comparison the differences
        of pairs. With "crossed" a table, [seeds, items] say, NaN where a cell is left out.
      confidence: of the two-sided interval.
      method: "t" (Student's interval of the mean, right also for few samples), "bootstrap" (any statistic; too narrow
        below about 20 samples) or "crossed" (of the mean of a table, whose rows and columns are both drawn again).
      statistic: `statistic(samples, axis)`; only the mean, unless the method is "bootstrap".
      seed: of the resampling.

    Raises:
      ValueError: samples are empty, of another shape or not finite, or the arguments do not fit together.
    """
    samples = np.asarray(samples, dtype=np.float64)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    if method not in ("t", "bootstrap", "crossed"):
        raise ValueError(f"method must be 't', 'bootstrap' or 'crossed', got {method!r}.")
    if method != "bootstrap" and statistic is not np.mean:
        raise ValueError(f"method={method!r} is about the mean: give method='bootstrap' for another statistic.")
    if method == "crossed":
        low, high = crossed_interval(samples, confidence, seed=seed)
        n = int(np.sum(~np.isnan(samples)))
        return Verdict(claim, _holds(claim, low, high), float(np.nanmean(samples)), low, high, n, confidence)
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"samples must be a non-empty vector, got shape {samples.shape}.")
    if not np.all(np.isfinite(samples)):
        bad = np.sum(~np.isfinite(samples))
        raise ValueError(f"{bad} of {samples.size} samples are not finite: drop or explain them.")
    n, estimate = samples.size, float(np.asarray(statistic(samples, axis=0)))
    if n < 2:
        return Verdict(claim, None, estimate, -math.inf, math.inf, n, confidence)
    if method == "t":
        low, high = map(float, t_interval(samples, confidence))
    else:
        low, high = bootstrap_interval(samples, statistic, confidence, seed=seed)
    return Verdict(claim, _holds(claim, low, high), estimate, low, high, n, confidence)


def _holds(claim: Claim, low: float, high: float) -> bool | None:
    if claim.above < low and high < claim.below:
        return True
    return False if high <= claim.above or low >= claim.below else None


def table(verdicts: Iterable[Verdict]) -> str:
    """Verdicts as the rows of a Markdown table with a header."""
    lines = ["| claim | source | statistic | says | measured | n | verdict |", "|---|---|---|---|---|---|---|"]
    for verdict in verdicts:
        claim = verdict.claim
        sides = [(">", claim.above), ("<", claim.below)]
        bounds = [f"{sign} {bound:g}" for sign, bound in sides if math.isfinite(bound)]
        measured = f"{verdict.estimate:.4g} [{verdict.low:.4g}, {verdict.high:.4g}]"
        cells = [claim.statement, claim.source, claim.statistic, " and ".join(bounds), measured, str(verdict.n)]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} | {verdict.word} |")
    return "\n".join(lines) + "\n"


def from_result(value: Mapping[str, Any]) -> Verdict:
    """Rebuilds a verdict that was written into a result.json."""
    claim = dict(value["claim"])
    for bound in ("above", "below"):
        claim[bound] = float(claim[bound])
    numbers = {name: float(value[name]) for name in ("estimate", "low", "high", "confidence")}
    return Verdict(Claim(**claim), value["holds"], n=int(value["n"]), **numbers)


def collect(folders: Iterable[str | os.PathLike[str]], name: str) -> np.ndarray:
    """The number `name` (dotted: "accuracy.test") of the result.json in each run directory, [folders] float64.

    Raises RunDirectoryError for a folder without a readable result and KeyError for a result without that number.
    """
    numbers = []
    for folder in folders:
        value: Any = RunPaths(folder).load_result()
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise KeyError(f"{RunPaths(folder).result} has no {name!r} ({part!r} is missing).")
            value = value[part]
        numbers.append(float(value))
    return np.array(numbers)
