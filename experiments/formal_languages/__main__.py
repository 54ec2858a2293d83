"""Networks meta-trained on formal languages learn others from few strings: what did they bring along?

The default experiment, "distilled", is that of McCoy & Griffiths (2025); the others ask what Goodale et al. (2025) ask.

    python -m experiments.formal_languages --preset=laptop
    python -m experiments.formal_languages --experiment=mechanisms --preset=laptop
    python -m experiments.formal_languages --experiment=everything --dry_run
"""

import functools

from experiments.formal_languages.distilled import experiment as distilled
from experiments.formal_languages.distilled.config import PRESETS
from experiments.formal_languages.lab import experiment as lab
from experiments.formal_languages.lab.config import PRESETS as LAB_PRESETS
from metalearn.run import Experiment, launch_one_of

if __name__ == "__main__":
    launch_one_of(
        {"distilled": Experiment(PRESETS, distilled.main, distilled.__doc__ or "")}
        | {
            name: Experiment(LAB_PRESETS, functools.partial(lab.main, name), title)
            for name, title in lab.TITLES.items()
        },
        __doc__,
        default="distilled",
        default_preset="laptop",
    )
