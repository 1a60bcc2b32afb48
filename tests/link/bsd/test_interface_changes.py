"""What a whole link tells of its interface: bpf device and routing socket together, of one simulated host."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from rsock_nf.link import Link, LinkError, LinkEvent, Match, Routing
from rsock_nf.link.bsd.bpf_device import BpfLink
from rsock_nf.link.bsd.routing import Interface
from rsock_nf.link.bsd.system import Bsd
from rsock_nf.link.checks import Verdict
from tests.link.bsd.packets import AT_CLIENT, AT_SERVER, TO_SERVER, outgoing
from tests.link.bsd.simulated import KERNELS, SimulatedBpf, SocketWire
from tests.link.bsd.simulated_routing import HandMade, SimulatedRouting

UP = 0x1 | 0x40
EM0 = Interface(2, "em0", UP, 1500, 0, b"\2\0\0\0\0\1", (ip_address("192.0.2.10"),))


class Host:
    """A host of one system with a single interface, em0, and a link on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bpf = SimulatedBpf(name, SocketWire(self.near))
        self.tables = HandMade([EM0])
        self.routing = SimulatedRouting(name, self.tables)
        self.system = Bsd(name, bpf=self.bpf, routing=self.routing)
        self.now = 100.0
        self.link = self.open()

    def open(self, match: Match = AT_SERVER) -> Link:
        return self.system.open_link(Routing("em0"), match, 1 << 20)

    def set_up(self, *, up: bool) -> None:
        """As ``ifconfig em0 up`` or ``down``."""
        self.bpf.up = up
        self.tables.links[0] = replace(EM0, flags=UP if up else UP & ~0x1)

    def says(self) -> None:
        """The routing socket tells that something happened to the interface."""
        self.routing.announce("RTM_IFINFO", 2)

    def writes(self) -> None:
        self.link.send([outgoing(4, b"x")._replace(reply_to=TO_SERVER[4])])

    def a_second_later(self) -> list[LinkEvent]:
        self.now += 1
        self.link.tick(self.now)
        return self.link.events()

    def close(self) -> None:
        self.link.close()
        self.near.close()
        self.far.close()


@pytest.fixture(params=KERNELS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with contextlib.closing(Host(request.param)) as made:
        yield made


@pytest.mark.parametrize("order", ["message first", "write first", "both before we look", "no message", "no write"])
def test_down_and_up_are_told_once(host: Host, order: str) -> None:
    """Both the routing socket and a write tell, in either order."""
    for up, told in ((False, LinkEvent.DOWN), (True, LinkEvent.UP)) * 2:
        host.set_up(up=up)
        found = []
        steps = {
            "message first": (host.says, host.link.events, host.writes),
            "write first": (host.writes, host.link.events, host.says),
            "both before we look": (host.says, host.writes),
            "no message": (host.writes,),
            "no write": (host.says,),
        }[order]
        for step in steps:
            found += step() or []
        for _ in range(3):
            found += host.a_second_later()
            if order != "no write":
                host.writes()
        assert found == [told]


def test_a_write_that_works_again_does_not_make_up_for_a_lost_carrier(host: Host) -> None:
    lost = host.bpf.abi.numbers.get("LINK_STATE_DOWN")
    if lost is None or host.name == "macos":
        return
    host.tables.links[0] = replace(EM0, link_state=lost)
    host.says()
    assert host.link.events() == [LinkEvent.DOWN]
    host.writes()  # the kernel takes it
    assert host.a_second_later() == []
    host.tables.links[0] = EM0
    host.says()
    assert host.link.events() == [LinkEvent.UP]


def test_up_is_noticed_by_a_write_when_its_message_was_lost(host: Host) -> None:
    host.set_up(up=False)
    host.says()
    host.writes()
    assert host.link.events() == [LinkEvent.DOWN]
    host.set_up(up=True)
    host.writes()
    assert host.link.events() == [LinkEvent.UP]


def gone(host: Host) -> None:
    host.bpf.detach()
    host.tables.links.clear()


def test_the_routing_socket_tells_a_quiet_server_at_once(host: Host) -> None:
    gone(host)
    assert host.link.events() == []
    host.routing.announce("RTM_IFANNOUNCE" if "RTM_IFANNOUNCE" in host.bpf.abi else "RTM_DELADDR")
    assert host.link.events() == [LinkEvent.GONE]


def test_a_quiet_server_whose_routing_socket_lost_the_message_finds_out_within_a_second(host: Host) -> None:
    """Nothing becomes readable, and nobody writes."""
    gone(host)
    assert LinkEvent.GONE in host.a_second_later()


def test_a_quiet_server_whose_interface_was_made_anew_finds_out_within_a_second(host: Host) -> None:
    """Under its old name and index, before the message was read: the tables look as before."""
    host.bpf.detach()
    host.bpf.present = True
    host.says()
    assert host.link.events() == []
    assert LinkEvent.GONE in host.a_second_later()
    host.link.close()
    host.link = host.open()
    assert host.a_second_later() == []


def test_an_overrun_of_the_routing_socket_has_the_interface_looked_at(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel tells (SO_RERROR): at once, too."""
    assert isinstance(host.link, BpfLink)
    gone(host)
    news = host.link._next_hops._kernel._news  # type: ignore[union-attr]
    errors = [OSError(errno.ENOBUFS, "ENOBUFS")]
    recv = news.recv
    monkeypatch.setattr(news, "recv", lambda size: _raise(errors.pop()) if errors else recv(size))
    assert host.link.events() == [LinkEvent.GONE]


def _raise(error: OSError) -> bytes:
    raise error


def test_a_client_without_a_lock_is_found_by_doctor_and_told_by_its_link(host: Host) -> None:
    has_lock = host.name != "macos"
    (_, bpf) = host.system.examine_device("em0", tap=True)
    assert "BIOCLOCK" not in bpf.text
    host.bpf.lacks.add("BIOCLOCK")
    (_, bpf) = host.system.examine_device("em0", tap=True)
    assert bpf.verdict is Verdict.OK
    assert ("no BIOCLOCK" in bpf.text) is has_lock
    with contextlib.closing(host.open(AT_CLIENT)) as client:
        assert len(client.warnings) is int(has_lock)


def test_a_link_that_is_gone_stays_gone(host: Host) -> None:
    gone(host)
    for _ in range(3):
        assert LinkEvent.GONE in host.a_second_later()
    with pytest.raises(LinkError, match="em0: no such interface"):
        host.open()
