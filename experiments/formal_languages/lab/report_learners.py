"""How networks are made and taught: architectures, estimators of the meta-gradient, frozen recurrent weights."""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.formal_languages.lab import published
from experiments.formal_languages.lab.contrasts import (
    MARGIN,
    METRIC,
    OURS,
    REPORTED,
    at_few,
    few,
    mean_of,
    more,
    same,
)
from experiments.formal_languages.lab.drawings import COLOURS, INTERVAL, PUBLISHED, bars, finish
from experiments.formal_languages.lab.records import METRICS, NAMES, Metric, Scores
from experiments.formal_languages.lab.sections import Drawing, Section, judged_by, named, score_table, section, size
from metalearn.languages.nine import NINE
from metalearn.run import figure

PREDICTION = f"{REPORTED}, prediction 2b"
COUNTING = "Weiss, Goldberg & Yahav 2018, by way of Goodale et al. 2025"
SHOWN = {  # what architectures are meta-trained on, where they are
    "An": COLOURS[4],
    "AnBnCn": COLOURS[0],
    "XXR": COLOURS[3],
    "XX": COLOURS[2],
}
TRAININGS = {
    "exact": "exact (MAML)",
    "first_order": "first order",
    "displacement": "displacement (Reptile)",
    "pre_trained": "plain pre-training",
}


def architectures(scores: Scores) -> Section:
    """Does the benefit of a counting language vanish in networks that cannot count?"""
    names = tuple(name for name in NAMES if scores.has("none", architecture=name))
    table = lambda name, source: at_few(scores, source, architecture=name)
    gain = {(name, source): table(name, source) - table(name, "none") for name in NAMES for source in SHOWN}
    compared = []
    for name in names:
        extra, on_counters = table(name, "AnBnCn") - table(name, "An"), f"{NAMES[name]}s meta-trained on AnBnCn"
        on_plain = f"{NAMES[name]}s meta-trained on An"
        if name in ("lstm", "relu"):
            statement = f"The {NAMES[name]}, which can count, gains more from AnBnCn than from An"
            compared += more(on_counters, on_plain, extra, statement, COUNTING)
        if name in ("gru", "elman", "clipped_lstm"):
            statement = f"The {NAMES[name]}, which cannot count, gains nothing extra from AnBnCn"
            compared += same(on_counters, on_plain, extra, statement, PREDICTION if name == "gru" else COUNTING)
    compared += same(
        "GRUs meta-trained on AnBnCn",
        "GRUs that were not meta-trained",
        gain["gru", "AnBnCn"],
        "The GRU gains nothing from AnBnCn",
        REPORTED,
    )
    for one, other, source, whose in (
        ("lstm", "gru", "AnBnCn", PREDICTION),
        ("lstm", "clipped_lstm", "AnBnCn", OURS),
        ("stack", "lstm", "XXR", OURS),
        ("queue", "lstm", "XX", OURS),
    ):
        compared += more(
            f"in their gain from {source}, {NAMES[one]}s",
            f"{NAMES[other]}s in theirs",
            gain[one, source] - gain[other, source],
            f"The {NAMES[one]} gains more from {source} than the {NAMES[other]}",
            whose,
            what="difference of gains in F1",
        )
    conditions = {
        f"{NAMES[name]}, {named(source)}": {"source": source, "architecture": name}
        for name in names
        for source in ("none", *SHOWN)
        if scores.has(source, architecture=name)
    }
    return section(
        "architectures",
        "Do only networks that can count gain from counting?",
        f"Gain: over networks of the same architecture that were not meta-trained ({size(scores)}, own language left "
        f"out; {judged_by(scores)}).",
        compared,
        {
            "architectures": Drawing(
                "Gain from meta-training, over networks of the same architecture without it.",
                functools.partial(_draw_architectures, scores, names),
            )
        },
        score_table(scores, conditions),
    )


