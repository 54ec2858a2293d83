"""Families of string distributions that are read from left to right: lists, counted blocks, unions and automata.

G(p) is the geometric distribution on 1, 2, ... with success probability p, called `stop` here.
"""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from metalearn.languages.language import END, StringDistribution


def log_geometric(value: int, stop: float, low: int = 1) -> float:
    """Log-probability that low - 1 + G(stop) equals `value`, `-inf` below `low`."""
    return math.log(stop) + (value - low) * math.log1p(-stop) if value >= low else -math.inf


def log_sum_exp(logs: Iterable[float]) -> float:
    """log(sum(exp(logs))), `-inf` for no terms."""
    values = list(logs)
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(value - top) for value in values))


@dataclasses.dataclass(frozen=True)
class Finite(StringDistribution):
    """Finitely many strings, each with its weight; the weights need not sum to one."""

    weights: Mapping[str, float]

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        weights = np.array(list(self.weights.values()))
        choices = rng.choice(len(weights), size=count, p=weights / weights.sum())
        return np.array(list(self.weights), dtype=object)[choices].tolist()

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        weight = self.weights.get(string, 0.0)
        return math.log(weight / sum(self.weights.values())) if weight else -math.inf

    def valid_next(self, prefix: str) -> frozenset[str]:
        """See `StringDistribution`."""
        return frozenset((s + END)[len(prefix)] for s in self.weights if s.startswith(prefix))


@dataclasses.dataclass(frozen=True)
class Blocks(StringDistribution):
    """Consecutive blocks whose texts are functions of shared geometric counts, as in a^n b^m c^(nm).

    Every block is a function from the first few counts to a text. A block that takes one count more than the blocks
    before it introduces that count. The text of such a block must grow with its new count by appending:
    `text(n)` is a proper prefix of `text(n + 1)`. This is what makes the language readable from left to right, so
    that sampling, membership, probability and valid continuations all follow from the one list of functions.

    Example:
        >>> language = Blocks((lambda n: "a" * n, lambda n, m: "b" * m, lambda n, m: "c" * (n * m)))
        >>> language.contains("aabbbcccccc"), sorted(language.valid_next("aabbb"))
        (True, ['b', 'c'])

    Raises:
        ValueError: a block takes two counts or more that no block before it has introduced.
    """

    blocks: tuple[Callable[..., str], ...]
    """Texts of the blocks from left to right."""
    stop: float = 1 / 3
    """Every count is low - 1 + G(stop), independently."""
    low: int = 1
    """Smallest value of every count."""
    arities: tuple[int, ...] = dataclasses.field(init=False)
    """How many counts each block takes."""

    def __post_init__(self) -> None:
        """Finds out which block introduces which count."""
        arities = tuple(len(inspect.signature(block).parameters) for block in self.blocks)
        for index, arity in enumerate(arities):
            known = max(arities[:index], default=0)
            if arity > known + 1:
                raise ValueError(
                    f"block {index} takes {arity} counts where {known} are known before it: "
                    "a block may introduce at most one new count; split it"
                )
        object.__setattr__(self, "arities", arities)

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        if count == 0:
            return []
        counts = rng.geometric(self.stop, size=(max(self.arities), count)) - 1
        # Few combinations of counts occur, so each is written out once, however many strings are drawn.
        shape = tuple(counts.max(axis=1) + 1)
        distinct, positions = np.unique(np.ravel_multi_index(tuple(counts), shape), return_inverse=True)
        texts = [
            self._text(combination) for combination in np.stack(np.unravel_index(distinct, shape), axis=1) + self.low
        ]
        return np.array(texts, dtype=object)[positions].tolist()

    def _text(self, counts: np.ndarray) -> str:
        values = counts.tolist()
        return "".join(block(*values[:arity]) for block, arity in zip(self.blocks, self.arities, strict=True))

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        readings = (counts for counts, symbol in self._readings(string) if symbol == END)
        return log_sum_exp(sum(log_geometric(n, self.stop, self.low) for n in counts) for counts in readings)

    def valid_next(self, prefix: str) -> frozenset[str]:
        """See `StringDistribution`."""
        return frozenset(symbol for _, symbol in self._readings(prefix))

    def _readings(
        self, rest: str, known: tuple[int, ...] = (), index: int = 0
    ) -> Iterator[tuple[tuple[int, ...], str]]:
        """Ways to read `rest` as a beginning of the blocks from `index` on: the counts, and the symbol that follows."""
        if index == len(self.blocks):
            if not rest:
                yield known, END
            return
        block, arity = self.blocks[index], self.arities[index]
        options = [known] if arity <= len(known) else ((*known, value) for value in itertools.count(self.low))
        for counts in options:
            text = block(*counts[:arity])
            if rest.startswith(text):
                yield from self._readings(rest[len(text) :], counts, index + 1)
            else:
                # Larger counts only append to this text, so they add neither a reading nor another next symbol.
                if text.startswith(rest):
                    yield counts, text[len(rest)]
                return


