"""Beyond the paper: learning rate of a soft committee machine, a non-linear learner averaged exactly."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.learning_effort import engagement, panels
from experiments.learning_effort.beyond import SOURCE, beyond, presets_of
from experiments.learning_effort.settings import Settings
from experiments.learning_effort.studies import Experiment, Outcome, Study
from metalearn.effort import committee, controls
from metalearn.effort.system import Plan, Problem, Scenario


@dataclasses.dataclass(frozen=True, kw_only=True)
class Committee(Settings):
    """Learning rate of a soft committee machine that learns from one example at a time."""

    hidden: int = 2
    """K: hidden units of the student, and M of the teacher."""
    inputs: int = 1000
    """N: inputs."""
    speed: float = 1.0
    """eta: learning rate at rho = 0; `dt` is the Euler step."""
    noise: float = 0.1
    """Standard deviation of noise on the teacher's output."""


def soft_committee(settings: Committee) -> Study:
    """A student learns from a teacher of the same size; see committee.py."""
    control = controls.learning_rate(settings.beta, upper=3.0)
    size = settings.hidden
    learner = committee.committee(control, size, size, settings.inputs, settings.speed, settings.noise)
    problem = Problem(learner, control.cost, settings.steps, settings.dt, settings.gamma)
    scenario = Scenario(jnp.eye(size))

    def measures(weights, rho):
        overlap = jnp.abs(weights.student_teacher)
        special = jnp.mean(jnp.max(overlap, 1) - jnp.min(overlap, 1))
        return {"rho": rho, "specialisation": special}

    return Study(
        data="two hidden units",
        init=learner.init,
        problem=problem,
        scenario=scenario,
        lower=control.lower,
        upper=control.upper,
        start=lambda weights, key: controls.constant(control, settings.steps),
        plan=lambda signal, weights: Plan(weights, signal),
        neutral=lambda weights: Plan(weights, controls.constant(control, settings.steps)),
        measures=measures,
        judged=problem,
        flow=None,
        witness=(problem, scenario),
    )


def _late(outcome: Outcome) -> np.ndarray:
    """Mean rho in the third quarter: the last quarter no longer pays for itself."""
    quarter = len(outcome.n) // 4
    return outcome.control.measures["rho"][:, 2 * quarter : 3 * quarter].mean(1)


def _plateau(outcome: Outcome) -> np.ndarray:
    """Mean rho while units of the student are not yet special (specialisation below 0.3)."""
    before = outcome.control.measures["specialisation"] < 0.3
    return (outcome.control.measures["rho"] * before).sum(1) / before.sum(1)


COMMITTEE_CLAIMS = (
    *(claim._replace(source=SOURCE) for claim in engagement.VALUE),
    beyond("Haste is worth more on the plateau, where units of the student are alike, than later",
           "mean rho before specialisation minus that in the third quarter", lambda o: _plateau(o) - _late(o),
           above=0.0, steps=500),
    beyond("Once specialised the best rate falls below the base rate: noise is averaged out",
           "mean rho in the third quarter", _late, below=0.0, steps=500),
)  # fmt: skip
COMMITTEE = Committee(
    steps=2500, dt=0.1, beta=1e-3, gamma=1.0, optimizer="quasi_newton", rate=1.0, iterations=60, tolerance=1e-3
)  # fmt: skip

EXPERIMENTS = {
    "soft_committee": Experiment(
        "Beyond the paper: learning rate of a soft committee machine",
        presets_of(COMMITTEE, {"steps": 40}),
        soft_committee,
        (
            panels.loss(log=True),
            panels.measures({"rho": r"$\rho$"}, r"$\rho$", r"Learning goes $1 + \rho$ times as fast"),
            panels.both({"specialisation": "specialisation"}, "max - min overlap of a unit", "Specialisation"),
        ),
        COMMITTEE_CLAIMS,
    ),
}
