"""The distinct prefixes of a sample of strings, laid out in grids, so that a network reads each of them once.

What a recurrent network knows after a prefix does not depend on how the string goes on, and strings of one language
begin alike. So a sample is a tree: its nodes are prefixes, START is the root, and a node predicts the tokens that
follow it, each as often as it does. A grid holds the nodes, one in a cell, each at a later time than its parent and
otherwise wherever there is room; a network goes through the times, each cell going on from the state of its parent.

    strings ab, abb, b      time    0      1    2    3
                            row 0   START  a    b    b
                            row 1               b

In the backward pass a node adds up what its children hand it. For every cell to look up what it needs, and not to add
to other cells, children of a node lie at different times: each adds what its next, later sibling hands it to its own,
and the first hands the sum to the node.
"""

import heapq
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.languages import tokens

Array = jax.Array | np.ndarray


class Prefixes(NamedTuple):
    """A grid of prefixes, leaves [times, rows], or several grids, leaves [grids, times, rows].

    Cells are numbered time by time, time * rows + row; times * rows stands for none.

    tokens: int32, the last token of the prefix; PAD in a cell that holds none.
    parents: int32, the cell of the prefix without that token.
    children: int32, the cell of the first prefix with one more token.
    siblings: int32, the cell of the next prefix with the same parent.
    counts: [..., V] float32, how often each token follows the prefix in the sample.
    times: [] or [grids] int32, how many times hold a prefix, the first ones. None if all are to be gone through: then
        that is a loop of fixed length, which JAX can differentiate backwards more than once.
    """

    tokens: Array
    parents: Array
    children: Array
    siblings: Array
    counts: Array
    times: Array | None = None


def looked_up(filled: Any, cells: jax.Array) -> Any:
    """What cells hold, leaves [*cells.shape, ...], of a pytree with leaves [times + 1, rows, ...]."""
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    return jax.tree.map(lambda x: flat(x).at[cells].get(mode="promise_in_bounds"), filled)


def times_filled(prefixes: Prefixes) -> jax.Array | None:
    """How many times of one grid a network needs to go through; None: all, a number known beforehand.

    Side by side, under `vmap`, all grids share the most that any of them needs. On a GPU it is all of them, as each
    turn of a loop of unknown length would wait for the host.
    """
    if prefixes.times is None:
        return None
    all_ = lambda filled: jnp.full_like(filled, prefixes.tokens.shape[0])
    return jax.lax.platform_dependent(_most(prefixes.times), cuda=all_, rocm=all_, default=lambda filled: filled)


@jax.custom_batching.custom_vmap
def _most(times: jax.Array) -> jax.Array:
    return jnp.max(times)


@_most.def_vmap
def _(axis_size, in_batched, times):
    return _most(times), False


def grids_of(strings: Sequence[Sequence[int]], counts: Sequence[int], times: int, rows: int) -> list[Prefixes]:
    """The prefixes of strings in as many grids of this size as they need; strings that share much share a grid.

    Args:
        strings: distinct token strings, each from START to END (or cut before it), of at most `times` + 1 tokens.
        counts: how often each occurs.

    Raises:
        ValueError: a string is too long for the grid.
    """
    longest = max(map(len, strings)) - 1
    if longest > times:
        raise ValueError(f"a string of {longest + 1} tokens needs {longest} times, and the grids have {times}")
    left = sorted(zip(map(tuple, strings), counts, strict=True))
    grids = []
    while left:
        count, grid = _as_many_as_fit(left, times * rows), None
        while grid is None:
            grid = _grid(left[:count], times, rows)
            count = count if grid is not None else count * 24 // 25
        grids.append(grid)
        left = left[count:]
    return grids


def fit(strings: Sequence[Sequence[int]], counts: Sequence[int], times: int, rows: int) -> Prefixes | None:
    """The prefixes of strings in one grid, or None where that is too small; arguments as for `grids_of`."""
    sample = sorted(zip(map(tuple, strings), counts, strict=True))
    if max(len(string) for string, _ in sample) > times + 1 or _as_many_as_fit(sample, times * rows) < len(sample):
        return None
    return _grid(sample, times, rows)


