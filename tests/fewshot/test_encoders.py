"""Encoders against loops in numpy, published parameter counts, and finite differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.fewshot.encoders import (
    Norm,
    encode,
    four_conv,
    max_pool,
    normalise,
    parameter_count,
    resnet12,
)
from tests.core.problems import compiled
from tests.fewshot import slow_encoder

WIDE = (64, 160, 320, 640)


def random_params(encoder, seed=0):
    """Scales of either sign, so that pooling and normalisation do not commute by accident."""
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda leaf: draw(size=leaf.shape), shapes)


def images(count, size, channels, seed=1):
    return np.random.default_rng(seed).normal(size=(count, size, size, channels))


class EncoderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))

    @parameterized.parameters("mean", "flatten")
    def test_four_conv_is_that_of_a_slow_loop(self, readout):
        encoder = four_conv(3, channels=2, size=9, readout=readout, blocks=2)
        params, x = random_params(encoder), images(4, 9, 2)
        maps = slow_encoder.four_conv(params, x)
        expected = maps.mean((1, 2)) if readout == "mean" else maps.reshape(4, -1)
        features, _ = compiled(lambda p, x: encode(encoder, p, x))(params, x)
        np.testing.assert_allclose(features, expected, atol=1e-12)
        self.assertEqual(features.shape[1], encoder.width)

    def test_a_first_layer_that_is_normalised_before_it_is_computed(self):
        """Nine inputs to a position and ten filters; with a tap, maps are computed first and then normalised."""
        encoder = four_conv(10, channels=1, size=6, blocks=2, convolution="patches")
        params, x = random_params(encoder), images(4, 6, 1)

        def value(params, x, tap):
            features, used = encode(encoder, params, x, None, tap)
            return jnp.sum(jnp.sin(features)) + sum(jnp.sum(m.mean + m.variance**2) for (m,) in used), features

        def slopes(tap):
            gradient = jax.grad(lambda p, x: value(p, x, tap)[0], argnums=(0, 1))
            along = jax.tree.map(jnp.cos, (params, x))
            return compiled(lambda p, x: (value(p, x, tap)[1], *jax.jvp(gradient, (p, x), along)))(params, x)

        found = slopes(None)
        np.testing.assert_allclose(found[0], slow_encoder.four_conv(params, x).mean((1, 2)), atol=1e-12)
        chex.assert_trees_all_close(found, slopes(lambda place, block, which, maps: maps), rtol=1e-9, atol=1e-9)

    def test_resnet12_is_that_of_a_slow_loop(self):
        encoder = resnet12((2, 3), channels=2, size=5)
        params, x = random_params(encoder), images(3, 5, 2)
        features, _ = compiled(lambda p, x: encode(encoder, p, x))(params, x)
        np.testing.assert_allclose(features, slow_encoder.resnet12(params, x).mean((1, 2)), atol=1e-12)

    @parameterized.parameters((128, 3, 445_824), (64, 3, 112_320), (32, 3, 28_512))
    def test_weights_of_four_conv(self, filters, channels, expected):
        params = jax.eval_shape(four_conv(filters, channels).init, jax.random.key(0))
        self.assertEqual(parameter_count(params.kernels), expected)
        self.assertEqual(parameter_count(params.norms), 4 * 2 * filters)

    @parameterized.parameters(((64, 128, 256, 512),), (WIDE,))
    def test_weights_of_resnet12(self, filters):
        params = jax.eval_shape(resnet12(filters).init, jax.random.key(0))
        expected = sum(9 * i * o + 2 * 9 * o * o + i * o for i, o in zip((3, *filters), filters, strict=False))
        self.assertEqual(parameter_count(params.kernels), expected)
        self.assertEqual(parameter_count(params.norms), 4 * 2 * sum(filters))

    @parameterized.parameters((84, 1600), (32, 256), (28, 64))
    def test_features_of_the_usual_images(self, size, flat):
        """84 -> 42 -> 21 -> 10 -> 5, 32 -> 2 and 28 -> 1."""
        for readout, width in (("flatten", flat), ("mean", 64)):
            encoder = four_conv(64, size=size, readout=readout)
            shape, _ = jax.eval_shape(
                lambda key, encoder=encoder, size=size: encode(
                    encoder, encoder.init(key), jnp.zeros((2, size, size, 3))
                ),
                jax.random.key(0),
            )
            self.assertEqual((shape.shape, encoder.width), ((2, width), width))

    def test_initialisation(self):
        params = compiled(four_conv(16, channels=3).init)(jax.random.key(0))
        for ((kernel,), (norm,)), inputs in zip(zip(*params, strict=True), (3, 16, 16, 16), strict=True):
            bound = np.sqrt(6 / (9 * inputs + 9 * 16))
            self.assertLessEqual(np.abs(kernel).max(), bound)
            self.assertLess(abs((kernel / bound).var() - 1 / 3), 5 * (4 / 45 / kernel.size) ** 0.5)
            np.testing.assert_array_equal(norm.scale, 1)
            np.testing.assert_array_equal(norm.offset, 0)
        self.assertFalse(np.array_equal(params.kernels[1][0], params.kernels[2][0]))

    def test_finite_differences(self):
        encoder = four_conv(2, channels=1, size=4, blocks=2)
        value = lambda p, x: jnp.sum(jnp.sin(encode(encoder, p, x)[0]))
        arguments, directions = [(random_params(encoder, seed), images(3, 4, 1, seed)) for seed in (0, 1)]
        moved = lambda sign: jax.tree.map(lambda x, d: x + sign * 1e-6 * d, arguments, directions)
        both = compiled(jax.value_and_grad(value, argnums=(0, 1)))
        product = lambda tree: sum(
            np.vdot(x, d) for x, d in zip(*map(jax.tree.leaves, (tree, directions)), strict=True)
        )
        (above, gradient_above), (below, gradient_below) = both(*moved(1)), both(*moved(-1))
        slope = product(both(*arguments)[1])
        np.testing.assert_allclose((above - below) / 2e-6, slope, rtol=1e-6)
        gradient = jax.grad(value, argnums=(0, 1))
        along = compiled(lambda *a: jax.jvp(gradient, a, directions)[1])(*arguments)
        difference = jax.tree.map(lambda a, b: (a - b) / 2e-6, gradient_above, gradient_below)
        chex.assert_trees_all_close(along, difference, rtol=1e-5, atol=1e-5)

    def test_a_kernel_of_any_length_computes_the_same(self):
        """So its gradient has no part along it, channel by channel (without the small constant in the variance)."""
        encoder = four_conv(3, channels=2, size=8, blocks=2)
        params, x = random_params(encoder), 1e4 * images(4, 8, 2)
        gradient = compiled(jax.grad(lambda p: jnp.sum(jnp.sin(encode(encoder, p, x)[0]))))(params)
        (kernel,), (along,) = params.kernels[0], gradient.kernels[0]
        radial = np.sum(np.asarray(along) * kernel, (0, 1, 2))
        self.assertLess(np.abs(radial).max(), 1e-8 * np.linalg.norm(along) * np.linalg.norm(kernel))
        self.assertGreater(np.linalg.norm(along), 0)

    @parameterized.parameters(
        ({"size": 15}, "size=15 cannot be halved 4 times"),
        ({"filters": 0}, "at least one filter"),
        ({"channels": 0}, "at least one filter"),
        ({"blocks": 0}, "at least one block"),
        ({"readout": "max"}, "readout='max'.*'mean' or 'flatten'"),
    )
    def test_bad_sizes(self, wrong, message):
        with self.assertRaisesRegex(ValueError, message):
            four_conv(**wrong)


class StatisticsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.encoder = four_conv(3, channels=1, size=8, blocks=2)
        self.params = random_params(self.encoder)
        self.encode = compiled(lambda p, x, s: encode(self.encoder, p, x, s))

    def test_given_its_own_statistics_a_batch_gives_the_same_features(self):
        x = images(4, 8, 1)
        features, statistics = self.encode(self.params, x, None)
        again, same = self.encode(self.params, x, statistics)
        np.testing.assert_allclose(again, features, rtol=1e-12)
        chex.assert_trees_all_equal(same, statistics)

    def test_what_is_used_are_the_moments_of_each_layer(self):
        x = images(4, 8, 1)
        _, statistics = self.encode(self.params, x, None)
        for (moments,), (kernel,), (norm,) in zip(statistics, *self.params, strict=True):
            maps = slow_encoder.convolution(x, kernel)
            np.testing.assert_allclose(moments, slow_encoder.moments(maps), rtol=1e-10)
            x = slow_encoder.pool(slow_encoder.relu(slow_encoder.batch_norm(maps, norm)))

    def test_by_given_statistics_images_do_not_see_each_other(self):
        x, other = images(4, 8, 1), images(4, 8, 1, seed=2)
        _, statistics = self.encode(self.params, other, None)
        one_changed = np.concatenate([x[:3], other[:1]])
        apart, changed = (
            self.encode(self.params, x, statistics)[0],
            self.encode(self.params, one_changed, statistics)[0],
        )
        np.testing.assert_allclose(changed[:3], apart[:3], rtol=1e-12)
        own, own_changed = self.encode(self.params, x, None)[0], self.encode(self.params, one_changed, None)[0]
        self.assertGreater(np.abs(own_changed[:3] - own[:3]).max(), 1e-3)

    def test_normalised_by_hand(self):
        maps = jnp.array([[1.0], [3.0]])
        out, moments = normalise(maps, Norm(jnp.array([2.0]), jnp.array([5.0])), None)
        self.assertEqual((moments.mean, moments.variance), (2.0, 1.0))
        np.testing.assert_allclose(np.ravel(out), 5 + 2 * np.array([-1, 1]) / np.sqrt(1 + 1e-5), rtol=1e-14)


class TapTest(parameterized.TestCase):
    def test_places_in_order(self):
        seen = []

        def tap(place, block, which, maps):
            seen.append((place, block, which, maps.shape[1]))
            return maps

        encoder = four_conv(2, channels=1, size=4, blocks=2)
        jax.eval_shape(lambda p, x: encode(encoder, p, x, None, tap), random_params(encoder), jnp.ones((1, 4, 4, 1)))
        of_block = lambda b, size: [("convolved", b, 0, size), ("normalised", b, 0, size), ("block", b, 0, size // 2)]
        self.assertEqual(seen, of_block(0, 4) + of_block(1, 2))
        seen.clear()
        encoder = resnet12((2,), channels=1, size=2)
        jax.eval_shape(lambda p, x: encode(encoder, p, x, None, tap), random_params(encoder), jnp.ones((1, 2, 2, 1)))
        self.assertCountEqual(
            [place[:3] for place in seen],
            [(p, 0, c) for p in ("convolved", "normalised") for c in range(4)] + [("block", 0, 0)],
        )

    def test_what_a_tap_returns_goes_on(self):
        encoder = four_conv(2, channels=1, size=4, blocks=2)
        params, x = random_params(encoder), images(2, 4, 1)
        twice = lambda place, block, which, maps: 2 * maps if (place, block) == ("block", 1) else maps
        plain, tapped = compiled(lambda p, x: [encode(encoder, p, x, None, tap)[0] for tap in (None, twice)])(params, x)
        np.testing.assert_allclose(tapped, 2 * plain, rtol=1e-6)


class PoolTest(absltest.TestCase):
    def test_ties_share_the_gradient_and_odd_edges_are_left_out(self):
        x = jnp.array([[1.0, 1.0, 9.0], [0.0, -1.0, 9.0], [9.0, 9.0, 9.0]]).reshape(1, 3, 3, 1)
        value, gradient = jax.value_and_grad(lambda x: max_pool(x).sum())(x)
        self.assertEqual(value, 1.0)
        np.testing.assert_array_equal(gradient[0, :, :, 0], [[0.5, 0.5, 0], [0, 0, 0], [0, 0, 0]])


if __name__ == "__main__":
    absltest.main()
