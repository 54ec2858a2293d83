"""Learning-rate control: how fast to learn when haste costs.

Speed only warps time: W(t) is the baseline's W at s(t), the integral of 1 + rho. So Pontryagin's principle gives the
best speed in closed form, from the loss alone. For rho inside its bounds, with kappa = -ln gamma and an integral from
t to T,

    o = 0:   rho^2 + 2 rho  = (L(t) - L(T)) / beta - 2 kappa int rho (1 + rho)
    o = -1:  (1 + rho)^2    = (L(t) - L(T)) / beta - 2 kappa int (1 + rho)^2

| symbol   | name             | meaning                                   |
|----------|------------------|-------------------------------------------|
| rho      | measure `rho`    | learning goes 1 + rho times as fast       |
| o        | `offset`         | the rho that costs nothing                |
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.learning_effort import panels, published
from experiments.learning_effort.gains import WORTH, at, stored_digits
from experiments.learning_effort.published import Curve
from experiments.learning_effort.settings import CONVERGED, DigitSettings, Settings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, close, study_of
from metalearn.effort import controls, datasets, networks
from metalearn.effort.datasets import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates(Settings):
    """The learning rate of a network of two layers."""

    hidden: int
    """H: hidden units."""
    offset: float = 0.0
    """o: 0, leaving the base rate costs; -1, learning at all costs."""
    begin: float = 0.0
    """rho where the search starts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeRates(Rates):
    """On the semantic tree."""

    levels: int = 4
    """Levels of the tree."""
    values: int = 10
    """Values of beta or gamma, in a sweep."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitRates(Rates, DigitSettings):
    """On ten handwritten digits."""


def _study(settings: Rates, dataset: Dataset) -> Study:
    widths = len(dataset.moments.x), settings.hidden, len(dataset.outputs)
    control = controls.learning_rate(settings.beta, settings.offset)
    study = study_of(
        settings, networks.linear(widths, settings.scale), control, dataset, lambda weights, rho: {"rho": rho}
    )
    return study._replace(start=lambda weights, key: jnp.full(settings.steps, settings.begin))


def on_tree(settings: TreeRates) -> Study:
    """Items of a tree of concepts."""
    return _study(settings, datasets.semantic(settings.levels))


def on_digits(settings: DigitRates) -> Study:
    """Ten digits."""
    return _study(settings, stored_digits(tuple(range(10)), settings.data))


def betas(settings: TreeRates) -> dict[str, np.ndarray]:
    """Costs of the sweep."""
    return {"beta": np.linspace(1e-3, 2, settings.values)}


def gammas(settings: TreeRates) -> dict[str, np.ndarray]:
    """Discounts of the sweep."""
    return {"gamma": np.linspace(0.6, 1, settings.values)}


def _rho(outcome: Outcome) -> np.ndarray:
    return outcome.control.measures["rho"]


def _rate(outcome: Outcome) -> np.ndarray:
    """alpha (1 + rho), [lanes, T]."""
    return outcome.settings.dt * (1 + _rho(outcome))


def closed_form(outcome: Outcome) -> np.ndarray:
    """The best rho by the module's formula from the loss (and, for gamma < 1, rho later on), [lanes, T]."""
    settings, rho = outcome.settings, _rho(outcome)
    parameter = lambda name: np.asarray(outcome.points.get(name, getattr(settings, name)), float).reshape(-1, 1)
    beta, kappa = parameter("beta"), -np.log(parameter("gamma"))
    paid = (1 + rho) * (rho - settings.offset)
    later = (np.cumsum(paid[:, ::-1], 1)[:, ::-1] - paid) * settings.dt
    saved = (outcome.control.loss - outcome.control.loss[:, -1:]) / beta - 2 * kappa * later
    speed = np.sqrt(np.maximum(saved + (1 + settings.offset), 0))
    return np.clip(speed - 1, -1, 1)


