"""The README: its example finds what theory says, its files and make targets exist."""

import contextlib
import io
import pathlib
import re

import numpy as np
from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class ReadmeTest(absltest.TestCase):
    def test_example_finds_the_bayes_estimator(self):
        """Prior N(2, 1), two draws of variance 1: the posterior mean is a step of rate 2/3 from 2."""
        (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        printed = io.StringIO()
        names = {}
        with contextlib.redirect_stdout(printed):
            exec(compile(example, "README.md: example", "exec"), names)
        meta = names["state"].meta
        np.testing.assert_allclose(meta["start"], 2.0, atol=0.05)
        np.testing.assert_allclose(meta["rates"], [2 / 3], atol=0.02)
        self.assertIn("start", printed.getvalue())

    def test_linked_files_exist(self):
        links = re.findall(r"\]\(([^)#]+)\)", README)
        self.assertNotEmpty(links)
        self.assertEmpty([link for link in links if "://" not in link and not (ROOT / link).exists()])

    def test_make_targets_exist(self):
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        self.assertEmpty(set(re.findall(r"`?make (demo|test|[a-z-]+)`", README)) - targets)
        self.assertContainsSubset({"demo", "test"}, targets)


if __name__ == "__main__":
    absltest.main()
