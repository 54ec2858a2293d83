"""The LSTM, a cell of recurrent.py with a derivative of its own.

The hidden-to-hidden gradient is not accumulated inside the backward scan over time but formed by one matrix product
after it (`_recurrence` and `_branching` are `custom_vjp`s). Their rules are ordinary differentiable code, so second
derivatives, in either mode of the core, go through.

| symbol     | name                                                                         |
|------------|------------------------------------------------------------------------------|
| h, c       | hidden state (the output) and cell state, [batch, H]                         |
| i, f, g, o | input, forget, candidate and output gates, in this order, which is PyTorch's |
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.loops import as_one_function
from metalearn.languages.model import LanguageModel
from metalearn.languages.prefixes import looked_up, times_filled
from metalearn.languages.products import Product, bare, product_named, weights_gradient
from metalearn.languages.recurrent import Cell, Gates, init_gates, recurrent, zeros

FEW_ROWS = 2
"""Loops over so many rows are mostly calls of operations: on a CPU they run as one function (loops.py)."""


class LSTMState(NamedTuple):
    """h and c, [batch, H] each."""

    hidden: jax.Array
    cell: jax.Array


def lstm(
    vocabulary: int, units: int, layers: int = 2, dropout: float = 0.0, products: str = "float32"
) -> LanguageModel:
    """The LSTM language model of McCoy & Griffiths (2025).

    Arguments and errors are those of `recurrent`, and products: a name of products.py.
    """
    return recurrent(lstm_cell(product_named(products)), vocabulary, units, layers, dropout)


def _squashed(gates):
    """One tanh over all of gates [..., 4H], as sigmoid(x) = (1 + tanh(x / 2)) / 2: what a step keeps of its gates."""
    # The barrier keeps it one, as the compiler would evaluate it anew for every use.
    units = gates.shape[-1] // 4
    candidate = np.arange(4) == 2
    scale = np.repeat(np.where(candidate, 1.0, 0.5), units).astype(gates.dtype)
    return jax.lax.optimization_barrier(jnp.tanh(scale * gates))


def _opened(squashed):
    """i, f, g and o, [..., H] each."""
    i, f, g, o = jnp.split(squashed, 4, axis=-1)
    return 0.5 + 0.5 * i, 0.5 + 0.5 * f, g, 0.5 + 0.5 * o


def _cell(squashed, c):
    i, f, g, o = _opened(squashed)
    c = f * c + i * g
    return c, o * jnp.tanh(c)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _scan(step, product, reverse, in_place, fixed, carry, first, others, count=None):
    """`jax.lax.scan` of (carry, outputs) = step(product, fixed, carry, (row of first, row of others)).

    first: [time, batch, ...], as are the outputs.
    in_place: outputs take the place of `first`: memory that is neither asked for nor cleared, and is at hand. Good if
        what a row of outputs is made into reads it from memory, such as a product of matrices; else the compiler makes
        each row several times, from the rows of `first`, of which it has to keep a copy then.
    count: an integer that may be traced: only so many of the first rows are gone through. The rows of outputs behind
        them are those of `first`, or zero.
    """
    return _loop(step, product, reverse, in_place, fixed, carry, first, others, count)


def _loop(step, product, reverse, in_place, fixed, carry, first, others, count):
    def loop(product, fixed, carry, first, others, count):
        def moved(turn, carried):
            carry, outputs = carried
            time = count - 1 - turn if reverse else turn
            at = lambda x: jax.lax.dynamic_index_in_dim(x, time, keepdims=False, allow_negative_indices=False)
            row = (at(outputs if in_place else first), jax.tree.map(at, others))
            carry, output = step(product, fixed, carry, row)
            return carry, _put(outputs, output, time)

        return jax.lax.fori_loop(0, count, moved, (carry, first if in_place else jnp.zeros_like(first)))

    general = functools.partial(loop, product)
    if count is None or first.shape[1] > FEW_ROWS:
        return general(fixed, carry, first, others, len(first) if count is None else count)
    return as_one_function(functools.partial(loop, _row_by_row(product)), general)(fixed, carry, first, others, count)


def _row_by_row(product):
    return lambda x, weights: jnp.concatenate([product(row, weights) for row in jnp.split(x, len(x))])


@_scan.defjvp
def _scan_and_tangent(step, product, reverse, in_place, primals, tangents):
    """Not in place, where derivatives read a row after it would have been replaced."""
    *primals, count = primals

    def scan(fixed, carry, first, others):
        if count is None:
            of_fixed = functools.partial(step, product, fixed)
            return jax.lax.scan(of_fixed, carry, (first, others), reverse=reverse)
        return _loop(step, product, reverse, False, fixed, carry, first, others, count)

    return jax.jvp(scan, tuple(primals), tuple(tangents[:-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(product, driven, weights, keep):
    """h_t = cell(driven_t + keep_t h_{t-1} weights, keep_t c_{t-1}) from a zero state.

    driven: [time, batch, 4H]; keep: [time, batch, 1], 0 where a string begins, else 1. Returns [time, batch, H].
    """
    return _recurrence_forward(product, driven, weights, keep)[0]


def _recurrence_forward(product, driven, weights, keep):
    product = bare(product)
    zeros = jnp.zeros((driven.shape[1], weights.shape[0]), driven.dtype)

    def step(carry, row):
        h, c = carry
        driven, keep = row
        squashed = _squashed(driven + product(keep * h, weights))
        c, h = _cell(squashed, keep * c)
        return (h, c), (h, c, squashed)

    _, (h, c, squashed) = jax.lax.scan(step, (zeros, zeros), (driven, keep))
    return h, (h, c, squashed, weights, keep)


def _recurrence_backward(product, residuals, dh):
    product = bare(product)
    h, c, squashed, weights, keep = residuals
    before = lambda x: keep * jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    slopes, to_c, f = _slopes(squashed, c, before(c))

    def step(product, transposed, carry, row):
        dh_later, dc_later = carry
        slopes, (dh, to_c, f, keep) = row
        dgates, dc = _cell_backward(dh + dh_later, dc_later, to_c, slopes)
        return (keep * product(dgates, transposed), keep * (dc * f)), dgates

    zeros = jnp.zeros_like(h[0])
    _, dgates = _scan(step, product, True, len(zeros) > 1, weights.T, (zeros, zeros), slopes, (dh, to_c, f, keep))
    return dgates, weights_gradient(product, before(h), dgates), None


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _branching(product, driven, weights, prefixes):
    """As `_recurrence`, but h and c before a cell of a grid of prefixes are those of the cell's parent.

    driven: [times, rows, 4H]. Returns [times, rows, H].
    """
    return _branching_forward(product, driven, weights, prefixes)[0]


def _branching_forward(product, driven, weights, prefixes):
    product = bare(product)
    times, rows, _ = driven.shape
    pack, unpack = _packing(rows)

    def step(product, weights, filled, row):
        driven, (time, parents) = row
        h, c = jax.lax.optimization_barrier(unpack(looked_up(filled, parents)))
        squashed = _squashed(driven + product(h, weights))
        c, h = _cell(squashed, c)
        return _put_each(filled, pack(h, c), time), squashed

    zeros = jnp.zeros((times + 1, rows, len(weights)), driven.dtype)  # of all cells, and the zeros before any
    places = (jnp.arange(times), prefixes.parents)
    count = times_filled(prefixes)
    filled, squashed = _scan(step, product, False, True, weights, pack(zeros, zeros), driven, places, count)
    return unpack(filled)[0][:-1], (filled, squashed, weights, prefixes)


def _branching_backward(product, residuals, dh):
    product = bare(product)
    filled, squashed, weights, prefixes = residuals
    times, rows, _ = dh.shape
    pack, unpack = _packing(rows)
    h_before, c_before = unpack(looked_up(filled, prefixes.parents))
    count = times_filled(prefixes)
    seen = True if count is None else jnp.arange(times)[:, None, None] < count
    slopes, to_c, f = _slopes(squashed, unpack(filled)[1][:-1], c_before, seen)

    def step(product, fixed, handed, row):
        slopes, (time, cells, dh, to_c, f) = row
        found = unpack(jax.lax.optimization_barrier(looked_up(handed, cells)))
        (dh_later, dh_sibling), (dc_later, dc_sibling) = (jnp.split(x, 2) for x in found)
        dgates, dc = _cell_backward(dh + dh_later, dc_later, to_c, slopes)
        own = pack(product(dgates, fixed.T if few else fixed) + dh_sibling, dc * f + dc_sibling)
        return _put_each(handed, own, time), dgates

    cells = jnp.concatenate([prefixes.children, prefixes.siblings], axis=-1)  # one lookup, not two
    few = times <= 8  # turning the weights round would take longer than these times with weights that are not
    fixed = weights if few else weights.T
    places = (jnp.arange(times), cells, dh, to_c, f)
    handed = jax.tree.map(jnp.zeros_like, filled)
    _, dgates = _scan(step, product, True, rows > FEW_ROWS, fixed, handed, slopes, places, count)
    return dgates, weights_gradient(product, h_before, dgates), None


_branching.defvjp(_branching_forward, _branching_backward)


def _packing(rows):
    """How h and c of all cells, or what is handed on to them, are kept: pack(h, c), and unpack of that.

    Apart, so that each goes to its place in the pass that makes it. What is looked up there goes through a barrier:
    otherwise the lookup would become part of that pass, before which the whole array would have to be copied. Single
    rows are kept side by side, as they are looked up by slicing, which no barrier holds back.
    """
    if rows > 1:
        return lambda h, c: (h, c), lambda both: both
    return lambda h, c: jnp.concatenate([h, c], axis=-1), lambda both: jnp.split(both, 2, axis=-1)


def _put_each(filled, row, time):
    return jax.tree.map(lambda all_, new: _put(all_, new, time), filled, row)


def _put(filled, row, time):
    return jax.lax.dynamic_update_index_in_dim(filled, row, time, 0, allow_negative_indices=False)


def _slopes(squashed, c, c_before, seen=True):
    """What does not depend on later times, prepared for all times at once, outside the scan: see `_cell_backward`."""
    i, f, g, o = _opened(squashed)
    tanh_c = jnp.tanh(c)
    slopes = [g * i * (1 - i), c_before * f * (1 - f), i * (1 - g**2), tanh_c * o * (1 - o)]
    return jnp.concatenate([jnp.where(seen, slope, 0) for slope in slopes], axis=-1), o * (1 - tanh_c**2), f


def _cell_backward(dh, dc_later, to_c, slopes):
    """Gradients of gates and c; dc_later: of c by what comes later."""
    dc = dc_later + dh * to_c
    return jnp.concatenate([dc, dc, dc, dh], axis=-1) * slopes, dc


def lstm_cell(product: Product = jnp.matmul) -> Cell:
    """The LSTM, with all products by `product`."""

    def step(params: Gates, state, driven):
        h, c = state
        c, h = _cell(_squashed(driven + product(h, params.hidden_weights)), c)
        return LSTMState(h, c), h

    return Cell(
        init=init_gates(4),
        start=lambda units, batch, dtype: LSTMState(zeros(units, batch, dtype), zeros(units, batch, dtype)),
        drive=lambda params, x: params.drive(x, product),
        step=step,
        run=lambda params, driven, keep: _recurrence(product, driven, params.hidden_weights, keep),
        branch=lambda params, driven, prefixes: _branching(product, driven, params.hidden_weights, prefixes),
    )
