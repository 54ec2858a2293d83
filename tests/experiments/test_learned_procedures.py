"""Learned procedures under a language learner: the learner, its parts switched off, and the experiment."""

import contextlib
import json
import pathlib
import tempfile
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.formal_languages.lab.training import model_of
from experiments.learned_procedures import experiment, report, training
from experiments.learned_procedures.adaptation import Learners
from experiments.learned_procedures.config import BASELINE, PRESETS, Condition
from experiments.learned_procedures.cost import meta_parameters
from experiments.learned_procedures.learner import (
    PROCEDURES,
    acting,
    bent,
    descended,
    init_procedure,
    procedural,
    token_rows,
)
from experiments.learned_procedures.switches import PARTS, Switched, init_all, switchable, switches
from metalearn.core import exact, objectives, unroll
from metalearn.languages.episodes import Episode
from metalearn.languages.lstm import lstm
from metalearn.languages.model import Strings, cross_entropy
from metalearn.languages.nine import NINE
from metalearn.languages.tokens import END, PAD, START
from metalearn.languages.training import meta_learning
from metalearn.run import ConfigError, RunError
from metalearn.run.config import override
from tests.core.problems import compiled
from tests.languages.models import VOCABULARY, A, B
from tests.run.small_runs import compile_little, quietly

UPDATES = 2
MODEL = lstm(VOCABULARY, units=3, layers=1)
SMOKE = PRESETS["smoke"]


def new_task():
    support = np.array([[[START, A, B, END], [START, B, END, PAD]], [[START, A, END, PAD], [START, B, B, END]]])
    query = np.array([[START, A, A, END], [START, END, PAD, PAD]])
    return Episode(Strings(support, np.array([[1.0, 2.0], [1.0, 1.0]])), Strings(query, np.array([1.0, 3.0])))


class DoubleCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.key = jax.random.key(0)
        self.start = jax.tree.map(lambda x: np.asarray(x, np.float64), MODEL.init(jax.random.key(1)))

    def meta(self, name, noise):
        draw = np.random.default_rng(0).normal
        procedure = init_procedure(self.key, self.start, PROCEDURES[name])
        return {"start": self.start} | jax.tree.map(lambda x: noise * draw(size=np.shape(x)), procedure)


class ProcedureTest(DoubleCase):
    @parameterized.parameters("rate", "all")
    def test_neutral_is_meta_training(self, name):
        weights = objectives.every_update(UPDATES)
        found = compiled(exact(procedural(MODEL, 0.7), weights))(self.meta(name, 0.0), new_task(), self.key)
        plain = compiled(exact(meta_learning(MODEL, 0.7), weights))(self.start, new_task(), self.key)
        np.testing.assert_allclose(found.trajectory.losses, plain.trajectory.losses, rtol=1e-12)
        for mine, theirs in zip(*map(jax.tree.leaves, (found.gradient["start"], plain.gradient)), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-13)

    @parameterized.parameters("rate", "all")
    def test_gradient(self, name):
        of_one = compiled(exact(procedural(MODEL, 0.7), objectives.every_update(UPDATES)))
        meta, task, draw = self.meta(name, 0.1), new_task(), np.random.default_rng(1).normal
        # At an array of zeros, such as the first output bias, its norm has a kink and the inner gradient a jump.
        meta["start"] = jax.tree.map(lambda x: x + 0.3 * draw(size=x.shape), self.start)
        gradient = of_one(meta, task, self.key).gradient
        for part in meta:
            direction = jax.tree.map(np.zeros_like, meta)
            direction[part] = jax.tree.map(lambda x: draw(size=np.shape(x)), meta[part])
            moved = lambda by, d=direction: jax.tree.map(lambda x, d: np.asarray(x + by * d), meta, d)
            ahead, behind = (of_one(moved(by), task, self.key).trajectory.value for by in (1e-5, -1e-5))
            along = sum(np.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
            with self.subTest(part):
                self.assertGreater(abs(along), 1e-6)
                np.testing.assert_allclose(along, (ahead - behind) / 2e-5, rtol=1e-6)

    def test_a_rate_is_a_rate(self):
        weights = objectives.every_update(UPDATES)
        meta = {"start": self.start, "rate": jnp.log(2.5)}
        found = compiled(lambda m: unroll(procedural(MODEL, 0.4), weights, m, new_task(), self.key).losses)(meta)
        faster = meta_learning(MODEL, 1.0)
        expected = compiled(lambda m: unroll(faster, weights, m, new_task(), self.key).losses)(self.start)
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    def test_preconditioned_weights_are_those_of_layers_with_maps(self):
        draw = np.random.default_rng(2).normal
        theta, omega, x = draw(size=(3, 6)), np.eye(3) + 0.3 * draw(size=(2, 3, 3)), draw(size=(5, 3))
        mapped = lambda theta: jnp.concatenate([theta[:, :3] @ omega[0], theta[:, 3:] @ omega[1]], -1)
        loss = lambda weights: jnp.mean(jnp.tanh(x @ weights) ** 3)
        expected = mapped(theta - 0.2 * jax.grad(lambda theta: loss(mapped(theta)))(theta))
        found = mapped(theta) - 0.2 * bent(omega - np.eye(3), jax.grad(loss)(mapped(theta)))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(bent(np.full((1, 1, 1), 0.5), theta), 2.25 * theta, rtol=1e-12)

    def test_what_the_loss_sees(self):
        p = np.array([0.5, 0.3, 0.2])
        (((surprise, entropy, margin),),) = token_rows(jnp.log(p)[None, None] + 4, jnp.array([[1]]))
        np.testing.assert_allclose(surprise, -np.log(0.3), rtol=1e-12)
        np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), rtol=1e-12)
        np.testing.assert_allclose(margin, np.log(0.3 / 0.5), rtol=1e-12)

    def test_without_networks_the_loss_is_cross_entropy(self):
        strings = jax.tree.map(lambda x: x[0], new_task().support)
        found = descended(MODEL, {}, self.start, strings, None)
        np.testing.assert_allclose(found, cross_entropy(MODEL, self.start, strings), rtol=1e-12)

    def test_without_a_start_each_episode_begins_at_random(self):
        begin = procedural(MODEL).init
        one, other = (begin({}, new_task(), jax.random.key(seed)).params.embedding for seed in (0, 1))
        self.assertGreater(np.abs(one - other).min(), 0)


