"""Beyond the paper: short sight, uncertain schedules, momentum, depth, and a non-linear learner averaged exactly."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.learning_effort import engagement, panels
from experiments.learning_effort.gains import Gains, gain_measures, gain_of, on_gaussians
from experiments.learning_effort.settings import Settings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, study_of
from metalearn.effort import committee, controls, datasets, foresight, networks, optimise, system
from metalearn.effort.system import Plan, Problem, Scenario
from metalearn.run import Progress, mean_with_band

SOURCE = "beyond the paper"


def beyond(*arguments: Any, **bounds: Any) -> Tested:
    """An expectation that is not the paper's."""
    return Tested(*arguments, **bounds)._replace(source=SOURCE)


def _by_point(outcome: Outcome, values: np.ndarray) -> np.ndarray:
    """Values of lanes [lanes, ...] as [points, seeds, ...]."""
    return values.reshape(-1, outcome.settings.seeds, *values.shape[1:])


def _initial_weights(settings: Settings, study: Study) -> list[Any]:
    """Those of each seed, as `solve` draws them."""
    key = jax.random.key(settings.seed)
    return [study.init(jax.random.fold_in(key, seed)) for seed in range(settings.seeds)]


# Short sight.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight(Gains):
    """Gains by a learner that looks only some states ahead: once at the start, or again and again."""

    look_aheads: tuple[int, ...]
    """States looked at, up to `steps`, in rising order."""
    replan: int = 10
    """Steps from one plan to the next, at most the look-ahead."""

    def validate(self) -> None:
        """Checks the look-aheads."""
        super().validate()
        if list(self.look_aheads) != sorted({*self.look_aheads, self.steps}) or self.look_aheads[0] < 1:
            raise ValueError(f"look_aheads={self.look_aheads} must rise from 1 or more to steps={self.steps}")
        if self.replan < 1:
            raise ValueError(f"replan={self.replan} must be at least 1")


def sighted(settings: Sight) -> Study:
    """One plan at the start for the first `horizon` states; later states are left to learning alone."""
    study = on_gaussians(settings)
    return study._replace(judged=dataclasses.replace(study.problem, horizon=None), flow=None)


def replanned(settings: Sight) -> dict[str, np.ndarray]:
    """V of planning again and again, [look-aheads, seeds]."""
    study = sighted(settings)
    starts = [study.neutral(weights) for weights in _initial_weights(settings, study)]
    looks = settings.look_aheads
    values = np.zeros((len(looks), len(starts)))
    with Progress(values.size, "planning again, runs") as progress:
        for place, look in enumerate(looks):
            for seed, start in enumerate(starts):
                values[place, seed] = foresight.receding_horizon(
                    study.judged, start, study.scenario, study.lower, study.upper, look, min(settings.replan, look),
                    settings.iterations, settings.tolerance,
                ).value  # fmt: skip
                progress.update(place * len(starts) + seed + 1)
    return {"replanned": values}


