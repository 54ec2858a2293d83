"""The control that maximises value over a learning trajectory (Carrasco-Davis, Masis & Saxe 2024).

Follows learning without control, finds the control of greatest value, shows what it does and what it saves, checks it
on learning from samples, and says which of the paper's claims hold.

    python -m experiments.learning_effort --experiment=single_neuron
    python -m experiments.learning_effort --experiment=gain_gaussians --preset=paper --dry_run
"""

import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.learning_effort import panels, studies
from experiments.learning_effort.cost import describe
from experiments.learning_effort.experiments import EXPERIMENTS
from metalearn.run import Experiment as Launchable
from metalearn.run import RunDirectory, Stages, launch_one_of
from metalearn.run.claims import table as claims_table
from metalearn.run.config import to_json


def run(name: str, settings: Any, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs an experiment, or goes on with it, and returns what `result.json` holds."""
    experiment = EXPERIMENTS[name]
    with RunDirectory.open(workdir, {"experiment": name} | json.loads(to_json(settings))) as paths:
        if paths.finished:
            print(f"{paths.root} is finished; nothing to do. Its result:")
            print(json.dumps(paths.load_result()["value"], indent=2))
            return paths.load_result()
        stages = Stages("baseline and best control", "learning from samples", "figure")
        with stages.stage("baseline and best control"):
            outcome = studies.solve(experiment, settings, paths)
        with stages.stage("learning from samples"):
            outcome = outcome._replace(validation=studies.validate(experiment, settings, paths))
        with stages.stage("figure"):
            panels.draw(paths, name, experiment, outcome)
        verdicts = studies.verdicts(experiment, outcome)
        result = {
            "data": outcome.data,
            "points": outcome.points,
            "value": {"control": outcome.control.value, "baseline": outcome.baseline.value},
            "final_loss": {"control": outcome.control.loss[:, -1], "baseline": outcome.baseline.loss[:, -1]},
            "residual": outcome.residual,
            "iterations": outcome.iterations,
            "from_samples": _from_samples(outcome),
            "numbers": experiment.numbers(outcome),
            "claims": verdicts,
        }
        paths.finish(result)
        print(_summary(experiment.title, outcome))
        print(claims_table(verdicts))
        print(f"figure: {paths.figure(name)}\nresult: {paths.result}")
        return paths.load_result()


def _from_samples(outcome: studies.Outcome) -> dict[str, Any] | None:
    """How far the mean loss of learning from samples is from the averaged equations, and the mean loss over time."""
    found = outcome.validation
    if found is None:
        return None
    averaged = {which: getattr(outcome, which).loss[0, found.steps] for which in ("control", "baseline")}
    losses = {which: getattr(found, which) for which in averaged}
    return {
        "runs": len(found.control),
        "largest_gap": {which: np.abs(losses[which].mean(0) - averaged[which]).max() for which in averaged},
        "mean_loss": {which: losses[which].mean() for which in averaged},
    }


def _summary(title: str, outcome: studies.Outcome) -> str:
    values = {which: getattr(outcome, which).value for which in ("baseline", "control")}
    means = ", ".join(f"{which} {value.mean():.6g}" for which, value in values.items())
    means += " (only control is charged its cost)"
    searched = f"at most {outcome.iterations.max()} iterations, residual at most {outcome.residual.max():.2g}"
    count = len(outcome.residual)
    solved = "1 optimisation" if count == 1 else f"{count} optimisations (initial weights and points of a sweep)"
    return f"{title} ({outcome.data}): {solved}\nV{' on average' if count > 1 else ''}: {means}\nsearch: {searched}\n"


def main(name: str, settings: Any, workdir: pathlib.Path, dry_run: bool) -> None:
    """What the command line runs."""
    if dry_run:
        print(describe(EXPERIMENTS[name], settings))
        return
    print(f"devices: {', '.join(map(str, jax.devices()))}")
    run(name, settings, workdir)


if __name__ == "__main__":
    launch_one_of(
        {
            name: Launchable(experiment.presets, functools.partial(main, name), experiment.title)
            for name, experiment in EXPERIMENTS.items()
        },
        __doc__,
        default_preset="laptop",
    )
