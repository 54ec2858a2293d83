"""Scores as tidy records: one row for each network, what it was adapted to, and from how many strings.

scores = Scores(read_scores(paths.root / "scores.csv"))
scores.table("AnBn", strings=10) - scores.table("none", strings=10)      # [seeds, targets], NaN at AnBn itself
"""

import csv
import io
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from metalearn.languages.nine import NINE
from metalearn.run.files import write_atomic

Metric = Literal["continuation", "constrained", "may_end"]
METRICS: dict[Metric, str] = {
    "continuation": "at all positions",
    "constrained": "where something is forbidden",
    "may_end": "where the string may end",
}
"""Over which positions a continuation F1 is a mean."""

NAMES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "elman": "Elman network",
    "relu": "ReLU network",
    "clipped_lstm": "clipped LSTM",
    "stack": "stack network",
    "queue": "queue network",
    "transformer": "Transformer",
}
"""Of architectures, in words that take an s."""

TRAININGS = ("none", "exact", "first_order", "displacement", "pre_trained")
FAMILIES = {"minimalist": "minimalist grammars", "metagrammar": "the metagrammar"}
BIASES = ("simple", "uniform", "complex")
POOLS = {family: tuple(f"{family}:{bias}" for bias in BIASES) for family in FAMILIES}
CLASSES = ("regular", "context-free", "context-sensitive")
SOURCES = ("none", *NINE, *POOLS["minimalist"], *POOLS["metagrammar"])


class Record(NamedTuple):
    """What one network scored on one target language.

    architecture: a name in metalearn.languages.architectures.
    source: what it was meta-trained on: one of `SOURCES`.
    training: how: one of `TRAININGS`; "none" goes with the source "none".
    frozen: whether recurrent weights stood still while it adapted.
    seed: of the repetition.
    strings: N, how many strings of the target it adapted to.
    target: a name in NINE.
    continuation, constrained, may_end: mean continuation F1 over the positions of `METRICS`.
    """

    architecture: str
    source: str
    training: str
    frozen: bool
    seed: int
    strings: int
    target: str
    continuation: float
    constrained: float
    may_end: float


class Condition(NamedTuple):
    """What the records of one kind of network share: the first fields of `Record`."""

    architecture: str
    source: str
    training: str
    frozen: bool


class Scores:
    """Records as tables [seeds, targets].

    Attributes:
        seeds, targets, strings: what was measured; targets in the order of NINE.
        conditions: of which there are records.
    """

    def __init__(self, records: Iterable[Record]):
        """Checks that every condition was measured with all seeds and targets, once.

        Raises:
            ValueError: no records, an unknown name, a row that is there twice, or one that is missing.
        """
        cells: dict[tuple[Condition, int, int, str], Record] = {}
        for row in records:
            _check_names(row)
            condition = Condition(*row[:4])
            cell = (condition, row.strings, row.seed, row.target)
            if cell in cells:
                raise ValueError(f"scores hold two rows of {_words(*cell)}: keep one.")
            cells[cell] = row
        if not cells:
            raise ValueError("there are no scores: nothing has been measured.")
        self.conditions = tuple(dict.fromkeys(condition for condition, *_ in cells))
        self.strings = tuple(sorted({n for _, n, *_ in cells}))
        self.seeds = tuple(sorted({seed for *_, seed, _ in cells}))
        self.targets = tuple(name for name in NINE if name in {target for *_, target in cells})
        measured = dict.fromkeys((condition, n) for condition, n, *_ in cells)
        expected = ((*pair, seed, target) for pair in measured for seed in self.seeds for target in self.targets)
        if missing := [cell for cell in expected if cell not in cells]:
            raise ValueError(
                f"scores lack {len(missing)} of {len(missing) + len(cells)} rows, first that of {_words(*missing[0])}: "
                "start the run again to measure them."
            )
        self._cells = cells

    def has(self, source: str, *, training: str = "exact", architecture: str = "lstm", frozen: bool = False) -> bool:
        """Whether this condition was measured; see `table`."""
        return _condition(source, training, architecture, frozen) in self.conditions

    def table(
        self,
        source: str,
        *,
        strings: int,
        metric: Metric = "constrained",
        training: str = "exact",
        architecture: str = "lstm",
        frozen: bool = False,
        own: bool = False,
    ) -> np.ndarray:
        """Scores of one condition, [seeds, targets]; NaN at the language it was meta-trained on, unless `own`.

        Args:
            training: not asked for the source "none".

        Raises:
            KeyError: the condition was not measured from this many strings.
        """
        condition = _condition(source, training, architecture, frozen)
        if (condition, strings, self.seeds[0], self.targets[0]) not in self._cells:
            raise KeyError(f"there are no scores of {_words(condition, strings)}.")
        rows = [[self._cells[condition, strings, seed, name] for name in self.targets] for seed in self.seeds]
        table = np.array([[getattr(row, metric) for row in by_seed] for by_seed in rows], dtype=np.float64)
        if not own and source in self.targets:
            table[:, self.targets.index(source)] = np.nan
        return table

    def rows(self, sources: Sequence[str]) -> list[Record]:
        """The records of LSTMs, free to move, meta-trained exactly on these sources, own languages left out."""
        wanted = {_condition(source, "exact", "lstm", False) for source in sources}
        return [row for cell, row in self._cells.items() if cell[0] in wanted and row.source != row.target]


