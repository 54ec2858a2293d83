"""The few-shot comparison from end to end on tiny pictures, its numbers by hand, and what it refuses."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
from absl import flags
from absl.testing import absltest, parameterized
from PIL import Image

from experiments.few_shot import __main__ as few_shot_main
from experiments.few_shot import config as few_shot_config
from experiments.few_shot import contestants, outcomes, report, training
from experiments.few_shot.__main__ import SHORT_FLAGS, main, run
from experiments.few_shot.config import (
    PRESETS,
    Config,
    EncoderSettings,
    PretrainingSettings,
    Recipe,
    TrainingSettings,
)
from experiments.few_shot.cost import forward_operations
from experiments.few_shot.data import Data
from experiments.few_shot.pretraining import optimizer
from experiments.few_shot.training import Repetition, TrainState
from metalearn.core import OuterState
from metalearn.fewshot.encoders import four_conv, resnet12
from metalearn.fewshot.episodes import EpisodeSettings
from metalearn.fewshot.family import ALGORITHMS
from metalearn.run import ConfigError, enable_compilation_cache, launching, read_csv
from metalearn.run.config import override
from tests.fewshot import tiny
from tests.run.folder_case import FolderCase

SIZE = 16
TINY = Config(
    algorithms=("anil", "nearest_centroid"),
    dataset="folders",
    data="(set by each test)",
    episodes=EpisodeSettings(ways=3, shots=1, queries=2),
    encoder=EncoderSettings(filters=2),
    normalisation="support",
    pretraining=PretrainingSettings(steps=2, batch=8, augmentation="none", validate_every=1),
    training=TrainingSettings(
        steps=3, tasks=2, validate_every=1, checkpoint_every=1, log_every=1, updates=1, test_updates=2
    ),
    validation_episodes=3,
    test_episodes=5,
    seeds=2,
)
CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


def quietly(call):
    """(result, standard output)."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        return call(), out.getvalue()


def write_pictures(folder, classes=4, images=6, noise=20.0, shuffled=False):
    """Grey pictures, a pattern for each class and noise; `shuffled`: classes are no more than a heap of pictures."""
    draw = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        patterns = draw.integers(0, 256, (classes, 1, SIZE, SIZE))
        drawn = np.clip(patterns + noise * draw.normal(size=(classes, images, SIZE, SIZE)), 0, 255).astype(np.uint8)
        if shuffled:
            drawn = draw.permutation(drawn.reshape(-1, SIZE, SIZE)).reshape(drawn.shape)
        for number, of_class in enumerate(drawn):
            place = folder / split / f"{split}_{number}"
            place.mkdir(parents=True)
            for i, image in enumerate(of_class):
                Image.fromarray(image).save(place / f"{i}.png")
    return str(folder)


