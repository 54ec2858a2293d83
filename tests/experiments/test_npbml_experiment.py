"""Experiments on NPBML: whole runs on tiny encoders, what is seen inside against closed forms, rows, tables, costs."""

import contextlib
import csv
import dataclasses
import functools
import json
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from absl import flags
from absl.testing import absltest, parameterized

from experiments.few_shot import config as few_shot_config
from experiments.few_shot import training
from experiments.few_shot.config import SIZES, Recipe
from experiments.few_shot.contestants import accuracies
from experiments.few_shot.data import Data
from experiments.few_shot.outcomes import Outcome
from experiments.few_shot.training import Repetition
from experiments.npbml import cost, experiment, relation, tables
from experiments.npbml.__main__ import EXPERIMENTS, SHORT_FLAGS
from experiments.npbml.config import COMPARISONS, PRESETS, TABLES
from experiments.npbml.inside import KEYS, MARGINS, landscape, looked_inside, watched
from experiments.npbml.report import published_for
from experiments.npbml.rows import QUERY_USE, for_sizes, rows_of
from metalearn.fewshot.convolution import conv3x3, identity_kernel
from metalearn.fewshot.encoders import four_conv
from metalearn.fewshot.family import PAPER
from metalearn.fewshot.family.biases import LOSSES, TABLE_3
from metalearn.fewshot.family.npbml import Procedure, npbml
from metalearn.fewshot.relation import RelationNetwork
from metalearn.run import ConfigError, launching, read_csv
from metalearn.run.config import override
from tests.fewshot import tiny
from tests.run.folder_case import FolderCase
from tests.run.small_runs import compile_little, quietly

SMOKE = PRESETS["smoke"]
SCORED = override(SMOKE, {"biases.scores": "given", "seeds": "1"})
LAST = SMOKE.biases
CHEAP = dataclasses.replace(SMOKE, seeds=1, biases=LAST.only())  # nearly all of the time goes into compiling