def point(outcome: Outcome, value: float) -> Outcome:
    """The lanes whose swept value is nearest to `value`."""
    (swept,) = outcome.points.values()
    return outcome.lanes(np.isclose(swept, swept[np.abs(swept - value).argmin()]))


def _from_closed_form(outcome: Outcome) -> np.ndarray:
    """Largest distance of 1 + rho from the closed form, relative, bounds and the last tenth left out, [lanes]."""
    rho, expected = _rho(outcome), closed_form(outcome)
    inside = (np.maximum(np.abs(rho), np.abs(expected)) < 0.999) & (outcome.n < 0.9 * len(outcome.n))
    return np.where(inside, np.abs(rho - expected) / (1 + expected), 0).max(1)


def _from_published(value: float, curve: Curve) -> Callable[[Outcome], np.ndarray]:
    """Largest distance of alpha (1 + rho) from a published curve, relative to alpha, [lanes]."""

    def measure(outcome):
        rate = _rate(point(outcome, value))[:, list(curve)]
        return np.abs(rate - list(curve.values())).max(1) / outcome.settings.dt

    return measure


def _follows(field: str, curves: dict[float, Curve], offset: str) -> tuple[Tested, ...]:
    return tuple(
        Tested(f"The rate at {field} = {value:g}, {offset}, is the published one",
               "largest difference over alpha", _from_published(value, curve), below=0.15, steps=18000)
        for value, curve in curves.items()
    )  # fmt: skip


PONTRYAGIN = "Pontryagin's principle"
LAW = Tested("The best rate is that of the closed form", "largest relative difference of 1 + rho",
             _from_closed_form, below=0.05, steps=3000, source=PONTRYAGIN)  # fmt: skip


def _law(statement: str, values: Callable[[np.ndarray], np.ndarray], below: float) -> Tested:
    """LAW for some points of a sweep: largest over them, for each of the initial weights."""

    def measure(outcome):
        (swept,) = outcome.points.values()
        chosen = values(swept)
        return _from_closed_form(outcome.lanes(chosen)).reshape(-1, outcome.settings.seeds).max(0)

    return LAW._replace(statement=statement, measure=measure, below=below)


_largest_rise = lambda outcome: np.diff(_rho(outcome)[:, ::100]).max(1)
BETA_CLAIMS = (
    *_follows("beta", published.RATE_BETAS, "o = 0"),
    _law("For beta near 1 and 2 the best rate is that of the closed form", lambda beta: beta > 0.8, 0.02),
    Tested("The cheaper, the faster", "1 + rho at n = 0: least drop from one beta to the next",
           lambda o: -np.diff(_rho(o)[:, 0].reshape(-1, o.settings.seeds), axis=0).max(0), above=-1e-3, steps=18000),
    Tested("With little cost the rate stays at its bound to n = 7000", "rho at n = 7000, beta = 0.001",
           lambda o: _rho(point(o, 0.001))[:, 7000], above=0.98, steps=18000),
)  # fmt: skip
GAMMA_CLAIMS = (
    *_follows("gamma", published.RATE_GAMMAS, "o = 0"),
    _law("At every discount the best rate is that of the closed form", lambda gamma: gamma > 0, 0.05),
    Tested("Without discount the rate only ever falls", "largest rise of rho over 100 steps, gamma = 1",
           lambda o: _largest_rise(point(o, 1.0)), below=1e-3, steps=18000),
    Tested("With discount it peaks before the first drop of the loss", "step of the largest rho, gamma = 0.6",
           lambda o: _rho(point(o, 0.6)).argmax(1), above=1500, below=3500, steps=18000),
)  # fmt: skip
ZERO_BETA_CLAIMS = (
    *_follows("beta", published.RATE_BETAS_FROM_ZERO, "o = -1"),
    _law("For beta near 1 and 2 the best rate is that of the closed form", lambda beta: beta > 0.8, 0.05),
    close("When learning costs much only two levels of the tree are learned", "L with control at the end, beta = 2",
          lambda o: at(-1)(point(o, 2.0)), 0.688, 0.01, 18000),
    close("When it costs little all are", "L with control at the end, beta = 0.001",
          lambda o: at(-1)(point(o, 0.001)), 0.136, 0.01, 18000),
)  # fmt: skip
ZERO_GAMMA_CLAIMS = (
    Tested("With discount learning begins late", "1 + rho, mean of the first 1000 steps, gamma = 0.822",
           lambda o: 1 + _rho(point(o, 0.822))[:, :1000].mean(1), below=0.01, steps=18000),
    Tested("... and not at all for gamma near 0.9", "largest 1 + rho, gamma = 0.911",
           lambda o: 1 + _rho(point(o, 0.911)).max(1), below=0.01, steps=18000),
)  # fmt: skip


