"""Language models by name; their cells differ in what their state can do.

| name           | state of a layer                 | can it count without bound?                                     |
|----------------|----------------------------------|-----------------------------------------------------------------|
| "lstm"         | gated sum (lstm.py)              | yes: its cell state adds up (Weiss, Goldberg & Yahav 2018)      |
| "gru"          | convex mixture, in (-1, 1)       | no: every step contracts                                        |
| "elman"        | tanh, in (-1, 1)                 | no                                                              |
| "relu"         | rectified, unbounded             | in principle (Weiss, Goldberg & Yahav 2018), hard to train      |
| "clipped_lstm" | LSTM, its cell clipped to [-1, 1]| no: the LSTM with nothing but its counter removed               |
| "stack"        | Elman and a differentiable stack | yes, and it can reverse (Joulin & Mikolov 2015)                 |
| "queue"        | Elman and a differentiable queue | yes, and it can repeat (Grefenstette et al. 2015)               |
| "transformer"  | cache of the last 256 tokens     | not in a state; as shares of tokens (Bhattamishra et al. 2020)  |

| symbol     | name                                         |
|------------|----------------------------------------------|
| H          | units                                        |
| W          | width of the vectors in a memory             |
| h, c       | hidden and cell state, [batch, H]            |
| i, f, g, o | input, forget, candidate and output gates    |
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metalearn.languages.lstm import LSTMState, lstm_cell
from metalearn.languages.model import LanguageModel
from metalearn.languages.products import Product, product_named
from metalearn.languages.recurrent import Cell, Gates, init_gates, recurrent, uniform, zeros
from metalearn.languages.transformer import transformer


def gru(product: Product = jnp.matmul) -> Cell:
    """Gated recurrent unit (Cho et al. 2014), in the form that PyTorch computes."""

    def drive(params: Gates, x):
        return product(x, params.input_weights) + params.input_bias  # the hidden bias is inside what `reset` scales

    def step(params: Gates, h, driven):
        of_x = jnp.split(driven, 3, axis=-1)
        of_h = jnp.split(product(h, params.hidden_weights) + params.hidden_bias, 3, axis=-1)
        reset, update = (jax.nn.sigmoid(a + b) for a, b in zip(of_x[:2], of_h[:2], strict=True))
        h = (1 - update) * jnp.tanh(of_x[2] + reset * of_h[2]) + update * h
        return h, h

    return Cell(init_gates(3), zeros, drive, step)


def elman(activation: Callable[[jax.Array], jax.Array], product: Product = jnp.matmul) -> Cell:
    """h' = activation(affine map of input and h) (Elman 1990)."""

    def step(params: Gates, h, driven):
        h = activation(driven + product(h, params.hidden_weights))
        return h, h

    return Cell(init_gates(1), zeros, lambda params, x: params.drive(x, product), step)


def clipped_lstm(limit: float = 1.0, product: Product = jnp.matmul) -> Cell:
    """An LSTM whose cell state is clipped to [-limit, limit] after each step, so that it cannot add up."""

    def step(params: Gates, state, driven):
        h, c = state
        i, f, g, o = jnp.split(driven + product(h, params.hidden_weights), 4, axis=-1)
        c = jnp.clip(jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g), -limit, limit)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return LSTMState(h, c), h

    return lstm_cell(product)._replace(step=step, run=None, branch=None)


class MemoryParams(NamedTuple):
    """gates: of the Elman controller; read [W, H]: from the memory's front; action [H, 3], bias [3]; push [H, W]."""

    gates: Gates
    read: jax.Array
    action: jax.Array
    action_bias: jax.Array
    push: jax.Array


class MemoryState(NamedTuple):
    """hidden [batch, H]: of the controller; memory [batch, depth, W]; place [batch, depth + 1]: of a queue's end."""

    hidden: jax.Array
    memory: jax.Array
    place: jax.Array


