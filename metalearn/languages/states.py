"""The state of a network along a string, as a vector of features, and what the network says if that vector is edited.

A network's state is what `LanguageModel.advance` carries from one token to the next, raveled: all layers' hidden and
cell states. So an edit changes what the network remembers, not what it makes of the present token: it is felt from the
next token on. Recurrent networks are meant; what a Transformer carries is all that it has read.

| symbol | name                                                                                                   |
|--------|--------------------------------------------------------------------------------------------------------|
| P      | networks of one architecture, the leading axis of all params                                           |
| D      | features                                                                                               |
| time   | index t is after START and t symbols, so that it pairs with the value of a counter after t symbols     |
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from metalearn.languages.model import LanguageModel


class Feature(NamedTuple):
    """One number of a state: its layer from 0 at the bottom; "hidden", "cell", "memory" or "place"; its index there."""

    layer: int
    part: str
    unit: int


def features(model: LanguageModel, params: Any) -> tuple[Feature, ...]:
    """What the D features of this architecture's states are, in order.

    The parts of a layer's state are named by its fields; a state that is but one array is "hidden".
    """
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params)
    carry = jax.eval_shape(lambda params: model.start(params, 1), one)
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        layer = next((key.idx for key in path if isinstance(key, jax.tree_util.SequenceKey)), 0)
        names = [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]
        part = next((name for name in reversed(names) if name), "hidden")
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            found += [Feature(layer, part, unit) for unit in range(leaf.size)]
    return tuple(found)


def states(model: LanguageModel, params: Any, tokens: ArrayLike) -> jax.Array:
    """States of P networks after each token, [P, strings, time, D].

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        tokens: [strings, time] int32, the same strings for all networks, START first.
    """
    return jnp.stack([states_of_one(model, one, jnp.asarray(tokens)) for one in networks(params)])


def networks(params: Any) -> Iterator[Any]:
    """The parameters of each of P networks.

    The functions that look inside go through them one by one, so that memory is that of one network and a compiled
    program serves any number of them.
    """
    for number in range(len(jax.tree.leaves(params)[0])):
        yield jax.tree.map(lambda x, number=number: x[number], params)


@functools.partial(jax.jit, static_argnums=0)
def states_of_one(model: LanguageModel, params: Any, tokens: jax.Array) -> jax.Array:
    """States of one network, [strings, time, D]."""

    def step(carry, now):
        carry, _ = model.advance(params, carry, now)
        return carry, _ravel(carry)

    return jax.lax.scan(step, model.start(params, len(tokens)), tokens.T)[1].swapaxes(0, 1)


def edited_logits(
    model: LanguageModel, params: Any, tokens: jax.Array, at: jax.Array, keep: jax.Array, add: jax.Array
) -> jax.Array:
    """Logits of one network under each of E edits of its state: state -> keep * state + add, wherever `at` says so.

    Args:
        model: the language model.
        params: of one network.
        tokens: [strings, time] int32.
        at: [strings, time] bool, after which tokens the state is edited. Their own logits come before the edit.
        keep, add: [E, D]. Units are clamped by keep = 0, a state is shifted by keep = 1.

    Returns:
        [E, strings, time, V].
    """
    every, strings = len(keep), len(tokens)
    of_rows = lambda x: jnp.repeat(x, strings, axis=0)
    keep, add = of_rows(keep), of_rows(add)

    def step(carry, row):
        now, edit = (jnp.tile(x, every) for x in row)
        carry, logits = model.advance(params, carry, now)
        state = _ravel(carry)
        return _unravel(carry, jnp.where(edit[:, None], keep * state + add, state)), logits

    _, logits = jax.lax.scan(step, model.start(params, every * strings), (tokens.T, at.T))
    return logits.reshape(tokens.shape[1], every, strings, -1).transpose(1, 2, 0, 3)


def _ravel(carry):
    """Floating point leaves [batch, ...] -> [batch, D], in float32 at least."""
    leaves = [x for x in jax.tree.leaves(carry) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.concatenate([x.reshape(len(x), -1).astype(jnp.promote_types(x.dtype, jnp.float32)) for x in leaves], -1)


def _unravel(carry, state):
    """The carry with its floating point leaves taken from `state` [batch, D]; the inverse of `_ravel`."""
    leaves, structure = jax.tree.flatten(carry)
    begin = 0
    for number, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            size = leaf[0].size
            leaves[number] = state[:, begin : begin + size].reshape(leaf.shape).astype(leaf.dtype)
            begin += size
    return jax.tree.unflatten(structure, leaves)
