"""Estimators of the meta-gradient dJ/dmeta, all behind one signature.

An estimator is a function `estimator(process, weights, memory=..., segment=...)` that returns
`(meta, task, key) -> Estimate`. Those here differentiate the unrolled trajectory:

exact: through every update. Second order for gradient processes; the default everywhere.
first_order: the inner gradients are constants, as in first-order MAML (Finn et al. 2017, section 5.2). What enters an
    update outside the inner gradient, such as a learned learning rate, still gets its gradient.
truncated(h): exact through the last h updates, first order through those before; h = 0 is first_order and h >= K is
    exact. (Shaban et al. 2019 cut the early part off altogether; to first order a learned initialisation still
    gets a gradient.)

An estimator that does not unroll (implicit differentiation, Reptile's displacement, evolution strategies) is another
function of the same signature.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import numpy as np

from metalearn.core.process import LearningProcess, Meta, Task
from metalearn.core.unroll import Trajectory, unroll


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


def estimator_named(name: str, horizon: int | None = None) -> Estimator:
    """The estimator that a configuration names: "exact", "first_order" or "truncated" (which needs `horizon`).

    Raises:
        ValueError: unknown name, or "truncated" without a horizon.
    """
    if name == "truncated":
        if horizon is None:
            raise ValueError('estimator="truncated" needs a horizon: the number of last updates that are exact')
        return truncated(horizon)
    named = {"exact": exact, "first_order": first_order}
    if name not in named:
        raise ValueError(f"estimator={name!r} is unknown; choose one of {(*named, 'truncated')}")
    return named[name]
