"""Episodes: a pure function of key and index, with the shapes, counts and permutations that the settings promise."""

import collections
import dataclasses
import itertools
import threading

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.episodes import (
    EpisodeBatches,
    EpisodeSettings,
    Prefetched,
    distinct,
    draw_language,
    packed,
    pad_size,
    stack_episodes,
)
from metalearn.languages.lstm import lstm
from metalearn.languages.metagrammar import MetagrammarSettings
from metalearn.languages.model import Strings, cross_entropy
from metalearn.languages.prefixes import Prefixes
from metalearn.languages.simple import draw_simple
from metalearn.languages.tokens import END, FIRST_SYMBOL, PAD, START, SYMBOLS, VOCABULARY, decode, encode
from metalearn.languages.withholding import Withheld

SETTINGS = EpisodeSettings(
    min_updates=1,
    max_updates=4,
    support_strings=3,
    query_strings=20,
    length=12,
    row_sizes=(2, 8, 20),
    length_sizes=(6, 12),
)


def batches(language=draw_language, tasks=2, settings=SETTINGS, seed=0):
    return EpisodeBatches(jax.random.key(seed), tasks, settings, language)


def words(*lengths):
    """A language that goes round words 0 1 2 ... 9 0 1 ... of these lengths."""
    return lambda rng, count: [tuple(n % SYMBOLS for n in range(lengths[i % len(lengths)])) for i in range(count)]


def unpacked(query):
    """(token row, count) of each string of packed rows [rows, time] with counts [rows, time - 1]."""
    for row, weights in zip(query.tokens, query.counts, strict=True):
        starts = [*np.flatnonzero(row == START), int((row != PAD).sum())]
        for begin, end in itertools.pairwise(starts):
            (count,) = set(weights[begin : end - 1].tolist())  # the same on all tokens of a string
            yield row[begin:end], int(count)


