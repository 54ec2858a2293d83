"""Families of string distributions built on random words: images, conditions, pairs, shuffles, brackets, numerals."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable

import numpy as np

from metalearn.languages.families import log_geometric, log_sum_exp
from metalearn.languages.language import END, StringDistribution


@dataclasses.dataclass(frozen=True)
class AnyPrefix(StringDistribution):
    """Base of the languages in which every string over the alphabet is the beginning of a member.

    What may follow is then the whole alphabet, and `END` exactly after members.
    """

    alphabet: str = dataclasses.field(default="ab", kw_only=True)

    def valid_next(self, prefix: str) -> frozenset[str]:
        """See `StringDistribution`."""
        if not set(prefix) <= set(self.alphabet):
            return frozenset()
        return frozenset(self.alphabet) | ({END} if self.contains(prefix) else set())


@dataclasses.dataclass(frozen=True)
class Words(AnyPrefix):
    """All words over the alphabet: the length is shortest - 1 + G(stop), the letters are uniform."""

    stop: float = 1 / 3
    shortest: int = 1

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        ends = np.cumsum(rng.geometric(self.stop, size=count) - 1 + self.shortest)
        letters = rng.integers(len(self.alphabet), size=ends[-1] if count else 0, dtype=np.uint8)
        text = np.frombuffer(self.alphabet.encode(), np.uint8)[letters].tobytes().decode()
        bounds = [0, *ends.tolist()]
        return [text[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        if not set(string) <= set(self.alphabet):
            return -math.inf
        return log_geometric(len(string), self.stop, self.shortest) - len(string) * math.log(len(self.alphabet))


@dataclasses.dataclass(frozen=True)
class Image(AnyPrefix):
    """Random words seen through an injective map, as in x -> xx; the map must keep x as the beginning."""

    forward: Callable[[str], str]
    """Word to string."""
    backward: Callable[[str], str]
    """String to the only word that it may be the image of; anything on strings that are no image."""
    words: Words = Words()

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        return [self.forward(word) for word in self.words.sample(rng, count)]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        word = self.backward(string)
        return self.words.log_probability(word) if self.forward(word) == string else -math.inf


@dataclasses.dataclass(frozen=True)
class Conditioned(AnyPrefix):
    """Random words that satisfy a condition (by rejection); every word must be extendable to one that does."""

    condition: Callable[[str], bool]
    acceptance: float
    """Probability that a random word satisfies the condition."""
    words: Words = Words()

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        strings: list[str] = []
        while len(strings) < count:
            draws = int((count - len(strings)) / self.acceptance * 1.01) + 16
            strings.extend(filter(self.condition, self.words.sample(rng, draws)))
        return strings[:count]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        return self.words.log_probability(string) - math.log(self.acceptance) if self.condition(string) else -math.inf


@dataclasses.dataclass(frozen=True)
class DistinctPair(AnyPrefix):
    """xy for two independent draws x, y of one distribution, drawn again while x = y."""

    part: StringDistribution
    collision: float
    """Probability that two draws are equal."""

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        strings: list[str] = []
        while len(strings) < count:
            draws = int((count - len(strings)) / (1 - self.collision) * 1.01) + 16
            pairs = zip(self.part.sample(rng, draws), self.part.sample(rng, draws), strict=True)
            strings.extend(x + y for x, y in pairs if x != y)
        return strings[:count]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`; sums over all places where the string may be cut in two."""
        cuts = ((string[:cut], string[cut:]) for cut in range(len(string) + 1))
        logs = (self.part.log_probability(x) + self.part.log_probability(y) for x, y in cuts if x != y)
        return log_sum_exp(logs) - math.log1p(-self.collision)


@dataclasses.dataclass(frozen=True)
class CountedTail(AnyPrefix):
    """w a^n b^n for a random, possibly empty word w over {a, b} and n of distribution G(stop)."""

    words: Words = Words(stop=1 / 2, shortest=0)
    stop: float = 1 / 3

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        words, sizes = self.words.sample(rng, count), rng.geometric(self.stop, size=count).tolist()
        return [word + "a" * size + "b" * size for word, size in zip(words, sizes, strict=True)]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        # n is the length of the last run of b: with a smaller n, a b would stand where the last a must be.
        size = len(string) - len(string.rstrip("b"))
        word = string[: max(len(string) - 2 * size, 0)]
        if size == 0 or string != word + "a" * size + "b" * size:
            return -math.inf
        return self.words.log_probability(word) + log_geometric(size, self.stop)


