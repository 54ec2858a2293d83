"""Objectives: one weight for each of the K + 1 states of a trajectory.

    J(meta) = sum_{k=0..K} weight_k * loss(meta, state_k, input_k, task)

State 0 is the initial one, state K the last. So K is read off the objective: K + 1 weights, K updates. Concrete
weights (numpy) that are zero cost nothing: the loss of such a state is never evaluated. Weights that vary between
outer steps may be traced arrays; a state whose weight is then zero is skipped at run time.
"""

import jax
import jax.numpy as jnp
import numpy as np


def terminal(updates: int) -> np.ndarray:
    """Judges the last state only: MAML. Returns [updates + 1] float64."""
    weights = np.zeros(_checked(updates) + 1)
    weights[-1] = 1.0
    return weights


def every_update(updates: int) -> np.ndarray:
    """Judges every state but the first, with weight 1: the multi-step loss. Returns [updates + 1] float64."""
    weights = np.ones(_checked(updates) + 1)
    weights[0] = 0.0
    return weights


def discounted(updates: int, gamma: float, dt: float = 1.0) -> np.ndarray:
    """Left Riemann sum of a discounted integral, states 0 .. K: weight_k = gamma^(k dt) dt. Returns [updates + 1].

    The discount is per unit of time, not per step, so that refining dt leaves the objective's limit unchanged.

    Raises:
        ValueError: updates below 0, gamma outside (0, 1], or dt not positive.
    """
    if updates < 0:
        raise ValueError(f"updates={updates} must not be negative")
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma={gamma} must lie in (0, 1]")
    if not dt > 0:
        raise ValueError(f"dt={dt} must be positive")
    return gamma ** (np.arange(updates + 1) * dt) * dt


def annealed(updates: int, progress: jax.Array | float) -> jax.Array:
    """From the multi-step loss to the terminal one, as in MAML++ (Antoniou et al. 2019, section 4).

    At progress 0 each of the states 1 .. K weighs 1/K; linearly in progress the earlier ones lose all their weight to
    the last, which has all of it from progress 1 on. The sum is always 1.

    Args:
        updates: K >= 1.
        progress: scalar, outer step over the number of steps that the annealing takes; may be traced.

    Returns:
        [updates + 1].
    """
    early = (1.0 - jnp.clip(progress, 0.0, 1.0)) / _checked(updates)
    weights = jnp.full(updates + 1, early).at[0].set(0.0)
    return weights.at[-1].set(1.0 - (updates - 1) * early)


def _checked(updates: int) -> int:
    if updates < 1:
        raise ValueError(f"updates={updates}: an objective needs at least one update")
    return updates
