"""The learning-effort experiments: the framework against slow loops, runs from end to end, and what they refuse."""

import dataclasses
import json
import tempfile
import threading
import time
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.learning_effort import gains, studies, switching
from experiments.learning_effort.__main__ import main, run
from experiments.learning_effort.experiments import BEYOND, EXPERIMENTS
from experiments.learning_effort.neuron import NEURON, NeuronSweeps, single_neuron, sweep_points
from metalearn.effort import optimise
from metalearn.run import RunDirectory
from metalearn.run.config import ConfigError, checked, override
from tests.run.folder_case import FolderCase
from tests.run.small_runs import compile_little, quietly

# Learns fast, so that a few steps are a whole trajectory.
SMALL = dataclasses.replace(NEURON, steps=12, dt=0.05, decay=0.3, scale=0.5, iterations=300, tolerance=1e-7)


def slow_neuron(settings, g, w):
    """Loss and cost of the single neuron along `g`, from the equations of the paper."""
    mu, noise = settings.mu, settings.mu**2 + settings.sigma**2
    losses, costs = [], []
    for gain in g:
        acting = w * (1 + gain)
        losses.append(0.5 * (1 - 2 * mu * acting + noise * acting**2) + 0.5 * settings.decay * w**2)
        costs.append(settings.beta * gain**2)
        w = w + settings.dt * (mu * (1 + gain) - noise * (1 + gain) ** 2 * w - settings.decay * w)
    return np.array(losses), np.array(costs)


def slow_value(settings, g, w):
    losses, costs = slow_neuron(settings, g, w)
    counts = len(g) if settings.horizon is None else settings.horizon
    discounts = settings.dt * settings.gamma ** (settings.dt * np.arange(len(g)))
    return -(discounts * (losses + costs))[:counts].sum()


