"""What ``up`` says of a tunnel that has come up, and the line that it writes meanwhile."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.commands.live_line import LiveLine
from rsock_nf.config.values import format_secret
from rsock_nf.errors import ControlError
from rsock_nf.ops import standing
from rsock_nf.ops.instances import run_directory
from rsock_nf.settings import Settings

SECRET = format_secret(bytes(range(32)))
FLOW = {"rtt_ms": None}


def settings(directory: Path, **keys: object) -> Settings:
    path = directory / "wg.json"
    path.write_text(json.dumps({"secret": SECRET, **keys}))
    return config.load(path).settings


def client(directory: Path, **keys: object) -> Settings:
    return settings(directory, role="client", server="203.0.113.5", listen="127.0.0.1:30000", **keys)


def answers(monkeypatch: pytest.MonkeyPatch, *found: dict[str, Any]) -> None:
    """What the instance says, look by look; the last one again and again."""
    left = list(found)
    monkeypatch.setattr(standing, "_LOOK", 0.001)
    monkeypatch.setattr(standing, "ask", lambda *_, **__: left.pop(0) if len(left) > 1 else left[0])


def status(*flows: dict[str, Any], seen_as: str = "", mtu: int = 1452) -> dict[str, Any]:
    vpn = {"wireguard_mtu": mtu - 32}
    return {"state": "connected", "mtu": mtu, "vpn": vpn, "sessions": [{"flows": list(flows), "seen_as": seen_as}]}


def test_everything_that_is_known_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flows = [{"rtt_ms": time} for time in (30.0, 38.4, 900.0)]
    answers(monkeypatch, status(FLOW), status(*flows, seen_as="198.51.100.7"))
    said = standing.summary(client(tmp_path, ports="10001-10003"))
    assert said == "up: 3/3 flows, RTT 38.4 ms, the server sees you as 198.51.100.7, WireGuard MTU 1420"


def test_what_is_not_known_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "_PATIENCE", 0.0)
    answers(monkeypatch, status(FLOW, mtu=300))
    assert standing.summary(client(tmp_path)) == "up: 1/10 flows"
    assert standing.summary(client(tmp_path, type="all", flows=4)) == "up: 1/8 flows"

    def refuse(*_: object, **__: object) -> dict[str, Any]:
        raise ControlError("busy")

    monkeypatch.setattr(standing, "ask", refuse)
    assert standing.summary(client(tmp_path)) == "up"


@pytest.mark.parametrize(("kinds", "said"), [("tcp", "TCP"), ("udp", "UDP"), ("all", "TCP and UDP")])
def test_a_server_says_where_it_serves(tmp_path: Path, kinds: str, said: str) -> None:
    found = standing.summary(settings(tmp_path, role="server", target="127.0.0.1:9", type=kinds, ports="443,8000-8003"))
    assert found == f"up: {said} ports 443,8000-8003"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_stays_within_the_terminal_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    with LiveLine() as line:
        line.show("wg: dialling")
        line.show("wg: dialling")
        line.show("wg: \x1b[2J a reason that is too long")
    clear = "\r\x1b[K"
    assert terminal.getvalue() == f"{clear}wg: dialling{clear}wg: \\u001b[2J a re…{clear}"


def test_elsewhere_there_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with LiveLine() as line:
        line.show("wg: dialling")
        line.clear()
    assert file.getvalue() == ""


def test_without_root_the_run_directory_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(run_directory.RUN_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(run_directory, "_USER", os.geteuid() or 1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    if os.geteuid() == 0:
        os.chown(tmp_path, 1, -1)
    assert run_directory.run_dir() == tmp_path / "rsock-nf"
    monkeypatch.setattr(run_directory, "_USER", 0)
    usual = run_directory.run_dir()
    assert usual.name == "rsock-nf"
    assert usual != tmp_path / "rsock-nf"
    monkeypatch.setattr(run_directory, "_USER", 987654)
    assert run_directory.run_dir() == usual, "it belongs to somebody else, and there is no /run/user/987654"
    monkeypatch.setattr(run_directory, "_USER", 1)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert run_directory.run_dir() in (usual, usual.parent / "user" / "1" / "rsock-nf")
