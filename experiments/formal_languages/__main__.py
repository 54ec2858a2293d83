"""Networks meta-trained on formal languages learn others from few strings: what did they bring along?

python -m experiments.formal_languages --preset=laptop                      "distilled": minutes on two cores
python -m experiments.formal_languages --preset=paper --dry_run
python -m experiments.formal_languages --help                               lists the experiments
"""

from experiments.formal_languages.distilled import experiment as distilled
from experiments.formal_languages.distilled.config import PRESETS
from metalearn.run import Experiment, launch_one_of

if __name__ == "__main__":
    launch_one_of(
        {"distilled": Experiment(PRESETS, distilled.main, distilled.__doc__ or "")},
        __doc__,
        default="distilled",
        default_preset="laptop",
    )
