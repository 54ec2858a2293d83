"""Recurrent language models that differ in what their state can do, all behind the interface of the LSTM.

| name           | state of a layer                 | can it count without bound?                                     |
|----------------|----------------------------------|-----------------------------------------------------------------|
| "gru"          | convex mixture, in (-1, 1)       | no: every step contracts                                        |
| "elman"        | tanh, in (-1, 1)                 | no                                                              |
| "relu"         | rectified, unbounded             | in principle (Weiss, Goldberg & Yahav 2018), hard to train      |
| "clipped_lstm" | LSTM, its cell clipped to [-1, 1]| no: the LSTM with nothing but its counter removed               |
| "stack"        | Elman and a differentiable stack | yes, and it can reverse (Joulin & Mikolov 2015)                 |
| "queue"        | Elman and a differentiable queue | yes, and it can repeat (Grefenstette et al. 2015)               |

The LSTM itself is in lstm.py, with a backward pass of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.languages.lstm import lstm
from metalearn.languages.model import LanguageModel
from metalearn.languages.tokens import START


class Cell(NamedTuple):
    """One layer of a recurrent network of H units, as pure functions.

    init(key, units) -> params.
    zero(units, batch, dtype) -> carry before the first token, leaves [batch, ...].
    step(params, carry, x) -> (carry, output [batch, H]) for x [batch, H].
    """

    init: Callable[[jax.Array, int], Any]
    zero: Callable[[int, int, Any], Any]
    step: Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]


class RecurrentParams(NamedTuple):
    """embedding [V, H] (also the output matrix), output_bias [V], and the layers from the bottom up."""

    embedding: jax.Array
    output_bias: jax.Array
    layers: tuple[Any, ...]


class Gates(NamedTuple):
    """Affine maps of input and hidden state to G gates: weights [H, G H], biases [G H], as in PyTorch."""

    input_weights: jax.Array
    hidden_weights: jax.Array
    input_bias: jax.Array
    hidden_bias: jax.Array


def _gates(count: int) -> Callable[[jax.Array, int], Gates]:
    def init(key, units):
        bound = units**-0.5
        shapes = ((units, count * units), (units, count * units), (count * units,), (count * units,))
        keys = jax.random.split(key, len(shapes))
        draw = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        return Gates(*(draw(k, s) for k, s in zip(keys, shapes, strict=True)))

    return init


def gru() -> Cell:
    """Gated recurrent unit (Cho et al. 2014), in the form that PyTorch computes."""

    def step(params: Gates, h, x):
        of_x = jnp.split(x @ params.input_weights + params.input_bias, 3, axis=-1)
        of_h = jnp.split(h @ params.hidden_weights + params.hidden_bias, 3, axis=-1)
        reset, update = (jax.nn.sigmoid(a + b) for a, b in zip(of_x[:2], of_h[:2], strict=True))
        h = (1 - update) * jnp.tanh(of_x[2] + reset * of_h[2]) + update * h
        return h, h

    return Cell(_gates(3), _zero_vector, step)


def elman(activation: Callable[[jax.Array], jax.Array]) -> Cell:
    """h' = activation(affine map of x and h) (Elman 1990)."""

    def step(params: Gates, h, x):
        h = activation(x @ params.input_weights + params.input_bias + h @ params.hidden_weights + params.hidden_bias)
        return h, h

    return Cell(_gates(1), _zero_vector, step)


def clipped_lstm(limit: float = 1.0) -> Cell:
    """An LSTM whose cell state is clipped to [-limit, limit] after each step, so that it cannot add up."""

    def step(params: Gates, carry, x):
        h, c = carry
        gates = x @ params.input_weights + params.input_bias + h @ params.hidden_weights + params.hidden_bias
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jnp.clip(jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g), -limit, limit)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = lambda units, batch, dtype: (_zero_vector(units, batch, dtype),) * 2
    return Cell(_gates(4), zero, step)


class MemoryParams(NamedTuple):
    """gates: of the Elman controller; read [H, H]: from the memory's front; action [H, 3], bias [3]; push [H, H]."""

    gates: Gates
    read: jax.Array
    action: jax.Array
    action_bias: jax.Array
    push: jax.Array


