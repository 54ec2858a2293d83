"""Training the networks: meta-training from random weights, and pre-training as its control."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.formal_languages.distilled.config import Config
from metalearn.core import (
    PARTS,
    OuterState,
    estimator_named,
    exact,
    objectives,
    outer_loop,
    replicate,
    task_mesh,
    unroll,
)
from metalearn.core.sharding import shard_tasks
from metalearn.languages.episodes import Episode, EpisodeBatches, Prefetched, draw_language
from metalearn.languages.lstm import lstm
from metalearn.languages.model import LanguageModel
from metalearn.languages.randomness import host_rng
from metalearn.languages.targets import TARGETS
from metalearn.languages.tokens import VOCABULARY
from metalearn.languages.training import AT_ONCE, meta_learning, outer_optimizer, pre_training
from metalearn.languages.withholding import withhold
from metalearn.run import Progress, RunPaths, train

_REMEMBERED_BYTES = 1 << 30


class TrainState(NamedTuple):
    """What a checkpoint holds: the outer loop's state, and the best weights so far by validation loss."""

    outer: OuterState
    best: Any
    best_loss: jax.Array
    validation_loss: jax.Array


def model_of(config: Config, dropout: bool = True) -> LanguageModel:
    """The language model of a configuration."""
    settings = config.model
    rate = settings.dropout if dropout else 0.0
    return lstm(VOCABULARY, settings.units, settings.layers, rate, settings.products)


def initial_weights(config: Config, seed: int) -> Any:
    """Random weights of one repetition: where both trainings, and the "standard" learner, start."""
    return model_of(config).init(jax.random.fold_in(jax.random.key(config.seed), seed))


class Trainer:
    """Meta-trains and pre-trains networks; keeps compiled programs from one repetition to the next."""

    def __init__(self, config: Config):
        """See the class."""
        self._config = config
        self._model = model_of(config)
        # Devices that tasks leave idle share the query of each, where it is scored in parts.
        in_parts = bool(config.training.query_rows or config.episodes.grid_times)
        self._mesh = task_mesh(tasks=config.training.tasks, parts=in_parts)
        self._axis = PARTS if in_parts else None
        self._loops: dict[tuple[str, int], Any] = {}
        self._batches: dict[int, Episode] = {}
        self._remembered_bytes = 0
        # As in the paper, all repetitions see the same languages in the same order.
        self._episodes_key = jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1)
        languages = TARGETS.values() if config.withhold else ()
        withheld = withhold(languages, host_rng(self._episodes_key))
        draw = lambda rng, count: draw_language(rng, count, config.metagrammar, withheld)
        batches = lambda number, tasks: EpisodeBatches(
            jax.random.fold_in(self._episodes_key, number), tasks, config.episodes, draw
        )
        self._training_batches = batches(0, config.training.tasks)
        self._validation_batches = batches(1, config.training.tasks)
        self._validation: list[Episode] | None = None
        self._validate = jax.jit(self._query_loss_after)

    def __call__(self, kind: str, seed: int, paths: RunPaths, progress: Progress | None = None) -> Any:
        """Weights after training of `kind` "meta-trained" or "pre-trained", on the host; resumes from `paths`."""
        training = self._config.training
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._config.seed), seed), 1)
        start = self._loop(kind, self._config.episodes.min_updates).init(initial_weights(self._config, seed))
        infinite = replicate(jnp.asarray(jnp.inf), self._mesh)
        state = TrainState(start, replicate(start.meta, self._mesh), infinite, replicate(infinite, self._mesh))
        batches = Prefetched(lambda step: shard_tasks(self._remembered_batch(step), self._mesh))

        def step(state: TrainState, index: int) -> tuple[TrainState, dict[str, Any]]:
            batch = batches(index)
            updates = batch.support.tokens.shape[1]
            outer, metrics = self._loop(kind, updates).step(state.outer, batch, key)
            done = index + 1
            state = state._replace(outer=outer)
            if done % training.validate_every == 0 or done == training.steps:
                state = self._keep_best(kind, state)
            shown = {
                "query_loss": metrics["losses"][-1] if kind == "meta-trained" else metrics["value"] / (2 * updates),
                "gradient_norm": metrics["gradient_norm"],
                "skipped": metrics["skipped"],
                "skipped_in_a_row": metrics["skipped_in_a_row"],
                "validation_loss": state.validation_loss,
            }
            return state, shown

        final = train(
            paths,
            state,
            step,
            steps=training.steps,
            checkpoint_every=training.checkpoint_every,
            log_every=training.log_every,
            max_nonfinite_in_a_row=training.max_nonfinite_in_a_row,
            examples_per_step=training.tasks,
            progress=progress,
            name=f"{kind}, seed {seed}",
        )
        return jax.device_get(final.best)

    def _remembered_batch(self, step: int) -> Episode:
        """The batch of a step, drawn once for all repetitions and both kinds of training as far as memory allows."""
        batch = self._batches.get(step)
        if batch is None:
            batch = self._training_batches(step)
            self._remembered_bytes += sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
            if self._remembered_bytes < _REMEMBERED_BYTES:
                self._batches[step] = batch
        return batch

    def _loop(self, kind: str, updates: int) -> Any:
        training = self._config.training
        if (kind, updates) not in self._loops:
            if kind == "meta-trained":
                process = meta_learning(
                    self._model, training.inner_rate, training.inner_gradient, training.query_rows or None, self._axis
                )
                objective = getattr(objectives, training.objective)(updates)
                estimator = estimator_named(training.estimator, horizon=training.horizon)
            else:
                process, objective, estimator = pre_training(self._model), AT_ONCE, exact
            self._loops[kind, updates] = outer_loop(
                process,
                objective,
                outer_optimizer(self._config.optimizer, training.steps),
                estimator=estimator,
                memory=training.memory,
                task_axis=training.task_axis,
                mesh=self._mesh,
            )
        return self._loops[kind, updates]

    def _keep_best(self, kind: str, state: TrainState) -> TrainState:
        losses = [
            self._validate(state.outer.meta, shard_tasks(batch, self._mesh)) for batch in self._validation_episodes()
        ]
        loss = replicate(jnp.mean(jnp.stack(losses)), self._mesh)
        better = loss < state.best_loss
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.outer.meta, state.best)
        return state._replace(best=best, best_loss=jnp.minimum(loss, state.best_loss), validation_loss=loss)

    def _validation_episodes(self) -> list[Episode]:
        if self._validation is None:
            count = -(-self._config.training.validation_tasks // self._config.training.tasks)
            self._validation = [self._validation_batches(i) for i in range(count)]
        return self._validation

    def _query_loss_after(self, meta: Any, episodes: Episode) -> jax.Array:
        """Query loss after all inner updates, without dropout, mean over episodes: the criterion of both trainings."""
        model = model_of(self._config, dropout=False)
        process = meta_learning(model, self._config.training.inner_rate)
        weights = objectives.terminal(episodes.support.tokens.shape[1])
        one = lambda task: unroll(process, weights, meta, task, jax.random.key(0)).value
        return jax.vmap(one)(episodes).mean()
