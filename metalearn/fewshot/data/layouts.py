"""How few-shot data sets lie on people's disks: which files a layout consists of, and how to read them.

A reader gets the files of a layout by role and returns a `Source` per split. Pictures are decoded, and arrays copied,
one class at a time when the source is read.
"""

import csv
import functools
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metalearn.fewshot.data.files import damaged, image_files, open_hdf5, picture, refuse_web_page, unpickle
from metalearn.fewshot.data.storage import SPLITS, DataError, Source

Files = Mapping[str, pathlib.Path]  # by role: a split, or whatever else a layout needs
Members = dict[str, dict[str, Callable[[], bytes]]]  # class -> name of a picture, for errors -> function that reads it
Pool = Mapping[str, tuple[int, Callable[[], np.ndarray]]]  # class -> number of images, function that gives them

# What people call the splits.
_ALIASES = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


class Pictures(NamedTuple):
    """What every image of a data set has in common.

    size: pixels on a side; pictures of another size are resampled to it. None: all must have that of the first.
    channels: 1 or 3; pictures are converted. None: all must have those of the first.
    invert: whether ink is dark in the files (stored images have bright ink).
    classes: the published classes by split, for layouts that leave the split to the reader; empty where there are none.
    like: name and shape of a picture that all must resemble.
    """

    size: int | None = None
    channels: int | None = None
    invert: bool = False
    classes: Mapping[str, tuple[str, ...]] = {}
    like: tuple[str, tuple[int, ...]] | None = None


class Layout(NamedTuple):
    """One way in which a data set lies on disk.

    files: role -> accepted names, relative to the folder, any case; a name that ends in "/" is a folder.
    read(files, pictures) -> the source of each split.
    """

    files: Mapping[str, tuple[str, ...]]
    read: Callable[[Files, Pictures], Mapping[str, Source]]


def each_split(*patterns: str, role: str = "{}") -> dict[str, tuple[str, ...]]:
    """One role per split, with the patterns filled with every name that the split goes by."""
    return {
        role.format(split): tuple(pattern.format(alias) for pattern in patterns for alias in _ALIASES[split])
        for split in SPLITS
    }


def found_files(folder: pathlib.Path, layout: Layout) -> dict[str, pathlib.Path]:
    """The files of the layout that are there, by role."""
    found = {}
    for role, names in layout.files.items():
        places = (_entry(folder, name) for name in names)
        place = next((place for place in places if place is not None), None)
        if place is not None:
            found[role] = place
    return found


