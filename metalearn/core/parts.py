"""A sum over many rows, its gradient accumulated part by part, so that only one part's residuals are ever kept."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def sum_in_parts(total: Callable[[Any, Any], jax.Array], size: int) -> Callable[..., jax.Array]:
    """`total`, worked off `size` rows at a time.

    Where the sum is differentiated, each part's gradient is formed together with its value, as a scalar's gradient
    needs nothing from what comes after it. So no pass is repeated, and what waits for the backward pass is one
    gradient, whatever the number of rows. Reverse mode only, and not with respect to the rows.

    Args:
        total: (params, rows) -> scalar, additive over the leading axis of rows.
        size: rows per part, at least 1; a remainder forms a smaller last part.

    Returns:
        (params, rows, own=None) -> scalar. Given `own` = (begin, end), only the parts begin .. end - 1 are computed: of
        rows that are padded to a common number, or that devices share. Both are integers that may be traced, within 0
        .. the number of parts; without a part between them the sum is zero.

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1, the rows per part")
    plus = lambda one, other: jax.tree.map(jnp.add, one, other)

    def added(function: Callable[[Any, Any], Any], params: Any, rows: Any, own: Any) -> Any:
        count = jax.tree.leaves(rows)[0].shape[0]
        whole, parts = count // size, -(-count // size)
        of = lambda first, last: function(params, jax.tree.map(lambda x: x[first:last], rows))
        if parts == 1 and own is None:
            return of(0, size)
        begin, end = (0, parts) if own is None else own
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: of(0, size)))
        if parts == 1:
            return jax.lax.cond(begin < end, lambda: of(0, size), lambda: nothing)
        folded = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), rows)
        part = lambda i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), folded)
        add = lambda i, so_far: plus(so_far, function(params, part(i)))
        result = jax.lax.fori_loop(begin, jnp.minimum(end, whole), add, nothing)
        if whole < parts:
            has_last = (begin < end) & (end == parts)
            result = jax.lax.cond(has_last, lambda: plus(result, of(whole * size, count)), lambda: result)
        return result

    @jax.custom_vjp
    def summed(params, rows, own=None):
        return added(total, params, rows, own)

    def forward(params, rows, own=None):
        return added(jax.value_and_grad(total), params, rows, own)

    def backward(gradient, cotangent):
        return jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradient), None, None

    summed.defvjp(forward, backward)
    return summed
