"""Averaged learning under control, as a learning process of the core.

    dW/dt = rate(u) (-dL_data/dW - lambda W)          L = L_data + lambda/2 |W|^2 + O sigma_xi^2 / 2
    V     = integral_0^T gamma^t (-eta L - C(u)) dt   by the left Riemann sum over Euler steps of size dt

T states and T controls, T - 1 updates: u_n acts on the loss of state n and on the update n -> n + 1, so the last
control acts on a loss only. The core's objective is -V.

| symbol    | name       | meaning                                                             |
|-----------|------------|---------------------------------------------------------------------|
| alpha, dt | `dt`       | the network's learning rate and the Euler step, which are one       |
| lambda    | `decay`    | coefficient of the L2 penalty on raw weights                        |
| sigma_xi  | `noise`    | standard deviation of noise on every output                         |
| eta       | `reward`   | what a unit of performance -L is worth                              |
| gamma     | `gamma`    | discount per unit of t, not per step                                |
| T         | `steps`    | states of the trajectory                                            |
| u         | `signal`   | the control                                                         |

Source: Carrasco-Davis, Masis & Saxe (2024), their framework; time is in units of the weights' time constant.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import LearningProcess, Trajectory, objectives, unroll
from metalearn.effort.controls import Control, Signal
from metalearn.effort.networks import Network, Weights


class System(NamedTuple):
    """Weights that flow under a control; all that value and optimisation need to know of a model.

    init(key) -> weights.
    flow(weights, signal, task) -> dW/dt, like weights.
    loss(weights, signal, task) -> scalar, the expected loss: minus the performance.
    """

    init: Callable[[jax.Array], Weights]
    flow: Callable[[Weights, Signal, Any], Weights]
    loss: Callable[[Weights, Signal, Any], jax.Array]


def controlled(network: Network, control: Control, decay: Any = 0.0, noise: Any = 0.0) -> System:
    """Puts a network under a control.

    Args:
        decay: lambda >= 0.
        noise: sigma_xi >= 0.

    Raises:
        ValueError: decay or noise that is negative (those that are concrete).
    """
    for name, value in (("decay", decay), ("noise", noise)):
        if not isinstance(value, jax.core.Tracer) and not value >= 0:
            raise ValueError(f"{name}={value} must not be negative")

    def flow(weights, signal, task):
        effective, pull = jax.vjp(lambda w: control.weights(w, signal), weights)
        (data,) = pull(network.descent(effective, control.drives(task, signal), control.emphasis(signal)))
        rate = control.rate(signal)
        return jax.tree.map(lambda d, w: rate * (d - decay * w), data, weights)

    def loss(weights, signal, task):
        moments = control.judged(task)
        data = network.loss(control.weights(weights, signal), moments, jnp.ones(()))
        return data + penalty(weights, moments.yy.shape[-1], decay, noise)

    return System(network.init, flow, loss)


def penalty(weights: Weights, outputs: int, decay: Any, noise: Any) -> Any:
    """What the loss has besides that of the data: lambda/2 |W|^2 + O sigma_xi^2 / 2, a scalar."""
    return 0.5 * decay * sum(jnp.sum(w**2) for w in jax.tree.leaves(weights)) + 0.5 * outputs * noise**2


class Plan(NamedTuple):
    """What the outer level may optimise: initial weights, and the control over time, leaves [steps, ...]."""

    weights: Weights
    signal: Signal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scenario:
    """What the learner lives through; a pytree.

    task: what the system takes as its task (Moments); where tasks take turns, leaves [tasks, ...].
    turn: [steps] int32, the number of the task in force at each step; None: there is but one task.

    Raises:
        ValueError: a turn [steps] (where it is concrete) that is not the number of a task.
    """

    task: Any
    turn: jax.Array | None = None

    def __post_init__(self) -> None:
        """Checks the turns, as JAX would take the nearest task for a number that is out of range."""
        turn = self.turn
        if not isinstance(turn, np.ndarray | jax.Array) or isinstance(turn, jax.core.Tracer) or turn.ndim != 1:
            return  # several scenarios in one, or what JAX puts in place of an array
        numbers = np.asarray(turn)
        for leaf in jax.tree.leaves(self.task):
            tasks = np.shape(leaf)[0] if np.ndim(leaf) else 0
            if not ((numbers >= 0) & (numbers < tasks)).all():
                raise ValueError(
                    f"turn has entries in {numbers.min()} .. {numbers.max()}, but a leaf of task has shape "
                    f"{np.shape(leaf)}: turns number its leading axis, from 0"
                )

    def in_force(self, turn: Any) -> Any:
        """The task whose number is `turn`, an entry of self.turn; the only one where tasks take no turns."""
        return self.task if self.turn is None else jax.tree.map(lambda leaf: jnp.asarray(leaf)[turn], self.task)


def taking_turns(steps: int, every: int, tasks: int = 2) -> jax.Array:
    """Turns [steps] int32 of tasks that change every `every` steps: floor(n / every) mod tasks."""
    return (jnp.arange(steps) // every % tasks).astype(jnp.int32)


class _Row(NamedTuple):
    signal: Signal
    turn: jax.Array | None


class _Moving(NamedTuple):
    weights: Weights
    velocity: Weights | None


@dataclasses.dataclass(frozen=True)
class Problem:
    """A control problem: how well did learning go, all along?

    system: what learns.
    cost: signal -> scalar per unit of time (Control.cost).
    steps: T. dt: alpha. gamma, reward: see the module.
    horizon: how many of the T states count, at most T; None: all. Unlike `steps` it may be traced, so that horizons
        go through `vmap` together.
    momentum: mu in [0, 1) of the inner descent: v' = mu v + flow, W' = W + dt v'; 0 is the paper's plain descent.
    memory, segment: what the unroll keeps, see core/unroll.py: "recompute" keeps every state, "segments" is for
        trajectories whose states alone would not fit.

    Raises:
        ValueError: steps, dt, gamma or momentum outside their ranges (those that are concrete).
    """

    system: System
    cost: Callable[[Signal], jax.Array]
    steps: int
    dt: Any
    gamma: Any = 0.99
    reward: Any = 1.0
    horizon: Any = None
    momentum: Any = 0.0
    memory: str = "recompute"
    segment: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: a trajectory has at least one state")
        for name, holds, range in (
            ("dt", lambda v: v > 0, "positive"),
            ("gamma", lambda v: 0 < v <= 1, "in (0, 1]"),
            ("momentum", lambda v: 0 <= v < 1, "in [0, 1)"),
            ("horizon", lambda v: v is None or 1 <= v <= self.steps, f"in 1 .. steps={self.steps}"),
        ):
            value = getattr(self, name)
            if not isinstance(value, jax.core.Tracer) and not holds(value):
                raise ValueError(f"{name}={value} must be {range}")

    def discounts(self) -> Any:
        """gamma^(n dt) dt for each of the states that count, else 0, [steps]; of JAX where a parameter is traced."""
        if any(isinstance(parameter, jax.core.Tracer) for parameter in (self.gamma, self.dt, self.horizon)):
            n = jnp.arange(self.steps)
            discounts = self.gamma ** (n * self.dt) * self.dt
            return discounts if self.horizon is None else jnp.where(n < self.horizon, discounts, 0.0)
        discounts = objectives.discounted(self.steps - 1, self.gamma, self.dt)
        if self.horizon is not None:
            discounts[self.horizon :] = 0.0
        return discounts


def process(problem: Problem) -> LearningProcess:
    """The problem as a learning process: meta is a Plan, the task a Scenario."""
    system = problem.system
    plain = not isinstance(problem.momentum, jax.core.Tracer) and problem.momentum == 0

    def init(meta: Plan, task: Scenario, key):
        return _Moving(meta.weights, None if plain else jax.tree.map(jnp.zeros_like, meta.weights))

    def inputs(meta: Plan, task: Scenario, key):
        for name, rows in (("signal", meta.signal), ("turn", task.turn)):
            for leaf in jax.tree.leaves(rows):
                if leaf.shape[:1] != (problem.steps,):
                    raise ValueError(
                        f"{name} has shape {leaf.shape}, but needs {problem.steps} rows: one for each state"
                    )
        return _Row(meta.signal, task.turn)

    def step(meta, state, row, task):
        velocity = system.flow(state.weights, row.signal, task.in_force(row.turn))
        if not plain:
            velocity = jax.tree.map(lambda v, f: problem.momentum * v + f, state.velocity, velocity)
        weights = jax.tree.map(lambda w, v: w + problem.dt * v, state.weights, velocity)
        return _Moving(weights, None if plain else velocity)

    def loss(meta, state, row, task):
        row = row or _Row(meta.signal, None)  # nothing varies along time, so the core shows losses no input
        expected = system.loss(state.weights, row.signal, task.in_force(row.turn))
        cost = problem.cost(row.signal)
        return problem.reward * expected + cost, {"loss": expected, "cost": cost}

    return LearningProcess(init, inputs, step, loss)


def trajectory(problem: Problem, plan: Plan, scenario: Scenario) -> Trajectory:
    """Learning under `plan`: metrics "loss" and "cost" [steps], and -V as its value."""
    key = jax.random.key(0)  # averaged dynamics draw nothing
    return unroll(
        process(problem), problem.discounts(), plan, scenario, key, memory=problem.memory, segment=problem.segment
    )


def value(problem: Problem, plan: Plan, scenario: Scenario) -> jax.Array:
    """V of `plan`, a scalar. Differentiable in all leaves of plan and scenario; jit, vmap and grad apply."""
    return -trajectory(problem, plan, scenario).value