def _entry(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    place: pathlib.Path | None = folder
    for part in name.rstrip("/").lower().split("/"):
        if place is None or not place.is_dir():
            return None
        place = next((entry for entry in sorted(place.iterdir()) if entry.name.lower() == part), None)
    return place if place is not None and place.is_dir() == name.endswith("/") else None


# Readers of arrays.


def read_class_dict_pickles(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """A dict of `image_data` [n, height, width, channels] and `class_dict` {class: rows}."""
    sources = {}
    for split in SPLITS:
        content = _dict_of(files[split], "image_data", "class_dict")
        images = _pixels(content["image_data"], files[split], pictures)
        rows = {str(name): np.asarray(rows, int) for name, rows in content["class_dict"].items()}
        sources[split] = _of_rows(images, rows, files[split])
    return sources


def read_labelled_pickles(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """A dict of `data` [n, height, width, channels] and `labels` [n], often with `catname2label` {class: label}."""
    sources = {}
    for split in SPLITS:
        content = _dict_of(files[split], "data", "labels")
        names = {label: str(name) for name, label in content.get("catname2label", {}).items()}
        images = _pixels(content["data"], files[split], pictures)
        sources[split] = _of_rows(
            images, _rows(content["labels"], len(images), names, split, files[split]), files[split]
        )
    return sources


def read_npz_with_labels(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """An npz with `images` [n, height, width, channels], and a pickle with the labels."""
    sources = {}
    for split in SPLITS:
        images = _pixels(_mapped_from_npz(files[split], "images"), files[split], pictures)
        sources[split] = _of_rows(images, _labels(files[f"{split} labels"], len(images), split), files[split])
    return sources


def read_png_pickles(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """A list of the bytes of pictures, and a pickle with the labels."""
    sources = {}
    for split in SPLITS:
        path = files[split]
        encoded = unpickle(path)
        if not isinstance(encoded, list | np.ndarray) or not len(encoded):
            raise DataError(f"{path}: expected a list of encoded pictures, found {type(encoded).__name__}")
        members: Members = {
            name: {f"{path}, picture {row}": functools.partial(_encoded, encoded, row) for row in rows.tolist()}
            for name, rows in _labels(files[f"{split} labels"], len(encoded), split).items()
        }
        sources[split] = _of_pool(_picture_pool(members, pictures), path)
    return sources


def _encoded(pictures: Any, row: int) -> bytes:
    return np.asarray(pictures[row], np.uint8).tobytes()


def read_hdf5_per_split(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """A group `datasets` with one array per class: images, or the bytes of pictures."""
    sources = {}
    for split in SPLITS:
        with damaged(files[split], "an HDF5 file with a group `datasets` of one array a class"):
            pool = _hdf5_pool(open_hdf5(files[split])["datasets"], files[split], pictures)
        sources[split] = _of_pool(pool, files[split])
    return sources


def read_hdf5_by_superclass(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """Groups of superclasses with one array of images per class."""
    path = files["data"]
    with damaged(path, "an HDF5 file with one group a superclass"):
        groups = list(open_hdf5(path).values())
        pool = {name: entry for group in groups for name, entry in _hdf5_pool(group, path, pictures).items()}
    return _by_published_split(pool, path, pictures)


def read_cifar_batches(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """The official Python version of CIFAR-100: training and test images, and a file with the names."""
    names = [str(name) for name in _dict_of(files["meta"], "fine_label_names")["fine_label_names"]]
    parts = [(files[part], _dict_of(files[part], "data", "fine_labels")) for part in ("train", "test")]
    for path, content in parts:
        data, labels = np.asarray(content["data"]), np.asarray(content["fine_labels"])
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * 32 * 32 or labels.shape != data.shape[:1]:
            raise DataError(
                f"{path}: expected `data` uint8 [n, 3072] and n labels, found {data.shape} and {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= len(names):
            raise DataError(f"{path}: labels up to {labels.max()}, but {files['meta']} names {len(names)} classes")
    images = np.concatenate([content["data"] for _, content in parts])
    images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.concatenate([content["fine_labels"] for _, content in parts])
    pool = {}
    for label, name in enumerate(names):
        rows = np.flatnonzero(labels == label)
        pool[name] = (len(rows), lambda rows=rows: images[rows])
    return _by_published_split(pool, files["train"].parent, pictures)


def read_cifar_strips(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """CIFAR-100 in parts, each with one lossless picture per class that stacks its images: `webp` and `offsets`."""
    names = sorted(name for split in SPLITS for name in pictures.classes[split])
    strips: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for role in files:
        with damaged(files[role], "an npz with `webp` and `offsets`"), np.load(files[role]) as part:
            data, offsets = part["webp"], part["offsets"]
            for name, start, stop in zip(names, offsets[:-1], offsets[1:], strict=True):
                strip = picture(data[start:stop].tobytes(), f"{files[role]}, {name}", channels=3)
                strips[name].append(strip.reshape(-1, 32, 32, 3))
    joined = {name: np.concatenate(parts) for name, parts in strips.items()}
    pool = {name: (len(images), lambda images=images: images) for name, images in joined.items()}
    return _by_published_split(pool, files["test"].parent, pictures)


def read_omniglot_array(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """One npz: `images` [n, 28, 28], 20 a class, bright ink, with tables of alphabets and characters."""
    path = files["images"]
    with damaged(path, "an npz of Omniglot with `images`, `alphabets`, `class_alphabet` and `class_character`"):
        with np.load(path) as stored:
            images = _pixels(stored["images"][..., None], path, pictures)
            alphabets = stored["alphabets"][stored["class_alphabet"]]
            names = [f"{one}/{other}" for one, other in zip(alphabets, stored["class_character"], strict=True)]
        each = len(images) // len(names)
    pool = {name: (each, lambda i=i: images[i * each : (i + 1) * each]) for i, name in enumerate(names)}
    return _by_published_split(pool, path, pictures)


# Readers of pictures.


def read_class_folders(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """A folder or archive per split, in it a folder per class."""
    members = {split: _by_folder(files[split]) for split in SPLITS}
    if pictures.like is None:
        name, read = next(iter(next(iter(members["train"].values())).items()))
        pictures = pictures._replace(like=(name, picture(read(), name, pictures.size, pictures.channels).shape))
    return {split: _of_pool(_picture_pool(members[split], pictures), files[split]) for split in SPLITS}


def read_pooled_folders(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """Folders or archives in which all classes lie together, whatever their split; the published split sorts them."""
    members = {name: content for place in files.values() for name, content in _by_folder(place).items()}
    return _by_published_split(_picture_pool(members, pictures), next(iter(files.values())).parent, pictures)


def read_folders_with_lists(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """A folder per class, and a text file per split with the name of a class a line."""
    pool = _picture_pool(_by_folder(files["data"]), pictures)
    return {split: _chosen(pool, files[split].read_text().split(), files["data"], files[split]) for split in SPLITS}


def read_tables_of_files(files: Files, pictures: Pictures) -> Mapping[str, Source]:
    """A folder of pictures, and a CSV per split with the columns `filename` and `label`."""
    sources = {}
    for split in SPLITS:
        refuse_web_page(files[split])
        members: Members = {}
        with open(files[split], newline="") as file:
            table = csv.DictReader(file)
            if not {"filename", "label"} <= set(table.fieldnames or ()):
                raise DataError(f"{files[split]}: expected columns filename, label; found {table.fieldnames}")
            for row in table:
                path = files["images"] / row["filename"]
                members.setdefault(row["label"], {})[str(path)] = path.read_bytes
        sources[split] = _of_pool(_picture_pool(members, pictures), files[split])
    return sources


def _by_folder(place: pathlib.Path) -> Members:
    """The pictures of each class; the class is the path of the folder that a picture is in."""
    members: Members = {}
    for name, read in sorted(image_files(place).items()):
        folder, _, file = name.rpartition("/")
        if not folder:
            raise DataError(f"{place}: {file} is in no class; expected a folder per class, with its pictures in it")
        members.setdefault(folder, {})[f"{place}: {name}"] = read
    if not members:
        raise DataError(f"{place}: expected a folder per class, with its pictures in it, but found no pictures")
    return members


def _picture_pool(members: Members, pictures: Pictures) -> Pool:
    return {name: (len(files), functools.partial(_decoded, files, pictures)) for name, files in members.items()}


def _decoded(files: Mapping[str, Callable[[], bytes]], pictures: Pictures) -> np.ndarray:
    images = []
    for name, read in files.items():
        try:
            content = read()
        except OSError as error:
            raise DataError(f"{name}: this picture is missing or cannot be read ({error.strerror})") from error
        image = picture(content, name, pictures.size, pictures.channels)
        if pictures.like is not None and image.shape != pictures.like[1]:
            raise DataError(
                f"{name} is {_shape_in_words(image.shape)}, but {pictures.like[0]} is "
                f"{_shape_in_words(pictures.like[1])}; all images must be alike: convert them, and give size=... to "
                "have them resampled"
            )
        images.append(255 - image if pictures.invert else image)
    return np.stack(images)


def _shape_in_words(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]} pixels in {'grey' if shape[2] == 1 else 'colour'}"


# From what was read to sources.


def _of_pool(pool: Pool, origin: pathlib.Path) -> Source:
    names = list(pool)
    return Source(names, [pool[name][0] for name in names], lambda i: pool[names[i]][1](), str(origin))


def _of_rows(images: np.ndarray, rows: Mapping[str, np.ndarray], origin: pathlib.Path) -> Source:
    for name, members in rows.items():
        if len(members) and not 0 <= members.min() <= members.max() < len(images):
            raise DataError(f"{origin}: class {name!r} asks for image {members.max()} of {len(images)}")
    taken = {name: (len(members), functools.partial(np.take, images, members, 0)) for name, members in rows.items()}
    return _of_pool(taken, origin)


def _chosen(pool: Pool, names: Sequence[str], origin: pathlib.Path, asked: pathlib.Path | str) -> Source:
    missing = [name for name in names if name not in pool]
    if missing:
        raise DataError(
            f"{origin}: {len(missing)} of the {len(names)} classes of {asked} are missing, such as {missing[0]!r}; "
            f"found {len(pool)} classes, such as {next(iter(pool), None)!r}"
        )
    return _of_pool({name: pool[name] for name in names}, origin)


def _by_published_split(pool: Pool, origin: pathlib.Path, pictures: Pictures) -> Mapping[str, Source]:
    return {split: _chosen(pool, pictures.classes[split], origin, f"the published {split} split") for split in SPLITS}


# Arrays and labels.


def _text_keys(content: Any) -> Any:
    """A dict with texts as keys, which Python 3 may have stored as bytes; anything else as it is."""
    if not isinstance(content, dict):
        return content
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}


def _dict_of(path: pathlib.Path, *keys: str) -> dict[str, Any]:
    """The dict in a pickle, which must have these keys."""
    content = _text_keys(unpickle(path))
    if isinstance(content, dict) and set(keys) <= set(content):
        return content
    found = f"a dict of {sorted(map(str, content))[:8]}" if isinstance(content, dict) else f"a {type(content).__name__}"
    raise DataError(f"{path}: expected a dict with {', '.join(keys)}; found {found}")


def _pixels(images: Any, path: pathlib.Path, pictures: Pictures) -> np.ndarray:
    shape = (pictures.size, pictures.size, pictures.channels)
    images = np.asanyarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        raise DataError(f"{path}: expected uint8 images of shape (n, *{shape}), found {images.dtype} {images.shape}")
    return images


def _labels(path: pathlib.Path, images: int, split: str) -> dict[str, np.ndarray]:
    """Rows of each class from the labels of tiered-ImageNet, an array or a dict in one of two dialects."""
    content = _text_keys(unpickle(path))
    names: dict[int, str] = {}
    if isinstance(content, dict):
        names = dict(enumerate(map(str, content.get("label_specific_str", ()))))
        key = next((key for key in ("label_specific", "labels") if key in content), None)
        if key is None:
            raise DataError(f"{path}: expected a dict with label_specific or labels; found {sorted(content)[:8]}")
        content = content[key]
    return _rows(content, images, names, split, path)


def _rows(labels: Any, images: int, names: Mapping[int, str], split: str, path: pathlib.Path) -> dict[str, np.ndarray]:
    labels = np.asarray(labels)
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: expected {images} integers as labels, one an image; found {labels.dtype} {labels.shape}"
        )
    # Numbers may start at 0 in every split, so the split is part of the name.
    return {
        names.get(label, f"{split} {label:03d}"): np.flatnonzero(labels == label)
        for label in np.unique(labels).tolist()
    }


def _hdf5_pool(group: Any, path: pathlib.Path, pictures: Pictures) -> dict[str, tuple[int, Callable[[], np.ndarray]]]:
    def read(name):
        with damaged(path, f"images of class {name!r}"):
            content = group[name][()]
        if content.dtype == np.uint8:
            return _pixels(content, path, pictures)
        encoded = {f"{path}, {name}, picture {i}": bytes_of.tobytes for i, bytes_of in enumerate(content)}
        return _decoded(encoded, pictures)

    return {name: (len(content), functools.partial(read, name)) for name, content in group.items()}


def _mapped_from_npz(path: pathlib.Path, key: str) -> np.ndarray:
    """One array of an npz; mapped from disk where it is stored uncompressed, as `np.savez` does."""
    refuse_web_page(path)
    with damaged(path, f"an npz file with an array {key!r}"), zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{key}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            with np.load(path) as stored:
                return stored[key]
        with archive.open(member) as file:
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = read[np.lib.format.read_magic(file)](file)
            header = file.tell()
        with open(path, "rb") as raw:
            raw.seek(member.header_offset + 26)
            name, extra = np.frombuffer(raw.read(4), "<u2").tolist()
        start = member.header_offset + 30 + name + extra + header
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
