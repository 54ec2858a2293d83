"""The benchmarks' harness with tiny benchmarks of known outcome, and the real ones in miniature. No clock is judged."""

import dataclasses
import functools
import io
import json
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
import pytest
import rich.console
from absl.testing import absltest, parameterized

from benchmarks import (
    distinct_strings,
    first_step,
    harness,
    ladder,
    learning_effort,
    lstm_meta_gradient,
    maml,
    meta_training,
    npbml,
    pretraining,
)
from benchmarks.harness import Row
from metalearn.languages.episodes import Episode, EpisodeSettings, packed
from metalearn.languages.prefixes import fit
from metalearn.languages.tokens import END, FIRST_SYMBOL, PAD, START

KEYS = {"name", "value", "unit", "share_of_limit", "ratio_to_peer", "peak_memory_mib", "compile_seconds"}


def good():
    yield Row("good/one", 1.5, "s", 0.25, 7.0, 3.0, 2.0, "peer: none")
    yield Row("good/two", None, "s", note="nobody is there")


def bad():
    yield Row("bad/first", 3.0, "times")
    raise ArithmeticError("no second row")


GROUPS = {"good": good, "bad": bad}


def console() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO(), width=200)


class HarnessTest(parameterized.TestCase):
    @parameterized.parameters((None, ["good", "bad"]), ("goo", ["good"]), ("bad", ["bad"]), ("oo,ad", ["good", "bad"]))
    def test_only_selects_by_part_of_a_name(self, only, names):
        self.assertEqual(list(harness.select(GROUPS, only)), names)

    @parameterized.parameters("fast", "good,fast", "", "good,")
    def test_an_unknown_name_lists_the_names(self, only):
        with self.assertRaisesRegex(ValueError, "choose from good, bad"):
            harness.select(GROUPS, only)

    def test_a_failure_costs_only_the_rest_of_its_group_and_shows_why(self):
        to = console()
        rows, failed = harness.measure({"bad": bad, "good": good}, to)
        self.assertEqual([row.name for row in rows], ["bad/first", "good/one", "good/two"])
        self.assertEqual(failed, ["bad"])
        shown = to.file.getvalue()
        self.assertIn("ArithmeticError: no second row", shown)
        self.assertIn("good/one: 1.5 s", shown)
        self.assertIn("good/two: nobody is there", shown)

    def test_the_json_has_the_rows_under_the_promised_keys(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "deeper" / "rows.json"
            harness.write_json(list(good()), path)
            one, two = json.loads(path.read_text())
        self.assertEqual(set(one), KEYS)
        self.assertEqual(
            one,
            dict(
                name="good/one",
                value=1.5,
                unit="s",
                share_of_limit=0.25,
                ratio_to_peer=7.0,
                peak_memory_mib=3.0,
                compile_seconds=2.0,
            ),
        )
        self.assertEqual({key for key, value in two.items() if value is None}, KEYS - {"name", "unit"})

    def test_the_table_leaves_blank_what_does_not_apply_and_prints_notes(self):
        lines = harness.table(list(good())).splitlines()
        self.assertEqual(lines[1].split(), ["good/one", "1.5", "s", "25.0%", "7.00", "3.0", "2.0"])
        self.assertEqual(lines[2].split(), ["good/two", "s"])
        self.assertEqual([line.rstrip() for line in lines[3:5]], ["good/one: peer: none", "good/two: nobody is there"])

    def test_calls_take_turns_after_a_warm_up(self):
        order = []
        times = harness.best_seconds({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
        self.assertEqual("".join(order), "ab" * 4)
        self.assertEqual(set(times), {"a", "b"})

    def test_the_matrix_product_does_the_operations_it_states(self):
        product, operations = harness.matrix_product(16)
        np.testing.assert_array_equal(product(), np.full((16, 16), 16.0))
        self.assertEqual(operations, 16 * 16 * (16 + 16))  # so many products, and as many sums

    def test_the_command_line_refuses_an_unknown_name(self):
        done = subprocess.run([sys.executable, "-m", "benchmarks", "--only=fast"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--only=fast", done.stderr)
        self.assertIn("lstm_meta_gradient", done.stderr)

    def test_the_command_line_prints_the_table_and_writes_the_file(self):
        code = (
            "import benchmarks.__main__ as m, test_benchmarks as t, absl.app as a; m.GROUPS = t.GROUPS; a.run(m.main)"
        )
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "rows.json"
            done = subprocess.run(
                [sys.executable, "-c", code, "--only=good", f"--json={path}"],
                capture_output=True,
                text=True,
                env={"PYTHONPATH": f"{pathlib.Path(__file__).parent}:{pathlib.Path(__file__).parent.parent}"},
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual([row["name"] for row in json.loads(path.read_text())], ["good/one", "good/two"])
        self.assertIn("good/one", done.stdout)
        self.assertIn("[1/1] good", done.stderr)


class LearningEffortTest(absltest.TestCase):
    @pytest.mark.slow
    def test_every_row_and_the_gradient_that_pytorch_computes(self):
        with mock.patch.object(learning_effort, "LENGTHS", (20,)):
            rows = list(learning_effort.rows(steps=30, peer_steps=10, rounds=1))  # raises where gradients differ
        self.assertLen({row.name for row in rows}, len(rows))
        for row in rows:
            if row.value is None:
                self.assertIn("not installed", row.note)
            else:
                self.assertGreater(row.value, 0)

    @pytest.mark.slow
    def test_the_sweep_solves_each_of_its_problems(self):
        optima = learning_effort.sweep(count=2, steps=60, iterations=200)
        self.assertEqual(optima.value.shape, (10,))
        self.assertLess(float(optima.residual.max()), 2e-3)


class LSTMMetaGradientTest(absltest.TestCase):
    SIZES = lstm_meta_gradient.Sizes(units=4, layers=2, updates=2, support=2, query=3, length=3, tasks=4)

    def test_operations_by_hand(self):
        sizes = lstm_meta_gradient.Sizes(units=2, layers=1, updates=1, support=1, query=1, length=1)
        # A token: [2] x [2, 8] for the input and for the hidden state, and [2] x [2, 15] for the output.
        forward = 2 * (2 * 8 + 2 * 8 + 2 * 15)
        self.assertEqual(sizes.operations("plain", "residuals"), (9 + 3) * forward)
        self.assertEqual(sizes.operations("mixed", "residuals"), (11 + 3) * forward)
        self.assertEqual(sizes.operations("plain", "recompute"), (11 + 3) * forward)

    @pytest.mark.slow
    def test_what_is_timed_is_the_gradient_that_pytorch_computes(self):
        try:
            from benchmarks import lstm_meta_gradient_torch as peer
        except ModuleNotFoundError as error:
            self.skipTest(f"{error.name} is not installed")
        params, tasks = lstm_meta_gradient.problem(self.SIZES)
        program = lstm_meta_gradient.program(self.SIZES, ("mixed", "residuals", "vmap", "whole"))
        ours = program.step()
        self.assertGreater(program.memory_mib, 0)
        for name, variant in peer.VARIANTS.items():
            with self.subTest(name):
                theirs = peer.meta_gradient(variant, params, tasks, self.SIZES.rate)()
                self.assertLess(ladder.relative_error(theirs, ours), 1e-5)
        halved = jax.tree.map(lambda x: x / 2, ours)
        self.assertAlmostEqual(ladder.relative_error(halved, ours), 0.5, places=5)


class MetaTrainingTest(absltest.TestCase):
    SIZES = meta_training.Sizes(
        units=4,
        languages=3,
        episodes=EpisodeSettings(2, 2, 2, 9, 8, row_sizes=(9,), length_sizes=(8,), grid_times=(8,), grid_rows=(2,)),
    )

    def test_operations_by_hand(self):
        """One update on "a" and a query of "a" and "ab": the prefixes START and a, in the query ab as well."""
        sizes = dataclasses.replace(self.SIZES, units=2, layers=1)
        grid = lambda *strings: fit([[START, *string, END] for string in strings], [1] * len(strings), 4, 2)
        a, b = FIRST_SYMBOL, FIRST_SYMBOL + 1
        stack = lambda grid: jax.tree.map(lambda x: x[None], grid)
        forward = 2 * (2 * 8 + 2 * 15)  # [2] x [2, 8] for the hidden state, [2] x [2, 15] for the output
        episode = Episode(stack(grid([a])), stack(grid([a], [a, b])))
        self.assertEqual(sizes.operations(episode), (11 * 2 + 3 * 3) * forward)

    def test_the_peer_has_every_string_as_often(self):
        rows = packed([(0,), (1, 1), ()], [2, 1, 3], 6)
        a, b = FIRST_SYMBOL, FIRST_SYMBOL + 1
        expected = sorted([[START, END, PAD, PAD]] * 3 + [[START, a, END, PAD]] * 2 + [[START, b, b, END]])
        self.assertEqual(sorted(meta_training.whole_sample(rows).tolist()), expected)

    @pytest.mark.slow
    def test_every_row_and_the_loss_and_gradient_that_pytorch_computes(self):
        rows = list(meta_training.rows(self.SIZES, rounds=1))  # raises where they differ
        self.assertLen({row.name for row in rows}, len(rows))
        for row in rows:
            self.assertTrue(row.value is None or row.value > 0, row)

    def test_a_difference_is_an_error(self):
        gradient = {"w": np.ones(3)}
        meta_training.check({"one": (gradient, 2.0), "other": (gradient, 2.0)})
        for other in (({"w": np.ones(3) + [0, 0, 1e-3]}, 2.0), (gradient, 2.001)):
            with self.assertRaisesRegex(ValueError, "other differs from one"):
                meta_training.check({"one": (gradient, 2.0), "other": other})


class MamlTest(absltest.TestCase):
    def test_operations_by_hand(self):
        sizes = maml.Sizes(filters=2, blocks=2, size=4, channels=1, ways=2, shots=1, queries=1, updates=1)
        forward = 2 * (16 * 9 * 1 * 2 + 4 * 9 * 2 * 2)  # a product for each position, offset, input and output
        self.assertEqual(sizes.operations("plain", "residuals"), (9 * 2 + 3 * 2) * forward)
        self.assertEqual(sizes.operations("mixed", "residuals"), (11 * 2 + 3 * 2) * forward)

    @pytest.mark.slow
    def test_what_is_timed_is_the_gradient_that_pytorch_computes(self):
        if harness.missing("torch", "bench"):
            self.skipTest("torch is not installed")
        sizes = maml.Sizes(filters=3, blocks=2, size=8, ways=3, shots=2, queries=2, updates=2, tasks=4, rate=0.3)
        maml.check_peers(sizes, ("patches", "mixed", "residuals", "vmap"))
        with self.assertRaisesRegex(ValueError, "differs from ours"):
            maml.check_peers(sizes, ("direct", "mixed", "residuals", "vmap"), tolerance=0.0)

    @pytest.mark.slow
    def test_every_row(self):
        sizes = maml.Sizes(filters=2, blocks=1, size=4, ways=2, shots=1, queries=1, updates=1, tasks=4)
        with mock.patch.object(maml, "RUNGS", maml.RUNGS[:2]):
            rows = list(maml.rows(sizes, dataclasses.replace(sizes, size=8), rounds=1))
        self.assertLen({row.name for row in rows}, len(rows))
        self.assertLen([row for row in rows if "memory" in row.name and row.peak_memory_mib is None], 4)
        for row in rows:
            self.assertTrue(row.value is None or row.value > 0, row)


class NpbmlTest(absltest.TestCase):
    SIZES = maml.Sizes(filters=2, blocks=2, size=4, channels=1, ways=2, shots=1, queries=1, updates=1, tasks=2)

    def test_operations_by_hand(self):
        """A convolution: a product for each position, offset, input and output. The support set and the query: 2 each.

        Blocks see 16 and 4 positions, and warps as many, but those at the end of a block a quarter.
        """
        moving = 2 * (16 * 9 * 1 * 2 + 4 * 9 * 2 * 2)
        warps = 2 * (16 * 9 * 2 * 2 + 4 * 9 * 2 * 2)
        modulation = 2 * (16 * 1 * 4 + 4 * 2 * 4) + 2 * (16 * 2 * 4 + 4 * 2 * 4)  # of maps, and of warps
        recompute, residuals = ("mixed", "recompute", "map"), ("plain", "residuals", "map")
        full = functools.partial(npbml.operations, self.SIZES, npbml.PAPER)
        self.assertEqual(full(recompute), (11 * 4 + 3 * 2) * moving + (8 * 4 + 3 * 2) * (warps + modulation))
        self.assertEqual(full(residuals), (9 * 4 + 3 * 2) * moving + (6 * 4 + 3 * 2) * (warps + modulation))
        self.assertEqual(full(recompute, alike=True), (11 * 4 + 3 * 2) * (moving + warps + modulation))
        below, moving, warp = 2 * 16 * 9 * 1 * 2, 2 * 4 * 9 * 2 * 2, 2 * 1 * 9 * 2 * 2
        self.assertEqual(
            npbml.operations(self.SIZES, npbml.LAST_BLOCK, recompute),
            (4 + 2) * below + (11 * 4 + 3 * 2) * moving + (8 * 4 + 3 * 2) * warp,
        )

    def test_the_peer_adapts_on_both_sets(self):
        _, tasks = maml.problem(self.SIZES)
        both = npbml.on_both(tasks)
        np.testing.assert_array_equal(both.support_x[:, :2], tasks.support_x)
        np.testing.assert_array_equal(both.support_x[:, 2:], tasks.query_x)
        self.assertEqual(both.support_y.tolist(), [[0, 1, 0, 1]] * 2)

    @pytest.mark.slow
    def test_every_row(self):
        large = dataclasses.replace(self.SIZES, tasks=1, size=8)
        with (
            mock.patch.object(npbml, "RUNGS", npbml.RUNGS[:1]),
            mock.patch.object(npbml, "MEMORY_RUNGS", npbml.MEMORY_RUNGS[:2]),
        ):
            rows = list(npbml.rows(self.SIZES, large, (2, 2), rounds=1))
        self.assertLen({row.name for row in rows}, len(rows))
        for row in rows:
            self.assertGreater(row.value, 0, row)
        named = {row.name: row for row in rows}
        every, least = (named[f"npbml/full/efficiency{suffix}"].value for suffix in ("", ", least"))
        self.assertGreater(every, least)
        self.assertLen([row for row in rows if row.unit == "MiB/task"], 2)


class PretrainingTest(absltest.TestCase):
    SIZES = maml.Sizes(filters=3, blocks=2, size=8, channels=2, ways=4, queries=4, tasks=1)

    @pytest.mark.slow
    def test_every_row_and_the_gradient_that_pytorch_computes(self):
        rows = list(pretraining.rows(self.SIZES, rounds=1))  # raises where gradients differ
        self.assertLen(rows, 5)
        if harness.missing("torch", "bench"):
            self.skipTest("torch is not installed")
        self.assertGreater(min(row.value for row in rows), 0)
        with self.assertRaisesRegex(ValueError, "differs from ours"):
            pretraining.check_peer(self.SIZES, tolerance=0.0)

    def test_places_and_convolutions_agree(self):
        with jax.enable_x64(True):
            one = pretraining.program(self.SIZES, "patches", "one device", np.float64).step()
            all_ = pretraining.program(self.SIZES, "direct", "all devices", np.float64).step()
        self.assertLess(ladder.relative_error(one, all_), 1e-10)


class OtherBenchmarksTest(absltest.TestCase):
    def test_where_there_is_one_string_nothing_can_be_saved(self):
        settings = EpisodeSettings(1, 1, 1, 1, length=6, row_sizes=(1,), length_sizes=(6,))
        grids = dataclasses.replace(settings, grid_times=(5,), grid_rows=(1,))
        every, tens, ours, bare, in_grids, prefixes, factor = distinct_strings.rows(3, settings, grids)
        self.assertEqual((every.value, ours.value, ours.ratio_to_peer, factor.value), (5.0, 5.0, 1.0, 1.0))
        self.assertEqual((in_grids.value, prefixes.value), (5.0, bare.value))  # a prefix before each predicted token
        self.assertEqual(tens.value, bare.value)
        self.assertLessEqual(bare.value, 5.0)

    def test_tokens_of_batches_padded_to_their_longest(self):
        rows = packed([(0,), (1, 1)], [11, 1], 9)  # 2 and 3 tokens to predict, in one row
        lengths, counts = distinct_strings._strings(rows)
        self.assertEqual(sorted(zip(lengths.tolist(), counts.tolist(), strict=True)), [(2, 11), (3, 1)])
        # Ten of the twelve strings come first, two are left; the long one makes its own batch three tokens wide.
        draw = lambda seed: distinct_strings._padded_in_batches(np.random.default_rng(seed), lengths, counts)
        counted = {draw(seed) for seed in range(40)}
        self.assertEqual(counted, {10 * 3 + 2 * 2, 10 * 2 + 2 * 3})

    def test_the_first_row_of_metrics_ends_the_command(self):
        write = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('step,x\\n1,2\\n'); time.sleep(600)"
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            command = [sys.executable, "-c", write, str(root / "metrics.csv")]
            self.assertLess(first_step.seconds_to_first_row(command, root, root / "cache", patience=300), 300)
            with self.assertRaisesRegex(TimeoutError, "no first step"):
                first_step.seconds_to_first_row([sys.executable, "-c", write], root / "none", root, patience=0.0)

    def test_a_command_that_ends_too_early_is_an_error_with_its_words(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", "import sys; sys.exit('no such preset')"]
            with self.assertRaisesRegex(RuntimeError, "no such preset"):
                first_step.seconds_to_first_row(command, pathlib.Path(folder), pathlib.Path(folder), patience=300)


if __name__ == "__main__":
    absltest.main()
