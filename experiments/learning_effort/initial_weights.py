"""Initial weights as control: model-agnostic meta-learning (Finn et al. 2017), which looks only some steps ahead.

Five tasks start at the same weights, and each learns on its own. What is chosen are these weights, to make the mean
loss over tasks and the first T_opt states (or of the last of them alone) least. How does it do on the way and far
beyond?

Without a cost the question has no good exact answer: learning may be best just up to the horizon from weights so large
that Euler steps diverge beyond it, and `--config.optimizer=quasi_newton` finds such weights. The paper's small steps
from small weights do not get there; so they are part of its method, and all presets take them.

| symbol | name               | meaning                                                 |
|--------|--------------------|---------------------------------------------------------|
| T_opt  | `horizon`          | states that the search looks at                         |
|        | `last`             | only the last of them counts, else all do               |
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.learning_effort import panels, published
from experiments.learning_effort.gains import source_of, stored_digits
from experiments.learning_effort.settings import DigitSettings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, close
from metalearn.effort import controls, networks, system
from metalearn.effort.system import Plan, Problem, Scenario, System
from metalearn.run import mean_with_band

PAIRS = ((0, 1), (7, 1), (8, 9), (3, 8), (5, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialWeights(DigitSettings):
    """Common initial weights of five tasks. `steps` are those of the evaluation; `horizon` is swept."""

    horizons: tuple[int, ...]
    """States that the search looks at, each at least 2."""
    hidden: int = 40
    """H: hidden units."""
    last: bool = False
    """Whether only the last of these states counts; else all do."""

    def validate(self) -> None:
        """Checks the horizons."""
        super().validate()
        if not self.horizons or min(self.horizons) < 2 or max(self.horizons) > self.steps:
            raise ValueError(f"horizons={self.horizons} must be in 2 .. steps={self.steps}, at least one")


class LastCounts(Problem):
    """A problem of which only the last state counts."""

    def discounts(self) -> np.ndarray:
        """Weights of the states, [steps]."""
        return np.where(np.arange(self.steps) == self.steps - 1, super().discounts(), 0.0)


def together(one: System, tasks: int) -> System:
    """Learners of several tasks as one system: weights have leaves [tasks, ...], the loss is the mean over tasks."""
    flow = jax.vmap(one.flow, (0, None, 0))
    losses = jax.vmap(one.loss, (0, None, 0))
    init = lambda key: copies(one.init(key), tasks)
    return System(init, flow, lambda weights, signal, task: jnp.mean(losses(weights, signal, task)))


def copies(weights: Any, count: int) -> Any:
    """The same weights for each of `count` learners."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), weights)


def study(settings: InitialWeights) -> Study:
    """Five pairs of digits."""
    pairs = [stored_digits(pair, settings.data) for pair in PAIRS]
    stack = lambda tasks: jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), float), *tasks)
    scenario = Scenario(stack([pair.moments for pair in pairs]))
    test = [pair.test for pair in pairs if pair.test is not None]
    network = networks.linear((26, settings.hidden, 2), settings.scale)
    control = controls.no_control()
    learners = together(system.controlled(network, control, settings.decay), len(pairs))
    problem = (LastCounts if settings.last else Problem)(
        learners,
        control.cost,
        settings.horizon or max(settings.horizons),
        settings.dt,
        settings.gamma,
        memory="segments" if settings.segment else "recompute",
        segment=settings.segment or None,
    )

    def measures(weights, signal):
        return {"test": learners.loss(weights, signal, stack(test))} if test else {}

    begin = lambda weights: Plan(copies(weights, len(pairs)), controls.constant(control, settings.steps))
    judged = Problem(learners, control.cost, settings.steps, settings.dt, settings.gamma)
    return Study(
        data=f"five pairs of digits of {source_of(settings.data)}",
        init=network.init,
        problem=problem,
        scenario=scenario,
        lower=-jnp.inf,
        upper=jnp.inf,
        start=lambda weights, key: weights,
        plan=lambda chosen, weights: begin(chosen),
        neutral=begin,
        measures=measures,
        judged=judged,
        flow=None,
        witness=(judged, scenario),
        over_time=False,
    )