def memory(kind: str, depth: int = 32) -> Cell:
    """An Elman controller with a differentiable stack or queue of H-vectors, `depth` deep.

    At each step the controller reads the front, and a softmax says how much to push a vector, pop the front, or leave
    all as it is; the new memory is that mixture. A stack pushes at the front (Joulin & Mikolov 2015). A queue pushes
    behind its last element, whose place is a mixture too.

    Raises:
        ValueError: a kind other than "stack" or "queue".
    """
    if kind not in ("stack", "queue"):
        raise ValueError(f"kind={kind!r} is unknown; choose 'stack' or 'queue'")

    def init(key, units):
        gates_key, read_key, action_key, push_key = jax.random.split(key, 4)
        bound = units**-0.5
        draw = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        return MemoryParams(
            _gates(1)(gates_key, units),
            draw(read_key, (units, units)),
            draw(action_key, (units, 3)),
            jnp.zeros(3),
            draw(push_key, (units, units)),
        )

    def zero(units, batch, dtype):
        place = jnp.zeros((batch, depth + 1), dtype).at[:, 0].set(1)  # of the first free cell; a stack ignores it
        return _zero_vector(units, batch, dtype), jnp.zeros((batch, depth, units), dtype), place

    def step(params: MemoryParams, carry, x):
        h, cells, place = carry
        gates = params.gates
        driven = x @ gates.input_weights + gates.input_bias + h @ gates.hidden_weights + gates.hidden_bias
        h = jnp.tanh(driven + cells[:, 0] @ params.read)
        push, pop, stay = jnp.split(jax.nn.softmax(h @ params.action + params.action_bias), 3, axis=-1)
        pushed = jnp.tanh(h @ params.push)
        popped = jnp.concatenate([cells[:, 1:], jnp.zeros_like(cells[:, :1])], 1)
        if kind == "stack":
            grown = jnp.concatenate([pushed[:, None], cells[:, :-1]], 1)
        else:
            grown = cells + place[:, :-1, None] * pushed[:, None]
        cells = push[:, None] * grown + pop[:, None] * popped + stay[:, None] * cells
        # The last place means "full"; what is pushed there is lost. Popping nothing changes nothing.
        further = jnp.concatenate([jnp.zeros_like(place[:, :1]), place[:, :-2], place[:, -2:].sum(1, keepdims=True)], 1)
        nearer = jnp.concatenate([place[:, :2].sum(1, keepdims=True), place[:, 2:], jnp.zeros_like(place[:, :1])], 1)
        return (h, cells, push * further + pop * nearer + stay * place), h

    return Cell(init, zero, step)


def recurrent(vocabulary: int, units: int, layers: int, cell: Cell, dropout: float = 0.0) -> LanguageModel:
    """The language model of a cell: tied embeddings and dropout as in `lstm`.

    Raises:
        ValueError: sizes below 1, or dropout outside [0, 1).
    """
    if min(vocabulary, units, layers) < 1:
        raise ValueError(f"vocabulary={vocabulary}, units={units} and layers={layers} must all be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must lie in [0, 1)")

    def init(key: jax.Array) -> RecurrentParams:
        embedding_key, *layer_keys = jax.random.split(key, layers + 1)
        embedding = jax.random.uniform(embedding_key, (vocabulary, units), minval=-0.1, maxval=0.1)
        return RecurrentParams(embedding, jnp.zeros(vocabulary), tuple(cell.init(k, units) for k in layer_keys))

    def reset(carry: Any, tokens: jax.Array) -> Any:
        """`carry`, but as at the beginning in the rows whose token is START."""
        new = tokens == START
        fresh = start_of(carry, len(tokens))
        return jax.tree.map(lambda c, z: jnp.where(new.reshape(-1, *[1] * (c.ndim - 1)), z, c), carry, fresh)

    def start_of(carry: Any, batch: int) -> Any:
        dtype = jax.tree.leaves(carry)[0].dtype
        return tuple(cell.zero(units, batch, dtype) for _ in range(layers))

    def start(params: RecurrentParams, batch: int) -> Any:
        return tuple(cell.zero(units, batch, params.embedding.dtype) for _ in range(layers))

    def advance_with(params, carry, tokens, masks):
        rows = jax.nn.one_hot(tokens, vocabulary, dtype=params.embedding.dtype)
        hidden, moved = masks[0] * (rows @ params.embedding), []
        for layer, state, mask in zip(params.layers, reset(carry, tokens), masks[1:], strict=True):
            state, hidden = cell.step(layer, state, hidden)
            hidden = mask * hidden
            moved.append(state)
        return tuple(moved), hidden @ params.embedding.T + params.output_bias

    def advance(params: RecurrentParams, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
        return advance_with(params, carry, tokens, [1.0] * (layers + 1))

    def logits(params: RecurrentParams, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
        batch, time = tokens.shape
        if key is None or dropout == 0:
            masks = None
        else:
            kept = jax.random.bernoulli(key, 1 - dropout, (time, layers + 1, batch, units))
            masks = kept.astype(params.embedding.dtype) / (1 - dropout)

        def step(carry, row):
            tokens, masks = row
            return advance_with(params, carry, tokens, [1.0] * (layers + 1) if masks is None else masks)

        return jax.lax.scan(step, start(params, batch), (tokens.T, masks))[1].swapaxes(0, 1)

    return LanguageModel(vocabulary, init, logits, start, advance)


CELLS: dict[str, Callable[[], Cell]] = {
    "gru": gru,
    "elman": lambda: elman(jnp.tanh),
    "relu": lambda: elman(jax.nn.relu),
    "clipped_lstm": clipped_lstm,
    "stack": lambda: memory("stack"),
    "queue": lambda: memory("queue"),
}
ARCHITECTURES = ("lstm", *CELLS)


def architecture(name: str, vocabulary: int, units: int, layers: int = 2, dropout: float = 0.0) -> LanguageModel:
    """The language model of that name.

    Raises:
        ValueError: a name not in ARCHITECTURES; as `recurrent`.
    """
    if name == "lstm":
        return lstm(vocabulary, units, layers, dropout)
    if name not in CELLS:
        raise ValueError(f"architecture {name!r} is unknown; choose one of {', '.join(ARCHITECTURES)}")
    return recurrent(vocabulary, units, layers, CELLS[name](), dropout)


def _zero_vector(units: int, batch: int, dtype: Any) -> jax.Array:
    return jnp.zeros((batch, units), dtype)
