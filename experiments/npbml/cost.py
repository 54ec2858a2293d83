"""What an experiment on NPBML will take, from its configuration alone: `--dry_run`."""

from typing import NamedTuple

import numpy as np
from jax import eval_shape
from jax.random import key

from experiments.few_shot.config import SIZES
from experiments.few_shot.contestants import adapted_parameters, initial_shape
from experiments.few_shot.cost import forward_operations, hours
from experiments.few_shot.data import episode_shape
from experiments.npbml.config import Config
from experiments.npbml.relation import network_of
from experiments.npbml.rows import Row, for_sizes, rows_of
from metalearn.fewshot.encoders import Encoder, EncoderParams, parameter_count


class TaskCost(NamedTuple):
    """Floating-point operations of a task's convolutions in training and in test."""

    training: float
    test: float


def by_block(row: Row, encoder: Encoder, body: EncoderParams, size: int) -> np.ndarray:
    """[blocks] operations of one image, forward, warps included."""
    last = encoder.blocks - 1
    counts = []
    for number, kernels in enumerate(body.kernels):
        side = size // 2**number
        alone = EncoderParams((kernels,), body.norms[number : number + 1])
        operations = forward_operations(alone, side)
        if row.biases.warps == "all" or row.biases.warps == "last" and number == last:
            one = 2.0 * 9 * encoder.filters[number] ** 2
            if row.biases.warp_place == "block":
                operations += one * (side // 2) ** 2
            else:
                operations += one * side**2 * sum(kernel.ndim == 4 for kernel in kernels)
        counts.append(operations)
    return np.array(counts)


def task_cost(row: Row, blocks: np.ndarray, support: int, query: int, updates: tuple[int, int]) -> TaskCost:
    """Operations of a task with `support` and `query` images, for inner updates in training and in test.

    A pass forward is 1, with its gradient 3 and with the derivative of that 9 in all. The blocks below those that move
    are passed once, or twice where the query is normalised in different company at the end.
    """
    biases = row.biases
    first = len(blocks) - 1 if biases.adapted == "last" else 0
    below, moving = blocks[:first].sum(), blocks[first:].sum()
    joint = row.normalisation == "transductive" and biases.batch == "joint"
    adapting = support + query * (joint or biases.transductive)
    learned = 3 if biases.initialisation == "all" else 1
    trained, tested = updates
    return TaskCost(
        below * learned * (adapting + query) + moving * (9 * trained * adapting + 3 * query),
        below * (adapting + query) + moving * (3 * tested * adapting + (tested + 1) * query),
    )


def describe(name: str, config: Config) -> str:
    """Parameters, floating-point operations, memory and hours, by row."""
    few_shot = config.few_shot
    size, channels = SIZES.get(few_shot.dataset, (config.size or 84, 3))
    shape = (size, size, channels)
    encoder = config.encoder.build(size, channels)
    body = eval_shape(encoder.init, key(0))
    forward = forward_operations(body, size)
    sizes, training, pretraining = config.episodes, config.training, config.pretraining
    support, query = sizes.ways * sizes.shots, sizes.ways * sizes.queries
    episode = episode_shape(few_shot, shape)
    rows = rows_of(config, name)
    lines = [
        f"{name} on {few_shot.dataset}, {sizes.ways}-way {sizes.shots}-shot, images {size} x {size} x {channels}, "
        f"{config.seeds} seed{'s' * (config.seeds > 1)}",
        f"encoder             {parameter_count(body):,} parameters, {forward:.3g} FLOP an image",
        f"pre-training        {pretraining.steps:,} steps of {pretraining.batch} images",
    ]
    total = config.seeds * pretraining.steps * pretraining.batch * 3 * forward
    scoring = 0.0
    if any(row.biases.scores == "given" for row in rows):
        relation = config.relation
        network = network_of(relation, sizes.ways, shape)
        params = eval_shape(network.init, key(0))
        scoring = relation_operations(params, size, support, query, sizes.ways)
        total += config.seeds * relation.steps * relation.tasks * 3 * scoring
        lines.append(
            f"relation network    {parameter_count(params):,} parameters, {relation.steps:,} steps of {relation.tasks} "
            f"episodes, {scoring:.3g} FLOP an episode forward"
        )
    lines += [
        f"meta-training       {config.outer.steps:,} outer steps of {training.tasks} tasks",
        f"{'row':<34}{'meta-parameters':>16}{'adapted':>10}{'FLOP a task':>13}{'MiB a device':>14}{'FLOP in all':>13}",
    ]
    recipe = config.recipe
    episodes = config.test_episodes * (2 if name == "fairness" else 1)
    validations = -(-config.outer.steps // training.validate_every) * config.validation_episodes
    for row in rows:
        of = for_sizes(config, row, encoder)
        one = task_cost(row, by_block(row, encoder, body, size), support, query, (recipe.updates, recipe.test_updates))
        steps = config.outer.steps if row.trained else 0
        scored = scoring if row.biases.scores == "given" else 0.0
        whole = steps * training.tasks * (one.training + scored)
        whole += (validations * row.trained + episodes) * (one.test + scored)
        total += config.seeds * whole
        moved, learned = adapted_parameters(of.training, episode), parameter_count(initial_shape(of.training))
        memory = 4 * (
            4 * learned + _together(config) * (moved * (recipe.updates + 1) + _maps(row, encoder, body, size, config))
        )
        lines.append(
            f"{row.name:<34}{learned:>16,}{moved:>10,}{one.training:>13.2g}{memory / 2**20:>14,.0f}"
            f"{config.seeds * whole:>13.2g}"
        )
    lines += hours(total)
    lines.append("Operations are those of the convolutions; what the networks of the loss do comes on top.")
    return "\n".join(lines)


def relation_operations(params, size: int, support: int, query: int, ways: int) -> float:
    """Operations of a relation network for one episode, forward: it encodes each image and compares each pair."""
    sides = [size // 2 ** min(number, 2) for number in range(len(params.encoder.kernels))]
    encoded = sum(
        forward_operations(EncoderParams((kernels,), ()), side)
        for kernels, side in zip(params.encoder.kernels, sides, strict=True)
    )
    compared = forward_operations(params.comparer, size // 2 ** min(2, len(params.encoder.kernels)))
    return encoded * (support + query) + compared * query * ways


def _together(config: Config) -> int:
    """Tasks of a device that are in memory at the same time."""
    return config.training.tasks if config.training.task_axis == "vmap" else 1


def _maps(row: Row, encoder: Encoder, body: EncoderParams, size: int, config: Config) -> float:
    """Numbers that a step keeps of maps, as in few_shot: eleven times those of all layers, warps and modulation
    counting as layers of their own.
    """
    sizes, last = config.episodes, encoder.blocks - 1
    images = sizes.ways * (sizes.shots + sizes.queries)
    layers = 0.0
    for number, (kernels, filters) in enumerate(zip(body.kernels, encoder.filters, strict=True)):
        kinds = (row.biases.warps, row.biases.film_blocks if row.biases.film in ("encoder", "both") else "none")
        beside = sum(where == "all" or where == "last" and number == last for where in kinds)
        layers += (size // 2**number) ** 2 * len(kernels) * filters * (1 + beside)
    return 11 * layers * images
