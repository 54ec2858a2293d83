"""A language model that learns by a learned procedure: the pieces of NPBML (Raymond et al. 2024) around any model.

    theta_{k+1} = theta_k - rate * P dM(theta_k; support_k) / dtheta
    M = CE(support) + mean over tokens of L + R

| symbol | name             | neutral at | meaning                                                                     |
|--------|------------------|------------|-----------------------------------------------------------------------------|
| theta  | "start"          |            | weights, and where they begin; without it, each episode begins at random    |
| r      | "rate"           | 0          | P = exp(r): nothing but another learning rate (equation 15)                 |
| omega  | "preconditioner" | 0          | 1 + it is a linear map for each array, P = omega^T omega (equation 10)      |
| L, R   | "loss"           | net = 0    | networks that see each predicted token, and statistics of the weights       |
| psi    | "film"           | 0          | modulates each row of the embedding by itself; with it, L and R are as well |

Symbols are permuted in each episode, so L sees of a token what does not depend on which it is. Weight decay of the
outer loop pulls all but the start to neutral, where this is plain meta-training.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import LearningProcess, UpdateRule, gradient_process
from metalearn.fewshot.film import init_film, modulated
from metalearn.fewshot.learned_loss import STATISTICS, init_loss_net, loss_net, statistics_of
from metalearn.languages.episodes import Episode
from metalearn.languages.model import LanguageModel, Strings, cross_entropy
from metalearn.languages.tokens import PAD, START
from metalearn.languages.training import meta_learning

PROCEDURES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "rate": ("rate",),
    "loss": ("loss",),
    "preconditioner": ("preconditioner",),
    "both": ("loss", "preconditioner"),
    "all": ("loss", "preconditioner", "film"),
}
"""What is learned of the procedure, by name."""
FEATURES = 3
"""Numbers that L sees of a token."""


def init_procedure(key: jax.Array, params: Any, parts: Sequence[str]) -> dict[str, Any]:
    """The meta-parameters of these parts, at neutral or near it; those of one do not depend on which others there are.

    Args:
        params: of the language model; only shapes matter.
    """
    tokens_key, weights_key, film_key = jax.random.split(key, 3)
    units, films = params.embedding.shape[-1], "film" in parts
    meta: dict[str, Any] = {}
    if "rate" in parts:
        meta["rate"] = jnp.zeros(())
    if "preconditioner" in parts:
        meta["preconditioner"] = jax.tree.map(lambda x: jnp.zeros(_blocks(x.shape[-1], units)), params)
    if "loss" in parts:
        statistics = STATISTICS * len(jax.tree.leaves(params))
        meta["loss"] = {
            "tokens": init_loss_net(tokens_key, FEATURES, film=films),
            "weights": init_loss_net(weights_key, statistics, film=films),
        }
    if films:
        (meta["film"],) = init_film(film_key, [(units, units)])
    return meta


def procedural(model: LanguageModel, rate: float = 1.0, inner_gradient: str = "mixed") -> LearningProcess:
    """The learner. meta: as of `init_procedure`, and "start", params of `model`, unless they are drawn; task: Episode.

    Inputs, dropout and judgements are those of `meta_learning`, which this is at neutral.

    Args:
        rate: of the inner loop at neutral.
        inner_gradient: see `gradient_process`.
    """

    def update(meta, input, gradient, rule_state, params):
        scale = -rate * jnp.exp(meta["rate"]) if "rate" in meta else -rate
        if "preconditioner" in meta:
            gradient = jax.tree.map(bent, meta["preconditioner"], gradient)
        return jax.tree.map(lambda g: scale * g, gradient), rule_state

    def inner_loss(meta, params, input, task):
        return descended(model, meta, params, input["strings"], jax.random.fold_in(input["key"], 0))

    def outer_loss(meta, params, input, task: Episode):
        return cross_entropy(model, acting(meta, params), task.query, jax.random.fold_in(input["key"], 1)), {}

    return gradient_process(
        init=lambda meta, task, key: meta["start"] if "start" in meta else model.init(key),
        inputs=meta_learning(model).inputs,
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        rule=UpdateRule(lambda params: (), update),
        inner_gradient=inner_gradient,
    )


def acting(meta: dict[str, Any], params: Any) -> Any:
    """The weights in force: `params`, but for a modulated embedding."""
    if "film" not in meta:
        return params
    return params._replace(embedding=modulated(meta["film"], params.embedding, params.embedding))


def descended(
    model: LanguageModel, meta: dict[str, Any], params: Any, strings: Strings, key: jax.Array | None
) -> jax.Array:
    """M, a scalar. strings: without prefixes."""
    targets = jnp.asarray(strings.tokens)[:, 1:]
    counts = strings.counts if strings.counts.ndim == targets.ndim else strings.counts[:, None]
    weights = (targets != PAD) * (targets != START) * counts
    mean = lambda of_tokens: jnp.sum(weights * of_tokens) / jnp.maximum(jnp.sum(weights), 1.0)
    rows = token_rows(model.logits(acting(meta, params), strings.tokens[:, :-1], key), targets)
    found = mean(rows[..., 0])
    if "loss" in meta:
        found += mean(loss_net(meta["loss"]["tokens"], rows)) + loss_net(meta["loss"]["weights"], per_entry(params))
    return found


def token_rows(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """What L sees: surprise, entropy (nats), and the target's logit less the largest other one.

    Args:
        logits: [strings, time, V]. targets: [strings, time].

    Returns:
        [strings, time, FEATURES].
    """
    log_p = jax.nn.log_softmax(logits)
    chosen = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    own = jnp.sum(chosen * log_p, -1)
    other = jnp.max(jnp.where(chosen > 0, -jnp.inf, log_p), -1)
    return jnp.stack([-own, -jnp.sum(jnp.exp(log_p) * log_p, -1), own - other], -1)


def per_entry(params: Any) -> jax.Array:
    """What R sees: mean, deviation, mean size and root mean square of each array, [STATISTICS * leaves].

    Norms would grow with the number of weights, and with them the distance from neutral at which R begins.
    """
    scales = [(1.0, 1.0, 1 / leaf.size, leaf.size**-0.5) for leaf in jax.tree.leaves(params)]
    return statistics_of(params) * np.concatenate(scales).astype(jax.tree.leaves(params)[0].dtype)


def bent(delta: jax.Array, gradient: jax.Array) -> jax.Array:
    """`gradient` [..., n] times omega^T omega along its last axis, where omega = 1 + delta, block by block.

    For weights W = theta omega of a layer x -> x W, it is what a step in theta at the same rate does to W.

    Args:
        delta: [blocks, width, width] with blocks * width = n; or [1, 1, 1], one number for all.
    """
    omega = delta + jnp.eye(delta.shape[-1], dtype=delta.dtype)
    square = jnp.swapaxes(omega, -1, -2) @ omega
    if delta.size == 1:
        return square[0, 0, 0] * gradient
    split = gradient.reshape(*gradient.shape[:-1], *delta.shape[:2])
    return jnp.einsum("...bi,bij->...bj", split, square).reshape(gradient.shape)


def _blocks(width: int, units: int) -> tuple[int, int, int]:
    """Shape of a preconditioner: a map for each gate; one number where the last axis is that of the vocabulary."""
    return (width // units, units, units) if width % units == 0 else (1, 1, 1)
