"""Killed anywhere and started again equals never interrupted, to the bit."""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest

from tests.run import killed_runs

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def run_histories(*arguments: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.run.killed_runs", folder, *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class KillTest(absltest.TestCase):
    def check(self, outcome: dict) -> None:
        self.assertEqual(outcome["statuses"], [0, 0])
        self.assertEqual(outcome["rows"][0], "step,loss,skipped_in_a_row")
        steps = [int(row.split(",")[0]) for row in outcome["rows"][1:]]
        self.assertEqual(steps, [2, 4, 6, 8, 10, killed_runs.STEPS])  # every second step and the last
        self.assertEqual(outcome["whole"]["checkpoints"], "11,9")
        killed = 0
        for history in outcome["histories"]:
            with self.subTest(str(history["kill"])):
                self.assertEqual(history["end"], 0, history["log"])
                self.assertEqual(history["files"], outcome["whole"])
                if "kill_at" in history["kill"]:  # by time, a fast machine may have finished first
                    self.assertEqual(history["killed"][0], -signal.SIGKILL)
            killed += history["killed"].count(-signal.SIGKILL)
        self.assertGreater(killed, 0)

    def test_kill_9_at_some_file_operations_and_moments(self):
        self.check(run_histories("--at_operation=6", "--after_time=2"))

    @pytest.mark.slow
    def test_kill_9_at_many_file_operations_and_moments(self):
        self.check(run_histories("--at_operation=60", "--after_time=10"))


if __name__ == "__main__":
    absltest.main()
