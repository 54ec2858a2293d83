"""What the experiments beyond the paper have in common."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments.learning_effort.settings import Settings, presets
from experiments.learning_effort.studies import Outcome, Study, Tested

SOURCE = "beyond the paper"


def beyond(*arguments: Any, **bounds: Any) -> Tested:
    """An expectation that is not the paper's."""
    return Tested(*arguments, **bounds)._replace(source=SOURCE)


def by_point(outcome: Outcome, values: np.ndarray) -> np.ndarray:
    """Values of lanes [lanes, ...] as [points, seeds, ...]."""
    return values.reshape(-1, outcome.settings.seeds, *values.shape[1:])


def initial_weights(settings: Settings, study: Study) -> list[Any]:
    """Those of each seed, as `solve` draws them."""
    key = jax.random.key(settings.seed)
    return [study.init(jax.random.fold_in(key, seed)) for seed in range(settings.seeds)]


def presets_of(settings: Any, smoke: dict[str, Any]) -> dict[str, Any]:
    """There are no published settings: `paper` is the laptop's with more seeds."""
    more = dataclasses.replace(settings, seeds=8)
    return presets(more, {"seeds": settings.seeds}, smoke)
