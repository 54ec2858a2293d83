"""Configuration of the experiments on what meta-training leaves in a network: one dataclass for all, three presets."""

import dataclasses
import math
from typing import Literal

from experiments.formal_languages.distilled.config import ModelSettings
from metalearn.languages.adaptation import AdaptationSettings
from metalearn.languages.architectures import CELLS
from metalearn.languages.episodes import EpisodeSettings
from metalearn.languages.nine import NINE
from metalearn.languages.training import OptimizerSettings


@dataclasses.dataclass(frozen=True)
class NetworkTraining:
    """Meta-training of the networks, and what stands in its place."""

    steps: int = 25_000
    """Outer steps; 25,000 in McCoy & Griffiths."""
    tasks: int = 1
    """Episodes per outer step; 1."""
    inner_rate: float = 1.0
    """Learning rate of the inner SGD; 1.0."""
    objective: Literal["every_update", "terminal"] = "every_update"
    """"every_update" judges the weights after every inner update, "terminal" after the last only."""
    memory: Literal["residuals", "recompute", "segments"] = "residuals"
    """What the unroll keeps."""
    task_axis: Literal["vmap", "map"] = "map"
    """Episodes of a network side by side ("vmap"), or one after the other ("map": faster and smaller on a CPU)."""
    query_rows: int = 0
    """Rows of the query scored side by side, their gradient accumulated; 0: all."""
    together: int = 12
    """Networks trained in one compiled call, at most; spread over as many devices as divide their number."""
    checkpoint_every: int = 500
    """Outer steps between checkpoints."""
    log_every: int = 10
    """Outer steps between rows of metrics.csv."""


@dataclasses.dataclass(frozen=True)
class PoolsSettings:
    """The two pools of languages by description length, and the biases over them. See metalearn/languages/pools.py."""

    minimalist_per_bin: int = 50
    """Minimalist grammars in each of 98 bins of description length; 50."""
    minimalist_bins: int = 100
    """Bins of one nat; 100, of which two stay empty."""
    metagrammar_per_bin: int = 50
    """Languages of the metagrammar in each of its bins."""
    metagrammar_bins: int = 60
    """Bins of one nat."""
    tau: float = 10.0
    """Nats. "simple" draws with exp(-MDL / tau), "complex" with exp(MDL / tau), "uniform" evenly. The paper's
    temperatures are not known."""

    @property
    def biases(self) -> dict[str, float]:
        """Temperature by name of the bias."""
        return {"simple": self.tau, "uniform": math.inf, "complex": -self.tau}

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 < self.tau < math.inf:
            raise ValueError(f"tau={self.tau} must be positive and finite: the biases are tau, infinity and -tau")


@dataclasses.dataclass(frozen=True)
class TargetSettings:
    """What the networks then learn, and how they are scored."""

    languages: tuple[str, ...] = tuple(NINE)
    """Names of the target languages, of the nine."""
    strings: tuple[int, ...] = (1, 3, 10, 30, 100)
    """Numbers N of strings to adapt to; the contrast between mechanisms lives at small N."""
    sgd_epochs: int = 10
    """Epochs of SGD; the same for all networks, meta-trained or not."""
    adamw_epochs: int = 5
    """Epochs of AdamW after that."""
    dropout: bool = False
    """Whether dropout is on while a network adapts."""
    test_strings: int = 64
    """Distinct strings, at most, on which continuation F1 is measured."""
    test_symbols: int = 50
    """Longest of them."""


@dataclasses.dataclass(frozen=True)
class InsideSettings:
    """What is looked for inside the networks."""

    strings: int = 10
    """N: strings that the networks looked into have adapted to; one of targets.strings."""
    longest: int = 10
    """Probes are fitted on strings of sizes 1 .. longest and judged on longer ones; the size of a^n b^n is n."""
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 50, 64)
    """Sizes n at which strings are scored, far beyond what the networks have seen."""
    per_size: int = 8
    """Strings of a size, at most."""
    units: int = 4
    """Units ablated: those that weigh most in the probe."""
    draws: int = 8
    """Sets of as many random units to ablate for comparison."""


