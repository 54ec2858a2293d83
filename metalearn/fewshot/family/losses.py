"""Algorithms that learn the loss of the inner loop."""

from typing import Any

import jax
import jax.numpy as jnp

from metalearn.fewshot.family.learner import (
    Algorithm,
    Setting,
    configured,
    learner,
    query_features,
    support_features,
)
from metalearn.fewshot.heads import logits_of
from metalearn.fewshot.perceptron import Dense, init_perceptron, perceptron


def metal(setting: Setting) -> Algorithm:
    """MeTAL (Baik et al. 2021): a loss for each step, which the state of the task adapts.

        M_k = mean over support of (CE + S_k(CE, means of theta, logits, one-hot label))
            + mean over queries of Q_k(means of theta, logits, entropy)

    S and Q are perceptrons of one hidden layer, as wide as their input, on inputs scaled to mean 0 and variance 1; CE
    is that of the image. Before use, each of their arrays phi becomes (1 + gamma) phi + beta, with (gamma, beta) from
    a perceptron of the inputs' mean over images. Transductive: the query images, not their labels, drive updates.

    Meta: the initial weights and "losses", leading axis K: {"support", "query"}, each {"net", "adapter"}. All begin
    at M = CE.
    """

    def init(key):
        meta = setting.init(key)
        arrays = len(jax.tree.leaves(meta))
        widths = {"support": 1 + arrays + 2 * setting.ways, "query": arrays + setting.ways + 1}
        keys = dict(zip(widths, jax.random.split(jax.random.fold_in(key, 1)), strict=True))

        def learned(name):
            def of_step(key):
                net_key, adapter_key = jax.random.split(key)
                net = init_perceptron(net_key, (widths[name], widths[name], 1))
                adapter = init_perceptron(adapter_key, (widths[name], widths[name], 2 * len(jax.tree.leaves(net))))
                return {"net": net, "adapter": adapter}

            return jax.vmap(of_step)(jax.random.split(keys[name], setting.steps))

        return meta | {"losses": {name: learned(name) for name in widths}}

    def inner_loss(meta, params, input, task):
        support = logits_of(params.head, support_features(setting, params.body, task))
        query = logits_of(params.head, query_features(setting, params.body, task))
        means = jnp.stack([leaf.mean() for leaf in jax.tree.leaves(params)])
        repeated = lambda rows: jnp.tile(means, (len(rows), 1))
        labels = jax.nn.one_hot(task.support_y, setting.ways, dtype=support.dtype)
        surprise = -jnp.sum(labels * jax.nn.log_softmax(support), -1, keepdims=True)
        entropy = -jnp.sum(jax.nn.softmax(query) * jax.nn.log_softmax(query), -1, keepdims=True)
        of_support = jnp.concatenate([surprise, repeated(support), support, labels], -1)
        of_query = jnp.concatenate([repeated(query), query, entropy], -1)
        return surprise.mean() + _adapted(input["support"], of_support) + _adapted(input["query"], of_query)

    process = learner(setting, inner_loss=inner_loss, inputs=lambda meta, task, key: meta["losses"])
    return configured(setting, process, init=init)


def _adapted(learned: dict[str, tuple[Dense, ...]], rows: jax.Array) -> jax.Array:
    """Mean output of the adapted net on rows [images, inputs]."""
    centred = rows - rows.mean(-1, keepdims=True)
    rows = centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-12)
    leaves, structure = jax.tree.flatten(learned["net"])
    gammas, betas = jnp.split(perceptron(learned["adapter"], rows.mean(0)), 2)
    adapted: list[Any] = [(1 + g) * leaf + b for g, b, leaf in zip(gammas, betas, leaves, strict=True)]
    return perceptron(jax.tree.unflatten(structure, adapted), rows).mean()
