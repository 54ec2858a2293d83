"""NPBML (Raymond et al. 2024): initial weights, preconditioner, loss and modulation, learned together.

The default experiment, "full", trains and tests NPBML; the others take it apart. The data set Glyphs is drawn on the
spot; with --data=FOLDER the images of CIFAR-FS are read from there, or those of --dataset=NAME.

    python -m experiments.npbml --preset=laptop
    python -m experiments.npbml --experiment=table_3 --preset=laptop --data=FOLDER
    python -m experiments.npbml --preset=paper --dataset=mini-imagenet --data=FOLDER --dry_run
"""

import functools

from experiments.npbml import experiment
from experiments.npbml.config import COMPARISONS, PRESETS, TABLES
from metalearn.run import Experiment, launch_one_of

SHORT_FLAGS = {"dataset": "dataset", "data": "data"}
EXPERIMENTS = {
    name: Experiment(
        {"table_3": TABLES, "table_4": TABLES, "fairness": COMPARISONS}.get(name, PRESETS),
        functools.partial(experiment.main, name),
        title,
    )
    for name, title in experiment.TITLES.items()
}

if __name__ == "__main__":
    launch_one_of(EXPERIMENTS, __doc__, default="full", default_preset="laptop", short_flags=SHORT_FLAGS)
