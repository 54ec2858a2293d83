"""Algorithms that differ from MAML in what moves in the inner loop and where it starts, or in the estimator."""

import jax
import jax.numpy as jnp
import optax

from metalearn.core import displacement, first_order, gradient_process, implicit, optax_rule
from metalearn.fewshot.family.learner import (
    Algorithm,
    Setting,
    Weights,
    all_weights,
    configured,
    judged,
    learner,
    once_per_task,
    query_features,
    support_features,
)
from metalearn.fewshot.heads import Head, cross_entropy, for_all_ways, init_head, logits_of, prototype_head, prototypes
from metalearn.fewshot.perceptron import init_perceptron, perceptron


def maml(setting: Setting) -> Algorithm:
    """MAML (Finn et al. 2017). Meta: the initial weights."""
    return configured(setting, learner(setting))


def fomaml(setting: Setting) -> Algorithm:
    """First-order MAML (Finn et al. 2017, section 5.2): inner gradients are constants. Meta: the initial weights."""
    return maml(setting)._replace(estimator=first_order)


def reptile(setting: Setting) -> Algorithm:
    """Reptile (Nichol et al. 2018): descends the displacement of the weights, and needs no query set but to report.

    Meta: the initial weights.
    """
    return maml(setting)._replace(estimator=displacement)


def imaml(setting: Setting, strength: float = 2.0, iterations: int = 5) -> Algorithm:
    """iMAML (Rajeswaran et al. 2019): weights are tied to their start, and the meta-gradient is that of the optimum.

    Meta: the initial weights.

    Args:
        strength: lambda of their equation 3 (2.0 for Omniglot).
        iterations: of conjugate gradients (5).

    Raises:
        ValueError: strength that is not positive, or iterations below 1.
    """
    if not strength > 0:
        raise ValueError(f"strength={strength} must be positive: without it the start does not matter at the optimum")

    def inner_loss(meta, params, input, task):
        loss = cross_entropy(logits_of(params.head, support_features(setting, params.body, task)), task.support_y)
        away = jax.tree.map(jnp.subtract, params, Weights(meta["body"], meta["head"]))
        return loss + strength / 2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(away))

    return configured(setting, learner(setting, inner_loss=inner_loss), estimator=implicit(iterations))


def anil(setting: Setting) -> Algorithm:
    """ANIL (Raghu et al. 2020): only the head moves, so features are computed once. Meta: the initial weights."""

    def outer_loss(meta, head, input, task):
        episode, (_, query) = task
        return judged(logits_of(head, query), episode)

    on_features = gradient_process(
        init=lambda meta, task, key: meta["head"],
        inputs=lambda meta, task, key: (),
        inner_loss=lambda meta, head, input, task: cross_entropy(logits_of(head, task[1][0]), task[0].support_y),
        outer_loss=outer_loss,
        rule=optax_rule(optax.sgd(setting.rate)),
        inner_gradient=setting.inner_gradient,
    )
    features = lambda meta, task: tuple(of(setting, meta["body"], task) for of in (support_features, query_features))
    return configured(setting, once_per_task(on_features, features))


def boil(setting: Setting) -> Algorithm:
    """BOIL (Oh et al. 2021): only the body moves. Meta: the initial weights."""
    process = learner(
        setting,
        start=lambda meta, task, key: meta["body"],
        weights=lambda meta, body, input: Weights(body, meta["head"]),
    )
    return configured(setting, process)


def proto_maml(setting: Setting) -> Algorithm:
    """ProtoMAML (Triantafillou et al. 2020): the head starts as that of the prototypes. Meta: "body" alone."""

    def start(meta, task, key):
        centres = prototypes(support_features(setting, meta["body"], task), task.support_y, setting.ways)
        return Weights(meta["body"], prototype_head(centres))

    return configured(setting, learner(setting, start=start), init=lambda key: {"body": setting.init(key)["body"]})


def unicorn_maml(setting: Setting) -> Algorithm:
    """UNICORN-MAML (Ye & Chao 2022): all ways start from one row. Meta: "body" and "row", a `Head` of one row."""

    def init(key):
        head = init_head(jax.random.fold_in(key, 1), setting.encoder.width, 1)
        return {"body": setting.init(key)["body"], "row": Head(head.weights[:, 0], head.bias[0])}

    start = lambda meta, task, key: Weights(meta["body"], for_all_ways(meta["row"], setting.ways))
    return configured(setting, learner(setting, start=start), init=init)


def l2f(setting: Setting) -> Algorithm:
    """Learning to forget (Baik et al. 2020): each array of weights starts shrunk by a factor that the task decides.

    theta_0 = gamma * theta, where gamma = sigmoid(perceptron(means of the support gradients)), one number for each
    array. Meta: the initial weights and "attenuator". It begins at gamma = 0.98.
    """
    maml_loss = lambda params, task: cross_entropy(
        logits_of(params.head, support_features(setting, params.body, task)), task.support_y
    )

    def init(key):
        meta = setting.init(key)
        arrays = len(jax.tree.leaves(meta))
        return meta | {"attenuator": init_perceptron(jax.random.fold_in(key, 1), (arrays,) * 3, last_bias=4.0)}

    def start(meta, task, key):
        params = all_weights(meta, task, key)
        leaves, structure = jax.tree.flatten(params)
        gradient = jax.tree.leaves(jax.grad(maml_loss)(params, task))
        gamma = jax.nn.sigmoid(perceptron(meta["attenuator"], jnp.stack([leaf.mean() for leaf in gradient])))
        shrunk = [factor * leaf for factor, leaf in zip(gamma, leaves, strict=True)]
        return jax.tree.unflatten(structure, shrunk)

    return configured(setting, learner(setting, start=start), init=init)


def cavia(setting: Setting, size: int = 100) -> Algorithm:
    """CAVIA (Zintgraf et al. 2019): all that moves is a context vector, which starts at zero.

    It scales and shifts the maps of the last block but one (the third of four), before their non-linearity:
    (1 + gamma) * maps + beta, with (gamma, beta) linear in the context.
    Meta: the weights and "film" [size, 2 * filters].

    Args:
        size: of the context (100).

    Raises:
        ValueError: size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size} of the context must be at least 1")
    place = max(setting.encoder.blocks - 2, 0)

    def init(key):
        shape = (size, 2 * setting.encoder.filters[place])
        return setting.init(key) | {
            "film": jax.nn.initializers.glorot_uniform()(jax.random.fold_in(key, 1), shape, float)
        }

    def tap(meta, context, input):
        gamma, beta = jnp.split(context @ meta["film"], 2)
        at = ("normalised", place, 0)
        return lambda *where_and_maps: (
            (1 + gamma) * where_and_maps[3] + beta if where_and_maps[:3] == at else where_and_maps[3]
        )

    process = learner(
        setting,
        start=lambda meta, task, key: jnp.zeros(size, meta["film"].dtype),
        weights=lambda meta, context, input: Weights(meta["body"], meta["head"]),
        tap=tap,
    )
    return configured(setting, process, init=init)