class SmallCase(FolderCase):
    """Caches go to a folder of the test; programs are compiled quickly rather than well."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for option in CACHE_OPTIONS:
            cls.addClassCleanup(jax.config.update, option, getattr(jax.config, option))
        cls.addClassCleanup(jax.experimental.compilation_cache.compilation_cache.reset_cache)
        cls.addClassCleanup(jax.config.update, "jax_disable_most_optimizations", False)
        jax.config.update("jax_disable_most_optimizations", True)
        cls.common = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        # Nearly all of the time is spent compiling: two blocks, and the convolution that compiles fastest.
        cls.enterClassContext(
            mock.patch.object(
                few_shot_config, "four_conv", functools.partial(four_conv, blocks=2, convolution="direct")
            )
        )
        cls.enterClassContext(mock.patch.dict(os.environ, XDG_CACHE_HOME=str(cls.common / "cache")))
        enable_compilation_cache()


class RunTest(SmallCase):
    """One uninterrupted run in `whole`, one that was interrupted and restarted in `resumed`."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.config = dataclasses.replace(TINY, data=write_pictures(cls.common / "pictures"))
        cls.whole, cls.resumed = cls.common / "whole", cls.common / "resumed"
        cls.result, cls.printed = quietly(lambda: run(cls.config, cls.whole))
        keep, calls = training._keep_best, []

        def stop_in_the_second_repetition(*arguments):
            calls.append(arguments)
            if len(calls) == TINY.training.steps + 2:
                raise KeyboardInterrupt
            return keep(*arguments)

        with (
            mock.patch.object(training, "_keep_best", stop_in_the_second_repetition),
            contextlib.suppress(KeyboardInterrupt),
        ):
            quietly(lambda: run(cls.config, cls.resumed))
        cls.left = sorted(path.parent.name for path in cls.resumed.glob("stages/*/test.json"))
        cls.checkpoints = sorted(path.name for path in (cls.resumed / "stages" / "anil_1" / "checkpoints").iterdir())
        quietly(lambda: run(cls.config, cls.resumed))

    def test_result(self):
        self.assertEqual(self.result, json.loads((self.whole / "result.json").read_text()))
        self.assertEqual(set(self.result["algorithms"]), set(TINY.algorithms))
        anil, centroid = (self.result["algorithms"][name] for name in TINY.algorithms)
        for of in (anil, centroid):
            self.assertEqual(of["normalisation"], "support")
            self.assertLen(of["by_seed"], TINY.seeds)
            self.assertAlmostEqual(of["accuracy"], np.mean(of["by_seed"]))
            self.assertBetween(of["accuracy"], 0, 1)
        self.assertLen(anil["after_updates"], 1 + TINY.training.test_updates)
        self.assertEqual(anil["after_updates"][-1], anil["accuracy"])
        self.assertEqual((anil["training_episodes"], centroid["training_episodes"]), (6, 0))
        # 3x3 kernels 1 -> 2 -> 2, scale and offset after each, and a head of 3 ways on 2 features.
        body = 9 * (2 + 4) + 2 * 4
        self.assertEqual((centroid["meta_parameters"], centroid["adapted_parameters"]), (body, 0))
        self.assertEqual((anil["meta_parameters"], anil["adapted_parameters"]), (body + 9, 9))

    def test_an_interrupted_run_ends_with_the_same_bytes(self):
        self.assertEqual(self.left, ["anil_0", "nearest_centroid_0"])
        self.assertEqual(self.checkpoints, ["1"])
        names = ["result.json", *(str(path.relative_to(self.whole)) for path in self.whole.glob("stages/*/test.json"))]
        for stage in ("pretraining_0", "pretraining_1", "anil_0", "anil_1"):
            names += [f"stages/{stage}/{file}.csv" for file in ("metrics", "evaluation")]
        for name in names:
            self.assertEqual((self.resumed / name).read_bytes(), (self.whole / name).read_bytes(), name)
        self.assertLen((self.whole / "stages/anil_1/metrics.csv").read_text().splitlines(), 1 + TINY.training.steps)
        self.assertLen((self.whole / "stages/pretraining_1/metrics.csv").read_text().splitlines(), 1 + 2)

    def test_a_finished_run_does_nothing(self):
        state = lambda: {path: path.stat().st_mtime_ns for path in self.whole.rglob("*") if path.is_file()}
        before = state()
        with (
            mock.patch.object(Repetition, "__init__", side_effect=AssertionError),
            mock.patch.object(Data, "__init__", side_effect=AssertionError),
        ):
            result, printed = quietly(lambda: run(self.config, self.whole))
        self.assertEqual(result, self.result)
        self.assertIn("is finished; nothing to do", printed)
        self.assertEqual(state(), before)

    def test_the_best_in_validation_is_kept(self):
        for stage in ("pretraining_0", "anil_0", "anil_1"):
            curve = read_csv(self.whole / "stages" / stage / "evaluation.csv")
            np.testing.assert_array_equal(curve["kept"], np.maximum.accumulate(curve["accuracy"]))

    def test_an_algorithm_without_meta_training_is_tested_only(self):
        files = sorted(path.name for path in (self.whole / "stages" / "nearest_centroid_0").iterdir())
        self.assertEqual(files, ["test.json"])

    def test_table(self):
        with open(self.whole / "table.csv", newline="") as file:
            table = {row["algorithm"]: row for row in csv.DictReader(file)}
        self.assertEqual(set(table), set(TINY.algorithms))
        for name, row in table.items():
            self.assertEqual(row["normalisation"], "support")
            self.assertAlmostEqual(float(row["accuracy"]), 100 * self.result["algorithms"][name]["accuracy"])
        for column in ("seconds", "compile_seconds", "temporary_mib"):
            self.assertGreater(float(table["anil"][column]), 0)
            self.assertEqual(table["nearest_centroid"][column], "nan")
        self.assertIn("support normalisation, 2 seeds; 5 test episodes", self.printed)
        timing = json.loads((self.whole / "timing.json").read_text())
        self.assertEqual(timing["anil"]["seconds"], float(table["anil"]["seconds"]))

    def test_figure(self):
        pixels = matplotlib.image.imread(self.whole / "figures" / "comparison.png")
        self.assertGreater(min(pixels.shape[:2]), 800)
        self.assertGreater(len(np.unique(pixels[..., 0])), 50)


