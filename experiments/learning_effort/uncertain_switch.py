"""Beyond the paper: gains when the time of a switch is not known."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.learning_effort import panels
from experiments.learning_effort.beyond import beyond, by_point, initial_weights, presets_of
from experiments.learning_effort.gains import Gains, gain_measures, gain_of
from experiments.learning_effort.studies import Experiment, Outcome, Study, study_of
from metalearn.effort import datasets, foresight, networks, optimise, system
from metalearn.effort.system import Scenario


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
    for seed, weights in enumerate(initial_weights(settings, study)):
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
    mean = lambda series: by_point(outcome, series.value).mean(0)
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
UNCERTAIN = Uncertain(
    steps=1600, dt=5e-3, hidden=6, decay=1e-3, scale=0.1, times=(400, 600, 800, 1000, 1200),
    optimizer="quasi_newton", rate=1.0, iterations=100, tolerance=1e-3, seeds=3,
)  # fmt: skip

EXPERIMENTS = {
    "uncertain_switch": Experiment(
        "Beyond the paper: gains when the time of a switch is not known",
        presets_of(UNCERTAIN, {"steps": 40, "times": (10, 20, 30)}),
        known,
        (_values_panel, _hedge_panel),
        UNCERTAIN_CLAIMS,
        points=lambda settings: {"switch": np.array(settings.times)},
        numbers=_values,
        further=hedged,
    ),
}
