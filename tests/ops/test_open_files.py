"""How many descriptors an instance asks for."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.config.values import format_secret
from rsock_nf.ops import open_files

SERVER: dict[str, Any] = {
    "role": "server",
    "target": "127.0.0.1:9",
    "secret": format_secret(bytes(range(32))),
    "max_conversations": 100,
}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"ports": "1025-65535"}, 64511),
        ({"ports": "10001-10010", "type": "all"}, 10 + 20),
        ({"ports": "10001-10010", "type": "udp"}, 20),
        ({"ports": "10001-10010", "type": "all", "addresses": ["192.0.2.1", "192.0.2.2", "2001:db8::1"]}, 30 + 30),
    ],
)
def test_one_for_each_port_socket_and_conversation(tmp_path: Path, keys: dict[str, Any], expected: int) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({**SERVER, **keys}))
    assert open_files.needed(config.load(path).settings) == expected + 100 + 256


@pytest.mark.parametrize(
    ("hard", "allowed", "expected"),
    [
        (500, True, (2000, 2000)),
        (500, False, (500, 500)),
        (5000, True, (5000, 5000)),
        (resource.RLIM_INFINITY, True, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    ],
)
def test_the_limit_rises_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch,
    hard: int,
    allowed: bool,  # noqa: FBT001
    expected: tuple[int, int],
) -> None:
    limits = (100, hard)

    def set_limit(_: int, wanted: tuple[int, int]) -> None:
        nonlocal limits
        if wanted[1] != hard and not allowed:
            raise ValueError("not allowed to raise maximum limit")
        limits = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    open_files.raise_limit(2000)
    assert limits == expected
