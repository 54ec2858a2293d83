"""Pools of languages, flat in description length, and meta-training sets that prefer simple or complex ones.

Does it matter how simple the languages are that a learner is meta-trained on? Goodale, Mascarenhas & Lakretz (2025)
draw languages until every bin of description length (MDL, one nat wide) holds equally many, and then languages from
that pool with

    P(language) proportional to exp(-MDL / tau),

so that a small tau > 0 prefers simple languages, an infinite one none, and tau < 0 complex ones:

    pool = minimalist_pool(jax.random.key(0), PoolSettings(bins=20, per_bin=5))
    batches = EpisodeBatches(key, tasks, settings, biased(pool, tau=2.0))

The paper's pool is of minimalist grammars. The same bias is here for the metagrammar of McCoy & Griffiths (2025), whose
languages are as long to describe as they are improbable. A pool is any sequence of `PoolLanguage`, so one's own
grammars make a pool as well.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from metalearn.languages.grammar import Concat, Epsilon, Expression, Grammar, Leaf, Or, Plus, Sigma
from metalearn.languages.metagrammar import (
    MetagrammarSettings,
    leaf_probabilities,
    rule_probabilities,
    sample_grammar,
)
from metalearn.languages.minimalist import (
    Derived,
    DerivesNothing,
    Lexicon,
    LexiconSettings,
    SearchSettings,
    derive,
    random_lexicon,
)
from metalearn.languages.randomness import host_rng
from metalearn.languages.tokens import letters_to_symbols
from metalearn.run.compilation import default_cache_folder
from metalearn.run.files import json_text, write_atomic
from metalearn.run.progress import Progress

T = TypeVar("T")

# Stored pools of another number are built anew.
_FORMAT = 1
# Pseudo-count of a string of probability 1, less one.
_PSEUDO_COUNT = 1000


class PoolLanguage(NamedTuple):
    """A language and how long its description is.

    text: the grammar as people read it.
    description_length: nats.
    sample: (generator, count) -> that many strings, as tuples of symbols 0, 1, ...
    """

    text: str
    description_length: float
    sample: Callable[[np.random.Generator, int], list[tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class PoolSettings:
    """Which languages a pool holds. The defaults are those of Goodale et al. (2025, code), 98 bins of 50 languages."""

    lowest: int = 6
    """Nats at which the first bin begins; each is one nat wide."""
    bins: int = 100
    """Number of bins, the skipped ones included."""
    skipped: tuple[int, ...] = (1, 8)
    """Bins to leave empty, counted from 0. Of lexicons, none falls into bin 1 and about one in 30,000 into bin 8."""
    per_bin: int = 50
    """Languages in each bin."""
    fewest_strings: int = 10
    """Distinct strings that a language must have among the first `first_strings`."""
    first_strings: int = 100
    """Of a lexicon, its most probable distinct strings; of the metagrammar, strings drawn."""
    max_draws: int = 20_000_000
    """Languages drawn in all before giving up."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.bins, self.per_bin, self.fewest_strings, self.max_draws) < 1:
            raise ValueError(f"bins, per_bin, fewest_strings and max_draws must be at least 1, got {self}")
        if self.first_strings < self.fewest_strings:
            raise ValueError(
                f"first_strings={self.first_strings} must be at least fewest_strings={self.fewest_strings}"
            )
        if not set(self.skipped) < set(range(self.bins)):
            raise ValueError(f"skipped={self.skipped} must be some, not all, of the bins 0 .. {self.bins - 1}")


METAGRAMMAR_POOL = PoolSettings(lowest=7, bins=60, skipped=())
"""The description lengths of nearly all that the metagrammar draws; below 7 nats no language has enough strings."""


