"""A sum over many rows, its gradient accumulated part by part, so that only one part's residuals are ever kept."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def sum_in_parts(
    total: Callable[[Any, Any], jax.Array], size: int, axis: str | None = None
) -> Callable[..., jax.Array]:
    """`total`, worked off `size` rows at a time.

    Where the sum is differentiated, each part's gradient is formed together with its value, as a scalar's gradient
    needs nothing from what comes after it. So no pass is repeated, and what waits for the backward pass is one
    gradient, whatever the number of rows. Reverse mode only, and not with respect to the rows.

    Args:
        total: (params, rows) -> scalar, additive over the leading axis of rows.
        size: rows per part, at least 1; a remainder forms a smaller last part.
        axis: of a mesh whose devices take turns at the parts, where all hold the same params and rows (inside a
            `shard_map` without replication checking, such as the outer loop's; see `task_mesh`). Each gets the sum.

    Returns:
        (params, rows, used=None) -> scalar. Given `used`, an integer that may be traced, at least so many of the first
        rows are summed and parts beyond them are not computed: for rows that are padded to a common number.

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1, the rows per part")

    plus = lambda one, other: jax.tree.map(jnp.add, one, other)

    def added(function: Callable[[Any, Any], Any], params: Any, rows: Any, used: Any) -> Any:
        count = jax.tree.leaves(rows)[0].shape[0]
        whole = count - count % size
        between = lambda begin, end: jax.tree.map(lambda x: x[begin:end], rows)
        if whole <= size:  # nothing to loop over
            pieces = [function(params, between(begin, begin + size)) for begin in range(0, count, size)]
            return functools.reduce(plus, pieces)
        folded = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), rows)
        shapes = jax.eval_shape(function, params, between(0, size))
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        parts = whole // size if used is None else jnp.minimum(-(-used // size), whole // size)
        part = lambda i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), folded)
        first, stride = (0, 1) if axis is None else (jax.lax.axis_index(axis), jax.lax.axis_size(axis))
        turns = -(-(parts - first) // stride)
        add = lambda turn, so_far: plus(so_far, function(params, part(first + turn * stride)))
        result = jax.lax.fori_loop(0, turns, add, nothing)
        if axis is not None:
            result = jax.lax.psum(result, axis)
        if whole == count:
            return result
        with_rest = lambda so_far: plus(so_far, function(params, between(whole, count)))
        return with_rest(result) if used is None else jax.lax.cond(used > whole, with_rest, lambda x: x, result)

    @jax.custom_vjp
    def summed(params, rows, used=None):
        return added(total, params, rows, used)

    def forward(params, rows, used=None):
        return added(jax.value_and_grad(total), params, rows, used)

    def backward(gradient, cotangent):
        return jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradient), None, None

    summed.defvjp(forward, backward)
    return summed