class KnownCaseTest(SmallCase):
    """A random encoder, not trained at all, judged by prototypes."""

    @parameterized.parameters((False, 1.0), (True, 1 / 3))
    def test_accuracy(self, shuffled, expected):
        config = dataclasses.replace(
            TINY,
            algorithms=("nearest_centroid",),
            data=write_pictures(self.folder / "pictures", 8, 12, noise=2.0, shuffled=shuffled),
            encoder=EncoderSettings(filters=8),
            normalisation="transductive",
            pretraining=PretrainingSettings(),
            training=TrainingSettings(tasks=4),
            test_episodes=400,
            seeds=1,
        )
        (found, _) = quietly(lambda: run(config, self.folder / "run"))
        of = found["algorithms"]["nearest_centroid"]
        if expected == 1.0:
            self.assertEqual((of["accuracy"], of["interval"]), (1.0, 0.0))
        else:
            self.assertBetween(of["interval"], 0.005, 0.05)
            self.assertAlmostEqual(of["accuracy"], expected, delta=2 * of["interval"])

    def test_statistics_of_pretraining(self):
        config = dataclasses.replace(
            TINY,
            algorithms=("nearest_centroid",),
            data=write_pictures(self.folder / "pictures"),
            normalisation="running",
            pretraining=dataclasses.replace(TINY.pretraining, steps=1),
            seeds=1,
        )
        given = []

        def noted(config, name, encoder, start):
            given.append(start)
            return contestants.contestant(config, name, encoder, start)

        with mock.patch.object(few_shot_main, "contestant", noted):
            (found, _) = quietly(lambda: run(config, self.folder / "run"))
        self.assertEqual(found["algorithms"]["nearest_centroid"]["normalisation"], "running")
        # Images lie in 0 .. 1, so the first layer's statistics moved a tenth of the way from 0 and 1.
        ((first,), *_) = given[0].statistics
        self.assertGreater(np.abs(first.mean).max(), 0)
        self.assertTrue(np.all((first.variance >= 0.9) & (first.variance < 2)))

    def test_accuracies_after_each_update(self):
        setting = tiny.setting()
        of = ALGORITHMS["maml"](setting)
        meta = tiny.randomised(of.init(jax.random.key(0)))
        tasks = [tiny.new_task(seed) for seed in range(4)]
        found = contestants.accuracies(of, meta, jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks))
        self.assertEqual(found.shape, (4, 3))
        weights = tiny.Weights(meta["body"], meta["head"])
        for row, task in zip(np.asarray(found), tasks, strict=True):
            expected = []
            for state in tiny.slow_states(weights, task, tiny.rates_like(weights, setting.rate), setting.steps):
                features, _ = tiny.encode(tiny.ENCODER, state.body, task.query_x)
                scores = np.asarray(features) @ np.asarray(state.head.weights) + np.asarray(state.head.bias)
                expected.append(np.mean(scores.argmax(1) == task.query_y))
            np.testing.assert_allclose(row, expected, atol=1e-6)


class DataTest(FolderCase):
    def test_familiar_episodes_are_other_ones_of_the_training_classes(self):
        data = Data(dataclasses.replace(TINY, data=write_pictures(self.folder)))
        of = lambda images: {tuple(np.round(image.ravel()[:20] * 255).astype(int)) for image in images}
        images = {split: of(getattr(data.splits, split).images / 255) for split in ("train", "test")}
        of_batch = lambda batch: of(np.concatenate([x.reshape(-1, SIZE * SIZE) for x in batch[::2]]))
        seen = of_batch(data.familiar(0))
        self.assertContainsSubset(seen, images["train"])
        self.assertNoCommonElements(seen, images["test"])
        self.assertNotEqual(seen, of_batch(data.training(0)(0)))


