"""What a comparison says: its numbers, the table, the figure, and verdicts on the papers' claims."""

import csv
import functools
import importlib.resources
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.few_shot.config import UNTRAINED, Config
from experiments.few_shot.outcomes import COLUMNS, Outcomes, as_text, at_equal_seconds, columns_of, interval
from metalearn.run import PALETTE, Claim, RunPaths, Verdict, figure, judge

_SHOWN = {"algorithm": ""} | COLUMNS  # on a terminal; table.csv has all columns

# Papers whose algorithm is to do better than MAML.
_BETTER_THAN_MAML = {
    "proto_maml": "Triantafillou et al. 2020",
    "unicorn_maml": "Ye & Chao 2022",
    "boil": "Oh et al. 2021",
    "l2f": "Baik et al. 2020, L2F",
    "meta_sgd": "Li et al. 2017",
    "maml_plus_plus": "Antoniou et al. 2019",
    "meta_curvature": "Park & Oliva 2019",
    "alfa": "Baik et al. 2020, ALFA",
    "gap": "Kang et al. 2023",
    "t_net": "Lee & Choi 2018",
    "mt_net": "Lee & Choi 2018",
    "warp_grad": "Flennerhag et al. 2020",
    "metal": "Baik et al. 2021",
}


def stage_of(paths: RunPaths, name: str, seed: int) -> RunPaths:
    """Where one training lies."""
    return paths.stage(f"{name}_{seed}")


@functools.cache
def published() -> dict[tuple[str, int, str, str], str]:
    """Accuracies that papers report for 5 ways, in %: (dataset, shots, encoder, algorithm) -> "48.70 ± 1.84"."""
    text = importlib.resources.files("experiments.few_shot").joinpath("published.csv").read_text(encoding="utf-8")
    return {
        (row["dataset"], int(row["shots"]), row["encoder"], row["algorithm"]): row["accuracy"]
        + (f" ± {row['interval']}" if row["interval"] else "")
        for row in csv.DictReader(text.splitlines())
    }


def published_for(config: Config, name: str) -> str:
    """What was published for `name` on the data of this configuration; empty where nothing was."""
    if config.episodes.ways != 5:
        return ""
    return published().get((config.dataset, config.episodes.shots, config.encoder.name, name), "")


def result(config: Config, outcomes: Outcomes, verdicts: list[Verdict]) -> dict[str, Any]:
    """The content of result.json: nothing that depends on the clock or the device's memory."""
    return {
        "dataset": config.dataset,
        "ways": config.episodes.ways,
        "shots": config.episodes.shots,
        "encoder": f"{config.encoder.name}, {config.encoder.filters} filters",
        "normalisation": config.normalisation,
        "test_episodes": config.test_episodes,
        "algorithms": {
            name: {
                "normalisation": config.normalisation,
                "accuracy": of.by_episode.mean(),
                "interval": interval(of.by_episode),
                "by_seed": of.by_seed,
                "intervals_by_seed": [interval(row) for row in of.accuracy[..., -1]],
                "after_updates": of.accuracy.mean((0, 1)),
                "updates": of.updates,
                "training_episodes": 0 if name in UNTRAINED else config.training.steps * config.training.tasks,
                "validation": {"outer_steps": of.steps, "accuracy": of.validated},
                "recipe": of.recipe._asdict(),
                "meta_parameters": of.meta_parameters,
                "adapted_parameters": of.adapted_parameters,
            }
            for name, of in outcomes.items()
        },
        "claims": verdicts,
    }


def rows(config: Config, outcomes: Outcomes) -> list[dict[str, Any]]:
    """The table, a row for each algorithm, the most accurate first; accuracies in %."""
    equal = at_equal_seconds(outcomes)
    table = []
    for name, of in sorted(outcomes.items(), key=lambda item: -item[1].by_episode.mean()):
        table.append(
            {
                "algorithm": name,
                "normalisation": config.normalisation,
                **columns_of(of, published_for(config, name), equal[name]),
                "outer_rate": of.recipe.outer_rate,
                "outer_steps": 0 if name in UNTRAINED else config.training.steps,
                "tasks": config.training.tasks,
                "seeds": config.seeds,
                "test_episodes": config.test_episodes,
            }
        )
    return table


def summary(config: Config, table: list[dict[str, Any]]) -> str:
    """The table for a terminal."""
    about = (
        f"{_about(config)}; {config.test_episodes} test episodes. Accuracies in %, intervals 1.96 s / sqrt(n); seconds "
        f"of an outer step of {config.training.tasks} tasks; at_equal_seconds: in validation, when the fastest was done"
    )
    return f"{about}\n{as_text(table, _SHOWN)}"


