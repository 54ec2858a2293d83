"""Few-shot learners side by side: the family of MAML on the same episodes, with the same encoder and budget.

Trains each algorithm (after pre-training of the encoder, if asked for), keeps what did best in validation, tests it
on 600 episodes, and writes a table (table.csv), a figure, and what the papers' claims come to. One algorithm makes a
run, several a comparison. The data set Glyphs is drawn on the spot; the others are read from your disk.

    python -m experiments.few_shot --algorithm=maml --dataset=glyphs
    python -m experiments.few_shot --algorithm=maml,fomaml,proto_maml --dataset=omniglot --data=FOLDER
    python -m experiments.few_shot --algorithm=all --preset=paper_photographs --data=FOLDER --dry_run
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.few_shot import report
from experiments.few_shot.config import PRESETS, Config
from experiments.few_shot.contestants import contestant, for_sizes
from experiments.few_shot.cost import describe
from experiments.few_shot.data import Data
from experiments.few_shot.outcomes import outcome, write_table
from experiments.few_shot.training import Repetition
from metalearn.run import RunDirectory, RunPaths, Stages, launch
from metalearn.run.claims import table as claims_table

SHORT_FLAGS = {"algorithm": "algorithms", "dataset": "dataset", "data": "data"}


def run(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs the comparison, or goes on with it, and returns what `result.json` holds."""
    # Before the directory is made: a folder that does not fit leaves nothing behind.
    data = None if RunPaths(workdir).finished else Data(config)
    with RunDirectory.open(workdir, config) as paths:
        if data is None:
            print(f"{paths.root} is finished; nothing to do. Its result:")
            found = paths.load_result()["algorithms"]
            print(json.dumps({name: of["accuracy"] for name, of in found.items()}, indent=2))
            return paths.load_result()
        accuracies = _trained_and_tested(config, data, paths)
        outcomes = {
            name: outcome(
                config,
                for_sizes(config, name, data.encoder),
                data.shape,
                np.stack(accuracies[name]),
                [report.stage_of(paths, name, seed) for seed in range(config.seeds)],
            )
            for name in config.names
        }
        table = report.rows(config, outcomes)
        write_table(paths, table)
        report.draw(paths, config, outcomes)
        verdicts = report.verdicts(config, outcomes)
        paths.finish(report.result(config, outcomes, verdicts))
        print(report.summary(config, table))
        if verdicts:
            print(claims_table(verdicts))
        print(f"figure: {paths.figure('comparison')}\ntable: {paths.root / 'table.csv'}\nresult: {paths.result}")
        return paths.load_result()


def _trained_and_tested(config: Config, data: Data, paths: RunPaths) -> dict[str, list[np.ndarray]]:
    """Accuracies on the test episodes by algorithm, [seeds] of [episodes, K + 1]."""
    before = ["pre-training"] if config.pretraining.steps else []
    label = lambda name, seed: f"{name}, seed {seed}"
    stages = Stages(*(label(name, seed) for seed in range(config.seeds) for name in (*before, *config.names)))
    accuracies: dict[str, list[np.ndarray]] = {name: [] for name in config.names}
    for seed in range(config.seeds):
        repetition = Repetition(config, data, seed)
        if config.pretraining.steps:
            with stages.stage(label("pre-training", seed)):
                repetition.pretrain(paths.stage(f"pretraining_{seed}"))
        for name in config.names:
            with stages.stage(label(name, seed)):
                of = contestant(config, name, data.encoder, repetition.start)
                accuracies[name].append(repetition(name, of, report.stage_of(paths, name, seed)))
    return accuracies


def main(config: Config, workdir: pathlib.Path, dry_run: bool) -> None:
    """What the command line runs."""
    if dry_run:
        print(describe(config))
        return
    print(f"devices: {', '.join(map(str, jax.devices()))}")
    run(config, workdir)


if __name__ == "__main__":
    launch(PRESETS, main, __doc__, default_preset="laptop", short_flags=SHORT_FLAGS)
