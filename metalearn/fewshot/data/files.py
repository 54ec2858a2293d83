"""Files as people have them on disk, read without trusting them: pickles, HDF5, archives, folders and pictures."""

import contextlib
import functools
import importlib
import io
import pathlib
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from metalearn.fewshot.data.storage import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_AGAIN = "download or copy it again"

# Everything that a pickle of arrays and containers names. Python 2 and NumPy 1 call the same things otherwise.
_ARRAY_PARTS = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {(module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")}
_CONTAINERS = {"set": set, "frozenset": frozenset, "bytearray": bytearray}


def _dtype(kind, align=False, copy=False):
    # Old pickles give the flags as integers, of which NumPy warns.
    return np.dtype(kind, align=bool(align), copy=bool(copy))


def _encode(text, encoding="latin1"):
    # How pickles of protocol 2 hold bytes.
    return text.encode(encoding)


class _ArraysOnly(pickle.Unpickler):
    """Builds arrays and containers; any other name in the pickle is refused before it is looked up."""

    def __init__(self, file: Any, path: pathlib.Path):
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAY_PARTS:
            return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module in ("builtins", "__builtin__") and name in _CONTAINERS:
            return _CONTAINERS[name]
        raise DataError(
            f"{self._path}: this pickle asks for {module}.{name}; expected numbers, texts, arrays and containers only. "
            "Nothing in it was run. Take the file from a source that you trust"
        )


def unpickle(path: pathlib.Path) -> Any:
    """What a pickle of Python 2 or 3 holds, if that is only arrays, containers, numbers and texts.

    Bytes of Python 2 become texts (latin1), so that keys compare as texts.

    Raises:
        DataError: a web page or something else that is no pickle, a truncated file, or a pickle that names any other
            class or function: none is imported or called.
    """
    refuse_web_page(path)
    with open(path, "rb") as file:
        try:
            return _ArraysOnly(file, path).load()
        except DataError:
            raise
        except Exception as error:  # an unpickler raises nearly anything on damaged input
            raise DataError(
                f"{path}: expected a pickle, but it is damaged, truncated or something else ({error}); {_AGAIN}"
            ) from error


def refuse_web_page(path: pathlib.Path) -> None:
    """Raises DataError for a web page that was saved in place of a file, or an empty file."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip()
    if not start:
        raise DataError(f"{path}: the file is empty; {_AGAIN}")
    if start[:1] == b"<":
        raise DataError(
            f"{path}: expected data, found a web page, probably the page of a download service saved under this name; "
            "open the link in a browser and download the file itself"
        )


@contextlib.contextmanager
def damaged(path: pathlib.Path, kind: str) -> Iterator[None]:
    """Turns what a library raises on damaged input into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: expected {kind}, but reading it failed ({error!r}); {_AGAIN}") from error


def open_hdf5(path: pathlib.Path) -> Any:
    """The open file of HDF5.

    Raises:
        DataError: damaged or no HDF5.
        ImportError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is HDF5, which needs h5py: pip install 'metalearn[images]'") from error
    refuse_web_page(path)
    with damaged(path, "an HDF5 file"):
        return h5py.File(path, "r")


def image_files(place: pathlib.Path) -> Mapping[str, Callable[[], bytes]]:
    """The pictures below a folder, or in a zip or tar file: path inside it -> function that gives the bytes.

    Archives are read in place; nothing is unpacked. Where all paths in an archive begin with a folder of the archive's
    own name, as is usual, that is left out.

    Raises:
        DataError: a damaged archive.
    """
    if place.is_dir():
        paths = (path for path in place.rglob("*") if _is_picture(path))
        return {path.relative_to(place).as_posix(): path.read_bytes for path in paths}
    refuse_web_page(place)
    files: dict[str, Callable[[], bytes]] = {}
    with damaged(place, "a zip or tar file"):
        if place.suffix == ".zip":
            archive = zipfile.ZipFile(place)
            for name in archive.namelist():
                if _is_picture(pathlib.PurePosixPath(name)):
                    files[name] = functools.partial(archive.read, name)
        else:
            with tarfile.open(place, "r:") as tar:
                for member in tar.getmembers():
                    if member.isfile() and _is_picture(pathlib.PurePosixPath(member.name)):
                        where = (place, member.offset_data, member.size)
                        files[member.name.removeprefix("./")] = functools.partial(_part_of, *where)
    top = place.name.split(".")[0] + "/"
    return {name.removeprefix(top): read for name, read in files.items()}


def _part_of(path: pathlib.Path, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def _is_picture(path: pathlib.PurePath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts if part != ".")
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def picture(content: bytes, name: str, size: int | None = None, channels: int | None = None) -> np.ndarray:
    """A picture as uint8 [height, width, channels].

    Args:
        content: of the file. name: of the file, for errors.
        size: pixels on a side to resample to (Lanczos); None keeps the picture's own.
        channels: 1 for grey, 3 for colour; None keeps the picture's own.

    Raises:
        DataError: damaged, or no picture.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{name}: expected 8 bits a pixel, found more (mode {image.mode}): convert it")
            own = 1 if image.mode in ("1", "L", "LA") else 3
            pixels = image.convert("L" if (channels or own) == 1 else "RGB")
    except DataError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{name}: expected a picture, but it is damaged or something else ({error}); {_AGAIN}"
        ) from error
    if size is not None and pixels.size != (size, size):
        pixels = pixels.resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(pixels)
    return array if array.ndim == 3 else array[..., None]
