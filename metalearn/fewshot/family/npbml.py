"""NPBML (Raymond et al. 2024): initial weights, preconditioner, inner loss and modulation, all learned together.

    theta_{j+1} = theta_j - alpha * P dM(theta_j; support, query images) / dtheta                  (equation 6)

| symbol   | name                        | meaning                                                             |
|----------|-----------------------------|---------------------------------------------------------------------|
| theta    | "body", "row" or "head"     | weights, and where those that move begin                            |
| omega, P | "warps"                     | 3x3 convolutions in the forward pass that stay in the inner loop    |
| M        | `Procedure.terms`           | the inner loss, a sum                                               |
| phi      | "losses"                    | the networks of M, see learned_loss.py                              |
| psi      | "film", and in warps, losses| layers that modulate maps, warps and the networks of M              |
| alpha, J | `Setting.rate`, `.steps`    | inner learning rate and updates                                     |

What is learned, and in which reading, is said by `Biases`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metalearn.core import LearningProcess, UpdateRule, gradient_process, optax_rule
from metalearn.fewshot.convolution import conv3x3, identity_kernel
from metalearn.fewshot.encoders import EncoderParams, Moments, Norm, normalise
from metalearn.fewshot.family.biases import LOSSES, PAPER, Biases
from metalearn.fewshot.family.learner import Algorithm, Meta, Setting, configured, judged, once_per_task
from metalearn.fewshot.film import init_film, modulated
from metalearn.fewshot.heads import Head, cross_entropy, for_all_ways, logits_of
from metalearn.fewshot.learned_loss import (
    STATISTICS,
    init_loss_net,
    loss_net,
    prototype_scores,
    rows_of,
    statistics_of,
)
from metalearn.fewshot.perceptron import Dense


class Warp(NamedTuple):
    """kernel: [3, 3, filters, filters]; film: what modulates its output, if anything does."""

    kernel: jax.Array
    film: Dense | None


class Acting(NamedTuple):
    """The weights in force, by block; film: one `Dense` for each 3x3 convolution, or none; warps: `Warp`, likewise."""

    kernels: tuple[tuple[jax.Array, ...], ...]
    norms: tuple[tuple[Norm, ...], ...]
    film: tuple[tuple[Dense, ...], ...]
    warps: tuple[tuple[Warp, ...], ...]


Sets = tuple[Any, Any]
"""Maps of support and query images; none for a set that nobody looks at."""

Normalisers = list[tuple[tuple[Moments, ...] | None, Moments | None]]
"""What normalises each block: its layers, and its warp; none stands for the statistics of the images at hand."""


class Seen(NamedTuple):
    """A task's maps at the first block that moves: as adaptation sees them, and as the prediction at the end does."""

    adapting: Sets
    judging: Sets


def npbml(setting: Setting, biases: Biases = PAPER) -> Algorithm:
    """NPBML (Raymond et al. 2024).

    It begins near MAML (with biases="uniform" it does not), and the query images, not their labels, drive updates.
    Of ResNet-12, the shortcuts move with their blocks, but are neither warped nor modulated. With scores="given" tasks
    are a `ScoredEpisode`.

    Meta: "body", "row" (or "head"), and as the biases have it "warps", "film" and "losses".

    Args:
        biases: what is learned, and how.

    Raises:
        ValueError: a warp's own normalisation together with normalisation="running", which stores none for warps.
    """
    procedure = Procedure(setting, biases)
    on_maps = gradient_process(
        init=lambda meta, task, key: procedure.start(meta),
        inputs=lambda meta, task, key: (),
        inner_loss=lambda meta, params, input, task: jax.tree.reduce(jnp.add, procedure.terms(meta, params, *task)),
        outer_loss=lambda meta, params, input, task: judged(procedure.predicted(meta, params, task[1]), task[0]),
        rule=inner_rule(setting.rate, biases.momentum, biases.weight_decay),
        inner_gradient=setting.inner_gradient,
    )
    process = _holding(once_per_task(on_maps, procedure.seen), procedure.held)
    return configured(setting, process, init=procedure.init)