@dataclasses.dataclass(frozen=True)
class Union(StringDistribution):
    """A fair coin decides for each string which of two distributions it is drawn from."""

    left: StringDistribution
    right: StringDistribution

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        heads = rng.random(count) < 0.5
        strings = np.empty(count, dtype=object)
        strings[heads] = self.left.sample(rng, int(heads.sum()))
        strings[~heads] = self.right.sample(rng, int((~heads).sum()))
        return strings.tolist()

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        return log_sum_exp(side.log_probability(string) for side in (self.left, self.right)) - math.log(2)

    def valid_next(self, prefix: str) -> frozenset[str]:
        """See `StringDistribution`."""
        return self.left.valid_next(prefix) | self.right.valid_next(prefix)


@dataclasses.dataclass(frozen=True)
class Automaton(StringDistribution):
    """A probabilistic finite automaton, possibly non-deterministic.

    `arcs` maps every state to its arcs (symbol, next state, probability); the first state is where strings start and
    an arc to `END` emits its symbol and stops. Every state must be able to reach `END`.

    Raises:
        ValueError: the probabilities of a state do not sum to one, or an arc leads to an unknown state.
    """

    arcs: Mapping[str, tuple[tuple[str, str, float], ...]]

    def __post_init__(self) -> None:
        """Checks the table."""
        for state, arcs in self.arcs.items():
            total = sum(probability for _, _, probability in arcs)
            if not math.isclose(total, 1.0):
                raise ValueError(f"probabilities of the arcs from state {state!r} must sum to 1, got {total}")
            if unknown := {target for _, target, _ in arcs} - {END, *self.arcs}:
                raise ValueError(f"arcs from state {state!r} lead to unknown states {sorted(unknown)}")

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        if count == 0:
            return []
        states = list(self.arcs)
        target_number = {state: number for number, state in enumerate(states)} | {END: -1}
        width = max(len(arcs) for arcs in self.arcs.values())
        cumulative = np.ones((len(states), width))
        symbols, targets = np.zeros((len(states), width), np.uint8), np.zeros((len(states), width), np.int8)
        for row, arcs in enumerate(self.arcs.values()):
            cumulative[row, : len(arcs) - 1] = np.cumsum([p for _, _, p in arcs])[:-1]
            symbols[row, : len(arcs)] = [ord(symbol) for symbol, _, _ in arcs]
            targets[row, : len(arcs)] = [target_number[target] for _, target, _ in arcs]
        running, state, columns = np.arange(count), np.zeros(count, np.int8), []
        while running.size:
            arc = (rng.random(running.size)[:, None] >= cumulative[state]).sum(axis=1)
            column = np.zeros(count, np.uint8)
            column[running] = symbols[state, arc]
            columns.append(column)
            state = targets[state, arc]
            running, state = running[state >= 0], state[state >= 0]
        letters = np.stack(columns, axis=1)
        return [row.decode() for row in letters.view(f"S{len(columns)}").ravel().tolist()]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        weights, log_scale = {next(iter(self.arcs)): 1.0}, 0.0
        for symbol in string:
            reached: dict[str, float] = {}
            for state, weight in weights.items():
                for emitted, target, probability in self.arcs.get(state, ()):
                    if emitted == symbol:
                        reached[target] = reached.get(target, 0.0) + weight * probability
            if not reached:
                return -math.inf
            # Rescaled at every symbol: a plain forward pass underflows on strings of a few hundred symbols.
            scale = sum(reached.values())
            weights, log_scale = (
                {state: weight / scale for state, weight in reached.items()},
                log_scale + math.log(scale),
            )
        return math.log(weights[END]) + log_scale if END in weights else -math.inf

    def valid_next(self, prefix: str) -> frozenset[str]:
        """See `StringDistribution`."""
        states = {next(iter(self.arcs))}
        for symbol in prefix:
            states = {to for state in states for emitted, to, _ in self.arcs.get(state, ()) if emitted == symbol}
        symbols = {symbol for state in states for symbol, _, _ in self.arcs.get(state, ())}
        return frozenset(symbols | {END} if END in states else symbols)
