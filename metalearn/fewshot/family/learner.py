"""The learner that the family of MAML shares; every algorithm replaces one or two of its pieces.

    params_0     = start(meta, task, key)
    logits(x)    = head(encoder(x)) with the weights that `weights(meta, params_k, input_k)` returns
    params_{k+1} = params_k + rule(d inner_loss(support) / d params_k)
    J(meta)      = sum_k weight_k * cross-entropy of the query set at params_k

Meta-parameters are a dict: "body" (the encoder) and "head", and what an algorithm adds.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from metalearn.core import Estimator, LearningProcess, UpdateRule, exact, gradient_process, objectives, optax_rule
from metalearn.fewshot.encoders import NORMALISATIONS, Encoder, EncoderParams, Statistics, Tap, encode
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.heads import Head, accuracy, cross_entropy, init_head, logits_of

Meta = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every algorithm of the family is told."""

    encoder: Encoder
    """What computes features."""
    ways: int
    """Classes in an episode."""
    steps: int = 5
    """Inner updates (5 in training and 10 in testing in Finn et al. 2017)."""
    rate: float = 0.01
    """Inner learning rate, or where learning it begins (0.01 in Finn et al. for mini-ImageNet, 0.4 for Omniglot)."""
    normalisation: str = "transductive"
    """Whose statistics normalise the query set, see encoders.py ("transductive" in MAML and most of its successors)."""
    statistics: Statistics | None = None
    """Stored statistics, for normalisation="running"."""
    pretrained: EncoderParams | None = None
    """Where the encoder's meta-parameters begin; None: at random."""
    inner_gradient: str = "mixed"
    """How the inner gradient is differentiated, see core/inner_gradient.py."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.ways < 2 or self.steps < 1:
            raise ValueError(f"ways={self.ways} must be at least 2 and steps={self.steps} at least 1")
        if not self.rate > 0:
            raise ValueError(f"rate={self.rate} must be positive: it is the inner learning rate")
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation={self.normalisation!r} is unknown; choose one of {NORMALISATIONS}")
        if (self.normalisation == "running") != (self.statistics is not None):
            raise ValueError(
                'normalisation="running" needs statistics, and the other modes must have none: they take those of the '
                "images at hand"
            )

    def init(self, key: jax.Array) -> Meta:
        """The meta-parameters of MAML: {"body": EncoderParams, "head": Head}."""
        body_key, head_key = jax.random.split(key)
        body = self.encoder.init(body_key) if self.pretrained is None else self.pretrained
        return {"body": body, "head": init_head(head_key, self.encoder.width, self.ways)}


class Weights(NamedTuple):
    """All weights of the classifier."""

    body: EncoderParams
    head: Head


class Algorithm(NamedTuple):
    """What an algorithm is.

    init(key) -> meta-parameters.
    process: the learner.
    objective: [K + 1] weights over the trajectory, or a function from the outer step to them.
    estimator: of the meta-gradient.
    normalisation: whose statistics normalised the query set; results are comparable only under the same.
    """

    init: Callable[[jax.Array], Meta]
    process: LearningProcess
    objective: np.ndarray | Callable[[jax.Array], jax.Array]
    estimator: Estimator
    normalisation: str


def support_features(setting: Setting, body: EncoderParams, task: Episode, tap: Tap | None = None) -> jax.Array:
    """[ways * shots, width]."""
    return encode(setting.encoder, body, task.support_x, setting.statistics, tap)[0]


def query_features(setting: Setting, body: EncoderParams, task: Episode, tap: Tap | None = None) -> jax.Array:
    """[queries, width], normalised as the setting says."""
    statistics = setting.statistics
    if setting.normalisation == "support":
        _, statistics = encode(setting.encoder, body, task.support_x, None, tap)
    return encode(setting.encoder, body, task.query_x, statistics, tap)[0]


def judged(logits: jax.Array, task: Episode) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy and accuracy of query logits [queries, ways]."""
    return cross_entropy(logits, task.query_y), {"accuracy": accuracy(logits, task.query_y)}


def all_weights(meta: Meta, task: Episode, key: jax.Array) -> Weights:
    """Every weight moves, and starts at its meta-parameter."""
    return Weights(meta["body"], meta["head"])


def learner(
    setting: Setting,
    *,
    start: Callable[[Meta, Any, jax.Array], Any] = all_weights,
    weights: Callable[[Meta, Any, Any], Weights] = lambda meta, params, input: params,
    tap: Callable[[Meta, Any, Any], Tap | None] = lambda meta, params, input: None,
    inputs: Callable[[Meta, Any, jax.Array], Any] = lambda meta, task, key: (),
    inner_loss: Callable[[Meta, Any, Any, Any], jax.Array] | None = None,
    rule: UpdateRule | None = None,
) -> LearningProcess:
    """The learner; without further arguments, MAML's.

    Args:
        start: (meta, task, key) -> what moves in the inner loop.
        weights: (meta, params, input) -> the weights in force, from what moves and what does not.
        tap: (meta, params, input) -> what is inserted into the encoder's forward pass.
        inputs: as in LearningProcess.
        inner_loss: (meta, params, input, task) -> scalar. None: cross-entropy of the support set.
        rule: None: gradient descent at the setting's rate.
    """

    def support_loss(meta, params, input, task):
        body, head = weights(meta, params, input)
        return cross_entropy(
            logits_of(head, support_features(setting, body, task, tap(meta, params, input))), task.support_y
        )

    def outer_loss(meta, params, input, task):
        body, head = weights(meta, params, input)
        return judged(logits_of(head, query_features(setting, body, task, tap(meta, params, input))), task)

    return gradient_process(
        init=start,
        inputs=inputs,
        inner_loss=support_loss if inner_loss is None else inner_loss,
        outer_loss=outer_loss,
        rule=optax_rule(optax.sgd(setting.rate)) if rule is None else rule,
        inner_gradient=setting.inner_gradient,
    )


def once_per_task(process: LearningProcess, compute: Callable[[Meta, Any], Any]) -> LearningProcess:
    """`process`, whose tasks are pairs (task, compute(meta, task)), as a process of tasks."""
    return process._replace(prepare=lambda meta, task: (task, compute(meta, task)))


def configured(
    setting: Setting,
    process: LearningProcess,
    init: Callable[[jax.Array], Meta] | None = None,
    objective: np.ndarray | Callable[[jax.Array], jax.Array] | None = None,
    estimator: Estimator = exact,
) -> Algorithm:
    """An algorithm whose other parts, where not given, are those of MAML."""
    return Algorithm(
        setting.init if init is None else init,
        process,
        objectives.terminal(setting.steps) if objective is None else objective,
        estimator,
        setting.normalisation,
    )
