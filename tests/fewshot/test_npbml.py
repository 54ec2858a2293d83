"""NPBML against MAML's loop written by hand, where both coincide, and against its definition in numpy elsewhere.

The properties T1 to T20 by which an implementation can be told to be right: T2 to T10, T14, T15, T19 and T20 are here,
T12 is in test_encoders.py, T1, T11, T13 and T16 in test_family.py, T17 in test_episodes.py, and T18 in
tests/experiments/test_few_shot.py.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from metalearn.core import exact, unroll
from metalearn.fewshot.encoders import encode, four_conv, resnet12
from metalearn.fewshot.family import CODE, PAPER, Weights, algorithm
from metalearn.fewshot.family.biases import COMPONENTS, LOSSES, OUTER_CODE, OUTER_PAPER, TABLE_3, TABLE_4, Biases
from metalearn.fewshot.family.npbml import Procedure
from metalearn.fewshot.heads import Head
from metalearn.fewshot.learned_loss import (
    init_loss_net,
    loss_net,
    prototype_scores,
    rows_of,
    safe_sqrt,
    smooth_leaky_relu,
    statistics_of,
)
from metalearn.fewshot.relation import ScoredEpisode
from tests.core.problems import compiled
from tests.fewshot import slow_npbml, tiny
from tests.fewshot.test_family import RESNET, FamilyTest

RULE = {"momentum": 0.0, "weight_decay": 0.0}
APART = dataclasses.replace(PAPER, batch="apart")
LAST = dataclasses.replace(CODE, scores="prototypes", **RULE)


def replaced(reading, /, **changes):
    return dataclasses.replace(reading, **changes)


def at_identity(meta):
    """`meta`, where what NPBML adds to MAML changes nothing: warps, modulation, and terms of the loss."""
    meta = dict(meta)
    nothing = lambda tree: jax.tree.map(np.zeros_like, tree)
    if "warps" in meta:
        middle = np.zeros((3, 3, 1, 1))
        middle[1, 1] = 1
        identity = lambda kernel: middle * np.eye(kernel.shape[-1])
        meta["warps"] = tuple(
            tuple(w._replace(kernel=identity(w.kernel), film=nothing(w.film)) for w in block) for block in meta["warps"]
        )
    if "film" in meta:
        meta["film"] = nothing(meta["film"])
    if "losses" in meta:
        meta["losses"] = {name: (*net[:-1], nothing(net[-1])) for name, net in meta["losses"].items()}
    return meta


class NpbmlTest(FamilyTest):
    def built(self, biases=PAPER, **changes):
        """NPBML, and random meta-parameters for it."""
        of = algorithm("npbml", tiny.setting(**changes), biases=biases)
        empty = jax.tree.map(lambda x: np.zeros(x.shape), jax.eval_shape(of.init, jax.random.key(0)))
        # The networks of the loss are of high degree in the logits: they stay close to zero.
        weights = {name: empty.pop(name) for name in ("body", "row", "head") if name in empty}
        return of, tiny.randomised(weights) | tiny.randomised(empty, seed=1, scale=0.1)

    def states(self, of, meta, task=None, steps=tiny.STEPS):
        """The params of the K + 1 states, by single steps of the process."""
        task = of.process.prepare(meta, self.task if task is None else task)
        state = of.process.init(meta, task, None)
        params = [state.params]
        for _ in range(steps):
            state = of.process.step(meta, state, (), task)
            params.append(state.params)
        return params

    def judged(self, of, meta, params, task=None):
        task = of.process.prepare(meta, self.task if task is None else task)
        state = of.process.init(meta, task, None)
        return of.process.loss(meta, state._replace(params=params), None, task)[0]

    def as_weights(self, meta, params):
        """All weights of the classifier."""
        joined = lambda name, blocks: (*blocks[: len(blocks) - len(params[name])], *params[name])
        norms = joined("norms", meta["body"].norms) if "norms" in params else meta["body"].norms
        body = meta["body"]._replace(kernels=joined("kernels", meta["body"].kernels), norms=norms)
        return Weights(body, params["head"])

    def start(self, meta):
        """MAML's, with one row for all ways."""
        row = meta["row"]
        return Weights(meta["body"], Head(np.tile(row.weights[:, None], (1, tiny.WAYS)), np.tile(row.bias, tiny.WAYS)))

    def scored(self, seed=0):
        return ScoredEpisode(
            *self.task, np.random.default_rng(seed).uniform(size=(tiny.WAYS * tiny.QUERIES, tiny.WAYS))
        )

    def unlike(self, params):
        """`params`, with noise on the head: ways that are alike say nothing."""
        noise = tiny.randomised(jax.tree.map(lambda x: np.zeros(x.shape), params["head"]))
        return params | {"head": jax.tree.map(jnp.add, params["head"], noise)}

    def assert_differ(self, one, other, least=1e-4):
        gaps = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), one, other)
        self.assertGreater(max(jax.tree.leaves(gaps)), least)


