"""Finds the control of greatest value, within bounds.

`quasi_newton` is what to take for one problem: SciPy's L-BFGS-B, which tests the projected gradient. `ascend` follows
the projected gradient by any optax optimiser and is a pure function of JAX, so that many problems go through `vmap`
together; with `optax.sgd(alpha_g)` it is the optimiser of Carrasco-Davis, Masis & Saxe (2024), whose step alpha_g is on
the gradient of the summed objective.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from metalearn.effort.controls import Signal


class Optimum(NamedTuple):
    """What an optimiser found.

    signal: like the start.
    value: V of `signal`, a scalar.
    values: V at each iteration (of `quasi_newton`: at each evaluation), [iterations]; what was not reached is NaN.
    residual: largest entry of the projected gradient at the end, |clip(u + dV/du) - u|, relative to the largest entry
        of the gradient at the start.
    iterations: how many were made, a scalar.
    """

    signal: Signal
    value: jax.Array
    values: jax.Array
    residual: jax.Array
    iterations: jax.Array


Watch = Callable[[Any, Any], None]


class _Spent(Exception):
    """All evaluations are made."""


def ascend(
    value: Callable[[Signal], jax.Array],
    start: Signal,
    lower: Any,
    upper: Any,
    optimizer: optax.GradientTransformation,
    iterations: int,
    tolerance: float = 0.0,
    watch: Watch | None = None,
) -> Optimum:
    """Projected ascent: u <- clip(u + update, lower, upper), `iterations` times or until the residual is small.

    A pure function: jit and vmap apply (each of a batch of problems stops on its own).

    Args:
        value: signal -> V.
        lower, upper: scalars, or pytrees like the signal whose leaves broadcast against it.
        optimizer: of -V.
        tolerance: residual (see Optimum) at which to stop; 0: never.
        watch: called as (iteration, value) from time to time (every hundredth of the iterations).

    Raises:
        ValueError: bounds in the wrong order or that exclude the start (where these are concrete), iterations below 1.
    """
    _check(start, lower, upper, iterations)
    start = jax.tree.map(jnp.asarray, start)
    value_and_gradient = jax.value_and_grad(value)
    lower, upper = (_like(bound, start) for bound in (lower, upper))
    clip = lambda signal: optax.projections.projection_box(signal, lower, upper)
    every = max(iterations // 100, 1)

    def residual(signal, gradient, scale):
        moved = clip(jax.tree.map(lambda u, g: u + g / scale, signal, gradient))
        return _largest(jax.tree.map(jnp.subtract, moved, signal))

    def go_on(state):
        k, _, _, _, _, left = state
        return (k < iterations) & (left > tolerance)

    def iterate(state):
        k, signal, memory, values, scale, _ = state
        v, gradient = value_and_gradient(signal)
        if watch is not None:
            jax.lax.cond(k % every == 0, lambda: jax.debug.callback(watch, k, v), lambda: None)
        scale = jnp.where(k == 0, jnp.maximum(_largest(gradient), jnp.finfo(scale.dtype).tiny), scale)
        updates, memory = optimizer.update(jax.tree.map(jnp.negative, gradient), memory, signal)
        left = residual(signal, gradient, scale)
        # A residual at the start that is small already means that there is nothing to do.
        moved = jax.tree.map(
            lambda new, old: jnp.where(left > tolerance, new, old), clip(optax.apply_updates(signal, updates)), signal
        )
        return k + 1, moved, memory, values.at[k].set(v), scale, left

    dtype = jax.eval_shape(value, start).dtype
    nothing = jnp.full(iterations, jnp.nan, dtype)
    state = (
        jnp.zeros((), jnp.int32),
        start,
        optimizer.init(start),
        nothing,
        jnp.ones((), dtype),
        jnp.array(jnp.inf, dtype),
    )
    k, signal, _, values, scale, _ = jax.lax.while_loop(go_on, iterate, state)
    v, gradient = value_and_gradient(signal)
    return Optimum(signal, v, values, residual(signal, gradient, scale), k)


def quasi_newton(
    value: Callable[[Signal], jax.Array],
    start: Signal,
    lower: Any,
    upper: Any,
    iterations: int = 200,
    tolerance: float = 1e-4,
    watch: Watch | None = None,
    value_and_gradient: Callable[[Signal], tuple[jax.Array, Signal]] | None = None,
    importance: Any = 1.0,
) -> Optimum:
    """Projected quasi-Newton ascent (L-BFGS-B) until the residual (see Optimum) is at most `tolerance`.

    It also stops where the value no longer grows by more than the rounding of its type.

    Args:
        value, start, lower, upper: as for `ascend`.
        iterations: evaluations of value and gradient at most.
        watch: called as (evaluation, value so far) after every evaluation.
        value_and_gradient: compiled already, where several problems share it; None: compiled here.
        importance: how much an entry of the signal matters, such as the discount of its time; like `lower`. The search
            is for entries times its root, in which the value curves alike: under strong discounting it would
            otherwise end before late entries have moved.

    Raises:
        ValueError: as `ascend`.
        FloatingPointError: the value or its gradient at the start is not finite.
    """
    _check(start, lower, upper, iterations)
    start = jax.tree.map(jnp.asarray, start)
    evaluate = value_and_gradient or jax.jit(jax.value_and_grad(value))
    # In numpy, as each small operation of JAX outside of what is compiled costs more than a short trajectory.
    leaves, structure = jax.tree.flatten(start)
    ends = np.cumsum([leaf.size for leaf in leaves])
    dtype = jnp.result_type(*leaves)
    ravel = lambda tree: np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
    lower, upper, weight = (ravel(_like(bound, start)) for bound in (lower, upper, importance))
    weight = np.sqrt(weight / weight.max())
    weight = np.maximum(weight, 1e-18)

    def unravel(x: np.ndarray) -> Signal:
        parts = zip(np.split(np.clip(x / weight, lower, upper), ends[:-1]), leaves, strict=True)
        return jax.tree.unflatten(structure, [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in parts])

    values: list[float] = []
    best: tuple[float, np.ndarray, np.ndarray] | None = None

    def objective(x: np.ndarray, scale: float) -> tuple[float, np.ndarray]:
        nonlocal best
        if len(values) >= iterations:
            raise _Spent
        v, gradient = evaluate(unravel(x))
        v, slope = float(v), ravel(gradient) / weight
        if not (np.isfinite(v) and np.isfinite(slope).all()):
            if best is None:
                raise FloatingPointError(
                    "the value of the control at the start, or its gradient, is not finite: the Euler steps diverge "
                    "or the cost overflows; `account` tells at which step"
                )
            # As bad as good was hoped for, so that the line search steps back: it cannot interpolate from infinity.
            v, at, slope = best
            return (-v + abs(slope @ (x - at))) / scale, np.zeros_like(slope)
        values.append(v)
        if best is None or v >= best[0]:  # of equal ones the last: late entries may matter less than V's rounding
            best = v, np.array(x), slope
        if watch is not None:
            watch(len(values), best[0])
        return -v / scale, -slope / scale

    first = ravel(start) * weight
    _, slope = objective(first, 1.0)
    scale, steepest = (
        max(float(np.abs(g).max(initial=0.0)), float(np.finfo(np.float32).tiny)) for g in (slope, slope * weight)
    )
    with contextlib.suppress(_Spent):  # SciPy looks at its own limit between line searches only
        scipy.optimize.minimize(
            functools.partial(objective, scale=scale),
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(lower * weight, upper * weight),
            options={
                "maxfun": iterations,
                "maxiter": iterations,
                "gtol": tolerance,
                "ftol": float(jnp.finfo(dtype).eps) / 4,
            },
        )
    assert best is not None
    v, x, slope = best
    u = x / weight
    residual = np.abs(np.clip(u + slope * weight / steepest, lower, upper) - u).max(initial=0.0)
    return Optimum(
        jax.tree.map(jnp.asarray, unravel(x)),
        jnp.asarray(v, dtype),
        jnp.asarray(values, dtype),
        jnp.asarray(residual, dtype),
        jnp.asarray(len(values)),
    )


def _like(bound: Any, start: Signal) -> Signal:
    """A bound as a pytree of arrays of the shapes of the signal."""
    spread = lambda leaf, b: jnp.broadcast_to(jnp.asarray(b, leaf.dtype), leaf.shape)
    return jax.tree.map(spread, start, _of_each(bound, start))


def _of_each(bound: Any, start: Signal) -> Any:
    """A bound for each leaf of the signal."""
    one = jax.tree_util.treedef_is_leaf(jax.tree.structure(bound))
    return jax.tree.map(lambda _: bound, start) if one else bound


def _largest(tree: Any) -> jax.Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _check(start: Signal, lower: Any, upper: Any, iterations: int) -> None:
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1")
    leaves = jax.tree.leaves(start)
    if not any(np.size(leaf) for leaf in leaves):
        raise ValueError("there is nothing to optimise: the signal has no entries")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in [*leaves, *jax.tree.leaves((lower, upper))]):
        return
    # In numpy, as inside of a jit all that JAX computes is traced, even of what is known.
    if not all(np.isfinite(leaf).all() for leaf in leaves):
        raise ValueError("the start holds NaN or infinity")
    for leaf, low, high in zip(
        leaves, *(jax.tree.leaves(_of_each(bound, start)) for bound in (lower, upper)), strict=True
    ):
        leaf, low, high = np.asarray(leaf), np.asarray(low), np.asarray(high)
        if (low > high).any():
            raise ValueError(f"lower={lower} exceeds upper={upper}: no control satisfies these bounds")
        # Bounds are rounded to the type of the signal before they are met.
        if (leaf < low.astype(leaf.dtype)).any() or (leaf > high.astype(leaf.dtype)).any():
            raise ValueError(
                f"the start, with entries in {float(leaf.min()):g} .. {float(leaf.max()):g}, lies outside the bounds "
                f"{lower} .. {upper}: clip it or widen them"
            )
