"""Data sets: the moments that averaged learning sees, and a sampler to check it against learning from examples.

| symbol      | name              | meaning                                                      |
|-------------|-------------------|--------------------------------------------------------------|
| mu, sigma   | `mu`, `sigma`, `means`, `deviations` | x ~ N(mu y, sigma^2) of a Gaussian problem |
| p           | `dependence`      | probability that two Gaussian problems have opposite labels  |
| h           | `levels`          | levels of the tree of the semantic data set, root included   |
| phi_c / C   | `shares`          | shares of the classes, or of the tasks, in a batch           |

Source: Carrasco-Davis, Masis & Saxe (2024) and the code released with it; digits are in digits.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.effort import moments as averages
from metalearn.effort.moments import Moments, moments_of, stacked

Batch = tuple[jax.Array, jax.Array]  # x [batch, I], y [batch, O]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A distribution of examples x: [I], y: [O].

    name: what to call it in a figure or an error.
    outputs: the name of each output: a class, a node of a tree, ...
    moments: of the training data. Those of stored examples are in float64, whatever JAX computes in.
    sample(key, batch) -> x [batch, I], y [batch, O], independent draws; pure, `batch` is static under jit.
    parts: moments of each class, or of each task, leaves [parts, ...]; None where the data has no such parts.
        `moments.mixture(shares, parts)` are the moments of `sample_shares`.
    sample_part(key, part) -> x, y, a draw from each of the parts whose numbers are in `part`, [batch] integer.
    test: moments of held-out data, or None.
    """

    name: str
    outputs: tuple[str, ...]
    moments: Moments
    sample: Callable[[jax.Array, int], Batch]
    parts: Moments | None = None
    sample_part: Callable[[jax.Array, jax.Array], Batch] | None = None
    test: Moments | None = None

    def sample_shares(self, key: jax.Array, batch: int, shares: Any) -> Batch:
        """x [batch, I], y [batch, O] of which an expected share `shares` comes from each part.

        The paper draws int(B phi_c / C) examples of each class. Here the part of each example is drawn, so that a
        share may be any number and the batch always has the same size.

        Args:
            shares: [parts], non-negative; only their ratios count.

        Raises:
            ValueError: data without parts; shares of another shape, or (where they are concrete) negative, not
                finite or all zero.
        """
        if self.parts is None or self.sample_part is None:
            raise ValueError(f"the data set {self.name!r} has no classes to draw in given shares; use `sample`")
        shares, parts = jnp.asarray(shares, float), len(self.parts.x)
        if shares.shape != (parts,):
            raise ValueError(f"shares of {self.name!r} must have shape ({parts},), one each, but have {shares.shape}")
        if not isinstance(shares, jax.core.Tracer) and not (shares.min() >= 0 and 0 < shares.sum() < jnp.inf):
            raise ValueError(f"shares={shares} of {self.name!r} must be finite, none negative and not all zero")
        which, what = jax.random.split(key)
        return self.sample_part(what, jax.random.choice(which, parts, (batch,), p=shares / shares.sum()))


def two_gaussians(mu: Any = 2.0, sigma: Any = 1.0) -> Dataset:
    """y = +-1 with equal probability, x ~ N(mu y, sigma^2): one input, one output, no bias. Both may be traced.

    Raises:
        ValueError: mu or sigma not finite, or sigma negative (where they are concrete).
    """
    _check("mu", mu, -np.inf, np.inf)
    _check("sigma", sigma, 0, np.inf)
    mu, sigma = jnp.asarray(mu, float), jnp.asarray(sigma, float)
    matrix = lambda value: jnp.reshape(value, (1, 1))

    def sample(key, batch):
        label, noise = jax.random.split(key)
        y = jax.random.rademacher(label, (batch, 1), mu.dtype)
        return mu * y + sigma * jax.random.normal(noise, (batch, 1), mu.dtype), y

    zero = jnp.zeros(1, mu.dtype)
    moments = Moments(matrix(mu**2 + sigma**2), matrix(mu), jnp.ones((1, 1), mu.dtype), zero, zero)
    return Dataset("two Gaussians", ("label",), moments, sample)


