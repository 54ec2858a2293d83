"""Handwritten digits at 5 x 5 pixels: from a folder of MNIST, or the small set that scikit-learn carries.

Images become inputs as in the code of Carrasco-Davis, Masis & Saxe (2024): resized, flattened, a constant 1 appended;
outputs are one-hot over the chosen digits.
"""

import gzip
import math
import pathlib
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from metalearn.effort.datasets import Dataset, from_arrays

# (images, labels) of each split, as LeCun's page named them.
_TRAINING = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def digits(subset: Sequence[int] = range(10), folder: str | pathlib.Path | None = None, size: int = 5) -> Dataset:
    """Digits of `subset` as size^2 + 1 inputs, one output for each digit in the order given.

    Args:
        subset: the digits, such as (0, 1).
        folder: a folder of the IDX files of MNIST (LeCun, Cortes & Burges), plain or compressed (.gz); with the test
            files among them, the data set has test moments. None: the 1,797 digits of 8 x 8 pixels of scikit-learn
            (Alpaydin & Kaynak 1998), for which nothing is downloaded; they have no test split.
        size: pixels on a side to resize to.

    Raises:
        ValueError: a subset that is empty, repeats a digit or holds something else; a size below 1; a file that is
            missing, damaged or not what its name says (names the file, and what was expected and found); data
            without one of the digits.
        ImportError: no folder, and scikit-learn is not installed.
    """
    subset = tuple(subset)
    if not subset or len(set(subset)) < len(subset) or not set(subset) <= set(range(10)):
        raise ValueError(f"subset={subset} must be different digits from 0 to 9, at least one")
    if size < 1:
        raise ValueError(f"size={size}: an image has at least one pixel on a side")
    test = None
    if folder is None:
        training = _inputs_outputs(_scikit_learn(), subset, size)
    else:
        folder = pathlib.Path(folder)
        training = _inputs_outputs(_mnist(folder, _TRAINING), subset, size)
        if any(_stored(folder, name) for name in _TEST):
            test = _inputs_outputs(_mnist(folder, _TEST), subset, size)
    names = [str(digit) for digit in subset]
    return from_arrays(*training, name=f"digits {', '.join(names)}", outputs=names, test=test)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Images [n, rows, columns] at size x size pixels, [n, size, size] float64.

    As `skimage.transform.resize` does by default: smoothed by a Gaussian of standard deviation (factor - 1) / 2 pixels
    where the image shrinks by `factor`, then interpolated linearly between the centres of pixels; mirrored at the
    edges. Both are linear and separable, so that they are one matrix for the rows and one for the columns.
    """

    def matrix(pixels):
        smooth = ndimage.gaussian_filter(np.eye(pixels), (max((pixels / size - 1) / 2, 0), 0), mode="mirror")
        return ndimage.zoom(smooth, (size / pixels, 1), order=1, mode="mirror", grid_mode=True)

    rows, columns = matrix(images.shape[1]), matrix(images.shape[2])
    # In parts, as all of MNIST in float64 takes 376 MB.
    parts = np.array_split(images, max(len(images) // 4096, 1))
    return np.concatenate([rows @ part.astype(np.float64) @ columns.T for part in parts])


class _Images(NamedTuple):
    images: np.ndarray  # [n, rows, columns]
    labels: np.ndarray  # [n] integers
    white: int  # the brightest value that a pixel can have
    source: str  # where the labels come from, for errors


def _inputs_outputs(data: _Images, subset: tuple[int, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [n, size^2] in [0, 1] and one-hot outputs [n, len(subset)] of the digits in the subset."""
    images, labels, white, source = data
    missing = [digit for digit in subset if digit not in labels]
    if missing:
        found = sorted(set(labels.tolist()))
        raise ValueError(f"{source}: no examples of {missing}; the labels are {found}: choose a subset of those")
    outputs = labels[:, None] == np.array(subset)
    keep = outputs.any(1)
    return resized(images[keep], size).reshape(-1, size**2) / white, outputs[keep]


def _scikit_learn() -> _Images:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "digits without a folder are those of scikit-learn: pip install 'metalearn[digits]', or give a folder "
            "of the files of MNIST"
        ) from error
    stored = datasets.load_digits()
    return _Images(stored.images, stored.target, 16, "the digits of scikit-learn")


def _mnist(folder: pathlib.Path, names: tuple[str, str]) -> _Images:
    images, labels = _read_idx(folder, names[0], 3), _read_idx(folder, names[1], 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{folder}: {names[0]} holds {len(images)} images and {names[1]} {len(labels)} labels; they must be as "
            "many: take both from the same source"
        )
    return _Images(images, labels, 255, str(folder / names[1]))


def _stored(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(folder: pathlib.Path, name: str, dimensions: int) -> np.ndarray:
    """The unsigned bytes of an IDX file: magic 0, 0, 8, dimensions; each dimension, big-endian 32 bit; the data."""
    path = _stored(folder, name)
    if path is None:
        raise ValueError(f"folder={str(folder)!r} holds neither {name} nor {name}.gz: give the folder of MNIST's files")
    again = "download it again"
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # by content, as browsers unpack files without renaming them
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error}); {again}") from error
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        page = " (a web page, saved in its place)" if content.lstrip()[:1] == b"<" else ""
        raise ValueError(
            f"{path}: not an IDX file of {dimensions} dimensions: it must begin with the bytes {magic.hex(' ')}, "
            f"but found {content[:4].hex(' ') or 'nothing'}{page}; {again}"
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(f"{path}: expected a header of {header} bytes, found {len(content)} bytes in all; {again}")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    expected = header + math.prod(shape)
    if len(content) != expected or math.prod(shape) == 0:
        raise ValueError(
            f"{path}: its header says that the data have shape {shape}: expected {expected} bytes, "
            f"found {len(content)}; {again}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