class SwitchesTest(DoubleCase):
    @parameterized.parameters(("random", "loss"), ("learned", "preconditioner"))
    def test_what_is_switched_off_is_not_there(self, start, procedure):
        weights, learned = objectives.every_update(UPDATES), switches(start, procedure)
        draw = np.random.default_rng(0).normal
        noisy = jax.tree.map(lambda x: 0.1 * draw(size=np.shape(x)), init_all(self.key, self.start))
        meta = noisy | {"start": self.start}
        found = compiled(exact(switchable(MODEL), weights))(meta, Switched(new_task(), 0.7, learned), self.key)
        own = {part: meta[part] for part in PARTS if learned[part]}
        if "loss" in own:
            own["loss"] = {name: tuple(m._replace(film=None) for m in net) for name, net in own["loss"].items()}
        alone = compiled(exact(procedural(MODEL, 0.7), weights))(own, new_task(), self.key)
        np.testing.assert_allclose(found.trajectory.losses, alone.trajectory.losses, rtol=1e-11)
        moved = {part: found.gradient[part] for part in own}
        if "loss" in own:
            films = [layer.film for net in moved["loss"].values() for layer in net]
            self.assertEqual({float(np.abs(leaf).max()) for leaf in jax.tree.leaves(films)}, {0.0})
            moved["loss"] = {name: tuple(m._replace(film=None) for m in net) for name, net in moved["loss"].items()}
        chex.assert_trees_all_close(moved, alone.gradient, rtol=1e-8, atol=1e-12)
        for part in set(PARTS) - set(own):
            for leaf in jax.tree.leaves(found.gradient[part]):
                np.testing.assert_array_equal(leaf, 0)

    def test_numbers_that_are_learned(self):
        size = meta_parameters(SMOKE, Condition("learned", "plain"))
        self.assertEqual(meta_parameters(SMOKE, BASELINE), 0)
        self.assertEqual(meta_parameters(SMOKE, Condition("random", "rate")), 1)
        for procedure, parts in PROCEDURES.items():
            params = jax.eval_shape(model_of(SMOKE.lab, "lstm").init, self.key)
            own = jax.eval_shape(lambda params, parts=parts: init_procedure(self.key, params, parts), params)
            alone = sum(leaf.size for leaf in jax.tree.leaves(own))
            self.assertEqual(meta_parameters(SMOKE, Condition("random", procedure)), alone)
            self.assertEqual(meta_parameters(SMOKE, Condition("learned", procedure)), size + alone)


