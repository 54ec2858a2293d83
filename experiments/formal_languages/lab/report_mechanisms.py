"""Networks meta-trained on one language: what they bring to others, by language and by class."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from experiments.formal_languages.lab import published
from experiments.formal_languages.lab.contrasts import (
    METRIC,
    REPORTED,
    Comparison,
    at_few,
    mean_of,
    more,
    numbers,
    only,
    same,
)
from experiments.formal_languages.lab.drawings import (
    CLASS_COLOURS,
    INTERVAL,
    by_strings,
    estimate,
    finish,
    shade_bar,
    squares,
)
from experiments.formal_languages.lab.records import CLASSES, METRICS, Scores, columns_of, of_class
from experiments.formal_languages.lab.sections import (
    Drawing,
    Section,
    judged_by,
    markdown,
    named,
    score_table,
    section,
    size,
)
from metalearn.languages.nine import NINE
from metalearn.run import Claim, figure, judge
from metalearn.run.mixed import MixedModel, mixed_model

COUNTERS = ("AnBn", "AnBnCn", "Dyck")
PLAIN = ("An", "AB")
MECHANISM = "mechanism view of Goodale et al. 2025, prediction"


def mechanisms(scores: Scores) -> Section:
    """Do languages that need a mechanism help more than others, and with what?"""
    none = at_few(scores, "none")
    sources = [name for name in NINE if scores.has(name)]
    of = {name: at_few(scores, name) for name in NINE}
    by_class = {kind: mean_of(of[name] for name in of_class(kind)) for kind in CLASSES}
    higher = mean_of(of[name] for kind in CLASSES[1:] for name in of_class(kind))
    hard = [column for kind in CLASSES[1:] for column in columns_of(scores, kind)]
    counters, plain = ([name for name in names if name in sources] for names in (COUNTERS, PLAIN))
    compared = more(
        f"networks meta-trained on a language of counters ({', '.join(counters)})",
        f"those meta-trained on {' or '.join(plain)}",
        mean_of(of[name] for name in COUNTERS) - mean_of(of[name] for name in PLAIN),
        "Languages that need counters help more than languages that need none",
        f"{MECHANISM} 2a",
    )
    compared += more(
        "networks meta-trained on a language beyond the regular ones",
        "those meta-trained on a regular one",
        higher - by_class["regular"],
        "Context-free and context-sensitive languages help more than regular ones",
        REPORTED,
    )
    compared += same(
        "networks meta-trained on context-free languages",
        "those meta-trained on context-sensitive ones",
        by_class["context-free"] - by_class["context-sensitive"],
        "Context-free and context-sensitive languages help alike",
        REPORTED,
    )
    compared += more(
        "on regular targets, networks meta-trained on languages beyond them",
        "networks without meta-training",
        only(higher - none, columns_of(scores, "regular")),
        "Languages of higher classes help with targets of lower ones",
        REPORTED,
    )
    compared += same(
        "on targets beyond the regular ones, networks meta-trained on regular languages",
        "networks without meta-training",
        only(by_class["regular"] - none, hard),
        "Regular languages do not help with targets of higher classes",
        REPORTED,
    )
    compared += _copying_fails(scores, sources)
    model = class_model(scores, sources)
    return section(
        "mechanisms",
        "Do mechanisms transfer?",
        f"{len(sources)} languages, each the only one that its networks were meta-trained on ({size(scores)}, own "
        f"language left out; {judged_by(scores)}). {_of_model(model)}",
        compared,
        {
            "transfer_matrix": Drawing(
                "Source by row, target by column; hatched: the language meta-trained on.",
                functools.partial(_draw_transfer, scores, sources),
            ),
            "classes_by_strings": Drawing(
                "By class of the language meta-trained on and number of strings adapted to.",
                functools.partial(_draw_classes, scores, sources),
            ),
        },
        score_table(scores, {named(source): {"source": source} for source in ("none", *sources)}) | _model_table(model),
    )


def class_model(scores: Scores, sources: Sequence[str]) -> MixedModel | None:
    """F1 by class of the source and N, with random intercepts of targets, seeds and sources; None for want of levels.

    Sources are random because a class is represented by three of them: otherwise the effect of one language would pass
    for one of its class. With one source a class this is what cannot be told.
    """
    rows = [row for row in scores.rows(("none", *sources)) if not np.isnan(getattr(row, METRIC))]
    if min(len(scores.seeds), len(scores.targets), len(scores.strings)) < 2:
        return None
    kinds = {name: of.language.chomsky_class for name, of in NINE.items()} | {"none": "none"}
    rows.sort(key=lambda row: row.source != "none")  # what the classes are compared with comes first
    columns = {
        "score": [getattr(row, METRIC) for row in rows],
        "kind": [kinds[row.source] for row in rows],
        "log10_N": [np.log10(row.strings) for row in rows],
        "target": [row.target for row in rows],
        "seed": [row.seed for row in rows],
        "source": [row.source for row in rows],
    }
    several = len(set(columns["source"])) > len(set(columns["kind"]))
    return mixed_model("score ~ kind * log10_N", columns, ("target", "seed", *(["source"] if several else [])))


def _copying_fails(scores: Scores, sources: Sequence[str]) -> list[Comparison]:
    sources = [name for name in sources if name != "XX"]
    if "XX" not in scores.targets or not sources:
        return []
    at = scores.strings[-1]
    tables = [scores.table(name, strings=at, metric=METRIC) for name in sources]
    by_seed = mean_of(tables)[:, scores.targets.index("XX")]
    statistic = f"F1 {METRICS[METRIC]}, N = {at}, mean over sources, {len(by_seed)} seeds; 95 % interval"
    verdict = judge(Claim("The copies XX are not learned", REPORTED, statistic, below=0.5), by_seed)
    words = {True: "stay below one half on", False: "score above one half on", None: "may or may not learn"}
    sentence = f"From {at} strings, networks meta-trained on one language {words[verdict.holds]} XX"
    return [Comparison(verdict, f"{sentence} ({numbers(verdict)}).")]


def _of_model(model: MixedModel | None) -> str:
    if model is None:
        return "A mixed-effects model needs two seeds, targets and numbers of strings."
    if not model.converged:
        return f"The mixed-effects model says nothing: {model.message}"
    steps = []
    for kind in (kind for kind in CLASSES if f"kind[T.{kind}]" in model.effects):
        of, slope = model.effects[f"kind[T.{kind}]"], model.effects[f"kind[T.{kind}]:log10_N"]
        steps.append(
            f"{kind} sources {of.estimate:+.3f} ({of.low:+.3f} to {of.high:+.3f}) at one string and "
            f"{slope.estimate:+.3f} ({slope.low:+.3f} to {slope.high:+.3f}) for each tenfold N"
        )
    return (
        f"Over all N, a mixed-effects model ({model.n} scores; random intercepts of {' and '.join(model.random)}; 95 % "
        f"Wald intervals) finds, against no meta-training: {'; '.join(steps)}."
    )


def _model_table(model: MixedModel | None) -> dict[str, str]:
    if model is None or not model.converged:
        return {}
    rows = []
    for name, of in model.effects.items():
        words = name.replace("kind[T.", "").replace("]", "").replace(":", " x ")
        rows.append([words, f"{of.estimate:+.3f}", f"{of.low:+.3f} to {of.high:+.3f}", f"{of.p:.2g}"])
    spread = ", ".join(f"{name} {value:.3f}" for name, value in model.deviations.items())
    caption = f"Mixed-effects model `{model.formula}`; standard deviations: {spread}. {model.message}".strip()
    return {caption: markdown(["effect", "estimate", "95 % interval", "p"], rows)}


def _draw_transfer(scores: Scores, sources: Sequence[str], path: pathlib.Path) -> None:
    tables = {source: at_few(scores, source) for source in ("none", *sources)}
    cells = np.stack([table.mean(0) for table in tables.values()])
    own = np.array([[source == target for target in scores.targets] for source in tables])
    measured = [kind for kind in CLASSES if columns_of(scores, kind)]
    rows = {"none": ["none"]} | {kind: [name for name in of_class(kind) if name in sources] for kind in CLASSES}
    rows = {kind: names for kind, names in rows.items() if names}
    blocks = [
        [only(mean_of(tables[s] for s in names), columns_of(scores, kind)) for kind in measured]
        for names in rows.values()
    ]
    of_blocks = np.array([[estimate(block) for block in row] for row in blocks])  # [rows, columns, 3]
    under = {
        place: f"{mean - below:.2f} to {mean + above:.2f}"
        for place in np.ndindex(of_blocks.shape[:2])
        for mean, below, above in [of_blocks[place]]
        if not np.isnan(below)
    }
    reported = np.array([published.CLASSES[row] for row in rows])
    with figure(path, columns=3, size=(5.0, 4.6)) as axes:
        image = squares(axes[0, 0], cells, list(tables), scores.targets, own)
        axes[0, 0].set(xlabel="target", ylabel="meta-trained on", title="By language (hatched: own language)")
        squares(axes[0, 1], of_blocks[..., 0], list(rows), measured, under=under)
        axes[0, 1].set(xlabel="class of the target", title="By class, own language left out")
        squares(axes[0, 2], reported, list(rows), CLASSES)
        axes[0, 2].set(xlabel="class of the target", title="Published°: F1 at all positions")
        shade_bar(image, axes[0], "continuation F1")
        finish(
            axes[0, 0],
            f"Transfer from one language to another: {judged_by(scores)}, {size(scores)}",
            f"left: mean over seeds; middle: {INTERVAL}; ° {published.SOURCE}",
        )


def _draw_classes(scores: Scores, sources: Sequence[str], path: pathlib.Path) -> None:
    groups = {"none": ["none"]} | {kind: [name for name in of_class(kind) if name in sources] for kind in CLASSES}
    labels = {kind: f"{kind} language" if kind in CLASSES else named(kind) for kind, names in groups.items() if names}
    with figure(path, columns=len(METRICS), size=(4.2, 3.9)) as axes:
        for place, (metric, where) in zip(axes[0], METRICS.items(), strict=True):
            series = {
                label: [
                    mean_of(scores.table(s, strings=n, metric=metric) for s in groups[kind]) for n in scores.strings
                ]
                for kind, label in labels.items()
            }
            by_strings(place, scores.strings, series, {label: CLASS_COLOURS[kind] for kind, label in labels.items()})
            place.set(title=f"F1 {where}", ylim=(0, 1))
        axes[0, 0].set_ylabel("continuation F1")
        finish(
            axes[0, 0],
            "F1 by strings adapted to and the class of the one language meta-trained on, "
            f"{size(scores)}, own language left out",
        )
