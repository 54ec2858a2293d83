"""Pre-training of the encoder: classification over all training classes, selected by nearest prototype."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.few_shot import selection
from experiments.few_shot.config import Config, PretrainingSettings
from experiments.few_shot.contestants import Judge, Start, accuracies
from experiments.few_shot.data import Data
from metalearn.core import replicate, shard_tasks, task_mesh
from metalearn.fewshot.data import augmented
from metalearn.fewshot.encoders import EncoderParams, Statistics, encode
from metalearn.fewshot.episodes import Episode, on_device, sample_images
from metalearn.fewshot.family import Setting, algorithm
from metalearn.fewshot.heads import Head, accuracy, cross_entropy, init_head, logits_of
from metalearn.run import RunPaths, train

_MOMENTUM = 0.9
"""Share that the stored statistics keep of themselves at each step, as in PyTorch."""
_FALLS = (0.5, 0.75, 0.875, 0.95)
"""Shares of training after which the rate falls to a tenth: 100, 150, 175 and 190 of 200 thousand steps (the released
code of Raymond et al. 2024)."""


class PretrainingState(NamedTuple):
    """What a checkpoint holds: what moves, the optimiser's state, and the best by accuracy on validation episodes."""

    params: EncoderParams
    head: Head
    statistics: Statistics
    optimizer_state: Any
    best: tuple[EncoderParams, Statistics]
    best_accuracy: jax.Array
    validation_accuracy: jax.Array


def pretrained(
    config: Config,
    data: Data,
    key: jax.Array,
    paths: RunPaths,
    validated: Callable[[Judge, Any], float],
) -> Start:
    """The encoder after pre-training; goes on from the checkpoints in `paths`.

    All images of the training split are copied to the device.

    Args:
        key: of initial weights and batches.
        validated: (judge, meta) -> mean accuracy over validation.
    """
    settings = config.pretraining
    mesh = task_mesh(tasks=settings.batch)
    draw, start = jax.random.split(key)
    preparation = augmented(data.preparation) if settings.augmentation == "full" else data.preparation
    images = on_device(data.splits.train)
    transformation = optimizer(settings)
    # One set of weights for a whole batch: there the backend's own convolution is the faster one, on all cores of a CPU
    # too (python -m benchmarks --only=pretraining).
    encoder = config.encoder.build(data.shape[0], data.shape[2], convolution="direct")

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: PretrainingState, x: jax.Array, y: jax.Array) -> tuple[PretrainingState, dict[str, jax.Array]]:
        def loss(moving):
            features, statistics = encode(encoder, moving[0], x)
            logits = logits_of(moving[1], features)
            return cross_entropy(logits, y), (accuracy(logits, y), statistics)

        moving = (state.params, state.head)
        (value, (right, statistics)), gradient = jax.value_and_grad(loss, has_aux=True)(moving)
        updates, optimizer_state = transformation.update(gradient, state.optimizer_state, moving)
        params, head = optax.apply_updates(moving, updates)
        kept = jax.tree.map(lambda old, new: _MOMENTUM * old + (1 - _MOMENTUM) * new, state.statistics, statistics)
        state = state._replace(params=params, head=head, statistics=kept, optimizer_state=optimizer_state)
        return state, {"loss": value, "accuracy": right}

    @jax.jit
    def by_prototypes(meta: tuple[EncoderParams, Statistics], episodes: Episode) -> jax.Array:
        params, statistics = meta
        stored = statistics if config.normalisation == "running" else None
        setting = Setting(data.encoder, config.episodes.ways, normalisation=config.normalisation, statistics=stored)
        return accuracies(algorithm("prototypical", setting), {"body": params}, episodes)

    def step(state: PretrainingState, index: int) -> tuple[PretrainingState, dict[str, jax.Array]]:
        x, y = shard_tasks(sample_images(jax.random.fold_in(draw, index), images, settings.batch, preparation), mesh)
        state, metrics = update(state, x, y)
        done = index + 1
        if done % settings.validate_every == 0 or done == settings.steps:
            now = (state.params, state.statistics)
            reached = replicate(jnp.float32(validated(by_prototypes, now)), mesh)
            state = selection.keep_best(state, now, reached)
        return state, metrics

    initial = replicate(_initial_state(data, start, transformation), mesh)
    final = train(
        paths,
        initial,
        step,
        steps=settings.steps,
        checkpoint_every=settings.validate_every,
        log_every=config.training.log_every,
        evaluate=selection.shown,
        evaluate_every=settings.validate_every,
        examples_per_step=settings.batch,
        name="pre-training",
    )
    return Start(*jax.device_get(final.best))


def optimizer(settings: PretrainingSettings) -> optax.GradientTransformation:
    """The optimiser of pre-training."""
    falls = {max(round(share * settings.steps), 1): 0.1 for share in _FALLS}
    rate = optax.piecewise_constant_schedule(settings.rate, falls)
    if settings.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=settings.weight_decay)
    return optax.chain(optax.add_decayed_weights(settings.weight_decay), optax.sgd(rate, momentum=0.9, nesterov=True))


def _initial_state(data: Data, key: jax.Array, transformation: optax.GradientTransformation) -> PretrainingState:
    body_key, head_key = jax.random.split(key)
    params = data.encoder.init(body_key)
    head = init_head(head_key, data.encoder.width, len(data.splits.train.classes))
    shapes = jax.eval_shape(lambda params: encode(data.encoder, params, jnp.zeros((1, *data.shape)))[1], params)
    statistics = tuple(
        tuple(
            layer._replace(mean=jnp.zeros(layer.mean.shape), variance=jnp.ones(layer.variance.shape)) for layer in block
        )
        for block in shapes
    )
    nothing = jnp.float32(-jnp.inf)
    return PretrainingState(
        params, head, statistics, transformation.init((params, head)), (params, statistics), nothing, nothing
    )
