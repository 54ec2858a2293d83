"""Task engagement: how much each of several tasks, side by side in one network, counts for learning."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from experiments.learning_effort import panels, published
from experiments.learning_effort.engagement import (
    BUDGET,
    PAIRS,
    TINY,
    VALUE,
    drops,
    engagement,
    groups,
    pair_names,
    saved,
    spread,
)
from experiments.learning_effort.gains import source_of, stored_digits
from experiments.learning_effort.settings import DigitSettings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, close, study_of
from metalearn.effort import controls, datasets, networks


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


def tasks(settings: Tasks) -> Study:
    """Pairs of digits side by side."""
    pairs = PAIRS if settings.tasks == 3 else ((0, 1), (1, 7))
    together = datasets.side_by_side([stored_digits(pair, settings.data) for pair in pairs])
    network = networks.linear((26 * len(pairs), settings.hidden, 2 * len(pairs)), settings.scale)
    control = controls.task_engagement((2,) * len(pairs), settings.beta, settings.kind)
    study = study_of(settings, network, control, together, lambda weights, psi: {"engagement": psi})
    return study._replace(data=f"pairs of digits of {source_of(settings.data)}")


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
    Tested("All tasks end with equal effort", "largest difference at the end", spread, below=0.05, steps=13000),
)  # fmt: skip
ATTENTION_CLAIMS = (
    *VALUE,
    *TASK_CLAIMS,
    Tested("After the start effort is ordered easy, middle, hard", "least drop from task to task, n = 200 .. 500",
           drops(200, 500), above=0.0, steps=6000),
    close("It ends at 1", "engagement at the end, mean of tasks", lambda o: engagement(o)[:, -1].mean(1), 1.0, 0.05,
          13000),
    Tested("Control lowers the loss at n = 2000 from 0.671 to 0.534", "L without minus with control at n = 2000",
           lambda o: saved(o)[:, 2000], above=0.10, below=0.18, steps=3000),
)  # fmt: skip
COSTLY_CLAIMS = (  # not that control is worth more: to engage at all costs, and the baseline pays nothing
    *TASK_CLAIMS,
    close("Engagement ends at 0.655", "engagement at the end, mean of tasks", lambda o: engagement(o)[:, -1].mean(1),
          0.655, 0.05, 13000),
    Tested("It saves cost: the loss ends above the baseline's", "L with minus without control at the end",
           lambda o: -saved(o)[:, -1], above=0.0, steps=6000),
)  # fmt: skip
TWO_CLAIMS = (*VALUE, TASK_CLAIMS[0], TASK_CLAIMS[2])
_PSI = r"engagement $\psi$"
ATTENTION = Tasks(
    kind="attention", steps=13000, dt=5e-3, beta=0.1, start=0.0, segment=128, batch=256,
    optimizer="ascent", rate=1.0, iterations=800,
)  # fmt: skip


def _task_experiment(title: str, paper: Tasks, claims: tuple[Tested, ...], curves: Any) -> Experiment:
    return Experiment(
        title,
        presets(paper, BUDGET | {"hidden": 10, "seeds": 4}, TINY),
        tasks,
        (
            panels.loss(published.TASKS_LOSS.get(paper.kind) if paper.tasks == 3 else None),
            panels.reward,
            groups(pair_names, _PSI, "Engagement with each task", curves),
            panels.gap,
        ),
        claims,
        columns=4,
    )


EXPERIMENTS = {
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
}
