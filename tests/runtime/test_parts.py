"""The smaller parts of a running instance, each alone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rsock_firewall import FirewallError, Policy
from rsock_firewall import PortRange as FirewallPorts
from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import PortRange, Run, Shard
from rsock_nf.errors import TunnelError
from rsock_nf.link import Link, LinkError, LinkEvent, Match, PortSide, Routing
from rsock_nf.runtime import make_tunnel
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.host import device, source_ports
from rsock_nf.runtime.host.device import LinkedDevice
from rsock_nf.runtime.host.local_ends import LocalEnds
from rsock_nf.runtime.host.rules import Rules
from rsock_nf.runtime.host.source_ports import PORT_LINGER, SourcePorts
from rsock_nf.runtime.reports.troubles import MAX_TROUBLES, Troubles
from rsock_nf.runtime.tunnel import Tunnel
from rsock_nf.settings import Settings
from rsock_nf.wire.parameters import NativeParameters
from tests.runtime import parts

# -- source ports


class Held:
    """A port that is held, until it is closed."""

    def __init__(self, port: int, closed: list[int]) -> None:
        self.port = port
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self.port)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A kernel with ports 1 to 3, and those that were given back to it."""
    found: list[int] = []
    free = [1, 2, 3]

    def hold_any(*_: object, **__: object) -> Held:
        if not free:
            raise LinkError("all 3 ports are in use")
        return Held(free.pop(0), found)

    def hold_port(port: int) -> Held:
        if port == 9:
            raise LinkError("port 9 is in use")
        return Held(port, found)

    monkeypatch.setattr(source_ports, "hold_any", hold_any)
    monkeypatch.setattr(source_ports, "hold_port", hold_port)
    return found


def test_source_ports_are_those_of_the_shard(closed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[PortRange, ...]] = []

    def hold_any(ranges: tuple[PortRange, ...], shard: Shard, **_: object) -> Held:
        asked.append(ranges)
        assert shard == Shard(1, 2)
        return Held(ranges[0].first if ranges else 8001, closed)

    monkeypatch.setattr(source_ports, "hold_any", hold_any)
    ports = SourcePorts((PortRange(10, 12), PortRange(15, 15)), bytes, Shard(1, 2))
    assert ports.take(lambda: None) == 11
    assert asked == [(PortRange(11, 11), PortRange(15, 15))]
    assert SourcePorts((), bytes, Shard(1, 2)).take(lambda: None) == 8001
    heir = SourcePorts((), bytes, Shard(1, 2))
    heir.inherit([FirewallPorts(4, 9), FirewallPorts(11, 11)], 0.0)
    assert heir.held == [5, 7, 11], "9 is somebody else's by now, and the even ones are another worker's"


def test_a_port_lingers_after_its_flow(closed: list[int]) -> None:
    ports = SourcePorts((), bytes)
    assert [ports.take(lambda: None) for _ in range(2)] == [1, 2]
    ports.release(1, 100.0)
    assert not ports.tick(100.0 + PORT_LINGER - 1)
    assert ports.held_ranges == (PortRange(1, 1), PortRange(2, 2))
    assert ports.tick(100.0 + PORT_LINGER)
    assert (ports.held, closed) == ([2], [1])


def test_a_port_that_the_rules_do_not_cover_is_not_held(closed: list[int]) -> None:
    ports = SourcePorts((), bytes)

    def refuse() -> None:
        raise FirewallError("busy")

    with pytest.raises(FirewallError):
        ports.take(refuse)
    assert (ports.held, closed) == ([], [1])


def test_ports_that_linger_give_way_where_there_are_no_others(closed: list[int]) -> None:
    ports = SourcePorts((PortRange(1, 3),), bytes)
    for _ in range(3):
        ports.take(lambda: None)
    with pytest.raises(LinkError):
        ports.take(lambda: None)
    assert closed == [], "all carry"
    ports.release(2, 0.0)
    with pytest.raises(LinkError):
        ports.take(lambda: None)
    assert closed == [2]


def test_a_predecessors_ports_linger_unless_somebody_has_them(closed: list[int]) -> None:
    ports = SourcePorts((), bytes)
    ports.inherit([FirewallPorts(7, 9)], 100.0)
    assert ports.held == [7, 8]
    assert ports.tick(100.0 + PORT_LINGER)
    assert closed == [7, 8]


# -- local ends


class Listener:
    """One socket of a client."""

    def __init__(self, name: str) -> None:
        self.local = name
        self.sent: list[Run] = []
        self.counters = SimpleNamespace(unanswerable=0)

    def fileno(self) -> int:
        return 5

    def receive(self) -> list[Run]:
        return [Run("peer", [b"x"], 1)]

    def send(self, runs: list[Run]) -> None:
        self.sent += runs

    def describe(self, peer: object) -> str:
        return f"{peer} at {self.local}"


