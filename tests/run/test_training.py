"""The training loop: what it computes, logs, saves, refuses; interrupted and resumed within one process."""

import csv
import functools
import pathlib
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from metalearn.run.checkpoints import Checkpoints, tree_digest
from metalearn.run.directory import RunDirectory
from metalearn.run.errors import CheckpointError, MetricsError, NonFiniteMetaGradient
from metalearn.run.metrics import read_csv
from metalearn.run.training import train
from tests.run.folder_case import FolderCase

OPTIMISER = optax.adam(0.1)


@functools.partial(jax.jit, donate_argnums=0)
@chex.assert_max_traces(n=1)
def adam_step(state, index):
    key = jax.random.fold_in(state["key"], index)
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean((w - jax.random.normal(key, w.shape)) ** 2))(state["w"])
    updates, optimiser_state = OPTIMISER.update(gradient, state["optimiser"])
    return {"w": state["w"] + updates, "optimiser": optimiser_state, "key": state["key"]}, {"loss": loss}


def adam_state():
    w = jnp.zeros(4)
    return {"w": w, "optimiser": OPTIMISER.init(w), "key": jax.random.key(3)}


def count(state, index):
    return state + 1, {"loss": state, "index": index}


class TrainTest(FolderCase):
    def setUp(self):
        super().setUp()
        chex.clear_trace_counter()
        self.run_directory = self.enterContext(RunDirectory.open(self.folder / "run", {"a": 1}))

    def train(self, state, step_fn, **options):
        return train(self.run_directory, state, step_fn, **({"steps": 10, "checkpoint_every": 4} | options))

    def rows(self, path: pathlib.Path | None = None) -> list[list[str]]:
        with open(path or self.run_directory.metrics, newline="") as file:
            return list(csv.reader(file))

    def steps(self) -> list[int]:
        with Checkpoints(self.run_directory.checkpoints) as checkpoints:
            return checkpoints.steps()

    def test_counts_logs_saves_evaluates(self):
        seen = []

        def evaluate(state, step):
            seen.append((int(state), step))
            return {"square": state**2}

        state = self.train(
            jnp.int32(0), count, log_every=3, evaluate=evaluate, evaluate_every=5, examples_per_step=32, keep=2
        )
        self.assertEqual(int(state), 10)
        header, *rows = self.rows()
        self.assertEqual(header, ["step", "loss", "index"])
        self.assertEqual(rows, [["3", "2", "2"], ["6", "5", "5"], ["9", "8", "8"], ["10", "9", "9"]])
        self.assertEqual(seen, [(5, 5), (10, 10)])
        self.assertEqual(self.rows(self.run_directory.evaluation), [["step", "square"], ["5", "25"], ["10", "100"]])
        self.assertEqual(self.steps(), [8, 10])
        timing = read_csv(self.run_directory.timing)
        np.testing.assert_array_equal(timing["step"], [3, 6, 9, 10])
        np.testing.assert_allclose(timing["examples_per_second"], 32 * timing["steps_per_second"])
        self.assertTrue(np.all(timing["steps_per_second"] > 0))
        self.assertNotEmpty(list(self.run_directory.events.iterdir()))

    def test_equals_a_plain_loop_and_compiles_once(self):
        state = adam_state()
        losses = []
        for index in range(10):
            state, metrics = adam_step(state, index)
            losses.append(float(metrics["loss"]))
        trained = self.train(adam_state(), adam_step)
        self.assertEqual(tree_digest(trained), tree_digest(state))
        np.testing.assert_array_equal(read_csv(self.run_directory.metrics)["loss"], losses)

    @parameterized.parameters(0, 3, 4, 5, 9)
    def test_interrupted_and_resumed_equals_uninterrupted(self, at):
        def interrupted(state, index):
            if index == at:
                raise KeyboardInterrupt
            return adam_step(state, index)

        with self.assertRaises(KeyboardInterrupt):
            self.train(adam_state(), interrupted)
        resumed = self.train(adam_state(), adam_step)
        with RunDirectory.open(self.folder / "other", {"a": 1}) as other:
            whole = train(other, adam_state(), adam_step, steps=10, checkpoint_every=4)
            self.assertEqual(tree_digest(resumed), tree_digest(whole))
            self.assertEqual(self.run_directory.metrics.read_bytes(), other.metrics.read_bytes())

    def test_a_damaged_checkpoint_costs_only_time(self):
        self.train(adam_state(), adam_step, steps=8)
        digest, metrics = (
            tree_digest(self.train(adam_state(), adam_step, steps=8)),
            self.run_directory.metrics.read_bytes(),
        )
        for path in (self.run_directory.checkpoints / "8" / "state" / "d").iterdir():
            path.write_bytes(b"")
        self.assertEqual(tree_digest(self.train(adam_state(), adam_step, steps=8)), digest)
        self.assertEqual(self.run_directory.metrics.read_bytes(), metrics)
        for path in self.run_directory.checkpoints.glob("*/state/d/*"):
            path.write_bytes(b"")
        with self.assertRaisesRegex(CheckpointError, "no checkpoint in .* can be used"):
            self.train(adam_state(), adam_step, steps=8)

    def test_complete_run_computes_nothing(self):
        self.train(jnp.int32(0), count)
        state = self.train(jnp.int32(0), lambda *_: self.fail("must not step"))
        self.assertEqual(int(state), 10)

    def test_beyond_the_end(self):
        self.train(jnp.int32(0), count)
        with self.assertRaisesRegex(ValueError, "at step 10, beyond steps=5"):
            self.train(jnp.int32(0), count, steps=5)

    def test_metrics_come_one_step_behind(self):
        """Metrics of a step are asked for only after the next step was dispatched."""
        order = []

        class Scalar:
            def __init__(self, index):
                self.index = index

            def __array__(self, dtype=None, copy=None):
                order.append(("metrics", self.index))
                return np.array(float(self.index))

        def step(state, index):
            order.append(("step", index))
            return state, {"loss": Scalar(index)}

        self.train(jnp.int32(0), step, steps=3, checkpoint_every=10)
        first = [order.index(("metrics", index)) for index in range(3)]
        self.assertGreater(first[0], order.index(("step", 1)))
        self.assertGreater(first[1], order.index(("step", 2)))
        self.assertLess(first[0], order.index(("step", 2)))

    def test_stops_after_too_many_non_finite_gradients(self):
        def step(state, index):
            in_a_row = jnp.where(index >= 5, index - 4, 0)
            return state + 1, {"loss": jnp.where(index >= 5, jnp.nan, 1.0), "skipped_in_a_row": in_a_row}

        message = "not finite 3 steps in a row, up to step 8 of 20. The last checkpoint is that of step 6"
        with self.assertRaisesRegex(NonFiniteMetaGradient, message) as caught:
            self.train(jnp.int32(0), step, steps=20, checkpoint_every=3, max_nonfinite_in_a_row=3)
        self.assertIsInstance(caught.exception, FloatingPointError)
        self.assertEqual(self.steps(), [3, 6])
        self.assertEqual(self.rows()[-1], ["8", "nan", "3"])

    def test_a_few_non_finite_gradients_are_survived(self):
        def step(state, index):
            return state + 1, {"skipped_in_a_row": index % 3}

        self.assertEqual(int(self.train(jnp.int32(0), step, max_nonfinite_in_a_row=3)), 10)

    @parameterized.parameters(
        (2, lambda s: {"w": s["w"].astype(jnp.int32)}, r"leaf 'w' .*float32\[2\] to int32\[2\]"),
        (2, lambda s: {"w": jnp.zeros(3)}, r"leaf 'w' .*float32\[2\] to float32\[3\]"),
        (2, lambda s: {"v": s["w"]}, "structure of the state .at v, w."),
        ((), jax.jit(lambda s: {"w": jnp.where(s["w"] > 0, 0.0, 1.0)}), r"to float32\[\] \(weak type\)"),
        (4, lambda s: {"w": jax.device_put(s["w"], jax.devices()[1])}, "moves leaf 'w'"),
    )
    def test_a_step_must_keep_the_kind_of_state(self, shape, change, message):
        with self.assertRaisesRegex(ValueError, message):
            self.train({"w": jnp.zeros(shape)}, lambda state, index: (change(state), {"loss": 0.0}))

    def test_a_weakly_typed_start_is_no_matter(self):
        state = self.train(jnp.asarray(1.0), jax.jit(lambda state, index: (state * 2, {"loss": state})))
        self.assertEqual(float(state), 1024.0)

    def test_metrics_must_keep_their_names(self):
        with self.assertRaisesRegex(MetricsError, "columns .'loss'., but the row of step 3 has .'loss', 'more'."):
            self.train(jnp.int32(0), lambda s, i: (s, {"loss": 0.0} | ({"more": 1} if i == 2 else {})))

    @parameterized.parameters("steps", "checkpoint_every", "log_every", "evaluate_every")
    def test_arguments(self, name):
        with self.assertRaisesRegex(ValueError, f"{name} must be at least 1, got 0"):
            self.train(jnp.int32(0), count, **{name: 0})

    def test_ctrl_c_says_how_to_go_on(self):
        # A shell starts what runs in the background with this signal ignored, and so the tests.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))

        def step(state, index):
            if index == 5:
                signal.raise_signal(signal.SIGINT)
            return count(state, index)

        shown = []
        progress = self.Recorder(shown)
        with self.assertRaises(KeyboardInterrupt):
            self.train(jnp.int32(0), step, progress=progress)
        self.assertIn("interrupted: the same command goes on from step 4", shown)

    class Recorder:
        def __init__(self, shown):
            self.shown = shown

        def update(self, step, **metrics):
            pass

        def message(self, text):
            self.shown.append(text)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

    def test_stages_train_apart(self):
        for seed in (0, 1):
            train(self.run_directory.stage(f"seed_{seed}"), jnp.int32(seed), count, steps=3, checkpoint_every=3)
        for seed in (0, 1):
            rows = self.rows(self.run_directory.root / "stages" / f"seed_{seed}" / "metrics.csv")
            self.assertEqual([row[1] for row in rows[1:]], [str(seed + index) for index in range(3)])

    def test_sharded_state(self):
        mesh = jax.make_mesh((4,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
        sharding = jax.NamedSharding(mesh, jax.P("tasks"))
        step = jax.jit(lambda x, index: (x + index, {"loss": x.sum()}))
        fresh = lambda: jax.device_put(jnp.zeros(8), sharding)
        self.train(fresh(), step, steps=4)
        state = self.train(fresh(), step, steps=6)
        self.assertEqual(state.sharding, sharding)
        np.testing.assert_array_equal(state, np.full(8, 15.0))


if __name__ == "__main__":
    absltest.main()
