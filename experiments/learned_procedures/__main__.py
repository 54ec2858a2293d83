"""Which part of the benefit of meta-training is the initialisation, and which the procedure that learns from it?

An LSTM is meta-trained on source languages and then learns others from few strings. Meta-training learns where to
start, or how to learn from random weights (a loss, a preconditioner, modulation, as in NPBML), or both.

    python -m experiments.learned_procedures --preset=laptop
    python -m experiments.learned_procedures --preset=laptop --config.sources=Dyck --workdir=runs/dyck
    python -m experiments.learned_procedures --preset=paper --dry_run
"""

from experiments.learned_procedures.config import PRESETS
from experiments.learned_procedures.experiment import main
from metalearn.run import launch

if __name__ == "__main__":
    launch(PRESETS, main, __doc__, default_preset="laptop")
