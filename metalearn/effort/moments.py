"""Second moments of a task: all that averaged dynamics of linear networks see of the data.

| symbol  | name       | meaning                                  |
|---------|------------|------------------------------------------|
| Sigma_x | `xx`       | E[x x^T], uncentred                      |
| Sigma_xy| `xy`       | E[x y^T]: inputs are rows, outputs columns |
| Sigma_y | `yy`       | E[y y^T]                                 |
| m, y-bar| `x`, `y`   | means                                    |

Source: Carrasco-Davis, Masis & Saxe (2024) and the code released with it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Moments(NamedTuple):
    """Uncentred moments of a task with I inputs and O outputs; leaves may have further leading axes over tasks."""

    xx: jax.Array  # [I, I]
    xy: jax.Array  # [I, O]
    yy: jax.Array  # [O, O]
    x: jax.Array  # [I]
    y: jax.Array  # [O]


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    """Moments of examples x: [examples, I], y: [examples, O], computed in float64.

    Raises:
        ValueError: shapes that do not fit, no examples, or values that are not finite.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x and y must be [examples, I] and [examples, O], but their shapes are {x.shape}, {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("x and y hold NaN or infinity: moments of such data do not exist")
    return Moments(x.T @ x / len(x), x.T @ y / len(x), y.T @ y / len(x), x.mean(0), y.mean(0))


def checked(moments: Moments, tolerance: float = 1e-6) -> Moments:
    """`moments` as they came, once they are known to be those of some distribution (concrete arrays).

    Raises:
        ValueError: shapes that do not fit, Sigma_x or Sigma_y not symmetric, or the joint second-moment matrix of
            (1, x, y) not positive semi-definite; names the matrix and by how much.
    """
    xx, xy, yy, x, y = (np.asarray(m, np.float64) for m in moments)
    inputs, outputs = xx.shape[-1], yy.shape[-1]
    shapes = ((inputs, inputs), (inputs, outputs), (outputs, outputs), (inputs,), (outputs,))
    for name, matrix, shape in zip(Moments._fields, (xx, xy, yy, x, y), shapes, strict=True):
        if matrix.shape != shape:
            sizes = f"with {inputs} inputs and {outputs} outputs"
            raise ValueError(f"moments.{name} has shape {matrix.shape}; {sizes} it must be {shape}")
        if not np.isfinite(matrix).all():
            raise ValueError(f"moments.{name} holds NaN or infinity")
    for name, matrix in (("xx", xx), ("yy", yy)):
        gap = np.abs(matrix - matrix.T).max()
        if not gap <= tolerance * max(np.abs(matrix).max(), 1.0):
            raise ValueError(f"moments.{name} is not symmetric: entries differ from those mirrored by up to {gap:.3g}")
    one = np.ones((1, 1))
    joint = np.block([[one, x[None], y[None]], [x[:, None], xx, xy], [y[:, None], xy.T, yy]])
    least = float(np.linalg.eigvalsh(joint).min())
    if not least >= -tolerance * max(np.abs(joint).max(), 1.0):
        raise ValueError(
            f"no data have these moments: the second-moment matrix of (1, x, y) has the eigenvalue {least:.3g}, "
            "and it must be positive semi-definite"
        )
    return moments


def best_linear(moments: Moments) -> jax.Array:
    """The least-squares map [O, I]: W = Sigma_xy^T Sigma_x^+."""
    return moments.xy.T @ jnp.linalg.pinv(moments.xx, hermitian=True)


def best_loss(moments: Moments) -> jax.Array:
    """Least expected loss 1/2 E|y - W x|^2 of any linear map, a scalar."""
    return 0.5 * (jnp.trace(moments.yy) - jnp.trace(best_linear(moments) @ moments.xy))


def stacked(tasks: Sequence[Moments]) -> Moments:
    """Moments of several tasks of the same shapes as one pytree, leaves [tasks, ...].

    Raises:
        ValueError: no tasks, or tasks of different shapes.
    """
    sizes = [task.xy.shape for task in tasks]
    if len(set(sizes)) != 1:
        raise ValueError(f"one or more tasks of the same inputs and outputs can be stacked, but these have {sizes}")
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *tasks)


def side_by_side(tasks: Sequence[Moments]) -> Moments:
    """Joint moments of independent tasks whose inputs, and outputs, are concatenated (several tasks, one network).

    Diagonal blocks are the tasks' own; the others are products of means, as the tasks are sampled independently.

    Raises:
        ValueError: no tasks.
    """
    if not tasks:
        raise ValueError("side_by_side needs at least one task")
    x, y = (jnp.concatenate([jnp.asarray(getattr(task, name)) for task in tasks]) for name in ("x", "y"))

    def joint(name, left, right):
        result, row, column = jnp.outer(left, right), 0, 0
        for task in tasks:
            block = jnp.asarray(getattr(task, name))
            result = jax.lax.dynamic_update_slice(result, block, (row, column))
            row, column = row + block.shape[0], column + block.shape[1]
        return result

    return Moments(joint("xx", x, x), joint("xy", x, y), joint("yy", y, y), x, y)


def mixture(shares: jax.Array, tasks: Moments) -> Moments:
    """Moments of data each of which comes from task i with probability shares_i.

    Args:
        shares: [tasks], non-negative, of sum 1.
        tasks: leaves [tasks, ...].
    """
    return jax.tree.map(lambda leaf: jnp.tensordot(shares, leaf, 1), tasks)


def product_mixture(shares: jax.Array, tasks: Moments) -> Moments:
    """What the released code of the paper uses instead of `mixture`: moments of the weighted sum of the tasks' data.

    Sigma_x = sum_ij s_i s_j A_ij with A_ii = Sigma_x of task i and A_ij = E[x_i] E[x_j]^T; Sigma_xy and Sigma_y alike.
    These are the moments of (sum_i s_i x_i, sum_i s_i y_i), the tasks' examples being independent of each other.
    Args as in `mixture`.
    """
    x, y = shares @ tasks.x, shares @ tasks.y

    def met(second, left, right):
        own = second - jnp.einsum("ti,tj->tij", left, right)
        return jnp.outer(shares @ left, shares @ right) + jnp.tensordot(shares**2, own, 1)

    xx, xy, yy = met(tasks.xx, tasks.x, tasks.x), met(tasks.xy, tasks.x, tasks.y), met(tasks.yy, tasks.y, tasks.y)
    return Moments(xx, xy, yy, x, y)
