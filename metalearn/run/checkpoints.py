"""Checkpoints that are verified when they are read: Orbax stores the arrays, a SHA-256 digest per leaf guards them.

    with Checkpoints(run.checkpoints, keep=3) as checkpoints:
        restored = checkpoints.restore_latest(state)       # None when there is none
        checkpoints.save(step, state, {"note": "any JSON"})

Orbax does not notice a flipped byte in its data files, so every leaf is compared with its digest. A damaged checkpoint
is set aside (renamed to `damaged-STEP`) with a warning and the one before it is used.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from metalearn.run import files
from metalearn.run.errors import CheckpointError
from metalearn.run.processes import is_first

StateT = TypeVar("StateT")
_FILE_DIGESTS = "manifest/files.json"
_LOGGER = logging.getLogger(__name__)


class Restored(NamedTuple, Generic[StateT]):
    """A verified checkpoint."""

    step: int
    state: StateT
    extra: dict[str, Any]  # what was given to `save`
    warnings: list[str]  # one line per newer checkpoint that was damaged


class Damaged(Exception):
    """Why one checkpoint cannot be used."""


def is_key(leaf: Any) -> bool:
    """Whether the leaf holds typed PRNG keys (or describes them)."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def host_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Own copies of all leaves on the host by name ("params/w"); PRNG keys as their key data.

    Copies, because the device may reuse a donated buffer while NumPy still looks at it. Raises CheckpointError for a
    leaf that is spread over processes, and for two leaves of the same name.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves:
            raise CheckpointError(f"two leaves of the state are called {name!r}: rename one.")
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            raise CheckpointError(f"leaf {name!r} is sharded over processes: replicate it before saving.")
        leaves[name] = np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        if leaves[name].dtype == object:
            raise CheckpointError(f"leaf {name!r} is no array but {type(leaf).__name__}: keep it out of the state.")
    return leaves


def leaf_digest(array: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes of one array."""
    header = f"{array.dtype.name} {array.shape} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def tree_digest(tree: Any) -> str:
    """One SHA-256 for a whole pytree: equal names, types, shapes and bits give equal digests."""
    digests = {name: leaf_digest(array) for name, array in host_leaves(tree).items()}
    return hashlib.sha256(files.json_text(digests).encode()).hexdigest()


class Checkpoints:
    """The newest `keep` checkpoints of a run in one folder. Use as a context manager.

    Saving is synchronous: when `save` returns, the state is on disk and its buffers may be donated. A process killed
    within `save` leaves a temporary folder that the next one removes.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}.")
        self.folder = pathlib.Path(folder).absolute()
        self._keep = keep
        if is_first():
            for leftover in self.folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(leftover)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        with _quiet_orbax():
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, oldest first; they may still turn out damaged."""
        return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal() and entry.is_dir())

    def save(self, step: int, state: Any, extra: Mapping[str, Any] | None = None) -> None:
        """Saves `state` (any pytree of arrays, scalars and typed keys) and a JSON-able `extra` as `step`.

        An existing checkpoint of the same step is replaced. Raises CheckpointError when it cannot be written.
        """
        leaves = host_leaves(state)
        body = {
            "step": step,
            "leaves": {name: [leaf.dtype.name, list(leaf.shape), leaf_digest(leaf)] for name, leaf in leaves.items()},
            "extra": files.jsonable(extra or {}),
        }
        arguments = ocp.args.Composite(
            # Orbax stores no arrays of size zero; their shape and type in the manifest say all there is to say.
            state=ocp.args.StandardSave(_packed(leaves)),
            manifest=ocp.args.JsonSave({"body": body, "sha256": _manifest_digest(body)}),
        )
        with _quiet_orbax():
            if (self.folder / str(step)).exists():
                self._forget(step)
            try:
                saved = self._manager.save(step, args=arguments, force=True)
            except (OSError, ValueError, RuntimeError) as error:
                raise CheckpointError(f"checkpoint {step} cannot be saved in {self.folder}: {error}") from error
        if not saved:
            raise CheckpointError(f"checkpoint {step} was not saved in {self.folder}.")
        folder = self.folder / str(step)
        files.write_atomic(folder / _FILE_DIGESTS, files.json_text(_file_digests(folder)))

    def restore_latest(self, like: StateT) -> Restored[StateT] | None:
        """Restores the newest sound checkpoint, or None when there has never been one.

        Args:
          like: a state of the expected structure, shapes and types (its values do not matter, jax.ShapeDtypeStruct will
            do); restored leaves go where its leaves are.

        Returns:
          The state with its step and one warning per damaged newer checkpoint (also logged).

        Raises:
          CheckpointError: there are checkpoints but none is sound and fits; lists each with its reason.
        """
        warnings: list[str] = []
        for step in reversed(self.steps()):
            try:
                with _quiet_orbax():
                    state, extra = self._restore(step, like)
            except Damaged as reason:
                warnings.append(f"checkpoint {step} cannot be used: {reason}")
                continue
            for warning in warnings:
                _LOGGER.warning("%s; going back to checkpoint %d", warning, step)
            self._set_aside([newer for newer in self.steps() if newer > step])
            for surplus in self.steps()[: -self._keep]:  # left by a process that died while it deleted them
                self._forget(surplus)
            return Restored(step, state, extra, warnings)
        if warnings:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used:\n  "
                + "\n  ".join(warnings)
                + "\nStart anew in another --workdir, or restore the folder from a copy."
            )
        return None

    def _restore(self, step: int, like: StateT) -> tuple[StateT, dict[str, Any]]:
        folder = self.folder / str(step)
        if not any(folder.iterdir()):
            raise Damaged("its folder is empty")
        try:
            # Read without Orbax: it would take the whole folder for no checkpoint when its own metadata are missing.
            manifest = json.loads((folder / "manifest" / "metadata").read_text(encoding="utf-8"))
            body = manifest["body"]
            sound = manifest["sha256"] == _manifest_digest(body) and body["step"] == step
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"its manifest cannot be read ({error!r})") from error
        if not sound:
            raise Damaged("its manifest does not match its own digest")
        _check_fit(body["leaves"], like)
        _check_files(folder)
        expected = {name: np.zeros(shape, jnp.dtype(dtype)) for name, (dtype, shape, _) in body["leaves"].items()}
        try:
            arguments = ocp.args.Composite(state=ocp.args.StandardRestore(_packed(expected)))
            packed = self._manager.restore(step, args=arguments)["state"]
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0][:200]
            raise Damaged(f"Orbax cannot read it ({type(error).__name__}: {first_line})") from error
        leaves = _unpacked(packed, expected)
        for name, (_, _, digest) in body["leaves"].items():
            if leaf_digest(leaves[name]) != digest:
                raise Damaged(f"leaf {name!r} does not match its digest: the file was changed or is damaged")
        targets, structure = jax.tree.flatten(like)
        placed = [_place(leaves[name], target) for name, target in zip(_names(like), targets, strict=True)]
        return jax.tree.unflatten(structure, placed), body["extra"]

    def _set_aside(self, steps: list[int]) -> None:
        """Frees the names of damaged checkpoints for the steps to be done again, but keeps them for a look."""
        for step in steps:
            grave = self.folder / f"damaged-{step}"
            shutil.rmtree(grave, ignore_errors=True)
            os.replace(self.folder / str(step), grave)
        if steps:
            with _quiet_orbax():
                self._manager.reload()

    def _forget(self, step: int) -> None:
        shutil.rmtree(self.folder / str(step))
        self._manager.reload()

    def close(self) -> None:
        """Releases what Orbax holds."""
        with _quiet_orbax():
            self._manager.close()

    def __enter__(self) -> Self:
        """The checkpoints themselves."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes."""
        self.close()


