"""A test case with an empty folder of its own."""

import pathlib
import tempfile

from absl.testing import parameterized


class FolderCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