def _about(config: Config) -> str:
    sizes = config.episodes
    return (
        f"{config.dataset}, {sizes.ways}-way {sizes.shots}-shot, {config.encoder.name} with {config.encoder.filters} "
        f"filters, {config.normalisation} normalisation, {config.seeds} seed{'s' * (config.seeds > 1)}"
    )


def draw(paths: RunPaths, config: Config, outcomes: Outcomes) -> None:
    """The figure: test accuracies, accuracy by inner update, and validation accuracy by episodes and by seconds."""
    order = sorted(outcomes, key=lambda name: outcomes[name].by_episode.mean())
    colours = list(PALETTE.values())
    style = {
        name: {"color": colours[i % len(colours)], "linestyle": ("-", "--", ":")[i // len(colours)]}
        for i, name in enumerate(outcomes)
    }
    height = max(3.4, 1.2 + 0.22 * len(order))
    with figure(paths.figure("comparison"), rows=2, columns=2, size=(5.4, height)) as axes:
        (test, by_update), (by_episodes, by_seconds) = axes
        for place, name in enumerate(order):
            of = outcomes[name]
            mean, half = of.by_episode.mean(), interval(of.by_episode)
            test.errorbar(100 * mean, place, xerr=100 * half, marker="o", capsize=3, color=style[name]["color"])
            if value := published_for(config, name):
                test.plot(float(value.split()[0]), place, marker="D", markerfacecolor="none", color="black")
        test.set_yticks(range(len(order)), order)
        known = any(published_for(config, name) for name in order)
        title = "Test (open diamonds: published)" if known else "Test"
        test.set(xlabel="test accuracy (%), bars: 95 %", title=title)
        tasks = config.training.tasks
        for name, of in outcomes.items():
            by_update.plot(100 * of.accuracy.mean((0, 1)), marker=".", label=name, **style[name])
            if len(of.steps):
                curve = 100 * of.validated.mean(0)
                by_episodes.plot(of.steps * tasks, curve, label=name, **style[name])
                by_seconds.plot(of.steps * of.seconds, curve, label=name, **style[name])
        by_update.xaxis.get_major_locator().set_params(integer=True)
        test.set_ylim(-0.5, len(order) - 0.5)
        by_update.set(xlabel="inner updates", ylabel="test accuracy (%)", title="During adaptation")
        by_episodes.set(xlabel="training episodes", ylabel="validation accuracy (%)", title="At equal episodes")
        by_seconds.set(xlabel="training seconds", ylabel="validation accuracy (%)", title="At equal seconds")
        by_seconds.set_xscale("log")
        by_seconds.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        by_seconds.xaxis.set_major_formatter("{x:g}")
        by_seconds.xaxis.set_minor_formatter(NullFormatter())  # its labels would overlap
        by_seconds.figure.legend(
            *by_update.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(6, len(order)),
            fontsize=8,
            handlelength=4,  # dashes need it to be seen
        )
        by_seconds.figure.suptitle(_about(config), fontsize=10)


def verdicts(config: Config, outcomes: Outcomes) -> list[Verdict]:
    """The claims of the papers that this comparison can contradict.

    With several seeds these are the independent samples; with one, the test episodes, and a verdict is about the
    networks that were trained.
    """
    several = config.seeds > 1
    of = {name: found.by_seed if several else found.by_episode for name, found in outcomes.items()}
    samples = "mean over seeds" if several else "mean over test episodes of one seed"
    found = []
    if "maml" in of and (config.dataset, config.episodes.ways, config.episodes.shots) == ("omniglot", 5, 1):
        claim = Claim(
            "MAML reaches 95 % on 5-way 1-shot Omniglot",
            "Finn et al. 2017, table 1 (98.7 ± 0.4 %)",
            f"test accuracy, {samples}",
            above=0.95,
        )
        found.append(judge(claim, of["maml"]))
    pairs = [
        ("maml", "fomaml", "Finn et al. 2017, table 1", 0.0, np.inf, "is more accurate than"),
        ("anil", "maml", "Raghu et al. 2020", -0.02, 0.02, "is within two points of"),
        *((name, "maml", source, 0.0, np.inf, "is more accurate than") for name, source in _BETTER_THAN_MAML.items()),
    ]
    for one, other, source, above, below, relation in pairs:
        if one in of and other in of:
            statistic = f"difference of test accuracies, paired, {samples}"
            claim = Claim(f"{one} {relation} {other}", source, statistic, above=above, below=below)
            found.append(judge(claim, of[one] - of[other]))
    return found
