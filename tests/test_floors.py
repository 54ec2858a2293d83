"""The floors of the house: who may import whom, and what library modules leave to launches."""

import ast
import pathlib
import tempfile

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARY = "metalearn"
ABOVE = ("experiments", "benchmarks", "tests")  # nothing in the library imports these
DEFINES_FLAGS = "metalearn/run/launching.py"
FLAG_MAKERS = ("absl.flags", "ml_collections.config_flags", "argparse")


def may_import(floor: str) -> tuple[str, ...]:
    """The floors of the library that a floor may import; "" is the library's own top level."""
    return {"": (), "core": ("core",), "run": ("core", "run")}.get(floor, ("core", "run", floor))


def imported(tree: ast.AST, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, dotted name) of all that a module imports, wherever in it. `package`: where relative imports start."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*start, *([node.module] if node.module else [])))
            names += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return names


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def broken_rules(root: pathlib.Path) -> list[str]:
    """One line for each rule broken in the library under `root`: "path:line: what"."""
    found = []
    floors = {path.name for path in (root / LIBRARY).iterdir() if path.is_dir()}
    for path in sorted((root / LIBRARY).rglob("*.py")):
        parts = path.relative_to(root).parts
        floor = parts[1] if len(parts) > 2 else ""
        where = "/".join(parts)
        tree = ast.parse(path.read_text(), str(path))
        for line, name in imported(tree, parts[:-1]):
            top, below, *_ = (*name.split("."), "", "")
            if top in ABOVE:
                found.append(f"{where}:{line}: the library imports {name}")
            if top == LIBRARY and below in floors - set(may_import(floor)):
                found.append(f"{where}:{line}: {floor or LIBRARY} imports {name}")
            if where != DEFINES_FLAGS and any(within(name, maker) for maker in FLAG_MAKERS):
                found.append(f"{where}:{line}: flags belong to {DEFINES_FLAGS}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{where}:{node.lineno}: a library module prints")
    return found


class FloorsTest(absltest.TestCase):
    def test_this_house(self):
        modules = list((ROOT / LIBRARY).rglob("*.py"))
        self.assertGreater(len(modules), 8)  # so that an empty list of broken rules says something
        self.assertEqual(broken_rules(ROOT), [])


class CheckerTest(parameterized.TestCase):
    """Each rule on a house of one wing more, in which one module breaks it."""

    def broken_by(self, module, source):
        root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        for floor in ("core", "run", "languages", "fewshot"):
            (root / LIBRARY / floor).mkdir(parents=True)
            (root / LIBRARY / floor / "__init__.py").write_text("")
        (root / module).parent.mkdir(parents=True, exist_ok=True)
        (root / module).write_text(source)
        return broken_rules(root)

    @parameterized.parameters(
        ("metalearn/core/a.py", "import metalearn.run.files", "core imports metalearn.run.files"),
        ("metalearn/core/a.py", "from metalearn import run", "core imports metalearn.run"),
        ("metalearn/core/a.py", "from ..run import files", "core imports metalearn.run.files"),
        ("metalearn/core/a.py", "from .. import languages", "core imports metalearn.languages"),
        ("metalearn/core/deep/a.py", "from ...run import files", "core imports metalearn.run.files"),
        ("metalearn/run/a.py", "from metalearn.fewshot import x", "run imports metalearn.fewshot.x"),
        ("metalearn/run/a.py", "def f():\n  import metalearn.fewshot", "run imports metalearn.fewshot"),
        ("metalearn/fewshot/a.py", "from metalearn.languages import x", "fewshot imports metalearn.languages.x"),
        ("metalearn/__init__.py", "from metalearn import core", "metalearn imports metalearn.core"),
        ("metalearn/fewshot/a.py", "import experiments.npbml", "the library imports experiments.npbml"),
        ("metalearn/run/a.py", "from benchmarks import x", "the library imports benchmarks.x"),
        ("metalearn/core/a.py", "from tests.core import problems", "the library imports tests.core.problems"),
        ("metalearn/run/a.py", "from absl import flags", "flags belong to metalearn/run/launching.py"),
        ("metalearn/core/a.py", "import absl.flags as f", "flags belong to metalearn/run/launching.py"),
        ("metalearn/core/a.py", "from absl.flags import DEFINE_bool", "flags belong to metalearn/run/launching.py"),
        ("metalearn/run/a.py", "def f(x):\n  print(x)", "metalearn/run/a.py:2: a library module prints"),
    )
    def test_finds(self, module, source, expected):
        found = self.broken_by(module, source)
        self.assertLen(found, 1)
        self.assertIn(expected, found[0])

    @parameterized.parameters(
        ("metalearn/core/a.py", "from metalearn.core import unroll\nfrom . import process\nimport jax"),
        ("metalearn/core/a.py", "from jax.debug import print as show\nimport tests_of_others"),
        ("metalearn/run/a.py", "import metalearn.core\nfrom metalearn.run import files\nfrom absl import logging"),
        ("metalearn/run/a.py", "from metalearn import __version__"),
        ("metalearn/run/launching.py", "from absl import flags"),
        ("metalearn/fewshot/a.py", "from metalearn import core, run\nfrom metalearn.fewshot import x"),
        ("experiments/a.py", "from metalearn import fewshot, languages\nprint(1)"),
        ("metalearn/core/a.py", "jax.debug.print('x')"),
    )
    def test_lets_pass(self, module, source):
        self.assertEqual(self.broken_by(module, source), [])


if __name__ == "__main__":
    absltest.main()