def _file_digests(folder: pathlib.Path) -> dict[str, str]:
    paths = sorted(path for path in (folder / "state").rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _check_files(folder: pathlib.Path) -> None:
    """Raises Damaged naming a file that differs from what was written.

    Keeps damaged bytes away from Orbax, whose readers of the other files complain on standard error when one fails. A
    process that died just after saving left no list: the digests of the leaves decide then.
    """
    if not (folder / _FILE_DIGESTS).exists():
        return
    try:
        written, found = json.loads((folder / _FILE_DIGESTS).read_text(encoding="utf-8")), _file_digests(folder)
        changed = [name for name in written if written[name] != found.get(name)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"its list of files cannot be read ({error!r})") from error
    if changed:
        raise Damaged(f"its file {changed[0]} {'was changed' if changed[0] in found else 'is missing'}")


def _names(tree: Any) -> list[str]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def _packed(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names by position: Orbax gives "/" and the empty name meanings of its own."""
    return {"empty": np.zeros(1)} | {f"{i:06d}": leaf for i, leaf in enumerate(leaves.values()) if leaf.size}


def _unpacked(packed: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: packed[f"{i:06d}"] if leaf.size else leaf for i, (name, leaf) in enumerate(expected.items())}


def _manifest_digest(body: Any) -> str:
    return hashlib.sha256(files.json_text(body).encode()).hexdigest()


def _check_fit(leaves: Mapping[str, list[Any]], like: Any) -> None:
    """Raises Damaged naming the first leaf in which a checkpoint differs from the expected state."""
    targets = dict(zip(_names(like), jax.tree.leaves(like), strict=True))
    missing, surplus = [n for n in targets if n not in leaves], [n for n in leaves if n not in targets]
    if missing or surplus:
        parts = [f"{what} {', '.join(names[:5])}" for what, names in (("lacks", missing), ("has", surplus)) if names]
        raise Damaged("its structure does not fit the state: it " + " and ".join(parts))
    for name, target in targets.items():
        if is_key(target):
            target = jax.eval_shape(jax.random.key_data, target)
        dtype, shape = leaves[name][0], tuple(leaves[name][1])
        if isinstance(target, bool | int | float | complex):  # a Python scalar has no width of its own
            fits = shape == () and jnp.dtype(dtype).kind == np.asarray(target).dtype.kind
        else:
            fits = shape == tuple(target.shape) and dtype == jnp.dtype(target.dtype).name
        if not fits:
            there, here = f"{dtype}{list(shape)}", f"{np.result_type(target).name}{list(np.shape(target))}"
            raise Damaged(f"leaf {name!r} does not fit: the checkpoint has {there}, the state needs {here}")


def _place(value: np.ndarray, target: Any) -> Any:
    """Gives a restored array the kind and the place of the leaf it stands for."""
    if isinstance(target, bool | int | float | complex):
        return type(target)(value.item())
    if isinstance(target, np.ndarray | np.generic):
        return value
    sharding = getattr(target, "sharding", None)
    if isinstance(target, jax.Array) and not target.committed:
        sharding = None  # stays free to move to the devices of the data it meets, as the initial state was
    if is_key(target):
        # The data are placed, not the keys: device_put cannot spread keys over several processes.
        data = jnp.asarray(value) if sharding is None else jax.device_put(value, sharding)
        impl: list[Any] = []  # asked under tracing, where a mere description of keys has an implementation too
        jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), target)
        return jax.random.wrap_key_data(data, impl=impl[0])
    return jnp.asarray(value) if sharding is None else jax.device_put(value, sharding)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Drops Orbax's log lines below ERROR: dozens per save, and its failures reach us as exceptions anyway."""

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or f"{os.sep}orbax{os.sep}" not in record.pathname

    logger = absl_logging.get_absl_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
