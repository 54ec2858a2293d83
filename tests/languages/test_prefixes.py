"""Prefixes in grids: each of the sample once, in an order that a network can follow; and the loss of the sample."""

import collections
import functools
import itertools

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.languages.architectures import architecture
from metalearn.languages.episodes import distinct
from metalearn.languages.lstm import lstm, lstm_cell
from metalearn.languages.model import Strings, cross_entropy
from metalearn.languages.prefixes import Prefixes, cheapest, fit, grids_of
from metalearn.languages.recurrent import recurrent
from metalearn.languages.tokens import END, FIRST_SYMBOL, PAD, START, VOCABULARY, encode
from tests.core.problems import compiled
from tests.languages.slow_lstm import random_params

A, B = FIRST_SYMBOL, FIRST_SYMBOL + 1
SAMPLE = [(0,), (0, 1, 2), (0,), (), (1, 1), (0, 1, 2), (0, 1), (2, 1, 0, 0, 1, 1), (0, 1, 1)]


def token_strings(sample, length=None):
    """Distinct strings as token lists, cut at `length` tokens, and their counts."""
    strings, counts = distinct(sample)
    return [row[row != PAD].tolist() for row in encode(strings, length)], counts


def random_sample(seed=0, count=60, symbols=3, longest=9):
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(symbols, size=rng.integers(longest + 1)).tolist()) for _ in range(count)]


def stacked(grids):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *grids)


def empty(times, rows):
    none = np.full((times, rows), times * rows, np.int32)
    counts = np.zeros((times, rows, VOCABULARY), np.float32)
    return Prefixes(np.full_like(none, PAD), none, none, none, counts, np.int32(0))


def spelled(grid):
    """{cell: prefix} of one grid, each put together by following parents."""
    tokens, parents = grid.tokens.ravel().tolist(), grid.parents.ravel().tolist()
    none = len(tokens)

    def prefix(cell):
        return () if cell == none else (*prefix(parents[cell]), tokens[cell])

    return {cell: prefix(cell) for cell in range(none) if tokens[cell] != PAD}


