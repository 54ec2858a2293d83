"""Classifiers by comparison: nothing moves in the inner loop, so there are no updates, and state 0 is judged."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import LearningProcess
from metalearn.fewshot.family.learner import (
    Algorithm,
    Setting,
    configured,
    judged,
    query_features,
    support_features,
)
from metalearn.fewshot.heads import accuracy, logits_of, prototype_head, prototypes
from metalearn.fewshot.relation import RelationNetwork


def prototypical(setting: Setting) -> Algorithm:
    """Prototypical networks (Snell et al. 2017): logits are minus squared distances to the classes' means.

    Meta: "body" alone. The setting's steps and rate are not used.
    """
    return _by_distance(setting, lambda features: features)


def nearest_centroid(setting: Setting) -> Algorithm:
    """The baseline of a pre-trained encoder (Wang et al. 2019): prototypes of features scaled to length 1.

    Meant to be evaluated without meta-training. Meta: "body" alone. The setting's steps and rate are not used.
    """
    # The small number keeps the gradient finite where all features of an image are zero.
    return _by_distance(setting, lambda x: x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12))


def relation(setting: Setting, network: RelationNetwork) -> Algorithm:
    """A relation network (Sung et al. 2018): the loss is the mean squared error of its scores against one-hot labels.

    Meta: "relation", the `RelationParams`. Of the setting nothing is used.
    """

    def loss(meta, state, input, task):
        scores = network.scores(meta["relation"], task)
        truth = jax.nn.one_hot(task.query_y, scores.shape[-1], dtype=scores.dtype)
        return jnp.mean((scores - truth) ** 2), {"accuracy": accuracy(scores, task.query_y)}

    of = _without_updates(setting, loss, lambda key: {"relation": network.init(key)})
    return of._replace(normalisation="transductive")


def _by_distance(setting: Setting, transform: Callable[[jax.Array], jax.Array]) -> Algorithm:
    def loss(meta, state, input, task):
        support, query = (transform(of(setting, meta["body"], task)) for of in (support_features, query_features))
        head = prototype_head(prototypes(support, task.support_y, setting.ways))
        return judged(logits_of(head, query), task)

    return _without_updates(setting, loss, lambda key: {"body": setting.init(key)["body"]})


def _without_updates(setting, loss, init):
    process = LearningProcess(
        init=lambda meta, task, key: (),
        inputs=lambda meta, task, key: (),
        step=lambda meta, state, input, task: state,
        loss=loss,
    )
    return configured(setting, process, init=init, objective=np.ones(1))
