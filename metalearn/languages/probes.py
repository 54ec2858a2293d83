"""Linear probes: is the value of a counter there to be read in a network's state?

A probe is a ridge regression from the state after a prefix to the value of a counter. It is fitted to the prefixes of
short strings and judged on longer ones, on prefixes that begin no short string: what merely tells short prefixes apart
does not go on counting. Its penalty is chosen in the same way within the short strings.

The control (after Hewitt & Liang 2019) asks how much of that any label would reach. Its labels are a random but fixed
function of the last token and of the position modulo 7: one standard normal number for each such pair. All pairs occur
in short strings already, so a probe that can learn whatever is asked could know the labels of long ones; but none of
our languages has a reason to keep the position modulo 7. The control's R^2 is the mean over 8 such functions, and

    selectivity = R^2(counter) - R^2(control), each of them counted as 0 where it is below, worse than the mean

| symbol | name                                          |
|--------|-----------------------------------------------|
| P      | networks                                      |
| N      | distinct prefixes                             |
| D      | features of a state, see states.py            |
| K      | counters                                      |
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.model import LanguageModel
from metalearn.languages.nine import MechanismLanguage
from metalearn.languages.states import networks, states_of_one
from metalearn.languages.tokens import encode, letters_to_symbols

PENALTIES = 10.0 ** np.arange(-6, 3)
"""Of squared weights on standardised features, next to the mean squared error in counts."""

CONTROL_PERIOD = 7
CONTROLS = 8

TOP = (1, 2, 4, 8, 16, 32)
"""Numbers of units from which a counter is read again."""


class CountedPrefixes(NamedTuple):
    """The distinct prefixes of some strings, and what has been counted after each.

    tokens: [strings, time] int32, START and symbols.
    rows, times: [N] ints; prefix i is tokens[rows[i], : times[i] + 1], START and times[i] symbols.
    sizes: [N] ints, the smallest size of a string that begins with the prefix.
    names: of the K counters.
    values: [N, K] float64.
    """

    tokens: np.ndarray
    rows: np.ndarray
    times: np.ndarray
    sizes: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray


class Probe(NamedTuple):
    """Linear readings of K counters in the states of P networks.

    mean, scale: [P, D], of each feature over the prefixes of short strings.
    weights: [P, D, K], counts per scale; bias: [P, K]. The reading is (state - mean) / scale @ weights + bias.
    penalty: [P, K], chosen among PENALTIES.
    pattern: [P, D, K], how far each feature moves when the counter grows by 1, all other counters and the last token
        being the same: the regression of the state on the counters. The probe says how to read the counter, this is
        how the network writes it (Haufe et al. 2014).
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    penalty: np.ndarray
    pattern: np.ndarray


class ProbeScores(NamedTuple):
    """What probes find in P networks. All R^2 are of long strings unless they are called "short".

    r2, r2_short: [P, K], long strings and those fitted; 0 is as good as the mean, and there is no lower bound.
    control, control_short: [P], R^2 of the random labels. The second says how much the probe can memorise.
    selectivity: [P, K].
    correlation: [P, D, K], of each feature alone with the counter; 0 where one does not vary.
    ranking: [P, D, K] ints, features by falling size of their weight.
    top_r2: [P, len(TOP), K], of a probe that only sees the first 1, 2, 4, ... of that ranking.
    units_needed: [P, K], the least such number with 95 % of r2; inf if more than the last, NaN if r2 is not above 0.
    """

    r2: np.ndarray
    r2_short: np.ndarray
    control: np.ndarray
    control_short: np.ndarray
    selectivity: np.ndarray
    correlation: np.ndarray
    ranking: np.ndarray
    top_r2: np.ndarray
    units_needed: np.ndarray


def counted_prefixes(language: MechanismLanguage, strings: Mapping[int, Sequence[str]]) -> CountedPrefixes:
    """All distinct prefixes of strings that are given by their size, on the host.

    Raises:
        ValueError: no strings; a language without counters; a letter outside its alphabet.
    """
    name, alphabet = language.language.name, language.language.alphabet
    first: dict[str, tuple[int, int]] = {}
    ordered = [(size, string) for size in sorted(strings) for string in strings[size]]
    for row, (size, string) in enumerate(ordered):
        for time in range(len(string) + 1):
            first.setdefault(string[:time], (row, size))
    tokens = encode([letters_to_symbols(string, alphabet) for _, string in ordered])[:, :-1]
    counts = [language.counters(string) for _, string in ordered]
    names = tuple(counts[0])
    if not names:
        raise ValueError(f"{name} has no counters to look for: choose a language with some")
    rows, sizes = np.array(list(first.values())).T
    times = np.array(list(map(len, first)))
    values = np.array([[counts[row][name][time] for name in names] for row, time in zip(rows, times, strict=True)])
    return CountedPrefixes(tokens, rows, times, sizes, names, values.astype(np.float64))


