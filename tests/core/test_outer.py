"""The outer step: same update however the tasks are spread, one trace, and nothing moves where nothing is finite."""

import functools
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from metalearn.core import LearningProcess, first_order, objectives, outer_loop, outer_loops, shard_tasks, task_mesh
from tests.core.problems import compiled, linear_regression, slow_value

TASKS = 8
UPDATES = 5


def devices(count):
    return task_mesh(jax.devices()[:count])


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


class SpreadTest(parameterized.TestCase):
    """One outer step of gradient descent against the mean of a hand-written gradient over a loop of tasks."""

    @parameterized.parameters(
        ("float64", 1, "vmap", 1e-12),
        ("float64", 4, "vmap", 1e-12),
        ("float64", 4, "map", 1e-12),
        ("float32", 1, "map", 1e-5),
        ("float32", 4, "vmap", 1e-5),
    )
    def test_one_step(self, dtype, device_count, task_axis, tolerance):
        problem, weights = linear_regression(), objectives.every_update(UPDATES)
        tasks = problem.tasks(TASKS)
        with jax.enable_x64(True):
            slow = compiled(jax.value_and_grad(functools.partial(slow_value, problem, weights)))
            each = [slow(problem.meta, jax.tree.map(lambda x, i=i: x[i], tasks)) for i in range(TASKS)]
            value, gradient = jax.tree.map(lambda *x: np.mean(x, 0), *each)
        with jax.enable_x64(dtype == "float64"):
            loop = outer_loop(
                problem.process(), weights, optax.sgd(0.5), task_axis=task_axis, mesh=devices(device_count)
            )
            state, metrics = loop.step(loop.init(cast(problem.meta, dtype)), cast(tasks, dtype), jax.random.key(0))
        chex.assert_trees_all_equal_dtypes(state.meta, {"w": np.zeros(0, dtype)})
        np.testing.assert_allclose(state.meta["w"], problem.meta["w"] - 0.5 * gradient["w"], rtol=tolerance)
        np.testing.assert_allclose(metrics["value"], value, rtol=tolerance)
        np.testing.assert_allclose(np.sum(np.asarray(metrics["losses"])), value, rtol=tolerance)
        np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient["w"]), rtol=tolerance)
        self.assertEqual((int(state.step), int(metrics["skipped"])), (1, 0))
        self.assertLen(state.meta["w"].sharding.device_set, device_count)


def scalar_process(inputs=lambda meta, task, key: jnp.ones(2)):
    """Two updates x -> x - input (x - task) / 4; loss (x - task)^2. Next to nothing to compile."""
    return LearningProcess(
        init=lambda meta, task, key: meta,
        inputs=inputs,
        step=lambda meta, state, input, task: state - 0.25 * input * (state - task),
        loss=lambda meta, state, input, task: ((state - task) ** 2, {"state": state}),
    )


class RandomnessTest(absltest.TestCase):
    def test_each_task_and_step_has_its_own_key(self):
        """Inputs are drawn from the second half of split(split(fold_in(key, step), tasks)[i])."""
        of_key = lambda key: jax.random.key_data(key).astype(jnp.float32) * 2.0**-32
        process = scalar_process(lambda meta, task, key: of_key(key))
        loop = outer_loop(process, objectives.terminal(2), optax.sgd(0.0), mesh=devices(2))
        state, key, tasks = loop.init(jnp.float32(3)), jax.random.key(9), jnp.zeros(2)
        for step in range(2):
            state, metrics = loop.step(state, tasks, key)
            expected = []
            for task_key in jax.random.split(jax.random.fold_in(key, step), 2):
                drawn = of_key(jax.random.split(task_key)[1])
                expected.append(3 * np.prod(1 - 0.25 * np.asarray(drawn)))
            np.testing.assert_allclose(metrics["state"][-1], np.mean(expected), rtol=1e-6)


class TracingTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        chex.clear_trace_counter()

    def loop(self, objective=objectives.terminal(2), optimizer=None, device_count=2):
        inputs = chex.assert_max_traces(lambda meta, task, key: jnp.ones(2) + 0 * task, n=1)
        return outer_loop(scalar_process(inputs), objective, optimizer or optax.adam(0.1), mesh=devices(device_count))

    @parameterized.parameters(1, 4)
    def test_one_trace_and_one_compilation(self, device_count):
        """Although the meta-parameters are weakly typed, and whether tasks are arrays of numpy or of jax."""
        loop = self.loop(device_count=device_count)
        state = loop.init(1.0)
        with jax.log_compiles(), self.assertLogs("jax", "WARNING") as logs:
            for tasks in (jnp.zeros(4), np.ones(4, np.float32), np.ones(4), jnp.zeros(4)):
                state, _ = loop.step(state, tasks, jax.random.key(0))
        self.assertLen([line for line in logs.output if "Compiling jit(outer_step)" in line], 1)
        self.assertEqual(int(state.step), 4)
        with self.assertRaisesRegex(AssertionError, "traced"):  # so the guard is awake
            loop.step(state, jnp.zeros(8), jax.random.key(0))

    @parameterized.parameters(
        lambda: optax.inject_hyperparams(optax.adam)(optax.linear_schedule(0.1, 0.0, 10)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 10))),
        lambda: optax.add_noise(0.1, 0.5, jax.random.key(3)),
    )
    def test_one_trace_with_optimisers_whose_state_is_more_than_moments(self, optimizer):
        loop = self.loop(optimizer=optimizer())
        state = loop.init(jnp.ones(()))
        for _ in range(3):
            state, _ = loop.step(state, jnp.zeros(2), jax.random.key(0))
        self.assertEqual(int(state.step), 3)

    def test_an_objective_that_varies_with_the_step(self):
        """One trace; the value is the weighted sum of the losses under the weights of that step."""
        loop = self.loop(lambda step: objectives.annealed(2, step / 2), optax.sgd(0.0))
        state = loop.init(1.0)
        losses = np.array([1, 0.75**2, 0.75**4])  # of states 0, 1, 2 on the way to 0
        for weights in ([0, 1 / 2, 1 / 2], [0, 1 / 4, 3 / 4], [0, 0, 1], [0, 0, 1]):
            state, metrics = loop.step(state, jnp.zeros(2), jax.random.key(0))
            np.testing.assert_allclose(metrics["value"], losses @ weights, rtol=1e-6)
            np.testing.assert_allclose(metrics["losses"], np.where(weights, losses, 0), rtol=1e-6)


def spoiled_process():
    """Task 0 is sound; 1 has a value that is not finite, 2 a gradient that is not, 3 both."""

    def loss(meta, state, input, task):
        bad_gradient = jnp.sqrt(jnp.where(task >= 2, 0.0, 1.0) * meta**2)
        bad_value = jnp.where(task % 2 == 1, jnp.inf, 0.0)
        return meta**2 + bad_gradient + bad_value, {}

    return LearningProcess(
        init=lambda meta, task, key: (),
        inputs=lambda meta, task, key: (),
        step=lambda meta, state, input, task: state,
        loss=loss,
    )


class NonFiniteTest(parameterized.TestCase):
    @parameterized.parameters(1, 4)
    def test_skipped_and_counted(self, device_count):
        loop = outer_loop(spoiled_process(), np.ones(1), optax.adam(0.1), mesh=devices(device_count))
        state = loop.init(1.0)
        sound = [0, 0, 0, 0]
        history = []
        for tasks in (sound, [0, 0, 1, 0], [2, 0, 0, 0], [3, 3, 3, 3], sound, [0, 0, 0, 2]):
            before = jax.tree.map(np.asarray, (state.meta, state.optimizer_state))
            state, metrics = loop.step(state, np.array(tasks), jax.random.key(0))
            after = jax.tree.map(np.asarray, (state.meta, state.optimizer_state))
            if tasks == sound:
                self.assertNotEqual(before[0], after[0])
                self.assertEqual(after[1][0].count, before[1][0].count + 1)
            else:
                chex.assert_trees_all_equal(before, after)
            self.assertEqual(int(metrics["skipped"]), int(state.skipped))
            self.assertEqual(int(metrics["skipped_in_a_row"]), int(state.skipped_in_a_row))
            history.append([int(x) for x in (state.step, state.skipped, state.skipped_in_a_row)])
        self.assertEqual(history, [[1, 0, 0], [2, 1, 1], [3, 2, 2], [4, 3, 3], [5, 3, 0], [6, 4, 1]])
        chex.assert_tree_all_finite((state.meta, state.optimizer_state))

    def test_the_spoiled_tasks_are_spoiled_as_they_say(self):
        value = lambda meta, task: spoiled_process().loss(meta, (), None, task)[0]
        for task, finite in enumerate([(True, True), (False, True), (True, False), (False, False)]):
            found = jax.value_and_grad(value)(1.0, task)
            self.assertEqual(tuple(bool(np.isfinite(x)) for x in found), finite)