def test_one_local_end_names_its_peers_itself() -> None:
    one = Listener("one")
    ends = LocalEnds([cast("Any", one)], parts.LOG)
    (source,) = ends.sources()
    ends.sink()(source.receive())
    assert one.sent == [Run("peer", [b"x"], 1)]
    assert ends.describe("peer") == "peer at one"


def test_several_local_ends_are_told_apart_by_number() -> None:
    listeners = [Listener("one"), Listener("two")]
    ends = LocalEnds([cast("Any", listener) for listener in listeners], parts.LOG)
    received = ends.sources()[1].receive()
    assert received == [Run((1, "peer"), [b"x"], 1)]
    ends.sink()(received)
    assert [listener.sent for listener in listeners] == [[], [Run("peer", [b"x"], 1)]]
    assert ends.describe((1, "peer")) == "peer at two"
    with pytest.raises(TypeError):
        ends.describe("peer")


def test_an_application_that_cannot_be_answered_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener("/run/a.sock")
    ends = LocalEnds([cast("Any", listener)], parts.LOG)
    ends.tick()
    assert caplog.messages == []
    listener.counters.unanswerable = 3
    for _ in range(3):
        ends.tick()
    (line,) = caplog.messages
    assert line.startswith("unix:/run/a.sock: an application cannot be answered")


# -- rules and device


class Owner:
    """Whose device it is."""

    def __init__(self) -> None:
        self.wanted = "v0"
        self.told: list[object] = []

    def match(self) -> Match:
        return Match(PortSide.DESTINATION, (), ())

    def routing(self, name: str | None) -> Routing:
        return Routing(name)

    def wanted_device(self) -> str:
        return self.wanted

    def device_changes(self, name: str) -> None:
        self.told.append(f"changes to {name}")

    def device_event(self, event: LinkEvent) -> None:
        self.told.append(event)

    def link_renewed(self) -> None:
        self.told.append("renewed")


