"""Meta-training and test of the algorithms of a comparison."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.few_shot import selection
from experiments.few_shot.config import Config
from experiments.few_shot.contestants import NO_START, Contestant, Judge, unchanged
from experiments.few_shot.data import Data
from experiments.few_shot.pretraining import pretrained
from metalearn.core import OuterLoop, OuterState, outer_loop, replicate, shard_tasks, task_mesh
from metalearn.fewshot.episodes import Episode, EpisodeBatches
from metalearn.run import Progress, RunPaths, train
from metalearn.run.files import json_text, write_atomic
from metalearn.run.progress import default_console, duration

_PRETRAINING = 2**31 - 3


class TrainState(NamedTuple):
    """What a checkpoint holds: the outer loop's state, and the best meta-parameters so far by validation accuracy."""

    outer: OuterState
    best: Any
    best_accuracy: jax.Array
    validation_accuracy: jax.Array


class Repetition:
    """Trains and tests the algorithms of one repetition, from the same initial encoder and on the same episodes."""

    def __init__(self, config: Config, data: Data, number: int):
        """number: of the repetition, from 0."""
        self._config, self._data, self.number = config, data, number
        self.key = jax.random.fold_in(jax.random.key(config.seed), number)
        self._mesh = task_mesh(tasks=config.training.tasks)
        self.start = NO_START
        self._episodes: EpisodeBatches | None = None

    def pretrain(self, paths: RunPaths) -> None:
        """Pre-trains the encoder from which the algorithms then start."""
        key = jax.random.fold_in(self.key, _PRETRAINING)
        self.start = pretrained(self._config, self._data, key, paths, self.validated)

    def __call__(self, name: str, of: Contestant, paths: RunPaths) -> np.ndarray:
        """Accuracies on the test episodes after 0, 1, .. K inner updates, [episodes, K + 1]; goes on from `paths`."""
        trained = lambda: self.trained(name, of, paths)
        return stored(paths.root / "test.json", lambda: self.tested(name, of, trained(), self._data.test))

    def tested(self, name: str, of: Contestant, meta: Any, batches: EpisodeBatches) -> np.ndarray:
        """Accuracies with `meta` on as many of these episodes as make a test, [episodes, K + 1]."""
        count = self._config.test_episodes
        with Progress(count, f"test of {name}") as progress:
            return self._judged(of.judge, meta, batches, count, of.shown, progress)

    def trained(self, name: str, of: Contestant, paths: RunPaths) -> Any:
        """The meta-parameters that did best in validation; goes on from the checkpoints in `paths`."""
        training, meta = self._config.training, of.training.init(jax.random.fold_in(self.key, 0))
        if of.optimizer is None:
            return meta
        if self._episodes is None:
            self._episodes = self._data.training(self.number)
        episodes = self._episodes
        loop = outer_loop(
            of.training.process,
            of.training.objective,
            of.optimizer,
            estimator=of.training.estimator,
            memory=training.memory,
            task_axis=training.task_axis,
            mesh=self._mesh,
        )
        key = jax.random.fold_in(self.key, 1)
        outer = loop.init(meta)
        place = lambda tasks: shard_tasks(of.shown(shard_tasks(tasks, self._mesh)), self._mesh)
        outer_step = _compiled(loop, (outer, place(episodes(0)), key), paths)
        nothing = replicate(jnp.float32(-jnp.inf), self._mesh)
        state = TrainState(outer, replicate(outer.meta, self._mesh), nothing, replicate(nothing, self._mesh))

        def step(state: TrainState, index: int) -> tuple[TrainState, dict[str, Any]]:
            outer, metrics = outer_step(state.outer, place(episodes(index)), key)
            done = index + 1
            state = state._replace(outer=outer)
            if done % training.validate_every == 0 or done == training.steps:
                reached = self.validated(of.judge, outer.meta, of.shown)
                state = _keep_best(state, replicate(jnp.float32(reached), self._mesh))
            shown = {"loss": metrics["losses"][-1], "accuracy": metrics["accuracy"][-1]}
            return state, shown | {name: metrics[name] for name in ("gradient_norm", "skipped", "skipped_in_a_row")}

        final = train(
            paths,
            state,
            step,
            steps=training.steps,
            checkpoint_every=training.checkpoint_every,
            log_every=training.log_every,
            max_nonfinite_in_a_row=training.max_nonfinite_in_a_row,
            evaluate=selection.shown,
            evaluate_every=training.validate_every,
            examples_per_step=training.tasks,
            name=f"{name}, seed {self.number}",
        )
        return final.best

    def validated(self, judge: Judge, meta: Any, shown: Callable[[Episode], Any] = unchanged) -> float:
        """Mean accuracy on the validation episodes after the last inner update."""
        count = self._config.validation_episodes
        return float(self._judged(judge, meta, self._data.validation, count, shown)[:, -1].mean())

    def _judged(
        self,
        judge: Judge,
        meta: Any,
        batches: EpisodeBatches,
        count: int,
        shown: Callable[[Episode], Any],
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Accuracies on the first `count` episodes, [count, K + 1] float64."""
        meta = replicate(meta, self._mesh)
        rows: list[np.ndarray] = []
        for number in range(-(-count // self._config.training.tasks)):
            episodes = shard_tasks(shown(shard_tasks(batches(number), self._mesh)), self._mesh)
            rows.append(np.asarray(judge(meta, episodes), np.float64))
            if progress is not None:
                progress.update(min(count, (number + 1) * self._config.training.tasks), accuracy=rows[-1][:, -1].mean())
        return np.concatenate(rows)[:count]


def _compiled(loop: OuterLoop, arguments: tuple[Any, ...], paths: RunPaths) -> Any:
    """The compiled outer step; what it took is written to `cost.json` of the stage."""
    console = default_console()
    console.print("compiling the outer step", markup=False)
    began = time.monotonic()
    compiled = loop.jitted.lower(*arguments).compile()
    seconds = time.monotonic() - began
    console.print(f"compiled in {duration(seconds)}", markup=False)
    analysis = compiled.memory_analysis()
    path = paths.root / "cost.json"
    if not path.exists():  # when a run goes on, the program comes from the cache
        taken = None if analysis is None else int(analysis.temp_size_in_bytes)
        write_atomic(path, json_text({"compile_seconds": seconds, "temporary_bytes": taken}))
    return compiled


def _keep_best(state: TrainState, reached: jax.Array) -> TrainState:
    return selection.keep_best(state, state.outer.meta, reached)


def stored(path: pathlib.Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array kept at `path`; computed and kept where it is not there yet."""
    if not path.exists():
        write_atomic(path, json_text(compute()))
    return np.array(json.loads(path.read_text()), np.float64)
