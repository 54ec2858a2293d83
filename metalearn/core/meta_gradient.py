"""Estimators of the meta-gradient dJ/dmeta, all behind one signature.

An estimator is a function `estimator(process, weights, memory=..., segment=...)` that returns
`(meta, task, key) -> Estimate`. Those here differentiate the unrolled trajectory:

exact: through every update. Second order for gradient processes; the default everywhere.
first_order: the inner gradients are constants, as in first-order MAML (Finn et al. 2017, section 5.2). What enters an
    update outside the inner gradient, such as a learned learning rate, still gets its gradient.
truncated(h): exact through the last h updates, first order through those before; h = 0 is first_order and h >= K is
    exact. (Shaban et al. 2019 cut the early part off altogether; to first order a learned initialisation still
    gets a gradient.)

stepwise: each state exactly through the update that made it, to first order through those before: what is learned
    about the updates (warp layers, rates) is judged one step ahead all along the trajectory, as in WarpGrad (Flennerhag
    et al. 2020), without a backward pass through the whole of it.

Others do not differentiate the trajectory:

displacement: params_0 - params_K, pulled back through `init`: Reptile (Nichol et al. 2018).
implicit(n): the last state is taken for a fixed point of the update, and that is differentiated by n steps of conjugate
    gradients: iMAML (Rajeswaran et al. 2019).

Evolution strategies would be another function of the same signature.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from metalearn.core.process import LearningProcess, Meta, Task
from metalearn.core.unroll import Trajectory, driving_rows, first_order_step, unroll


class Estimate(NamedTuple):
    """A meta-gradient (pytree like meta), and the trajectory on which it was taken."""

    gradient: Meta
    trajectory: Trajectory


MetaGradient = Callable[[Meta, Task, jax.Array], Estimate]


class Estimator(Protocol):
    """What an estimator is: see the module's docstring."""

    def __call__(
        self, process: LearningProcess, weights: np.ndarray | jax.Array, *, memory: str, segment: int | None
    ) -> MetaGradient:
        """Returns (meta, task, key) -> Estimate."""
        ...


def truncated(horizon: int | None) -> Estimator:
    """Exact through the last `horizon` updates (None: all), to first order through those before.

    Raises:
        ValueError: a negative horizon.
    """
    if horizon is not None and horizon < 0:
        raise ValueError(f"horizon={horizon} must not be negative")

    def estimator(process, weights, *, memory="recompute", segment=None):
        def value(meta, task, key):
            trajectory = unroll(
                process, weights, meta, task, key, memory=memory, segment=segment, exact_updates=horizon
            )
            return trajectory.value, trajectory

        return lambda meta, task, key: Estimate(*jax.grad(value, has_aux=True)(meta, task, key))

    return estimator


exact = truncated(None)
first_order = truncated(0)


def stepwise(process, weights, *, memory="recompute", segment=None):
    """Each state exactly through the update that made it; see the module's docstring. Takes two updates a step."""
    onwards = first_order_step(process)

    def init(meta, task, key):
        state = process.init(meta, task, key)
        return state, state

    ahead = LearningProcess(
        init=init,
        inputs=process.inputs,
        step=lambda meta, states, input, task: (
            onwards(meta, states[0], input, task),
            process.step(meta, states[0], input, task),
        ),
        loss=lambda meta, states, input, task: process.loss(meta, states[1], input, task),
        prepare=process.prepare,
    )
    of_one = exact(ahead, weights, memory=memory, segment=segment)

    def estimate(meta, task, key):
        gradient, trajectory = of_one(meta, task, key)
        return Estimate(gradient, trajectory._replace(final=trajectory.final[1]))

    return estimate


def displacement(process, weights, *, memory="recompute", segment=None):
    """params_0 - params_K, pulled back through `init`; for gradient processes. See the module's docstring.

    Its scale is that of the inner learning rate, so the outer one is a share: 1 moves the start all the way.
    """

    def estimate(meta, task, key):
        trajectory = unroll(process, weights, meta, task, key, memory=memory, segment=segment)
        init_key, _ = jax.random.split(key)  # as in unroll
        first = lambda meta: process.init(meta, process.prepare(meta, task), init_key).params
        start, pulled_back = jax.vjp(first, meta)
        (gradient,) = pulled_back(jax.tree.map(jnp.subtract, start, trajectory.final.params))
        return Estimate(gradient, trajectory)

    return estimate


