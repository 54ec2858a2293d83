"""What a comparison trains: an algorithm at its recipe, and the same as it is tested."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.few_shot.config import UNTRAINED, Config, Recipe, TrainingSettings
from metalearn.core import Learner, unroll
from metalearn.fewshot.encoders import Encoder, EncoderParams, Statistics, parameter_count
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.family import Algorithm, Setting, algorithm


class Start(NamedTuple):
    """What pre-training leaves; nothing where there was none.

    params: where the encoder begins.
    statistics: what normalises under normalisation="running".
    """

    params: EncoderParams | None = None
    statistics: Statistics | None = None


NO_START = Start()

Judge = Callable[[Any, Any], jax.Array]
"""(meta, episodes with leaves [tasks, ...]) -> accuracies [tasks, K + 1]."""


def unchanged(episodes: Episode) -> Any:
    """The episodes."""
    return episodes


class Contestant(NamedTuple):
    """An algorithm of a comparison.

    recipe: how it learns.
    training: the algorithm with the inner updates of training.
    test: the algorithm with those of validation and test.
    optimizer: of the outer loop; none: it is tested as it begins.
    judge: accuracies of `test`, compiled.
    shown: what it is shown of a batch of episodes.
    """

    recipe: Recipe
    training: Algorithm
    test: Algorithm
    optimizer: optax.GradientTransformation | None
    judge: Judge
    shown: Callable[[Episode], Any] = unchanged


def contestant(config: Config, name: str, encoder: Encoder, start: Start) -> Contestant:
    """The algorithm `name` as the configuration has it."""
    recipe = config.recipe(name)
    # A tenth of all outer steps at most, as in the published runs.
    options = {"annealing": min(5000, max(config.training.steps // 10, 1))} if name == "maml_plus_plus" else {}

    def build(updates: int) -> Algorithm:
        setting = Setting(
            encoder,
            config.episodes.ways,
            updates,
            recipe.inner_rate,
            config.normalisation,
            start.statistics if config.normalisation == "running" else None,
            start.params,
            config.training.inner_gradient,
        )
        return algorithm(name, setting, **options)

    training, test = build(recipe.updates), build(recipe.test_updates)
    shapes = [jax.tree.map(lambda leaf: leaf.shape, initial_shape(of)) for of in (training, test)]
    # What is learned about each update does not exist for further ones.
    test = test if shapes[0] == shapes[1] else training
    optimizer = None if name in UNTRAINED else outer_optimizer(recipe, config.training)
    return Contestant(recipe, training, test, optimizer, judge(test))


def for_sizes(config: Config, name: str, encoder: Encoder) -> Contestant:
    """The same where only shapes matter: they do not depend on the normalisation, whose statistics are not at hand."""
    return contestant(dataclasses.replace(config, normalisation="transductive"), name, encoder, NO_START)


def initial_shape(of: Algorithm) -> Any:
    """Shapes of the meta-parameters."""
    return jax.eval_shape(of.init, jax.random.key(0))


def updates_of(of: Algorithm) -> int:
    """Inner updates."""
    weights = jax.eval_shape(of.objective, np.int32(0)) if callable(of.objective) else of.objective
    return weights.shape[0] - 1


def outer_optimizer(recipe: Recipe, training: TrainingSettings) -> optax.GradientTransformation:
    """The outer optimiser of a recipe, for the outer steps that the settings say."""
    if recipe.descent:
        return optax.sgd(optax.linear_schedule(recipe.outer_rate, 0.0, training.steps))
    if training.outer_schedule == "cosine":
        return optax.adam(optax.cosine_decay_schedule(recipe.outer_rate, training.steps, alpha=0.01))
    return optax.adam(recipe.outer_rate)


def judge(of: Algorithm) -> Judge:
    """`accuracies` of an algorithm, compiled."""
    return jax.jit(lambda meta, episodes: accuracies(of, meta, episodes))


def accuracies(of: Algorithm, meta: Any, episodes: Episode) -> jax.Array:
    """Share of right answers to the query set of each episode after 0, 1, .. K inner updates.

    Args:
        episodes: leaves [tasks, ...].

    Returns:
        [tasks, K + 1].
    """
    judged = np.ones(updates_of(of) + 1)
    one = lambda task: unroll(of.process, judged, meta, task, jax.random.key(0)).metrics["accuracy"]
    return jax.vmap(one)(episodes)


def adapted_parameters(of: Algorithm, episode: Episode) -> int:
    """Numbers that move in the inner loop, for an episode of these shapes."""
    state = jax.eval_shape(of.process.init, initial_shape(of), episode, jax.random.key(0))
    is_learner = lambda node: isinstance(node, Learner)
    learners = [node for node in jax.tree.leaves(state, is_leaf=is_learner) if is_learner(node)]
    return parameter_count([learner.params for learner in learners])
