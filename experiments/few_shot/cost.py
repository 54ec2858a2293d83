"""What a comparison will take, from its configuration alone: `--dry_run`."""

import numpy as np
from jax import eval_shape
from jax.random import key

from experiments.few_shot.config import SIZES, UNTRAINED, Config
from experiments.few_shot.contestants import adapted_parameters, for_sizes, initial_shape, updates_of
from experiments.few_shot.data import episode_shape
from metalearn.core import displacement, first_order
from metalearn.fewshot.encoders import EncoderParams, parameter_count

# Rates at which these encoders run, for orientation: effective, not peak.
_RATES = {"2-core CPU at 40 GFLOP/s": 40e9, "one GPU at 5 TFLOP/s": 5e12}


def hours(operations: float) -> list[str]:
    """What so many floating-point operations take, a line for each kind of device."""
    return [f"time on {name:<28} {operations / rate / 3600:,.2g} hours" for name, rate in _RATES.items()]


def forward_operations(params: EncoderParams, size: int) -> float:
    """Floating-point operations of the convolutions for one image of size x size; each block halves it at its end."""
    return sum(
        2.0 * int(np.prod(kernel.shape)) * (size // 2**block) ** 2
        for block, kernels in enumerate(params.kernels)
        for kernel in kernels
    )


def describe(config: Config) -> str:
    """Parameters, floating-point operations, memory and hours, by algorithm."""
    size, channels = SIZES.get(config.dataset, (config.size or 84, 3))
    encoder = config.encoder.build(size, channels)
    body = eval_shape(encoder.init, key(0))
    forward = forward_operations(body, size)
    sizes, training, pretraining = config.episodes, config.training, config.pretraining
    support, query = sizes.ways * sizes.shots, sizes.ways * sizes.queries
    episode = episode_shape(config, (size, size, channels))
    lines = [
        f"{config.dataset}, {sizes.ways}-way {sizes.shots}-shot, images {size} x {size} x {channels}, "
        f"{config.normalisation} normalisation, {config.seeds} seed{'s' * (config.seeds > 1)}",
        f"encoder             {parameter_count(body):,} parameters, {forward:.3g} FLOP an image",
        f"pre-training        {pretraining.steps:,} steps of {pretraining.batch} images",
        f"meta-training       {training.steps:,} outer steps of {training.tasks} tasks",
        f"{'algorithm':<18}{'meta-parameters':>16}{'adapted':>12}{'updates':>10}{'FLOP a task':>13}{'MiB a device':>14}"
        f"{'FLOP in all':>13}",
    ]
    total = config.seeds * pretraining.steps * pretraining.batch * 3 * forward
    for name in config.names:
        of = for_sizes(config, name, encoder)
        trained, tested = updates_of(of.training), updates_of(of.test)
        # A pass through an image forward is 1, its gradient 3 in all, the derivative of that 9 in all.
        passes = 3 if of.training.estimator in (first_order, displacement) else 9
        task = forward * (max(passes * trained, 3) * support + 3 * query)
        test = forward * (max(3 * tested, 1) * support + (tested + 1) * query)
        validations = -(-training.steps // training.validate_every) * config.validation_episodes
        outer_steps = 0 if name in UNTRAINED else training.steps
        whole = outer_steps * training.tasks * task + (validations * bool(outer_steps) + config.test_episodes) * test
        total += config.seeds * whole
        moved = adapted_parameters(of.training, episode)
        learned = parameter_count(initial_shape(of.training))
        # Maps of all layers for the query images, twice, and what the unroll keeps of the weights; float32.
        maps = sum(
            (size // 2**block) ** 2 * len(kernels) * filters
            for block, (kernels, filters) in enumerate(zip(body.kernels, encoder.filters, strict=True))
        )
        together = training.tasks if training.task_axis == "vmap" else 1
        memory = 4 * (4 * learned + together * (moved * (trained + 1) + 11 * maps * max(query, support)))
        lines.append(
            f"{name:<18}{learned:>16,}{moved:>12,}{f'{trained} / {tested}':>10}{task:>13.2g}{memory / 2**20:>14,.0f}"
            f"{config.seeds * whole:>13.2g}"
        )
    lines += hours(total)
    lines.append("Operations are those of the convolutions; what an algorithm adds to them comes on top.")
    return "\n".join(lines)
