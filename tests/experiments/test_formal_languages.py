"""The formal-language experiment from end to end, smaller than its smoke preset, and what it refuses."""

import contextlib
import csv
import dataclasses
import json
import pathlib
import tempfile
import typing
from unittest import mock

import jax
import matplotlib.image
import numpy as np
from absl.testing import absltest, parameterized

from experiments.formal_languages.distilled import cost
from experiments.formal_languages.distilled.config import (
    PRESETS,
    Config,
    EvaluationSettings,
    ModelSettings,
    TrainingSettings,
)
from experiments.formal_languages.distilled.cost import describe, memory
from experiments.formal_languages.distilled.evaluation import LEARNERS, MEMORISATION, Evaluation
from experiments.formal_languages.distilled.experiment import main, run
from experiments.formal_languages.distilled.training import Trainer, model_of
from metalearn.core import ESTIMATORS
from metalearn.languages.adaptation import AdaptationSettings
from metalearn.languages.episodes import EpisodeSettings
from metalearn.languages.targets import TARGETS
from metalearn.run import ConfigError
from metalearn.run.config import override
from tests.run.folder_case import FolderCase
from tests.run.small_runs import compile_little, quietly

LANGUAGES = ("An", "AnBn", "XX")
TINY = Config(
    seeds=2,
    model=ModelSettings(units=4, layers=1),
    episodes=EpisodeSettings(1, 1, 3, 5, 10, row_sizes=(5,), length_sizes=(10,)),
    training=TrainingSettings(steps=3, tasks=2, checkpoint_every=1, log_every=1, validate_every=2, validation_tasks=2),
    adaptation=AdaptationSettings(length=16, group=6),
    evaluation=EvaluationSettings(
        languages=LANGUAGES, strings=(1, 3), reference_draws=500, budget=60, max_symbols=12, test_strings=4
    ),
)


def interrupted(config, folder):
    """A run that is stopped when meta-training is done and pre-training of the second repetition is about to begin."""
    train = Trainer.__call__

    def stop(self, kind, seed, *arguments):
        if (kind, seed) == ("pre-trained", 1):
            raise KeyboardInterrupt
        return train(self, kind, seed, *arguments)

    with mock.patch.object(Trainer, "__call__", stop), contextlib.suppress(KeyboardInterrupt):
        run(config, folder)


