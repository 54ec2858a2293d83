"""Configuration of the few-shot comparison: one dataclass, its presets, and each algorithm's published settings."""

import dataclasses
from typing import Literal, NamedTuple

from metalearn.fewshot.data import DATASETS
from metalearn.fewshot.encoders import Encoder, four_conv, resnet12
from metalearn.fewshot.episodes import EpisodeSettings
from metalearn.fewshot.family import ALGORITHMS
from metalearn.run.config import suggestion

ALL = "all"


class Recipe(NamedTuple):
    """How an algorithm learns where its paper says so.

    inner_rate: of the inner loop, or where learning it begins.
    updates: inner updates in training. test_updates: in validation and test.
    outer_rate: of Adam; of plain gradient descent that falls linearly to zero where `descent`.
    """

    inner_rate: float
    updates: int
    test_updates: int
    outer_rate: float = 1e-3
    descent: bool = False


# The recipe of every algorithm that has no line of its own below. Finn et al. (2017), five ways: cbfinn/maml, main.py,
# whose test on drawings goes on to 10 updates. The programs of T-Net and MT-Net (yoonholee/MT-net, experiments/*.sh)
# and of Meta-Curvature (seba-1511/meta-curvature, README) have the same for training.
_FINN = {"drawings": Recipe(0.4, 1, 3), "photographs": Recipe(0.01, 5, 10)}

# ALFA, L2F and MeTAL are built on the program of MAML++, and for photographs their settings are the same
# (baiksung/ALFA, L2F, MeTAL: experiment_config). For drawings theirs are ours: those of MAML++.
_PLUS_PLUS = {"drawings": Recipe(0.1, 5, 5), "photographs": Recipe(0.01, 5, 5)}

RECIPES: dict[str, dict[str, Recipe]] = {
    "drawings": {
        # Only the outer rate is that of Nichol et al. (2018): their inner loop is Adam.
        "reptile": Recipe(0.1, 5, 10, 1.0, descent=True),
        "imaml": Recipe(0.1, 16, 16),  # Rajeswaran et al. (2019): aravindr93/imaml_dev, examples/README.md
        "anil": Recipe(0.1, 5, 5),  # ours: what cbfinn/maml, main.py, has for 20 ways
        "boil": Recipe(0.4, 1, 1),  # ours: the rate of MAML, one update as for photographs
        "cavia": Recipe(1.0, 2, 2),  # ours: as for photographs
        "meta_sgd": Recipe(0.05, 1, 1),  # Li et al. (2017): one update, and rates begin at random in 0.005 .. 0.1
        "proto_maml": Recipe(0.1, 1, 3),  # ours: at 0.4 adaptation hurts the prototypes
        "unicorn_maml": Recipe(0.4, 1, 1),  # ours: the rate of MAML, and no further updates in the test, as theirs
        "maml_plus_plus": _PLUS_PLUS["drawings"],  # AntreasAntoniou/HowToTrainYourMAMLPytorch, experiment_config
        **dict.fromkeys(("alfa", "l2f", "metal"), _PLUS_PLUS["drawings"]),
        # Raymond et al. (2024) for Omniglot, whose outer rate is 1e-5; at 1e-3 the inner loop soon diverges.
        "npbml": Recipe(0.1, 5, 5, 1e-4),
    },
    "photographs": {
        # openai/supervised-reptile, README: the transductive run with one shot; its updates are Adam's, its tasks have
        # 15 images a class to learn from.
        "reptile": Recipe(0.01, 15, 10, 1.0, descent=True),
        "imaml": Recipe(0.01, 10, 10),  # ours
        "boil": Recipe(0.5, 1, 1),  # Oh et al. (2021): HJ-Yoo/BOIL, run_4conv.sh
        "cavia": Recipe(1.0, 2, 2),  # Zintgraf et al. (2019): lmzintgraf/cavia, classification/arguments.py
        "meta_sgd": Recipe(0.05, 1, 1),  # Li et al. (2017), see above
        # Triantafillou et al. (2020), to first order and for ResNet-18: google-research/meta-dataset,
        # learn/gin/best/maml_init_with_proto_imagenet.gin
        "proto_maml": Recipe(0.0054, 6, 6),
        # Ye & Chao (2022) for one shot and ResNet-12; their logits are divided by 0.5: Han-Jia/UNICORN-MAML, README
        "unicorn_maml": Recipe(0.1, 5, 5),
        "maml_plus_plus": _PLUS_PLUS["photographs"],  # as above
        **dict.fromkeys(("alfa", "l2f", "metal"), _PLUS_PLUS["photographs"]),
        "npbml": Recipe(0.01, 5, 5, 1e-5),  # Raymond et al. (2024), where encoders are pre-trained to the end
        # Kang et al. (2023), whose scales learn at a rate of their own: Suhyun777/CVPR23-GAP, main.py
        "gap": Recipe(0.01, 5, 10, 1e-4),
        "approximate_gap": Recipe(0.01, 5, 10, 1e-4),
    },
}
"""By kind of data and algorithm; a line that names no source is ours. Fields of `TrainingSettings` override them.

Repositories that are named were read. Two values are from memory of the papers: that Finn et al. test on drawings after
3 updates, and how Meta-SGD begins.
"""

