"""What meta-training leaves in a network: all experiments at smoke size, interrupted and resumed, and their parts."""

import contextlib
import dataclasses
import json
import math
import pathlib
import tempfile
from unittest import mock

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments.formal_languages.lab import adaptation, conditions, cost, experiment, training
from experiments.formal_languages.lab.config import PRESETS, PoolsSettings, TargetSettings
from experiments.formal_languages.lab.records import Condition, Scores, read_scores
from metalearn.core import estimator_named, exact, objectives, outer_loop, task_mesh
from metalearn.languages.adaptation import Adaptation
from metalearn.languages.continuation import continuations
from metalearn.languages.nine import NINE
from metalearn.languages.tokens import letters_to_symbols
from metalearn.languages.training import AT_ONCE, meta_learning, outer_optimizer, pre_training
from metalearn.run import Progress, RunPaths
from metalearn.run.config import override
from tests.run.folder_case import FolderCase
from tests.run.small_runs import compile_little, quietly

SMOKE, LAPTOP = PRESETS["smoke"], PRESETS["laptop"]


def interrupted(folder):
    """A run that is stopped twice: before its third group of networks, and after it has adapted some of them."""
    train, adapt = training.Trainer.__call__, adaptation.Targets.adapted
    calls = {"train": 0, "adapt": 0}

    def counted(name, function, limit):
        def call(*arguments, **named):
            calls[name] += 1
            if calls[name] > limit:
                raise KeyboardInterrupt
            return function(*arguments, **named)

        return call

    with mock.patch.object(training.Trainer, "__call__", counted("train", train, 2)):
        with contextlib.suppress(KeyboardInterrupt):
            experiment.run("everything", SMOKE, folder)
    with mock.patch.object(adaptation.Targets, "adapted", counted("adapt", adapt, 3)):
        with contextlib.suppress(KeyboardInterrupt):
            experiment.run("everything", SMOKE, folder)


