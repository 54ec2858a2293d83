"""A Transformer as a cell of recurrent.py: one layer is a cell whose state is its cache of keys and values.

Causal, normalised before attention and before the two-layer perceptron, with rotary positions (Su et al. 2021) that are
counted from START. So `step` reads one token against the cache, and `run` all times at once.

| symbol | name                                                    |
|--------|---------------------------------------------------------|
| C      | `context`: tokens that attention sees, its own included |
| A      | `heads`                                                 |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metalearn.languages.products import Product
from metalearn.languages.recurrent import Cell, uniform


class TransformerParams(NamedTuple):
    """attend [H, 3 H]: to queries, keys and values; attended [H, H]; widen [H, 4 H] and narrow [4 H, H].

    No biases, and no weights in the normalisations: the maps that follow them could undo any.
    """

    attend: jax.Array
    attended: jax.Array
    widen: jax.Array
    narrow: jax.Array


class TransformerState(NamedTuple):
    """keys and values [batch, C, H], of token t in place t mod C; age [batch] int32, the tokens read since START."""

    keys: jax.Array
    values: jax.Array
    age: jax.Array


def transformer(heads: int = 4, context: int = 256, product: Product = jnp.matmul) -> Cell:
    """A decoder layer. A token sees its string's last `context` tokens and no further, however long the string is.

    Raises:
        ValueError: `heads` or `context` below 1; at `init`, a number of units that is no multiple of 2 `heads`.
    """
    if min(heads, context) < 1:
        raise ValueError(f"heads={heads} and context={context} must both be at least 1")

    def init(key, units):
        if units % (2 * heads):
            raise ValueError(f"units={units} must be a multiple of {2 * heads}: {heads} heads of an even size each")
        key, narrow_key = jax.random.split(key)
        shapes = [(units, 3 * units), (units, units), (units, 4 * units)]
        return TransformerParams(*uniform(key, units, shapes), *uniform(narrow_key, 4 * units, [(4 * units, units)]))

    def start(units, batch, dtype):
        cache = jnp.zeros((batch, context, units), dtype)
        return TransformerState(cache, cache, jnp.zeros(batch, jnp.int32))

    def drive(params: TransformerParams, x):
        return jnp.concatenate([x, product(_normalised(x), params.attend)], -1)

    def of_heads(x):
        return x.reshape(*x.shape[:-1], heads, -1)

    def parts(driven, position):
        """x [..., H], then queries, keys and values [..., A, H / A], the first two turned by their positions [...]."""
        x, *flat = jnp.split(driven, 4, axis=-1)
        q, k, v = map(of_heads, flat)
        return x, _turned(q * q.shape[-1] ** -0.5, position), _turned(k, position), v

    def finish(params: TransformerParams, x, seen):
        x = x + product(seen.reshape(x.shape), params.attended)
        return x + product(jax.nn.gelu(product(_normalised(x), params.widen)), params.narrow)

    def step(params: TransformerParams, state: TransformerState, driven):
        x, q, k, v = parts(driven, state.age)
        place = jnp.arange(context)
        here = (place == state.age[:, None] % context)[..., None]
        keys, values = (
            jnp.where(here, new.reshape(x.shape)[:, None], old) for old, new in zip(state[:2], (k, v), strict=True)
        )
        shares = _shares(jnp.einsum("bad,bcad->bac", q, of_heads(keys)), (place <= state.age[:, None])[:, None])
        seen = jnp.einsum("bac,bcad->bad", shares, of_heads(values))
        return TransformerState(keys, values, state.age + 1), finish(params, x, seen)

    def run(params: TransformerParams, driven, keep):
        time = jnp.arange(len(driven))[:, None]
        began = jax.lax.cummax(jnp.where(keep[..., 0] > 0, 0, time))  # [time, batch], of the string at each time
        x, q, k, v = parts(driven, time - began)
        ago = time - time.T  # [query, key]
        seen = (ago >= 0) & (ago < context) & (time.T >= began.T[..., None])  # [batch, query, key]
        shares = _shares(jnp.einsum("qbad,kbad->baqk", q, k), seen[:, None])
        return finish(params, x, jnp.einsum("baqk,kbad->qbad", shares, v))

    return Cell(init, start, drive, step, run)


def _normalised(x):
    """x by its root mean square, with a derivative of every order also at 0."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)


def _turned(x, position):
    """Rotary positions: the i-th number of x [..., A, d] and the one d/2 after it are a point, turned by an angle."""
    half = x.shape[-1] // 2
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # angles of hundreds have no digits left in half precision
    angles = position[..., None, None].astype(dtype) * 10_000.0 ** (-jnp.arange(half, dtype=dtype) / half)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _shares(products, seen):
    """How attention is shared out over the last axis: the softmax of the products of queries and keys, where seen."""
    return jax.nn.softmax(jnp.where(seen, products, -jnp.inf))
