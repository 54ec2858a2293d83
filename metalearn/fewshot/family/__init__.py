"""The family of MAML: each algorithm a configuration of the one learner in learner.py, with its source.

A further algorithm is a function Setting -> Algorithm and a line in ALGORITHMS. The function calls `learner` with the
pieces that differ from MAML's and `configured` with what else does; notebooks/few_shot.ipynb adds one in a cell.
"""

from collections.abc import Callable
from typing import Any

from metalearn.fewshot.family import forward, losses, metric, npbml, rules, starts
from metalearn.fewshot.family.biases import CODE, PAPER, Biases
from metalearn.fewshot.family.learner import Algorithm, Setting, Weights, configured, learner, once_per_task

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "maml": starts.maml,
    "fomaml": starts.fomaml,
    "reptile": starts.reptile,
    "imaml": starts.imaml,
    "anil": starts.anil,
    "boil": starts.boil,
    "proto_maml": starts.proto_maml,
    "unicorn_maml": starts.unicorn_maml,
    "l2f": starts.l2f,
    "cavia": starts.cavia,
    "meta_sgd": rules.meta_sgd,
    "maml_plus_plus": rules.maml_plus_plus,
    "meta_curvature": rules.meta_curvature,
    "alfa": rules.alfa,
    "gap": rules.gap,
    "approximate_gap": rules.approximate_gap,
    "t_net": forward.t_net,
    "mt_net": forward.mt_net,
    "warp_grad": forward.warp_grad,
    "metal": losses.metal,
    "npbml": npbml.npbml,
    "prototypical": metric.prototypical,
    "nearest_centroid": metric.nearest_centroid,
}


def algorithm(name: str, setting: Setting, **options: Any) -> Algorithm:
    """The algorithm of that name; `options` are the further arguments of its function.

    Raises:
        ValueError: unknown name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm={name!r} is unknown; choose one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name](setting, **options)


__all__ = [
    "ALGORITHMS",
    "CODE",
    "PAPER",
    "Algorithm",
    "Biases",
    "Setting",
    "Weights",
    "algorithm",
    "configured",
    "learner",
    "once_per_task",
]
