"""Gain modulation: the control multiplies each weight of a network of two layers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learning_effort import panels, published
from experiments.learning_effort.settings import CONVERGED, DigitSettings, Settings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, close, study_of
from metalearn.effort import controls, datasets, networks, sampled
from metalearn.effort.datasets import Dataset
from metalearn.effort.digits import digits
from metalearn.effort.networks import Network
from metalearn.effort.system import Scenario


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gains(Settings):
    """A network of two layers, each weight with a gain of its own."""

    hidden: int
    """H: hidden units."""
    lower: float = -0.5
    """Least gain."""
    upper: float = 0.5
    """Largest gain."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticGains(Gains):
    """On the semantic tree."""

    levels: int = 4
    """Levels of the tree."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitGains(Gains, DigitSettings):
    """On handwritten digits."""


@functools.cache
def stored_digits(subset: tuple[int, ...], folder: str) -> Dataset:
    """Digits by the setting `data`; says in its name where they are from."""
    found = digits(subset, folder or None)
    return dataclasses.replace(found, name=f"{found.name} of {source_of(folder)}")


def source_of(folder: str) -> str:
    """Where digits are from, by the setting `data`."""
    return "MNIST" if folder else "scikit-learn"


def gain_of(settings: Gains, network: Network) -> controls.Control:
    """A gain for each weight of a network."""
    like = jax.eval_shape(network.init, jax.random.key(0))
    return controls.gain(like, settings.beta, settings.lower, settings.upper)


def gain_measures(weights: Any, signal: Any) -> dict[str, jax.Array]:
    """Sizes of gains and weights."""
    entries = jnp.concatenate([w.ravel() for w in weights])
    rms = lambda x: jnp.sqrt(jnp.mean(x**2))
    return {"G1": rms(signal[0]), "G2": rms(signal[1]), "L1": jnp.mean(jnp.abs(entries)), "L2": rms(entries)}


def on_gaussians(settings: Gains) -> Study:
    """Two correlated Gaussian problems, an easy and a hard one."""
    network = networks.linear((3, settings.hidden, 2), settings.scale)
    return study_of(settings, network, gain_of(settings, network), datasets.task_a(), gain_measures)


def on_semantic(settings: SemanticGains) -> Study:
    """Items of a tree of concepts."""
    tree = datasets.semantic(settings.levels)
    network = networks.linear((len(tree.moments.x), settings.hidden, len(tree.moments.y)), settings.scale)
    return study_of(settings, network, gain_of(settings, network), tree, gain_measures)


def on_digits(settings: DigitGains) -> Study:
    """Digits 1 and 3."""
    network = networks.linear((26, settings.hidden, 2), settings.scale)
    return study_of(settings, network, gain_of(settings, network), stored_digits((1, 3), settings.data), gain_measures)


OUTPUT_NOISE = 0.01  # sigma_xi of the non-linear network


def on_gaussians_tanh(settings: Gains) -> Study:
    """As on_gaussians, with tanh units, of which the equations know the averages to first order only."""
    task = datasets.task_a()
    network = networks.tanh_first_order(3, settings.hidden, 2, settings.scale)
    control = gain_of(settings, network)
    study = study_of(settings, network, control, task, gain_measures, noise=OUTPUT_NOISE)
    exact = sampled.example_loss(network, control, settings.decay, OUTPUT_NOISE)
    problem = dataclasses.replace(study.problem, system=study.problem.system._replace(loss=exact))
    return study._replace(witness=(problem, Scenario(task.sample(jax.random.key(settings.seed), 2000))))


def at(n: int, which: str = "control") -> Callable[[Outcome], np.ndarray]:
    """The loss at step n in each lane."""
    return lambda outcome: getattr(outcome, which).loss[:, n]


def first_below(level: float, which: str) -> Callable[[Outcome], np.ndarray]:
    """First step whose loss is below `level` in each lane; 2 T where none is."""

    def measure(outcome):
        below = getattr(outcome, which).loss < level
        return np.where(below.any(1), below.argmax(1), 2 * below.shape[1])

    return measure


def _sooner(level: float) -> Callable[[Outcome], np.ndarray]:
    """Share of the steps that the baseline takes to `level` which control saves."""
    return lambda o: 1 - first_below(level, "control")(o) / first_below(level, "baseline")(o)


_size = lambda o: np.sqrt(o.control.measures["G1"] ** 2 + o.control.measures["G2"] ** 2)
WORTH = (
    Tested("Control is worth more than it costs", "V with minus without control",
           lambda o: o.control.value - o.baseline.value, above=0.0, steps=500),
    Tested("Control costs at first", "v with minus without control at n = 0",
           lambda o: (o.control.reward - o.baseline.reward)[:, 0], below=0.0, steps=500),
)  # fmt: skip
EARLY = (
    Tested("Effort is spent early", "share of the cost of control in the first quarter",
           lambda o: o.control.cost[:, : o.settings.steps // 4].sum(1) / o.control.cost.sum(1), above=0.5, steps=1000),
)  # fmt: skip
SPARSE = (
    Tested("Controlled weights are the sparser: smaller in L1", "mean |w| with over without control at the end",
           lambda o: o.control.measures["L1"][:, -1] / o.baseline.measures["L1"][:, -1], below=1.0, steps=5000),
    Tested("... but not smaller in L2", "RMS w with over without control at the end",
           lambda o: o.control.measures["L2"][:, -1] / o.baseline.measures["L2"][:, -1], above=0.98, steps=5000),
)  # fmt: skip
GAUSSIAN_CLAIMS = (
    *WORTH,
    *EARLY,
    close("Net reward starts at -1.23", "v with control at n = 0", lambda o: o.control.reward[:, 0], -1.23, 0.1),
    close("The baseline's loss at n = 200 is 0.533", "L without control", at(200, "baseline"), 0.533, 0.1, 300),
    Tested("Control brings the loss at n = 200 below 0.37", "L with control", at(200), below=0.37, steps=1000),
    close("Control's loss at n = 750 is 0.275", "L with control", at(750), 0.275, 0.03, 1000),
    close("Learning ends at the floor 0.2576 with control", "L with control at the end", at(-1), 0.2576, 1e-3, 10000),
    Tested("Control costs next to nothing after n = 750", "C at n = 750",
           lambda o: o.control.cost[:, 750], below=0.01, steps=1000),
)  # fmt: skip


def _slowest(which: str) -> Callable[[Outcome], np.ndarray]:
    """Least drop of the loss over 300 steps, relative to itself, before the last level is learned: on a plateau ~ 0."""

    def measure(outcome):
        loss = getattr(outcome, which).loss[:, ::300]
        drop = 1 - loss[:, 1:] / loss[:, :-1]
        before = (loss[:, 1:] > 0.4) & (loss[:, :-1] < 1.9)
        return np.where(before, drop, np.inf).min(1)

    return measure


SEMANTIC_CLAIMS = (
    *WORTH,
    close("The baseline ends at 0.137", "L without control at the end", at(-1, "baseline"), 0.137, 0.01, 16000),
    close("The baseline reaches 0.14 at about n = 15000", "first step below 0.15 without control",
          first_below(0.15, "baseline"), 15000, 1500, 16000),
    close("Control reaches 0.14 at about n = 8000", "first step below 0.15 with control",
          first_below(0.15, "control"), 8000, 1500, 16000),
    Tested("Plateaus vanish with control", "least drop of the loss in 300 steps: with over without control",
           lambda o: _slowest("control")(o) / _slowest("baseline")(o), above=3.0, steps=16000),
    close("Control halves the weights' L1", "mean |w| with over without control at the end",
          lambda o: o.control.measures["L1"][:, -1] / o.baseline.measures["L1"][:, -1], 0.5, 0.1, 16000),
)  # fmt: skip
DIGIT_CLAIMS = (
    *WORTH,
    *SPARSE,
    close("Net reward starts at -0.58", "v with control at n = 0", lambda o: o.control.reward[:, 0], -0.58, 0.04),
    close("The second drop of the loss comes 1100 steps of 4000 earlier",
          "share of the steps to L = 0.17 that control saves", _sooner(0.17), 0.27, 0.1, 5000),
    Tested("Gains peak just before the loss falls fastest",
           "step of largest sqrt(RMS G1^2 + RMS G2^2) over the baseline's step of largest -dL/dn",
           lambda o: _size(o).argmax(1) / np.diff(o.baseline.loss).argmin(1), above=0.6, below=1.0, steps=1000),
    Tested("... and then fall to 20 to 35 %", "their size at n = 1000 over the largest",
           lambda o: _size(o)[:, 1000] / _size(o).max(1), above=0.2, below=0.35, steps=2000),
)  # fmt: skip
FREE_CLAIMS = (
    Tested("Free control learns within hundreds of steps", "first step of loss below 0.12",
           first_below(0.12, "control"), below=1000, steps=1000),
    Tested("... and ends lower than without control", "L with minus without control at the end",
           lambda o: at(-1)(o) - at(-1, "baseline")(o), below=0.0, steps=3000),
    Tested("Gains do the work: weights stay near their start", "RMS w at the end: with over without control",
           lambda o: o.control.measures["L2"][:, -1] / o.baseline.measures["L2"][:, -1], below=0.5, steps=3000),
)  # fmt: skip


def _missed(n: slice | int) -> Callable[[Outcome], np.ndarray]:
    """Averaged minus sampled loss without control at recorded steps, mean, in each run of learning from samples."""

    def measure(outcome):
        found = outcome.validation
        return np.atleast_2d((outcome.baseline.loss[0, found.steps] - found.baseline)[:, n].T).mean(0)

    return measure


TANH_CLAIMS = (
    *WORTH,
    Tested("The first-order equations follow tanh networks early", "averaged minus sampled L, first tenth",
           _missed(slice(0, 40)), above=-0.05, below=0.05, steps=5000),
    close("... and end higher, at 0.25 for 0.2", "averaged minus sampled L at the end", _missed(-1), 0.05, 0.03, 5000),
)  # fmt: skip


def gain_panels(loss: Mapping[str, Any] | None = None, label: str = "published") -> tuple[panels.Panel, ...]:
    """The panels of gain modulation."""
    return (
        panels.loss(loss, label=label),
        panels.reward,
        panels.gap,
        panels.measures({"G1": "$G_1$", "G2": "$G_2$"}, "RMS over weights", "Gains"),
        panels.both({"L1": "mean |w|", "L2": "RMS w"}, "size of weights", "Weights, both layers"),
        panels.cost,
    )


GAUSSIANS = Gains(steps=16000, dt=5e-3, hidden=6, decay=0.01, optimizer="ascent", rate=10.0, iterations=1000)
SEMANTIC = SemanticGains(
    steps=16000, dt=5e-3, hidden=30, decay=0.01, scale=1e-4, segment=128,
    optimizer="ascent", rate=10.0, iterations=1000,
)  # fmt: skip
DIGITS = DigitGains(
    steps=16000, dt=5e-3, hidden=50, decay=0.01, segment=128, seeds=4,
    optimizer="ascent", rate=10.0, iterations=1000,
)  # fmt: skip
FREE = dataclasses.replace(DIGITS, beta=0.0, lower=-1e6, upper=1e6, iterations=3000)
TANH = Gains(
    steps=10000, dt=1e-3, hidden=8, batch=1024, start=0.01, optimizer="ascent", rate=10.0, iterations=500
)  # fmt: skip
SMALLER = {"steps": 6000, "hidden": 16, "seeds": 3, "segment": 0}

EXPERIMENTS = {
    "gain_gaussians": Experiment(
        "Gains on two Gaussian problems",
        presets(GAUSSIANS, CONVERGED | {"seeds": 5}, {"steps": 60}),
        on_gaussians,
        gain_panels(published.GAUSSIANS_LOSS),
        GAUSSIAN_CLAIMS,
        until=2500,
    ),
    "gain_semantic": Experiment(
        "Gains on a tree of concepts",
        presets(
            SEMANTIC,
            CONVERGED | {"hidden": 16, "iterations": 40, "segment": 0},
            {"steps": 60, "levels": 3, "hidden": 5},
        ),
        on_semantic,
        gain_panels(),
        SEMANTIC_CLAIMS,
    ),
    "gain_digits": Experiment(
        "Gains on digits",
        presets(DIGITS, CONVERGED | SMALLER, {"steps": 60, "hidden": 4}),
        on_digits,
        gain_panels(published.DIGITS_LOSS, "published, MNIST"),
        DIGIT_CLAIMS,
    ),
    "gain_digits_free": Experiment(
        "Gains on digits without cost or bounds",
        presets(FREE, CONVERGED | SMALLER | {"steps": 3000, "iterations": 60}, {"steps": 60, "hidden": 4}),
        on_digits,
        gain_panels()[:-1],  # there is no cost
        FREE_CLAIMS,
    ),
    "gain_nonlinear": Experiment(
        "Gains in a tanh network, averaged to first order",
        presets(TANH, CONVERGED, {"steps": 60, "batch": 8}),
        on_gaussians_tanh,
        gain_panels(),
        TANH_CLAIMS,
    ),
}