def correlated_gaussians(means: Any, deviations: Any, dependence: Any) -> Dataset:
    """Two binary Gaussian problems learned together; the one of larger |mean| / deviation is the easier.

    y1 = +-1 with equal probability, y2 = -y1 with probability `dependence` and else y1; x_i ~ N(means_i y_i,
    deviations_i^2), x_3 = 1. All arguments may be traced.

    Args:
        means, deviations: [2].
        dependence: p in [0, 1]; at 1/2 the labels are independent.

    Raises:
        ValueError: shapes other than these, or (where they are concrete) values that are not finite, a negative
            deviation or a dependence outside [0, 1].
    """
    for name, value, shape in (
        ("means", means, (2,)),
        ("deviations", deviations, (2,)),
        ("dependence", dependence, ()),
    ):
        if jnp.shape(value) != shape:
            raise ValueError(f"{name} has shape {jnp.shape(value)}; two Gaussian problems need {shape}")
    _check("means", means, -np.inf, np.inf)
    _check("deviations", deviations, 0, np.inf)
    _check("dependence", dependence, 0, 1)
    mu, sigma, p = (jnp.asarray(value, float) for value in (means, deviations, dependence))

    def sample(key, batch):
        first, opposite, noise = jax.random.split(key, 3)
        y1 = jax.random.rademacher(first, (batch,), mu.dtype)
        y = jnp.stack([y1, jnp.where(jax.random.bernoulli(opposite, p, (batch,)), -y1, y1)], 1)
        x = mu * y + sigma * jax.random.normal(noise, (batch, 2), mu.dtype)
        return jnp.pad(x, ((0, 0), (0, 1)), constant_values=1), y

    one = jnp.ones((), mu.dtype)
    yy = jnp.stack([jnp.stack([one, 1 - 2 * p]), jnp.stack([1 - 2 * p, one])])
    xx = jnp.pad(mu[:, None] * yy * mu + jnp.diag(sigma**2), (0, 1)).at[2, 2].set(1)
    xy = jnp.pad(mu[:, None] * yy, ((0, 1), (0, 0)))
    mean_x, mean_y = jnp.zeros(3, mu.dtype).at[2].set(1), jnp.zeros(2, mu.dtype)
    return Dataset("correlated Gaussians", ("first", "second"), Moments(xx, xy, yy, mean_x, mean_y), sample)


def task_a() -> Dataset:
    """The paper's main Gaussian task: an easy and a hard problem whose labels mostly differ."""
    return dataclasses.replace(correlated_gaussians((3.0, 1.0), (1.0, 1.0), 0.8), name="task A")


def task_b() -> Dataset:
    """The task that takes turns with task A in the paper's task switch: two equally hard problems."""
    return dataclasses.replace(correlated_gaussians((-2.0, 2.0), (1.0, 1.0), 0.2), name="task B")


def semantic(levels: int = 4) -> Dataset:
    """A binary tree of concepts (Saxe, McClelland & Ganguli 2019): 2^(levels - 1) items, 2^levels - 1 features.

    An item is a one-hot input. An output is a node of the tree, breadth-first from the root, and is 1 for the items
    below it. A node is named by the turns that lead to it: "root", "0", "1", "00", "01", ... Its class is the items
    below it.

    Raises:
        ValueError: levels is not an integer of at least 1.
    """
    if not isinstance(levels, int | np.integer) or levels < 1:
        raise ValueError(f"levels={levels!r} must be an integer of at least 1: a tree has a root")
    items = np.arange(2 ** (levels - 1))
    nodes = [(depth, place) for depth in range(levels) for place in range(2**depth)]
    below = [items >> (levels - 1 - depth) == place for depth, place in nodes]
    names = [f"{place:0{depth}b}" if depth else "root" for depth, place in nodes]
    return from_arrays(np.eye(len(items)), np.stack(below, 1), False, f"semantic tree of {levels} levels", names)


