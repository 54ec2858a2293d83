"""Meta-training: all sources and seeds of a condition in one compiled step; and the rates that all begin with."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.formal_languages.lab.training import Sources, model_of, random_weights
from experiments.learned_procedures.config import Condition, Config
from experiments.learned_procedures.learner import procedural
from experiments.learned_procedures.switches import Switched, init_all, switchable, switches
from metalearn.core import OuterLoop, OuterState, objectives, outer_loops, task_mesh, unroll
from metalearn.languages.episodes import Episode, Prefetched, stack_episodes
from metalearn.languages.training import outer_optimizer
from metalearn.run import NonFiniteMetaGradient, Progress, RunError, RunPaths, read_csv, train

# What is drawn from the key of everything; the laboratory has others.
_PROCEDURES, _TRAINING, _RATES = 2**31 - 11, 2**31 - 12, 2**31 - 13


def batch_of(config: Config, sources: Sources, step: int) -> Episode:
    """The episodes of an outer step, leaves [sources * seeds, tasks, ...]: support batches repeated for all updates."""
    batch = stack_episodes([sources.batch(name, step) for name in config.sources])
    support = jax.tree.map(lambda x: np.repeat(x, config.training.updates, axis=2), batch.support)
    return jax.tree.map(lambda x: np.repeat(x, config.seeds, axis=0), batch._replace(support=support))


def losses_by_rate(config: Config, sources: Sources) -> np.ndarray:
    """[rates]: loss of the query after plain descent from random weights, mean over sources, seeds and episodes.

    The episodes are those that would follow meta-training's.
    """
    model, objective = model_of(config.lab, "lstm", dropout=False), objectives.terminal(config.training.updates)

    @jax.jit
    def loss(rate, batch, keys):
        of_one = lambda task, key: unroll(procedural(model, rate), objective, {}, task, key).value
        return jax.vmap(jax.vmap(of_one))(batch, keys).mean()

    found = np.zeros(len(config.rates.grid))
    for number in range(config.rates.batches):
        batch = batch_of(config, sources, config.training.steps + number)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), _RATES), number)
        keys = jax.random.split(key, batch.query.tokens.shape[:2])
        found += [float(loss(rate, batch, keys)) for rate in config.rates.grid]
    return found / config.rates.batches


def loss_after(trainer: "Trainer", config: Config, rate: float, paths: RunPaths, progress: Progress) -> np.ndarray:
    """[]: loss of the query at the end of the beginning of the meta-training of a start for plain descent at this rate.

    A mean over the last half of what is logged of `rates.steps` outer steps; NaN where it diverges.
    """
    try:
        trainer(Condition("learned", "plain"), rate, paths, progress, config.rates.steps)
    except NonFiniteMetaGradient:
        return np.array(math.nan)
    losses = read_csv(paths.metrics)["loss"]
    return np.array(np.mean(losses[len(losses) // 2 :]))


def best_rate(losses: Mapping[float, float]) -> float:
    """The rate of the least finite loss.

    Raises:
        RunError: there is none.
    """
    finite = {rate: loss for rate, loss in losses.items() if np.isfinite(loss)}
    if not finite:
        raise RunError(f"plain descent diverges at all of rates.grid={tuple(losses)}: give lower rates")
    return min(finite, key=lambda rate: finite[rate])


def first_meta(config: Config) -> dict[str, Any]:
    """Where every meta-training begins, leaves [sources * seeds, ...]."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), _PROCEDURES), config.seeds)
    meta = jax.vmap(init_all)(keys, random_weights(config.lab, "lstm"))
    return jax.tree.map(lambda x: jnp.concatenate([x] * len(config.sources)), meta)


class Trainer:
    """Meta-trains one condition after the other, by the same compiled step."""

    def __init__(self, config: Config, sources: Sources):
        """See the class."""
        self._config, self._sources = config, sources
        self._members = [(source, seed) for source in config.sources for seed in range(config.seeds)]

    @functools.cached_property
    def _loop(self) -> OuterLoop:
        training = self._config.training
        return outer_loops(
            switchable(model_of(self._config.lab, "lstm")),
            getattr(objectives, training.objective)(training.updates),
            outer_optimizer(self._config.optimizer, training.steps),
            memory=training.memory,
            task_axis=training.task_axis,
            mesh=task_mesh(tasks=len(self._members)),
        )

    def __call__(
        self, condition: Condition, rate: float, paths: RunPaths, progress: Progress, steps: int | None = None
    ) -> OuterState:
        """The states after meta-training, leaves [sources * seeds, ...] on the host; goes on from `paths`.

        Args:
            rate: of the inner loop at neutral.
            steps: outer steps to do; None: all.
        """
        config, training = self._config, self._config.training
        shape = (len(self._members), training.tasks)
        learned = {part: np.full(shape, on, np.float32) for part, on in switches(*condition).items()}
        rates = np.full(shape, rate, np.float32)
        batches = Prefetched(lambda step: Switched(batch_of(config, self._sources, step), rates, learned))
        key = jax.random.fold_in(jax.random.key(config.seed), _TRAINING)
        keys = jnp.stack([jax.random.fold_in(key, seed) for _, seed in self._members])
        names = [f"{source.replace(':', '_')}_{seed}" for source, seed in self._members]

        def step(states: OuterState, index: int) -> tuple[OuterState, dict[str, Any]]:
            states, metrics = self._loop.step(states, batches(index), keys)
            losses = metrics["losses"][:, -1]
            shown = {"loss": losses.mean()} | {f"loss/{name}": losses[i] for i, name in enumerate(names)}
            return states, shown | {f"skipped/{name}": metrics["skipped"][i] for i, name in enumerate(names)}

        final = train(
            paths,
            self._loop.init(first_meta(config)),
            step,
            steps=steps or training.steps,
            checkpoint_every=training.checkpoint_every,
            log_every=training.log_every,
            keep=2,
            examples_per_step=training.tasks * len(names),
            progress=progress,
            name=condition.name,
        )
        return jax.device_get(final)
