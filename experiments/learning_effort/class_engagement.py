"""Class engagement: the control says how much each output counts for learning, nodes of a tree or ten digits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments.learning_effort import panels, published
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
from experiments.learning_effort.gains import stored_digits
from experiments.learning_effort.settings import DigitSettings, Settings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, close, study_of
from metalearn.effort import controls, datasets, networks
from metalearn.effort.datasets import Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeClasses(Settings):
    """Engagement with the nodes of a tree."""

    hidden: int
    """H: hidden units."""
    levels: int = 4
    """Levels of the tree."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitClasses(DigitSettings):
    """Engagement with digits."""

    hidden: int
    """H: hidden units."""


def class_losses(network: networks.Network, dataset: Dataset) -> Callable[[Any], jax.Array]:
    """Weights -> the expected loss of each output, [O]."""
    task = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), dataset.moments)
    return lambda weights: jax.vmap(lambda one: network.loss(weights, task, one))(jnp.eye(len(dataset.outputs)))


def tree_classes(settings: TreeClasses) -> Study:
    """Nodes of a tree."""
    tree = datasets.semantic(settings.levels)
    network = networks.linear((len(tree.moments.x), settings.hidden, len(tree.outputs)), settings.scale)
    control = controls.class_engagement(len(tree.outputs), settings.beta)
    groups = by_level(tree)
    return study_of(settings, network, control, tree, lambda weights, phi: {"engagement": groups @ phi})


def digit_classes(settings: DigitClasses) -> Study:
    """Ten digits; learning from samples draws them in proportion to engagement, as in the paper."""
    ten = stored_digits(tuple(range(10)), settings.data)
    network = networks.linear((26, settings.hidden, 10), settings.scale)
    control = controls.class_engagement(10, settings.beta)
    losses, order = class_losses(network, ten), np.array(by_difficulty(settings.data))
    measures = lambda weights, phi: {"engagement": phi[order], "losses": losses(weights)[order]}
    return study_of(settings, network, control, ten, measures, shares=lambda phi: phi)


TREE_CLAIMS = (
    *VALUE,
    TURNS._replace(statement="Engagement turns from the root to levels 1, 2 and leaves"),
    Tested("At first no level counts less than a finer one",
           "least drop of engagement from a level to the next, first 100 steps", drops(0, 100),
           above=-1e-3, steps=3000),
    Tested("... and the root more than the leaves", "engagement of the root minus that of leaves, first 100 steps",
           lambda o: (engagement(o)[:, :100, 0] - engagement(o)[:, :100, -1]).mean(1), above=0.5, steps=3000),
    Tested("The root gets all that it can at first", "engagement of the root, mean of the first 1000 steps",
           lambda o: engagement(o)[:, :1000, 0].mean(1), above=1.9, steps=3000),
    close("The root gets no more than 0.82 once learned", "engagement of the root at n = 3000",
          lambda o: engagement(o)[:, 3000, 0], 0.82, 0.1, 5000),
    close("Leaves count most at about n = 8000", "step of the largest engagement of leaves",
          lambda o: engagement(o)[:, :, 3].argmax(1), 8000, 2000, 9000),
    close("At most a loss of 1.04 is saved", "largest L without minus with control", lambda o: saved(o).max(1),
          1.04, 0.1, 5000),
    close("... at n = 3050", "step of the largest difference of L", lambda o: saved(o).argmax(1), 3050, 300, 5000),
)  # fmt: skip


def _sampled_lead(outcome: Outcome) -> np.ndarray:
    """Steps saved by sampling in proportion to engagement, up to the baseline's loss at n = 1280, in each run."""
    found = outcome.validation
    assert found is not None
    level = outcome.baseline.loss[0, 1280]
    when = lambda losses: found.steps[np.argmax(losses < level, 1)]
    return when(found.baseline) - when(found.control)


def _gained(outcome: Outcome) -> np.ndarray:
    """Of each digit, loss without minus with control, mean over the first 2000 steps, [lanes, 10]."""
    saved = outcome.baseline.measures["losses"] - outcome.control.measures["losses"]
    return saved[:, :2000].mean(1)