def points(settings: InitialWeights) -> dict[str, np.ndarray]:
    """All horizons, with all states."""
    return {"horizon": np.array(settings.horizons)}


def twice(settings: InitialWeights) -> dict[str, np.ndarray]:
    """All horizons, with all states and then with the last alone."""
    return {"horizon": np.tile(settings.horizons, 2), "last": np.repeat([False, True], len(settings.horizons))}


def _by_horizon(outcome: Outcome, values: np.ndarray, last: int) -> np.ndarray:
    """Values of lanes [lanes, ...] as [horizons, seeds, ...], of one of the two objectives."""
    settings = outcome.settings
    return values.reshape(-1, len(settings.horizons), settings.seeds, *values.shape[1:])[last]


def _objectives(outcome: Outcome) -> dict[int, str]:
    """Those that were searched by: value of `last` -> its name."""
    both = {0: "all", 1: "last"}
    return both if "last" in outcome.points else {0: "all"}


def _one_step(outcome: Outcome, last: int = 0) -> np.ndarray:
    """Loss after one step, [horizons, seeds]."""
    return _by_horizon(outcome, outcome.control.loss[:, 1], last)


def _whole(outcome: Outcome, last: int = 0) -> np.ndarray:
    """Mean loss over the evaluation, [horizons, seeds]."""
    return _by_horizon(outcome, outcome.control.loss.mean(1), last)


def _mean_claim(horizon: int, which: str) -> Tested:
    value = published.MAML_MEAN[which][horizon]
    whole = lambda o: _whole(o, int(which == "last"))[o.settings.horizons.index(horizon)]
    measure = lambda o: whole(o) if o.settings.data else []  # other digits than MNIST's have other losses
    states = {"all": "all states count", "last": "only the last state counts"}[which]
    return close(f"The mean loss over 8000 steps is {value} if {states} to T_opt = {horizon}", "mean L", measure,
                 value, 0.003, 8000)  # fmt: skip


_at_20 = lambda outcome: _one_step(outcome)[outcome.settings.horizons.index(20)]
CLAIMS = (
    Tested("The further one looks ahead, the better learning goes as a whole",
           "mean L: largest increase from one horizon to the next",
           lambda o: np.diff(_whole(o), axis=0).max(0), below=0.0005, steps=1000),
    Tested("Looking 20 states ahead is better even for the next step than looking 2 ahead",
           "L after one step: T_opt = 2 minus T_opt = 20", lambda o: _one_step(o)[0] - _at_20(o), above=0.0,
           steps=1000),
    Tested("... and than looking furthest ahead",
           "L after one step: longest horizon minus T_opt = 20", lambda o: _one_step(o)[-1] - _at_20(o), above=0.0,
           steps=1000),
    Tested("All states are a better objective than the last one, at every horizon",
           "mean L: last minus all, least over horizons", lambda o: (_whole(o, 1) - _whole(o)).min(0), above=0.0,
           steps=1000),
    Tested("If only the last state counts, early losses explode", "largest L after one step over horizons",
           lambda o: _one_step(o, 1).max(0), above=0.3, steps=1000),
)  # fmt: skip
NUMBERS = (_mean_claim(2, "all"), _mean_claim(340, "all"), _mean_claim(340, "last"))
FAR_CLAIMS = (
    CLAIMS[0],
    Tested("Looking further than the paper's 340 states still helps", "mean L: T_opt = 340 minus the longest",
           lambda o: _whole(o)[o.settings.horizons.index(340)] - _whole(o)[-1], above=0.0, steps=1000,
           source="beyond the paper"),
)  # fmt: skip


