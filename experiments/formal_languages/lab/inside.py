"""Looks for counters inside the networks: before meta-training, after it, and after adaptation to a target.

A probe reads counters from the state of a network. Whether the network uses what the probe found is asked by ablating
the units that weigh most in it, and by shifting the counter and watching where strings then end.
"""

from typing import Any

import jax
import numpy as np

from experiments.formal_languages.lab.adaptation import Targets, Weights
from experiments.formal_languages.lab.conditions import Network, looked_into
from experiments.formal_languages.lab.config import LabConfig
from experiments.formal_languages.lab.found_inside import (
    STAGES,
    TRAINED,
    UNTRAINED,
    Ablations,
    Inside,
    Lengths,
    Probes,
    Shifts,
    Trace,
)
from experiments.formal_languages.lab.records import NAMES
from experiments.formal_languages.lab.training import model_of
from metalearn.languages.continuation import continuations
from metalearn.languages.interventions import ablate, shift_counter
from metalearn.languages.lengths import length_curves
from metalearn.languages.model import LanguageModel
from metalearn.languages.nine import NINE
from metalearn.languages.probes import Probe, ProbeScores, counted_prefixes, direction, probe_counters, read
from metalearn.languages.randomness import host_rng
from metalearn.languages.states import states
from metalearn.languages.tokens import encode, letters_to_symbols
from metalearn.run import Progress

# Whose counters are looked for.
COUNTED = ("AnBn", "AnBnCn", "Dyck")
# How a counter is raised, and by which symbol it is counted down to the end of the string.
_RAISED = {"AnBn": ("a", "b"), "Dyck": ("(", ")")}
_OPENINGS, _DELTAS = (5, 8, 12, 20), (-3, -2, -1, 1, 2, 3)  # the last beyond what networks learn from
_RANDOM = 8  # directions to compare with

Found = dict[tuple[str, str], tuple[Probe, ProbeScores]]
"""(stage, language) -> its probes."""


class _Looked:
    """Networks of one architecture, meta-trained on one language: [seeds, ...], and adapted: [seeds, targets, ...]."""

    def __init__(self, config: LabConfig, targets: Targets, weights: Weights, network: Network):
        self.name = network.architecture
        self.title = f"{NAMES[self.name]} meta-trained on {network.source}"
        self.model: LanguageModel = model_of(config, self.name, dropout=False)
        self.random = weights[Network(self.name, "none", "none")]
        self.trained = weights[network]
        starts = [self.random, self.trained]
        self.adapted_random, self.adapted = targets.adapted(self.name, starts, config.inside.strings)
        self._places = config.targets.languages

    def at(self, stage: str, target: str) -> Any:
        """Weights [seeds, ...] at a stage of STAGES, for this target."""
        if stage == "adapted":
            return self.on(self.adapted, target)
        return self.random if stage == "random" else self.trained

    def on(self, adapted: Any, target: str) -> Any:
        """Of weights [seeds, targets, ...], those adapted to this target, [seeds, ...]."""
        place = self._places.index(target)
        return jax.tree.map(lambda x: x[:, place], adapted)


def look_inside(config: LabConfig, targets: Targets, weights: Weights) -> Inside:
    """Everything that is looked for, in networks of all architectures that are looked into."""
    probed: list[Probes] = []
    traces: list[Trace] = []
    ablations: list[Ablations] = []
    shifts: list[Shifts] = []
    lengths: list[Lengths] = []
    looks = looked_into(config)
    counted = [name for name in COUNTED if name in config.targets.languages]
    with Progress(3 * len(looks), "looked into") as progress:
        for number, network in enumerate(looks):
            looked = _Looked(config, targets, weights, network)
            strings = {name: _by_size(config, name) for name in counted}
            probes = {
                (stage, name): probe_counters(
                    looked.model,
                    looked.at(stage, name),
                    counted_prefixes(NINE[name], strings[name]),
                    config.inside.longest,
                )
                for stage in STAGES
                for name in counted
            }
            progress.update(3 * number + 1)
            if counted:
                probed.append(_probes(looked, counted, probes))
                traces.extend(_traces(config, looked, counted, probes))
                ablations.append(_ablations(config, targets, looked, counted[0], probes))
            shifts.extend(_shifts(looked, name, probes) for name in counted if name in _RAISED)
            progress.update(3 * number + 2)
            lengths.extend(_lengths(config, targets, looked, name) for name in counted)
            progress.update(3 * number + 3)
    return Inside(probed, traces, ablations, shifts, lengths)


