"""The same network under the same control, learning from sampled mini-batches instead of from averages.

    dW/dt = rate(u) (-d/dW 1/2 mean_b sum_c e_c (y_bc - yhat_bc)^2 - lambda W)          one fresh batch at each step

What is drawn depends on a key alone: the same key gives the same batches whatever the control is (common random
numbers). So the value of one run is a differentiable function of the control, and `optimise` applies to it; only shares
of classes or tasks in the batch have no such gradient, as an example is drawn or not.

The step is exact for any `predict`. With batches of B examples, the expected loss of learning from samples exceeds that
of the averaged equations by O(dt / B), for as long as dt is small.

| symbol   | name         | meaning                                               |
|----------|--------------|-------------------------------------------------------|
| B        | `batch`      | examples in a mini-batch                              |
| e        | `emphasis`   | weight of each output's squared error, Control.emphasis |
| lambda   | `decay`      | coefficient of the L2 penalty on raw weights          |
| sigma_xi | `noise`      | standard deviation of noise on every output           |

Source: Carrasco-Davis, Masis & Saxe (2024), whose optimised controls are each validated in this way.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import LearningProcess, unroll
from metalearn.effort import system
from metalearn.effort.controls import Control, Signal
from metalearn.effort.datasets import Dataset
from metalearn.effort.networks import Network, Weights
from metalearn.effort.system import Plan, Problem, Scenario

SampledFlow = Callable[[Weights, Signal, Any, jax.Array], Weights]


def sampled_flow(
    network: Network,
    control: Control,
    dataset: Dataset,
    batch: int,
    decay: Any = 0.0,
    noise: Any = 0.0,
    shares: Callable[[Signal], jax.Array] | None = None,
) -> SampledFlow:
    """How weights flow on one mini-batch: (weights, signal, turn, key) -> dW/dt.

    Its mean over keys is the flow of `system.controlled`, where that is exact.

    Args:
        dataset: where tasks take turns, `datasets.mixture` of them: `turn` is the number of the part to draw from.
        shares: signal -> shares of the data set's parts (classes, tasks) in the batch, [parts]. The signal then acts
            through them and not through `control.emphasis`: in the paper's validation of class engagement shares are
            phi itself, and softmax(u) are those of task modulation. None: examples come as the data set has them.

    Raises:
        ValueError: batch below 1; a control that changes which data drive learning, without `shares`; on use, a
            network and data of different numbers of outputs, turns of data without parts, or turns besides shares.
    """
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1")
    if shares is None and control.drives is not Control._field_defaults["drives"]:
        raise ValueError("this control changes which data drive learning: say by `shares` how it changes what is drawn")

    def draw(key, signal, turn):
        if shares is not None:
            if turn is not None:
                raise ValueError("either shares or turns say from which parts examples come: give a scenario no turns")
            return dataset.sample_shares(key, batch, shares(signal))
        if turn is None:
            return dataset.sample(key, batch)
        if dataset.sample_part is None:
            raise ValueError(
                f"the data set {dataset.name!r} has no parts to take turns: pass datasets.mixture of tasks"
            )
        return dataset.sample_part(key, jnp.full(batch, turn))

    def flow(weights, signal, turn, key):
        examples_key, noise_key = jax.random.split(key)
        x, y = draw(examples_key, signal, turn)
        if isinstance(noise, jax.core.Tracer) or noise != 0:  # zeros would cost as much as the examples do
            y = y + noise * jax.random.normal(noise_key, y.shape, y.dtype)
        emphasis = control.emphasis(signal) if shares is None else 1.0

        def learned(weights):
            errors = _errors(network, control.weights(weights, signal), x, y)
            return 0.5 * jnp.sum(emphasis * jnp.mean(errors**2, 0))

        rate = control.rate(signal)
        return jax.tree.map(lambda d, w: -rate * (d + decay * w), jax.grad(learned)(weights), weights)

    return flow


def example_loss(
    network: Network, control: Control, decay: Any = 0.0, noise: Any = 0.0
) -> Callable[[Weights, Signal, Any], jax.Array]:
    """A `System.loss` by examples, for networks whose expected loss is not known exactly.

    The task of the scenario is then x [examples, I] and y [examples, O] (leaves [tasks, ...] where tasks take turns).
    """

    def loss(weights, signal, task):
        errors = _errors(network, control.weights(weights, signal), *task)
        return 0.5 * jnp.sum(jnp.mean(errors**2, 0)) + system.penalty(weights, errors.shape[1], decay, noise)

    return loss


class _Row(NamedTuple):
    controlled: Any  # what system.process has at this step
    key: jax.Array


def sampled_process(problem: Problem, flow: SampledFlow) -> LearningProcess:
    """`system.process(problem)`, but for updates along `flow`; problem.system.loss judges. Keys drive the updates."""
    averaged = system.process(problem)

    def inputs(meta, task, key):
        return _Row(averaged.inputs(meta, task, key), jax.random.split(key, problem.steps))

    def step(meta, state, row, task):
        on_batch = lambda weights, signal, _: flow(weights, signal, row.controlled.turn, row.key)
        drawn = dataclasses.replace(problem, system=problem.system._replace(flow=on_batch))
        return system.process(drawn).step(meta, state, row.controlled, task)

    def loss(meta, state, row, task):
        return averaged.loss(meta, state, row.controlled, task)

    return LearningProcess(averaged.init, inputs, step, loss)


def sampled_value(problem: Problem, flow: SampledFlow, plan: Plan, scenario: Scenario, key: jax.Array) -> jax.Array:
    """V of `plan` in the run of learning that `key` draws, a scalar; jit, vmap and grad apply."""
    learning = sampled_process(problem, flow)
    ran = unroll(learning, problem.discounts(), plan, scenario, key, memory=problem.memory, segment=problem.segment)
    return -ran.value


class Validation(NamedTuple):
    """How learning from samples went, over runs that differ in their batches.

    steps: numbers n of the recorded states, [recorded].
    losses: L of these states in each run, [runs, recorded].
    mean: over runs, [recorded]. error: its standard error, [recorded]; NaN of a single run.
    """

    steps: np.ndarray
    losses: jax.Array
    mean: jax.Array
    error: jax.Array


def validate(
    problem: Problem, flow: SampledFlow, plan: Plan, scenario: Scenario, keys: jax.Array, every: int = 1
) -> Validation:
    """Learns under `plan` from samples, once for each of `keys` [runs], and records every `every`-th state.

    A pure function: jit it, and vmap it over plans. All runs start at plan.weights.

    Raises:
        ValueError: every below 1, or keys that are no vector.
    """
    if every < 1:
        raise ValueError(f"every={every} must be at least 1")
    if jnp.ndim(keys) != 1:
        raise ValueError(f"keys must be a vector, one key for each run, but their shape is {jnp.shape(keys)}")
    steps = np.arange(0, problem.steps, every)
    recorded = np.zeros(problem.steps)
    recorded[steps] = 1  # the core evaluates the loss of no other state
    learning = sampled_process(problem, flow)
    run = lambda key: unroll(learning, recorded, plan, scenario, key, memory="residuals").metrics["loss"][steps]
    losses = jax.vmap(run)(keys)
    runs = len(keys)
    error = jnp.std(losses, 0, ddof=1) / np.sqrt(runs) if runs > 1 else jnp.full_like(losses[0], jnp.nan)
    return Validation(steps, losses, losses.mean(0), error)


def _errors(network: Network, weights: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
    predicted = network.predict(weights, x)
    if predicted.shape != y.shape:  # they would broadcast
        raise ValueError(f"the network predicts outputs {predicted.shape}, but those of the data are {y.shape}")
    return y - predicted
