"""Progress lines, the bar, and stages."""

import io

import rich.console
from absl.testing import absltest, parameterized

from metalearn.run.progress import Progress, Stages, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(terminal: bool) -> rich.console.Console:
    return rich.console.Console(file=io.StringIO(), force_terminal=terminal, width=200, soft_wrap=True)


class ProgressTest(parameterized.TestCase):
    def test_lines(self):
        clock, out = Clock(), console(False)
        with Progress(100, "meta-training", start=20, console=out, clock=clock) as progress:
            for step in range(21, 61):
                clock.now += 0.5
                progress.update(step, loss=1 / step)
        lines = out.file.getvalue().splitlines()
        # 2 steps a second, lines after 1 s and then every 10 s, and one at the end.
        self.assertEqual(lines[0], "meta-training: step 22/100 (22 %)  2 steps/s  loss 0.04545  elapsed 1s  left 39s")
        self.assertEqual(lines[-1], "meta-training: step 60/100 (60 %)  2 steps/s  loss 0.01667  elapsed 20s  left 20s")
        self.assertEqual([line.split()[2] for line in lines], ["22/100", "42/100", "60/100"])

    def test_bar(self):
        out = console(True)
        with Progress(10, "training", console=out) as progress:
            progress.update(4, loss=0.25)
            progress.message("going on")
            progress.update(10, loss=0.125)
        text = out.file.getvalue()
        for part in ("training", "10/10", "loss 0.125", "steps/s", "going on"):
            self.assertIn(part, text)

    @parameterized.parameters((0.4, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7620, "2h07m"), (float("inf"), "?"))
    def test_duration(self, seconds, expected):
        self.assertEqual(duration(seconds), expected)

    def test_parts_of_a_whole(self):
        """Three trainings of 10 steps each; the first was done before, the second half done."""
        clock, out = Clock(), console(False)
        with Progress(300, "all", console=out, clock=clock) as whole:
            for number, start in enumerate((10, 5, 0)):
                with whole.part(100 * number, 100 * (number + 1), 10) as part:
                    for step in range(start, 10):
                        clock.now += 5
                        part.update(step + 1, loss=1.0)
        lines = out.file.getvalue().splitlines()
        # What had been done counts as done, but not for the rate: 10 of the whole in each 5 seconds.
        self.assertEqual(lines[0], "all: step 160/300 (53 %)  2 steps/s  loss 1  elapsed 5s  left 1m10s")
        self.assertEqual(lines[-1], "all: step 300/300 (100 %)  2 steps/s  loss 1  elapsed 1m15s  left 0s")

    def test_a_part_that_fails_is_not_done(self):
        out = console(False)
        with Progress(10, "all", console=out) as whole:
            with self.assertRaises(KeyError), whole.part(0, 10, 1):
                raise KeyError
            whole.part(0, 10, 1).message("go on")
        self.assertEqual(out.file.getvalue(), "go on\n")

    def test_stages(self):
        out = console(False)
        stages = Stages("corpora", "meta-training", console=out)
        with stages.stage("meta-training"):
            out.print("inside")
        with self.assertRaisesRegex(ValueError, "unknown stage 'x': expected one of corpora, meta-training"):
            with stages.stage("x"):
                self.fail("must not run")
        self.assertEqual(
            out.file.getvalue().splitlines(), ["[2/2] meta-training", "inside", "[2/2] meta-training: done in 0s"]
        )
        self.assertEqual(set(stages.seconds), {"meta-training"})

    def test_where_the_time_went(self):
        stages = Stages("drawing", "training", "scores", console=console(False))
        for name in ("drawing", "training"):
            with stages.stage(name):
                pass
        stages.seconds, stages.compile_seconds = {"drawing": 1.0, "training": 20.5}, {"drawing": 0.0, "training": 3.25}
        rows = [line.split() for line in stages.summary().splitlines()]
        self.assertEqual(rows[1:], [["drawing", "1.0", "0.0"], ["training", "20.5", "3.2"], ["all", "21.5", "3.2"]])


if __name__ == "__main__":
    absltest.main()