def cheapest(
    samples: Sequence[tuple[Sequence[Sequence[int]], Sequence[int]]], sizes: Sequence[tuple[int, int]]
) -> list[list[Prefixes]]:
    """The grids of samples, each several token strings and their counts, in the size that takes the least work.

    One size for all samples. How many grids trees fill is only known once they are laid out, which is done for the
    three sizes that would take the least if all grids but the last were filled to six sevenths.

    Args:
        sizes: (times, rows) of grids.
    """
    needs = []
    for strings, _ in samples:
        ordered = sorted(map(tuple, strings))
        pairs = zip([(), *ordered], ordered, strict=False)
        needs.append((max(map(len, ordered)) - 1, sum(len(b) - 1 - _shared(a[:-1], b[:-1]) for a, b in pairs)))

    def expected(size: tuple[int, int]) -> float:
        room = size[0] * size[1]
        grids = [1 + max(-(-7 * (cells - room) // (6 * room)), 0) for _, cells in needs]
        return work(size) * sum(grids) if max(times for times, _ in needs) <= size[0] else np.inf

    best = sorted(sizes, key=expected)[:3]
    laid_out = [[grids_of(*sample, *size) for sample in samples] for size in best if expected(size) < np.inf]
    taken = lambda grid: work(grid.tokens.shape, int(grid.times))
    return min(laid_out, key=lambda each: sum(taken(grid) for grids in each for grid in grids))


def work(size: tuple[int, ...], filled: Any = None) -> Any:
    """What a grid of (times, rows) takes on a CPU, of which the first `filled` times hold a prefix (all), in cells.

    filled: an integer, or several that may be traced.

    A time takes as much as two more rows, or one where there is a single row and no product of matrices; a time that
    holds no prefix half of its rows, for what is computed for all times at once; a grid 15.
    """
    times, rows = size
    filled = times if filled is None else filled
    return filled * (rows + 1 + (rows > 1)) + (times - filled) * rows / 2 + 15


def stacked_grids(each: Sequence[Sequence[Prefixes]]) -> Prefixes:
    """Samples side by side, leaves [samples, grids, times, rows], with empty grids behind those of the smaller ones.

    Their number is rounded up to a power of 8: each number compiles once, and empty grids take no time.
    """
    needed = max(map(len, each))
    number = next(8**power for power in itertools.count() if 8**power >= needed)
    empty = _empty(*each[0][0].tokens.shape)
    padded = [[*grids, *[empty] * (number - len(grids))] for grids in each]
    stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    return stack([stack(grids) for grids in padded])


def _empty(times: int, rows: int) -> Prefixes:
    none = np.full((times, rows), times * rows, np.int32)
    return Prefixes(
        np.full_like(none, tokens.PAD),
        none,
        none,
        none,
        np.zeros((times, rows, tokens.VOCABULARY), np.float32),
        np.zeros((), np.int32),
    )


def _as_many_as_fit(sample: Sequence[tuple[tuple[int, ...], int]], cells: int) -> int:
    """How many of the first strings have no more prefixes than there are cells, at least 1."""
    before: tuple[int, ...] = ()
    for number, (string, _) in enumerate(sample):
        cells -= len(string) - 1 - _shared(before, string[:-1])
        if cells < 0:
            return max(number, 1)
        before = string[:-1]
    return len(sample)


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _grid(sample: Sequence[tuple[tuple[int, ...], int]], times: int, rows: int) -> Prefixes | None:
    """The grid of sorted strings, or None where they do not fit."""
    last: list[int] = []
    parents: list[int] = []
    nodes: list[int] = []  # of every token of every string, with what follows it there and how often
    followers: list[int] = []
    often: list[int] = []
    path: list[int] = []
    before: tuple[int, ...] = ()
    for string, count in sample:
        del path[_shared(before, string[:-1]) :]
        for token in string[len(path) : -1]:
            parents.append(path[-1] if path else -1)
            path.append(len(last))
            last.append(token)
        nodes += path
        followers += string[1:]
        often += [count] * len(path)
        before = string[:-1]
    children, siblings, height = _ordered(parents)
    cells = _schedule(children, siblings, height, times, rows)
    if cells is None:
        return None
    none = times * rows
    place = np.append(cells, none)  # of node -1, too
    counts = np.zeros((none, tokens.VOCABULARY), np.float32)
    np.add.at(counts, (place[nodes], np.array(followers)), np.array(often, np.float32))

    def grid(values: Sequence[int] | np.ndarray, empty: int) -> np.ndarray:
        array = np.full(none, empty, np.int32)
        array[cells] = values
        return array.reshape(times, rows)

    return Prefixes(
        tokens=grid(last, tokens.PAD),
        parents=grid(place[parents], none),
        children=grid(place[children], none),
        siblings=grid(place[siblings], none),
        counts=counts.reshape(times, rows, -1),
        times=np.asarray(cells.max() // rows + 1, np.int32),
    )


def _ordered(parents: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """First child and next sibling of each node (-1: none), and the times that it and all that waits for it take.

    Children are ordered by how long their own offspring takes; a sibling waits for the one before it.
    """
    count = len(parents)
    offspring: list[list[int]] = [[] for _ in range(count)]
    for node in range(count - 1, -1, -1):
        if parents[node] >= 0:
            offspring[parents[node]].append(node)
    children, siblings, height = [-1] * count, [-1] * count, [1] * count
    for node in range(count - 1, -1, -1):  # children have larger numbers than their parents
        own = offspring[node]
        if own:
            own.sort(key=height.__getitem__)  # the last is the first to come
            for later, sooner in zip(own, own[1:], strict=False):
                siblings[sooner] = later
                height[sooner] = max(height[sooner], height[later] + 1)
            children[node] = own[-1]
            height[node] = height[own[-1]] + 1
    return children, siblings, height


def _schedule(
    children: Sequence[int], siblings: Sequence[int], height: Sequence[int], times: int, rows: int
) -> np.ndarray | None:
    """The cell of each node, or None where there are too few times.

    Highest first, which takes the fewest times (Hu 1961), as every node waits for one other at most.
    """
    cells = np.full(len(children), -1)
    ready = [(-height[0], 0)]
    for time in range(times):
        if -ready[0][0] > times - time:
            return None
        now = [heapq.heappop(ready)[1] for _ in range(min(rows, len(ready)))]
        for row, node in enumerate(now):
            cells[node] = time * rows + row
            for waiting in (children[node], siblings[node]):
                if waiting >= 0:
                    heapq.heappush(ready, (-height[waiting], waiting))
        if not ready:
            return cells
    return None
