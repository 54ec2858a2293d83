"""Confidence intervals of a mean, shared by figures and claims."""

import math
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special


def t_interval(samples: ArrayLike, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval of the mean over the leading axis.

    Args:
      samples: [n, ...], independent runs first.
      confidence: probability in (0, 1) with which the interval covers the mean of normal samples.

    Returns:
      (low, high), each [...]; infinitely wide for n < 2, when nothing is known about the spread.
    """
    samples = np.asarray(samples, dtype=np.float64)
    n, mean = samples.shape[0], samples.mean(axis=0)
    if n < 2:
        return np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    half = special.stdtrit(n - 1, 0.5 + confidence / 2) * samples.std(axis=0, ddof=1) / np.sqrt(n)
    return mean - half, mean + half


def bootstrap_interval(
    samples: ArrayLike,
    statistic: Callable[..., ArrayLike],
    confidence: float = 0.95,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """Bias-corrected bootstrap interval (Efron, 1987) of `statistic(samples, axis)` over samples [n], n >= 2.

    Falls back on percentiles where the acceleration of the statistic is not defined (a median, say, of few samples).
    """
    from scipy import stats  # imported here because it takes longer to load than all the rest of this package

    samples = np.asarray(samples, dtype=np.float64)
    if np.all(samples == samples[0]):  # no spread to resample
        value = float(np.asarray(statistic(samples, axis=0)))
        return value, value
    interval = (math.nan, math.nan)
    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (samples,),
                statistic,
                n_resamples=resamples,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        interval = (float(result.low), float(result.high))
        if np.all(np.isfinite(interval)):
            break
    return interval


class CrossedMean(NamedTuple):
    """Mean of a table whose rows and columns are both samples: seeds and items, say.

    estimate: the mean.
    error: its standard error.
    freedom: degrees of freedom of that error (Satterthwaite 1946), for Student's distribution.
    """

    estimate: float
    error: float
    freedom: float


def crossed_mean(table: ArrayLike) -> CrossedMean:
    """Mean of a table [rows, columns] and its error, rows and columns being crossed random effects.

    With S rows and I columns, x_si = mean + row_s + column_i + rest_si, and the mean squares of rows, columns and rest
    estimate the variance of the mean: (MS_rows + MS_columns - MS_rest) / (S I). With holes, rows and columns count by
    their number of cells, and this is an approximation.

    Args:
        table: NaN marks a hole, a cell that is left out. A row or column of holes is none.

    Raises:
        ValueError: not a table, nothing in it, or an infinite value.
    """
    cells = _without_holes(table)
    there = ~np.isnan(cells)
    rows, columns, n = *cells.shape, int(there.sum())
    estimate = float(cells[there].mean())
    if rows < 2 or columns < 2:
        return CrossedMean(estimate, math.inf, 0.0)
    by_row, by_column = np.nanmean(cells, axis=1), np.nanmean(cells, axis=0)
    rest = cells - by_row[:, None] - by_column + estimate
    freedom = np.array([rows - 1, columns - 1, max(n - rows - columns + 1, 1)])
    squares = np.array(
        [
            there.sum(1) @ (by_row - estimate) ** 2,
            there.sum(0) @ (by_column - estimate) ** 2,
            np.nansum(rest**2),
        ]
    )
    mean_squares = squares / freedom
    # The difference of estimates can fall below what the rest alone explains; the true variance cannot.
    variance = max(mean_squares[0] + mean_squares[1] - mean_squares[2], mean_squares[2])
    if variance == 0:
        return CrossedMean(estimate, 0.0, float(min(rows, columns) - 1))
    satterthwaite = variance**2 / np.sum(mean_squares**2 / freedom)
    return CrossedMean(estimate, float(np.sqrt(variance / n)), float(max(satterthwaite, min(rows, columns) - 1)))


def crossed_interval(
    table: ArrayLike,
    confidence: float = 0.95,
    *,
    method: Literal["widened", "percentile", "BCa"] = "widened",
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the mean of a table [rows, columns]: rows and columns are drawn again, independently.

    Such a resample knows both that other seeds and that other items would have come out differently (Owen & Eckles
    2012). Three rows can only be drawn as far apart as they are, though: percentiles cover a mean of 3 x 9 cells 74 to
    91 % of the time instead of 95 %. "widened" therefore keeps the shape of the bootstrap's percentiles and scales
    their distance from the mean to that of Student's interval with the error of `crossed_mean`.

    Args:
        table: NaN marks a cell that is left out. Cells count alike.
        confidence: probability in (0, 1) with which the interval is to cover the mean.
        method: "widened"; "percentile" and "BCa" (Efron 1987) as they come, for some 20 rows and columns or more.
        resamples: how many.
        seed: of the resampling.

    Returns:
        (low, high); infinitely wide for fewer than two rows or columns, when nothing is known about one of the spreads.

    Raises:
        ValueError: as of `crossed_mean`, or an unknown method.
    """
    from scipy import stats  # imported here because it takes longer to load than all the rest of this package

    if method not in ("widened", "percentile", "BCa"):
        raise ValueError(f"method must be 'widened', 'percentile' or 'BCa', got {method!r}.")
    cells = _without_holes(table)
    rows, columns = cells.shape
    if rows < 2 or columns < 2:
        return -math.inf, math.inf
    estimate, error, freedom = crossed_mean(cells)
    there, values = ~np.isnan(cells), np.nan_to_num(cells)
    if error <= 4 * np.finfo(np.float64).eps * np.abs(values).max():  # constant up to rounding: nothing to scale
        return estimate, estimate

    def mean(row: np.ndarray, column: np.ndarray, axis: int) -> np.ndarray:  # of the cells where drawn indices cross
        of = row[..., :, None], column[..., None, :]
        total, count = values[of].sum((-2, -1)), there[of].sum((-2, -1))
        return np.where(count, total / np.maximum(count, 1), estimate)  # nothing but holes says nothing

    drawn = stats.bootstrap(
        (np.arange(rows), np.arange(columns)),
        mean,
        n_resamples=resamples,
        batch=max(1, 2**22 // cells.size),
        confidence_level=confidence,
        method="BCa" if method == "BCa" else "percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = map(float, drawn.confidence_interval)
    if method == "widened":
        spread = special.ndtri(0.5 + confidence / 2) * float(np.std(drawn.bootstrap_distribution))
        scale = special.stdtrit(freedom, 0.5 + confidence / 2) * error / spread
        low, high = estimate + scale * (low - estimate), estimate + scale * (high - estimate)
    return low, high


def _without_holes(table: ArrayLike) -> np.ndarray:
    """The table as float64, without rows and columns that are all NaN."""
    cells = np.asarray(table, dtype=np.float64)
    if cells.ndim != 2 or np.isnan(cells).all() or np.isinf(cells).any():
        raise ValueError(f"expected a table [rows, columns] of numbers, NaN for holes; got {cells!r}.")
    there = ~np.isnan(cells)
    return cells[there.any(1)][:, there.any(0)]
