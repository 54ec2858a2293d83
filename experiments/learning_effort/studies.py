"""The framework of the experiments: what an experiment has to say, and what is done with it.

An experiment is an `Experiment`: presets, a function from settings to a `Study`, and what to draw and to claim.

    def gaussians(settings: Gains) -> Study:
        task = datasets.task_a()
        network = networks.linear((3, settings.hidden, 2), settings.scale)
        control = controls.gain(jax.eval_shape(network.init, jax.random.key(0)), settings.beta)
        return study_of(settings, network, control, task, gain_measures)

    EXPERIMENTS = {"gain_gaussians": Experiment("Gain modulation of two Gaussian problems", presets(...), gaussians,
                                                panels=(panels.loss(), panels.reward, ...), claims=(Tested(...), ...))}

`solve` computes the trajectory without control, finds the best control, and computes the trajectory under it, for each
lane: a lane is one initial weights, at one point of a sweep. A sweep is nothing but settings with traced fields:
`points` names fields and their values, so `study` must treat these fields as arrays (unless points are searched
`apart`).

All of it is learning on averages; `validate` repeats the first lane with learning from samples.
"""

import concurrent.futures
import dataclasses
import functools
import io
import math
import operator
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from experiments.learning_effort.settings import Settings
from metalearn.effort import controls, optimise, sampled, system
from metalearn.effort.account import account, course
from metalearn.effort.controls import Control, Signal
from metalearn.effort.datasets import Dataset
from metalearn.effort.networks import Network, Weights
from metalearn.effort.system import Plan, Problem, Scenario
from metalearn.run import Claim, Progress, RunPaths, Verdict, judge
from metalearn.run.files import atomic_writer

Measures = Callable[[Weights, Signal], dict[str, jax.Array]]
_RECORDED = 400  # states of a validation
_SCALARS = ("loss", "cost", "reward", "value")


class Study(NamedTuple):
    """One control problem, and how to look at it.

    data: the name of the data, for titles.
    init: key -> initial weights.
    problem, scenario: what is optimised.
    lower, upper: bounds of what is chosen.
    start: (weights, key) -> what is chosen, at the beginning of the search.
    plan: (chosen, weights) -> Plan.
    neutral: weights -> Plan without control.
    measures: (weights, signal) of one time -> named scalars or vectors: what figures and claims look at.
    judged: the problem whose trajectories are looked at; differs from `problem` where the search looks less far ahead.
    flow: learning from samples; None: this is not validated.
    witness: the problem and scenario by whose loss learning from samples is judged; other than those above where
        these know the expected loss but approximately.
    over_time: whether what is chosen is a signal over time, so that an entry matters by the discount of its time.
    """

    data: str
    init: Callable[[jax.Array], Weights]
    problem: Problem
    scenario: Scenario
    lower: Any
    upper: Any
    start: Callable[[Weights, jax.Array], Any]
    plan: Callable[[Any, Weights], Plan]
    neutral: Callable[[Weights], Plan]
    measures: Measures
    judged: Problem
    flow: sampled.SampledFlow | None
    witness: tuple[Problem, Scenario]
    over_time: bool = True


def study_of(
    settings: Settings,
    network: Network,
    control: Control,
    dataset: Dataset,
    measures: Measures,
    *,
    scenario: Scenario | None = None,
    noise: float = 0.0,
    shares: Callable[[Signal], jax.Array] | None = None,
) -> Study:
    """The study of a control over time; what most experiments are.

    Args:
        scenario: None: `dataset.moments`, always.
        noise: sigma_xi, on outputs.
        shares: as of `sampled.sampled_flow`.
    """
    problem = Problem(
        system.controlled(network, control, settings.decay, noise),
        control.cost,
        settings.steps,
        settings.dt,
        settings.gamma,
        horizon=settings.horizon,
        memory="segments" if settings.segment else "recompute",
        segment=settings.segment or None,
    )
    # Moments of stored examples are in float64; everything else in what JAX computes in.
    scenario = scenario or Scenario(dataset.moments)
    scenario = dataclasses.replace(scenario, task=jax.tree.map(lambda leaf: jnp.asarray(leaf, float), scenario.task))
    return Study(
        data=dataset.name,
        init=network.init,
        problem=problem,
        scenario=scenario,
        lower=control.lower,
        upper=control.upper,
        start=lambda weights, key: controls.perturbed(control, settings.steps, key, settings.start),
        plan=lambda signal, weights: Plan(weights, signal),
        neutral=lambda weights: Plan(weights, controls.constant(control, settings.steps)),
        measures=measures,
        judged=problem,
        flow=sampled.sampled_flow(network, control, dataset, settings.batch, settings.decay, noise, shares),
        witness=(problem, scenario),
    )


