"""What a run will cost, from its configuration alone: `--dry_run`."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from experiments.formal_languages.distilled.config import Config
from experiments.formal_languages.distilled.training import model_of
from metalearn.languages.episodes import EpisodeBatches, draw_language
from metalearn.languages.prefixes import Prefixes

_DRAWN = 24  # episodes drawn to see what they hold
# Peak TFLOP/s of matrix products in float32 (TF32 on these GPUs, one bfloat16 pass on TPUs) and with bfloat16 operands,
# as their makers state them; and the share of it that is assumed: McCoy & Griffiths' 1 to 2 days a run on an A100.
_DEVICES = {"A100": (156.0, 312.0), "H100 SXM": (495.0, 989.0), "TPU v5e": (197.0, 197.0)}
_SHARE = 0.05
_CPU = 0.03  # TFLOP/s of two cores of a server, in either type
_ACTIVATIONS = 24  # numbers a cell and unit that a layer holds at its busiest, see `memory`


class Tokens(NamedTuple):
    """What an episode makes a network read, padding included.

    updates: K; support: K times a support batch; query: the query; judged: K times the query: means over episodes.
    largest: tokens of the query that are held at once, at most.
    """

    updates: float
    support: float
    query: float
    judged: float
    largest: int


@functools.cache
def tokens(config: Config) -> Tokens:
    """Counted on a few drawn episodes: rough, as the mean is made by the few languages with many strings."""
    batches = EpisodeBatches(
        jax.random.key(config.seed), 1, config.episodes, lambda rng, n: draw_language(rng, n, config.metagrammar)
    )
    rows, largest = [], 0
    for step in range(_DRAWN):
        support, query = batches(step)
        updates = support.tokens.shape[1]
        size = query.tokens[0].size
        if isinstance(query, Prefixes):
            grids = query.tokens.shape[1]
            held = size // grids
            size = held * int((query.counts > 0).any((2, 3, 4)).sum())  # empty grids are not computed
        else:
            held = min(size, (config.training.query_rows or query.tokens.shape[1]) * query.tokens.shape[2])
        rows.append((updates, support.tokens[0].size, size, updates * size))
        largest = max(largest, held)
    updates, support, query, judged = np.mean(rows, axis=0).tolist()
    return Tokens(updates, support, query, judged, largest)


def memory(config: Config) -> dict[str, float]:
    """MiB of one device that takes all tasks, by what needs it: "state", "trajectory" and "activations".

    A layer holds, for each token and unit, what it is driven by, its gates, h and c, what the backward pass is made of
    (8), and gradients of gates, h and c; float32 throughout.
    """
    params, training = parameters(config), config.training
    side_by_side = training.tasks if training.task_axis == "vmap" else 1
    read, longest = tokens(config), config.episodes.max_updates
    in_parts = bool(training.query_rows or config.episodes.grid_times)
    # The weights before each update, and, of a judgement in parts, its gradient.
    kept = {"residuals": longest, "recompute": longest, "segments": 2 * longest**0.5}[training.memory]
    trajectory = (1 + in_parts * (training.memory == "residuals")) * (kept + 1) * params
    # Side by side, the activations of every judgement wait for the backward pass, unless they are recomputed.
    judgements = longest if training.memory == "residuals" and not in_parts else 1
    activations = _ACTIVATIONS * config.model.layers * config.model.units * read.largest * judgements
    mib = lambda numbers: 4 * numbers / 2**20
    return {
        "state": mib(4 * params),  # weights, the two moments of AdamW, and the best weights so far
        "trajectory": mib(side_by_side * trajectory),
        "activations": mib(side_by_side * activations),
    }


def parameters(config: Config) -> int:
    """Numbers in the weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model_of(config).init, jax.random.key(0))))


def describe(config: Config) -> str:
    """Parameters, floating-point operations, memory and hours."""
    params, training, read = parameters(config), config.training, tokens(config)
    per_token = 2.0 * params
    # Forward passes that an update and its derivatives are worth; "stepwise" takes each exactly and to first order.
    inner = {"exact": 9, "first_order": 3, "truncated": 9, "stepwise": 12, "displacement": 3}[training.estimator]
    judged = read.judged if training.objective == "every_update" else read.query
    episodes = config.seeds * training.steps * training.tasks
    meta = episodes * per_token * (inner * read.support + 3 * judged)
    pre = episodes * per_token * 3 * (read.support + read.query)
    validations = 2 * config.seeds * -(-training.steps // training.validate_every) * training.validation_tasks
    validation = validations * per_token * (3 * read.support + read.query)
    strings = sum(15 * max(n, 10) for n in config.evaluation.strings)
    adaptation = 3 * config.seeds * len(config.languages) * strings * 3 * per_token * 12
    total = meta + pre + validation + adaptation
    held = memory(config)
    lines = [
        f"parameters                     {params:,}",
        f"an episode                     {read.updates:.3g} updates of {read.support / read.updates:,.0f} tokens and "
        f"a query of {read.query:,.0f}, padding included; means of {_DRAWN} drawn languages",
        f"meta-training                  {config.seeds} seeds x {training.steps:,} steps x {training.tasks} languages: "
        f"{meta:.2g} FLOP",
        f"pre-training                   the same episodes: {pre:.2g} FLOP",
        f"validation                     {validation:.2g} FLOP",
        f"adaptation                     {3 * config.seeds * len(config.languages):,} networks at each N of "
        f"{config.evaluation.strings}: about {adaptation:.2g} FLOP",
        f"memory of the outer step       {held['state']:,.0f} MiB of state, {held['trajectory']:,.0f} MiB for weights "
        f"along the trajectory, {held['activations']:,.0f} MiB of activations: {sum(held.values()):,.0f} MiB on one "
        "device, at most",
    ]
    half = config.model.products == "bfloat16"
    rates = {name: _SHARE * peak[half] for name, peak in _DEVICES.items()} | {"2 cores of a CPU": _CPU}
    for name, rate in rates.items():
        hours = lambda operations, rate=rate: f"{operations / (rate * 1e12) / 3600:,.2g}"
        lines.append(
            f"hours on {name:<22}{hours(total)}, of which {hours(meta / config.seeds)} to meta-train one seed "
            f"(at {rate * 1000:,.3g} GFLOP/s)"
        )
    lines.append(
        f"Rates are assumed, not measured: {_SHARE:.0%} of the peak in {config.model.products}, and one for two cores."
    )
    return "\n".join(lines)
