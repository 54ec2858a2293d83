"""Training the networks, several at once: one compiled step serves all sources and seeds of an architecture."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.formal_languages.lab.conditions import RATES, Network
from experiments.formal_languages.lab.config import LabConfig
from experiments.formal_languages.lab.records import FAMILIES
from metalearn.core import OuterLoop, OuterState, estimator_named, exact, objectives, outer_loops, task_mesh
from metalearn.languages.architectures import architecture
from metalearn.languages.episodes import Episode, EpisodeBatches, Prefetched, stack_episodes
from metalearn.languages.model import LanguageModel
from metalearn.languages.nine import NINE
from metalearn.languages.pools import (
    METAGRAMMAR_POOL,
    PoolLanguage,
    PoolSettings,
    biased,
    effective_number,
    metagrammar_pool,
    minimalist_pool,
    shares,
)
from metalearn.languages.tokens import VOCABULARY, letters_to_symbols
from metalearn.languages.training import AT_ONCE, meta_learning, outer_optimizer, pre_training
from metalearn.run import Progress, RunPaths, train

Sampler = Callable[[np.random.Generator, int], Sequence[Sequence[int]]]


class Group(NamedTuple):
    """Networks of one architecture and training that are trained in one compiled call.

    members: (network, seed) of each.
    size: networks in the call; beyond the members it repeats the last, to no effect. All groups of one architecture and
        training have the same, so that they share a program, and an even one, for two devices to divide.
    """

    name: str
    members: tuple[tuple[Network, int], ...]
    size: int

    @property
    def sources(self) -> tuple[str, ...]:
        """Each once, in order."""
        return tuple(dict.fromkeys(network.source for network, _ in self.members))

    @property
    def filled(self) -> tuple[tuple[Network, int], ...]:
        """The members, and the last of them again up to `size`."""
        return self.members + self.members[-1:] * (self.size - len(self.members))


def groups(config: LabConfig, networks: Sequence[Network]) -> list[Group]:
    """All trainings of these networks. Those of source "none" need none."""
    kinds = dict.fromkeys((n.architecture, n.training) for n in networks if n.training != "none")
    found, most = [], config.training.together
    for kind in kinds:
        alike = [n for n in networks if (n.architecture, n.training) == kind]
        members = [(network, seed) for network in alike for seed in range(config.seeds)]
        share = -(-len(members) // -(-len(members) // most))  # of groups as equal as can be
        size = min(share + share % 2, most)
        for number, begin in enumerate(range(0, len(members), share)):
            found.append(Group(f"{'_'.join(kind)}_{number}", tuple(members[begin : begin + share]), size))
    return found


def model_of(config: LabConfig, name: str, dropout: bool = True) -> LanguageModel:
    """The language model of an architecture."""
    settings = config.model
    return architecture(name, VOCABULARY, settings.units, settings.layers, settings.dropout if dropout else 0.0)


def random_weights(config: LabConfig, name: str) -> Any:
    """Where all trainings of an architecture start, leaves [seeds, ...]."""
    keys = [jax.random.fold_in(jax.random.key(config.seed), seed) for seed in range(config.seeds)]
    return jax.vmap(model_of(config, name).init)(jnp.stack(keys))


class Sources:
    """Episodes of each source. Pools are built when they are first asked for, and then kept on disk."""

    def __init__(self, config: LabConfig):
        """See the class."""
        self._config = config
        # All networks see the episodes of a source in the same order (as in McCoy & Griffiths), and episodes of two
        # sources are drawn by the same random numbers.
        self._key = jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1)
        self._pools: dict[str, tuple[PoolLanguage, ...]] = {}
        self._batches: dict[str, EpisodeBatches] = {}
        self._remembered: dict[tuple[str, int], Episode] = {}

    def batch(self, source: str, step: int) -> Episode:
        """The episodes of an outer step; remembered, as many networks see them."""
        if source not in self._batches:
            training = self._config.training
            self._batches[source] = EpisodeBatches(
                self._key, training.tasks, self._config.episodes, self._sampler(source)
            )
        if (source, step) not in self._remembered:
            self._remembered[source, step] = self._batches[source](step)
        return self._remembered[source, step]

    def pool(self, family: str) -> tuple[PoolLanguage, ...]:
        """The languages of a pool."""
        if family not in self._pools:
            key = jax.random.fold_in(self._key, list(FAMILIES).index(family))
            sizes = self._config.pools
            if family == "minimalist":
                skipped = tuple(i for i in PoolSettings().skipped if i < sizes.minimalist_bins)
                settings = PoolSettings(bins=sizes.minimalist_bins, skipped=skipped, per_bin=sizes.minimalist_per_bin)
                self._pools[family] = minimalist_pool(key, settings)
            else:
                settings = PoolSettings(METAGRAMMAR_POOL.lowest, sizes.metagrammar_bins, (), sizes.metagrammar_per_bin)
                self._pools[family] = metagrammar_pool(key, settings)
        return self._pools[family]

    def describe(self, source: str) -> dict[str, float]:
        """Languages, effective number of languages, and mean description length (nats) of a pool under its bias."""
        family, bias = source.split(":")
        pool, tau = self.pool(family), self._config.pools.biases[bias]
        mean = shares(pool, tau) @ np.array([language.description_length for language in pool])
        return {
            "languages": len(pool),
            "effective_languages": effective_number(pool, tau),
            "description_length": float(mean),
        }

    def _sampler(self, source: str) -> Sampler:
        if source in NINE:
            language = NINE[source].language
            return lambda rng, count: [letters_to_symbols(s, language.alphabet) for s in language.sample(rng, count)]
        family, bias = source.split(":")
        return biased(self.pool(family), self._config.pools.biases[bias])


class Trainer:
    """Trains groups of networks; keeps compiled programs and episodes from one group to the next."""

    def __init__(self, config: LabConfig, sources: Sources):
        """See the class."""
        self._config, self._sources = config, sources
        self._loops: dict[tuple[str, str, int, int], OuterLoop] = {}

    def __call__(self, group: Group, paths: RunPaths, progress: Progress) -> OuterState:
        """The states, leaves [size, ...] on the host, after training; goes on from `paths`."""
        training, kind = self._config.training, group.members[0][0]
        weights = random_weights(self._config, kind.architecture)
        starts = jax.tree.map(lambda x: x[np.array([seed for _, seed in group.filled])], weights)
        state = self._loop(kind, group.size, self._config.episodes.min_updates).init(starts)
        key = jax.random.fold_in(jax.random.key(self._config.seed), 2**31 - 2)
        keys = jnp.stack([jax.random.fold_in(key, seed) for _, seed in group.filled])
        place = np.array([group.sources.index(network.source) for network, _ in group.filled])
        make = lambda step: stack_episodes([self._sources.batch(source, step) for source in group.sources])
        batches = Prefetched(make)
        names = [f"{network.source.replace(':', '_')}_{seed}" for network, seed in group.members]

        def step(states: OuterState, index: int) -> tuple[OuterState, dict[str, Any]]:
            batch = jax.tree.map(lambda x: x[place], batches(index))
            updates = batch.support.tokens.shape[2]
            states, metrics = self._loop(kind, len(place), updates).step(states, batch, keys)
            losses = metrics["losses"][:, -1]
            if kind.training == "pre_trained":
                losses = metrics["value"] / (2 * updates)
            shown = {"loss": losses.mean()} | {f"loss/{name}": losses[i] for i, name in enumerate(names)}
            shown |= {f"skipped/{name}": metrics["skipped"][i] for i, name in enumerate(names)}
            return states, shown

        final = train(
            paths,
            state,
            step,
            steps=training.steps,
            checkpoint_every=training.checkpoint_every,
            log_every=training.log_every,
            keep=2,
            examples_per_step=training.tasks * len(place),
            progress=progress,
        )
        return jax.device_get(final)

    def _loop(self, kind: Network, count: int, updates: int) -> OuterLoop:
        training = self._config.training
        which = (kind.architecture, kind.training, count, updates)
        if which not in self._loops:
            model = model_of(self._config, kind.architecture)
            rate = training.inner_rate * RATES.get(kind.architecture, 1.0)
            process = meta_learning(model, rate, at_once=training.query_rows or None)
            objective = getattr(objectives, training.objective)(updates)
            estimator = exact if kind.training == "pre_trained" else estimator_named(kind.training)
            if kind.training == "pre_trained":
                process, objective = pre_training(model), AT_ONCE
            elif kind.training == "displacement":
                objective = objectives.terminal(updates)  # it asks none: judged for the log
            self._loops[which] = outer_loops(
                process,
                objective,
                outer_optimizer(self._config.optimizer, training.steps),
                estimator=estimator,
                memory=training.memory,
                task_axis=training.task_axis,
                mesh=task_mesh(tasks=count),
            )
        return self._loops[which]
