"""What a run takes, from its configuration alone: `--dry_run`, and which share of a run each part is."""

import functools

import jax
import numpy as np

from experiments.few_shot.cost import hours
from experiments.formal_languages.lab.cost import parameters
from experiments.formal_languages.lab.training import Sources, model_of
from experiments.learned_procedures.config import BASELINE, Condition, Config
from experiments.learned_procedures.switches import PARTS, init_all, switched, switches
from metalearn.languages.nine import NINE

_DRAWN = 2  # batches of each language, drawn to see how many rows episodes take


def training_flops(config: Config) -> float:
    """Floating-point operations of the meta-training of one condition: all its sources and seeds, padding included."""
    support, query = _tokens(config)
    training = config.training
    judged = training.updates if training.objective == "every_update" else 1
    # An update with its derivatives is worth nine passes forward, a judgement three.
    episode = 2.0 * parameters(config.lab, "lstm") * (9 * training.updates * support + 3 * judged * query)
    return len(config.sources) * config.seeds * training.steps * training.tasks * episode


def adaptation_flops(config: Config, condition: Condition) -> float:
    """Floating-point operations of adapting all networks of a condition to all targets and scoring them."""
    targets = config.targets
    sources = len(config.sources) if condition != BASELINE else 1
    learned = 3 * config.test_updates * max(targets.strings) * targets.length
    tokens = learned + targets.test_strings * (targets.test_symbols + 2)
    learners = sources * config.seeds * targets.draws * len(targets.languages) * len(targets.strings)
    return 2.0 * parameters(config.lab, "lstm") * learners * tokens


def meta_parameters(config: Config, condition: Condition) -> int:
    """Numbers that a condition learns."""
    shapes = jax.eval_shape(init_all, jax.random.key(0), _params(config))
    learned = switches(*condition)
    on = switched({part: jax.tree.map(lambda _: 1.0, shapes[part]) for part in PARTS}, learned)
    sizes = jax.tree.map(lambda x, on: x.size * int(on), {part: shapes[part] for part in on}, on)
    return sum(jax.tree.leaves(sizes)) + int(learned["start"]) * parameters(config.lab, "lstm")


def describe(config: Config) -> str:
    """Sizes, floating-point operations, memory and time."""
    support, query = _tokens(config)
    training, targets, size = config.training, config.targets, parameters(config.lab, "lstm")
    trained = [condition for condition in config.conditions if condition != BASELINE]
    choosing = len(config.rates.grid) * config.rates.steps / training.steps if len(config.rates.grid) > 1 else 0.0
    flops = (
        (len(trained) + choosing) * training_flops(config),
        sum(adaptation_flops(config, c) for c in config.conditions),
    )
    together = training.tasks if training.task_axis == "vmap" else 1
    learners = config.seeds * len(targets.languages)
    most = max(meta_parameters(config, condition) for condition in config.conditions)
    networks = len(config.sources) * config.seeds
    lines = [
        f"networks to train   {len(trained) * networks}: {len(trained)} conditions x {len(config.sources)} sources "
        f"({', '.join(config.sources)}) x {config.seeds} seeds",
        f"outer steps of each {training.steps:,} x {training.tasks} episodes of {training.updates} updates, about "
        f"{support:.0f} support and {query:.0f} query tokens after packing",
        f"adaptations         {learners * targets.draws:,} of each condition, source and N in {targets.strings}, "
        f"{config.test_updates} updates each",
        f"parameters          {size:,} of the LSTM",
        f"{'condition':<26}{'meta-parameters':>16}",
        *(f"{c.start + ' start, ' + c.procedure:<26}{meta_parameters(config, c):>16,}" for c in config.conditions),
        f"training            {flops[0]:.2g} FLOP",
        f"adaptation          {flops[1]:.2g} FLOP",
        f"memory              {networks * 16 * (most + size) / 2**20:,.0f} MiB of state, "
        f"{together * 4 * size * (training.updates + 1) / 2**20:,.2g} MiB a device for the weights along trajectories, "
        f"{4 * size * learners / 2**20:,.0f} MiB for adapted networks; activations come on top",
        *hours(sum(flops)),
        "Compiling, a minute or two, and building pools of languages come on top.",
    ]
    return "\n".join(lines)


@functools.cache
def _tokens(config: Config) -> tuple[float, float]:
    """Tokens of the support and of the query of an episode, padding included.

    A mean over the sources, but for pools, which would have to be built; without others, over the nine languages.
    """
    sources, names = Sources(config.lab), [name for name in config.sources if name in NINE] or list(NINE)
    drawn = [sources.batch(name, step) for name in names for step in range(_DRAWN)]
    sizes = lambda part: float(np.mean([np.prod(part(batch).tokens.shape[-2:]) for batch in drawn]))
    return sizes(lambda episode: episode.support), sizes(lambda episode: episode.query)


def _params(config: Config):
    return jax.eval_shape(model_of(config.lab, "lstm").init, jax.random.key(0))
