"""Controls: what a signal u(t) does to a learner, and what it costs.

A control is a few small pure functions of the signal at one time. It may change the weights that the network works
with (gain), how much each output's error counts for learning (engagement), how fast learning goes (learning rate), or
which data drive it (task modulation). Each function that a control does not name leaves the learner alone, so that a
new control is one function and a cost.

| symbol   | name                            | meaning                                          |
|----------|---------------------------------|--------------------------------------------------|
| G, g     | signal of `gain`                | weights act as W (1 + G), element by element     |
| nu, B    | signal of `gain_basis`, `bases` | G = sum_b nu_b B_b                               |
| rho, o   | signal of `learning_rate`, `offset` | learning goes 1 + rho times as fast          |
| phi      | signal of `class_engagement`    | output c's error counts phi_c^2                  |
| psi      | signal of `task_engagement`     | task tau's errors count psi_tau                  |
| u, s     | signal of `task_modulation`, `shares` | s = softmax(u): shares of the tasks in the data |
| beta     | `beta`                          | what control costs                               |

Source of all costs: the code released with Carrasco-Davis, Masis & Saxe (2024).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.effort.moments import mixture, product_mixture

Signal = Any  # pytree of floating-point arrays


class Control(NamedTuple):
    """A control. All functions take the signal in force at one time.

    neutral: the signal that leaves the learner alone, a pytree of arrays.
    lower, upper: bounds of every entry of the signal.
    cost(signal) -> scalar, per unit of time.
    weights(weights, signal) -> the weights that the network works with.
    emphasis(signal) -> weight of each output's squared error in what is learned, [O] or a scalar.
    rate(signal) -> factor of the speed of learning, weight decay included; a scalar.
    drives(task, signal) -> the moments that drive learning.
    judged(task) -> the moments on which performance is judged.
    """

    neutral: Signal
    lower: float
    upper: float
    cost: Callable[[Signal], jax.Array]
    weights: Callable[[Any, Signal], Any] = lambda weights, signal: weights
    emphasis: Callable[[Signal], Any] = lambda signal: 1.0
    rate: Callable[[Signal], Any] = lambda signal: 1.0
    drives: Callable[[Any, Signal], Any] = lambda task, signal: task
    judged: Callable[[Any], Any] = lambda task: task


def no_control() -> Control:
    """Learning left alone. The signal has no leaves."""
    return Control((), 0.0, 0.0, lambda signal: jnp.zeros(()))


GAIN_COSTS = ("exponential", "quadratic")


def gain(like: Any, beta: Any, lower: float = -0.5, upper: float = 0.5, cost: str = "exponential") -> Control:
    """One gain for each weight: W acts as W (1 + G).

    Args:
        like: weights, or their shapes (`jax.eval_shape`): a pytree whose leaves G is to have the shapes of.
        cost: "exponential", exp(beta |G|^2) - 1 over all layers, or "quadratic", beta |G|^2.
    """
    neutral = jax.tree.map(lambda w: jnp.zeros(w.shape, w.dtype), like)
    apply = lambda weights, signal: jax.tree.map(lambda w, g: w * (1 + g), weights, signal)
    return Control(neutral, lower, upper, _gain_cost(beta, cost), weights=apply)


def gain_basis(
    bases: Sequence[Any], beta: Any, lower: float = -0.5, upper: float = 0.5, cost: str = "exponential"
) -> Control:
    """Gains in the span of a few fixed patterns: G_l = sum_b nu_{l,b} B_{l,b}, cost as of `gain` on the resulting G.

    Args:
        bases: for each layer from the bottom up, patterns [n_b, out, in], or None for a layer without gains.

    Raises:
        ValueError: unknown cost; or, once there are weights, another number of bases than of layers.
    """
    patterns = [None if basis is None else jnp.asarray(basis) for basis in bases]
    neutral = tuple(jnp.zeros(p.shape[0], p.dtype) for p in patterns if p is not None)

    def gains(signal):
        coefficients = iter(signal)
        return [None if p is None else jnp.tensordot(next(coefficients), p, 1) for p in patterns]

    def apply(weights, signal):
        if len(weights) != len(patterns):
            raise ValueError(
                f"{len(patterns)} bases for a network of {len(weights)} layers: give each layer one, or None"
            )
        return tuple(w if g is None else w * (1 + g) for w, g in zip(weights, gains(signal), strict=True))

    whole = _gain_cost(beta, cost)
    return Control(neutral, lower, upper, lambda signal: whole(gains(signal)), weights=apply)


def neuron_basis(outputs: int, hidden: int) -> jax.Array:
    """Patterns [outputs, outputs, hidden] for the top layer: pattern b is one on all weights into output b."""
    return jnp.broadcast_to(jnp.eye(outputs)[:, :, None], (outputs, outputs, hidden))


def single_weight_basis(key: jax.Array, patterns: int, shape: tuple[int, int]) -> jax.Array:
    """Patterns [patterns, out, in], each one on a single weight, drawn without replacement ("canonical").

    Raises:
        ValueError: more patterns than weights.
    """
    if patterns > shape[0] * shape[1]:
        raise ValueError(f"patterns={patterns}: a layer of shape {shape} has only {shape[0] * shape[1]} weights")
    places = jax.random.choice(key, shape[0] * shape[1], (patterns,), replace=False)
    return jax.nn.one_hot(places, shape[0] * shape[1]).reshape(patterns, *shape)


def learning_rate(beta: Any, offset: float = 0.0, lower: float = -1.0, upper: float = 1.0) -> Control:
    """Learning 1 + rho times as fast, weight decay included. Cost beta (rho - offset)^2.

    Args:
        offset: 0: leaving the base rate costs; -1: learning at all costs.
    """
    return Control(jnp.zeros(()), lower, upper, lambda rho: beta * (rho - offset) ** 2, rate=lambda rho: 1 + rho)


ENGAGEMENTS = ("vector", "active", "attention")


def class_engagement(outputs: int, beta: Any, kind: str = "vector") -> Control:
    """Learning descends 1/2 E |diag(phi) (y - yhat)|^2, so output c counts phi_c^2; performance is unweighted.

    Args:
        kind: "vector": phi in [0, 2], cost beta (|phi|^2 - O)^2 / O; "active": [0, 1], beta |phi|^2; "attention":
            [0, 2], beta |phi - 1|^2.
    """
    costs = {
        "vector": lambda phi: beta * (jnp.sum(phi**2) - outputs) ** 2 / outputs,
        "active": lambda phi: beta * jnp.sum(phi**2),
        "attention": lambda phi: beta * jnp.sum((phi - 1) ** 2),
    }
    upper = 1.0 if _one_of("kind", kind, ENGAGEMENTS) == "active" else 2.0
    return Control(jnp.ones(outputs), 0.0, upper, costs[kind], emphasis=lambda phi: phi**2)


def task_engagement(outputs: Sequence[int], beta: Any, kind: str = "attention") -> Control:
    """Learning descends sum_tau psi_tau L_tau over tasks side by side in one network; performance is unweighted.

    Args:
        outputs: how many outputs each task has, in their order.
        kind: "attention": psi in [0, 2], cost beta |psi - 1|^2; "active": [0, 1], beta |psi|^2; "vector": [0, 2],
            beta |psi|^2 (not the cost that class engagement calls by that name).
    """
    costs = {
        "vector": lambda psi: beta * jnp.sum(psi**2),
        "active": lambda psi: beta * jnp.sum(psi**2),
        "attention": lambda psi: beta * jnp.sum((psi - 1) ** 2),
    }
    upper = 1.0 if _one_of("kind", kind, ENGAGEMENTS) == "active" else 2.0
    task_of = jnp.repeat(jnp.arange(len(outputs)), jnp.asarray(outputs), total_repeat_length=sum(outputs))
    # A product with a constant matrix, as the gradient of an indexing would be a scatter at every step.
    spread = jax.nn.one_hot(task_of, len(outputs))
    return Control(jnp.ones(len(outputs)), 0.0, upper, costs[kind], emphasis=lambda psi: spread @ psi)


MIXTURES = {"released": product_mixture, "exact": mixture}


def task_modulation(tasks: int, beta: Any, moments: str = "released", judge: str = "first") -> Control:
    """softmax(u) as the shares of several tasks, of the same inputs and outputs, in the data. u in [0, 2].

    The task of the process is `Moments` with leaves [tasks, ...]. Cost as class engagement's "vector", of u.

    Args:
        moments: "exact": a mixture's; "released": the paper's code, in which each pair of tasks meets (see
            moments.product_mixture).
        judge: "first": performance on the first task alone, as in the paper's code; "mean": on all alike.
    """
    combine = MIXTURES[_one_of("moments", moments, tuple(MIXTURES))]
    alike = jnp.full(tasks, 1 / tasks)
    judged = {
        "first": lambda task: jax.tree.map(lambda leaf: leaf[0], task),
        "mean": lambda task: mixture(alike, task),
    }[_one_of("judge", judge, ("first", "mean"))]
    return Control(
        neutral=jnp.ones(tasks),
        lower=0.0,
        upper=2.0,
        cost=lambda u: beta * (jnp.sum(u**2) - tasks) ** 2 / tasks,
        drives=lambda task, u: combine(jax.nn.softmax(u), task),
        judged=judged,
    )


def constant(control: Control, steps: int) -> Signal:
    """The neutral signal at each of `steps` times, leaves [steps, ...]."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), control.neutral)


def perturbed(control: Control, steps: int, key: jax.Array, scale: float) -> Signal:
    """The neutral signal plus Gaussian noise of standard deviation `scale`, clipped to the bounds: a usual start."""
    leaves, structure = jax.tree.flatten(constant(control, steps))
    keys = jax.random.split(key, len(leaves))
    noisy = [leaf + scale * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, [jnp.clip(leaf, control.lower, control.upper) for leaf in noisy])


def _gain_cost(beta: Any, cost: str) -> Callable[[Any], jax.Array]:
    size = lambda gains: sum(jnp.sum(g**2) for g in jax.tree.leaves(gains))
    exponential = _one_of("cost", cost, GAIN_COSTS) == "exponential"
    return lambda gains: jnp.expm1(beta * size(gains)) if exponential else beta * size(gains)


def _one_of(argument: str, name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ValueError(f"{argument}={name!r} is unknown; choose one of {tuple(names)}")
    return name
