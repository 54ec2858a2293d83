"""The strings that a language model holds most probable, found exactly.

McCoy & Griffiths (2025) draw a million strings from an adapted model, re-rank the distinct ones
by their probability at another temperature and keep the best 25. Log-probability only falls as a prefix grows, so a
best-first search over prefixes finds the same 25 without drawing, and knows when it has them all.

Strings have two log-probabilities, `rank` and `drawn`: see `strings.py`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.model import LanguageModel
from metalearn.languages.strings import MAX_SYMBOLS, Symbols, check_settings, token_log_probabilities
from metalearn.languages.tokens import END, FIRST_SYMBOL, START, SYMBOLS

# Prefixes expanded at once for each model. More would waste work on prefixes that a better string, found in the same
# round, makes superfluous; fewer would leave the matrix products too small.
_WIDTH = 16


class TopStrings(NamedTuple):
    """The most probable strings of one model, best first; equal ranks by length, then by symbols.

    strings: at most k tuples of symbols.
    rank, drawn: [strings] float32, their log-probabilities, see `strings.py`.
    complete: whether this is proven to be all: no string left out has a higher rank than the last of these, and if
        there are fewer than k, the model has no more. False if the budget ran out before: better ones may be missing.
    """

    strings: tuple[Symbols, ...]
    rank: np.ndarray
    drawn: np.ndarray
    complete: bool


def most_probable(
    model: LanguageModel,
    params: Any,
    k: int = 25,
    *,
    nucleus: float = 1.0,
    temperature: float = 1.0,
    rarest: float = 0.0,
    max_symbols: int = MAX_SYMBOLS,
    symbols: int = SYMBOLS,
    budget: int = 4096,
) -> list[TopStrings]:
    """The k strings of highest rank of each of P models, searched for side by side.

    Memory: the model's carry for each expanded prefix, P * budget in all (16 KiB each for two layers of 1024 units).

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        k: number of strings wanted.
        nucleus: mass of the most probable tokens that are available at each position, in (0, 1].
        temperature: divides the logits before strings are ranked; the nucleus is chosen at temperature 1.
        rarest: strings that a single draw yields with a smaller probability are passed over. 1e-6 stands for "occurs in
            a million draws", which matters when temperature is not 1: rank and draws then favour different strings.
        max_symbols: longer strings are passed over.
        symbols: tokens FIRST_SYMBOL .. FIRST_SYMBOL + symbols - 1 make up strings.
        budget: prefixes expanded per model, at most.

    Returns:
        One `TopStrings` for each model.

    Raises:
        ValueError: an argument out of range.
    """
    check_settings(model, nucleus, temperature, max_symbols, symbols)
    if k < 1 or budget < 1:
        raise ValueError(f"k={k} strings within budget={budget} expansions: both must be at least 1")
    if not 0 <= rarest <= 1:
        raise ValueError(f"rarest={rarest} is a probability: it must lie in [0, 1]")
    rounds = -(-budget // _WIDTH)
    settings = (float(nucleus), float(temperature), float(np.log(rarest)) if rarest else -np.inf, max_symbols)
    found = jax.device_get(_search(model, k, symbols, rounds, params, settings))
    return [_read(_Found(*(x[pair] for x in found)), symbols) for pair in range(len(found.complete))]


class _Tree(NamedTuple):
    """Prefixes expanded so far (rows) and their one-symbol extensions (columns), of every model P.

    An extension is numbered row * symbols + symbol. Rows are written once, so a string is read off by going from row to
    the extension that it came from.
    """

    carry: Any  # [P, rows, ...], after the prefix
    came_from: jax.Array  # [P, rows] int32, the extension that this prefix is; -1 for the empty prefix
    length: jax.Array  # [P, rows] int32
    open_rank: jax.Array  # [P, rows, symbols], -inf once expanded
    open_drawn: jax.Array  # [P, rows, symbols]
    best_rank: jax.Array  # [P, k], of the best strings so far
    best_drawn: jax.Array  # [P, k]
    best_row: jax.Array  # [P, k] int32, the prefix that END follows


class _Found(NamedTuple):
    """The end of a search: of `_Tree` what the strings are read off from, and whether nothing promising is left."""

    rank: jax.Array
    drawn: jax.Array
    row: jax.Array
    came_from: jax.Array
    complete: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _search(model, k, symbols, rounds, params, settings):
    nucleus, temperature, floor, max_symbols = settings

    def expand(params, carry, tokens, length, rank, drawn):
        """Of prefixes with their last token still to be read: the carry, and every way to go on."""
        carry, logits = model.advance(params, carry, tokens)
        token_rank, token_drawn = token_log_probabilities(logits, nucleus, temperature)
        rank, drawn = rank[:, None] + token_rank, drawn[:, None] + token_drawn
        rank = jnp.where(drawn >= floor, rank, -jnp.inf)  # false for NaN too: a broken model has no strings
        extensions = slice(FIRST_SYMBOL, FIRST_SYMBOL + symbols)
        open_rank = jnp.where((length < max_symbols)[:, None], rank[:, extensions], -jnp.inf)
        return carry, open_rank, drawn[:, extensions], rank[:, END], drawn[:, END]

    def write(tree, first_row, came_from, length, carry, open_rank, open_drawn, end_rank, end_drawn):
        put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), first_row, axis=0)
        new_rows = first_row + jnp.arange(len(came_from), dtype=jnp.int32)
        best_rank, chosen = jax.lax.top_k(jnp.concatenate([tree.best_rank, end_rank]), k)
        return _Tree(
            jax.tree.map(put, tree.carry, carry),
            put(tree.came_from, came_from),
            put(tree.length, length),
            put(tree.open_rank, open_rank),
            put(tree.open_drawn, open_drawn),
            best_rank,
            jnp.concatenate([tree.best_drawn, end_drawn])[chosen],
            jnp.concatenate([tree.best_row, new_rows])[chosen],
        )

    def root(params):
        carry = model.start(params, 1)
        nothing = jnp.zeros(1, jnp.int32)
        expanded = expand(params, carry, nothing + START, nothing, *jnp.zeros((2, 1)))
        rows = 1 + rounds * _WIDTH
        dtype = expanded[1].dtype
        tree = _Tree(
            jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), expanded[0]),
            jnp.full(rows, -1, jnp.int32),
            jnp.zeros(rows, jnp.int32),
            open_rank=jnp.full((rows, symbols), -jnp.inf, dtype),
            open_drawn=jnp.full((rows, symbols), -jnp.inf, dtype),
            best_rank=jnp.full(k, -jnp.inf, dtype),
            best_drawn=jnp.full(k, -jnp.inf, dtype),
            best_row=jnp.zeros(k, jnp.int32),
        )
        return write(tree, 0, nothing - 1, nothing, *expanded)

    def expand_best(params, tree, first_row):
        rank, extension = jax.lax.top_k(tree.open_rank.ravel(), _WIDTH)
        row, symbol = extension // symbols, extension % symbols
        drawn = tree.open_drawn[row, symbol]
        tree = tree._replace(open_rank=tree.open_rank.at[row, symbol].set(-jnp.inf))
        length = tree.length[row] + 1
        carry = jax.tree.map(lambda x: x[row], tree.carry)
        return write(
            tree, first_row, extension, length, *expand(params, carry, FIRST_SYMBOL + symbol, length, rank, drawn)
        )

    def promising(tree):
        return jnp.max(tree.open_rank, (1, 2)) > tree.best_rank[:, -1]

    # One loop over all models rather than a vmapped loop, which would copy the whole tree in every round.
    def one_round(state):
        number, tree, _ = state
        tree = jax.vmap(expand_best, in_axes=(0, 0, None))(params, tree, 1 + number * _WIDTH)
        return number + 1, tree, promising(tree)

    tree = jax.vmap(root)(params)
    state = (jnp.int32(0), tree, promising(tree))
    _, tree, unfinished = jax.lax.while_loop(lambda s: (s[0] < rounds) & jnp.any(s[2]), one_round, state)
    return _Found(tree.best_rank, tree.best_drawn, tree.best_row, tree.came_from, ~unfinished)


def _read(found, symbols):
    """The `TopStrings` of one model."""
    strings = []
    for rank, drawn, at in zip(found.rank, found.drawn, found.row, strict=True):
        if rank == -np.inf:
            continue
        string: list[int] = []
        while found.came_from[at] >= 0:
            at, symbol = divmod(int(found.came_from[at]), symbols)
            string.append(symbol)
        strings.append((-rank, len(string), tuple(reversed(string)), drawn))
    strings.sort()
    return TopStrings(
        tuple(string for _, _, string, _ in strings),
        np.array([-rank for rank, *_ in strings], found.rank.dtype),
        np.array([drawn for *_, drawn in strings], found.drawn.dtype),
        bool(found.complete),
    )
