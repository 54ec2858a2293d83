"""The top-25 F-score: precision and recall of a learner's most probable strings.

Yang & Piantadosi (2022) and McCoy & Griffiths (2025) know the true language from a sample of a million strings and, of
the learner, another million. Here the learner's sample is not drawn: its best strings are searched for, and the chance
that a string turns up among M draws is 1 - (1 - p)^M. Fewer than 25 strings, true or found, shrink the denominators.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from metalearn.languages.language import Language
from metalearn.languages.model import LanguageModel
from metalearn.languages.search import most_probable
from metalearn.languages.strings import MAX_SYMBOLS, Symbols, string_log_probabilities
from metalearn.languages.tokens import PAD, SYMBOLS, encode, letters_to_symbols

DRAWS = 1_000_000
"""Size of the samples by which the true language and the learner are known."""


class Score(NamedTuple):
    """What a learner knows of a language.

    precision: share of the learner's best strings that are true.
    recall: share of the true best strings that the learner produces.
    complete: whether the search for the learner's best strings ended; if not, precision is that of the best ones found.
    """

    precision: float
    recall: float
    complete: bool = True

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall."""
        return f_score(self.precision, self.recall)


def f_score(precision: float, recall: float) -> float:
    """Harmonic mean of precision and recall, 0 if both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A language as seen through a sample of it.

    Attributes:
        top: the most frequent strings, as tuples of symbols, the most frequent first.
        attested: all strings of the sample.
    """

    top: tuple[Symbols, ...]
    attested: frozenset[Symbols]


def corpus(counts: Mapping[str, int] | Iterable[tuple[str, int]], alphabet: str, k: int = 25) -> Corpus:
    """The corpus of counted strings, for instance a learner's training strings or what `read_corpus` returns.

    Args:
        counts: each string with how often it occurs. Equally frequent strings keep their order, which for a sample is
            that of first appearance: a rule that looked at the strings would favour, say, short ones.
        alphabet: the i-th letter is symbol i.
        k: how many strings count as the most frequent ones.

    Raises:
        ValueError: no strings, a string listed twice or not occurring, a letter outside the alphabet, or k < 1.
    """
    pairs = list(counts.items() if isinstance(counts, Mapping) else counts)
    if not pairs:
        raise ValueError(f"a corpus over {alphabet!r} must have at least one string, got none")
    if k < 1:
        raise ValueError(f"k={k} most frequent strings cannot be compared: k must be at least 1")
    seen: set[str] = set()
    for string, count in pairs:
        if string in seen or count < 1:
            raise ValueError(f"{string!r} must be listed once with a count above 0, got count {count} or a repetition")
        seen.add(string)
    ranked = [letters_to_symbols(string, alphabet) for string, _ in sorted(pairs, key=lambda pair: -pair[1])]
    return Corpus(tuple(ranked[:k]), frozenset(ranked))


def sample_corpus(language: Language, rng: np.random.Generator, draws: int = DRAWS, k: int = 25) -> Corpus:
    """The corpus of `draws` strings of a language of this library; a million take a second or two.

    Raises:
        ValueError: draws or k below 1.
    """
    if draws < 1:
        raise ValueError(f"{language.name}: a corpus must have at least one string, got draws={draws}")
    return corpus(collections.Counter(language.sample(rng, draws)), language.alphabet, k)


def read_corpus(path: str | pathlib.Path) -> list[tuple[str, int]]:
    """Strings and counts from a text file with lines `string TAB count`, in the order of the file.

    This is the format of Yang & Piantadosi's data. The string may be empty; blank lines at the end are ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, is a web page, or has a malformed line, whose number the message gives.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError(f"{path} is empty; expected lines 'string<TAB>count'")
    if text.lstrip().lower().startswith(("<!doctype", "<html")):
        raise ValueError(f"{path} is a web page, not a corpus: download the raw file, not the page that displays it")
    return [_parse_line(path, number, line) for number, line in enumerate(text.rstrip().split("\n"), start=1)]


def _parse_line(path, number, line):
    string, *rest = line.rstrip("\r").split("\t")
    if len(rest) != 1:
        raise ValueError(f"{path}, line {number}: expected 'string<TAB>count', got {line[:80]!r}")
    if not (rest[0].isascii() and rest[0].isdecimal() and int(rest[0]) > 0):
        raise ValueError(f"{path}, line {number}: the count must be a whole number above 0, got {rest[0][:80]!r}")
    return string, int(rest[0])


def score_corpus(learner: Corpus, true: Corpus) -> Score:
    """Score of a learner that is itself known by a corpus.

    With the corpus of the training strings this is the memorisation baseline of the published tables.
    """
    return Score(_share(learner.top, true.attested), sum(s in learner.attested for s in true.top) / len(true.top))


def score_models(
    model: LanguageModel,
    params: Any,
    true: Sequence[Corpus],
    k: int = 25,
    *,
    nucleus: float = 1.0,
    temperature: float = 1.0,
    draws: int = DRAWS,
    max_symbols: int = MAX_SYMBOLS,
    symbols: int = SYMBOLS,
    budget: int = 4096,
) -> list[Score]:
    """Scores of P adapted models, the i-th against the i-th corpus, without drawing from them.

    Precision is that of the k strings of highest rank at `temperature` among those that a single draw yields with a
    probability of at least 1 / draws. Recall is the expected share of the true best strings among `draws` draws.

    Args:
        model: the language model.
        params: its parameters, every leaf with a leading axis [P].
        true: P corpora.
        k: number of strings by which a model is judged.
        nucleus, temperature, max_symbols, symbols, budget: see `search.most_probable`.
        draws: size of the sample that the learner is thought to be known by.

    Raises:
        ValueError: an argument out of range, or another number of corpora than of models.
    """
    pairs = jax.tree.leaves(params)[0].shape[0]
    if len(true) != pairs:
        raise ValueError(f"{len(true)} corpora for the parameters of {pairs} models: give one corpus for each model")
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1")
    settings: dict[str, Any] = dict(nucleus=nucleus, max_symbols=max_symbols, symbols=symbols)
    found = most_probable(model, params, k, temperature=temperature, rarest=1 / draws, budget=budget, **settings)
    tokens = _stack([c.top for c in true], max_symbols)
    _, drawn = string_log_probabilities(model, params, tokens, **settings)
    met = -np.expm1(draws * np.log1p(-np.minimum(np.exp(np.asarray(drawn, np.float64)), 1 - 1e-12)))
    return [
        Score(_share(best.strings, c.attested), float(chances.sum()) / len(c.top), best.complete)
        for best, c, chances in zip(found, true, met, strict=True)
    ]


def _share(strings, true):
    return sum(s in true for s in strings) / len(strings) if strings else 0.0


def _stack(groups, max_symbols):
    """Tokens [groups, strings, time] of groups of strings; missing ones are rows of PAD, too long ones are cut."""
    time = min(max(len(s) for strings in groups for s in strings), max_symbols) + 2
    tokens = np.full((len(groups), max(map(len, groups)), time), PAD, np.int32)
    for rows, strings in zip(tokens, groups, strict=True):
        rows[: len(strings)] = encode(strings, time)
    return tokens
