"""What came of each contestant, and tables of it."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments.few_shot.config import Config, Recipe
from experiments.few_shot.contestants import Contestant, adapted_parameters, initial_shape, updates_of
from experiments.few_shot.data import episode_shape
from metalearn.fewshot.encoders import parameter_count
from metalearn.run import RunPaths, read_csv
from metalearn.run.files import csv_text, json_text, write_atomic
from metalearn.run.intervals import t_interval

MEASURED = ("seconds", "compile_seconds", "temporary_mib", "at_equal_seconds")
"""Columns of a table that depend on the clock and the device."""


class Outcome(NamedTuple):
    """What came of one algorithm.

    accuracy: [seeds, episodes, K + 1], on test episodes after 0 .. K inner updates.
    recipe: how it was trained.
    updates: inner updates in training and in test.
    meta_parameters, adapted_parameters: how many numbers are meta-learned, and how many move in the inner loop.
    steps: [validations] outer steps done; validated, kept: [seeds, validations] accuracy on the validation episodes, of
        the meta-parameters at that time and of the best until then. Without entries where nothing was trained.
    seconds: of an outer step, the median; compile_seconds: of compiling it; temporary_bytes: what it takes of the
        memory of each device beside its arguments and results. NaN where nothing was trained or nothing is known.
    """

    accuracy: np.ndarray
    recipe: Recipe
    updates: tuple[int, int]
    meta_parameters: int
    adapted_parameters: int
    steps: np.ndarray
    validated: np.ndarray
    kept: np.ndarray
    seconds: float
    compile_seconds: float
    temporary_bytes: float

    @property
    def by_episode(self) -> np.ndarray:
        """[episodes], accuracy after the last update, mean over seeds."""
        return self.accuracy[..., -1].mean(0)

    @property
    def by_seed(self) -> np.ndarray:
        """[seeds], accuracy after the last update, mean over episodes."""
        return self.accuracy[..., -1].mean(1)


Outcomes = dict[str, Outcome]
"""By name of the algorithm."""


def interval(samples: np.ndarray) -> float:
    """Half of the 95 % interval of the mean of independent episodes, 1.96 s / sqrt(n) with the unbiased s."""
    return float(1.96 * samples.std(ddof=1) / np.sqrt(len(samples))) if len(samples) > 1 else np.inf


def outcome(
    config: Config, of: Contestant, shape: tuple[int, ...], accuracy: np.ndarray, stages: Sequence[RunPaths]
) -> Outcome:
    """What came of a contestant, from its test accuracies and the files of its stages.

    Args:
        shape: of an image.
        accuracy: [seeds, episodes, K + 1].
        stages: of each seed.
    """
    steps, curves, seconds, costs = np.zeros(0), [{"accuracy": np.zeros(0), "kept": np.zeros(0)}], [np.nan], []
    if of.optimizer is not None:
        curves = [read_csv(stage.evaluation) for stage in stages]
        steps = curves[0]["step"]
        # Most rows are of outer steps alone, so the median leaves out validations and checkpoints.
        seconds = [float(np.median(1 / read_csv(stage.timing)["steps_per_second"])) for stage in stages]
        costs = [json.loads((stage.root / "cost.json").read_text()) for stage in stages]
    first = costs[0] if costs else {}
    return Outcome(
        accuracy,
        of.recipe,
        (updates_of(of.training), updates_of(of.test)),
        parameter_count(initial_shape(of.training)),
        adapted_parameters(of.training, episode_shape(config, shape)),
        steps,
        np.stack([curve["accuracy"] for curve in curves]),
        np.stack([curve["kept"] for curve in curves]),
        float(np.median(seconds)),
        first.get("compile_seconds", np.nan),
        np.nan if first.get("temporary_bytes") is None else first["temporary_bytes"],
    )


def at_equal_seconds(outcomes: Outcomes, before: Mapping[str, float] = MappingProxyType({})) -> dict[str, float]:
    """Validation accuracy of what each algorithm had kept when the fastest of them had done all its outer steps.

    Seconds are outer steps times their median duration, so neither compiling nor validation counts. NaN for an
    algorithm that had not been validated yet, or was not trained.

    Args:
        before: seconds by name that went by before the first outer step; where there is no entry, none.
    """
    clocks = {name: before.get(name, 0.0) + of.steps * of.seconds for name, of in outcomes.items()}
    ends = [clock[-1] for clock in clocks.values() if len(clock)]
    reached = {}
    for name, of in outcomes.items():
        done = clocks[name] <= min(ends, default=0.0) * (1 + 1e-9)
        reached[name] = float(of.kept[:, done][:, -1].mean()) if done.any() else np.nan
    return reached


def write_table(paths: RunPaths, table: list[dict[str, Any]], measured: Sequence[str] = MEASURED) -> None:
    """Writes `table.csv`, and what of it depends on the clock and the device to `timing.json`, by its first column."""
    write_atomic(paths.root / "table.csv", csv_text(table))
    timing = {next(iter(row.values())): {key: row[key] for key in measured} for row in table}
    write_atomic(paths.root / "timing.json", json_text(timing))


COLUMNS = {
    "normalisation": "",
    "accuracy": "{:.2f}",
    "interval": "{:.2f}",
    "across_seeds": "{:.2f}",
    "published": "",
    "at_equal_seconds": "{:.2f}",
    "seconds": "{:.3g}",
    "compile_seconds": "{:.1f}",
    "temporary_mib": "{:.0f}",
    "meta_parameters": "{:,}",
    "adapted_parameters": "{:,}",
}
"""Those columns of a table that are shown on a terminal, after the name, and their formats."""


def columns_of(of: Outcome, published: str, equal: float) -> dict[str, Any]:
    """The columns of a table that say how accurate an outcome is, in %, what it took and what was learned.

    Args:
        published: what a paper has.
        equal: as of `at_equal_seconds`.
    """
    low, high = t_interval(of.by_seed)
    return {
        "accuracy": 100 * of.by_episode.mean(),
        "interval": 100 * interval(of.by_episode),
        "across_seeds": 100 * float(high - low) / 2 if len(of.accuracy) > 1 else np.nan,
        "published": published,
        "at_equal_seconds": 100 * equal,
        "seconds": of.seconds,
        "compile_seconds": of.compile_seconds,
        "temporary_mib": of.temporary_bytes / 2**20,
        "meta_parameters": of.meta_parameters,
        "adapted_parameters": of.adapted_parameters,
        "updates": of.updates[0],
        "test_updates": of.updates[1],
        "inner_rate": of.recipe.inner_rate,
    }


def as_text(table: list[dict[str, Any]], columns: Mapping[str, str]) -> str:
    """A table for a terminal. columns: name -> format, or nothing for text."""
    cells = [list(columns), *([_cell(row[column], form) for column, form in columns.items()] for row in table)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(lines)


def _cell(value: Any, form: str) -> str:
    if isinstance(value, float) and not np.isfinite(value):
        return "-"
    return form.format(value) if form else str(value) or "-"