@dataclasses.dataclass(frozen=True)
class Shuffled(AnyPrefix):
    """A uniform permutation of n copies of every symbol of the alphabet, n of distribution G(stop)."""

    stop: float = 1 / 3

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        sizes = rng.geometric(self.stop, size=count)
        strings = np.empty(count, dtype=object)
        for size in np.unique(sizes):
            (rows,) = np.nonzero(sizes == size)
            letters = np.frombuffer(self.alphabet.encode(), np.uint8).repeat(size)
            shuffled = rng.permuted(np.tile(letters, (rows.size, 1)), axis=1)
            strings[rows] = [row.decode() for row in shuffled.view(f"S{letters.size}").ravel().tolist()]
        return strings.tolist()

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        size, symbols = string.count(self.alphabet[0]), len(self.alphabet)
        if len(string) != size * symbols or any(string.count(symbol) != size for symbol in self.alphabet):
            return -math.inf
        log_permutations = math.lgamma(symbols * size + 1) - symbols * math.lgamma(size + 1)
        return log_geometric(size, self.stop) - log_permutations


@dataclasses.dataclass(frozen=True)
class RightLinearDyck(StringDistribution):
    """Brackets of S -> (S) | ()S | (), each rule with probability 1/3.

    Of the balanced strings of n pairs it reaches 2^(n-1), all equally likely given n. Such a string runs through
    "(" and "()" up to its innermost "()", after which it can only close: "))" is never followed by "(".
    """

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        rules = Words(shortest=0, alphabet="(-").sample(rng, count)
        return [word.replace("-", "()") + "()" + ")" * word.count("(") for word in rules]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        pairs = string.count("(")
        if string.count(")") != pairs or not re.fullmatch(r"(\(\)?)+\)*", string):
            return -math.inf
        return log_geometric(pairs, 1 / 3) - (pairs - 1) * math.log(2)

    def valid_next(self, prefix: str) -> frozenset[str]:
        """See `StringDistribution`."""
        depth = prefix.count("(") - prefix.count(")")
        if depth < 0 or not re.fullmatch(r"(\(\)?)*\)*", prefix):
            return frozenset()
        open_next = {"("} if "))" not in prefix else set()
        close_next = {")"} if depth else {END} if prefix else set()
        return frozenset(open_next | close_next)


@functools.cache
def balanced_strings(pairs: int, kinds: int) -> int:
    """How many strings there are of so many pairs of brackets of so many kinds, each kind balanced by itself."""
    return sum(_ways(pairs, kinds)) if kinds else int(pairs == 0)


def _ways(pairs: int, kinds: int) -> list[int]:
    """The same by how many pairs 0, 1, ... are of the first kind."""

    def ways(own):
        places, of_first = math.comb(2 * pairs, 2 * own), math.comb(2 * own, own) // (own + 1)
        return places * of_first * balanced_strings(pairs - own, kinds - 1)

    return [ways(own) for own in range(pairs + 1)]


@dataclasses.dataclass(frozen=True)
class Balanced(StringDistribution):
    """All balanced strings of one kind of brackets or the shuffles of several, each kind balanced by itself.

    Pairs of different kinds may cross, as in ([)]. The number of pairs n is G(stop), and all strings of n pairs are
    equally likely: C_n (the Catalan number) of one kind, C_n C_(n+1) of two.
    """

    kinds: tuple[str, ...] = ("()",)
    stop: float = 1 / 3

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        sizes = rng.geometric(self.stop, size=count)
        strings = np.empty(count, dtype=object)
        for size in np.unique(sizes).tolist():
            (rows,) = np.nonzero(sizes == size)
            strings[rows] = self.sample_of_size(rng, size, rows.size)
        return strings.tolist()

    def sample_of_size(self, rng: np.random.Generator, pairs: int, count: int) -> list[str]:
        """`count` independent strings of so many pairs."""
        letters = _balanced_letters(rng, pairs, count, self.kinds)
        return [row.decode() for row in letters.view(f"S{2 * pairs}").ravel().tolist()]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        if END not in self.valid_next(string):
            return -math.inf
        pairs = len(string) // 2
        return log_geometric(pairs, self.stop) - math.log(balanced_strings(pairs, len(self.kinds)))

    def valid_next(self, prefix: str) -> frozenset[str]:
        """See `StringDistribution`."""
        depths = dict.fromkeys(self.kinds, 0)
        for symbol in prefix:
            kind = next((kind for kind in self.kinds if symbol in kind), None)
            if kind is None:
                return frozenset()
            depths[kind] += 1 if symbol == kind[0] else -1
            if depths[kind] < 0:
                return frozenset()
        close_next = {kind[1] for kind, depth in depths.items() if depth}
        may_end = {END} if prefix and not close_next else set()
        return frozenset({kind[0] for kind in self.kinds} | close_next | may_end)


