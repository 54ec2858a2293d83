"""Task modulation: the control chooses the shares of several tasks in the data."""

import dataclasses
from typing import Literal

import jax

from experiments.learning_effort import panels
from experiments.learning_effort.engagement import BUDGET, PAIRS, TINY, VALUE, engagement, groups, pair_names
from experiments.learning_effort.gains import at, source_of, stored_digits
from experiments.learning_effort.settings import DigitSettings, presets
from experiments.learning_effort.studies import Experiment, Study, Tested, close, study_of
from metalearn.effort import controls, datasets, networks
from metalearn.effort.system import Scenario


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modulation(DigitSettings):
    """Shares of tasks, which have inputs and outputs in common, in the data."""

    hidden: int = 20
    """H: hidden units."""
    moments: Literal["released", "exact"]
    """The paper's code, or the moments of a mixture of tasks; see controls.task_modulation."""
    judge: Literal["first", "mean"]
    """The task on which performance is judged: the first, or all alike."""


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
SOFTMAX = Modulation(
    moments="released", judge="first", steps=15000, dt=5e-3, beta=0.1, start=0.0, segment=128, batch=512,
    optimizer="adam", rate=0.02, iterations=1000,
)  # fmt: skip

EXPERIMENTS = {
    "task_modulation": Experiment(
        "Shares of three tasks in the data, moments as released",
        presets(SOFTMAX, BUDGET | {"hidden": 10, "seeds": 4}, TINY),
        modulation,
        (panels.loss(), panels.reward, groups(pair_names, "share of the task", "Shares in the data")),
        MODULATION_CLAIMS,
    ),
    "task_modulation_exact": Experiment(
        "Shares of three tasks in the data, moments of a mixture, all tasks judged",
        presets(dataclasses.replace(SOFTMAX, moments="exact", judge="mean"), BUDGET | {"hidden": 10, "seeds": 4}, TINY),
        modulation,
        (panels.loss(), panels.reward, groups(pair_names, "share of the task", "Shares in the data")),
        MIXTURE_CLAIMS,
    ),
}
