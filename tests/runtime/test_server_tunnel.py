"""A server tunnel whose addresses change, or whose rules cannot be put back, on stand-ins for device, rules and link."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rsock_firewall import FirewallError, Policy
from rsock_nf.core.events import ConversationOpened
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import Endpoint
from rsock_nf.link import LinkError, LinkEvent, Match
from rsock_nf.runtime import ServerTunnel, server
from rsock_nf.settings import Settings

OLD, NEW = (ip_address("192.0.2.1"),), (ip_address("192.0.2.2"),)


def test_a_route_that_cannot_be_asked_for_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = ServerParameters()
    tunnel = ServerTunnel(Settings("test", Path("/test.json"), "", parameters), parameters, logging.getLogger("test"))

    def refuse() -> None:
        raise LinkError("the default route cannot be asked for: Too many open files")

    tunnel.device = "v0"
    tunnel._link = cast("Any", SimpleNamespace(mtu=1500, events=lambda: [LinkEvent.MOVED]))
    monkeypatch.setattr(tunnel, "_settle", lambda: None)
    monkeypatch.setattr(server, "default_device", refuse)
    tunnel._link_events()
    assert tunnel.device == "v0"


def test_rules_that_are_locked_follow_later(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    parameters = ServerParameters()
    tunnel = ServerTunnel(Settings("test", Path("/test.json"), "", parameters), parameters, logging.getLogger("test"))
    tunnel.device, tunnel.addresses = "v0", OLD
    policies: list[Policy] = []
    matches: list[Match] = []
    busy = [True, True, False]
    tries: list[float] = []
    clock = [100.0]

    def update(policy: Policy) -> None:
        tries.append(clock[0])
        if busy.pop(0):
            raise FirewallError("another iptables command is at work")
        policies.append(policy)

    tunnel._held = cast("Any", SimpleNamespace(update=update, fileno=lambda: 0))
    news = [LinkEvent.ADDRESSES]
    link = SimpleNamespace(
        mtu=1500, rematch=matches.append, tick=lambda _: None, events=lambda: [news.pop()] if news else []
    )
    tunnel._link = cast("Any", link)
    monkeypatch.setattr(tunnel, "_settle", lambda: None)
    monkeypatch.setattr(tunnel, "_now", lambda: clock[0])
    monkeypatch.setattr(tunnel, "_journal", SimpleNamespace(tick=lambda *_: None))
    monkeypatch.setattr(server, "device_addresses", lambda _: NEW)
    for _ in range(20):
        tunnel._tick(clock[0])
        clock[0] += 1.0
    assert tries == [100.0, 105.0, 110.0], "each may wait for half a second, and so does the traffic"
    (policy,), (match,) = policies, matches
    assert policy.local_addresses == match.addresses == NEW
    assert [record.getMessage() for record in caplog.records] == [
        "addresses are now 192.0.2.2",
        "rules or filter do not name the present addresses yet: another iptables command is at work",
        "rules and filter name the present addresses",
    ]


def test_rules_that_cannot_be_put_back_fill_no_disk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Backends that nobody tells of changes look every second."""
    parameters = ServerParameters()
    tunnel = ServerTunnel(Settings("test", Path("/test.json"), "", parameters), parameters, logging.getLogger("test"))

    def repair() -> bool:
        raise FirewallError("no such table")

    tunnel._held = cast("Any", SimpleNamespace(repair=repair, fileno=lambda: -1))
    tunnel._link = cast("Any", SimpleNamespace(tick=lambda _: None, events=lambda: ()))
    tunnel.core = cast("Any", SimpleNamespace(counters={}, sessions={}))
    monkeypatch.setattr(tunnel, "_settle", lambda: None)
    for now in range(100):
        tunnel._tick(float(now))
    lines = [record.getMessage() for record in caplog.records]
    said = "cannot put the firewall rules back: no such table (times so far: {})"
    assert lines == [said.format(1), said.format(61)]


def test_sockets_that_cannot_be_had_fill_no_disk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On wire rsock every datagram may ask for one, and anybody may send it."""
    target = Endpoint(OLD[0], 9)
    parameters = ServerParameters(targets=(target,))
    tunnel = ServerTunnel(Settings("test", Path("/test.json"), "", parameters), parameters, logging.getLogger("test"))
    refused: list[str] = []

    def refuse(target: Endpoint) -> None:
        raise LinkError(f"no socket for {target}: Too many open files")

    monkeypatch.setattr(server, "TargetSocket", refuse)
    tunnel.core = cast("Any", SimpleNamespace(socket_refused=lambda *said: refused.append(said[-1])))
    for number in range(1000):
        tunnel._event(ConversationOpened(number, 0))
    assert len(refused) == 1000
    assert caplog.records == []
    assert tunnel.troubles == {"no socket for 192.0.2.1:9: Too many open files": 1000}
