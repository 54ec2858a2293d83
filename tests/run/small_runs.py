"""What tests share that run whole programs: nothing on the screen, and little time spent compiling."""

import contextlib
import io

import jax

from metalearn.run import enable_compilation_cache

_CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def quietly(call):
    """(result, standard output)."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        return call(), out.getvalue()


def restore_cache(add_cleanup):
    """Leaves the compilation cache as it is now, once a test (addCleanup) or its class (addClassCleanup) is done."""
    for option in _CACHE_OPTIONS:
        add_cleanup(jax.config.update, option, getattr(jax.config, option))
    add_cleanup(jax.experimental.compilation_cache.compilation_cache.reset_cache)


def compile_little(case, folder):
    """For a class of tests that compiles the same programs again and again: unoptimised, and cached in `folder`."""
    restore_cache(case.addClassCleanup)
    case.addClassCleanup(jax.config.update, "jax_disable_most_optimizations", False)
    jax.config.update("jax_disable_most_optimizations", True)
    enable_compilation_cache(folder)
