"""One formal language of the metagrammar: its expressions, its sampler, and how it prints (McCoy & Griffiths 2025).

A language is a vocabulary, a row of slots and one expression per synchrony class. Slots of one class grow together:
with one class of three slots, "repeat (a, b, c)" is a^n b^n c^n. A string is the content of the slots, in order.

    paper (appendix A)       here
    ------------------------ --------------------------------------------------------------
    |V|                      Grammar.vocabulary       symbols are 0 .. vocabulary - 1
    synchrony pattern z      Grammar.slots            class of each slot, e.g. (0, 1, 0)
    S_i                      Grammar.classes[i]
    p of plus                Grammar.stop             probability that a repetition is the last
    position i of plus       Plus.position
"""

import dataclasses
import itertools
import string
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One fixed symbol for each slot of the class."""

    symbols: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sigma:
    """Any one symbol, drawn afresh at every visit and the same in all slots of the class."""


@dataclasses.dataclass(frozen=True)
class Epsilon:
    """Nothing."""


@dataclasses.dataclass(frozen=True)
class Or:
    """One of two children, each with probability 1/2 at every visit."""

    children: tuple["Expression", ...]


@dataclasses.dataclass(frozen=True)
class Concat:
    """All children, in order."""

    children: tuple["Expression", ...]


@dataclasses.dataclass(frozen=True)
class Plus:
    """Repetition around a centre: Geometric(stop) rounds, each evaluating all children afresh.

    A round puts the children before `position` to the left of what there is and the others to its right. So with
    children A and C, position 0 gives (A C)^n and position 1 gives A^n C^n.
    """

    children: tuple["Expression", ...]
    position: int


Expression: TypeAlias = Leaf | Sigma | Epsilon | Or | Concat | Plus


@dataclasses.dataclass(frozen=True)
class Grammar:
    """One language: immutable, comparable, printable (`str`), and a sampler.

    Attributes:
        vocabulary: number of symbols, 1 to 26 (they are printed as the letters a, b, c, ...).
        slots: class of each slot; classes are numbered from 0.
        classes: one expression per class.
        stop: parameter of the geometric number of rounds (1, 2, ...) of every Plus; the mean is 1 / stop.

    Raises:
        ValueError: for parts that do not fit together, e.g. a leaf with fewer symbols than its class has slots.
    """

    vocabulary: int
    slots: tuple[int, ...]
    classes: tuple[Expression, ...]
    stop: float = 0.33

    def __post_init__(self) -> None:
        """Checks that the parts fit together."""
        if not 1 <= self.vocabulary <= 26:
            raise ValueError(f"vocabulary must be between 1 and 26, got {self.vocabulary}")
        if not 0 < self.stop <= 1:
            raise ValueError(f"stop must be a probability above 0, got {self.stop}")
        if set(self.slots) != set(range(len(self.classes))):
            raise ValueError(f"slots {self.slots} must use each of the {len(self.classes)} classes, numbered from 0")
        for i, root in enumerate(self.classes):
            for node in _walk(root):
                _check(node, self.slots.count(i), self.vocabulary)

    @property
    def size(self) -> int:
        """Description size: number of nodes of all expressions together."""
        return sum(1 for root in self.classes for _ in _walk(root))

    @property
    def work(self) -> float:
        """Expected number of node evaluations for one string; exact."""
        return sum(_work(root, self.stop) for root in self.classes)

    def sample(self, rng: np.random.Generator, count: int) -> list[tuple[int, ...]]:
        """Draws `count` independent strings, each a tuple of symbols; costs about `count * work` node evaluations.

        All strings are drawn together, node by node, so a sample of 10 is no prefix of a sample of 20.

        Raises:
            ValueError: if `count` is negative.
        """
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        widths = [self.slots.count(i) for i in range(len(self.classes))]
        drawn = [
            _draw(root, count, width, self.vocabulary, self.stop, rng)
            for root, width in zip(self.classes, widths, strict=True)
        ]
        slots = []
        for place, i in enumerate(self.slots):
            # Rows of k-tuples are stored end to end, so the j-th slot of a class holds every k-th symbol from j on.
            j, k = self.slots[:place].count(i), widths[i]
            slots.append(drawn[i] if k == 1 else [row[j::k] for row in drawn[i]])
        return [tuple(b"".join(parts)) for parts in zip(*slots, strict=True)]

    def __str__(self) -> str:
        """The language as a newcomer reads it, e.g. `a^n b^n c^n with n ~ Geom(0.33), Σ = {a, b, c}`.

        Slots stand in order. What slots of one class share has the same name in each: an exponent n, a symbol Σ1, a
        choice (a | b)1. Inside a repeated group every repetition draws its exponents, symbols and choices anew.
        """
        exponents = itertools.chain("nmklpqrstuvw", (f"n{i}" for i in itertools.count(1)))
        tags = itertools.count(1)
        shown = [iter(_show(root, self.slots.count(i), exponents, tags)) for i, root in enumerate(self.classes)]
        body = " ".join(next(shown[i]) for i in self.slots)
        repeats = f"n ~ Geom({self.stop:.2f}), " if "^" in body else ""
        return f"{body} with {repeats}Σ = {{{', '.join(string.ascii_lowercase[: self.vocabulary])}}}"


def _draw(
    node: Expression, count: int, width: int, vocabulary: int, stop: float, rng: np.random.Generator
) -> list[bytes]:
    """Evaluates `node` `count` times at once: one row of `width`-tuples each, stored end to end, one byte a symbol."""

    def draw(child: Expression, times: int) -> list[bytes]:
        return _draw(child, times, width, vocabulary, stop, rng)

    def joined(children: tuple[Expression, ...], times: int) -> list[bytes]:
        if len(children) == 1:
            return draw(children[0], times)
        return [b"".join(row) for row in zip(*(draw(child, times) for child in children), strict=True)]

    match node:
        case Leaf(symbols):
            return [bytes(symbols)] * count
        case Sigma():
            rows = [bytes([symbol]) * width for symbol in range(vocabulary)]
            return [rows[symbol] for symbol in rng.integers(vocabulary, size=count).tolist()]
        case Epsilon():
            return [b""] * count
        case Concat(children):
            return joined(children, count)
        case Or((left, right)):
            goes_right = rng.random(count) < 0.5
            on_right = int(goes_right.sum())
            branches = iter(draw(left, count - on_right)), iter(draw(right, on_right))
            return [next(branches[side]) for side in goes_right.tolist()]
        case Plus(children, position):
            ends = np.cumsum(rng.geometric(stop, size=count)).tolist()
            rounds = ends[-1] if ends else 0
            spans = list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
            # The left blocks of rounds 1, 2, ... belong in reverse order; being i.i.d. they may stay as drawn.
            after = joined(children[position:], rounds)
            if not position:
                return [b"".join(after[start:end]) for start, end in spans]
            before = joined(children[:position], rounds)
            return [b"".join(before[start:end] + after[start:end]) for start, end in spans]
    raise TypeError(f"not an expression: {node!r}")


def _children(node: Expression) -> tuple[Expression, ...]:
    return node.children if isinstance(node, Or | Concat | Plus) else ()


def _walk(node: Expression) -> Iterator[Expression]:
    yield node
    for child in _children(node):
        yield from _walk(child)


def _work(node: Expression, stop: float) -> float:
    below = sum(_work(child, stop) for child in _children(node))
    return 1 + (below / 2 if isinstance(node, Or) else below / stop if isinstance(node, Plus) else below)


def _check(node: Expression, width: int, vocabulary: int) -> None:
    match node:
        case Leaf(symbols):
            if len(symbols) != width:
                raise ValueError(f"{node} needs one symbol for each of the {width} slots of its class")
            if not all(0 <= symbol < vocabulary for symbol in symbols):
                raise ValueError(f"{node} has a symbol outside 0..{vocabulary - 1}; raise vocabulary")
        case Or(children):
            if len(children) != 2:
                raise ValueError(f"Or needs 2 children, got {len(children)}: {node}")
        case Concat(children) | Plus(children):
            if not children:
                raise ValueError(f"{type(node).__name__} needs at least one child")
            if isinstance(node, Plus) and not 0 <= node.position < len(children):
                raise ValueError(f"position of {node} must be below its {len(children)} children and not negative")


def _show(node: Expression, width: int, exponents: Iterator[str], tags: Iterator[int]) -> list[str]:
    """What each of the `width` slots of a class shows of `node`."""
    if isinstance(node, Leaf):
        return [string.ascii_lowercase[symbol] for symbol in node.symbols]
    if isinstance(node, Epsilon):
        return ["ε"] * width
    tag = str(next(tags)) if width > 1 and isinstance(node, Sigma | Or) else ""
    if isinstance(node, Sigma):
        return [f"Σ{tag}"] * width
    exponent = next(exponents) if isinstance(node, Plus) else ""
    slots = zip(*(_show(child, width, exponents, tags) for child in node.children), strict=True)
    if isinstance(node, Or):
        return [f"({' | '.join(parts)}){tag}" for parts in slots]
    if isinstance(node, Concat):
        return [" ".join(parts) for parts in slots]

    def power(parts: tuple[str, ...]) -> str:
        base = " ".join(parts)
        return f"{base}^{exponent}" if len(base) == 1 else f"({base})^{exponent}"

    return [
        " ".join(power(group) for group in (parts[: node.position], parts[node.position :]) if group) for parts in slots
    ]
