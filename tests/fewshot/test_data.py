"""Every layout of small made-up data sets gives the same images back; every damaged file is named and explained."""

import io
import json
import os
import pathlib
import pickle
import struct
import tarfile
import tempfile
import zipfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from metalearn.fewshot.data import DATASETS, DataError, load
from metalearn.fewshot.data.catalogue import published_classes
from metalearn.fewshot.data.storage import SPLITS

EACH = 5  # images of a class
ALIAS = {"train": "train", "validation": "val", "test": "test"}


def tiny(name: str, size: int, classes: dict[str, tuple[str, ...]]):
    """A data set with the layouts of the real one, but few classes and images."""
    real = DATASETS[name]
    counts = {split: (len(classes[split]), EACH * len(classes[split])) for split in SPLITS}
    return real._replace(pictures=real.pictures._replace(size=size, classes=classes), counts=counts)


def world(classes: dict[str, tuple[str, ...]], size: int, channels: int) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shape = (EACH, size, size, channels)
    return {split: {name: rng.integers(0, 256, shape, np.uint8) for name in classes[split]} for split in SPLITS}


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, kind, lossless=True)
    return stream.getvalue()


class Python2(pickle._Pickler):
    """Writes what Python 2 wrote: texts and bytes as raw strings, flags as integers, NumPy's modules by old names."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_text(self, text):
        raw = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    def save_flag(self, flag):
        self.write(b"K\x01" if flag else b"K\x00")

    dispatch[str] = dispatch[bytes] = save_text
    dispatch[bool] = save_flag


def python2(content) -> bytes:
    stream = io.BytesIO()
    Python2(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


def put(folder: pathlib.Path, name: str, content: bytes | str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def flat(classes: dict[str, np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Images in mixed order, and the position of the class of each."""
    names = list(classes)
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(names)), EACH))
    seen = [0] * len(names)
    images = []
    for label in labels:
        images.append(classes[names[label]][seen[label]])
        seen[label] += 1
    return np.stack(images), labels.tolist()


MINI = {"train": ("n03", "n01", "n02"), "validation": ("n05", "n04"), "test": ("n06", "n07")}
CIFAR = {"train": ("bee", "apple", "sea"), "validation": ("crab", "lamp"), "test": ("bed", "man")}
OMNIGLOT = {
    "train": ("Greek/character01", "Greek/character02", "ULOG/character01"),
    "validation": ("Greek/character03", "Latin/character01"),
    "test": ("ULOG/character02", "Latin/character02"),
}


# One function a layout: writes `data` below `folder`.


def class_dict_pickles(folder, data, dump=pickle.dumps, validation="val"):
    for split, classes in data.items():
        images, labels = flat(classes)
        rows = {name: np.flatnonzero(np.array(labels) == i).tolist() for i, name in enumerate(classes)}
        name = f"mini-imagenet-cache-{validation if split == 'validation' else split}.pkl"
        put(folder, name, dump({"image_data": images, "class_dict": rows}))


def class_dict_pickles_of_python_2(folder, data):
    class_dict_pickles(folder, data, python2, "validation")


def category_pickles(folder, data):
    ends = {"train": "train_phase_train", "validation": "val", "test": "test"}
    first = 0
    for split, classes in data.items():
        images, labels = flat(classes)
        labels = [label + first for label in labels]
        names = {name: first + i for i, name in enumerate(classes)}
        content = {"data": images, "labels": labels, "catname2label": names}
        put(folder, f"miniImageNet_category_split_{ends[split]}.pickle", python2(content))
        first += len(classes)


def hdf5(folder, data):
    import h5py

    for split, classes in data.items():
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"{ALIAS[split]}_data.hdf5", "w") as file:
            for name, images in classes.items():
                file[f"datasets/{name}"] = images


def csv_and_pictures(folder, data):
    for split, classes in data.items():
        lines = ["filename,label"]
        for name, images in classes.items():
            for i, image in enumerate(images):
                put(folder, f"images/{name}{i:04d}.jpg", encoded(image))
                lines.append(f"{name}{i:04d}.jpg,{name}")
        put(folder, f"{ALIAS[split]}.csv", "\n".join(lines) + "\n")


def class_folders(folder, data):
    for split, classes in data.items():
        for name, images in classes.items():
            for i, image in enumerate(images):
                put(folder, f"{ALIAS[split]}/{name}/{i}.png", encoded(image))
        put(folder, f"{ALIAS[split]}/.DS_Store", b"no picture")