class RunTest(parameterized.TestCase):
    """The whole experiment in `whole`; in `resumed` it was interrupted in the middle of the conditions."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        compile_little(cls, folder / "cache")
        cls.whole, cls.resumed = folder / "whole", folder / "resumed"
        cls.result, cls.printed = quietly(lambda: experiment.run(SMOKE, cls.whole))

        def interrupted():
            train, calls = training.Trainer.__call__, []

            def call(*arguments):  # those that choose the rate, then the conditions
                calls.append(arguments)
                if len(calls) == len(SMOKE.rates.grid) + 3:
                    raise KeyboardInterrupt
                return train(*arguments)

            with mock.patch.object(training.Trainer, "__call__", call), contextlib.suppress(KeyboardInterrupt):
                experiment.run(SMOKE, cls.resumed)

        quietly(interrupted)
        cls.was_finished = (cls.resumed / "result.json").exists()
        quietly(lambda: experiment.run(SMOKE, cls.resumed))

    def test_result(self):
        self.assertEqual(self.result, json.loads((self.whole / "result.json").read_text()))
        for start, rate in self.result["rates"].items():
            losses = self.result["loss_by_rate"][start]
            self.assertEqual(losses[f"{rate:g}"], min(losses.values()))
        # Six conditions, two N, two sources and both; procedures beside "plain", two N.
        self.assertLen(self.result["conditions"], 6 * 2 * 3)
        self.assertLen(self.result["decomposition"], 2 * 2)
        self.assertTrue(all(0 <= row["constrained"] <= 1 for row in self.result["conditions"]))
        self.assertLen({row["continuation"] for row in self.result["conditions"] if row["source"] == "all"}, 12)
        self.assertLen(self.result["claims"], len(list(report.orders(SMOKE.procedures))))
        self.assertIn("where the time went", self.printed)
        for file in ("table.csv", "decomposition.csv", "figures/learned_procedures.png"):
            self.assertTrue((self.whole / file).read_bytes())

    def test_an_interrupted_run_ends_with_the_same_bytes(self):
        self.assertFalse(self.was_finished)
        for name in ("result.json", "table.csv", "decomposition.csv", "stages/learned_all/metrics.csv"):
            self.assertEqual((self.resumed / name).read_bytes(), (self.whole / name).read_bytes(), name)

    def test_a_finished_run_does_nothing(self):
        with mock.patch.object(experiment, "Sources", side_effect=AssertionError):
            result, printed = quietly(lambda: experiment.run(SMOKE, self.whole))
        self.assertEqual(result, self.result)
        self.assertIn("is finished; nothing to do", printed)

    def test_each_network_learns_its_own_target(self):
        """Against the learner alone, on the strings without padding."""
        learners, condition = Learners(SMOKE), Condition("learned", "all")
        meta = jax.tree.map(lambda x: x[: SMOKE.seeds], training.first_meta(SMOKE))
        strings, keys = learners.strings(1, 0), learners._keys(1, 0)
        adapted = learners._adapted(meta, 0.5, switches(*condition), strings, keys)
        self.assertEqual(strings.tokens.shape, (2, 3, 3, SMOKE.targets.length))
        np.testing.assert_array_equal(strings.counts[..., 1:], 0)
        process = procedural(model_of(SMOKE.lab, "lstm", dropout=False), 0.5)
        seed, target = 1, 2
        own = jax.tree.map(lambda x: x[seed], meta)
        one = Strings(*(x[seed, target, :1] for x in strings))
        support = jax.tree.map(lambda x: np.repeat(x[None], SMOKE.test_updates, axis=0), one)
        expected = jax.jit(
            lambda meta, task, key: acting(
                meta, unroll(process, objectives.terminal(SMOKE.test_updates), meta, task, key).final.params
            )
        )({part: own[part] for part in own if part != "rate"}, Episode(support, one), keys[seed, target])
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[seed, target], adapted), expected, rtol=1e-4, atol=1e-6)
        symbols = one.tokens[0][one.tokens[0] > END] - END - 1  # of a string, or of its beginning where it is cut
        self.assertTrue(NINE["AnBnCn"].language.valid_next("".join("abc"[s] for s in symbols)))


class ReportTest(absltest.TestCase):
    def scores(self, by_condition, own=9.0):
        """F1 of each condition, at all N and by all metrics; `own` where the target is the source."""
        found = {}
        for condition in SMOKE.conditions:
            table = np.full((2, 3, len(SMOKE.sources), SMOKE.seeds, 3), by_condition[condition])
            if condition == BASELINE:
                table = table[:, :, :1]
            else:
                table[:, :, [0, 1], :, [0, 1]] = own
            found[condition] = table
        return found

    def setUp(self):
        super().setUp()
        f1 = {"plain": (0.3, 0.5), "rate": (0.3, 0.5), "all": (0.4, 0.7)}
        self.found = self.scores({Condition(s, p): f1[p][s == "learned"] for s, p in SMOKE.conditions})

    def test_decomposition(self):
        (row,) = [
            r for r in report.decomposition_rows(SMOKE, self.found) if (r["procedure"], r["strings"]) == ("all", 3)
        ]
        for name, expected in {
            "by_start": 0.2, "by_procedure": 0.1, "interaction": 0.1, "benefit": 0.4,
            "by_start_share": 0.5, "by_procedure_share": 0.25, "interaction_share": 0.25,
        }.items():  # fmt: skip
            self.assertAlmostEqual(row[name], expected, places=12, msg=name)

    def test_pairs_and_what_is_left_out(self):
        alone, whole = Condition("random", "all"), Condition("learned", "all")
        self.found[whole][1, 1, 0, 1, 2] += 0.3  # source An, seed 1, target AnBnCn
        self.found[alone][1, 1, :, 0, 0] += np.array([5.0, 0.5])  # the first source is the target itself
        table = report.contrast(SMOKE, self.found, {whole: 1.0, alone: -1.0}, strings=3)
        np.testing.assert_allclose(table, [[-0.2, 0.3, 0.3], [0.3, 0.3, 0.45]], atol=1e-12)
        of_one = report.contrast(SMOKE, self.found, {whole: 1.0, alone: -1.0}, strings=3, source="An")
        np.testing.assert_allclose(of_one, [[np.nan, 0.3, 0.3], [np.nan, 0.3, 0.6]], atol=1e-12)

    def test_verdicts(self):
        judged = {verdict.claim.statement: verdict for verdict in report.verdicts(SMOKE, self.found)}
        expected = {
            "A learned start helps plain descent": ("holds", 0.2),
            "From random weights a learned rate is as good as the chosen one": ("holds", 0.0),
            "From random weights a learned loss, preconditioner and modulation does more than a learned rate": (
                "holds", 0.1,
            ),
            "A learned loss, preconditioner and modulation alone brings at least half of what both bring": (
                "fails", -0.1,
            ),
            "A learned start and a learned loss, preconditioner and modulation together bring less than the sum of "
            "each alone": ("fails", 0.1),
        }  # fmt: skip
        for statement, (word, estimate) in expected.items():
            self.assertEqual(judged[statement].word, word, statement)
            self.assertAlmostEqual(judged[statement].estimate, estimate, delta=1e-3)

    def test_parts_add_up(self):
        for procedure in ("rate", "all"):
            parts = report.parts_of(procedure)
            total = {}
            for part in ("by_start", "by_procedure", "interaction"):
                total = report._sum(total, parts[part], 1.0)
            self.assertEqual({c: w for c, w in total.items() if w}, parts["benefit"])


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"sources": "Elvish"}, "sources"),
        ({"procedures": "plain,all"}, "lack rate"),
        ({"procedures": "plain,rate,rate"}, "each once"),
        ({"targets.languages": "An"}, "not among the sources"),
        ({"episodes.max_updates": "3"}, "training.updates says how many"),
        ({"targets.strings": "()"}, "targets.strings"),
        ({"targets.updates": "-1"}, "targets.updates at least 0"),
        ({"training.updates": "0"}, "training.updates"),
        ({"rates.grid": "2.0,1.0"}, "ascend"),
        ({"rates.steps": "5"}, "at most training.steps"),
    )
    def test_errors(self, changes, message):
        with self.assertRaisesRegex(ConfigError, message):
            override(SMOKE, changes)

    def test_updates_on_targets(self):
        self.assertEqual(SMOKE.test_updates, SMOKE.training.updates)
        self.assertEqual(override(SMOKE, {"targets.updates": "7"}).test_updates, 7)

    def test_best_rate(self):
        self.assertEqual(training.best_rate({0.5: 2.0, 1.0: 1.5, 2.0: np.nan, 4.0: np.inf}), 1.0)
        with self.assertRaisesRegex(RunError, "rates.grid"):
            training.best_rate({1.0: np.nan})

    @parameterized.parameters(*PRESETS)
    def test_dry_run_prints_sizes_and_computes_nothing(self, preset):
        config = PRESETS[preset]
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(experiment, "run", side_effect=AssertionError):
            where = pathlib.Path(folder) / "run"
            _, printed = quietly(lambda: experiment.main(config, where, True))
            self.assertFalse(where.exists())
        for part in ("meta-parameters", "FLOP", "MiB", "hours", *(f"start, {name}" for name in config.procedures)):
            self.assertIn(part, printed)


if __name__ == "__main__":
    absltest.main()
