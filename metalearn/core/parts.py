"""A sum over many rows, its gradient accumulated part by part, so that only one part's residuals are ever kept."""

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
            `shard_map` without replication checking, such as the outer loop's; see `task_mesh`). Each gets the sum of
            its own parts times the number of devices: the mean over devices, which the outer loop takes of gradients
            and losses in the end, is the sum, and until then nobody waits.

    Returns:
        (params, rows, used=None, turn=0) -> scalar. Given `used`, an integer that may be traced, at least so many of
        the first rows are summed and parts beyond them are not computed: for rows that are padded to a common number.
        Given `turn`, the number of such sums before, devices go on taking turns where those left off, so that many sums
        of few parts are shared as evenly as one of many.

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1, the rows per part")

    devices = lambda: 1 if axis is None else jax.lax.axis_size(axis)
    plus = lambda one, other: jax.tree.map(jnp.add, one, other)

    def added(function: Callable[[Any, Any], Any], params: Any, rows: Any, used: Any, turn: Any) -> Any:
        count = jax.tree.leaves(rows)[0].shape[0]
        whole, parts = count // size, -(-count // size)
        of = lambda begin, end: function(params, jax.tree.map(lambda x: x[begin:end], rows))
        if axis is None and parts == 1:
            return of(0, size)
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: of(0, size)))
        wanted = parts if used is None else jnp.minimum(-(-used // size), parts)
        first = 0 if axis is None else (jax.lax.axis_index(axis) - turn * wanted) % devices()
        if parts == 1:
            result = jax.lax.cond(first < wanted, lambda: of(0, size), lambda: nothing)
        else:
            folded = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), rows)
            part = lambda i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), folded)
            add = lambda i, so_far: plus(so_far, function(params, part(first + i * devices())))
            turns = -(-(jnp.minimum(wanted, whole) - first) // devices())
            result = jax.lax.fori_loop(0, turns, add, nothing)
            if whole < parts:
                own = (wanted == parts) & ((whole - first) % devices() == 0)
                result = jax.lax.cond(own, lambda: plus(result, of(whole * size, count)), lambda: result)
        return result

    @jax.custom_vjp
    def summed(params, rows, used=None, turn=0):
        return added(total, params, rows, used, turn) * devices()

    def forward(params, rows, used=None, turn=0):
        value, gradient = added(jax.value_and_grad(total), params, rows, used, turn)
        return value * devices(), gradient

    def backward(gradient, cotangent):
        cotangent = cotangent * devices()  # a number, and not the gradient, which is as large as params
        return jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradient), None, None, None

    summed.defvjp(forward, backward)
    return summed
