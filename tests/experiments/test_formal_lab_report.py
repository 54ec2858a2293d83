"""What the laboratory reports, on records with planted effects."""

import math
import re
import warnings
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure
from scipy import stats

from experiments.formal_languages.lab import contrasts, drawings, page, report
from experiments.formal_languages.lab.contrasts import at_few, few, mean_of, more, only, same
from experiments.formal_languages.lab.found_inside import Inside, Shifts
from experiments.formal_languages.lab.records import Scores, read_scores, write_scores
from experiments.formal_languages.lab.report_inside import inside
from experiments.formal_languages.lab.report_mechanisms import class_model
from metalearn.languages.nine import NINE
from metalearn.run import RunPaths
from metalearn.run.figures import STYLE
from metalearn.run.intervals import crossed_interval, t_interval
from tests.experiments import lab_records
from tests.run.folder_case import FolderCase

FEW_RECORDS = lab_records.records(seeds=2, strings=(1, 3), targets=("An", "AnBn", "AnBnCn"))


class RecordsTest(FolderCase):
    def test_round_trip(self):
        records = [*FEW_RECORDS[:50], FEW_RECORDS[50]._replace(frozen=True, constrained=math.nan, may_end=0.1 + 0.2)]
        write_scores(self.folder / "scores.csv", records)
        back = read_scores(self.folder / "scores.csv")
        self.assertEqual(back[:50], records[:50])
        self.assertTrue(math.isnan(back[50].constrained))
        self.assertEqual(back[50]._replace(constrained=0.0), records[50]._replace(constrained=0.0))

    def test_damaged_files(self):
        path = self.folder / "scores.csv"
        write_scores(path, FEW_RECORDS[:3])
        text = path.read_text()
        for damaged, message in (
            (text.replace("may_end", "end"), r"has the columns .*'end'\], expected .*'may_end'"),
            (text + "lstm,An,exact,maybe,0,1,An,0,0,0\n", "line 5 is no record: 'lstm,An,exact,maybe"),
            (text + "lstm,An\n", "line 5 is no record: 'lstm,An'"),
            ("", r"has the columns \[\]"),
        ):
            path.write_text(damaged)
            with self.assertRaisesRegex(ValueError, message):
                read_scores(path)

    @parameterized.parameters(
        (lambda rows: [], "there are no scores"),
        (lambda rows: [*rows, rows[7]], "hold two rows of clipped_lstm, source An, training exact, N = 1, seed 1"),
        (lambda rows: rows[1:], "lack 1 of 576 rows, first that of clipped_lstm, .*, N = 1, seed 0, target An: start"),
        (lambda rows: [row for row in rows if (row.seed, row.source) != (1, "Dyck")], "lack 6 of 576 rows"),
        (lambda rows: [rows[0]._replace(source="Bn")], "unknown source 'Bn' in scores: expected one of none, An"),
        (lambda rows: [rows[0]._replace(target="Bn")], "unknown target 'Bn'"),
        (lambda rows: [rows[0]._replace(training="none")], "source 'An' with training 'none'"),
    )
    def test_incomplete_records(self, change, message):
        self.assertEqual(len(FEW_RECORDS), 576)
        with self.assertRaisesRegex(ValueError, message):
            Scores(change(FEW_RECORDS))

    def test_tables(self):
        scores = Scores(reversed(FEW_RECORDS))
        self.assertEqual((scores.seeds, scores.strings), ((0, 1), (1, 3)))
        self.assertEqual(scores.targets, ("An", "AnBn", "AnBnCn"))
        table = scores.table("AnBn", strings=3, metric="may_end")
        np.testing.assert_array_equal(np.isnan(table), [[False, True, False]] * 2)
        whole = scores.table("AnBn", strings=3, metric="may_end", own=True)
        for row in FEW_RECORDS:
            if row[:4] == ("lstm", "AnBn", "exact", False) and row.strings == 3:
                self.assertEqual(whole[row.seed, scores.targets.index(row.target)], row.may_end)
        self.assertTrue(scores.has("none", training="exact", frozen=True))
        self.assertFalse(scores.has("AnBn", training="pre_trained"))
        with self.assertRaisesRegex(KeyError, "no scores of gru, source XX, training exact, N = 3"):
            scores.table("XX", strings=3, architecture="gru")