def estimators(scores: Scores) -> Section:
    """Is MAML needed to transfer a mechanism?"""
    taught = tuple(name for name in NINE if scores.has(name, training="pre_trained"))
    of = {training: mean_of(at_few(scores, name, training=training) for name in NINE) for training in TRAININGS}
    none = at_few(scores, "none")
    on = " and ".join(taught)
    compared = more(
        f"networks meta-trained on {on} by MAML",
        f"those that were trained on {'it' if len(taught) == 1 else 'one of them'} as usual",
        of["exact"] - of["pre_trained"],
        f"Plain pre-training on {on} does not do what MAML does",
        OURS,
    )
    compared += more(
        "networks trained as usual",
        "networks that were not trained",
        of["pre_trained"] - none,
        f"Plain pre-training on {on} helps",
        OURS,
    )
    compared += same(
        "networks meta-trained by first-order",
        "those by exact meta-gradients",
        of["first_order"] - of["exact"],
        "First-order meta-gradients do as well as exact ones",
        OURS,
    )
    compared += more(
        "networks meta-trained by exact meta-gradients",
        "those by Reptile",
        of["exact"] - of["displacement"],
        "Exact meta-gradients do better than Reptile",
        OURS,
    )
    conditions = {"no meta-training": {"source": "none"}} | {
        f"{name}, {words}": {"source": name, "training": training}
        for name in taught
        for training, words in TRAININGS.items()
    }
    return section(
        "estimators",
        "Is MAML needed to transfer a mechanism?",
        f"Meta-gradients and plain pre-training on the same single languages, {on} ({size(scores)}, own language left "
        f"out; {judged_by(scores)}).",
        compared,
        {
            "estimators": Drawing(
                "Gain over networks that were not meta-trained, by what was learned from the same strings.",
                functools.partial(_draw_estimators, scores, taught),
            )
        },
        score_table(scores, conditions),
    )


def frozen(scores: Scores) -> Section:
    """Does what was learned survive if recurrent weights do not move?"""
    sources = ("none", *(source for source in NINE if scores.has(source, frozen=True)))
    free = {source: at_few(scores, source) for source in ("none", *NINE)}
    still = {source: at_few(scores, source, frozen=True) for source in ("none", *NINE)}
    stay = "networks whose recurrent weights stay"
    compared = more(
        f"{stay} as AnBnCn made them",
        f"{stay} random",
        still["AnBnCn"] - still["none"],
        "What AnBnCn leaves in the recurrent weights is used as it is",
        OURS,
    )
    compared += more(
        f"{stay} as AnBnCn made them",
        "those whose stay as An made them",
        still["AnBnCn"] - still["An"],
        "Frozen, a counting language still helps more than one without counters",
        OURS,
    )
    compared += more(
        "networks meta-trained on AnBnCn with frozen recurrent weights",
        "the same with all weights free",
        still["AnBnCn"] - free["AnBnCn"],
        "The mechanism survives frozen recurrent weights",
        OURS,
        above=-MARGIN,
    )
    compared += more(
        "in what freezing does to them, networks meta-trained on AnBnCn",
        "networks that were not meta-trained",
        (still["AnBnCn"] - free["AnBnCn"]) - (still["none"] - free["none"]),
        "Freezing costs networks less that were meta-trained on AnBnCn",
        OURS,
        what="difference of differences of F1",
    )
    conditions = {
        f"{named(source)}, {'frozen' if held else 'free'}": {"source": source, "frozen": held}
        for source in sources
        for held in (False, True)
    }
    return section(
        "frozen",
        "Does the mechanism survive frozen recurrent weights?",
        f"Only embeddings and the output learn, or all weights ({size(scores)}, own language left out; "
        f"{judged_by(scores)}).",
        compared,
        {
            "frozen": Drawing(
                "Networks adapted with all weights, and with recurrent weights that stand still.",
                functools.partial(_draw_frozen, scores, sources),
            )
        },
        score_table(scores, conditions),
    )


