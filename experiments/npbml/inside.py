"""What a meta-trained NPBML does while it adapts: the implicit biases of section 4 of the paper, in numbers.

| symbol           | name        | meaning                                                                      |
|------------------|-------------|------------------------------------------------------------------------------|
| alpha' (eq. 15)  | `step_size` | cross-entropy would need the rate alpha' alpha to come closest to M's step   |
| alpha^(l) (16)   | `warp_rate` | the same for a warp: omega omega^T delta is closest to alpha^(l) delta       |
| delta            |             | gradient of M at the maps that come out of a warp, before they are modulated |
| lambda           | `pull`      | R draws the weights to zero as weight decay of this strength would           |

With g the gradient of cross-entropy and h that of M, alpha' = g.h / g.g, and `alignment` = g.h / |g| |h| says how much
of the step such a rate explains; for warps likewise, with delta and omega omega^T delta. Where g is zero neither
exists, and they are NaN: so for blocks at the first step, if all ways begin at the same row.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.fewshot.convolution import conv3x3
from metalearn.fewshot.family.biases import LOSSES
from metalearn.fewshot.family.npbml import Procedure, inner_rule
from metalearn.fewshot.film import modulated
from metalearn.fewshot.heads import accuracy
from metalearn.fewshot.learned_loss import loss_net, rows_of

MARGINS = tuple(float(margin) for margin in range(-6, 11))
"""Logit of the right class above all others, where the learned losses are looked at."""
PER_UPDATE = ("step_size", "alignment", "block_step_size", "terms", "pull", "warp_rate", "warp_alignment")
KEYS = ("states", *PER_UPDATE, "embedding", "within", "landscape")

_NOTHING = 1e-12  # a squared gradient below this is rounding


def looked_inside(procedure: Procedure, updates: int) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """(meta, task) -> what adaptation to one task is like.

    states: [K + 1], accuracy on the query set.
    step_size, alignment: [K], at the states before each update.
    block_step_size: [K, blocks + 1], of the weights of each block that moves, and of the head.
    terms: [K, 3], lengths of the gradients of L^S, L^Q and R, relative to that of cross-entropy.
    pull: [K], lambda.
    warp_rate, warp_alignment: [K, warps], of blocks that move, in the order in which maps go through them.
    embedding: [values], scales and offsets of maps of the query set at the first state, means over images and
        positions; within: [], the variance over images, mean over values.
    """
    biases = procedure.biases
    rule = inner_rule(procedure.setting.rate, biases.momentum, biases.weight_decay)
    watching = dataclasses.replace(procedure, warp=watched)

    def look(meta: Any, task: Any) -> dict[str, jax.Array]:
        seen, params = procedure.seen(meta, task), procedure.start(meta)

        def terms(params: Any, probes: Any) -> dict[str, jax.Array]:
            return watching.terms(_probed(meta, probes), params, task, seen)

        def step(state: tuple[Any, Any], _: None):
            params, memory = state
            found, backward = jax.vjp(terms, params, _probes(meta))
            only = lambda name: {term: jnp.full_like(value, name in (term, "M")) for term, value in found.items()}
            gradients = {name: backward(only(name))[0] for name in (*found, "base")}
            whole, probes = backward(only("M"))
            base = gradients["base"]
            blocks = [(_dot(b, w), _dot(b, b)) for b, w in zip(_blocks(base), _blocks(whole), strict=True)]
            length = _dot(base, base)
            squares = jnp.stack([p for block in probes[procedure.first :] for p in block])
            out = {
                "step_size": _ratio(_dot(base, whole), length),
                "alignment": _ratio(_dot(base, whole), jnp.sqrt(length * _dot(whole, whole))),
                "block_step_size": jnp.stack([_ratio(*pair) for pair in blocks]),
                "terms": jnp.stack(
                    [jnp.sqrt(_ratio(_dot(gradients[name], gradients[name]), length)) for name in LOSSES]
                ),
                "pull": _ratio(_dot(gradients["regulariser"], params), _dot(params, params)),
                "warp_rate": _ratio(squares[:, 1], squares[:, 0]),
                "warp_alignment": _ratio(squares[:, 1], jnp.sqrt(squares[:, 0] * squares[:, 2])),
                "states": right(params),
            }
            moved, memory = rule.update(meta, (), whole, memory, params)
            return (jax.tree.map(jnp.add, params, moved), memory), out

        right = lambda params: accuracy(procedure.predicted(meta, params, seen), task.query_y)
        (last, _), found = jax.lax.scan(step, (params, rule.init(params)), None, length=updates)
        states = jnp.append(found.pop("states"), right(last))
        embedding, within = _embedding(procedure, meta, params, seen)
        return {"states": states, **found, "embedding": embedding, "within": within}

    return look


@jax.custom_vjp
def watched(maps: jax.Array, watching: tuple[jax.Array, jax.Array]) -> jax.Array:
    """A warp that hands out what it is told on the way back.

    Args:
        watching: its kernel, and zeros [3] whose "gradient" is the sums of delta^2, (omega^T delta)^2 and
            (omega omega^T delta)^2, added up over all calls.
    """
    return conv3x3(maps, watching[0])


def _forward(maps, watching):
    return conv3x3(maps, watching[0]), (maps, watching[0])


def _backward(kept, delta):
    _, backward = jax.vjp(conv3x3, *kept)
    into_maps, into_kernel = backward(delta)
    again = conv3x3(into_maps, kept[1])
    return into_maps, (into_kernel, jnp.stack([jnp.sum(x**2) for x in (delta, into_maps, again)]))


watched.defvjp(_forward, _backward)


def _probes(meta: Any) -> Any:
    return tuple(tuple(jnp.zeros(3, warp.kernel.dtype) for warp in block) for block in meta["warps"])


def _probed(meta: Any, probes: Any) -> Any:
    watch = lambda warp, probe: warp._replace(kernel=(warp.kernel, probe))
    blocks = zip(meta["warps"], probes, strict=True)
    return meta | {"warps": tuple(tuple(map(watch, *block)) for block in blocks)}


def _blocks(params: Any) -> list[Any]:
    """The weights of each block that moves, and of the head."""
    others = [params[name] for name in ("kernels", "norms", "film") if name in params]
    return [*zip(*others, strict=True), params["head"]]


def _dot(one: Any, other: Any) -> jax.Array:
    return jnp.asarray(sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)))


def _ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    there = below > _NOTHING
    return jnp.where(there, above / jnp.where(there, below, 1), jnp.nan)


def _embedding(procedure: Procedure, meta: Any, params: Any, seen: Any) -> tuple[jax.Array, jax.Array]:
    found: list[jax.Array] = []

    def noted(film, condition, maps):
        found.append((condition @ film.weights + film.bias).mean((1, 2)))
        return modulated(film, condition, maps)

    dataclasses.replace(procedure, modulate=noted).predicted(meta, params, seen)
    values = jnp.concatenate([each.mean(0) for each in found])
    return values, jnp.concatenate([each.var(0) for each in found]).mean()


def landscape(procedure: Procedure, meta: Any) -> jax.Array:
    """[3, ways, margins, 2]: value and slope of cross-entropy, of L^S added to it, and of L^Q, over the logit margin.

    Logits are the margin for one class and zero for the others, and that class is the label, or what the scores are
    certain of. The second axis is the position of the class.
    """
    ways, biases = procedure.setting.ways, procedure.biases

    def values(margin: jax.Array, chosen: jax.Array) -> jax.Array:
        rows = rows_of((margin * chosen)[None], chosen[None])
        judge = lambda term: loss_net(meta["losses"][procedure.net(term)], rows, biases.loss_output)[0]
        base = rows[0, -1]
        return jnp.stack([base, base + judge("inductive"), judge("transductive")])

    both = lambda margin, chosen: jnp.stack([values(margin, chosen), jax.jacfwd(values)(margin, chosen)], -1)
    by_margin = jax.vmap(both, in_axes=(0, None), out_axes=1)
    return jax.vmap(by_margin, in_axes=(None, 0), out_axes=1)(jnp.array(MARGINS), jnp.eye(ways))


def all_inside(procedure: Procedure, updates: int, meta: Any, batches: Iterable[Any]) -> dict[str, Any]:
    """KEYS: what `looked_inside` finds, leaves [tasks, ...], and the landscape.

    Args:
        batches: of episodes, leaves [tasks, ...].
    """
    look = jax.jit(jax.vmap(looked_inside(procedure, updates), in_axes=(None, 0)))
    rows = [jax.device_get(look(meta, episodes)) for episodes in batches]
    found = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    return found | {"landscape": jax.device_get(jax.jit(functools.partial(landscape, procedure))(meta))}
