"""Networks meta-trained on formal languages learn others from few strings: what did they bring along?

python -m experiments.formal_languages --preset=laptop                    the default experiment, "distilled"
python -m experiments.formal_languages --experiment=everything --preset=laptop    all others, in one workdir
python -m experiments.formal_languages --help                             lists them
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
