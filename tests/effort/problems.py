"""Small tasks, and the averaged equations of two-layer networks in plain numpy: the oracle of the tests beside it.

Nothing here calls the library's own equations. Symbols are those of metalearn/effort; W1: [H, I], W2: [O, H].
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from metalearn.effort import controls
from metalearn.effort.moments import Moments

INPUTS, HIDDEN, OUTPUTS = 3, 4, 2


class InDoublePrecision(parameterized.TestCase):
    """Tests against oracles in float64."""

    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))


def moments(x: np.ndarray, y: np.ndarray) -> Moments:
    """Of examples [examples, I] and [examples, O]."""
    second = lambda a, b: np.mean(a[:, :, None] * b[:, None, :], axis=0)
    return Moments(second(x, x), second(x, y), second(y, y), x.mean(0), y.mean(0))


def examples(seed: int, count: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Any data: means that are not zero, inputs and outputs that are correlated."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, INPUTS)) + rng.normal(size=INPUTS)
    return x, np.sin(x @ rng.normal(size=(INPUTS, OUTPUTS))) + rng.normal(size=OUTPUTS)


def two_gaussians(mu: float, sigma: float) -> Moments:
    """y = +-1, x ~ N(mu y, sigma^2): one input, one output."""
    one = lambda value: np.array([[value]])
    return Moments(one(mu**2 + sigma**2), one(mu), one(1.0), np.zeros(1), np.zeros(1))


def correlated_gaussians(mu: tuple[float, float], flip: float) -> Moments:
    """y1 = +-1, y2 = -y1 with probability `flip`, else y1; x_i ~ N(mu_i y_i, 1); x_3 = 1."""
    c = 1 - 2 * flip
    labels = np.array([[1, c], [c, 1]])
    scale = np.array([[mu[0], 0], [0, mu[1]], [0, 0]])
    inputs = scale @ labels @ scale.T + np.eye(3)
    return Moments(inputs, scale @ labels, labels, np.array([0.0, 0.0, 1.0]), np.zeros(2))


TASK_A = correlated_gaussians((3.0, 1.0), 0.8)
TASK_B = correlated_gaussians((-2.0, 2.0), 0.2)


def semantic(levels: int) -> Moments:
    """One-hot items are the leaves of a binary tree, outputs its nodes breadth first: is the item below the node?"""
    items = 2 ** (levels - 1)
    below = [
        [item >> (levels - 1 - level) == node for level in range(levels) for node in range(2**level)]
        for item in range(items)
    ]
    return moments(np.eye(items), np.array(below, float))


def weights(seed: int, *widths: int, scale: float = 0.5) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return tuple(scale * rng.normal(size=(o, i)) for i, o in itertools.pairwise(widths))


class Acts(NamedTuple):
    """What a control does at one time, in the terms of the paper's equations."""

    cost: float
    gains: tuple[Any, Any] = (0.0, 0.0)
    emphasis: Any = np.ones(OUTPUTS)
    rate: float = 1.0


def paper_flow(weights, task: Moments, acts: Acts, decay: float = 0.0):
    """dW1/dt and dW2/dt of the two-layer linear network."""
    gains = [1 + g for g in acts.gains]
    first, second = (w * g for w, g in zip(weights, gains, strict=True))
    error = np.diag(acts.emphasis) @ (task.xy.T - second @ first @ task.xx)
    moved = (second.T @ error) * gains[0], (error @ first.T) * gains[1]
    return tuple(acts.rate * (m - decay * w) for m, w in zip(moved, weights, strict=True))


def paper_loss(weights, task: Moments, acts: Acts, decay: float = 0.0, noise: float = 0.0) -> float:
    first, second = (w * (1 + g) for w, g in zip(weights, acts.gains, strict=True))
    whole = second @ first
    data = 0.5 * np.trace(task.yy) - np.trace(task.xy @ whole) + 0.5 * np.trace(task.xx @ whole.T @ whole)
    return data + 0.5 * len(task.yy) * noise**2 + 0.5 * decay * sum((w**2).sum() for w in weights)