def class_folders_in_a_subfolder(folder, data):
    class_folders(folder / "mini-imagenet", data)


def class_archives(folder, data):
    for split, classes in data.items():
        files = {
            f"{ALIAS[split]}/{name}/{i}.png": encoded(image)
            for name, images in classes.items()
            for i, image in enumerate(images)
        }
        folder.mkdir(parents=True, exist_ok=True)
        if split == "test":
            with zipfile.ZipFile(folder / "test.zip", "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
            continue
        with tarfile.open(folder / f"{ALIAS[split]}.tar", "w") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def png_pickles(folder, data):
    for split, classes in data.items():
        images, labels = flat(classes)
        pictures = [np.frombuffer(encoded(image), np.uint8)[:, None] for image in images]
        put(folder, f"{ALIAS[split]}_images_png.pkl", pickle.dumps(pictures))
        content = {"label_specific": np.array(labels), "label_specific_str": list(classes)}
        put(folder, f"{ALIAS[split]}_labels.pkl", python2(content))


def npz_and_labels(folder, data, save=np.savez):
    for split, classes in data.items():
        images, labels = flat(classes)
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / f"{ALIAS[split]}_images.npz", images=images)
        content = {"labels": labels, "label_specific_str": list(classes)}
        put(folder, f"{ALIAS[split]}_labels.pkl", pickle.dumps(content))


def compressed_npz_and_labels(folder, data):
    npz_and_labels(folder, data, np.savez_compressed)


def hdf5_of_png(folder, data):
    import h5py

    for split, classes in data.items():
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"{ALIAS[split]}_data.hdf5", "w") as file:
            for name, images in classes.items():
                stored = file.create_dataset(f"datasets/{name}", (EACH,), h5py.vlen_dtype(np.uint8))
                for i, image in enumerate(images):
                    stored[i] = np.frombuffer(encoded(image), np.uint8)


def labelled_pickles(folder, data):
    for split, classes in data.items():
        images, labels = flat(classes)
        names = {name: i for i, name in enumerate(classes)}
        content = {b"data": images, b"labels": labels, b"catname2label": names}
        put(folder, f"cifar_fs_{ALIAS[split]}.pickle", pickle.dumps(content))


def folders_with_lists(folder, data):
    for split, classes in data.items():
        put(folder, f"cifar100/splits/bertinetto/{ALIAS[split]}.txt", "".join(f"{name}\n" for name in classes))
        for name, images in classes.items():
            for i, image in enumerate(images):
                put(folder, f"cifar100/data/{name}/{i}.png", encoded(image))


def hdf5_by_superclass(folder, data):
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "data.hdf5", "w") as file:
        for i, classes in enumerate(data.values()):
            for j, (name, images) in enumerate(classes.items()):
                file[f"super{(i + j) % 2}/{name}"] = images


def official_cifar(folder, data):
    everything = {name: images for classes in data.values() for name, images in classes.items()}
    names = sorted(everything)
    for part, chosen in (("train", slice(0, 4)), ("test", slice(4, EACH))):
        images = np.concatenate([everything[name][chosen] for name in names])
        labels = np.repeat(np.arange(len(names)), len(images) // len(names)).tolist()
        content = {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), "fine_labels": labels}
        put(folder, f"cifar-100-python/{part}", python2(content))
    put(folder, "cifar-100-python/meta", python2({"fine_label_names": names}))