class RunTest(absltest.TestCase):
    """Everything in one go in `whole`; in `resumed` it was interrupted twice."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.enterClassContext(mock.patch.dict("os.environ", {"XDG_CACHE_HOME": str(folder / "cache")}))
        compile_little(cls, folder / "cache" / "jax")  # nearly all of the time is spent compiling
        cls.whole, cls.resumed = folder / "whole", folder / "resumed"
        cls.result, cls.printed = quietly(lambda: experiment.run("everything", SMOKE, cls.whole))
        quietly(lambda: interrupted(cls.resumed))
        cls.left = {path.name for path in (cls.resumed / "scores").iterdir()}
        cls.was_finished = (cls.resumed / "result.json").exists()
        quietly(lambda: experiment.run("everything", SMOKE, cls.resumed))

    def test_result(self):
        self.assertEqual(self.result, json.loads((self.whole / "result.json").read_text()))
        self.assertEqual(set(self.result["experiments"]), {*conditions.SCORED, "inside"})
        self.assertEqual(
            set(self.result["pools"]),
            {f"{f}:{b}" for f in ("minimalist", "metagrammar") for b in ("simple", "uniform", "complex")},
        )
        self.assertTrue((self.whole / "results.md").read_text())
        self.assertIn("where the time went", self.printed)
        for found in self.result["experiments"].values():
            self.assertTrue(found["found"] and found["claims"])

    def test_every_network_met_every_target(self):
        scores = Scores(read_scores(self.whole / "scores.csv"))
        expected = {c for name in conditions.SCORED for c in conditions.conditions_of(SMOKE, name)}
        self.assertEqual(set(scores.conditions), expected)
        self.assertEqual((scores.seeds, scores.strings), ((0, 1), SMOKE.targets.strings))
        self.assertEqual(scores.targets, SMOKE.targets.languages)
        # Each training has left something else behind.
        tables = [
            scores.table(
                c.source,
                strings=3,
                metric="continuation",
                training=c.training,
                frozen=c.frozen,
                architecture=c.architecture,
                own=True,
            )
            for c in scores.conditions
        ]
        self.assertGreater(len({table.tobytes() for table in tables}), 2 * len(tables) / 3)
        self.assertTrue(all(((table >= 0) & (table <= 1)).all() for table in tables))

    def test_means_leave_out_the_language_of_meta_training(self):
        rows = [row for row in read_scores(self.whole / "scores.csv") if row.source == "An" and row.strings == 3]
        rows = [r for r in rows if (r.architecture, r.training, r.frozen) == ("lstm", "exact", False)]
        others = [r.continuation for r in rows if r.target != "An"]
        self.assertLen(others, len(rows) * 2 // 3)
        self.assertAlmostEqual(self.result["scores"]["lstm/An/exact"]["3"]["continuation"], np.mean(others), places=12)

    def test_an_interrupted_run_ends_with_the_same_bytes(self):
        self.assertFalse(self.was_finished)
        self.assertLen(self.left, 3)
        files = {
            path.relative_to(self.whole)
            for path in self.whole.glob("**/*")
            if path.suffix == ".json" or path.name in ("scores.csv", "metrics.csv")
        }
        self.assertIn(pathlib.Path("result.json"), files)
        for name in files:
            if "checkpoints" not in name.parts:
                self.assertEqual((self.resumed / name).read_bytes(), (self.whole / name).read_bytes(), name)

    def test_a_finished_run_does_nothing(self):
        state = lambda: {path: path.stat().st_mtime_ns for path in self.whole.rglob("*") if path.is_file()}
        before = state()
        with mock.patch.object(experiment, "Trainer", side_effect=AssertionError):
            result, printed = quietly(lambda: experiment.run("everything", SMOKE, self.whole))
        self.assertEqual(result, self.result)
        self.assertIn("is finished; nothing to do", printed)
        self.assertEqual(state(), before)


class ConditionsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("simplicity", 7, 6),
        ("mechanisms", 10, 9),
        ("architectures", 8 * 3 + 4, 8 * 2 + 4),
        ("one_or_many", 16, 15),
        ("estimators", 9, 8),
        ("frozen", 10, 4),
        ("inside", 6, 3),
        # An, AnBnCn, XX and XXR on the LSTM are among the nine.
        ("everything", (16 + 5 + 6 + 7 * 3 + 2), (15 + 6 + 7 * 2 + 2)),
    )
    def test_numbers(self, name, count, trained):
        found = conditions.conditions_of(LAPTOP, name)
        self.assertLen(set(found), len(found))
        self.assertLen(found, count)
        networks = conditions.networks(found)
        self.assertLen([n for n in networks if n.training != "none"], trained)
        groups = training.groups(LAPTOP, networks)
        members = [member for group in groups for member in group.members]
        self.assertLen(set(members), 3 * trained)
        self.assertLen(members, 3 * trained)
        for group in groups:
            self.assertLen({(n.architecture, n.training) for n, _ in group.members}, 1)
            self.assertBetween(group.size, len(group.members), LAPTOP.training.together)
            self.assertEqual(group.size % 2, 0)
            self.assertLen(group.filled, group.size)
        kinds = {(group.members[0][0].architecture, group.members[0][0].training, group.size) for group in groups}
        self.assertLen(kinds, len({kind[:2] for kind in kinds}))  # one program each
        self.assertLen({group.name for group in groups}, len(groups))

    def test_all_is_adapted_once(self):
        found = conditions.conditions_of(LAPTOP, "everything")
        tasks = adaptation.tasks(LAPTOP, found)
        pairs = [(c, task.strings) for task in tasks for c in task.conditions]
        self.assertCountEqual(pairs, [(c, n) for c in found for n in LAPTOP.targets.strings])
        self.assertLen({task.name for task in tasks}, len(tasks))


class TrainerTest(parameterized.TestCase):
    """Networks trained together against each of them alone, by the loop for one network."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        compile_little(cls, cls.enterClassContext(tempfile.TemporaryDirectory()))

    @parameterized.parameters("exact", "displacement", "pre_trained")
    def test_each_network_sees_its_own_source(self, kind):
        config = override(SMOKE, {"model.units": 3, "training.steps": 2, "training.together": 12, "seeds": 3})
        sources = training.Sources(config)
        networks = [conditions.Network("elman", source, kind) for source in ("An", "AnBn", "AnBnCn")]
        (group,) = training.groups(config, networks)
        self.assertEqual((len(group.members), group.size), (9, 10))
        with tempfile.TemporaryDirectory() as folder:
            run = lambda: training.Trainer(config, sources)(group, RunPaths(folder), Progress(2).part(0, 2, 2))
            states, _ = quietly(run)
        model = training.model_of(config, "elman")
        process, objective = meta_learning(model), objectives.every_update(1)
        if kind == "pre_trained":
            process, objective = pre_training(model), AT_ONCE
        estimator = exact if kind == "pre_trained" else estimator_named(kind)
        loop = outer_loop(
            process, objective, outer_optimizer(config.optimizer, 2), estimator=estimator,
            memory="residuals", mesh=task_mesh(jax.devices()[:1]),
        )  # fmt: skip
        starts = training.random_weights(config, "elman")
        for place, (network, seed) in enumerate(group.members):
            state = loop.init(jax.tree.map(lambda x, s=seed: x[s], starts))
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2**31 - 2), seed)
            for step in range(2):
                # Other rows of padding would draw other dropout masks.
                batches = [sources.batch(source, step) for source in group.sources]
                padded = training.stack_episodes(batches)
                own = jax.tree.map(lambda x, i=group.sources.index(network.source): x[i], padded)
                state, _ = loop.step(state, own, key)
            mine = jax.tree.map(lambda x, p=place: x[p], states.meta)
            chex.assert_trees_all_close(mine, jax.device_get(state.meta), rtol=2e-4, atol=2e-6)