class Case(NamedTuple):
    """A control and, independently, what it does: acts(signal) -> Acts; signal of one time, as numpy arrays."""

    control: Callable[[], controls.Control]
    acts: Callable[[Any], Acts]


BETA = 0.3
_like = lambda: (jnp.zeros((HIDDEN, INPUTS)), jnp.zeros((OUTPUTS, HIDDEN)))
_square = lambda *arrays: sum((a**2).sum() for a in arrays)


def _rows(nu):
    return 0.0, nu[:, None] * np.ones((OUTPUTS, HIDDEN))


CASES = {
    "gain": Case(lambda: controls.gain(_like(), BETA), lambda g: Acts(np.exp(BETA * _square(*g)) - 1, gains=g)),
    "gain, quadratic": Case(
        lambda: controls.gain(_like(), BETA, cost="quadratic"), lambda g: Acts(BETA * _square(*g), gains=g)
    ),
    "gain of output neurons": Case(
        lambda: controls.gain_basis((None, controls.neuron_basis(OUTPUTS, HIDDEN)), BETA),
        lambda nu: Acts(np.exp(BETA * HIDDEN * _square(*nu)) - 1, gains=_rows(nu[0])),
    ),
    "learning rate": Case(lambda: controls.learning_rate(BETA), lambda rho: Acts(BETA * rho**2, rate=1 + rho)),
    "learning rate from none": Case(
        lambda: controls.learning_rate(BETA, offset=-1.0), lambda rho: Acts(BETA * (1 + rho) ** 2, rate=1 + rho)
    ),
    "class vector": Case(
        lambda: controls.class_engagement(OUTPUTS, BETA),
        lambda phi: Acts(BETA * (_square(phi) - OUTPUTS) ** 2 / OUTPUTS, emphasis=phi**2),
    ),
    "class active": Case(
        lambda: controls.class_engagement(OUTPUTS, BETA, "active"),
        lambda phi: Acts(BETA * _square(phi), emphasis=phi**2),
    ),
    "class attention": Case(
        lambda: controls.class_engagement(OUTPUTS, BETA, "attention"),
        lambda phi: Acts(BETA * _square(phi - 1), emphasis=phi**2),
    ),
    "task vector": Case(
        lambda: controls.task_engagement((1, 1), BETA, "vector"), lambda psi: Acts(BETA * _square(psi), emphasis=psi)
    ),
    "task active": Case(
        lambda: controls.task_engagement((1, 1), BETA, "active"), lambda psi: Acts(BETA * _square(psi), emphasis=psi)
    ),
    "task attention": Case(
        lambda: controls.task_engagement((1, 1), BETA), lambda psi: Acts(BETA * _square(psi - 1), emphasis=psi)
    ),
}


def any_signal(control: controls.Control, seed: int, steps: int) -> Any:
    """Uniform between the bounds, numpy arrays [steps, ...]."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.uniform(control.lower, control.upper, (steps, *leaf.shape)), control.neutral)


def at(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[n], tree)


class Run(NamedTuple):
    states: list[Any]
    losses: np.ndarray
    costs: np.ndarray
    value: float


def slow_run(flow, loss, cost, weights, steps: int, dt: float, gamma: float, reward=1.0, momentum=0.0) -> Run:
    """Euler steps and the left Riemann sum, one after the other; flow, loss and cost take n (and the weights)."""
    velocity = [np.zeros_like(w) for w in weights]
    states, losses, costs = [], [], []
    for n in range(steps):
        states.append(weights)
        losses.append(loss(weights, n))
        costs.append(cost(n))
        velocity = [momentum * v + f for v, f in zip(velocity, flow(weights, n), strict=True)]
        weights = tuple(w + dt * v for w, v in zip(weights, velocity, strict=True))
    value = sum(gamma ** (n * dt) * (-reward * losses[n] - costs[n]) * dt for n in range(steps))
    return Run(states, np.array(losses), np.array(costs), value)


def together(*tasks: Moments) -> Moments:
    """Leaves [tasks, ...]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *tasks)
