"""Algorithms with weights that shape the forward pass but stay in the inner loop: they bend its gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from metalearn.core import UpdateRule, objectives, stepwise
from metalearn.fewshot.convolution import conv3x3, identity_kernel
from metalearn.fewshot.encoders import EncoderParams
from metalearn.fewshot.family.learner import Algorithm, Meta, Setting, Weights, configured, learner
from metalearn.fewshot.heads import Head


def t_net(setting: Setting) -> Algorithm:
    """T-Net (Lee & Choi 2018): a learned linear map after each convolution and after the head.

    As one map follows the other, they are multiplied first: the weights in force are W = theta T, and these move by
    -rate * dL/dW T^T T. Meta: the initial weights and "transforms" T, [outputs, outputs] each, which begin at the
    identity.
    """
    return configured(setting, learner(setting, weights=_transformed), init=_init_transforms(setting))


def mt_net(setting: Setting, temperature: float = 1.0) -> Algorithm:
    """MT-Net (Lee & Choi 2018): a T-Net in which each task draws the outputs whose weights move.

    Meta: as `t_net`, and "mask", the logits of each output of each kernel and of the head, which begin at 0.

    Args:
        temperature: of the relaxed draw, see `relaxed_mask`.

    Raises:
        ValueError: temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive")

    def init(key):
        meta = _init_transforms(setting)(key)
        logits = lambda leaf: jnp.zeros(leaf.shape[-1], leaf.dtype)
        return meta | {"mask": jax.tree.map(logits, (meta["body"].kernels, meta["head"].weights))}

    def inputs(meta, task, key):
        logits, structure = jax.tree.flatten(meta["mask"])
        keys = jax.random.split(key, len(logits))
        masks = [relaxed_mask(k, leaf, temperature) for k, leaf in zip(keys, logits, strict=True)]
        return jax.tree.map(lambda mask: jnp.tile(mask, (setting.steps, 1)), jax.tree.unflatten(structure, masks))

    def update(meta, input, gradient, rule_state, params):
        of_kernels, of_head = input
        kernels = jax.tree.map(jnp.multiply, of_kernels, gradient.body.kernels)
        head = Head(of_head * gradient.head.weights, of_head * gradient.head.bias)
        masked = Weights(gradient.body._replace(kernels=kernels), head)
        return jax.tree.map(lambda g: -setting.rate * g, masked), rule_state

    process = learner(setting, weights=_transformed, inputs=inputs, rule=UpdateRule(lambda params: (), update))
    return configured(setting, process, init=init)


def relaxed_mask(key: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
    """Binary Gumbel-softmax: sigmoid((logits + logistic noise) / temperature), > 1/2 with chance sigmoid(logits)."""
    return jax.nn.sigmoid((logits + jax.random.logistic(key, logits.shape, logits.dtype)) / temperature)


def _init_transforms(setting: Setting):
    def init(key: jax.Array) -> Meta:
        meta = setting.init(key)
        identity = lambda leaf: jnp.eye(leaf.shape[-1], dtype=leaf.dtype)
        return meta | {"transforms": jax.tree.map(identity, (meta["body"].kernels, meta["head"].weights))}

    return init


def _transformed(meta: Meta, params: Weights, input: Any) -> Weights:
    of_kernels, of_head = meta["transforms"]
    kernels = jax.tree.map(jnp.matmul, params.body.kernels, of_kernels)
    return Weights(
        EncoderParams(kernels, params.body.norms), Head(params.head.weights @ of_head, params.head.bias @ of_head)
    )


def warp_grad(setting: Setting) -> Algorithm:
    """Warp-MAML (Flennerhag et al. 2020): a 3x3 convolution after each block, learned one step ahead.

    Every state but the first is judged, and each through the update that made it alone, so that the warps learn to
    make the next step a good one wherever the trajectory passes. The initial weights learn to first order.
    Meta: the initial weights and "warps", one kernel for each block, which begin at the identity.
    """

    def init(key):
        meta = setting.init(key)
        return meta | {"warps": tuple(identity_kernel(filters) for filters in setting.encoder.filters)}

    def tap(meta, params, input):
        return lambda place, block, which, maps: conv3x3(maps, meta["warps"][block]) if place == "block" else maps

    process = learner(setting, tap=tap)
    return configured(setting, process, init, objectives.every_update(setting.steps), stepwise)
