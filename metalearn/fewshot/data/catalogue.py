"""The data sets of the few-shot literature by name, and `load`, which finds and checks them on disk.

Class lists: mini-ImageNet, Ravi & Larochelle (2017); CIFAR-FS, Bertinetto et al. (2019); FC-100, Oreshkin et al.
(2018); Omniglot (Lake et al. 2015), the split of Vinyals et al. (2016) as Snell et al. (2017) use it. Those of
tiered-ImageNet (Ren et al. 2018) are checked by their numbers.
"""

import csv
import functools
import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from metalearn.fewshot.data import layouts
from metalearn.fewshot.data.files import IMAGE_SUFFIXES
from metalearn.fewshot.data.glyphs import glyphs
from metalearn.fewshot.data.layouts import Layout, Pictures, each_split
from metalearn.fewshot.data.storage import SPLITS, DataError, Source, Splits, cached


class Dataset(NamedTuple):
    """A data set that people have on disk.

    name: as `load` takes it.
    pictures: what all its images have in common.
    layouts: the ways in which it is known to lie on disk.
    where: a sentence that says where to get it.
    counts: published number of classes and of images, by split; empty: anything goes.
    """

    name: str
    pictures: Pictures
    layouts: tuple[Layout, ...]
    where: str
    counts: Mapping[str, tuple[int, int]] = {}


@functools.cache
def published_classes(dataset: str) -> Mapping[str, tuple[str, ...]]:
    """The classes of each split as published; empty for a data set without a list here."""
    table = importlib.resources.files("metalearn.fewshot.data").joinpath("published_classes.csv").read_text()
    rows = [row for row in csv.DictReader(table.splitlines()) if row["dataset"] == dataset]
    names = {split: tuple(row["class"] for row in rows if row["split"] == split) for split in SPLITS}
    return MappingProxyType(names if rows else {})


_CLASS_FOLDERS = Layout(each_split("{}/", "{}.tar", "{}.zip"), layouts.read_class_folders)
_LABELS = each_split("{}_labels.pkl", role="{} labels")


def _cifar(name: str, stem: str, classes: tuple[int, int, int]) -> Dataset:
    strips = {str(i): (f"cifar100_train{i}.npz",) for i in range(4)} | {"test": ("cifar100_test.npz",)}
    return Dataset(
        name,
        Pictures(32, 3, classes=published_classes(name)),
        (
            Layout(each_split(stem + "_{}.pickle"), layouts.read_labelled_pickles),
            Layout({"data": ("data/",)} | each_split("splits/bertinetto/{}.txt"), layouts.read_folders_with_lists),
            Layout({"data": ("data.hdf5",)}, layouts.read_hdf5_by_superclass),
            Layout({part: (part,) for part in ("train", "test", "meta")}, layouts.read_cifar_batches),
            Layout(strips, layouts.read_cifar_strips),
            _CLASS_FOLDERS,
        ),
        "the Python version of CIFAR-100 from https://www.cs.toronto.edu/~kriz/cifar.html, unpacked, will do",
        {split: (count, 600 * count) for split, count in zip(SPLITS, classes, strict=True)},
    )


_PUBLISHED = (
    Dataset(
        "mini-imagenet",
        Pictures(84, 3, classes=published_classes("mini-imagenet")),
        (
            Layout(each_split("mini-imagenet-cache-{}.pkl"), layouts.read_class_dict_pickles),
            Layout(
                {
                    "train": ("miniImageNet_category_split_train_phase_train.pickle",),
                    "validation": ("miniImageNet_category_split_val.pickle",),
                    "test": ("miniImageNet_category_split_test.pickle",),
                },
                layouts.read_labelled_pickles,
            ),
            Layout(each_split("{}_data.hdf5"), layouts.read_hdf5_per_split),
            Layout({"images": ("images/",)} | each_split("{}.csv"), layouts.read_tables_of_files),
            _CLASS_FOLDERS,
        ),
        "mini-imagenet.tar.gz is linked from https://github.com/renmengye/few-shot-ssl-public",
        {"train": (64, 38_400), "validation": (16, 9_600), "test": (20, 12_000)},
    ),
    Dataset(
        "tiered-imagenet",
        Pictures(84, 3),
        (
            Layout(each_split("{}_images_png.pkl") | _LABELS, layouts.read_png_pickles),
            Layout(each_split("{}_images.npz") | _LABELS, layouts.read_npz_with_labels),
            Layout(each_split("{}_data.hdf5"), layouts.read_hdf5_per_split),
            _CLASS_FOLDERS,
        ),
        "tiered-imagenet.tar is linked from https://github.com/renmengye/few-shot-ssl-public",
        {"train": (351, 448_695), "validation": (97, 124_261), "test": (160, 206_209)},
    ),
    _cifar("cifar-fs", "CIFAR_FS", (64, 16, 20)),
    _cifar("fc100", "FC100", (60, 20, 20)),
    Dataset(
        "omniglot",
        Pictures(28, 1, invert=True, classes=published_classes("omniglot")),
        (
            Layout(
                {
                    part: tuple(f"{folder}images_{part}{end}" for folder in ("", "python/") for end in ("/", ".zip"))
                    for part in ("background", "evaluation")
                },
                layouts.read_pooled_folders,
            ),
            Layout({"images": ("omniglot_28.npz",)}, layouts.read_omniglot_array),
            _CLASS_FOLDERS,
        ),
        "images_background.zip and images_evaluation.zip are in https://github.com/brendenlake/omniglot, folder python",
        {"train": (1028, 20_560), "validation": (172, 3_440), "test": (423, 8_460)},
    ),
    Dataset(
        "folders", Pictures(), (_CLASS_FOLDERS,), "your own pictures: a folder per split, in it a folder per class"
    ),
)