def inner_rule(rate: float, momentum: float = 0.0, weight_decay: float = 0.0) -> UpdateRule:
    """Stochastic gradient descent as PyTorch has it, with Nesterov momentum and weight decay."""
    parts = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    parts += [optax.trace(momentum, nesterov=True)] if momentum else []
    return optax_rule(optax.chain(*parts, optax.scale(-rate)))


@dataclasses.dataclass(frozen=True)
class Procedure:
    """The pieces of NPBML, as pure functions of meta-parameters, of the params that move, and of tasks."""

    setting: Setting
    biases: Biases
    warp: Callable[[jax.Array, Any], jax.Array] = conv3x3
    """(maps, a warp's kernel) -> maps; replace it, as the next, to look inside."""
    modulate: Callable[[Dense, jax.Array, jax.Array], jax.Array] = modulated
    """(film, condition, maps) -> maps, for maps of the encoder and of warps."""

    def __post_init__(self) -> None:
        """Checks what `Biases` alone cannot."""
        if self.biases.warps != "none" and self.biases.warp_norm and self.setting.normalisation == "running":
            raise ValueError(
                'normalisation="running" has no stored statistics of warps: set warp_norm=False, or another '
                "normalisation"
            )

    @property
    def first(self) -> int:
        """The first block that moves."""
        return 0 if self.biases.adapted == "all" else self.setting.encoder.blocks - 1

    def init(self, key: jax.Array) -> Meta:
        """The meta-parameters. Those of one component do not depend on which others there are."""
        biases, encoder = self.biases, self.setting.encoder
        names = ("row", "warps", "film", *LOSSES)
        keys = dict(zip(names, jax.random.split(jax.random.fold_in(key, 1), len(names)), strict=True))
        meta = self.setting.init(key)
        if biases.head != "ways":
            row = Head(0.01 * jax.random.normal(keys["row"], (encoder.width,)), jnp.zeros(()))
            meta = {"body": meta["body"], "row": row}
        convolutions = [[kernel for kernel in block if kernel.ndim == 4] for block in meta["body"].kernels]

        def by_block(where: str, counts: Sequence[int], make: Callable[[list[int]], Iterable[Any]]) -> tuple[Any, ...]:
            """What `make` returns for the block numbers of its places, nested by block."""
            last = encoder.blocks - 1
            counts = [count if where == "all" or number == last else 0 for number, count in enumerate(counts)]
            made = iter(make([number for number, count in enumerate(counts) for _ in range(count)]))
            return tuple(tuple(next(made) for _ in range(count)) for count in counts)

        def warps(numbers: list[int]) -> list[Warp]:
            widths = [encoder.filters[number] for number in numbers]
            square = list(zip(widths, widths, strict=True))
            films = init_film(keys["warps"], square, biases.biases) if self._modulates else [None] * len(widths)
            return [Warp(identity_kernel(width), film) for width, film in zip(widths, films, strict=True)]

        def films(numbers: list[int]) -> list[Dense]:
            shapes = [(convolutions[number][0].shape[2], encoder.filters[number]) for number in numbers]
            return init_film(keys["film"], shapes, biases.biases)

        layers = [len(block) for block in convolutions]
        if biases.warps != "none":
            at_end = biases.warp_place == "block"
            meta["warps"] = by_block(biases.warps, [1] * len(layers) if at_end else layers, warps)
        if self._modulates:
            meta["film"] = by_block(biases.film_blocks, layers, films)
        inputs = dict.fromkeys(("inductive", "transductive"), 2 * self.setting.ways + 1)
        inputs["regulariser"] = STATISTICS * len(jax.tree.leaves(self.start(meta)))
        nets = {self.net(term) for term in LOSSES if getattr(biases, term)}
        if nets:
            modulates = biases.film in ("losses", "both")
            net = lambda name: init_loss_net(keys[name], inputs[name], film=modulates, biases=biases.biases)
            meta["losses"] = {name: net(name) for name in sorted(nets)}
        return meta

    def held(self, meta: Meta) -> Meta:
        """`meta`, where what the outer loop shall not learn is a constant."""
        hold, first, body = jax.lax.stop_gradient, self.first, meta["body"]
        if self.biases.initialisation == "none":
            meta = meta | {name: hold(meta[name]) for name in ("body", "row", "head") if name in meta}
        elif self.biases.initialisation == "adapted":
            still = lambda blocks, count: (*hold(blocks[:count]), *blocks[count:])
            norms = still(body.norms, first if self.biases.affine else None)
            meta = meta | {"body": EncoderParams(still(body.kernels, first), norms)}
        return meta | {"row": hold(meta["row"])} if self.biases.head == "random_row" else meta

    def start(self, meta: Meta) -> Any:
        """The params that move, at the beginning: "kernels", "head" and, as the biases have it, "norms" and "film"."""
        body, first = meta["body"], self.first
        head = meta["head"] if self.biases.head == "ways" else for_all_ways(meta["row"], self.setting.ways)
        params = {"kernels": body.kernels[first:], "head": head}
        if self.biases.affine:
            params["norms"] = body.norms[first:]
        if self.biases.film_moves and self._modulates:
            params["film"] = meta["film"][first:]
        return params

    def seen(self, meta: Meta, task: Any) -> Seen:
        """What the blocks below the first that moves make of a task, once and for all."""
        biases, support_x, query_x = self.biases, task.support_x, task.query_x
        acting = self._acting(meta, {})
        below = lambda sets, joint: self._through(acting, sets, joint, 0, self.first)
        adapting = below((support_x, query_x if self._joint or biases.transductive else None), self._joint)
        needs_support = self._joint_end or self.setting.normalisation == "support"
        return Seen(adapting, below((support_x if needs_support else None, query_x), self._joint_end))

    def terms(self, meta: Meta, params: Any, task: Any, seen: Seen) -> dict[str, jax.Array]:
        """The terms of the inner loss by name; M is their sum (equation 13).

        Args:
            params: as `start` returns them.
            task: an `Episode`, or a `ScoredEpisode`.
            seen: what `seen` made of it.

        Raises:
            ValueError: scores="given", but the task has none.
        """
        biases, ways = self.biases, self.setting.ways
        support, query = self._features(meta, params, seen.adapting, self._joint)
        logits = logits_of(params["head"], support)
        found = {"base": cross_entropy(logits, task.support_y)}
        judge = lambda term, rows: loss_net(meta["losses"][self.net(term)], rows, biases.loss_output)
        if biases.inductive:
            labels = jax.nn.one_hot(task.support_y, ways, dtype=logits.dtype)
            found["inductive"] = judge("inductive", rows_of(logits, labels)).mean()
        if biases.transductive:
            if biases.scores == "prototypes":
                scores = prototype_scores(support, task.support_y, query, ways)
            elif hasattr(task, "scores"):
                scores = task.scores
            else:
                raise ValueError(
                    'scores="given" needs tasks that have some: make each a ScoredEpisode (relation.scored), or set '
                    'scores="prototypes"'
                )
            found["transductive"] = judge("transductive", rows_of(logits_of(params["head"], query), scores)).mean()
        if biases.regulariser:
            statistics = statistics_of(params, moments=biases.moments, norms=biases.norms)
            found["regulariser"] = judge("regulariser", statistics)
        return found

    def net(self, term: str) -> str:
        """The network of a learned term, by its name among meta["losses"]."""
        return "inductive" if term == "transductive" and self.biases.transductive_net == "shared" else term

    def predicted(self, meta: Meta, params: Any, seen: Seen) -> jax.Array:
        """Logits [queries, ways] of the query images after adaptation."""
        _, query = self._features(meta, params, seen.judging, self._joint_end)
        return logits_of(params["head"], query)

    @property
    def _joint(self) -> bool:
        return self.biases.batch == "joint" and self.setting.normalisation == "transductive"

    @property
    def _joint_end(self) -> bool:
        return self.biases.final_batch == "joint" and self.setting.normalisation == "transductive"

    @property
    def _modulates(self) -> bool:
        return self.biases.film in ("encoder", "both")

    def _acting(self, meta: Meta, params: Any) -> Acting:
        joined = lambda name, blocks: (*blocks[: self.first], *params[name]) if name in params else blocks
        nothing: tuple[Any, ...] = ((),) * self.setting.encoder.blocks
        return Acting(
            joined("kernels", meta["body"].kernels),
            joined("norms", meta["body"].norms),
            joined("film", meta.get("film", nothing)),
            meta.get("warps", nothing),
        )

    def _features(self, meta: Meta, params: Any, sets: Sets, joint: bool) -> Sets:
        """[images, width] of sets of maps at the first block that moves."""
        support, query = self._through(self._acting(meta, params), sets, joint, self.first, None)
        pooled = lambda maps: None if maps is None else self.setting.encoder.pool(maps)
        return pooled(support), pooled(query)

    def _through(self, acting: Acting, sets: Sets, joint: bool, begin: int, end: int | None) -> Sets:
        """Sets of maps after the blocks begin .. end - 1, each normalised as the setting says, or in one batch."""
        support, query = sets
        stored = self.setting.statistics
        by: Normalisers = [(None if stored is None else stored[number], None) for number in range(len(acting.norms))]
        run = lambda maps, by: self._chain(acting, maps, by, begin, end)
        if joint:
            both, _ = run(jnp.concatenate([support, query]), by)
            return both[: len(support)], both[len(support) :]
        if support is not None:
            support, used = run(support, by)
            by = used if self.setting.normalisation == "support" else by
        return support, None if query is None else run(query, by)[0]

    def _chain(
        self, acting: Acting, maps: jax.Array, by: Normalisers, begin: int, end: int | None
    ) -> tuple[jax.Array, Normalisers]:
        """Maps after the blocks begin .. end - 1, and what normalised them; `by` and the latter are for all blocks."""
        encoder, used = self.setting.encoder, list(by)
        for number in range(encoder.blocks)[begin:end]:
            layers, of_warp = by[number]
            within = acting.film[number] or self.biases.warp_place == "convolution" and acting.warps[number]
            tap = functools.partial(self._tap, acting, maps) if within else None
            maps, layers = encoder.block(number, acting.kernels[number], acting.norms[number], maps, layers, tap)
            if self.biases.warp_place == "block":
                for warp in acting.warps[number]:
                    maps, of_warp = self._warped(warp, maps, of_warp)
            used[number] = (layers, of_warp)
        return maps, used

    def _tap(
        self, acting: Acting, entered: jax.Array, place: str, number: int, which: int, maps: jax.Array
    ) -> jax.Array:
        """Modulation and warps within a block, whose input was `entered`."""
        film, warps = acting.film[number], acting.warps[number]
        if place == "normalised" and which < len(film):
            return self.modulate(film[which], self._condition(entered), maps)
        if place == "convolved" and self.biases.warp_place == "convolution" and which < len(warps):
            return self._warped(warps[which], maps, None)[0]
        return maps

    def _warped(self, warp: Warp, maps: jax.Array, moments: Moments | None) -> tuple[jax.Array, Moments | None]:
        """Maps after a warp, and what normalised them, if anything did."""
        out = self.warp(maps, warp.kernel)
        if self.biases.warp_norm:
            filters = out.shape[-1]
            out, moments = normalise(out, Norm(jnp.ones(filters, out.dtype), jnp.zeros(filters, out.dtype)), moments)
        return (out if warp.film is None else self.modulate(warp.film, self._condition(maps), out)), moments

    def _condition(self, maps: jax.Array) -> jax.Array:
        return maps if self.biases.film_input == "maps" else maps.mean((1, 2), keepdims=True)


def _holding(process: LearningProcess, hold: Callable[[Meta], Meta]) -> LearningProcess:
    """`process` with hold(meta) for meta."""
    held = lambda function: lambda meta, *rest: function(hold(meta), *rest)
    first_order = process.first_order_step
    return LearningProcess(
        held(process.init),
        held(process.inputs),
        held(process.step),
        held(process.loss),
        None if first_order is None else held(first_order),
        held(process.prepare),
    )