class ContrastsTest(parameterized.TestCase):
    def test_more(self):
        difference = np.array([[0.1, 0.12, np.nan, 0.11], [0.08, 0.11, np.nan, 0.1], [0.1, 0.1, np.nan, 0.1]])
        ((verdict, sentence),) = more("apples", "pears", difference, "A beats P", "table 1")
        self.assertEqual((verdict.low, verdict.high), crossed_interval(difference))
        self.assertTrue(verdict.holds)
        self.assertEqual(verdict.claim.statistic, "difference of F1, 3 seeds x 3 targets; 95 % interval")
        numbers = f"+0.102, 95 % interval {verdict.low:+.3f} to {verdict.high:+.3f}, n = 9"
        self.assertEqual(sentence, f"Apples score above pears ({numbers}).")
        self.assertStartsWith(
            more("apples", "pears", -difference, "", "")[0].sentence, "Apples score below pears (-0.1"
        )
        ((verdict, sentence),) = more("apples", "pears", -difference, "", "", above=-0.05)
        self.assertFalse(verdict.holds)
        self.assertStartsWith(sentence, "Apples score 0.05 or more below pears")
        ((verdict, sentence),) = more("apples", "pears", difference[:1], "", "")
        self.assertIsNone(verdict.holds)
        self.assertIn("+0.110; one seed or target gives no interval", sentence)

    def test_one_target_is_no_sample_of_targets(self):
        difference = np.array([[0.1, np.nan], [0.12, np.nan], [0.14, np.nan]])
        ((verdict, _),) = more("apples", "pears", difference, "", "")
        np.testing.assert_allclose((verdict.low, verdict.high), t_interval(difference[:, 0]))
        ((verdict, _),) = same("apples", "pears", difference, "", "")
        np.testing.assert_allclose((verdict.low, verdict.high), t_interval(difference[:, 0], 0.9))

    @parameterized.parameters(
        (0.0, "Apples and pears score the same within 0.05", True),
        (0.5, "Apples and pears differ by more than 0.05", False),
        (0.05, "Whether apples and pears score the same within 0.05 cannot be told", None),
    )
    def test_same(self, mean, words, holds):
        difference = mean + 0.01 * np.random.default_rng(0).normal(size=(3, 5))
        ((verdict, sentence),) = same("apples", "pears", difference, "alike", "here")
        self.assertIs(verdict.holds, holds)
        self.assertStartsWith(sentence, words)
        self.assertEqual((verdict.claim.above, verdict.claim.below, verdict.confidence), (-0.05, 0.05, 0.9))

    def test_nothing_to_compare(self):
        nothing = np.full((2, 3), np.nan)
        self.assertEqual(more("", "", nothing, "", ""), [])
        self.assertEqual(same("", "", nothing, "", ""), [])
        table = at_few(Scores(FEW_RECORDS), "XX", architecture="gru")
        self.assertTrue(np.isnan(table).all())

    def test_tables(self):
        table = np.array([[1.0, np.nan, 3.0]])
        np.testing.assert_array_equal(mean_of([table, [[5.0, np.nan, np.nan]]]), [[3.0, np.nan, 3.0]])
        np.testing.assert_array_equal(only(table, [0]), [[1.0, np.nan, np.nan]])
        self.assertEqual(few(Scores(FEW_RECORDS)), 3)
        self.assertEqual(contrasts.extent(np.array([[1.0, np.nan]])), "1 seed x 1 target")


def verdicts_of(section):
    return {verdict.claim.statement: verdict for verdict in section.verdicts}


