"""A network of which everything is known: two exact counters among units that mean nothing.

One network may read its counters for a^n b^n, for balanced brackets or for a^n b^n c^n, or ignore them, for Sigma+. All
else that it needs to know is the last symbol.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.model import LanguageModel
from metalearn.languages.tokens import END, FIRST_SYMBOL, START, VOCABULARY

LANGUAGES = ("AnBn", "AB", "Dyck", "AnBnCn")
UNITS, FIRST, SECOND = 8, 3, 5  # units of the state; the one with #a - #b, the one with #b - #c

_DECAY = np.array([0.5, 0.8, -0.5, 1, 0.3, 1, -0.9, 0.7], np.float32)
_A, _B, _C = range(FIRST_SYMBOL, FIRST_SYMBOL + 3)


def _increments():
    """What each token adds to each unit, [V, UNITS]."""
    added = np.random.default_rng(1).normal(size=(VOCABULARY, UNITS)).astype(np.float32)
    added[:, [FIRST, SECOND]] = 0
    added[_A, FIRST], added[_B, FIRST] = 1, -1
    added[_B, SECOND], added[_C, SECOND] = 1, -1
    return added


@functools.cache
def counting_model() -> LanguageModel:
    """params: {"language": index into LANGUAGES, "limit": where both counters end}."""
    increments = jnp.asarray(_increments())

    def advance(params, carry, tokens):
        carry = jnp.where((tokens == START)[:, None], 0, carry) * _DECAY + increments[tokens]
        ends = jnp.isin(jnp.arange(UNITS), jnp.array([FIRST, SECOND]))
        carry = jnp.where(ends, jnp.clip(carry, -params["limit"], params["limit"]), carry)
        first, second = carry[:, FIRST] > 0.5, carry[:, SECOND] > 0.5
        start, a, b = (tokens == token for token in (START, _A, _B))
        none, end = jnp.zeros_like(a), ~start
        valid = [  # of a, b, c, END, in each language
            (start | a, a | first & ~start, none, b & ~first),
            (~none, ~none, none, end),
            (~none, first, none, end & ~first),
            (start | a, a | b & first, b & ~first | second & ~(start | a | b), end & ~(a | b | second)),
        ]
        allowed = jnp.zeros((len(tokens), VOCABULARY), bool)
        for column, of_languages in zip((_A, _B, _C, END), zip(*valid, strict=True), strict=True):
            allowed = allowed.at[:, column].set(jnp.stack(of_languages)[params["language"]])
        return carry, jnp.where(allowed, 0.0, -40.0)

    def start(params, batch):
        return jnp.zeros((batch, UNITS))

    def logits(params, tokens, key=None):
        step = lambda carry, now: advance(params, carry, now)
        return jax.lax.scan(step, start(params, len(tokens)), tokens.T)[1].swapaxes(0, 1)

    return LanguageModel(VOCABULARY, lambda key: None, logits, start, advance)


def counting_networks(*networks: tuple[str, float]) -> dict[str, np.ndarray]:
    """Params of networks, each a language and where its counters end."""
    names, limits = zip(*networks, strict=True)
    return {"language": np.array(list(map(LANGUAGES.index, names))), "limit": np.array(limits, np.float32)}
