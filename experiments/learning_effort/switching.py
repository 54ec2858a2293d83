"""Task switch: two tasks take turns, the learner knows when, and its gains adapt."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from experiments.learning_effort import panels, published
from experiments.learning_effort.gains import Gains, gain_measures, gain_of, stored_digits
from experiments.learning_effort.settings import CONVERGED, DigitSettings, presets
from experiments.learning_effort.studies import Experiment, Outcome, Study, Tested, close, study_of
from metalearn.effort import datasets, networks
from metalearn.effort.datasets import Dataset
from metalearn.effort.system import Scenario, taking_turns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switching(Gains):
    """Two tasks in turn."""

    every: int
    """Steps from one switch to the next."""

    def validate(self) -> None:
        """Checks that there is a switch."""
        super().validate()
        if not 0 < self.every < self.steps:
            raise ValueError(
                f"every={self.every} must be in 1 .. steps - 1 = {self.steps - 1}, or no task ever changes"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitSwitching(Switching, DigitSettings):
    """Two pairs of digits in turn."""


def switching(settings: Switching, first: Dataset, second: Dataset) -> Study:
    """Two tasks in turn."""
    tasks = datasets.mixture([first, second])
    assert tasks.parts is not None
    widths = tasks.parts.x.shape[1], settings.hidden, tasks.parts.y.shape[1]
    network = networks.linear(widths, settings.scale)

    def measures(weights, signal):
        sizes = gain_measures(weights, signal)
        return sizes | {"effort": settings.beta * (sizes["G1"] + sizes["G2"])}

    scenario = Scenario(tasks.parts, taking_turns(settings.steps, settings.every))
    return study_of(settings, network, gain_of(settings, network), tasks, measures, scenario=scenario)


def gaussians(settings: Switching) -> Study:
    """Tasks A and B."""
    return switching(settings, datasets.task_a(), datasets.task_b())


def digit_pairs(second: tuple[int, int]) -> Callable[[DigitSwitching], Study]:
    """Digits (1, 3) and another pair."""
    return lambda settings: switching(
        settings, stored_digits((1, 3), settings.data), stored_digits(second, settings.data)
    )


def switches(outcome: Outcome) -> np.ndarray:
    """Numbers of the steps at which a new task begins, the first task left out."""
    return np.arange(outcome.settings.every, outcome.settings.steps, outcome.settings.every)


def _peaks(outcome: Outcome, which: str, task: int) -> np.ndarray:
    """The loss at each switch to `task` (0, 1), [lanes, switches]."""
    return getattr(outcome, which).loss[:, switches(outcome)[(task + 1) % 2 :: 2]]


def _efforts(outcome: Outcome) -> np.ndarray:
    """Effort at each switch, [lanes, switches]."""
    return outcome.control.measures["effort"][:, switches(outcome)]


def _anticipation(outcome: Outcome) -> np.ndarray:
    """log10 of the effort just before a switch over that two fifths of a turn before, mean over switches, [lanes]."""
    effort, early = outcome.control.measures["effort"], 2 * outcome.settings.every // 5
    return np.log10(effort[:, switches(outcome) - 5] / effort[:, switches(outcome) - early]).mean(1)


def _shrinking(task: int) -> Callable[[Outcome], ArrayLike]:
    """Largest ratio of the loss with control at a switch to `task` to that at the switch before, [lanes]."""

    def measure(outcome):
        peaks = _peaks(outcome, "control", task)
        return (peaks[:, 1:] / peaks[:, :-1]).max(1) if peaks.shape[1] > 1 else []

    return measure


def _floors(which: str) -> Callable[[Outcome], ArrayLike]:
    """Loss at the end of the turns of task A after the first, mean over turns, [lanes]."""

    def measure(outcome):
        ends = switches(outcome)[2::2] - 1
        return getattr(outcome, which).loss[:, ends].mean(1) if ends.size else []

    return measure


def _settled(outcome: Outcome) -> ArrayLike:
    """Loss with control 300 steps after a switch minus that at the end of the turn, last turn that is whole."""
    times, every = switches(outcome), outcome.settings.every
    if len(times) < 2 or every < 300:
        return []
    return outcome.control.loss[:, times[-2] + 300] - outcome.control.loss[:, times[-2] + every - 1]


SHRINKING = (
    Tested("Control is worth more than it costs", "V with minus without control",
           lambda o: o.control.value - o.baseline.value, above=0.0),
    Tested("With control switches cost less and less (to the second task)",
           "largest ratio of the loss at a switch to that at the switch before",
           _shrinking(1), below=1.0),
    Tested("With control switches cost less and less (to the first task)",
           "largest ratio of the loss at a switch to that at the switch before",
           _shrinking(0), below=1.0),
    Tested("Effort shrinks with the number of switches", "effort at the last over that at the third switch",
           lambda o: _efforts(o)[:, -1] / _efforts(o)[:, 2] if len(switches(o)) > 3 else [], below=1.0),
    Tested("Effort rises before a switch", "log10 of effort 5 steps before over that 2/5 of a turn before",
           _anticipation, above=0.0, steps=9000),
)  # fmt: skip
GAUSSIAN_CLAIMS = (
    *SHRINKING,
    Tested("Without control switches to B go on to cost 1.5", "loss at the last switch to B without control",
           lambda o: _peaks(o, "baseline", 1)[:, -1], above=1.44, below=1.56, steps=9000),
    Tested("Without control switches to A go on to cost 2.59", "loss at the last switch to A without control",
           lambda o: _peaks(o, "baseline", 0)[:, -1], above=2.53, below=2.65, steps=9000),
    close("With control the sixth switch (to A) costs 0.41", "loss at n = 10800 with control",
          lambda o: o.control.loss[:, 10800], 0.41, 0.1, 16000),
    close("With control the seventh switch (to B) costs 0.27", "loss at n = 12600 with control",
          lambda o: o.control.loss[:, 12600], 0.27, 0.1, 16000),
    close("Between switches learning without control nears the floor 0.2513 of task A",
          "loss at the end of later turns", _floors("baseline"), 0.2513, 0.02, 9000),
    close("Between switches learning with control nears the floor 0.2513 of task A",
          "loss at the end of later turns", _floors("control"), 0.2513, 0.02, 9000),
    Tested("With control the floor is reached within 300 steps", "loss 300 steps after a late switch minus the floor",
           _settled, below=0.02, steps=9000),
)  # fmt: skip


def _effort(axes, outcome: Outcome) -> None:
    """Effort relative to its largest."""
    effort = outcome.control.measures["effort"]
    panels.along(axes, outcome, effort / effort.max(1, keepdims=True), color=panels.CONTROL, label="here")
    if outcome.settings.every == 1800:
        panels.markers(axes, outcome, published.SWITCH_EFFORT, panels.CONTROL)
        axes.legend()
    axes.set(ylabel="RMS $G_1$ + RMS $G_2$, relative", title="Effort")


def _at_switches(axes, outcome: Outcome) -> None:
    """Losses at switches by their number."""
    n = np.append(0, switches(outcome))
    for which, colour in (("baseline", panels.BASELINE), ("control", panels.CONTROL)):
        losses = getattr(outcome, which).loss[:, n].mean(0)
        axes.plot(np.arange(len(n)), losses, "-", color=colour, label=which)
        if outcome.settings.every == 1800:
            curve = [published.SWITCH_LOSS[which].get(int(step), np.nan) for step in n]
            axes.plot(np.arange(len(n)), curve, "o", ms=5, mfc="none", mec=colour)
    if outcome.settings.every == 1800:
        axes.plot([], [], "o", ms=5, mfc="none", mec="gray", label="published")
    axes.set(xlabel="number of the switch", ylabel="expected loss L", title="Loss at the switches")
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])
    axes.legend(ncols=3, fontsize=8, loc="upper center")


PANELS = (
    panels.loss(),
    panels.reward,
    _at_switches,
    _effort,
    panels.measures({"G1": "$G_1$", "G2": "$G_2$"}, "RMS over weights", "Gains"),
    panels.both({"L1": "mean |w|", "L2": "RMS w"}, "size of weights", "Weights, both layers"),
)
GAUSSIANS = Switching(
    steps=23000, dt=5e-3, hidden=8, decay=1e-3, every=1800, batch=256,
    optimizer="ascent", rate=1.0, iterations=1000,
)  # fmt: skip
DIGITS = DigitSwitching(
    steps=36000, dt=5e-3, hidden=50, decay=0.01, every=6000, segment=128,
    optimizer="ascent", rate=1.0, iterations=500,
)  # fmt: skip
SMALLER = {"steps": 15000, "every": 3000, "hidden": 8, "seeds": 2, "segment": 0, "iterations": 60}
TINY = {"steps": 60, "every": 20, "hidden": 4, "batch": 4}

EXPERIMENTS = {
    "task_switch": Experiment(
        "Two Gaussian problems in turn",
        presets(GAUSSIANS, CONVERGED | {"seeds": 4}, TINY),
        gaussians,
        PANELS,
        GAUSSIAN_CLAIMS,
    ),
    "task_switch_shared": Experiment(
        "Two pairs of digits in turn, one digit in both",
        presets(DIGITS, CONVERGED | SMALLER, TINY),
        digit_pairs((8, 3)),
        PANELS,
        SHRINKING,
    ),
    "task_switch_different": Experiment(
        "Two different pairs of digits in turn",
        presets(DIGITS, CONVERGED | SMALLER, TINY),
        digit_pairs((9, 5)),
        PANELS,
        SHRINKING,
    ),
}