class PlantedTest(parameterized.TestCase):
    """Verdicts on claims whose truth is planted."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.records = lab_records.records(strings=(10, 100), noise=0.01)
        cls.scores = Scores(cls.records)
        sections = {name: run(cls.scores) for name, run in report.EXPERIMENTS.items()}
        cls.sections = sections
        cls.found = {name: verdicts_of(section) for name, section in sections.items()}

    @parameterized.parameters(
        ("simplicity", "minimalist grammars: a bias to simple languages helps later learning", True),
        ("simplicity", "minimalist grammars: simple and complex pools do not differ", True),
        ("simplicity", "the metagrammar: simple and complex pools do not differ", True),
        ("mechanisms", "Languages that need counters help more than languages that need none", True),
        ("mechanisms", "Context-free and context-sensitive languages help more than regular ones", True),
        ("mechanisms", "The copies XX are not learned", False),
        ("architectures", "The LSTM, which can count, gains more from AnBnCn than from An", True),
        ("architectures", "The GRU, which cannot count, gains nothing extra from AnBnCn", True),
        ("architectures", "The LSTM gains more from AnBnCn than the clipped LSTM", True),
        ("one_or_many", "One well-chosen language (AnBnCn) helps as much as a pool of the metagrammar", True),
        ("one_or_many", "A badly chosen language (An) helps less than a pool of minimalist grammars", True),
        ("estimators", "Plain pre-training on An and AnBnCn does not do what MAML does", True),
        ("frozen", "What AnBnCn leaves in the recurrent weights is used as it is", True),
        ("frozen", "The mechanism survives frozen recurrent weights", True),
    )
    def test_finds(self, experiment, statement, holds):
        self.assertIs(self.found[experiment][statement].holds, holds)

    def test_other_effects_give_other_verdicts(self):
        lower = {"minimalist:complex": 0.2, "AnBnCn": 0.2}
        change = lambda row: row._replace(constrained=row.constrained - lower.get(row.source, 0.0))
        scores = Scores(map(change, self.records))
        found = verdicts_of(report.EXPERIMENTS["simplicity"](scores))
        self.assertTrue(found["minimalist grammars: without a bias to simple languages there is less help"].holds)
        self.assertFalse(found["minimalist grammars: simple and complex pools do not differ"].holds)
        self.assertTrue(found["minimalist grammars: simple and uniform pools do not differ"].holds)
        found = verdicts_of(report.EXPERIMENTS["one_or_many"](scores))
        self.assertFalse(found["One well-chosen language (AnBnCn) helps as much as a pool of the metagrammar"].holds)

    def test_statistic_of_a_slow_loop(self):
        """The mean difference of two groups of sources, target by target, own language left out."""
        groups, by_target = (("AnBn", "AnBnCn", "Dyck"), ("An", "AB")), []
        for target in NINE:
            means = []
            for group in groups:
                rows = [
                    row.constrained
                    for row in self.records
                    if row[:4] == ("lstm", row.source, "exact", False)
                    and row.source in group
                    and row.source != target
                    and (row.target, row.strings) == (target, 10)
                ]
                means.append(np.mean(rows))
            by_target.append(means[0] - means[1])
        verdict = self.found["mechanisms"]["Languages that need counters help more than languages that need none"]
        self.assertAlmostEqual(verdict.estimate, np.mean(by_target))
        self.assertEqual(verdict.n, 27)

    def test_paragraph_has_every_number(self):
        for section in self.sections.values():
            for verdict in section.verdicts:
                self.assertIn(f"({verdict.estimate:+.3f}, ", section.paragraph)
                self.assertIn(f"interval {verdict.low:+.3f} to {verdict.high:+.3f}, n = {verdict.n}", section.paragraph)

    def test_score_table(self):
        ((_, rows),) = self.sections["frozen"].tables.items()
        lines = rows.splitlines()
        self.assertEqual(lines[0], "|  | F1 | N = 10 | N = 100 | 95 % interval at N = 10 |")
        row = next(line for line in lines if "An, frozen" in line)
        mean = np.nanmean(self.scores.table("An", strings=100, metric="continuation", frozen=True))
        self.assertIn(f"| {mean:.3f} |", row)
        self.assertLen(lines, 2 + 3 * 6)

    def test_class_model(self):
        rng = np.random.default_rng(0)
        gains = {"none": 0.0, "regular": 0.05, "context-free": 0.2, "context-sensitive": 0.15}
        rows = []
        for row in self.records:
            kind = NINE[row.source].language.chomsky_class if row.source in NINE else row.source
            if kind in gains:
                score = 0.3 + gains[kind] + 0.1 * np.log10(row.strings) + 0.01 * row.seed + 0.02 * rng.normal()
                own = 100.0 if row.source == row.target else 0.0  # must not be seen
                rows.append(row._replace(constrained=score + own))
        model = class_model(Scores(rows), tuple(NINE))
        for kind in ("regular", "context-free", "context-sensitive"):
            self.assertAlmostEqual(model.effects[f"kind[T.{kind}]"].estimate, gains[kind], delta=0.02)
            self.assertAlmostEqual(model.effects[f"kind[T.{kind}]:log10_N"].estimate, 0.0, delta=0.01)
        self.assertAlmostEqual(model.effects["log10_N"].estimate, 0.1, delta=0.01)
        self.assertEqual(model.random, ("target", "seed", "source"))
        self.assertEqual(class_model(Scores(rows), ("An", "AnBn")).random, ("target", "seed"))
        one = Scores(row for row in rows if row.seed == 0)
        self.assertIsNone(class_model(one, tuple(NINE)))


class InsideTest(parameterized.TestCase):
    def test_finds(self):
        section = inside(lab_records.inside())
        holds = {verdict.claim.statement: verdict.holds for verdict in section.verdicts}
        for claim in (
            "lstm meta-trained on AnBnCn: meta-training makes counters",
            "lstm meta-trained on AnBnCn: probes read counters and not whatever they are asked for",
            "lstm meta-trained on AnBnCn, adapted to AnBn: adding to the counter moves the end by as much",
            "lstm meta-trained on AnBnCn, adapted to AnBn: strings longer than any that was learned from are predicted "
            "as well",
        ):
            self.assertTrue(holds.pop(claim), claim)
        ablated = "lstm meta-trained on AnBnCn: 8 units of the #a-#b of AnBnCn ablated: the units that a probe names"
        self.assertTrue(holds[f"{ablated} do the counting"])
        self.assertTrue(holds[f"{ablated} do little else"])
        self.assertFalse(
            holds[
                "gru meta-trained on AnBnCn, adapted to AnBn: strings longer than any that was learned from are "
                "predicted as well"
            ]
        )
        self.assertRegex(
            section.paragraph,
            r"Counters are read better after meta-training than from random weights: lstm meta-trained on AnBnCn "
            r"\(\+0\.5\d\d, .*, n = 3\); gru meta-trained on AnBnCn \(\+0\.\d+",
        )

    def test_slope_by_hand(self):
        moved = np.array([[-2.0, 1.0, np.nan], [-1.0, 1.0, 2.0], [np.nan, np.nan, np.nan]])
        section = inside(Inside(shifts=[Shifts("nets", np.array([-2, 1, 2]), moved, moved)]))
        ((verdict,),) = [section.verdicts]
        # (4 + 1) / (4 + 1) = 1 and (2 + 1 + 4) / 9; of the third nothing is known.
        self.assertAlmostEqual(verdict.estimate, (1 + 7 / 9) / 2)
        self.assertEqual(verdict.n, 2)

    def test_nothing_found(self):
        section = inside(Inside())
        self.assertEqual((section.drawings, section.verdicts, section.tables), ({}, [], {}))


class DrawingsTest(parameterized.TestCase):
    def test_estimate(self):
        table = np.random.default_rng(0).normal(size=(3, 4))
        mean, below, above = drawings.estimate(table)
        np.testing.assert_allclose((mean - below, mean + above), crossed_interval(table, resamples=1999))
        mean, below, above = drawings.estimate(table[:, :1])
        np.testing.assert_allclose((mean - below, mean + above), t_interval(table[:, 0]))
        self.assertTrue(np.isnan(drawings.estimate(np.full((2, 2), np.nan))).all())
        np.testing.assert_array_equal(drawings.estimate(table[:1])[1:], (np.nan, np.nan))

    def test_bars(self):
        table = np.random.default_rng(0).normal(1, 0.1, size=(3, 4))
        axes = Figure().subplots()
        stands = drawings.bars(axes, ["x", "y"], {"A": {"x": table, "y": 2 * table}, "B": {"y": 3 * table}})
        heights = {round(bar.get_x() + bar.get_width() / 2, 6): bar.get_height() for bar in axes.patches}
        np.testing.assert_allclose(heights[0.0], table.mean())  # alone in its group, in the middle of it
        np.testing.assert_allclose(heights[round(stands["A", "y"], 6)], 2 * table.mean())
        np.testing.assert_allclose(heights[round(stands["B", "y"], 6)], 3 * table.mean())
        self.assertLess(stands["A", "y"], 1)
        seeds = [line.get_ydata() for line in axes.lines if line.get_marker() == "."]
        np.testing.assert_allclose(seeds[0], table.mean(1))

    def test_squares(self):
        axes = Figure().subplots()
        cells = np.array([[0.1, 0.9], [np.nan, 0.5]])
        drawings.squares(axes, cells, ["r", "s"], ["t", "u"], np.isnan(cells), {(0, 1): "0.8 to 1"})
        self.assertEqual([text.get_text() for text in axes.texts], ["0.10", "0.90\n0.8 to 1", "0.50"])
        (hatched,) = axes.patches
        self.assertEqual(hatched.get_xy(), (-0.5, 0.5))

    def test_by_strings(self):
        tables = [np.full((2, 2), value) for value in (0.25, 0.5)]
        axes = Figure().subplots()
        drawings.by_strings(axes, [1, 10], {"A": tables}, {"A": "red"})
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 0.25], [10, 0.5]])

    def test_mean_over_seeds(self):
        values = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan], [8.0, 4.0, 1.0]])
        mean, half = drawings.mean_over_seeds(values)
        np.testing.assert_array_equal(mean, [4, 3, 1])
        low, high = stats.t.interval(0.95, 2, 4, stats.sem(values[:, 0]))
        np.testing.assert_allclose((mean[0] - half[0], mean[0] + half[0]), (low, high))
        self.assertAlmostEqual(half[1], 12.706205 * 1.0, places=5)
        self.assertTrue(np.isnan(half[2]))


class PageTest(FolderCase):
    def sections(self, records):
        scores = Scores(records)
        found = lab_records.inside(seeds=len(scores.seeds), names=("lstm",), targets=scores.targets)
        return [*(run(scores) for run in report.EXPERIMENTS.values()), inside(found)]

    def test_page_and_figures_of_few_records(self):
        """Every figure, of a run of the smallest kind: some networks, two seeds, three targets."""
        few = [row for row in FEW_RECORDS if row.source in ("none", "An", "AnBnCn") or ":" in row.source]
        sections = self.sections(few)
        with warnings.catch_warnings(), mock.patch.dict(STYLE, {"savefig.dpi": 40.0}):
            warnings.simplefilter("error")
            page.write_page(
                RunPaths(self.folder), page.Run("A run", "python -m x", {"seeds": "2"}, {"all": 2.0}), sections
            )
        text = (self.folder / "results.md").read_text()
        links = re.findall(r"\]\((.*?)\)", text)
        self.assertLen(links, 13)
        for link in links:
            self.assertTrue((self.folder / link).is_file(), link)
        for section in sections:
            self.assertIn(f"## {section.title}\n\n{section.paragraph}\n", text)
        words = [verdict.word for section in sections for verdict in section.verdicts]
        self.assertIn(
            f"Of {len(words)} claims {words.count('holds')} hold, {words.count('fails')} fail, "
            f"{words.count('inconclusive')} are inconclusive.",
            text,
        )
        self.assertEqual(text.count("| holds |") + text.count("| fails |"), len(words) - words.count("inconclusive"))
        self.assertIn("Took 2.0 minutes: all 2.0.", text)

    def test_one_seed_decides_nothing(self):
        for section in self.sections([row for row in FEW_RECORDS if row.seed == 0]):
            self.assertEqual({verdict.word for verdict in section.verdicts}, {"inconclusive"}, section.name)


if __name__ == "__main__":
    absltest.main()
