"""Both ways for each program: over plain UDP, which proves the test, and through the tunnel, which is the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.e2e.route import Route, directly, through_tunnel

KINDS: dict[str, dict[str, Any]] = {
    "tunnel": {},
    "udp": {"type": "udp"},
    "all": {"type": "all"},
    "rsock": {"wire": "rsock", "hash": "between us", "secret": None},
}
"""What the tunnel's configuration says beside the defaults."""


@pytest.fixture(params=["direct", "tunnel"])
def route(request: pytest.FixtureRequest) -> Iterator[Route]:
    kind = request.param
    with TemporaryDirectory(prefix="rsnf-") as made:  # not pytest's: the path of a Unix socket has 107 bytes at most
        directory = Path(made)
        with directly(directory) if kind == "direct" else through_tunnel(directory, **KINDS[kind]) as route:
            yield route
