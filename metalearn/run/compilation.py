"""Compile time: a cache that outlives the process, and a clock that says how long compiling took."""

import logging
import os
import pathlib
import tempfile
from typing import Self

import jax
import threadpoolctl

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_HIT_EVENT = "/jax/compilation_cache/cache_hits"


def default_cache_folder() -> pathlib.Path:
    """`metalearn/jax` below the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "metalearn" / "jax"


def enable_compilation_cache(path: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Keeps every compiled program on disk for the next process. Call it before the first compilation.

    Args:
      path: the folder; by default `default_cache_folder()`.

    Returns:
      The folder, or None when it cannot be written: the run then goes on without, after a logged warning.
    """
    folder = pathlib.Path(path) if path is not None else default_cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        logging.getLogger(__name__).warning("no compilation cache: %s cannot be written (%s)", folder, error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


class CompileClock:
    """Sums what XLA compiles while the block runs, in every thread.

        with CompileClock() as clock:
            step(state)
        clock.seconds, clock.programs, clock.cache_hits

    Seconds include fetching a program from the cache; tracing in Python is not included.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.programs = 0
        self.cache_hits = 0

    def _on_duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILE_EVENT:
            self.seconds += duration_secs
            self.programs += 1

    def _on_event(self, event: str, **_: str | int) -> None:
        if event == _HIT_EVENT:
            self.cache_hits += 1

    def __enter__(self) -> Self:
        """Starts to listen."""
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops."""
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)


def use_all_cores() -> None:
    """One host device per core this process may use, for when JAX runs on the CPU; to be called before JAX is used.

    Loops of small matrix products do not use a second core by themselves; split over devices along the task axis they
    do. Does nothing to accelerators, nor where the number of devices has been set already. Linear algebra libraries are
    held to one thread: in two devices at once their threads wait for each other, and a decomposition takes many times
    as long. And XLA takes the widest vectors of the CPU, where it has any of 16 numbers: by default it takes half.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if devices < 1 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", cores)
    flags = os.environ.get("XLA_FLAGS", "")
    if "prefer_vector_width" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_prefer_vector_width=512".strip()
    import scipy.linalg  # noqa: F401 - JAX's decompositions are SciPy's; its libraries must be loaded to be told

    threadpoolctl.threadpool_limits(1, "blas")
