"""Metrics of a run: a CSV file that is exact to the bit after an interruption, and TensorBoard events for the eye."""

import csv
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import tensorboardX

from metalearn.run import files
from metalearn.run.errors import MetricsError


class CsvLog:
    """Rows `step, name, ...` in a CSV file. The first row fixes the columns; floats are written exactly.

    Opened at `resume_step` s, rows of later steps and a half-written last line are cut, so that a run that goes on from
    its checkpoint at s neither loses nor doubles a row. Call `flush` before saving a checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_step: int = 0):
        self.path = pathlib.Path(path)
        self.columns: list[str] = []
        self.last_step = -1
        if self.path.exists():
            self._cut(resume_step)
        self._file = open(self.path, "a", encoding="utf-8", newline="")

    def _cut(self, resume_step: int) -> None:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()  # half written when the process died
        kept = []
        if lines and resume_step:
            header = next(csv.reader(lines[:1]))
            for number, line in enumerate(lines[1:], start=2):
                cells = next(csv.reader([line]), [])
                if header[0] != "step" or len(cells) != len(header) or not cells[0].isdecimal():
                    raise MetricsError(
                        f"{self.path}, line {number} is damaged: {line.strip()!r}. Remove the line, or the whole run."
                    )
                if int(cells[0]) > resume_step:
                    break
                kept.append(line)
                self.last_step = int(cells[0])
            if kept:
                self.columns = header[1:]
                kept.insert(0, lines[0])
        if "".join(kept) != text:
            files.write_atomic(self.path, "".join(kept))

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Appends one row of scalars. Raises MetricsError for other columns than the first row's or an older step."""
        if not self.columns:
            self.columns = list(row)
            self._write_line(["step", *self.columns])
        if set(row) != set(self.columns):
            raise MetricsError(
                f"{self.path.name} has the columns {self.columns}, but the row of step {step} has {list(row)}: "
                "every step must report the same metrics."
            )
        if step <= self.last_step:
            raise MetricsError(f"{self.path.name} already has step {self.last_step}; cannot append step {step}.")
        self._write_line([str(step), *(_exact(row[name], name) for name in self.columns)])
        self.last_step = step

    def _write_line(self, cells: list[str]) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(cells)
        self._file.write(buffer.getvalue())

    def flush(self) -> None:
        """Puts every row on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes."""
        self.close()


def _exact(value: Any, name: str) -> str:
    array = np.asarray(value)
    if array.ndim:
        raise MetricsError(f"metric {name!r} must be a scalar, got shape {array.shape}: reduce it in the step.")
    if array.dtype.kind in "iub":
        return str(int(array))
    return repr(float(array))  # float32 and bfloat16 fit exactly into a Python float


def read_csv(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Columns of a metrics file by name, `step` among them, each [rows] float64."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(header))
    return {name: table[:, column] for column, name in enumerate(header)}


class EventLog:
    """TensorBoard scalars. Opened at `resume_step`, TensorBoard hides what earlier processes wrote for later steps."""

    def __init__(self, folder: str | os.PathLike[str], *, resume_step: int = 0):
        # The library names files by the second: without the suffix a quick restart would overwrite its predecessor.
        suffix = f".{os.getpid()}.{resume_step}"
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=resume_step + 1, filename_suffix=suffix)

    def write(self, step: int, row: Mapping[str, Any], prefix: str = "") -> None:
        """Adds one scalar per finite entry under `prefix + name`; TensorBoard cannot draw the others."""
        for name, value in row.items():
            if np.isfinite(np.asarray(value)):
                self._writer.add_scalar(prefix + name, float(np.asarray(value)), step)

    def flush(self) -> None:
        """Hands every event to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes."""
        self.close()
