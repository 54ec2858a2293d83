"""Networks whose expected loss under a task is a closed function of the task's moments.

    loss(W; e) = 1/2 E sum_c e_c (y_c - yhat_c)^2          descent(W; e) = - d loss / d W

with `emphasis` e: [O] the weight of each output's squared error: all ones, unless a control engages with some outputs
more than with others. Weight decay and output noise are added by system.py, as they see the raw weights.

| symbol   | name                | meaning                                                      |
|----------|---------------------|--------------------------------------------------------------|
| W1, W2   | `weights`           | tuple of matrices [out, in], from the bottom up              |
| I, H, O  | `widths`            | (I, H, ..., O)                                               |
| m, y-bar | `moments.x`, `.y`   | means                                                        |
| f, J     | `rest`, `jacobian`  | hidden activity at the mean input, and its derivative by x   |
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.effort.moments import Moments

Weights = Any  # pytree of floating-point arrays


class Network(NamedTuple):
    """A network, as pure functions.

    init(key) -> weights.
    predict(weights, x) -> yhat [..., O] for x [..., I].
    loss(weights, moments, emphasis) -> scalar, the expected loss; emphasis [O].
    descent(weights, moments, emphasis) -> like weights, minus the gradient of `loss`.
    """

    init: Callable[[jax.Array], Weights]
    predict: Callable[[Weights, jax.Array], jax.Array]
    loss: Callable[[Weights, Any, jax.Array], jax.Array]
    descent: Callable[[Weights, Any, jax.Array], Weights]


def derived(
    init: Callable[[jax.Array], Weights],
    predict: Callable[[Weights, jax.Array], jax.Array],
    loss: Callable[[Weights, Any, jax.Array], jax.Array],
) -> Network:
    """A network of one's own, its averaged equations derived from its expected loss by automatic differentiation."""

    def descent(weights, moments, emphasis):
        return jax.tree.map(jnp.negative, jax.grad(loss)(weights, moments, emphasis))

    return Network(init, predict, loss, descent)


def linear(widths: Sequence[int], scale: float = 0.01) -> Network:
    """A linear network of any depth, yhat = W_L ... W_1 x; one layer of widths (1, 1) is the paper's single neuron.

    dW_l = (W_L ... W_{l+1})^T diag(e) (Sigma_xy^T - W Sigma_x) (W_{l-1} ... W_1)^T  (Saxe et al. 2014).

    Args:
        widths: (I, H, ..., O).
        scale: standard deviation of the Gaussian initial weights.

    Raises:
        ValueError: fewer than two widths, one below 1, or a negative scale.
    """
    _check_widths(widths, scale)

    def whole(weights):
        product = weights[0]
        for matrix in weights[1:]:
            product = matrix @ product
        return product

    def loss(weights, moments: Moments, emphasis):
        return _quadratic(whole(weights), moments.xx, moments.xy, moments.yy, emphasis)

    def descent(weights, moments: Moments, emphasis):
        below = [None]  # products of the layers under each layer; None is the identity
        for matrix in weights[:-1]:
            below.append(matrix if below[-1] is None else matrix @ below[-1])
        product = weights[-1] if below[-1] is None else weights[-1] @ below[-1]
        above = _rows(emphasis, moments.xy.T - product @ moments.xx)
        moved = []
        for matrix, under in zip(reversed(weights), reversed(below), strict=True):
            moved.append(above if under is None else above @ under.T)
            above = matrix.T @ above
        return tuple(reversed(moved))

    return Network(lambda key: _gaussian(key, widths, scale), lambda weights, x: x @ whole(weights).T, loss, descent)


TANH_EQUATIONS = ("corrected", "released")


def tanh_first_order(
    inputs: int, hidden: int, outputs: int, scale: float = 0.01, equations: str = "corrected"
) -> Network:
    """yhat = W2 tanh(W1 x), its averages taken to first order in x around its mean.

    h ~ f + J (x - m) with f = tanh(W1 m), J = diag(1 - f^2) W1. The slope of the activation is held at the mean in dW1,
    as in the paper's code, so dW1 is not the gradient of the loss; dW2 is.

    Args:
        equations: "corrected", or "released": the paper's code, whose dW2 has both mean-correction terms
            (those in y-bar m^T J^T and J m m^T J^T) with the wrong sign.

    Raises:
        ValueError: widths below 1, a negative scale, or unknown equations.
    """
    _check_widths((inputs, hidden, outputs), scale)
    if equations not in TANH_EQUATIONS:
        raise ValueError(f"equations={equations!r} is unknown; choose one of {TANH_EQUATIONS}")
    sign = -1.0 if equations == "corrected" else 1.0

    def hidden_moments(weights, moments: Moments, sign: float):
        """E[h h^T], E[h y^T], slope, and E[h x^T] with the slope held at the mean."""
        first, _ = weights
        rest = jnp.tanh(first @ moments.x)
        slope = 1 - rest**2
        jacobian = slope[:, None] * first
        spread = lambda corrected: moments.xx + corrected * jnp.outer(moments.x, moments.x)
        hh = jnp.outer(rest, rest) + jacobian @ spread(sign) @ jacobian.T
        hy = jnp.outer(rest, moments.y) + jacobian @ (moments.xy + sign * jnp.outer(moments.x, moments.y))
        hx = jnp.outer(rest, moments.x) + jacobian @ spread(-1.0)
        return hh, hy, slope, hx

    def loss(weights, moments: Moments, emphasis):
        hh, hy, _, _ = hidden_moments(weights, moments, -1.0)
        return _quadratic(weights[1], hh, hy, moments.yy, emphasis)

    def descent(weights, moments: Moments, emphasis):
        second = weights[1]
        hh, hy, slope, hx = hidden_moments(weights, moments, sign)
        to_first = slope[:, None] * (second.T @ _rows(emphasis, moments.xy.T - second @ hx))
        return to_first, _rows(emphasis, hy.T - second @ hh)

    def predict(weights, x):
        return jnp.tanh(x @ weights[0].T) @ weights[1].T

    return Network(lambda key: _gaussian(key, (inputs, hidden, outputs), scale), predict, loss, descent)


def _quadratic(matrix, xx, xy, yy, emphasis):
    """1/2 E sum_c e_c (y_c - (W x)_c)^2 for W: [O, I]."""
    per_output = jnp.diagonal(yy) - 2 * jnp.sum(matrix * xy.T, -1) + jnp.sum((matrix @ xx) * matrix, -1)
    return 0.5 * jnp.sum(emphasis * per_output)


def _rows(emphasis, error):
    return jnp.asarray(emphasis)[..., None] * error


def _gaussian(key, widths, scale):
    keys = jax.random.split(key, len(widths) - 1)
    sizes = zip(keys, itertools.pairwise(widths), strict=True)
    return tuple(scale * jax.random.normal(k, (o, i)) for k, (i, o) in sizes)


def _check_widths(widths: Sequence[int], scale: float) -> None:
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths={tuple(widths)} must be (inputs, hidden, ..., outputs), all at least 1")
    if not scale >= 0:
        raise ValueError(f"scale={scale} is a standard deviation: it must not be negative")
