"""Configuration of the experiment: what is learned from which languages, and what is then measured; three presets."""

import dataclasses
import itertools
from typing import Literal, NamedTuple

from experiments.formal_languages.distilled.config import ModelSettings
from experiments.formal_languages.lab.config import InsideSettings, LabConfig, NetworkTraining, PoolsSettings
from experiments.formal_languages.lab.config import TargetSettings as LabTargets
from experiments.formal_languages.lab.records import POOLS
from experiments.learned_procedures.learner import PROCEDURES
from metalearn.languages.episodes import EpisodeSettings
from metalearn.languages.nine import NINE
from metalearn.languages.training import OptimizerSettings

STARTS = ("random", "learned")
SOURCES = (*NINE, *itertools.chain(*POOLS.values()))


class Condition(NamedTuple):
    """What meta-training learns.

    start: "learned", or "random": the weights are drawn anew for each episode, in training and afterwards.
    procedure: one of PROCEDURES.
    """

    start: str
    procedure: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.start}_{self.procedure}"


BASELINE = Condition("random", "plain")
"""Nothing is learned: gradient descent from random weights, at the rate that is chosen for it."""


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """Meta-training."""

    steps: int = 25_000
    """Outer steps; 25,000 in McCoy & Griffiths."""
    tasks: int = 1
    """Episodes in an outer step; 1."""
    updates: int = 10
    """Inner updates of an episode, all on the same strings; the average of McCoy & Griffiths, who take new strings for
    each."""
    objective: Literal["every_update", "terminal"] = "terminal"
    """"every_update" judges the weights after every inner update, "terminal" after the last only."""
    memory: Literal["residuals", "recompute", "segments"] = "residuals"
    """What the unroll keeps."""
    task_axis: Literal["vmap", "map"] = "map"
    """Episodes of a network side by side ("vmap"), or one after the other ("map")."""
    checkpoint_every: int = 500
    """Outer steps between checkpoints."""
    log_every: int = 10
    """Outer steps between rows of metrics.csv."""


