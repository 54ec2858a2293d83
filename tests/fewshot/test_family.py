"""Each algorithm against MAML's loop written by hand, state by state, where it must coincide with it or a variant."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from metalearn.core import exact, objectives, unroll
from metalearn.fewshot.encoders import EncoderParams, encode, resnet12
from metalearn.fewshot.family import ALGORITHMS, Setting, Weights, algorithm, learner
from metalearn.fewshot.family.forward import relaxed_mask
from metalearn.fewshot.family.npbml import inner_rule
from metalearn.fewshot.family.rules import spectral_product
from metalearn.fewshot.heads import Head
from tests.core.problems import compiled
from tests.fewshot import slow_encoder, tiny


def weights_of(meta):
    return Weights(meta["body"], meta["head"])


def states(of, meta, task, steps=tiny.STEPS):
    """The parameters of the K + 1 states, by single steps of the process.

    Nothing is compiled as a whole: operation by operation, what is compiled for one algorithm serves them all.
    """
    key, task = jax.random.key(0), of.process.prepare(meta, task)
    state, rows = of.process.init(meta, task, key), of.process.inputs(meta, task, key)
    params = [state.params]
    for k in range(steps):
        state = of.process.step(meta, state, jax.tree.map(lambda x, k=k: x[k], rows), task)
        params.append(state.params)
    return params


def estimate(of, meta, task, seed=0):
    objective = of.objective(0) if callable(of.objective) else of.objective
    return compiled(of.estimator(of.process, objective))(meta, task, jax.random.key(seed))


def unroll_values(of, meta, task):
    """The trajectory, every state but the first judged."""
    weights = objectives.every_update(tiny.STEPS)
    return compiled(lambda meta: unroll(of.process, weights, meta, task, jax.random.key(0)))(meta)


def judged(of, meta, params, task):
    """Loss of a state with these parameters."""
    task = of.process.prepare(meta, task)
    state = of.process.init(meta, task, jax.random.key(0))._replace(params=params)
    return of.process.loss(meta, state, None, task)[0]


RESNET = resnet12((3, 3), channels=1, size=tiny.SIZE, convolution="direct")

# The singular vectors of GAP are held constant. NPBML's gradients are tested in test_npbml.py.
UNLIKE_SLOPES = ("gap", "npbml")


class FamilyTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.addClassCleanup(jax.config.update, "jax_disable_most_optimizations", False)
        jax.config.update("jax_disable_most_optimizations", True)  # nearly all of the time is spent compiling

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

    def assert_descends(self, start, moved, loss):
        """Along random directions the step is minus the rate times the slope of the loss."""
        start, moved = (jax.tree.map(np.asarray, tree) for tree in (start, moved))
        for seed in range(3):
            direction = tiny.randomised(jax.tree.map(np.zeros_like, start), seed)
            above, below = (tiny.shifted(start, direction, size) for size in (1e-6, -1e-6))
            slope = (loss(above) - loss(below)) / 2e-6
            moves = jax.tree.map(lambda m, w, d: np.vdot(m - w, d), moved, start, direction)
            self.assertGreater(abs(slope), 1e-3)
            np.testing.assert_allclose(sum(jax.tree.leaves(moves)), -self.rate * slope, rtol=1e-5)

    def assert_same(self, found, expected, rtol=1e-9):
        chex.assert_trees_all_close(found, expected, rtol=rtol, atol=1e-12)


class GradientTest(FamilyTest):
    """Meta-gradients."""

    def along(self, gradient, direction):
        return sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))

    def slope(self, meta, direction, only):
        value = lambda sign: tiny.slow_value(
            tiny.shifted(weights_of(meta), weights_of(direction), sign * 1e-6),
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

    def test_without_a_rate_it_is_the_query_gradient_at_the_start(self):
        """And moving the rates moves the loss by the product of the two gradients."""
        of, meta = self.of("meta_sgd")
        weights = weights_of(meta)
        meta["rates"] = jax.tree.map(np.zeros_like, meta["rates"])
        _, support = tiny.value_and_gradient(weights, self.task.support_x, self.task.support_y)
        _, query = tiny.value_and_gradient(weights, self.task.query_x, self.task.query_y)
        found = estimate(of, meta, self.task).gradient
        self.assert_same(weights_of(found), query)
        self.assert_same(found["rates"], jax.tree.map(lambda s, q: -tiny.STEPS * s * q, support, query))

    @parameterized.parameters(
        *(
            name
            for name in ALGORITHMS
            if algorithm(name, tiny.setting()).estimator is exact and name not in UNLIKE_SLOPES
        )
    )
    @pytest.mark.slow
    def test_on_resnet12_exact_gradients_are_the_slopes(self, name):
        """Of the objective, along a random direction of all meta-parameters."""
        of, meta = self.of(name, encoder=RESNET)
        objective = of.objective(0) if callable(of.objective) else of.objective
        value = compiled(lambda meta: unroll(of.process, objective, meta, self.task, jax.random.key(0)).value)
        direction = tiny.randomised(jax.tree.map(np.zeros_like, meta), seed=1)
        above, below = (value(tiny.shifted(meta, direction, size)) for size in (1e-6, -1e-6))
        found = self.along(estimate(of, meta, self.task).gradient, direction)
        np.testing.assert_allclose(found, (above - below) / 2e-6, rtol=1e-4)

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
        part = {"boil": lambda w: w.body, "anil": lambda w: w.head}.get(name, lambda w: w)
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
        found = of.process.init(meta, self.task, jax.random.key(0)).params
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

    def test_on_resnet12_a_context_is_maml_on_the_offsets_of_one_convolution(self):
        """The first of the last block but one."""
        of, meta = self.of("cavia", {"size": 3}, encoder=RESNET)
        meta["film"] = np.concatenate([np.zeros((3, 3)), np.eye(3)], axis=1)

        def loss(context, x, y):
            weights = weights_of(meta)
            (first, *rest), *blocks = weights.body.norms
            shifted = first._replace(offset=first.offset + context)
            body = weights.body._replace(norms=((shifted, *rest), *blocks))
            scores = encode(RESNET, body, x)[0] @ weights.head.weights + weights.head.bias
            return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(len(y)), y])

        expected = [np.zeros(3)]
        for _ in range(tiny.STEPS):
            gradient = jax.grad(loss)(expected[-1], self.task.support_x, self.task.support_y)
            expected.append(expected[-1] - self.rate * np.asarray(gradient))
        found = states(of, meta, self.task)
        self.assert_same(found, expected)
        value = loss(expected[-1], self.task.query_x, self.task.query_y)
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

    def descent(self, factor=1.0, rate=0.3, decay=0.0, momentum=0.9):
        """MAML's learner on `factor` times its loss, by Nesterov's momentum with weight decay; its states."""
        _, meta = self.of("maml")
        loss = lambda m, w, i, t: factor * tiny.loss(w, *t[:2])
        process = learner(tiny.setting(), inner_loss=loss, rule=inner_rule(rate, momentum, decay))
        return states(algorithm("maml", tiny.setting())._replace(process=process), meta, self.task, steps=3)

    def test_momentum_and_decay_are_those_of_pytorch(self):
        """torch.optim.SGD(momentum, nesterov=True, weight_decay), in numpy."""
        expected = [weights_of(self.of("maml")[1])]
        buffer = jax.tree.map(np.zeros_like, expected[0])
        for _ in range(3):
            _, gradient = tiny.value_and_gradient(expected[-1], self.task.support_x, self.task.support_y)
            gradient = jax.tree.map(lambda g, w: g + 0.2 * w, gradient, expected[-1])
            buffer = jax.tree.map(lambda b, g: 0.9 * b + g, buffer, gradient)
            expected.append(jax.tree.map(lambda w, g, b: w - 0.3 * (g + 0.9 * b), expected[-1], gradient, buffer))
        self.assert_same(self.descent(decay=0.2), expected)

    def test_a_multiple_of_the_loss_is_a_multiple_of_the_rate(self):
        """Whatever the momentum; weight decay then counts relative to the loss."""
        found = self.descent(factor=2.5, decay=0.2)
        self.assert_same(found, self.descent(rate=2.5 * 0.3, decay=0.2 / 2.5))
        other = self.descent(rate=2.5 * 0.3, decay=0.2)[-1]
        self.assertGreater(np.abs(other.head.weights - found[-1].head.weights).max(), 1e-3)

    def plus_plus(self):
        """MAML++ and its meta-parameters, with the weights of each state besides the norms."""
        of, meta = self.of("maml_plus_plus")
        body = lambda k, kernels: EncoderParams(kernels, jax.tree.map(lambda x: x[k], meta["norms"]))
        return of, meta, lambda k, params: Weights(body(k, params["kernels"]), params["head"])

    def test_maml_plus_plus_has_rates_and_norms_for_every_state(self):
        of, meta, weights = self.plus_plus()
        params = {"kernels": meta["kernels"], "head": meta["head"]}
        found = unroll_values(of, meta, self.task)
        for k in range(tiny.STEPS + 1):
            value, _ = tiny.value_and_gradient(weights(k, params), self.task.query_x, self.task.query_y)
            if k > 0:
                np.testing.assert_allclose(found.losses[k], value, rtol=1e-9)
            if k < tiny.STEPS:
                _, gradient = tiny.value_and_gradient(weights(k, params), self.task.support_x, self.task.support_y)
                gradient = {"kernels": gradient.body.kernels, "head": gradient.head}
                params = jax.tree.map(lambda p, r, g, k=k: p - r[k] * g, params, meta["rates"], gradient)
        self.assert_same(found.final.params, params)

    def test_maml_plus_plus_at_one_rate_and_with_one_norm_is_maml_whose_norms_stay(self):
        of, meta, weights = self.plus_plus()
        meta["rates"] = jax.tree.map(lambda x: np.full_like(x, self.rate), meta["rates"])
        meta["norms"] = jax.tree.map(lambda x: np.stack([x[0]] * len(x)), meta["norms"])
        start = weights(0, meta)
        moves = tiny.rates_like(start, self.rate)
        still = moves._replace(body=moves.body._replace(norms=tiny.rates_like(start, 0.0).body.norms))
        last = tiny.slow_states(start, self.task, still)[-1]
        found = unroll_values(of, meta, self.task).final.params
        self.assert_same(found, {"kernels": last.body.kernels, "head": last.head})

    def test_maml_plus_plus_anneals_to_the_last_state(self):
        of = algorithm("maml_plus_plus", tiny.setting(), annealing=10)
        for step, expected in ((0, [0, 0.5, 0.5]), (5, [0, 0.25, 0.75]), (10, [0, 0, 1]), (99, [0, 0, 1])):
            np.testing.assert_allclose(of.objective(step), expected, atol=1e-12)
        with self.assertRaisesRegex(ValueError, "annealing=0"):
            algorithm("maml_plus_plus", tiny.setting(), annealing=0)

    @parameterized.parameters(
        ("meta_curvature",), ("t_net",), ("warp_grad",), ("alfa", {"decay": 0.0}), ("gap",), ("approximate_gap",)
    )
    def test_as_initialised_it_is_maml(self, name, options=None):
        self.check_as_initialised(name, options)

    @pytest.mark.slow
    def test_as_initialised_metal_is_maml(self):
        self.check_as_initialised("metal")

    def check_as_initialised(self, name, options=None):
        """From random initial weights; what the algorithm adds is as its `init` leaves it."""
        of, meta = self.of(name, options)
        begun = compiled(of.init)(jax.random.key(1))
        self.assertNotEmpty(begun.keys() - {"body", "head"}, name)
        self.assert_same(states(of, begun | {k: meta[k] for k in ("body", "head")}, self.task), self.slow(meta))

    def first_update(self, of, meta):
        """Of the algorithm, and the gradient of the support loss, both at the start."""
        _, gradient = tiny.value_and_gradient(weights_of(meta), self.task.support_x, self.task.support_y)
        start, moved = states(of, meta, self.task, steps=1)
        return jax.tree.map(lambda a, b: np.asarray(a - b), moved, start), jax.tree.map(np.asarray, gradient)

    def test_curvature_along_every_axis(self):
        of, meta = self.of("meta_curvature")
        update, gradient = self.first_update(of, meta)
        (kernel,), ((filter_, inputs, outputs),) = gradient.body.kernels[1], meta["curvature"].body.kernels[1]
        expected = np.einsum("pq,ij,ok,qjk->pio", filter_, inputs, outputs, kernel.reshape(9, 3, 3))
        self.assert_same(update.body.kernels[1][0], -self.rate * expected.reshape(3, 3, 3, 3))
        inputs, outputs = meta["curvature"].head.weights
        self.assert_same(update.head.weights, -self.rate * inputs @ gradient.head.weights @ outputs.T)
        self.assert_same((update.body.norms, update.head.bias), self.scaled((gradient.body.norms, gradient.head.bias)))

    def scaled(self, tree):
        return jax.tree.map(lambda x: -self.rate * x, tree)

    @parameterized.parameters(False, True)
    def test_gap_scales_singular_values(self, approximate):
        of, meta = self.of("approximate_gap" if approximate else "gap")
        update, gradient = self.first_update(of, meta)
        for found, kernel, m in zip(
            *map(jax.tree.leaves, (update.body.kernels, gradient.body.kernels, meta["scales"])), strict=True
        ):
            matrix = kernel.reshape(-1, kernel.shape[-1]).T
            factor = np.log(1 + np.exp(2 * m)) / 2
            u, s, v = np.linalg.svd(matrix, full_matrices=False)
            expected = factor[:, None] * matrix if approximate else u @ np.diag(factor * s) @ v
            self.assert_same(found, (-self.rate * expected.T).reshape(kernel.shape))
        others = lambda weights: (weights.body.norms, weights.head)
        self.assert_same(others(update), self.scaled(others(gradient)))

    def test_the_singular_vectors_are_constants_to_the_meta_gradient(self):
        draw = np.random.default_rng(0).normal
        gradient, scales, seen = draw(size=(3, 5)), np.array([0.5, 2.0, 3.0]), draw(size=(3, 5))
        u, _, _ = np.linalg.svd(gradient, full_matrices=False)
        found = compiled(jax.grad(lambda g: jnp.vdot(spectral_product(scales, g), seen)))(gradient)
        np.testing.assert_allclose(found, u @ np.diag(scales) @ u.T @ seen, rtol=1e-10)
        self.assertGreater(np.vdot(gradient, spectral_product(scales, gradient)), 0.49 * np.vdot(gradient, gradient))

    def test_gap_decomposes_the_gradients_of_a_batch_one_by_one(self):
        # A batched decomposition waits, on a thread that runs the program, for others that run the program as well.
        gradients, scales = np.random.default_rng(0).normal(size=(4, 3, 5)), np.array([0.5, 2.0, 3.0])
        batched = jax.jit(jax.vmap(spectral_product, in_axes=(None, 0)))
        for found, gradient in zip(batched(scales, gradients), gradients, strict=True):
            u, s, v = np.linalg.svd(gradient, full_matrices=False)
            np.testing.assert_allclose(found, u @ np.diag(scales * s) @ v, rtol=1e-10)
        calls = [line for line in batched.lower(scales, gradients).as_text().splitlines() if "gesdd" in line]
        self.assertTrue(calls)
        self.assertFalse([line for line in calls if "4x" in line])

    def test_alfa_step_by_step(self):
        of, meta = self.of("alfa")
        params, (hidden, last) = weights_of(meta), meta["generator"]
        expected, count = [params], len(jax.tree.leaves(params))
        for k in range(tiny.STEPS):
            _, gradient = tiny.value_and_gradient(expected[-1], self.task.support_x, self.task.support_y)
            leaves, gradients = jax.tree.leaves(expected[-1]), list(map(np.asarray, jax.tree.leaves(gradient)))
            means = np.array([leaf.mean() for leaf in leaves + gradients])
            h = 1 + np.maximum(means @ hidden.weights + hidden.bias, 0) @ last.weights + last.bias
            moved = [
                (1 - meta["decays"][k, i] * h[count + i]) * leaves[i] - meta["rates"][k, i] * h[i] * gradients[i]
                for i in range(count)
            ]
            expected.append(jax.tree.unflatten(jax.tree.structure(params), moved))
        self.assert_same(states(of, meta, self.task), expected)

    def test_alfa_begins_with_weight_decay(self):
        of = algorithm("alfa", tiny.setting(), decay=0.1)
        decays = compiled(of.init)(jax.random.key(0))["decays"]
        np.testing.assert_allclose(decays, np.full((tiny.STEPS, 8), 0.1 * self.rate), rtol=1e-12)


class ForwardTest(FamilyTest):
    def effective(self, meta, params):
        """The weights in force of a T-Net."""
        of_kernels, of_head = meta["transforms"]
        kernels = jax.tree.map(lambda kernel, t: np.einsum("yxij,jo->yxio", kernel, t), params.body.kernels, of_kernels)
        head = Head(
            np.einsum("ij,jo->io", params.head.weights, of_head), np.einsum("j,jo->o", params.head.bias, of_head)
        )
        return Weights(EncoderParams(kernels, params.body.norms), head)

    def slow_t_net(self, meta, masks):
        """W' = W - rate * dL/dW T^T M T with the masks of kernels and head."""
        weights, (of_kernels, of_head) = self.effective(meta, weights_of(meta)), meta["transforms"]
        expected = [weights]
        metric = lambda t, mask: t.T @ np.diag(mask) @ t
        for _ in range(tiny.STEPS):
            _, gradient = tiny.value_and_gradient(expected[-1], self.task.support_x, self.task.support_y)
            gradient = jax.tree.map(np.asarray, gradient)
            bent = jax.tree.map(lambda g, t, m: g @ metric(t, m), gradient.body.kernels, of_kernels, masks[0])
            head = Head(*(g @ metric(of_head, masks[1]) for g in gradient.head))
            direction = Weights(EncoderParams(bent, gradient.body.norms), head)
            expected.append(jax.tree.map(lambda w, d: w - self.rate * d, expected[-1], direction))
        return expected

    @parameterized.parameters("t_net", "mt_net")
    def test_effective_weights_move_by_the_metric_of_the_transforms(self, name):
        of, meta = self.of(name)
        if name == "mt_net":  # all outputs move, but one of the second kernel and one way
            certain = lambda logits, still: np.where(np.arange(len(logits)) == still, -900.0, 900.0)
            ((first,), (second,)), head = meta["mask"]
            meta["mask"] = (((certain(first, -1),), (certain(second, 1),)), certain(head, 2))
            masks = (((np.ones(3),), (np.array([1, 0, 1]),)), np.array([1, 1, 0]))
        else:
            masks = (((np.ones(3),), (np.ones(3),)), np.ones(3))
        found = [self.effective(meta, jax.tree.map(np.asarray, params)) for params in states(of, meta, self.task)]
        self.assert_same(found, self.slow_t_net(meta, masks))
        value, _ = tiny.value_and_gradient(found[-1], self.task.query_x, self.task.query_y)
        np.testing.assert_allclose(judged(of, meta, states(of, meta, self.task)[-1], self.task), value, rtol=1e-9)

    def test_a_multiple_of_the_identity_squares_into_the_rate(self):
        of, meta = self.of("t_net")
        meta["transforms"] = jax.tree.map(lambda t: 1.5 * np.eye(len(t)), meta["transforms"])
        found = [self.effective(meta, jax.tree.map(np.asarray, params)) for params in states(of, meta, self.task)]
        rates = tiny.rates_like(found[0], 1.5**2 * self.rate)
        norms = tiny.rates_like(found[0], self.rate).body.norms
        self.assert_same(
            found, tiny.slow_states(found[0], self.task, rates._replace(body=rates.body._replace(norms=norms)))
        )

    def test_masks_are_drawn_with_the_chance_of_their_logits(self):
        logits = np.tile(np.array([-1.0, 0.0, 2.0]), (20_000, 1))
        mask = np.asarray(relaxed_mask(jax.random.key(0), logits, 0.1))
        chance = 1 / (1 + np.exp(-logits[0]))
        np.testing.assert_array_less(np.abs((mask > 0.5).mean(0) - chance), 5 * np.sqrt(0.25 / len(logits)))
        self.assertTrue(((mask >= 0) & (mask <= 1)).all())
        with self.assertRaisesRegex(ValueError, "temperature=0"):
            algorithm("mt_net", tiny.setting(), temperature=0)

    def test_a_mask_holds_for_the_whole_task(self):
        of, meta = self.of("mt_net")
        one, other = (of.process.inputs(meta, self.task, jax.random.key(seed))[1] for seed in (0, 1))
        self.assertEqual(one.shape, (tiny.STEPS, tiny.WAYS))
        np.testing.assert_array_equal(one[0], one[1])
        self.assertGreater(np.abs(one[0] - other[0]).min(), 1e-6)

    def test_the_warped_network_and_its_descent(self):
        of, meta = self.of("warp_grad")

        def loss(weights, x, y):
            """In numpy."""
            for (kernel,), (norm,), warp in zip(*weights.body, meta["warps"], strict=True):
                maps = slow_encoder.batch_norm(slow_encoder.convolution(x, kernel), norm)
                x = slow_encoder.convolution(slow_encoder.pool(slow_encoder.relu(maps)), warp)
            scores = x.mean((1, 2)) @ weights.head.weights + weights.head.bias
            return np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y])

        start, moved = states(of, meta, self.task, steps=1)
        self.assert_descends(start, moved, lambda weights: loss(weights, self.task.support_x, self.task.support_y))
        expected = loss(jax.tree.map(np.asarray, moved), self.task.query_x, self.task.query_y)
        np.testing.assert_allclose(judged(of, meta, moved, self.task), expected, rtol=1e-9)


