"""Images for few-shot learning: from the files of the literature, from your own folders, or drawn from fonts."""

from metalearn.fewshot.data.catalogue import DATASETS, Dataset, load
from metalearn.fewshot.data.preparation import PLAIN, USUAL, Preparation, augmented
from metalearn.fewshot.data.storage import DataError, Split, Splits

__all__ = ["DATASETS", "DataError", "Dataset", "PLAIN", "Preparation", "Split", "Splits", "USUAL", "augmented", "load"]
