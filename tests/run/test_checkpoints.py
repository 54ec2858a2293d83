"""Checkpoints: what is saved comes back, and what is damaged is noticed."""

import hashlib
import json
import pathlib
import random
import shutil
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl.testing import absltest, parameterized

from metalearn.run.checkpoints import Checkpoints, leaf_digest, tree_digest
from metalearn.run.errors import CheckpointError
from tests.run.folder_case import FolderCase


class State(NamedTuple):
    params: dict
    key: jax.Array
    step: int
    extras: tuple


def state_at(step: int) -> State:
    params = {"a/b": jnp.arange(6.0).reshape(2, 3) + step, "c": {"d": jnp.full(4, step, jnp.bfloat16)}}
    extras = (np.float64(0.1 * step), None, jnp.zeros((0, 3)), jnp.array(step % 2 == 0))
    return State(params, jax.random.split(jax.random.key(step), 2), step, extras)


def values(state: State) -> State:
    return state._replace(key=jax.random.key_data(state.key))


class CheckpointsTest(FolderCase):
    def setUp(self):
        super().setUp()
        self.folder = self.folder / "checkpoints"

    def save(self, *steps: int) -> None:
        with Checkpoints(self.folder) as checkpoints:
            for step in steps:
                checkpoints.save(step, state_at(step), {"step": step})

    def restore(self, like=None):
        with Checkpoints(self.folder) as checkpoints:
            return checkpoints.restore_latest(state_at(0) if like is None else like)

    def test_nothing_saved(self):
        self.assertIsNone(self.restore())

    def test_round_trip_is_exact_and_keeps_kinds(self):
        self.save(5)
        restored = self.restore()
        self.assertEqual((restored.step, restored.extra, restored.warnings), (5, {"step": 5}, []))
        expected = state_at(5)
        chex.assert_trees_all_equal(values(restored.state), values(expected))
        dtypes = [[jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(values(s))] for s in (restored.state, expected)]
        self.assertEqual(*dtypes)
        self.assertIsInstance(restored.state.step, int)
        self.assertIsInstance(restored.state.params["a/b"], jax.Array)
        draws = [jax.random.normal(state.key[0]) for state in (restored.state, expected)]
        self.assertEqual(float(draws[0]), float(draws[1]))

    def test_restored_leaves_go_where_the_expected_ones_are(self):
        mesh = jax.make_mesh((4,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
        replicated = jax.NamedSharding(mesh, jax.P())
        sharded = jax.NamedSharding(mesh, jax.P("tasks"))
        state = {"w": jax.device_put(jnp.arange(8.0), sharded), "v": jax.device_put(jnp.ones(3), replicated)}
        state["free"] = jnp.zeros(2)
        state["keys"] = jax.device_put(jax.random.split(jax.random.key(0), 4), sharded)
        state["key"] = jax.device_put(jax.random.key(1), replicated)
        with Checkpoints(self.folder) as checkpoints:
            checkpoints.save(1, state)
        for like in (state, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)):
            restored = self.restore(like).state
            self.assertEqual(restored["w"].sharding, sharded)
            self.assertEqual(restored["v"].sharding, replicated)
            self.assertEqual(restored["keys"].sharding, sharded)
            self.assertEqual(restored["key"].sharding, replicated)
            self.assertEqual(tree_digest(restored), tree_digest(state))
        self.assertFalse(self.restore(state).state["free"].committed)

    def test_saved_state_may_be_donated(self):
        double = jax.jit(lambda x: 2 * x, donate_argnums=0)
        x = jnp.arange(1000.0)
        with Checkpoints(self.folder) as checkpoints:
            checkpoints.save(1, {"x": x})
            double(x).block_until_ready()
        np.testing.assert_array_equal(self.restore({"x": np.zeros(1000, np.float32)}).state["x"], np.arange(1000.0))

    def test_keeps_the_newest(self):
        with Checkpoints(self.folder, keep=2) as checkpoints:
            for step in (1, 2, 3, 4):
                checkpoints.save(step, {"x": np.ones(1)})
            self.assertEqual(checkpoints.steps(), [3, 4])
        with self.assertRaisesRegex(ValueError, "keep must be at least 1, got 0"):
            Checkpoints(self.folder, keep=0)

    def test_a_step_can_be_saved_again(self):
        with Checkpoints(self.folder) as checkpoints:
            for value in (1.0, 2.0):
                checkpoints.save(7, {"x": np.array(value)})
            self.assertEqual(float(checkpoints.restore_latest({"x": np.array(0.0)}).state["x"]), 2.0)

    def test_leftovers_of_a_killed_save_are_removed(self):
        self.save(1)
        leftover = self.folder / "2.orbax-checkpoint-tmp"
        leftover.mkdir()
        (leftover / "x").write_text("half")
        self.assertEqual(self.restore().step, 1)
        self.assertFalse(leftover.exists())

    def largest_data_file(self, step: int) -> pathlib.Path:
        files = (self.folder / str(step) / "state" / "d").iterdir()
        return max(files, key=lambda path: path.stat().st_size)

    @parameterized.parameters(
        "flipped byte", "truncated", "empty file", "empty folder", "no manifest", "no metadata", "bad json",
        "wrong digest",
        "swapped values", "missing data", "no data and no list of files", "bad list of files",
        "other shape", "other dtype", "other structure", "other step",
    )  # fmt: skip
    def test_damaged_newest_falls_back(self, damage):
        self.save(1, 2, 3)
        newest = self.folder / "3"
        manifest = newest / "manifest" / "metadata"
        reason = "its file state/.* was changed"
        if damage == "flipped byte":
            path = self.largest_data_file(3)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(bytes(data))
        elif damage in ("truncated", "empty file"):
            path = self.largest_data_file(3)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "truncated" else b"")
        elif damage == "empty folder":
            shutil.rmtree(newest)
            newest.mkdir()
            reason = "folder is empty"
        elif damage == "no manifest":
            shutil.rmtree(manifest.parent)
            reason = "manifest cannot be read"
        elif damage == "no metadata":
            (newest / "state" / "_METADATA").unlink()
            reason = "its file state/_METADATA is missing"
        elif damage == "bad json":
            manifest.write_text(manifest.read_text()[:-20])
            reason = "manifest cannot be read"
        elif damage == "wrong digest":
            manifest.write_text(manifest.read_text().replace('"step": 3', '"step": 4'))
            reason = "does not match its own digest"
        elif damage == "swapped values":  # a sound Orbax folder with other values: only our digest can tell
            other = self.folder.parent / "other"
            with Checkpoints(other) as checkpoints:
                changed = state_at(3)
                changed.params["a/b"] = changed.params["a/b"].at[0, 1].add(1e-6)
                checkpoints.save(3, changed)
            shutil.rmtree(newest / "state")
            shutil.copytree(other / "3" / "state", newest / "state")
            (manifest.parent / "files.json").unlink()
            reason = "leaf 'params/a/b' does not match its digest"
        elif damage == "missing data":
            shutil.rmtree(newest / "state")
            reason = "its file state/.* is missing"
        elif damage == "no data and no list of files":
            shutil.rmtree(newest / "state")
            (manifest.parent / "files.json").unlink()
            reason = "Orbax cannot read it"
        elif damage == "bad list of files":
            (manifest.parent / "files.json").write_text("{")
            reason = "its list of files cannot be read"
        else:
            state = state_at(3)
            if damage == "other shape":
                state.params["a/b"] = jnp.zeros((3, 2))
                reason = r"leaf 'params/a/b' does not fit: the checkpoint has float32\[3, 2\].*needs float32\[2, 3\]"
            elif damage == "other dtype":
                state.params["c"]["d"] = jnp.zeros(4, jnp.float16)
                reason = r"leaf 'params/c/d' does not fit: the checkpoint has float16\[4\].*needs bfloat16\[4\]"
            elif damage == "other structure":
                state.params["e"] = state.params.pop("a/b")
                reason = "lacks params/a/b and has params/e"
            elif damage == "other step":
                reason = "does not match"
            with Checkpoints(self.folder) as checkpoints:
                checkpoints.save(3 if damage != "other step" else 4, state)
            if damage == "other step":
                shutil.rmtree(newest)
                (self.folder / "4").rename(newest)
        with self.assertLogs("metalearn.run.checkpoints", "WARNING") as logs:
            restored = self.restore()
        self.assertEqual(restored.step, 2)
        chex.assert_trees_all_equal(values(restored.state), values(state_at(2)))
        self.assertRegex(restored.warnings[0], f"checkpoint 3 cannot be used: .*{reason}")
        self.assertRegex(logs.output[0], "checkpoint 3 .* going back to checkpoint 2")
        self.assertTrue((self.folder / "damaged-3").is_dir())
        self.save(3)  # and the damaged one does not stand in the way
        self.assertEqual(self.restore().step, 3)

    def test_all_damaged_is_an_error_that_keeps_the_evidence(self):
        self.save(1, 2)
        for step in (1, 2):
            self.largest_data_file(step).write_bytes(b"")
        with self.assertRaisesRegex(CheckpointError, "(?s)no checkpoint in .*checkpoint 2 .*checkpoint 1 .*--workdir"):
            self.restore()
        self.assertCountEqual([entry.name for entry in self.folder.iterdir()], ["1", "2"])

    def test_another_model_is_an_error_naming_the_leaf(self):
        self.save(1)
        like = state_at(0)
        like.params["a/b"] = jnp.zeros((2, 4))
        with self.assertRaisesRegex(CheckpointError, r"leaf 'params/a/b' does not fit.*\[2, 3\].*\[2, 4\]"):
            self.restore(like)

    @parameterized.parameters(({"x": object()}, "no array but object"), ({"a": {"b": 1}, "a/b": 2}, "two leaves"))
    def test_unfit_states(self, state, message):
        with Checkpoints(self.folder) as checkpoints, self.assertRaisesRegex(CheckpointError, message):
            checkpoints.save(1, state)

    def test_orbax_is_quiet(self):
        with self.assertNoLogs("absl", "INFO"):
            self.save(1)
            self.restore()

    def test_some_flipped_bytes_are_noticed_or_harmless(self):
        self.fuzz(2)

    @pytest.mark.slow
    def test_many_flipped_bytes_are_noticed_or_harmless(self):
        self.fuzz(40)

    def fuzz(self, per_file: int) -> None:
        self.save(1, 2)
        sound = self.folder.parent / "sound"
        shutil.copytree(self.folder, sound)
        expected = {step: tree_digest(state_at(step)) for step in (1, 2)}
        rng = random.Random(0)
        outcomes = []
        for path in sorted(path for path in (sound / "2").rglob("*") if path.is_file()):
            data = path.read_bytes()
            positions = rng.sample(range(len(data)), min(per_file, len(data)))
            for position in positions:
                shutil.rmtree(self.folder)
                shutil.copytree(sound, self.folder)
                changed = bytearray(data)
                changed[position] ^= 1 << rng.randrange(8)
                (self.folder / path.relative_to(sound)).write_bytes(bytes(changed))
                restored = self.restore()
                self.assertEqual(tree_digest(restored.state), expected[restored.step], f"{path} at {position}")
                self.assertEqual(restored.extra, {"step": restored.step})
                outcomes.append(restored.step)
        self.assertContainsSubset([1, 2], outcomes)  # Orbax keeps some bytes that nobody needs


