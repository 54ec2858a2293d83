"""The learned loss of NPBML (Raymond et al. 2024, section 3.3): small networks, and what they are shown.

    M = L^base(support) + mean over support of L^S + mean over queries of L^Q + R               (equation 13)

| symbol   | name           | it is shown                                                                       |
|----------|----------------|-----------------------------------------------------------------------------------|
| L^S      | `inductive`    | support logits, the one-hot label, and the cross-entropy of the image             |
| L^Q      | `transductive` | query logits, scores of the classes, and the cross-entropy against the best score |
| R        | `regulariser`  | four statistics of each array of weights that moves                               |
| phi      | `dense`        | layers of widths inputs, 40, 40, 1                                                |
| psi      | `film`         | modulates each layer by the layer's own input, before the non-linearity           |

L^S and L^Q read classes by their position, so what they teach is not indifferent to the order of a task's classes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.fewshot.film import init_film, modulated
from metalearn.fewshot.heads import prototype_head, prototypes
from metalearn.fewshot.perceptron import Dense, init_small

HIDDEN = (40, 40)
STATISTICS = 4
"""Numbers that the regulariser is shown of each array."""


class Modulated(NamedTuple):
    """A layer, and the layer that modulates it, if any."""

    dense: Dense
    film: Dense | None


LossNet = tuple[Modulated, ...]


def init_loss_net(key: jax.Array, inputs: int, *, film: bool, biases: str = "zero") -> LossNet:
    """Layers near zero, see `init_small`.

    Args:
        film: whether layers are modulated.
    """
    widths = (inputs, *HIDDEN, 1)
    shapes = list(zip(widths[:-1], widths[1:], strict=True))
    dense_key, film_key = jax.random.split(key)
    films = init_film(film_key, shapes, biases) if film else [None] * len(shapes)
    return tuple(map(Modulated, init_small(dense_key, shapes, biases), films))


def loss_net(net: LossNet, rows: jax.Array, output: str = "identity") -> jax.Array:
    """[...] of rows [..., inputs].

    Args:
        output: the last non-linearity: "identity" or "smooth_leaky_relu".
    """
    x = rows
    for number, (dense, film) in enumerate(net):
        z = x @ dense.weights + dense.bias
        z = z if film is None else modulated(film, x, z)
        x = z if number == len(net) - 1 else jax.nn.relu(z)
    return (smooth_leaky_relu(x) if output == "smooth_leaky_relu" else x)[..., 0]


def smooth_leaky_relu(x: jax.Array) -> jax.Array:
    """x / 4 + 3 / 4 log(1 + e^(5 x)) / 5: slope 1/4 far below zero, 5/8 at zero, 1 far above."""
    return 0.25 * x + 0.75 * jax.nn.softplus(5 * x) / 5


def rows_of(logits: jax.Array, beliefs: jax.Array) -> jax.Array:
    """What L^S or L^Q is shown of each image: logits, beliefs, and the cross-entropy against the strongest belief.

    Args:
        logits: [images, ways]. beliefs: [images, ways], one-hot labels or scores.

    Returns:
        [images, 2 * ways + 1].
    """
    chosen = jax.nn.one_hot(beliefs.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    surprise = -jnp.sum(chosen * jax.nn.log_softmax(logits), -1, keepdims=True)
    return jnp.concatenate([logits, beliefs, surprise], -1)


def prototype_scores(support: jax.Array, labels: jax.Array, query: jax.Array, ways: int) -> jax.Array:
    """[queries, ways]: softmax over ways of minus squared distances to the class means; [images, width] features."""
    head = prototype_head(prototypes(support, labels, ways))
    return jax.nn.softmax(query @ head.weights + head.bias)


def statistics_of(params: Any, *, moments: str = "differentiable", norms: str = "l1_l2") -> jax.Array:
    """What R is shown: mean, standard deviation (of n - 1), and two norms of each leaf of `params`, [4 * leaves].

    Values and gradients are finite for any leaf: where a root is of zero, its gradient is zero as well, and a leaf that
    is constant but for rounding is constant.

    Args:
        moments: "differentiable", or "detached": mean and deviation are constants.
        norms: "l1_l2", or "l2_l2": twice the second.
    """
    hold = jax.lax.stop_gradient if moments == "detached" else lambda x: x
    leaves = jax.tree.leaves(params)
    places: dict[tuple[int, ...], list[int]] = {}
    for place, leaf in enumerate(leaves):
        places.setdefault(leaf.shape, []).append(place)
    rows: dict[int, jax.Array] = {}
    for alike in places.values():  # side by side: every leaf that is seen to alone takes its time to compile
        x = jnp.stack([leaves[place].ravel() for place in alike])
        mean = x.mean(1)
        variance = jnp.sum((x - mean[:, None]) ** 2, 1) / max(x.shape[1] - 1, 1)
        rounding = (8 * jnp.finfo(x.dtype).eps * mean) ** 2
        deviation = safe_sqrt(jnp.where(variance > rounding, variance, 0))
        euclidean = safe_sqrt(jnp.sum(x**2, 1))
        first = jnp.sum(jnp.abs(x), 1) if norms == "l1_l2" else euclidean
        found = jnp.stack([hold(mean), hold(deviation), first, euclidean], 1)
        rows |= zip(alike, found, strict=True)
    return jnp.concatenate([rows[place] for place in range(len(leaves))])


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root, whose derivatives of all orders at 0 are 0 instead of infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