def probe_counters(
    model: LanguageModel,
    params: Any,
    prefixes: CountedPrefixes,
    longest: int,
    columns: Sequence[int] | None = None,
) -> tuple[Probe, ProbeScores]:
    """Fits probes to each of P networks and judges them.

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        prefixes: of strings of several sizes.
        longest: size of the longest strings that are fitted; the longer ones judge.
        columns: the features that the probe may see, such as those of one layer; by default all.

    Raises:
        ValueError: fewer than three sizes to fit or none to judge; a counter that does not vary in either.
    """
    found = []
    for one in networks(params):
        reached = states_of_one(model, one, jnp.asarray(prefixes.tokens))[prefixes.rows, prefixes.times]
        found.append(probe_states(np.asarray(reached, np.float64), prefixes, longest, columns))
    return jax.tree.map(lambda *each: np.stack(each), *found)


def probe_states(
    states: np.ndarray, prefixes: CountedPrefixes, longest: int, columns: Sequence[int] | None = None
) -> tuple[Probe, ProbeScores]:
    """The same for one network of which the state [N, D] after each prefix is known; the results have no axis P."""
    states, short = np.asarray(states, np.float64), prefixes.sizes <= longest
    sizes = np.unique(prefixes.sizes[short])
    if len(sizes) < 3 or short.all():
        raise ValueError(
            f"probes need strings of at least three sizes up to longest={longest} and of one beyond, "
            f"got sizes {np.unique(prefixes.sizes).tolist()}"
        )
    for name, values in zip(prefixes.names, prefixes.values.T, strict=True):
        if min(np.ptp(values[short]), np.ptp(values[~short])) == 0:
            raise ValueError(f"counter {name!r} has one value only in the strings up to or beyond longest={longest}")
    seen = np.arange(states.shape[1]) if columns is None else np.asarray(columns)
    last = prefixes.tokens[prefixes.rows, prefixes.times]
    table = np.random.default_rng(0).standard_normal((last.max() + 1, CONTROL_PERIOD, CONTROLS))
    counters = len(prefixes.names)
    targets = np.concatenate([prefixes.values, table[last, prefixes.times % CONTROL_PERIOD]], 1)

    # The penalty: fitted to the smaller two thirds of the sizes, judged on the others.
    smaller = prefixes.sizes <= sizes[-(-2 * len(sizes) // 3) - 1]
    trials = _fit(states[smaller][:, seen], targets[smaller], PENALTIES[:, None])
    others = short & ~smaller
    errors = ((_read(trials, states[others][:, seen]) - targets[others]) ** 2).mean(1)
    penalty = PENALTIES[errors.argmin(0)]
    probe = _fit(states[short][:, seen], targets[short], penalty)
    r2, r2_short = (_r2(_read(probe, states[part][:, seen]), targets[part]) for part in (~short, short))

    weights = np.zeros((states.shape[1], counters))
    weights[seen] = probe.weights[:, :counters]
    # Features that the probe may not see come last.
    ranking = np.argsort(np.where(np.isin(np.arange(len(weights)), seen)[:, None], -abs(weights), 1), 0, kind="stable")
    top_r2 = np.zeros((len(TOP), counters))
    for place, number in enumerate(TOP):
        for k in range(counters):
            few = ranking[: min(number, len(seen)), k]
            of_few = _fit(states[short][:, few], targets[short, k : k + 1], penalty[k : k + 1])
            top_r2[place, k] = _r2(_read(of_few, states[~short][:, few]), targets[~short, k : k + 1])[0]
    enough = top_r2 >= 0.95 * r2[:counters]
    needed = np.where(enough.any(0), np.array(TOP, np.float64)[enough.argmax(0)], np.inf)
    control, control_short = r2[counters:].mean(), r2_short[counters:].mean()
    mean, scale = _standard(states[short])
    scores = ProbeScores(
        r2[:counters],
        r2_short[:counters],
        control,
        control_short,
        np.maximum(r2[:counters], 0) - np.maximum(control, 0),
        _correlation(states[~short], prefixes.values[~short]),
        ranking,
        top_r2,
        np.where(r2[:counters] > 0, needed, np.nan),
    )
    pattern = _pattern(states[short], prefixes.values[short], last[short])
    return Probe(mean, scale, weights, probe.bias[:counters], penalty[:counters], pattern), scores


def read(probe: Probe, states: np.ndarray) -> np.ndarray:
    """The counters' values as P probes read them, [P, strings, time, K], in states [P, strings, time, D]."""
    of_networks = lambda x: x[:, None, None]
    scaled = (states - of_networks(probe.mean)) / of_networks(probe.scale)
    return np.einsum("pstd,pdk->pstk", scaled, probe.weights) + of_networks(probe.bias)


def direction(
    probe: Probe, counter: int = 0, along: Literal["pattern", "probe", "unit", "random"] = "pattern", seed: int = 0
) -> np.ndarray:
    """What must be added to the states of P networks so that a counter grows by 1, [P, D].

    Args:
        probe: of the P networks.
        counter: its index in `CountedPrefixes.names`.
        along: "pattern" moves all features as they move when the network counts; "unit" only the one with the largest
            weight, as far; "probe" is the smallest change, in scales, that moves the reading by 1; "random", the
            control, has the size of the pattern, in scales, and no other meaning. Its sign has none either: compare the
            size of its effect, over several seeds.
        seed: of the random direction.

    Raises:
        ValueError: another word.
    """
    weights, pattern = probe.weights[..., counter], probe.pattern[..., counter]
    if along == "pattern":
        return pattern
    if along == "unit":
        return np.where(np.arange(weights.shape[1]) == abs(weights).argmax(1)[:, None], pattern, 0)
    if along == "probe":
        square = (weights**2).sum(1, keepdims=True)
        return probe.scale * weights / np.where(square > 0, square, 1)
    if along == "random":
        arrow = np.random.default_rng(seed).standard_normal(pattern.shape)
        size = lambda x: np.linalg.norm(x, axis=1, keepdims=True)
        return probe.scale * arrow * size(pattern / probe.scale) / size(arrow)
    raise ValueError(f"along={along!r} is unknown; choose 'pattern', 'probe', 'unit' or 'random'")


class _Fit(NamedTuple):
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray


def _standard(states):
    """Mean and standard deviation of each feature; 1 for what does not vary, whose weight then is 0."""
    mean, scale = states.mean(0), states.std(0)
    return mean, np.where(scale > 1e-6 * np.maximum(abs(mean), 1e-3), scale, 1)


def _fit(states, targets, penalties):
    """Ridge regressions: min mean (x w + b - y)^2 + penalty |w|^2 with standardised x [N, D].

    penalties: [K], one for each of the targets [N, K], to get weights [D, K]; [G, 1] to get [G, D, K].
    """
    mean, scale = _standard(states)
    x, bias = (states - mean) / scale, targets.mean(0)
    y = targets - bias
    # The smaller of the two Gram matrices is taken apart, once for all penalties.
    wide = x.shape[1] > len(x)
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    inside = vectors.T @ (y if wide else x.T @ y)
    shrunk = inside / (values[:, None] + len(x) * penalties[..., None, :])
    return _Fit(mean, scale, (x.T @ vectors if wide else vectors) @ shrunk, bias)


def _read(fit, states):
    """[N, K], or [G, N, K] for weights of G penalties."""
    return (states - fit.mean) / fit.scale @ fit.weights + fit.bias


def _r2(read, targets):
    return 1 - ((read - targets) ** 2).mean(0) / targets.var(0)


def _correlation(states, values):
    """Pearson's, [D, K]."""
    x, y = states - states.mean(0), values - values.mean(0)
    size = np.sqrt((x**2).sum(0)[:, None] * (y**2).sum(0))
    return x.T @ y / np.where(size > 0, size, 1)


def _pattern(states, values, last):
    """Slopes [D, K] of the features on the counters, with an intercept for each last token."""
    tokens = (last[:, None] == np.unique(last)).astype(np.float64)
    return np.linalg.lstsq(np.concatenate([values, tokens], 1), states)[0][: values.shape[1]].T
