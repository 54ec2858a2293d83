"""All experiments by name."""

from experiments.learning_effort import beyond, engagement, gains, initial_weights, neuron, rates, switching
from experiments.learning_effort.studies import Experiment

EXPERIMENTS: dict[str, Experiment] = (
    neuron.EXPERIMENTS
    | gains.EXPERIMENTS
    | switching.EXPERIMENTS
    | engagement.EXPERIMENTS
    | rates.EXPERIMENTS
    | initial_weights.EXPERIMENTS
    | beyond.EXPERIMENTS
)
