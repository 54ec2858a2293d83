"""A small experiment for the tests of launching.

It counts to 100 %.
"""

import dataclasses
import pathlib
import time

import jax.numpy as jnp

from metalearn.run import RunDirectory, launch, train


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 3
    """How far to count."""
    pause: float = 0.0
    """Seconds between two numbers."""


def main(config: Config, workdir: pathlib.Path, dry_run: bool) -> None:
    if dry_run:
        print(f"would count to {config.steps}")
        return

    def step(state, index):
        time.sleep(config.pause)
        return state + 1, {"loss": state}

    with RunDirectory.open(workdir, config) as run:
        if run.finished:
            print(f"{run.root} is finished: {run.load_result()}")
            return
        state = train(run, jnp.zeros((), jnp.int32), step, steps=config.steps, checkpoint_every=2)
        run.finish({"count": state})


if __name__ == "__main__":
    launch({"smoke": Config(), "paper": Config(steps=10**9)}, main, __doc__)
