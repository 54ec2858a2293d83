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
from metalearn.languages.prefixes import Prefixes, looked_up
from metalearn.languages.products import Product, plain
from metalearn.languages.tokens import START


class Cell(NamedTuple):
    """One layer of a recurrent network, as pure functions.

    init(key, units) -> params.
    start(units, batch, dtype) -> state before the first token, leaves [batch, ...].
    drive(params, x) -> [..., D] for x [..., H]. Outside the scan over time: one large product, not many small ones.
    step(params, state, driven [batch, D]) -> (state, output [batch, H]).
    run(params, driven [time, batch, D], keep [time, batch, 1]) -> outputs [time, batch, H]: all steps, for a cell that
        takes them at once or has a derivative of its own; where keep is 0 the step is from `start`. None: a scan of
        `step`.
    branch(params, driven [times, rows, D], prefixes) -> outputs [times, rows, H]: as `run`, but each step goes on from
        the state of the parent of its cell in a grid of `Prefixes`. None: a scan of `step`, which keeps all states.
    """

    init: Callable[[jax.Array, int], Any]
    start: Callable[[int, int, Any], Any]
    drive: Callable[[Any, jax.Array], jax.Array]
    step: Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]
    run: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None
    branch: Callable[[Any, jax.Array, Prefixes], jax.Array] | None = None


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

    def drive(self, x: jax.Array, product: Product = jnp.matmul) -> jax.Array:
        """All of the gates [..., G H] that the hidden state does not decide; x: [..., H]."""
        return product(x, self.input_weights) + (self.input_bias + self.hidden_bias)


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

    def read(params: RecurrentParams, tokens: Any, key: jax.Array | None, through: Callable[..., Any]) -> jax.Array:
        """Logits [time, batch, V] of tokens [time, batch]. Time leads, so that scans over it slice without copying."""
        drop = _dropout(key, dropout, layers + 1)
        # The lookup is a product with one-hot rows: its gradient then is a product too, not a scatter. Without dropout
        # what each token drives is looked up, not its embedding.
        rows = jax.nn.one_hot(tokens, vocabulary, dtype=params.embedding.dtype)
        first, *others = params.layers
        if key is None or dropout == 0:
            driven = plain(rows, cell.drive(first, params.embedding))
        else:
            driven = cell.drive(first, drop(0, plain(rows, params.embedding)))
        hidden = drop(1, through(first, driven))
        for number, layer in enumerate(others, start=2):
            hidden = drop(number, through(layer, cell.drive(layer, hidden)))
        return hidden @ params.embedding.T + params.output_bias

    def logits(params: RecurrentParams, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
        keep = _keep(tokens.T, params)
        return read(params, tokens.T, key, lambda layer, driven: run(layer, driven, keep)).swapaxes(0, 1)

    def logits_after(params: RecurrentParams, prefixes: Prefixes, key: jax.Array | None = None) -> jax.Array:
        return read(params, prefixes.tokens, key, lambda layer, driven: branch(layer, driven, prefixes))

    def scan_of_steps(layer: Any, driven: jax.Array, keep: jax.Array) -> jax.Array:
        fresh = cell.start(units, driven.shape[1], driven.dtype)
        step = lambda state, row: cell.step(layer, _begin(state, fresh, row[1]), row[0])
        return jax.lax.scan(step, fresh, (driven, keep))[1]

    def scan_of_cells(layer: Any, driven: jax.Array, prefixes: Prefixes) -> jax.Array:
        times, rows = driven.shape[:2]
        fresh = cell.start(units, rows, driven.dtype)
        # The last row of cells, which no step fills, is where prefixes without parents go on from.
        filled = jax.tree.map(lambda x: jnp.broadcast_to(x, (times + 1, *x.shape)), fresh)

        def step(filled, row):
            time, driven, parents = row
            state, output = cell.step(layer, looked_up(filled, parents), driven)
            put = lambda all_, new: jax.lax.dynamic_update_index_in_dim(all_, new, time, 0)
            return jax.tree.map(put, filled, state), output

        return jax.lax.scan(step, filled, (jnp.arange(times), driven, prefixes.parents))[1]

    run, branch = cell.run or scan_of_steps, cell.branch or scan_of_cells

    def start(params: RecurrentParams, batch: int) -> Any:
        return tuple(cell.start(units, batch, params.embedding.dtype) for _ in range(layers))

    def advance(params: RecurrentParams, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        hidden, moved, keep = params.embedding[tokens], [], _keep(tokens, params)
        carry = _begin(carry, start(params, len(tokens)), keep)
        for layer, state in zip(params.layers, carry, strict=True):
            state, hidden = cell.step(layer, state, cell.drive(layer, hidden))
            moved.append(state)
        return tuple(moved), hidden @ params.embedding.T + params.output_bias

    return LanguageModel(vocabulary, init, logits, start, advance, logits_after)


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
