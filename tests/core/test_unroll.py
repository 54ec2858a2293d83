"""Which state meets which input, what is evaluated, and what an unroll returns."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.core import LearningProcess, exact, objectives, unroll
from tests.core.problems import compiled

SPARSE = np.array([0.0, 2.0, 0.0, 0.0, 1.0, 0.0])


def adding_process(rows, seen=None):
    """state_{k+1} = 10 state_k + input_k from state_0 = 7, so that a state spells the inputs that made it."""

    def loss(meta, state, input, task):
        if seen is not None:
            seen.append(input)
        shown = jnp.zeros((), jnp.int32) if input is None else input
        return (1000 * shown + state).astype(jnp.float32), {"state": state, "shown": shown}

    return LearningProcess(
        init=lambda meta, task, key: jnp.asarray(7),
        inputs=lambda meta, task, key: rows,
        step=lambda meta, state, input, task: 10 * state + input,
        loss=loss,
    )


def run(process, weights, **options):
    return compiled(lambda: unroll(process, weights, (), (), jax.random.key(0), **options))()


class ConventionTest(parameterized.TestCase):
    @parameterized.parameters("residuals", "recompute", "segments")
    def test_k_rows_drive_updates_only(self, memory):
        seen = []
        trajectory = run(adding_process(jnp.array([1, 2, 3]), seen), np.ones(4), memory=memory, segment=2)
        self.assertEqual(seen, [None] * len(seen))
        self.assertNotEmpty(seen)
        np.testing.assert_array_equal(trajectory.final, 7123)
        np.testing.assert_array_equal(trajectory.losses, [7, 71, 712, 7123])
        np.testing.assert_array_equal(trajectory.value, 7 + 71 + 712 + 7123)

    @parameterized.parameters("residuals", "recompute", "segments")
    def test_k_plus_1_rows_are_shown_to_the_loss_of_their_own_state(self, memory):
        process = adding_process(jnp.array([1, 2, 3, 4]))
        trajectory = run(process, np.array([1, 10, 100, 1000]), memory=memory, segment=2)
        np.testing.assert_array_equal(trajectory.final, 7123)  # row 3 drives no update
        np.testing.assert_array_equal(trajectory.losses, [1007, 2071, 3712, 4000 + 7123])
        np.testing.assert_array_equal(trajectory.value, 1007 + 20710 + 371200 + 11123000)
        np.testing.assert_array_equal(trajectory.metrics["state"], [7, 71, 712, 7123])
        np.testing.assert_array_equal(trajectory.metrics["shown"], [1, 2, 3, 4])

    @parameterized.parameters(
        ([1, 0, 0, 0], [1007, 0, 0, 0], [1, 0, 0, 0]),
        ([0, 0, 0, 1], [0, 0, 0, 11123], [0, 0, 0, 4]),
        ([1, 0, 0, 1], [1007, 0, 0, 11123], [1, 0, 0, 4]),
        ([0, 1, 0, 0], [0, 2071, 0, 0], [0, 2, 0, 0]),
        ([0, 1, 1, 1], [0, 2071, 3712, 11123], [0, 2, 3, 4]),
        ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]),
    )
    def test_sparse_weights_known_or_traced(self, weights, losses, shown):
        process = adding_process(jnp.array([1, 2, 3, 4]))
        weights = np.array(weights, np.float32)
        traced = compiled(lambda weights: unroll(process, weights, (), (), jax.random.key(0)))
        for trajectory in (run(process, weights), traced(weights)):
            np.testing.assert_array_equal(trajectory.losses, losses)
            np.testing.assert_array_equal(trajectory.metrics["shown"], shown)
            np.testing.assert_array_equal(trajectory.value, weights @ losses)
            np.testing.assert_array_equal(trajectory.final, 7123)

    def test_no_inputs_at_all(self):
        process = adding_process(None)._replace(step=lambda meta, state, input, task: 10 * state)
        np.testing.assert_array_equal(run(process, np.ones(3)).losses, [7, 70, 700])

    def test_no_updates(self):
        for rows, loss in ((None, 7), (jnp.zeros(0, jnp.int32), 7), (jnp.array([5]), 5007)):
            trajectory = run(adding_process(rows), np.array([3.0]))
            np.testing.assert_array_equal(trajectory.losses, [loss])
            np.testing.assert_array_equal(trajectory.value, 3 * loss)
            np.testing.assert_array_equal(trajectory.final, 7)

    def test_several_leaves_of_inputs(self):
        rows = {"a": jnp.array([1, 2, 3]), "b": jnp.array([[10, 0], [20, 0], [30, 0]])}
        process = adding_process(rows)._replace(
            step=lambda meta, state, input, task: state + input["a"] + input["b"].sum(),
            loss=lambda meta, state, input, task: (jnp.float32(0), {"state": state, "b": input["b"]}),
        )
        trajectory = run(process, np.ones(3))
        np.testing.assert_array_equal(trajectory.metrics["state"], [7, 18, 40])
        np.testing.assert_array_equal(trajectory.metrics["b"], rows["b"])

    @parameterized.parameters((jnp.arange(2), r"\[2\]"), ((jnp.arange(3), jnp.arange(4)), r"\[3, 4\]"))
    def test_wrong_number_of_rows(self, rows, found):
        with self.assertRaisesRegex(ValueError, f"4 weights makes 3 updates.*return 3 rows.*or 4.*{found}"):
            unroll(adding_process(rows), np.ones(4), (), (), jax.random.key(0))

    def test_inputs_without_rows(self):
        with self.assertRaisesRegex(ValueError, "without any axis"):
            unroll(adding_process((jnp.arange(3), jnp.float32(0.1))), np.ones(4), (), (), jax.random.key(0))

    @parameterized.parameters((np.ones(0), r"\(0,\)"), (np.ones((2, 3)), r"\(2, 3\)"), (np.float64(1), r"\(\)"))
    def test_weights_that_are_no_vector(self, weights, shape):
        with self.assertRaisesRegex(ValueError, f"weights.*K \\+ 1.*{shape}"):
            unroll(adding_process(()), weights, (), (), jax.random.key(0))

    @parameterized.parameters(0, -2)
    def test_segment_without_length(self, segment):
        with self.assertRaisesRegex(ValueError, f"segment={segment} must be at least 1"):
            unroll(
                adding_process(jnp.arange(3)), np.ones(4), (), (), jax.random.key(0), memory="segments", segment=segment
            )

    def test_unknown_memory(self):
        with self.assertRaisesRegex(ValueError, "memory='all' is unknown.*residuals.*recompute.*segments"):
            unroll(adding_process(jnp.arange(3)), np.ones(4), (), (), jax.random.key(0), memory="all")

    def test_keys_of_init_and_inputs_differ(self):
        process = adding_process(None)._replace(
            init=lambda meta, task, key: jax.random.uniform(key),
            inputs=lambda meta, task, key: jax.random.uniform(key)[None],
            loss=lambda meta, state, input, task: (state, {"shown": input}),
        )
        draws = [
            run(process, np.ones(1)),
            compiled(lambda k: unroll(process, np.ones(1), (), (), k))(jax.random.key(1)),
        ]
        values = [float(x) for draw in draws for x in (draw.losses[0], draw.metrics["shown"][0])]
        self.assertLen(set(values), 4)


class Counted:
    """A scalar process x -> x + meta whose loss counts, at run time, how often it is evaluated."""

    def __init__(self):
        self.calls = collections.Counter()

        def loss(meta, state, input, task):
            jax.debug.callback(lambda state: self.calls.update([round(float(state))]), state)
            return state**2, {}

        self.process = LearningProcess(
            init=lambda meta, task, key: jnp.zeros(()),
            inputs=lambda meta, task, key: (),
            step=lambda meta, state, input, task: state + meta,
            loss=loss,
        )

    def of(self, function, *arguments):
        """States judged, with multiplicity, while `function` runs."""
        function = jax.jit(function)
        self.calls.clear()
        jax.block_until_ready(function(*arguments))
        jax.effects_barrier()
        return dict(self.calls)


class ZeroWeightsCostNothingTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.counted = Counted()

    def value(self, weights, meta=1.0, **options):
        return unroll(self.counted.process, weights, meta, (), jax.random.key(0), **options).value

    @parameterized.parameters(
        (objectives.terminal(5), {5: 1}),
        (objectives.every_update(5), {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}),
        (objectives.discounted(5, 0.9), {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}),
        (SPARSE, {1: 1, 4: 1}),
        (np.array([1.0, 0, 0]), {0: 1}),
        (np.zeros(4), {}),
    )
    def test_known_and_traced_weights(self, weights, expected):
        self.assertEqual(self.counted.of(lambda: self.value(weights)), expected)
        self.assertEqual(self.counted.of(self.value, jnp.asarray(weights, jnp.float32)), expected)

    def test_in_segments(self):
        self.assertEqual(self.counted.of(lambda w: self.value(w, memory="segments", segment=2), SPARSE), {1: 1, 4: 1})

    def test_when_annealed(self):
        anneal = lambda progress: self.value(objectives.annealed(3, progress))
        self.assertEqual(self.counted.of(anneal, 0.5), {1: 1, 2: 1, 3: 1})
        self.assertEqual(self.counted.of(anneal, 1.0), {3: 1})

    def test_side_by_side(self):
        """Under vmap over tasks, too: the weights are shared, so that skipping remains a branch."""
        metas = jnp.ones(3)
        for weights in (SPARSE, jnp.asarray(SPARSE)):
            of_tasks = jax.vmap(lambda meta, w=weights: self.value(w, meta))
            self.assertEqual(self.counted.of(of_tasks, metas), {1: 3, 4: 3})

    @parameterized.parameters(objectives.terminal(5), SPARSE)
    def test_in_the_gradient(self, *weights):
        weights = np.array(weights)
        estimate = lambda w: exact(self.counted.process, w, memory="residuals")(1.0, (), jax.random.key(0))
        expected = {int(k): 1 for k in np.flatnonzero(weights)}
        self.assertEqual(self.counted.of(lambda: estimate(weights)), expected)
        self.assertEqual(self.counted.of(estimate, jnp.asarray(weights, jnp.float32)), expected)

    def test_a_loss_that_is_not_finite_does_not_matter_where_its_weight_is_zero(self):
        process = self.counted.process._replace(loss=lambda meta, state, input, task: (jnp.log(state - 2.5), {}))
        weights = np.array([0.0, 0.0, 0.0, 1.0, 2.0])
        for w in (weights, jnp.asarray(weights)):
            estimate = jax.jit(exact(process, w))(1.0, (), jax.random.key(0))
            chex.assert_trees_all_close(estimate.gradient, 3 / 0.5 + 2 * 4 / 1.5, rtol=1e-5)


class DtypesTest(parameterized.TestCase):
    @parameterized.product(dtype=("bfloat16", "float32"), memory=("residuals", "recompute", "segments"))
    def test_nothing_is_promoted(self, dtype, memory):
        process = LearningProcess(
            init=lambda meta, task, key: meta,
            inputs=lambda meta, task, key: jnp.ones(4, dtype),
            step=lambda meta, state, input, task: state * meta * input,
            loss=lambda meta, state, input, task: (state.sum(), {"half": state / 2}),
        )
        estimate = jax.eval_shape(
            exact(process, objectives.discounted(4, 0.9), memory=memory), jnp.ones(2, dtype), (), jax.random.key(0)
        )
        trajectory = estimate.trajectory
        chex.assert_type(
            [estimate.gradient, trajectory.value, trajectory.final, trajectory.losses, trajectory.metrics["half"]],
            [jnp.dtype(dtype)] * 5,
        )
        chex.assert_shape([trajectory.losses, trajectory.metrics["half"]], [(5,), (5, 2)])


if __name__ == "__main__":
    absltest.main()
