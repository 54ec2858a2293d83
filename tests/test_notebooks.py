"""The notebooks: they run from top to bottom, are committed without outputs and install nothing outside Colab."""

import os
import pathlib
import subprocess
import sys
import tempfile
import types
from unittest import mock

import nbformat
from absl.testing import absltest, parameterized
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
NAMED = [(path.stem, path) for path in NOTEBOOKS]
# Tiny sizes; and no optimisation by the compiler, which takes longer than what it would compile here.
SMOKE = {"METALEARN_SMOKE": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}


def code_cells(path: pathlib.Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def run_first_cell(path: pathlib.Path, modules: dict[str, types.ModuleType]) -> list[list[str]]:
    """Runs the first code cell with `modules` loaded and its checkout in place; returns the commands it would start."""
    started = []
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch.object(pathlib.Path, "exists", lambda self: True),
        mock.patch.object(subprocess, "run", lambda command, **_: started.append(command)),
        mock.patch.object(subprocess, "Popen", side_effect=AssertionError("the first cell starts a process")),
        mock.patch.object(os, "system", side_effect=AssertionError("the first cell starts a shell")),
    ):
        exec(compile(code_cells(path)[0].source, f"{path.name}: first code cell", "exec"), {})
    return started


class NotebookTest(parameterized.TestCase):
    def test_there_are_notebooks(self):
        self.assertIn("core", [path.stem for path in NOTEBOOKS])

    @parameterized.named_parameters(NAMED)
    def test_is_committed_without_outputs(self, path):
        nbformat.validate(nbformat.read(path, as_version=4))
        for cell in code_cells(path):
            with self.subTest(cell.id):
                self.assertEmpty(cell.outputs)
                self.assertIsNone(cell.execution_count)

    @parameterized.named_parameters(NAMED)
    def test_installs_in_colab_only(self, path):
        self.assertEmpty(run_first_cell(path, {}))
        (command,) = run_first_cell(path, {"google.colab": types.ModuleType("google.colab")})
        self.assertEqual(command[:4], [sys.executable, "-m", "pip", "install"])
        for cell in code_cells(path)[1:]:
            self.assertNotRegex(cell.source, r"(?m)^\s*[!%]|\bpip\b", f"cell {cell.id} leaves Python or installs")

    @parameterized.named_parameters(NAMED)
    def test_runs(self, path):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, SMOKE):
            NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
        outputs = [(cell.id, output) for cell in notebook.cells for output in cell.get("outputs", ())]
        complaints = [(id, output.text) for id, output in outputs if output.get("name") == "stderr"]
        self.assertEmpty(complaints)
        self.assertTrue(any("image/png" in output.get("data", ()) for _, output in outputs), "no figure was drawn")


if __name__ == "__main__":
    absltest.main()
