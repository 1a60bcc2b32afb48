"""Where applications send: several local ends with a target each, and Unix-domain sockets, through a real tunnel."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.netns.conftest import Site
from tests.netns.judges import wait_until

PATIENCE = 10.0


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.fixture
def target_at(stack: contextlib.ExitStack) -> Callable[[Site, int], socket.socket]:
    """A UDP socket on the server's host."""

    def make(site: Site, port: int) -> socket.socket:
        made = stack.enter_context(site.lab.server.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.settimeout(PATIENCE)
        made.bind(("127.0.0.1", port))
        return made

    return make


def answer(target: socket.socket, expected: bytes) -> tuple[str, int]:
    """Take one datagram and answer it; who it came from."""
    sender: tuple[str, int]
    data, sender = target.recvfrom(2000)
    assert data == expected
    target.sendto(b"re: " + data, sender)
    return sender


def test_every_tunnel_leads_to_its_target(
    build: Callable[..., Site],
    target_at: Callable[[Site, int], socket.socket],
    tmp_path: Path,
    stack: contextlib.ExitStack,
) -> None:
    path = tmp_path / "app"
    tunnels = [
        {"listen": "127.0.0.1:30000", "target": 1},
        {"listen": f"unix:{path}", "target": 2},
        {"listen": "[::1]:30000"},
        {"listen": f"unix:{path}2", "target": 9},
    ]
    site = build(
        client={"listen": None, "tunnels": tunnels},
        server={"target": None, "targets": [f"127.0.0.1:{port}" for port in (9000, 9001, 9002)]},
    )
    targets = [target_at(site, port) for port in (9000, 9001, 9002)]
    for family, to, index in (
        (socket.AF_INET, ("127.0.0.1", 30000), 1),
        (socket.AF_UNIX, str(path), 2),
        (socket.AF_INET6, ("::1", 30000), 0),
    ):
        application = stack.enter_context(site.lab.client.socket(family, socket.SOCK_DGRAM))
        application.settimeout(PATIENCE)
        if family == socket.AF_UNIX:
            application.bind(str(tmp_path / "me"))
        application.connect(to)
        application.send(b"for %d" % index)
        answer(targets[index], b"for %d" % index)
        assert application.recv(2000) == b"re: for %d" % index
    application = stack.enter_context(site.lab.client.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    application.sendto(b"for nobody", f"{path}2")
    refusal = f"the server refuses the conversations of unix:{path}2: it has no target 9 (counted from 0)"
    wait_until(lambda: site.tunnel.status("client")["reason"] == refusal, "the refusal to be told")


def test_two_unix_clients_share_a_tunnel(
    build: Callable[..., Site],
    target_at: Callable[[Site, int], socket.socket],
    tmp_path: Path,
    stack: contextlib.ExitStack,
) -> None:
    path = tmp_path / "app"
    site = build(client={"listen": f"unix:{path}"})
    target = target_at(site, 9999)
    applications = []
    for name in ("one", "two"):
        application = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        application.settimeout(PATIENCE)
        application.bind(str(tmp_path / name))
        application.connect(str(path))
        applications.append(application)
    senders = set()
    for number in range(20):
        for which, application in enumerate(applications):
            application.send(b"%d from %d" % (number, which))
            senders.add((which, answer(target, b"%d from %d" % (number, which))))
            assert application.recv(2000) == b"re: %d from %d" % (number, which)
    assert len(senders) == len({sender for _, sender in senders}) == 2, "a conversation each, with a port each"

    unbound = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    unbound.sendto(b"heard", str(path))
    answer(target, b"heard")
    wait_until(lambda: site.tunnel.status("client")["sockets"]["unanswerable"] == 1, "the answer to be counted")
    wait_until(
        lambda: f"unix:{path}: an application cannot be answered" in site.tunnel.log("client"), "a line in the log"
    )
    (session,) = site.tunnel.status("client")["sessions"]
    assert {found["peer"] for found in session["conversation_list"]} == {
        f"unix:{tmp_path}/one",
        f"unix:{tmp_path}/two",
        "unix: unbound senders",
    }

    site.kill("client")
    assert path.is_socket(), "a killed process leaves its file"
    site.tunnel.up("client")
    applications[0].connect(str(path))
    applications[0].send(b"again")
    answer(target, b"again")
    assert applications[0].recv(2000) == b"re: again"
    site.tunnel.down("client")
    assert not path.exists(), "down removes the file"
