"""A distribution over formal languages: the metagrammar of McCoy & Griffiths (2025, appendix A).

Everything runs on the host; randomness comes from the `numpy.random.Generator` that the caller passes in. What a drawn
language is, and how strings are drawn from it, is in `grammar`.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

import numpy as np

from metalearn.languages.grammar import Concat, Epsilon, Expression, Grammar, Leaf, Or, Plus, Sigma

Variant = Literal["coded", "described"]

# Weights theta^(alpha * arity), theta = 1/4: alpha = -1 at a root, +1 below; a terminal has arity 0, the others count
# as 2 (appendix A.2, equation 1). Roots are therefore rarely terminals, everything below nearly always is.
_ARITY = {"terminal": 0, "or": 2, "plus": 2, "concat": 2}


@dataclasses.dataclass(frozen=True)
class MetagrammarSettings:
    """What `sample_grammar` may draw."""

    leaf: Variant = "coded"
    """Probabilities of the three kinds of leaf; "coded" as the authors' program has them, "described" as their Table
    S1 has them (see `leaf_probabilities`)."""
    recursion: bool = True
    """False removes Plus (the paper's ablation "no recursion")."""
    synchrony: bool = True
    """False fixes a single slot (the paper's ablation "no synchrony")."""
    max_vocabulary: int = 10
    """Largest number of symbols, 2 to 26; the paper's is 10."""
    # The original redraws a language after 10 s on the wall clock or 100 nested calls, which depends on the machine.
    # 10 s for its 1,100 strings at about 1 us per node are 10^4 nodes a string. The depth needs no limit: an inner
    # node has 6/19 children on average, so expansion dies out by itself.
    max_work: float = 1e4
    """Languages with a larger expected number of node evaluations per string are redrawn."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.leaf not in ("coded", "described"):
            raise ValueError(f'leaf must be "coded" or "described", got {self.leaf!r}')
        if not 2 <= self.max_vocabulary <= 26:
            raise ValueError(f"max_vocabulary must be between 2 and 26, got {self.max_vocabulary}")
        if not self.max_work >= 1:
            raise ValueError(f"max_work must be at least 1, the work of a single leaf, got {self.max_work}")


def rule_probabilities(top: bool, recursion: bool = True) -> dict[str, float]:
    """Probabilities of the rules "terminal", "or", "plus", "concat" at a root (`top`) or below it.

    With recursion: 1/49 and three times 16/49 at a root, 16/19 and three times 1/19 below (paper, appendix A.2).
    """
    alpha = -1 if top else 1
    weights = {rule: 0.25 ** (alpha * arity) for rule, arity in _ARITY.items() if recursion or rule != "plus"}
    return {rule: weight / sum(weights.values()) for rule, weight in weights.items()}


def leaf_probabilities(vocabulary: int, variant: Variant) -> dict[str, float]:
    """Probabilities of the leaves "sigma", "epsilon" and "tuple" for |V| = `vocabulary`.

    "described" (Table S1): 1, 1 and |V| out of |V| + 2. The program ("coded") draws Sigma against the rest first and
    then Epsilon against a tuple with 2 out of |V| + 2, which makes Epsilon more frequent.
    """
    first = 1 / (vocabulary + 2)
    if variant == "described":
        return {"sigma": first, "epsilon": first, "tuple": 1 - 2 * first}
    return {"sigma": first, "epsilon": (1 - first) * 2 * first, "tuple": (1 - first) * (1 - 2 * first)}


def sample_grammar(rng: np.random.Generator, settings: MetagrammarSettings | None = None) -> Grammar:
    """Draws a language; languages over `settings.max_work` are redrawn from the same generator."""
    settings = settings or MetagrammarSettings()
    while True:
        vocabulary = min(1 + int(rng.geometric(0.5)), settings.max_vocabulary)
        count = int(rng.geometric(0.5)) if settings.synchrony else 1
        pattern = rng.integers(count, size=count).tolist()
        names = {label: i for i, label in enumerate(dict.fromkeys(pattern))}
        # One p serves all repetitions of a language: Normal(0.33, 0.05) to two decimals, held within the paper's table.
        stop = float(np.clip(np.round(rng.normal(0.33, 0.05), 2), 0.15, 0.52))
        classes = tuple(_expand(rng, settings, vocabulary, pattern.count(label), top=True) for label in names)
        grammar = Grammar(vocabulary, tuple(names[label] for label in pattern), classes, stop)
        if grammar.work <= settings.max_work:
            return grammar


def _expand(
    rng: np.random.Generator, settings: MetagrammarSettings, vocabulary: int, width: int, top: bool
) -> Expression:
    """Draws an expression for a class of `width` slots; `top` at a root."""
    rule = _choose(rng, rule_probabilities(top, settings.recursion))
    if rule == "terminal":
        kind = _choose(rng, leaf_probabilities(vocabulary, settings.leaf))
        if kind == "sigma":
            return Sigma()
        return Epsilon() if kind == "epsilon" else Leaf(tuple(rng.integers(vocabulary, size=width).tolist()))
    count = 2 if rule == "or" else int(rng.geometric(0.5))
    children = tuple(_expand(rng, settings, vocabulary, width, top=False) for _ in range(count))
    if rule == "plus":
        return Plus(children, int(rng.integers(count)))
    return Or(children) if rule == "or" else Concat(children)


def _choose(rng: np.random.Generator, probabilities: Mapping[str, float]) -> str:
    place = bisect.bisect(list(itertools.accumulate(probabilities.values())), rng.random())
    return list(probabilities)[min(place, len(probabilities) - 1)]  # the sum may round to slightly below 1