class BufferTest(absltest.TestCase):
    def test_the_state_is_donated_and_the_callers_meta_is_not(self):
        loop = outer_loop(scalar_process(), objectives.terminal(2), optax.sgd(0.1), mesh=devices(1))
        meta, tasks, key = jnp.ones(()), jnp.zeros(3), jax.random.key(0)
        state = loop.init(meta)
        after, metrics = loop.step(state, tasks, key)
        self.assertTrue(state.meta.is_deleted())
        for kept in (meta, tasks, key, *jax.tree.leaves((after, metrics))):
            self.assertFalse(kept.is_deleted())
        # d/dm (0.75^2 m)^2 = 2 * 0.75^4 m
        np.testing.assert_allclose(after.meta, 1 - 0.1 * 2 * 0.75**4, rtol=1e-6)
        np.testing.assert_allclose(metrics["value"], 0.75**4, rtol=1e-6)
        again, _ = loop.step(loop.init(meta), tasks, key)
        np.testing.assert_array_equal(again.meta, after.meta)


class QueueTest(parameterized.TestCase):
    @parameterized.parameters((outer_loop, ()), (outer_loops, (2,)))
    def test_several_devices_of_a_cpu_have_one_step_queued(self, build, loops):
        """The second step is dispatched when the first, which takes some tenths of a second, is done."""
        slow = lambda x: jax.lax.fori_loop(0, 20_000_000, lambda i, y: jnp.cos(y), x)
        process = scalar_process()._replace(step=lambda meta, state, input, task: slow(state))
        loop = build(process, objectives.terminal(2), optax.sgd(0.1), estimator=first_order, mesh=devices(2))
        tasks, keys = jnp.zeros((*loops, 2)), jax.random.split(jax.random.key(0), loops)
        state, metrics = loop.step(loop.init(jnp.ones(loops)), tasks, keys)
        self.assertFalse(metrics["value"].is_ready())
        loop.step(state, tasks, keys)
        time.sleep(0.05)  # the state's arrays may be there a moment before others
        self.assertTrue(metrics["value"].is_ready())


class SeveralLoopsTest(parameterized.TestCase):
    """Loops side by side against the same loops one after the other, each alone."""

    @parameterized.parameters((1, "map"), (3, "vmap"))
    def test_three_steps_of_three_loops(self, device_count, task_axis):
        # The noise is that of each loop's own key; the second loop's second step has no finite gradient.
        def noisy(meta, task, key):
            return jnp.ones(2) + 0.1 * jax.random.normal(key, (2,))

        tasks = np.linspace(-1, 1, 3 * 3 * 2).reshape(3, 3, 2)  # [steps, loops, tasks]
        tasks[1, 1, 0] = np.nan
        metas, keys = np.array([0.5, -1.0, 2.0]), jax.random.split(jax.random.key(3), 3)
        with jax.enable_x64(True):
            arguments = scalar_process(noisy), objectives.terminal(2), optax.adam(0.1)
            loops = outer_loops(*arguments, task_axis=task_axis, mesh=devices(device_count))
            alone = outer_loop(*arguments, mesh=devices(1))
            states, found, expected = loops.init(metas), [], []
            for batch in tasks:
                states, metrics = loops.step(states, batch, keys)
                found.append(jax.device_get(metrics))
            finals = []
            for i in range(3):
                state = alone.init(metas[i])
                for step, batch in enumerate(tasks):
                    state, metrics = alone.step(state, batch[i], keys[i])
                    expected.append(jax.device_get(metrics))
                    of_loop = jax.tree.map(lambda x, i=i: x[i], found[step])
                    chex.assert_trees_all_close(of_loop, expected[-1], rtol=1e-12)
                finals.append(jax.device_get(state))
        chex.assert_trees_all_close(jax.device_get(states), jax.tree.map(lambda *x: np.stack(x), *finals), rtol=1e-12)
        np.testing.assert_array_equal(states.skipped, [0, 1, 0])
        self.assertLen(states.meta.sharding.device_set, device_count)

    def test_the_state_is_donated_and_the_callers_meta_is_not(self):
        loops = outer_loops(scalar_process(), objectives.terminal(2), optax.sgd(0.1), mesh=devices(1))
        metas = jnp.arange(2.0)
        first = loops.init(metas)
        loops.step(first, jnp.zeros((2, 1)), jax.random.split(jax.random.key(0), 2))
        np.testing.assert_array_equal(metas, [0, 1])
        self.assertTrue(first.meta.is_deleted())

    def test_loops_that_devices_do_not_divide(self):
        loops = outer_loops(scalar_process(), objectives.terminal(2), optax.sgd(0.1), mesh=devices(2))
        with self.assertRaisesRegex(ValueError, "3 tasks a batch cannot be split over 2 devices"):
            loops.init(jnp.arange(3.0))


