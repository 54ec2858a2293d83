"""The jitted outer step lowers for accelerators that are not there, and what was lowered computes the same."""

import importlib.util

import chex
import jax
import numpy as np
import optax
import pytest
from absl.testing import absltest

from metalearn.core import objectives, outer_loop, outer_loops, task_mesh
from tests.core.problems import linear_regression

PLATFORMS = ("cpu", "cuda", "tpu")


class ExportTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        problem = linear_regression()
        mesh = task_mesh(jax.devices()[:1])
        objective = lambda step: objectives.annealed(problem.updates, step / 10)  # with branches at run time
        cls.loop = outer_loop(problem.process(), objective, optax.adam(0.1), mesh=mesh)
        cls.meta = problem.meta
        cls.tasks = jax.tree.map(np.float32, problem.tasks(2))
        cls.key = jax.random.key(3)  # a typed key is an argument like any other
        cls.abstract = jax.eval_shape(lambda *arguments: arguments, cls.loop.init(cls.meta), cls.tasks, cls.key)

    def call(self, function):
        return function(self.loop.init(self.meta), self.tasks, self.key)

    def test_lowers_for_every_platform_and_computes_the_same(self):
        exported = jax.export.export(self.loop.jitted, platforms=PLATFORMS)(*self.abstract)
        self.assertEqual(exported.platforms, PLATFORMS)
        self.assertEqual(exported.nr_devices, 1)
        chex.assert_trees_all_close(self.call(jax.jit(exported.call)), self.call(self.loop.step), rtol=1e-6)

    def test_several_loops_lower_for_every_platform_and_compute_the_same(self):
        problem = linear_regression()
        mesh = task_mesh(jax.devices()[:1])
        loops = outer_loops(problem.process(), objectives.terminal(problem.updates), optax.adam(0.1), mesh=mesh)
        twice = lambda tree: jax.tree.map(lambda x: np.stack([x, x + np.float32(0.1)]), tree)
        call = lambda function: function(loops.init(twice(self.meta)), twice(self.tasks), jax.random.split(self.key))
        abstract = jax.eval_shape(lambda *arguments: arguments, *call(lambda *arguments: arguments))
        exported = jax.export.export(loops.jitted, platforms=PLATFORMS)(*abstract)
        chex.assert_trees_all_close(call(jax.jit(exported.call)), call(loops.step), rtol=1e-6)

    @pytest.mark.skipif(importlib.util.find_spec("flatbuffers") is None, reason="serialisation needs flatbuffers")
    def test_serialised_and_read_again(self):
        """Flat arguments and key data, as neither named tuples of optax nor typed keys are known to the format."""
        leaves, structure = jax.tree.flatten(self.abstract[:2])

        def flat(key_data, *leaves):
            state, tasks = structure.unflatten(leaves)
            return jax.tree.leaves(self.loop.jitted(state, tasks, jax.random.wrap_key_data(key_data)))

        exported = jax.export.export(jax.jit(flat), platforms=PLATFORMS)(jax.random.key_data(self.key), *leaves)
        again = jax.export.deserialize(exported.serialize())
        arguments = jax.tree.leaves((self.loop.init(self.meta), self.tasks))
        result = again.call(jax.random.key_data(self.key), *arguments)
        chex.assert_trees_all_close(result, jax.tree.leaves(self.call(self.loop.step)), rtol=1e-6)


if __name__ == "__main__":
    absltest.main()
