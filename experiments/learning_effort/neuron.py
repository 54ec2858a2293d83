"""Gain of a single neuron, the smallest case of control: one weight, one gain."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from experiments.learning_effort import panels, published
from experiments.learning_effort.settings import CONVERGED, Settings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, close, study_of
from metalearn.effort import controls, datasets, networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neuron(Settings):
    """A neuron of one weight that tells two Gaussians apart."""

    lower: float = 0.0
    """Least gain."""
    upper: float = 0.5
    """Largest gain."""
    mu: float = 2.0
    """Distance of the means from 0."""
    sigma: float = 1.0
    """Standard deviation of the input."""


def single_neuron(settings: Neuron) -> Study:
    """w acts as w (1 + g), at a cost of beta g^2."""
    network = networks.linear((1, 1), settings.scale)
    like = jax.eval_shape(network.init, jax.random.key(0))
    control = controls.gain(like, settings.beta, settings.lower, settings.upper, "quadratic")

    def measures(weights, signal):
        (w,), (g,) = weights, signal
        return {"g": g[0, 0], "w": w[0, 0], "effective w": (w * (1 + g))[0, 0]}

    return study_of(settings, network, control, datasets.two_gaussians(settings.mu, settings.sigma), measures)


NEURON = Neuron(
    steps=600, dt=1e-3, decay=0.1, scale=0.0, optimizer="ascent", rate=10.0, iterations=700, seeds=1, batch=128
)
_g = lambda outcome: outcome.control.measures["g"]
_ahead = lambda outcome: outcome.control.reward - outcome.baseline.reward
NEURON_CLAIMS = (
    close("The best control of the single neuron is worth V = -0.094258", "V with control",
          lambda o: o.control.value, published.NEURON_VALUE["control"], 2e-6, 600),
    close("Without control learning is worth V = -0.102936", "V without control",
          lambda o: o.baseline.value, published.NEURON_VALUE["baseline"], 2e-6, 600),
    close("The gain follows the published curve", "largest |g - published g| over 10 steps",
          lambda o: np.abs(_g(o)[:, list(published.NEURON_GAIN)] - list(published.NEURON_GAIN.values())).max(1),
          0.0, 2e-3, 600),
    Tested("The gain only ever falls", "largest increase of g over 25 steps",
           lambda o: np.diff(_g(o)[:, ::25]).max(1), below=0.0, steps=600),
    Tested("Control costs at first", "v with minus without control at n = 0", lambda o: _ahead(o)[:, 0],
           below=0.0, steps=500),
    Tested("Control pays within tens of steps", "first step with more net reward than the baseline",
           lambda o: (_ahead(o) > 0).argmax(1), above=0, below=60, steps=100),
    Tested("Late raw weights are below the baseline's", "w with minus without control at the end",
           lambda o: (o.control.measures["w"] - o.baseline.measures["w"])[:, -1], below=0.0, steps=600),
    Tested("Late effective weights are above the baseline's", "w (1 + g) with minus without control at the end",
           lambda o: (o.control.measures["effective w"] - o.baseline.measures["w"])[:, -1], above=0.0, steps=600),
)  # fmt: skip

SWEEPS = ("gamma", "sigma", "beta", "decay", "horizon")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronSweeps(Neuron):
    """The single neuron, one setting varied at a time; `steps` is the longest horizon."""

    values: int = 30
    """Values of each setting but the horizon."""
    horizons: tuple[int, ...] = tuple(range(200, 1201, 50))
    """Horizons T."""


def sweep_points(settings: NeuronSweeps) -> dict[str, np.ndarray]:
    """The five sweeps after each other: [points] of each field."""
    count = settings.values
    values = {
        "gamma": 10 ** np.linspace(-8, 0, count),
        "sigma": np.linspace(1e-5, 5, count),
        "beta": np.linspace(1e-5, 2, count),
        "decay": np.linspace(0, 5, count),
        "horizon": np.array(settings.horizons, float),
    }
    columns = lambda field: [
        v if swept == field else [getattr(settings, field)] * len(v) for swept, v in values.items()
    ]
    return {field: np.concatenate(columns(field)) for field in SWEEPS}


def _sweep(outcome: Outcome, field: str) -> Outcome:
    sizes = [outcome.settings.values] * 4 + [len(outcome.settings.horizons)]
    ends = dict(zip(SWEEPS, np.cumsum(sizes), strict=True))
    return outcome.lanes(slice(ends[field] - sizes[SWEEPS.index(field)], ends[field]))


def _sweep_panel(field: str, label: str, ahead: bool) -> panels.Panel:
    def panel(axes, outcome):
        part = _sweep(outcome, field)
        runs = _ahead(part) if ahead else _g(part)
        runs = np.where(part.n < part.points["horizon"][:, None], runs, np.nan)
        panels.family(axes, part, part.points[field], runs, label, log=field == "gamma")
        if ahead:
            axes.set(ylabel="$v_C - v_B$", title="Net reward gained")
        else:
            for curve, colour in zip(published.NEURON_SWEEPS[field].values(), ("#440154", "#fde725"), strict=True):
                axes.plot(list(curve), list(curve.values()), "o", ms=6, mfc=colour, mec="black", zorder=3)
            axes.set(ylabel="gain g", title="Control; circles: published")

    return panel


def _from_published(field: str, end: int) -> Callable[[Outcome], np.ndarray]:
    """Largest distance of g from the published curve at the first (0) or last (-1) value of a sweep, [1]."""

    def measure(outcome):
        curve = list(published.NEURON_SWEEPS[field].values())[end]
        g = _g(_sweep(outcome, field))[end]
        return np.abs(g[list(curve)] - list(curve.values())).max()

    return measure


def _least_step(field: str, start: int, stop: int) -> Callable[[Outcome], np.ndarray]:
    """Least difference of the mean gain of steps start .. stop between neighbours in a sweep."""
    return lambda outcome: np.diff(_g(_sweep(outcome, field))[:, start:stop].mean(1)).min()


def _most_step(field: str, start: int, stop: int) -> Callable[[Outcome], np.ndarray]:
    return lambda outcome: np.diff(_g(_sweep(outcome, field))[:, start:stop].mean(1)).max()


def _best_gain(field: str) -> Callable[[Outcome], np.ndarray]:
    return lambda outcome: _ahead(_sweep(outcome, field))[0].max()


SWEEP_CLAIMS = (
    *(
        close(
            f"The gain at the {word} {field} of its sweep is the published one",
            "largest |g - published g|",
            _from_published(field, end),
            0.0,
            0.01,
            1200,
        )
        for field in SWEEPS
        for word, end in (("least", 0), ("largest", -1))
    ),
    Tested("The less the future counts, the less control", "least increase of mean g from one gamma to the next",
           _least_step("gamma", 0, 600), above=-1e-3, steps=600),
    Tested("When only the present counts, control peaks late", "step of the largest g at gamma = 1e-8",
           lambda o: _g(_sweep(o, "gamma"))[0].argmax(), above=10, below=45, steps=600),
    Tested("More noise, less control", "largest increase of mean g from one sigma to the next",
           _most_step("sigma", 0, 600), below=0.0, steps=600),
    Tested("The more it costs, the less control", "largest increase of mean g from one beta to the next",
           _most_step("beta", 0, 600), below=1e-4, steps=600),
    Tested("More weight decay, less control at first",
           "largest increase of mean g, n < 10, from one lambda to the next",
           _most_step("decay", 0, 10), below=1e-3, steps=600),
    Tested("More weight decay, more control later",
           "least increase of mean g, n = 200 .. 600, from one lambda to the next",
           _least_step("decay", 200, 600), above=0.0, steps=600),
    Tested("Control costs at first in every setting", "largest v with minus without control at n = 0",
           lambda o: _ahead(o)[:, 0].max(), below=0.0, steps=500),
    close("As control becomes free it gains up to 0.115", "largest v with minus without control at the least beta",
          _best_gain("beta"), 0.115, 0.01, 600),
    close("Without noise control gains up to 0.08", "largest v with minus without control at the least sigma",
          _best_gain("sigma"), 0.08, 0.01, 600),
)  # fmt: skip
_LABELS = (r"discount $\gamma$", r"noise $\sigma$", r"cost $\beta$", r"decay $\lambda$", "horizon T")


EXPERIMENTS = {
    "single_neuron": Experiment(
        "Gain of a single neuron",
        presets(NEURON, CONVERGED | {"tolerance": 1e-6}, {"steps": 60}),
        single_neuron,
        (
            panels.loss(published.NEURON_LOSS),
            panels.reward,
            panels.measures({"g": "g"}, "gain g", "Control", {"g": published.NEURON_GAIN}),
            panels.both({"w": "w"}, "raw weight w", "Weight", {"w": published.NEURON_WEIGHT}),
        ),
        NEURON_CLAIMS,
        columns=4,
    ),
    "single_neuron_sweeps": Experiment(
        "Gain of a single neuron, one setting varied at a time",
        presets(
            NeuronSweeps(**(dataclasses.asdict(NEURON) | {"steps": 1200, "horizon": 600})),
            {},
            {"values": 3, "steps": 60, "horizon": 40, "horizons": (30, 60), "seeds": 1},
        ),
        single_neuron,
        tuple(
            _sweep_panel(field, label, ahead)
            for ahead in (False, True)
            for field, label in zip(SWEEPS, _LABELS, strict=True)
        ),
        SWEEP_CLAIMS,
        points=sweep_points,
        columns=5,
    ),
}