class RunTest(parameterized.TestCase):
    """One uninterrupted run in `whole`, one that was interrupted and restarted in `resumed`."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        compile_little(cls, folder / "cache")  # nearly all of the time is spent compiling, by the restart once more
        cls.whole, cls.resumed = folder / "whole", folder / "resumed"
        cls.result, cls.printed = quietly(lambda: run(TINY, cls.whole))
        quietly(lambda: interrupted(TINY, cls.resumed))
        cls.left = sorted(str(path.relative_to(cls.resumed)) for path in cls.resumed.glob("stages/*/metrics.csv"))
        cls.was_finished = (cls.resumed / "result.json").exists()
        quietly(lambda: run(TINY, cls.resumed))

    def test_result(self):
        self.assertEqual(self.result, json.loads((self.whole / "result.json").read_text()))
        self.assertEqual(set(self.result["f_score"]), {*LEARNERS, MEMORISATION})
        for by_size in self.result["f_score"].values():
            self.assertEqual(set(by_size), {"1", "3"})
            for scores in by_size.values():
                self.assertLen(scores, TINY.seeds)
                self.assertTrue(all(0 <= score <= 1 for score in scores))
        statements = [verdict["claim"]["statement"] for verdict in self.result["claims"]]
        self.assertLen(statements, 3)  # at N = 1; the paper says nothing of N = 3
        self.assertTrue(all(s.startswith("From 1 strings, meta-trained") for s in statements))

    def test_trained_networks_differ_from_where_they_started(self):
        scores = {path.stem: json.loads(path.read_text()) for path in (self.whole / "scores").iterdir()}
        self.assertEqual(set(scores), {f"{learner}_{n}" for learner in (*LEARNERS, MEMORISATION) for n in (1, 3)})
        found = {str(scores[f"{learner}_1"]["continuation"]) for learner in LEARNERS}
        self.assertLen(found, len(LEARNERS))

    def test_an_interrupted_run_ends_with_the_same_bytes(self):
        self.assertFalse(self.was_finished)
        done = ("meta-trained_0", "meta-trained_1", "pre-trained_0")
        self.assertEqual(self.left, [f"stages/{name}/metrics.csv" for name in done])
        names = ["result.json", "per_language.csv", *(f"scores/{path.name}" for path in self.whole.glob("scores/*"))]
        for name in names:
            self.assertEqual((self.resumed / name).read_bytes(), (self.whole / name).read_bytes(), name)
        for stage in self.whole.glob("stages/*"):
            metrics = stage.relative_to(self.whole) / "metrics.csv"
            self.assertEqual((self.resumed / metrics).read_text(), (self.whole / metrics).read_text())
            self.assertLen((self.whole / metrics).read_text().splitlines(), 1 + TINY.training.steps)

    def test_a_finished_run_does_nothing(self):
        state = lambda: {path: path.stat().st_mtime_ns for path in self.whole.rglob("*") if path.is_file()}
        before = state()
        with (
            mock.patch.object(Trainer, "__init__", side_effect=AssertionError),
            mock.patch.object(Evaluation, "__init__", side_effect=AssertionError),
        ):
            result, printed = quietly(lambda: run(TINY, self.whole))
        self.assertEqual(result, self.result)
        self.assertIn("is finished; nothing to do", printed)
        self.assertEqual(state(), before)

    def test_figures_are_drawn(self):
        figures = sorted((self.whole / "figures").iterdir())
        self.assertEqual([path.name for path in figures], ["score_by_class.png", "score_by_strings.png"])
        for path in figures:
            pixels = matplotlib.image.imread(path)
            self.assertGreater(min(pixels.shape[:2]), 400)
            self.assertGreater(len(np.unique(pixels[..., 0])), 50)  # neither empty nor of one colour

    def test_table_has_a_row_for_each_language(self):
        with open(self.whole / "per_language.csv", newline="") as file:
            head, *rows, mean = csv.reader(file)
        self.assertEqual([row[0] for row in rows], list(LANGUAGES))
        self.assertEqual([row[1] for row in rows], [TARGETS[name].definition for name in LANGUAGES])
        self.assertEqual(mean[0], "mean")
        self.assertLen(head, 3 + 2 * 4)
        table = np.array([row[3:] for row in rows], float)
        np.testing.assert_allclose(table.mean(0), np.array(mean[3:], float), atol=1e-4)
        column = head.index(f"{MEMORISATION} N=3")
        expected = np.mean(self.result["f_score"][MEMORISATION]["3"])
        self.assertAlmostEqual(float(mean[column]), expected, places=4)

    def test_the_summary_names_the_published_score(self):
        self.assertIn("N = 1", self.printed)
        self.assertIn("(0.283)", self.printed)
        self.assertIn(str(self.whole / "result.json"), self.printed)


class EvaluationTest(FolderCase):
    def corpora(self, **files):
        """A folder of corpora; An has what it needs unless `files` says otherwise."""
        for name, text in ({"An": "a\t9\naa\t1\n", "An_1": "a\t1\n", "An_3": "a\t2\naa\t1\n"} | files).items():
            if text is not None:
                (self.folder / f"{name.replace('_', '-')}.txt").write_text(text)
        evaluation = dataclasses.replace(TINY.evaluation, languages=("An",), corpora=str(self.folder))
        return dataclasses.replace(TINY, evaluation=evaluation)

    def test_strings_are_read_from_a_folder(self):
        evaluation = Evaluation(self.corpora())
        self.assertEqual(evaluation.training_strings(0, 3), [["a", "a", "aa"]])
        self.assertEqual(evaluation.references[0].top, ((0,), (0, 0)))
        # Found {a, aa} of the true {a, aa}; from one string: {a}.
        self.assertEqual(evaluation.memorisation(3)["f_score"].tolist(), [[1.0], [1.0]])
        np.testing.assert_allclose(evaluation.memorisation(1)["f_score"], 2 / 3)

    @parameterized.parameters(
        ({"An_3": "a\t2\n"}, "An-3.txt has 2 strings, fewer than the 3 of evaluation.strings"),
        ({"An_3": None}, "An-3.txt"),
        ({"An": None}, "An.txt"),
        ({"An_1": "a 1\n"}, "An-1.txt, line 1: expected"),
        ({"An_1": "b\t1\n"}, r"'b' has \['b'\], outside its alphabet"),
    )
    def test_a_bad_folder_is_refused_before_anything_is_trained(self, files, message):
        config = self.corpora(**files)
        with mock.patch.object(Trainer, "__init__", side_effect=AssertionError):
            with self.assertRaisesRegex(ConfigError, f"evaluation.corpora=.*{message}"):
                run(config, self.folder / "run")

    def test_strings_drawn_for_a_repetition(self):
        evaluation = Evaluation(TINY)
        first, again, other = (evaluation.training_strings(seed, 3) for seed in (0, 0, 1))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        for name, strings in zip(LANGUAGES, first, strict=True):
            self.assertLen(strings, 3)
            self.assertTrue(all(map(TARGETS[name].contains, strings)))


class ConfigTest(FolderCase):
    def test_presets(self):
        self.assertEqual(list(PRESETS), ["smoke", "laptop", "paper"])
        paper = PRESETS["paper"]
        self.assertEqual((paper.seeds, paper.model.units, paper.model.layers, paper.model.dropout), (40, 1024, 2, 0.1))
        self.assertLen(paper.languages, 56)
        self.assertEqual((paper.training.steps, paper.training.tasks, paper.training.inner_rate), (25_000, 1, 1.0))
        self.assertEqual((paper.episodes.max_updates, paper.episodes.query_strings), (20, 1000))

    @parameterized.parameters(
        ({"evaluation.languages": "(An,AnBx)"}, "unknown language 'AnBx': did you mean"),
        ({"evaluation.strings": "(10,0)"}, r"evaluation.strings=\(10, 0\)"),
        ({"evaluation.strings": "()"}, r"evaluation.strings=\(\)"),
        ({"seeds": "0"}, "seeds"),
        ({"training.steps": "0"}, "training.steps"),
        ({"episodes.length": "11"}, "length_sizes=.* must ascend and end at 11"),
        ({"optimizer.warm_up": "2"}, "warm_up=2.0"),
        ({"adaptation.group": "0"}, "group=0"),
    )
    def test_errors(self, changes, message):
        with self.assertRaisesRegex(ConfigError, message):
            override(TINY, changes)

    def test_offers_all_estimators_but_one(self):
        """And knows their costs. Nothing ties the networks to their initial weights, as the implicit one needs."""
        offered = typing.get_args(typing.get_type_hints(TrainingSettings)["estimator"])
        self.assertEqual(set(offered), set(ESTIMATORS) - {"implicit"})
        costs = [describe(override(TINY, {"training.estimator": name})) for name in offered]
        self.assertLen(set(costs), 3)

    @parameterized.parameters(*PRESETS)
    def test_dry_run_prints_sizes_and_computes_nothing(self, preset):
        folder = self.folder / "run"
        with mock.patch.object(Trainer, "__init__", side_effect=AssertionError):
            _, printed = quietly(lambda: main(PRESETS[preset], folder, True))
        self.assertFalse(folder.exists())
        for part in ("parameters", "FLOP", "MiB of activations", "hours on A100", "hours on H100", "hours on TPU"):
            self.assertIn(part, printed)
        if preset == "paper":
            self.assertIn("16,808,975", printed)


class CostTest(parameterized.TestCase):
    # Large enough that activations and weights, not odds and ends, make the memory.
    SMALL = dataclasses.replace(
        TINY,
        model=ModelSettings(units=32, layers=2),
        training=dataclasses.replace(TINY.training, tasks=1, memory="residuals"),
        episodes=EpisodeSettings(3, 3, 3, 40, 12, (4, 40), (12,)),
    )

    def compiled_mib(self, config):
        """What the compiler reserves for the outer step of meta-training on one device, beside its arguments."""
        batch = Trainer(config)._training_batches(0)
        loop = Trainer(config)._loop("meta-trained", config.episodes.max_updates)
        state = jax.eval_shape(loop.init, jax.eval_shape(model_of(config).init, jax.random.key(0)))
        lowered = loop.jitted.lower(state, batch, jax.random.key(0))
        return lowered.compile().memory_analysis().temp_size_in_bytes / 2**20

    @parameterized.parameters(
        ({"training.query_rows": "4"},),
        ({"episodes.grid_times": "(16,)", "episodes.grid_rows": "(8,)"},),
    )
    def test_memory_is_that_of_a_compiled_step(self, changes):
        config = override(self.SMALL, changes)
        expected = memory(config)
        found = self.compiled_mib(config)
        self.assertBetween(expected["trajectory"] + expected["activations"], found / 2, found * 2)

    def test_tokens_by_hand(self):
        """All strings "a": one string a batch, START and a, of 3 tokens in a row of 10, and 2 cells of a grid of 9."""
        language = lambda rng, count, metagrammar: [(0,)] * count
        grids = dataclasses.replace(TINY.episodes, grid_times=(9, 11), grid_rows=(1, 5))
        with mock.patch.object(cost, "draw_language", language):
            in_rows, in_grids = (
                cost.tokens(dataclasses.replace(TINY, seed=5, episodes=e)) for e in (TINY.episodes, grids)
            )
        self.assertEqual(in_rows, (1, 3 * 10, 5 * 10, 5 * 10, 50))
        self.assertEqual(in_grids, (1, 9, 9, 9, 9))


if __name__ == "__main__":
    absltest.main()
