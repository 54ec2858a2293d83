"""Each algorithm against MAML's loop written by hand, state by state, where it must coincide with it or a variant."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.fewshot.encoders import encode
from metalearn.fewshot.family import ALGORITHMS, Setting, Weights, algorithm
from tests.core.problems import compiled
from tests.fewshot import tiny


def weights_of(meta):
    return Weights(meta["body"], meta["head"])


def states(of, meta, task, steps=tiny.STEPS):
    """The parameters of the K + 1 states, by single steps of the process."""
    key = jax.random.key(0)
    state = compiled(of.process.init)(meta, task, key)
    rows = of.process.inputs(meta, task, key)
    step, params = compiled(of.process.step), [state.params]
    for k in range(steps):
        state = step(meta, state, jax.tree.map(lambda x, k=k: x[k], rows), task)
        params.append(state.params)
    return params


def estimate(of, meta, task, seed=0):
    objective = of.objective(0) if callable(of.objective) else of.objective
    return compiled(of.estimator(of.process, objective))(meta, task, jax.random.key(seed))


def judged(of, meta, params, task):
    """Loss of a state with these parameters."""

    def value(meta, params, task):
        state = of.process.init(meta, task, jax.random.key(0))._replace(params=params)
        return of.process.loss(meta, state, None, task)[0]

    return compiled(value)(meta, params, task)


class FamilyTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.task = tiny.new_task()
        self.rate = tiny.setting().rate

    def of(self, name, options=None, **changes):
        """The algorithm, and random meta-parameters for it."""
        of = algorithm(name, tiny.setting(**changes), **(options or {}))
        return of, tiny.randomised(
            jax.tree.map(lambda x: np.zeros(x.shape), jax.eval_shape(of.init, jax.random.key(0)))
        )

    def slow(self, meta, only=""):
        weights = weights_of(meta)
        return tiny.slow_states(weights, self.task, tiny.rates_like(weights, self.rate, only))

    def assert_same(self, found, expected, rtol=1e-9):
        chex.assert_trees_all_close(found, expected, rtol=rtol, atol=1e-12)


class GradientTest(FamilyTest):
    """Meta-gradients."""

    def along(self, gradient, direction):
        return sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))

    def slope(self, meta, direction, only):
        value = lambda sign: tiny.slow_value(
            jax.tree.map(lambda w, d: w + sign * 1e-6 * d, weights_of(meta), weights_of(direction)),
            self.task,
            tiny.rates_like(weights_of(meta), self.rate, only),
        )
        return (value(1) - value(-1)) / 2e-6

    @parameterized.parameters(("maml", ""), ("anil", ".head"))
    def test_exact_against_finite_differences_of_the_slow_loop(self, name, only):
        of, meta = self.of(name)
        found = estimate(of, meta, self.task)
        last = self.slow(meta, only)[-1]
        value, query_gradient = tiny.value_and_gradient(last, self.task.query_x, self.task.query_y)
        np.testing.assert_allclose(found.trajectory.value, value, rtol=1e-9)
        direction = tiny.randomised(jax.tree.map(np.zeros_like, meta), seed=1)
        slope = self.slope(meta, direction, only)
        np.testing.assert_allclose(self.along(found.gradient, direction), slope, rtol=1e-5)
        first_order = self.along(query_gradient, weights_of(direction))
        self.assertGreater(abs(first_order - slope), 1e-3 * abs(slope))  # the second order is really there

    def test_first_order_is_the_query_gradient_at_the_adapted_weights(self):
        of, meta = self.of("fomaml")
        _, expected = tiny.value_and_gradient(self.slow(meta)[-1], self.task.query_x, self.task.query_y)
        self.assert_same(weights_of(estimate(of, meta, self.task).gradient), expected)

    def test_reptile_is_the_displacement(self):
        of, meta = self.of("reptile")
        expected = jax.tree.map(lambda a, b: a - b, weights_of(meta), self.slow(meta)[-1])
        self.assert_same(weights_of(estimate(of, meta, self.task).gradient), expected)


class StartsTest(FamilyTest):
    @parameterized.parameters(("maml", ""), ("fomaml", ""), ("boil", ".body"), ("anil", ".head"))
    def test_what_moves(self, name, only):
        of, meta = self.of(name)
        expected = self.slow(meta, only)
        if name == "anil":  # the state carries the features of the body, which stays
            state, step = compiled(of.process.init)(meta, self.task, None), compiled(of.process.step)
            for k in range(tiny.STEPS):
                state = step(meta, state, (), self.task)
                self.assert_same(state[0].params, expected[k + 1].head)
            return
        part = (lambda w: w.body) if name == "boil" else lambda w: w
        self.assert_same(states(of, meta, self.task), [part(w) for w in expected])

    def test_imaml_is_tied_to_its_start(self):
        of, meta = self.of("imaml", {"strength": 0.7})
        expected = [weights_of(meta)]
        for _ in range(tiny.STEPS):
            _, gradient = tiny.value_and_gradient(expected[-1], self.task.support_x, self.task.support_y)
            expected.append(
                jax.tree.map(lambda w, g, s: w - self.rate * (g + 0.7 * (w - s)), expected[-1], gradient, expected[0])
            )
        self.assert_same(states(of, meta, self.task), expected)
        with self.assertRaisesRegex(ValueError, "strength=0"):
            algorithm("imaml", tiny.setting(), strength=0.0)

    def test_one_row_for_all_ways(self):
        """No gradient reaches the body at first, and relabelling the classes relabels the adapted head."""
        of, meta = self.of("unicorn_maml")
        found = states(of, meta, self.task)
        self.assert_same(found[1].body, meta["body"])
        self.assertGreater(np.abs(found[2].body.kernels[0][0] - meta["body"].kernels[0][0]).max(), 1e-4)
        order = np.array([2, 0, 1])
        relabelled = self.task._replace(support_y=order[self.task.support_y])
        other = states(of, meta, relabelled)[-1]
        self.assert_same(other.body, found[-1].body)
        self.assert_same(other.head.weights[:, order], found[-1].head.weights)
        self.assert_same(other.head.bias[order], found[-1].head.bias)

    def test_proto_maml_starts_as_the_prototypical_network(self):
        of, meta = self.of("proto_maml")
        metric, _ = self.of("prototypical")
        found = states(of, meta, self.task)
        loss, _ = compiled(metric.process.loss)(meta, (), None, self.task)
        np.testing.assert_allclose(judged(of, meta, found[0], self.task), loss, rtol=1e-12)
        rates = tiny.rates_like(found[0], self.rate)
        self.assert_same(found, tiny.slow_states(jax.tree.map(np.asarray, found[0]), self.task, rates))

    def test_l2f_that_forgets_nothing_is_maml(self):
        of, meta = self.of("l2f")
        last = meta["attenuator"][-1]
        kept = last._replace(weights=0 * last.weights, bias=np.full_like(last.bias, 50.0))
        meta["attenuator"] = (*meta["attenuator"][:-1], kept)
        self.assert_same(states(of, meta, self.task), self.slow(meta))

    def test_l2f_shrinks_by_what_the_gradients_say(self):
        of, meta = self.of("l2f")
        _, gradient = tiny.value_and_gradient(weights_of(meta), self.task.support_x, self.task.support_y)
        (hidden, last), means = meta["attenuator"], np.array([np.mean(g) for g in jax.tree.leaves(gradient)])
        units = np.maximum(means @ hidden.weights + hidden.bias, 0)
        gamma = 1 / (1 + np.exp(-(units @ last.weights + last.bias)))
        expected = [g * w for g, w in zip(gamma, jax.tree.leaves(weights_of(meta)), strict=True)]
        found = compiled(of.process.init)(meta, self.task, jax.random.key(0)).params
        self.assert_same(jax.tree.leaves(found), expected)

    def test_a_context_that_shifts_maps_is_maml_on_the_offsets(self):
        of, meta = self.of("cavia", {"size": 3})
        meta["film"] = np.concatenate([np.zeros((3, 3)), np.eye(3)], axis=1)
        found = states(of, meta, self.task)
        expected = self.slow(meta, ".body.norms[0][0].offset")
        offset = lambda w: w.body.norms[0][0].offset
        np.testing.assert_allclose(found, [offset(w) - offset(expected[0]) for w in expected], rtol=1e-9)
        value, _ = tiny.value_and_gradient(expected[-1], self.task.query_x, self.task.query_y)
        np.testing.assert_allclose(judged(of, meta, found[-1], self.task), value, rtol=1e-9)

    def test_a_context_that_scales_maps_is_maml_on_scales_and_offsets(self):
        of, meta = self.of("cavia", {"size": 3})
        meta["film"] = np.concatenate([np.eye(3), np.zeros((3, 3))], axis=1)
        norm = meta["body"].norms[0][0]
        context = np.array([0.1, -0.2, 0.3])
        factor = 1 + context
        scaled = norm._replace(scale=norm.scale * factor, offset=norm.offset * factor)
        body = meta["body"]._replace(norms=((scaled,), *meta["body"].norms[1:]))
        value, _ = tiny.value_and_gradient(Weights(body, meta["head"]), self.task.query_x, self.task.query_y)
        np.testing.assert_allclose(judged(of, meta, context, self.task), value, rtol=1e-9)


class RulesTest(FamilyTest):
    def test_meta_sgd_at_one_rate_is_maml(self):
        of, meta = self.of("meta_sgd")
        meta["rates"] = jax.tree.map(lambda x: np.full_like(x, self.rate), weights_of(meta))
        self.assert_same(states(of, meta, self.task), self.slow(meta))

    def test_meta_sgd_has_a_rate_for_every_weight(self):
        of, meta = self.of("meta_sgd")
        expected = tiny.slow_states(weights_of(meta), self.task, meta["rates"])
        self.assert_same(states(of, meta, self.task), expected)

    def test_begins_at_maml(self):
        of = algorithm("meta_sgd", tiny.setting())
        meta = compiled(of.init)(jax.random.key(0))
        self.assert_same(meta["rates"], tiny.rates_like(weights_of(meta), self.rate))


class MetricTest(FamilyTest):
    def features(self, meta):
        return [np.asarray(encode(tiny.ENCODER, meta["body"], x)[0]) for x in (self.task.support_x, self.task.query_x)]

    def expected(self, support, query):
        centres = np.stack([support[self.task.support_y == way].mean(0) for way in range(tiny.WAYS)])
        distances = np.sum((query[:, None] - centres) ** 2, -1)
        surprise = np.log(np.exp(-distances).sum(1)) + distances[np.arange(len(query)), self.task.query_y]
        return surprise.mean(), np.mean(distances.argmin(1) == self.task.query_y)

    @parameterized.parameters("prototypical", "nearest_centroid")
    def test_distances(self, name):
        of, meta = self.of(name)
        loss, metrics = compiled(of.process.loss)(meta, (), None, self.task)
        features = self.features(meta)
        if name == "nearest_centroid":
            features = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in features]
        expected = self.expected(*features)
        np.testing.assert_allclose((loss, metrics["accuracy"]), expected, rtol=1e-9)


class NormalisationTest(FamilyTest):
    """Who sees whom. The adapted weights never depend on the query set."""

    def query_losses(self, normalisation, statistics=None):
        """Losses of the first query image alone, with two different companies."""
        of, meta = self.of("maml", normalisation=normalisation, statistics=statistics)
        task, logits = self.task._replace(query_x=self.task.query_x[:3]), []
        state = compiled(of.process.init)(meta, task, jax.random.key(0))
        value = compiled(lambda meta, task: of.process.loss(meta, state, None, task)[0])
        for company in (task.query_x, np.concatenate([task.query_x[:1], 3 + tiny.new_task(5).query_x[:2]])):
            # The mean over images is linear in each label, so differences between labels of the first are its own.
            label = lambda way, company=company: task._replace(query_x=company, query_y=np.array([way, 0, 0]))
            per_label = [value(meta, label(way)) for way in range(tiny.WAYS)]
            logits.append(-3 * (np.array(per_label) - per_label[0]))
        return logits

    def test_transductive(self):
        one, other = self.query_losses("transductive")
        self.assertGreater(np.abs(one - other).max(), 1e-3)

    def test_support(self):
        one, other = self.query_losses("support")
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
        _, meta = self.of("maml")
        _, statistics = encode(tiny.ENCODER, meta["body"], self.task.support_x)
        scores = encode(tiny.ENCODER, meta["body"], self.task.query_x[:1], statistics)[0] @ meta["head"].weights
        scores = np.asarray(scores + meta["head"].bias)[0]
        np.testing.assert_allclose(one, scores - scores[0], rtol=1e-9, atol=1e-9)

    def test_running(self):
        _, meta = self.of("maml")
        _, statistics = encode(tiny.ENCODER, meta["body"], tiny.new_task(9).support_x)
        one, other = self.query_losses("running", statistics)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
        of, _ = self.of("maml", normalisation="running", statistics=statistics)
        features = encode(tiny.ENCODER, meta["body"], self.task.support_x, statistics)[0]
        probabilities = jax.nn.softmax(features @ meta["head"].weights + meta["head"].bias)
        expected = probabilities.T @ np.ones(len(features)) / len(features) - np.bincount(self.task.support_y) / 6
        moved = states(of, meta, self.task, steps=1)[1].head.bias  # its gradient: mean of probability minus truth
        np.testing.assert_allclose(moved, meta["head"].bias - self.rate * expected, rtol=1e-9)

    def test_the_mode_is_part_of_the_algorithm(self):
        self.assertEqual(algorithm("maml", tiny.setting(normalisation="support")).normalisation, "support")


class NamesTest(parameterized.TestCase):
    @parameterized.parameters(*ALGORITHMS)
    def test_every_algorithm_builds_and_moves_by_its_meta_gradient(self, name):
        """Shapes only: gradients for all meta-parameters, and the objective's states."""
        of = algorithm(name, tiny.setting())
        meta = jax.eval_shape(of.init, jax.random.key(0))
        task = tiny.new_task()
        objective = of.objective(jnp.zeros((), jnp.int32)) if callable(of.objective) else of.objective
        shapes = jax.eval_shape(of.estimator(of.process, objective), meta, task, jax.random.key(0))
        self.assertEqual(jax.tree.map(jnp.shape, shapes.gradient), jax.tree.map(jnp.shape, meta))
        self.assertIn("accuracy", shapes.trajectory.metrics)

    def test_errors_name_what_to_change(self):
        with self.assertRaisesRegex(ValueError, "algorithm='mama' is unknown.*maml.*prototypical"):
            algorithm("mama", tiny.setting())
        for wrong, message in (
            ({"ways": 1}, "ways=1 must be at least 2"),
            ({"steps": 0}, "steps=0"),
            ({"rate": 0.0}, "rate=0.0 must be positive"),
            ({"normalisation": "batch"}, "normalisation='batch' is unknown.*transductive"),
            ({"normalisation": "running"}, "needs statistics"),
            ({"statistics": ()}, "must have none"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                Setting(**({"encoder": tiny.ENCODER, "ways": 3} | wrong))


if __name__ == "__main__":
    absltest.main()