def memory(kind: str, depth: int = 32, width: int = 16, product: Product = jnp.matmul) -> Cell:
    """An Elman controller with a differentiable stack or queue of `width`-vectors (W), `depth` deep.

    Vectors are narrow: the whole memory is rewritten at each step, and one of them holds but a symbol. At each step the
    controller reads the front, and a softmax says how much to push a vector, pop the front, or leave all as it is; the
    new memory is that mixture. A stack pushes at the front (Joulin & Mikolov 2015). A queue pushes behind its last
    element, whose place is a mixture too.

    Raises:
        ValueError: a kind other than "stack" or "queue", or a depth or width below 1.
    """
    if kind not in ("stack", "queue"):
        raise ValueError(f"kind={kind!r} is unknown; choose 'stack' or 'queue'")
    if min(depth, width) < 1:
        raise ValueError(f"depth={depth} and width={width} must be at least 1: vectors in the {kind} and their size")

    def init(key, units):
        gates_key, key = jax.random.split(key)
        read, action, push = uniform(key, units, [(width, units), (units, 3), (units, width)])
        return MemoryParams(init_gates(1)(gates_key, units), read, action, jnp.zeros(3), push)

    def start(units, batch, dtype):
        place = jnp.zeros((batch, depth + 1), dtype).at[:, 0].set(1)  # of the first free cell; a stack ignores it
        return MemoryState(zeros(units, batch, dtype), jnp.zeros((batch, depth, width), dtype), place)

    def step(params: MemoryParams, state, driven):
        h, cells, place = state
        h = jnp.tanh(driven + product(h, params.gates.hidden_weights) + product(cells[:, 0], params.read))
        push, pop, stay = jnp.split(jax.nn.softmax(product(h, params.action) + params.action_bias), 3, axis=-1)
        pushed = jnp.tanh(product(h, params.push))
        popped = jnp.concatenate([cells[:, 1:], jnp.zeros_like(cells[:, :1])], 1)
        if kind == "stack":
            grown = jnp.concatenate([pushed[:, None], cells[:, :-1]], 1)
        else:
            grown = cells + place[:, :-1, None] * pushed[:, None]
        cells = push[:, None] * grown + pop[:, None] * popped + stay[:, None] * cells
        # The last place means "full"; what is pushed there is lost. Popping nothing changes nothing.
        further = jnp.concatenate([jnp.zeros_like(place[:, :1]), place[:, :-2], place[:, -2:].sum(1, keepdims=True)], 1)
        nearer = jnp.concatenate([place[:, :2].sum(1, keepdims=True), place[:, 2:], jnp.zeros_like(place[:, :1])], 1)
        return MemoryState(h, cells, push * further + pop * nearer + stay * place), h

    return Cell(init, start, lambda params, x: params.gates.drive(x, product), step)


CELLS: dict[str, Callable[[Product], Cell]] = {
    "lstm": lstm_cell,
    "gru": gru,
    "elman": lambda product: elman(jnp.tanh, product),
    "relu": lambda product: elman(jax.nn.relu, product),
    "clipped_lstm": lambda product: clipped_lstm(product=product),
    "stack": lambda product: memory("stack", product=product),
    "queue": lambda product: memory("queue", product=product),
    "transformer": lambda product: transformer(product=product),
}
"""Cells by name, given how they multiply (products.py)."""


def architecture(
    name: str, vocabulary: int, units: int, layers: int = 2, dropout: float = 0.0, products: str = "float32"
) -> LanguageModel:
    """The language model of that name, its cells' products with weights by the name of products.py.

    Raises:
        ValueError: a name not in CELLS, or not in PRODUCTS; as `recurrent`.
    """
    if name not in CELLS:
        raise ValueError(f"architecture {name!r} is unknown; choose one of {', '.join(CELLS)}")
    return recurrent(CELLS[name](product_named(products)), vocabulary, units, layers, dropout)
