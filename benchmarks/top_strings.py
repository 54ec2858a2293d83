"""The 25 most probable strings of adapted language models: exact search against drawing samples.

One 64-unit network for each of the 56 evaluation languages, random weights adapted to 100 of its strings by the
published protocol, so that the models are as diverse as those that an evaluation meets.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.harness import Row, seconds
from metalearn.languages.adaptation import Adaptation, AdaptationSettings, protocol
from metalearn.languages.lstm import lstm
from metalearn.languages.model import LanguageModel
from metalearn.languages.randomness import host_rng
from metalearn.languages.search import most_probable
from metalearn.languages.strings import sample_strings
from metalearn.languages.targets import TARGETS
from metalearn.languages.tokens import VOCABULARY, letters_to_symbols

NAME = "top_strings"
STRINGS = 100
_LENGTH = 64  # tokens of a training string at most, as in the laptop preset


def adapted_models(languages: int, units: int) -> tuple[LanguageModel, Any]:
    """A model and its parameters, leaves [languages, ...], one adapted network for each of the first languages."""
    key = jax.random.key(0)
    model = lstm(VOCABULARY, units)
    targets = list(TARGETS.values())[:languages]
    corpora = [
        [letters_to_symbols(s, t.alphabet) for s in t.sample(host_rng(jax.random.fold_in(key, i)), STRINGS)]
        for i, t in enumerate(targets)
    ]
    params = jax.vmap(model.init)(jax.random.split(key, languages))
    how = protocol("logs", "standard", STRINGS)
    adaptation = Adaptation(model, AdaptationSettings(length=_LENGTH, group=min(14, languages)))
    return model, adaptation(params, corpora, (how.sgd_epochs, how.adamw_epochs), key)


def rows(languages: int = len(TARGETS), units: int = 64, draws: int = 20_000) -> Iterator[Row]:
    """Seconds for all languages: drawing, and searching."""
    how = protocol("logs", "standard", STRINGS)
    model, params = adapted_models(languages, units)
    params = jax.device_put(params)
    found = most_probable(model, params, nucleus=how.nucleus, temperature=how.temperature, rarest=1e-6)
    draw = lambda count: sample_strings(model, params, jax.random.key(1), count, nucleus=how.nucleus)
    search = lambda: most_probable(model, params, nucleus=how.nucleus, temperature=how.temperature, rarest=1e-6)
    draw(min(draws, 1024))  # compiles: strings are drawn in batches of 1024
    # One call of each: together they take minutes, and the ratio is far from 1.
    times = {name: seconds(call) for name, call in (("search", search), ("draw", lambda: draw(draws)))}
    yield Row(f"{NAME}/{draws} draws", times["draw"], "s", note=f"{languages} networks, each {draws} strings")
    proven = int(np.sum([top.complete for top in found]))
    yield Row(
        f"{NAME}/search",
        times["search"],
        "s",
        ratio_to_peer=times["draw"] / times["search"],
        note=f"{languages} networks, 25 strings each, proven to be the best in {proven}; peer: the draws",
    )
