"""Image encoders as pure functions: the four-layer convolutional network and ResNet-12, channels last.

A block is a chain of 3x3 convolutions, each followed by batch normalisation, then max-pooling and ReLU. The two commute
and pooling first leaves ReLU a quarter of the work. Convolutions have no bias: the normalisation would take it out.

Batch normalisation has no state. It normalises by the statistics that it is given or, given none, by those of the
images at hand, and returns what it used. The three modes of few-shot learning differ in where statistics come from:

transductive: every batch is normalised by its own, so that the prediction for one query image depends on the others.
support: the query set is normalised by the statistics of the support set under the same weights.
running: everything is normalised by statistics stored during pre-training.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.fewshot.convolution import as_matrix, conv3x3, default_convolution, patches

NORMALISATIONS = ("transductive", "support", "running")
EPSILON = 1e-5
"""Added to variances, as in PyTorch."""


class Norm(NamedTuple):
    """What follows the normalisation: scale [channels] and offset [channels]."""

    scale: jax.Array
    offset: jax.Array


class Moments(NamedTuple):
    """Statistics of one layer's maps: mean [channels] and (biased) variance [channels]."""

    mean: jax.Array
    variance: jax.Array


class EncoderParams(NamedTuple):
    """Both nested: an entry for each block, and in it one for each convolution.

    kernels: [3, 3, inputs, outputs] each; the shortcut of a residual block, its last entry, is [inputs, outputs].
    norms: `Norm` each.
    """

    kernels: tuple[tuple[jax.Array, ...], ...]
    norms: tuple[tuple[Norm, ...], ...]


Statistics = tuple[tuple[Moments, ...], ...]
"""Nested like `EncoderParams.norms`."""

Tap = Callable[[str, int, int, jax.Array], jax.Array]
"""(place, block, convolution, maps) -> maps: what an algorithm inserts into the forward pass.

Places: "convolved", before the normalisation; "normalised", after it; "block", at a block's end (convolution 0).
"""


class Encoder(NamedTuple):
    """An encoder, as pure functions.

    init(key) -> EncoderParams.
    blocks: of which the encoder is a chain.
    block(number, kernels, norms, maps, statistics, tap) -> (maps, statistics) of one block, the statistics that were
        used; kernels, norms and statistics are one block's entries; statistics and tap may be None.
    pool(maps) -> [images, width]: from the last block's maps to features.
    width: number of features.
    filters: channels that each block puts out.
    """

    init: Callable[[jax.Array], EncoderParams]
    blocks: int
    block: Callable[..., tuple[jax.Array, tuple[Moments, ...]]]
    pool: Callable[[jax.Array], jax.Array]
    width: int
    filters: tuple[int, ...]


def encode(
    encoder: Encoder,
    params: EncoderParams,
    images: jax.Array,
    statistics: Statistics | None = None,
    tap: Tap | None = None,
) -> tuple[jax.Array, Statistics]:
    """Features of images.

    Args:
        images: [images, height, width, channels].
        statistics: to normalise by; None: those of these images.
        tap: see `Tap`.

    Returns:
        [images, encoder.width], and the statistics that were used.
    """
    maps, used = encode_maps(encoder, params, images, statistics, tap)
    return encoder.pool(maps), used


def encode_maps(
    encoder: Encoder,
    params: EncoderParams,
    images: jax.Array,
    statistics: Statistics | None = None,
    tap: Tap | None = None,
) -> tuple[jax.Array, Statistics]:
    """The maps that `encode` makes into features: [images, height, width, channels] of the last block."""
    used, maps = [], images
    for number, (kernels, norms) in enumerate(zip(params.kernels, params.norms, strict=True)):
        given = None if statistics is None else statistics[number]
        maps, moments = encoder.block(number, kernels, norms, maps, given, tap)
        used.append(moments)
    return maps, tuple(used)


def normalise(maps: jax.Array, norm: Norm, moments: Moments | None) -> tuple[jax.Array, Moments]:
    """Batch normalisation over all axes but the last, by `moments` or, if None, by those of the maps."""
    if moments is None:
        axes = tuple(range(maps.ndim - 1))
        moments = Moments(maps.mean(axes), maps.var(axes))
    scale, offset = _affine(norm, moments)
    # In this order the maps are read once, and no centred copy of them is kept for the backward pass.
    return maps * scale + offset, moments


def normalised_product(x: jax.Array, weights: jax.Array, norm: Norm) -> tuple[jax.Array, Moments]:
    """`normalise` of x @ weights by its own statistics, which are found from those of x: faster where x is narrow.

    As mean(x W) = mean(x) W and cov(x W) = W^T cov(x) W, the product is known to the normalisation before it is made,
    which then happens to the weights. The wide result is written once, and never read for its statistics.
    """
    rows = x.reshape(-1, x.shape[-1])
    mean = rows.mean(0)
    centred = rows - mean
    covariance = centred.T @ centred / len(rows)
    moments = Moments(mean @ weights, jnp.sum(weights * (covariance @ weights), 0))
    scale, offset = _affine(norm, moments)
    return x @ (weights * scale) + offset, moments


def _affine(norm: Norm, moments: Moments) -> tuple[jax.Array, jax.Array]:
    scale = norm.scale * jax.lax.rsqrt(moments.variance + EPSILON)
    return scale, norm.offset - moments.mean * scale


