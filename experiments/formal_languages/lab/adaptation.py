"""Every network learns each target language from N strings; what it then knows becomes records."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.formal_languages.lab.conditions import RATES, Network
from experiments.formal_languages.lab.config import LabConfig
from experiments.formal_languages.lab.records import METRICS, Condition, Record
from experiments.formal_languages.lab.training import model_of
from metalearn.languages.adaptation import Adaptation, only_embedding_and_output
from metalearn.languages.continuation import (
    Continuations,
    continuations,
    mean_scores,
    score_continuations,
    stack_continuations,
)
from metalearn.languages.nine import NINE
from metalearn.languages.randomness import host_rng
from metalearn.languages.tokens import letters_to_symbols
from metalearn.run import RunPaths
from metalearn.run.files import json_text, write_atomic

Weights = Mapping[Network, Any]
"""Network -> leaves [seeds, ...]."""

# Conditions adapted in one go. Their scores are stored together, so this much is lost when a run is killed.
_CONDITIONS = 4


class Task(NamedTuple):
    """Conditions of one architecture that adapt to all targets, from N strings each, in one go."""

    conditions: tuple[Condition, ...]
    strings: int

    @property
    def name(self) -> str:
        """Names the file of its scores."""
        first = self.conditions[0]
        sources = "_".join(f"{c.source}-{c.training}".replace(":", "-") for c in self.conditions)
        return f"{first.architecture}{'_frozen' if first.frozen else ''}_{self.strings}_{sources}"


def tasks(config: LabConfig, conditions: Sequence[Condition]) -> list[Task]:
    """All that is to be adapted."""
    found = []
    for kind in dict.fromkeys((c.architecture, c.frozen) for c in conditions):
        alike = [c for c in conditions if (c.architecture, c.frozen) == kind]
        for strings in config.targets.strings:
            for begin in range(0, len(alike), _CONDITIONS):
                found.append(Task(tuple(alike[begin : begin + _CONDITIONS]), strings))
    return found


class Targets:
    """The target languages: strings to learn from, strings to be tested on, and networks that have learned them."""

    def __init__(self, config: LabConfig):
        """See the class."""
        self._config = config
        self._key = jax.random.fold_in(jax.random.key(config.seed), 2**31 - 3)
        self.languages = [NINE[name].language for name in config.targets.languages]
        self._adaptations: dict[tuple[str, bool], Adaptation] = {}
        self._scores: dict[str, Callable[..., Any]] = {}

    def _key_of(self, name: str, *numbers: int) -> jax.Array:
        """A key of this language; the same whichever targets there are besides."""
        key = jax.random.fold_in(self._key, list(NINE).index(name))
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return key

    def training_strings(self, name: str, seed: int, strings: int) -> list[str]:
        """The strings that every network of this seed learns the language from."""
        return NINE[name].language.sample(host_rng(self._key_of(name, 1 + seed, strings)), strings)

    def test_strings(self, name: str) -> list[str]:
        """Distinct strings on which networks are tested."""
        settings = self._config.targets
        drawn = dict.fromkeys(NINE[name].language.sample(host_rng(self._key_of(name, 0)), 50 * settings.test_strings))
        return [s for s in drawn if len(s) <= settings.test_symbols][: settings.test_strings]

    @functools.cached_property
    def tests(self) -> Continuations:
        """Test strings of all targets, with a leading axis [targets]."""
        return stack_continuations([continuations(of, self.test_strings(of.name)) for of in self.languages])

    def adapted(
        self,
        architecture: str,
        weights: Sequence[Any],
        strings: int,
        frozen: bool = False,
        report: Callable[[int], None] = lambda learners: None,
    ) -> list[Any]:
        """Networks after each has learned each target.

        Args:
            weights: leaves [seeds, ...] each.
            strings: N.
            frozen: whether all but embedding and output stand still.
            report: called with the number of networks done so far.

        Returns:
            As `weights`, leaves [seeds, targets, ...].
        """
        settings, names = self._config.targets, self._config.targets.languages
        count = len(names)
        pairs = [(seed, name) for seed in range(self._config.seeds) for name in names]
        texts = [
            [letters_to_symbols(s, NINE[name].language.alphabet) for s in self.training_strings(name, seed, strings)]
            for seed, name in pairs
        ]
        keys = jnp.stack([self._key_of(name, 1 + seed, strings, 1) for seed, name in pairs])
        starts = jax.tree.map(lambda *x: np.concatenate([np.repeat(leaf, count, axis=0) for leaf in x]), *weights)
        adapt = self._adaptation(architecture, frozen)
        epochs = (settings.sgd_epochs, settings.adamw_epochs)
        found = adapt(starts, texts * len(weights), epochs, jnp.concatenate([keys] * len(weights)), report)
        shape = (len(weights), self._config.seeds, count)
        shaped = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)
        return [jax.tree.map(lambda x, i=i: x[i], shaped) for i in range(len(weights))]

    def score(self, architecture: str, adapted: Any) -> np.ndarray:
        """Scores [metrics, seeds, targets] of adapted networks, leaves [seeds, targets, ...].

        A network whose weights are no longer finite knows nothing: its F1 is 0.
        """
        if architecture not in self._scores:
            model = model_of(self._config, architecture, dropout=False)
            self._scores[architecture] = jax.jit(
                lambda params, tests: jnp.nan_to_num(score_continuations(model, params, tests).f1)
            )
        rows = []
        for seed in range(self._config.seeds):
            params = jax.tree.map(lambda x, seed=seed: x[seed], adapted)
            means = mean_scores(self._scores[architecture](params, self.tests), self.tests)
            rows.append([np.asarray(getattr(means, metric), np.float64) for metric in METRICS])
        return np.stack(rows, axis=1)

    def _adaptation(self, architecture: str, frozen: bool) -> Adaptation:
        if (architecture, frozen) not in self._adaptations:
            model = model_of(self._config, architecture, self._config.targets.dropout)
            moves = only_embedding_and_output if frozen else (lambda params: True)
            settings = self._config.adaptation
            settings = dataclasses.replace(settings, sgd_rate=settings.sgd_rate * RATES.get(architecture, 1.0))
            self._adaptations[architecture, frozen] = Adaptation(model, settings, moves=moves)
        return self._adaptations[architecture, frozen]


def measured(
    config: LabConfig,
    paths: RunPaths,
    targets: Targets,
    weights: Weights,
    task: Task,
    report: Callable[[int], None] = lambda learners: None,
) -> Iterator[Record]:
    """The records of a task, kept in the run directory; networks adapt only where they are not there yet."""
    path = paths.root / "scores" / f"{task.name}.json"
    if not path.exists():
        first = task.conditions[0]
        starts = [weights[Network(*condition[:3])] for condition in task.conditions]
        adapted = targets.adapted(first.architecture, starts, task.strings, first.frozen, report)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json_text([targets.score(first.architecture, params) for params in adapted]))
    for condition, scores in zip(task.conditions, json.loads(path.read_text()), strict=True):
        table = np.array(scores, np.float64)  # [metrics, seeds, targets]
        for seed in range(config.seeds):
            for place, name in enumerate(config.targets.languages):
                yield Record(*condition, seed, task.strings, name, *table[:, seed, place].tolist())
