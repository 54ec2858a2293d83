"""All experiments by name."""

from experiments.learning_effort import (
    category_assimilation,
    class_engagement,
    deep_classes,
    gains,
    initial_weights,
    momentum,
    neuron,
    rates,
    short_sight,
    soft_committee,
    switching,
    task_engagement,
    task_modulation,
    uncertain_switch,
)
from experiments.learning_effort.studies import Experiment

BEYOND: dict[str, Experiment] = (
    short_sight.EXPERIMENTS
    | uncertain_switch.EXPERIMENTS
    | momentum.EXPERIMENTS
    | deep_classes.EXPERIMENTS
    | soft_committee.EXPERIMENTS
)
EXPERIMENTS: dict[str, Experiment] = (
    neuron.EXPERIMENTS
    | gains.EXPERIMENTS
    | switching.EXPERIMENTS
    | class_engagement.EXPERIMENTS
    | category_assimilation.EXPERIMENTS
    | task_engagement.EXPERIMENTS
    | task_modulation.EXPERIMENTS
    | rates.EXPERIMENTS
    | initial_weights.EXPERIMENTS
    | BEYOND
)
