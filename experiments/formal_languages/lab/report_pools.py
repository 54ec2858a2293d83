"""Pools of languages by description length: does their bias matter, and can one language do as much?"""

import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.formal_languages.lab import published
from experiments.formal_languages.lab.contrasts import (
    ABSTRACT,
    MARGIN,
    METRIC,
    REPORTED,
    at_few,
    few,
    mean_of,
    more,
    same,
)
from experiments.formal_languages.lab.drawings import (
    CLASS_COLOURS,
    COLOURS,
    INTERVAL,
    NOTHING,
    PUBLISHED,
    bars,
    by_strings,
    finish,
    marks,
    nothing_line,
)
from experiments.formal_languages.lab.records import BIASES, CLASSES, FAMILIES, METRICS, POOLS, Scores, of_class
from experiments.formal_languages.lab.sections import (
    Drawing,
    Section,
    judged_by,
    named,
    score_table,
    section,
    size,
)
from metalearn.languages.nine import NINE
from metalearn.run import figure

VIEW = "simplicity view of Goodale et al. 2025, prediction"


def simplicity(scores: Scores) -> Section:
    """Does a bias to simple languages help later learning?"""
    none = at_few(scores, "none")
    compared = []
    for family, words in FAMILIES.items():
        of = {bias: at_few(scores, pool) for bias, pool in zip(BIASES, POOLS[family], strict=True)}
        pools = {bias: f"pools of {words} biased to {bias} languages" for bias in ("simple", "complex")}
        pools["uniform"] = f"uniform pools of {words}"
        compared += more(
            pools["simple"],
            "no meta-training",
            of["simple"] - none,
            f"{words}: a bias to simple languages helps later learning",
            f"{VIEW} 1a",
        )
        compared += more(
            pools["simple"],
            "those biased to complex ones",
            of["simple"] - of["complex"],
            f"{words}: without a bias to simple languages there is less help",
            f"{VIEW} 1b, which the paper contests",
        )
        for one, other in itertools.combinations(BIASES, 2):
            statement = f"{words}: {one} and {other} pools do not differ"
            compared += same(pools[one], pools[other], of[one] - of[other], statement, ABSTRACT)
    return section(
        "simplicity",
        "Do simple languages make a simplicity prior?",
        f"Two families of languages, each with the same three biases over description length ({size(scores)}; "
        f"{judged_by(scores)}).",
        compared,
        {
            "bias_sweep": Drawing(
                "Networks meta-trained on pools of languages that differ in their bias over description length.",
                functools.partial(_draw_sweep, scores),
            ),
            "pools_by_strings": Drawing(
                "The same by the number of strings adapted to.", functools.partial(_draw_pools, scores)
            ),
        },
        score_table(
            scores, {named(source): {"source": source} for source in ("none", *itertools.chain(*POOLS.values()))}
        ),
    )


def one_or_many(scores: Scores) -> Section:
    """Can one language help as much as a pool?"""
    one = {name: at_few(scores, name) for name in ("An", "AnBnCn")}
    compared = []
    for family, words in FAMILIES.items():
        pools = mean_of(at_few(scores, pool) for pool in POOLS[family])
        compared += more(
            "networks meta-trained on AnBnCn alone",
            f"those meta-trained on pools of {words}",
            one["AnBnCn"] - pools,
            f"One well-chosen language (AnBnCn) helps as much as a pool of {words}",
            ABSTRACT,
            above=-MARGIN,
        )
        compared += more(
            f"networks meta-trained on pools of {words}",
            "those meta-trained on An alone",
            pools - one["An"],
            f"A badly chosen language (An) helps less than a pool of {words}",
            REPORTED,
        )
    sources = [source for source in (*NINE, *itertools.chain(*POOLS.values())) if scores.has(source)]
    return section(
        "one_or_many",
        "One language or many?",
        f"Single languages against pools ({size(scores)}, own language left out; {judged_by(scores)}).",
        compared,
        {
            "one_or_many": Drawing(
                "Gain over networks that were not meta-trained, on the same targets.",
                functools.partial(_draw_gains, scores, sources),
            )
        },
        score_table(scores, {named(source): {"source": source} for source in ("none", *sources)}),
    )


