"""The one bridge from JAX keys to host-side sampling.

Strings of formal languages have no static shape, so they are sampled with NumPy on the host. All randomness still
starts from typed JAX keys: whoever samples strings derives a generator from a key, here and nowhere else.
"""

import jax
import numpy as np


def host_rng(key: jax.Array) -> np.random.Generator:
    """A NumPy generator that is a pure function of one typed JAX key.

    The words of the key seed a `numpy.random.SeedSequence`, so that keys that differ in one bit (as those from
    `jax.random.split` and `fold_in` may) give unrelated streams. The same key always gives the same stream.

    Args:
        key: a scalar typed key, as from `jax.random.key(0)`.

    Returns:
        A fresh PCG64 generator.

    Raises:
        TypeError: `key` is not a typed JAX key (for example a legacy `PRNGKey` or an integer).
        ValueError: `key` is an array of several keys.
    """
    if not isinstance(key, jax.Array) or not jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"host_rng expects a typed key such as jax.random.key(0), got {type(key).__name__}: {key!r}")
    if key.shape != ():
        raise ValueError(f"host_rng expects one key of shape (), got keys of shape {key.shape}: pass one at a time")
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