def _shares(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Of what control can gain at most, planning once and planning again gain this share, [look-aheads, seeds] each."""
    assert outcome.further is not None
    without = _by_point(outcome, outcome.baseline.value)[0]
    once = _by_point(outcome, outcome.control.value)
    return tuple((value - without) / (once[-1] - without) for value in (once, outcome.further["replanned"]))


def _sight_panel(axes: Axes, outcome: Outcome) -> None:
    looks = np.array(outcome.settings.look_aheads)
    labels = ("planned once", "planned again and again")
    for share, label, colour in zip(_shares(outcome), labels, panels.COLOURS, strict=False):
        mean_with_band(axes, looks, share.T, label=label, color=colour)
        axes.plot(looks, share.mean(1), "o", ms=4, color=colour)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(
        xlabel="look-ahead (states)", ylabel="share of the best gain in V", xscale="log", title="What sight is worth"
    )
    axes.legend()


def _sight_gains(axes: Axes, outcome: Outcome) -> None:
    first = outcome.lanes(slice(None, None, outcome.settings.seeds))
    panels.family(axes, first, first.points["horizon"], first.control.measures["G1"], "look-ahead", log=True)
    axes.set(ylabel="RMS $G_1$", title="Gains, planned once")


SIGHT_CLAIMS = (
    beyond("Planning again is no worse than planning once with the same sight",
           "share of the best gain: least difference over look-aheads",
           lambda o: (_shares(o)[1] - _shares(o)[0]).min(0), above=-0.01, steps=400),
    beyond("To see a quarter of the time ahead is worth most of the gain if one plans again",
           "share of the best gain", lambda o: _shares(o)[1][-3], above=0.5, steps=400),
    beyond("Very short sight gains little", "share of the best gain, shortest look-ahead",
           lambda o: _shares(o)[1][0], below=0.2, steps=400),
)  # fmt: skip


# Uncertain schedules.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uncertain(Gains):
    """Gains when task A gives way to task B at one of several times."""

    times: tuple[int, ...]
    """Possible times of the switch, all alike."""
    switch: float = 0.0
    """The time of the switch, where it is known."""


def known(settings: Uncertain) -> Study:
    """The time of the switch is known."""
    tasks = datasets.mixture([datasets.task_a(), datasets.task_b()])
    network = networks.linear((3, settings.hidden, 2), settings.scale)
    scenario = Scenario(tasks.parts, foresight.switched_at(settings.steps, jnp.stack([jnp.asarray(settings.switch)])))
    study = study_of(settings, network, gain_of(settings, network), tasks, gain_measures, scenario=scenario)
    return study._replace(data="task A, then task B")


def hedged(settings: Uncertain) -> dict[str, np.ndarray]:
    """One control for all times: best on average; and the one that is best for the middle time.

    Mean V over times, [seeds] each, and RMS of both layers' gains of the first along time, [seeds, T].
    """
    study = known(settings)
    turns = foresight.switched_at(settings.steps, np.array(settings.times)[:, None])
    count = len(settings.times)
    one = jax.tree.map(jnp.asarray, study.scenario.task)
    each = Scenario(jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), one), turns)
    middle = dataclasses.replace(study.scenario, turn=turns[count // 2])
    alike = np.full(count, 1 / count)

    @jax.jit
    def expected(signal, weights):
        return foresight.expected_value(study.problem, study.plan(signal, weights), each, alike)

    @jax.jit
    def certain(signal, weights):
        return system.value(study.problem, study.plan(signal, weights), middle)

    slopes = {value: jax.jit(jax.value_and_grad(value)) for value in (expected, certain)}
    found: dict[str, list[Any]] = {"hedged": [], "certain": [], "hedged gains": []}
    for seed, weights in enumerate(_initial_weights(settings, study)):
        start = study.start(weights, jax.random.fold_in(jax.random.key(settings.seed), seed))
        best = {
            value: optimise.quasi_newton(
                functools.partial(value, weights=weights), start, study.lower, study.upper, settings.iterations,
                settings.tolerance, value_and_gradient=functools.partial(slope, weights=weights),
            ).signal
            for value, slope in slopes.items()
        }  # fmt: skip
        found["hedged"].append(expected(best[expected], weights))
        found["certain"].append(expected(best[certain], weights))
        entries = jnp.concatenate([leaf.reshape(settings.steps, -1) for leaf in best[expected]], 1)
        found["hedged gains"].append(jnp.sqrt(jnp.mean(entries**2, 1)))
    return {name: np.asarray(values) for name, values in found.items()}


def _values(outcome: Outcome) -> dict[str, np.ndarray]:
    """Mean V over times, [seeds], by what the learner knows."""
    assert outcome.further is not None
    mean = lambda series: _by_point(outcome, series.value).mean(0)
    return {
        "no control": mean(outcome.baseline),
        "sure of the middle": outcome.further["certain"],
        "hedged": outcome.further["hedged"],
        "time known": mean(outcome.control),
    }


def _values_panel(axes: Axes, outcome: Outcome) -> None:
    values = _values(outcome)
    for place, samples in enumerate(values.values()):
        axes.plot(np.full(len(samples), place), samples, "o", color=panels.COLOURS[place])
    axes.set_xticks(range(len(values)), list(values), fontsize=8)
    axes.set(ylabel="mean V over times", title="Value by what is known; one point a seed")


def _hedge_panel(axes: Axes, outcome: Outcome) -> None:
    first = outcome.lanes(slice(None, None, outcome.settings.seeds))
    measures = first.control.measures
    sizes = np.sqrt((measures["G1"] ** 2 * 3 + measures["G2"] ** 2 * 2) / 5)  # of 3 and 2 entries a hidden unit
    panels.family(axes, first, first.points["switch"], sizes, "time of the switch, known")
    assert outcome.further is not None
    axes.plot(outcome.n, outcome.further["hedged gains"][0], color="black", linewidth=2.0, label="hedged")
    axes.set(ylabel="RMS of gains", title="Control", ylim=(0, 1.2 * sizes.max()))  # room for the legend
    axes.legend()


UNCERTAIN_CLAIMS = (
    beyond("Knowing the time is worth something", "mean V: time known minus hedged",
           lambda o: _values(o)["time known"] - _values(o)["hedged"], above=0.0, steps=500),
    beyond("Hedging beats being sure of the middle time", "mean V: hedged minus sure",
           lambda o: _values(o)["hedged"] - _values(o)["sure of the middle"], above=0.0, steps=500),
    beyond("Not to know costs less than half of what control gains", "(known - hedged) / (known - no control)",
           lambda o: (_values(o)["time known"] - _values(o)["hedged"])
           / (_values(o)["time known"] - _values(o)["no control"]), below=0.5, steps=500),
)  # fmt: skip


# Momentum.


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


_worth = lambda outcome: _by_point(outcome, outcome.control.value - outcome.baseline.value)


def _spent(outcome: Outcome) -> np.ndarray:
    """Mean step of the cost of control, [values, seeds]."""
    cost = outcome.control.cost
    return _by_point(outcome, (cost * outcome.n).sum(1) / cost.sum(1))


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


# Depth.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deep(engagement.TreeClasses):
    """Engagement with the nodes of a tree, in a deeper network."""

    layers: int = 4
    """Weight matrices; 2 is the paper's network."""


def deep(settings: Deep) -> Study:
    """Nodes of a tree."""
    tree = datasets.semantic(settings.levels)
    widths = (len(tree.moments.x), *[settings.hidden] * (settings.layers - 1), len(tree.outputs))
    network = networks.linear(widths, settings.scale)
    control = controls.class_engagement(len(tree.outputs), settings.beta)
    groups = engagement.by_level(tree)
    return study_of(settings, network, control, tree, lambda weights, phi: {"engagement": groups @ phi})


DEEP_CLAIMS = (
    *(claim._replace(source=SOURCE) for claim in engagement.VALUE),
    engagement.TURNS._replace(
        statement="In deep networks too engagement turns from the root to finer levels", source=SOURCE, steps=1000
    ),
)  # fmt: skip


# A non-linear learner.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Committee(Settings):
    """Learning rate of a soft committee machine that learns from one example at a time."""

    hidden: int = 2
    """K: hidden units of the student, and M of the teacher."""
    inputs: int = 1000
    """N: inputs."""
    speed: float = 1.0
    """eta: learning rate at rho = 0; `dt` is the Euler step."""
    noise: float = 0.1
    """Standard deviation of noise on the teacher's output."""


def soft_committee(settings: Committee) -> Study:
    """A student learns from a teacher of the same size; see committee.py."""
    control = controls.learning_rate(settings.beta, upper=3.0)
    size = settings.hidden
    learner = committee.committee(control, size, size, settings.inputs, settings.speed, settings.noise)
    problem = Problem(learner, control.cost, settings.steps, settings.dt, settings.gamma)
    scenario = Scenario(jnp.eye(size))

    def measures(weights, rho):
        overlap = jnp.abs(weights.student_teacher)
        special = jnp.mean(jnp.max(overlap, 1) - jnp.min(overlap, 1))
        return {"rho": rho, "specialisation": special}

    return Study(
        data="two hidden units",
        init=learner.init,
        problem=problem,
        scenario=scenario,
        lower=control.lower,
        upper=control.upper,
        start=lambda weights, key: controls.constant(control, settings.steps),
        plan=lambda signal, weights: Plan(weights, signal),
        neutral=lambda weights: Plan(weights, controls.constant(control, settings.steps)),
        measures=measures,
        judged=problem,
        flow=None,
        witness=(problem, scenario),
    )


def _late(outcome: Outcome) -> np.ndarray:
    """Mean rho in the third quarter: the last quarter no longer pays for itself."""
    quarter = len(outcome.n) // 4
    return outcome.control.measures["rho"][:, 2 * quarter : 3 * quarter].mean(1)


def _plateau(outcome: Outcome) -> np.ndarray:
    """Mean rho while units of the student are not yet special (specialisation below 0.3)."""
    before = outcome.control.measures["specialisation"] < 0.3
    return (outcome.control.measures["rho"] * before).sum(1) / before.sum(1)


COMMITTEE_CLAIMS = (
    *(claim._replace(source=SOURCE) for claim in engagement.VALUE),
    beyond("Haste is worth more on the plateau, where units of the student are alike, than later",
           "mean rho before specialisation minus that in the third quarter", lambda o: _plateau(o) - _late(o),
           above=0.0, steps=500),
    beyond("Once specialised the best rate falls below the base rate: noise is averaged out",
           "mean rho in the third quarter", _late, below=0.0, steps=500),
)  # fmt: skip

SIGHT = Sight(
    steps=400, dt=1e-2, hidden=6, decay=0.01, look_aheads=(10, 25, 50, 100, 200, 400),
    optimizer="quasi_newton", rate=1.0, iterations=100, tolerance=1e-3, seeds=3,
)  # fmt: skip
UNCERTAIN = Uncertain(
    steps=1600, dt=5e-3, hidden=6, decay=1e-3, scale=0.1, times=(400, 600, 800, 1000, 1200),
    optimizer="quasi_newton", rate=1.0, iterations=100, tolerance=1e-3, seeds=3,
)  # fmt: skip
MOMENTUM = Momentum(
    steps=2000, dt=5e-3, hidden=6, decay=0.01, optimizer="quasi_newton", rate=1.0, iterations=100, tolerance=1e-3,
)  # fmt: skip
DEEP = Deep(
    steps=6000, dt=5e-3, hidden=12, levels=3, scale=0.15, beta=5.0, start=0.0,
    optimizer="quasi_newton", rate=1.0, iterations=150, tolerance=1e-3,
)  # fmt: skip
COMMITTEE = Committee(
    steps=2500, dt=0.1, beta=1e-3, gamma=1.0, optimizer="quasi_newton", rate=1.0, iterations=60, tolerance=1e-3
)  # fmt: skip


def _all(settings: Any, smoke: dict[str, Any]) -> dict[str, Any]:
    """There are no published settings: `paper` is the laptop's with more seeds."""
    more = dataclasses.replace(settings, seeds=8)
    return presets(more, {"seeds": settings.seeds}, smoke)


EXPERIMENTS = {
    "short_sight": Experiment(
        "Beyond the paper: gains by a learner of short sight",
        _all(SIGHT, {"steps": 40, "look_aheads": (1, 10, 40)}),
        sighted,
        (_sight_panel, _sight_gains),
        SIGHT_CLAIMS,
        points=lambda settings: {"horizon": np.array(settings.look_aheads)},
        numbers=lambda outcome: dict(zip(("share_once", "share_again"), _shares(outcome), strict=True)),
        further=replanned,
    ),
    "uncertain_switch": Experiment(
        "Beyond the paper: gains when the time of a switch is not known",
        _all(UNCERTAIN, {"steps": 40, "times": (10, 20, 30)}),
        known,
        (_values_panel, _hedge_panel),
        UNCERTAIN_CLAIMS,
        points=lambda settings: {"switch": np.array(settings.times)},
        numbers=_values,
        further=hedged,
    ),
    "momentum": Experiment(
        "Beyond the paper: gains of a learner with momentum",
        _all(MOMENTUM, {"steps": 40, "values": (0.0, 0.9)}),
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
    "deep_classes": Experiment(
        "Beyond the paper: engagement with nodes of a tree in a network of four layers",
        _all(DEEP, {"steps": 40, "hidden": 4, "batch": 8}),
        deep,
        (
            panels.loss(),
            panels.reward,
            panels.gap,
            engagement.groups(engagement.level_names, r"engagement $\varphi$", "Engagement, mean of each level"),
        ),
        DEEP_CLAIMS,
        columns=4,
    ),
    "soft_committee": Experiment(
        "Beyond the paper: learning rate of a soft committee machine",
        _all(COMMITTEE, {"steps": 40}),
        soft_committee,
        (
            panels.loss(log=True),
            panels.measures({"rho": r"$\rho$"}, r"$\rho$", r"Learning goes $1 + \rho$ times as fast"),
            panels.both({"specialisation": "specialisation"}, "max - min overlap of a unit", "Specialisation"),
        ),
        COMMITTEE_CLAIMS,
    ),
}
