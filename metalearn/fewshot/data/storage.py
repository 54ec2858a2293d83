"""What a data set is in memory and on disk: images sorted by class, in one memory-mappable file per split.

A stored data set is a folder with `train.npy`, `validation.npy` and `test.npy`, uint8 [images, height, width,
channels], and `dataset.json`, which holds the name of the data set and, per split, the names and sizes of its classes.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metalearn.run.compilation import default_cache_folder
from metalearn.run.errors import RunError
from metalearn.run.files import json_text
from metalearn.run.progress import Progress

SPLITS = ("train", "validation", "test")
_MANIFEST = "dataset.json"
# Stored data sets of another number are converted anew.
_FORMAT = 1
# CIFAR-100 is known to hold a few images twice, some of them under two classes: 8 of the 9,600 validation images of
# CIFAR-FS are training images too. A file put in the place of another shares all of its images.
_SHARED_IMAGES = 1 / 200


class DataError(ValueError, RunError):
    """Data on disk that cannot be used; the message names the file, what was expected, what was found and the fix."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of some classes, class after class.

    name: data set and split, for errors.
    images: uint8 [images, height, width, channels], memory-mapped where it comes from disk.
    classes: name of each class.
    offsets: int64 [classes + 1]; the images of class c are images[offsets[c] : offsets[c + 1]].
    """

    name: str
    images: np.ndarray
    classes: tuple[str, ...]
    offsets: np.ndarray


class Splits(NamedTuple):
    """A data set for few-shot learning: no class is in two of its splits."""

    train: Split
    validation: Split
    test: Split


class Source(NamedTuple):
    """A split as a reader found it, before its images are read.

    classes, counts: name and number of images of each class, in any order.
    read(i) -> the images of class i, uint8 [counts[i], height, width, channels].
    origin: the file or folder, for errors.
    """

    classes: Sequence[str]
    counts: Sequence[int]
    read: Callable[[int], np.ndarray]
    origin: str


def cached(name: str, identity: str, cache: str | os.PathLike[str] | None, make: Callable[[], Mapping[str, Source]]):
    """The data set that `make` describes, converted at the first call and memory-mapped from disk ever after.

    Args:
        name: of the data set.
        identity: text that changes when the data do.
        cache: the folder of stored data sets; None: `metalearn/data` in the user's cache folder ($XDG_CACHE_HOME,
            else ~/.cache).
        make: -> the sources by split.

    Returns:
        Splits.

    Raises:
        DataError: see `write`.
    """
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    base = default_cache_folder().with_name("data") if cache is None else pathlib.Path(cache)
    folder = base / f"{name}-{digest}"
    with contextlib.suppress(DataError):  # not stored yet, or damaged
        return open_stored(folder)
    write(folder, name, make())
    return open_stored(folder)


def write(folder: str | os.PathLike[str], name: str, sources: Mapping[str, Source]) -> None:
    """Stores a data set in `folder`, class by class, so that no more than one class need fit in memory.

    The folder appears complete or not at all; one that is there is replaced.

    Raises:
        DataError: an image of another size or number of channels than the first, or a class or more than a few
            images that are in two splits. Nothing is stored then.
    """
    _check_disjoint_classes(sources)
    folder = pathlib.Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        digests, shape, done = {}, None, 0
        total = sum(sum(sources[split].counts) for split in SPLITS)
        manifest: dict = {"format": _FORMAT, "name": name, "splits": {}}
        with Progress(total, f"storing {name}") as progress:
            for split in SPLITS:
                source, parts, file = sources[split], [], None
                order = sorted(range(len(source.classes)), key=source.classes.__getitem__)
                start = 0
                for i in order:
                    images = source.read(i)
                    shape = shape or images.shape[1:]
                    if images.shape != (source.counts[i], *shape) or images.dtype != np.uint8:
                        raise DataError(
                            f"{source.origin}: the images of class {source.classes[i]!r} have shape {images.shape} and "
                            f"type {images.dtype}; expected {(source.counts[i], *shape)} and uint8"
                        )
                    if file is None:
                        count = sum(source.counts)
                        file = np.lib.format.open_memmap(temporary / f"{split}.npy", "w+", np.uint8, (count, *shape))
                    file[start : start + len(images)] = images
                    start += len(images)
                    parts.append(_digests(images))
                    progress.update(done := done + len(images))
                digests[split] = np.concatenate(parts)
                classes = [[source.classes[i], int(source.counts[i])] for i in order]
                manifest["splits"][split] = classes
        _check_disjoint_images(digests, sources)
        (temporary / _MANIFEST).write_text(json_text(manifest))
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not (folder / _MANIFEST).is_file():  # else another process was faster with the same data
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_stored(folder: str | os.PathLike[str]) -> Splits:
    """Memory-maps a stored data set.

    Raises:
        DataError: the folder is not a complete stored data set of this format.
    """
    folder = pathlib.Path(folder)
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        if manifest["format"] != _FORMAT:
            raise DataError(f"{folder}: stored in format {manifest['format']}, expected {_FORMAT}: convert it again")
        splits = []
        for name in SPLITS:
            classes, counts = zip(*manifest["splits"][name], strict=True)
            images = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if images.dtype != np.uint8 or images.ndim != 4 or len(images) != sum(counts):
                raise DataError(
                    f"{folder / name}.npy: expected uint8 images of shape ({sum(counts)}, height, width, channels), "
                    f"found {images.dtype} {images.shape}: convert the data set again"
                )
            splits.append(Split(f"{manifest['name']} {name}", images, classes, np.cumsum([0, *counts])))
        return Splits(*splits)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: not a stored data set, or damaged ({error})") from error


def _check_disjoint_classes(sources: Mapping[str, Source]) -> None:
    for source in sources.values():
        if not source.classes or min(source.counts) < 1:
            raise DataError(f"{source.origin}: no classes, or one without images; every class needs at least one image")
        repeated = sorted(name for name, times in collections.Counter(source.classes).items() if times > 1)
        if repeated:
            raise DataError(f"{source.origin}: classes {repeated[:5]} are there twice")
    for one, other in _pairs():
        both = sorted(set(sources[one].classes) & set(sources[other].classes))
        if both:
            raise DataError(
                f"{sources[one].origin} ({one}) and {sources[other].origin} ({other}) share {len(both)} classes, such "
                f"as {both[0]!r}; splits must have no class in common"
            )


def _check_disjoint_images(digests: Mapping[str, np.ndarray], sources: Mapping[str, Source]) -> None:
    for one, other in _pairs():
        shared = len(np.intersect1d(digests[one], digests[other]))
        if shared > _SHARED_IMAGES * min(len(digests[one]), len(digests[other])):
            raise DataError(
                f"{sources[one].origin} ({one}) and {sources[other].origin} ({other}) share {shared} images of equal "
                "content; splits must be disjoint: one of them is probably a copy of the other's file"
            )


def _pairs() -> Iterator[tuple[str, str]]:
    yield from ((one, other) for i, one in enumerate(SPLITS) for other in SPLITS[i + 1 :])


def _digests(images: np.ndarray) -> np.ndarray:
    hashes = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(b"".join(hashes), np.uint64)
