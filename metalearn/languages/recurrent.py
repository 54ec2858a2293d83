"""Recurrent language models: embedding -> layers of one cell -> the embedding's transpose plus a bias.

Architecture and initialisation of McCoy & Griffiths (2025, released code), whose cell is the LSTM (lstm.py); other
cells, and a name for each, are in architectures.py. To add one, write a `Cell`, that is

    init    one layer's parameters, such as `Gates`;
    start   its state before a string;
    drive   what inputs contribute, for all times at once;
    step    one step of time;

and give it a name in `architectures.CELLS`. Embedding, output, dropout and the beginning of strings are the assembly's.

| symbol | name                                             |
|--------|--------------------------------------------------|
| V      | `vocabulary`                                     |
| H      | `units`: size of the embedding and of all layers |
| G      | gates of a cell                                  |
| D      | what one input drives, G H in most cells         |
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.languages.model import LanguageModel
from metalearn.languages.tokens import START


class Cell(NamedTuple):
    """One layer of a recurrent network, as pure functions.

    init(key, units) -> params.
    start(units, batch, dtype) -> state before the first token, leaves [batch, ...].
    drive(params, x) -> [..., D] for x [..., H]. Outside the scan over time: one large product, not many small ones.
    step(params, state, driven [batch, D]) -> (state, output [batch, H]).
    run(params, driven [time, batch, D], keep [time, batch, 1]) -> outputs [time, batch, H]: all steps, for a cell with
        a derivative of its own; where keep is 0 the step is from `start`. None: a scan of `step`.
    """

    init: Callable[[jax.Array, int], Any]
    start: Callable[[int, int, Any], Any]
    drive: Callable[[Any, jax.Array], jax.Array]
    step: Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]
    run: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None


class RecurrentParams(NamedTuple):
    """embedding [V, H] (also the output matrix), output_bias [V], and the layers from the bottom up."""

    embedding: jax.Array
    output_bias: jax.Array
    layers: tuple[Any, ...]


class Gates(NamedTuple):
    """Affine maps of input and hidden state to G gates: weights [H, G H], biases [G H].

    Two biases, although most cells only see their sum, as in PyTorch, with which weights can so be exchanged.
    """

    input_weights: jax.Array
    hidden_weights: jax.Array
    input_bias: jax.Array
    hidden_bias: jax.Array

    def drive(self, x: jax.Array) -> jax.Array:
        """All of the gates [..., G H] that the hidden state does not decide; x: [..., H]."""
        return x @ self.input_weights + (self.input_bias + self.hidden_bias)


def init_gates(count: int) -> Callable[[jax.Array, int], Gates]:
    """`Cell.init` of a cell whose parameters are `count` gates."""
    return lambda key, units: Gates(*uniform(key, units, [(units, count * units)] * 2 + [(count * units,)] * 2))


def uniform(key: jax.Array, units: int, shapes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """An array of each shape, drawn from U(-H^-1/2, H^-1/2) as in PyTorch."""
    bound = units**-0.5
    keys = jax.random.split(key, len(shapes))
    return [jax.random.uniform(k, shape, minval=-bound, maxval=bound) for k, shape in zip(keys, shapes, strict=True)]


def zeros(units: int, batch: int, dtype: Any) -> jax.Array:
    """`Cell.start` of a cell whose state is one vector, [batch, H]."""
    return jnp.zeros((batch, units), dtype)


def recurrent(cell: Cell, vocabulary: int, units: int, layers: int = 2, dropout: float = 0.0) -> LanguageModel:
    """The language model of a cell. Embedding and hidden size are both `units`.

    Dropout acts on embeddings, between layers and on the output of the last, and only where a key is given.

    Raises:
        ValueError: sizes below 1, or dropout outside [0, 1).
    """
    if min(vocabulary, units, layers) < 1:
        raise ValueError(f"vocabulary={vocabulary}, units={units} and layers={layers} must all be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must lie in [0, 1)")

    def init(key: jax.Array) -> RecurrentParams:
        embedding_key, *layer_keys = jax.random.split(key, layers + 1)
        return RecurrentParams(
            embedding=jax.random.uniform(embedding_key, (vocabulary, units), minval=-0.1, maxval=0.1),
            output_bias=jnp.zeros(vocabulary),
            layers=tuple(cell.init(k, units) for k in layer_keys),
        )

    def logits(params: RecurrentParams, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
        drop = _dropout(key, dropout, layers + 1)
        # Time leads from here on, so that the scan over it slices without copying. The embedding lookup is a product
        # with one-hot rows: its gradient then is a product too, not a scatter.
        keep = _keep(tokens.T, params)
        rows = jax.nn.one_hot(tokens.T, vocabulary, dtype=params.embedding.dtype)
        hidden = drop(0, rows @ params.embedding)
        for number, layer in enumerate(params.layers):
            hidden = drop(number + 1, run(layer, cell.drive(layer, hidden), keep))
        return (hidden @ params.embedding.T + params.output_bias).swapaxes(0, 1)

    def scan_of_steps(layer: Any, driven: jax.Array, keep: jax.Array) -> jax.Array:
        fresh = cell.start(units, driven.shape[1], driven.dtype)
        step = lambda state, row: cell.step(layer, _begin(state, fresh, row[1]), row[0])
        return jax.lax.scan(step, fresh, (driven, keep))[1]

    run = cell.run or scan_of_steps

    def start(params: RecurrentParams, batch: int) -> Any:
        return tuple(cell.start(units, batch, params.embedding.dtype) for _ in range(layers))

    def advance(params: RecurrentParams, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        hidden, moved, keep = params.embedding[tokens], [], _keep(tokens, params)
        carry = _begin(carry, start(params, len(tokens)), keep)
        for layer, state in zip(params.layers, carry, strict=True):
            state, hidden = cell.step(layer, state, cell.drive(layer, hidden))
            moved.append(state)
        return tuple(moved), hidden @ params.embedding.T + params.output_bias

    return LanguageModel(vocabulary, init, logits, start, advance)


def _keep(tokens, params):
    """[..., 1], 0 at START, which forgets what stood before it (a row may hold several strings end to end), else 1."""
    return (tokens != START)[..., None].astype(params.embedding.dtype)


def _begin(state, fresh, keep):
    """`state`, but `fresh` in the rows that begin a string; keep: [batch, 1]."""
    choose = lambda old, new: jnp.where(keep.reshape(-1, *[1] * (old.ndim - 1)) > 0, old, new)
    return jax.tree.map(choose, state, fresh)


def _dropout(key, rate, places):
    if key is None or rate == 0:
        return lambda place, x: x
    keys = jax.random.split(key, places)
    return lambda place, x: jnp.where(jax.random.bernoulli(keys[place], 1 - rate, x.shape), x / (1 - rate), 0)
