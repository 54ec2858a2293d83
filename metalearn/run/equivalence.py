"""Is there no difference? Two one-sided tests, for which a non-significant difference is no answer.

    found = equivalence(f1_simple - f1_complex, margin=0.05)       # [seeds] or [seeds, items]
    found.word                                                     # "equivalent", "different" or "inconclusive"

Two things are called equivalent when a difference of -margin or less and one of +margin or more are both rejected at
level alpha (Schuirmann 1987), that is, when the (1 - 2 alpha) interval of the difference lies within the margin. They
are called different when that interval lies outside: they differ, and by more than the margin.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from metalearn.run.claims import Claim, Verdict
from metalearn.run.intervals import crossed_mean


@dataclasses.dataclass(frozen=True)
class Equivalence:
    """What two one-sided tests say about a mean difference.

    Attributes:
      margin: differences smaller than this are none that matter, in the unit of the samples.
      alpha: level of each test.
      estimate, low, high: the difference and its (1 - 2 alpha) interval.
      p: of equivalence, the larger of both tests' p-values; equivalent if below alpha.
      p_difference: of the two-sided test that the difference is zero, whatever the margin.
      n: number of samples.
    """

    margin: float
    alpha: float
    estimate: float
    low: float
    high: float
    p: float
    p_difference: float
    n: int

    @property
    def word(self) -> str:
        """The verdict in one word."""
        if -self.margin < self.low and self.high < self.margin:
            return "equivalent"
        return "different" if self.low >= self.margin or self.high <= -self.margin else "inconclusive"

    def verdict(self, statement: str, source: str, statistic: str) -> Verdict:
        """The same as a verdict on the claim that there is no difference of `margin` or more."""
        claim = Claim(statement, source, statistic, above=-self.margin, below=self.margin)
        holds = {"equivalent": True, "different": False, "inconclusive": None}[self.word]
        return Verdict(claim, holds, self.estimate, self.low, self.high, self.n, 1 - 2 * self.alpha)


def equivalence(samples: ArrayLike, margin: float, *, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t-tests that a mean difference is smaller than the margin.

    Args:
      samples: differences of pairs; [n] independent ones, or a table [rows, columns] of crossed samples (seeds and
        items, NaN where a cell is left out) as `crossed_mean` takes it.
      margin: what is too small to matter, > 0. Chosen before looking.
      alpha: level of each test, in (0, 0.5).

    Raises:
      ValueError: the margin or alpha is out of range, or samples are empty, not finite or of another shape.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}: without one nothing is equivalent.")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, got {alpha}.")
    samples = np.asarray(samples, dtype=np.float64)
    if samples.ndim == 1 and samples.size and np.all(np.isfinite(samples)):
        n = samples.size
        estimate, freedom = float(samples.mean()), float(n - 1)
        error = float(samples.std(ddof=1) / np.sqrt(n)) if n > 1 else math.inf
    elif samples.ndim == 2:
        n = int(np.sum(~np.isnan(samples)))
        estimate, error, freedom = crossed_mean(samples)
    else:
        raise ValueError(f"samples must be finite and [n], or a table [rows, columns]; got {samples!r}.")
    if math.isinf(error):  # one sample says nothing
        return Equivalence(margin, alpha, estimate, -math.inf, math.inf, 1.0, 1.0, n)
    half = float(special.stdtrit(freedom, 1 - alpha)) * error

    def tail(distance: float) -> float:  # of Student's distribution, beyond a distance in the unit of the samples
        return float(special.stdtr(freedom, -distance / error)) if error else float(distance <= 0)

    p = max(tail(estimate + margin), tail(margin - estimate))
    p_difference = min(1.0, 2 * tail(abs(estimate)))
    return Equivalence(margin, alpha, estimate, estimate - half, estimate + half, p, p_difference, n)
