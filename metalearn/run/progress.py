"""Progress for people: a live bar on a terminal, a line every few seconds elsewhere, by the same calls."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import rich.console
import rich.progress

from metalearn.run.compilation import CompileClock
from metalearn.run.processes import is_first


def default_console() -> rich.console.Console:
    """A console on standard error, so that standard output stays free for results; silent but in the first process."""
    return rich.console.Console(stderr=True, highlight=False, soft_wrap=True, quiet=not is_first())


def duration(seconds: float) -> str:
    """Seconds as "42s", "3m05s" or "2h07m"; "?" when not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class Progress:
    """Shows how far a loop of known length is.

        with Progress(1000, "meta-training") as progress:
            for step in range(1000):
                progress.update(step + 1, loss=0.3)

    On a terminal a bar with rate, elapsed time, an estimate of what remains and the current metrics; elsewhere a line
    of the same content, the first after about a second and then every `interval` seconds.
    """

    def __init__(
        self,
        total: int,
        name: str = "training",
        *,
        start: int = 0,
        interval: float = 10.0,
        console: rich.console.Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._name, self._start, self._step = total, name, start, start
        self._interval, self._clock = interval, clock
        self._console = console or default_console()
        self._bar: rich.progress.Progress | None = None
        self._metrics: dict[str, Any] = {}
        self._task = rich.progress.TaskID(0)
        self._began = self._next_line = 0.0

    def update(self, step: int, **metrics: Any) -> None:
        """Tells that `step` steps are done and what the metrics (scalars) are now."""
        self._step = step
        self._metrics = metrics or self._metrics
        if self._bar is not None:
            self._bar.update(self._task, completed=step, detail=self._detail())
            return
        now = self._clock()
        if now >= self._next_line:
            self._next_line = now + self._interval
            self._print_line()

    def skip(self, step: int) -> None:
        """Tells that all up to `step` had been done before, so that the estimate of what remains does not count it."""
        self._start += step - self._step
        self._step = step

    def part(self, begin: float, end: float, total: int) -> "Progress":
        """A progress of `total` steps that are steps `begin` .. `end` of this one, for one of several trainings.

        What such a training had done before it was interrupted is skipped.
        """
        return _Part(self, begin, end, total)

    def message(self, text: str) -> None:
        """Prints one line above the bar."""
        self._console.print(text, markup=False)

    def _rate(self) -> float:
        return (self._step - self._start) / max(self._clock() - self._began, 1e-9)

    def _detail(self) -> str:
        shown = [f"{name} {_short(value)}" for name, value in self._metrics.items()]
        return "  ".join([f"{_short(self._rate())} steps/s", *shown])

    def _print_line(self) -> None:
        elapsed, rate = self._clock() - self._began, self._rate()
        left = (self._total - self._step) / rate if rate else math.inf
        share = 100 * self._step / max(self._total, 1)
        self.message(
            f"{self._name}: step {self._step}/{self._total} ({share:.0f} %)  {self._detail()}  "
            f"elapsed {duration(elapsed)}  left {duration(left)}"
        )

    def __enter__(self) -> Self:
        """Starts the clock and, on a terminal, the bar."""
        self._began = self._clock()
        self._next_line = self._began + min(1.0, self._interval)
        if self._console.is_terminal:
            columns = (
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(bar_width=24),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.fields[detail]}"),
            )
            self._bar = rich.progress.Progress(*columns, console=self._console, refresh_per_second=4)
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._total, completed=self._start, detail="")
        return self

    def __exit__(self, *exception: object) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()
        elif self._step > self._start:
            self._print_line()


class _Part(Progress):
    """See `Progress.part`."""

    def __init__(self, whole: Progress, begin: float, end: float, total: int):
        super().__init__(total, whole._name, console=whole._console, clock=whole._clock)
        self._whole, self._begin, self._end, self._began_yet = whole, begin, end, False

    def _place(self, step: int) -> int:
        return round(self._begin + (self._end - self._begin) * step / self._total)

    def update(self, step: int, **metrics: Any) -> None:
        if not self._began_yet:
            self._whole.skip(self._place(max(step - 1, 0)))
            self._began_yet = True
        self._whole.update(self._place(step), **metrics)

    def message(self, text: str) -> None:
        self._whole.message(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._began_yet and exception == (None, None, None):
            self._whole.skip(self._place(self._total))


class Stages:
    """Shows which part of an experiment runs and what each part took.

    stages = Stages("corpora", "meta-training", "evaluation")
    with stages.stage("corpora"):                                # prints "[1/3] corpora"
        ...
    print(stages.summary())
    """

    def __init__(self, *names: str, console: rich.console.Console | None = None):
        self._names = names
        self.seconds: dict[str, float] = {}
        self.compile_seconds: dict[str, float] = {}
        self._console = console or default_console()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announces the stage and, when it ends well, its duration. Raises ValueError for a name not announced."""
        if name not in self._names:
            raise ValueError(f"unknown stage {name!r}: expected one of {', '.join(self._names)}.")
        label = f"[{self._names.index(name) + 1}/{len(self._names)}] {name}"
        self._console.print(label, markup=False)
        began = time.monotonic()
        with CompileClock() as compiling:
            yield
        self.seconds[name] = time.monotonic() - began
        self.compile_seconds[name] = compiling.seconds
        self._console.print(f"{label}: done in {duration(self.seconds[name])}", markup=False)

    def summary(self) -> str:
        """A table of where the time of this process went: seconds of each stage, and how much of them XLA compiled."""
        lines = [f"{'where the time went':<32}{'seconds':>9}{'compiling':>11}"]
        rows = [(name, self.seconds[name], self.compile_seconds[name]) for name in self._names if name in self.seconds]
        rows.append(("all", sum(self.seconds.values()), sum(self.compile_seconds.values())))
        return "\n".join([*lines, *(f"{name:<32}{spent:>9.1f}{compiled:>11.1f}" for name, spent, compiled in rows)])


def _short(value: Any) -> str:
    return f"{float(np.asarray(value)):.4g}"