class IdentityTest(NpbmlTest):
    """With identity biases it is MAML, step by step (T4)."""

    def test_maml(self):
        of, meta = self.built(APART)
        meta = at_identity(meta)
        found = self.states(of, meta)
        expected = tiny.slow_states(self.start(meta), self.task, tiny.rates_like(self.start(meta), self.rate))
        self.assert_same([self.as_weights(meta, params) for params in found], expected)
        value, _ = tiny.value_and_gradient(expected[-1], self.task.query_x, self.task.query_y)
        np.testing.assert_allclose(self.judged(of, meta, found[-1]), value, rtol=1e-9)

    def test_nothing_but_a_learned_initialisation_is_maml(self):
        """Of which each way has its own row; the first row of both tables."""
        of, meta = self.built(replaced(APART, head="ways").only(*TABLE_3["initialisation"]))
        self.assertEqual(meta.keys(), {"body", "head"})
        self.assert_same([self.as_weights(meta, params) for params in self.states(of, meta)], self.slow(meta))

    def test_the_last_block_and_the_head(self):
        """All of the code's other readings, but for the warp's own normalisation."""
        of, meta = self.built(replaced(LAST, warp_norm=False, batch="apart", loss_output="identity"))
        meta = at_identity(meta)
        found = self.states(of, meta)
        self.assertEqual(found[0].keys(), {"film", "head", "kernels"})
        of_block, of_head = (tiny.rates_like(self.start(meta), self.rate, only) for only in (".kernels[1]", ".head"))
        rates = jax.tree.map(np.maximum, of_block, of_head)
        expected = tiny.slow_states(self.start(meta), self.task, rates)
        self.assert_same([self.as_weights(meta, params) for params in found[:2]], expected[:2])

    def test_in_one_batch(self):
        """Support and query normalised together, for adaptation and for prediction."""
        of, meta = self.built(replaced(PAPER, final_batch="joint"))
        meta = at_identity(meta)
        images = np.concatenate([self.task.support_x, self.task.query_x])
        count = len(self.task.support_x)

        def loss(weights):
            scores = encode(tiny.ENCODER, weights.body, images)[0] @ weights.head.weights + weights.head.bias
            rows = jax.nn.log_softmax(scores)
            of_support, of_query = rows[:count], rows[count:]
            query = -jnp.mean(of_query[jnp.arange(len(of_query)), self.task.query_y])
            return -jnp.mean(of_support[jnp.arange(count), self.task.support_y]), query

        slow = compiled(jax.grad(loss, has_aux=True))
        weights = self.start(meta)
        for params in self.states(of, meta):
            self.assert_same(self.as_weights(meta, params), weights)
            gradient, query = slow(weights)
            np.testing.assert_allclose(self.judged(of, meta, params), query, rtol=1e-9)
            weights = jax.tree.map(lambda w, g: np.asarray(w - self.rate * g), weights, gradient)

    def test_momentum_and_decay(self):
        of, meta = self.built(replaced(APART, momentum=0.9, weight_decay=0.2))
        meta = at_identity(meta)
        expected = [self.start(meta)]
        buffer = jax.tree.map(np.zeros_like, expected[0])
        for _ in range(tiny.STEPS):
            _, gradient = tiny.value_and_gradient(expected[-1], self.task.support_x, self.task.support_y)
            gradient = jax.tree.map(lambda g, w: g + 0.2 * w, gradient, expected[-1])
            buffer = jax.tree.map(lambda b, g: 0.9 * b + g, buffer, gradient)
            step = jax.tree.map(lambda g, b: self.rate * (g + 0.9 * b), gradient, buffer)
            expected.append(jax.tree.map(lambda w, s: w - s, expected[-1], step))
        self.assert_same([self.as_weights(meta, params) for params in self.states(of, meta)], expected)

    def test_on_resnet12(self):
        of, meta = self.built(APART, encoder=RESNET)
        meta = at_identity(meta)
        self.assertLen(meta["warps"][1], 3)  # the shortcut has none
        maml, _ = self.of("maml", encoder=RESNET)
        weights = self.start(meta)
        key = jax.random.key(0)
        state = maml.process.init({"body": weights.body, "head": weights.head}, self.task, key)
        for params in self.states(of, meta):
            self.assert_same(self.as_weights(meta, params), state.params)
            state = maml.process.step({}, state, (), self.task)

    def test_a_warp_with_its_own_normalisation_is_no_identity(self):
        """T5: whatever its kernel."""
        of, meta = self.built(replaced(APART, warp_place="block", warp_norm=True))
        meta = at_identity(meta)
        params = self.unlike(self.states(of, meta, steps=0)[0])
        weights = self.as_weights(meta, params)
        value, _ = tiny.value_and_gradient(weights, self.task.query_x, self.task.query_y)
        self.assertGreater(abs(self.judged(of, meta, params) - value), 1e-3)

    @parameterized.parameters("zero", "uniform")
    def test_begins_close_to_maml_if_its_biases_are_zero(self, biases):
        """T20."""
        of = algorithm("npbml", tiny.setting(), biases=replaced(APART, biases=biases))
        meta = of.init(jax.random.key(0))
        found = self.as_weights(meta, self.states(of, meta)[-1])
        start = jax.tree.map(np.asarray, self.start(meta))
        maml = tiny.slow_states(start, self.task, tiny.rates_like(start, self.rate))[-1]
        most = lambda one, other: max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), one, other)))
        share = most(found, maml) / most(found, start)
        (self.assertLess if biases == "zero" else self.assertGreater)(share, 0.2)


