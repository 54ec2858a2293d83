"""The images of a comparison, loaded and checked, and the episodes drawn from them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.few_shot.config import Config
from metalearn.fewshot.data import PLAIN, USUAL, Preparation, Splits, load
from metalearn.fewshot.encoders import Encoder
from metalearn.fewshot.episodes import Episode, EpisodeBatches
from metalearn.run import ConfigError

# What is drawn from the key of a comparison; training of repetition s takes number s.
_VALIDATION, _TEST, _FAMILIAR = 2**31 - 1, 2**31 - 2, 2**31 - 3


class Data:
    """The data set of a configuration: splits, how images are prepared, the encoder that fits them, and episodes.

    Validation and test episodes are the same for all algorithms and repetitions, training episodes for all algorithms.
    """

    def __init__(self, config: Config):
        """Loads and checks; compiles nothing.

        Raises:
            DataError: see `metalearn.fewshot.data.load`.
            ConfigError: a split has too few classes or images, or images do not fit the encoder.
        """
        self._config = config
        self.splits: Splits = load(config.data or None, config.dataset, size=config.size)
        self.preparation: Preparation = USUAL.get(config.dataset, PLAIN)
        self.shape: tuple[int, ...] = self.splits.train.images.shape[1:]
        height, width, channels = self.shape
        try:
            for split in self.splits:
                config.episodes.check(split)
            if height != width:
                raise ValueError(f"the encoders take square images, and these have {height} x {width} pixels: set size")
            self.encoder: Encoder = config.encoder.build(height, channels)
        except ValueError as error:
            raise ConfigError(f"dataset={config.dataset!r} does not fit: {error}") from None

    def training(self, repetition: int) -> EpisodeBatches:
        """Batches of training episodes by outer step."""
        return self._batches(repetition, "train")

    @functools.cached_property
    def validation(self) -> EpisodeBatches:
        """Batches of validation episodes."""
        return self._batches(_VALIDATION, "validation")

    @functools.cached_property
    def test(self) -> EpisodeBatches:
        """Batches of test episodes."""
        return self._batches(_TEST, "test")

    @functools.cached_property
    def familiar(self) -> EpisodeBatches:
        """Batches of further episodes of the training classes."""
        return self._batches(_FAMILIAR, "train")

    def _batches(self, number: int, split: str) -> EpisodeBatches:
        config = self._config
        return EpisodeBatches(
            jax.random.fold_in(jax.random.key(config.seed), number),
            config.training.tasks,
            getattr(self.splits, split),
            config.episodes,
            self.preparation,
            config.streamed,
        )


def episode_shape(config: Config, shape: tuple[int, ...]) -> Any:
    """An `Episode` of shapes for images [height, width, channels]."""
    sizes = config.episodes
    images: Callable[[int], Any] = lambda count: jax.ShapeDtypeStruct((sizes.ways * count, *shape), jnp.float32)
    labels: Callable[[int], Any] = lambda count: jax.ShapeDtypeStruct((sizes.ways * count,), jnp.int32)
    return Episode(images(sizes.shots), labels(sizes.shots), images(sizes.queries), labels(sizes.queries))
