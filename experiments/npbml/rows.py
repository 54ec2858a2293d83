"""The rows of each experiment: what is learned, from where, under which normalisation, and whether at all."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.few_shot.contestants import NO_START, Contestant, Start, judge, unchanged
from experiments.npbml.config import Config
from metalearn.fewshot.encoders import Encoder
from metalearn.fewshot.episodes import Episode
from metalearn.fewshot.family import Setting
from metalearn.fewshot.family.biases import LOSSES, TABLE_3, TABLE_4, Biases
from metalearn.fewshot.family.npbml import npbml
from metalearn.run import ConfigError


class Row(NamedTuple):
    """One line of a table.

    name: in words.
    biases: what is learned.
    normalisation: whose statistics normalise query images.
    pretrained: whether the encoder begins as pre-trained, or at random.
    trained: whether there is meta-training (eta > 0), or the test is of what it would begin with.
    """

    name: str
    biases: Biases
    normalisation: str
    pretrained: bool = True
    trained: bool = True

    @property
    def stage(self) -> str:
        """A name for folders."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower().replace("+", "plus")).strip("_")


QUERY_USE = ("inductive", "+ L^Q", "+ joint batch-norm")
"""What adaptation and prediction have of the query images: each on its own; all through L^Q; normalisation as well."""


def rows_of(config: Config, experiment: str) -> tuple[Row, ...]:
    """The rows of an experiment.

    Raises:
        ConfigError: the biases lack what the experiment is about, or there is no pre-training to compare with.
    """
    if experiment in ("table_3", "table_4"):
        table = TABLE_3 if experiment == "table_3" else TABLE_4
        _check(config.biases, sorted({component for row in table.values() for component in row}))
        return tuple(
            Row(name, config.biases.only(*components), config.normalisation) for name, components in table.items()
        )
    if experiment == "fairness":
        _check(config.biases, ["transductive"])
        if not config.pretraining.steps:
            raise ConfigError("fairness compares with the pre-trained encoder: set pretraining.steps to at least 1")
        return tuple(
            Row(cell_name(use, pretrained, trained), *_using(config.biases, use), pretrained, trained)
            for pretrained in (True, False)
            for trained in (True, False)
            for use in QUERY_USE
        )
    if experiment == "implicit":
        _check(config.biases, ["warps", *LOSSES, "film"])
        if config.biases.film == "losses":
            raise ConfigError('implicit looks at how maps are modulated: set biases.film to "encoder" or "both"')
    return (Row("NPBML", config.biases, config.normalisation),)


def cell_name(use: str, pretrained: bool, trained: bool) -> str:
    """The name of a row of the experiment "fairness"."""
    return f"{use}, {'pre-trained' if pretrained else 'from scratch'}{'' if trained else ', eta = 0'}"


def _using(biases: Biases, use: str) -> tuple[Biases, str]:
    """Biases and normalisation, for one of QUERY_USE."""
    if use == "+ joint batch-norm":
        return dataclasses.replace(biases, batch="joint"), "transductive"
    # Normalised by the support images, every query image is judged as if it came alone.
    return dataclasses.replace(biases, transductive=use == "+ L^Q", batch="apart"), "support"


def _check(biases: Biases, components: list[str]) -> None:
    missing = [name for name in components if getattr(biases, name) in (False, "none")]
    if missing:
        raise ConfigError(f"this experiment is about {', '.join(missing)}: set biases.{missing[0]}")


def contestant(
    config: Config, row: Row, encoder: Encoder, start: Start, shown: Callable[[Episode], Any] = unchanged
) -> Contestant:
    """The row as something that can be trained and tested.

    Args:
        shown: as of `Contestant`.
    """
    recipe = config.recipe
    build = lambda updates: npbml(setting_of(config, row, encoder, start, updates), row.biases)
    optimizer = config.outer.optimizer() if row.trained else None
    test = build(recipe.test_updates)
    return Contestant(recipe, build(recipe.updates), test, optimizer, judge(test), shown)


def setting_of(config: Config, row: Row, encoder: Encoder, start: Start, updates: int) -> Setting:
    """What NPBML is told, for that many inner updates."""
    return Setting(
        encoder,
        config.episodes.ways,
        updates,
        config.recipe.inner_rate,
        row.normalisation,
        start.statistics if row.normalisation == "running" else None,
        start.params if row.pretrained else None,
        config.training.inner_gradient,
    )


def for_sizes(config: Config, row: Row, encoder: Encoder) -> Contestant:
    """The same where only shapes matter: they do not depend on the normalisation, whose statistics are not at hand."""
    return contestant(config, row._replace(normalisation="transductive"), encoder, NO_START)