def _dip(outcome: Outcome) -> np.ndarray:
    """Least rho before the second maximum over the largest rho before it."""
    rho = _rho(outcome)
    return rho[:, 50:300].min(1) / rho[:, :50].max(1)


TREE_CLAIMS = (*WORTH[:1], LAW)
DIGIT_CLAIMS = (
    *WORTH[:1],
    LAW,
    close("The boost starts at 0.49", "rho at n = 0", lambda o: _rho(o)[:, 0], 0.49, 0.05),
    close("It dips to half at the first drop of the loss", "least rho, n = 50 .. 300, over the largest before",
          _dip, 0.5, 0.15, 1000),
    Tested("A second maximum follows at about n = 450", "step of the largest rho from n = 200 on",
           lambda o: 200 + _rho(o)[:, 200:].argmax(1), above=350, below=550, steps=2000),
    close("Without control the loss at n = 1000 is 0.42", "L without control", at(1000, "baseline"), 0.42, 0.01, 2000),
    close("With control it is 0.39", "L with control", at(1000), 0.39, 0.01, 2000),
)  # fmt: skip


def _law_panel(axes: Axes, outcome: Outcome) -> None:
    """The rate found, and the closed form."""
    panels.along(axes, outcome, _rho(outcome), label="found", color=panels.CONTROL)
    axes.plot(outcome.n, closed_form(outcome).mean(0), ":", color="black", linewidth=2.0, label="closed form")
    axes.set(ylabel=r"$\rho$", title=r"Learning goes $1 + \rho$ times as fast")
    axes.legend()


def _rates_panel(curves: dict[float, Curve], label: str) -> panels.Panel:
    def panel(axes, outcome):
        (swept,) = outcome.points.values()
        first = outcome.lanes(slice(None, None, outcome.settings.seeds))
        values = swept[:: outcome.settings.seeds]
        panels.family(axes, first, values, _rate(first), label)
        shown = np.linspace(0, 1, 256)
        for value, curve in curves.items():
            colour = panels.in_order(256)[np.abs(values[0] + shown * np.ptp(values) - value).argmin()]
            inside = {n: rate for n, rate in curve.items() if n < len(outcome.n)}
            axes.plot(list(inside), list(inside.values()), "o", ms=5, mfc=colour, mec="black", zorder=3)
        axes.set(ylabel=r"learning rate $\alpha(1 + \rho)$", title="Best learning rate; circles: published")

    return panel


def _losses_panel(label: str) -> panels.Panel:
    def panel(axes, outcome):
        (swept,) = outcome.points.values()
        first = outcome.lanes(slice(None, None, outcome.settings.seeds))
        panels.family(axes, first, swept[:: outcome.settings.seeds], first.control.loss, label)
        axes.plot(outcome.n, first.baseline.loss[0], "--", color=panels.BASELINE, label=r"$\rho = 0$")
        axes.set(ylabel="expected loss L", title="Loss")
        axes.legend()

    return panel


