"""Minimalist grammars: lexicons by hand or at random, the strings they derive, and how long their description is.

A minimalist grammar (Stabler 1997) is a lexicon: words with a row of features, which two operations use up from the
left. Merge joins a head to an argument of the category that it asks for; move takes a phrase that waits inside and puts
it to the left of the head. In the notation of this module, one item a line,

    a :: x= =y +k c -k      the word a takes an x on its right and a y on its left, attracts a phrase that waits for k,
                            is then a c, and itself waits to be moved, for k
      :: c                  the empty word is a c (ε may be written)

so that three items make a^n b^n: `a :: s= b= s`, `b :: b` and `:: s`. The directed arguments `x=` and `=x` replace
Stabler's, whose first argument stands on the right and whose others stand on the left. Two constraints hold, as is
usual: of two phrases that wait for the same feature neither can move (shortest move), and nothing moves out of a
specifier, that is out of an argument other than the first.

Probabilities, random lexicons and the limits of the search are those with which Goodale, Mascarenhas & Lakretz (2025)
made their pool of languages (published code). Read from its last feature to its first, each item is a path in a tree,
and items with equal ends share it:

    term               here
    ------------------ ---------------------------------------------------------------------
    feature x= =x      takes an argument: selector; as first feature of an item, complement
    feature +k         licensor, an attraction
    feature -k         licensee, a wait to be moved
    node               the last features that some items share; an item is a leaf
    mover              a phrase that has its place in the string and not yet its place of merge
    MDL                description_length, in nats
"""

import bisect
import collections
import dataclasses
import functools
import math
import re
import string
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np

_EMPTY = "ε"
# Category, argument on the right, argument on the left, licensor, licensee.
_KINDS = 5
_FEATURE = re.compile(r"(?:=\w+|\w+=|[+-]\w+|\w+)")


def _is_category(feature: str) -> bool:
    return feature[0] not in "=+-" and feature[-1] != "="


@dataclasses.dataclass(frozen=True)
class Item:
    """A word, "" for the empty one, and its features from first to last, such as ("x=", "+k", "c", "-k").

    Raises:
        ValueError: features in an order that no derivation can use up.
    """

    word: str
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        """Checks the notation and the order of the features."""
        for feature in self.features:
            if not _FEATURE.fullmatch(feature):
                raise ValueError(f"{feature!r} in {str(self)!r} is no feature: write x=, =x, +x, x or -x, x a name")
        categories = [i for i, feature in enumerate(self.features) if _is_category(feature)]
        if len(categories) != 1:
            raise ValueError(f"{str(self)!r} has {len(categories)} categories, expected one plain name such as s")
        before, after = self.features[: categories[0]], self.features[categories[0] + 1 :]
        if not all(feature[0] == "-" for feature in after) or any(feature[0] == "-" for feature in before):
            raise ValueError(f"{str(self)!r}: licensees (-x), and nothing else, must follow the category")
        if before and before[0][0] == "+":
            raise ValueError(f"{str(self)!r} begins with {before[0]}, but a bare word has nothing in it to move")

    def __str__(self) -> str:
        """The notation of one item."""
        return f"{self.word or _EMPTY} :: {' '.join(self.features)}"


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """A minimalist grammar: plain, immutable and comparable; `str` gives its notation.

    Attributes:
        items: the lexicon; an item that is listed twice is twice as probable and twice as long to describe.
        start: category of a complete string.
        alphabet: the letters that words are made of.

    Raises:
        ValueError: no item ends with the start category, or a word has letters outside the alphabet.
    """

    items: tuple[Item, ...]
    start: str
    alphabet: str

    def __post_init__(self) -> None:
        """Checks that the parts fit together."""
        complete = {item.features[-1] for item in self.items if _is_category(item.features[-1])}
        if self.start not in complete:
            raise ValueError(f"start {self.start!r} is the last feature of no item; there are {sorted(complete)}")
        strange = sorted({letter for item in self.items for letter in item.word} - set(self.alphabet))
        if strange:
            raise ValueError(f"words have the letters {strange}, outside the alphabet {self.alphabet!r}")

    @classmethod
    def parse(cls, text: str, start: str, alphabet: str | None = None) -> Self:
        """Reads one item a line, `word :: features`; the alphabet is by default the letters that occur.

        Raises:
            ValueError: a line of another form, naming it, or items that do not fit (see the classes).
        """
        items = []
        for line in filter(None, map(str.strip, text.splitlines())):
            word, separator, features = line.partition("::")
            if not separator or not features.split() or len(word.split()) > 1:
                raise ValueError(f"{line!r} is no item: write one word, ::, and features, for example a :: s= b= s")
            items.append(Item(word.strip().replace(_EMPTY, ""), tuple(features.split())))
        letters = "".join(sorted({letter for item in items for letter in item.word}))
        return cls(tuple(items), start, letters if alphabet is None else alphabet)

    @property
    def description_length(self) -> float:
        """Nats to write the items down letter by letter and feature by feature (MDL, after Ermolaeva 2021).

        A letter costs ln(letters of the alphabet), a feature ln(5 * names), as there are five kinds of feature for each
        of the names in use; a category and a licensee may share a name.
        """
        names = {feature.strip("=+-") for item in self.items for feature in item.features}
        letters = sum(len(item.word) for item in self.items)
        features = sum(len(item.features) for item in self.items)
        return letters * math.log(max(len(self.alphabet), 1)) + features * math.log(_KINDS * len(names))

    def __str__(self) -> str:
        """One item a line, as `parse` reads them."""
        return "\n".join(map(str, self.items))