class Host:
    """A device on which things happen in the order of ``done``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.news: list[LinkEvent] = []
        self.there = True
        self.owner = Owner()
        endpoint = parts.endpoint()
        endpoint.receive_mtu = lambda _, mtu, __: self.done.append(f"MTU {mtu}")
        self.driver = Driver(
            cast("asyncio.AbstractEventLoop", parts.Loop()),
            endpoint,
            deliver=lambda _: None,
            handle=lambda _: None,
            carrier_refused=lambda _: None,
            has_carriers=False,
        )
        held = parts.held(update=lambda _: self.done.append("rules"))
        policy = Policy("edge", "v0", (), (PortRange(1, 1),))
        rules = Rules("nftables", held, lambda: policy, log=parts.LOG, troubles=Troubles())
        monkeypatch.setattr(device, "open_link", self.open)
        self.device = LinkedDevice("v0", self.link(), self.driver, rules, self.owner, log=parts.LOG)

    def link(self, mtu: int = 1500) -> Link:
        return parts.link(
            mtu=mtu, events=lambda: self.news[:1] and [self.news.pop(0)], close=lambda: self.done.append("close")
        )

    def open(self, routing: Routing, _: Match) -> Link:
        name = routing.device
        if not self.there:
            raise LinkError(f"{name}: no such device")
        self.done.append(f"open {name}")
        return self.link(1400)


def test_a_device_that_goes_is_looked_for_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.news, host.there = [LinkEvent.GONE], False
    host.device.tick(0.0)
    assert (host.device.up, host.device.mtu, host.done) == (False, None, ["close"])
    host.device.tick(1.0)
    assert not host.device.up
    host.there, host.done = True, []
    host.device.tick(2.0)
    assert host.done == ["rules", "open v0", "MTU 1400"], "rules first"
    assert (host.device.up, host.device.mtu) == (True, 1400)
    assert host.owner.told[-1] == "renewed"


def test_a_route_that_moves_takes_the_link_along(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.owner.wanted = "v1"
    host.news = [LinkEvent.MOVED]
    host.device.read_events()
    assert host.device.name == "v1"
    assert host.done == ["close", "rules", "open v1", "MTU 1400"]
    assert host.owner.told == ["changes to v1", "renewed"]


def test_a_device_that_is_down_is_still_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    for event, up in ((LinkEvent.DOWN, False), (LinkEvent.UP, True)):
        host.news = [event]
        host.device.read_events()
        assert host.device.up is up
    assert host.owner.told == [LinkEvent.DOWN, LinkEvent.UP]


def test_what_a_kernel_lacks_is_logged_whenever_the_link_is_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(monkeypatch)
    assert caplog.messages == []
    monkeypatch.setattr(device, "open_link", lambda *_: parts.link(warnings=("v0: no lock",)))
    host.news = [LinkEvent.GONE]
    host.device.tick(0.0)
    host.device.tick(1.0)
    assert "v0: no lock" in caplog.messages
    LinkedDevice("v0", parts.link(warnings=("at first",)), host.driver, host.device._rules, host.owner, log=parts.LOG)
    assert caplog.messages[-1] == "at first"


def test_obstacles_to_the_rules_are_logged_when_they_are_installed(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy("edge", "v0", (), (PortRange(1, 1),))
    firewall = SimpleNamespace(
        name="pf",
        hold=lambda _: contextlib.nullcontext(parts.held()),
        obstacles=lambda asked: [f"a rule comes before those of {asked.name}"],
    )
    with contextlib.ExitStack() as stack:
        Rules.install(cast("Any", firewall), lambda: policy, stack, log=parts.LOG, troubles=Troubles())
    assert caplog.messages == ["a rule comes before those of edge"]


def test_rules_that_somebody_changes_are_put_back_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    changed = iter([True, False])
    held = parts.held(repair=lambda: next(changed), fileno=lambda: -1)
    policy = Policy("edge", "v0", (), (PortRange(1, 1),))
    rules = Rules("iptables", held, lambda: policy, log=parts.LOG, troubles=Troubles())
    rules.tick()
    rules.tick()
    assert rules.repairs == 1
    assert caplog.messages == ["the firewall rules were changed by somebody else: put back"]
    told = parts.held(repair=lambda: pytest.fail("it is told"), fileno=lambda: 3)
    Rules("nftables", told, lambda: policy, log=parts.LOG, troubles=Troubles()).tick()


def test_rules_follow_that_the_host_forwards(caplog: pytest.LogCaptureFixture) -> None:
    """Docker or a VPN may switch it on after the start; what fails is tried again."""
    caplog.set_level(logging.INFO)
    policy = Policy("edge", "v0", (), (PortRange(1, 1),))
    asked: list[bool] = []

    def update(wanted: Policy) -> None:
        asked.append(wanted.at_input)
        if len(asked) == 1:
            raise FirewallError("busy")

    held, troubles = parts.held(update=update, fileno=lambda: 3), Troubles()
    rules = Rules("nftables", held, lambda: policy, log=parts.LOG, troubles=troubles)
    rules.tick()
    assert asked == []
    policy = dataclasses.replace(policy, at_input=True)
    for _ in range(3):
        rules.tick()
    policy = dataclasses.replace(policy, at_input=False)
    rules.tick()
    assert asked == [True, True, False]
    assert troubles.counts == {"the firewall rules cannot follow that this host forwards: busy": 1}
    assert caplog.messages == [
        "this host forwards now: rules spare translated connections of others",
        "this host no longer forwards: rules do not spare connections of others",
    ]


def test_troubles_that_differ_without_end_share_a_line() -> None:
    troubles = Troubles()
    for number in range(MAX_TROUBLES + 10):
        troubles.note(f"trouble {number}")
    troubles.note("trouble 3")
    assert len(troubles.counts) == MAX_TROUBLES + 1
    assert (troubles.counts["trouble 3"], troubles.counts["other errors"]) == (2, 10)


# -- the life of an instance


@pytest.mark.parametrize(
    ("parameters", "role", "reason"),
    [(ClientParameters(), "client", "starting"), (ServerParameters(), "server", "")],
)
def test_before_it_runs_it_is_starting(parameters: ClientParameters | ServerParameters, role: str, reason: str) -> None:
    tunnel = make_tunnel(Settings("edge", Path("/edge.json"), "", parameters, NativeParameters(bytes(32))), parts.LOG)
    shown = tunnel.snapshot()
    assert (shown["role"], shown["state"], shown["reason"]) == (role, "starting", reason)
    assert (shown["sessions"], shown["link"]["up"], shown["firewall"]["backend"]) == ([], False, "")
    asyncio.run(tunnel.reconnect())  # nothing is there yet: nothing happens


def test_what_was_opened_before_a_failure_is_closed() -> None:
    closed: list[str] = []

    def build(_: object, stack: contextlib.ExitStack) -> Any:
        stack.callback(lambda: closed.append("a socket"))
        raise LinkError("eth0: no such device")

    tunnel = Tunnel(
        Settings("edge", Path("/edge.json"), "", ServerParameters(), NativeParameters(bytes(32))),
        build,
        logging.getLogger("edge"),
    )
    with pytest.raises(TunnelError, match=r"^eth0: no such device$"):
        asyncio.run(tunnel.run(ready=lambda: pytest.fail("it is not ready"), stop=asyncio.Event()))
    assert closed == ["a socket"]
