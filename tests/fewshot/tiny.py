"""A tiny few-shot problem in float64, and MAML's inner loop written by hand over it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.fewshot.encoders import encode, four_conv
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.family import Setting, Weights
from tests.core.problems import compiled

WAYS, SHOTS, QUERIES, SIZE, STEPS = 3, 2, 2, 8, 2
ENCODER = four_conv(3, channels=1, size=SIZE, blocks=2, convolution="direct")  # which compiles faster


def setting(**changes: Any) -> Setting:
    return Setting(**({"encoder": ENCODER, "ways": WAYS, "steps": STEPS, "rate": 0.3} | changes))


def new_task(seed: int = 0) -> Episode:
    draw = np.random.default_rng(seed)
    labels = [np.repeat(np.arange(WAYS), count) for count in (SHOTS, QUERIES)]
    images = [draw.normal(size=(len(of), SIZE, SIZE, 1)) + of[:, None, None, None] for of in labels]
    return Episode(images[0], labels[0], images[1], labels[1])


def randomised(meta: Any, seed: int = 0, scale: float = 0.5) -> Any:
    """`meta` with normal noise on every entry, so that nothing is zero or alike by accident."""
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda x: np.asarray(x) + scale * draw(size=np.shape(x)), meta)


def shifted(tree: Any, direction: Any, size: float) -> Any:
    return jax.tree.map(lambda x, d: x + size * d, tree, direction)


def loss(weights: Weights, x: Any, y: Any) -> jax.Array:
    """Cross-entropy of a batch under its own statistics, spelled out."""
    features, _ = encode(ENCODER, weights.body, x)
    scores = features @ weights.head.weights + weights.head.bias
    chosen = jnp.take_along_axis(scores, jnp.asarray(y)[:, None], axis=1)[:, 0]
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(scores), 1)) - chosen)


value_and_gradient = compiled(jax.value_and_grad(loss))


def rates_like(weights: Weights, rate: float, only: str = "") -> Weights:
    """`rate` for the arrays whose path contains `only`, else zero."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: np.full(np.shape(x), rate * (only in jax.tree_util.keystr(path))), weights
    )


def slow_states(weights: Weights, task: Episode, rates: Weights, steps: int = STEPS) -> list[Weights]:
    """The K + 1 states of weights that descend the support loss at a rate each."""
    states = [weights]
    for _ in range(steps):
        _, gradient = value_and_gradient(states[-1], task.support_x, task.support_y)
        states.append(jax.tree.map(lambda w, r, g: w - r * np.asarray(g), states[-1], rates, gradient))
    return states


def slow_value(weights: Weights, task: Episode, rates: Weights) -> float:
    """Query loss of the last state."""
    return float(value_and_gradient(slow_states(weights, task, rates)[-1], task.query_x, task.query_y)[0])