class Series(NamedTuple):
    """What happened along time in each lane.

    loss, cost: L and C, [lanes, T]. reward: net reward v, [lanes, T]. value: V, [lanes].
    measures: name -> [lanes, T] or [lanes, T, k]; see Study.
    """

    loss: Any
    cost: Any
    reward: Any
    value: Any
    measures: dict[str, Any]


class Validation(NamedTuple):
    """Losses of learning from samples in the first lane: at `steps` [recorded], in each run, [runs, recorded]."""

    steps: np.ndarray
    control: np.ndarray
    baseline: np.ndarray


class Outcome(NamedTuple):
    """All that figures and claims are made of.

    data: name of the data.
    points: name of a swept field -> its value in each lane, [lanes]. Lanes of the same point are its seeds, and follow
        each other. Without a sweep lanes are seeds.
    control, baseline: with the control that was found, and without. The baseline has no costs.
    residual: of the search, [lanes]; see optimise.Optimum. iterations: it made, [lanes].
    further: what `Experiment.further` computed.
    """

    settings: Any
    data: str
    points: dict[str, np.ndarray]
    control: Series
    baseline: Series
    residual: np.ndarray
    iterations: np.ndarray
    validation: Validation | None = None
    further: dict[str, np.ndarray] | None = None

    def lanes(self, which: slice | np.ndarray) -> "Outcome":
        """The outcome of some lanes: `which` is a slice, indices or a mask."""
        taken = (self.points, self.control, self.baseline, self.residual, self.iterations)
        points, control, baseline, residual, iterations = jax.tree.map(lambda leaf: leaf[which], taken)
        return self._replace(
            points=points, control=control, baseline=baseline, residual=residual, iterations=iterations
        )

    @property
    def n(self) -> np.ndarray:
        """Numbers of the steps, [T]."""
        return np.arange(self.control.loss.shape[1])


class Tested(NamedTuple):
    """A claim of the paper, and what to measure.

    statement, statistic, above, below: as of metalearn.run.Claim.
    measure: outcome -> [samples], one for each of the initial weights; none: this run has nothing to say.
    steps: shortest trajectory that the claim is about.
    source: where the paper says so.
    """

    statement: str
    statistic: str
    measure: Callable[[Outcome], ArrayLike]
    above: float = -math.inf
    below: float = math.inf
    steps: int = 1
    source: str = "Carrasco-Davis et al. (2024)"


def close(statement: str, statistic: str, measure: Any, value: float, within: float, steps: int = 1) -> Tested:
    """A claim that a number of the paper comes out."""
    return Tested(statement, statistic, measure, value - within, value + within, steps)


class Experiment(NamedTuple):
    """An experiment of the paper.

    title: a line for figures and `--help`.
    presets: "smoke", "laptop" and "paper" -> settings.
    study: settings -> Study.
    panels: draw(axes, outcome), one for each axes of the figure.
    claims: what the paper says.
    points: settings -> name of a field -> its values [points], for sweeps.
    numbers: outcome -> further numbers for result.json.
    apart: points are searched one after the other, each compiled with its values as constants: for fields on which
        shapes depend, where the cost of a search should follow from its own size.
    further: settings -> arrays that cannot be had from the best controls of lanes; None: nothing of the kind.
    columns: of the figure.
    until: last step that the figure shows, where the rest is flat; None: all.
    """

    title: str
    presets: Mapping[str, Any]
    study: Callable[[Any], Study]
    panels: tuple[Callable[[Any, Outcome], None], ...]
    claims: tuple[Tested, ...]
    points: Callable[[Any], Mapping[str, np.ndarray]] = lambda settings: {}
    numbers: Callable[[Outcome], dict[str, Any]] = lambda outcome: {}
    apart: bool = False
    further: Callable[[Any], dict[str, np.ndarray]] | None = None
    columns: int = 3
    until: int | None = None


