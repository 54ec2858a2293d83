"""Beyond the paper: gains of a learner with momentum."""

import dataclasses

import numpy as np
from matplotlib.axes import Axes

from experiments.learning_effort import panels
from experiments.learning_effort.beyond import beyond, by_point, presets_of
from experiments.learning_effort.gains import Gains, on_gaussians
from experiments.learning_effort.studies import Experiment, Outcome, Study
from metalearn.run import mean_with_band


@dataclasses.dataclass(frozen=True, kw_only=True)
class Momentum(Gains):
    """Gains of a learner with momentum."""

    momentum: float = 0.0
    """mu: of the inner descent."""
    values: tuple[float, ...] = (0.0, 0.5, 0.8, 0.9)
    """Values of it, in rising order."""


def with_momentum(settings: Momentum) -> Study:
    """Two Gaussian problems."""
    study = on_gaussians(settings)
    problem = dataclasses.replace(study.problem, momentum=settings.momentum)
    return study._replace(problem=problem, judged=problem, witness=(problem, study.scenario))


_worth = lambda outcome: by_point(outcome, outcome.control.value - outcome.baseline.value)


def _spent(outcome: Outcome) -> np.ndarray:
    """Mean step of the cost of control, [values, seeds]."""
    cost = outcome.control.cost
    return by_point(outcome, (cost * outcome.n).sum(1) / cost.sum(1))


def _momentum_panel(axes: Axes, outcome: Outcome) -> None:
    momenta = np.array(outcome.settings.values)
    mean_with_band(axes, momenta, _worth(outcome).T, color=panels.CONTROL)
    axes.set(
        xlabel=r"momentum $\mu$", ylabel="V with minus without control", title="What control is worth", ylim=(0, None)
    )


def _momentum_family(name: str, title: str, ylabel: str) -> panels.Panel:
    def panel(axes, outcome):
        first = outcome.lanes(slice(None, None, outcome.settings.seeds))
        runs = first.control.loss if name == "loss" else first.control.measures[name]
        panels.family(axes, first, first.points["momentum"], runs, r"momentum $\mu$")
        axes.set(ylabel=ylabel, title=title)

    return panel


MOMENTUM_CLAIMS = (
    beyond("The more momentum, the less control is worth", "V with minus without control: least drop between values",
           lambda o: -np.diff(_worth(o), axis=0).max(0), above=0.0, steps=500),
    beyond("... and it still pays at the most", "V with minus without control at the largest momentum",
           lambda o: _worth(o)[-1], above=0.0, steps=500),
    beyond("The more momentum, the earlier effort is spent", "mean step of the cost: least drop between values",
           lambda o: -np.diff(_spent(o), axis=0).max(0), above=0.0, steps=500),
)  # fmt: skip
MOMENTUM = Momentum(
    steps=2000, dt=5e-3, hidden=6, decay=0.01, optimizer="quasi_newton", rate=1.0, iterations=100, tolerance=1e-3,
)  # fmt: skip

EXPERIMENTS = {
    "momentum": Experiment(
        "Beyond the paper: gains of a learner with momentum",
        presets_of(MOMENTUM, {"steps": 40, "values": (0.0, 0.9)}),
        with_momentum,
        (
            _momentum_panel,
            _momentum_family("loss", "Loss with control", "expected loss L"),
            _momentum_family("G1", "Gains", "RMS $G_1$"),
        ),
        MOMENTUM_CLAIMS,
        points=lambda settings: {"momentum": np.array(settings.values)},
        numbers=lambda outcome: {"worth": _worth(outcome)},
    ),
}
