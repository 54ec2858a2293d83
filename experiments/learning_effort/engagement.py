"""Engagement: the control says how much each class, or each task, counts for learning.

All that these experiments measure is "engagement" by groups (levels of a tree, digits, tasks), the easiest group first,
so that "easy first, then sustained on hard" is the same claim for each.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from experiments.learning_effort import panels, published
from experiments.learning_effort.gains import WORTH, DigitGains, SemanticGains, at, source_of, stored_digits
from experiments.learning_effort.settings import CONVERGED, DigitSettings, Settings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, close, study_of
from metalearn.effort import controls, datasets, moments, networks
from metalearn.effort.datasets import Dataset
from metalearn.effort.system import Scenario

PAIRS = ((0, 1), (7, 1), (8, 9))  # of digits, by difficulty
LEVELS = ("root", "level 1", "level 2", "leaves")


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tasks(DigitSettings):
    """Engagement with pairs of digits, each pair a task; side by side in one network."""

    kind: Literal["attention", "active", "vector"]
    """What engagement is and costs; see controls.task_engagement."""
    hidden: int = 20
    """H: hidden units."""
    tasks: int = 3
    """Tasks, the easiest first: 2 or 3."""

    def validate(self) -> None:
        """Checks that there are so many tasks."""
        super().validate()
        if self.tasks not in (2, 3):
            raise ValueError(f"tasks={self.tasks} must be 2 or 3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modulation(DigitSettings):
    """Shares of tasks, which have inputs and outputs in common, in the data."""

    hidden: int = 20
    """H: hidden units."""
    moments: Literal["released", "exact"]
    """The paper's code, or the moments of a mixture of tasks; see controls.task_modulation."""
    judge: Literal["first", "mean"]
    """The task on which performance is judged: the first, or all alike."""


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


def tasks(settings: Tasks) -> Study:
    """Pairs of digits side by side."""
    pairs = PAIRS if settings.tasks == 3 else ((0, 1), (1, 7))
    together = datasets.side_by_side([stored_digits(pair, settings.data) for pair in pairs])
    network = networks.linear((26 * len(pairs), settings.hidden, 2 * len(pairs)), settings.scale)
    control = controls.task_engagement((2,) * len(pairs), settings.beta, settings.kind)
    study = study_of(settings, network, control, together, lambda weights, psi: {"engagement": psi})
    return study._replace(data=f"pairs of digits of {source_of(settings.data)}")


def modulation(settings: Modulation) -> Study:
    """Pairs of digits with the same inputs and outputs."""
    mixed = datasets.mixture([stored_digits(pair, settings.data) for pair in PAIRS])
    assert mixed.parts is not None
    network = networks.linear((26, settings.hidden, 2), settings.scale)
    control = controls.task_modulation(len(PAIRS), settings.beta, settings.moments, settings.judge)
    measures = lambda weights, u: {"engagement": jax.nn.softmax(u)}
    scenario = Scenario(mixed.parts)
    study = study_of(settings, network, control, mixed, measures, scenario=scenario, shares=jax.nn.softmax)
    return study._replace(data=f"pairs of digits of {source_of(settings.data)}")


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


def _ranks(first: Callable[[Outcome], np.ndarray], second: Callable[[Outcome], np.ndarray]) -> Callable:
    """Spearman's rank correlation of two [lanes, groups]."""
    correlation = lambda pair: scipy.stats.spearmanr(*pair).statistic
    return lambda outcome: np.array([correlation(pair) for pair in zip(first(outcome), second(outcome), strict=True)])


def _ease(outcome: Outcome) -> np.ndarray:
    """[lanes, groups], larger for groups that are easier."""
    lanes, _, groups = engagement(outcome).shape
    return np.tile(-np.arange(groups), (lanes, 1))


def _drops(start: int, stop: int) -> Callable[[Outcome], np.ndarray]:
    """Least drop from a group to the next, harder one of mean engagement in steps start .. stop."""
    return lambda outcome: -np.diff(engagement(outcome)[:, start:stop].mean(1), axis=1).max(1)


def _spread(outcome: Outcome) -> np.ndarray:
    """Largest difference between groups at the end."""
    last = engagement(outcome)[:, -1]
    return last.max(1) - last.min(1)