def columns_of(scores: Scores, chomsky_class: str) -> list[int]:
    """Places of the targets of a class in a table's second axis."""
    return [i for i, name in enumerate(scores.targets) if NINE[name].language.chomsky_class == chomsky_class]


def of_class(chomsky_class: str) -> tuple[str, ...]:
    """Names of the languages of a class, of all nine."""
    return tuple(name for name, of in NINE.items() if of.language.chomsky_class == chomsky_class)


def write_scores(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Writes scores.csv: a header and a row for each record, floats exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Record._fields)
    writer.writerows([*row[:7], *(repr(float(score)) for score in row[7:])] for row in records)
    write_atomic(path, text.getvalue())


def read_scores(path: str | os.PathLike[str]) -> list[Record]:
    """Reads scores.csv.

    Raises:
        ValueError: another header, or a line that is no record; names the line.
    """
    header, *lines = list(csv.reader(pathlib.Path(path).read_text(encoding="utf-8").splitlines())) or [[]]
    if tuple(header) != Record._fields:
        raise ValueError(f"{path} has the columns {header}, expected {list(Record._fields)}.")
    records = []
    for number, cells in enumerate(lines, start=2):
        try:
            architecture, source, training, frozen, seed, strings, target, *scores = cells
            continuation, constrained, may_end = map(float, scores)
            moves = {"True": True, "False": False}[frozen]
            records.append(
                Record(
                    architecture, source, training, moves, int(seed), int(strings), target,
                    continuation, constrained, may_end,
                )
            )  # fmt: skip
        except (ValueError, KeyError):
            raise ValueError(f"{path}, line {number} is no record: {','.join(cells)!r}.") from None
    return records


def _condition(source: str, training: str, architecture: str, frozen: bool) -> Condition:
    return Condition(architecture, source, training if source != "none" else "none", frozen)


def _check_names(row: Record) -> None:
    known = {"source": SOURCES, "training": TRAININGS, "target": tuple(NINE)}
    for field, names in known.items():
        if getattr(row, field) not in names:
            raise ValueError(f"unknown {field} {getattr(row, field)!r} in scores: expected one of {', '.join(names)}.")
    if (row.source == "none") != (row.training == "none"):
        raise ValueError(f"source {row.source!r} with training {row.training!r}: 'none' goes with 'none'.")


def _words(condition: Condition, strings: int, seed: int | None = None, target: str | None = None) -> str:
    """A condition, or one of its rows, for a message."""
    architecture, source, training, frozen = condition
    parts = [f"{architecture}, source {source}, training {training}", *(["frozen"] if frozen else []), f"N = {strings}"]
    return ", ".join([*parts, *([] if target is None else [f"seed {seed}, target {target}"])])