UNTRAINED = ("nearest_centroid",)
"""Algorithms that take the encoder as it is."""

_DRAWINGS = ("glyphs", "omniglot")

SIZES = {"glyphs": (28, 1), "omniglot": (28, 1), "mini-imagenet": (84, 3), "tiered-imagenet": (84, 3)} | {
    name: (32, 3) for name in ("cifar-fs", "fc100")
}
"""Pixels on a side and channels of the images of each data set."""


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
    """The network that all algorithms share."""

    name: Literal["4-conv", "resnet-12"] = "4-conv"
    """Four blocks of one convolution each, or four of three beside a shortcut."""
    filters: int = 64
    """Of the first block; "4-conv" has as many in all blocks, "resnet-12" twice as many in each further one."""
    readout: Literal["mean", "flatten"] = "mean"
    """What becomes of the last maps: their mean over positions, or all of them (Finn et al. for photographs)."""

    def build(self, size: int, channels: int, convolution: str | None = None) -> Encoder:
        """The encoder for images [size, size, channels]; convolution: see `conv3x3`.

        Raises ValueError where sizes do not fit.
        """
        if self.name == "4-conv":
            return four_conv(self.filters, channels, size, readout=self.readout, convolution=convolution)
        filters = [self.filters * 2**block for block in range(4)]
        return resnet12(filters, channels, size, readout=self.readout, convolution=convolution)


