"""Language models small enough to know everything about, and what is true of their strings by enumeration."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.lstm import lstm
from metalearn.languages.model import LanguageModel
from metalearn.languages.tokens import END, FIRST_SYMBOL, encode

SYMBOLS = 3
VOCABULARY = FIRST_SYMBOL + SYMBOLS + 1
A, B = FIRST_SYMBOL, FIRST_SYMBOL + 1


@functools.cache
def three_lstms():
    """Three random models side by side, from nearly uniform to nearly deterministic."""
    model = lstm(VOCABULARY, units=6)
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(3), 3))
    scale = np.array([1, 4, 12], np.float32)
    return model, jax.tree.map(lambda x: x * scale.reshape(3, *[1] * (x.ndim - 1)), params)


@functools.cache
def markov(vocabulary: int = VOCABULARY) -> LanguageModel:
    """A model whose parameters are its logits after each token, [V, V]."""

    def advance(params, carry, tokens):
        return carry, params[tokens]

    return LanguageModel(
        vocabulary,
        init=lambda key: jax.random.normal(key, (vocabulary, vocabulary)),
        logits=lambda params, tokens, key=None: params[tokens],
        start=lambda params, batch: jnp.zeros((batch, 0)),
        advance=advance,
    )


def table(rows: dict[int, dict[int, float]], vocabulary: int = VOCABULARY) -> jax.Array:
    """Parameters [1, V, V] of one `markov` model: the probability of each token after a token, where it is not zero."""
    logits = np.full((1, vocabulary, vocabulary), -np.inf, np.float32)
    logits[..., END] = 0
    for token, probabilities in rows.items():
        logits[0, token] = -np.inf
        for following, probability in probabilities.items():
            logits[0, token, following] = math.log(probability)
    return jnp.asarray(logits)


def next_token(logits, nucleus, temperature):
    """rank and drawn probabilities [V], spelled out: sort, take tokens until their mass reaches the nucleus."""
    logits = np.asarray(logits, np.float64)
    mass = np.exp(logits - logits.max())
    mass /= mass.sum()
    kept, total = np.zeros(len(mass), bool), 0.0
    for token in sorted(range(len(mass)), key=lambda t: -mass[t]):
        kept[token] = True
        total += mass[token]
        if nucleus < 1 and total >= nucleus:
            break
    hot = np.exp((logits - logits.max()) / temperature)
    return np.where(kept, hot / hot.sum(), 0), np.where(kept, mass / mass[kept].sum(), 0)


@functools.cache
def enumerated(max_symbols):
    """For each of `three_lstms` {string: logits [length + 1, V] up to its END} of all strings up to a length."""
    model, params = three_lstms()
    strings = [s for length in range(max_symbols + 1) for s in itertools.product(range(SYMBOLS), repeat=length)]
    tokens = encode(strings)[:, :-1]
    everything = jax.jit(jax.vmap(lambda p: model.logits(p, tokens, None)))(params)
    return [{s: rows[: len(s) + 1] for s, rows in zip(strings, each, strict=True)} for each in np.asarray(everything)]


def true_log_probabilities(of_one, nucleus=1.0, temperature=1.0):
    """{string: (rank, drawn)} of one model, from what `enumerated` says of it."""
    steps = functools.lru_cache(lambda logits: next_token(np.frombuffer(logits, np.float32), nucleus, temperature))
    found = {}
    for string, logits in of_one.items():
        targets = [*(FIRST_SYMBOL + s for s in string), END]
        chosen = [[p[t] for p in steps(at.tobytes())] for at, t in zip(logits, targets, strict=True)]
        with np.errstate(divide="ignore"):
            found[string] = tuple(np.log(chosen).sum(0))
    return found
