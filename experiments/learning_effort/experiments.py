"""All experiments by name."""

from experiments.learning_effort import gains, neuron, switching
from experiments.learning_effort.studies import Experiment

EXPERIMENTS: dict[str, Experiment] = neuron.EXPERIMENTS | gains.EXPERIMENTS | switching.EXPERIMENTS
