"""Adaptation of trained weights to a target language: the inner loop again, on its own and for longer.

N strings, shuffled once, in batches of 10: some epochs of SGD at the meta-training's inner rate, then some of AdamW
(McCoy & Griffiths 2025, appendix E). All (language, seed) pairs of one N are independent learners: they run side by
side, in groups of similar string length, spread over all devices. The loop over updates is on the host, so that each
update is as long as its longest string needs, rounded up to one of `LENGTHS` or to the longest allowed: that many
programs are compiled per rule.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metalearn.core import LearningProcess, gradient_process, optax_rule, shard_tasks, task_mesh
from metalearn.core.sharding import AXIS
from metalearn.languages import tokens
from metalearn.languages.episodes import pad_size
from metalearn.languages.model import LanguageModel, Strings, cross_entropy

LENGTHS = (8, 16, 24, 32, 48, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class AdaptationSettings:
    """How a network learns one language; the defaults are those of McCoy & Griffiths."""

    sgd_rate: float = 1.0
    """Learning rate of SGD; the inner rate of meta-training."""
    adamw_rate: float = 5e-4
    """Learning rate of AdamW."""
    weight_decay: float = 0.01
    """AdamW's, on all parameters."""
    batch: int = 10
    """Strings per update."""
    length: int = 256
    """Tokens a string may have, START and END included; longer ones are cut."""
    group: int = 28
    """Learners per compiled call."""
    learner_axis: Literal["vmap", "map"] = "vmap"
    """Learners of one device side by side ("vmap"), or one after the other ("map": several times faster on a CPU)."""

    def __post_init__(self) -> None:
        """Checks the sizes."""
        if min(self.batch, self.group) < 1 or self.length < 3:
            raise ValueError(
                f"batch={self.batch} and group={self.group} must be at least 1, and length={self.length} at least 3"
            )


class Protocol(NamedTuple):
    """Epochs of adaptation, and how the adapted network is scored (see scores.py)."""

    sgd_epochs: int
    adamw_epochs: int
    nucleus: float
    temperature: float


# McCoy & Griffiths 2025, by learner and number of strings: what the published logs show. The values were tuned on
# twenty validation languages; appendix E.1 names others for some.
_LOGGED = {
    "meta-trained": {1: (5, 1, 1.0, 0.5), 10: (5, 1, 1.0, 0.5), 100: (10, 5, 0.99, 0.5), 10000: (10, 5, 0.99, 1.0)},
    "standard": {1: (10, 1, 0.99, 1.0), 10: (5, 5, 0.99, 0.5), 100: (10, 5, 0.99, 0.5), 10000: (10, 5, 0.99, 1.0)},
    "pre-trained": {1: (10, 5, 1.0, 1.0), 10: (10, 5, 0.99, 1.0), 100: (10, 5, 0.99, 0.5), 1000: (5, 5, 0.99, 0.5)},
}
_APPENDIX = {
    "meta-trained": {1: (5, 1, 1.0, 0.5), 10: (5, 1, 1.0, 0.5), 100: (10, 5, 0.99, 0.5), 10000: (5, 5, 0.99, 0.5)},
    "standard": {
        1: (10, 1, 1.0, 0.5),
        10: (10, 1, 0.99, 0.5),
        100: (10, 5, 0.99, 0.5),
        1000: (10, 5, 0.99, 1.0),
        10000: (10, 5, 0.99, 0.5),
    },
    "pre-trained": _LOGGED["pre-trained"],
}
_PROTOCOLS = {"logs": _LOGGED, "appendix": _APPENDIX}


def protocol(source: str, learner: str, strings: int) -> Protocol:
    """The published settings for a learner and a number of strings; between two listed numbers, those of the lower.

    Args:
        source: "logs" (what the published runs did) or "appendix" (what the paper says).
        learner: "meta-trained", "standard" (random weights) or "pre-trained".
        strings: N >= 1.

    Raises:
        ValueError: unknown source or learner, or N < 1.
    """
    if source not in _PROTOCOLS or learner not in _LOGGED or strings < 1:
        raise ValueError(
            f"no adaptation protocol for source={source!r}, learner={learner!r}, {strings} strings: choose from "
            f"{tuple(_PROTOCOLS)}, {tuple(_LOGGED)} and at least one string"
        )
    listed = _PROTOCOLS[source][learner]
    return Protocol(*listed[max(n for n in listed if n <= strings)])