def max_pool(maps: jax.Array) -> jax.Array:
    """2x2 max-pooling, stride 2; an odd last row or column is left out.

    Where two values tie, they share the gradient. Pairs are compared, as the gradient of a maximum over axes divides by
    the number of places that equal it, and the compiler may evaluate a value twice with different rounding: 0 / 0.
    """
    images, height, width, channels = maps.shape
    maps = maps[:, : height // 2 * 2, : width // 2 * 2]
    rows = maps.reshape(images, height // 2, 2, width // 2, 2, channels)
    columns = jnp.maximum(rows[:, :, 0], rows[:, :, 1])
    return jnp.maximum(columns[:, :, :, 0], columns[:, :, :, 1])


def four_conv(
    filters: int = 64,
    channels: int = 3,
    size: int = 84,
    *,
    readout: str = "mean",
    blocks: int = 4,
    convolution: str | None = None,
) -> Encoder:
    """The standard small encoder of few-shot learning (Vinyals et al. 2016): four blocks of one convolution each.

    Args:
        filters: of every block; 32, 48, 64 or 128 in the literature.
        channels, size: of the square input images.
        readout: "mean" over the positions of the last maps, or "flatten": all of them (Finn et al. 2017).
        convolution: see `conv3x3`.

    Raises:
        ValueError: sizes below 1, images too small to be halved once per block, or an unknown readout.
    """
    shapes = [(3, 3, before, filters) for before in (channels, *[filters] * blocks)[:blocks]]

    def block(number, kernels, norms, maps, statistics=None, tap=None):
        maps, moments = _layer(convolution, number, 0, kernels, norms, maps, statistics, tap)
        maps = jax.nn.relu(max_pool(maps))
        return (maps if tap is None else tap("block", number, 0, maps)), (moments,)

    return _encoder([[shape] for shape in shapes], block, size, readout, blocks)


def resnet12(
    filters: Sequence[int] = (64, 128, 256, 512),
    channels: int = 3,
    size: int = 84,
    *,
    readout: str = "mean",
    pooled: int | None = None,
    convolution: str | None = None,
) -> Encoder:
    """ResNet-12: blocks of three convolutions beside a 1x1 shortcut, without dropout; wide: 64, 160, 320, 640 filters.

    Args:
        filters: of each block.
        channels, size, readout, convolution: see `four_conv`.
        pooled: that many first blocks end in max-pooling; None: all.

    Raises:
        ValueError: as `four_conv`.
    """
    shapes = [
        [(3, 3, before, after), (3, 3, after, after), (3, 3, after, after), (before, after)]
        for before, after in zip((channels, *filters[:-1]), filters, strict=True)
    ]
    halved = len(shapes) if pooled is None else pooled

    def block(number, kernels, norms, maps, statistics=None, tap=None):
        layer = lambda which, maps: _layer(convolution, number, which, kernels, norms, maps, statistics, tap)
        shortcut, last = layer(3, maps)
        used = []
        for which in range(3):
            maps, moments = layer(which, maps if which == 0 else jax.nn.relu(maps))
            used.append(moments)
        maps = maps + shortcut
        maps = jax.nn.relu(max_pool(maps) if number < halved else maps)
        return (maps if tap is None else tap("block", number, 0, maps)), (*used, last)

    return _encoder(shapes, block, size, readout, halved)


def _layer(convolution, number, which, kernels, norms, maps, statistics, tap):
    """A convolution and its normalisation."""
    kernel = kernels[which]
    if tap is None and statistics is None and _narrow(kernel) and (convolution or default_convolution()) == "patches":
        return normalised_product(patches(maps), as_matrix(kernel), norms[which])
    maps = maps @ kernel if kernel.ndim == 2 else conv3x3(maps, kernel, convolution)
    maps = maps if tap is None else tap("convolved", number, which, maps)
    maps, moments = normalise(maps, norms[which], None if statistics is None else statistics[which])
    return (maps if tap is None else tap("normalised", number, which, maps)), moments


def _narrow(kernel: jax.Array) -> bool:
    """Whether patches are no wider than what becomes of them, as those of images are."""
    return kernel.ndim == 4 and 9 * kernel.shape[2] <= kernel.shape[3]


def _encoder(
    shapes: Sequence[Sequence[tuple[int, ...]]], block: Callable[..., Any], size: int, readout: str, halved: int
) -> Encoder:
    """shapes: of the kernels; halved: how often the blocks halve the maps."""
    flat = [shape for of_block in shapes for shape in of_block]
    if not flat or min(min(shape) for shape in flat) < 1:
        raise ValueError("an encoder needs at least one block, and at least one filter and input channel in each")
    if readout not in ("mean", "flatten"):
        raise ValueError(f"readout={readout!r} is unknown; choose 'mean' or 'flatten'")
    side = size // 2**halved
    if side < 1:
        raise ValueError(f"images of size={size} cannot be halved {halved} times: take fewer blocks")

    def init(key: jax.Array) -> EncoderParams:
        keys = iter(jax.random.split(key, len(flat)))
        draw = jax.nn.initializers.glorot_uniform()  # as in the code of Finn et al. (2017)
        kernels = tuple(tuple(draw(next(keys), shape, float) for shape in of_block) for of_block in shapes)
        norm = lambda shape: Norm(jnp.ones(shape[-1]), jnp.zeros(shape[-1]))
        return EncoderParams(kernels, tuple(tuple(norm(shape) for shape in of_block) for of_block in shapes))

    filters = tuple(of_block[-1][-1] for of_block in shapes)
    return Encoder(
        init=init,
        blocks=len(shapes),
        block=block,
        pool=lambda maps: maps.mean((1, 2)) if readout == "mean" else maps.reshape(len(maps), -1),
        width=filters[-1] * (1 if readout == "mean" else side**2),
        filters=filters,
    )


def parameter_count(params: Any) -> int:
    """Numbers in a pytree of arrays (or of their shapes)."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
