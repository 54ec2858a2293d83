"""Records of a laboratory whose effects are known, because they are planted."""

import itertools

import numpy as np

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
from experiments.formal_languages.lab.records import POOLS, TRAININGS, Record
from metalearn.languages.nine import NINE

STRINGS = (1, 3, 10, 30, 100)
ARCHITECTURES = ("lstm", "gru", "elman", "relu", "clipped_lstm", "stack", "queue", "transformer")
# What a source is worth in F1 at N = 1, to a network that can count. A tenfold N closes half of the gap.
GAINS = {
    "none": 0.0,
    "An": 0.06,
    "AB": 0.05,
    "Brackets": 0.08,
    "AnBn": 0.25,
    "XXR": 0.10,
    "Dyck": 0.26,
    "AnBnCn": 0.28,
    "XX": 0.09,
    "CrossDyck": 0.24,
    **{pool: 0.27 for pools in POOLS.values() for pool in pools},
}
CANNOT_COUNT = ("gru", "elman", "clipped_lstm", "transformer")
WORTH = {"none": 0.0, "exact": 1.0, "first_order": 0.95, "displacement": 0.5, "pre_trained": 0.2}  # share of a gain


def gain(architecture, source, training, frozen):
    """The planted gain at N = 1."""
    full = min(GAINS[source], 0.06) if architecture in CANNOT_COUNT else GAINS[source]
    return full * WORTH[training] - (0.1 if frozen and source == "none" else 0.0) - (0.02 if frozen else 0.0)


def conditions():
    """(architecture, source, training, frozen) of all experiments."""
    found = {("lstm", source, "none" if source == "none" else "exact", False) for source in GAINS}
    found |= {
        (a, s, "none" if s == "none" else "exact", False) for a in ARCHITECTURES for s in ("none", "An", "AnBnCn")
    }
    found |= {("stack", "XXR", "exact", False), ("queue", "XX", "exact", False)}
    found |= {("lstm", source, training, False) for source in ("An", "AnBnCn") for training in TRAININGS[1:]}
    found |= {("lstm", s, "none" if s == "none" else "exact", True) for s in ("none", "An", "AnBnCn")}
    return sorted(found)


def records(seeds=3, strings=STRINGS, targets=tuple(NINE), noise=0.02, of_seed=0.02, only=None):
    """Records in which target, seed, condition and N add up; `only` keeps these conditions."""
    rng = np.random.default_rng(0)
    base = dict(zip(NINE, (0.3, 0.25, 0.2, 0.15, 0.2, 0.25, 0.05, 0.1, 0.1), strict=True))
    rows = []
    for condition in [c for c in conditions() if only is None or c in only]:
        for seed, n, target in itertools.product(range(seeds), strings, targets):
            start = base[target] + gain(*condition) * rng.normal(1, 0.2) + of_seed * ((seed % 3) - 1)
            f1 = [1 - (1 - start - easier) * 0.5 ** np.log10(n) for easier in (0.25, 0.0, 0.1)]
            scores = np.clip(np.array(f1) + noise * rng.normal(size=3), 0, 1)
            rows.append(Record(*condition, seed, n, target, *map(float, scores)))
    return rows


def inside(seeds=3, names=("lstm", "gru"), targets=tuple(NINE)):
    """Networks of which the first counts after meta-training, and the others do so less well."""
    rng = np.random.default_rng(1)
    noisy = lambda *shape, spread=0.03: spread * rng.normal(size=shape)
    found = Inside([], [], [], [], [])
    deltas, sizes = np.array([-3, -2, -1, 1, 2, 3]), np.array([2, 5, 10, 20, 50, 100])
    counting = [bool(NINE[name].counters("")) for name in targets]
    string = "aaaaaabbbbbbcccccc"
    counters = {f"AnBnCn: {counter}": values for counter, values in NINE["AnBnCn"].counters(string).items()}
    for number, name in enumerate(names):
        title, share = f"{name} meta-trained on AnBnCn", 0.5**number
        r2 = np.repeat(0.3 + share * np.array([[0.0], [0.6], [0.65]]), len(counters), axis=1)
        found.probes.append(
            Probes(
                title,
                tuple(counters),
                r2[..., None] + noisy(3, len(counters), seeds),
                r2[..., None] - 0.25 + noisy(3, len(counters), seeds),
            )
        )
        for counter, true in counters.items():
            read = {stage: (0.3 + 0.7 * share * (stage != "random")) * true + noisy(len(true)) for stage in STAGES}
            found.traces.append(Trace(f"{title}, AnBnCn", string, counter, true, read))
        intact = 0.8 + noisy(seeds, len(targets))
        named = intact - share * np.where(counting, 0.3, 0.03) + noisy(seeds, len(targets))
        random = intact - 0.02 + noisy(seeds, len(targets))
        found.ablations.append(
            Ablations(f"{title}: 8 units of the #a-#b of AnBnCn ablated", targets, counting, intact, named, random)
        )
        moved = 0.9 * share * deltas + noisy(seeds, 6, spread=0.1)
        moved[0, -1] = np.nan
        found.shifts.append(Shifts(f"{title}, adapted to AnBn", deltas, moved, noisy(seeds, 6)))
        by_size = {
            label: level - slope * np.log10(sizes) + noisy(seeds, 6, spread=0.005)
            for label, level, slope in ((UNTRAINED, 0.4, 0.1), (TRAINED, 0.95, 0.2 * number))
        }
        by_position = {label: values.mean(1)[:, None] - 0.002 * np.arange(60) for label, values in by_size.items()}
        found.lengths.append(Lengths(f"{title}, adapted to AnBn", sizes, by_size, by_position, 10))
    return found
