"""How probable a string is to a language model, and draws from the model.

Two log-probabilities of a string are kept apart, because McCoy & Griffiths (2025) use both, one
to draw strings and the other to put them in order:

    drawn   that one draw yields the string: the product of token probabilities at temperature 1, renormalised over the
            nucleus (the smallest set of most probable tokens whose mass reaches p)
    rank    what strings are ordered by: the product of softmax(logits / temperature) over the whole vocabulary

Both are -inf where a token lies outside the nucleus, and where a string has more than `max_symbols` symbols. A draw
that meets PAD, START, UNKNOWN or the spare token is no string: its mass is lost. A model whose logits are NaN has no
strings.
"""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.model import LanguageModel
from metalearn.languages.tokens import END, FIRST_SYMBOL, PAD, START, SYMBOLS, decode

Symbols = tuple[int, ...]
"""A string, as symbols 0 .. 9."""

MAX_SYMBOLS = 105
"""Longest string that is drawn, scored or searched for, in symbols."""

# Strings drawn at once from each model, at most.
_BATCH = 1024


def string_log_probabilities(
    model: LanguageModel,
    params: Any,
    tokens: jax.Array,
    *,
    nucleus: float = 1.0,
    temperature: float = 1.0,
    max_symbols: int = MAX_SYMBOLS,
    symbols: int = SYMBOLS,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of given strings under each of P models, by teacher forcing.

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        tokens: [P, strings, time] int32, START, symbols, END, PAD, as of `encode`; or [strings, time], the same
            strings for all models. A row without END (cut off, or mere padding) is no string and has probability 0.
        nucleus: mass of the most probable tokens that are available at each position, in (0, 1].
        temperature: divides the logits before strings are ranked; the nucleus is chosen at temperature 1.
        max_symbols: longer strings have probability 0.
        symbols: tokens FIRST_SYMBOL .. FIRST_SYMBOL + symbols - 1 make up strings.

    Returns:
        rank, drawn: [P, strings] each, see the module's docstring.

    Raises:
        ValueError: an argument out of range.
    """
    check_settings(model, nucleus, temperature, max_symbols, symbols)
    pairs = jax.tree.leaves(params)[0].shape[0]
    tokens = jnp.asarray(tokens)
    if tokens.ndim == 2:
        tokens = jnp.broadcast_to(tokens, (pairs, *tokens.shape))
    if tokens.ndim != 3 or tokens.shape[0] != pairs or tokens.shape[2] < 2:
        raise ValueError(
            f"tokens has shape {tokens.shape}; with parameters of {pairs} models it must be [{pairs}, strings, time] "
            "or [strings, time], with time at least 2 for START and END"
        )
    return _score(model, symbols, params, tokens, (float(nucleus), float(temperature), max_symbols))


def sample_strings(
    model: LanguageModel,
    params: Any,
    key: jax.Array,
    count: int,
    *,
    nucleus: float = 1.0,
    max_symbols: int = MAX_SYMBOLS,
    symbols: int = SYMBOLS,
) -> list[collections.Counter[Symbols]]:
    """Draws `count` times from each of P models, at temperature 1, and counts the strings.

    Args:
        key: a typed key.
        count: number of draws from each model.
        model, params, nucleus, max_symbols, symbols: as for `string_log_probabilities`.

    Returns:
        For each model how often each string was drawn. The counts sum to less than `count` if draws were lost: those
        that met a token other than symbols and END, or had not ended after `max_symbols` symbols.

    Raises:
        ValueError: an argument out of range.
    """
    check_settings(model, nucleus, 1.0, max_symbols, symbols)
    if count < 1:
        raise ValueError(f"count={count} strings to draw must be at least 1")
    counters: list[collections.Counter[Symbols]] = [
        collections.Counter() for _ in range(jax.tree.leaves(params)[0].shape[0])
    ]
    batch = min(count, _BATCH)
    for number, first in enumerate(range(0, count, batch)):
        drawn = _draw(model, batch, max_symbols, symbols, params, jax.random.fold_in(key, number), float(nucleus))
        for counter, rows in zip(counters, np.asarray(drawn)[:, : count - first], strict=True):
            rows, counts = np.unique(rows[(rows == END).any(-1)], axis=0, return_counts=True)
            counter.update({decode(row): int(n) for row, n in zip(rows, counts, strict=True)})
    return counters


def check_settings(model: LanguageModel, nucleus: float, temperature: float, max_symbols: int, symbols: int) -> None:
    """Raises a ValueError that names the first of these arguments that is out of range."""
    if not 0 < nucleus <= 1:
        raise ValueError(f"nucleus={nucleus} is the probability mass to draw from: it must lie in (0, 1]")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive; 1 leaves the model as it is")
    if max_symbols < 0:
        raise ValueError(f"max_symbols={max_symbols} must not be negative")
    if not 1 <= symbols <= model.vocabulary - FIRST_SYMBOL:
        raise ValueError(
            f"symbols={symbols} must lie in 1 .. {model.vocabulary - FIRST_SYMBOL}: the model has {model.vocabulary} "
            f"tokens, of which the first {FIRST_SYMBOL} are no symbols"
        )


def token_log_probabilities(
    logits: jax.Array, nucleus: float | jax.Array, temperature: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """rank and drawn, [..., V] each, of every possible next token, from logits [..., V]."""
    probabilities = jax.nn.softmax(logits)
    # Every pair of tokens is compared: for a vocabulary of 15 that is cheaper than to sort and to undo the sorting.
    mine, other = probabilities[..., :, None], probabilities[..., None, :]
    index = jnp.arange(logits.shape[-1])
    ahead = (other > mine) | ((other == mine) & (index < index[:, None]))
    mass_ahead = jnp.sum(jnp.where(ahead, other, 0), -1)
    # At nucleus = 1 rounding must not cut the tail.
    available = (mass_ahead < nucleus) | (nucleus >= 1)
    rank = jnp.where(available, jax.nn.log_softmax(logits / temperature), -jnp.inf)
    return rank, jax.nn.log_softmax(jnp.where(available, logits, -jnp.inf))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(model, symbols, params, tokens, settings):
    nucleus, temperature, max_symbols = settings

    def of_one(params, tokens):
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        length = jnp.argmax(targets == END, -1)[:, None]  # of a row without END: 0, but there the END below is missing
        position = jnp.arange(targets.shape[1])
        symbol = (targets >= FIRST_SYMBOL) & (targets < FIRST_SYMBOL + symbols)
        expected = jnp.where(position < length, symbol, targets == END)
        is_string = (inputs[:, 0] == START) & (length[:, 0] <= max_symbols)
        is_string &= jnp.all(expected | (position > length), -1)

        def total(of_tokens):
            chosen = jnp.take_along_axis(of_tokens, targets[..., None], -1)[..., 0]
            sums = jnp.sum(jnp.where(position <= length, chosen, 0), -1)
            return jnp.where(is_string & ~jnp.isnan(sums), sums, -jnp.inf)

        logits = model.logits(params, inputs, None)
        rank, drawn = token_log_probabilities(logits, nucleus, temperature)
        return total(rank), total(drawn)

    return jax.vmap(of_one)(params, tokens)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _draw(model, batch, max_symbols, symbols, params, key, nucleus):
    """Tokens [P, batch, 1 + max_symbols + 1] int8 of one batch of draws; a lost draw has no END."""
    pairs = jax.tree.leaves(params)[0].shape[0]

    def draw_token(params, carry, token, key):
        carry, logits = model.advance(params, carry, token)
        _, drawn = token_log_probabilities(logits, nucleus, 1.0)
        new = jax.random.categorical(key, drawn)
        lawful = (new == END) | ((new >= FIRST_SYMBOL) & (new < FIRST_SYMBOL + symbols))
        stopped = (token == END) | (token == PAD)
        return carry, jnp.where(lawful & ~stopped, new, PAD).astype(jnp.int32)

    def step(state):
        position, carry, token, tokens = state
        keys = jax.random.split(jax.random.fold_in(key, position), pairs)
        carry, token = jax.vmap(draw_token)(params, carry, token, keys)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[..., None].astype(jnp.int8), position, axis=2)
        return position + 1, carry, token, tokens

    token = jnp.full((pairs, batch), START)
    tokens = jnp.full((pairs, batch, max_symbols + 2), PAD, jnp.int8).at[:, :, 0].set(START)
    state = (jnp.int32(1), jax.vmap(lambda p: model.start(p, batch))(params), token, tokens)
    going_on = lambda s: (s[0] < max_symbols + 2) & jnp.any((s[2] != END) & (s[2] != PAD))
    return jax.lax.while_loop(going_on, step, state)[3]