READINGS = {
    "paper": PAPER,
    "code": LAST,
    "given": replaced(CODE, **RULE),
    "warps": APART.only("warps"),
    "inductive": replaced(PAPER, head="ways", film="none").only("inductive"),
    "transductive": replaced(APART, film="none").only("transductive"),
    "regulariser": replaced(PAPER, film="none").only("regulariser"),
    "film": replaced(APART, film_input="means").only("film"),
    "blocks": replaced(PAPER, warp_place="block", warp_norm=True, film_moves=True, final_batch="joint"),
    "modulated losses": replaced(PAPER, film="losses", warps="none", moments="detached"),
}


class DefinitionTest(NpbmlTest):
    """The inner loss and the prediction are those of the definition in numpy."""

    @parameterized.parameters(*READINGS)
    def test_inner_loss_and_prediction(self, name):
        biases = READINGS[name]
        of, meta = self.built(biases)
        task = self.scored() if biases.scores == "given" else self.task
        start, moved = (jax.tree.map(np.asarray, p) for p in self.states(of, meta, task, steps=1))
        held = start if biases.moments == "detached" else None
        loss = lambda params: sum(slow_npbml.terms(biases, meta, params, task, jax.tree.leaves, held).values())
        self.assert_descends(start, moved, loss)
        images = task.query_x
        if biases.final_batch == "joint":
            images = np.concatenate([task.support_x, images])
        _, scores = slow_npbml.logits(biases, meta, moved, images)
        rows = slow_npbml.log_softmax(scores[-len(task.query_x) :])
        expected = -rows[np.arange(len(rows)), task.query_y].mean()
        np.testing.assert_allclose(self.judged(of, meta, moved, task), expected, rtol=1e-9)

    def test_terms_have_names(self):
        of, meta = self.built(PAPER)
        params = jax.tree.map(np.asarray, self.states(of, meta, steps=0)[0])
        procedure = Procedure(tiny.setting(), PAPER)
        found = procedure.terms(meta, params, self.task, procedure.seen(meta, self.task))
        self.assert_same(found, slow_npbml.terms(PAPER, meta, params, self.task, jax.tree.leaves))


