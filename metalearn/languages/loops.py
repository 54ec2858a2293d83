"""Loops that a CPU runs as one function.

XLA runs the body of a loop operation by operation on a CPU, each of which takes half a microsecond before it begins. In
a recurrent network that reads one or two rows at a time, that is most of the time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

_ONE_FUNCTION = {"xla_cpu_small_call": "true", "inlineable": "false"}


def as_one_function(loop: Callable[..., Any], otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """`loop`, compiled as one function on a CPU; under `vmap` and on other devices `otherwise`, which does the same.

    Within a function there is no library of matrix products: a product of a vector and a matrix is as fast as outside,
    one of matrices ten times slower, which is what `vmap` would make of it. Tangents are one function together with
    what they are tangents of; second ones are those of `otherwise`. Neither may close over traced arrays.
    """

    @jax.custom_jvp
    def call(*operands: Any) -> Any:
        return _chosen(loop, otherwise, tangents=False)(*operands)

    @call.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        leaves, structure = jax.tree.flatten(primals)
        moving = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
        along = [tangent for tangent, moves in zip(jax.tree.leaves(tangents), moving, strict=True) if moves]

        def with_tangent(function: Callable[..., Any]) -> Callable[..., Any]:
            def both(leaves: Any, along: Any) -> Any:
                given = iter(along)
                still = lambda leaf: np.zeros(jnp.shape(leaf), jax.dtypes.float0)
                tangents = [next(given) if m else still(leaf) for leaf, m in zip(leaves, moving, strict=True)]
                return jax.jvp(function, *(jax.tree.unflatten(structure, each) for each in (leaves, tangents)))

            return both

        return _chosen(with_tangent(loop), with_tangent(otherwise), tangents=True)(leaves, along)

    return call


def _chosen(loop: Callable[..., Any], otherwise: Callable[..., Any], tangents: bool) -> Callable[..., Any]:
    """`as_one_function` with the derivatives of `otherwise`.

    tangents: both take values and tangents, and return values and tangents.
    """
    # The marks are meant for the call, not for the operations within.
    unmarked = set_xla_metadata(**dict.fromkeys(_ONE_FUNCTION))(loop)
    marked = set_xla_metadata(**_ONE_FUNCTION)(jax.jit(lambda *operands: unmarked(*operands)))

    @jax.custom_batching.custom_vmap
    def on_device(*operands: Any) -> Any:
        return jax.lax.platform_dependent(*operands, cpu=lambda *o: marked(*o), default=otherwise)

    @on_device.def_vmap
    def _(axis_size: int, in_batched: Any, *operands: Any) -> tuple[Any, Any]:
        in_axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        all_ = lambda tree, batched: jax.tree.map(lambda _: batched, tree)
        if not tangents:
            results = jax.vmap(otherwise, in_axes, axis_size=axis_size)(*operands)
            return results, all_(results, True)
        # Jacobians in forward mode rely on values that have no axis where only tangents have one.
        values_too = any(jax.tree.leaves(in_batched[0]))
        out_axes = (0 if values_too else None, 0)
        values, along = jax.vmap(otherwise, in_axes, out_axes, axis_size=axis_size)(*operands)
        return (values, along), (all_(values, values_too), all_(along, True))

    # The rule of `custom_vmap` returns wrong shapes where not all tangents have the axis that their values have.
    call = jax.custom_jvp(on_device)
    call.defjvp(lambda primals, along: jax.jvp(otherwise, primals, along))
    return call
