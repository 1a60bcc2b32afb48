"""Routes, neighbours and interfaces as routing messages tell them, on each system."""

from __future__ import annotations

import contextlib
import errno
import select
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from rsock_nf.core.types import IPAddress
from rsock_nf.link import LinkError, LinkEvent, Route
from rsock_nf.link.bsd import routes
from rsock_nf.link.bsd.abi import load
from rsock_nf.link.bsd.next_hop import LOOK_AGAIN, NextHops
from rsock_nf.link.bsd.routing import Interface, RouteSocket
from rsock_nf.link.recheck import RECHECK, RETRY
from tests.link.bsd.simulated import KERNELS
from tests.link.bsd.simulated_routing import HandMade, SimulatedRouting, Way

MAC, GATEWAY_MAC, NEAR_MAC = (bytes.fromhex(f"0200000000{n:02x}") for n in (1, 2, 3))
OURS, TEMPORARY, LASTING = (ip_address(a) for a in ("192.0.2.10", "2001:db8::bad", "2001:db8::1"))
LINK_LOCAL = IPv6Address("fe80::1%2")
GATEWAY, NEAR, FAR = (ip_address(a) for a in ("192.0.2.1", "192.0.2.7", "198.51.100.7"))
GATEWAY6, FAR6 = IPv6Address("fe80::9%2"), ip_address("2001:db8:1::1")
UP = 0x1 | 0x40
LO0 = Interface(1, "lo0", UP | 0x8, 16384, 0, b"", (IPv4Address("127.0.0.1"),))
EM0 = Interface(2, "em0", UP, 1500, 0, MAC, (OURS, LINK_LOCAL, TEMPORARY, LASTING))


class Host:
    def __init__(self, system: str) -> None:
        self.tables = HandMade([LO0, EM0])
        self.tables.ways = {
            None: Way(EM0, GATEWAY, OURS),
            str(NEAR): Way(EM0, None, OURS),
            str(FAR6): Way(EM0, GATEWAY6, TEMPORARY),
            str(OURS): Way(LO0, None, OURS),
        }
        self.tables.answers = {str(GATEWAY): GATEWAY_MAC, str(NEAR): NEAR_MAC, str(GATEWAY6): GATEWAY_MAC}
        self.tables.flags = {str(TEMPORARY): 0x80}
        self.kernel = SimulatedRouting(load(system), self.tables)
        self.stack = contextlib.ExitStack()

    def socket(self) -> RouteSocket:
        return self.stack.enter_context(contextlib.closing(RouteSocket(self.kernel.abi, self.kernel)))

    def next_hops(self) -> NextHops:
        return self.stack.enter_context(contextlib.closing(NextHops("em0", self.socket())))