class ComponentsTest(NpbmlTest):
    """From identity biases, what each component changes, and what it leaves."""

    def changed(self, component, biases=APART):
        """States and judged start at identity, and with one component away from it."""
        of, meta = self.built(biases)
        found = []
        for at in (at_identity(meta), self.with_one(meta, component)):
            params = self.states(of, at, self.scored())
            found.append((params, self.judged(of, at, self.unlike(params[0]), self.scored())))
        return found

    def with_one(self, meta, component):
        plain = at_identity(meta)
        if component in LOSSES:
            return plain | {"losses": plain["losses"] | {component: meta["losses"][component]}}
        return plain | {component: meta[component]}

    @parameterized.parameters(*LOSSES)
    def test_a_term_of_the_loss_changes_updates_and_no_prediction(self, component):
        (plain, before), (changed, after) = self.changed(component, replaced(APART, scores="given"))
        self.assert_same(before, after)
        self.assert_differ(plain[1], changed[1])

    @parameterized.parameters("warps", "film")
    def test_what_is_in_the_forward_pass_changes_predictions_and_stays(self, component):
        (plain, before), (changed, after) = self.changed(component)
        self.assertGreater(abs(before - after), 1e-4)
        self.assertEqual(changed[1].keys(), {"head", "kernels", "norms"})

    def test_the_pull_of_each_term_comes_from_what_it_is_shown(self):
        """The pull: the first update, less what it is without the term."""
        of, meta = self.built(replaced(APART, scores="given"))

        @compiled
        def update(meta, task):
            task = of.process.prepare(meta, task)
            return of.process.step(meta, of.process.init(meta, task, None), (), task).params

        def pull(component, task):
            moved = (update(at, task) for at in (self.with_one(meta, component), at_identity(meta)))
            return np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, moved), strict=True)])

        other, task = tiny.new_task(1), self.scored()
        changes = {
            "support": {"support_x": other.support_x},
            "labels": {"support_y": task.support_y[::-1]},
            "query": {"query_x": other.query_x},
            "scores": {"scores": self.scored(1).scores},
        }
        shown = {"inductive": {"support", "labels"}, "transductive": {"query", "scores"}, "regulariser": set()}
        for component, of_term in shown.items():
            plain = pull(component, task)
            for name, change in changes.items():
                with self.subTest(f"{component}, {name}"):
                    difference = np.abs(pull(component, task._replace(**change)) - plain).max()
                    if name in of_term:
                        self.assertGreater(difference, 1e-3 * np.abs(plain).max())
                    else:
                        self.assertLess(difference, 1e-10 * np.abs(plain).max() + 1e-13)

    def test_a_component_that_is_off_has_no_parameters(self):
        keys = lambda biases: jax.eval_shape(algorithm("npbml", tiny.setting(), biases=biases).init, jax.random.key(0))
        self.assertEqual(keys(PAPER.only()).keys(), {"body", "row"})
        self.assertEqual(keys(PAPER.only("warps")).keys(), {"body", "row", "warps"})
        self.assertIsNone(keys(PAPER.only("warps"))["warps"][0][0].film)
        self.assertEqual(keys(PAPER.only("film")).keys(), {"body", "row", "film"})
        only = keys(PAPER.only("inductive", "regulariser"))
        self.assertEqual(only["losses"].keys(), {"inductive", "regulariser"})
        self.assertIsNone(only["losses"]["inductive"][0].film)
        shared = keys(replaced(LAST, inductive=False))
        self.assertEqual(shared["losses"].keys(), {"inductive", "regulariser"})  # the network of L^S serves L^Q
        self.assertEqual([len(block) for block in shared["film"]], [0, 1])
        self.assertEqual([len(block) for block in shared["warps"]], [0, 1])

    def test_tables(self):
        self.assertEqual(PAPER.only(*TABLE_3["NPBML"]), PAPER)
        self.assertEqual(CODE.only(*TABLE_3["+ preconditioner, loss"]), replaced(CODE, film="none"))
        self.assertEqual(
            CODE.only(*TABLE_4["transductive"]),
            replaced(CODE, warps="none", inductive=False, regulariser=False, film="none"),
        )
        self.assertLen(TABLE_3, 5)
        self.assertLen(TABLE_4, 5)
        self.assertEqual({name for row in TABLE_3.values() for name in row}, set(COMPONENTS))


