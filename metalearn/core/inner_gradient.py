"""The inner gradient, and the two ways of differentiating it again.

With G = dL/dparams, the backward pass of the unroll needs v -> v^T dG/dparams and v -> v^T dG/dother, where `other`
is everything else that the inner loss reads (learned losses, preconditioners, per-step inputs).

plain: reverse over reverse. JAX differentiates the gradient's own program backwards. Keeps the residuals of a forward
    and a backward pass for every inner step.
mixed: forward over reverse. Because second derivatives commute, both products are the tangent of the *full* gradient
    (dL/dparams, dL/dother) along the direction v in params: one jvp, and nothing but params and other is kept from
    the forward pass. Equal to plain up to rounding; cheaper in memory and usually in time. Its rule is a
    `jax.custom_vjp`, so it cannot be differentiated in forward mode: use plain for that.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

INNER_GRADIENTS = ("mixed", "plain")


def inner_gradient_of(inner_loss: Callable, how: str) -> Callable:
    """The gradient of `inner_loss` with respect to its second argument.

    Args:
        inner_loss: (meta, params, input, task) -> scalar.
        how: "mixed" or "plain".

    Returns:
        (meta, params, input, task) -> gradient, a pytree like params.

    Raises:
        ValueError: unknown `how`.
    """
    if how == "plain":
        return jax.grad(inner_loss, argnums=1)
    if how == "mixed":
        return _mixed(inner_loss)
    raise ValueError(f"inner_gradient={how!r} is unknown; choose one of {INNER_GRADIENTS}")


def _mixed(inner_loss):
    def gradient(meta, params, input, task):
        leaves, structure = jax.tree.flatten((meta, input, task))
        is_real = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]

        def loss(params, real, discrete):
            real, discrete = iter(real), iter(discrete)
            meta, input, task = jax.tree.unflatten(structure, [next(real if r else discrete) for r in is_real])
            return inner_loss(meta, params, input, task)

        @jax.custom_vjp
        def mixed_gradient(params, real, discrete):
            return jax.grad(loss)(params, real, discrete)

        def forward(*arguments):
            return mixed_gradient(*arguments), arguments

        def backward(arguments, direction):
            params, real, discrete = arguments
            full_gradient = lambda params: jax.grad(loss, argnums=(0, 1))(params, real, discrete)
            _, (along_params, along_real) = jax.jvp(full_gradient, (params,), (direction,))
            return along_params, along_real, None

        mixed_gradient.defvjp(forward, backward)
        real = [leaf for leaf, r in zip(leaves, is_real, strict=True) if r]
        discrete = [leaf for leaf, r in zip(leaves, is_real, strict=True) if not r]
        return mixed_gradient(params, real, discrete)

    return gradient
