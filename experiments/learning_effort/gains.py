"""Gain modulation: the control multiplies weights, in the single neuron and in networks of two layers."""

import dataclasses

import jax
import numpy as np

from experiments.learning_effort import panels, published
from experiments.learning_effort.settings import CONVERGED, Settings, presets
from experiments.learning_effort.studies import Experiment, Study, Tested, close, study_of
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
    Tested("Control costs at first", "v with minus without control at n = 0", lambda o: _ahead(o)[:, 0], below=0.0),
    Tested("Control pays within tens of steps", "first step with more net reward than the baseline",
           lambda o: (_ahead(o) > 0).argmax(1), above=0, below=60, steps=100),
    Tested("Late raw weights are below the baseline's", "w with minus without control at the end",
           lambda o: (o.control.measures["w"] - o.baseline.measures["w"])[:, -1], below=0.0, steps=600),
    Tested("Late effective weights are above the baseline's", "w (1 + g) with minus without control at the end",
           lambda o: (o.control.measures["effective w"] - o.baseline.measures["w"])[:, -1], above=0.0, steps=600),
)  # fmt: skip

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
    ),
}