@dataclasses.dataclass(frozen=True)
class PretrainingSettings:
    """Ordinary classification over all training classes, before meta-training; the best by prototypes is kept."""

    steps: int = 0
    """Optimiser steps; 0: encoders begin at random."""
    batch: int = 128
    """Images in a step; spread over as many devices as divide it."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """"sgd" (Nesterov momentum of 0.9) or "adamw"."""
    rate: float = 0.01
    """Learning rate; a tenth of it after each of 50, 75, 87.5 and 95 % of the steps."""
    weight_decay: float = 5e-4
    """Of all weights."""
    augmentation: Literal["none", "full"] = "full"
    """"full": resized crops, mirroring and changes of colour at random, as usual for photographs; "none"."""
    validate_every: int = 500
    """Steps between validations, by nearest prototype on the validation episodes."""


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """The loops of meta-training, whatever the outer optimiser. A field that is none takes the published value."""

    tasks: int = 4
    """Episodes in an outer step, spread over as many devices as divide it; Finn et al.: 32 for Omniglot, and 4 (one
    shot) or 2 (five shots) for photographs."""
    inner_rate: float | None = None
    """Learning rate of the inner loop, for all algorithms."""
    updates: int | None = None
    """Inner updates in training, for all algorithms."""
    test_updates: int | None = None
    """Inner updates in validation and test; algorithms that learn something about each update stay with `updates`."""
    memory: Literal["residuals", "recompute", "segments"] = "recompute"
    """What the unroll keeps for the backward pass."""
    task_axis: Literal["vmap", "map"] = "vmap"
    """Tasks of one device side by side ("vmap"), or one after the other ("map": smaller)."""
    inner_gradient: Literal["mixed", "plain"] = "mixed"
    """How the inner gradient is differentiated."""
    validate_every: int = 500
    """Outer steps between validations; the meta-parameters of the best are kept."""
    checkpoint_every: int = 500
    """Outer steps between checkpoints."""
    log_every: int = 10
    """Outer steps between rows of metrics.csv."""
    max_nonfinite_in_a_row: int = 10
    """Outer steps in a row whose meta-gradient may be NaN or infinite before the run stops."""


@dataclasses.dataclass(frozen=True)
class TrainingSettings(LoopSettings):
    """Meta-training. A field that is none takes the algorithm's published value, see RECIPES."""

    steps: int = 60_000
    """Outer steps; 60,000 in Finn et al."""
    outer_rate: float | None = None
    """Learning rate of the outer loop, for all algorithms."""
    outer_schedule: Literal["constant", "cosine"] = "constant"
    """How Adam's rate goes on: as it is, or down to a hundredth of it along a cosine, as for MAML++ on Omniglot."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A comparison of few-shot learners; of one alone it is a run. Defaults: Finn et al. (2017) on Omniglot."""

    algorithms: tuple[str, ...] = ("maml",)
    """What to compare: names of the family, separated by commas, or "all"."""
    dataset: str = "omniglot"
    """"glyphs" (drawn here, no files needed), "omniglot", "mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100", or
    "folders": your own pictures, as FOLDER/train/CLASS/picture.png, and validation and test likewise."""
    data: str = ""
    """The folder with the files of the data set, as they were downloaded; empty for Glyphs."""
    size: int | None = None
    """Pixels on a side to which "folders" are resampled; none: they are all of one size."""
    streamed: bool = False
    """Whether images stay on disk, and only those of a batch go to the device (for tiered-ImageNet)."""
    episodes: EpisodeSettings = EpisodeSettings()
    """What an episode consists of."""
    encoder: EncoderSettings = EncoderSettings()
    """The network."""
    normalisation: Literal["transductive", "support", "running"] = "transductive"
    """Whose statistics normalise the query images: their own ("transductive": predictions depend on each other), those
    of the support images, or those stored in pre-training ("running")."""
    pretraining: PretrainingSettings = PretrainingSettings()
    """Of the encoder, once for each seed."""
    training: TrainingSettings = TrainingSettings()
    """Meta-training of each algorithm."""
    validation_episodes: int = 600
    """Episodes of a validation, the same each time."""
    test_episodes: int = 600
    """Episodes of the test, the same for all algorithms and seeds; 600."""
    seeds: int = 1
    """Independent repetitions: initial weights and training episodes."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Checks what can be checked without the data."""
        if not self.algorithms:
            raise ValueError(f"algorithms is empty: name some of {', '.join(ALGORITHMS)}, or {ALL!r}")
        for name in self.algorithms:
            if name not in (*ALGORITHMS, ALL):
                hint = suggestion(name, ALGORITHMS)
                raise ValueError(f"unknown algorithm {name!r}.{hint} Choose from {', '.join(ALGORITHMS)}, or {ALL!r}")
        if self.dataset not in ("glyphs", *DATASETS):
            hint = suggestion(self.dataset, ("glyphs", *DATASETS))
            raise ValueError(f"unknown dataset {self.dataset!r}.{hint} Choose from glyphs, {', '.join(DATASETS)}")
        if self.dataset != "glyphs" and not self.data:
            raise ValueError(
                f"dataset={self.dataset!r} needs --data=FOLDER, the folder with its files; "
                f"{DATASETS[self.dataset].where}"
            )
        if self.normalisation == "running" and not self.pretraining.steps:
            raise ValueError(
                'normalisation="running" takes the statistics of pre-training: set pretraining.steps to at least 1'
            )
        positive = {
            "training.steps": self.training.steps,
            "training.tasks": self.training.tasks,
            "training.validate_every": self.training.validate_every,
            "pretraining.batch": self.pretraining.batch,
            "pretraining.validate_every": self.pretraining.validate_every,
            "validation_episodes": self.validation_episodes,
            "test_episodes": self.test_episodes,
            "seeds": self.seeds,
        }
        for field, value in positive.items():
            if value < 1:
                raise ValueError(f"{field}={value} must be at least 1")

    @property
    def names(self) -> tuple[str, ...]:
        """The algorithms, each once."""
        named = ALGORITHMS if ALL in self.algorithms else self.algorithms
        return tuple(dict.fromkeys(named))

    @property
    def kind(self) -> str:
        """What the images are: a key of RECIPES."""
        return "drawings" if self.dataset in _DRAWINGS else "photographs"

    def recipe(self, name: str) -> Recipe:
        """How `name` learns: as published, unless a field says otherwise."""
        published = RECIPES[self.kind].get(name, _FINN[self.kind])
        fields = {field: getattr(self.training, field) for field in Recipe._fields if hasattr(self.training, field)}
        return published._replace(**{field: value for field, value in fields.items() if value is not None})


