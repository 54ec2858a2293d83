"""Products of rounded operands, against NumPy on operands that were rounded by hand; and what they do to a loss."""

import functools

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

from metalearn.core import objectives, outer_loop, task_mesh
from metalearn.languages.architectures import architecture
from metalearn.languages.episodes import EpisodeBatches, EpisodeSettings
from metalearn.languages.model import cross_entropy
from metalearn.languages.products import bare, product_named
from metalearn.languages.tokens import VOCABULARY
from metalearn.languages.training import meta_learning
from tests.core.problems import compiled

# bfloat16 keeps 8 bits: a relative error of 2^-9 for each operand, which partly averages out over a sum.
LOSS_TOLERANCE = 2e-3


def half(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


class ProductTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        draw = np.random.default_rng(0).normal
        self.x, self.weights = draw(size=(3, 5, 64)).astype(np.float32), draw(size=(64, 7)).astype(np.float32)
        self.seen = draw(size=(3, 5, 7)).astype(np.float32)
        self.product = product_named("bfloat16")

    def value(self, x, weights):
        return jnp.sum(self.product(x, weights) * self.seen)

    def test_only_operands_are_rounded(self):
        found = compiled(self.product)(self.x, self.weights)
        np.testing.assert_allclose(found, half(self.x) @ half(self.weights), rtol=1e-4, atol=1e-5)
        self.assertGreater(np.abs(found - self.x @ self.weights).max(), 1e-3)
        chex.assert_type(found, np.float32)

    def test_gradients_are_products_of_rounded_operands(self):
        of_x, of_weights = compiled(jax.grad(self.value, argnums=(0, 1)))(self.x, self.weights)
        np.testing.assert_allclose(of_x, half(self.seen) @ half(self.weights).T, rtol=1e-4, atol=1e-5)
        flat = lambda a: half(a).reshape(15, -1)
        np.testing.assert_allclose(of_weights, flat(self.x).T @ flat(self.seen), rtol=1e-4, atol=1e-5)

    def test_tangents_of_gradients(self):
        """A bilinear map: the tangent of its gradient along (dx, dw) is the gradient at them, the other way round."""
        gradient = jax.grad(self.value, argnums=(0, 1))
        directions = (2 * self.x[::-1], 3 * self.weights[::-1])
        tangent = compiled(lambda *d: jax.jvp(gradient, (self.x, self.weights), d)[1])(*directions)
        np.testing.assert_allclose(tangent[0], half(self.seen) @ half(directions[1]).T, rtol=1e-4, atol=1e-4)
        flat = lambda a: half(a).reshape(15, -1)
        np.testing.assert_allclose(tangent[1], flat(directions[0]).T @ flat(self.seen), rtol=1e-4, atol=1e-4)

    def test_float32_is_the_plain_product(self):
        """Its value, gradient and tangent of the gradient are those of JAX's own product."""

        def derivatives(product):
            value = lambda x, weights: jnp.sum(jnp.sin(product(x, weights)) * self.seen)
            gradient = jax.value_and_grad(value, argnums=(0, 1))
            along = (2 * self.x[::-1], 3 * self.weights[::-1])
            return compiled(lambda: jax.jvp(gradient, (self.x, self.weights), along))()

        found, expected = derivatives(product_named("float32")), derivatives(jnp.matmul)
        for mine, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-3)

    def test_products_in_rules_of_derivatives(self):
        self.assertIs(bare(product_named("float32")), jnp.matmul)
        self.assertIs(bare(jnp.matmul), jnp.matmul)

    def test_an_unknown_name(self):
        with self.assertRaisesRegex(ValueError, "products='float16'.*float32, bfloat16"):
            product_named("float16")


class ParityTest(parameterized.TestCase):
    """A network of 32 units whose products are rounded against the same without."""

    SETTINGS = EpisodeSettings(2, 2, 4, 20, 12, (20,), (12,), (4,))

    def models(self, name, layers=2):
        return [architecture(name, VOCABULARY, 32, layers, products=products) for products in ("float32", "bfloat16")]

    @parameterized.parameters("lstm", "gru")
    def test_loss_and_gradient_at_the_same_weights(self, name):
        models = self.models(name)
        params = models[0].init(jax.random.key(0))
        query = jax.tree.map(lambda x: x[0], EpisodeBatches(jax.random.key(1), 1, self.SETTINGS)(0).query)
        (exact, of_exact), (half_, of_half) = (
            compiled(jax.value_and_grad(functools.partial(cross_entropy, model)))(params, query) for model in models
        )
        self.assertNotEqual(float(exact), float(half_))  # so something was rounded
        np.testing.assert_allclose(half_, exact, rtol=LOSS_TOLERANCE)
        chex.assert_trees_all_equal_dtypes(of_half, of_exact)
        difference = optax.tree.norm(optax.tree.sub(of_half, of_exact))
        self.assertLess(float(difference / optax.tree.norm(of_exact)), 0.02)

    @pytest.mark.slow
    def test_losses_after_a_few_outer_steps(self):
        batches = EpisodeBatches(jax.random.key(2), 2, self.SETTINGS)
        losses = []
        for model in self.models("lstm", 1):
            loop = outer_loop(
                meta_learning(model),
                objectives.every_update(2),
                optax.adam(5e-3),
                memory="residuals",
                mesh=task_mesh(jax.devices()[:1]),
            )
            state, own = loop.init(model.init(jax.random.key(0))), []
            for step in range(4):
                state, metrics = loop.step(state, batches(step), jax.random.key(3))
                own.append(float(metrics["value"]))
            chex.assert_tree_all_finite(state.meta)
            self.assertEqual({leaf.dtype for leaf in jax.tree.leaves(state.meta)}, {np.dtype(np.float32)})
            losses.append(own)
        np.testing.assert_allclose(losses[1], losses[0], rtol=4 * LOSS_TOLERANCE)


if __name__ == "__main__":
    absltest.main()