class ContestantTest(parameterized.TestCase):
    @parameterized.parameters(
        ("maml", 3, 5),
        ("maml_plus_plus", 3, 3),  # has rates for three updates, and so for no more
        ("alfa", 3, 3),
        ("prototypical", 0, 0),
    )
    def test_updates(self, name, trained, tested):
        config = dataclasses.replace(TINY, training=TrainingSettings(updates=3, test_updates=5))
        of = contestants.for_sizes(config, name, tiny.ENCODER)
        self.assertEqual((contestants.updates_of(of.training), contestants.updates_of(of.test)), (trained, tested))

    def test_adapted_parameters(self):
        body = 9 * (3 + 9) + 2 * 6
        head = 3 * 3 + 3
        expected = {"maml": body + head, "anil": head, "boil": body, "cavia": 100, "prototypical": 0}
        for name, count in expected.items():
            self.assertEqual(contestants.adapted_parameters(ALGORITHMS[name](tiny.setting()), tiny.new_task()), count)

    def test_recipes(self):
        omniglot, photographs = PRESETS["paper"], PRESETS["paper_photographs"]
        self.assertEqual(omniglot.recipe("maml"), Recipe(0.4, 1, 3, 1e-3))
        self.assertEqual(photographs.recipe("fomaml"), Recipe(0.01, 5, 10, 1e-3))
        changed = override(photographs, {"training.inner_rate": "0.2", "training.test_updates": "7"})
        self.assertEqual(changed.recipe("maml"), Recipe(0.2, 5, 7, 1e-3))
        self.assertTrue(photographs.recipe("reptile").descent)
        self.assertEqual(PRESETS["comparison"].recipe("metal"), Recipe(0.1, 5, 5))

    def test_outer_optimizer(self):
        gradient = jnp.array([2.0, -3.0])
        for recipe, expected in (
            (Recipe(0.1, 1, 1, 0.5, descent=True), [-1.0, 1.5]),
            (Recipe(0.1, 1, 1, 0.5), [-0.5, 0.5]),  # Adam's first step is the sign
        ):
            of = contestants.outer_optimizer(recipe, TrainingSettings(steps=10))
            updates, state = of.update(gradient, of.init(gradient))
            np.testing.assert_allclose(updates, expected, rtol=1e-5)
            if recipe.descent:
                for _ in range(5):
                    updates, state = of.update(gradient, state)
                np.testing.assert_allclose(updates, [-0.5, 0.75], rtol=1e-5)  # half-way to zero

    def test_adams_rate_falls_along_a_cosine(self):
        settings = TrainingSettings(steps=4, outer_schedule="cosine")
        of = contestants.outer_optimizer(Recipe(0.1, 1, 1, 0.5), settings)
        gradient = jnp.array([2.0])
        state, rates = of.init(gradient), []
        for _ in range(5):
            updates, state = of.update(gradient, state)  # of a constant gradient Adam makes steps of its rate
            rates.append(-float(updates[0]))
        expected = [0.5 * (0.01 + 0.99 * (1 + np.cos(np.pi * step / 4)) / 2) for step in range(5)]
        np.testing.assert_allclose(rates, expected, rtol=1e-5)


