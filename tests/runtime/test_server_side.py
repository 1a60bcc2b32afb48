"""A server whose addresses change, or whose rules cannot be put back, on stand-ins for device, rules and link."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rsock_firewall import FirewallError, Held, Policy
from rsock_nf.core.events import ConversationOpened
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import TransportAddress
from rsock_nf.link import Link, LinkError, LinkEvent, Match, Routing
from rsock_nf.runtime import server
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.endpoints import Limits
from rsock_nf.runtime.host import targets
from rsock_nf.runtime.host.rules import Rules
from rsock_nf.runtime.host.targets import Targets
from rsock_nf.runtime.server import Cover, Parts, ServerSide
from rsock_nf.runtime.tunnel import Start, Tunnel
from rsock_nf.settings import Settings
from rsock_nf.wire.parameters import NativeParameters
from tests.runtime import parts

OLD, NEW = (ip_address("192.0.2.1"),), (ip_address("192.0.2.2"),)
SETTINGS = Settings("test", Path("/test.json"), "", ServerParameters(), NativeParameters(bytes(32)))


def make(
    link: Link,
    held: Held,
    *,
    endpoint: Any = None,
    start: Start | None = None,
    leads_to: tuple[TransportAddress, ...] = (),
) -> ServerSide:
    """A server on device v0."""
    begin = start or parts.start()
    cover = Cover(SETTINGS, "v0", OLD)
    rules = Rules("nftables", held, cover.policy, log=begin.log, troubles=begin.troubles)
    made = Parts(
        [], Targets(leads_to), cover, Routing("v0"), rules, link, Limits(1500, 0), endpoint or parts.endpoint(), []
    )
    return ServerSide(SETTINGS, begin, made)


def test_a_route_that_cannot_be_asked_for_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise LinkError("the default route cannot be asked for: Too many open files")

    side = make(parts.link(events=lambda: [LinkEvent.MOVED]), parts.held())
    monkeypatch.setattr(server, "default_device", refuse)
    side.device.tick(0.0)
    assert side.device.name == "v0"


def test_rules_that_are_locked_follow_later(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
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

    news = [LinkEvent.ADDRESSES]
    link = parts.link(rematch=matches.append, events=lambda: [news.pop()] if news else [])
    side = make(link, parts.held(update=update))
    monkeypatch.setattr(Driver, "now", staticmethod(lambda: clock[0]))
    monkeypatch.setattr(server, "own_addresses", lambda _: NEW)
    for _ in range(20):
        side.device.tick(clock[0])
        side.tick(clock[0])
        clock[0] += 1.0
    assert tries == [100.0, 105.0, 110.0], "each may wait for half a second, and so does the traffic"
    (policy,), (match,) = policies, matches
    assert policy.local_addresses == match.addresses == NEW
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO] == [
        "addresses are now 192.0.2.2",
        "rules or filter do not name the present addresses yet: another iptables command is at work",
        "rules and filter name the present addresses",
    ]


def test_rules_that_cannot_be_put_back_fill_no_disk(caplog: pytest.LogCaptureFixture) -> None:
    """Backends that nobody tells of changes look every second."""

    def repair() -> bool:
        raise FirewallError("no such table")

    start = parts.start()
    side = make(parts.link(), parts.held(repair=repair, fileno=lambda: -1), start=start)
    tunnel = Tunnel(SETTINGS, lambda *_: side, start.log)
    for now in range(100):
        tunnel._tick(side, float(now))
    lines = [record.getMessage() for record in caplog.records]
    said = "cannot put the firewall rules back: no such table (times so far: {})"
    assert lines == [said.format(1), said.format(61)]


def test_sockets_that_cannot_be_had_fill_no_disk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On wire rsock every datagram may ask for one, and anybody may send it."""
    refused: list[str] = []

    def refuse(target: TransportAddress) -> None:
        raise LinkError(f"no socket for {target}: Too many open files")

    monkeypatch.setattr(targets, "TargetSocket", refuse)
    endpoint = parts.endpoint(socket_refused=lambda *said: refused.append(said[-1]))
    side = make(parts.link(), parts.held(), endpoint=endpoint, leads_to=(TransportAddress(OLD[0], 9),))
    for number in range(1000):
        side.handle(ConversationOpened(number, 0))
    assert len(refused) == 1000
    assert caplog.records == []
    assert side.view().troubles == {"no socket for 192.0.2.1:9: Too many open files": 1000}
