"""The 3x3 convolution that all encoders are made of, in two ways that compute the same.

patches: nine shifted copies of the maps side by side, times one matrix, for as many images at a time as stay in a
    core's cache. It stays a matrix product under `vmap` over tasks and inside `scan`, where a CPU's own convolution
    becomes up to ten times slower: weights that differ between tasks make it a grouped convolution.
direct: the backend's own convolution.
"""

import jax
import jax.numpy as jnp
import numpy as np

CONVOLUTIONS = ("patches", "direct")
_AT_ONCE = 1 << 20
"""Bytes that the patches of the images worked on at a time may take: of the size of a core's second-level cache."""


def default_convolution() -> str:
    """What is taken to be the faster way on the backend in use: "patches" on CPU, else "direct".

    Inside the loops and under the vmap of meta-learning XLA's own convolution is slow on a CPU; benchmarks/maml.py has
    a row for each. On a GPU or TPU nothing has been timed yet.
    """
    return "patches" if jax.default_backend() == "cpu" else "direct"


def conv3x3(maps: jax.Array, kernel: jax.Array, how: str | None = None) -> jax.Array:
    """Cross-correlation with stride 1, zeros around the border, and no bias: what PyTorch's Conv2d computes.

    Args:
        maps: [images, height, width, inputs].
        kernel: [3, 3, inputs, outputs].
        how: one of CONVOLUTIONS; None: the default of the backend.

    Returns:
        [images, height, width, outputs].

    Raises:
        ValueError: unknown `how`, or shapes that do not fit.
    """
    how = default_convolution() if how is None else how
    if how not in CONVOLUTIONS:
        raise ValueError(f"convolution={how!r} is unknown; choose one of {CONVOLUTIONS}")
    if maps.ndim != 4 or kernel.ndim != 4 or kernel.shape[:3] != (3, 3, maps.shape[-1]):
        raise ValueError(
            f"maps must be [images, height, width, inputs] and the kernel [3, 3, inputs, outputs], but these have the "
            f"shapes {maps.shape} and {kernel.shape}"
        )
    if how == "direct":
        return jax.lax.conv_general_dilated(maps, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    matrix, count = as_matrix(kernel), _images_at_once(maps)
    if count == len(maps):
        return patches(maps) @ matrix
    # Patches are made again for the backward pass: that is cheaper than to fetch them from memory, and they stay few.
    product = jax.checkpoint(lambda some: patches(some) @ matrix, prevent_cse=False)
    return jax.lax.map(product, maps.reshape(-1, count, *maps.shape[1:])).reshape(*maps.shape[:3], -1)


def _images_at_once(maps: jax.Array) -> int:
    """The largest divisor of the number of images whose patches fit; 1 where those of one image do not."""
    fitting = _AT_ONCE // max(9 * maps.dtype.itemsize * maps.size // max(len(maps), 1), 1)
    return next((n for n in range(min(fitting, len(maps)), 1, -1) if len(maps) % n == 0), min(len(maps), 1))


def patches(maps: jax.Array) -> jax.Array:
    """What each position sees, [images, height, width, 9 * inputs]: its neighbourhood, with zeros around the border."""
    height, width = maps.shape[1:3]
    padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return jnp.concatenate(shifted, axis=-1)


def as_matrix(kernel: jax.Array) -> jax.Array:
    """[9 * inputs, outputs], in the order of `patches`."""
    return kernel.reshape(-1, kernel.shape[-1])


def identity_kernel(filters: int) -> jax.Array:
    """The kernel [3, 3, filters, filters] that changes nothing."""
    kernel = np.zeros((3, 3, filters, filters))
    kernel[1, 1] = np.eye(filters)
    return jnp.asarray(kernel, float)
