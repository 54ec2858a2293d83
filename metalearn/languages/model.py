"""What a language model is to this wing, and the loss that all of them are trained on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import sum_in_parts
from metalearn.languages.prefixes import Prefixes
from metalearn.languages.tokens import PAD, START


class LanguageModel(NamedTuple):
    """An autoregressive model of token strings, as pure functions. V: size of the vocabulary.

    vocabulary: V.
    init(key) -> params.
    logits(params, tokens, key) -> [strings, time, V] for tokens [strings, time] int32; the key drives dropout, None
        turns it off. A START inside a row begins a new string: nothing before it may matter after it.
    start(params, batch) -> carry before the first token, for `batch` strings read side by side; the leaves of a carry
        have the batch as their leading axis.
    advance(params, carry, tokens) -> (carry, logits [batch, V]) after one more token each, [batch] int32. No dropout.
    logits_after(params, prefixes, key) -> [times, rows, V] for one grid of `Prefixes`: what follows each of them.
    """

    vocabulary: int
    init: Callable[[jax.Array], Any]
    logits: Callable[..., jax.Array]
    start: Callable[[Any, int], Any]
    advance: Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]
    logits_after: Callable[..., jax.Array] | None = None


class Strings(NamedTuple):
    """A batch of strings, optionally weighted.

    tokens: [rows, time + 1] int32. A row is START, symbols, END, then PAD, or several such strings end to end.
    counts: float32, how often each string occurs: [rows], or [rows, time] for the tokens that are predicted, where a
        row holds several strings. Scoring distinct strings weighted by their counts gives the loss of the whole
        sample for a fraction of the work (without dropout). A count of 0 marks padding.
    """

    tokens: jax.Array | np.ndarray
    counts: jax.Array | np.ndarray


def cross_entropy(
    model: LanguageModel,
    params: Any,
    strings: Strings | Prefixes,
    key: jax.Array | None = None,
    at_once: int | None = None,
    own: tuple[Any, Any] | None = None,
) -> jax.Array:
    """Mean cross-entropy in nats over all predicted tokens (symbols and END) of all strings, a scalar.

    A mean over tokens, not over strings: long strings weigh more, as in McCoy & Griffiths (2025).

    Args:
        strings: themselves, or their prefixes. Several grids of prefixes are scored one after the other.
        key: drives dropout; None turns it off.
        at_once: rows of `Strings` scored side by side; the gradient then accumulates part by part (core/parts.py), so
            that memory is that of one part. None: all.
        own: (begin, end): scores only these of the parts (see `parts_of`), and returns what they add to the mean over
            all, so that what comes of all parts is that mean. Integers that may be traced.
    """
    if isinstance(strings, Prefixes):
        return _cross_entropy_after(model, params, strings, key, own)
    targets = strings.tokens[:, 1:]
    counts = strings.counts if strings.counts.ndim == targets.ndim else strings.counts[:, None]
    weights = ((targets != PAD) * (targets != START) * counts).astype(np.float32)
    if at_once is None and own is None:
        total = _surprise(model, params, strings.tokens, weights, key)
    else:
        keys = None if key is None else jax.random.split(key, len(targets))
        part = lambda params, rows: _surprise(model, params, rows[0], rows[1], None if key is None else rows[2][0])
        total = sum_in_parts(part, at_once or len(targets))(params, (strings.tokens, weights, keys), own)
    return total / jnp.maximum(jnp.sum(weights), 1.0)


def parts_of(strings: Strings | Prefixes, at_once: int | None = None) -> jax.Array | int:
    """In how many parts `cross_entropy` scores strings: grids with a prefix, or groups of `at_once` rows."""
    if not isinstance(strings, Prefixes):
        rows = len(strings.tokens)
        return -(-rows // (at_once or rows))
    if strings.tokens.ndim == 2:
        return 1
    # Grids without a prefix come last.
    return jnp.max(jnp.where((strings.tokens != PAD).any((1, 2)), np.arange(len(strings.tokens)) + 1, 0))


def _surprise(model, params, tokens, weights, key):
    """Sum over tokens of weight times surprise. tokens: [rows, time + 1]; weights: [rows, time]."""
    logits = model.logits(params, tokens[:, :-1], key)
    chosen = jnp.sum(logits * jax.nn.one_hot(tokens[:, 1:], model.vocabulary, dtype=logits.dtype), -1)
    return jnp.sum(weights.astype(logits.dtype) * (jax.nn.logsumexp(logits, -1) - chosen))


def _cross_entropy_after(model, params, prefixes, key, own):
    several = prefixes.tokens.ndim == 3
    if not several and own is None:
        total = _surprise_after(model, params, prefixes, key)
    else:
        grids = prefixes if several else jax.tree.map(lambda x: x[None], prefixes)
        keys = None if key is None else jax.random.split(key, len(grids.tokens))
        first = lambda rows: jax.tree.map(lambda x: x[0], rows)
        of_one = lambda params, rows: _surprise_after(model, params, *first(rows))
        own = (0, parts_of(prefixes)) if own is None else own
        total = sum_in_parts(of_one, 1)(params, (grids, keys), own)
    return total / jnp.maximum(jnp.sum(prefixes.counts), 1.0)


def _surprise_after(model, params, prefixes, key):
    """Sum of the surprise of all tokens that follow the prefixes of one grid."""
    # Tokens lead: sums over a few of them then go through many prefixes at once.
    logits = jnp.moveaxis(model.logits_after(params, prefixes, key), -1, 0)
    counts = jnp.moveaxis(prefixes.counts, -1, 0).astype(logits.dtype)
    return jnp.sum(counts.sum(0) * jax.nn.logsumexp(logits, 0)) - jnp.sum(counts * logits)
