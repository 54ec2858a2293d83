"""Minimalist grammars: what they derive against a chart from the words up, probabilities, lengths, random lexicons."""

import collections
import itertools
import math

import chex
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from metalearn.languages.minimalist import (
    DerivesNothing,
    Item,
    Lexicon,
    LexiconSettings,
    SearchSettings,
    derive,
    random_lexicon,
)

COUNTING = Lexicon.parse("a :: s= b= s \n b :: b \n :: s", "s")
BRACKETS = Lexicon.parse("a :: s= b= s \n b :: s= b \n :: s", "s")
COPYING = Lexicon.parse(
    """
    ε :: T -r -l
    ε :: T= +r +l T
    a :: T= +r A -r
    a :: A= +l T -l
    b :: T= +r B -r
    b :: B= +l T -l
    """,
    "T",
)
# A specifier on the left, a specifier that moves on, words of two letters, arguments of several categories.
MIXED = Lexicon.parse(
    """
    ab :: d
    c :: d -k
    d :: d= n
    :: d= =d v
    a :: n= =d v
    :: v= +k t
    b :: v= t
    e :: t= v
    """,
    "t",
)


def is_word(word):
    return all(letter in "ab" for letter in word)


def is_counting(word):
    return word == "a" * (len(word) // 2) + "b" * (len(word) // 2)


def is_balanced(word):
    depths = list(itertools.accumulate((1 if letter == "a" else -1 for letter in word), initial=0))
    return min(depths) >= 0 and depths[-1] == 0


def is_copy(word):
    return len(word) % 2 == 0 and word[: len(word) // 2] == word[len(word) // 2 :]


def kind(feature):
    return "=" if "=" in feature else feature[0] if feature[0] in "+-" else ""


def chart(lexicon, length):
    """All strings up to a length, by merge and move from the words up (Stabler 1997), without a tree or a search.

    An expression is (word or not yet, features, string, movers); a mover is its features and its string.
    """
    known, agenda = set(), [(True, item.features, item.word, frozenset()) for item in lexicon.items]

    def merged(head, argument):
        is_bare, features, text, movers = head
        _, other_features, other_text, other_movers = argument
        if kind(features[0]) != "=" or kind(other_features[0]) or features[0].strip("=") != other_features[0]:
            return None
        if not is_bare and other_movers:
            return None
        if len(other_features) > 1:
            movers |= {(other_features[1:], other_text)}
        elif features[0][0] == "=":
            text = other_text + text
        else:
            text += other_text
        expected = len(head[3]) + len(other_movers) + (len(other_features) > 1)
        together = movers | other_movers
        return (False, features[1:], text, together) if len(together) == expected else None

    def moved(expression):
        _, features, text, movers = expression
        fitting = [m for m in movers if m[0][0] == "-" + features[0][1:]]
        if len(fitting) != 1:
            return None
        ((waits, moving),) = fitting
        rest = movers - {fitting[0]}
        if len(waits) == 1:
            return False, features[1:], moving + text, rest
        after = rest | {(waits[1:], moving)}
        return (False, features[1:], text, after) if len(after) == len(movers) else None

    def is_small(expression):
        names = [features[0] for features, _ in expression[3]]
        return len(expression[2]) + sum(len(text) for _, text in expression[3]) <= length and len(set(names)) == len(
            names
        )

    while agenda:
        expression = agenda.pop()
        if expression in known or not is_small(expression):
            continue
        known.add(expression)
        if kind(expression[1][0]) == "+":
            new = [moved(expression)]
        else:
            new = [merged(*pair) for other in known for pair in ((expression, other), (other, expression))]
        agenda += [e for e in new if e is not None]
    return {text for _, features, text, movers in known if features == (lexicon.start,) and not movers}


def drawn(lexicon, rng):
    """One derivation from the start down, choice by choice, or None where it leads nowhere or to more than 30 words.

    Items are rows of features; a node is the last features of some of them. A phrase's place is an address.
    """
    words = []

    def children(node):
        longer = [item for item in lexicon.items if item.features[len(item.features) - len(node) :] == node]
        distinct = []
        for item in longer:
            rest = len(item.features) - len(node)
            child = (item.word,) if rest == 0 else (item.features[rest - 1], rest == 1 and "=" in item.features[0])
            if rest == 0 or child not in distinct:
                distinct.append(child)
        return distinct

    def leads_to(node, feature):
        return any(child[0] == feature for child in children(node) if len(child) == 2)

    def expand(node, address, movers, complement=False):
        if len(words) > 30:
            return False
        options = [
            child for child in children(node) if not node or kind(node[0]) != "=" or (len(child) == 1) == complement
        ]
        choice = options[rng.integers(len(options))]
        if len(choice) == 1:
            words.append((address, choice[0]))
            return not movers
        feature, is_complement = choice
        if kind(feature) == "=":
            wanted = feature.strip("=")
        else:
            wanted = "-" + feature[1:]
        blocked = kind(feature) == "+" and any(m[0][0] == wanted for m in movers)
        fresh = leads_to((), wanted) and not blocked
        stored = [
            m
            for m in movers
            if leads_to(m[0], wanted)
            and (kind(feature) == "=" or all(other is m or other[0][0] != wanted for other in movers))
        ]
        if not fresh and not stored:
            return False
        if fresh and (not stored or rng.random() < 0.5):
            target, place = (wanted,), None
        else:
            target, place = stored[rng.integers(len(stored))]
            movers = [m for m in movers if m != (target, place)]
            below = [child for child in children(target)]
            if below[rng.integers(len(below))][0] != wanted:
                return False
            target = (wanted, *target)
        up = (feature, *node)
        if kind(feature) == "+":
            if place is None:
                place, address = (*address, 0), (*address, 1)
            return expand(up, address, [*movers, (target, place)])
        if place is None:
            place, address = ((*address, 1), (*address, 0)) if feature[-1] == "=" else ((*address, 0), (*address, 1))
        inside, outside = (movers, []) if is_complement else ([], movers)
        return expand(up, address, outside, is_complement) and expand(target, place, inside)

    return "".join(word for _, word in sorted(words)) if expand((lexicon.start,), (), []) else None


class DeriveTest(parameterized.TestCase):
    @parameterized.parameters((COUNTING, is_counting, 3), (BRACKETS, is_balanced, 3), (COPYING, is_copy, 6))
    def test_known_languages_up_to_length_8(self, lexicon, belongs, items):
        self.assertLen(lexicon.items, items)
        members = {w for n in range(9) for w in map("".join, itertools.product("ab", repeat=n)) if belongs(w)}
        found = derive(lexicon, SearchSettings(strings=300, beams=10**5)).probabilities
        self.assertEqual({word for word in found if len(word) <= 8}, members)
        self.assertTrue(all(map(belongs, found)))
        self.assertEqual(chart(lexicon, 8), members)

    def test_random_lexicons_derive_what_the_chart_does(self):
        rng = np.random.default_rng(3)
        sizes, with_movement = [], 0
        while len(sizes) < 60:
            lexicon = random_lexicon(rng, LexiconSettings(symbols=3, licensor=0.3))
            moves = any(feature[0] == "-" for item in lexicon.items for feature in item.features)
            if not 4 <= len(lexicon.items) <= 9 or (not moves and len(sizes) % 2):
                continue
            expected = chart(lexicon, 3)
            try:
                result = derive(lexicon, SearchSettings(strings=10**5, floor=-14, beams=10**5, total_steps=6000))
            except DerivesNothing:
                self.assertEmpty(expected)
                continue
            found = {word for word in result.probabilities if len(word) <= 3}
            self.assertLessEqual(found, expected)
            if result.truncated < 1e-3:
                self.assertEqual(found, expected)
                sizes.append(len(found))
                with_movement += moves
        self.assertGreater(sum(size > 3 for size in sizes), 10)
        self.assertGreater(with_movement, 10)

    def test_a_lexicon_with_specifiers_and_words_of_two_letters(self):
        found = derive(MIXED, SearchSettings(strings=10**4, floor=-16, beams=10**5, total_steps=50_000)).probabilities
        expected = chart(MIXED, 8)
        self.assertGreater(len(expected), 10)
        self.assertEqual({word for word in found if len(word) <= 8}, expected)

    def test_nothing_moves_out_of_a_specifier(self):
        """The same phrase, x with a moving d inside, as first and as second argument."""
        parts = "a :: d -k \n b :: d= x \n c :: y \n"
        complement = Lexicon.parse(parts + "e :: x= y= +k s", "s")
        specifier = Lexicon.parse(parts + "e :: y= x= +k s", "s")
        self.assertEqual(set(derive(complement).probabilities), {"aebc"})
        with self.assertRaises(DerivesNothing):
            derive(specifier)

    def test_of_two_movers_for_one_feature_none_moves(self):
        with self.assertRaises(DerivesNothing):
            derive(Lexicon.parse("a :: d -k \n b :: d= =d +k +k s", "s"))
        other = Lexicon.parse("a :: d -k \n c :: e -m \n b :: d= =e +k +m s", "s")
        self.assertEqual(set(derive(other).probabilities), {"cab"})

    def test_probabilities_by_hand(self):
        # A category s is a bare ε or an a with its two arguments, each with probability 1/2.
        result = derive(COUNTING)
        chex.assert_trees_all_close(
            {n: p * result.found for n, p in enumerate(result.probabilities.values())},
            {n: 0.5 ** (n + 1) for n in range(16)},  # four rules to each a and one more, so 64 rules reach a^15
            rtol=1e-9,
        )
        self.assertEqual(list(result.probabilities), ["a" * n + "b" * n for n in range(16)])
        self.assertAlmostEqual(result.found + result.truncated, 1)
        # The empty copy: at +r the mover for l (1/2) goes on to wait for r (1 of its 2 children), and at T= it is
        # merged (1/2) rather than a new T.
        result = derive(COPYING, SearchSettings(strings=1))
        self.assertAlmostEqual(result.found, 1 / 8)
        self.assertEqual(result.probabilities, {"": 1.0})

    @parameterized.parameters(BRACKETS, COPYING, MIXED)
    def test_probabilities_are_the_frequencies_of_derivations_drawn_by_choice(self, lexicon):
        rng = np.random.default_rng(8)
        count = 4000
        counts = collections.Counter(drawn(lexicon, rng) for _ in range(count))
        result = derive(lexicon, SearchSettings(strings=30))
        expected = {word: p * result.found * count for word, p in result.probabilities.items()}
        expected = {word: mean for word, mean in expected.items() if mean >= 8}
        self.assertGreater(len(expected), 2)
        rest = count - sum(expected.values())
        observed = [*(counts[word] for word in expected), count - sum(counts[word] for word in expected)]
        self.assertGreater(scipy.stats.chisquare(observed, [*expected.values(), rest]).pvalue, 1e-4)

    def test_derivations_of_one_string_add_up(self):
        # Two items for the same string, and two orders of an empty word.
        twice = Lexicon.parse("a :: s \n a :: s \n b :: s", "s")
        chex.assert_trees_all_close(derive(twice).probabilities, {"a": 2 / 3, "b": 1 / 3})

    def test_limits_truncate_and_say_how_much(self):
        everything = SearchSettings()
        for limits, strings in (
            (SearchSettings(strings=3), 3),
            (SearchSettings(floor=-3.0), 4),
            (SearchSettings(steps=14), 4),
            (SearchSettings(total_steps=14), 3),  # 1, 5, 10 and 16 complete the first four,
        ):
            result = derive(COUNTING, limits)
            self.assertEqual(list(result.probabilities), list(derive(COUNTING, everything).probabilities)[:strings])
            self.assertAlmostEqual(sum(result.probabilities.values()), 1)
            self.assertAlmostEqual(result.found, 1 - 0.5**strings)
            self.assertAlmostEqual(result.truncated, 0.5**strings)
        narrow = derive(BRACKETS, SearchSettings(beams=2))
        self.assertAlmostEqual(narrow.found + narrow.truncated, 1)
        self.assertLess(len(narrow.probabilities), 100)

    def test_a_search_without_end_ends(self):
        loops = Lexicon.parse("a :: s \n :: s= s \n :: =s s \n :: s= =s s", "s")
        self.assertLess(len(derive(loops).probabilities), 100)


class LexiconTest(parameterized.TestCase):
    def test_notation_there_and_back(self):
        for lexicon in (COUNTING, BRACKETS, COPYING, MIXED):
            self.assertEqual(Lexicon.parse(str(lexicon), lexicon.start), lexicon)
        self.assertEqual(COUNTING.items, (Item("a", ("s=", "b=", "s")), Item("b", ("b",)), Item("", ("s",))))
        self.assertEqual(str(COUNTING), "a :: s= b= s\nb :: b\nε :: s")
        self.assertEqual(COUNTING.alphabet, "ab")

    def test_description_length_by_hand(self):
        # Two letters of an alphabet of two, five features with the names s and b.
        self.assertAlmostEqual(COUNTING.description_length, 2 * math.log(2) + 5 * math.log(10))
        # Four letters; 3 + 5 * 4 features with the names T, A, B, r, l.
        self.assertAlmostEqual(COPYING.description_length, 4 * math.log(2) + 23 * math.log(25))
        # A movement feature that shares a category's name costs no further name; longer words cost by the letter.
        shared = Lexicon.parse("abc :: 0 -0 \n :: 0= +0 0", "0", "abcdefg")
        self.assertAlmostEqual(shared.description_length, 3 * math.log(7) + 5 * math.log(5))

    def test_description_length_of_a_published_pair(self):
        """Words that share an ending, whole and taken apart (Ermolaeva 2021): the second is the shorter description."""
        letters = "abcdefghijklmnopqrstuvwxyz"
        whole = "mary :: d -k\n" + "\n".join(f"{w} :: =d +k t" for w in ("laughs", "laughed", "jumps", "jumped"))
        apart = "mary :: d -k\nlaugh :: =d v\njump :: =d v\ns :: =v +k t\ned :: =v +k t"
        for text, size, features, names in ((whole, 28, 14, 3), (apart, 16, 12, 4)):
            lexicon = Lexicon.parse(text, "t", letters)
            expected = size * math.log(26) + features * math.log(5 * names)
            self.assertAlmostEqual(lexicon.description_length, expected)
        found = [set(derive(Lexicon.parse(t, "t", letters)).probabilities) for t in (whole, apart)]
        self.assertEqual(found[0], {"mary" + word for word in ("laughs", "laughed", "jumps", "jumped")})
        self.assertEqual(found[1], found[0])

    @parameterized.parameters(
        ("a s", "'a s' is no item: write one word, ::"),
        ("a ::", "is no item"),
        ("a b :: s", "is no item"),
        ("a :: s? s", "'s\\?' in .* is no feature"),
        ("a :: =s= s", "is no feature"),
        ("a :: s= ", "0 categories"),
        ("a :: s t", "2 categories"),
        ("a :: s t=", "licensees .* must follow the category"),
        ("a :: -k s", "must follow"),
        ("a :: +k s", r"begins with \+k, but a bare word"),
        ("a :: t", "start 's' is the last feature of no item; there are \\['t'\\]"),
        ("a :: s -k", "start 's' is the last feature of no item"),
        ("", "start 's'"),
    )
    def test_errors(self, text, message):
        with self.assertRaisesRegex(ValueError, message):
            Lexicon.parse(text, "s")

    def test_more_errors(self):
        with self.assertRaisesRegex(ValueError, r"letters \['b'\], outside the alphabet 'a'"):
            Lexicon.parse("b :: s", "s", "a")
        with self.assertRaisesRegex(DerivesNothing, "derives no string of category 's'(.|\n)*a :: t= s"):
            derive(Lexicon.parse("a :: t= s", "s"))
        with self.assertRaisesRegex(ValueError, "floor must be negative"):
            SearchSettings(floor=0.0)
        with self.assertRaisesRegex(ValueError, "at least 1"):
            SearchSettings(beams=0)


class RandomLexiconTest(parameterized.TestCase):
    def lexicons(self, count=3000, **settings):
        rng = np.random.default_rng(11)
        return [random_lexicon(rng, LexiconSettings(**settings)) for _ in range(count)]

    def assert_share(self, hits, total, probability):
        self.assertGreater(scipy.stats.binomtest(hits, total, probability).pvalue, 1e-4)

    def test_choices_have_the_published_probabilities(self):
        lexicons = self.lexicons()
        items = [item for lexicon in lexicons for item in lexicon.items]
        self.assert_share(sum(not item.word for item in items), len(items), 0.25)
        letters = collections.Counter(item.word for item in items if item.word)
        self.assertEqual(set(letters), set("abcdefg"))
        self.assertGreater(scipy.stats.chisquare(list(letters.values())).pvalue, 1e-4)
        arguments = [f for item in items for f in set(item.features[:1]) if "=" in f]
        self.assertGreater(len(arguments), 500)
        self.assertBetween(sum(f[0] == "=" for f in arguments) / len(arguments), 0.4, 0.6)
        # One item ":: 0" or "a :: 0" and nothing else: a single child that is an item.
        self.assert_share(sum(str(lexicon).count(" ") == 2 for lexicon in lexicons), len(lexicons), 0.8 * 0.75)
        # Of the lexicons with one item, a :: 0= 0 and the like: a feature (1/4), no licensor (0.8), the first argument
        # (0.75), of category 0 again (0.35), one item (0.8).
        recursive = sum(
            len(lexicon.items) == 1 and lexicon.items[0].features in (("0=", "0"), ("=0", "0")) for lexicon in lexicons
        )
        self.assert_share(recursive, len(lexicons), 0.8 * 0.25 * 0.8 * 0.75 * 0.35 * 0.8)

    def test_movement(self):
        lexicons = self.lexicons(count=600, item=0.0, licensor=0.5)
        starts = [[item.features[-2] for item in lexicon.items if item.features[-1] == "0"] for lexicon in lexicons]
        # The start has k children with probability 0.8 * 0.2^(k - 1), each of them no licensor with probability 1/2.
        none = sum(not any("+" in feature for feature in features) for features in starts)
        self.assert_share(none, len(lexicons), 0.4 / (1 - 0.1))
        for lexicon in lexicons:
            asked = {feature[1:] for item in lexicon.items for feature in item.features if feature[0] == "+"}
            waiting = {item.features[-1][1:] for item in lexicon.items if item.features[-1][0] == "-"}
            self.assertEqual(asked, waiting)

    def test_same_generator_same_lexicon(self):
        one, two = (random_lexicon(np.random.default_rng(5)) for _ in range(2))
        self.assertEqual(one, two)
        self.assertGreater(len(set(self.lexicons(50))), 10)

    @parameterized.parameters(
        ({"symbols": 0}, "symbols"),
        ({"item": 1.5}, "item must be a probability"),
        ({"stop": 0.4}, "items would grow without end: raise stop=0.4 above 0.4"),
        ({"complement": 0.0}, "grow without end"),
    )
    def test_settings_that_do_not_fit(self, wrong, message):
        with self.assertRaisesRegex(ValueError, message):
            LexiconSettings(**wrong)


if __name__ == "__main__":
    absltest.main()