class LossesTest(FamilyTest):
    def step(self, of, meta, rows, task):
        """What the first update makes of the weights."""
        if not hasattr(LossesTest, "compiled_step"):
            start = lambda meta, task: of.process.init(meta, task, None)
            LossesTest.compiled_step = compiled(lambda m, r, t: of.process.step(m, start(m, t), r, t).params)
        return LossesTest.compiled_step(meta, rows, task)

    def test_metal_descends_its_loss(self):
        of, meta = self.of("metal")
        learned = jax.tree.map(lambda x: np.asarray(x[0]), meta["losses"])

        def perceptron(layers, x):
            (hidden, last) = layers
            return np.maximum(x @ hidden.weights + hidden.bias, 0) @ last.weights + last.bias

        def adapted(learned, rows):
            rows = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
            leaves, structure = jax.tree.flatten(learned["net"])
            change = perceptron(learned["adapter"], rows.mean(0))
            leaves = [(1 + change[i]) * x + change[len(leaves) + i] for i, x in enumerate(leaves)]
            return perceptron(jax.tree.unflatten(structure, leaves), rows).mean()

        scores = compiled(lambda w, x: encode(tiny.ENCODER, w.body, x)[0] @ w.head.weights + w.head.bias)

        def loss(weights):
            support, query = (np.asarray(scores(weights, x)) for x in (self.task.support_x, self.task.query_x))
            means = np.array([leaf.mean() for leaf in jax.tree.leaves(weights)])
            log = lambda s: s - np.log(np.exp(s).sum(1, keepdims=True))
            surprise = -log(support)[np.arange(len(support)), self.task.support_y]
            entropy = -np.sum(np.exp(log(query)) * log(query), 1)
            of_support = zip(surprise, support, np.eye(3)[self.task.support_y], strict=True)
            rows_of_support = np.array([[s, *means, *row, *label] for s, row, label in of_support])
            rows_of_query = np.array([[*means, *row, e] for row, e in zip(query, entropy, strict=True)])
            learned_part = adapted(learned["support"], rows_of_support) + adapted(learned["query"], rows_of_query)
            return surprise.mean() + learned_part

        rows = jax.tree.map(lambda x: x[0], meta["losses"])
        self.assert_descends(weights_of(meta), self.step(of, meta, rows, self.task), loss)

    def test_query_images_drive_updates_and_their_labels_do_not(self):
        of, meta = self.of("metal")
        rows = jax.tree.map(lambda x: x[0], meta["losses"])
        step = lambda task: self.step(of, meta, rows, task)
        found = step(self.task)
        self.assert_same(step(self.task._replace(query_y=self.task.query_y[::-1])), found)
        other = step(self.task._replace(query_x=tiny.new_task(3).query_x))
        self.assertGreater(np.abs(other.head.weights - found.head.weights).max(), 1e-6)


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
        loss, metrics = of.process.loss(meta, (), None, self.task)
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
        state = of.process.init(meta, task, jax.random.key(0))
        value = lambda meta, task: of.process.loss(meta, state, None, task)[0]
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
