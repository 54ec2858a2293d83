"""Where the optional real data lies: beside the checkout. Tests that need it skip with a reason when it is absent."""

import pathlib

import pytest

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data beside the checkout")