class LayoutTest(parameterized.TestCase):
    def test_by_hand(self):
        """ab, abb and b: of two children of START the one with more to come is first, and the other has to wait."""
        start, a, b, end = START, A, B, END
        grid = fit([[start, a, b, end], [start, a, b, b, end], [start, b, end]], [5, 7, 9], 4, 2)
        np.testing.assert_array_equal(grid.tokens, [[start, PAD], [a, PAD], [b, b], [b, PAD]])
        np.testing.assert_array_equal(grid.parents, [[8, 8], [0, 8], [2, 0], [4, 8]])
        np.testing.assert_array_equal(grid.children, [[2, 8], [4, 8], [6, 8], [8, 8]])
        np.testing.assert_array_equal(grid.siblings, [[8, 8], [5, 8], [8, 8], [8, 8]])
        expected = {(0, a): 12, (0, b): 9, (2, b): 12, (4, end): 5, (4, b): 7, (5, end): 9, (6, end): 7}
        counts = grid.counts.reshape(-1, VOCABULARY)
        self.assertEqual({(int(c), int(t)): counts[c, t] for c, t in zip(*np.nonzero(counts), strict=True)}, expected)

    @parameterized.parameters((12, 4, None), (10, 3, None), (7, 3, 7), (40, 100, None))
    def test_every_prefix_is_there_with_what_follows_it(self, times, rows, length):
        strings, counts = token_strings(random_sample(), length)
        expected = collections.Counter()
        for string, count in zip(strings, counts, strict=True):
            for i in range(1, len(string)):
                expected[tuple(string[:i]), string[i]] += count
        found = collections.Counter()
        grids = grids_of(strings, counts, times, rows)
        for grid in grids:
            chex.assert_shape([grid.tokens, grid.parents, grid.children, grid.siblings], (times, rows))
            prefixes = spelled(grid)
            self.assertLen(set(prefixes.values()), len(prefixes))  # none twice
            for cell, prefix in prefixes.items():
                for token in np.flatnonzero(grid.counts.reshape(-1, VOCABULARY)[cell]):
                    found[prefix, int(token)] += int(grid.counts.reshape(-1, VOCABULARY)[cell, token])
        self.assertEqual(found, expected)
        self.assertEqual(len(grids) == 1, rows == 100)

    @parameterized.parameters((12, 4), (10, 3))
    def test_a_cell_comes_after_its_parent_and_the_sibling_before_it(self, times, rows):
        for grid in grids_of(*token_strings(random_sample()), times, rows):
            prefixes, none = spelled(grid), times * rows
            handed = collections.Counter()
            for cell in prefixes:
                parent, child, sibling = (int(x.ravel()[cell]) for x in grid[1:4])
                if parent != none:
                    self.assertLess(parent // rows, cell // rows)
                if child != none:
                    self.assertEqual(prefixes[child][:-1], prefixes[cell])
                if sibling != none:
                    self.assertEqual(prefixes[sibling][:-1], prefixes[cell][:-1])
                    self.assertLess(cell // rows, sibling // rows)
                handed.update(c for c in (child, sibling) if c != none)
            # Each but the root is the first child of one cell, or the next sibling of one.
            self.assertEqual(handed, {cell: 1 for cell, prefix in prefixes.items() if len(prefix) > 1})

    def test_the_fewest_times_that_will_do(self):
        """Against all orders of a tiny tree: no schedule of two rows is shorter than the one that was found."""
        strings, counts = token_strings([(0, 0, 0), (0, 1), (1, 0), (1, 1), (2,)])
        nodes = sorted({tuple(s[:i]) for s in strings for i in range(1, len(s))})

        def possible(times):
            def go(time, placed, waiting):
                if not waiting:
                    return True
                if time == times:
                    return False
                ready = [n for n in waiting if n[:-1] in placed or len(n) == 1]
                for now in itertools.chain(itertools.combinations(ready, 2), itertools.combinations(ready, 1)):
                    if len({n[:-1] for n in now}) == len(now):  # no two children of one node at once
                        if go(time + 1, placed | set(now), [n for n in waiting if n not in now]):
                            return True
                return False

            return go(0, frozenset(), nodes)

        least = next(times for times in range(1, 20) if possible(times))
        self.assertIsNotNone(fit(strings, counts, least, 2))
        self.assertIsNone(fit(strings, counts, least - 1, 2))

    def test_what_does_not_fit(self):
        strings, counts = token_strings([(0, 0, 0)])
        self.assertIsNone(fit(strings, counts, 3, 9))
        with self.assertRaisesRegex(ValueError, "5 tokens needs 4 times, and the grids have 3"):
            grids_of(strings, counts, 3, 9)

    @parameterized.parameters(
        ([(0, 1, 2)], [(2, 9), (9, 2), (4, 1), (4, 2)], (4, 1)),  # one row does, but not in two times
        (list(itertools.product(range(2), repeat=3)), [(5, 1), (20, 1), (20, 4)], (20, 1)),  # in one grid, not in many
        (list(itertools.product(range(2), repeat=3)), [(8, 8), (16, 2)], (16, 2)),  # what is left empty costs as well
        ([(0, 1, 2)], [(4, 1), (4, 2), (5, 1), (6, 1)], (4, 1)),  # filled to the last cell
    )
    def test_the_size_that_takes_the_least_work(self, sample, sizes, best):
        alone = token_strings(sample)
        both = cheapest([alone, alone], sizes)
        for grids in both:
            self.assertEqual({grid.tokens.shape for grid in grids}, {best})
            chex.assert_trees_all_equal(stacked(grids), stacked(grids_of(*alone, *best)))
        self.assertLen(both, 2)

    def test_strings_that_begin_alike_share_a_grid(self):
        """Two families of 40 strings, each in 2 grids of its own but for what is left over."""
        sample = [(first, *tail) for first in (0, 1) for tail in itertools.product(range(3), repeat=3)]
        grids = grids_of(*token_strings(sample), 12, 4)
        firsts = [{prefix[1] for prefix in spelled(grid).values() if len(prefix) > 1} for grid in grids]
        self.assertEqual(sum(len(f) > 1 for f in firsts), 1)


@functools.cache
def loss_and_gradient(name):
    return compiled(jax.value_and_grad(functools.partial(cross_entropy, architecture(name, VOCABULARY, 4))))


class LossTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.whole = Strings(encode(SAMPLE, 8), np.ones(len(SAMPLE)))

    @parameterized.parameters("lstm", "queue")
    def test_is_that_of_the_strings(self, name):
        of, params = loss_and_gradient(name), random_params(architecture(name, VOCABULARY, 4))
        prefixes = fit(*token_strings(SAMPLE), 8, 5)
        chex.assert_trees_all_close(of(params, prefixes), of(params, self.whole), rtol=1e-11, atol=1e-14)

    def test_several_grids_with_empty_ones_behind(self):
        of, params = loss_and_gradient("lstm"), random_params(lstm(VOCABULARY, 4))
        grids = grids_of(*token_strings(SAMPLE), 7, 2)
        self.assertLen(grids, 2)
        found = of(params, stacked([*grids, empty(7, 2)]))
        chex.assert_trees_all_close(found, of(params, self.whole), rtol=1e-11, atol=1e-14)

    def test_empty_grids_are_not_computed(self):
        computed = []

        def logits_after(params, prefixes, key):
            jax.debug.callback(lambda tokens: computed.append(tokens), prefixes.tokens)
            return jax.nn.one_hot(prefixes.tokens, VOCABULARY) @ params

        model = lstm(VOCABULARY, 4)._replace(logits_after=logits_after)
        grids = grids_of(*token_strings(SAMPLE), 7, 2)
        loss = jax.jit(jax.value_and_grad(functools.partial(cross_entropy, model)))
        jax.block_until_ready(loss(np.eye(VOCABULARY), stacked([*grids, empty(7, 2), empty(7, 2)])))
        jax.effects_barrier()
        chex.assert_trees_all_equal(np.stack(computed), stacked(grids).tokens)

    def test_dropout(self):
        model = lstm(VOCABULARY, 4, dropout=0.4)
        params, prefixes = random_params(model), fit(*token_strings(SAMPLE), 8, 5)
        loss = compiled(functools.partial(cross_entropy, model))
        values = [float(loss(params, prefixes, jax.random.key(seed))) for seed in (0, 0, 1)]
        self.assertEqual(values[0], values[1])
        self.assertGreater(abs(values[0] - values[2]), 1e-4)
        chex.assert_trees_all_close(
            compiled(functools.partial(cross_entropy, model))(params, prefixes),
            loss_and_gradient("lstm")(params, self.whole)[0],
        )


class BranchingTest(parameterized.TestCase):
    """The LSTM's own derivatives of all orders against those that JAX takes of a scan over its cells."""

    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.prefixes = fit(*token_strings(SAMPLE), 13, 3)
        self.assertLess(self.prefixes.times, 13)
        self.own, self.scanned = lstm(VOCABULARY, 3), recurrent(lstm_cell()._replace(branch=None), VOCABULARY, 3)
        self.params, self.direction = (random_params(self.own, seed) for seed in (0, 1))

    def check(self, derivative):
        own, scanned = (
            compiled(lambda params, m=model: derivative(lambda p: cross_entropy(m, p, self.prefixes), params))(
                self.params
            )
            for model in (self.own, self.scanned)
        )
        chex.assert_trees_all_close(own, scanned, rtol=1e-10, atol=1e-13)

    @parameterized.parameters(False, True)
    def test_gradient(self, all_times):
        self.go_through(all_times)
        self.check(lambda loss, params: jax.value_and_grad(loss)(params))

    @parameterized.parameters(False, True)
    def test_tangent_of_the_gradient(self, all_times):
        self.go_through(all_times)
        self.check(lambda loss, params: jax.jvp(jax.grad(loss), (params,), (self.direction,))[1])

    def test_gradient_of_the_gradient(self):
        along = lambda loss: (
            lambda p: jax.tree.reduce(
                lambda a, b: a + b, jax.tree.map(lambda g, d: (g * d).sum(), jax.grad(loss)(p), self.direction)
            )
        )
        self.go_through(all_times=True)
        self.check(lambda loss, params: jax.grad(along(loss))(params))

    def go_through(self, all_times):
        if all_times:
            self.prefixes = self.prefixes._replace(times=None)

    def test_side_by_side_as_alone(self):
        """Grids of which some need fewer times than others, under `vmap`; a tangent of the gradient needs all loops."""
        samples = [SAMPLE, [(0,), ()], random_sample(longest=4)]
        grids = stacked([fit(*token_strings(sample), 60, 3) for sample in samples])
        self.assertLen(set(grids.times.tolist()), 3)
        loss = functools.partial(cross_entropy, self.own)
        tangent = lambda grid: jax.jvp(lambda p: jax.grad(loss)(p, grid), (self.params,), (self.direction,))
        chex.assert_trees_all_close(
            compiled(jax.vmap(tangent))(grids), compiled(functools.partial(jax.lax.map, tangent))(grids), rtol=1e-11
        )

    def test_times_beyond_the_last_prefix_are_not_gone_through(self):
        calls = []

        def product(x, weights):
            jax.debug.callback(lambda: calls.append(1))
            return x @ weights

        model = recurrent(lstm_cell(product), VOCABULARY, 3, layers=1)
        value = compiled(functools.partial(cross_entropy, model))(random_params(model), self.prefixes)
        jax.block_until_ready(value)
        jax.effects_barrier()
        self.assertLen(calls, 1 + self.prefixes.times)  # what the tokens drive, and one each time


if __name__ == "__main__":
    absltest.main()
