"""Runs an experiment on NPBML: all stages of its rows, and what they say."""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.few_shot.contestants import unchanged
from experiments.few_shot.data import Data
from experiments.few_shot.outcomes import as_text, outcome, write_table
from experiments.few_shot.training import Repetition, stored
from experiments.npbml.config import Config
from experiments.npbml.cost import describe
from experiments.npbml.fairness import fairness
from experiments.npbml.implicit import implicit
from experiments.npbml.inside import KEYS, all_inside
from experiments.npbml.relation import scorer
from experiments.npbml.report import Found, Report, about, full
from experiments.npbml.rows import Row, contestant, for_sizes, rows_of, setting_of
from experiments.npbml.tables import ablation
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.family.npbml import Procedure
from metalearn.run import RunDirectory, RunPaths, Stages
from metalearn.run.claims import table as claims_table
from metalearn.run.config import to_json

TITLES = {
    "full": "NPBML from beginning to end: pre-training, relation network, meta-training, test",
    "table_3": "Table 3 of the paper: which components bring how much",
    "table_4": "Table 4 of the paper: which parts of the learned loss bring how much",
    "fairness": "How much is meta-training, how much the query images, how much the pre-trained encoder?",
    "implicit": "Implicit biases of a meta-trained NPBML: effective step sizes, rates of warps, pull of R",
}
REPORTS: Mapping[str, Callable[[Config, Mapping[str, Found], RunPaths], Report]] = {
    "full": full,
    "table_3": functools.partial(ablation, "table_3"),
    "table_4": functools.partial(ablation, "table_4"),
    "fairness": fairness,
    "implicit": implicit,
}
MEASURED_TASKS = 100
"""Tasks, at most, that "implicit" looks inside of."""

_RELATION = 2**31 - 4  # what is drawn from the key of a repetition; few_shot has others


def run(name: str, config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs the experiment, or goes on with it, and returns what `result.json` holds."""
    # Before the directory is made: what does not fit leaves nothing behind.
    rows = rows_of(config, name)
    data = None if RunPaths(workdir).finished else Data(config.few_shot)
    with RunDirectory.open(workdir, {"experiment": name} | json.loads(to_json(config))) as paths:
        if data is None:
            print(f"{paths.root} is finished; nothing to do. See {paths.root / 'table.csv'} and {paths.figures}")
            return paths.load_result()
        found = _found(name, config, data, rows, paths)
        report = REPORTS[name](config, found, paths)
        write_table(paths, report.table)
        paths.finish(
            {"experiment": name, "dataset": config.few_shot.dataset, "claims": report.verdicts, **report.result}
        )
        print(f"{about(config)}\n{as_text(report.table, report.columns)}")
        if report.verdicts:
            print(claims_table(report.verdicts))
        print(f"figures: {paths.figures}\ntable: {paths.root / 'table.csv'}\nresult: {paths.result}")
        return paths.load_result()


def _found(name: str, config: Config, data: Data, rows: tuple[Row, ...], paths: RunPaths) -> dict[str, Found]:
    """What was measured of each row."""
    scored = any(row.biases.scores == "given" for row in rows)
    before = ["pre-training"] * (config.pretraining.steps > 0) + ["relation network"] * scored
    label = lambda part, seed: f"{part}, seed {seed}"
    parts = (*before, *(row.name for row in rows))
    stages = Stages(*(label(part, seed) for seed in range(config.seeds) for part in parts))
    measured: dict[str, list[dict[str, np.ndarray]]] = {row.name: [] for row in rows}
    for seed in range(config.seeds):
        repetition = Repetition(config.few_shot, data, seed)
        if config.pretraining.steps:
            with stages.stage(label("pre-training", seed)):
                repetition.pretrain(paths.stage(f"pretraining_{seed}"))
        shown: Callable[[Episode], Any] = unchanged
        if scored:
            with stages.stage(label("relation network", seed)):
                key = jax.random.fold_in(repetition.key, _RELATION)
                shown = scorer(config, data, key, paths.stage(f"relation_{seed}"), repetition.validated)
        for row in rows:
            with stages.stage(label(row.name, seed)):
                stage = _stage_of(paths, row, seed)
                measured[row.name].append(_measured(name, config, data, repetition, row, shown, stage))
    found = {}
    for row in rows:
        arrays = {key: np.stack([of[key] for of in measured[row.name]]) for key in measured[row.name][0]}
        of = for_sizes(config, row, data.encoder)
        where = [_stage_of(paths, row, seed) for seed in range(config.seeds)]
        found[row.name] = Found(row, outcome(config.few_shot, of, data.shape, arrays.pop("test"), where), arrays)
    print(stages.summary())
    return found


def _measured(
    name: str,
    config: Config,
    data: Data,
    repetition: Repetition,
    row: Row,
    shown: Callable[[Episode], Any],
    stage: RunPaths,
) -> dict[str, np.ndarray]:
    """By name of what was measured; each is kept in a file of the stage.

    "test": [episodes, K + 1]; in "fairness" also "familiar", the same for training classes; in "implicit" also what
    `all_inside` finds in MEASURED_TASKS tasks.
    """
    of = contestant(config, row, data.encoder, repetition.start, shown)
    meta = functools.cache(lambda: repetition.trained(row.name, of, stage))
    measures: dict[str, Callable[[], Any]] = {"test": lambda: repetition.tested(row.name, of, meta(), data.test)}
    if name == "fairness":
        measures["familiar"] = lambda: repetition.tested(f"{row.name}, training classes", of, meta(), data.familiar)
    if name == "implicit":
        updates = config.recipe.test_updates
        procedure = Procedure(setting_of(config, row, data.encoder, repetition.start, updates), row.biases)
        count = -(-min(config.test_episodes, MEASURED_TASKS) // config.training.tasks)
        batches = (jax.device_get(shown(data.test(number))) for number in range(count))
        inside = functools.cache(lambda: all_inside(procedure, updates, jax.device_get(meta()), batches))
        measures |= {key: functools.partial(lambda name: inside()[name], key) for key in KEYS}
    return {key: stored(stage.root / f"{key}.json", measure) for key, measure in measures.items()}


def _stage_of(paths: RunPaths, row: Row, seed: int) -> RunPaths:
    """Where one training lies."""
    return paths.stage(f"{row.stage}_{seed}")


def main(name: str, config: Config, workdir: pathlib.Path, dry_run: bool) -> None:
    """What the command line runs."""
    if dry_run:
        print(describe(name, config))
        return
    print(f"devices: {', '.join(map(str, jax.devices()))}")
    run(name, config, workdir)