def _draw_sweep(scores: Scores, path: pathlib.Path) -> None:
    at = few(scores)
    with figure(path, columns=len(METRICS), size=(4.2, 3.9)) as axes:
        for place, (metric, where) in zip(axes[0], METRICS.items(), strict=True):
            nothing_line(place, scores.table("none", strings=at, metric=metric))
            for number, (family, words) in enumerate(FAMILIES.items()):
                tables = [scores.table(pool, strings=at, metric=metric) for pool in POOLS[family]]
                places = np.arange(len(BIASES)) + 0.16 * (number - 0.5)
                style = {"marker": "os"[number], "color": COLOURS[number], "label": f"pools of {words}"}
                marks(place, places, tables, capsize=3, **style)
            place.set(xlabel="bias over description length", title=f"F1 {where}", ylim=(0, 1), xlim=(-0.5, 2.5))
            place.set_xticks(range(len(BIASES)), BIASES)
        reported = [published.F1[pool] for pool in POOLS["minimalist"]]
        axes[0, 0].plot(range(len(BIASES)), reported, label="minimalist grammars, published°", **PUBLISHED)
        axes[0, 0].set_ylabel("continuation F1")
        finish(
            axes[0, 0],
            f"F1 after {at} strings by the meta-training pool's bias, {size(scores)}",
            f"{INTERVAL}; dots: seeds; dashed and shaded: no meta-training\n"
            f"° {published.SOURCE}; without meta-training {published.F1['none']}",
        )


def _draw_pools(scores: Scores, path: pathlib.Path) -> None:
    with figure(path, columns=len(FAMILIES), size=(4.8, 4.0)) as axes:
        for place, (family, words) in zip(axes[0], FAMILIES.items(), strict=True):
            sources = {"no meta-training": "none"} | {
                f"{bias} pool": pool for bias, pool in zip(BIASES, POOLS[family], strict=True)
            }
            series = {
                label: [scores.table(source, strings=n, metric=METRIC) for n in scores.strings]
                for label, source in sources.items()
            }
            by_strings(place, scores.strings, series, dict(zip(sources, (NOTHING, *COLOURS), strict=False)))
            place.set(title=f"Pools of {words}", ylim=(0, 1))
        axes[0, 0].set_ylabel(f"F1 {METRICS[METRIC]}")
        finish(axes[0, 0], f"F1 by strings adapted to and the pool's bias, {size(scores)}")


def _draw_gains(scores: Scores, sources: Sequence[str], path: pathlib.Path) -> None:
    at, groups = few(scores), [named(source) for source in sources]
    kinds: Mapping[str, tuple[Sequence[str], str]] = {
        **{f"one {kind} language": (of_class(kind), CLASS_COLOURS[kind]) for kind in CLASSES},
        **{
            f"pools of {words}": (POOLS[family], colour)
            for (family, words), colour in zip(FAMILIES.items(), COLOURS[2:], strict=False)
        },
    }
    with figure(path, rows=2, size=(11.0, 3.6)) as axes:
        for place, metric in zip(axes[:, 0], (METRIC, "continuation"), strict=True):
            none = scores.table("none", strings=at, metric=metric)
            for label, (names, colour) in kinds.items():  # one bar for each group, though there are several labels
                gains = {named(s): scores.table(s, strings=at, metric=metric) - none for s in names if s in sources}
                if gains:
                    bars(place, groups, {label: gains}, [colour])
            place.set_xticks(range(len(groups)), groups, rotation=30, ha="right", rotation_mode="anchor")
            place.set(ylabel="gain in F1", title=f"F1 {METRICS[metric]}: gain over {np.nanmean(none):.2f} without")
        reported = {s: published.F1[s] - published.F1["none"] for s in sources if s in published.F1}
        places = [list(sources).index(source) for source in reported]
        axes[1, 0].plot(places, list(reported.values()), label="published°", **PUBLISHED)
        finish(
            axes[1, 0],
            "Gain in F1 from meta-training on one language or on a pool, "
            f"N = {at}, {size(scores)}, own language left out",
            f"{INTERVAL}; dots: seeds\n° {published.SOURCE}",
        )