def from_arrays(
    x: Any,
    y: Any,
    bias: bool = True,
    name: str = "arrays",
    outputs: Sequence[str] | None = None,
    test: tuple[Any, Any] | None = None,
) -> Dataset:
    """Any stored examples, drawn uniformly with replacement.

    Where outputs are 0 or 1, each is on for some example, and each example has some output on, then the examples for
    which an output is on are its class: the data set has `parts`, one for each output.

    Args:
        x: [examples, I], without the bias. y: [examples, O].
        bias: whether to append a constant 1 to the inputs.
        outputs: names of the outputs; their numbers by default.
        test: x and y of held-out examples, as above.

    Raises:
        ValueError: no examples, shapes that do not fit, values that are not finite, or a wrong number of names.
    """

    def prepared(x, y, which):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        try:
            moments_of(x, y)
        except ValueError as error:
            raise ValueError(f"{which} data of {name!r}: {error}") from None
        return (np.pad(x, ((0, 0), (0, 1)), constant_values=1) if bias else x), y

    x, y = prepared(x, y, "training")
    outputs = tuple(map(str, range(y.shape[1])) if outputs is None else outputs)
    if len(outputs) != y.shape[1]:
        raise ValueError(f"outputs of {name!r}: {len(outputs)} names for {y.shape[1]} outputs")
    held_out = None
    if test is not None:
        test_x, test_y = prepared(*test, "test")
        if (test_x.shape[1], test_y.shape[1]) != (x.shape[1], y.shape[1]):
            widths = f"{x.shape[1]} inputs and {y.shape[1]} outputs"
            raise ValueError(f"test data of {name!r} must have {widths}, not {test_x.shape[1]} and {test_y.shape[1]}")
        held_out = moments_of(test_x, test_y)

    stored_x, stored_y = jnp.asarray(x, float), jnp.asarray(y, float)

    def sample(key, batch):
        chosen = jax.random.randint(key, (batch,), 0, len(x))
        return stored_x[chosen], stored_y[chosen]

    on = y == 1
    if not (np.isin(y, (0, 1)).all() and on.any(0).all() and on.any(1).all()):
        return Dataset(name, outputs, moments_of(x, y), sample, test=held_out)

    # The members of all classes in one row, class after class, as a class may have any number of them.
    members = jnp.asarray(np.nonzero(on.T)[1])
    sizes = jnp.asarray(on.sum(0))
    starts = jnp.cumsum(sizes) - sizes

    def sample_part(key, part):
        chosen = members[starts[part] + jax.random.randint(key, part.shape, 0, sizes[part])]
        return stored_x[chosen], stored_y[chosen]

    classes = [moments_of(x[column], y[column]) for column in on.T]
    parts = jax.tree.map(lambda *leaves: np.stack(leaves), *classes)
    return Dataset(name, outputs, moments_of(x, y), sample, parts, sample_part, held_out)


def side_by_side(datasets: Sequence[Dataset]) -> Dataset:
    """Several tasks at once in one network: inputs and outputs are concatenated, tasks are drawn independently.

    Raises:
        ValueError: no data sets.
    """
    if not datasets:
        raise ValueError("side_by_side needs at least one data set")

    def sample(key, batch):
        keys = jax.random.split(key, len(datasets))
        x, y = zip(*(dataset.sample(k, batch) for dataset, k in zip(datasets, keys, strict=True)), strict=True)
        return jnp.concatenate(x, 1), jnp.concatenate(y, 1)

    test = [dataset.test for dataset in datasets if dataset.test is not None]
    return Dataset(
        name=" | ".join(dataset.name for dataset in datasets),
        outputs=tuple(f"{dataset.name}: {output}" for dataset in datasets for output in dataset.outputs),
        moments=averages.side_by_side([dataset.moments for dataset in datasets]),
        sample=sample,
        test=averages.side_by_side(test) if len(test) == len(datasets) else None,
    )


def mixture(datasets: Sequence[Dataset]) -> Dataset:
    """Several tasks of the same inputs and outputs: each example comes from one of them, all alike in `sample`.

    `parts` are the moments of the tasks, so it is also what tasks that take turns need.

    Raises:
        ValueError: no data sets, or data sets of different numbers of inputs or outputs.
    """
    parts = stacked([dataset.moments for dataset in datasets])
    alike = jnp.full(len(datasets), 1 / len(datasets))

    def sample_part(key, part):
        keys = jax.random.split(key, len(datasets))
        draws = [dataset.sample(k, len(part)) for dataset, k in zip(datasets, keys, strict=True)]
        pick = lambda *tasks: jnp.stack(tasks)[part, jnp.arange(len(part))]
        return jax.tree.map(pick, *draws)

    def sample(key, batch):
        which, what = jax.random.split(key)
        return sample_part(what, jax.random.randint(which, (batch,), 0, len(datasets)))

    test = [dataset.test for dataset in datasets if dataset.test is not None]
    return Dataset(
        name=" or ".join(dataset.name for dataset in datasets),
        outputs=tuple("/".join(dict.fromkeys(names)) for names in zip(*(d.outputs for d in datasets), strict=True)),
        moments=averages.mixture(alike, parts),
        sample=sample,
        parts=parts,
        sample_part=sample_part,
        test=averages.mixture(alike, stacked(test)) if len(test) == len(datasets) else None,
    )


def _check(name: str, value: Any, low: float, high: float) -> None:
    """Raises ValueError unless all of a concrete `value` is finite and in [low, high]."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
        return
    numbers = np.asarray(value, np.float64)
    if not (np.isfinite(numbers) & (numbers >= low) & (numbers <= high)).all():
        raise ValueError(f"{name}={value} must be finite and in [{low}, {high}]")
