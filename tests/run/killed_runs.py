"""Runs a tiny training again and again, kills it in between, and prints what each attempt ends with, as JSON.

A program of its own, because it kills: every attempt is a forked child of a process that has imported everything but
has not yet started a JAX backend. A kill is either "at the n-th file operation" (seen through an audit hook, so that it
also falls inside of the saving of a checkpoint) or "after t seconds" (anywhere, also in compiled code).
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import random
import signal
import sys
import time
import traceback
import warnings

import jax
import jax.numpy as jnp
import optax

from metalearn.run import RunDirectory, enable_compilation_cache, train, tree_digest

STEPS = 11


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 5


def train_tiny(workdir: pathlib.Path) -> None:
    optimiser = optax.adam(0.1)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, index):
        key = jax.random.fold_in(state["key"], index)
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean((w - jax.random.normal(key, w.shape)) ** 2))(state["w"])
        updates, optimiser_state = optimiser.update(gradient, state["optimiser"])
        state = {"w": state["w"] + updates, "optimiser": optimiser_state, "key": state["key"], "norm": loss}
        return state, {"loss": loss, "skipped_in_a_row": jnp.int32(0)}

    with RunDirectory.open(workdir, Config()) as run:
        if run.finished:
            return
        w = jnp.zeros(Config().width)
        state = {"w": w, "optimiser": optimiser.init(w), "key": jax.random.key(7), "norm": jnp.zeros(())}
        state = train(
            run,
            state,
            step,
            steps=STEPS,
            checkpoint_every=3,
            log_every=2,
            evaluate=lambda state, step: {"square": jnp.sum(state["w"] ** 2)},
            evaluate_every=4,
            keep=2,
        )
        run.finish({"digest": tree_digest(state), "w": state["w"], "norm": state["norm"]})


def attempt(workdir: pathlib.Path, kill_at: int | None = None, kill_after: float | None = None) -> int:
    """Forks one attempt; returns its exit status (negative: the signal that ended it)."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.stderr = open(workdir.with_suffix(".log"), "a")
            counter = [0]
            prefix = str(workdir)

            def on_event(event: str, arguments: tuple) -> None:
                if event.partition(".")[0] in ("open", "os", "shutil") and any(
                    isinstance(argument, str | bytes | os.PathLike) and os.fsdecode(argument).startswith(prefix)
                    for argument in arguments
                ):
                    counter[0] += 1
                    if counter[0] == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(on_event)
            train_tiny(workdir)
            workdir.with_suffix(".events").write_text(str(counter[0]))
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fingerprint(workdir: pathlib.Path) -> dict[str, str]:
    """What must not depend on how often a run was killed."""
    names = ("result.json", "metrics.csv", "evaluation.csv", "config.json")
    files = {name: hashlib.sha256((workdir / name).read_bytes()).hexdigest() for name in names}
    files["checkpoints"] = ",".join(sorted(entry.name for entry in (workdir / "checkpoints").iterdir()))
    files["leftovers"] = ",".join(sorted(entry.name for entry in workdir.rglob(".*.tmp")))
    return files


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--at_operation", type=int, default=8, help="how many kills at a file operation")
    parser.add_argument("--after_time", type=int, default=3, help="how many kills at a random time")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # JAX warns of any fork; no backend runs yet in this process
    enable_compilation_cache(options.folder / "cache")  # the attempts compile the same programs again and again
    rng = random.Random(0)
    whole = options.folder / "whole"
    statuses = [attempt(whole)]
    began = time.monotonic()
    statuses.append(attempt(options.folder / "warm"))  # like those to be killed, it finds the programs in the cache
    seconds = time.monotonic() - began
    events = int(whole.with_suffix(".events").read_text())
    histories = []
    operations = range(1, events + 1)
    chosen = sorted(rng.sample(operations, options.at_operation))
    kills = [{"kill_at": operation} for operation in chosen]
    kills += [{"kill_after": seconds * rng.uniform(0.1, 0.9)} for _ in range(options.after_time)]
    for index, kill in enumerate(kills):
        workdir = options.folder / f"killed_{index}"
        killed = [attempt(workdir, **kill)]
        if index % 3 == 0:  # and killed again while it goes on
            killed.append(attempt(workdir, kill_at=rng.randint(1, events)))
        end = attempt(workdir)
        log = workdir.with_suffix(".log").read_text()
        histories.append({"kill": kill, "killed": killed, "end": end, "log": log if end else ""})
        histories[-1]["files"] = fingerprint(workdir) if not end else {}
    rows = (whole / "metrics.csv").read_text().splitlines()
    result = {"whole": fingerprint(whole), "statuses": statuses, "events": events, "rows": rows, "histories": histories}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
