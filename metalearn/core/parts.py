"""A sum over many rows, its gradient accumulated part by part, so that only one part's residuals are ever kept."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def sum_in_parts(total: Callable[[Any, Any], jax.Array], size: int) -> Callable[[Any, Any], jax.Array]:
    """`total`, worked off `size` rows at a time.

    Where the sum is differentiated, each part's gradient is formed together with its value, as a scalar's gradient
    needs nothing from what comes after it. So no pass is repeated, and what waits for the backward pass is one
    gradient, whatever the number of rows. Reverse mode only, and not with respect to the rows.

    Args:
        total: (params, rows) -> scalar, additive over the leading axis of rows.
        size: rows per part, at least 1; a remainder forms a smaller last part.

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1, the rows per part")

    def added(function: Callable[[Any, Any], Any], params: Any, rows: Any) -> Any:
        count = jax.tree.leaves(rows)[0].shape[0]
        whole = count - count % size
        between = lambda begin, end: jax.tree.map(lambda x: x[begin:end], rows)
        plus = lambda one, other: jax.tree.map(jnp.add, one, other)
        if whole <= size:  # nothing to loop over
            pieces = [function(params, between(begin, begin + size)) for begin in range(0, count, size)]
            return functools.reduce(plus, pieces)
        folded = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), rows)
        shapes = jax.eval_shape(function, params, between(0, size))
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        result, _ = jax.lax.scan(lambda so_far, part: (plus(so_far, function(params, part)), None), nothing, folded)
        return result if whole == count else plus(result, function(params, between(whole, count)))

    @jax.custom_vjp
    def summed(params, rows):
        return added(total, params, rows)

    def forward(params, rows):
        return added(jax.value_and_grad(total), params, rows)

    def backward(gradient, cotangent):
        return jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradient), None

    summed.defvjp(forward, backward)
    return summed
