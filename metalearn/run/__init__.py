"""What every experiment needs around its mathematics: config, run directory, checkpoints, metrics, progress, figures."""

from metalearn.run.checkpoints import Checkpoints, Restored, tree_digest
from metalearn.run.compilation import CompileClock, enable_compilation_cache
from metalearn.run.config import ConfigError as ConfigError
from metalearn.run.config import FieldInfo, checked, fields, from_json, override, pick, to_json
from metalearn.run.directory import RunDirectory, RunPaths
from metalearn.run.errors import CheckpointError, MetricsError, NonFiniteMetaGradient, RunDirectoryError, RunError
from metalearn.run.metrics import CsvLog, EventLog, read_csv
from metalearn.run.progress import Progress, Stages
from metalearn.run.training import train