class PretrainingTest(absltest.TestCase):
    def test_optimiser(self):
        settings = PretrainingSettings(steps=8, rate=0.1, weight_decay=0.01)
        of = optimizer(settings)
        params = jnp.array([1.0, -2.0])
        state, slow, momentum = of.init(params), np.array([1.0, -2.0]), np.zeros(2)
        for step in range(8):
            gradient = np.array([0.5, 1.0]) * (step + 1)
            updates, state = of.update(jnp.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
            decayed = gradient + 0.01 * slow
            momentum = 0.9 * momentum + decayed
            slow = slow - 0.1 * 0.1 ** sum(step >= fall for fall in (4, 6, 7, 8)) * (decayed + 0.9 * momentum)
            np.testing.assert_allclose(params, slow, rtol=1e-5)


class KeepBestTest(absltest.TestCase):
    def test_a_worse_one_is_not_kept(self):
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(OuterState(jnp.array(1.0), (), zero, zero, zero), jnp.array(0.0), -jnp.inf, -jnp.inf)
        for meta, reached, best in ((1.0, 0.5, 1.0), (2.0, 0.4, 1.0), (3.0, 0.6, 3.0), (4.0, 0.6, 3.0)):
            state = state._replace(outer=state.outer._replace(meta=jnp.array(meta)))
            state = training._keep_best(state, jnp.array(reached))
            self.assertEqual((float(state.best), float(state.validation_accuracy)), (best, np.float32(reached)))


def outcome(accuracy, **changes):
    """An outcome with these accuracies after the last update, [seeds, episodes]."""
    accuracy = np.asarray(accuracy, float)[..., None]
    steps = np.array([10.0, 20.0, 30.0])
    curve = np.array([[0.3, 0.5, 0.4]])
    of = outcomes.Outcome(
        accuracy, Recipe(0.1, 1, 1), (1, 1), 1, 1, steps, curve, np.maximum.accumulate(curve, 1), 2.0, 1.0, 0.0
    )
    return of._replace(**changes)


class ReportTest(parameterized.TestCase):
    def test_interval(self):
        # s^2 = (4 + 0 + 4) / 2 * 1e-2, so 1.96 * 0.2 / sqrt(3).
        self.assertAlmostEqual(outcomes.interval(np.array([0.2, 0.4, 0.6])), 0.22632130551, places=9)

    def test_at_equal_seconds(self):
        nothing = np.zeros(0)
        of = {
            "slow": outcome([[0.0]]),  # validated after 20, 40 and 60 s
            "fast": outcome([[0.0]], seconds=1.5),  # done after 45 s
            "slower": outcome([[0.0]], seconds=5.0),  # first validated after 50 s
            "untrained": outcome([[0.0]], steps=nothing, validated=nothing[None], kept=nothing[None], seconds=np.nan),
        }
        found = outcomes.at_equal_seconds(of)
        self.assertEqual((found["slow"], found["fast"]), (0.5, 0.5))
        self.assertTrue(np.isnan(found["slower"]) and np.isnan(found["untrained"]))
        # "fast" is now done after 75 s, when "slow", from 40 s on, has been validated once (after 60 s).
        found = outcomes.at_equal_seconds({name: of[name] for name in ("slow", "fast")}, {"slow": 40.0, "fast": 30.0})
        self.assertEqual((found["slow"], found["fast"]), (0.3, 0.5))

    def test_published(self):
        config = PRESETS["paper_photographs"]
        self.assertEqual(report.published_for(config, "maml"), "48.70 ± 1.84")
        self.assertEqual(report.published_for(override(config, {"episodes.shots": "5"}), "anil"), "61.5")
        self.assertEqual(report.published_for(override(config, {"episodes.ways": "20"}), "maml"), "")
        self.assertEqual(report.published_for(PRESETS["laptop"], "maml"), "")
        self.assertTrue({name for *_, name in report.published()} <= set(ALGORITHMS))

    def test_verdicts_of_one_seed_are_about_its_episodes(self):
        config = dataclasses.replace(PRESETS["paper"], algorithms=("maml", "fomaml"))
        draw = np.random.default_rng(0)
        maml = 0.97 + 0.02 * draw.normal(size=(1, 100))
        outcomes = {"maml": outcome(maml), "fomaml": outcome(maml - 0.01), "anil": outcome(maml - 0.05)}
        anchor, order, anil = report.verdicts(config, outcomes)
        self.assertEqual([v.word for v in (anchor, order, anil)], ["holds", "holds", "fails"])
        self.assertEqual((anchor.n, order.n), (100, 100))
        self.assertAlmostEqual(order.estimate, 0.01)
        self.assertIn("test episodes of one seed", anchor.claim.statistic)

    def test_verdicts_of_several_seeds_are_about_seeds(self):
        config = dataclasses.replace(PRESETS["paper"], seeds=3)
        differences = np.array([[0.03], [0.0], [-0.02]])
        outcomes = {"maml": outcome(np.full((3, 50), 0.9)), "proto_maml": outcome(0.9 + differences + np.zeros(50))}
        anchor, better = report.verdicts(config, outcomes)
        self.assertEqual((anchor.n, anchor.word), (3, "fails"))
        self.assertEqual((better.n, better.word), (3, "inconclusive"))

    def test_what_is_not_omniglot_has_no_anchor(self):
        self.assertEqual(report.verdicts(PRESETS["laptop"], {"maml": outcome([[0.9, 0.8]])}), [])


class ErrorTest(SmallCase):
    @parameterized.parameters(
        ({"algorithms": "mamml"}, "unknown algorithm 'mamml'. Did you mean maml"),
        ({"algorithms": "()"}, "algorithms is empty"),
        ({"dataset": "omniglott"}, "unknown dataset 'omniglott'. Did you mean omniglot"),
        ({"data": ""}, "needs --data=FOLDER"),
        ({"normalisation": "running", "pretraining.steps": "0"}, 'normalisation="running".*set pretraining.steps'),
        ({"training.steps": "0"}, "training.steps=0 must be at least 1"),
        ({"training.tasks": "0"}, "training.tasks=0 must be at least 1"),
        ({"test_episodes": "0"}, "test_episodes=0"),
        ({"episodes.ways": "0"}, "ways"),
        ({"encoder.name": "resnet"}, "Did you mean resnet-12"),
    )
    def test_configurations(self, changes, message):
        with self.assertRaisesRegex(ConfigError, message):
            override(TINY, changes)

    @parameterized.parameters(
        ({"episodes.ways": "5"}, "ways=5, but folders train has 4 classes"),
        ({"episodes.shots": "5"}, "shots=5 and queries=2 need 7 images a class, but class 'train_0'.*has 6"),
        ({"size": "3"}, "size=3 cannot be halved 2 times"),
        ({"data": "/no/such/folder"}, "/no/such/folder does not exist"),
        ({"dataset": "omniglot"}, "omniglot has 1028 classes .*To get it"),
        ({"dataset": "glyphs"}, "glyphs are drawn from fonts: expected no path"),
    )
    def test_data_that_do_not_fit_are_refused_before_anything_is_made(self, changes, message):
        if not (self.common / "pictures").exists():
            write_pictures(self.common / "pictures")
        config = override(dataclasses.replace(TINY, data=str(self.common / "pictures")), changes)
        with mock.patch.object(Repetition, "__init__", side_effect=AssertionError):
            with self.assertRaisesRegex((ConfigError, launching.RunError), message):
                quietly(lambda: run(config, self.folder / "run"))
        self.assertFalse((self.folder / "run").exists())


class LaunchTest(FolderCase):
    def test_flags(self):
        values = flags.FlagValues()
        launching.define_flags(PRESETS, values, "laptop", SHORT_FLAGS)
        command = ["few_shot", "--algorithm=maml,fomaml", "--dataset=omniglot", "--data=there", "--preset=smoke"]
        found = launching.parse(command, PRESETS, values, "few_shot", SHORT_FLAGS)
        expected = {"algorithms": ("maml", "fomaml"), "dataset": "omniglot", "data": "there"}
        self.assertEqual(found.config, dataclasses.replace(PRESETS["smoke"], **expected))

    def test_all_algorithms(self):
        self.assertEqual(dataclasses.replace(TINY, algorithms=("all",)).names, tuple(ALGORITHMS))
        self.assertEqual(dataclasses.replace(TINY, algorithms=("anil", "maml", "anil")).names, ("anil", "maml"))

    @parameterized.parameters(*PRESETS)
    def test_dry_run_prints_sizes_and_computes_nothing(self, preset):
        config = PRESETS[preset]
        with mock.patch.object(Data, "__init__", side_effect=AssertionError):
            _, printed = quietly(lambda: main(config, self.folder / "run", True))
        self.assertFalse((self.folder / "run").exists())
        for part in (*config.names, "FLOP", "MiB", "hours", "meta-parameters", f"{config.normalisation} normalisation"):
            self.assertIn(part, printed)

    @parameterized.parameters(
        # Multiply-adds of one image as others count them, in millions.
        (EncoderSettings(filters=32), 28, 1, 2.6),
        (EncoderSettings(filters=64), 28, 1, 9.8),
        (EncoderSettings(filters=32), 84, 3, 27.3),
        (EncoderSettings(filters=128), 32, 3, 53.1),
        (EncoderSettings("resnet-12"), 84, 3, 2470.0),
        (EncoderSettings("resnet-12"), 32, 3, 370.0),
    )
    def test_operations(self, settings, size, channels, millions):
        body = jax.eval_shape(settings.build(size, channels).init, jax.random.key(0))
        found = forward_operations(body, size) / 2e6
        self.assertAlmostEqual(found / millions, 1, delta=0.02)

    def test_resnet_widths(self):
        self.assertEqual(EncoderSettings("resnet-12", 32).build(32, 3).filters, (32, 64, 128, 256))
        self.assertEqual(EncoderSettings("resnet-12", 64).build(32, 3).filters, resnet12(size=32).filters)


if __name__ == "__main__":
    absltest.main()