class LittleCase(parameterized.TestCase):
    """Programs are compiled quickly rather than well, and cached in a folder of the class, `common`."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.common = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        compile_little(cls, str(cls.common / "cache"))


@pytest.mark.slow  # compiling takes minutes on a busy machine
class RunTest(LittleCase):
    """ "full" in one go, and interrupted and resumed; "implicit" with a relation network."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        small = functools.partial(four_conv, blocks=2, convolution="direct")  # compiles fastest
        cls.enterClassContext(mock.patch.object(few_shot_config, "four_conv", small))
        cls.whole, cls.resumed, cls.inside = (cls.common / name for name in ("whole", "resumed", "inside"))
        config = CHEAP
        cls.result, cls.printed = quietly(lambda: experiment.run("full", config, cls.whole))
        keep, calls = training._keep_best, []

        def stop_at_the_second_validation(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return keep(*arguments)

        with mock.patch.object(training, "_keep_best", stop_at_the_second_validation):
            with contextlib.suppress(KeyboardInterrupt):
                quietly(lambda: experiment.run("full", config, cls.resumed))
        cls.unfinished = not (cls.resumed / "result.json").exists()
        quietly(lambda: experiment.run("full", config, cls.resumed))
        cls.found, cls.said = quietly(lambda: experiment.run("implicit", SCORED, cls.inside))

    def test_result(self):
        of = self.result["rows"]["NPBML"]
        self.assertEqual(self.result["dataset"], "glyphs")
        self.assertLen(of["after_updates"], 1 + SMOKE.training.test_updates)
        self.assertAlmostEqual(of["after_updates"][-1], of["accuracy"])
        self.assertEqual(of["validation"]["outer_steps"], [2, 4])
        # What moves: the last of two blocks (3x3 kernels 4 -> 4, scale and offset), and a head of 3 ways on 4 features.
        self.assertEqual(of["adapted_parameters"], 9 * 16 + 8 + 15)
        self.assertEqual(self.result["claims"][0]["n"], SMOKE.test_episodes)

    def test_an_interrupted_run_ends_with_the_same_bytes(self):
        self.assertTrue(self.unfinished)
        for name in ("result.json", "stages/npbml_0/test.json", "stages/npbml_0/metrics.csv"):
            self.assertEqual((self.resumed / name).read_bytes(), (self.whole / name).read_bytes(), name)

    def test_a_finished_run_does_nothing(self):
        with mock.patch.object(Data, "__init__", side_effect=AssertionError):
            result, printed = quietly(lambda: experiment.run("full", CHEAP, self.whole))
        self.assertEqual(result, self.result)
        self.assertIn("is finished", printed)

    def test_implicit(self):
        inside = self.found["implicit"]
        updates = SMOKE.training.test_updates
        self.assertEqual(np.shape(inside["block_step_size"]["mean"]), (updates, 2))
        self.assertEqual(np.shape(inside["warp_rate"]["mean"]), (updates, 1))
        self.assertEqual(np.shape(inside["terms"]["mean"]), (updates, 3))
        self.assertEqual(inside["block_step_size"]["mean"][0][0], "nan")  # all ways begin alike
        rates = np.array(inside["warp_rate"]["mean"], float)
        np.testing.assert_array_equal(np.isnan(rates[:, 0]), np.arange(updates) == 0)
        np.testing.assert_allclose(rates[1:], 1, atol=0.1)  # near the identity yet
        self.assertBetween(inside["modulation"]["share_of_tasks"], 0, 1)
        stage = self.inside / "stages" / "npbml_0"
        for key in KEYS:
            self.assertTrue((stage / f"{key}.json").exists(), key)
        states = np.array(json.loads((stage / "states.json").read_text()))
        tested = np.array(json.loads((stage / "test.json").read_text()))
        np.testing.assert_allclose(states[: len(tested)], tested, atol=1e-6)
        for name in ("landscape", "rates", "adaptation"):
            pixels = matplotlib.image.imread(self.inside / "figures" / f"{name}.png")
            self.assertGreater(len(np.unique(pixels[..., 0])), 50)
        self.assertIn("Warps act as a learning rate of their layer", self.said)

    def test_the_best_relation_network_is_kept(self):
        curve = read_csv(self.inside / "stages" / "relation_0" / "evaluation.csv")
        np.testing.assert_array_equal(curve["kept"], np.maximum.accumulate(curve["accuracy"]))


class MockedTest(FolderCase):
    """Tables and the matrix of fairness, where training and test are given."""

    def run_with(self, name, config, accuracy):
        """accuracy: (row's name, familiar or not) -> accuracies [episodes]."""
        trained = []

        def tested(repetition, label, of, meta, batches):
            familiar = label.endswith(", training classes")
            values = accuracy(label.removesuffix(", training classes"), familiar, repetition.number)
            return np.stack([0 * values, values], -1)

        def outcome(config, of, shape, values, stages):
            there = of.optimizer is not None
            steps = np.array([2.0, 4.0]) * np.ones(2) if there else np.zeros(0)
            curve = np.array([[0.4, 0.5]]) if there else np.zeros((1, 0))
            trained.append(there)
            return Outcome(values, Recipe(0.1, 1, 1), (1, 1), 10, 5, steps, curve, curve, 2.0, 1.0, 2.0**20)

        with (
            mock.patch.object(Repetition, "pretrain"),
            mock.patch.object(Repetition, "trained"),
            mock.patch.object(Repetition, "tested", tested),
            mock.patch.object(experiment, "outcome", outcome),
            mock.patch("experiments.npbml.fairness.pretraining_seconds", return_value=30.0),
        ):
            result, printed = quietly(lambda: experiment.run(name, config, self.folder / "run"))
        with open(self.folder / "run" / "table.csv", newline="") as file:
            table = {row["name"]: row for row in csv.DictReader(file)}
        pixels = matplotlib.image.imread(self.folder / "run" / "figures" / f"{name}.png")
        self.assertGreater(len(np.unique(pixels[..., 0])), 50)
        return result, table, printed, trained

    def test_table_3(self):
        mean = dict(zip(TABLE_3, (0.5, 0.5, 0.7, 0.6, 0.65), strict=True))
        noise = 0.01 * np.random.default_rng(0).normal(size=(2, 5, 6))
        accuracy = lambda name, familiar, seed: mean[name] + noise[seed, list(TABLE_3).index(name)]
        result, table, printed, _ = self.run_with("table_3", SMOKE, accuracy)
        self.assertEqual(list(table), list(TABLE_3))
        self.assertAlmostEqual(float(table["+ loss"]["gain"]), 20, delta=2)
        self.assertEqual(table["NPBML"]["paper"], "75.01 ± 0.64")
        self.assertAlmostEqual(float(table["NPBML"]["paper_gain"]), 9.63)
        words = {verdict["claim"]["statement"]: verdict["holds"] for verdict in result["claims"]}
        self.assertTrue(words["A learned loss helps"])
        self.assertIs(words["Beside the loss, the preconditioner still helps"], False)
        self.assertIsNone(words["A learned preconditioner helps"])
        self.assertIn("inconclusive", printed)

    def test_together_less_than_the_sum(self):
        order = tables.ORDERS["table_4"][-1]
        published = {row: tables.number(cell) for row, cell in tables.printed("table_4").items()}
        gains = {row: published[row] - published["base"] for row in published}
        # 5.30 + 5.54 + 4.66 against 6.37.
        self.assertAlmostEqual(sum(w * published[row] for row, w in order.weights.items()), 15.50 - 6.37)
        self.assertAlmostEqual(sum(gains[name] for name in LOSSES), 15.50)

    def test_what_the_tables_say_is_so_in_the_paper(self):
        for name, orders in tables.ORDERS.items():
            published = {row: tables.number(cell) for row, cell in tables.printed(name).items()}
            for order in orders:
                self.assertGreater(sum(w * published[row] for row, w in order.weights.items()), 0, order.statement)

    def test_fairness(self):
        use = {name: 0.1 * number for number, name in enumerate(QUERY_USE)}

        def accuracy(name, familiar, seed):
            draw = np.random.default_rng([seed, familiar, len(name)]).normal(size=6)
            mean = 0.4 + use[name.partition(", ")[0]] + 0.05 * ("pre-trained" in name) - 0.2 * ("eta" in name)
            return mean + 0.1 * familiar + 0.001 * draw

        result, table, _, trained = self.run_with("fairness", SMOKE, accuracy)
        self.assertLen(table, 12)
        self.assertEqual(sum(trained), 6)
        for row in table.values():
            self.assertAlmostEqual(float(row["gap"]), 10, delta=0.5)
            self.assertEqual(float(row["pretraining_seconds"]), 30.0 * (row["pretrained"] == "True"))
            self.assertEqual(row["normalisation"] == "transductive", row["name"].startswith("+ joint"))
        # From scratch the first validation comes after 4 s; the pre-trained begin after 30 s, when others are done.
        self.assertEqual(table["inductive, pre-trained"]["at_equal_seconds"], "nan")
        self.assertEqual(float(table["inductive, from scratch"]["at_equal_seconds"]), 50.0)
        self.assertTrue(all(verdict["holds"] for verdict in result["claims"]))


class RowsTest(LittleCase):
    def test_fairness(self):
        rows = rows_of(SMOKE, "fairness")
        self.assertLen({row.stage for row in rows}, 12)
        for row in rows:
            strict = row.name.startswith("inductive")
            self.assertEqual(row.biases.transductive, not strict)
            joint = row.biases.batch == "joint" and row.normalisation == "transductive"
            self.assertEqual(joint, row.name.startswith("+ joint"))

    def test_strict_induction(self):
        """One query image more or less changes nothing for the others; under joint normalisation it does."""
        self.enter_context(jax.enable_x64(True))
        task = tiny.new_task()
        shorter = task._replace(query_x=task.query_x[:-1], query_y=task.query_y[:-1])
        config = override(SMOKE, {"episodes.ways": str(tiny.WAYS)})
        for row in rows_of(config, "fairness")[:3]:
            setting = tiny.setting(normalisation=row.normalisation)
            of = npbml(setting, row.biases)
            meta = tiny.randomised(of.init(jax.random.key(0)), scale=0.1)

            @jax.jit
            def logits(task, setting=setting, row=row, of=of, meta=meta):
                task = of.process.prepare(meta, task)
                state = of.process.init(meta, task, jax.random.key(0))
                state = of.process.step(meta, state, (), task)
                procedure = Procedure(setting, row.biases)
                return procedure.predicted(meta, state.params, task[1])

            difference = np.abs(logits(task)[:-1] - logits(shorter)).max()
            if row.name.startswith("inductive"):
                self.assertLess(difference, 1e-12)
            else:
                self.assertGreater(difference, 1e-9, row.name)

    @parameterized.parameters(
        ("table_3", {"biases.warps": "none"}, "about warps: set biases.warps"),
        ("table_4", {"biases.regulariser": "false"}, "about regulariser"),
        ("fairness", {"biases.transductive": "false"}, "about transductive"),
        ("fairness", {"pretraining.steps": "0"}, "set pretraining.steps"),
        ("implicit", {"biases.film": "losses"}, "set biases.film"),
    )
    def test_what_an_experiment_needs(self, name, changes, message):
        with self.assertRaisesRegex(ConfigError, message):
            rows_of(override(SMOKE, changes), name)


def last_block(**changes):
    return Procedure(tiny.setting(), dataclasses.replace(LAST, **changes))


def picking(net, inputs, weight):
    """A network that is `weight` times the sum of these inputs, as long as that is positive."""
    first, second, last = net
    zeros = jax.tree.map(jnp.zeros_like, net)
    chosen = zeros[0].dense.weights.at[jnp.array(inputs), 0].set(1.0)
    return (
        zeros[0]._replace(dense=zeros[0].dense._replace(weights=chosen)),
        zeros[1]._replace(dense=zeros[1].dense._replace(weights=zeros[1].dense.weights.at[0, 0].set(1.0))),
        zeros[2]._replace(dense=zeros[2].dense._replace(weights=zeros[2].dense.weights.at[0, 0].set(weight))),
    )


class InsideTest(LittleCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.enterClassContext(jax.enable_x64(True))
        cls.procedure = last_block()
        cls.task = tiny.new_task()
        random = tiny.randomised(cls.procedure.init(jax.random.key(0)), scale=0.3)
        silent = {name: jax.tree.map(jnp.zeros_like, net) for name, net in random["losses"].items()}
        cls.meta = random | {"losses": silent}
        cls.look = staticmethod(jax.jit(looked_inside(cls.procedure, tiny.STEPS)))

    def test_without_learned_terms_steps_are_those_of_cross_entropy(self):
        found = self.look(self.meta, self.task)
        np.testing.assert_allclose(found["step_size"], 1)
        np.testing.assert_allclose(found["alignment"], 1)
        np.testing.assert_allclose(found["terms"], 0)
        np.testing.assert_allclose(found["pull"], 0)
        self.assertTrue(np.isnan(found["block_step_size"][0, 0]))  # all ways begin at one row
        np.testing.assert_allclose(found["block_step_size"][:, 1], 1)

    def test_a_multiple_of_cross_entropy_is_a_step_size(self):
        losses = dict(self.meta["losses"])
        losses["inductive"] = picking(losses["inductive"], [2 * tiny.WAYS], 0.5)
        found = self.look(self.meta | {"losses": losses}, self.task)
        np.testing.assert_allclose(found["step_size"], 1.5)
        np.testing.assert_allclose(found["alignment"], 1)
        np.testing.assert_allclose(found["terms"][:, 0], 0.5)
        np.testing.assert_allclose(found["terms"][:, 1:], 0)

    def test_pull(self):
        """R = w sum_l |theta_l|_2 is homogeneous, so its gradient along theta is R itself."""
        losses = dict(self.meta["losses"])
        arrays = jax.tree.leaves(self.procedure.start(self.meta))
        losses["regulariser"] = picking(losses["regulariser"], [4 * n + 3 for n in range(len(arrays))], 0.2)
        found = self.look(self.meta | {"losses": losses}, self.task)
        norms = np.array([np.linalg.norm(x) for x in arrays])
        self.assertAlmostEqual(float(found["pull"][0]), 0.2 * norms.sum() / (norms**2).sum(), places=10)

    def test_rate_of_a_warp(self):
        def warped(scale):
            warps = jax.tree.map(lambda x: x, self.meta["warps"])
            kernel = scale * identity_kernel(warps[-1][0].kernel.shape[-1])
            return self.meta | {"warps": (*warps[:-1], (warps[-1][0]._replace(kernel=kernel),))}

        for scale in (1.0, 0.7):
            found = self.look(warped(scale), self.task)
            rates = np.asarray(found["warp_rate"])
            there = ~np.isnan(rates)
            self.assertTrue(there[1:].all())
            np.testing.assert_allclose(rates[there], scale**2)
            np.testing.assert_allclose(np.asarray(found["warp_alignment"])[there], 1)

    def test_watched(self):
        draw = np.random.default_rng(0).normal
        maps, kernel, delta = draw(size=(2, 4, 4, 3)), draw(size=(3, 3, 3, 3)), draw(size=(2, 4, 4, 3))
        out, backward = jax.vjp(watched, maps, (kernel, jnp.zeros(3)))
        np.testing.assert_allclose(out, conv3x3(maps, kernel))
        _, (_, squares) = backward(delta)
        matrix = jax.jacobian(lambda x: conv3x3(x, kernel))(maps).reshape(maps.size, maps.size)
        into = matrix.T @ delta.ravel()
        expected = [delta.ravel() @ delta.ravel(), into @ into, (matrix @ into) @ (matrix @ into)]
        np.testing.assert_allclose(squares, expected)

    def test_states(self):
        of = npbml(tiny.setting(), LAST)
        meta = tiny.randomised(of.init(jax.random.key(0)), scale=0.3)
        found = self.look(meta, self.task)
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], self.task)
        np.testing.assert_allclose(found["states"], accuracies(of, meta, one)[0])
        self.assertGreater(float(found["within"]), 0)
        # Scales and offsets of the last block's maps and of its warp's.
        self.assertLen(found["embedding"], 4 * tiny.ENCODER.filters[-1])

    def test_landscape(self):
        found = np.asarray(jax.jit(functools.partial(landscape, self.procedure))(self.meta))
        margin, others = np.array(MARGINS), tiny.WAYS - 1
        share = others / (np.exp(margin) + others)
        for way in range(tiny.WAYS):
            for which in (0, 1):
                np.testing.assert_allclose(found[which, way, :, 0], -np.log1p(-share))
                np.testing.assert_allclose(found[which, way, :, 1], -share)
        np.testing.assert_allclose(found[2], 0)