def minimalist_pool(
    key: jax.Array,
    settings: PoolSettings | None = None,
    lexicons: LexiconSettings | None = None,
    search: SearchSettings | None = None,
    temperature: float | None = 10.0,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[PoolLanguage, ...]:
    """Minimalist grammars drawn at random, ascending by description length; built once and then read from disk.

    Args:
        key: typed key of which the pool is a pure function.
        settings: sizes of the pool; its `first_strings` takes the place of `search.strings`.
        lexicons: probabilities of random lexicons.
        search: limits of the search for strings.
        temperature: see `minimalist_language`.
        cache: folder of stored pools; by default `metalearn/pools` in the user's cache folder ($XDG_CACHE_HOME, else
            ~/.cache).

    Raises:
        ValueError: bins that are not full after `settings.max_draws` languages, naming them; a temperature that is not
            positive.
    """
    _check_temperature(temperature)
    settings, lexicons = settings or PoolSettings(), lexicons or LexiconSettings()
    search = dataclasses.replace(search or SearchSettings(), strings=settings.first_strings)

    def admit(lexicon: Lexicon) -> list[Any] | None:
        try:
            derived = derive(lexicon, search)
        except DerivesNothing:
            return None
        return [str(lexicon), *derived] if len(derived.probabilities) >= settings.fewest_strings else None

    def restore(stored: Sequence[Any]) -> PoolLanguage:
        text, *derived = stored
        lexicon = Lexicon.parse(text, "0", lexicons.alphabet)
        return _minimalist_language(lexicon, Derived(*derived), temperature)

    rng = host_rng(key)
    return _cached(
        "minimalist grammars",
        [_words(key), settings, lexicons, search],
        cache,
        lambda: _fill(settings, lambda: random_lexicon(rng, lexicons), lambda x: x.description_length, admit),
        restore,
    )


def minimalist_language(
    lexicon: Lexicon, search: SearchSettings | None = None, temperature: float | None = 10.0
) -> PoolLanguage:
    """The most probable strings of a lexicon as a language of a pool.

    Args:
        lexicon: the grammar.
        search: limits of the search for strings.
        temperature: strings are drawn with weights 1 + floor(1000 p^(1 / temperature)), p the probability of all their
            derivations found: at 10, as in the paper's pool, nearly equal ones. None: with the probabilities
            themselves.

    Raises:
        DerivesNothing: the lexicon derives no string.
        ValueError: temperature is not positive.
    """
    _check_temperature(temperature)
    return _minimalist_language(lexicon, derive(lexicon, search), temperature)


def _check_temperature(temperature: float | None) -> None:
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be positive, or None for the probabilities themselves, got {temperature}")


def _minimalist_language(lexicon: Lexicon, derived: Derived, temperature: float | None) -> PoolLanguage:
    strings = [letters_to_symbols(text, lexicon.alphabet) for text in derived.probabilities]
    weights = np.array(list(derived.probabilities.values()))
    if temperature is not None:
        weights = 1 + np.floor(_PSEUDO_COUNT * (weights * derived.found) ** (1 / temperature))
    drawn = _drawn_by(weights)

    def sample(rng: np.random.Generator, count: int) -> list[tuple[int, ...]]:
        return [strings[i] for i in drawn(rng, count).tolist()]

    return PoolLanguage(str(lexicon), lexicon.description_length, sample)


def metagrammar_pool(
    key: jax.Array,
    settings: PoolSettings = METAGRAMMAR_POOL,
    metagrammar: MetagrammarSettings | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[PoolLanguage, ...]:
    """Languages of the metagrammar, binned by `metagrammar_description_length`; else as `minimalist_pool`."""
    metagrammar = metagrammar or MetagrammarSettings()
    rng = host_rng(key)

    def admit(grammar: Grammar) -> list[Any] | None:
        if len(set(grammar.sample(rng, settings.first_strings))) < settings.fewest_strings:
            return None
        return [grammar.vocabulary, grammar.slots, [_written(root) for root in grammar.classes], grammar.stop]

    def restore(stored: Sequence[Any]) -> PoolLanguage:
        vocabulary, slots, classes, stop = stored
        return metagrammar_language(Grammar(vocabulary, tuple(slots), tuple(map(_read, classes)), stop), metagrammar)

    return _cached(
        "languages of the metagrammar",
        [_words(key), settings, metagrammar],
        cache,
        lambda: _fill(
            settings,
            lambda: sample_grammar(rng, metagrammar),
            lambda grammar: metagrammar_description_length(grammar, metagrammar),
            admit,
        ),
        restore,
    )


def metagrammar_language(grammar: Grammar, metagrammar: MetagrammarSettings | None = None) -> PoolLanguage:
    """A grammar as a language of a pool."""
    return PoolLanguage(str(grammar), metagrammar_description_length(grammar, metagrammar), grammar.sample)


def metagrammar_description_length(grammar: Grammar, metagrammar: MetagrammarSettings | None = None) -> float:
    """Minus log-probability (nats) that the metagrammar draws exactly this grammar; infinite if it cannot.

    Classes may be numbered in any order. That the few languages over `max_work` are redrawn is left out.
    """
    metagrammar = metagrammar or MetagrammarSettings()
    vocabulary, slots, classes = grammar.vocabulary, len(grammar.slots), len(grammar.classes)
    if not 2 <= vocabulary <= metagrammar.max_vocabulary or (slots > 1 and not metagrammar.synchrony):
        return math.inf
    # Geometric, but for the largest vocabulary, which all larger ones become.
    nats = (vocabulary - 1 - (vocabulary == metagrammar.max_vocabulary)) * math.log(2)
    if metagrammar.synchrony:
        # Of slots^slots patterns, as many are the same up to names as there are ways to name the classes.
        nats += slots * math.log(2) + slots * math.log(slots) - math.log(math.perm(slots, classes))
    nats -= _log(_stop_probability(grammar.stop))
    widths = [grammar.slots.count(i) for i in range(classes)]
    return nats + sum(
        _nats(root, width, vocabulary, metagrammar, top=True)
        for root, width in zip(grammar.classes, widths, strict=True)
    )


def _nats(node: Expression, width: int, vocabulary: int, metagrammar: MetagrammarSettings, top: bool) -> float:
    rules = rule_probabilities(top, metagrammar.recursion)
    leaves = leaf_probabilities(vocabulary, metagrammar.leaf)
    below: tuple[Expression, ...] = ()
    match node:
        case Leaf():
            probability = rules["terminal"] * leaves["tuple"] / vocabulary**width
        case Sigma():
            probability = rules["terminal"] * leaves["sigma"]
        case Epsilon():
            probability = rules["terminal"] * leaves["epsilon"]
        case Or(below):
            probability = rules["or"]
        case Concat(below):
            probability = rules["concat"] / 2 ** len(below)
        case Plus(below, _):
            probability = rules.get("plus", 0.0) / 2 ** len(below) / len(below)
        case _:
            raise TypeError(f"not an expression: {node!r}")
    return sum((_nats(child, width, vocabulary, metagrammar, top=False) for child in below), -_log(probability))


def _stop_probability(stop: float) -> float:
    """Of Normal(0.33, 0.05), rounded to two decimals and held within 0.15 .. 0.52."""
    hundredths = round(100 * stop)
    if not 15 <= hundredths <= 52 or not math.isclose(100 * stop, hundredths):
        return 0.0
    normal = statistics.NormalDist(0.33, 0.05)
    below = normal.cdf((hundredths - 0.5) / 100) if hundredths > 15 else 0.0
    return (normal.cdf((hundredths + 0.5) / 100) if hundredths < 52 else 1.0) - below


def _log(probability: float) -> float:
    return math.log(probability) if probability else -math.inf


def shares(pool: Sequence[PoolLanguage], tau: float) -> np.ndarray:
    """Probability of each language, proportional to exp(-description length / tau).

    Args:
        pool: the languages.
        tau: nats; positive prefers short descriptions, negative long ones, infinite none.

    Returns:
        [languages] float64, summing to 1.

    Raises:
        ValueError: no languages, tau = 0 or not a number, or a language with an infinite description.
    """
    lengths = np.array([language.description_length for language in pool], np.float64)
    if not lengths.size:
        raise ValueError("the pool has no languages; a bias needs at least one")
    if not np.isfinite(lengths).all():
        raise ValueError(f"the description of {pool[int(np.argmin(np.isfinite(lengths)))].text!r} has no finite length")
    if tau == 0 or math.isnan(tau):
        raise ValueError(f"tau must be positive (simple), negative (complex) or infinite (no bias), got {tau}")
    # The preferred length is subtracted first, so that no exponent is positive and a tiny tau cannot overflow to NaN.
    preferred = lengths.min() if tau > 0 else lengths.max()
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp(-(lengths - preferred) / tau)
    return weights / weights.sum()


def effective_number(pool: Sequence[PoolLanguage], tau: float) -> float:
    """Perplexity of the bias: the number of languages among which an even choice would be as uncertain."""
    probabilities = shares(pool, tau)
    positive = probabilities[probabilities > 0]
    return math.exp(-float(positive @ np.log(positive)))


def biased(pool: Sequence[PoolLanguage], tau: float) -> Callable[[np.random.Generator, int], list[tuple[int, ...]]]:
    """The `language` of `EpisodeBatches`: strings of a language that is drawn anew from the pool at each call.

    Raises:
        ValueError: see `shares`.
    """
    drawn = _drawn_by(shares(pool, tau))
    return lambda rng, count: pool[int(drawn(rng, 1)[0])].sample(rng, count)


def _drawn_by(weights: np.ndarray) -> Callable[[np.random.Generator, int], np.ndarray]:
    bounds = np.cumsum(weights)
    bounds /= bounds[-1]
    return lambda rng, count: np.searchsorted(bounds, rng.random(count), side="right")


def _fill(
    settings: PoolSettings,
    draw: Callable[[], T],
    description_length: Callable[[T], float],
    admit: Callable[[T], Any | None],
) -> list[Any]:
    """What `admit` makes of the first languages that fit into the bins, ascending by description length."""
    room = {i: settings.per_bin for i in range(settings.bins) if i not in settings.skipped}
    kept: list[tuple[float, Any]] = []
    with Progress(sum(room.values()), "languages for the pool") as progress:
        for number in range(settings.max_draws):
            if not room:
                return [stored for _, stored in sorted(kept, key=lambda pair: pair[0])]
            if number % 1000 == 0:  # a rare bin may keep waiting long
                progress.update(len(kept), drawn=number)
            candidate = draw()
            length = description_length(candidate)
            place = math.floor(length) - settings.lowest
            if place in room and (stored := admit(candidate)) is not None:
                kept.append((length, stored))
                progress.update(len(kept), drawn=number + 1)
                room[place] -= 1
                if not room[place]:
                    del room[place]
    raise ValueError(
        f"after {settings.max_draws} languages the bins {sorted(room)} of {settings.bins} still lack "
        f"{sum(room.values())} of {settings.per_bin} languages each: raise max_draws, lower bins or per_bin, or name "
        "unreachable bins in skipped"
    )


def _cached(
    name: str,
    identity: Sequence[Any],
    cache: str | os.PathLike[str] | None,
    build: Callable[[], list[Any]],
    restore: Callable[[Any], PoolLanguage],
) -> tuple[PoolLanguage, ...]:
    digest = hashlib.sha256(json_text([_FORMAT, name, *identity]).encode()).hexdigest()[:16]
    folder = default_cache_folder().with_name("pools") if cache is None else pathlib.Path(cache)
    path = folder / f"{name.replace(' ', '-')}-{digest}.json"
    try:
        return tuple(map(restore, json.loads(path.read_text())))
    except (OSError, ValueError, TypeError, KeyError):  # not stored yet, or damaged
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(build()))
        return tuple(map(restore, json.loads(path.read_text())))


def _words(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


_EXPRESSIONS = {kind.__name__: kind for kind in (Leaf, Sigma, Epsilon, Or, Concat, Plus)}


def _written(node: Expression) -> list[Any]:
    """An expression as JSON holds it: the name of its kind and the values of its fields."""
    values = [getattr(node, field.name) for field in dataclasses.fields(node)]
    if isinstance(node, Or | Concat | Plus):
        values[0] = [_written(child) for child in node.children]
    return [type(node).__name__, *values]


def _read(stored: Sequence[Any]) -> Expression:
    kind, values = _EXPRESSIONS[stored[0]], list(stored[1:])
    if kind is Leaf:
        values[0] = tuple(values[0])
    elif values:
        values[0] = tuple(map(_read, values[0]))
    return kind(*values)