class HeldTest(NpbmlTest):
    """What the outer loop does not learn."""

    def gradient(self, biases):
        """Of the loss of the first state."""
        of, meta = self.built(biases)
        value = lambda meta: self.judged(of, meta, self.unlike(self.states(of, meta, steps=0)[0]))
        return jax.grad(value)(meta)

    def test_of_the_start(self):
        largest = lambda tree: max((np.abs(x).max() for x in jax.tree.leaves(tree)), default=0.0)
        plain = replaced(LAST.only(), head="learned_row", affine=True, adapted="last")
        for biases, held in (
            (replaced(plain, initialisation="all"), ()),
            (replaced(plain, initialisation="adapted"), ("kernels[0]", "norms[0]")),
            (replaced(plain, initialisation="adapted", affine=False), ("kernels[0]", "norms")),
            (replaced(plain, initialisation="none"), ("body", "row")),
            (replaced(plain, initialisation="all", head="random_row"), ("row",)),
        ):
            found = self.gradient(biases)
            for path, leaf in jax.tree_util.tree_leaves_with_path(found):
                name = jax.tree_util.keystr(path)
                stays = any(part in name for part in held)
                with self.subTest(f"{biases.initialisation} {biases.affine} {name}"):
                    (self.assertEqual if stays else self.assertGreater)(largest(leaf), 0)


class PropertiesTest(NpbmlTest):
    def test_effective_kernels_move_by_the_metric_of_the_warps(self):
        """T2: W = theta T, so W' = W - rate * dL/dW T^T T; T3: with T = c, by c^2 times the rate."""
        of, meta = self.built(replaced(APART, head="ways").only("warps"))
        draw = np.random.default_rng(0).normal
        for transform in (draw(size=(3, 3)), 1.5 * np.eye(3)):
            kernel = np.zeros((3, 3, 3, 3))
            kernel[1, 1] = transform
            meta["warps"] = tuple((block[0]._replace(kernel=kernel),) for block in meta["warps"])

            def in_force(params, transform=transform, meta=meta):
                weights = jax.tree.map(np.asarray, self.as_weights(meta, params))
                body = weights.body._replace(kernels=jax.tree.map(lambda k: k @ transform, weights.body.kernels))
                return weights._replace(body=body)

            found = [in_force(params) for params in self.states(of, meta)]
            for before, after in zip(found, found[1:], strict=False):
                _, gradient = tiny.value_and_gradient(before, self.task.support_x, self.task.support_y)
                gradient = jax.tree.map(np.asarray, gradient)
                metric = transform.T @ transform
                bent = jax.tree.map(lambda g, metric=metric: g @ metric, gradient.body.kernels)
                bent = gradient._replace(body=gradient.body._replace(kernels=bent))
                self.assert_same(after, jax.tree.map(lambda w, g: w - self.rate * g, before, bent))

    def test_one_row_for_all_ways(self):
        """T6 and T7: at first no gradient reaches the body; relabelling classes relabels the adapted head."""
        order = np.array([2, 0, 1])
        relabelled = self.task._replace(support_y=order[self.task.support_y])
        for biases, indifferent in ((APART.only(), True), (APART.only("inductive"), False)):
            of, meta = self.built(biases)
            found, other = self.states(of, meta), self.states(of, meta, relabelled)
            if indifferent:
                self.assert_same(found[1]["kernels"], meta["body"].kernels)
                self.assert_differ(found[2]["kernels"], meta["body"].kernels)
                self.assert_same(other[-1]["head"].weights[:, order], found[-1]["head"].weights)
            else:
                self.assert_differ(found[1]["kernels"], meta["body"].kernels)
                self.assert_differ(other[-1]["head"].weights[:, order], found[-1]["head"].weights)

    @parameterized.product(batch=("joint", "apart"), transductive=(False, True))
    def test_query_labels_never_drive_updates_and_query_images_may(self, batch, transductive):
        """T19."""
        of, meta = self.built(replaced(PAPER, batch=batch, transductive=transductive))
        found = self.states(of, meta, steps=1)[-1]
        labels = self.task._replace(query_y=self.task.query_y[::-1])
        self.assert_same(self.states(of, meta, labels, steps=1)[-1], found)
        images = self.states(of, meta, self.task._replace(query_x=tiny.new_task(3).query_x), steps=1)[-1]
        if batch == "joint" or transductive:
            self.assert_differ(images, found)
        else:
            self.assert_same(images, found)

    def test_what_stays_is_computed_once(self):
        """And is what the whole network would compute: that with blocks that move at no rate."""
        biases = replaced(PAPER, adapted="last", affine=False, film_blocks="all", warps="all")
        of, meta = self.built(biases)
        _, seen = of.process.prepare(meta, self.task)
        self.assertEqual(seen.adapting[0].shape, (len(self.task.support_x), 4, 4, 3))
        start, moved = (jax.tree.map(np.asarray, p) for p in self.states(of, meta, steps=1))
        loss = lambda params: sum(slow_npbml.terms(biases, meta, params, self.task, jax.tree.leaves).values())
        self.assert_descends(start, moved, loss)

    def test_normalised_by_the_support_set_query_images_do_not_see_each_other(self):
        of, meta = self.built(replaced(LAST, transductive=False), normalisation="support")
        params = self.states(of, meta, steps=1)[1]
        value = lambda task: self.judged(of, meta, params, task)
        company = np.concatenate([self.task.query_x[:1], 3 + tiny.new_task(5).query_x[1:]])
        # The loss is linear in the label of one image, so a change of label isolates its logits.
        labels = [np.concatenate([[way], self.task.query_y[1:]]) for way in (0, 1)]
        per_label = lambda x: [value(self.task._replace(query_x=x, query_y=y)) for y in labels]
        one, other = per_label(self.task.query_x), per_label(company)
        np.testing.assert_allclose(one[0] - one[1], other[0] - other[1], rtol=1e-9)
        moved = self.states(of, meta, self.task._replace(query_x=company), steps=1)[1]
        self.assert_same(moved, params)