def _numbers(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = {"horizons": outcome.settings.horizons}
    for last, which in _objectives(outcome).items():
        final = _by_horizon(outcome, outcome.control.loss[:, -1], last)
        found |= {f"one_step_{which}": _one_step(outcome, last), f"mean_{which}": _whole(outcome, last)}
        found |= {f"final_{which}": final}
    return found


def _against(
    measure: Callable[[Outcome, int], np.ndarray], curves: dict[str, published.Curve], ylabel: str, title: str
) -> panels.Panel:
    """A measure against the horizon, for both objectives."""

    def panel(axes: Axes, outcome: Outcome) -> None:
        horizons = np.array(outcome.settings.horizons)
        names = {"all": "all states count", "last": "only the last counts"}
        for (last, which), colour in zip(_objectives(outcome).items(), panels.COLOURS, strict=False):
            mean_with_band(axes, horizons, measure(outcome, last).T, label=names[which], color=colour)
            inside = {n: value for n, value in curves.get(which, {}).items() if n <= horizons.max()}
            axes.plot(list(inside), list(inside.values()), "o", ms=5, mfc="none", mec=colour)
        axes.plot([], [], "o", ms=5, mfc="none", mec="gray", label="published (MNIST)")
        axes.set(xlabel=r"horizon $T_{opt}$ (states)", ylabel=ylabel, title=title, xscale="log", yscale="log")
        axes.legend()

    return panel


def _learning(last: int, title: str) -> panels.Panel:
    """The loss of learning from the weights found, first of the initial weights, by horizon."""

    def panel(axes: Axes, outcome: Outcome) -> None:
        count = len(outcome.settings.horizons)
        first = outcome.lanes(slice(last * count * outcome.settings.seeds, None, outcome.settings.seeds))
        first = first.lanes(slice(0, count))
        panels.family(axes, first, first.points["horizon"], first.control.loss, r"horizon $T_{opt}$", log=True)
        axes.plot(outcome.n, outcome.baseline.loss[0], "--", color=panels.BASELINE, label="random weights")
        axes.set(ylabel="mean L of tasks", title=title, xscale="symlog", ylim=(0, 0.6))
        axes.legend()

    return panel


PANELS = (
    _learning(0, "Learning, all states count"),
    _learning(1, "Learning, only the last counts"),
    _against(_one_step, {"all": published.MAML_ONE_STEP}, "L after one step", "One step of learning"),
    _against(_whole, published.MAML_MEAN, "mean L", "Mean over all of learning"),
)
PAPER = InitialWeights(
    steps=8000, dt=5e-3, gamma=1.0, beta=0.0, horizons=(2, *range(20, 341, 20)), start=0.0, seeds=1,
    optimizer="amsgrad", rate=5e-3, iterations=1000,
)  # fmt: skip
FAR = dataclasses.replace(PAPER, steps=10000, horizons=(20, 100, 340, 1000, 3000, 10000), segment=100, iterations=300)
LAPTOP = {"seeds": 3, "segment": 0}  # and not fewer hidden units: then the search takes longer

EXPERIMENTS = {
    "initial_weights": Experiment(
        "Initial weights of five tasks",
        presets(
            PAPER,
            LAPTOP | {"horizons": (2, 20, 40, 340)},
            {"steps": 60, "horizons": (2, 20, 40), "hidden": 4},
        ),
        study,
        PANELS,
        (*CLAIMS, *NUMBERS),
        points=twice,
        apart=True,
        numbers=_numbers,
        columns=4,
    ),
    "initial_weights_beyond": Experiment(
        "Initial weights of five tasks, looking further ahead than the paper",
        presets(
            FAR,
            LAPTOP | {"horizons": (20, 340, 2000, 10000), "hidden": 20, "rate": 0.01, "iterations": 200, "seeds": 2},
            {"steps": 60, "horizons": (2, 20, 60), "hidden": 4},
        ),
        study,
        (PANELS[0], *PANELS[2:]),
        FAR_CLAIMS,
        points=points,
        apart=True,
        numbers=_numbers,
        columns=3,
    ),
}
