"""How devices share one episode: each judges some of its states, and makes no update behind the last of these.

The first devices judge early states, which take few updates to come by, and the more of them. No device has to wait for
another; what is done several times are the updates that several devices need. That suits objectives that weigh all
states; what others weigh is computed right, but not shared well.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages.episodes import Episode
from metalearn.languages.model import Strings, parts_of
from metalearn.languages.prefixes import Prefixes, work
from metalearn.languages.tokens import PAD

_BUDGETS = 128
"""How many times are tried, from what the last device needs for its updates to what one device needs for all."""


class Share(NamedTuple):
    """What one device does with each of the states 0 .. K, int32 [K + 1].

    begin, end: it judges the state on the parts begin .. end - 1 of the query, see `parts_of`.
    updates: whether it goes on from the state, 1 or 0.
    """

    begin: jax.Array
    end: jax.Array
    updates: jax.Array


def own_share(task: Episode, axis: str, at_once: int | None = None) -> Share:
    """The share of this device, one of those along the axis of a mesh, in an episode.

    Args:
        at_once: as for `cross_entropy` of the query.
    """
    judging = 3 * jnp.sum(_pass(task.query))  # forward, and twice as long backward
    moving = 11 * jnp.mean(_pass(task.support))  # a gradient, and once more with its tangent
    parts = parts_of(task.query, at_once)
    devices, device = jax.lax.axis_size(axis), jax.lax.axis_index(axis)
    return share_of(len(task.support.tokens), parts, moving / judging, device, devices)


def share_of(updates: int, parts: Any, moving: Any, device: Any, devices: int) -> Share:
    """The share of one of several devices in a trajectory.

    State 0, which no update made, is the first device's, for objectives that weigh it.

    Args:
        updates: K, at least 1.
        parts: of the query.
        moving: above 0, how long an update takes, where to judge a state on the whole query takes 1.
        device: number of the device, from 0 on.
    """
    # Every device goes on for the same time, and the shortest that takes them all the way is the best. One that ends
    # within a state has made all of the update to it.
    budget = updates * (moving + np.arange(1, _BUDGETS + 1) / _BUDGETS)
    places = [jnp.zeros(_BUDGETS)]
    for _ in range(devices):
        reached = jnp.ceil((budget + places[-1] + 1) / (moving + 1)) - 1
        end = jnp.minimum(reached, budget + places[-1] - reached * moving)
        places.append(jnp.clip(end, places[-1], updates))
    best = jnp.argmax(places[-1] >= updates)
    edges = jnp.stack(places)[:, best].at[0].set(-1).at[-1].set(updates)
    # State k is what lies between k - 1 and k.
    within = lambda place: jnp.round(jnp.clip(place - np.arange(-1, updates), 0, 1) * parts).astype(jnp.int32)
    begin, end = within(edges[device]), within(edges[device + 1])
    states = jnp.arange(updates + 1)
    last = jnp.max(jnp.where(begin < end, states, 0))
    return Share(begin, end, (states < last).astype(jnp.int32))


def _pass(strings: Strings | Prefixes) -> jax.Array:
    """How long one pass through each of several groups of strings, or grids of prefixes, takes: in tokens, or cells."""
    if not isinstance(strings, Prefixes):
        return jnp.full(strings.tokens.shape[:-2], float(np.prod(strings.tokens.shape[-2:])))
    holds = (strings.tokens != PAD).any((-1, -2))
    return jnp.where(holds, work(strings.tokens.shape[-2:], strings.times), 0.0)
