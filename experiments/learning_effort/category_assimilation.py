"""Category assimilation: one gain for each output, on all weights into it; nodes of a tree or ten digits."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.learning_effort import panels
from experiments.learning_effort.engagement import (
    BUDGET,
    TINY,
    TINY_TREE,
    TURNS,
    VALUE,
    by_difficulty,
    by_level,
    digit_names,
    drops,
    ease,
    engagement,
    favoured,
    groups,
    level_names,
    ranks,
    saved,
)
from experiments.learning_effort.gains import DigitGains, SemanticGains, stored_digits
from experiments.learning_effort.settings import presets
from experiments.learning_effort.studies import Experiment, Study, Tested, close, study_of
from metalearn.effort import controls, datasets, networks
from metalearn.effort.datasets import Dataset


def tree_gains(settings: SemanticGains) -> Study:
    """One gain for each node of a tree, on all weights into it."""
    tree = datasets.semantic(settings.levels)
    groups = by_level(tree)
    return _output_gains(settings, tree, lambda nu: groups @ nu)


def digit_gains(settings: DigitGains) -> Study:
    """One gain for each digit."""
    ten = stored_digits(tuple(range(10)), settings.data)
    order = np.array(by_difficulty(settings.data))
    return _output_gains(settings, ten, lambda nu: nu[order])


def _output_gains(settings, dataset: Dataset, grouped: Callable[[jax.Array], Any]) -> Study:
    outputs = len(dataset.outputs)
    network = networks.linear((len(dataset.moments.x), settings.hidden, outputs), settings.scale)
    basis = controls.neuron_basis(outputs, settings.hidden)
    control = controls.gain_basis((None, basis), settings.beta, settings.lower, settings.upper)
    return study_of(settings, network, control, dataset, lambda weights, nu: {"engagement": grouped(nu[0])})


TREE_CLAIMS = (
    *VALUE,
    Tested("At first coarser levels get more gain", "least drop of gain from a level to the next, first 100 steps",
           drops(0, 100), above=0.0, steps=3000),
    close("The root's gain starts at 0.103", "gain of the root at n = 0", lambda o: engagement(o)[:, 0, 0],
          0.103, 0.02),
    close("Level 1 starts at 0.048", "gain of level 1 at n = 0", lambda o: engagement(o)[:, 0, 1], 0.048, 0.01),
    TURNS._replace(statement="Gain turns from the root to levels 1, 2 and leaves"),
    close("At most a loss of 0.26 is saved", "largest L without minus with control", lambda o: saved(o).max(1),
          0.26, 0.04, 5000),
    close("... at n = 3300", "step of the largest difference of L", lambda o: saved(o).argmax(1), 3300, 300, 5000),
)  # fmt: skip
DIGIT_CLAIMS = (
    *VALUE,
    Tested("Easier digits have their turn earlier", "rank correlation of the time of gain with difficulty",
           ranks(favoured, lambda o: -ease(o)), above=0.0, steps=3000),
    Tested("Gains are of order 0.001", "largest gain", lambda o: np.abs(engagement(o)).max((1, 2)),
           above=3e-4, below=0.01, steps=3000),
    Tested("... and save about 0.0001 of loss", "largest L without minus with control", lambda o: saved(o).max(1),
           above=3e-5, below=1e-3, steps=3000),
)  # fmt: skip
TREE_GAINS = SemanticGains(
    steps=18000, dt=5e-3, hidden=20, scale=1e-4, beta=0.1, segment=128,
    optimizer="ascent", rate=1.0, iterations=600,
)  # fmt: skip
TEN_GAINS = DigitGains(
    steps=30000, dt=5e-2, hidden=50, beta=0.1, segment=128, batch=256,
    optimizer="ascent", rate=1.0, iterations=600,
)  # fmt: skip

EXPERIMENTS = {
    "category_assimilation_semantic": Experiment(
        "A gain for each node of a tree of concepts",
        presets(TREE_GAINS, BUDGET | {"hidden": 16, "seeds": 2, "runs": 2}, TINY_TREE),
        tree_gains,
        (panels.loss(), panels.gap, groups(level_names, r"gain $\nu$", "Gain, mean of each level"), panels.cost),
        TREE_CLAIMS,
        columns=4,
    ),
    "category_assimilation_digits": Experiment(
        "A gain for each of ten digits",
        presets(TEN_GAINS, BUDGET | {"hidden": 20, "steps": 6000, "seeds": 2}, TINY),
        digit_gains,
        (panels.loss(), panels.gap, groups(digit_names, r"gain $\nu$", "Gain of each digit"), panels.cost),
        DIGIT_CLAIMS,
        columns=4,
    ),
}
