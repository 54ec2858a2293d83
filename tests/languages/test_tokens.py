"""Strings to tokens and back, by examples written out by hand."""

import chex
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.tokens import (
    END,
    FIRST_SYMBOL,
    PAD,
    START,
    SYMBOLS,
    UNKNOWN,
    VOCABULARY,
    decode,
    encode,
    letters_to_symbols,
    symbols_to_letters,
)


class TokensTest(parameterized.TestCase):
    def test_the_table(self):
        self.assertEqual((UNKNOWN, PAD, START, END, FIRST_SYMBOL, SYMBOLS, VOCABULARY), (0, 1, 2, 3, 4, 10, 15))

    def test_encode(self):
        tokens = encode([(0, 9), (), (3, 3, 3)])
        self.assertEqual(tokens.dtype, np.int32)
        chex.assert_trees_all_equal(tokens, np.array([[2, 4, 13, 3, 1], [2, 3, 1, 1, 1], [2, 7, 7, 7, 3]], np.int32))

    def test_longer_rows_are_padded(self):
        chex.assert_trees_all_equal(encode([(1,)], length=5), np.array([[2, 5, 3, 1, 1]], np.int32))

    @parameterized.parameters((5, [2, 4, 5, 6, 3]), (4, [2, 4, 5, 6]), (3, [2, 4, 5]), (1, [2]))
    def test_a_string_that_is_too_long_stops_without_an_end(self, length, expected):
        chex.assert_trees_all_equal(encode([(0, 1, 2)], length), np.array([expected], np.int32))

    def test_a_permutation_renames_symbols_and_nothing_else(self):
        permutation = np.random.default_rng(0).permutation(SYMBOLS)
        strings = [(0, 1, 2, 3, 4), (9, 8, 7, 6, 5), ()]
        plain, renamed = encode(strings, 9), encode(strings, 9, permutation)
        chex.assert_trees_all_equal(renamed, encode([[permutation[s] for s in string] for string in strings], 9))
        special = plain < FIRST_SYMBOL
        chex.assert_trees_all_equal(plain[special], renamed[special])
        self.assertFalse((renamed[~special] < FIRST_SYMBOL).any())

    def test_decode_inverts_encode(self):
        rng = np.random.default_rng(1)
        strings = [tuple(rng.integers(SYMBOLS, size=n).tolist()) for n in (0, 1, 5, 12)]
        self.assertEqual([decode(row) for row in encode(strings)], strings)
        self.assertEqual([decode(row) for row in encode(strings, 20)], strings)

    def test_decode_of_a_truncated_row(self):
        self.assertEqual(decode(encode([(0, 1, 2)], 3)[0]), (0, 1))

    def test_letters(self):
        self.assertEqual(letters_to_symbols("cab", "abc"), (2, 0, 1))
        self.assertEqual(letters_to_symbols("", "abc"), ())
        self.assertEqual(symbols_to_letters((2, 0, 1), "abc"), "cab")
        self.assertEqual(symbols_to_letters((), "abc"), "")
        self.assertIsNone(symbols_to_letters((0, 3), "abc"))
        self.assertIsNone(symbols_to_letters((UNKNOWN - FIRST_SYMBOL,), "abc"))

    def test_a_letter_outside_the_alphabet_is_named(self):
        with self.assertRaisesRegex(ValueError, r"'abxa' has \['x'\], outside its alphabet 'ab'"):
            letters_to_symbols("abxa", "ab")

    @parameterized.parameters(10, -1)
    def test_a_symbol_outside_the_vocabulary_is_refused(self, symbol):
        with self.assertRaisesRegex(ValueError, rf"\(1, {symbol}\) has a symbol outside the vocabulary 0 .. 9"):
            encode([(0,), (1, symbol)])

    def test_an_empty_language_is_refused(self):
        with self.assertRaisesRegex(ValueError, "at least one string"):
            encode([])


if __name__ == "__main__":
    absltest.main()
