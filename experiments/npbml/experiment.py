"""Runs an experiment on NPBML: all stages of its rows, and what they say."""

import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.few_shot.contestants import unchanged
from experiments.few_shot.data import Data
from experiments.few_shot.outcomes import outcome, shown, write_table
from experiments.few_shot.training import Repetition, stored
from experiments.npbml.config import Config
from experiments.npbml.report import Found, Report, about, full
from experiments.npbml.rows import Row, contestant, for_sizes, rows_of
from metalearn.run import RunDirectory, RunPaths, Stages
from metalearn.run.claims import table as claims_table
from metalearn.run.config import to_json

TITLES = {
    "full": "NPBML from beginning to end: pre-training, relation network, meta-training, test",
}
REPORTS = {"full": full}


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
        report: Report = REPORTS[name](config, found, paths)
        write_table(paths, report.table)
        paths.finish(
            {"experiment": name, "dataset": config.few_shot.dataset, "claims": report.verdicts, **report.result}
        )
        print(f"{about(config)}\n{shown(report.table, report.columns)}")
        if report.verdicts:
            print(claims_table(report.verdicts))
        print(f"figures: {paths.figures}\ntable: {paths.root / 'table.csv'}\nresult: {paths.result}")
        return paths.load_result()


def _found(name: str, config: Config, data: Data, rows: tuple[Row, ...], paths: RunPaths) -> dict[str, Found]:
    """What was measured of each row."""
    before = [
        *(["pre-training"] if config.pretraining.steps else []),
    ]
    label = lambda part, seed: f"{part}, seed {seed}"
    parts = (*before, *(row.name for row in rows))
    stages = Stages(*(label(part, seed) for seed in range(config.seeds) for part in parts))
    measured: dict[str, list[dict[str, np.ndarray]]] = {row.name: [] for row in rows}
    for seed in range(config.seeds):
        repetition = Repetition(config.few_shot, data, seed)
        if config.pretraining.steps:
            with stages.stage(label("pre-training", seed)):
                repetition.pretrain(paths.stage(f"pretraining_{seed}"))
        for row in rows:
            with stages.stage(label(row.name, seed)):
                measured[row.name].append(_measured(name, config, data, repetition, row, _stage_of(paths, row, seed)))
    found = {}
    for row in rows:
        arrays = {key: np.stack([of[key] for of in measured[row.name]]) for key in measured[row.name][0]}
        of = for_sizes(config, row, data.encoder)
        where = [_stage_of(paths, row, seed) for seed in range(config.seeds)]
        found[row.name] = Found(row, outcome(config.few_shot, of, data.shape, arrays.pop("test"), where), arrays)
    print(stages.summary())
    return found


def _measured(
    name: str, config: Config, data: Data, repetition: Repetition, row: Row, stage: RunPaths
) -> dict[str, np.ndarray]:
    """By name of what was measured: "test" [episodes, K + 1]; each is kept in a file of the stage."""
    of = contestant(config, row, data.encoder, repetition.start, unchanged)
    label = f"{row.name}, seed {repetition.number}"
    meta = functools.cache(lambda: repetition.trained(label, of, stage))
    measures = {"test": lambda: repetition.tested(label, of, meta(), data.test)}
    return {key: stored(stage.root / f"{key}.json", measure) for key, measure in measures.items()}


def _stage_of(paths: RunPaths, row: Row, seed: int) -> RunPaths:
    """Where one training lies."""
    return paths.stage(f"{row.stage}_{seed}")


def main(name: str, config: Config, workdir: pathlib.Path, dry_run: bool) -> None:
    """What the command line runs."""
    if dry_run:
        raise NotImplementedError
    print(f"devices: {', '.join(map(str, jax.devices()))}")
    run(name, config, workdir)
