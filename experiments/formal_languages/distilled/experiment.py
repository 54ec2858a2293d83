"""An LSTM meta-trained on formal languages learns real ones from few strings (McCoy & Griffiths 2025).

Meta-trains networks on languages drawn from a metagrammar, pre-trains others on the same strings, lets both and random
networks learn 56 languages from N strings each, and scores what they learned. Draws the F-score by N beside the
published one, writes a table by language, and says which of the paper's claims hold at this size.
"""

import functools
import itertools
import json
import pathlib
from typing import Any

import jax

from experiments.formal_languages.distilled import report
from experiments.formal_languages.distilled.config import Config
from experiments.formal_languages.distilled.cost import describe
from experiments.formal_languages.distilled.evaluation import LEARNERS, MEMORISATION, Evaluation, Scores, stored
from experiments.formal_languages.distilled.training import Trainer, initial_weights
from metalearn.run import Progress, RunDirectory, Stages
from metalearn.run.claims import table as claims_table


def run(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs the experiment, or goes on with it, and returns what `result.json` holds."""
    with RunDirectory.open(workdir, config) as paths:
        if paths.finished:
            print(f"{paths.root} is finished; nothing to do. Its result:")
            print(json.dumps(paths.load_result()["f_score"], indent=2))
            return paths.load_result()
        evaluation = Evaluation(config)
        stages = Stages("meta-training", "pre-training", "adaptation and scores", "figures")
        trainer = Trainer(config)
        weights: dict[str, list[Any]] = {"standard": [initial_weights(config, s) for s in range(config.seeds)]}
        for stage, learner in (("meta-training", "meta-trained"), ("pre-training", "pre-trained")):
            with stages.stage(stage):
                weights[learner] = [
                    trainer(learner, seed, paths.stage(f"{learner}_{seed}")) for seed in range(config.seeds)
                ]
        with stages.stage("adaptation and scores"):
            results = _scores(config, paths, evaluation, weights)
        with stages.stage("figures"):
            report.draw(paths, config, results)
            report.write_table(paths, config, results)
        verdicts = report.verdicts(config, results)
        result = {
            "f_score": {
                learner: {
                    str(n): report.by_seed(results, learner, n, "f_score").tolist() for n in config.evaluation.strings
                }
                for learner in (*LEARNERS, MEMORISATION)
            },
            "claims": verdicts,
            "searches_incomplete": sum(
                int((scores["complete"] == 0).sum()) for scores in results.values() if "complete" in scores
            ),
        }
        paths.finish(result)
        print(report.summary(config, results))
        print(claims_table(verdicts))
        print(f"figures: {paths.figures}\nper language: {paths.root / 'per_language.csv'}\nresult: {paths.result}")
        return paths.load_result()


def _scores(
    config: Config, paths: RunDirectory, evaluation: Evaluation, weights: dict[str, list[Any]]
) -> dict[tuple[str, int], Scores]:
    pairs = config.seeds * len(config.languages)
    results: dict[tuple[str, int], Scores] = {}
    total = pairs * len(LEARNERS) * len(config.evaluation.strings)
    with Progress(total, "networks adapted and scored") as progress:
        for number, (n, learner) in enumerate(itertools.product(config.evaluation.strings, LEARNERS)):
            report_done = lambda adapted, before=number * pairs, n=n: progress.update(before + adapted, N=n)
            compute = functools.partial(evaluation, learner, weights[learner], n, report_done)
            results[learner, n] = stored(paths, f"{learner}_{n}", compute)
            report_done(pairs)
    for n in config.evaluation.strings:
        results[MEMORISATION, n] = stored(paths, f"{MEMORISATION}_{n}", functools.partial(evaluation.memorisation, n))
    return results


def main(config: Config, workdir: pathlib.Path, dry_run: bool) -> None:
    """What the command line runs."""
    if dry_run:
        print(describe(config))
        return
    print(f"devices: {', '.join(map(str, jax.devices()))}")
    run(config, workdir)
