"""What the experiments say: of each a section with figures, verdicts on claims, tables, and a paragraph in words.

scores = Scores(read_scores(paths.root / "scores.csv"))
section = EXPERIMENTS["mechanisms"](scores)
"""

from collections.abc import Callable, Mapping

from experiments.formal_languages.lab.records import Scores
from experiments.formal_languages.lab.report_learners import architectures, estimators, frozen
from experiments.formal_languages.lab.report_mechanisms import mechanisms
from experiments.formal_languages.lab.report_pools import one_or_many, simplicity
from experiments.formal_languages.lab.sections import Section

EXPERIMENTS: Mapping[str, Callable[[Scores], Section]] = {
    "simplicity": simplicity,
    "mechanisms": mechanisms,
    "architectures": architectures,
    "one_or_many": one_or_many,
    "estimators": estimators,
    "frozen": frozen,
}
"""By name: from records to a section. A KeyError names a condition that is needed and was not measured."""
