"""Tokens: 15 rows of embedding, of which ten are symbols (McCoy & Griffiths 2025, released code).

    0 unknown   1 PAD   2 START   3 END   4 .. 13 symbols 0 .. 9   14 spare

A string is START, its symbols, END. Languages over letters map their alphabet, in order, to symbols 0, 1, ...
"""

from collections.abc import Sequence

import numpy as np

UNKNOWN, PAD, START, END, FIRST_SYMBOL = range(5)
SYMBOLS = 10
VOCABULARY = 15


def encode(
    strings: Sequence[Sequence[int]], length: int | None = None, permutation: np.ndarray | None = None
) -> np.ndarray:
    """Token rows of strings of symbols.

    Args:
        strings: each a sequence of symbols 0 .. 9.
        length: columns of the result; by default what the longest string needs. A longer string is cut, losing its
            END: its tokens simply stop, as with the originals' truncation.
        permutation: [10] int, symbol i is written as permutation[i]. Drawn anew for each episode, it keeps a learner
            from attaching meaning to particular symbols.

    Returns:
        [strings, length] int32, padded with PAD.

    Raises:
        ValueError: a symbol outside 0 .. 9, or no strings at all.
    """
    if not len(strings):
        raise ValueError("an empty list of strings cannot be encoded: a language must have at least one string")
    longest = max(map(len, strings)) + 2
    tokens = np.full((len(strings), longest), PAD, np.int32)
    order = np.arange(SYMBOLS) if permutation is None else np.asarray(permutation)
    for row, string in zip(tokens, strings, strict=True):
        symbols = np.asarray(string, np.int64)
        if symbols.size and (symbols.min() < 0 or symbols.max() >= SYMBOLS):
            raise ValueError(f"string {tuple(string)} has a symbol outside the vocabulary 0 .. {SYMBOLS - 1}")
        row[0] = START
        row[1 : len(symbols) + 1] = FIRST_SYMBOL + order[symbols]
        row[len(symbols) + 1] = END
    if length is None:
        return tokens
    return np.pad(tokens, ((0, 0), (0, max(length - longest, 0))), constant_values=PAD)[:, :length]


def decode(tokens: Sequence[int]) -> tuple[int, ...]:
    """The symbols of a token row: what stands between START and END. The inverse of `encode` without permutation."""
    symbols = []
    for token in tokens:
        if token in (END, PAD):
            break
        if token != START:
            symbols.append(int(token) - FIRST_SYMBOL)
    return tuple(symbols)


def letters_to_symbols(string: str, alphabet: str) -> tuple[int, ...]:
    """Symbols of a string of letters: the i-th letter of `alphabet` is symbol i.

    Raises:
        ValueError: a letter outside the alphabet, naming it.
    """
    try:
        return tuple(map(alphabet.index, string))
    except ValueError:
        strange = sorted(set(string) - set(alphabet))
        raise ValueError(f"string {string!r} has {strange}, outside its alphabet {alphabet!r}") from None


def symbols_to_letters(symbols: Sequence[int], alphabet: str) -> str | None:
    """The inverse of `letters_to_symbols`; None if a symbol has no letter: such a string is in no such language."""
    if any(not 0 <= s < len(alphabet) for s in symbols):
        return None
    return "".join(alphabet[s] for s in symbols)
