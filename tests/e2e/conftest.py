"""Both ways for each program: over plain UDP, which proves the test, and through the tunnel, which is the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.route import Route, directly, through_tunnel


@pytest.fixture(params=["direct", "tunnel"])
def route(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Route]:
    with directly() if request.param == "direct" else through_tunnel(tmp_path / "tunnel") as made:
        yield made