class GradientTest(NpbmlTest):
    """Meta-gradients."""

    def test_exact_gradients_are_the_slopes_for_every_group(self):
        """T9. The networks of the loss act through the inner gradient alone: to first order they have none."""
        of, meta = self.built(PAPER)
        meta["losses"] = jax.tree.map(lambda x: 0.5 * x, meta["losses"])  # else the loss is a very steep one
        gradients = compiled(lambda meta: exact(of.process, of.objective)(meta, self.task, jax.random.key(0)).gradient)
        value = compiled(lambda meta: unroll(of.process, of.objective, meta, self.task, jax.random.key(0)).value)
        found = gradients(meta)
        for name in meta:
            with self.subTest(name):
                direction = jax.tree.map(np.zeros_like, meta)
                direction[name] = tiny.randomised(direction[name])
                above, below = (value(tiny.shifted(meta, direction, size)) for size in (1e-5, -1e-5))
                slope = (above - below) / 2e-5
                along = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (found, direction)), strict=True))
                self.assertGreater(abs(slope), 1e-6)
                np.testing.assert_allclose(along, slope, rtol=1e-5)

    def test_without_updates_it_is_the_query_gradient(self):
        """T8."""
        of, meta = self.built(APART)
        meta = at_identity(meta)
        found = jax.grad(lambda meta: unroll(of.process, np.ones(1), meta, self.task, jax.random.key(0)).value)(meta)
        _, expected = tiny.value_and_gradient(self.start(meta), self.task.query_x, self.task.query_y)
        self.assert_same(found["body"], expected.body)
        self.assert_same(found["row"], Head(expected.head.weights.sum(1), expected.head.bias.sum()))
        for leaf in jax.tree.leaves(found["losses"]):
            self.assertEqual(np.abs(leaf).max(), 0)


