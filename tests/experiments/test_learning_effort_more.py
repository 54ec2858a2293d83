"""Engagement, learning rates, initial weights and what is beyond the paper, against oracles."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.learning_effort import (
    beyond,
    deep_classes,
    engagement,
    initial_weights,
    rates,
    short_sight,
    studies,
    task_engagement,
    uncertain_switch,
)
from experiments.learning_effort.experiments import EXPERIMENTS
from metalearn.effort import datasets, digits, system
from metalearn.run import RunDirectory
from metalearn.run.config import ConfigError, override
from tests.run.folder_case import FolderCase
from tests.run.small_runs import quietly


def outcome_of(values):
    """An outcome whose measure "engagement" is `values`, [lanes, T, groups]."""
    series = mock.Mock(measures={"engagement": values})
    return mock.Mock(control=series, n=np.arange(values.shape[1]))


class EngagementTest(parameterized.TestCase):
    def test_levels_of_a_tree(self):
        tree = datasets.semantic(3)
        self.assertEqual(engagement.level_of(tree.outputs).tolist(), [0, 1, 1, 2, 2, 2, 2])
        means = engagement.by_level(tree) @ np.array([7, 1, 3, 0, 0, 4, 8])
        self.assertEqual(means.tolist(), [7, 2, 3])

    def test_digits_by_difficulty_against_regressions_on_pairs(self):
        images, labels, white, _ = digits._scikit_learn()
        x = digits.resized(images, 5).reshape(-1, 25) / white
        x = np.hstack([x, np.ones((len(x), 1))])

        def loss(a, b):
            members = (labels == a) | (labels == b)
            y = (labels[members, None] == [a, b]).astype(float)
            fit, *_ = np.linalg.lstsq(x[members], y, rcond=None)
            return 0.5 * np.mean(np.sum((y - x[members] @ fit) ** 2, 1))

        losses = [np.mean([loss(a, b) for b in range(10) if b != a]) for a in range(10)]
        self.assertEqual(list(engagement.by_difficulty("")), np.argsort(losses).tolist())

    def test_when_groups_are_favoured(self):
        values = np.ones((1, 90, 3))
        for group in range(3):
            values[0, 30 * group : 30 * group + 30, group] = 2.0
        np.testing.assert_allclose(engagement.favoured(outcome_of(values)), [[14.5, 44.5, 74.5]])

    def test_end_of_the_effort_for_a_task(self):
        values = np.full((1, 2000, 2), 1.0)
        values[0, :700, 0] = 1.8
        values[0, :1500, 1] = 1.4
        ends = [task_engagement._released(task)(outcome_of(values))[0] for task in (0, 1)]
        self.assertEqual(ends, [699, 1499])

    def test_rank_correlation_with_ease(self):
        values = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])[:, None]
        correlation = engagement.ranks(lambda o: engagement.engagement(o)[:, 0], engagement.ease)
        np.testing.assert_allclose(correlation(outcome_of(values)), [1, -1])

    @parameterized.parameters(2, 3)
    def test_tasks_side_by_side(self, count):
        settings = dataclasses.replace(EXPERIMENTS["task_engagement_attention"].presets["smoke"], tasks=count)
        task = task_engagement.tasks(settings).scenario.task
        self.assertEqual((task.xx.shape, task.xy.shape), ((26 * count, 26 * count), (26 * count, 2 * count)))

    def test_number_of_tasks(self):
        with self.assertRaisesRegex(ConfigError, "tasks=4 must be 2 or 3"):
            override(EXPERIMENTS["task_engagement_attention"].presets["smoke"], {"tasks": "4"})


class RateTest(FolderCase):
    @parameterized.parameters(0.0, -1.0)
    def test_best_rates_against_the_closed_form(self, offset):
        """What the search finds, step by step, against Pontryagin's principle: with and without discount."""
        settings = dataclasses.replace(
            rates.TREE,
            steps=200, dt=0.02, hidden=2, levels=2, scale=0.6, decay=0.01, offset=offset, seeds=1, segment=0,
            optimizer="quasi_newton", iterations=200, tolerance=1e-6,
        )  # fmt: skip
        swept = {"gamma": np.array([0.7, 1.0, 1.0]), "beta": np.array([0.3, 0.3, 0.8])}
        experiment = studies.Experiment("", {}, rates.on_tree, (), (), points=lambda _: swept)
        with jax.enable_x64(True), RunDirectory.open(self.folder / "run", settings) as paths:
            outcome, _ = quietly(lambda: studies.solve(experiment, settings, paths))
        found, formula = outcome.control.measures["rho"], rates.closed_form(outcome)
        self.assertGreater(np.ptp(found[:, :180], axis=1).min(), 0.05)
        # Away from the end, where the last step acts on nothing; the formula is exact in continuous time.
        np.testing.assert_allclose(1 + found[:, :180], 1 + formula[:, :180], rtol=0.03, atol=0.01)

    def test_point_of_a_sweep(self):
        points = {"beta": np.array([0.1, 0.1, 1.0, 1.0])}
        outcome = mock.Mock(points=points, lanes=lambda which: which)
        self.assertEqual(rates.point(outcome, 0.9).tolist(), [False, False, True, True])