_saved = lambda outcome: outcome.baseline.loss - outcome.control.loss
VALUE = WORTH[:1]
TURNS = Tested("Engagement goes from easy to hard", "least time from one group to the next, steps", _turns,
               above=0.0, steps=3000)  # fmt: skip
TREE_CLAIMS = (
    *VALUE,
    TURNS._replace(statement="Engagement turns from the root to levels 1, 2 and leaves"),
    Tested("At first no level counts less than a finer one",
           "least drop of engagement from a level to the next, first 100 steps", _drops(0, 100),
           above=-1e-3, steps=3000),
    Tested("... and the root more than the leaves", "engagement of the root minus that of leaves, first 100 steps",
           lambda o: (engagement(o)[:, :100, 0] - engagement(o)[:, :100, -1]).mean(1), above=0.5, steps=3000),
    Tested("The root gets all that it can at first", "engagement of the root, mean of the first 1000 steps",
           lambda o: engagement(o)[:, :1000, 0].mean(1), above=1.9, steps=3000),
    close("The root gets no more than 0.82 once learned", "engagement of the root at n = 3000",
          lambda o: engagement(o)[:, 3000, 0], 0.82, 0.1, 5000),
    close("Leaves count most at about n = 8000", "step of the largest engagement of leaves",
          lambda o: engagement(o)[:, :, 3].argmax(1), 8000, 2000, 9000),
    close("At most a loss of 1.04 is saved", "largest L without minus with control", lambda o: _saved(o).max(1),
          1.04, 0.1, 5000),
    close("... at n = 3050", "step of the largest difference of L", lambda o: _saved(o).argmax(1), 3050, 300, 5000),
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
           _ranks(lambda o: engagement(o)[:, 0], _ease), above=0.0, steps=1000),
    Tested("Easier digits have their turn earlier", "rank correlation of the time of engagement with difficulty",
           _ranks(favoured, lambda o: -_ease(o)), above=0.0, steps=3000),
    Tested("Engagement evens out", "engagement of digits at n = 3000, largest minus least",
           lambda o: np.ptp(engagement(o)[:, 3000], axis=1), below=0.05, steps=4000),
    close("At most a loss of 0.0145 is saved", "largest L without minus with control",
          lambda o: _saved(o).max(1), 0.0145, 0.004, 2000),
    close("... at n = 750", "step of the largest difference of L", lambda o: _saved(o).argmax(1), 750, 200, 2000),
    Tested("Some digits are learned worse", "least loss saved by a digit, mean over 2000 steps",
           lambda o: _gained(o).min(1), below=0.0, steps=2000),
    Tested("Sampling digits in proportion to engagement beats sampling them alike",
           "steps saved to the loss that the baseline has at n = 1280", _sampled_lead, above=0.0, steps=2000),
    close("... by 110 steps", "steps saved to the loss that the baseline has at n = 1280", _sampled_lead, 110, 40,
          2000),
)  # fmt: skip
ASSIMILATION_TREE_CLAIMS = (
    *VALUE,
    Tested("At first coarser levels get more gain", "least drop of gain from a level to the next, first 100 steps",
           _drops(0, 100), above=0.0, steps=3000),
    close("The root's gain starts at 0.103", "gain of the root at n = 0", lambda o: engagement(o)[:, 0, 0],
          0.103, 0.02),
    close("Level 1 starts at 0.048", "gain of level 1 at n = 0", lambda o: engagement(o)[:, 0, 1], 0.048, 0.01),
    TURNS._replace(statement="Gain turns from the root to levels 1, 2 and leaves"),
    close("At most a loss of 0.26 is saved", "largest L without minus with control", lambda o: _saved(o).max(1),
          0.26, 0.04, 5000),
    close("... at n = 3300", "step of the largest difference of L", lambda o: _saved(o).argmax(1), 3300, 300, 5000),
)  # fmt: skip
ASSIMILATION_DIGIT_CLAIMS = (
    *VALUE,
    Tested("Easier digits have their turn earlier", "rank correlation of the time of gain with difficulty",
           _ranks(favoured, lambda o: -_ease(o)), above=0.0, steps=3000),
    Tested("Gains are of order 0.001", "largest gain", lambda o: np.abs(engagement(o)).max((1, 2)),
           above=3e-4, below=0.01, steps=3000),
    Tested("... and save about 0.0001 of loss", "largest L without minus with control", lambda o: _saved(o).max(1),
           above=3e-5, below=1e-3, steps=3000),
)  # fmt: skip