class LearnedLossTest(NpbmlTest):
    def test_smooth_leaky_relu(self):
        """T14."""
        np.testing.assert_allclose(smooth_leaky_relu(np.float64(0)), 0.75 * np.log(2) / 5, rtol=1e-12)
        slopes = [jax.grad(smooth_leaky_relu)(np.float64(x)) for x in (-20.0, 0.0, 20.0)]
        np.testing.assert_allclose(slopes, [0.25, 0.625, 1.0], rtol=1e-12)

    @parameterized.parameters((11, 6_483), (20, 7_563), (52, 11_403))
    def test_sizes(self, inputs, expected):
        sizes = lambda film: sum(
            leaf.size
            for leaf in jax.tree.leaves(
                jax.eval_shape(lambda k: init_loss_net(k, inputs, film=film), jax.random.key(0))
            )
        )
        self.assertEqual(sizes(True), expected)
        if inputs == 11:
            self.assertEqual(sizes(False), 2_161)

    def test_initial_values(self):
        for biases, bound in (("zero", 0), ("uniform", 30**-0.5)):
            net = init_loss_net(jax.random.key(0), 30, film=True, biases=biases)
            for layer in (net[0].dense, net[0].film):
                np.testing.assert_allclose(layer.weights.std(), 0.01, rtol=0.1)
                largest = np.abs(layer.bias).max()
                self.assertLessEqual(largest, bound)
                self.assertGreaterEqual(largest, 0.9 * bound)

    def test_rows(self):
        logits, labels = np.array([[1.0, 2.0, 0.5]]), np.array([[0.0, 0.0, 1.0]])
        surprise = np.log(np.exp(logits).sum()) - 0.5
        np.testing.assert_allclose(rows_of(logits, labels), [[1.0, 2.0, 0.5, 0, 0, 1, surprise]], rtol=1e-12)
        np.testing.assert_allclose(rows_of(logits, np.array([[0.3, 0.2, 0.9]]))[0, -1], surprise, rtol=1e-12)

    def test_prototype_scores(self):
        support, query = np.array([[0.0, 0], [2.0, 0], [0, 4.0]]), np.array([[1.0, 1.0]])
        found = prototype_scores(support, np.array([0, 0, 1]), query, 2)
        expected = np.exp([-1.0, -10.0])
        np.testing.assert_allclose(found, [expected / expected.sum()], rtol=1e-12)

    def test_statistics(self):
        leaf = np.array([[1.0, -2.0], [3.0, 0.5]])
        expected = [leaf.mean(), leaf.std(ddof=1), np.abs(leaf).sum(), np.linalg.norm(leaf)]
        np.testing.assert_allclose(statistics_of([leaf, 2 * leaf]), [*expected, *(2 * np.array(expected))], rtol=1e-12)
        np.testing.assert_allclose(statistics_of(leaf, norms="l2_l2")[2], expected[3], rtol=1e-12)

    def test_the_pull_of_statistics(self):
        """T10: the gradient of each, which those that are detached do not have."""
        leaf = np.array([1.0, -2.0, 3.0])
        mean, deviation, norm = leaf.mean(), leaf.std(ddof=1), np.linalg.norm(leaf)
        found = jax.jacobian(statistics_of)(leaf)
        expected = [np.full(3, 1 / 3), (leaf - mean) / (2 * deviation), np.sign(leaf), leaf / norm]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        detached = jax.jacobian(lambda x: statistics_of(x, moments="detached"))(leaf)
        np.testing.assert_allclose(detached, [np.zeros(3), np.zeros(3), *expected[2:]], rtol=1e-12)
        decay = jax.grad(lambda x: 0.7 / 2 * statistics_of(x)[3] ** 2)(leaf)
        np.testing.assert_allclose(decay, 0.7 * leaf, rtol=1e-12)  # half a squared norm is weight decay

    def test_statistics_are_smooth_where_roots_are_not(self):
        """At zero, at constants, and of single numbers: values, gradients and second derivatives."""
        # The mean of three times 0.1 is not 0.1, by rounding.
        leaves = [np.zeros((2, 2)), np.full(3, 0.1), np.array([0.0]), np.array(0.3)]
        value = lambda x: jnp.vdot(np.arange(1.0, 5.0), statistics_of(x))
        everything = lambda x: (statistics_of(x), jax.jacobian(statistics_of)(x), jax.hessian(value)(x))
        for leaf, found in zip(leaves, compiled(lambda leaves: list(map(everything, leaves)))(leaves), strict=True):
            chex.assert_tree_all_finite(found)
            expected = [leaf.mean(), 0, np.abs(leaf).sum(), np.linalg.norm(leaf)]
            np.testing.assert_allclose(found[0], expected, atol=1e-12)
            np.testing.assert_array_equal(found[1][1], np.zeros(leaf.shape))  # of the deviation
        self.assertEqual(jax.grad(safe_sqrt)(0.0), 0)
        self.assertEqual(jax.grad(safe_sqrt)(4.0), 0.25)

    def test_a_network_of_a_loss(self):
        """T15 is its first case: modulation by zero weights changes nothing."""
        net = tiny.randomised(init_loss_net(jax.random.key(0), 5, film=True), scale=0.2)
        rows = np.random.default_rng(0).normal(size=(4, 5))
        plain = tuple(layer._replace(film=None) for layer in net)
        still = tuple(layer._replace(film=jax.tree.map(np.zeros_like, layer.film)) for layer in net)
        np.testing.assert_allclose(loss_net(still, rows), loss_net(plain, rows), rtol=1e-12)
        for biases, layers in ((PAPER, net), (CODE, net), (PAPER, plain)):
            expected = slow_npbml.network(biases, layers, rows)
            np.testing.assert_allclose(loss_net(layers, rows, biases.loss_output), expected, rtol=1e-9)


