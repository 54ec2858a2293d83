"""Runs an experiment on what meta-training leaves in a network, or all of them in one run directory."""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.formal_languages.lab import cost, report
from experiments.formal_languages.lab.adaptation import Targets, measured, tasks
from experiments.formal_languages.lab.conditions import SCORED, Network, conditions_of, networks
from experiments.formal_languages.lab.config import PRESETS, LabConfig
from experiments.formal_languages.lab.inside import look_inside
from experiments.formal_languages.lab.page import Run, write_page
from experiments.formal_languages.lab.records import METRICS, Record, Scores, write_scores
from experiments.formal_languages.lab.report_inside import inside
from experiments.formal_languages.lab.training import Group, Sources, Trainer, groups, random_weights
from metalearn.run import Progress, RunDirectory, Stages
from metalearn.run.claims import table as claims_table
from metalearn.run.config import fields, to_json

TITLES = {
    "simplicity": "Meta-training on simple or on complex languages (E1)",
    "mechanisms": "Meta-training on one language: which of nine, for which targets (E2, E3)",
    "architectures": "The same in networks that can count, and in others (E4)",
    "one_or_many": "One language against pools of languages (E5)",
    "estimators": "Is meta-learning needed? Second order, first order, Reptile, plain pre-training",
    "frozen": "Recurrent weights that stand still while a network adapts",
    "inside": "Counters inside the networks: probes, causal tests, long strings",
    "everything": 'All of these but "distilled" in one run, sharing networks',
}


def run(name: str, config: LabConfig, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs the experiment, or goes on with it, and returns what `result.json` holds."""
    with RunDirectory.open(workdir, {"experiment": name} | json.loads(to_json(config))) as paths:
        if paths.finished:
            print(f"{paths.root} is finished; nothing to do. See {paths.root / 'results.md'}")
            return paths.load_result()
        conditions = conditions_of(config, name)
        looks, scored = name in ("inside", "everything"), [n for n in SCORED if name in (n, "everything")]
        stages = Stages("pools of languages", "training", "adaptation and scores", "inside", "figures and page")
        sources, targets = Sources(config), Targets(config)
        with stages.stage("pools of languages"):
            biased = {c.source: sources.describe(c.source) for c in conditions if ":" in c.source}
            for source, about in biased.items():
                print(
                    f"{source}: {about['languages']} languages, as varied as {about['effective_languages']:.0f} drawn "
                    f"evenly, of {about['description_length']:.1f} nats on average"
                )
        trainings, adaptations = groups(config, networks(conditions)), tasks(config, conditions) if scored else []
        expected = [cost.training_seconds(config, group) for group in trainings]
        expected += [cost.adaptation_seconds(config, task) for task in adaptations]
        ends = np.cumsum([0.0, *expected])
        with Progress(max(round(ends[-1]), 1), f"{name} (in expected seconds)") as progress:
            with stages.stage("training"):
                weights, skipped = _trained(config, paths, sources, trainings, progress, ends)
                weights |= {
                    n: random_weights(config, n.architecture) for n in networks(conditions) if n.source == "none"
                }
            with stages.stage("adaptation and scores"):
                records: list[Record] = []
                for number, task in enumerate(adaptations, len(trainings)):
                    learners = len(task.conditions) * config.seeds * len(config.targets.languages)
                    part = progress.part(ends[number], ends[number + 1], learners)
                    with part:
                        records += measured(config, paths, targets, weights, task, part.update)
        with stages.stage("inside"):
            found = look_inside(config, targets, weights) if looks else None
        with stages.stage("figures and page"):
            sections = []
            if scored:
                write_scores(paths.root / "scores.csv", records)
                scores = Scores(records)
                sections += [report.EXPERIMENTS[each](scores) for each in scored]
            if found is not None:
                sections.append(inside(found))
            minutes = {stage: seconds / 60 for stage, seconds in stages.seconds.items()}
            write_page(paths, Run(TITLES[name], _command(name, config), _sizes(config), minutes), sections)
        result = {
            "experiments": {s.name: {"found": s.paragraph, "claims": list(s.verdicts)} for s in sections},
            "scores": _means(records),
            "pools": biased,
            "skipped_steps": skipped,
        }
        paths.finish(result)
        for section in sections:
            print(f"\n{section.title}\n{section.paragraph}")
            print(f"\n{claims_table(section.verdicts)}")
        print(stages.summary())
        print(f"page: {paths.root / 'results.md'}\nfigures: {paths.figures}\nresult: {paths.result}")
        return paths.load_result()


def _trained(
    config: LabConfig,
    paths: RunDirectory,
    sources: Sources,
    trainings: Sequence[Group],
    progress: Progress,
    ends: np.ndarray,
) -> tuple[dict[Network, Any], dict[str, int]]:
    """Weights of all networks that are trained, and the outer steps each skipped for lack of a finite meta-gradient."""
    trainer = Trainer(config, sources)
    rows: dict[Any, list[Any]] = {}
    skipped: dict[str, int] = {}
    for number, group in enumerate(trainings):
        part = progress.part(ends[number], ends[number + 1], config.training.steps)
        progress.message(f"training {number + 1}/{len(trainings)}: {group.name}, {', '.join(group.sources)}")
        states = trainer(group, paths.stage(group.name), part)
        for place, (network, seed) in enumerate(group.members):
            rows.setdefault(network, []).append(jax.tree.map(lambda x, place=place: x[place], states.meta))
            skipped["/".join([*network, str(seed)])] = int(states.skipped[place])
    weights = {network: jax.tree.map(lambda *x: np.stack(x), *each) for network, each in rows.items()}
    return weights, {name: count for name, count in skipped.items() if count}


def _command(name: str, config: LabConfig) -> str:
    """The command that runs this again: the preset that is nearest, and the fields in which the config differs."""
    value = lambda config, field: functools.reduce(getattr, field.split("."), config)
    changed = {
        preset: [f.name for f in fields(LabConfig) if value(config, f.name) != value(base, f.name)]
        for preset, base in PRESETS.items()
    }
    nearest = min(changed, key=lambda preset: len(changed[preset]))
    flags = [f"--config.{field}={_as_flag(value(config, field))}" for field in changed[nearest]]
    return " ".join([f"python -m experiments.formal_languages --experiment={name} --preset={nearest}", *flags])


def _as_flag(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _sizes(config: LabConfig) -> dict[str, str]:
    model, training = config.model, config.training
    return {
        "network": f"{model.units} units, {model.layers} layers",
        "meta-training": f"{training.steps:,} outer steps of {training.tasks} episodes",
        "targets": ", ".join(config.targets.languages),
        "strings (N)": ", ".join(map(str, config.targets.strings)),
        "seeds": str(config.seeds),
    }


def _means(records: Sequence[Record]) -> dict[str, Any]:
    """Mean scores over seeds and targets, the language of meta-training left out, by condition, N and metric."""
    found: dict[str, Any] = {}
    for row in records:
        if row.source != row.target:
            name = "/".join([*row[:3], *(["frozen"] if row.frozen else [])])
            found.setdefault(name, {}).setdefault(str(row.strings), []).append([getattr(row, m) for m in METRICS])
    mean = lambda rows: dict(zip(METRICS, np.nanmean(rows, axis=0).tolist(), strict=True))
    return {name: {n: mean(rows) for n, rows in by_size.items()} for name, by_size in found.items()}


def main(name: str, config: LabConfig, workdir: pathlib.Path, dry_run: bool) -> None:
    """What the command line runs."""
    if dry_run:
        print(cost.describe(name, config))
        return
    print(f"devices: {', '.join(map(str, jax.devices()))}")
    run(name, config, workdir)
