import jax
import numpy as np
from absl.testing import absltest

from metalearn.languages.randomness import host_rng


class HostRngTest(absltest.TestCase):
    def test_is_a_function_of_the_key(self):
        first, second = (host_rng(jax.random.fold_in(jax.random.key(3), 7)).random(5) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_different_keys_give_different_streams(self):
        keys = [jax.random.key(0), jax.random.key(1), *jax.random.split(jax.random.key(0), 3)]
        self.assertLen({host_rng(key).random() for key in keys}, len(keys))

    def test_every_word_of_the_key_counts(self):
        words = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.uint32)
        keys = [jax.random.wrap_key_data(row) for row in words]
        self.assertLen({host_rng(key).random() for key in keys}, len(keys))

    def test_rejects_what_is_not_a_typed_key(self):
        for wrong in (0, np.random.default_rng(0), jax.random.PRNGKey(0)):
            with self.assertRaisesRegex(TypeError, "typed key such as jax.random.key"):
                host_rng(wrong)

    def test_rejects_several_keys(self):
        with self.assertRaisesRegex(ValueError, r"one key of shape \(\), got keys of shape \(3,\)"):
            host_rng(jax.random.split(jax.random.key(0), 3))


if __name__ == "__main__":
    absltest.main()