@dataclasses.dataclass(frozen=True)
class LabConfig:
    """Networks meta-trained on single languages or on pools, then adapted to nine languages. Defaults: full size."""

    seeds: int = 5
    """Independent repetitions: weights, dropout, strings adapted to. Episodes are the same for all, as in McCoy &
    Griffiths."""
    seed: int = 0
    """Of everything."""
    model: ModelSettings = ModelSettings()
    """The network; `units` and `layers` are those of every architecture."""
    architectures: tuple[str, ...] = tuple(CELLS)
    """Those that are compared."""
    episodes: EpisodeSettings = EpisodeSettings(support_rows=(10,))
    """Sizes of an episode; support batches are packed."""
    training: NetworkTraining = NetworkTraining()
    """Meta-training."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The outer optimiser."""
    pools: PoolsSettings = PoolsSettings()
    """Pools of languages."""
    adaptation: AdaptationSettings = AdaptationSettings()
    """Rates and sizes of the adaptation to a target."""
    targets: TargetSettings = TargetSettings()
    """What is learned and how it is scored."""
    inside: InsideSettings = InsideSettings()
    """Probes and causal tests."""

    def __post_init__(self) -> None:
        """Checks what can be checked before anything compiles."""
        for field, names, known in (
            ("targets.languages", self.targets.languages, NINE),
            ("architectures", self.architectures, CELLS),
        ):
            if not names or not set(names) <= set(known):
                raise ValueError(f"{field}={names} must name some of {', '.join(known)}")
        if min(self.seeds, self.training.steps, self.training.tasks, self.training.together) < 1:
            raise ValueError("seeds, training.steps, training.tasks and training.together must be at least 1")
        if not self.episodes.support_rows:
            raise ValueError("episodes.support_rows must not be empty: supports are packed here")
        if not self.targets.strings or min(self.targets.strings) < 1:
            raise ValueError(f"targets.strings={self.targets.strings} must name numbers of at least 1")
        if self.inside.strings not in self.targets.strings:
            raise ValueError(f"inside.strings={self.inside.strings} must be one of {self.targets.strings}")


PRESETS = {
    "smoke": LabConfig(
        seeds=2,
        model=ModelSettings(units=8, layers=1),
        architectures=("lstm", "gru"),
        episodes=EpisodeSettings(1, 1, 3, 4, 12, row_sizes=(4,), length_sizes=(12,), support_rows=(3,)),
        training=NetworkTraining(steps=2, tasks=2, together=10, checkpoint_every=1, log_every=1),
        pools=PoolsSettings(1, 7, 1, 12),
        adaptation=AdaptationSettings(length=16, group=6, learner_axis="map"),
        targets=TargetSettings(
            languages=("An", "AnBn", "AnBnCn"),
            strings=(1, 3),
            sgd_epochs=20,
            adamw_epochs=2,
            test_strings=6,
            test_symbols=12,
        ),
        inside=InsideSettings(strings=3, longest=3, sizes=(1, 2, 3, 4, 5, 6), per_size=2, units=2, draws=2),
    ),
    # About an hour for all of it on two cores: the size at which the effect is known to show.
    "laptop": LabConfig(
        seeds=3,
        model=ModelSettings(units=64),
        episodes=EpisodeSettings(2, 2, 10, 16, 28, row_sizes=(6, 8, 16), length_sizes=(28,), support_rows=(5, 7, 10)),
        training=NetworkTraining(steps=300, tasks=4, checkpoint_every=50),
        pools=PoolsSettings(minimalist_per_bin=10, metagrammar_per_bin=20),
        adaptation=AdaptationSettings(length=52, group=28, learner_axis="map"),
    ),
    "paper": LabConfig(
        training=NetworkTraining(together=1, memory="recompute"),
    ),
}
