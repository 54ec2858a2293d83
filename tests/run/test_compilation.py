"""The compilation cache and the compile clock."""

import os
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import threadpoolctl
from absl.testing import absltest, parameterized

from metalearn.run.compilation import CompileClock, default_cache_folder, enable_compilation_cache, use_all_cores
from tests.run.folder_case import FolderCase
from tests.run.small_runs import restore_cache


class CompilationTest(FolderCase):
    def setUp(self):
        super().setUp()
        restore_cache(self.addCleanup)

    def test_second_compilation_comes_from_the_cache(self):
        folder = self.folder / "new" / "cache"
        self.assertEqual(enable_compilation_cache(folder), folder)
        clocks = []
        for _ in range(2):
            with CompileClock() as clock:
                jax.jit(lambda x: jnp.tanh(x) * 12345.678)(1.0)
            clocks.append(clock)
            jax.clear_caches()
        self.assertEqual([clock.cache_hits for clock in clocks], [0, 1])
        self.assertEqual([clock.programs for clock in clocks], [1, 1])
        self.assertGreater(clocks[0].seconds, 0)
        self.assertNotEmpty(list(folder.iterdir()))

    def test_the_clock_stops(self):
        with CompileClock() as clock:
            pass
        jax.jit(lambda x: jnp.tanh(x) * 98765.4)(1.0)
        self.assertEqual((clock.programs, clock.seconds), (0, 0.0))

    def test_survives_a_folder_that_cannot_be_written(self):
        path = self.folder / "file"
        path.write_text("")
        with self.assertLogs("metalearn.run.compilation", "WARNING") as logs:
            self.assertIsNone(enable_compilation_cache(path / "cache"))
        self.assertIn("cannot be written", logs.output[0])
        self.assertNotEqual(jax.config.jax_compilation_cache_dir, str(path / "cache"))

    def test_a_chosen_number_of_devices_stays(self):
        chosen = jax.config.jax_num_cpu_devices
        self.assertGreater(chosen, 0)
        use_all_cores()
        self.assertEqual(jax.config.jax_num_cpu_devices, chosen)

    @parameterized.parameters(
        ("", "--xla_cpu_prefer_vector_width=512"),
        ("--xla_dump_to=/x", "--xla_dump_to=/x --xla_cpu_prefer_vector_width=512"),
        ("--xla_cpu_prefer_vector_width=128", "--xla_cpu_prefer_vector_width=128"),
    )
    def test_the_widest_vectors_unless_others_are_asked_for(self, before, after):
        with mock.patch.dict("os.environ", {"XLA_FLAGS": before}):
            use_all_cores()
            self.assertEqual(os.environ["XLA_FLAGS"], after)

    def test_linear_algebra_libraries_get_one_thread(self):
        before = threadpoolctl.threadpool_limits(2, "blas")
        self.addCleanup(before.restore_original_limits)
        use_all_cores()
        libraries = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
        self.assertTrue(libraries)
        self.assertEqual({library["num_threads"] for library in libraries}, {1})

    def test_default_folder(self):
        with mock.patch.dict("os.environ", {"XDG_CACHE_HOME": "/x/y"}):
            self.assertEqual(default_cache_folder(), pathlib.Path("/x/y/metalearn/jax"))
        with mock.patch.dict("os.environ", {"XDG_CACHE_HOME": "", "HOME": "/h"}):
            self.assertEqual(default_cache_folder(), pathlib.Path("/h/.cache/metalearn/jax"))


if __name__ == "__main__":
    absltest.main()