class DigestTest(FolderCase):
    def test_leaf_digest_by_hand(self):
        expected = hashlib.sha256(b"int32 (2,) " + b"\x01\x00\x00\x00\x02\x00\x00\x00").hexdigest()
        self.assertEqual(leaf_digest(np.array([1, 2], np.int32)), expected)

    def test_tree_digest_tells_apart(self):
        trees = [
            {"a": np.zeros(2)}, {"b": np.zeros(2)}, {"a": np.zeros(3)}, {"a": np.zeros((2, 1))}, {"a": -np.zeros(2)},
            {"a": np.zeros(2, np.int64)}, {"a": jax.random.key(0)}, {"a": jax.random.key(1)}, {},
        ]  # fmt: skip
        self.assertLen({tree_digest(tree) for tree in trees}, len(trees))

    def test_orbax_alone_would_have_missed_it(self):
        """The reason for the digests: a changed but well-formed value is restored without a word."""
        folder = self.folder
        with Checkpoints(folder / "ours") as checkpoints:
            checkpoints.save(1, {"x": np.arange(4.0)})
            checkpoints.save(2, {"x": np.arange(4.0) + 1})
        shutil.rmtree(folder / "ours" / "1" / "state")
        shutil.copytree(folder / "ours" / "2" / "state", folder / "ours" / "1" / "state")
        shutil.rmtree(folder / "ours" / "2")
        (folder / "ours" / "1" / "manifest" / "files.json").unlink()
        with ocp.CheckpointManager(folder / "ours") as manager:
            arguments = ocp.args.Composite(
                state=ocp.args.StandardRestore({"empty": np.zeros(1), "000000": np.zeros(4)})
            )
            restored = manager.restore(1, args=arguments)
        np.testing.assert_array_equal(restored["state"]["000000"], np.arange(4.0) + 1)
        with Checkpoints(folder / "ours") as checkpoints, self.assertRaisesRegex(CheckpointError, "leaf 'x'"):
            checkpoints.restore_latest({"x": np.zeros(4)})
        manifest = json.loads((folder / "ours" / "1" / "manifest" / "metadata").read_text())
        self.assertEqual(manifest["body"]["leaves"]["x"][2], leaf_digest(np.arange(4.0)))


if __name__ == "__main__":
    absltest.main()
