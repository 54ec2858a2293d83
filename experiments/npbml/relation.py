"""The relation network that tells L^Q what the query images are: trained once for each seed, then frozen."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.few_shot import selection
from experiments.few_shot.contestants import Judge
from experiments.few_shot.data import Data
from experiments.npbml.config import Config, RelationSettings
from metalearn.core import replicate, shard_tasks, task_mesh
from metalearn.fewshot.data import augmented
from metalearn.fewshot.episodes import Episode, EpisodeBatches
from metalearn.fewshot.relation import RelationNetwork, RelationParams, ScoredEpisode, relation_network, scored
from metalearn.run import RunPaths, train


class RelationState(NamedTuple):
    """What a checkpoint holds: what moves, the optimiser's state, and the best by accuracy on validation episodes."""

    params: RelationParams
    optimizer_state: Any
    best: RelationParams
    best_accuracy: jax.Array
    validation_accuracy: jax.Array


def network_of(settings: RelationSettings, ways: int, shape: tuple[int, ...]) -> RelationNetwork:
    """The network for images of that shape."""
    return relation_network(ways, settings.filters, shape[2], shape[0])


def squared_error(network: RelationNetwork, params: RelationParams, episode: Episode) -> jax.Array:
    """Mean over queries and classes of (score - 1 for the right class, 0 for others)^2 (Sung et al. 2018)."""
    scores = network.scores(params, episode)
    return jnp.mean((scores - jax.nn.one_hot(episode.query_y, scores.shape[1], dtype=scores.dtype)) ** 2)


def scorer(
    config: Config, data: Data, key: jax.Array, paths: RunPaths, validated: Callable[[Judge, Any], float]
) -> Callable[[Episode], ScoredEpisode]:
    """Trains the network, or goes on from the checkpoints in `paths`; returns what scores a batch of episodes.

    Args:
        key: of initial weights and episodes.
        validated: (judge, params) -> mean accuracy over validation.
    """
    settings = config.relation
    network = network_of(settings, config.episodes.ways, data.shape)
    start, draw = jax.random.split(key)
    preparation = augmented(data.preparation) if settings.augmentation == "full" else data.preparation
    batches = EpisodeBatches(draw, settings.tasks, data.splits.train, config.episodes, preparation, config.streamed)
    mesh = task_mesh(tasks=settings.tasks)
    adam = optax.adam(settings.rate)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: RelationState, episodes: Episode) -> tuple[RelationState, dict[str, jax.Array]]:
        loss = lambda params: jax.vmap(lambda episode: squared_error(network, params, episode))(episodes).mean()
        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, optimizer_state = adam.update(gradient, state.optimizer_state)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, optimizer_state=optimizer_state), {"loss": value}

    @jax.jit
    def judge(params: RelationParams, episodes: Episode) -> jax.Array:
        right = lambda episode: jnp.mean(network.scores(params, episode).argmax(-1) == episode.query_y)
        return jax.vmap(right)(episodes)[:, None]

    def step(state: RelationState, index: int) -> tuple[RelationState, dict[str, jax.Array]]:
        state, metrics = update(state, shard_tasks(batches(index), mesh))
        done = index + 1
        if done % settings.validate_every == 0 or done == settings.steps:
            reached = replicate(jnp.float32(validated(judge, jax.device_get(state.params))), mesh)
            state = selection.keep_best(state, state.params, reached)
        return state, metrics

    params, nothing = jax.jit(network.init)(start), jnp.float32(-jnp.inf)
    final = train(
        paths,
        replicate(RelationState(params, adam.init(params), params, nothing, nothing), mesh),
        step,
        steps=settings.steps,
        checkpoint_every=settings.validate_every,
        log_every=config.training.log_every,
        evaluate=selection.shown,
        evaluate_every=settings.validate_every,
        examples_per_step=settings.tasks,
        name="relation network",
    )
    best = replicate(jax.device_get(final.best), task_mesh(tasks=config.training.tasks))
    score = jax.jit(jax.vmap(functools.partial(scored, network), in_axes=(None, 0)))
    return lambda episodes: score(best, episodes)
