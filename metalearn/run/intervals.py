"""Confidence intervals of a mean, shared by figures and claims."""

import math
import warnings
from collections.abc import Callable

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
