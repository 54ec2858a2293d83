"""Engagement: the control says how much each class, or each task, counts for learning.

All that these experiments measure is "engagement" by groups (levels of a tree, digits, tasks), the easiest group first,
so that "easy first, then sustained on hard" is the same claim for each.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from experiments.learning_effort import panels, published
from experiments.learning_effort.gains import WORTH, stored_digits
from experiments.learning_effort.settings import CONVERGED
from experiments.learning_effort.studies import Outcome, Tested
from metalearn.effort import moments
from metalearn.effort.datasets import Dataset

PAIRS = ((0, 1), (7, 1), (8, 9))  # of digits, by difficulty
LEVELS = ("root", "level 1", "level 2", "leaves")


def level_of(outputs: Sequence[str]) -> np.ndarray:
    """The level of each node of a tree, by its name; the root's is 0."""
    return np.array([0 if name == "root" else len(name) for name in outputs])


def by_level(tree: Dataset) -> np.ndarray:
    """Mean over the nodes of each level, as a matrix [levels, outputs]."""
    level = level_of(tree.outputs)
    members = level == np.arange(level.max() + 1)[:, None]
    return members / members.sum(1, keepdims=True)


@functools.cache
def by_difficulty(folder: str) -> tuple[int, ...]:
    """The ten digits from easy to hard: by the best linear loss of telling one from another, mean over the others."""
    ten = stored_digits(tuple(range(10)), folder)
    classes = ten.parts
    assert classes is not None
    frequency = np.diagonal(ten.moments.yy)

    @jax.jit
    def pair(outputs):
        """Best loss of telling two digits apart."""
        two = jnp.zeros(10).at[outputs].set(1) * frequency
        both = moments.mixture(two / two.sum(), classes)
        return moments.best_loss(both._replace(xy=both.xy[:, outputs], yy=both.yy[outputs][:, outputs]))

    with jax.ensure_compile_time_eval():  # studies are built while JAX traces
        losses = [sum(float(pair(jnp.array([a, b]))) for b in range(10) if b != a) for a in range(10)]
    return tuple(np.argsort(losses).tolist())


def engagement(outcome: Outcome) -> np.ndarray:
    """[lanes, T, groups], the easiest group first."""
    return outcome.control.measures["engagement"]


def favoured(outcome: Outcome) -> np.ndarray:
    """When each group is favoured: mean step, weighted by engagement in excess of all groups' mean, [lanes, groups]."""
    values = engagement(outcome)
    excess = np.maximum(values - values.mean(2, keepdims=True), 0)
    return (outcome.n[:, None] * excess).sum(1) / excess.sum(1)


def _turns(outcome: Outcome) -> ArrayLike:
    """Least time from one group to the next in `favoured`."""
    return np.diff(favoured(outcome), axis=1).min(1)


def ranks(first: Callable[[Outcome], np.ndarray], second: Callable[[Outcome], np.ndarray]) -> Callable:
    """Spearman's rank correlation of two [lanes, groups]."""
    correlation = lambda pair: scipy.stats.spearmanr(*pair).statistic
    return lambda outcome: np.array([correlation(pair) for pair in zip(first(outcome), second(outcome), strict=True)])


def ease(outcome: Outcome) -> np.ndarray:
    """[lanes, groups], larger for groups that are easier."""
    lanes, _, groups = engagement(outcome).shape
    return np.tile(-np.arange(groups), (lanes, 1))


def drops(start: int, stop: int) -> Callable[[Outcome], np.ndarray]:
    """Least drop from a group to the next, harder one of mean engagement in steps start .. stop."""
    return lambda outcome: -np.diff(engagement(outcome)[:, start:stop].mean(1), axis=1).max(1)


def spread(outcome: Outcome) -> np.ndarray:
    """Largest difference between groups at the end."""
    last = engagement(outcome)[:, -1]
    return last.max(1) - last.min(1)


saved = lambda outcome: outcome.baseline.loss - outcome.control.loss
VALUE = WORTH[:1]
TURNS = Tested("Engagement goes from easy to hard", "least time from one group to the next, steps", _turns,
               above=0.0, steps=3000)  # fmt: skip


def groups(
    labels: Callable[[Outcome], Sequence[str]], ylabel: str, title: str, curves: Sequence[published.Curve] = ()
) -> panels.Panel:
    """Engagement of each group; more than four groups from dark (easy) to bright (hard)."""

    def panel(axes: Axes, outcome: Outcome) -> None:
        values, names = engagement(outcome), labels(outcome)
        colours = panels.in_order(len(names)) if len(names) > 4 else panels.COLOURS
        for group, (name, colour) in enumerate(zip(names, colours, strict=False)):
            panels.along(axes, outcome, values[:, :, group], label=name, color=colour)
        for curve, colour in zip(curves, colours, strict=False):
            panels.markers(axes, outcome, curve, colour, None)
        if curves:
            axes.plot([], [], "o", ms=5, mfc="none", mec="gray", label="published")
        axes.set(ylabel=ylabel, title=title)
        axes.legend(fontsize=8, ncols=1 + (len(names) > 4))

    return panel


def digit_names(outcome: Outcome) -> list[str]:
    """Digits from easy to hard."""
    return [str(digit) for digit in by_difficulty(outcome.settings.data)]


def level_names(outcome: Outcome) -> list[str]:
    """Levels of a tree from coarse to fine."""
    count = engagement(outcome).shape[2]
    return [*LEVELS[: count - 1], "leaves"]


def pair_names(outcome: Outcome) -> list[str]:
    """Pairs of digits from easy to hard."""
    return ["0, 1", "7, 1", "8, 9"][: engagement(outcome).shape[2]]


BUDGET = CONVERGED | {"iterations": 100, "segment": 0}
TINY_TREE = {"steps": 60, "levels": 3, "hidden": 5, "batch": 8}
TINY = {"steps": 60, "hidden": 4, "batch": 8}