@dataclasses.dataclass(frozen=True)
class LexiconSettings:
    """What `random_lexicon` may draw; every probability is that of one choice in the growth of the tree."""

    symbols: int = 7
    """Letters of the alphabet: the first of a, b, c, ..."""
    stop: float = 0.8
    """That a node has no further child; it has one at least, and 1 / stop on average."""
    item: float = 0.75
    """That a child of a category is an item: a word without arguments."""
    empty: float = 0.25
    """That a word is empty; it is else one letter."""
    licensor: float = 0.2
    """That a feature attracts a phrase; else it takes an argument."""
    complement: float = 0.75
    """That an argument is the first of its item."""
    left: float = 0.5
    """That an argument stands on the left."""
    licensee: float = 0.05
    """That before a licensee stands another one; else a category."""
    fresh: float = 0.65
    """That a feature has a new name, divided by the number of names of categories or of movement there are."""

    @property
    def alphabet(self) -> str:
        """The letters."""
        return string.ascii_lowercase[: self.symbols]

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 1 <= self.symbols <= 26:
            raise ValueError(f"symbols must be between 1 and 26, got {self.symbols}")
        for field in dataclasses.fields(self):
            if field.name != "symbols" and not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"{field.name} must be a probability, got {getattr(self, field.name)}")
        # Mean number of children of one node from which the item grows on; below 1 growth dies out by itself.
        onward = max(self.licensor + (1 - self.licensor) * (1 - self.complement), self.licensee)
        if onward >= self.stop:
            raise ValueError(
                f"items would grow without end: raise stop={self.stop} above {onward:.3g}, or lower licensor or "
                "licensee, or raise complement"
            )