def _laws_panel(axes: Axes, outcome: Outcome) -> None:
    """Rates found and closed form at three points of a sweep."""
    ((name, swept),) = outcome.points.items()
    chosen = np.unique(swept)[[len(np.unique(swept)) // 5, len(np.unique(swept)) // 2, -1]]
    for value, colour in zip(chosen, panels.COLOURS, strict=False):
        part = point(outcome, value).lanes(slice(0, 1))
        axes.plot(part.n, _rho(part)[0], color=colour, label=rf"$\{name}$ = {value:.2g}", alpha=0.6, linewidth=3)
        axes.plot(part.n, closed_form(part)[0], ":", color="black", linewidth=1.5)
    axes.plot([], [], ":", color="black", label="closed form")
    axes.set(xlabel="task time n (steps)", ylabel=r"$\rho$", title="Found, and closed form")
    axes.legend()


def _sweep(title: str, paper: Any, field: str, claims: tuple[Tested, ...], curves: dict[float, Curve]) -> Experiment:
    label = {"beta": r"cost $\beta$", "gamma": r"discount $\gamma$"}[field]
    return Experiment(
        title,
        presets(
            paper,
            # At no learning almost nothing tells the search where to go, and where all learning costs, its first long
            # step from the base rate leads there: to a maximum (V = -180 at beta = 2), but a poor one (-140).
            CONVERGED | {"iterations": 30, "hidden": 8, "segment": 0, "seeds": 2, "begin": 0.3 * paper.offset},
            {"steps": 60, "values": 4, "levels": 3, "hidden": 4, "seeds": 1},
        ),
        on_tree,
        (_rates_panel(curves, label), _losses_panel(label), _laws_panel),
        claims,
        points={"beta": betas, "gamma": gammas}[field],
    )


TREE = TreeRates(
    steps=18000, dt=5e-3, hidden=30, decay=0.01, scale=1e-4, beta=0.1, start=0.0, segment=128,
    optimizer="amsgrad", rate=5e-3, iterations=800,
)  # fmt: skip
TEN = DigitRates(
    steps=30000, dt=5e-2, hidden=50, beta=0.1, start=0.0, segment=128, batch=256,
    optimizer="amsgrad", rate=5e-3, iterations=800,
)  # fmt: skip
BETAS = dataclasses.replace(TREE, gamma=1.0, iterations=1000, seeds=1)
GAMMAS = dataclasses.replace(TREE, beta=1.0, iterations=1000, seeds=1)
ZERO: dict[str, Any] = {"offset": -1.0, "begin": -1.0}
ONE = (panels.loss(), panels.reward, panels.gap, _law_panel)

EXPERIMENTS = {
    "learning_rate_semantic": Experiment(
        "Learning rate on a tree of concepts",
        presets(TREE, CONVERGED | {"hidden": 16, "segment": 0, "runs": 2}, {"steps": 60, "levels": 3, "hidden": 4}),
        on_tree,
        ONE,
        TREE_CLAIMS,
        columns=4,
    ),
    "learning_rate_digits": Experiment(
        "Learning rate on ten digits",
        presets(TEN, CONVERGED | {"hidden": 20, "segment": 0, "steps": 5000}, {"steps": 60, "hidden": 4, "batch": 8}),
        on_digits,
        ONE,
        DIGIT_CLAIMS,
        columns=4,
    ),
    "learning_rate_betas": _sweep(
        "Learning rate, cost varied", BETAS, "beta", BETA_CLAIMS, published.RATE_BETAS
    ),
    "learning_rate_gammas": _sweep(
        "Learning rate, discount varied", GAMMAS, "gamma", GAMMA_CLAIMS, published.RATE_GAMMAS
    ),
    "learning_rate_betas_from_zero": _sweep(
        "Learning rate when all learning costs, cost varied",
        dataclasses.replace(BETAS, **ZERO),
        "beta",
        ZERO_BETA_CLAIMS,
        published.RATE_BETAS_FROM_ZERO,
    ),
    "learning_rate_gammas_from_zero": _sweep(
        "Learning rate when all learning costs, discount varied",
        dataclasses.replace(GAMMAS, **ZERO),
        "gamma",
        ZERO_GAMMA_CLAIMS,
        {},
    ),
}  # fmt: skip