class _Lanes(NamedTuple):
    points: dict[str, jax.Array]
    weights: Weights
    start: Any


def solve(experiment: Experiment, settings: Any, paths: RunPaths) -> Outcome:
    """Finds the best control of every lane, or goes on with it; see the module.

    Raises:
        FloatingPointError: a trajectory diverges.
    """
    study = experiment.study(settings)
    swept = {name: np.asarray(values) for name, values in experiment.points(settings).items()}
    count = len(next(iter(swept.values()))) if swept else 1
    parts: list[dict[str, np.ndarray]] = []
    if experiment.apart:
        for n, fixed in enumerate(settings_at_points(experiment, settings)):
            label = f"{n + 1} of {count} ({', '.join(f'{name} = {getattr(fixed, name)}' for name in swept)}): "
            parts += _searched(experiment, fixed, {}, paths, n * settings.seeds, label)
    else:
        parts = _searched(experiment, settings, swept, paths, 0, "")
    looked_at = [name for name in parts[0] if name != "values" and not name.startswith("chosen")]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in looked_at}
    control, baseline = (_series_of(whole, which) for which in ("control", "baseline"))
    numbers = {name: np.repeat(values, settings.seeds) for name, values in swept.items()}
    further = _stored(paths, "further", functools.partial(experiment.further, settings)) if experiment.further else None
    searched = whole["residual"], whole["iterations"]
    return Outcome(settings, study.data, numbers, control, baseline, *searched, further=further)


def settings_at_points(experiment: Experiment, settings: Any) -> list[Any]:
    """The settings at each point of a sweep."""
    swept = {name: np.asarray(values).tolist() for name, values in experiment.points(settings).items()}
    points = zip(*swept.values(), strict=True)
    return [dataclasses.replace(settings, **dict(zip(swept, point, strict=True))) for point in points]


def _searched(experiment, settings, swept, paths: RunPaths, first: int, label: str) -> list[dict[str, np.ndarray]]:
    """What `_found` tells of all points of `swept`, from one compiled search; its lanes are number `first` and on."""
    study_at = lambda point: experiment.study(dataclasses.replace(settings, **point))
    study = experiment.study(settings)
    points = len(next(iter(swept.values()))) if swept else 1
    keys = [jax.random.fold_in(jax.random.key(settings.seed), seed) for seed in range(settings.seeds)]
    each_point = lambda leaf: jnp.tile(leaf, (points, *[1] * (leaf.ndim - 1)))

    def begin(key):
        weights = study.init(key)
        return weights, study.start(weights, jax.random.fold_in(key, 1))

    weights, start = jax.tree.map(each_point, jax.vmap(begin)(jnp.stack(keys)))
    each_seed = lambda values: jnp.repeat(jnp.asarray(values, float), settings.seeds)
    lanes = _Lanes(jax.tree.map(each_seed, swept), weights, start)

    def value(chosen, weights, point):
        here = study_at(point)
        return system.value(here.problem, here.plan(chosen, weights), here.scenario)

    series = jax.jit(lambda chosen, lanes: jax.lax.map(lambda lane: _both(study_at, *lane), (chosen, lanes)))
    search = _one_by_one if settings.optimizer == "quasi_newton" else _together
    searches = list(search(study_at, settings, value, lanes))
    missing = [s.first for s in searches if not _path(paths, _name(first + s.first)).exists()]
    name = f"{label}{points * settings.seeds} controls, evaluations"
    with Progress(settings.iterations * len(missing), name) as progress:
        watch = _Watch(progress, settings.iterations)

        def search_of(search: _Search) -> dict[str, np.ndarray]:
            best = lambda: watch.follow(search)
            found = functools.partial(_found, study, series, search.lanes, best, label)
            return _stored(paths, _name(first + search.first), found)

        return _side_by_side(search_of, searches, watch.stop)