DATASETS: Mapping[str, Dataset] = MappingProxyType({dataset.name: dataset for dataset in _PUBLISHED})
"""What `load` finds on disk, by name. "glyphs", which needs no files, is known to `load` besides."""


def load(
    path: str | os.PathLike[str] | None,
    dataset: str | Dataset,
    *,
    size: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Splits:
    """A data set from disk, checked, converted once and memory-mapped from then on.

    Any layout that is in common use is recognised, in `path` or in a folder in it. Nothing is downloaded, and no code
    in a pickle is run.

    Args:
        path: the folder with the files as they were downloaded; None for "glyphs".
        dataset: "glyphs", "mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100", "omniglot", or "folders" for your
            own pictures, as path/train/CLASS/picture.png, and validation and test likewise; or a `Dataset`.
        size: pixels on a side to resample your own pictures to; None: they must be of one size.
        cache: where to keep the converted files; None: `metalearn/data` in the user's cache folder. They take
            height x width x channels bytes an image: 16 GB for tiered-ImageNet, at most 1.3 GB for the others.

    Returns:
        Splits of uint8 images [images, height, width, channels], class after class; ink is bright in Omniglot and
        Glyphs.

    Raises:
        ValueError: a data set, folder or layout that is not known; files that are missing, damaged or not what their
            names say; classes, numbers or sizes of images that are not as published; splits that share classes or
            images. The message (of a `DataError`) names the file, what was expected and found, and where to get it.
        ImportError: HDF5 files without h5py.
    """
    if isinstance(dataset, str):
        if dataset == "glyphs":
            if path is not None or size is not None:
                raise DataError(f"glyphs are drawn from fonts: expected no path and no size, got {path} and {size}")
            return glyphs(cache)
        if dataset not in DATASETS:
            raise DataError(f"unknown data set {dataset!r}: expected one of glyphs, {', '.join(DATASETS)}")
        dataset = DATASETS[dataset]
    if size is not None:
        if dataset.pictures.size is not None or size < 1:
            raise DataError(f"size={size}: sizes from 1 are for your own pictures; {dataset.name} has its own")
        dataset = dataset._replace(pictures=dataset.pictures._replace(size=size))
    if path is None:
        raise DataError(f"{dataset.name} needs path=, the folder with its files; {dataset.where}")
    folder = pathlib.Path(path)
    if not folder.is_dir():
        what = "is a file: give the folder that holds it" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; expected the folder of {dataset.name}: {dataset.where}")
    layout, files = _recognised(folder, dataset)
    identity = json.dumps([dataset.pictures.size, _fingerprint(files)])
    return cached(dataset.name, identity, cache, lambda: _checked(layout.read(files, dataset.pictures), dataset))


def _recognised(folder: pathlib.Path, dataset: Dataset) -> tuple[Layout, Mapping[str, pathlib.Path]]:
    nearest = ""
    for place in (folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())):
        for layout in dataset.layouts:
            files = layouts.found_files(place, layout)
            if len(files) == len(layout.files):
                return layout, files
            if files:
                missing = " and ".join(names[0] for role, names in layout.files.items() if role not in files)
                nearest = nearest or f" Found {', '.join(sorted(map(str, files.values())))}, but no {missing}."
    entries = sorted(entry.name for entry in folder.iterdir())
    if any("bookkeeping" in name for name in entries):
        nearest += " The bookkeeping files hold the labels of images, but no images."
    expected = "; or ".join(", ".join(names[0] for names in layout.files.values()) for layout in dataset.layouts)
    raise DataError(
        f"{folder}: no known layout of {dataset.name}.{nearest} Expected {expected}. Found "
        f"{', '.join(entries[:8]) or 'nothing'}{' ...' if len(entries) > 8 else ''}. To get it: {dataset.where}"
    )


def _fingerprint(files: Mapping[str, pathlib.Path]) -> list[list]:
    """Path, size and time of change of everything but pictures, of which adding or removing one changes the folder."""
    seen = []
    for place in files.values():
        paths = [place]
        for folder, _, names in os.walk(place):
            paths.append(pathlib.Path(folder))
            paths += [pathlib.Path(folder, name) for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
        seen += [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(set(paths))]
    return seen


def _checked(sources: Mapping[str, Source], dataset: Dataset) -> Mapping[str, Source]:
    """The sources, if they have the classes and numbers of images that were published."""
    known = {name for names in dataset.pictures.classes.values() for name in names}
    for split, (classes, images) in dataset.counts.items():
        source = sources[split]
        found, total = len(source.classes), sum(source.counts)
        problem = ""
        # Some layouts number the classes, or spell them their own way.
        if known & set(source.classes):
            missing = sorted(set(dataset.pictures.classes[split]) - set(source.classes))
            strange = sorted(set(source.classes) - set(dataset.pictures.classes[split]))
            if missing or strange:
                problem = f" Missing classes: {missing[:5] or 'none'}; not of this split: {strange[:5] or 'none'}."
        if problem or (found, total) != (classes, images):
            raise DataError(
                f"{source.origin}: the {split} split of {dataset.name} has {classes} classes and {images} images, but "
                f"found {found} and {total}.{problem} To get it: {dataset.where}; or load part of it as 'folders'"
            )
    return sources