class MeshTest(absltest.TestCase):
    def test_tasks_in_place_stay(self):
        """Those of a batch placed beforehand are not moved again; on another mesh they are."""
        mesh, tasks = devices(2), {"x": np.arange(8.0).reshape(4, 2)}
        placed = shard_tasks(tasks, mesh)
        self.assertIs(shard_tasks(placed, mesh), placed)
        self.assertLen(placed["x"].sharding.device_set, 2)
        moved = shard_tasks(placed, devices(4))
        self.assertLen(moved["x"].sharding.device_set, 4)
        chex.assert_trees_all_equal(moved, tasks)

    def test_a_mesh_that_fits_the_batch(self):
        """The largest number of the four devices that divides the batch."""
        sizes = {tasks: task_mesh(tasks=tasks).size for tasks in (1, 2, 3, 4, 5, 6, 8, 9)}
        self.assertEqual(sizes, {1: 1, 2: 2, 3: 3, 4: 4, 5: 1, 6: 3, 8: 4, 9: 3})
        self.assertEqual(task_mesh().size, 4)
        self.assertEqual(task_mesh(jax.devices()[:2]).axis_names, ("tasks",))

    def test_devices_that_the_tasks_leave(self):
        shapes = {tasks: dict(task_mesh(tasks=tasks, parts=True).shape) for tasks in (1, 2, 3, 4)}
        expected = {1: (1, 4), 2: (2, 2), 3: (3, 1), 4: (4, 1)}
        self.assertEqual(
            shapes, {tasks: dict(zip(("tasks", "parts"), n, strict=True)) for tasks, n in expected.items()}
        )


class ErrorsTest(parameterized.TestCase):
    def loop(self):
        return outer_loop(scalar_process(), objectives.terminal(2), optax.sgd(0.1), mesh=devices(4))

    def test_batch_that_devices_do_not_divide(self):
        loop = self.loop()
        with self.assertRaisesRegex(ValueError, "6 tasks.*4 devices.*multiple of 4"):
            loop.step(loop.init(1.0), jnp.zeros(6), jax.random.key(0))

    def test_batch_without_tasks(self):
        loop = self.loop()
        with self.assertRaisesRegex(ValueError, "0 tasks"):
            loop.step(loop.init(1.0), jnp.zeros(0), jax.random.key(0))

    @parameterized.parameters(
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)},),
        ({"x": np.zeros((4, 2)), "y": np.zeros(())},),
        (np.zeros(()),),
        ((),),
    )
    def test_leaves_without_a_common_leading_axis(self, tasks):
        loop = self.loop()
        with self.assertRaisesRegex(ValueError, "must share their leading axis"):
            loop.step(loop.init(1.0), tasks, jax.random.key(0))

    def test_task_axis(self):
        with self.assertRaisesRegex(ValueError, "task_axis='pmap' is unknown.*vmap.*map"):
            outer_loop(scalar_process(), objectives.terminal(2), optax.sgd(0.1), task_axis="pmap")

    def test_metric_under_a_name_of_the_loop_itself(self):
        process = scalar_process()
        named = process._replace(loss=lambda *arguments: (process.loss(*arguments)[0], {"skipped": jnp.zeros(())}))
        loop = outer_loop(named, objectives.terminal(2), optax.sgd(0.1), mesh=devices(4))
        with self.assertRaisesRegex(ValueError, "'skipped'.*rename"):
            loop.step(loop.init(1.0), jnp.zeros(4), jax.random.key(0))


if __name__ == "__main__":
    absltest.main()
