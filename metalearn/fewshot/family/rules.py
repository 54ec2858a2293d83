"""Algorithms that learn the inner update rule: rates, curvature, a generator of both, an adaptive preconditioner."""

import jax
import jax.numpy as jnp
import optax

from metalearn.core import optax_rule
from metalearn.fewshot.family.learner import Algorithm, Setting, Weights, configured, learner


def meta_sgd(setting: Setting) -> Algorithm:
    """Meta-SGD (Li et al. 2017): a learned rate for every weight. Meta: the initial weights and "rates".

    Rates begin at the setting's, not at random: so training begins at MAML.
    """

    def init(key):
        meta = setting.init(key)
        return meta | {"rates": jax.tree.map(lambda leaf: jnp.full_like(leaf, setting.rate), Weights(**meta))}

    rule = optax_rule(optax.identity(), lambda meta, input: meta["rates"])
    return configured(setting, learner(setting, rule=rule), init=init)