def _balanced_letters(rng: np.random.Generator, pairs: int, count: int, kinds: tuple[str, ...]) -> np.ndarray:
    """`count` strings as rows of letters, [count, 2 pairs] uint8."""
    if len(kinds) == 1:
        # Of the 2n + 1 rotations of n steps up and n + 1 down, just one stays at or above its start until the last
        # step: the one that begins after the first lowest point (Dvoretzky & Motzkin 1947).
        down = rng.permuted(np.tile(np.arange(2 * pairs + 1) >= pairs, (count, 1)), axis=1)
        lowest = np.cumsum(1 - 2 * down, axis=1).argmin(axis=1)
        order = (lowest[:, None] + np.arange(1, 2 * pairs + 1)) % (2 * pairs + 1)
        return np.frombuffer(kinds[0].encode(), np.uint8)[np.take_along_axis(down, order, axis=1).astype(np.uint8)]
    total = balanced_strings(pairs, len(kinds))
    shares = [ways / total for ways in _ways(pairs, len(kinds))]
    pairs_of_first = rng.choice(pairs + 1, size=count, p=shares)
    letters = np.empty((count, 2 * pairs), np.uint8)
    for own in np.unique(pairs_of_first).tolist():
        (rows,) = np.nonzero(pairs_of_first == own)
        of_first = rng.permuted(np.tile(np.arange(2 * pairs) < 2 * own, (rows.size, 1)), axis=1)
        shuffled = np.empty(of_first.shape, np.uint8)
        shuffled[of_first] = _balanced_letters(rng, own, rows.size, kinds[:1]).ravel()
        shuffled[~of_first] = _balanced_letters(rng, pairs - own, rows.size, kinds[1:]).ravel()
        letters[rows] = shuffled
    return letters


@dataclasses.dataclass(frozen=True)
class DescendingRuns(StringDistribution):
    """a b^k1 a b^k2 ... a b^kl with k1 > k2 > ... > kl >= 1: the numerals of Radzinski (1991).

    The number of runs l is G(stop); so are, from the last run to the first, the increments of the run length.
    """

    stop: float = 1 / 3

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        """See `StringDistribution`."""
        if count == 0:
            return []
        runs = rng.geometric(self.stop, size=count)
        total = np.cumsum(rng.geometric(self.stop, size=runs.sum()))
        ends = np.cumsum(runs)
        before = np.concatenate([[0], total[ends[:-1] - 1]])
        lengths = total - np.repeat(before, runs)
        texts = np.array(["a" + "b" * length for length in range(lengths.max() + 1)], dtype=object)[lengths].tolist()
        bounds = [0, *ends.tolist()]
        return ["".join(reversed(texts[start:end])) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]

    def log_probability(self, string: str) -> float:
        """See `StringDistribution`."""
        if not re.fullmatch(r"(ab+)+", string):
            return -math.inf
        lengths = [0, *(len(run) for run in reversed(string.split("a")[1:]))]
        increments = [longer - shorter for shorter, longer in zip(lengths[:-1], lengths[1:], strict=True)]
        return log_geometric(len(increments), self.stop) + sum(log_geometric(step, self.stop) for step in increments)

    def valid_next(self, prefix: str) -> frozenset[str]:
        """See `StringDistribution`."""
        if not prefix:
            return frozenset("a")
        if not re.fullmatch(r"(ab+)*ab*", prefix):
            return frozenset()
        *done, current = (len(run) for run in prefix.split("a")[1:])
        limits = [math.inf, *done]
        # The last of the finished runs needs room below it: a run of one b cannot be followed by a shorter one.
        if any(length >= limit for limit, length in zip(limits, [*done, max(current, 1)], strict=True)):
            return frozenset()
        symbols = {"b"} if current + 1 < limits[-1] else set()
        return frozenset(symbols | ({END} if current else set()) | ({"a"} if current > 1 else set()))
