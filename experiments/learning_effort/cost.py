"""What a run takes, from shapes alone."""

from typing import Any

import jax
import numpy as np

from experiments.learning_effort.studies import Experiment, settings_at_points

# A step of the averaged equations of a small network is dispatch, not arithmetic: forward and backward, one CPU core.
_SECONDS_PER_STEP = 8e-6
_FLOP_PER_SECOND = 1e9


def describe(experiment: Experiment, settings: Any) -> str:
    """Sizes, floating-point operations, memory and time."""
    study = experiment.study(settings)
    points = next((len(values) for values in experiment.points(settings).values()), 1)
    lanes = points * settings.seeds
    key = jax.random.key(0)
    weights = jax.eval_shape(study.init, key)
    chosen = jax.eval_shape(study.start, weights, key)
    plan = jax.eval_shape(study.neutral, weights)
    size = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
    steps = study.problem.steps
    if experiment.apart:
        lengths = [experiment.study(fixed).problem.steps for fixed in settings_at_points(experiment, settings)]
        steps = round(np.mean(lengths))

    def step(weights, signal):
        learner = study.problem.system
        return learner.flow(weights, signal, task), learner.loss(weights, signal, task), study.problem.cost(signal)

    task = study.scenario.in_force(0)
    at_once = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), plan.signal)
    analysis = jax.jit(step).lower(plan.weights, at_once).cost_analysis()
    flop = 4 * steps * (analysis or {}).get("flops", np.nan)  # a gradient takes about four times the forward pass
    evaluations = lanes * settings.iterations
    kept = 4 * (size(plan.signal) + size(weights) * steps / max(settings.segment, 1))
    history = 25 * 8 * size(chosen) if settings.optimizer == "quasi_newton" else 4 * 3 * size(chosen) * lanes
    together = 1 if settings.optimizer == "quasi_newton" else lanes
    seconds = evaluations * max(steps * _SECONDS_PER_STEP / together, flop / _FLOP_PER_SECOND)
    return "\n".join(
        [
            f"{experiment.title} ({study.data})",
            f"trajectory      {steps:,} states of {size(weights):,} weights",
            f"control         {size(chosen):,} numbers, searched by {settings.optimizer}",
            f"searches        {points} points x {settings.seeds} initial weights, "
            f"at most {settings.iterations:,} evaluations of value and gradient each",
            f"operations      {flop:.2g} FLOP per evaluation, {flop * evaluations:.2g} in all",
            f"memory          {kept * together / 2**20:,.0f} MiB for trajectories, "
            f"{history / 2**20:,.0f} MiB for the search",
            f"time            about {seconds / 60:,.2g} minutes on one CPU core, if no search ends early",
        ]
    )