def random_lexicon(rng: np.random.Generator, settings: LexiconSettings | None = None) -> Lexicon:
    """Draws a lexicon, growing its tree of features from the start category "0" (Goodale et al. 2025, code).

    Categories and movement are both named 0, 1, ... Many lexicons derive nothing, or few strings.
    """
    settings = settings or LexiconSettings()
    categories: list[str] = ["0"]
    movements: list[str] = []
    items: list[Item] = []
    # Features that were named and have no items yet, each with the names of its kind.
    ungrown = ["0"]

    def chance(probability: float) -> bool:
        return rng.random() < probability

    def one_of(names):
        return names[int(rng.random() * len(names))]

    def picked(names: list[str], sign: str) -> str:
        if names and not chance(settings.fresh / len(names)):
            return one_of(names)
        names.append(str(len(names)))
        ungrown.append(sign + names[-1])
        return names[-1]

    def grow(features: tuple[str, ...]) -> None:
        more = True
        while more:
            first = features[0]
            if first[0] == "-":
                if chance(settings.licensee):
                    grow((f"-{one_of(movements)}", *features))
                else:
                    grow((one_of(categories), *features))
            elif first.isdigit() and chance(settings.item):
                add_item(features)
            elif chance(settings.licensor):
                grow((f"+{picked(movements, '-')}", *features))
            else:
                name, complement = picked(categories, ""), chance(settings.complement)
                taken = (f"={name}" if chance(settings.left) else f"{name}=", *features)
                if complement:
                    add_item(taken)
                    while not chance(settings.stop):
                        add_item(taken)
                else:
                    grow(taken)
            more = not chance(settings.stop)

    def add_item(features: tuple[str, ...]) -> None:
        items.append(Item("" if chance(settings.empty) else one_of(settings.alphabet), features))

    while ungrown:
        grow((ungrown.pop(),))
    return Lexicon(tuple(items), "0", settings.alphabet)


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """When `derive` stops; the numbers but the last are those of Goodale et al. (2025, code)."""

    strings: int = 100
    """Distinct strings after which the search ends."""
    floor: float = -128.0
    """Log-probability (nats) below which a derivation is given up."""
    steps: int = 64
    """Rules that a derivation may apply."""
    beams: int = 256
    """Unfinished derivations that are kept, the most probable ones."""
    total_steps: int = 10_000
    """Rules that all derivations together may apply. Without this limit a lexicon with few strings and countless
    derivations, such as from empty words, is searched for minutes."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.strings, self.steps, self.beams, self.total_steps) < 1 or not self.floor < 0:
            raise ValueError(f"floor must be negative and every other limit at least 1, got {self}")


class DerivesNothing(ValueError):
    """A lexicon from which the search derives no string."""


class Derived(NamedTuple):
    """What `derive` found.

    probabilities: of each string, most probable first; they sum to 1.
    found: the mass of all derivations found, that is, what was divided by.
    truncated: the mass of the derivations that were given up or not finished. What is neither found nor truncated leads
        nowhere. The strings found are at least found / (found + truncated) of the whole distribution.
    """

    probabilities: dict[str, float]
    found: float
    truncated: float


def derive(lexicon: Lexicon, settings: SearchSettings | None = None) -> Derived:
    """The most probable strings of a lexicon, by best-first search over derivations from the start category down.

    A step replaces the last open phrase by what its head could have been made of: an item (scan), a head and an
    argument (the inverse of merge), or a head and a phrase on its left that is to be merged somewhere below (the
    inverse of move). The probability of a derivation is the product of its choices: the children of a node are equally
    probable; and where an argument could be a mover as well as a new phrase, or a phrase on the left an earlier mover
    as well as a new one, the new one has probability 1/2 and the movers share the rest. Derivations of one string add
    up.

    Raises:
        DerivesNothing: a ValueError; the lexicon derives no string within the limits.
    """
    settings = settings or SearchSettings()
    tree = _tree(lexicon)
    found: dict[str, float] = collections.defaultdict(float)
    truncated = 0.0
    serial = 0
    # Ascending; equally probable derivations are taken up in the order in which they were met.
    beam: list[_Derivation] = [_Derivation(0.0, 0, 0, (_Phrase(tree[0].categories[lexicon.start], 0, ()),), (0,))]
    total_steps = 0
    while beam and len(found) < settings.strings and total_steps < settings.total_steps:
        log_probability, _, steps, phrases, form = beam.pop()
        if not phrases:
            found["".join(map(str, form))] += math.exp(log_probability)
            continue
        total_steps += 1
        place = form.index(phrases[-1].slot)
        for log_choice, opened, pieces in _steps(tree, phrases[-1], steps + 1):
            serial -= 1
            log_after, form_after = log_probability + log_choice, (*form[:place], *pieces, *form[place + 1 :])
            if log_after < settings.floor or steps == settings.steps:
                truncated += math.exp(log_after)
                continue
            bisect.insort(beam, _Derivation(log_after, serial, steps + 1, (*phrases[:-1], *opened), form_after))
            if len(beam) > settings.beams:
                truncated += math.exp(beam.pop(0).log_probability)
    if not found:
        raise DerivesNothing(
            f"the lexicon derives no string of category {lexicon.start!r} in {settings.steps} steps; it needs items of "
            f"every category asked for, and a +x for every -x:\n{lexicon}"
        )
    total = math.fsum(found.values())
    truncated += math.fsum(math.exp(derivation.log_probability) for derivation in beam)
    ranked = sorted(found, key=found.__getitem__, reverse=True)
    return Derived({text: found[text] / total for text in ranked}, total, truncated)


class _Node:
    """The last features of some items; each child, a node by its number, puts one feature more in front.

    A child is found by the name of its feature; one that takes an argument, by the name, whether the argument stands on
    the right, and whether it is the complement.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        self.arguments: dict[tuple[str, bool, bool], int] = {}
        self.licensors: dict[str, int] = {}
        self.categories: dict[str, int] = {}
        self.licensees: dict[str, int] = {}

    @functools.cached_property
    def log_choice(self) -> float:
        """Log-probability of each child."""
        children = (self.words, self.arguments, self.licensors, self.categories, self.licensees)
        return -math.log(sum(map(len, children)))