class CompiledOnce(FolderCase):
    """Nearly all of the time is spent compiling, and each search compiles its programs anew."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        compile_little(cls, cls.enterClassContext(tempfile.TemporaryDirectory()))


class SolveTest(CompiledOnce):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def solve(self, settings, apart=False, **points):
        experiment = studies.Experiment(
            "a neuron",
            {},
            single_neuron,
            (),
            (),
            points=lambda _: {k: np.array(v) for k, v in points.items()},
            apart=apart,
        )
        with RunDirectory.open(self.folder / "run", settings) as paths:
            outcome, _ = quietly(lambda: studies.solve(experiment, settings, paths))
            return outcome, quietly(lambda: studies.validate(experiment, settings, paths))[0]

    @parameterized.parameters(("quasi_newton", False), ("ascent", False), ("amsgrad", True))
    def test_best_controls_of_all_lanes_against_a_slow_loop(self, optimizer, apart):
        rate = {"ascent": 2.0, "amsgrad": 0.05, "quasi_newton": 0.0}[optimizer]
        settings = dataclasses.replace(SMALL, optimizer=optimizer, rate=rate, seeds=2)
        swept = {"beta": [0.3, 1.0, 0.3], "gamma": [0.9, 0.9, 0.5], "horizon": [12, 12, 7]}
        outcome, validation = self.solve(settings, apart, **swept)
        self.assertIsNone(validation)  # a sweep has no first problem that stands for all
        self.assertEqual(outcome.points["beta"].tolist(), [0.3, 0.3, 1.0, 1.0, 0.3, 0.3])
        starts = outcome.control.measures["w"][:, 0]
        np.testing.assert_array_equal(starts[:2], starts[2:4])  # the same initial weights at each point
        self.assertNotEqual(starts[0], starts[1])
        for lane in range(6):
            point = {name: values[lane] for name, values in outcome.points.items()}
            here = dataclasses.replace(settings, **(point | {"horizon": int(point["horizon"])}))
            g = outcome.control.measures["g"][lane]
            losses, costs = slow_neuron(here, g, starts[lane])
            np.testing.assert_allclose(outcome.control.loss[lane], losses, rtol=1e-10)
            np.testing.assert_allclose(outcome.control.cost[lane], costs, rtol=1e-10)
            np.testing.assert_allclose(outcome.control.reward[lane], -losses - costs, rtol=1e-10)
            best = slow_value(here, g, starts[lane])
            np.testing.assert_allclose(outcome.control.value[lane], best, rtol=1e-10)
            np.testing.assert_allclose(
                outcome.baseline.loss[lane], slow_neuron(here, 0 * g, starts[lane])[0], rtol=1e-10
            )
            self.assertGreater(best, outcome.baseline.value[lane])
            self.assertEqual(outcome.lanes(np.arange(6) == lane).control.value, [outcome.control.value[lane]])
            for n in range(here.horizon):  # no step of the slow loop's value is left to gain inside the bounds
                for aside in (-0.02, 0.02):
                    other = np.clip(g + aside * (np.arange(12) == n), here.lower, here.upper)
                    self.assertLessEqual(slow_value(here, other, starts[lane]), best + 1e-9)

    def test_learning_from_samples_follows_the_averages(self):
        settings = dataclasses.replace(SMALL, optimizer="quasi_newton", seeds=2, batch=512, runs=8)
        outcome, validation = self.solve(settings)
        for which in ("control", "baseline"):
            sampled = getattr(validation, which)
            self.assertEqual(sampled.shape, (8, 12))
            self.assertTrue((sampled[:, 0] == sampled[0, 0]).all())  # runs differ in their batches alone
            self.assertLess(np.abs(sampled.mean(0) - getattr(outcome, which).loss[0]).max(), 0.01)
        self.assertGreater(np.abs(validation.control - validation.baseline).max(), 0.01)

    def test_an_interrupted_search_goes_on_with_what_it_found(self):
        settings = dataclasses.replace(SMALL, optimizer="quasi_newton", seeds=2)
        search, calls = optimise.quasi_newton, []

        def stop_at_the_second(*arguments):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return search(*arguments)

        one_at_a_time = mock.patch.object(studies.os, "cpu_count", lambda: 1)
        with one_at_a_time, mock.patch.object(optimise, "quasi_newton", stop_at_the_second):
            with self.assertRaises(KeyboardInterrupt):
                self.solve(settings)
            resumed, _ = self.solve(settings)
        self.assertLen(calls, 3)
        (self.folder / "run").rename(self.folder / "first")
        whole, _ = self.solve(settings)
        np.testing.assert_array_equal(resumed.control.value, whole.control.value)

    def test_a_search_that_fails_ends_the_others(self):
        both_began, ended = threading.Barrier(2), threading.Event()

        def one_fails(value, start, lower, upper, iterations, tolerance, watch, *rest):
            if both_began.wait(60) == 0:
                raise FloatingPointError("one of them")
            for step in range(10_000):
                try:
                    watch(step, 0.0)
                except BaseException:
                    ended.set()
                    raise
                time.sleep(0.01)

        settings = dataclasses.replace(SMALL, optimizer="quasi_newton", seeds=2)
        two_at_a_time = mock.patch.object(studies.os, "cpu_count", lambda: 2)
        with two_at_a_time, mock.patch.object(optimise, "quasi_newton", one_fails):
            with self.assertRaisesRegex(FloatingPointError, "one of them"):
                self.solve(settings)
        self.assertTrue(ended.is_set())

    def test_a_trajectory_that_diverges_is_diagnosed(self):
        settings = dataclasses.replace(SMALL, steps=900, dt=3.0, optimizer="ascent", rate=0.0, iterations=1)
        with self.assertRaisesRegex(FloatingPointError, r"diverge: the loss of state n=\d+ .* with dt=.* it stays"):
            self.solve(settings)


class ClaimTest(parameterized.TestCase):
    def verdicts(self, measured, scale, steps=10):
        claim = studies.close("It is two", "it", lambda outcome: measured, 2.0, 0.5, steps=10)
        settings = dataclasses.replace(SMALL, scale=scale, steps=steps)
        experiment = studies.Experiment("", {}, single_neuron, (), (claim,))
        return studies.verdicts(experiment, mock.Mock(settings=settings))

    @parameterized.parameters((2.4, True), (2.6, False))
    def test_what_nothing_random_enters_is_settled_by_one_run(self, measured, holds):
        (verdict,) = self.verdicts(measured, scale=0.0)
        self.assertEqual((verdict.holds, verdict.low, verdict.high, verdict.n), (holds, measured, measured, 1))

    def test_random_runs_need_an_interval(self):
        self.assertIsNone(self.verdicts(2.4, scale=0.1)[0].holds)
        self.assertTrue(self.verdicts([2.1, 2.11, 2.12], scale=0.1)[0].holds)
        self.assertFalse(self.verdicts([2.6, 2.61, 2.62], scale=0.1)[0].holds)

    def test_claims_about_later_steps_are_left_out(self):
        self.assertEmpty(self.verdicts(2.0, scale=0.0, steps=9))


class DefinitionTest(parameterized.TestCase):
    def test_sweeps_vary_one_setting_at_a_time(self):
        settings = NeuronSweeps(**(dataclasses.asdict(NEURON) | {"horizon": 600, "values": 3, "horizons": (200, 400)}))
        points = sweep_points(settings)
        rows = list(zip(*points.values(), strict=True))
        usual = (0.99, 1.0, 0.3, 0.1, 600.0)
        self.assertLen(rows, 4 * 3 + 2)
        for number, row in enumerate(rows):
            field = min(number // 3, 4)
            self.assertEqual(row[:field] + row[field + 1 :], usual[:field] + usual[field + 1 :])
        np.testing.assert_allclose(points["gamma"][:3], [1e-8, 1e-4, 1])
        np.testing.assert_allclose(points["decay"][9:12], [0, 2.5, 5])
        self.assertEqual(points["horizon"][12:].tolist(), [200, 400])

    def test_losses_at_switches(self):
        settings = mock.Mock(every=10, steps=45)
        loss = np.arange(45.0)[None]
        outcome = mock.Mock(settings=settings, control=mock.Mock(loss=loss))
        self.assertEqual(switching._peaks(outcome, "control", 1).tolist(), [[10, 30]])  # the second task begins
        self.assertEqual(switching._peaks(outcome, "control", 0).tolist(), [[20, 40]])

    def test_task_in_force(self):
        study = switching.gaussians(EXPERIMENTS["task_switch"].presets["smoke"])
        every = 20
        self.assertEqual(study.scenario.turn.tolist(), [n // every % 2 for n in range(60)])
        np.testing.assert_allclose(study.scenario.task.xy[:, 0, 0], [3, -2])

    def test_tanh_networks_that_learn_from_samples_are_judged_by_examples(self):
        study = gains.on_gaussians_tanh(EXPERIMENTS["gain_nonlinear"].presets["smoke"])
        rng = np.random.default_rng(0)
        first, second = rng.normal(size=(8, 3)), rng.normal(size=(2, 8))
        neutral = jax.tree.map(lambda leaf: leaf[0], study.neutral((first, second)).signal)
        problem, scenario = study.witness
        x, y = map(np.asarray, scenario.task)
        expected = 0.5 * np.mean(np.sum((y - np.tanh(x @ first.T) @ second.T) ** 2, 1)) + 0.5 * 2 * 0.01**2
        found = problem.system.loss((jnp.asarray(first), jnp.asarray(second)), neutral, scenario.task)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        averaged = study.problem.system.loss((first, second), neutral, study.scenario.task)
        self.assertGreater(abs(averaged - expected), 0.1)  # first order only

    @parameterized.parameters(*EXPERIMENTS)
    def test_presets(self, name):
        experiment = EXPERIMENTS[name]
        self.assertEqual(list(experiment.presets), ["smoke", "laptop", "paper"])
        for settings in experiment.presets.values():
            checked(settings)
        published = name not in BEYOND
        self.assertEqual(experiment.presets["paper"].optimizer != "quasi_newton", published)

    @parameterized.parameters(*(name for name, experiment in EXPERIMENTS.items() if experiment.further is None))
    def test_claims_can_be_measured_on_trajectories_of_their_length(self, name):
        """Every claim reads what `study` and `Outcome` provide, at the length that it names."""
        experiment = EXPERIMENTS[name]
        settings = experiment.presets["paper"]
        if experiment.points(settings):
            lanes = len(next(iter(experiment.points(settings).values()))) * settings.seeds
        else:
            lanes = settings.seeds
        study = experiment.study(settings)
        plan = jax.eval_shape(study.neutral, jax.eval_shape(study.init, jax.random.key(0)))
        at_once = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), plan.signal)
        measures = jax.eval_shape(study.measures, plan.weights, at_once)
        rng = np.random.default_rng(0)
        steps = study.judged.steps
        random = lambda *shape: rng.uniform(0.1, 1, (lanes, *shape))
        series = lambda: studies.Series(
            *(random(steps) for _ in range(3)), random(), {k: random(steps, *m.shape) for k, m in measures.items()}
        )
        points = {k: np.repeat(v, settings.seeds) for k, v in experiment.points(settings).items()}
        recorded = np.arange(0, steps, max(steps // 400, 1))
        validation = studies.Validation(recorded, *(rng.uniform(0, 1, (3, len(recorded))) for _ in range(2)))
        outcome = studies.Outcome(settings, "", points, series(), series(), random(), random(), validation)
        with np.errstate(all="ignore"):  # numbers are random, so that ratios of them need not exist
            self.assertNotEmpty(studies.verdicts(experiment, outcome))

    @parameterized.parameters(
        ({"seeds": "0"}, "seeds=0 must be at least 1"),
        ({"optimizer": "newton"}, "optimizer"),
        ({"tolerance": "-1"}, "must not be negative"),
        ({"every": "0"}, "every=0 must be in 1 .. steps - 1"),
    )
    def test_unfit_settings(self, changes, message):
        with self.assertRaisesRegex(ConfigError, message):
            override(EXPERIMENTS["task_switch"].presets["smoke"], changes)


class RunTest(CompiledOnce):
    def check(self, name):
        settings = EXPERIMENTS[name].presets["smoke"]
        result, printed = quietly(lambda: run(name, settings, self.folder / name))
        self.assertIn("V on average: baseline", printed)
        self.assertTrue(np.isfinite(np.array(result["value"]["control"], float)).all())
        (path,) = (self.folder / name / "figures").iterdir()
        pixels = matplotlib.image.imread(path)
        self.assertGreater(min(pixels.shape[:2]), 400)
        self.assertGreater(len(np.unique(pixels[..., 0])), 50)  # neither empty nor of one colour
        return result

    def test_a_run_and_a_finished_run(self):
        result = self.check("single_neuron")
        self.assertEqual(result["from_samples"]["runs"], 2)
        saved = json.loads((self.folder / "single_neuron" / "config.json").read_text())
        self.assertEqual((saved["experiment"], saved["steps"]), ("single_neuron", 60))
        settings = EXPERIMENTS["single_neuron"].presets["smoke"]
        with mock.patch.object(studies, "solve", side_effect=AssertionError):
            again, printed = quietly(lambda: run("single_neuron", settings, self.folder / "single_neuron"))
        self.assertEqual(again, result)
        self.assertIn("is finished; nothing to do", printed)

    @pytest.mark.slow
    def test_every_experiment(self):
        for name in EXPERIMENTS:
            with self.subTest(name):
                self.check(name)

    @parameterized.parameters("gain_semantic", "single_neuron_sweeps", "task_switch")
    def test_dry_run(self, name):
        settings = EXPERIMENTS[name].presets["paper"]
        _, printed = quietly(lambda: main(name, settings, self.folder / "run", True))
        for part in ("states", "FLOP", "MiB", "minutes"):
            self.assertIn(part, printed)
        if name == "gain_semantic":
            self.assertIn(f"{8 * 30 + 30 * 15} weights", printed)
            self.assertIn(f"{16000 * (8 * 30 + 30 * 15):,} numbers", printed)
            # Of a step, products of matrices alone: W2 W1, W Sigma_x, W2^T E and E W1^T, each with O, H and I.
            products = 2 * (15 * 30 * 8 + 15 * 8 * 8 + 30 * 15 * 8 + 15 * 8 * 30) + 2 * (15 * 30 * 8 + 15 * 8 * 8)
            flop = float(printed.split(" FLOP per evaluation")[0].split()[-1])
            self.assertBetween(flop, 4 * 16000 * products, 1.5 * 4 * 16000 * products)
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    absltest.main()
