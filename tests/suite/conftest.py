"""What the tests of the suite itself share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory() -> Iterator[Path]:
    """Shorter than ``tmp_path``: the path of a Unix socket below it has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="rsnf-suite-") as made:
        yield Path(made)