def _side_by_side(function: Callable[[Any], Any], arguments: list[Any], stop: Callable[[], None]) -> list[Any]:
    """`function` of each argument, as many at a time as there are cores: a small trajectory keeps but one busy.

    Where one fails or the user interrupts, `stop` is called, which makes the others end early.
    """
    if len(arguments) == 1:
        return [function(arguments[0])]
    double = jnp.result_type(float) == jnp.float64  # a context manager sets it for one thread only

    def in_thread(argument):
        with jax.enable_x64(double):
            return function(argument)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(in_thread, argument) for argument in arguments]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            stop()
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def validate(experiment: Experiment, settings: Any, paths: RunPaths) -> Validation | None:
    """Learning from samples with and without the control that `solve` found for the first lane; None: not defined."""
    study = experiment.study(settings)
    if study.flow is None or experiment.points(settings):
        return None
    flow = study.flow
    every = max(settings.steps // _RECORDED, 1)

    def compute():
        key = jax.random.fold_in(jax.random.key(settings.seed), 0)
        weights = study.init(key)
        leaves, structure = jax.tree.flatten(jax.eval_shape(study.start, weights, key))
        kept = _load(paths, _name(0))
        chosen = jax.tree.unflatten(structure, [jnp.asarray(kept[f"chosen {i}"][0]) for i in range(len(leaves))])
        keys = jax.random.split(jax.random.fold_in(key, 2), settings.runs)
        problem, scenario = study.witness
        learn = jax.jit(lambda plan: sampled.validate(problem, flow, plan, scenario, keys, every).losses)
        found = {"control": study.plan(chosen, weights), "baseline": study.neutral(weights)}
        return {which: np.asarray(learn(plan)) for which, plan in found.items()}

    losses = _stored(paths, "validation", compute)
    return Validation(np.arange(0, settings.steps, every), losses["control"], losses["baseline"])


def verdicts(experiment: Experiment, outcome: Outcome) -> list[Verdict]:
    """The claims that this run can contradict, judged."""
    settings = outcome.settings
    about = [tested for tested in experiment.claims if settings.steps >= tested.steps]
    measured = [(tested, np.atleast_1d(tested.measure(outcome))) for tested in about]
    return [_judged(tested, samples, settings.scale == 0) for tested, samples in measured if samples.size]


def _judged(tested: Tested, samples: np.ndarray, exact: bool) -> Verdict:
    claim = Claim(tested.statement, tested.source, tested.statistic, tested.above, tested.below)
    if exact and len(samples) == 1:  # nothing is random, so that the interval is a point
        (value,) = map(float, samples)
        return Verdict(claim, claim.above < value < claim.below, value, value, value, 1)
    return judge(claim, samples)


def _name(first: int) -> str:
    """Where what was found for lanes that were searched together is kept, by the number of their first."""
    return f"lanes_{first}"


class _Search(NamedTuple):
    """A search that has not begun: for some lanes, from number `first` on."""

    first: int
    lanes: _Lanes
    optimum: Callable[[optimise.Watch], optimise.Optimum]


class _Stopped(Exception):
    """Another search failed, or the user interrupts."""


class _Watch:
    """Shows how far several searches are together, and can end them."""

    def __init__(self, progress: Progress, iterations: int):
        self._progress, self._iterations = progress, iterations
        self._done: dict[int, int] = {}
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def follow(self, search: _Search) -> optimise.Optimum:
        found = search.optimum(functools.partial(self._update, search.first))
        self._update(search.first, self._iterations, jnp.max(found.value))
        return found

    def _update(self, first: int, iterations: Any, value: Any) -> None:
        if self._stopped.is_set():
            raise _Stopped
        with self._lock:
            self._done[first] = min(int(iterations), self._iterations)
            self._progress.update(sum(self._done.values()), value=value)


def _one_by_one(study_at, settings, value, lanes) -> Iterator[_Search]:
    study = study_at({})
    evaluate = jax.jit(jax.value_and_grad(value))
    discounts_at = jax.jit(lambda points: study_at(points).problem.discounts())

    def importance(start, points):
        if not study.over_time:
            return 1.0
        discounts = np.asarray(discounts_at(points))
        return jax.tree.map(lambda leaf: discounts.reshape(-1, *[1] * (leaf.ndim - 1)), start)

    for lane in range(len(jax.tree.leaves(lanes)[0])):
        part = jax.tree.map(lambda leaf, lane=lane: leaf[lane : lane + 1], lanes)

        def optimum(watch, part=part):
            points, weights, start = jax.tree.map(lambda leaf: leaf[0], part)
            found = optimise.quasi_newton(
                lambda chosen: value(chosen, weights, points),
                start,
                study.lower,
                study.upper,
                settings.iterations,
                settings.tolerance,
                watch,
                lambda chosen: evaluate(chosen, weights, points),
                importance(start, points),
            )
            return jax.tree.map(lambda leaf: leaf[None], found)

        yield _Search(lane, part, optimum)


def _together(study_at, settings, value, lanes) -> Iterator[_Search]:
    """All lanes as one problem, the sum of their values: first-order steps of one lane do not see the others."""
    study, count = study_at({}), len(jax.tree.leaves(lanes)[0])
    optimizer = {"ascent": optax.sgd, "adam": optax.adam, "amsgrad": optax.amsgrad}[settings.optimizer](settings.rate)
    total = lambda chosen: jnp.sum(jax.vmap(value)(chosen, lanes.weights, lanes.points))

    def optimum(watch):
        mean = lambda k, sum_of_values: watch(k + 1, sum_of_values / count)
        limits = (study.lower, study.upper, optimizer, settings.iterations, settings.tolerance)
        found = jax.jit(lambda start: optimise.ascend(total, start, *limits, mean))(lanes.start)
        each = lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape))
        rest = jax.tree.map(each, jax.block_until_ready(found)._replace(signal=(), value=found.value / count))
        return rest._replace(signal=found.signal)

    yield _Search(0, lanes, optimum)


