"""All experiments by name."""

from experiments.learning_effort import gains
from experiments.learning_effort.studies import Experiment

EXPERIMENTS: dict[str, Experiment] = gains.EXPERIMENTS
