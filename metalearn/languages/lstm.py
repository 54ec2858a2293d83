"""LSTM language model with tied embeddings, as a pure learner.

Architecture and initialisation of McCoy & Griffiths (2025, released code): embedding -> LSTM layers ->
the embedding's transpose plus a bias; two bias vectors per layer, as in PyTorch, whose gate order (input, forget, cell,
output) and initialisation are kept so that weights can be exchanged with it.

The hidden-to-hidden gradient is not accumulated inside the backward scan over time but formed by one matrix product
after it (`_recurrence` is a `custom_vjp`). Both of its rules are ordinary differentiable code, so second
derivatives, in either mode of the core, go through.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.model import LanguageModel
from metalearn.languages.tokens import START


class LSTMLayer(NamedTuple):
    """One layer, H units: input_weights [H, 4H], hidden_weights [H, 4H], input_bias [4H], hidden_bias [4H]."""

    input_weights: jax.Array
    hidden_weights: jax.Array
    input_bias: jax.Array
    hidden_bias: jax.Array


class LSTMParams(NamedTuple):
    """embedding [V, H] (also the output matrix), output_bias [V], and the layers from the bottom up."""

    embedding: jax.Array
    output_bias: jax.Array
    layers: tuple[LSTMLayer, ...]


def lstm(vocabulary: int, units: int, layers: int = 2, dropout: float = 0.0) -> LanguageModel:
    """The language model. Embedding and hidden size are both `units`.

    Dropout acts on embeddings, between layers and on the output of the last, and only where a key is given.

    Raises:
        ValueError: sizes below 1, or dropout outside [0, 1).
    """
    if min(vocabulary, units, layers) < 1:
        raise ValueError(f"vocabulary={vocabulary}, units={units} and layers={layers} must all be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must lie in [0, 1)")

    def init(key: jax.Array) -> LSTMParams:
        embedding_key, *layer_keys = jax.random.split(key, layers + 1)
        return LSTMParams(
            embedding=jax.random.uniform(embedding_key, (vocabulary, units), minval=-0.1, maxval=0.1),
            output_bias=jnp.zeros(vocabulary),
            layers=tuple(_init_layer(k, units) for k in layer_keys),
        )

    def logits(params: LSTMParams, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
        drop = _dropout(key, dropout, layers + 1)
        # Time leads from here on, so that the scan over it slices without copying. The embedding lookup is a product
        # with one-hot rows: its gradient then is a product too, not a scatter.
        # START forgets what stood before it, so a row may hold several strings end to end.
        keep = (tokens.T != START)[..., None].astype(params.embedding.dtype)
        rows = jax.nn.one_hot(tokens.T, vocabulary, dtype=params.embedding.dtype)
        hidden = drop(0, rows @ params.embedding)
        for number, layer in enumerate(params.layers):
            driven = hidden @ layer.input_weights + (layer.input_bias + layer.hidden_bias)
            hidden = drop(number + 1, _recurrence(driven, layer.hidden_weights, keep))
        return (hidden @ params.embedding.T + params.output_bias).swapaxes(0, 1)

    def start(params: LSTMParams, batch: int) -> Any:
        zeros = jnp.zeros((batch, units), params.embedding.dtype)
        return tuple((zeros, zeros) for _ in range(layers))

    def advance(params: LSTMParams, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        hidden, moved = params.embedding[tokens], []
        keep = (tokens != START)[:, None].astype(hidden.dtype)
        for layer, (h, c) in zip(params.layers, carry, strict=True):
            h, c = keep * h, keep * c
            gates = hidden @ layer.input_weights + (layer.input_bias + layer.hidden_bias) + h @ layer.hidden_weights
            c, hidden = _cell(gates, c)
            moved.append((hidden, c))
        return tuple(moved), hidden @ params.embedding.T + params.output_bias

    return LanguageModel(vocabulary, init, logits, start, advance)


def _init_layer(key: jax.Array, units: int) -> LSTMLayer:
    bound = units**-0.5
    shapes = ((units, 4 * units), (units, 4 * units), (4 * units,), (4 * units,))
    keys = jax.random.split(key, len(shapes))
    return LSTMLayer(
        *(jax.random.uniform(k, s, minval=-bound, maxval=bound) for k, s in zip(keys, shapes, strict=True))
    )


def _dropout(key, rate, places):
    if key is None or rate == 0:
        return lambda place, x: x
    keys = jax.random.split(key, places)
    return lambda place, x: jnp.where(jax.random.bernoulli(keys[place], 1 - rate, x.shape), x / (1 - rate), 0)


def _activations(gates):
    """gates: [..., 4H] -> input, forget, candidate and output gates, [..., H] each."""
    # One tanh over all of them, as sigmoid(x) = (1 + tanh(x / 2)) / 2; the barrier keeps it one, as the compiler would
    # evaluate it anew for every use.
    units = gates.shape[-1] // 4
    candidate = np.arange(4) == 2
    scale = np.repeat(np.where(candidate, 1.0, 0.5), units).astype(gates.dtype)
    i, f, g, o = jnp.split(jax.lax.optimization_barrier(jnp.tanh(scale * gates)), 4, axis=-1)
    return 0.5 + 0.5 * i, 0.5 + 0.5 * f, g, 0.5 + 0.5 * o


def _cell(gates, c):
    i, f, g, o = _activations(gates)
    c = f * c + i * g
    return c, o * jnp.tanh(c)


@jax.custom_vjp
def _recurrence(driven, weights, keep):
    """h_t = cell(driven_t + keep_t h_{t-1} weights, keep_t c_{t-1}) from a zero state.

    driven: [time, batch, 4H]; keep: [time, batch, 1], 0 where a string begins, else 1. Returns [time, batch, H].
    """
    return _recurrence_forward(driven, weights, keep)[0]


def _recurrence_forward(driven, weights, keep):
    zeros = jnp.zeros((driven.shape[1], weights.shape[0]), driven.dtype)

    def step(carry, row):
        h, c = carry
        driven, keep = row
        gates = driven + (keep * h) @ weights
        c, h = _cell(gates, keep * c)
        return (h, c), (h, c, gates)

    _, (h, c, gates) = jax.lax.scan(step, (zeros, zeros), (driven, keep))
    return h, (h, c, gates, weights, keep)


def _recurrence_backward(residuals, dh):
    h, c, gates, weights, keep = residuals
    before = lambda x: keep * jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    i, f, g, o = _activations(gates)
    tanh_c = jnp.tanh(c)
    # What does not depend on later times is prepared for all times at once, outside the scan.
    to_c = o * (1 - tanh_c**2)
    from_c = jnp.concatenate([g * i * (1 - i), before(c) * f * (1 - f), i * (1 - g**2)], axis=-1)
    from_h = tanh_c * o * (1 - o)
    transposed = weights.T

    def step(carry, row):
        dh_later, dc_later = carry
        dh, to_c, from_c, from_h, f, keep = row
        dh = dh + dh_later
        dc = dc_later + dh * to_c
        dgates = jnp.concatenate([jnp.tile(dc, 3) * from_c, dh * from_h], axis=-1)
        return (keep * (dgates @ transposed), keep * (dc * f)), dgates

    zeros = jnp.zeros_like(h[0])
    _, dgates = jax.lax.scan(step, (zeros, zeros), (dh, to_c, from_c, from_h, f, keep), reverse=True)
    flat = lambda x: x.reshape(-1, x.shape[-1])
    return dgates, flat(before(h)).T @ flat(dgates), None


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
