"""The command line: presets and overrides in any order, clear errors, clean ends."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl import app, flags
from absl.testing import absltest, parameterized

from metalearn.run import launching
from metalearn.run.config import ConfigError
from tests.run.folder_case import FolderCase
from tests.run.launched import Config as LaunchedConfig

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Inner:
    steps: int = 5
    """Inner steps (table 1)."""


@dataclasses.dataclass(frozen=True)
class Config:
    inner: Inner = Inner()
    rate: float = 1.0
    """Learning rate."""
    flag: bool = False
    cap: int | None = None

    def validate(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be positive, got {self.rate}.")


PRESETS = {"smoke": Config(), "paper": Config(inner=Inner(steps=10), rate=0.5, flag=True, cap=3)}


SHORT = {"inner_steps": "inner.steps", "on": "flag"}


def parse(*arguments: str) -> launching.Launch:
    values = flags.FlagValues()
    launching.define_flags(PRESETS, values, short_flags=SHORT)
    return launching.parse(["program", *arguments], PRESETS, values, name="few_shot", short_flags=SHORT)


class ParseTest(parameterized.TestCase):
    def test_defaults(self):
        self.assertEqual(parse(), (Config(), pathlib.Path("runs/few_shot/smoke"), False))

    @parameterized.parameters(True, False)
    def test_overrides_apply_on_top_of_the_preset_in_any_order(self, preset_first):
        arguments = ["--preset=paper", "--config.inner.steps=3", "--config.cap=none", "--noconfig.flag"]
        found = parse(*(arguments if preset_first else reversed(arguments)))
        self.assertEqual(found.config, Config(inner=Inner(steps=3), rate=0.5, flag=False, cap=None))
        self.assertEqual(found.workdir, pathlib.Path("runs/few_shot/paper"))

    def test_other_spellings(self):
        found = parse("--config.flag", "--dry_run", "--workdir", "/x", "--config.rate", "2")
        self.assertEqual(found, (Config(flag=True, rate=2.0), pathlib.Path("/x"), True))
        self.assertTrue(parse("--config.flag=true").config.flag)

    def test_short_flags(self):
        found = parse("--preset=paper", "--inner_steps=3", "--noon")
        self.assertEqual(found.config, Config(inner=Inner(steps=3), rate=0.5, flag=False, cap=3))
        self.assertEqual(parse("--on", "--config.inner.steps=2").config, Config(inner=Inner(steps=2), flag=True))
        with self.assertRaisesRegex(ConfigError, "--inner_steps and --config.inner.steps are the same"):
            parse("--inner_steps=3", "--config.inner.steps=3")
        with self.assertRaisesRegex(ConfigError, "Did you mean inner.steps"):
            launching.define_flags(PRESETS, flags.FlagValues(), short_flags={"steps": "steps"})

    @parameterized.parameters(
        ("--preset=papr", ConfigError, "unknown preset 'papr': choose from smoke, paper. Did you mean paper?"),
        ("--config.inner.stepz=3", ConfigError, "unknown config field 'inner.stepz'. Did you mean inner.steps?"),
        ("--config.steps=3", ConfigError, "Did you mean inner.steps?"),
        ("--config.inner=3", ConfigError, "'inner' is a group"),
        ("--config.rate=-1", ConfigError, "rate must be positive, got -1.0"),
        ("--config.rate=fast", flags.Error, "--config.rate=fast: expected float, got 'fast'"),
        ("--config.cap=1.5", flags.Error, "--config.cap=1.5: expected int or none"),
        ("--inner_steps=many", flags.Error, "--inner_steps=many: expected int, got 'many'"),
        ("--wrkdir=x", flags.Error, "wrkdir"),
        ("surplus", app.UsageError, "unexpected arguments 'surplus'"),
    )
    def test_errors(self, argument, error, message):
        with self.assertRaises(error) as caught:
            parse(argument)
        self.assertIn(message, str(caught.exception))

    def test_unfit_presets(self):
        for presets, message in (
            ({}, "no presets"),
            ({"a": Config(), "b": Inner()}, "one type, got Config, Inner"),
            ({"a": Config(cap=1.5)}, "'cap': expected int or none, got 1.5"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                launching.define_flags(presets, flags.FlagValues())

    def test_help_lists_presets_and_fields(self):
        text = launching.help_text(PRESETS, "Does it.", "python -m experiments.few_shot", short_flags=SHORT)
        for part in (
            "--inner_steps=...  short for --config.inner.steps",
            "Does it.",
            "smoke, paper (default: smoke)",
            "--config.inner.steps=<int>   5 | 10",
            "      Inner steps (table 1).",
            "--config.cap=<int or none>   None | 3",
            "--dry_run",
        ):
            self.assertIn(part, text)


class ExperimentTest(parameterized.TestCase):
    EXPERIMENTS = {
        name: launching.Experiment(PRESETS, lambda *_: None, f"About {name}.\n\nMore.") for name in ("red", "green")
    }

    @parameterized.parameters(
        (("--experiment=green", "--preset=paper"), "green", ["--preset=paper"]),
        (("--config.rate=2", "--experiment", "red", "--dry_run"), "red", ["--config.rate=2", "--dry_run"]),
    )
    def test_the_flag_is_taken_and_the_others_are_left(self, arguments, name, rest):
        found = launching.pick_experiment(self.EXPERIMENTS, ["program", *arguments])
        self.assertEqual(found, (name, ["program", *rest]))

    @parameterized.parameters(((), "green"), (("--experiment=red",), "red"))
    def test_a_default_is_for_commands_that_name_none(self, arguments, name):
        self.assertEqual(
            launching.pick_experiment(self.EXPERIMENTS, ["program", *arguments], "green"), (name, ["program"])
        )

    @parameterized.parameters(
        ((), "say which experiment"),
        (("--experiment",), "unknown experiment ''"),
        (("--experiment=grean",), "unknown experiment 'grean'. Did you mean green"),
    )
    def test_errors_list_the_experiments(self, arguments, message):
        with self.assertRaises(ConfigError) as caught:
            launching.pick_experiment(self.EXPERIMENTS, ["program", *arguments])
        for part in (message, "red     About red.\n", "green   About green."):
            self.assertIn(part, str(caught.exception))


class ProcessTest(FolderCase):
    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tests.run.launched", f"--workdir={self.folder / 'run'}", *arguments]

    def environment(self) -> dict[str, str]:
        return os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache")}

    def start(self, *arguments: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self.command(*arguments), cwd=REPOSITORY, env=self.environment(), **pipes)

    def end(self, process: subprocess.Popen) -> tuple[int, str, str]:
        out, error = process.communicate(timeout=120)
        return process.returncode, out, error

    def test_help_and_a_wrong_flag(self):
        wrong, shown = self.start("--config.step=3"), self.start("--help")
        status, _, error = self.end(wrong)
        self.assertEqual(status, 2)
        self.assertIn("error: unknown config field 'step'. Did you mean steps?", error)
        self.assertNotIn("Traceback", error)
        status, out, _ = self.end(shown)
        self.assertEqual(status, 0)
        self.assertIn("It counts to 100 %.", out)
        self.assertIn(f"--config.steps=<int>   {LaunchedConfig().steps} | 1000000000\n      How far to count.", out)
        self.assertFalse((self.folder / "run").exists())

    def test_sigterm_then_the_same_command_then_another_config(self):
        arguments = ("--config.steps=20", "--config.pause=0.1")
        process = self.start(*arguments)
        try:
            deadline = time.monotonic() + 60
            while not (self.folder / "run" / "checkpoints" / "4").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            _, message = process.communicate(timeout=30)
        finally:
            process.kill()
        self.assertEqual(process.returncode, 143, message)
        self.assertIn("the same command goes on", message)
        self.assertNotIn("Traceback", message)

        other, resumed = self.start("--config.steps=21", "--config.pause=0.1"), self.start(*arguments)
        status, _, error = self.end(other)
        self.assertEqual(status, 1, error)
        self.assertRegex(error, "steps: 20 -> 21|in use by another process")
        self.assertNotIn("Traceback", error)
        status, _, error = self.end(resumed)
        self.assertEqual(status, 0, error)
        self.assertRegex(error, "going on from the checkpoint of step [1-9]")
        self.assertEqual(json.loads((self.folder / "run" / "result.json").read_text()), {"count": 20})
        rows = (self.folder / "run" / "metrics.csv").read_text().splitlines()
        self.assertEqual(rows, ["step,loss", *(f"{step + 1},{step}" for step in range(20))])

        before = sorted((self.folder / "run").rglob("*"))
        _, out, _ = self.end(self.start(*arguments))
        self.assertIn("is finished: {'count': 20}", out)
        self.assertEqual(sorted((self.folder / "run").rglob("*")), before)


if __name__ == "__main__":
    absltest.main()