class _Mover(NamedTuple):
    """A phrase that waits for `name`; slot: its place in the string."""

    name: str
    node: int
    slot: int


class _Phrase(NamedTuple):
    """A phrase still to be opened, and the movers that must be merged in it, at most one for each name."""

    node: int
    slot: int
    movers: tuple[_Mover, ...]


class _Derivation(NamedTuple):
    """form: the string so far, in which numbers are the slots of open phrases and of movers."""

    log_probability: float
    serial: int
    steps: int
    phrases: tuple[_Phrase, ...]
    form: tuple[str | int, ...]


def _tree(lexicon: Lexicon) -> list[_Node]:
    """The nodes; the root, which has no features, is the first."""
    tree = [_Node()]
    for item in lexicon.items:
        node = tree[0]
        for place in reversed(range(len(item.features))):
            feature = item.features[place]
            name = feature.strip("=+-")
            if "=" in feature:
                number = node.arguments.setdefault((name, feature[-1] == "=", place == 0), len(tree))
            else:
                children = {"+": node.licensors, "-": node.licensees}.get(feature[0], node.categories)
                number = children.setdefault(name, len(tree))
            if number == len(tree):
                tree.append(_Node())
            node = tree[number]
        node.words.append(item.word)
    return tree


_Step = tuple[float, tuple[_Phrase, ...], tuple[str | int, ...]]


def _steps(tree: list[_Node], phrase: _Phrase, slot: int) -> Iterator[_Step]:
    """Every way to open a phrase; `slot` is free.

    Yields:
        Log-probability of the step, the phrases that it opens, and what takes the phrase's place in the string.
    """
    node, movers = tree[phrase.node], phrase.movers
    log_choice = node.log_choice
    if not movers:
        for word in node.words:
            yield log_choice, (), (word,)
    for (name, right, complement), child in node.arguments.items():

        def taken(argument: int, place: int, inside: tuple[_Mover, ...], child=child, complement=complement):
            head, inner = ((), inside) if complement else (inside, ())
            return _Phrase(child, phrase.slot, head), _Phrase(argument, place, inner)

        new = tree[0].categories.get(name)
        stored = [(m, tree[m.node].categories[name]) for m in movers if name in tree[m.node].categories]
        log_new, log_stored = _shares(new is not None, len(stored))
        if new is not None:
            pieces = (phrase.slot, slot) if right else (slot, phrase.slot)
            yield log_choice + log_new, taken(new, slot, movers), pieces
        for mover, below in stored:
            others = tuple(m for m in movers if m is not mover)
            log_mover = log_stored + tree[mover.node].log_choice
            yield log_choice + log_mover, taken(below, mover.slot, others), (phrase.slot,)
    for name, child in node.licensors.items():
        waiting = {m.name for m in movers}
        new = tree[0].licensees.get(name) if name not in waiting else None
        stored = [
            (m, tree[m.node].licensees[name])
            for m in movers
            if name in tree[m.node].licensees and name not in waiting - {m.name}
        ]
        log_new, log_stored = _shares(new is not None, len(stored))
        if new is not None:
            opened = _Phrase(child, phrase.slot, (*movers, _Mover(name, new, slot)))
            yield log_choice + log_new, (opened,), (slot, phrase.slot)
        for mover, below in stored:
            others = tuple(m for m in movers if m is not mover)
            opened = _Phrase(child, phrase.slot, (*others, _Mover(name, below, mover.slot)))
            yield log_choice + log_stored + tree[mover.node].log_choice, (opened,), (phrase.slot,)


def _shares(new: bool, stored: int) -> tuple[float, float]:
    """Log-probabilities of a new phrase and of each of the movers in its stead."""
    if not new or not stored:
        return 0.0, -math.log(max(stored, 1))
    return -math.log(2), -math.log(2 * stored)
