"""Language learners as processes of the core: meta-training, and ordinary pre-training as its control.

Meta-training (McCoy & Griffiths 2025, methods): theta_k = theta_{k-1} - rate * d CE(support_k; theta_{k-1}), judged by
sum_k CE(query; theta_k). Pre-training: the same losses, all at the same theta; no inner update.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn.core import LearningProcess, gradient_process, optax_rule
from metalearn.languages.episodes import Episode
from metalearn.languages.model import LanguageModel, cross_entropy
from metalearn.languages.prefixes import Prefixes
from metalearn.languages.sharing import own_share


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The outer optimiser: AdamW behind a clip of the global norm, linear warm-up, cosine to zero."""

    learning_rate: float = 0.005
    """Peak learning rate (0.005 in McCoy & Griffiths)."""
    weight_decay: float = 0.1
    """Decoupled, on everything but biases (0.1)."""
    clip: float = 1.0
    """Largest global norm of the meta-gradient (1.0)."""
    warm_up: float = 0.05
    """Share of the steps over which the learning rate rises (0.05)."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not self.learning_rate >= 0 or not self.weight_decay >= 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} and weight_decay={self.weight_decay} must not be negative"
            )
        if not self.clip > 0:
            raise ValueError(f"clip={self.clip} must be positive: it is the largest norm that the gradient keeps")
        if not 0 <= self.warm_up <= 1:
            raise ValueError(f"warm_up={self.warm_up} is a share of the steps: it must lie in [0, 1]")


def meta_learning(
    model: LanguageModel,
    rate: float = 1.0,
    inner_gradient: str = "mixed",
    at_once: int | None = None,
    axis: str | None = None,
) -> LearningProcess:
    """The learner that is meta-trained: SGD on one support batch per update. meta: params of `model`; task: Episode.

    Inputs have a row per state, because the loss of a state draws its own dropout: the strings of row k drive
    update k -> k + 1 and its key serves update and loss of state k. The strings of the last row are not used.

    Args:
        rate: of the inner SGD.
        inner_gradient: see `gradient_process`.
        at_once: rows of the query that are scored side by side, see `cross_entropy`.
        axis: of a mesh whose devices share the episode (inside a `shard_map` without replication checking, such as the
            outer loop's; see `task_mesh`), see sharing.py. The losses and the meta-gradient of an episode are then the
            means over devices, which the outer loop takes in the end; until then nobody waits for another.
    """

    def inputs(meta: Any, task: Episode, key: jax.Array) -> Any:
        support = task.support
        if inner_gradient == "plain" and isinstance(support, Prefixes):
            support = support._replace(times=None)  # it differentiates backwards twice
        rows = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:]]), support)
        share = own_share(task, axis, at_once) if axis is not None and jax.lax.axis_size(axis) > 1 else None
        return {"strings": rows, "key": jax.random.split(key, len(rows.tokens)), "share": share}

    def inner_loss(meta, params, input, task):
        share = input["share"]
        own = None if share is None else (0, share.updates)
        return cross_entropy(model, params, input["strings"], jax.random.fold_in(input["key"], 0), own=own)

    def outer_loss(meta, params, input, task):
        key, share = jax.random.fold_in(input["key"], 1), input["share"]
        if share is None:
            return cross_entropy(model, params, task.query, key, at_once), {}
        own = cross_entropy(model, params, task.query, key, at_once, (share.begin, share.end))
        return jax.lax.axis_size(axis) * own, {}

    return gradient_process(
        init=lambda meta, task, key: meta,
        inputs=inputs,
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        rule=optax_rule(optax.sgd(rate)),
        inner_gradient=inner_gradient,
    )


def pre_training(model: LanguageModel) -> LearningProcess:
    """The control without learning to learn: sum_k CE(support_k) + CE(query), all at meta. For objective [1.0]."""

    def inputs(meta: Any, task: Episode, key: jax.Array) -> Any:
        return jax.random.split(key, 1)

    def loss(meta, state, input, task: Episode):
        updates = task.support.tokens.shape[0]
        keys = jax.random.split(input, updates + 1)
        support = jax.vmap(lambda strings, key: cross_entropy(model, meta, strings, key))(task.support, keys[1:])
        return support.sum() + updates * cross_entropy(model, meta, task.query, keys[0]), {}

    return LearningProcess(
        init=lambda meta, task, key: (), inputs=inputs, step=lambda meta, state, input, task: state, loss=loss
    )


AT_ONCE = np.ones(1)
"""The objective of `pre_training`: state 0, no updates."""


def outer_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """The optimiser that `settings` describe, for a run of `steps` outer steps."""
    steps = max(steps, 2)
    rising = min(max(round(settings.warm_up * steps), 1), steps - 1)  # one step at least for each of the two pieces
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, rising, steps)
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.adamw(schedule, weight_decay=settings.weight_decay, mask=_no_biases),
    )


def _no_biases(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "bias" not in jax.tree_util.keystr(path), params)
