"""The differentiable core: learning processes, their unrolling, meta-gradients and the outer loop."""

from metalearn.core import objectives
from metalearn.core.meta_gradient import (
    ESTIMATORS,
    Estimate,
    Estimator,
    displacement,
    estimator_named,
    exact,
    first_order,
    implicit,
    stepwise,
    truncated,
)
from metalearn.core.outer import OuterLoop, OuterState, outer_loop, outer_loops
from metalearn.core.parts import sum_in_parts
from metalearn.core.process import Learner, LearningProcess, UpdateRule, gradient_process, optax_rule
from metalearn.core.sharding import PARTS, replicate, shard_tasks, task_mesh
from metalearn.core.unroll import Trajectory, unroll

__all__ = [
    "ESTIMATORS",
    "PARTS",
    "Estimate",
    "Estimator",
    "Learner",
    "LearningProcess",
    "OuterLoop",
    "OuterState",
    "Trajectory",
    "UpdateRule",
    "displacement",
    "estimator_named",
    "exact",
    "first_order",
    "gradient_process",
    "implicit",
    "objectives",
    "optax_rule",
    "outer_loop",
    "outer_loops",
    "replicate",
    "shard_tasks",
    "stepwise",
    "sum_in_parts",
    "task_mesh",
    "truncated",
    "unroll",
]
