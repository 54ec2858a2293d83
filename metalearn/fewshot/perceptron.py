"""Small fully connected networks, which several algorithms learn: they turn statistics of a task into numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Dense(NamedTuple):
    """One layer: weights [inputs, outputs], bias [outputs]."""

    weights: jax.Array
    bias: jax.Array


def init_perceptron(key: jax.Array, widths: Sequence[int], last_bias: float = 0.0) -> tuple[Dense, ...]:
    """Glorot-normal layers, but the last without weights: so the network begins as the constant `last_bias`.

    Args:
        widths: inputs, hidden units ..., outputs.
    """
    draw = jax.nn.initializers.glorot_normal()
    shapes = list(zip(widths[:-1], widths[1:], strict=True))
    keys = jax.random.split(key, len(shapes))
    layers = [Dense(draw(k, shape, float), jnp.zeros(shape[1])) for k, shape in zip(keys, shapes, strict=True)]
    return (*layers[:-1], Dense(jnp.zeros(shapes[-1]), jnp.full(shapes[-1][1], last_bias)))


def init_small(key: jax.Array, shapes: Sequence[tuple[int, int]], biases: str = "zero") -> list[Dense]:
    """Layers near zero, as in NPBML: weights from N(0, 0.01^2).

    All numbers are drawn at once, as drawing dominates the time of compilation.

    Args:
        shapes: inputs and outputs of each layer.
        biases: "zero", or "uniform" in +-1 / sqrt(inputs), which is what PyTorch's linear layers begin with.
    """
    split = lambda numbers, sizes: jnp.split(numbers, np.cumsum(sizes)[:-1])
    sizes, widths = [inputs * outputs for inputs, outputs in shapes], [outputs for _, outputs in shapes]
    noise = split(0.01 * jax.random.normal(key, (sum(sizes),)), sizes)
    bias = jnp.zeros(sum(widths))
    if biases == "uniform":
        bias = jax.random.uniform(jax.random.fold_in(key, 1), (sum(widths),), minval=-1, maxval=1)
    return [
        Dense(weights.reshape(shape), shape[0] ** -0.5 * of_layer)
        for weights, shape, of_layer in zip(noise, shapes, split(bias, widths), strict=True)
    ]


def perceptron(layers: Sequence[Dense], x: jax.Array) -> jax.Array:
    """ReLU between the layers. x: [..., inputs] -> [..., outputs]."""
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer.weights + layer.bias)
    return x @ layers[-1].weights + layers[-1].bias