class SettingsTest(NpbmlTest):
    def test_what_moves_in_the_code_is_what_its_regulariser_is_shown(self):
        """Kernel, its modulation and the head: five arrays (1.4 of the code's reading); of ResNet-12, twelve."""
        inputs = lambda encoder: jax.eval_shape(
            algorithm("npbml", tiny.setting(encoder=encoder), biases=CODE).init, jax.random.key(0)
        )["losses"]["regulariser"][0].dense.weights.shape[0]
        self.assertEqual(inputs(tiny.ENCODER), 20)
        self.assertEqual(inputs(resnet12(channels=3, size=84)), 48)

    def test_the_code_at_its_size(self):
        """4-CONV of 128 filters, five ways."""
        of = algorithm("npbml", tiny.setting(encoder=four_conv(128), ways=5), biases=CODE)
        meta = jax.eval_shape(of.init, jax.random.key(0))
        self.assertEqual(sum(kernel.size for block in meta["body"].kernels for kernel in block), 445_824)
        self.assertEqual(meta["warps"][3][0].kernel.shape, (3, 3, 128, 128))
        self.assertEqual(meta["film"][3][0].weights.shape, (128, 256))

    def test_outer_optimisers(self):
        for settings, last in ((OUTER_PAPER, 1e-5), (OUTER_CODE, 1e-6)):
            optimizer = dataclasses.replace(settings, steps=10).optimizer()
            state, params = optimizer.init(np.ones(1)), np.ones(1)
            for step in range(11):
                update, state = optimizer.update(np.ones(1), state, params)
                if step in (0, 10):
                    np.testing.assert_allclose(update, [-(1e-5 if step == 0 else last)], rtol=1e-4)
        decayed = dataclasses.replace(OUTER_PAPER, weight_decay=0.5).optimizer()
        update, _ = decayed.update(np.zeros(1), decayed.init(np.ones(1)), np.ones(1))
        np.testing.assert_allclose(update, [-0.5e-5], rtol=1e-6)

    def test_outer_gradients_longer_than_the_clip_are_shortened_to_it(self):
        long, short = np.array([3.0, 4.0]), np.array([0.3, 0.4])
        clipped, plain = (dataclasses.replace(OUTER_PAPER, clip=clip).optimizer() for clip in (1.0, None))
        state, expected = (optimizer.init(np.ones(2)) for optimizer in (clipped, plain))
        for given, seen in ((long, long / 5), (short, short), (2 * long, long / 5)):
            update, state = clipped.update(given, state, np.ones(2))
            expected_update, expected = plain.update(seen, expected, np.ones(2))
            np.testing.assert_allclose(update, expected_update, rtol=1e-5)

    def test_errors_name_what_to_change(self):
        with self.assertRaisesRegex(ValueError, "warp_norm=True needs warp_place='block'"):
            Biases(warp_norm=True)
        with self.assertRaisesRegex(ValueError, "momentum=1.0 must lie in"):
            Biases(momentum=1.0)
        with self.assertRaisesRegex(ValueError, "unknown component init; choose from warps, inductive"):
            PAPER.only("init")
        with self.assertRaisesRegex(ValueError, "set warp_norm=False"):
            algorithm("npbml", tiny.setting(normalisation="running", statistics=()), biases=LAST)
        of, meta = self.built(CODE)
        with self.assertRaisesRegex(ValueError, "make each a ScoredEpisode"):
            self.states(of, meta, steps=1)


if __name__ == "__main__":
    absltest.main()
