"""What a user waits for: from the command to the end of the first meta-training step, without and with a warm cache.

The experiment's own command in a process of its own, with a fresh cache of compiled programs and then once more with
the cache that the first left behind. It is stopped as soon as its first row of metrics is on disk.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.harness import Row

NAME = "first_step"
_POLL_SECONDS = 0.02


def seconds_to_first_row(command: list[str], workdir: pathlib.Path, cache: pathlib.Path, patience: float) -> float:
    """Seconds from starting `command` until a metrics.csv below `workdir` has a row of numbers.

    Raises:
        RuntimeError: the command ends before, with its messages.
        TimeoutError: no such row within `patience` seconds.
    """
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    with tempfile.TemporaryFile() as messages:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=messages, stderr=messages, env=environment)
        try:
            while not any(path.read_bytes().count(b"\n") > 1 for path in workdir.rglob("metrics.csv")):
                if process.poll() is not None:
                    messages.seek(0)
                    text = messages.read().decode(errors="replace")
                    raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{text}")
                if time.perf_counter() - began > patience:
                    raise TimeoutError(f"{' '.join(command)}: no first step within {patience:.0f} s")
                time.sleep(_POLL_SECONDS)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def rows(preset: str = "laptop", patience: float = 600.0) -> Iterator[Row]:
    """Seconds with a cold and with a warm cache of compiled programs."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("cold", "warm"):
            workdir = root / name
            # A checkpoint after every step: rows reach the disk with the checkpoint that needs them.
            flags = [f"--preset={preset}", f"--workdir={workdir}"]
            flags += [f"--config.training.{name}=1" for name in ("log_every", "checkpoint_every")]
            command = [sys.executable, "-m", "experiments.formal_languages", *flags]
            seconds = seconds_to_first_row(command, workdir, root / "cache", patience)
            yield Row(f"{NAME}/{name} cache", seconds, "s", note=f"experiments.formal_languages --preset={preset}")
