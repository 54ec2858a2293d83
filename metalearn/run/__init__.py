"""What every experiment needs around its mathematics: config, run directory, checkpoints, metrics, figures, claims."""

from metalearn.run.checkpoints import Checkpoints, Restored, tree_digest
from metalearn.run.claims import Claim, Verdict, collect, judge, table
from metalearn.run.compilation import CompileClock, enable_compilation_cache, use_all_cores
from metalearn.run.config import ConfigError, FieldInfo, checked, fields, from_json, override, pick, to_json
from metalearn.run.directory import RunDirectory, RunPaths
from metalearn.run.errors import CheckpointError, MetricsError, NonFiniteMetaGradient, RunDirectoryError, RunError
from metalearn.run.figures import PALETTE, figure, mean_with_band, save_figure
from metalearn.run.launching import Experiment, launch, launch_one_of
from metalearn.run.metrics import CsvLog, EventLog, read_csv
from metalearn.run.progress import Progress, Stages
from metalearn.run.training import train

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Claim",
    "CompileClock",
    "ConfigError",
    "CsvLog",
    "EventLog",
    "Experiment",
    "FieldInfo",
    "MetricsError",
    "NonFiniteMetaGradient",
    "PALETTE",
    "Progress",
    "Restored",
    "RunDirectory",
    "RunDirectoryError",
    "RunError",
    "RunPaths",
    "Stages",
    "Verdict",
    "checked",
    "collect",
    "enable_compilation_cache",
    "fields",
    "figure",
    "from_json",
    "judge",
    "launch",
    "launch_one_of",
    "mean_with_band",
    "override",
    "pick",
    "read_csv",
    "save_figure",
    "table",
    "to_json",
    "train",
    "tree_digest",
    "use_all_cores",
]