def _released(task: int) -> Callable[[Outcome], np.ndarray]:
    """Last step at which a task's engagement is half-way from its final value to that at n = 500."""

    def measure(outcome):
        values = engagement(outcome)[:, :, task]
        half = (values[:, 500] + values[:, -1]) / 2
        above = values > half[:, None]
        return values.shape[1] - 1 - above[:, ::-1].argmax(1)

    return measure


TASK_CLAIMS = (
    Tested("The middle task's effort ends after the easy one's", "steps between the ends of their effort",
           lambda o: _released(1)(o) - _released(0)(o), above=0.0, steps=6000),
    Tested("The hard task's effort ends last", "steps after the end of the middle one's",
           lambda o: _released(2)(o) - _released(1)(o), above=0.0, steps=6000),
    Tested("All tasks end with equal effort", "largest difference at the end", _spread, below=0.05, steps=13000),
)  # fmt: skip
ATTENTION_CLAIMS = (
    *VALUE,
    *TASK_CLAIMS,
    Tested("After the start effort is ordered easy, middle, hard", "least drop from task to task, n = 200 .. 500",
           _drops(200, 500), above=0.0, steps=6000),
    close("It ends at 1", "engagement at the end, mean of tasks", lambda o: engagement(o)[:, -1].mean(1), 1.0, 0.05,
          13000),
    Tested("Control lowers the loss at n = 2000 from 0.671 to 0.534", "L without minus with control at n = 2000",
           lambda o: _saved(o)[:, 2000], above=0.10, below=0.18, steps=3000),
)  # fmt: skip
COSTLY_CLAIMS = (  # not that control is worth more: to engage at all costs, and the baseline pays nothing
    *TASK_CLAIMS,
    close("Engagement ends at 0.655", "engagement at the end, mean of tasks", lambda o: engagement(o)[:, -1].mean(1),
          0.655, 0.05, 13000),
    Tested("It saves cost: the loss ends above the baseline's", "L with minus without control at the end",
           lambda o: -_saved(o)[:, -1], above=0.0, steps=6000),
)  # fmt: skip
TWO_CLAIMS = (*VALUE, TASK_CLAIMS[0], TASK_CLAIMS[2])
MODULATION_CLAIMS = (
    close("About 0.75 of the data are of the easiest task", "share, mean over time",
          lambda o: engagement(o)[:, :, 0].mean(1), 0.75, 0.05),
    close("The loss of that task ends at 0.03", "L with control at the end", at(-1), 0.03, 0.01, 15000),
    close("... and without control at 0.13", "L without control at the end", at(-1, "baseline"), 0.13, 0.02, 15000),
)  # fmt: skip
MIXTURE_CLAIMS = (
    *VALUE,
    Tested("When all tasks count, the easiest does not get all it can", "its share, mean over time",
           lambda o: engagement(o)[:, :, 0].mean(1), below=0.6, steps=3000),
)  # fmt: skip


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


def digit_names(outcome: Outcome) -> list[str]:
    """Digits from easy to hard."""
    return [str(digit) for digit in by_difficulty(outcome.settings.data)]


def level_names(outcome: Outcome) -> list[str]:
    """Levels of a tree from coarse to fine."""
    count = engagement(outcome).shape[2]
    return [*LEVELS[: count - 1], "leaves"]


def _pairs(outcome: Outcome) -> list[str]:
    return ["0, 1", "7, 1", "8, 9"][: engagement(outcome).shape[2]]