def cifar_strips(folder, data):
    everything = {name: images for classes in data.values() for name, images in classes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(("train0", "train1", "train2", "train3", "test")):
        strips = [encoded(everything[name][i], "WEBP") for name in sorted(everything)]
        offsets = np.cumsum([0, *map(len, strips)])
        np.savez(folder / f"cifar100_{part}.npz", webp=np.frombuffer(b"".join(strips), np.uint8), offsets=offsets)


def omniglot_zips(folder, data, place=None):
    folder.mkdir(parents=True, exist_ok=True)
    everything = {name: images for classes in data.values() for name, images in classes.items()}
    for part, alphabets in (("background", ("Greek", "Latin")), ("evaluation", ("ULOG",))):
        with zipfile.ZipFile(folder / f"images_{part}.zip", "w") as archive:
            for name, images in everything.items():
                if name.startswith(alphabets):
                    for i, image in enumerate(images):
                        archive.writestr(f"images_{part}/{name}/0001_{i:02d}.png", encoded(255 - image))
                        archive.writestr(f"__MACOSX/images_{part}/{name}/._0001_{i:02d}.png", b"")


def omniglot_folders(folder, data):
    omniglot_zips(folder / "zips", data)
    for part in ("background", "evaluation"):
        with zipfile.ZipFile(folder / "zips" / f"images_{part}.zip") as archive:
            archive.extractall(folder / "python")
    for part in (folder / "zips").iterdir():
        part.unlink()


def omniglot_array(folder, data):
    folder.mkdir(parents=True, exist_ok=True)
    everything = {name: images for classes in data.values() for name, images in classes.items()}
    names = sorted(everything)
    alphabets = sorted({name.split("/")[0] for name in names})
    np.savez(
        folder / "omniglot_28.npz",
        images=np.concatenate([everything[name][..., 0] for name in names]),
        alphabets=np.array(alphabets),
        class_alphabet=np.array([alphabets.index(name.split("/")[0]) for name in names], np.uint8),
        class_character=np.array([name.split("/")[1] for name in names]),
    )


def split_folders_of_omniglot(folder, data):
    class_folders(folder, {split: {name: 255 - x for name, x in classes.items()} for split, classes in data.items()})


LAYOUTS = [
    ("mini-imagenet", MINI, 8, 3, class_dict_pickles),
    ("mini-imagenet", MINI, 8, 3, class_dict_pickles_of_python_2),
    ("mini-imagenet", MINI, 8, 3, category_pickles),
    ("mini-imagenet", MINI, 8, 3, hdf5),
    ("mini-imagenet", MINI, 8, 3, csv_and_pictures),
    ("mini-imagenet", MINI, 8, 3, class_folders),
    ("mini-imagenet", MINI, 8, 3, class_folders_in_a_subfolder),
    ("mini-imagenet", MINI, 8, 3, class_archives),
    ("tiered-imagenet", MINI, 8, 3, png_pickles),
    ("tiered-imagenet", MINI, 8, 3, npz_and_labels),
    ("tiered-imagenet", MINI, 8, 3, compressed_npz_and_labels),
    ("tiered-imagenet", MINI, 8, 3, hdf5_of_png),
    ("tiered-imagenet", MINI, 8, 3, class_folders),
    ("cifar-fs", CIFAR, 32, 3, labelled_pickles),
    ("cifar-fs", CIFAR, 32, 3, folders_with_lists),
    ("cifar-fs", CIFAR, 32, 3, hdf5_by_superclass),
    ("cifar-fs", CIFAR, 32, 3, official_cifar),
    ("cifar-fs", CIFAR, 32, 3, cifar_strips),
    ("fc100", CIFAR, 32, 3, official_cifar),
    ("fc100", CIFAR, 32, 3, hdf5_by_superclass),
    ("omniglot", OMNIGLOT, 8, 1, omniglot_zips),
    ("omniglot", OMNIGLOT, 8, 1, omniglot_folders),
    ("omniglot", OMNIGLOT, 8, 1, omniglot_array),
    ("omniglot", OMNIGLOT, 8, 1, split_folders_of_omniglot),
]


class FolderCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name, "data")
        self.cache = pathlib.Path(folder.name, "cache")
        self.folder.mkdir()

    def load(self, dataset, **arguments):
        return load(self.folder, dataset, cache=self.cache, **arguments)

    def assertRefused(self, dataset, *words, **arguments):
        with self.assertRaises(DataError) as caught:
            self.load(dataset, **arguments)
        for word in words:
            self.assertIn(word, str(caught.exception))
        self.assertEqual([] if not self.cache.exists() else os.listdir(self.cache), [])