class RelationTest(absltest.TestCase):
    def test_squared_error(self):
        self.enter_context(jax.enable_x64(True))
        task = tiny.new_task()
        scores = np.random.default_rng(0).uniform(size=(len(task.query_y), tiny.WAYS))
        network = RelationNetwork(lambda key: (), lambda params, episode: params * scores)
        slow = np.mean(
            [(scores[q, k] - (task.query_y[q] == k)) ** 2 for q in range(len(scores)) for k in range(tiny.WAYS)]
        )
        self.assertAlmostEqual(float(relation.squared_error(network, 1.0, task)), slow)


class CostTest(parameterized.TestCase):
    def test_task(self):
        row = rows_of(SMOKE, "full")[0]  # the last block moves, the start of all is learned, all images are seen
        found = cost.task_cost(row, np.array([5.0, 2.0]), support=3, query=6, updates=(2, 4))
        self.assertEqual(found.training, 5 * 3 * (9 + 6) + 2 * (9 * 2 * 9 + 3 * 6))
        self.assertEqual(found.test, 5 * (9 + 6) + 2 * (3 * 4 * 9 + 5 * 6))
        strict = rows_of(SMOKE, "fairness")[0]
        self.assertEqual(cost.task_cost(strict, np.array([5.0, 2.0]), 3, 6, (2, 4)).training, 5 * 3 * 9 + 2 * 72)

    def test_a_warp_counts_as_a_convolution(self):
        encoder = SMOKE.encoder.build(28, 1)
        body = jax.eval_shape(encoder.init, jax.random.key(0))
        plain, *_, warped = (cost.by_block(row, encoder, body, 28) for row in rows_of(SMOKE, "table_3"))
        np.testing.assert_array_equal(warped[:-1], plain[:-1])
        self.assertEqual(warped[-1], 2 * plain[-1])

    @parameterized.product(name=list(EXPERIMENTS), preset=list(PRESETS))
    def test_dry_run_prints_sizes_and_computes_nothing(self, name, preset):
        config = EXPERIMENTS[name].presets[preset]
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(Data, "__init__", side_effect=AssertionError):
            where = pathlib.Path(folder) / "run"
            _, printed = quietly(lambda: EXPERIMENTS[name].main_fn(config, where, True))
            self.assertFalse(where.exists())
        for row in rows_of(config, name):
            self.assertIn(row.name, printed)
        for part in ("FLOP", "MiB", "hours", "meta-parameters"):
            self.assertIn(part, printed)
        self.assertEqual("relation network" in printed, preset == "code")


