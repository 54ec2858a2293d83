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
from metalearn.effort.moments import Moments, checked
from metalearn.effort.system import Plan, Problem, Scenario, process, trajectory, value


class Account(NamedTuple):
    """Along the T states of a trajectory; rates are per unit of t, undiscounted.

    time: t_n = n dt, [T].
    loss: L, [T]. cost: C, [T]. reward: instantaneous net reward v = -eta L - C, [T].
    earned: value up to and including each state, discounted, [T]; the last is V.
    marginal: dV/du_n, discounted back to t_n, per unit of t: leaves [T, ...]. At an optimum it is zero inside the
        bounds; at a bound its sign says that more (or less) would pay. It is the sum of what the control does to the
        present reward and of what it does, through learning, to all later ones. NaN where gamma^t rounds to zero.
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
        ValueError: the scenario's moments are those of no data; see `moments.checked`.
        FloatingPointError: the trajectory diverges; names the first state that is not finite and a dt at which it is.
    """
    if isinstance(scenario.task, Moments):
        turns = [None] if jnp.ndim(scenario.task.x) == 1 else range(len(scenario.task.x))
        for turn in turns:
            checked(scenario.task if turn is None else Moments(*(leaf[turn] for leaf in scenario.task)), tolerance=1e-5)
    result = jax.jit(lambda plan, scenario: _account(problem, plan, scenario))(plan, scenario)
    bad = np.flatnonzero(~np.isfinite(np.asarray(result.loss)))
    if bad.size:
        raise FloatingPointError(_diagnosis(problem, plan, scenario, int(bad[0])))
    return result


class Course(NamedTuple):
    """All T states of a trajectory, those that the value does not count included; see `Account`."""

    weights: Any
    loss: jax.Array
    cost: jax.Array
    reward: jax.Array


def course(problem: Problem, plan: Plan, scenario: Scenario) -> Course:
    """The states that `plan` leads through. A pure function: jit and vmap apply."""
    learning = process(problem)
    key = jax.random.key(0)  # averaged dynamics draw nothing
    first = learning.init(plan, scenario, key)
    rows = learning.inputs(plan, scenario, key)

    def step(state, row):
        state = learning.step(plan, state, row, scenario)
        return state, state

    _, later = jax.lax.scan(step, first, jax.tree.map(lambda x: x[:-1], rows), problem.steps - 1)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, later)
    net, metrics = jax.vmap(lambda state, row: learning.loss(plan, state, row, scenario))(states, rows)
    return Course(states.weights, metrics["loss"], metrics["cost"], -net)


def _account(problem: Problem, plan: Plan, scenario: Scenario) -> Account:
    ran = course(problem, plan, scenario)

    def present(weights, signal, turn):
        task = scenario.in_force(turn)
        return -problem.reward * problem.system.loss(weights, signal, task) - problem.cost(signal)

    immediate = jax.vmap(jax.grad(present, 1), (0, 0, None if scenario.turn is None else 0))(
        ran.weights, plan.signal, scenario.turn
    )
    discounts = jnp.asarray(problem.discounts(), ran.loss.dtype)
    slope = jax.grad(lambda signal: value(problem, plan._replace(signal=signal), scenario))(plan.signal)
    rate = lambda leaf: leaf / discounts.reshape(-1, *[1] * (leaf.ndim - 1))
    return Account(
        time=jnp.arange(problem.steps) * problem.dt,
        earned=jnp.cumsum(discounts * ran.reward),
        marginal=jax.tree.map(rate, slope),
        immediate=immediate,
        **ran._asdict(),
    )


def _diagnosis(problem: Problem, plan: Plan, scenario: Scenario, first: int) -> str:
    """What went wrong at state `first`, and a dt that was seen to go over the same stretch of time."""
    message = f"the Euler steps of dt={problem.dt:g} diverge: the loss of state n={first} is not finite"
    if first == 0:
        return f"{message}; look at the initial weights, the first control and the task"
    coarser = np.nan
    for finer in (2, 8, 32, 128, 512):
        shorter = dataclasses.replace(problem, dt=problem.dt / finer, steps=first * finer + 1, gamma=1.0)
        longer = lambda x, finer=finer: jnp.repeat(x[: first + 1], finer, 0)[: first * finer + 1]
        signal, turn = jax.tree.map(longer, (plan.signal, scenario.turn))
        ran = trajectory(shorter, plan._replace(signal=signal), dataclasses.replace(scenario, turn=turn))
        loss = float(ran.metrics["loss"][-1])
        # Steps still too long may be finite by then, but they do not agree with those of a quarter of their length.
        if abs(loss - coarser) <= 0.1 * abs(loss):
            return f"{message}; with dt={4 * shorter.dt:g} it stays finite to the same time"
        coarser = loss
    return f"{message}, and so it is with dt={4 * shorter.dt:g}: look at the weights, the control and the task"
