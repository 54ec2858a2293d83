"""Configuration of the experiments on NPBML: one dataclass for all of them, and presets for each."""

import dataclasses
from typing import Literal

from experiments.few_shot.config import Config as FewShotConfig
from experiments.few_shot.config import EncoderSettings, LoopSettings, PretrainingSettings, Recipe, TrainingSettings
from metalearn.fewshot.episodes import EpisodeSettings
from metalearn.fewshot.family.biases import CODE, OUTER_CODE, PAPER, Biases, OuterSettings


@dataclasses.dataclass(frozen=True)
class RelationSettings:
    """The relation network, which is trained before meta-training where biases.scores="given", once for each seed."""

    filters: tuple[int, ...] = (64, 128, 256, 512)
    """Of each residual block of its encoder; the released code's has 25 million weights."""
    steps: int = 100_000
    """Optimiser steps."""
    tasks: int = 1
    """Episodes in a step, spread over as many devices as divide it."""
    rate: float = 1e-3
    """Learning rate of Adam."""
    augmentation: Literal["none", "full"] = "full"
    """As in pre-training."""
    validate_every: int = 500
    """Steps between validations; what did best is kept."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not self.filters or min(*self.filters, self.steps, self.tasks, self.validate_every) < 1:
            raise ValueError(f"{self}: filters, steps, tasks and validate_every must be at least 1")


@dataclasses.dataclass(frozen=True)
class Config:
    """NPBML, pre-training, meta-training and test. Defaults: the paper's, five ways and one shot."""

    dataset: str = ""
    """One of those of experiments.few_shot; empty: "cifar-fs" where `data` is given, else "glyphs"."""
    data: str = ""
    """The folder with the files of the data set, as they were downloaded; empty for Glyphs."""
    size: int | None = None
    """Pixels on a side to which "folders" are resampled; none: they are all of one size."""
    streamed: bool = False
    """Whether images stay on disk, and only those of a batch go to the device (for tiered-ImageNet)."""
    episodes: EpisodeSettings = EpisodeSettings()
    """What an episode consists of."""
    encoder: EncoderSettings = EncoderSettings(filters=128)
    """The network."""
    normalisation: Literal["transductive", "support", "running"] = "transductive"
    """Whose statistics normalise the query images; see few_shot. The experiment "fairness" compares two of them."""
    pretraining: PretrainingSettings = PretrainingSettings(steps=200_000)
    """Of the encoder, once for each seed."""
    relation: RelationSettings = RelationSettings()
    """The relation network."""
    biases: Biases = PAPER
    """What NPBML learns, and how."""
    training: LoopSettings = LoopSettings()
    """Meta-training; one shot: 4 tasks in an outer step, five shots: 2."""
    outer: OuterSettings = OuterSettings()
    """Its outer optimiser."""
    validation_episodes: int = 600
    """Episodes of a validation, the same each time."""
    test_episodes: int = 600
    """Episodes of the test, the same for all rows and seeds; 600."""
    seeds: int = 1
    """Independent repetitions: initial weights and training episodes."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Checks what can be checked without the data."""
        _ = self.few_shot
        if self.biases.warps != "none" and self.biases.warp_norm and self.normalisation == "running":
            raise ValueError('normalisation="running" has no statistics of warps: set biases.warp_norm=false')

    @property
    def few_shot(self) -> FewShotConfig:
        """The comparison of one algorithm that this is, as far as data, pre-training and loops are concerned."""
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(FewShotConfig)
            if field.name in _SHARED
        }
        loop = {field.name: getattr(self.training, field.name) for field in dataclasses.fields(LoopSettings)}
        return FewShotConfig(
            algorithms=("npbml",),
            dataset=self.dataset or ("cifar-fs" if self.data else "glyphs"),
            training=TrainingSettings(steps=self.outer.steps, outer_rate=self.outer.rate, **loop),
            **own,
        )

    @property
    def recipe(self) -> Recipe:
        """Rates and inner updates."""
        return self.few_shot.recipe("npbml")


_SHARED = (
    *("data", "size", "streamed", "episodes", "encoder", "normalisation", "pretraining"),
    *("validation_episodes", "test_episodes", "seeds", "seed"),
)

_LAST = dataclasses.replace(PAPER, adapted="last", warps="last", film_blocks="last")
"""The paper's equations where the last block alone is adapted, as in the released code: a small part of the cost."""

PRESETS = {
    "smoke": Config(
        episodes=EpisodeSettings(ways=3, queries=2),
        encoder=EncoderSettings(filters=4),
        pretraining=PretrainingSettings(steps=2, batch=8, optimizer="adamw", augmentation="none", validate_every=2),
        relation=RelationSettings(filters=(2, 4), steps=2, augmentation="none", validate_every=2),
        biases=_LAST,
        training=LoopSettings(
            tasks=2,
            updates=2,
            test_updates=2,
            task_axis="map",
            validate_every=2,
            checkpoint_every=2,
            log_every=1,
        ),
        outer=OuterSettings(rate=1e-3, steps=4, clip=1.0),
        validation_episodes=2,
        test_episodes=6,
        seeds=2,
    ),
    # A minute a network on two cores: few filters, few outer steps at a rate that is thirty times the paper's. At a
    # hundred times, inner loops ran away after twenty outer steps in one seed of three (Adam makes little of a clip).
    "laptop": Config(
        episodes=EpisodeSettings(queries=10),
        encoder=EncoderSettings(filters=16),
        pretraining=PretrainingSettings(
            steps=1500, batch=64, optimizer="adamw", rate=3e-3, augmentation="none", validate_every=250
        ),
        relation=RelationSettings(filters=(8, 16, 32, 32), steps=400, tasks=2, augmentation="none", validate_every=100),
        biases=_LAST,
        training=LoopSettings(task_axis="map", validate_every=100, checkpoint_every=100),
        outer=OuterSettings(rate=3e-4, final_rate=1e-5, steps=400, clip=1.0),
        validation_episodes=100,
        test_episodes=300,
    ),
    "paper": Config(),
    "code": Config(biases=CODE, outer=OUTER_CODE),
}
"""Of the experiments "full" and "implicit". Rates of the inner loop are the published ones for each kind of data."""

COMPARISONS = PRESETS | {"laptop": dataclasses.replace(PRESETS["laptop"], seeds=3)}
"""Of the experiment "fairness"."""

# Tables 3 and 4 are about five shots.
TABLES = COMPARISONS | {
    name: dataclasses.replace(
        PRESETS[name],
        episodes=dataclasses.replace(PRESETS[name].episodes, shots=5),
        training=dataclasses.replace(PRESETS[name].training, tasks=2),
        seeds=3,
    )
    for name in ("laptop", "paper", "code")
}
"""Of the experiments "table_3" and "table_4"."""
