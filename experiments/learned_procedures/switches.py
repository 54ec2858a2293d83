"""One learner for all conditions: what is not learned is switched off by data, so that all share one compiled program.

Meta-parameters always have all parts. A part that is switched off is at neutral, and its gradient is zero; the start,
switched off, is drawn anew for each episode. So every condition costs as much as the whole, which is little more than
its own: most of the time goes to the recurrent network, and in small runs to compiling.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.learned_procedures.learner import PROCEDURES, init_procedure, procedural
from metalearn.core import LearningProcess
from metalearn.languages.episodes import Episode
from metalearn.languages.model import LanguageModel

PARTS = ("start", "rate", "preconditioner", "loss", "film")


class Switched(NamedTuple):
    """A task, and how it is learned.

    rate: of the inner loop at neutral, a scalar.
    learned: whether each of PARTS is, 1.0 or 0.0, scalars.
    """

    episode: Episode
    rate: Any
    learned: Mapping[str, Any]


def init_all(key: jax.Array, params: Any) -> dict[str, Any]:
    """All parts; `params`, of the language model, are the start."""
    return {"start": params} | init_procedure(key, params, PARTS[1:])


def switches(start: str, procedure: str) -> dict[str, float]:
    """What a condition learns. start: "learned" or "random"; procedure: one of PROCEDURES."""
    on = {*PROCEDURES[procedure], *(["start"] if start == "learned" else [])}
    return {part: float(part in on) for part in PARTS}


def switched(meta: Mapping[str, Any], learned: Mapping[str, Any]) -> dict[str, Any]:
    """The procedure that is in force: without the start, and parts that are switched off at neutral, which is zero."""

    def scaled(path, leaf):
        # With the loss go layers that modulate its networks: they belong to "film" as well.
        films = any(getattr(entry, "name", None) == "film" for entry in path)
        return leaf * (learned[path[0].key] * (learned["film"] if films else 1.0))

    return jax.tree_util.tree_map_with_path(scaled, {part: meta[part] for part in PARTS[1:]})


def switchable(model: LanguageModel) -> LearningProcess:
    """`procedural`, for tasks that say what is learned, and at which rate. meta: as of `init_all`; task: Switched."""
    of = lambda task: procedural(model, task.rate)

    def init(meta, task: Switched, key):
        begin = lambda meta: of(task).init(meta, task.episode, key)
        on = task.learned["start"] > 0
        return jax.tree.map(lambda own, drawn: jnp.where(on, own, drawn), begin(dict(meta)), begin({}))

    return LearningProcess(
        init=init,
        inputs=lambda meta, task, key: of(task).inputs(meta, task.episode, key),
        step=lambda meta, state, input, task: of(task).step(switched(meta, task.learned), state, input, task.episode),
        loss=lambda meta, state, input, task: of(task).loss(switched(meta, task.learned), state, input, task.episode),
    )