def _draw_architectures(scores: Scores, names: Sequence[str], path: pathlib.Path) -> None:
    with figure(path, rows=2, size=(max(6.5, 1.3 * len(names)), 3.5)) as axes:
        for place, metric in zip(axes[:, 0], (METRIC, "continuation"), strict=True):
            of = functools.partial(_of, scores, metric)
            without = {name: float(np.nanmean(of("none", architecture=name))) for name in names}
            groups = {name: "\n".join([*NAMES[name].split(), f"({without[name]:.2f})"]) for name in names}
            series = {
                f"meta-trained on {source}": {
                    groups[name]: of(source, architecture=name) - of("none", architecture=name)
                    for name in names
                    if scores.has(source, architecture=name)
                }
                for source in SHOWN
                if any(scores.has(source, architecture=name) for name in names)
            }
            stands = bars(place, list(groups.values()), series, [SHOWN[label.split()[-1]] for label in series])
            place.set(ylabel="gain in F1", title=f"F1 {METRICS[metric]} (in brackets: without meta-training)")
        reported = {"lstm": published.F1, "gru": published.GRU}
        points = [
            (stands[f"meta-trained on {source}", groups[name]], reported[name][source] - reported[name]["none"])
            for name in reported
            for source in ("An", "AnBnCn")
            if source in reported[name] and (f"meta-trained on {source}", groups.get(name)) in stands
        ]
        if points:
            axes[1, 0].plot(*zip(*points, strict=True), label="published°", **PUBLISHED)
        finish(
            axes[1, 0],
            "Gain from meta-training on one language by architecture, "
            f"N = {few(scores)}, {size(scores)}, own language left out",
            f"{INTERVAL}; dots: seeds\n° {published.SOURCE}",
        )


def _draw_estimators(scores: Scores, taught: Sequence[str], path: pathlib.Path) -> None:
    with figure(path, columns=2, size=(5.4, 3.8)) as axes:
        for place, metric in zip(axes[0], (METRIC, "continuation"), strict=True):
            of = functools.partial(_of, scores, metric)
            series = {
                words: {name: of(name, training=training) - of("none") for name in taught}
                for training, words in TRAININGS.items()
            }
            bars(place, taught, series)
            place.set(xlabel="source", title=f"F1 {METRICS[metric]} ({np.nanmean(of('none')):.2f} without)")
        axes[0, 0].set_ylabel("gain in F1")
        finish(
            axes[0, 0],
            "Gain over no meta-training by how one language was learned, "
            f"N = {few(scores)}, {size(scores)}, own language left out",
            f"{INTERVAL}; dots: seeds",
        )


def _draw_frozen(scores: Scores, sources: Sequence[str], path: pathlib.Path) -> None:
    with figure(path, columns=2, size=(max(5.4, 1.1 * len(sources)), 3.8)) as axes:
        for place, metric in zip(axes[0], (METRIC, "continuation"), strict=True):
            of = functools.partial(_of, scores, metric)
            series: Mapping[str, Mapping[str, np.ndarray]] = {
                "all weights adapt": {named(source): of(source) for source in sources},
                "recurrent weights frozen": {named(source): of(source, frozen=True) for source in sources},
            }
            bars(place, [named(source) for source in sources], series, [COLOURS[0], COLOURS[1]])
            place.set(xlabel="meta-trained on", title=f"F1 {METRICS[metric]}", ylim=(0, 1))
        axes[0, 0].set_ylabel("continuation F1")
        finish(
            axes[0, 0],
            f"F1 with free and with frozen recurrent weights, N = {few(scores)}, {size(scores)}, own language left out",
            f"{INTERVAL}; dots: seeds",
        )


def _of(scores: Scores, metric: Metric, source: str, **condition) -> np.ndarray:
    return scores.table(source, strings=few(scores), metric=metric, **condition)
