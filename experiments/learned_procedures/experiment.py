"""Runs the experiment: rates, all conditions, and what they say."""

import functools
import itertools
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.few_shot.outcomes import as_text
from experiments.few_shot.training import stored
from experiments.formal_languages.lab.cost import RATES
from experiments.formal_languages.lab.training import Sources
from experiments.learned_procedures.adaptation import Learners
from experiments.learned_procedures.config import BASELINE, STARTS, Condition, Config
from experiments.learned_procedures.cost import adaptation_flops, describe, training_flops
from experiments.learned_procedures.report import report
from experiments.learned_procedures.training import Trainer, best_rate, first_meta, loss_after, losses_by_rate
from metalearn.run import Progress, RunDirectory, RunPaths, Stages
from metalearn.run.claims import table as claims_table

_COMPILING = 45.0  # seconds, on two cores


def run(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs the experiment, or goes on with it, and returns what `result.json` holds."""
    with RunDirectory.open(workdir, config) as paths:
        if paths.finished:
            print(f"{paths.root} is finished; nothing to do. See {paths.root / 'table.csv'} and {paths.figures}")
            return paths.load_result()
        labels = {condition: f"{condition.start} start, {condition.procedure}" for condition in config.conditions}
        stages = Stages("pools of languages", "rates of the inner loop", *labels.values(), "figure")
        sources = Sources(config.lab)
        with stages.stage("pools of languages"):
            for name in config.sources:
                sources.batch(name, 0)
        trainer, learners = Trainer(config, sources), Learners(config)
        expected = [_expected_seconds(config, condition) for condition in config.conditions]
        ends = np.cumsum([0.0, _choosing_seconds(config), *itertools.chain(*expected)])
        scores, skipped = {}, {}
        with Progress(max(round(ends[-1]), 1), "in expected seconds") as progress:
            with stages.stage("rates of the inner loop"):
                losses = _losses(config, sources, trainer, paths, progress.part(0, ends[1], len(config.rates.grid)))
                rates = {start: best_rate(by_rate) for start, by_rate in losses.items()}
                for start, by_rate in losses.items():
                    shown = ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in by_rate.items())
                    progress.message(f"{start} start: rate {rates[start]:g}, loss by rate {shown}")
            for number, condition in enumerate(config.conditions):
                with stages.stage(labels[condition]):
                    stage, between = paths.stage(condition.name), ends[2 * number + 1 : 2 * number + 4]
                    rate = rates[condition.start]
                    scores[condition] = _scores(config, trainer, learners, condition, rate, stage, progress, between)
                    skipped[condition.name] = _skipped(stage)
        with stages.stage("figure"):
            found = report(config, rates, scores, paths)
        paths.finish(
            {
                "rates": rates,
                "loss_by_rate": {start: {f"{r:g}": x for r, x in of.items()} for start, of in losses.items()},
                "claims": found.verdicts,
                "skipped_steps": {name: count for name, count in skipped.items() if count},
                **found.result,
            }
        )
        for rows, columns in found.shown:
            print(f"\n{as_text(rows, columns)}")
        print(f"\n{claims_table(found.verdicts)}\n{stages.summary()}")
        for name, count in skipped.items():
            if count:
                print(f"{name}: {count} outer steps of its networks had no finite meta-gradient and changed nothing")
        print(f"figure: {paths.figures}\ntable: {paths.root / 'table.csv'}\nresult: {paths.result}")
        return paths.load_result()


def _losses(
    config: Config, sources: Sources, trainer: Trainer, paths: RunPaths, progress: Progress
) -> dict[str, dict[float, float]]:
    """By start and rate, the loss that tells which rate to take."""
    grid = config.rates.grid
    if len(grid) == 1:
        return {start: {grid[0]: 0.0} for start in STARTS}
    found = {"random": stored(paths.stage("rates").root / "random.json", lambda: losses_by_rate(config, sources))}
    learned = []
    with progress:
        for number, rate in enumerate(grid):
            stage = paths.stage(f"rates_learned_{rate:g}")
            part = progress.part(number, number + 1, config.rates.steps)
            measure = functools.partial(loss_after, trainer, config, rate, stage, part)
            learned.append(float(stored(stage.root / "loss.json", measure)))
            progress.update(number + 1)
    found["learned"] = np.array(learned)
    return {start: dict(zip(grid, losses.tolist(), strict=True)) for start, losses in found.items()}


def _choosing_seconds(config: Config) -> float:
    """Of choosing the rates, and of compiling what all conditions run."""
    count = len(config.rates.grid) if len(config.rates.grid) > 1 else 0
    share = count * config.rates.steps / config.training.steps
    return _COMPILING + share * training_flops(config) / (1e9 * RATES["lstm"])


def _expected_seconds(config: Config, condition: Condition) -> tuple[float, float]:
    """Of meta-training and of adaptation, compiling left out."""
    per_second = 1e9 * RATES["lstm"]
    training = 0.0 if condition == BASELINE else training_flops(config)
    return training / per_second, adaptation_flops(config, condition) / per_second


def _scores(
    config: Config,
    trainer: Trainer,
    learners: Learners,
    condition: Condition,
    rate: float,
    stage: RunPaths,
    progress: Progress,
    between: np.ndarray,
) -> np.ndarray:
    """[strings, metrics, sources, seeds, targets], kept in the stage; of one "source" where nothing is learned."""
    begin, middle, end = between
    sources = 1 if condition == BASELINE else len(config.sources)

    def measure() -> np.ndarray:
        if condition == BASELINE:
            meta = jax.tree.map(lambda x: x[: config.seeds], first_meta(config))
        else:
            part = progress.part(begin, middle, config.training.steps)
            state = trainer(condition, rate, stage, part)
            (stage.root / "skipped").write_text(str(int(np.sum(state.skipped))))
            meta = state.meta
        part = progress.part(middle, end, sources * len(config.targets.strings))
        with part:
            return learners.scores(condition, rate, meta, sources, part.update)

    path = stage.root / "scores.json"
    if path.exists():
        with progress.part(begin, end, 1):
            pass
    return stored(path, measure)


def _skipped(stage: RunPaths) -> int:
    path = stage.root / "skipped"
    return int(path.read_text()) if path.exists() else 0


def main(config: Config, workdir: pathlib.Path, dry_run: bool) -> None:
    """What the command line runs."""
    if dry_run:
        print(describe(config))
        return
    print(f"devices: {', '.join(map(str, jax.devices()))}")
    run(config, workdir)