class BatchTest(parameterized.TestCase):
    def test_shapes_and_types(self):
        for step in range(12):
            support, query = batches()(step)
            tasks, updates, strings, time = support.tokens.shape
            self.assertEqual((tasks, strings), (2, SETTINGS.support_strings))
            self.assertIn(updates, range(1, 5))
            self.assertIn(time, SETTINGS.length_sizes)
            self.assertIn(query.tokens.shape[1], SETTINGS.row_sizes)
            self.assertEqual(query.tokens.shape[2], time)
            chex.assert_type([support.tokens, query.tokens], np.int32)
            chex.assert_type([support.counts, query.counts], np.float32)
            chex.assert_trees_all_equal(support.counts, np.ones((2, updates, 3), np.float32))
            for task in range(2):
                of_task = jax.tree.map(lambda x, t=task: x[t], query)
                self.assertEqual(sum(count for _, count in unpacked(of_task)), SETTINGS.query_strings)

    def test_the_number_of_updates_is_uniform(self):
        make = batches(words(1), tasks=1)
        counts = collections.Counter(make(step).support.tokens.shape[1] for step in range(200))
        self.assertEqual(set(counts), {1, 2, 3, 4})
        self.assertLess(max(abs(n - 50) for n in counts.values()), 5 * (200 * 0.25 * 0.75) ** 0.5)

    def test_rows_are_strings_and_padding(self):
        for step in range(6):
            support, query = batches()(step)
            strings = [row for t in range(2) for row, _ in unpacked(jax.tree.map(lambda x, t=t: x[t], query))]
            for row in [*support.tokens.reshape(-1, support.tokens.shape[-1]), *strings]:
                body = row[row != PAD]
                self.assertTrue((row[len(body) :] == PAD).all())
                self.assertEqual(body[0], START)
                if len(body) < SETTINGS.length:
                    self.assertEqual(body[-1], END)
                symbols = body[1:-1] if body[-1] == END else body[1:]
                self.assertTrue(((symbols >= FIRST_SYMBOL) & (symbols < FIRST_SYMBOL + SYMBOLS)).all())
            empty = query.tokens[:, :, 1:][query.counts == 0]
            self.assertTrue(((empty == PAD) | (empty == START)).all())

    def test_batches_depend_on_key_and_step_alone(self):
        in_order = [batches()(step) for step in range(4)]
        resumed = batches()
        for step in (3, 0, 2, 1):
            chex.assert_trees_all_equal(resumed(step), in_order[step])
        tokens = [batch.support.tokens[0, 0].tolist() for batch in [*in_order, batches(seed=1)(0)]]
        self.assertLen({str(t) for t in tokens}, 5)

    def test_an_episode_does_not_depend_on_the_batch_it_is_in(self):
        settings = EpisodeSettings(2, 2, 3, 20, 12, (20,), (12,))
        two, three = batches(tasks=2, settings=settings), batches(tasks=3, settings=settings)
        row = lambda batch, i: jax.tree.map(lambda x: x[i], batch)
        for episode in range(6):
            chex.assert_trees_all_equal(row(two(episode // 2), episode % 2), row(three(episode // 3), episode % 3))

    @parameterized.parameters((1, 4, (2, 6)), (2, 5, (2, 12)), (3, 8, (8, 12)), (9, 10, (8, 12)), (9, 30, (20, 12)))
    def test_padding_is_to_the_smallest_size_that_fits(self, kinds, longest, expected):
        """As many different query strings as `kinds`, the longest of `longest` symbols."""
        _, query = batches(words(*range(longest - kinds + 1, longest + 1)), tasks=2)(0)
        self.assertEqual(query.tokens.shape[1:], expected)

    def test_the_longest_string_of_the_batch_sets_the_length(self):
        lengths = iter((1, 7, 1, 1))
        make = batches(lambda rng, count: [(0,) * n for n in [next(lengths)] * count], tasks=2)
        self.assertEqual(make(0).query.tokens.shape[-1], 12)
        self.assertEqual(make(1).query.tokens.shape[-1], 6)

    def test_supports_may_be_packed_as_queries_are(self):
        """The same strings as often, the least number of rows that holds those of every update and task."""
        plain = EpisodeSettings(2, 2, 5, 20, 12, (20,), (12,))
        sized = dataclasses.replace(plain, support_rows=(1, 3, 5))
        for step in range(6):
            rows, packs = batches(tasks=2, settings=plain)(step), batches(tasks=2, settings=sized)(step)
            chex.assert_trees_all_equal(rows.query, packs.query)
            needed = 0
            for task, update in itertools.product(range(2), range(2)):
                of = lambda batch, t=task, u=update: jax.tree.map(lambda x: x[t, u], batch.support)
                expected = collections.Counter(tuple(row[row != PAD].tolist()) for row in of(rows).tokens)
                found: collections.Counter = collections.Counter()
                for row, count in unpacked(of(packs)):
                    found[tuple(row.tolist())] += count  # strings that were cut may have become the same
                self.assertEqual(found, expected)
                needed = max(needed, int((of(packs).tokens != PAD).any(-1).sum()))
            self.assertEqual(packs.support.tokens.shape[2], pad_size(needed, sized.support_rows))

    def test_long_strings_are_cut(self):
        support, query = batches(words(30))(0)
        self.assertFalse((support.tokens == END).any() or (query.tokens[:, 0] == END).any())
        self.assertFalse((support.tokens == PAD).any() or (query.tokens[:, 0] == PAD).any())

    def test_support_then_query_of_one_language_in_the_order_drawn(self):
        drawn = []

        def language(rng, count):
            drawn.append(draw_simple(rng, count))
            return drawn[-1]

        support, query = batches(language, tasks=3)(5)
        self.assertLen(drawn, 3)
        for task, strings in enumerate(drawn):
            mapping = {}
            rows = support.tokens[task].reshape(-1, support.tokens.shape[-1])
            sample = [decode(row) for row in rows]
            supports = len(rows)
            for written, string in zip(sample, strings[:supports], strict=True):
                self.assertLen(written, len(string))
                for new, old in zip(written, string, strict=True):
                    self.assertEqual(mapping.setdefault(old, new), new)  # one renaming for the whole episode
            self.assertLen(set(mapping.values()), len(mapping))
            of_task = jax.tree.map(lambda x, t=task: x[t], query)
            queried = {decode(row): count for row, count in unpacked(of_task)}
            counted = collections.Counter(strings[supports:])
            self.assertEqual(sorted(queried.values()), sorted(counted.values()))
            for string, count in counted.items():
                if set(string) <= set(mapping):  # the others have symbols that the support does not show
                    self.assertEqual(queried[tuple(mapping[s] for s in string)], count)

    def test_packed_rows_give_the_loss_of_the_whole_sample(self):
        model = lstm(VOCABULARY, 4)
        with jax.enable_x64(True):
            params = model.init(jax.random.key(0))
            strings = [(0,), (0, 1, 2), (0,), (), (1, 1), (0, 1, 2), (0,), (2, 1, 0, 0, 1, 1)]
            rows = packed(*distinct(strings), 9)
            self.assertLess(len(rows.tokens), len(set(strings)))
            whole = Strings(encode(strings, 9), np.ones(len(strings)))
            loss = lambda params, strings: cross_entropy(model, params, strings)
            chex.assert_trees_all_close(
                jax.value_and_grad(loss)(params, rows), jax.value_and_grad(loss)(params, whole), rtol=1e-12, atol=1e-14
            )

    def test_packing_puts_the_longest_first_where_there_is_room(self):
        start, a, end = START, FIRST_SYMBOL, END
        rows = packed([(0,), (1, 1, 1), (2, 2)], [5, 6, 7], 7)
        expected = [[start, a + 1, a + 1, a + 1, end, PAD, PAD], [start, a + 2, a + 2, end, start, a, end]]
        np.testing.assert_array_equal(rows.tokens, expected)
        np.testing.assert_array_equal(rows.counts, [[6, 6, 6, 6, 0, 0], [7, 7, 7, 0, 5, 5]])

    def test_permutations_differ_between_episodes_and_are_uniform(self):
        make = batches(words(1), tasks=50)
        written = np.concatenate([make(step).query.tokens[:, 0, 1] - FIRST_SYMBOL for step in range(8)])
        counts = np.bincount(written, minlength=SYMBOLS)
        self.assertLess(((counts - 40) ** 2 / 40).sum(), 27.9)  # chi-squared with 9 degrees of freedom, p = 0.001

    def test_distinct(self):
        strings, counts = distinct([[1], (2, 3), (1,), (), [2, 3], (1,)])
        self.assertEqual((strings, counts), ([(1,), (2, 3), ()], [3, 2, 1]))

    @parameterized.parameters((1, 4), (4, 4), (5, 9), (9, 9), (10, 9))
    def test_pad_size(self, needed, expected):
        self.assertEqual(pad_size(needed, (4, 9)), expected)

    @parameterized.parameters(
        ({"min_updates": 0}, "min_updates=0"),
        ({"min_updates": 5}, "min_updates=5 must lie in 1 .. max_updates=4"),
        ({"support_strings": 0}, "support_strings"),
        ({"length": 2}, "length"),
        ({"row_sizes": ()}, r"row_sizes=\(\)"),
        ({"row_sizes": (2, 8)}, "row_sizes.* must ascend and end at 20"),
        ({"row_sizes": (8, 2, 20)}, "must ascend"),
        ({"length_sizes": (6, 6, 12)}, "length_sizes.* must ascend and end at 12"),
    )
    def test_settings_that_do_not_fit(self, wrong, message):
        sizes = {name: getattr(SETTINGS, name) for name in EpisodeSettings.__dataclass_fields__}
        with self.assertRaisesRegex(ValueError, message):
            EpisodeSettings(**(sizes | wrong))


class GridTest(parameterized.TestCase):
    """Episodes laid out as prefixes: the tokens that are predicted, and how often, are those of the rows."""

    GRIDS = dataclasses.replace(SETTINGS, min_updates=2, max_updates=2, grid_times=(4, 13, 13), grid_rows=(3, 3, 8))

    def predicted(self, strings):
        """{token: how often it is predicted} of packed rows or of prefixes."""
        if isinstance(strings, Prefixes):
            return np.asarray(strings.counts).reshape(-1, VOCABULARY).sum(0)
        counts = strings.counts if strings.counts.ndim == strings.tokens.ndim else strings.counts[..., None]
        weights = (strings.tokens[..., 1:] != PAD) * (strings.tokens[..., 1:] != START) * counts
        return np.bincount(strings.tokens[..., 1:].ravel(), weights.ravel(), VOCABULARY)

    def test_the_same_episodes_as_in_rows(self):
        rows = dataclasses.replace(self.GRIDS, grid_times=(), grid_rows=())
        for step in range(8):
            in_grids, in_rows = batches(settings=self.GRIDS)(step), batches(settings=rows)(step)
            times_rows = in_grids.support.tokens.shape[2:]
            self.assertIn(times_rows, self.GRIDS.grids)
            self.assertEqual(in_grids.support.tokens.shape[:2], (2, 2))
            self.assertIn(in_grids.query.tokens.shape[1], (1, 8))
            self.assertIn(in_grids.query.tokens.shape[2:], self.GRIDS.grids)
            for task, update in itertools.product(range(2), range(2)):
                of = lambda tree, t=task, u=update: jax.tree.map(lambda x: x[t, u], tree)
                np.testing.assert_array_equal(self.predicted(of(in_grids.support)), self.predicted(of(in_rows.support)))
            for task in range(2):
                of_task = lambda tree, t=task: jax.tree.map(lambda x: x[t], tree)
                np.testing.assert_array_equal(
                    self.predicted(of_task(in_grids.query)), self.predicted(of_task(in_rows.query))
                )

    def test_short_strings_take_the_least_work(self):
        episode = batches(words(1, 2), settings=self.GRIDS)(0)
        self.assertEqual(episode.support.tokens.shape[2:], (4, 3))
        self.assertEqual(episode.query.tokens.shape[1:], (1, 4, 3))

    @parameterized.parameters(
        ({"grid_rows": (3, 3)}, "must be of equal length"),
        ({"grid_times": (12,), "grid_rows": (8,)}, "at least grid_times=13 and grid_rows=3"),
        ({"grid_times": (13,), "grid_rows": (2,)}, "at least grid_times=13 and grid_rows=3"),
    )
    def test_settings_that_do_not_fit(self, wrong, message):
        with self.assertRaisesRegex(ValueError, message):
            dataclasses.replace(self.GRIDS, **wrong)


class LanguageTest(parameterized.TestCase):
    def test_withheld_languages_are_redrawn(self):
        """Every language over one symbol that has the string of just that symbol is withheld."""
        withheld = Withheld("a", lambda string: set(string) <= {"a"}, ("a",))
        settings = MetagrammarSettings(max_vocabulary=2)

        def equals_it(strings):
            symbols = {s for string in strings for s in string}
            return len(symbols) == 1 and tuple(symbols) in strings

        def drawn(kept_out):
            return [draw_language(np.random.default_rng(i), 1000, settings, kept_out) for i in range(60)]

        self.assertGreater(sum(map(equals_it, drawn(()))), 3)
        self.assertEqual(sum(map(equals_it, drawn((withheld,)))), 0)


class StackTest(absltest.TestCase):
    def test_batches_of_different_shapes(self):
        settings = EpisodeSettings(2, 2, 4, 8, 12, (2, 8), (6, 12), (1, 4))
        each = [batches(words(*lengths), settings=settings)(0) for lengths in ((1,), (9, 10, 8))]
        stacked = stack_episodes(each)
        chex.assert_shape(stacked.support.tokens, (2, 2, 2, 4, 12))
        chex.assert_shape(stacked.query.tokens, (2, 2, 8, 12))
        for i, batch in enumerate(each):
            for found, had in zip(jax.tree.map(lambda x, i=i: x[i], stacked), batch, strict=True):
                cut = lambda x, part: x[tuple(slice(n) for n in part.shape)]
                chex.assert_trees_all_equal(jax.tree.map(cut, found, had), had)
                self.assertEqual((found.tokens != PAD).sum(), (had.tokens != PAD).sum())
                self.assertEqual(found.counts.sum(), had.counts.sum())


class PrefetchedTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.made = []

    def make(self, step):
        self.made.append((step, threading.current_thread() is threading.main_thread()))
        if step == 7:
            raise ValueError("step 7 is broken")
        return step**2

    def test_same_values_in_order_and_after_jumps(self):
        prefetched = Prefetched(self.make)
        for step in (0, 1, 2, 10, 11, 3, 3, 4):
            self.assertEqual(prefetched(step), step**2)

    def test_in_order_each_step_is_made_once_and_ahead(self):
        prefetched = Prefetched(self.make)
        for step in range(4):
            prefetched(step)
        prefetched._next[1].result()
        self.assertEqual(self.made, [(0, True), *((step, False) for step in range(1, 5))])

    def test_errors_come_with_their_step(self):
        prefetched = Prefetched(self.make)
        self.assertEqual(prefetched(6), 36)
        for _ in range(2):
            with self.assertRaisesRegex(ValueError, "step 7 is broken"):
                prefetched(7)
        self.assertEqual(prefetched(8), 64)

    def test_batches_are_the_same(self):
        prefetched, direct = Prefetched(batches()), batches()
        for step in (0, 1, 5):
            chex.assert_trees_all_equal(prefetched(step), direct(step))


if __name__ == "__main__":
    absltest.main()
