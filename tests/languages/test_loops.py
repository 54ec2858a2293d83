"""A loop as one function does what it does otherwise: results, tangents, side by side, and on other devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from metalearn.languages.loops import as_one_function
from tests.core.problems import compiled

WEIGHTS = np.random.default_rng(0).normal(size=(3, 3)) / 2
STATE = np.random.default_rng(1).normal(size=(1, 3))


def loop(scale, weights, state, count):
    """count times state = scale tanh(state weights); scale is 2 where the loop is one function."""
    return jax.lax.fori_loop(0, count, lambda _, h: scale * jnp.tanh(h @ weights), state)


def by_hand(scale, weights, state, count):
    for _ in range(count):
        state = scale * np.tanh(state @ weights)
    return state


ONE, OTHERWISE = functools.partial(loop, 2.0), functools.partial(loop, 1.0)


class OneFunctionTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.call = as_one_function(ONE, OTHERWISE)

    def test_on_a_cpu_alone_it_is_the_one_function(self):
        found = compiled(self.call)(WEIGHTS, STATE, 5)
        np.testing.assert_allclose(found, by_hand(2.0, WEIGHTS, STATE, 5), rtol=1e-13)
        program = compiled(self.call).lower(WEIGHTS, STATE, 5).compile().as_text()
        marked = [line for line in program.splitlines() if 'inlineable="false"' in line]
        self.assertLen(marked, 1)
        self.assertRegex(marked[0], r" call\(.*xla_cpu_small_call=\"true\"")

    def test_side_by_side_and_on_other_devices_it_is_the_other(self):
        states = np.stack([STATE, 2 * STATE])
        found = compiled(jax.vmap(self.call, (None, 0, None)))(WEIGHTS, states, 5)
        np.testing.assert_allclose(found, [by_hand(1.0, WEIGHTS, state, 5) for state in states], rtol=1e-13)
        exported = jax.export.export(jax.jit(self.call), platforms=["cuda"])(WEIGHTS, STATE, 5)
        self.assertNotIn("xla_cpu_small_call", exported.mlir_module())

    def test_tangents(self):
        """Those of the one function, against finite differences; side by side those of the other."""
        of = lambda call: (
            lambda weights, state: jax.jvp(lambda w, s: call(w, s, 4), (WEIGHTS, STATE), (weights, state))[1]
        )
        along = (np.ones((3, 3)), np.full((1, 3), -0.5))
        moved = lambda scale, by: by_hand(scale, WEIGHTS + by * along[0], STATE + by * along[1], 4)
        slope = lambda scale: (moved(scale, 1e-6) - moved(scale, -1e-6)) / 2e-6
        np.testing.assert_allclose(compiled(of(self.call))(*along), slope(2.0), rtol=1e-7)
        stacked = jax.tree.map(lambda x: np.stack([x, -x]), along)
        found = compiled(jax.vmap(of(self.call)))(*stacked)
        chex.assert_trees_all_close(found, np.stack([slope(1.0), -slope(1.0)]), rtol=1e-7)

    def test_second_derivatives(self):
        """Forward over forward, side by side, and only one of the operands along."""
        hessian = lambda call: jax.jacfwd(jax.jacfwd(lambda state: call(WEIGHTS, state, 3)))
        chex.assert_trees_all_close(compiled(hessian(self.call))(STATE), hessian(OTHERWISE)(STATE), rtol=1e-12)


if __name__ == "__main__":
    absltest.main()