_LAPTOP_TRAINING = TrainingSettings(steps=2000, tasks=8, task_axis="map", validate_every=200, checkpoint_every=200)

_LAPTOP = Config(
    dataset="glyphs",
    episodes=EpisodeSettings(queries=5),
    encoder=EncoderSettings(filters=32),
    training=_LAPTOP_TRAINING,
    validation_episodes=100,
)

PRESETS = {
    "smoke": Config(
        algorithms=("maml", "prototypical"),
        dataset="glyphs",
        episodes=EpisodeSettings(ways=3, queries=3),
        encoder=EncoderSettings(filters=4),
        training=TrainingSettings(steps=6, tasks=2, validate_every=3, checkpoint_every=3, log_every=1),
        validation_episodes=4,
        test_episodes=20,
    ),
    # Minutes on two cores. Smaller than the paper's: filters, tasks in an outer step, and outer steps. Most of a step
    # is judging the query, so there are fewer of its images and more tasks.
    "laptop": _LAPTOP,
    # MAML on Omniglot past 95 % on two cores. The rate is that of learn2learn (examples/vision/maml_omniglot.py).
    "omniglot": dataclasses.replace(
        _LAPTOP,
        dataset="omniglot",
        data="omniglot",
        episodes=EpisodeSettings(queries=5, rotations=True),
        training=dataclasses.replace(
            _LAPTOP_TRAINING,
            steps=5000,
            outer_rate=3e-3,
            outer_schedule="cosine",
            validate_every=500,
            checkpoint_every=500,
        ),
    ),
    # The whole family from one pre-trained encoder, and only the beginning of training.
    "comparison": dataclasses.replace(
        _LAPTOP,
        algorithms=(ALL,),
        encoder=EncoderSettings(filters=16),
        # In so few steps AdamW gets further than the usual descent.
        pretraining=PretrainingSettings(
            steps=300, batch=64, optimizer="adamw", rate=3e-3, augmentation="none", validate_every=100
        ),
        training=dataclasses.replace(_LAPTOP_TRAINING, steps=300, tasks=4, validate_every=100, checkpoint_every=100),
    ),
    # Finn et al. (2017) on Omniglot, and on mini-ImageNet with one shot (with five: training.tasks=2).
    "paper": Config(data="omniglot", episodes=EpisodeSettings(rotations=True), training=TrainingSettings(tasks=32)),
    "paper_photographs": Config(
        dataset="mini-imagenet", data="mini-imagenet", encoder=EncoderSettings(filters=32, readout="flatten")
    ),
}