class InitialWeightsTest(parameterized.TestCase):
    @parameterized.parameters((2, 0), (5, 0), (5, 1))
    def test_value_against_a_slow_loop(self, horizon, last):
        with jax.enable_x64(True):
            settings = dataclasses.replace(
                initial_weights.PAPER,
                hidden=2,
                horizons=(2, 5),
                horizon=horizon,
                last=last,
                scale=0.3,
                steps=8,
                gamma=0.9,
            )
            study = initial_weights.study(settings)
            weights = study.init(jax.random.key(0))
            value = float(system.value(study.problem, study.plan(weights, weights), study.scenario))
        expected = 0.0
        for task in range(5):
            xx, xy, yy, _, _ = (np.asarray(leaf[task]) for leaf in study.scenario.task)
            first, second = (np.asarray(w) for w in weights)
            for n in range(horizon):
                product = second @ first
                loss = 0.5 * np.trace(yy - 2 * product @ xy + product @ xx @ product.T)
                counts = n == horizon - 1 if last else True
                expected -= counts * 0.9 ** (n * settings.dt) * settings.dt * loss / 5
                error = xy.T - product @ xx
                first, second = first + settings.dt * second.T @ error, second + settings.dt * error @ first.T
        np.testing.assert_allclose(value, expected, rtol=1e-6)

    def test_lanes_by_horizon(self):
        settings = mock.Mock(horizons=(2, 20), seeds=3)
        outcome = mock.Mock(settings=settings)
        values = np.arange(12)
        self.assertEqual(initial_weights._by_horizon(outcome, values, 0).tolist(), [[0, 1, 2], [3, 4, 5]])
        self.assertEqual(initial_weights._by_horizon(outcome, values, 1).tolist(), [[6, 7, 8], [9, 10, 11]])
        points = initial_weights.twice(settings)
        self.assertEqual(points["horizon"].tolist(), [2, 20, 2, 20])
        self.assertEqual(points["last"].tolist(), [0, 0, 1, 1])

    @parameterized.parameters("1,20", "2,9000")
    def test_unfit_horizons(self, horizons):
        with self.assertRaisesRegex(ConfigError, "must be in 2 .. steps=8000"):
            override(initial_weights.PAPER, {"horizons": horizons})


class BeyondTest(parameterized.TestCase):
    def test_task_in_force_when_the_switch_is_known(self):
        settings = dataclasses.replace(uncertain_switch.UNCERTAIN, steps=10, switch=4.0)
        self.assertEqual(uncertain_switch.known(settings).scenario.turn.tolist(), [0, 0, 0, 0, 1, 1, 1, 1, 1, 1])

    def test_shares_of_the_best_gain(self):
        settings = mock.Mock(seeds=1)
        baseline, control = mock.Mock(value=np.array([-3.0, -3.0])), mock.Mock(value=np.array([-2.5, -1.0]))
        outcome = mock.Mock(settings=settings, baseline=baseline, control=control)
        outcome.further = {"replanned": np.array([[-2.0], [-1.0]])}
        once, again = short_sight._shares(outcome)
        np.testing.assert_allclose(once, [[0.25], [1]])
        np.testing.assert_allclose(again, [[0.5], [1]])

    @parameterized.parameters(
        ({"look_aheads": "1,20"}, "must rise from 1 or more to steps=40"),
        ({"look_aheads": "20,1,40"}, "must rise from 1 or more to steps=40"),
        ({"replan": "0"}, "replan=0 must be at least 1"),
    )
    def test_unfit_settings(self, changes, message):
        with self.assertRaisesRegex(ConfigError, message):
            override(EXPERIMENTS["short_sight"].presets["smoke"], changes)

    def test_depth(self):
        settings = dataclasses.replace(deep_classes.DEEP, layers=3, hidden=5)
        weights = jax.eval_shape(deep_classes.deep(settings).init, jax.random.key(0))
        self.assertEqual([w.shape for w in weights], [(5, 4), (5, 5), (7, 5)])

    @pytest.mark.slow
    def test_hedging_is_best_on_average_and_knowing_is_better(self):
        settings = dataclasses.replace(
            uncertain_switch.UNCERTAIN,
            steps=60,
            dt=0.05,
            times=(15, 30, 45),
            scale=0.3,
            seeds=1,
            iterations=200,
            tolerance=1e-5,
        )
        with jax.enable_x64(True):
            found = uncertain_switch.hedged(settings)
        self.assertGreater(found["hedged"][0], found["certain"][0])

    @pytest.mark.slow
    def test_planning_again_with_full_sight_is_planning_once(self):
        settings = dataclasses.replace(
            short_sight.SIGHT, steps=24, dt=0.05, scale=0.3, look_aheads=(1, 24), replan=24, seeds=1, tolerance=1e-6
        )
        with jax.enable_x64(True):
            found = short_sight.replanned(settings)["replanned"][:, 0]
            study = short_sight.sighted(settings)
            (weights,) = beyond.initial_weights(settings, study)
            without = system.value(study.judged, study.neutral(weights), study.scenario)
        self.assertGreater(found[1], found[0])
        self.assertGreater(found[1], float(without))


if __name__ == "__main__":
    absltest.main()