class SourcesTest(absltest.TestCase):
    def test_strings_of_a_source_are_of_its_language(self):
        sources = training.Sources(override(SMOKE, {"episodes.length": 12}))
        for name in ("AnBn", "Brackets"):
            language = NINE[name].language
            drawn = sources._sampler(name)(np.random.default_rng(0), 20)
            for symbols in drawn:
                self.assertTrue(language.contains("".join(language.alphabet[s] for s in symbols)))

    def test_batches_are_remembered(self):
        sources = training.Sources(SMOKE)
        self.assertIs(sources.batch("An", 1), sources.batch("An", 1))

    def test_biases(self):
        biases = PoolsSettings(tau=4.0).biases
        self.assertEqual(biases, {"simple": 4.0, "uniform": math.inf, "complex": -4.0})


class TargetsTest(absltest.TestCase):
    CONFIG = dataclasses.replace(SMOKE, targets=TargetSettings(("An", "Dyck"), (3,), 2, 1, False, 5, 12))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        compile_little(cls, cls.enterClassContext(tempfile.TemporaryDirectory()))

    def test_strings(self):
        targets = adaptation.Targets(self.CONFIG)
        for name in self.CONFIG.targets.languages:
            tests = targets.test_strings(name)
            self.assertLen(set(tests), 5)
            self.assertLessEqual(max(map(len, tests)), 12)
            learned = [targets.training_strings(name, seed, 3) for seed in range(2)]
            self.assertNotEqual(*learned)
            self.assertEqual(learned[0], targets.training_strings(name, 0, 3))
            self.assertTrue(all(NINE[name].language.contains(s) for s in [*tests, *learned[0]]))
        other = adaptation.Targets(dataclasses.replace(SMOKE, targets=TargetSettings(("Dyck",), (3,), 2, 1)))
        self.assertEqual(other.training_strings("Dyck", 1, 3), targets.training_strings("Dyck", 1, 3))

    def test_each_network_learns_its_own_target(self):
        """Against an adaptation of that network alone, and a score taken string by string."""
        config = override(self.CONFIG, {"model.units": 3, "adaptation.group": 1})
        targets = adaptation.Targets(config)
        weights = [training.random_weights(dataclasses.replace(config, seed=seed), "elman") for seed in (0, 1)]
        adapted = targets.adapted("elman", weights, 3)
        model = training.model_of(config, "elman", dropout=False)
        alone = Adaptation(model, config.adaptation)
        for condition, seed, place in ((0, 0, 0), (1, 0, 1), (1, 1, 1)):
            name = config.targets.languages[place]
            alphabet = NINE[name].language.alphabet
            texts = [letters_to_symbols(s, alphabet) for s in targets.training_strings(name, seed, 3)]
            start = jax.tree.map(lambda x, s=seed: x[s : s + 1], weights[condition])
            one = alone(start, [texts], (2, 1), targets._key_of(name, 1 + seed, 3, 1)[None])
            mine = jax.tree.map(lambda x, s=seed, p=place: x[s, p], adapted[condition])
            chex.assert_trees_all_close(mine, jax.tree.map(lambda x: x[0], one), rtol=1e-5, atol=1e-6)
            scores = targets.score("elman", adapted[condition])
            test = continuations(NINE[name].language, targets.test_strings(name))
            p = np.asarray(jax.nn.softmax(model.logits(mine, test.tokens[:, :-1], None)), np.float64)
            means = []
            for row, string in enumerate(test.valid):
                f1 = []
                for time, valid in enumerate(string):
                    if valid.any():
                        precision, bad = p[row, time][valid].sum(), p[row, time][~valid].sum()
                        recall = (p[row, time][valid] > bad).mean()
                        f1.append(2 * precision * recall / (precision + recall))
                means.append(np.mean(f1))
            self.assertAlmostEqual(scores[0, seed, place], np.mean(means), places=5)

    def test_a_network_that_has_diverged_knows_nothing(self):
        targets = adaptation.Targets(self.CONFIG)
        starts = training.random_weights(self.CONFIG, "elman")
        nothing = jax.tree.map(lambda x: np.full((2, 2, *x.shape[1:]), np.nan, np.float32), starts)
        np.testing.assert_array_equal(targets.score("elman", nothing)[0], 0)


class CostTest(FolderCase):
    def test_dry_run_of_every_experiment(self):
        for name in conditions.EXPERIMENTS:
            for preset, config in PRESETS.items():
                _, printed = quietly(lambda n=name, c=config: experiment.main(n, c, self.folder / "run", True))
                self.assertIn("networks to train", printed, (name, preset))
                self.assertFalse((self.folder / "run").exists())

    def test_more_work_costs_more(self):
        (group,) = training.groups(SMOKE, [conditions.Network("lstm", "An", "exact")])
        twice = override(SMOKE, {"training.steps": 4})
        self.assertAlmostEqual(cost.training_flops(twice, group) / cost.training_flops(SMOKE, group), 2)
        task = lambda n: adaptation.Task((Condition("lstm", "none", "none", False),), n)
        self.assertGreater(cost.adaptation_flops(LAPTOP, task(100)), 3 * cost.adaptation_flops(LAPTOP, task(30)))


if __name__ == "__main__":
    absltest.main()