class LayoutsTest(FolderCase):
    @parameterized.parameters(*LAYOUTS)
    def test_a_layout_gives_the_images_sorted_by_class(self, name, classes, size, channels, write):
        if "hdf5" in write.__name__:
            pytest.importorskip("h5py")
        data = world(classes, size, channels)
        write(self.folder, data)
        splits = self.load(tiny(name, size, classes))
        for split, loaded in zip(SPLITS, splits, strict=True):
            names = sorted(classes[split])
            self.assertEqual(loaded.classes, tuple(names))
            self.assertEqual(loaded.offsets.tolist(), [EACH * i for i in range(len(names) + 1)])
            np.testing.assert_array_equal(loaded.images, np.concatenate([data[split][name] for name in names]))
            self.assertIsInstance(loaded.images, np.memmap)
            self.assertEqual(loaded.name, f"{name} {split}")

    def test_own_pictures_of_one_size_keep_it(self):
        rng = np.random.default_rng(0)
        names = {"train": ("cat", "dog"), "validation": ("cow",), "test": ("bird", "ant")}
        data = {
            split: {name: rng.integers(0, 256, (2, 6, 9, 1), np.uint8) for name in names[split]} for split in SPLITS
        }
        class_folders(self.folder, data)
        splits = self.load("folders")
        self.assertEqual(splits.test.images.shape, (4, 6, 9, 1))
        np.testing.assert_array_equal(splits.test.images[2:], data["test"]["bird"])
        self.assertEqual(self.load("folders", size=4).train.images.shape, (4, 4, 4, 1))

    def test_a_picture_of_another_size_is_resampled_for_a_published_data_set(self):
        data = world(MINI, 8, 3)
        class_folders(self.folder, data)
        big = np.full((20, 12, 3), 77, np.uint8)
        put(self.folder, "train/n01/0.png", encoded(big))
        splits = self.load(tiny("mini-imagenet", 8, MINI))
        np.testing.assert_array_equal(splits.train.images[0], np.full((8, 8, 3), 77))

    def test_numbered_classes_differ_between_splits(self):
        for split, classes in world(CIFAR, 32, 3).items():
            images, labels = flat(classes)
            put(self.folder, f"CIFAR_FS_{ALIAS[split]}.pickle", pickle.dumps({"data": images, "labels": labels}))
        splits = self.load(tiny("cifar-fs", 32, CIFAR))
        self.assertEqual(splits.train.classes, ("train 000", "train 001", "train 002"))
        self.assertEqual(splits.test.classes, ("test 000", "test 001"))


class StorageTest(FolderCase):
    def setUp(self):
        super().setUp()
        self.data = world(MINI, 8, 3)
        class_dict_pickles(self.folder, self.data)
        self.dataset = tiny("mini-imagenet", 8, MINI)

    def test_a_second_load_reads_what_was_stored(self):
        first = self.load(self.dataset)
        path = pathlib.Path(first.test.images.filename)
        stamp = path.stat().st_mtime_ns
        np.testing.assert_array_equal(self.load(self.dataset).test.images, first.test.images)
        self.assertEqual(path.stat().st_mtime_ns, stamp)

    def test_changed_files_are_stored_anew(self):
        self.load(self.dataset)
        self.data["test"]["n06"] = 255 - self.data["test"]["n06"]
        class_dict_pickles(self.folder, self.data)
        os.utime(self.folder / "mini-imagenet-cache-test.pkl", ns=(1, 1))
        np.testing.assert_array_equal(self.load(self.dataset).test.images[:EACH], self.data["test"]["n06"])

    @parameterized.parameters("truncated", "missing", "no manifest", "another format")
    def test_damaged_stored_files_are_replaced(self, damage):
        path = pathlib.Path(self.load(self.dataset).test.images.filename)
        manifest = path.with_name("dataset.json")
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        elif damage == "missing":
            path.unlink()
        elif damage == "no manifest":
            manifest.unlink()
        else:
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 0}))
        np.testing.assert_array_equal(self.load(self.dataset).test.images[:EACH], self.data["test"]["n06"])

    def test_the_default_cache_is_the_users(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(self.cache / "home"))
            splits = load(self.folder, self.dataset)
        self.assertIn(str(self.cache / "home" / "metalearn" / "data"), str(splits.train.images.filename))


