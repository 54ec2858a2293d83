"""What is inside the networks: counters that probes find, what they are good for, how far they reach."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.formal_languages.lab.contrasts import MARGIN, OURS, numbers
from experiments.formal_languages.lab.drawings_inside import (
    draw_ablations,
    draw_lengths,
    draw_probes,
    draw_shifts,
    draw_traces,
)
from experiments.formal_languages.lab.found_inside import (
    STAGES,
    TRAINED,
    UNTRAINED,
    Ablations,
    Inside,
    Lengths,
    Probes,
    Shifts,
    seeds_in_words,
)
from experiments.formal_languages.lab.sections import Drawing, Section, markdown
from metalearn.run import Claim, Verdict, judge


class _Found(NamedTuple):
    """A verdict on what is true of networks (`title`) if `words` are."""

    title: str
    words: str
    verdict: Verdict


def inside(found: Inside) -> Section:
    """Are there counters in the networks, and do they count?"""
    judged = [
        *(each for of in found.probes for each in _probe_claims(of)),
        *(each for of in found.ablations for each in _ablation_claims(of)),
        *(each for of in found.shifts for each in _shift_claims(of)),
        *(each for of in found.lengths for each in _length_claims(of)),
    ]
    drawings: dict[str, tuple[Sequence[Any], str, Callable[..., None]]] = {
        "probes": (found.probes, "How well counters can be read from states, by stage.", draw_probes),
        "traces": (found.traces, "A counter over a string, and what probes read.", draw_traces),
        "ablations": (found.ablations, "What is lost with the units that a probe names.", draw_ablations),
        "shifts": (found.shifts, "Shifting a counter moves the end.", draw_shifts),
        "lengths": (found.lengths, "F1 by size and by position, beyond what was learned from.", draw_lengths),
    }
    return Section(
        "inside",
        "Are there counters in the networks?",
        " ".join(["Probes, interventions and lengths beyond training.", *_sentences(judged)]),
        {
            name: Drawing(caption, functools.partial(draw, results))
            for name, (results, caption, draw) in drawings.items()
            if results
        },
        [each.verdict for each in judged],
        _probe_table(found.probes),
    )


def _sentences(judged: Sequence[_Found]) -> list[str]:
    """One for all networks of which the same is true."""
    same: dict[str, list[str]] = {}
    for title, words, verdict in judged:
        same.setdefault(words, []).append(f"{title} ({numbers(verdict)})")
    return [f"{words}: {'; '.join(networks)}." for words, networks in same.items()]


def _probe_claims(of: Probes) -> list[_Found]:
    random, trained, adapted = np.maximum(of.r2, 0).mean(1)  # [S]; these counters are no sample of others
    about = f"R² at held-out lengths, mean over {len(of.counters)} counters"
    better = {True: "better", False: "no better", None: "not clearly better"}
    asked = (
        ("meta-training makes counters", "after meta-training", trained - random),
        ("its counters are there after adaptation", "after adaptation", adapted - random),
    )
    found = [
        each
        for claim, when, samples in asked
        for each in _judged(
            of.title,
            claim,
            f"difference of {about}",
            samples,
            {holds: f"Counters are read {word} {when} than from random weights" for holds, word in better.items()},
            above=0.0,
        )
    ]
    return found + _judged(
        of.title,
        "probes read counters and not whatever they are asked for",
        f"selectivity: {about}, minus that for random labels",
        of.selectivity[STAGES.index("meta-trained")].mean(0),
        {
            True: "Probes read counters better than random labels",
            False: "Probes read random labels better than counters",
            None: "Probes do not clearly read counters better than random labels",
        },
        above=0.0,
    )


def _ablation_claims(of: Ablations) -> list[_Found]:
    counting = np.asarray(of.counting)
    named, random = of.intact - of.named, of.intact - of.random
    cost = {True: "cost more", False: "cost less", None: "do not clearly cost more"}
    asked = []
    if counting.any():
        asked.append(("do the counting", (named - random)[:, counting], "than random ones on targets with counters"))
    if counting.any() and not counting.all():
        difference = named[:, counting].mean(1, keepdims=True) - named[:, ~counting]
        asked.append(("do little else", difference, "on targets with counters than on others"))
    return [
        each
        for claim, difference, where in asked
        for each in _judged(
            of.title,
            f"the units that a probe names {claim}",
            "difference of drops in F1 where something is forbidden",
            difference.mean(1),
            {holds: f"The units that a probe names {word} {where}" for holds, word in cost.items()},
            above=0.0,
        )
    ]


def _shift_claims(of: Shifts) -> list[_Found]:
    there = ~np.isnan(of.moved)
    with np.errstate(invalid="ignore"):  # where no string ends there is no slope
        slopes = np.nansum(of.moved * of.deltas, 1) / (there * np.square(of.deltas)).sum(1)
    return _judged(
        of.title,
        "adding to the counter moves the end by as much",
        "slope of the moved end over what was added",
        slopes,
        {
            True: "Adding to the counter moves the end by about as much, with a slope between 0.5 and 1.5",
            False: "Adding to the counter does not move the end by as much, with a slope outside 0.5 to 1.5",
            None: "How far adding to the counter moves the end is not well known",
        },
        above=0.5,
        below=1.5,
    )


def _length_claims(of: Lengths) -> list[_Found]:
    beyond = np.asarray(of.sizes) > of.trained
    if not beyond.any() or beyond.all():
        return []
    trained, untrained = of.by_size[TRAINED], of.by_size[UNTRAINED]
    above = {True: "higher", False: "lower", None: "not clearly higher"}
    return [
        *_judged(
            of.title,
            "strings longer than any that was learned from are predicted as well",
            f"difference of F1 where something is forbidden, n > {of.trained} minus n <= {of.trained}",
            np.nanmean(trained[:, beyond], 1) - np.nanmean(trained[:, ~beyond], 1),
            {
                True: f"F1 beyond the lengths learned from is as high, within {MARGIN:g}",
                False: f"F1 beyond the lengths learned from is lower by more than {MARGIN:g}",
                None: f"Whether F1 beyond the lengths learned from is as high, within {MARGIN:g}, cannot be told",
            },
            above=-MARGIN,
        ),
        *_judged(
            of.title,
            "meta-training helps with strings longer than any that was learned from",
            f"difference of F1 where something is forbidden, n > {of.trained}",
            np.nanmean(trained[:, beyond], 1) - np.nanmean(untrained[:, beyond], 1),
            {holds: f"F1 there is {word} than without meta-training" for holds, word in above.items()},
            above=0.0,
        ),
    ]


def _judged(
    title: str, claim: str, what: str, samples: np.ndarray, words: Mapping[bool | None, str], **bounds: float
) -> list[_Found]:
    """A claim judged by samples [S]; seeds without a value are left out, and without any there is nothing to say."""
    samples = samples[~np.isnan(samples)]
    if not samples.size:
        return []
    statistic = f"{what}, {seeds_in_words(len(samples))}; 95 % interval"
    verdict = judge(Claim(f"{title}: {claim}", OURS, statistic, **bounds), samples)
    return [_Found(title, words[verdict.holds], verdict)]


def _probe_table(found: Sequence[Probes]) -> dict[str, str]:
    if not found:
        return {}
    rows = [
        [of.title, counter, stage, *(f"{np.mean(values[s, c]):.3f}" for values in (of.r2, of.selectivity))]
        for of in found
        for c, counter in enumerate(of.counters)
        for s, stage in enumerate(STAGES)
    ]
    caption = f"Probes: R² at held-out lengths, mean over {seeds_in_words(found[0].r2.shape[-1])}."
    return {caption: markdown(["network", "counter", "stage", "R²", "selectivity"], rows)}
