"""Devices' shares of an episode: together everything once, and equally long."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.core import PARTS, task_mesh
from metalearn.languages.sharing import own_share, share_of
from tests.core.problems import compiled
from tests.languages.test_learners import episode, in_prefixes


def shares_of(updates, parts, moving, devices):
    """begin, end and updates, [devices, K + 1] each."""
    each = [share_of(updates, jnp.asarray(parts), jnp.asarray(moving), jnp.asarray(d), devices) for d in range(devices)]
    return [np.stack(leaves) for leaves in zip(*each, strict=True)]


class ShareTest(parameterized.TestCase):
    @parameterized.product(updates=(1, 2, 7, 20), parts=(1, 2, 5, 40), moving=(1e-6, 0.1, 1.0, 30.0), devices=(1, 2, 4))
    def test_every_part_of_every_state_is_judged_by_one_device(self, updates, parts, moving, devices):
        begin, end, goes_on = shares_of(updates, parts, moving, devices)
        judged = np.zeros((updates + 1, parts), int)
        for device, state in np.ndindex(devices, updates + 1):
            judged[state, begin[device, state] : end[device, state]] += 1
        np.testing.assert_array_equal(judged, 1)
        # A device goes on from exactly the states before its last one.
        last = [max((k for k in range(updates + 1) if begin[d, k] < end[d, k]), default=0) for d in range(devices)]
        np.testing.assert_array_equal(goes_on, np.arange(updates + 1) < np.array(last)[:, None])

    @parameterized.product(updates=(1, 3, 6), moving=(0.02, 0.5, 3.0), devices=(2, 3))
    def test_no_other_places_to_split_take_less_time(self, updates, moving, devices):
        """Against all places of eighths of a state: the device that takes longest."""

        def longest(places):
            begins, ends = np.array([0, *places]), np.array([*places, updates])
            return np.max(np.where(ends > begins, np.ceil(ends) * moving + ends - begins, 0))

        eighths = np.arange(8 * updates + 1) / 8
        best = min(map(longest, itertools.combinations_with_replacement(eighths, devices - 1)))
        begin, end, goes_on = shares_of(updates, 1000, moving, devices)
        taken = goes_on.sum(1) * moving + (end - begin)[:, 1:].sum(1) / 1000
        self.assertLess(taken.max(), best + updates / 128 + 2e-3)

    def test_an_episode_in_prefixes_is_shared_by_what_its_grids_take(self):
        """On four devices; the work of passes by hand, from the filled times of each grid."""
        task = in_prefixes(episode(3))

        def passes(grids):
            times, rows = grids.tokens.shape[-2:]
            each = rows + 1 + (rows > 1)
            return [each * t + (times - t) * rows / 2 + 15 for t in np.asarray(grids.times) if t > 0]

        moving = 11 * np.mean(passes(task.support)) / (3 * np.sum(passes(task.query)))
        expected = shares_of(3, len(passes(task.query)), moving, 4)
        mesh = task_mesh(tasks=1, parts=True)
        own = lambda task: jax.tree.map(lambda x: x[None], own_share(task, PARTS))
        found = compiled(jax.shard_map(own, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(PARTS), check_vma=False))(task)
        for leaf, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(leaf, wanted)


if __name__ == "__main__":
    absltest.main()
