"""Which networks each experiment needs: the contrasts of Goodale et al. (2025), E0 to E5, and beyond."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from experiments.formal_languages.lab.config import LabConfig
from experiments.formal_languages.lab.records import POOLS, Condition
from metalearn.languages.nine import NINE

# Sources of the contrasts that need one regular language and one that takes counting.
_PLAIN, COUNTING = "An", "AnBnCn"
# What a memory is for: a stack reverses, a queue repeats.
_MEMORIES = {"stack": "XXR", "queue": "XX"}
# Where meta-training itself is varied: languages that take one counter and two.
_COUNTED = ("AnBn", "AnBnCn")
# Which architectures are looked into: one that can count, and two that cannot.
_CONTRASTED = ("lstm", "gru", "clipped_lstm")

RATES = {"transformer": 0.1}
"""Share of the configured rates of SGD, of meta-training and of adaptation, that an architecture takes; others take all
of them. At the rate of the recurrent networks, 1.0, a Transformer diverges: 2.7 nats a token after 150 steps on
a^n b^n c^n, and 0.7 at 0.1."""


class Network(NamedTuple):
    """How a network came about, before it adapts to anything. See `Condition`."""

    architecture: str
    source: str
    training: str


def conditions_of(config: LabConfig, experiment: str) -> list[Condition]:
    """The conditions of an experiment, in a fixed order; of "everything": of all."""
    names = _CONDITIONS if experiment == "everything" else (experiment,)
    return list(dict.fromkeys(itertools.chain(*(_CONDITIONS[name](config) for name in names))))


def networks(conditions: Iterable[Condition]) -> list[Network]:
    """The kinds of networks that these conditions start from."""
    return list(dict.fromkeys(Network(*condition[:3]) for condition in conditions))


def looked_into(config: LabConfig) -> tuple[Network, ...]:
    """The meta-trained networks that are looked into; beside them, random ones of the same architectures."""
    return tuple(Network(name, COUNTING, "exact") for name in _CONTRASTED if name in config.architectures)


def _of(architecture: str, *sources: str, training: str = "exact", frozen: bool = False) -> list[Condition]:
    """Networks trained on these sources, "none" among them if it is named."""
    return [Condition(architecture, s, "none" if s == "none" else training, frozen) for s in sources]


def _simplicity(config: LabConfig) -> list[Condition]:
    return _of("lstm", "none", *itertools.chain(*POOLS.values()))


def _mechanisms(config: LabConfig) -> list[Condition]:
    return _of("lstm", "none", *NINE)


def _architectures(config: LabConfig) -> list[Condition]:
    found = []
    for name in config.architectures:
        found += _of(name, "none", _PLAIN, COUNTING)
    for name, source in _MEMORIES.items():
        if name in config.architectures:
            found += _of(name, source) + _of("lstm", source)
    return found


def _one_or_many(config: LabConfig) -> list[Condition]:
    return _mechanisms(config) + _simplicity(config)


def _estimators(config: LabConfig) -> list[Condition]:
    found = _of("lstm", "none")
    for training in ("exact", "first_order", "displacement", "pre_trained"):
        found += _of("lstm", *_COUNTED, training=training)
    return found


def _frozen(config: LabConfig) -> list[Condition]:
    sources = ("none", _PLAIN, *_COUNTED, "Dyck")
    return _of("lstm", *sources) + _of("lstm", *sources, frozen=True)


def _inside(config: LabConfig) -> list[Condition]:
    return [c for network in looked_into(config) for c in _of(network.architecture, "none", network.source)]


_CONDITIONS = {
    "simplicity": _simplicity,
    "mechanisms": _mechanisms,
    "architectures": _architectures,
    "one_or_many": _one_or_many,
    "estimators": _estimators,
    "frozen": _frozen,
    "inside": _inside,
}
SCORED = tuple(name for name in _CONDITIONS if name != "inside")
EXPERIMENTS = (*_CONDITIONS, "everything")
