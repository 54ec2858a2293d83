"""What every experiment on NPBML reports: a table of its rows, and the figure of one of them."""

import csv
import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.few_shot.outcomes import COLUMNS as SHARED
from experiments.few_shot.outcomes import Outcome, Outcomes, at_equal_seconds, columns_of, interval
from experiments.npbml.config import Config
from experiments.npbml.rows import Row
from metalearn.run import PALETTE, Claim, RunPaths, Verdict, figure, judge, mean_with_band
from metalearn.run.intervals import crossed_interval


class Found(NamedTuple):
    """What was found of a row.

    outcome: its accuracies and costs.
    measured: whatever else, [seeds, ...] by name.
    """

    row: Row
    outcome: Outcome
    measured: Mapping[str, np.ndarray]

    @property
    def accuracy(self) -> np.ndarray:
        """[seeds, episodes] on the test episodes, after the last update."""
        return self.outcome.accuracy[..., -1]


class Report(NamedTuple):
    """What an experiment says.

    table: a row for each of its rows.
    columns: of the table, those shown on a terminal, with their formats.
    verdicts: on claims.
    result: what else goes to result.json; nothing of the clock.
    """

    table: list[dict[str, Any]]
    columns: Mapping[str, str]
    verdicts: list[Verdict]
    result: Mapping[str, Any]


COLUMNS = {"name": ""} | {name: form for name, form in SHARED.items() if name != "temporary_mib"}


def full(config: Config, found: Mapping[str, Found], paths: RunPaths) -> Report:
    """Of the experiment "full"."""
    (of,) = found.values()
    samples, method, whose = samples_of(config, of.accuracy)
    claim = Claim(
        "Adaptation helps: more queries are answered rightly after the last inner update than before the first",
        "Raymond et al. 2024, section 3",
        f"difference of test accuracies, {whose}",
        above=0.0,
    )
    gained, _, _ = samples_of(config, of.accuracy - of.outcome.accuracy[..., 0])
    verdicts = [judge(claim, gained, method=method)]
    published = published_for(config, "main", "NPBML")
    if published:
        reached = Claim(
            "NPBML is as accurate as published",
            f"Raymond et al. 2024, tables 1 and 2 ({published} %)",
            f"test accuracy, {whose}",
            above=(number(published) - 2) / 100,
        )
        verdicts.append(judge(reached, samples, method=method))
    with figure(paths.figure("full"), columns=2) as ((by_update, by_step),):
        draw_by_update(by_update, {"NPBML": of})
        if len(of.outcome.steps):
            curve = 100 * of.outcome.validated.mean(0)
            mean_with_band(by_step, of.outcome.steps, 100 * of.outcome.validated)
            by_step.plot(of.outcome.steps, curve, "o", color=PALETTE["blue"])
            low, high = by_step.get_ylim()  # what is within two points shall look alike
            by_step.set_ylim(min(low, curve.mean() - 2), max(high, curve.mean() + 2))
        by_step.set(xlabel="outer steps", ylabel="validation accuracy (%)", title="Meta-training")
        if published:
            by_update.axhline(number(published), color="black", linestyle=":", label="published")
        by_update.legend()
        by_update.figure.suptitle(about(config), fontsize=10)
    return Report(table(config, found), COLUMNS, verdicts, rows_result(found))


def samples_of(config: Config, values: np.ndarray) -> tuple[np.ndarray, Literal["t", "crossed"], str]:
    """What to judge, how, and of whom it is a mean, for values [seeds, episodes]: several seeds are crossed with the
    episodes, which are the same for all; with one, a verdict is about that network.
    """
    if config.seeds > 1:
        return values, "crossed", "mean over seeds and test episodes"
    return values[0], "t", "mean over test episodes of one seed"


def half_width(values: np.ndarray) -> tuple[float, float]:
    """How far the 95 % interval of the mean of values [seeds, episodes] reaches below and above it."""
    if len(values) == 1:
        return (interval(values[0]),) * 2
    low, high = crossed_interval(values, resamples=1999)
    return float(values.mean()) - low, high - float(values.mean())


def table(
    config: Config, found: Mapping[str, Found], paper_table: str = "main", before: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """A row for each row of the experiment, in its order; accuracies in %.

    Args:
        before: as of `at_equal_seconds`.
    """
    outcomes: Outcomes = {name: of.outcome for name, of in found.items()}
    equal = at_equal_seconds(outcomes, before or {})
    rows = []
    for name, (row, of, _) in found.items():
        rows.append(
            {
                "name": name,
                "normalisation": row.normalisation,
                "pretrained": row.pretrained and config.pretraining.steps > 0,
                **columns_of(of, published_for(config, paper_table, name), equal[name]),
                "outer_rate": config.outer.rate,
                "outer_steps": config.outer.steps if row.trained else 0,
                "tasks": config.training.tasks,
                "seeds": config.seeds,
                "test_episodes": config.test_episodes,
            }
        )
    return rows


def rows_result(found: Mapping[str, Found]) -> dict[str, Any]:
    """Of each row what result.json holds."""
    return {
        "rows": {
            name: {
                "accuracy": of.by_episode.mean(),
                "interval": interval(of.by_episode),
                "by_seed": of.by_seed,
                "after_updates": of.accuracy.mean((0, 1)),
                "validation": {"outer_steps": of.steps, "accuracy": of.validated},
                "meta_parameters": of.meta_parameters,
                "adapted_parameters": of.adapted_parameters,
            }
            for name, (_, of, _) in found.items()
        }
    }


def draw_by_update(axes: Any, found: Mapping[str, Found]) -> None:
    """Test accuracy by inner update, with intervals."""
    for (name, of), colour in zip(found.items(), PALETTE.values(), strict=False):
        curve = of.outcome.accuracy
        errors = np.array([half_width(curve[..., k]) for k in range(curve.shape[-1])]).T
        axes.errorbar(
            np.arange(curve.shape[-1]),
            100 * curve.mean((0, 1)),
            100 * errors,
            marker="o",
            capsize=3,
            label=name,
            color=colour,
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="inner updates", ylabel="test accuracy (%), bars: 95 %", title="During adaptation")


def about(config: Config) -> str:
    """What was run, in a line."""
    sizes = config.episodes
    return (
        f"{config.few_shot.dataset}, {sizes.ways}-way {sizes.shots}-shot, {config.encoder.name} with "
        f"{config.encoder.filters} filters, {config.outer.steps:,} outer steps, {config.seeds} "
        f"seed{'s' * (config.seeds > 1)}, {config.test_episodes} test episodes"
    )


@functools.cache
def published() -> dict[tuple[str, str, int, str, str], str]:
    """Accuracies of the paper, in %: (table, dataset, shots, encoder, name) -> "57.49 ± 0.83"."""
    text = importlib.resources.files("experiments.npbml").joinpath("published.csv").read_text(encoding="utf-8")
    return {
        (row["table"], row["dataset"], int(row["shots"]), row["encoder"], row["name"]): row["accuracy"]
        + f" ± {row['interval']}"
        for row in csv.DictReader(text.splitlines())
    }


def published_for(config: Config, paper_table: str, name: str) -> str:
    """What the paper has for `name` in the setting of this configuration; empty where it has nothing."""
    sizes = config.episodes
    if sizes.ways != 5:
        return ""
    return published().get((paper_table, config.few_shot.dataset, sizes.shots, config.encoder.name, name), "")


def number(cell: str) -> float:
    """The mean in "57.49 ± 0.83"."""
    return float(cell.split()[0])