DIGIT_CLAIMS = (
    *VALUE,
    Tested("At first easier digits count more", "rank correlation of engagement at n = 0 with ease over 10 digits",
           ranks(lambda o: engagement(o)[:, 0], ease), above=0.0, steps=1000),
    Tested("Easier digits have their turn earlier", "rank correlation of the time of engagement with difficulty",
           ranks(favoured, lambda o: -ease(o)), above=0.0, steps=3000),
    Tested("Engagement evens out", "engagement of digits at n = 3000, largest minus least",
           lambda o: np.ptp(engagement(o)[:, 3000], axis=1), below=0.05, steps=4000),
    close("At most a loss of 0.0145 is saved", "largest L without minus with control",
          lambda o: saved(o).max(1), 0.0145, 0.004, 2000),
    close("... at n = 750", "step of the largest difference of L", lambda o: saved(o).argmax(1), 750, 200, 2000),
    Tested("Some digits are learned worse", "least loss saved by a digit, mean over 2000 steps",
           lambda o: _gained(o).min(1), below=0.0, steps=2000),
    Tested("Sampling digits in proportion to engagement beats sampling them alike",
           "steps saved to the loss that the baseline has at n = 1280", _sampled_lead, above=0.0, steps=2000),
    close("... by 110 steps", "steps saved to the loss that the baseline has at n = 1280", _sampled_lead, 110, 40,
          2000),
)  # fmt: skip


def _at_start(axes: Axes, outcome: Outcome) -> None:
    """Engagement of digits in the first steps against their difficulty."""
    first = engagement(outcome)[:, :10].mean((0, 1))
    names = digit_names(outcome)
    axes.plot(range(len(names)), first, "o-", color=panels.CONTROL, label="here")
    axes.plot(range(len(names)), [published.DIGIT_ENGAGEMENT[name] for name in names], "o", mfc="none", mec="gray",
              label="published")  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="digit, easy to hard", ylabel=r"engagement $\varphi$", title="Engagement at the start")
    axes.legend()


def _digits_saved(axes: Axes, outcome: Outcome) -> None:
    """Loss of each digit without minus with control."""
    saved = outcome.baseline.measures["losses"] - outcome.control.measures["losses"]
    names = digit_names(outcome)
    for digit, (name, colour) in enumerate(zip(names, panels.in_order(len(names)), strict=True)):
        panels.along(axes, outcome, saved[:1, :, digit], label=name, color=colour)
    axes.set(ylabel="$L_B - L_C$ of the digit", title="Loss saved, first of the initial weights")
    axes.legend(fontsize=8, ncols=2)


_PHI = r"engagement $\varphi$"
TREE = TreeClasses(
    steps=18000, dt=5e-3, hidden=30, scale=1e-4, beta=5.0, start=0.0, segment=128,
    optimizer="ascent", rate=1.0, iterations=600,
)  # fmt: skip
TEN = DigitClasses(
    steps=30000, dt=5e-2, hidden=50, beta=5.0, start=0.0, segment=128, batch=4048,
    optimizer="ascent", rate=1.0, iterations=600,
)  # fmt: skip

EXPERIMENTS = {
    "class_engagement_semantic": Experiment(
        "Engagement with nodes of a tree of concepts",
        presets(TREE, BUDGET | {"hidden": 16, "steps": 13000, "iterations": 150, "runs": 2}, TINY_TREE),
        tree_classes,
        (
            panels.loss(),
            panels.reward,
            panels.gap_to(published.TREE_SAVED),
            groups(level_names, _PHI, "Engagement, mean of each level", published.TREE_ENGAGEMENT),
        ),
        TREE_CLAIMS,
        columns=4,
    ),
    "class_engagement_digits": Experiment(
        "Engagement with ten digits",
        presets(TEN, BUDGET | {"hidden": 20, "steps": 5000, "seeds": 2, "batch": 1024, "iterations": 200}, TINY),
        digit_classes,
        (
            panels.loss(),
            panels.gap_to(published.DIGITS_SAVED),
            _digits_saved,
            groups(digit_names, _PHI, "Engagement with each digit"),
            _at_start,
            panels.reward,
        ),
        DIGIT_CLAIMS,
    ),
}