def only_embedding_and_output(params: Any) -> Any:
    """A choice of what `Adaptation` moves: the layers in between stay as they are, in every architecture."""
    return params._replace(**{name: name in ("embedding", "output_bias") for name in params._fields})


class Adaptation:
    """Adapts many learners at once. Keeps its compiled programs, so make one and call it for all N.

    Args:
        model: whose params are adapted; its dropout is on.
        settings: rates and sizes.
        mesh: devices to spread learners over; by default as many as divide a group.
        moves: params -> tree of bools, or the upper part of such a tree: which weights move. The others come back bit
            for bit, also from under weight decay. By default all move.
    """

    def __init__(
        self,
        model: LanguageModel,
        settings: AdaptationSettings,
        mesh: Mesh | None = None,
        moves: Callable[[Any], Any] | None = None,
    ):
        """See the class."""
        self._settings = settings
        self._mesh = task_mesh(tasks=settings.group) if mesh is None else mesh
        self._moves = moves or (lambda params: True)
        adamw = optax.adamw(settings.adamw_rate, weight_decay=settings.weight_decay)
        self._rules = [self._compiled(_learner(model, rule)) for rule in (optax.sgd(settings.sgd_rate), adamw)]

    def __call__(
        self,
        params: Any,
        corpora: Sequence[Sequence[Sequence[int]]],
        epochs: tuple[int, int],
        key: jax.Array,
        report: Callable[[int], None] = lambda learners: None,
    ) -> Any:
        """Adapts learner i to corpus i.

        Args:
            params: leaves [learners, ...], the initial weights.
            corpora: [learners] corpora of the same number of strings of symbols; they are shuffled here.
            epochs: of SGD, then of AdamW.
            key: typed key, for the order of the strings and dropout; or one for each learner.
            report: called with the number of learners done so far.

        Returns:
            Adapted params, leaves [learners, ...], on the host.

        Raises:
            ValueError: no corpora, an empty corpus, corpora of different sizes, weights of another number of learners,
                no weights that move, or a symbol outside the vocabulary.
        """
        sizes = {len(corpus) for corpus in corpora}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"corpora must be non-empty and of one size to be adapted to together, got sizes {sizes}")
        learners = {np.shape(leaf)[0] for leaf in jax.tree.leaves(params)}
        if learners != {len(corpora)}:
            found = ", ".join(map(str, sorted(learners)))
            raise ValueError(f"params holds weights of {found} learners for {len(corpora)} corpora: give one for each")
        if not any(jax.tree.leaves(self._moves(params))):
            raise ValueError("moves(params) is False everywhere: at least one of the weights must move")
        keys = key if key.ndim else jax.random.split(key, len(corpora))
        order = sorted(range(len(corpora)), key=lambda i: sum(map(len, corpora[i])))
        adapted: list[Any] = [None] * len(corpora)
        group = self._settings.group
        for begin in range(0, len(order), group):
            members = order[begin : begin + group]
            filled = members + members[-1:] * (group - len(members))  # idle learners repeat the last one
            own = jax.tree.map(lambda x, rows=filled: np.asarray(x)[rows], params)
            result = self._adapt_group(own, [corpora[i] for i in filled], epochs, keys[np.array(filled)])
            for place, i in enumerate(members):
                adapted[i] = jax.tree.map(lambda x, p=place: x[p], result)
            report(begin + len(members))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *adapted)

    def _adapt_group(self, params: Any, corpora: Sequence[Any], epochs: tuple[int, int], keys: jax.Array) -> Any:
        batches, counts, lengths = self._batches(corpora, keys)
        moving, still, keys = shard_tasks((*_split(params, self._moves(params)), keys), self._mesh)
        for phase, (start, step) in enumerate(self._rules):
            learners = start(moving)
            for update in range(epochs[phase] * len(lengths)):
                i = update % len(lengths)
                strings = shard_tasks((batches[:, i, :, : lengths[i]], counts[:, i]), self._mesh)
                learners = step(learners, still, *strings, keys, np.int32(2 * update + phase + 1))  # 0: the order
            moving = learners.params
        return jax.device_get(_join(moving, still))

    def _batches(self, corpora: Sequence[Any], keys: jax.Array) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Tokens [learners, updates, batch, length], counts (0 marks padding), and the length of each update."""
        size, batch = len(corpora[0]), self._settings.batch
        updates = -(-size // batch)
        longest = min(max(len(s) for corpus in corpora for s in corpus) + 2, self._settings.length)
        shape = (len(corpora), updates * batch, longest)
        rows = np.full(shape, tokens.PAD, np.uint8)
        for learner, (corpus, key) in enumerate(zip(corpora, keys, strict=True)):
            shuffled = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), size))
            rows[learner, :size] = tokens.encode([corpus[i] for i in shuffled], longest)
        counts = np.zeros(shape[:2], np.float32)
        counts[:, :size] = 1
        batches = rows.reshape(len(corpora), updates, batch, longest)
        used = [int((batches[:, i] != tokens.PAD).any((0, 1)).sum()) for i in range(updates)]
        sizes = (*(n for n in LENGTHS if n < self._settings.length), self._settings.length)
        lengths = [pad_size(n, sizes) for n in used]
        pad = max(0, max(lengths) - longest)
        batches = np.pad(batches, ((0, 0), (0, 0), (0, 0), (0, pad)), constant_values=tokens.PAD)
        return batches, counts.reshape(shape[0], updates, batch), lengths

    def _compiled(self, process: LearningProcess) -> tuple[Callable[..., Any], Callable[..., Any]]:
        def one(learner, still, rows, counts, key, update):
            strings = Strings(rows.astype(np.int32), counts)
            return process.step((), learner, {"strings": strings, "key": jax.random.fold_in(key, update)}, still)

        def one_by_one(learners, still, rows, counts, keys, update):
            now = functools.partial(one, update=update)
            return jax.lax.map(lambda own: now(*own), (learners, still, rows, counts, keys))

        side_by_side = jax.vmap(one, in_axes=(0, 0, 0, 0, 0, None))
        every = one_by_one if self._settings.learner_axis == "map" else side_by_side
        sharded = jax.shard_map(
            every, mesh=self._mesh, in_specs=(*[P(AXIS)] * 5, P()), out_specs=P(AXIS), check_vma=False
        )
        start = jax.vmap(lambda params: process.init(params, (), jax.random.key(0)))
        started = jax.shard_map(start, mesh=self._mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False)
        return jax.jit(started), jax.jit(sharded, donate_argnums=0)


def _learner(model: LanguageModel, optimizer: optax.GradientTransformation) -> LearningProcess:
    """Plain training as a learning process; nobody differentiates through it, so only its init and step are used.

    params: the weights that move; task: those that do not.
    """

    def loss(meta, params, input, task):
        return cross_entropy(model, _join(params, task), input["strings"], input["key"])

    return gradient_process(
        init=lambda meta, task, key: meta,
        inputs=lambda meta, task, key: None,
        inner_loss=loss,
        outer_loss=lambda *arguments: (loss(*arguments), {}),
        rule=optax_rule(optimizer),
        inner_gradient="plain",
    )


def _split(params: Any, moves: Any) -> tuple[Any, Any]:
    """The weights that move and those that do not, as two trees like params with None for what is in the other."""
    nothing = lambda x: jax.tree.map(lambda _: None, x)
    part = lambda wanted: jax.tree.map(lambda moves, x: x if moves == wanted else nothing(x), moves, params)
    return part(True), part(False)


def _join(moving: Any, still: Any) -> Any:
    return jax.tree.map(lambda a, b: b if a is None else a, moving, still, is_leaf=lambda x: x is None)
