"""The account of a plan along time: what it earns, what it costs, and what a little more effort would be worth.

The Expected Value of Control (Shenhav, Botvinick & Cohen 2013) extended from one decision to a learning trajectory, as
in Carrasco-Davis, Masis & Saxe (2024).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.effort.controls import Signal
from metalearn.effort.system import Plan, Problem, Scenario, process, trajectory, value


class Account(NamedTuple):
    """Along the T states of a trajectory; rates are per unit of t, undiscounted.

    time: t_n = n dt, [T].
    loss: L, [T]. cost: C, [T]. reward: instantaneous net reward v = -eta L - C, [T].
    earned: value up to and including each state, discounted, [T]; the last is V.
    marginal: dV/du_n, discounted back to t_n, per unit of t: leaves [T, ...]. At an optimum it is zero inside the
        bounds; at a bound its sign says that more (or less) would pay. It is the sum of what the control does to the
        present reward and of what it does, through learning, to all later ones.
    immediate: the first of these two parts: dv/du_n at fixed weights, leaves [T, ...]. marginal - immediate is the
        value of what is learned, which the paper's short-sighted approximations leave out.
    weights: of all states, leaves [T, ...].
    """

    time: jax.Array
    loss: jax.Array
    cost: jax.Array
    reward: jax.Array
    earned: jax.Array
    marginal: Signal
    immediate: Signal
    weights: Any


def account(problem: Problem, plan: Plan, scenario: Scenario) -> Account:
    """The account of `plan`.

    Raises:
        FloatingPointError: the trajectory diverges; names the first state that is not finite and a dt at which it is.
    """
    result = jax.jit(lambda plan, scenario: _account(problem, plan, scenario))(plan, scenario)
    bad = np.flatnonzero(~np.isfinite(np.asarray(result.loss)))
    if bad.size:
        raise FloatingPointError(_diagnosis(problem, plan, scenario, int(bad[0])))
    return result


def states(problem: Problem, plan: Plan, scenario: Scenario) -> Any:
    """Weights of all T states, leaves [T, ...]."""
    learning = process(problem)
    key = jax.random.key(0)
    first = learning.init(plan, scenario, key)
    rows = learning.inputs(plan, scenario, key)

    def step(state, row):
        state = learning.step(plan, state, row, scenario)
        return state, state.weights

    _, later = jax.lax.scan(step, first, jax.tree.map(lambda x: x[:-1], rows), problem.steps - 1)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first.weights, later)


def _account(problem: Problem, plan: Plan, scenario: Scenario) -> Account:
    ran = trajectory(problem, plan, scenario)
    weights = states(problem, plan, scenario)
    loss, cost = ran.metrics["loss"], ran.metrics["cost"]
    reward = -problem.reward * loss - cost
    discounts = jnp.asarray(problem.discounts(), loss.dtype)
    slope = jax.grad(lambda signal: value(problem, plan._replace(signal=signal), scenario))(plan.signal)
    rate = lambda leaf: leaf / discounts.reshape(-1, *[1] * (leaf.ndim - 1))

    def present(weights, signal, turn):
        task = scenario.task if turn is None else jax.tree.map(lambda leaf: leaf[turn], scenario.task)
        net = lambda signal: -problem.reward * problem.system.loss(weights, signal, task) - problem.cost(signal)
        return jax.grad(net)(signal)

    immediate = jax.vmap(present, (0, 0, None if scenario.turn is None else 0))(weights, plan.signal, scenario.turn)
    return Account(
        jnp.arange(problem.steps) * problem.dt,
        loss,
        cost,
        reward,
        jnp.cumsum(discounts * reward),
        jax.tree.map(rate, slope),
        immediate,
        weights,
    )


def _diagnosis(problem: Problem, plan: Plan, scenario: Scenario, first: int) -> str:
    """What went wrong at state `first`, and a dt that was seen to go over the same stretch of time."""
    message = f"the Euler steps of dt={problem.dt:g} diverge: the loss of state n={first} is not finite"
    if first == 0:
        return f"{message}; look at the initial weights, the first control and the task"
    for finer in (2, 4, 8, 16, 32, 64, 128):
        shorter = dataclasses.replace(problem, dt=problem.dt / finer, steps=(first + 1) * finer)
        slower = lambda rows, finer=finer: jax.tree.map(lambda x: jnp.repeat(x[: first + 1], finer, 0), rows)
        ran = trajectory(
            shorter, plan._replace(signal=slower(plan.signal)), scenario._replace(turn=slower(scenario.turn))
        )
        if np.isfinite(np.asarray(ran.metrics["loss"])).all():
            return f"{message}; with dt={shorter.dt:g} it stays finite to the same time"
    return f"{message}, and so it is with dt={shorter.dt:g}: look at the weights, the control and the task"
