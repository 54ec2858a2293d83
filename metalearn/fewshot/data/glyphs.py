"""Glyphs: a few-shot data set that needs no download, drawn from the fonts that matplotlib ships.

The classes are characters of many scripts, and its images are their shapes in different typefaces, each with its own
slant, proportions, position and stroke width; the format is that of Omniglot (Lake et al. 2015): 28 x 28 pixels, bright
ink, 20 images a class. Characters that look alike, such as the capital A of Latin, Greek and Cyrillic, would make
classes that no learner can tell apart: of those only the first in Unicode is a class.
"""

import functools
import json
import math
import os
import pathlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFilter, ImageFont, features
from scipy import ndimage

from metalearn.fewshot.data.storage import SPLITS, Source, Splits, cached

PIXELS = 28
IMAGES_PER_CLASS = 20
SHARES = {"train": 0.64, "validation": 0.16, "test": 0.2}

# The typefaces of text. matplotlib's others hold single symbols, or other shapes under the codes of letters.
TYPEFACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
# A character in fewer typefaces than this is no class.
_FEWEST_TYPEFACES = 8
# Where characters are compared: the others are bold or slanted versions of these.
_COMPARED = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic")
# Two characters whose blurred shapes correlate more than this in any compared typeface look alike.
_ALIKE = 0.95
# Drawn twice as large as the images; the longer side of the ink then has _INK of the _BOX pixels.
_SCALE = 2
_INK, _BOX = 20 * _SCALE, PIXELS * _SCALE
# Least and largest turn in radians, shear, stretch of width and height, and move to the right and down.
_BENDING = np.array([(-0.17, 0.17), (-0.15, 0.15), (0.8, 1.1), (0.8, 1.1), *2 * [(-2 * _SCALE, 2 * _SCALE)]]).T
_SEED = 2024


def glyphs(cache: str | os.PathLike[str] | None = None) -> Splits:
    """The data set, drawn at the first call (half a minute on two cores) and read from disk ever after.

    Classes are named by their Unicode names. The same fonts and Pillow give the same images.

    Args:
        cache: as for `load`.
    """
    identity = json.dumps([matplotlib.__version__, features.version("freetype2"), _ALIKE, _SEED])
    return cached("glyphs", identity, cache, _sources)


def _sources() -> Mapping[str, Source]:
    classes = distinct_characters()
    order = np.random.default_rng(_SEED).permutation(len(classes))
    bounds = np.round(np.cumsum([SHARES[split] for split in SPLITS]) * len(classes)).astype(int)
    sources = {}
    for split, members in zip(SPLITS, np.split(order, bounds[:-1]), strict=True):
        chosen = [classes[i] for i in members]
        names = [unicodedata.name(character) for character in chosen]
        sources[split] = Source(names, [IMAGES_PER_CLASS] * len(chosen), _drawings_of(chosen), "glyphs")
    return sources


def _drawings_of(chosen: Sequence[str]) -> Callable[[int], np.ndarray]:
    return lambda i: drawings(chosen[i])


@functools.cache
def characters() -> Mapping[str, tuple[str, ...]]:
    """The candidates (letters, numbers, symbols and punctuation), and for each the typefaces that have it."""
    having: dict[int, list[str]] = {}
    for typeface in TYPEFACES:
        for code in FT2Font(str(_path(typeface))).get_charmap():
            # Some typefaces leave a character blank.
            if unicodedata.category(chr(code))[0] in "LNSP" and _mask(chr(code), typeface).getbbox():
                having.setdefault(code, []).append(typeface)
    return {
        chr(code): tuple(typefaces) for code, typefaces in sorted(having.items()) if len(typefaces) >= _FEWEST_TYPEFACES
    }


def distinct_characters() -> list[str]:
    """The candidates in the order of Unicode, without those that look like an earlier one in some typeface."""
    names = list(characters())
    alike = likeness(names) > _ALIKE
    kept: list[int] = []
    for i in range(len(names)):
        if not alike[i, kept].any():
            kept.append(i)
    return [names[i] for i in kept]


def likeness(names: Sequence[str]) -> np.ndarray:
    """How alike characters look: the largest correlation of their shapes in one typeface, [characters, characters].

    Shapes are scaled to the same box and blurred by one pixel of the images, as they will be moved and bent by more.
    """
    available = characters()
    most = np.full((len(names), len(names)), -1, np.float32)
    for typeface in _COMPARED:
        members = [i for i, name in enumerate(names) if typeface in available[name]]
        drawn = [np.asarray(_boxed(_ink(names[i], typeface)).reduce(_SCALE)) for i in members]
        shapes = ndimage.gaussian_filter(np.stack(drawn).astype(np.float32), (0, 1, 1)).reshape(len(members), -1)
        shapes -= shapes.mean(1, keepdims=True)
        shapes /= np.linalg.norm(shapes, axis=1, keepdims=True)
        cells = np.ix_(members, members)
        most[cells] = np.maximum(most[cells], shapes @ shapes.T)
    return most


def drawings(character: str) -> np.ndarray:
    """The images of a character, uint8 [IMAGES_PER_CLASS, PIXELS, PIXELS, 1]; its typefaces take turns."""
    rng = np.random.default_rng([_SEED, ord(character)])
    typefaces = rng.permutation(characters()[character])
    images = []
    for i in range(IMAGES_PER_CLASS):
        shape = _boxed(_ink(character, typefaces[i % len(typefaces)]))
        if rng.random() < 0.5:
            shape = shape.filter(ImageFilter.MaxFilter(3))
        images.append(np.asarray(_bent(shape, rng).reduce(_SCALE)))
    return np.stack(images)[..., None]


def _bent(shape: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned, sheared, stretched and moved at random, about the centre."""
    turn, shear, wide, high, right, down = rng.uniform(*_BENDING).tolist()
    # Where in `shape` the pixel (x, y) of the result comes from: (a x + b y + c, d x + e y + f).
    cos, sin, centre = math.cos(turn), math.sin(turn), _BOX / 2
    a, b = (cos + shear * sin) / wide, (sin - shear * cos) / wide
    d, e = -sin / high, cos / high
    c = centre - a * (centre + right) - b * (centre + down)
    f = centre - d * (centre + right) - e * (centre + down)
    return shape.transform(shape.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)


@functools.lru_cache(maxsize=64)
def _ink(character: str, typeface: str) -> Image.Image:
    """The ink of a character, its longer side scaled to _INK pixels."""
    mask = _mask(character, typeface)
    ink = Image.frombytes("L", mask.size, bytes(mask))
    ink = ink.crop(ink.getbbox())
    width, height = (max(1, round(side * _INK / max(ink.size))) for side in ink.size)
    return ink.resize((width, height), Image.Resampling.BILINEAR)


def _mask(character: str, typeface: str) -> Any:
    return _font(typeface).getmask(character, mode="L")


def _boxed(ink: Image.Image) -> Image.Image:
    box = Image.new("L", (_BOX, _BOX))
    box.paste(ink, ((_BOX - ink.width) // 2, (_BOX - ink.height) // 2))
    return box


def _path(typeface: str) -> pathlib.Path:
    return pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", f"{typeface}.ttf")


@functools.cache
def _font(typeface: str) -> ImageFont.FreeTypeFont:
    # The basic layout does not depend on what else is installed.
    return ImageFont.truetype(_path(typeface), _INK, layout_engine=ImageFont.Layout.BASIC)