@dataclasses.dataclass(frozen=True)
class RateSettings:
    """The rate of the inner loop at neutral: for each kind of start, that which serves plain descent best."""

    grid: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Rates to choose from, ascending, by the loss of the query; a single one is taken as it is."""
    batches: int = 250
    """Batches of episodes of each source by which the rate from random weights is chosen."""
    steps: int = 2500
    """Outer steps of meta-training, with each of the rates, by which that from a learned start is chosen."""


@dataclasses.dataclass(frozen=True)
class TargetSettings:
    """What is learned after meta-training, and how it is scored."""

    languages: tuple[str, ...] = tuple(NINE)
    """Names of the target languages, of the nine."""
    strings: tuple[int, ...] = (3, 10)
    """Numbers N of strings to adapt to."""
    updates: int = 0
    """Inner updates, all on the N strings; 0: as many as in meta-training."""
    draws: int = 10
    """How often each network learns each language: other strings, other random weights; scores are means over them."""
    length: int = 52
    """Tokens a string may have, START and END included; longer ones are cut."""
    test_strings: int = 64
    """Distinct strings, at most, on which continuation F1 is measured."""
    test_symbols: int = 50
    """Longest of them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Procedures and starts, learned on source languages and put to work on others. Defaults: full size."""

    sources: tuple[str, ...] = ("AnBnCn", "metagrammar:uniform")
    """What networks are meta-trained on, each on one: of the nine languages, and of the pools of the formal-language
    laboratory."""
    procedures: tuple[str, ...] = tuple(PROCEDURES)
    """What is learned of the procedure; "plain" and "rate", the controls, among them."""
    seeds: int = 5
    """Independent repetitions: weights, dropout, strings adapted to."""
    seed: int = 0
    """Of everything."""
    model: ModelSettings = ModelSettings()
    """The LSTM."""
    episodes: EpisodeSettings = EpisodeSettings(1, 1, support_rows=(10,))
    """Sizes of an episode, whose one support batch serves all its updates. support_strings: N in meta-training."""
    rates: RateSettings = RateSettings()
    """How the rate of the inner loop is chosen."""
    training: LoopSettings = LoopSettings()
    """Meta-training."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The outer optimiser."""
    pools: PoolsSettings = PoolsSettings()
    """Pools of languages."""
    targets: TargetSettings = TargetSettings()
    """What is learned and how it is scored."""

    def __post_init__(self) -> None:
        """Checks what can be checked before anything compiles."""
        for field, names, known in (
            ("sources", self.sources, SOURCES),
            ("procedures", self.procedures, PROCEDURES),
            ("targets.languages", self.targets.languages, NINE),
        ):
            if not names or not set(names) <= set(known) or len(set(names)) < len(names):
                raise ValueError(f"{field}={names} must name some of {', '.join(known)}, each once")
        if missing := [name for name in ("plain", "rate") if name not in self.procedures]:
            raise ValueError(f"procedures={self.procedures} lack {' and '.join(missing)}, to compare the others with")
        if set(self.targets.languages) <= set(self.sources):
            raise ValueError(f"targets.languages={self.targets.languages} must name one that is not among the sources")
        if self.episodes.max_updates != 1 or not self.episodes.support_rows:
            raise ValueError(
                "episodes.max_updates must be 1, as all updates see one batch (training.updates says how many), and "
                "episodes.support_rows must not be empty: supports are packed here"
            )
        sizes = (self.training.steps, self.training.tasks, self.training.updates, self.rates.batches, self.rates.steps)
        if min(*sizes, self.seeds, self.targets.draws) < 1 or self.targets.updates < 0:
            raise ValueError(
                "seeds, training.steps, training.tasks, training.updates, rates.batches, rates.steps and targets.draws "
                "must be at least 1, and targets.updates at least 0"
            )
        if self.rates.steps > self.training.steps:
            raise ValueError(f"rates.steps={self.rates.steps} must be at most training.steps={self.training.steps}")
        if not self.rates.grid or list(self.rates.grid) != sorted(set(self.rates.grid)) or self.rates.grid[0] <= 0:
            raise ValueError(f"rates.grid={self.rates.grid} must be positive and ascend")
        _ = self.lab

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """In the order of the figure."""
        return tuple(Condition(start, procedure) for start in STARTS for procedure in self.procedures)

    @property
    def test_updates(self) -> int:
        """Inner updates on a target."""
        return self.targets.updates or self.training.updates

    @property
    def lab(self) -> LabConfig:
        """The formal-language laboratory in which this takes place: its episodes, targets and scores."""
        targets = self.targets
        return LabConfig(
            seeds=self.seeds,
            seed=self.seed,
            model=self.model,
            episodes=self.episodes,
            training=NetworkTraining(steps=self.training.steps, tasks=self.training.tasks),
            optimizer=self.optimizer,
            pools=self.pools,
            targets=LabTargets(
                targets.languages,
                targets.strings,
                test_strings=targets.test_strings,
                test_symbols=targets.test_symbols,
            ),
            inside=InsideSettings(strings=(targets.strings or (0,))[0]),
        )


PRESETS = {
    "smoke": Config(
        sources=("An", "AnBn"),
        procedures=("plain", "rate", "all"),
        seeds=2,
        model=ModelSettings(units=8, layers=1),
        episodes=EpisodeSettings(1, 1, 3, 4, 12, row_sizes=(4,), length_sizes=(12,), support_rows=(3,)),
        rates=RateSettings(grid=(0.5, 2.0), batches=1, steps=1),
        training=LoopSettings(steps=2, tasks=2, updates=2, checkpoint_every=1, log_every=1),
        pools=PoolsSettings(1, 7, 1, 12),
        targets=TargetSettings(
            languages=("An", "AnBn", "AnBnCn"), strings=(1, 3), draws=2, length=16, test_strings=6, test_symbols=12
        ),
    ),
    "laptop": Config(
        seeds=3,
        model=ModelSettings(units=32, layers=1, dropout=0.0),
        episodes=EpisodeSettings(1, 1, 10, 16, 28, row_sizes=(16,), length_sizes=(28,), support_rows=(10,)),
        rates=RateSettings(batches=8, steps=75),
        training=LoopSettings(steps=300, tasks=4, updates=5, checkpoint_every=50),
        pools=PoolsSettings(metagrammar_per_bin=20),
        targets=TargetSettings(draws=3),
    ),
    "paper": Config(training=LoopSettings(memory="recompute")),
}
