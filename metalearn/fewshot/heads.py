"""What stands on an encoder: linear heads, their several starts, and the loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Head(NamedTuple):
    """A linear classifier: weights [width, ways], bias [ways]. One row shared by all ways: [width] and []."""

    weights: jax.Array
    bias: jax.Array


def init_head(key: jax.Array, width: int, ways: int) -> Head:
    """Glorot-uniform weights and no bias, as in the code of Finn et al. (2017)."""
    return Head(jax.nn.initializers.glorot_uniform()(key, (width, ways), float), jnp.zeros(ways))


def logits_of(head: Head, features: jax.Array) -> jax.Array:
    """[images, ways] of features [images, width]."""
    return features @ head.weights + head.bias


def for_all_ways(row: Head, ways: int) -> Head:
    """The same row for every way (Ye & Chao 2022): no way is preferred, whatever order a task's classes come in."""
    return Head(jnp.tile(row.weights[:, None], (1, ways)), jnp.tile(row.bias, ways))


def prototypes(features: jax.Array, labels: jax.Array, ways: int) -> jax.Array:
    """[ways, width]: the mean feature of each class. features: [images, width]; labels: [images]."""
    members = jax.nn.one_hot(labels, ways, dtype=features.dtype)
    return members.T @ features / members.sum(0)[:, None]


def prototype_head(centres: jax.Array) -> Head:
    """The head that classifies by distance to `centres` [ways, width] (Snell et al. 2017, equation 8).

    -|z - c|^2 = 2 c.z - |c|^2 - |z|^2, and the last term is the same for all ways.
    """
    return Head(2 * centres.T, -jnp.sum(centres**2, -1))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over images, in nats. logits: [images, ways]; labels: [images] integers."""
    return -jnp.mean(
        jnp.sum(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) * jax.nn.log_softmax(logits), -1)
    )


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of images whose largest logit is their label's."""
    return jnp.mean(logits.argmax(-1) == labels, dtype=logits.dtype)
