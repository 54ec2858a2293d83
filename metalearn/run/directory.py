"""A run directory: one config, its metrics, checkpoints, figures and its result.

    DIR/config.json  metrics.csv  timing.csv  evaluation.csv  events/  checkpoints/  figures/*.png  result.json

    with RunDirectory.open("runs/few_shot/smoke", config) as run:
        if not run.finished:
            state = train(run, state, step_fn, steps=1000)
            run.finish({"accuracy": 0.97})

The same command goes on where a killed one stopped; a finished directory is only read. An experiment of several
trainings gives each its own folder: `train(run.stage("seed_0"), ...)`.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from metalearn.run import files
from metalearn.run.config import checked, differences
from metalearn.run.errors import RunDirectoryError
from metalearn.run.processes import is_first


class RunPaths:
    """The places of one training: what `train` needs of a run directory, and where its result lies."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = pathlib.Path(root)
        self.config = self.root / "config.json"
        self.metrics = self.root / "metrics.csv"
        self.timing = self.root / "timing.csv"
        self.evaluation = self.root / "evaluation.csv"
        self.events = self.root / "events"
        self.checkpoints = self.root / "checkpoints"
        self.figures = self.root / "figures"
        self.result = self.root / "result.json"

    def stage(self, name: str) -> "RunPaths":
        """The same places below `stages/NAME`, for one of several trainings of a run. Creates the folder."""
        stage = RunPaths(self.root / "stages" / name)
        _make_folder(stage.root)
        return stage

    def figure(self, name: str) -> pathlib.Path:
        """Path of the figure `name` (without extension); creates the folder."""
        _make_folder(self.figures)
        return self.figures / f"{name}.png"

    @property
    def finished(self) -> bool:
        """Whether the result has been written."""
        return self.result.is_file()

    def load_result(self) -> dict[str, Any]:
        """The content of `result.json`. Raises RunDirectoryError when it is missing or damaged."""
        try:
            return json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.result} cannot be read ({error}): delete it to compute it anew.") from error

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json` (sorted keys, exact floats, nothing of the clock) and so declares the run finished."""
        if is_first():
            files.write_atomic(self.result, files.json_text(result))


class RunDirectory(RunPaths):
    """An opened run directory: its config is checked and no other process writes to it until it is closed.

    In a run of several JAX processes the first one creates, locks and writes; the others only read.
    """

    def __init__(self, root: str | os.PathLike[str], lock: int | None = None):
        super().__init__(root)
        self._lock = lock

    @classmethod
    def open(cls, root: str | os.PathLike[str], config: Any) -> "RunDirectory":
        """Creates the directory for `config`, or goes on with the run that has the same config.

        Args:
          root: the folder; parents are created.
          config: a config dataclass, or a mapping of JSON-able values.

        Raises:
          RunDirectoryError: the folder belongs to another config (the fields are listed), is in use by another process,
            holds something else, is damaged, is a file, or cannot be written.
        """
        if dataclasses.is_dataclass(config):
            config = checked(config)
        run = cls(root)
        if is_first():
            run._open(config)
        if jax.distributed.is_initialized():
            multihost_utils.sync_global_devices("run directory is open")
        return run

    def _open(self, config: Any) -> None:
        _make_folder(self.root)
        if self.finished:  # read only: no lock, so that an archived run can still be looked at
            self._check_config(config)
            self.load_result()
            return
        self._acquire()
        try:
            self._prepare(config)
        except BaseException:
            self.close()
            raise

    def _prepare(self, config: Any) -> None:
        if self.finished or self.config.exists():
            self._check_config(config)
        else:
            foreign = sorted(entry.name for entry in self.root.iterdir() if not entry.name.startswith("."))
            if foreign:
                raise RunDirectoryError(
                    f"{self.root} has no config.json but holds {', '.join(foreign[:5])}: it is no run folder, or its "
                    "config.json was lost. Choose another --workdir, or move these files away."
                )
            files.write_atomic(self.config, files.json_text(config))
        for leftover in self.root.rglob(files.TEMPORARY_PATTERN):  # of a process killed while it wrote a small file
            leftover.unlink(missing_ok=True)

    def _check_config(self, config: Any) -> None:
        try:
            theirs = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{self.config} cannot be read ({error}), so nobody can tell whether this run is the same experiment. "
                "Choose another --workdir, or restore the file."
            ) from error
        changed = differences(config, theirs)
        if changed:
            raise RunDirectoryError(
                f"{self.root} holds a run with another config (field: there -> here):\n  "
                + "\n  ".join(changed)
                + "\nChoose another --workdir, or give the flags that match the run to go on with it."
            )

    def _acquire(self) -> None:
        path = self.root / ".lock"
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it when the process dies
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8").strip() or "unknown"
            self.close()
            raise RunDirectoryError(
                f"{self.root} is in use by another process (id {holder}): wait for it, or choose another --workdir."
            ) from None
        except OSError as error:
            self.close()
            raise RunDirectoryError(f"{self.root} cannot be written ({error}): choose another --workdir.") from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Lets other processes use the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "RunDirectory":
        """Nothing more to do: `open` did it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes."""
        self.close()


def _make_folder(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunDirectoryError(f"{path} is a file, or below one: choose another --workdir.") from error
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be created ({error}): choose another --workdir.") from error
