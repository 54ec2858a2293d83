"""Run directories: new, resumed, foreign, damaged, locked, finished."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from metalearn.run import files
from metalearn.run.directory import RunDirectory
from metalearn.run.errors import RunDirectoryError
from tests.run.folder_case import FolderCase

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
NOBODY = 65534


@dataclasses.dataclass(frozen=True)
class Inner:
    steps: int = 5


@dataclasses.dataclass(frozen=True)
class Config:
    inner: Inner = Inner()
    rate: float = 1.0


class DirectoryTest(FolderCase):
    def setUp(self):
        super().setUp()
        self.root = self.folder / "deep" / "run"

    def open(self, config=None, root=None) -> RunDirectory:
        return RunDirectory.open(root or self.root, config or Config())

    def assert_refused(self, message: str, config=None, root=None) -> None:
        with self.assertRaisesRegex(RunDirectoryError, message):
            self.open(config, root).close()

    def test_new_then_resumed(self):
        with self.open(Config(rate=2)) as run:  # an int where a float is meant is the same config
            self.assertFalse(run.finished)
            self.assertEqual(run.config.read_text(), '{\n  "inner": {\n    "steps": 5\n  },\n  "rate": 2.0\n}\n')
        with self.open(Config(rate=2.0)) as run:
            self.assertFalse(run.finished)

    def test_another_config_lists_the_fields(self):
        self.open().close()
        self.assert_refused(
            "(?s)inner.steps: 5 -> 6\n.*rate: 1.0 -> 3.0\n.*another --workdir", Config(Inner(steps=6), rate=3.0)
        )

    def test_finished(self):
        with self.open() as run:
            run.finish({"b": np.float32(0.1), "a": jnp.array([1, 2]), "c": float("nan"), "d": {"e": (True, None)}})
            first = run.result.read_bytes()
            run.finish({"d": {"e": [True, None]}, "c": np.nan, "a": np.array([1, 2]), "b": float(np.float32(0.1))})
            self.assertEqual(run.result.read_bytes(), first)
        with self.open() as run:
            self.assertTrue(run.finished)
            expected = {"a": [1, 2], "b": float(np.float32(0.1)), "c": "nan", "d": {"e": [True, None]}}
            self.assertEqual(run.load_result(), expected)
            with self.open() as second:  # only read: two may look at it at once
                self.assertTrue(second.finished)
        self.assert_refused("rate: 1.0 -> 3.0", Config(rate=3.0))
        run.result.write_text("{")
        self.assert_refused("result.json cannot be read .* delete it")

    def test_damaged_config(self):
        self.open().close()
        (self.root / "config.json").write_text('{"inner"')
        self.assert_refused("config.json cannot be read .*another --workdir, or restore")

    def test_lost_config_and_foreign_folders(self):
        self.open().close()
        (self.root / "config.json").unlink()
        self.open().close()  # killed between the making of the folder and of its config: nothing is lost
        (self.root / "config.json").unlink()
        (self.root / "checkpoints").mkdir()
        self.assert_refused("has no config.json but holds checkpoints")
        (self.folder / "thesis.tex").write_text("years of work")
        self.assert_refused("holds deep, thesis.tex", root=self.folder)

    def test_a_path_that_is_a_file(self):
        path = self.folder / "file"
        path.write_text("")
        self.assert_refused(f"{path} is a file", root=path)
        self.assert_refused(f"{path}/run is a file, or below one", root=path / "run")

    def test_leftovers_of_a_kill_are_removed(self):
        with self.open() as run:
            leftover = run.figure("x").with_name(".x.png.123.tmp")
            leftover.write_text("half")
        self.open().close()
        self.assertFalse(leftover.exists())

    def test_one_process_at_a_time(self):
        with self.open():
            self.assert_refused(f"in use by another process \\(id {os.getpid()}\\)")
        with self.open():
            pass

    def test_read_only(self):
        self.open().close()
        self.folder.chmod(0o755)
        self.root.parent.chmod(0o555)
        self.root.chmod(0o555)
        (self.root / ".lock").chmod(0o444)
        with self.as_mere_mortal():
            self.assert_refused(f"{self.root} cannot be written .*Permission denied.*--workdir")
            self.assert_refused(
                f"{self.root.parent}/new cannot be created .*Permission denied", root=self.root.parent / "new"
            )
        with self.open() as run:
            run.finish({"a": 1})
        with self.as_mere_mortal(), self.open() as run:
            self.assertEqual(run.load_result(), {"a": 1})  # an archived run can be looked at

    @contextlib.contextmanager
    def as_mere_mortal(self):
        """Permissions do not stop root."""
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    def test_the_lock_dies_with_its_holder(self):
        code = (
            "import os, signal, sys; from metalearn.run.directory import RunDirectory\n"
            "run = RunDirectory.open(sys.argv[1], {'a': 1})\n"
            "print('open', flush=True); signal.pause()\n"
        )
        command = [sys.executable, "-c", code, str(self.root)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
            self.assertEqual(process.stdout.readline(), "open\n")
            self.assert_refused(f"id {process.pid}", {"a": 1})
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.open({"a": 1}).close()

    def test_stages_and_figures(self):
        with self.open() as run:
            stage = run.stage("seed_0")
            self.assertEqual(stage.metrics, self.root / "stages" / "seed_0" / "metrics.csv")
            self.assertTrue(stage.root.is_dir())
            stage.finish({"x": 1})
            self.assertTrue(stage.finished)
            self.assertFalse(run.finished)
            self.assertEqual(run.figure("a"), self.root / "figures" / "a.png")
            self.assertTrue(run.figures.is_dir())

    def test_unwritable_results(self):
        with self.open() as run:
            with self.assertRaisesRegex(TypeError, "cannot write a value of type set"):
                run.finish({"x": {1}})
            with self.assertRaisesRegex(TypeError, "keys must be strings; got 1"):
                run.finish({"x": {1: 2}})
            self.assertFalse(run.finished)


class AtomicTest(FolderCase):
    def test_failure_leaves_the_old_file(self):
        path = self.folder / "x"
        files.write_atomic(path, "old")
        with self.assertRaises(KeyboardInterrupt), files.atomic_writer(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt
        self.assertEqual([(entry.name, entry.read_text()) for entry in self.folder.iterdir()], [("x", "old")])


if __name__ == "__main__":
    absltest.main()
