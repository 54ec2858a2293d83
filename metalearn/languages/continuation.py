"""Continuation scores: does a model know, at each position of a string, what may come next?

Goodale et al. (2025). With P the model's distribution over all tokens after a prefix and Val
the set of valid next tokens (END among them where the string may end):

    precision   sum of P over Val
    recall      share of Val whose tokens each have more than all invalid tokens together, P(x) > 1 - precision
    F1          harmonic mean of the two, 0 if both are 0

Mass on PAD, START and other tokens that are never valid counts against the model.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metalearn.languages.language import END as MAY_END
from metalearn.languages.language import Language
from metalearn.languages.model import LanguageModel
from metalearn.languages.tokens import END, FIRST_SYMBOL, PAD, VOCABULARY, encode, letters_to_symbols


class Continuations(NamedTuple):
    """Test strings and what may follow each of their prefixes. Arrays of host or device, possibly with an axis [P].

    tokens: [strings, time + 1] int32, START, symbols, END, then PAD.
    valid: [strings, time, V] bool, whether a token is valid after the prefix that ends with this input token; all False
        where the input token is END or PAD.
    positions: [strings, time] bool, the positions that count: the input token is START or a symbol.
    constrained: [strings, time] bool, those of them where something is forbidden: fewer valid tokens than the
        language's alphabet has letters, plus one for END.
    may_end: [strings, time] bool, those of them where END is valid.
    """

    tokens: np.ndarray
    valid: np.ndarray
    positions: np.ndarray
    constrained: np.ndarray
    may_end: np.ndarray


class ContinuationScores(NamedTuple):
    """precision, recall, f1: [..., strings, time], 0 where a position does not count."""

    precision: jax.Array
    recall: jax.Array
    f1: jax.Array


def continuations(language: Language, strings: Sequence[str], vocabulary: int = VOCABULARY) -> Continuations:
    """Asks a language what may follow each prefix of the given strings, on the host.

    Args:
        language: the oracle.
        strings: members of the language, as letters; a repeated string counts as often as it is given.
        vocabulary: V.

    Raises:
        ValueError: no strings, or a string that is not in the language.
    """
    if not len(strings):
        raise ValueError(f"{language.name}: continuations need at least one test string, got none")
    tokens = encode([letters_to_symbols(string, language.alphabet) for string in strings])
    token_of = {letter: FIRST_SYMBOL + i for i, letter in enumerate(language.alphabet)} | {MAY_END: END}
    valid = np.zeros((*tokens[:, 1:].shape, vocabulary), bool)
    rows: dict[str, np.ndarray] = {}  # test strings share most of their prefixes
    for number, string in enumerate(strings):
        for time, following in enumerate(string + MAY_END):
            prefix = string[:time]
            if prefix not in rows:
                rows[prefix] = np.zeros(vocabulary, bool)
                rows[prefix][[token_of[letter] for letter in language.valid_next(prefix)]] = True
            if not rows[prefix][token_of[following]]:
                problem = "it ends too early" if following == MAY_END else f"no string continues {prefix!r} that way"
                raise ValueError(f"test string {string!r} is not in {language.name}, {language.definition}: {problem}")
            valid[number, time] = rows[prefix]
    positions = ~np.isin(tokens[:, :-1], (END, PAD))
    constrained = positions & (valid.sum(-1) < len(token_of))
    return Continuations(tokens, valid, positions, constrained, valid[..., END])


def stack_continuations(each: Sequence[Continuations]) -> Continuations:
    """One `Continuations` with a leading axis [P] of those of P languages, padded to the same shape.

    Rows and positions that were added do not count in any mean.

    Raises:
        ValueError: nothing to stack, or vocabularies that differ.
    """
    if not each:
        raise ValueError("there are no continuations to stack: give those of at least one language")
    vocabularies = sorted({c.valid.shape[-1] for c in each})
    if len(vocabularies) > 1:
        raise ValueError(f"continuations over vocabularies of {vocabularies} tokens cannot be stacked: use one size")

    def stack(*arrays):
        shape = np.max([a.shape for a in arrays], axis=0)
        fill = False if arrays[0].dtype == bool else PAD
        pad = lambda a: np.pad(
            a, [(0, wanted - had) for wanted, had in zip(shape, a.shape, strict=True)], constant_values=fill
        )
        return np.stack([pad(a) for a in arrays])

    return jax.tree.map(stack, *each)


def continuation_scores(logits: jax.Array, valid: jax.Array) -> ContinuationScores:
    """Scores at each position; may be jitted and vmapped.

    Args:
        logits: [strings, time, V] (or any leading axes).
        valid: the same shape, bool. Where nothing is valid, all scores are 0.
    """
    log_p = jax.nn.log_softmax(logits)
    log_bad = jax.nn.logsumexp(jnp.where(valid, -jnp.inf, log_p), axis=-1, keepdims=True)
    precision = jnp.sum(jnp.where(valid, jnp.exp(log_p), 0), -1)
    beaten = jnp.sum(valid & (log_p > log_bad), -1).astype(precision.dtype)
    recall = beaten / jnp.maximum(jnp.sum(valid, -1), 1)
    both = precision + recall
    return ContinuationScores(precision, recall, 2 * precision * recall / jnp.where(both > 0, both, 1))


def score_continuations(model: LanguageModel, params: Any, continuations: Continuations) -> ContinuationScores:
    """Scores of P models, the i-th on the i-th test set, at each position; may be jitted.

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        continuations: with a leading axis [P], see `stack_continuations`.
    """
    logits = jax.vmap(lambda p, tokens: model.logits(p, tokens[:, :-1], None))(
        params, jnp.asarray(continuations.tokens)
    )
    return continuation_scores(logits, jnp.asarray(continuations.valid))


class MeanScores(NamedTuple):
    """Means of a score over all positions, over those where something is forbidden, and over those that may end."""

    continuation: jax.Array | np.ndarray
    constrained: jax.Array | np.ndarray
    may_end: jax.Array | np.ndarray


def mean_scores(scores: ArrayLike, continuations: Continuations) -> MeanScores:
    """`mean_score` [...] of scores [..., strings, time], over each kind of position."""
    kinds = (continuations.positions, continuations.constrained, continuations.may_end)
    return MeanScores(*(mean_score(scores, positions) for positions in kinds))


def mean_score(scores: ArrayLike, positions: ArrayLike) -> jax.Array:
    """Mean over the positions of each string, then over strings that have such positions: [...].

    Args:
        scores: [..., strings, time].
        positions: [..., strings, time] bool, those that count: a field of `Continuations`.

    Returns:
        NaN where no position counts.
    """
    of_strings = string_means(scores, positions)
    return jnp.nanmean(of_strings, axis=-1)


def string_means(scores: ArrayLike, positions: ArrayLike) -> jax.Array:
    """Mean over the positions of each string, [..., strings]; NaN for a string of which no position counts."""
    return jnp.mean(scores, axis=-1, where=jnp.asarray(positions))


def position_means(scores: ArrayLike, positions: ArrayLike) -> jax.Array:
    """Mean over strings at each position, [..., time]; NaN at a position that counts in no string."""
    return jnp.mean(scores, axis=-2, where=jnp.asarray(positions))
