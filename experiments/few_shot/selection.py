"""The best in validation: what each training keeps in its state, and what it shows of that."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

State = TypeVar("State")


def keep_best(state: State, now: Any, reached: jax.Array) -> State:
    """`state`, and in it `now` as the best so far, if it reached more than what was kept until then.

    Args:
        state: a named tuple with the fields best, best_accuracy and validation_accuracy.
        now: what was validated, of the structure of state.best.
        reached: [], its accuracy on the validation episodes.
    """
    kept: Any = state
    best, best_accuracy = _better(now, kept.best, reached, kept.best_accuracy)
    return kept._replace(best=best, best_accuracy=best_accuracy, validation_accuracy=reached)


@jax.jit
def _better(now, best, reached, best_accuracy):
    better = reached > best_accuracy
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best), jnp.maximum(reached, best_accuracy)


def shown(state: Any, done: int) -> dict[str, jax.Array]:
    """Columns of evaluation.csv: the accuracy in the last validation, and that of what is kept."""
    return {"accuracy": state.validation_accuracy, "kept": state.best_accuracy}