_PHI, _PSI = r"engagement $\varphi$", r"engagement $\psi$"
TREE = TreeClasses(
    steps=18000, dt=5e-3, hidden=30, scale=1e-4, beta=5.0, start=0.0, segment=128,
    optimizer="ascent", rate=1.0, iterations=600,
)  # fmt: skip
TEN = DigitClasses(
    steps=30000, dt=5e-2, hidden=50, beta=5.0, start=0.0, segment=128, batch=4048,
    optimizer="ascent", rate=1.0, iterations=600,
)  # fmt: skip
TREE_GAINS = SemanticGains(
    steps=18000, dt=5e-3, hidden=20, scale=1e-4, beta=0.1, segment=128,
    optimizer="ascent", rate=1.0, iterations=600,
)  # fmt: skip
TEN_GAINS = DigitGains(
    steps=30000, dt=5e-2, hidden=50, beta=0.1, segment=128, batch=256,
    optimizer="ascent", rate=1.0, iterations=600,
)  # fmt: skip
ATTENTION = Tasks(
    kind="attention", steps=13000, dt=5e-3, beta=0.1, start=0.0, segment=128, batch=256,
    optimizer="ascent", rate=1.0, iterations=800,
)  # fmt: skip
SOFTMAX = Modulation(
    moments="released", judge="first", steps=15000, dt=5e-3, beta=0.1, start=0.0, segment=128, batch=512,
    optimizer="adam", rate=0.02, iterations=1000,
)  # fmt: skip
BUDGET = CONVERGED | {"iterations": 100, "segment": 0}
TINY_TREE = {"steps": 60, "levels": 3, "hidden": 5, "batch": 8}
TINY = {"steps": 60, "hidden": 4, "batch": 8}


def _task_experiment(title: str, paper: Tasks, claims: tuple[Tested, ...], curves: Any) -> Experiment:
    return Experiment(
        title,
        presets(paper, BUDGET | {"hidden": 10, "seeds": 4}, TINY),
        tasks,
        (
            panels.loss(published.TASKS_LOSS.get(paper.kind) if paper.tasks == 3 else None),
            panels.reward,
            groups(_pairs, _PSI, "Engagement with each task", curves),
            panels.gap,
        ),
        claims,
        columns=4,
    )


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
    "category_assimilation_semantic": Experiment(
        "A gain for each node of a tree of concepts",
        presets(TREE_GAINS, BUDGET | {"hidden": 16, "seeds": 2, "runs": 2}, TINY_TREE),
        tree_gains,
        (panels.loss(), panels.gap, groups(level_names, r"gain $\nu$", "Gain, mean of each level"), panels.cost),
        ASSIMILATION_TREE_CLAIMS,
        columns=4,
    ),
    "category_assimilation_digits": Experiment(
        "A gain for each of ten digits",
        presets(TEN_GAINS, BUDGET | {"hidden": 20, "steps": 6000, "seeds": 2}, TINY),
        digit_gains,
        (panels.loss(), panels.gap, groups(digit_names, r"gain $\nu$", "Gain of each digit"), panels.cost),
        ASSIMILATION_DIGIT_CLAIMS,
        columns=4,
    ),
    "task_engagement_attention": _task_experiment(
        "Attention to three tasks", ATTENTION, ATTENTION_CLAIMS, published.TASKS_ENGAGEMENT["attention"]
    ),
    "task_engagement_active": _task_experiment(
        "Active engagement with three tasks",
        dataclasses.replace(ATTENTION, kind="active"),
        COSTLY_CLAIMS,
        published.TASKS_ENGAGEMENT["active"],
    ),
    "task_engagement_vector": _task_experiment(
        "Engagement with three tasks as a vector",
        dataclasses.replace(ATTENTION, kind="vector"),
        COSTLY_CLAIMS,
        published.TASKS_ENGAGEMENT["vector"],
    ),
    "task_engagement_two": _task_experiment(
        "Attention to two tasks", dataclasses.replace(ATTENTION, tasks=2, steps=10000), TWO_CLAIMS, ()
    ),
    "task_modulation": Experiment(
        "Shares of three tasks in the data, moments as released",
        presets(SOFTMAX, BUDGET | {"hidden": 10, "seeds": 4}, TINY),
        modulation,
        (panels.loss(), panels.reward, groups(_pairs, "share of the task", "Shares in the data")),
        MODULATION_CLAIMS,
    ),
    "task_modulation_exact": Experiment(
        "Shares of three tasks in the data, moments of a mixture, all tasks judged",
        presets(dataclasses.replace(SOFTMAX, moments="exact", judge="mean"), BUDGET | {"hidden": 10, "seeds": 4}, TINY),
        modulation,
        (panels.loss(), panels.reward, groups(_pairs, "share of the task", "Shares in the data")),
        MIXTURE_CLAIMS,
    ),
}
