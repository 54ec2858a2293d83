"""Small files that are either old or new, never half written, one JSON dialect for configs and results, and tables."""

import contextlib
import csv
import dataclasses
import enum
import io
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import jax
import numpy as np

TEMPORARY_PATTERN = ".*.tmp"


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yields a binary file that takes the place of `path` when the block ends well and vanishes when it raises.

    Readers, and a process that starts after a kill at any moment, see the old bytes or the new ones. The data are on
    disk (fsync of file and folder) before the name changes.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replaces the content of `path` at once; text is written as UTF-8."""
    with atomic_writer(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def jsonable(value: Any) -> Any:
    """Turns scalars, arrays, enums, dataclasses, mappings and sequences into what JSON can hold.

    Non-finite floats become the strings "nan", "inf" and "-inf" (JSON has no word for them); arrays become nested
    lists, enums their names. Raises TypeError for anything else, naming its type.
    """
    if value is None or isinstance(value, bool | int | str) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        unfit = [key for key in value if not isinstance(key, str)]
        if unfit:
            raise TypeError(f"JSON keys must be strings; got {unfit[0]!r} ({type(unfit[0]).__name__}).")
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return jsonable(np.asarray(value).tolist())
    if isinstance(value, pathlib.PurePath):
        return str(value)
    raise TypeError(f"cannot write a value of type {type(value).__name__} as JSON: {value!r}.")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys, at least one, as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def json_text(value: Any) -> str:
    """JSON of `value` with sorted keys and shortest exact floats: equal values give equal bytes."""
    return json.dumps(jsonable(value), sort_keys=True, indent=2, allow_nan=False) + "\n"