def implicit(iterations: int, tolerance: float = 1e-10) -> Estimator:
    """Differentiates the last state as a fixed point s = step(meta, s), whatever led there.

        dJ/dmeta = dL/dmeta + u^T dstep/dmeta,   where (1 - dstep/ds)^T u = dL/ds

    by conjugate gradients, so 1 - dstep/ds must be symmetric and positive definite: gradient descent at one constant
    rate, without momentum, near a minimum of the inner loss. That loss must depend on meta, as where it ties the params
    to their start: how a trajectory begins does not matter to a fixed point.

    Args:
        iterations: of conjugate gradients, at most.
        tolerance: they end earlier where the residual's norm, relative to that of dL/ds, falls below it.

    Raises:
        ValueError: iterations below 1, or an objective that judges other states than the last.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations} of conjugate gradients must be at least 1")

    def estimator(process, weights, *, memory="recompute", segment=None):
        if isinstance(weights, jax.Array) or len(weights) < 2 or np.any(weights[:-1]):
            raise ValueError("implicit differentiation judges the last state only: take objectives.terminal")

        def estimate(meta, task, key):
            trajectory = unroll(process, weights, meta, task, key, memory=memory, segment=segment)
            _, inputs_key = jax.random.split(key)  # as in unroll

            def last_inputs(meta):
                """What drove the last update, and what the loss of the last state sees."""
                inputs = process.inputs(meta, process.prepare(meta, task), inputs_key)
                rows, shown = driving_rows(inputs, len(weights) - 1)
                last = lambda tree: jax.tree.map(lambda x: x[-1], tree)
                return last(rows), last(inputs) if shown else None

            def loss(meta, state):
                return weights[-1] * process.loss(meta, state, last_inputs(meta)[1], process.prepare(meta, task))[0]

            def step(meta, state):
                return process.step(meta, state, last_inputs(meta)[0], process.prepare(meta, task))

            along_meta, along_state = jax.grad(loss, argnums=(0, 1))(meta, trajectory.final)
            _, pulled_back = jax.vjp(step, meta, trajectory.final)
            # As one vector: under vmap, cg refuses a pytree whose leaves are batched along different axes.
            right, unflatten = ravel_pytree(along_state)
            system = lambda u: u - ravel_pytree(pulled_back(unflatten(u))[1])[0]
            solution, _ = cg(system, right, tol=tolerance, maxiter=iterations)
            along = pulled_back(unflatten(solution))[0]
            return Estimate(jax.tree.map(jnp.add, along_meta, along), trajectory)

        return estimate

    return estimator


_NAMED: dict[str, Estimator] = {
    "exact": exact,
    "first_order": first_order,
    "stepwise": stepwise,
    "displacement": displacement,
}
ESTIMATORS = (*_NAMED, "truncated", "implicit")
"""Names of all estimators."""


def estimator_named(name: str, *, horizon: int | None = None, iterations: int | None = None) -> Estimator:
    """The estimator that a configuration names, one of ESTIMATORS.

    Args:
        horizon: of "truncated", which needs it; the others do not look at it.
        iterations: of "implicit", likewise.

    Raises:
        ValueError: unknown name, or a number that its estimator needs is missing.
    """
    if name in _NAMED:
        return _NAMED[name]
    if name == "truncated":
        if horizon is None:
            raise ValueError('estimator="truncated" needs a horizon: the number of last updates that are exact')
        return truncated(horizon)
    if name == "implicit":
        if iterations is None:
            raise ValueError('estimator="implicit" needs iterations: how many steps of conjugate gradients at most')
        return implicit(iterations)
    raise ValueError(f"estimator={name!r} is unknown; choose one of {ESTIMATORS}")
