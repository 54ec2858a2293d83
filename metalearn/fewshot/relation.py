"""Relation networks (Sung et al. 2018) in the form of Raymond et al. (2024): a network judges pairs of image and class.

Support and query images are encoded, the maps of a class's support images are summed, put beside the maps of a query
image, and a second network says how well they go together. Once trained it can be frozen, and its scores are then
a constant part of a task: see `ScoredEpisode`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.fewshot.encoders import EncoderParams, encode, encode_maps, resnet12
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.perceptron import Dense


class RelationParams(NamedTuple):
    """Of the encoder, of the network that compares, and of its last layer."""

    encoder: EncoderParams
    comparer: EncoderParams
    last: Dense


class RelationNetwork(NamedTuple):
    """A relation network, as pure functions.

    init(key) -> RelationParams.
    scores(params, episode) -> [queries, ways] in (0, 1): how well query image and class go together. They do not add
        up to 1, and the labels of the query images have no part in them.
    """

    init: Callable[[jax.Array], RelationParams]
    scores: Callable[[RelationParams, Any], jax.Array]


class ScoredEpisode(NamedTuple):
    """An `Episode`, and scores [queries, ways] of its query images that were computed beforehand."""

    support_x: jax.Array
    support_y: jax.Array
    query_x: jax.Array
    query_y: jax.Array
    scores: jax.Array


def relation_network(
    ways: int,
    filters: Sequence[int] = (64, 128, 256, 512),
    channels: int = 3,
    size: int = 84,
    *,
    convolution: str | None = None,
) -> RelationNetwork:
    """The relation network of the released code of Raymond et al. (2024); 25 million weights as it is there.

    The encoder consists of residual blocks, the first two of which end in max-pooling. What compares are two blocks
    more, as wide as the last and both pooled where the maps are large enough. Support images, query images and pairs
    are each normalised by the statistics of their own batch.

    Args:
        ways: classes in an episode.
        filters: of each block of the encoder.
        channels, size: of the square images.
        convolution: see `conv3x3`.

    Raises:
        ValueError: images too small to be halved twice.
    """
    encoder = resnet12(filters, channels, size, pooled=min(2, len(filters)), convolution=convolution)
    width, side = filters[-1], size // 2 ** min(2, len(filters))
    pooled = min(2, side.bit_length() - 1)
    comparer = resnet12((width, width), 2 * width, side, pooled=pooled, convolution=convolution)

    def init(key: jax.Array) -> RelationParams:
        encoder_key, comparer_key, last_key = jax.random.split(key, 3)
        last = Dense(jax.nn.initializers.glorot_uniform()(last_key, (width, 1), float), jnp.zeros(1))
        return RelationParams(encoder.init(encoder_key), comparer.init(comparer_key), last)

    def scores(params: RelationParams, episode: Any) -> jax.Array:
        support, query = (encode_maps(encoder, params.encoder, x)[0] for x in (episode.support_x, episode.query_x))
        members = jax.nn.one_hot(episode.support_y, ways, dtype=support.dtype)
        classes = jnp.tensordot(members, support, (0, 0))
        shape = (len(query), *classes.shape)
        pairs = jnp.concatenate(
            [jnp.broadcast_to(classes, shape), jnp.broadcast_to(query[:, None], shape)], axis=-1
        ).reshape(-1, *classes.shape[1:-1], 2 * width)
        features, _ = encode(comparer, params.comparer, pairs)
        return jax.nn.sigmoid(features @ params.last.weights + params.last.bias).reshape(len(query), ways)

    return RelationNetwork(init, scores)


def scored(network: RelationNetwork, params: RelationParams, episode: Episode) -> ScoredEpisode:
    """The episode with the network's scores, which are constants from then on."""
    return ScoredEpisode(*episode, jax.lax.stop_gradient(network.scores(params, episode)))