def _found(study, series, lanes: _Lanes, optimum: Callable[[], optimise.Optimum], label: str) -> dict[str, np.ndarray]:
    best = optimum()
    both = series(best.signal, lanes)
    for which, ran in both.items():
        bad = np.flatnonzero(~np.isfinite(np.asarray(ran.value)))
        if bad.size:
            chosen, weights = jax.tree.map(operator.itemgetter(bad[0]), (best.signal, lanes.weights))
            plan = study.plan(chosen, weights) if which == "control" else study.neutral(weights)
            account(study.judged, plan, study.scenario)  # says at which step, and what would help
            raise FloatingPointError(f"{label}the trajectory of lane {bad[0]} diverges at {lanes.points}")
    arrays = {"residual": best.residual, "iterations": best.iterations, "values": best.values}
    arrays |= {f"chosen {i}": leaf for i, leaf in enumerate(jax.tree.leaves(best.signal))}
    for which, ran in both.items():
        arrays |= {f"{which} {name}": getattr(ran, name) for name in _SCALARS}
        arrays |= {f"{which} measure {name}": leaf for name, leaf in ran.measures.items()}
    return {name: np.asarray(leaf) for name, leaf in arrays.items()}


def _both(study_at, chosen, lane: _Lanes) -> dict[str, Series]:
    study = study_at(lane.points)
    problem = study.judged

    def series(problem, plan):
        ran = course(problem, plan, study.scenario)
        measures = jax.vmap(study.measures)(ran.weights, plan.signal)
        return Series(ran.loss, ran.cost, ran.reward, problem.discounts() @ ran.reward, measures)

    free = dataclasses.replace(problem, cost=lambda signal: jnp.zeros(()))
    return {
        "control": series(problem, study.plan(chosen, lane.weights)),
        "baseline": series(free, study.neutral(lane.weights)),
    }


def _series_of(arrays: Mapping[str, np.ndarray], which: str) -> Series:
    prefix = f"{which} measure "
    measures = {name.removeprefix(prefix): leaf for name, leaf in arrays.items() if name.startswith(prefix)}
    loss, cost, reward, value = (arrays[f"{which} {name}"] for name in _SCALARS)
    return Series(loss, cost, reward, value, measures)


def _path(paths: RunPaths, name: str):
    return paths.root / "found" / f"{name}.npz"


def _load(paths: RunPaths, name: str) -> dict[str, np.ndarray]:
    with np.load(_path(paths, name)) as kept:
        return dict(kept)


def _stored(paths: RunPaths, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays kept under `name` in the run directory; computed and kept where they are not there yet."""
    path = _path(paths, name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **compute())  # type: ignore[arg-type]
        with atomic_writer(path) as file:
            file.write(buffer.getbuffer())
    return _load(paths, name)
