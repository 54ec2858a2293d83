"""Benchmarks as generators of rows, the way everything is timed, and the table.

Timing: every call once to warm up, then rounds in which the calls take turns; the best time of each counts. Taking
turns matters because a machine's speed drifts: what is compared (a program, its peer, the matrix product that stands
for the limit) is measured within the same seconds.
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import rich.console
import rich.table


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; None where a column does not apply.

    Attributes:
        name: group/what.
        value: what was measured; None where it could not be.
        unit: of value.
        share_of_limit: the least time that the necessary arithmetic takes at the rate of a large matrix product, over
            the time taken.
        ratio_to_peer: how many times better than what it is compared with.
        peak_memory_mib: temporary memory of the compiled program per task, 2^20 bytes.
        compile_seconds: XLA's time to compile, from nothing.
        note: for the reader; shown below the table.
    """

    name: str
    value: float | None
    unit: str
    share_of_limit: float | None = None
    ratio_to_peer: float | None = None
    peak_memory_mib: float | None = None
    compile_seconds: float | None = None
    note: str = ""


Benchmark = Callable[[], Iterator[Row]]
"""A group of rows, yielded as they are measured."""


def select(groups: Mapping[str, Benchmark], only: str | None) -> dict[str, Benchmark]:
    """The groups whose name contains `only`, or one of several such parts separated by commas; all for None.

    Raises:
        ValueError: no group's name contains a part; lists the names.
    """
    if only is None:
        return dict(groups)
    parts = [part.strip() for part in only.split(",")]
    for part in parts:
        if not part or not any(part in name for name in groups):
            raise ValueError(f"--only={part}: no benchmark has that in its name; choose from {', '.join(groups)}")
    return {name: group for name, group in groups.items() if any(part in name for part in parts)}


def measure(groups: Mapping[str, Benchmark], console: rich.console.Console) -> tuple[list[Row], list[str]]:
    """Runs groups one after the other, with a line of progress for each row.

    Returns:
        The rows, and the names of groups that failed. A failure costs only the rest of its own group; its traceback
        goes to the console.
    """
    rows, failed = [], []
    for number, (name, group) in enumerate(groups.items(), start=1):
        console.print(f"[{number}/{len(groups)}] {name}", markup=False)
        began = time.monotonic()
        try:
            for row in group():
                rows.append(row)
                shown = row.note if row.value is None else f"{row.value:.4g} {row.unit}"
                console.print(f"    {time.monotonic() - began:5.0f} s  {row.name}: {shown}", markup=False)
        except Exception:
            failed.append(name)
            console.print(traceback.format_exc(), markup=False)
    return rows, failed


def table(rows: Sequence[Row], width: int = 150) -> str:
    """The rows for people, and their notes below."""
    grid = rich.table.Table(box=None, pad_edge=False)
    grid.add_column("name", no_wrap=True)
    for heading in ("value", "unit", "share of limit", "ratio to peer", "peak MiB", "compile s"):
        grid.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    shown = lambda value, form: "" if value is None else format(value, form)
    for row in rows:
        grid.add_row(
            row.name,
            shown(row.value, ".4g"),
            row.unit,
            shown(row.share_of_limit, ".1%"),
            shown(row.ratio_to_peer, ".2f"),
            shown(row.peak_memory_mib, ".1f"),
            shown(row.compile_seconds, ".1f"),
        )
    console = rich.console.Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(grid)
        for row in rows:
            if row.note:
                console.print(f"{row.name}: {row.note}", markup=False)
    return captured.get()


def write_json(rows: Sequence[Row], path: str | pathlib.Path) -> None:
    """The rows as a list of objects; what does not apply is null. Notes are for the table only."""
    objects = [{key: value for key, value in dataclasses.asdict(row).items() if key != "note"} for row in rows]
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(objects, indent=2) + "\n", encoding="utf-8")


def seconds(call: Callable[[], Any]) -> float:
    """Wall seconds of one call, its results waited for."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def best_seconds(
    calls: Mapping[str, Callable[[], Any]], rounds: int = 5, *, in_row: int = 1, warm: bool = False
) -> dict[str, float]:
    """Wall seconds of each call: the best of `rounds` in which all take turns.

    Args:
        in_row: how often each is made when its turn comes. Above 1 where calls are short and would be slowed down by
            what the one before leaves behind, as of another library: its threads, still spinning, and its caches.
        warm: all have been called before; else each is, once.
    """
    for call in () if warm else calls.values():
        jax.block_until_ready(call())
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], *(seconds(call) for _ in range(in_row)))
    return best


def matrix_product(size: int = 2048) -> tuple[Callable[[], jax.Array], float]:
    """The call that stands for what the machine can do, and its floating-point operations: X Y in float32, X square.

    One product on one device: XLA spreads it over all cores, also where each core is a device.
    """
    x = jnp.full((size, size), 1.0, jnp.float32)
    product = jax.jit(lambda x, y: x @ y)
    return lambda: product(x, x), 2.0 * size**3


def compile_timed(lowered: jax.stages.Lowered) -> tuple[Any, float]:
    """The compiled program, and the seconds that compiling took; no cache."""
    cached = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        began = time.perf_counter()
        return lowered.compile(), time.perf_counter() - began
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def missing(distribution: str, extra: str) -> str:
    """Empty if a distribution is installed, else what to do about it."""
    try:
        importlib.metadata.version(distribution)
        return ""
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution} is not installed: pip install -e '.[{extra}]'"
