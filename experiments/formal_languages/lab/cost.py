"""What a run costs, from its configuration alone: `--dry_run`, and which share of a run each part is."""

import functools
import os

import jax
import numpy as np

from experiments.formal_languages.lab.adaptation import Task, tasks
from experiments.formal_languages.lab.conditions import conditions_of, looked_into, networks
from experiments.formal_languages.lab.config import LabConfig
from experiments.formal_languages.lab.training import Group, Sources, groups, model_of
from metalearn.languages.nine import NINE
from metalearn.run.progress import duration

# Effective GFLOP/s by the counts below, of both cores of a 2-core server CPU: meta-training at the laptop preset (64
# units; larger networks run faster), groups that fill both cores.
RATES = {
    "lstm": 47.0, "gru": 32.0, "elman": 21.0, "relu": 18.0, "clipped_lstm": 31.0, "stack": 8.7, "queue": 8.3,
    "transformer": 43.0,
}  # fmt: skip
_COMPILING = 60.0  # seconds for each group, its share of adaptation included
_POOL_SECONDS = {"minimalist": 9.0, "metagrammar": 0.6}  # per language in each bin, nearly all for the rarest bins
_INSIDE_SECONDS = 60.0  # per architecture, mostly compiling
_DRAWN = 8  # batches drawn to see how many rows episodes take


def training_seconds(config: LabConfig, group: Group) -> float:
    """Expected seconds of a group on two cores, compiling left out."""
    return training_flops(config, group) / (1e9 * RATES[group.members[0][0].architecture])


def adaptation_seconds(config: LabConfig, task: Task) -> float:
    """Expected seconds of a task on two cores, compiling left out."""
    return adaptation_flops(config, task) / (1e9 * RATES[task.conditions[0].architecture])


def inside_seconds(config: LabConfig) -> float:
    """Expected seconds of looking inside, on two cores."""
    return _INSIDE_SECONDS * len(looked_into(config)) * (config.model.units / 64) ** 2


def training_flops(config: LabConfig, group: Group) -> float:
    """Floating-point operations of a group, padding included."""
    kind, training = group.members[0][0], config.training
    per_token = 2.0 * parameters(config, kind.architecture)
    updates, support, query = _tokens(config)
    # Forward passes that an update with its derivatives is worth, and how often the query is judged.
    inner, judged = {
        "exact": (9, updates if training.objective == "every_update" else 1),
        "first_order": (3, updates if training.objective == "every_update" else 1),
        "displacement": (3, 1 / 3),
        "pre_trained": (3, 1),
    }[kind.training]
    episode = per_token * (inner * updates * support + 3 * judged * query)
    return group.size * training.steps * training.tasks * episode


def adaptation_flops(config: LabConfig, task: Task) -> float:
    """Floating-point operations of a task: adapting every network to every target, and scoring it."""
    per_token = 2.0 * parameters(config, task.conditions[0].architecture)
    targets, settings = config.targets, config.adaptation
    updates = -(-task.strings // settings.batch) * (targets.sgd_epochs + targets.adamw_epochs)
    learned = 3 * updates * settings.batch * min(_LONGEST, settings.length)
    scored = targets.test_strings * (targets.test_symbols + 2)
    return len(task.conditions) * config.seeds * len(targets.languages) * per_token * (learned + scored)


# Tokens of the longest of ten strings of the nine languages, on average, as each update is as long as that.
_LONGEST = 24


@functools.cache
def parameters(config: LabConfig, architecture: str) -> int:
    """Numbers in the weights."""
    shapes = jax.eval_shape(model_of(config, architecture).init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@functools.cache
def _tokens(config: LabConfig) -> tuple[float, float, float]:
    """Updates of an episode, and tokens (padding included) of one support batch and of the query, on average."""
    sources = Sources(config)
    drawn = [sources.batch(name, step) for name in NINE for step in range(_DRAWN)]
    sizes = lambda part: np.mean([np.prod(part(batch).tokens.shape[-2:]) for batch in drawn])
    updates = np.mean([batch.support.tokens.shape[1] for batch in drawn])
    return float(updates), float(sizes(lambda e: e.support)), float(sizes(lambda e: e.query))


def describe(experiment: str, config: LabConfig) -> str:
    """Networks, floating-point operations, memory and time."""
    conditions = conditions_of(config, experiment)
    trained, adapting = groups(config, networks(conditions)), tasks(config, conditions)
    names = list(dict.fromkeys(condition.architecture for condition in conditions))
    sizes = {name: parameters(config, name) for name in names}
    largest = max(sizes.values())
    together = max((group.size for group in trained), default=0)
    updates, support, query = _tokens(config)
    flops = sum(training_flops(config, g) for g in trained), sum(adaptation_flops(config, t) for t in adapting)
    families = sorted({c.source.split(":")[0] for c in conditions if ":" in c.source})
    pools = sum(_POOL_SECONDS[family] * getattr(config.pools, f"{family}_per_bin") for family in families)
    seconds = {
        "pools of languages": pools,
        "training": sum(training_seconds(config, group) for group in trained),
        "adaptation and scores": sum(adaptation_seconds(config, task) for task in adapting),
        "compiling": _COMPILING * len(trained),
        "inside": inside_seconds(config) if experiment in ("inside", "everything") else 0.0,
    }
    learners = sum(len(task.conditions) for task in adapting) * config.seeds * len(config.targets.languages)
    lines = [
        f"networks to train              {sum(len(g.members) for g in trained)}: "
        f"{len({m for g in trained for m, _ in g.members})} kinds x {config.seeds} seeds, in {len(trained)} groups",
        f"outer steps of each            {config.training.steps:,} x {config.training.tasks} episodes of about "
        f"{updates:.3g} updates, {support:.0f} support and {query:.0f} query tokens after packing",
        f"adaptations                    {learners:,}: {len(conditions)} conditions x {config.seeds} seeds x "
        f"{len(config.targets.languages)} targets x N in {config.targets.strings}",
        "parameters                     " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()),
        f"training                       {flops[0]:.2g} FLOP",
        f"adaptation                     {flops[1]:.2g} FLOP",
        f"memory                         {together * 16 * largest / 2**20:,.0f} MiB of state in a group, "
        f"{4 * largest * (config.episodes.max_updates + 1) / 2**20:,.0f} MiB for the weights along one trajectory; "
        "activations come on top",
        *(f"{f'time, {part}':<30} {duration(taken)}" for part, taken in seconds.items() if taken),
        f"{'time, all':<30} {duration(sum(seconds.values()))} on two cores of a server "
        f"CPU at rates measured at the laptop preset ({os.cpu_count()} cores here)",
    ]
    return "\n".join(lines)
