"""Causal tests of what a probe has found: does the network use those units, and does it count with them?

Ablation clamps units of the state to their mean after every token: nothing that they hold reaches the next token.
A network that counts with them can then no longer predict languages that must be counted, but others as before.

A counter's shift adds a vector to the state at one moment, such as after a^n. If what is added is a counter's growth by
delta, a network that counts ends a^n b^n delta later than it would have.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metalearn.languages.continuation import Continuations, MeanScores, continuation_scores, mean_scores
from metalearn.languages.language import END as MAY_END
from metalearn.languages.model import LanguageModel
from metalearn.languages.states import edited_logits, features, networks, states_of_one
from metalearn.languages.tokens import END, FIRST_SYMBOL, encode, letters_to_symbols


class Ablation(NamedTuple):
    """Continuation F1 of P networks: as they are [P], without the units [P], and without as many others [P, draws]."""

    intact: MeanScores
    ablated: MeanScores
    random: MeanScores


class Shift(NamedTuple):
    """What P networks do with a counter that was moved by each of M deltas, after each of S openings.

    ends: [P, S, M], how many closers are read until stopping is first preferred to one more of them; NaN where it is
        not within those that were read.
    moved: [P, S, M], ends minus where the same network ends if left alone; NaN where one of the two is.
    slope: [P], least squares of moved = slope * delta: 1 for a counter, 0 if the vector means nothing to the network;
        NaN if nothing is known.
    known: [P], share of the S M cases in which moved is known.
    """

    ends: np.ndarray
    moved: np.ndarray
    slope: np.ndarray
    known: np.ndarray


def ablate(
    model: LanguageModel, params: Any, units: ArrayLike, test: Continuations, draws: int = 8, seed: int = 0
) -> Ablation:
    """Scores P networks on one language without some of their units.

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        units: [P, k] ints, features of the states (states.py), such as the first k of `ProbeScores.ranking`. They are
            clamped to their mean over the positions of `test` in the intact network, after every token.
        test: test strings of one language, without an axis [P]. Rows that are mere padding (`stack_continuations`)
            change nothing; a common shape saves compiling for each language.
        draws: how many sets of other units to compare with. Each has as many units of each layer and part as `units`,
            none of them in it.
        seed: of the draws.

    Raises:
        ValueError: half of a part of a layer or more is ablated, so that there are not as many others.
    """
    units, parts = np.asarray(units), np.array([f"{f.part} of layer {f.layer}" for f in features(model, params)])
    rng, found = np.random.default_rng(seed), []
    for one, named in zip(networks(params), units, strict=True):
        sets = [(), named, *(_others(rng, parts, named) for _ in range(draws))]
        keep = np.stack([~np.isin(np.arange(len(parts)), off) for off in sets]).astype(np.float32)
        found.append(jax.device_get(_scores_without(model, one, test, keep)))
    of_all = MeanScores(*map(np.stack, zip(*found, strict=True)))
    return Ablation(*(jax.tree.map(lambda x, at=at: x[:, at], of_all) for at in (0, 1, slice(2, None))))


def _others(rng, parts, named):
    """As many units of each part as in `named`, drawn from the others."""
    drawn = []
    for part in np.unique(parts[named]):
        own = named[parts[named] == part]
        rest = np.setdiff1d(np.flatnonzero(parts == part), own)
        if len(rest) < len(own):
            raise ValueError(
                f"{len(own)} of {len(own) + len(rest)} units are ablated in the {part}: there are not as many others "
                "to compare with; ablate fewer"
            )
        drawn.append(rng.choice(rest, len(own), replace=False))
    return np.concatenate(drawn)


@functools.partial(jax.jit, static_argnums=0)
def _scores_without(model, params, test, keep):
    """Scores [E] of one network where keep [E, D] is 0 for the units that are clamped."""
    tokens, valid = jnp.asarray(test.tokens)[:, :-1], jnp.asarray(test.valid)
    counted = jnp.asarray(test.positions)[..., None]
    mean = jnp.mean(states_of_one(model, params, tokens), axis=(0, 1), where=counted)
    logits = edited_logits(model, params, tokens, jnp.ones(tokens.shape, bool), keep, (1 - keep) * mean)
    return mean_scores(continuation_scores(logits, jnp.broadcast_to(valid, logits.shape)).f1, test)


def shift_counter(
    model: LanguageModel,
    params: Any,
    direction: ArrayLike,
    openings: Sequence[str],
    closer: str,
    stop: str = MAY_END,
    *,
    alphabet: str,
    deltas: Sequence[float] = (-3, -2, -1, 1, 2, 3),
    beyond: int = 10,
) -> Shift:
    """Moves a counter of P networks after each opening and reads where they would now stop closing.

    | language    | opening           | closer | stop | what moves    |
    |-------------|-------------------|--------|------|---------------|
    | a^n b^n     | "a" * n           | "b"    | "$"  | the end       |
    | Dyck        | "(" * n           | ")"    | "$"  | the end       |
    | a^n b^n c^n | "a" * n           | "b"    | "c"  | the first c   |
    | a^n b^n c^n | "a" * n + "b" * n | "c"    | "$"  | the end       |

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        direction: [P, D], what to add for a delta of 1, see `probes.direction`.
        openings: strings after which the state is shifted, once, by delta times the direction. They must need more
            closers than the smallest delta takes away.
        closer: the letter that is read from there on, again and again.
        stop: the letter, or "$" for END, whose probability is compared with the closer's.
        alphabet: the language's, in the order of its symbols.
        deltas: in counts.
        beyond: how many closers are read beyond the longest opening's length and the largest delta.

    Raises:
        ValueError: no openings; a letter outside the alphabet.
    """
    deltas_M, lengths_S = np.array(deltas, np.float32), np.array(list(map(len, openings)))
    total = max(map(len, openings)) + int(np.ceil(max(0, *deltas))) + beyond  # closers after the longest opening
    full = [opening + closer * (lengths_S.max() + total - len(opening)) for opening in openings]
    tokens = encode([letters_to_symbols(string, alphabet) for string in full])[:, :-1]
    at = np.arange(tokens.shape[1]) == lengths_S[:, None]
    token_of = lambda letter: END if letter == MAY_END else FIRST_SYMBOL + letters_to_symbols(letter, alphabet)[0]
    pair = np.array([token_of(stop), token_of(closer)])
    ends = []
    for one, arrow in zip(networks(params), np.asarray(direction, np.float32), strict=True):
        add = np.concatenate([[0], deltas_M])[:, None] * arrow
        stops = np.asarray(_stops(model, one, tokens, at, add, pair))  # [1 + M, S, time]
        after = stops & (np.arange(tokens.shape[1]) > lengths_S[:, None])
        first = after.argmax(-1) - lengths_S
        ends.append(np.where(after.any(-1), first, np.nan).T)
    ends_PxSxM = np.stack(ends)
    alone, shifted = ends_PxSxM[..., :1], ends_PxSxM[..., 1:]
    moved = shifted - alone
    known = ~np.isnan(moved)
    square = (known * deltas_M**2).sum((1, 2))
    with np.errstate(invalid="ignore"):
        slope = np.where(known, moved * deltas_M, 0).sum((1, 2)) / square
    return Shift(shifted, moved, slope, known.mean((1, 2)))


@functools.partial(jax.jit, static_argnums=0)
def _stops(model, params, tokens, at, add, pair):
    """Whether stopping is preferred to closing, [E, strings, time]; pair: the tokens of stop and closer."""
    logits = edited_logits(model, params, tokens, at, jnp.ones_like(add), add)
    return logits[..., pair[0]] > logits[..., pair[1]]