class Foreign:
    """A pickle that would write a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


class RefusedTest(FolderCase):
    def setUp(self):
        super().setUp()
        self.data = world(MINI, 8, 3)
        self.mini = tiny("mini-imagenet", 8, MINI)

    def test_unknown_data_set(self):
        self.assertRefused("imagenet", "unknown data set 'imagenet'", "glyphs", "mini-imagenet", "folders")

    def test_path_that_is_no_folder(self):
        self.folder.rmdir()
        self.assertRefused(self.mini, str(self.folder), "does not exist", "renmengye")
        self.folder.write_text("")
        self.assertRefused(self.mini, str(self.folder), "is a file")
        with self.assertRaisesRegex(DataError, "needs path="):
            load(None, "omniglot")

    def test_unknown_layout_lists_what_is_known_and_found(self):
        put(self.folder, "mini-imagenet-bookkeeping-train.pkl", b"")
        expected = ("mini-imagenet-cache-train.pkl", "images/, train.csv", "bookkeeping", "no images", "renmengye")
        self.assertRefused(self.mini, str(self.folder), *expected)

    def test_missing_file_of_a_layout(self):
        class_dict_pickles(self.folder, self.data)
        (self.folder / "mini-imagenet-cache-val.pkl").unlink()
        self.assertRefused(self.mini, "but no mini-imagenet-cache-val.pkl")

    @parameterized.parameters(b"<!DOCTYPE html><html>", b"\n <html>")
    def test_web_page(self, page):
        class_dict_pickles(self.folder, self.data)
        put(self.folder, "mini-imagenet-cache-val.pkl", page)
        self.assertRefused(self.mini, "mini-imagenet-cache-val.pkl", "web page")

    @parameterized.parameters(
        (class_dict_pickles, "mini-imagenet-cache-test.pkl"),
        (category_pickles, "miniImageNet_category_split_test.pickle"),
        (class_archives, "train.tar"),
        (class_archives, "test.zip"),
        (class_folders, "test/n06/3.png"),
        (csv_and_pictures, "images/n060003.jpg"),
        (hdf5, "test_data.hdf5"),
    )
    def test_truncated_or_empty_file(self, write, name):
        if write is hdf5:
            pytest.importorskip("h5py")
        write(self.folder, self.data)
        content = (self.folder / name).read_bytes()
        for kept in (len(content) // 2, 0):
            put(self.folder, name, content[:kept])
            self.assertRefused(self.mini, pathlib.Path(name).name)

    @parameterized.parameters((npz_and_labels, "test_images.npz"), (png_pickles, "test_labels.pkl"))
    def test_truncated_file_of_tiered_imagenet(self, write, name):
        write(self.folder, self.data)
        content = (self.folder / name).read_bytes()
        put(self.folder, name, content[: len(content) // 2])
        self.assertRefused(tiny("tiered-imagenet", 8, MINI), name)

    def test_pickle_with_foreign_code_is_not_run(self):
        class_dict_pickles(self.folder, self.data)
        trace = self.folder / "trace"
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            content = pickle.dumps({"image_data": Foreign(trace), "class_dict": {}}, protocol)
            put(self.folder, "mini-imagenet-cache-train.pkl", content)
            self.assertRefused(self.mini, "mini-imagenet-cache-train.pkl", "open", "Nothing in it was run")
            self.assertFalse(trace.exists())

    @parameterized.parameters(
        b"cnumpy\nfromfile\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.tofile\n\x93.",
        b"cbuiltins\neval\n(S'1'\ntR.",
    )
    def test_pickle_that_names_other_functions_of_numpy_or_python(self, content):
        class_dict_pickles(self.folder, self.data)
        put(self.folder, "mini-imagenet-cache-train.pkl", content)
        self.assertRefused(self.mini, "mini-imagenet-cache-train.pkl")

    def test_pickle_of_something_else(self):
        class_dict_pickles(self.folder, self.data)
        put(self.folder, "mini-imagenet-cache-train.pkl", pickle.dumps({"data": 1}))
        self.assertRefused(self.mini, "expected a dict with image_data, class_dict", "['data']")

    def test_a_class_that_is_missing_and_one_that_is_strange(self):
        self.data["train"]["n99"] = self.data["train"].pop("n02")
        class_dict_pickles(self.folder, self.data)
        self.assertRefused(self.mini, "mini-imagenet-cache-train.pkl", "Missing classes: ['n02']", "['n99']")

    def test_a_file_of_another_split(self):
        class_dict_pickles(self.folder, self.data | {"validation": self.data["test"]})
        self.assertRefused(
            self.mini, "mini-imagenet-cache-val.pkl", "validation split", "Missing classes: ['n04', 'n05']"
        )

    def test_a_copy_of_another_split_without_names(self):
        for split in SPLITS:
            images, labels = flat(self.data["test" if split == "validation" else split])
            images = np.repeat(images, 4, 1).repeat(4, 2)
            put(self.folder, f"FC100_{ALIAS[split]}.pickle", pickle.dumps({"data": images, "labels": labels}))
        self.assertRefused(tiny("fc100", 32, CIFAR), "FC100_val.pickle", "FC100_test.pickle", "share 10 images")

    def test_too_few_images(self):
        self.data["test"]["n07"] = self.data["test"]["n07"][1:]
        class_folders(self.folder, self.data)
        self.assertRefused(self.mini, "has 2 classes and 10 images, but found 2 and 9")

    def test_a_class_in_two_splits(self):
        class_folders(self.folder, {split: {"cat": self.data[split][MINI[split][0]]} for split in SPLITS})
        self.assertRefused("folders", "(train)", "(validation)", "'cat'")

    def test_mixed_sizes(self):
        class_folders(self.folder, self.data)
        put(self.folder, "test/n06/2.png", encoded(np.zeros((8, 9, 3), np.uint8)))
        self.assertRefused("folders", "n06/2.png is 9 x 8 pixels in colour", "8 x 8 pixels in colour", "size=")
        self.load("folders", size=8)

    def test_grey_among_colour(self):
        class_folders(self.folder, self.data)
        put(self.folder, "validation.txt", "")
        put(self.folder, "val/n04/1.png", encoded(np.zeros((8, 8, 1), np.uint8)))
        self.assertRefused("folders", "n04/1.png is 8 x 8 pixels in grey", "8 x 8 pixels in colour")

    def test_arrays_of_another_size(self):
        class_dict_pickles(self.folder, self.data)
        self.assertRefused(tiny("mini-imagenet", 9, MINI), "(n, *(9, 9, 3))", "(15, 8, 8, 3)")

    def test_a_picture_that_a_table_lists_but_is_not_there(self):
        csv_and_pictures(self.folder, self.data)
        (self.folder / "images" / "n060003.jpg").unlink()
        self.assertRefused(self.mini, "n060003.jpg", "missing")

    def test_a_table_without_its_columns(self):
        csv_and_pictures(self.folder, self.data)
        put(self.folder, "val.csv", "file;class\n")
        self.assertRefused(self.mini, "val.csv", "filename, label")

    def test_labels_that_do_not_fit_the_images(self):
        npz_and_labels(self.folder, self.data)
        put(self.folder, "train_labels.pkl", pickle.dumps({"labels": [0, 1]}))
        self.assertRefused(tiny("tiered-imagenet", 8, MINI), "train_labels.pkl", "15 integers", "(2,)")

    def test_pictures_outside_of_classes_and_no_pictures(self):
        class_folders(self.folder, self.data)
        put(self.folder, "test/stray.png", encoded(np.zeros((8, 8, 3), np.uint8)))
        self.assertRefused(self.mini, "stray.png is in no class")
        for path in sorted((self.folder / "test").rglob("*.png")):
            path.unlink()
        self.assertRefused(self.mini, "found no pictures")

    def test_a_missing_class_folder_of_a_list(self):
        folders_with_lists(self.folder, world(CIFAR, 32, 3))
        put(self.folder, "cifar100/splits/bertinetto/val.txt", "crab\nlobster\n")
        self.assertRefused(tiny("cifar-fs", 32, CIFAR), "'lobster'", "val.txt")

    def test_size_is_for_own_pictures(self):
        self.assertRefused(self.mini, "size=9", size=9)


class PublishedTest(parameterized.TestCase):
    @parameterized.parameters("mini-imagenet", "cifar-fs", "fc100", "omniglot")
    def test_class_lists_have_the_published_numbers_and_are_disjoint(self, name):
        classes = published_classes(name)
        self.assertEqual(
            {split: len(classes[split]) for split in SPLITS},
            {split: count for split, (count, _) in DATASETS[name].counts.items()},
        )
        everything = [name for split in SPLITS for name in classes[split]]
        self.assertLen(set(everything), len(everything))

    def test_both_splits_of_cifar_100_have_the_same_classes(self):
        lists = [published_classes(name) for name in ("cifar-fs", "fc100")]
        one, other = ({name for split in SPLITS for name in classes[split]} for classes in lists)
        self.assertLen(one, 100)
        self.assertEqual(one, other)


if __name__ == "__main__":
    absltest.main()
