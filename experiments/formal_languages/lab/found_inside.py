"""What is found inside the networks, as plain arrays, S being seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

STAGES = ("random", "meta-trained", "adapted")
TRAINED, UNTRAINED = "meta-trained", "not meta-trained"


class Probes(NamedTuple):
    """How well a linear map reads counters from states, at lengths it was not fitted on.

    title: whose states ("LSTM meta-trained on AnBnCn").
    counters: names with their language ("AnBn: #a-#b").
    r2: [3 stages, counters, S]; a probe can be worse than a constant, which counts as 0.
    selectivity: the same; R^2, at least 0, minus that of probes for labels without meaning, at least 0.
    """

    title: str
    counters: Sequence[str]
    r2: np.ndarray
    selectivity: np.ndarray


class Trace(NamedTuple):
    """A counter and what is read from the states, after each of T symbols of one string.

    true: [T + 1]. read: stage -> [T + 1].
    """

    title: str
    string: str
    counter: str
    true: np.ndarray
    read: Mapping[str, np.ndarray]


class Ablations(NamedTuple):
    """F1 where something is forbidden, without and with units clamped to their mean.

    targets, counting: names, and whether each needs a counter.
    intact, named, random: [S, targets], all units there; those clamped that the probe names; as many random ones.
    """

    title: str
    targets: Sequence[str]
    counting: Sequence[bool]
    intact: np.ndarray
    named: np.ndarray
    random: np.ndarray


class Shifts(NamedTuple):
    """How far the predicted end of a string moves when a counter is shifted.

    deltas: [D] added to the counter. moved: [S, D], in symbols, mean over openings; NaN where the string never ends.
    random: [S, D], how far it moves, either way, if as much is added in random directions of state space.
    """

    title: str
    deltas: np.ndarray
    moved: np.ndarray
    random: np.ndarray


class Lengths(NamedTuple):
    """F1 where something is forbidden at sizes and positions far beyond those learned from.

    sizes: [L]. by_size: TRAINED or UNTRAINED -> [S, L]. by_position: the same -> [S, T].
    trained: the largest size in what was learned from.
    """

    title: str
    sizes: np.ndarray
    by_size: Mapping[str, np.ndarray]
    by_position: Mapping[str, np.ndarray]
    trained: int


class Inside(NamedTuple):
    """All that was found inside; what was not looked for is empty."""

    probes: Sequence[Probes] = ()
    traces: Sequence[Trace] = ()
    ablations: Sequence[Ablations] = ()
    shifts: Sequence[Shifts] = ()
    lengths: Sequence[Lengths] = ()


def seeds_in_words(count: int) -> str:
    """ "3 seeds"."""
    return f"{count} seed{'s' * (count != 1)}"
