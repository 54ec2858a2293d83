"""Linear mixed-effects models, for scores that several things influence at once and whose samples share things.

    found = mixed_model("f1 ~ kind * log10_n", rows, random=("target", "seed"))
    found.effects["kind[T.counting]"].estimate

`rows` maps names to columns of equal length. A column of words is a factor, whose first word is what the others are
compared with. Each name in `random` adds a random intercept, a normal offset shared by the rows of one level; these are
crossed. What is compared must be the mean of something random: to say something of counting languages, and not of the
three that were tried, the language belongs into `random` too.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special


@dataclasses.dataclass(frozen=True)
class Effect:
    """A fixed effect: its estimate, Wald interval and the two-sided p-value of zero."""

    estimate: float
    low: float
    high: float
    p: float


@dataclasses.dataclass(frozen=True)
class MixedModel:
    """A fitted model.

    Attributes:
      formula: what was fitted.
      random: names of the random intercepts.
      effects: fixed effects by name ("kind[T.counting]:log10_n" is how much more of a slope "counting" has).
      deviations: standard deviation of each random intercept, and of what remains ("rest").
      n: rows.
      confidence: of the intervals. They take the normal distribution for granted, so they are too narrow where an
        effect varies over few levels only.
      converged: whether these numbers can be used; if not, `effects` and `deviations` may be empty.
      message: what went wrong, and what to do; or what is worth knowing. Empty when all is well.
    """

    formula: str
    random: Sequence[str]
    effects: Mapping[str, Effect]
    deviations: Mapping[str, float]
    n: int
    confidence: float
    converged: bool
    message: str


def mixed_model(
    formula: str, rows: Mapping[str, ArrayLike], random: Sequence[str], *, confidence: float = 0.95
) -> MixedModel:
    """Fits a formula with crossed random intercepts by restricted maximum likelihood (statsmodels).

    Args:
      formula: "score ~ factor * number", over names of columns.
      rows: columns, each [n].
      random: names of the columns whose levels have an intercept of their own; at least two levels each.
      confidence: of the intervals.

    Raises:
      ValueError: columns of different lengths, values that are not finite, or a random intercept of an unknown or
        constant column. A fit that does not converge raises nothing, see `MixedModel.converged`.
    """
    import pandas as pd  # imported here, like statsmodels, because they take seconds to load
    import statsmodels.formula.api as formulas

    columns = {name: np.asarray(column) for name, column in rows.items()}
    lengths = {name: column.shape for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns must be vectors of one length, got {lengths}.")
    numbers = [name for name, column in columns.items() if column.dtype.kind in "fiub"]
    if bad := [name for name in numbers if not np.all(np.isfinite(columns[name]))]:
        raise ValueError(f"columns {bad} hold values that are not finite: drop their rows or explain them.")
    for name in random:
        if name not in columns or len(set(columns[name].tolist())) < 2:
            raise ValueError(f"a random intercept of {name!r} needs a column with at least two levels.")
    frame = pd.DataFrame(
        {
            name: column if name in numbers else pd.Categorical(column, list(dict.fromkeys(column.tolist())))
            for name, column in columns.items()
        }
    )
    failed = lambda why: MixedModel(
        formula,
        tuple(random),
        {},
        {},
        len(frame),
        confidence,
        False,
        f"{formula} with random intercepts of {', '.join(random)} did not converge ({why}): leave out a random "
        "intercept or a term, or measure more levels.",
    )
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            fit = formulas.mixedlm(
                formula,
                frame,
                groups=np.ones(len(frame)),  # one group of all, as the intercepts are crossed and not nested
                re_formula="0",
                vc_formula={name: f"0 + C({name})" for name in random},
            ).fit(reml=True, method="powell")  # methods that follow gradients get lost where a variance is zero
        except np.linalg.LinAlgError as error:
            return failed(str(error))
        if not fit.converged:
            return failed("; ".join(str(warning.message) for warning in raised) or "the optimiser gave up")
        variances = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
        errors = fit.bse_fe
    z = float(special.ndtri(0.5 + confidence / 2))
    effects = {
        name: Effect(
            float(estimate),
            float(estimate - z * errors[name]),
            float(estimate + z * errors[name]),
            float(2 * special.ndtr(-abs(estimate) / errors[name])),
        )
        for name, estimate in fit.fe_params.items()
    }
    if not all(np.isfinite(dataclasses.astuple(effect)).all() for effect in effects.values()):
        return failed("standard errors are not finite")
    deviations = {name: float(np.sqrt(max(variances[name], 0.0))) for name in random}
    flat = [name for name in random if deviations[name] < 1e-3 * np.sqrt(fit.scale)]
    message = f"No variance between levels of {', '.join(flat)} was found." if flat else ""
    return MixedModel(
        formula,
        tuple(random),
        effects,
        deviations | {"rest": float(np.sqrt(fit.scale))},
        len(frame),
        confidence,
        True,
        message,
    )
