"""The outer step of every algorithm lowers for accelerators that are not there."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import optax
from absl.testing import absltest, parameterized

from metalearn.core import outer_loop, task_mesh
from metalearn.fewshot.encoders import four_conv
from metalearn.fewshot.family import ALGORITHMS, CODE, algorithm
from tests.fewshot import tiny

PLATFORMS = ("cpu", "cuda", "tpu")
LAST_BLOCK = dataclasses.replace(CODE, scores="prototypes")


class ExportTest(parameterized.TestCase):
    @parameterized.parameters(*((name, {}) for name in ALGORITHMS), ("npbml", {"biases": LAST_BLOCK}))
    def test_lowers_for_every_platform(self, name, options):
        # On accelerators, the convolution is their own.
        encoder = four_conv(2, channels=1, size=tiny.SIZE, blocks=1, convolution="direct")
        of = algorithm(name, tiny.setting(encoder=encoder), **options)
        mesh = task_mesh(jax.devices()[:1])
        loop = outer_loop(of.process, of.objective, optax.adam(1e-3), estimator=of.estimator, mesh=mesh)
        meta = jax.eval_shape(of.init, jax.random.key(0))
        tasks = jax.tree.map(lambda *leaves: jnp.stack(leaves), tiny.new_task(0), tiny.new_task(1))
        arguments = jax.eval_shape(lambda meta: (loop.init(meta), tasks, jax.random.key(0)), meta)
        exported = jax.export.export(loop.jitted, platforms=PLATFORMS)(*arguments)
        self.assertEqual(exported.platforms, PLATFORMS)
        state, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
        chex.assert_trees_all_equal_shapes_and_dtypes(state.meta, meta)
        self.assertContainsSubset({"value", "accuracy", "gradient_norm"}, metrics)


if __name__ == "__main__":
    absltest.main()