def _by_size(config: LabConfig, name: str) -> dict[int, list[str]]:
    """Distinct strings of each size, drawn anew for every use from the same key."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2**31 - 4), list(NINE).index(name))
    rng = host_rng(key)
    found = {}
    for size in config.inside.sizes:
        drawn = dict.fromkeys(NINE[name].of_size(size, rng) for _ in range(4 * config.inside.per_size))
        found[size] = list(drawn)[: config.inside.per_size]
    return found


def _probes(looked: _Looked, counted: list[str], probes: Found) -> Probes:
    names = tuple(f"{name}: {counter}" for name in counted for counter in _counters(name))
    stack = lambda field: np.stack(
        [np.concatenate([getattr(probes[stage, name][1], field) for name in counted], axis=1).T for stage in STAGES]
    )
    return Probes(looked.title, names, stack("r2"), stack("selectivity"))


def _traces(config: LabConfig, looked: _Looked, counted: list[str], probes: Found) -> list[Trace]:
    """Counters along one string longer than those fitted, as probes read them in the network of the first seed."""
    found = []
    size = min(size for size in config.inside.sizes if size > config.inside.longest)
    for name in counted:
        language = NINE[name]
        string = _by_size(config, name)[size][0]
        tokens = encode([letters_to_symbols(string, language.language.alphabet)])[:, :-1]
        seen = {
            stage: read(probes[stage, name][0], np.asarray(states(looked.model, looked.at(stage, name), tokens)))[0, 0]
            for stage in STAGES
        }
        for place, (counter, values) in enumerate(language.counters(string).items()):
            curves = {stage: values[:, place] for stage, values in seen.items()}
            found.append(Trace(f"{looked.title}, {name}", string, counter, values, curves))
    return found


def _ablations(
    config: LabConfig,
    targets: Targets,
    looked: _Looked,
    counted: str,
    probes: Found,
) -> Ablations:
    """What networks still know without the units that held the counter of `counted` before they adapted."""
    units = probes["meta-trained", counted][1].ranking[:, : config.inside.units, 0]
    names = config.targets.languages
    columns = []
    for name in names:
        test = continuations(NINE[name].language, targets.test_strings(name))
        scores = ablate(looked.model, looked.on(looked.adapted, name), units, test, config.inside.draws)
        columns.append([scores.intact.constrained, scores.ablated.constrained, np.mean(scores.random.constrained, 1)])
    intact, named, random = np.array(columns, np.float64).transpose(1, 2, 0)
    title = f"{looked.title}: {config.inside.units} units of the {_counters(counted)[0]} of {counted} ablated"
    return Ablations(title, tuple(names), tuple(bool(_counters(name)) for name in names), intact, named, random)


def _shifts(looked: _Looked, name: str, probes: Found) -> Shifts:
    """How much later strings end when the counter is raised after the opening half."""
    probe, (up, down) = probes["adapted", name][0], _RAISED[name]

    def moved(arrow: np.ndarray) -> np.ndarray:
        return shift_counter(
            looked.model,
            looked.at("adapted", name),
            arrow,
            [up * n for n in _OPENINGS],
            down,
            alphabet=NINE[name].language.alphabet,
            deltas=_DELTAS,
        ).moved

    # Of an opening after which a network never stops, nothing is known.
    mean = lambda values, axes: np.ma.masked_invalid(values).mean(axes).filled(np.nan)
    others = np.stack([moved(direction(probe, along="random", seed=seed)) for seed in range(_RANDOM)])
    title = f"{looked.title}, adapted to {name}"
    return Shifts(title, np.array(_DELTAS), mean(moved(direction(probe)), 1), mean(abs(others), (0, 2)))


def _lengths(config: LabConfig, targets: Targets, looked: _Looked, name: str) -> Lengths:
    """Scores by size, far beyond the strings that the networks adapted to."""
    language = NINE[name]
    learned = [s for seed in range(config.seeds) for s in targets.training_strings(name, seed, config.inside.strings)]
    adapted = {TRAINED: looked.adapted, UNTRAINED: looked.adapted_random}
    curves = {
        label: length_curves(looked.model, looked.on(params, name), language.language, _by_size(config, name))
        for label, params in adapted.items()
    }
    return Lengths(
        f"{looked.title}, adapted to {name}",
        next(iter(curves.values())).sizes,
        {label: np.asarray(curve.by_size.constrained) for label, curve in curves.items()},
        {label: curve.by_position for label, curve in curves.items()},
        max(map(len, learned)) // len(language.of_size(1, np.random.default_rng(0))),
    )


def _counters(name: str) -> tuple[str, ...]:
    return tuple(NINE[name].counters(""))