@pytest.fixture(params=KERNELS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    made = Host(request.param)
    with made.stack:
        yield made


def tells_temporary(host: Host) -> bool:
    """macOS's numbers for it are in no header that we have."""
    return "IN6_IFF_TEMPORARY" in host.kernel.abi


def test_the_route_to_an_address(host: Host) -> None:
    kernel = host.socket()
    assert routes.route_to(kernel, FAR) == Route("em0", OURS, GATEWAY, False)
    assert routes.route_to(kernel, NEAR) == Route("em0", OURS, None, False)
    assert routes.route_to(kernel, FAR6) == Route("em0", TEMPORARY, GATEWAY6, False)
    assert routes.route_to(kernel, OURS) == Route("lo0", OURS, None, True)
    host.tables.ways[str(OURS)] = Way(EM0, None, OURS, ("RTF_HOST", "RTF_LOCAL"))  # as OpenBSD has it
    assert routes.route_to(kernel, OURS).local
    del host.tables.ways[None]
    with pytest.raises(LinkError, match=r"no route to 198\.51\.100\.7; `route -n get"):
        routes.route_to(kernel, FAR)
    with pytest.raises(LinkError, match="needs its interface"):
        routes.route_to(kernel, ip_address("fe80::5"))


def test_the_device_and_its_addresses(host: Host) -> None:
    kernel = host.socket()
    assert routes.default_device(kernel) == "em0"
    told = tells_temporary(host)
    assert routes.device_addresses(kernel, "em0") == (OURS, LASTING, TEMPORARY) if told else (OURS, TEMPORARY, LASTING)
    assert routes.device_addresses(kernel, "lo0") == LO0.addresses
    with pytest.raises(LinkError, match="em7: no such interface"):
        routes.device_addresses(kernel, "em7")
    host.tables.ways.clear()
    assert routes.default_device(kernel) == "em0"  # the only one with an address
    host.tables.links.append(replace(EM0, index=3, name="em1"))
    assert routes.default_device(kernel) is None
    assert routes.default_device(kernel, 6) is None


def test_following_resolves_the_next_hop(host: Host) -> None:
    hops = host.next_hops()
    assert (hops.mtu, hops.up) == (1500, True)
    assert hops.header(FAR.packed) is None
    hops.follow(FAR)
    assert hops.header(FAR.packed) == GATEWAY_MAC + MAC + b"\x08\x00"
    assert host.tables.touched == [str(GATEWAY)]
    hops.follow(NEAR)
    assert hops.header(NEAR.packed) == NEAR_MAC + MAC + b"\x08\x00"
    hops.follow(FAR6)
    assert hops.header(FAR6.packed) == GATEWAY_MAC + MAC + b"\x86\xdd"
    assert hops.source_for(FAR) == OURS
    assert hops.source_for(ip_address("203.0.113.1")) == OURS
    hops.forget(FAR)
    assert hops.header(FAR.packed) is None


def test_a_lasting_address_is_preferred_to_a_temporary_one(host: Host) -> None:
    assert host.next_hops().source_for(FAR6) == (LASTING if tells_temporary(host) else TEMPORARY)


def test_a_neighbour_that_answers_late_is_found_when_it_is_needed(host: Host) -> None:
    del host.tables.answers[str(GATEWAY)]
    hops = host.next_hops()
    hops.follow(FAR)
    assert hops.header(FAR.packed) is None
    host.tables.known[str(GATEWAY)] = GATEWAY_MAC
    assert hops.header(FAR.packed) == GATEWAY_MAC + MAC + b"\x08\x00"


def test_neighbours_are_checked_again(host: Host) -> None:
    hops = host.next_hops()
    hops.follow(FAR)
    hops.tick(100.0)
    hops.tick(100.0 + RECHECK - 1)
    assert host.tables.touched == [str(GATEWAY)]
    host.tables.answers[str(GATEWAY)] = NEAR_MAC  # the router was replaced
    hops.tick(100.0 + RECHECK)
    assert host.tables.touched == [str(GATEWAY)] * 2
    assert hops.header(FAR.packed) == NEAR_MAC + MAC + b"\x08\x00"
    hops.suspect(FAR)
    assert len(host.tables.touched) == 3
    # Gone from the kernel's table: asked for every second, and the last known address serves.
    host.tables.known.clear()
    host.tables.answers.clear()
    hops.tick(100.0 + 2 * RECHECK)
    hops.tick(100.0 + 2 * RECHECK + RETRY)
    hops.tick(100.0 + 2 * RECHECK + 2 * RETRY)
    assert len(host.tables.touched) == 6
    assert hops.header(FAR.packed) == NEAR_MAC + MAC + b"\x08\x00"


def test_a_route_that_changes_is_news(host: Host) -> None:
    hops = host.next_hops()
    hops.follow(FAR)
    assert hops.events() == []
    host.tables.ways[None] = Way(EM0, NEAR, OURS)
    host.kernel.announce("RTM_CHANGE", 2)
    assert select.select([hops.fileno()], [], [], 0)[0]
    assert hops.events() == [LinkEvent.NEXT_HOP]
    assert hops.header(FAR.packed) == NEAR_MAC + MAC + b"\x08\x00"
    del host.tables.ways[None]
    host.kernel.announce("RTM_DELETE", 2)
    assert hops.events() == [LinkEvent.NEXT_HOP]
    assert hops.header(FAR.packed) is None
    assert hops.source_for(FAR) is None
    em1 = replace(EM0, index=3, name="em1")
    host.tables.links.insert(1, em1)
    host.tables.ways[None] = Way(em1, GATEWAY, OURS)
    host.kernel.announce("RTM_ADD", 3)
    assert hops.events() == [LinkEvent.MOVED]
    assert hops._followed[FAR.packed].way.ifindex == em1.index


def test_a_change_that_no_message_told_is_found(host: Host) -> None:
    """FreeBSD before 14 and macOS drop what a full routing socket has no room for, and say nothing."""
    hops = host.next_hops()
    hops.follow(FAR)
    hops.tick(100.0)
    host.tables.ways[None] = Way(EM0, NEAR, OURS)
    host.tables.links[-1] = replace(EM0, mtu=1400)
    hops.tick(100.0 + LOOK_AGAIN - 1)
    assert hops.events() == []
    hops.tick(100.0 + LOOK_AGAIN)
    assert set(hops.events()) == {LinkEvent.MTU, LinkEvent.NEXT_HOP}
    assert hops.events() == []
    assert hops.header(FAR.packed) == NEAR_MAC + MAC + b"\x08\x00"


def test_a_neighbour_that_does_not_answer_is_no_missing_route(host: Host) -> None:
    """Its cloned route is RTF_REJECT until it does (OpenBSD, macOS): who took that for no route would never ask
    again."""
    hops = host.next_hops()
    hops.follow(NEAR)
    known = "RTF_LLINFO" if "RTF_LLINFO" in host.kernel.abi else "RTF_LLDATA"
    host.tables.ways[str(NEAR)] = Way(EM0, None, OURS, ("RTF_HOST", known, "RTF_REJECT"))
    host.tables.known.clear()
    host.kernel.announce("RTM_CHANGE", 2)
    assert hops.events() == []
    assert hops.source_for(NEAR) == OURS
    before = len(host.tables.touched)
    hops.tick(100.0)
    hops.tick(100.0 + RETRY)
    assert host.tables.touched[before:] == [str(NEAR)]
    host.tables.ways[str(NEAR)] = Way(EM0, None, OURS, ("RTF_REJECT",))  # an administrator's: leads nowhere
    host.kernel.announce("RTM_CHANGE", 2)
    assert hops.events() == [LinkEvent.NEXT_HOP]
    assert hops.source_for(NEAR) is None


def test_routes_are_asked_for_again_when_addresses_change(host: Host) -> None:
    """Not every system tells of each route that comes or goes with an address."""
    hops = host.next_hops()
    hops.follow(FAR)
    host.tables.ways[None] = Way(EM0, NEAR, OURS)
    host.kernel.announce("RTM_NEWADDR", 2)
    assert hops.events() == [LinkEvent.NEXT_HOP]
    assert hops.header(FAR.packed) == NEAR_MAC + MAC + b"\x08\x00"


def test_an_overrun_has_everything_asked_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    hops = host.next_hops()
    hops.follow(FAR)
    news = hops._kernel._news
    errors = [OSError(errno.ENOBUFS, "ENOBUFS")]
    recv = news.recv

    def overrun(size: int) -> bytes:
        if errors:
            raise errors.pop()
        return recv(size)

    monkeypatch.setattr(news, "recv", overrun)
    host.tables.ways[None] = Way(EM0, NEAR, OURS)
    host.tables.links[-1] = replace(EM0, mtu=1400)
    assert set(hops.events()) == {LinkEvent.MTU, LinkEvent.NEXT_HOP}
    assert hops.events() == []


def test_other_peoples_neighbours_are_not_looked_at(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    hops = host.next_hops()
    hops.follow(NEAR)
    looks: list[int] = []
    tables = host.tables.neighbours

    def counted(version: int) -> list[tuple[int, IPAddress, bytes]]:
        looks.append(version)
        return tables(version)

    monkeypatch.setattr(host.tables, "neighbours", counted)
    for _ in range(50):
        host.kernel.announce("RTM_ADD", 2, GATEWAY)
    assert hops.events() == []
    assert looks == []
    host.tables.known[str(NEAR)] = GATEWAY_MAC
    host.kernel.announce("RTM_ADD", 2, NEAR)
    assert hops.events() == []
    assert hops.header(NEAR.packed) == GATEWAY_MAC + MAC + b"\x08\x00"


def test_questions_are_no_news(host: Host) -> None:
    hops = host.next_hops()
    hops.follow(FAR)
    hops.source_for(NEAR)
    assert hops.events() == []
    assert not select.select([hops.fileno()], [], [], 0)[0]


def test_the_interface_changes(host: Host) -> None:
    hops = host.next_hops()
    hops.follow(FAR)

    def now(**changes: object) -> list[LinkEvent]:
        host.tables.links[-1] = replace(host.tables.links[-1], **changes)  # type: ignore[arg-type]
        host.kernel.announce("RTM_IFINFO", 2)
        return hops.events()

    assert now(mtu=1400) == [LinkEvent.MTU]
    assert hops.mtu == 1400
    assert now(flags=0x40) == [LinkEvent.DOWN]
    assert now(flags=UP) == [LinkEvent.UP]
    assert now(addresses=(OURS,)) == [LinkEvent.ADDRESSES]
    if "LINK_STATE_DOWN" in host.kernel.abi and host.kernel.abi.system != "macos":
        assert now(link_state=host.kernel.abi["LINK_STATE_DOWN"]) == [LinkEvent.DOWN]
    assert now(index=2) == []


@pytest.mark.parametrize("back", [False, True])
def test_an_interface_that_goes(host: Host, back: bool) -> None:  # noqa: FBT001 - a case
    hops = host.next_hops()
    hops.follow(FAR)
    host.tables.links.pop()
    if back:  # made anew under the same name before we looked
        host.tables.links.append(replace(EM0, index=9))
    if "RTM_IFANNOUNCE" in host.kernel.abi:
        host.kernel.announce("RTM_IFANNOUNCE")
    else:
        host.kernel.announce("RTM_DELADDR")
    assert LinkEvent.GONE in hops.events()
    assert hops.header(FAR.packed) is None
    hops.follow(NEAR)
    hops.suspect(NEAR)
    hops.tick(1.0)
    with pytest.raises(LinkError, match="em9: no such interface"):
        NextHops("em9", host.socket())


def test_many_messages_before_the_answer(host: Host) -> None:
    hops = host.next_hops()
    for _ in range(100):
        host.kernel.announce("RTM_ADD", 2)
    hops.follow(FAR)
    assert hops.header(FAR.packed) == GATEWAY_MAC + MAC + b"\x08\x00"
