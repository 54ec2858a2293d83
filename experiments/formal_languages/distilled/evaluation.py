"""Adapting networks to evaluation languages and scoring what they learned."""

import collections
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.formal_languages.distilled.config import Config
from experiments.formal_languages.distilled.training import model_of
from metalearn.languages.adaptation import Adaptation, protocol
from metalearn.languages.continuation import (
    Continuations,
    continuations,
    mean_score,
    score_continuations,
    stack_continuations,
)
from metalearn.languages.randomness import host_rng
from metalearn.languages.scores import Corpus, corpus, read_corpus, sample_corpus, score_corpus, score_models
from metalearn.languages.targets import target
from metalearn.languages.tokens import letters_to_symbols
from metalearn.run import ConfigError, RunPaths
from metalearn.run.files import json_text, write_atomic

Scores = dict[str, np.ndarray]
"""Name of a score -> [seeds, languages] float64. See `Evaluation`."""

LEARNERS = ("meta-trained", "pre-trained", "standard")
MEMORISATION = "memorisation"

# The longest test string, in symbols: a few languages have strings of hundreds, which would cost more than all others.
_TEST_SYMBOLS = 50


class Evaluation:
    """Adapts and scores networks. Keeps compiled programs and references from one N to the next.

    Scores: "f_score", "precision", "recall" (of the 25 most probable strings), "complete" (1 where the search for them
    was exact), and the continuation F1 over all positions ("continuation"), over those where something is forbidden
    ("constrained") and over those where the string may end ("may_end").
    """

    def __init__(self, config: Config):
        """See the class.

        Raises:
            ConfigError: the folder of corpora lacks a file, or a file lacks strings; said here, before any training.
        """
        self._config = config
        self._key = jax.random.fold_in(jax.random.key(config.seed), 2**31 - 2)
        self._model = model_of(config)
        self._adaptation = Adaptation(self._model, config.adaptation)
        self._languages = [target(name) for name in config.languages]
        self._score_continuations = jax.jit(functools.partial(score_continuations, self._model))
        if config.evaluation.corpora:
            self._check_corpora(pathlib.Path(config.evaluation.corpora))

    @functools.cached_property
    def references(self) -> list[Corpus]:
        """The true languages, as a large sample shows them."""
        settings = self._config.evaluation
        if settings.corpora:
            read = lambda name: read_corpus(pathlib.Path(settings.corpora) / f"{name}.txt")
            return [corpus(read(language.name), language.alphabet) for language in self._languages]
        return [
            sample_corpus(language, host_rng(jax.random.fold_in(self._key, i)), settings.reference_draws)
            for i, language in enumerate(self._languages)
        ]

    @functools.cached_property
    def _tests(self) -> Continuations:
        tests = []
        for i, language in enumerate(self._languages):
            rng = host_rng(jax.random.fold_in(jax.random.fold_in(self._key, i), 1))
            drawn = dict.fromkeys(language.sample(rng, 50 * self._config.evaluation.test_strings))
            strings = [s for s in drawn if len(s) <= _TEST_SYMBOLS][: self._config.evaluation.test_strings]
            tests.append(continuations(language, strings))
        return stack_continuations(tests)

    def training_strings(self, seed: int, strings: int) -> list[list[str]]:
        """The strings from which repetition `seed` learns each language: [languages][strings]."""
        return [self._corpus(i, seed, strings) for i in range(len(self._languages))]

    def _corpus(self, index: int, seed: int, strings: int) -> list[str]:
        language = self._languages[index]
        folder = self._config.evaluation.corpora
        if not folder:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(self._key, index), 2 + seed), strings)
            return language.sample(host_rng(key), strings)
        path = pathlib.Path(folder) / f"{language.name}-{strings}.txt"
        drawn = [s for s, count in read_corpus(path) for _ in range(count)]
        if len(drawn) < strings:
            raise ValueError(f"{path} has {len(drawn)} strings, fewer than the {strings} of evaluation.strings")
        return drawn[:strings]

    def _check_corpora(self, folder: pathlib.Path) -> None:
        try:
            for index, language in enumerate(self._languages):
                (folder / f"{language.name}.txt").stat()
                for strings in self._config.evaluation.strings:
                    for text in self._corpus(index, 0, strings):
                        letters_to_symbols(text, language.alphabet)
        except (OSError, ValueError) as error:
            raise ConfigError(f"evaluation.corpora={str(folder)!r} cannot be used: {error}") from None

    def memorisation(self, strings: int) -> Scores:
        """Scores of the training strings themselves, as if they were a model."""
        rows = [
            [
                score_corpus(corpus(collections.Counter(text), language.alphabet), reference)
                for text, language, reference in zip(
                    self.training_strings(seed, strings), self._languages, self.references, strict=True
                )
            ]
            for seed in range(self._config.seeds)
        ]
        names = ("f_score", "precision", "recall")
        return {name: np.array([[getattr(score, name) for score in row] for row in rows]) for name in names}

    def __call__(
        self, learner: str, weights: list[Any], strings: int, report: Callable[[int], None] = lambda done: None
    ) -> Scores:
        """Scores of one kind of learner after `strings` strings.

        Args:
            learner: whose adaptation protocol applies, one of LEARNERS.
            weights: [seeds], the weights from which each repetition starts.
            strings: N.
            report: called with the number of (seed, language) pairs adapted so far.
        """
        config, count = self._config, len(self._languages)
        settings = protocol(config.evaluation.protocol, learner, strings)
        texts = [
            [letters_to_symbols(s, language.alphabet) for s in text]
            for seed in range(len(weights))
            for text, language in zip(self.training_strings(seed, strings), self._languages, strict=True)
        ]
        starts = jax.tree.map(lambda *leaves: np.repeat(np.stack(leaves), count, axis=0), *weights)
        key = jax.random.fold_in(jax.random.fold_in(self._key, 2**30 + LEARNERS.index(learner)), strings)
        epochs = (settings.sgd_epochs, settings.adamw_epochs)
        adapted = self._adaptation(starts, texts, epochs, key, report)
        rows = []
        for seed in range(len(weights)):
            params = jax.tree.map(lambda x, s=seed: x[s * count : (s + 1) * count], adapted)
            rows.append(self._score(params, settings.nucleus, settings.temperature))
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _score(self, params: Any, nucleus: float, temperature: float) -> Scores:
        settings = self._config.evaluation
        top = score_models(
            self._model,
            params,
            self.references,
            nucleus=nucleus,
            temperature=temperature,
            draws=settings.model_draws,
            max_symbols=settings.max_symbols,
            budget=settings.budget,
        )
        f1 = self._score_continuations(params, self._tests).f1
        scores: dict[str, Any] = {
            name: [getattr(s, name) for s in top] for name in ("f_score", "precision", "recall", "complete")
        }
        scores |= {
            "continuation": mean_score(f1, self._tests.positions),
            "constrained": mean_score(f1, self._tests.constrained),
            "may_end": mean_score(f1, self._tests.may_end),
        }
        return {name: np.asarray(values, np.float64) for name, values in scores.items()}


def stored(paths: RunPaths, name: str, compute: Callable[[], Scores]) -> Scores:
    """The scores kept under `name` in the run directory; computed and kept where they are not there yet."""
    path = paths.root / "scores" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json_text({key: value.tolist() for key, value in compute().items()}))
    return {key: np.array(value, np.float64) for key, value in json.loads(path.read_text()).items()}
