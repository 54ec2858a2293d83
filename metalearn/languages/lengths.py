"""Length generalisation: continuation scores by the size of a string and by position, far beyond what was trained."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.continuation import (
    MeanScores,
    continuation_scores,
    continuations,
    position_means,
    string_means,
)
from metalearn.languages.language import Language
from metalearn.languages.model import LanguageModel
from metalearn.languages.states import networks


class LengthCurves(NamedTuple):
    """Continuation F1 of P networks.

    sizes: [S] ints, those of the strings.
    by_size: [P, S] each, means over the strings of a size; NaN where they have no such position.
    by_position: [P, time], over the strings that have a position t: after START and t symbols.
    """

    sizes: np.ndarray
    by_size: MeanScores
    by_position: np.ndarray


def length_curves(
    model: LanguageModel, params: Any, language: Language, strings: Mapping[int, Sequence[str]]
) -> LengthCurves:
    """Scores P networks on strings of each size.

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        language: the oracle of what may follow.
        strings: members of the language, by size.

    Raises:
        ValueError: as `continuations`.
    """
    sizes = np.array(sorted(strings))
    test = continuations(language, [string for size in sizes for string in strings[size]])
    of_size = np.repeat(np.eye(len(sizes)), [len(strings[size]) for size in sizes], axis=0)  # [strings, S]
    f1 = np.stack([_f1(model, one, test.tokens, test.valid) for one in networks(params)])

    def means(positions):
        of_strings = np.asarray(string_means(f1, positions))
        known = ~np.isnan(of_strings)
        with np.errstate(invalid="ignore"):
            return np.where(known, of_strings, 0) @ of_size / (known @ of_size)

    by_size = MeanScores(*map(means, (test.positions, test.constrained, test.may_end)))
    return LengthCurves(sizes, by_size, np.asarray(position_means(f1, test.positions)))


@functools.partial(jax.jit, static_argnums=0)
def _f1(model, params, tokens, valid):
    return continuation_scores(model.logits(params, jnp.asarray(tokens)[:, :-1], None), jnp.asarray(valid)).f1