class ConfigTest(parameterized.TestCase):
    def test_data_set(self):
        self.assertEqual(SMOKE.few_shot.dataset, "glyphs")
        self.assertEqual(override(SMOKE, {"data": "here"}).few_shot.dataset, "cifar-fs")
        self.assertEqual(override(SMOKE, {"data": "here", "dataset": "fc100"}).few_shot.dataset, "fc100")
        self.assertEqual(override(SMOKE, {"data": "here"}).recipe.inner_rate, 0.01)
        self.assertEqual(SMOKE.few_shot.training.steps, SMOKE.outer.steps)

    @parameterized.parameters(
        ({"dataset": "omniglott"}, "Did you mean omniglot"),
        ({"outer.clip": "0"}, "clip must be positive"),
        ({"outer.steps": "0"}, "steps at least 1"),
        ({"normalisation": "running", "biases.warp_place": "block", "biases.warp_norm": "true"}, "warp_norm=false"),
        ({"relation.filters": "()"}, "filters"),
    )
    def test_configurations(self, changes, message):
        with self.assertRaisesRegex(ConfigError, message):
            override(SMOKE, changes)

    def test_published(self):
        five = {"data": "x", "episodes.shots": "5"}
        self.assertEqual(published_for(override(PRESETS["paper"], five), "main", "NPBML"), "79.24 ± 0.69")
        self.assertEqual(published_for(SMOKE, "main", "NPBML"), "")
        self.assertEqual(published_for(override(TABLES["paper"], {"data": "x"}), "table_3", "+ loss"), "")
        mini = {"data": "x", "dataset": "mini-imagenet"}
        self.assertEqual(published_for(override(TABLES["paper"], mini), "table_3", "+ loss"), "71.75 ± 0.69")

    def test_flags(self):
        self.assertEqual((TABLES["laptop"].seeds, COMPARISONS["laptop"].seeds), (3, 3))
        values = flags.FlagValues()
        launching.define_flags(EXPERIMENTS["table_4"].presets, values, "laptop", SHORT_FLAGS)
        command = ["npbml", "--data=there", "--preset=smoke", "--config.biases.film_moves"]
        found = launching.parse(command, TABLES, values, "npbml/table_4", SHORT_FLAGS)
        biases = dataclasses.replace(LAST, film_moves=True)
        self.assertEqual(found.config, dataclasses.replace(SMOKE, data="there", biases=biases))
        self.assertEqual(found.workdir, pathlib.Path("runs/npbml/table_4/smoke"))

    def test_a_row_is_the_whole_of_its_components(self):
        encoder = PRESETS["laptop"].encoder.build(*SIZES["glyphs"])
        for row in rows_of(TABLES["laptop"], "table_3"):
            meta = jax.eval_shape(for_sizes(TABLES["laptop"], row, encoder).training.init, jax.random.key(0))
            self.assertEqual("warps" in meta, "preconditioner" in row.name or row.name == "NPBML")
            self.assertEqual("losses" in meta, "loss" in row.name or row.name == "NPBML")
            self.assertEqual("film" in meta, row.name == "NPBML")
        self.assertEqual(PRESETS["paper"].biases, PAPER)


if __name__ == "__main__":
    absltest.main()
