"""Configuration of the formal-language experiment: one dataclass, three presets."""

import dataclasses
from typing import Literal

from metalearn.languages.adaptation import AdaptationSettings
from metalearn.languages.episodes import EpisodeSettings
from metalearn.languages.metagrammar import MetagrammarSettings
from metalearn.languages.targets import TARGETS, target
from metalearn.languages.training import OptimizerSettings


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The language model."""

    units: int = 1024
    """Embedding and hidden size; 1024 in McCoy & Griffiths."""
    layers: int = 2
    """LSTM layers; 2."""
    dropout: float = 0.1
    """On embeddings, between layers and on the output; 0.1."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Type that the operands of products with weights are rounded to; "float32" as published. With "bfloat16" weights,
    states, gradients and sums stay float32. Of 32 units at the same weights the loss differs by less than 0.2 %
    (tests/languages/test_products.py)."""


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Meta-training, and the pre-training on the same episodes."""

    steps: int = 25_000
    """Outer steps; 25,000."""
    tasks: int = 1
    """Languages per outer step; 1. Spread over as many devices as divide it."""
    inner_rate: float = 1.0
    """Learning rate of the inner SGD; 1.0."""
    objective: Literal["every_update", "terminal"] = "every_update"
    """"every_update" judges the weights after every inner update (the paper's multi-step loss), "terminal" after the
    last only."""
    estimator: Literal["exact", "first_order", "truncated", "stepwise", "displacement"] = "exact"
    """Of the meta-gradient: "exact" (second order, the paper's), "first_order", "truncated", "stepwise" (every state
    through its own update only) or "displacement" (Reptile, which asks no objective). "implicit" would find nothing:
    no loss ties these networks to their initial weights."""
    horizon: int = 1
    """Inner updates that "truncated" differentiates exactly."""
    memory: Literal["residuals", "recompute", "segments"] = "residuals"
    """What the unroll keeps: "residuals", "recompute" or "segments"."""
    inner_gradient: Literal["mixed", "plain"] = "mixed"
    """How the inner gradient is differentiated: "mixed" or "plain"."""
    task_axis: Literal["vmap", "map"] = "vmap"
    """Tasks of one device side by side ("vmap"), or one after the other ("map": faster and smaller on a CPU)."""
    query_rows: int = 0
    """Rows of the query scored side by side, their gradient accumulated (25: faster and smaller on a CPU); 0: all.
    Grids (episodes.grid_times) are scored one after the other in any case. Devices that tasks leave idle share the
    parts, or grids, of a query."""
    checkpoint_every: int = 500
    """Outer steps between checkpoints."""
    log_every: int = 10
    """Outer steps between rows of metrics.csv."""
    validate_every: int = 100
    """Outer steps between validations; the weights with the lowest validation loss are kept. 100."""
    validation_tasks: int = 500
    """Languages in a validation; 500."""
    max_nonfinite_in_a_row: int = 10
    """Outer steps in a row whose meta-gradient may be NaN or infinite before the run stops."""


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What the trained networks then learn, and how they are scored."""

    languages: tuple[str, ...] = ()
    """Names of evaluation languages; none means all 56."""
    strings: tuple[int, ...] = (1, 10, 100, 1000, 10_000)
    """Numbers N of training strings."""
    protocol: Literal["logs", "appendix"] = "logs"
    """Whose adaptation settings: "logs" (what the published runs did) or "appendix" (what the paper says)."""
    corpora: str = ""
    """A folder with files NAME-N.txt (lines "string TAB count") to learn from and NAME.txt to score against; empty:
    strings are drawn from the language's own definition."""
    reference_draws: int = 1_000_000
    """Draws that stand for the true language in the top-25 score; 1,000,000."""
    model_draws: int = 1_000_000
    """Draws whose recall is computed (exactly, as an expectation, nothing is drawn); 1,000,000."""
    budget: int = 4096
    """Prefixes that the exact search for the 25 most probable strings may expand, per network."""
    max_symbols: int = 105
    """Longest string a network may produce; 105."""
    test_strings: int = 64
    """Distinct strings per language for the continuation F1."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The experiment: meta-train, pre-train, adapt to real languages, score. Defaults are the paper's."""

    seeds: int = 40
    """Independent repetitions (weights, dropout, adaptation strings); 40."""
    seed: int = 0
    """Of everything."""
    model: ModelSettings = ModelSettings()
    """The network."""
    metagrammar: MetagrammarSettings = MetagrammarSettings()
    """The distribution over meta-training languages."""
    withhold: bool = True
    """Whether languages equal to an evaluation language are kept out of meta-training."""
    episodes: EpisodeSettings = EpisodeSettings()
    """Sizes of an episode."""
    training: TrainingSettings = TrainingSettings()
    """Meta-training and pre-training."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The outer optimiser."""
    adaptation: AdaptationSettings = AdaptationSettings()
    """Learning an evaluation language."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """What is learned and how it is scored."""

    def __post_init__(self) -> None:
        """Checks what can be checked before anything compiles."""
        for name in self.evaluation.languages:
            target(name)
        if self.seeds < 1 or self.training.steps < 1 or self.training.tasks < 1:
            raise ValueError("seeds, training.steps and training.tasks must be at least 1")
        if not self.evaluation.strings or min(self.evaluation.strings) < 1:
            raise ValueError(f"evaluation.strings={self.evaluation.strings} must name numbers of at least 1")

    @property
    def languages(self) -> tuple[str, ...]:
        """Names of the evaluation languages."""
        return self.evaluation.languages or tuple(TARGETS)


PRESETS = {
    "smoke": Config(
        seeds=2,
        model=ModelSettings(units=16, layers=1),
        episodes=EpisodeSettings(2, 2, 5, 10, 16, row_sizes=(10,), length_sizes=(16,)),
        training=TrainingSettings(
            steps=6, tasks=2, checkpoint_every=2, log_every=1, validate_every=3, validation_tasks=2
        ),
        adaptation=AdaptationSettings(length=32, group=6),
        evaluation=EvaluationSettings(
            languages=("An", "AnBn", "XX"),
            strings=(1, 10),
            reference_draws=2000,
            budget=500,
            max_symbols=30,
            test_strings=8,
        ),
    ),
    # Ten minutes on two cores. Differs from the paper in size only: smaller network and episodes, fewer seeds.
    "laptop": Config(
        seeds=3,
        model=ModelSettings(units=64),
        episodes=EpisodeSettings(2, 2, 10, 16, 28, row_sizes=(16,), length_sizes=(28,)),
        training=TrainingSettings(
            steps=400,
            tasks=4,
            task_axis="map",
            query_rows=25,
            checkpoint_every=100,
            log_every=10,
            validate_every=100,
            validation_tasks=32,
        ),
        adaptation=AdaptationSettings(length=64, group=14),
        evaluation=EvaluationSettings(strings=(1, 10), reference_draws=100_000, budget=1024, test_strings=32),
    ),
    # Prefixes in grids: with rows side by side the activations of 20 judgements would not fit any one device.
    "paper": Config(episodes=EpisodeSettings(grid_times=(24, 112, 112), grid_rows=(16, 16, 32))),
}
