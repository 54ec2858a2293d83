"""Feature-wise linear modulation (Perez et al. 2018): some values set the scale and the offset of others."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metalearn.fewshot.perceptron import Dense, init_small


def init_film(key: jax.Array, shapes: Sequence[tuple[int, int]], biases: str = "zero") -> list[Dense]:
    """For each (inputs, outputs), the layer that turns `inputs` values into the scale and offset of `outputs` others.

    They begin near zero, see `init_small`.
    """
    return init_small(key, [(inputs, 2 * outputs) for inputs, outputs in shapes], biases)


def modulated(film: Dense, condition: jax.Array, x: jax.Array) -> jax.Array:
    """(1 + gamma) x + beta, where gamma and beta are linear in the condition; zero weights and bias change nothing.

    Args:
        film: weights [inputs, 2 * outputs], bias [2 * outputs]; the first half makes gamma.
        condition: [..., inputs]. x: [..., outputs]; leading axes broadcast.
    """
    gamma, beta = jnp.split(condition @ film.weights + film.bias, 2, axis=-1)
    return (1 + gamma) * x + beta
