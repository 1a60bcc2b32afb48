"""Ways, asked of real kernels: two namespaces joined by two veth pairs.

``here`` has eth0 and eth1, ``there`` has far0 and far1.  Neighbour timers are shortened; nothing sleeps: every wait
ends with the event that it waits for, or fails at a deadline.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from rsock_nf.core.types import IPAddress
from rsock_nf.lab.netns import Namespace
from rsock_nf.link import LinkError, LinkEvent, Route
from rsock_nf.link.linux.routes import default_device, device_addresses, route_to
from rsock_nf.link.linux.rtnetlink import Device, RouteSocket
from rsock_nf.link.linux.ways import Ways
from rsock_nf.link.protocol import Routing
from rsock_nf.link.recheck import RECHECK, RETRY
from tests.netns.judges import wait_until

HERE = {4: "10.88.0.1", 6: "fd88::1"}
THERE = {4: "10.88.0.2", 6: "fd88::2"}
OTHER_GATEWAY = {4: "10.88.0.3", 6: "fd88::3"}
BEYOND = {4: ip_address("203.0.113.5"), 6: ip_address("2001:db8:5::1")}
DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
ETHERTYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}
MAC = {
    "eth0": "02:00:00:00:00:01",
    "far0": "02:00:00:00:00:02",
    "eth1": "02:00:00:00:01:01",
    "far1": "02:00:00:00:01:02",
}
PATIENCE = 20.0

_serial = itertools.count()


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def header(to: str, version: int, own: str = "eth0") -> bytes:
    return mac(MAC.get(to, to)) + mac(MAC.get(own, own)) + ETHERTYPE[version]


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    name = f"rsnf-nh-{os.getpid()}-{next(_serial)}"
    here, there = Namespace(f"{name}-here"), Namespace(f"{name}-there")
    try:
        for number in (0, 1):
            here.ip(
                f"link add eth{number} address {MAC[f'eth{number}']} type veth "
                f"peer name far{number} address {MAC[f'far{number}']} netns {there.name}",
            )
            for host, device, last in ((here, f"eth{number}", 1), (there, f"far{number}", 2)):
                for family in ("ipv4", "ipv6"):
                    host.sysctl(f"net.{family}.neigh.{device}.retrans_time_ms", "50")
                    host.sysctl(f"net.{family}.neigh.{device}.delay_first_probe_time", "1")
                host.ip(
                    f"address add 10.88.{number}.{last}/24 dev {device}",
                    f"address add {('fd88::', 'fd88:1::')[number]}{last}/64 dev {device} nodad",
                    f"link set {device} up",
                )
        there.ip("address add 10.88.0.3/24 dev far0", "address add fd88::3/64 dev far0 nodad")
        yield here, there
    finally:
        here.close()
        there.close()


@pytest.fixture
def here(hosts: tuple[Namespace, Namespace]) -> Namespace:
    return hosts[0]


@pytest.fixture
def there(hosts: tuple[Namespace, Namespace]) -> Namespace:
    return hosts[1]


@pytest.fixture
def hops(here: Namespace) -> Iterator[Ways]:
    found = here.call(lambda: Ways(Routing()))
    wait(found, lambda: not readable(found, 0.0))  # what setting up the devices told
    yield found
    found.close()


def device_toward(here: Namespace, hops: Ways, remote: IPAddress) -> str:
    """The device that the route to a followed destination leads out of, as ``hops`` knows it."""
    return here.call(lambda: socket.if_indextoname(hops.device_for(remote)))


def index_of(here: Namespace, device: str) -> int:
    return here.call(lambda: socket.if_nametoindex(device))


def readable(hops: Ways, seconds: float) -> bool:
    poller = select.poll()
    poller.register(hops.fileno(), select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def wait(hops: Ways, true: Callable[[], bool]) -> set[LinkEvent]:
    """Read news until ``true``; all events on the way."""
    found = set(hops.events())
    deadline = time.monotonic() + PATIENCE
    while not true():
        left = deadline - time.monotonic()
        assert left > 0, f"nothing came of it; so far {found}"
        readable(hops, min(left, 1.0))
        found.update(hops.events())
    return found


def wait_ticking(hops: Ways, true: Callable[[], bool]) -> set[LinkEvent]:
    """The same, with a tick for each look: the first question about an IPv6 neighbour may come too early."""
    clock = itertools.count(100.0, RETRY)

    def look() -> bool:
        hops.tick(next(clock))
        return true()

    return wait(hops, look)


def wait_for(hops: Ways, event: LinkEvent) -> set[LinkEvent]:
    found: set[LinkEvent] = set()
    deadline = time.monotonic() + PATIENCE
    while event not in found:
        left = deadline - time.monotonic()
        assert left > 0, f"no {event}; so far {found}"
        found.update(hops.events())
        if event not in found:
            readable(hops, left)
    return found


def link_header(hops: Ways, remote: IPAddress) -> bytes | None:
    """Of a packet from any source."""
    path = hops.path(bytes(len(remote.packed)) + remote.packed)
    return path.link_header if path is not None else None


def resolved(hops: Ways, remote: IPAddress, expected: bytes) -> bool:
    return link_header(hops, remote) == expected


# -- destinations


@pytest.mark.parametrize("version", [4, 6])
def test_on_link(hops: Ways, version: int) -> None:
    remote = ip_address(THERE[version])
    assert link_header(hops, remote) is None
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", version)))
    assert hops.source_for(remote) == ip_address(HERE[version])
    hops.forget(remote)
    assert link_header(hops, remote) is None


@pytest.mark.parametrize("version", [4, 6])
def test_through_a_gateway(here: Namespace, hops: Ways, version: int) -> None:
    here.ip(f"route add {DEFAULT[version]} via {THERE[version]}")
    remote = BEYOND[version]
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", version)))
    assert hops.source_for(remote) == ip_address(HERE[version])


def test_ipv4_through_an_ipv6_gateway(here: Namespace, hops: Ways) -> None:
    here.ip(f"route add 0.0.0.0/0 via inet6 {THERE[6]} dev eth0")
    hops.follow(BEYOND[4])
    wait(hops, lambda: resolved(hops, BEYOND[4], header("far0", 4)))
    assert hops.source_for(BEYOND[4]) == ip_address(HERE[4])


def test_link_local(there: Namespace, hops: Ways) -> None:
    there.ip("address add fe80::77/64 dev far0 nodad")
    remote = ip_address("fe80::77%eth0")
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", 6)))
    source = hops.source_for(remote)
    assert source is not None
    assert source.is_link_local


def test_multipath(here: Namespace, hops: Ways) -> None:
    here.ip(f"route add default nexthop via {THERE[4]} dev eth0 nexthop via {OTHER_GATEWAY[4]} dev eth0")
    hops.follow(BEYOND[4])
    wait(hops, lambda: resolved(hops, BEYOND[4], header("far0", 4)))


@pytest.mark.parametrize("kind", ["unreachable", "blackhole", "prohibit"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_route_to_nowhere_is_none(here: Namespace, hops: Ways, version: int, kind: str) -> None:
    here.ip(f"route add {kind} {DEFAULT[version]}")
    hops.follow(BEYOND[version])
    hops.events()
    assert link_header(hops, BEYOND[version]) is None
    assert hops.source_for(BEYOND[version]) is None


@pytest.mark.parametrize("version", [4, 6])
def test_no_route_and_then_one(here: Namespace, hops: Ways, version: int) -> None:
    remote = BEYOND[version]
    hops.follow(remote)
    assert hops.events() == []
    assert (link_header(hops, remote), hops.source_for(remote)) == (None, None)
    here.ip(f"route add {DEFAULT[version]} via {THERE[version]}")
    assert LinkEvent.NEXT_HOP in wait(hops, lambda: resolved(hops, remote, header("far0", version)))
    here.ip(f"route del {DEFAULT[version]}")
    assert LinkEvent.NEXT_HOP in wait(hops, lambda: link_header(hops, remote) is None)


def test_sources_are_not_temporary(here: Namespace) -> None:
    here.sysctl("net.ipv6.conf.eth0.use_tempaddr", "2")
    here.ip("address del fd88::1/64 dev eth0", "address add fd88::aa/64 dev eth0 mngtmpaddr nodad")
    remote = ip_address(THERE[6])
    wait_until(
        lambda: here.call(lambda: route_to(remote)).source not in {None, ip_address("fd88::aa")}, "a temporary address"
    )
    chosen = here.call(lambda: route_to(remote)).source
    assert chosen not in {None, ip_address("fd88::aa")}, "the kernel made and prefers a temporary address"
    hops = here.call(lambda: Ways(Routing("eth0")))
    assert hops.source_for(remote) == ip_address("fd88::aa")
    assert hops.host.addresses(index_of(here, "eth0"))[:2] == [ip_address(HERE[4]), ip_address("fd88::aa")]
    assert here.call(lambda: device_addresses("eth0")) == (ip_address(HERE[4]), ip_address("fd88::aa"), chosen)
    hops.close()


# -- neighbours


@pytest.mark.parametrize("version", [4, 6])
def test_a_suspect_neighbour_with_a_new_address(there: Namespace, hops: Ways, version: int) -> None:
    """The old link address is probed in vain, the entry FAILs, and only then it is resolved by broadcast."""
    remote = ip_address(THERE[version])
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", version)))
    there.ip("link set far0 address 02:00:00:00:00:99")
    hops.suspect(remote)
    wait(hops, lambda: resolved(hops, remote, header("02:00:00:00:00:99", version)))


def test_a_tick_finds_a_neighbour_with_a_new_address(here: Namespace, there: Namespace, hops: Ways) -> None:
    remote = ip_address(THERE[4])
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", 4)))
    there.ip("link set far0 address 02:00:00:00:00:99")
    here.ip(f"neigh replace {remote} lladdr {MAC['far0']} dev eth0 nud stale")
    hops.tick(100.0)
    hops.tick(100.0 + RECHECK - 0.1)
    assert f"{remote} dev eth0 lladdr {MAC['far0']} STALE" in here.run(["ip", "neigh"]).stdout, "asked too early"
    hops.tick(100.0 + RECHECK)
    wait(hops, lambda: resolved(hops, remote, header("02:00:00:00:00:99", 4)))


def test_a_neighbour_that_failed_and_came_back(here: Namespace, there: Namespace, hops: Ways) -> None:
    there.ip(f"address del {THERE[4]}/24 dev far0")  # takes the second address along
    remote = ip_address(THERE[4])
    now = itertools.count(100.0, RETRY)
    hops.follow(remote)

    def failed() -> bool:
        return f"{remote} dev eth0 FAILED" in here.run(["ip", "neigh"]).stdout

    wait(hops, lambda: failed() and not readable(hops, 0.3))
    assert link_header(hops, remote) is None
    there.ip(f"address add {THERE[4]}/24 dev far0")
    hops.tick(next(now))

    def back() -> bool:
        hops.tick(next(now))
        return resolved(hops, remote, header("far0", 4))

    wait(hops, back)


def test_a_collected_neighbour_is_asked_for_again(here: Namespace, hops: Ways) -> None:
    remote = ip_address(THERE[4])
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", 4)))
    here.ip("neigh flush dev eth0")
    wait(hops, lambda: "REACHABLE" in here.run(["ip", "neigh", "show", str(remote)]).stdout)
    assert resolved(hops, remote, header("far0", 4))


def test_a_permanent_neighbour_stays_permanent(here: Namespace, hops: Ways) -> None:
    remote = ip_address("10.88.0.77")
    here.ip(f"neigh add {remote} lladdr 02:00:00:00:00:77 dev eth0 nud permanent")
    hops.follow(remote)
    assert resolved(hops, remote, header("02:00:00:00:00:77", 4))
    hops.suspect(remote)
    hops.tick(0.0)
    hops.tick(RECHECK)
    assert "PERMANENT" in here.run(["ip", "neigh", "show", str(remote)]).stdout


def test_a_neighbour_of_another_program_stays_its_own(here: Namespace, hops: Ways) -> None:
    remote = ip_address("10.88.0.77")
    here.ip(f"neigh add {remote} lladdr 02:00:00:00:00:77 dev eth0 nud stale extern_learn")
    hops.follow(remote)
    hops.suspect(remote)
    assert resolved(hops, remote, header("02:00:00:00:00:77", 4))
    assert "extern_learn" in here.run(["ip", "neigh", "show", str(remote)]).stdout


def test_our_own_new_address(here: Namespace, hops: Ways) -> None:
    remote = ip_address(THERE[4])
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", 4)))
    here.ip("link set eth0 address 02:00:00:00:00:55")
    wait(hops, lambda: resolved(hops, remote, header("far0", 4, own="02:00:00:00:00:55")))


# -- routes


@pytest.mark.parametrize("version", [4, 6])
def test_another_gateway(here: Namespace, hops: Ways, version: int) -> None:
    gateway = ip_address(OTHER_GATEWAY[version])
    here.ip(f"neigh add {gateway} lladdr 02:00:00:00:00:33 dev eth0 nud permanent")
    here.ip(f"route add {DEFAULT[version]} via {THERE[version]}")
    hops.follow(BEYOND[version])
    wait(hops, lambda: resolved(hops, BEYOND[version], header("far0", version)))
    here.ip(f"route replace {DEFAULT[version]} via {gateway}")
    assert LinkEvent.NEXT_HOP in wait_for(hops, LinkEvent.NEXT_HOP)
    assert resolved(hops, BEYOND[version], header("02:00:00:00:00:33", version))


def test_another_source(here: Namespace, hops: Ways) -> None:
    here.ip(f"route add default via {THERE[4]}")
    hops.follow(BEYOND[4])
    here.ip("address add 10.88.0.9/24 dev eth0", f"route replace default via {THERE[4]} src 10.88.0.9")
    events = wait_for(hops, LinkEvent.NEXT_HOP)
    assert LinkEvent.ADDRESSES in events
    assert hops.source_for(BEYOND[4]) == ip_address("10.88.0.9")


@pytest.mark.parametrize("version", [4, 6])
def test_the_route_moves_to_another_device_and_back(here: Namespace, hops: Ways, version: int) -> None:
    here.ip(f"route add {DEFAULT[version]} via {THERE[version]}")
    remote = BEYOND[version]
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", version)))
    here.ip(f"route replace {DEFAULT[version]} via {'10.88.1.2' if version == 4 else 'fd88:1::2'}")
    wait_for(hops, LinkEvent.NEXT_HOP)
    wait_ticking(hops, lambda: resolved(hops, remote, header("far1", version, own="eth1")))
    assert hops.devices == ("eth1",)
    here.ip(f"route replace {DEFAULT[version]} via {THERE[version]}")
    wait_for(hops, LinkEvent.NEXT_HOP)
    wait(hops, lambda: resolved(hops, remote, header("far0", version)))


def test_a_policy_rule_moves_the_route(here: Namespace, hops: Ways) -> None:
    here.ip(f"route add default via {THERE[4]}", "route add default via 10.88.1.2 table 77")
    hops.follow(BEYOND[4])
    wait(hops, lambda: resolved(hops, BEYOND[4], header("far0", 4)))
    here.ip(f"rule add to {BEYOND[4]} table 77")
    wait_for(hops, LinkEvent.NEXT_HOP)
    assert device_toward(here, hops, BEYOND[4]) == "eth1"


def test_an_address_of_this_host_is_on_loopback(here: Namespace, hops: Ways) -> None:
    hops.follow(ip_address(HERE[4]))
    assert device_toward(here, hops, ip_address(HERE[4])) == "lo"


def test_lost_news_are_made_up_for(here: Namespace, hops: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    here.ip(f"neigh add {OTHER_GATEWAY[4]} lladdr 02:00:00:00:00:33 dev eth0 nud permanent")
    here.ip(f"route add default via {THERE[4]}")
    hops.follow(BEYOND[4])
    wait(hops, lambda: resolved(hops, BEYOND[4], header("far0", 4)))
    hops._news._netlink.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    here.ip(*(f"route add 198.51.100.{host}/32 dev eth0" for host in range(200)))
    here.ip(
        f"route replace default via {OTHER_GATEWAY[4]}", "link set eth0 mtu 1400", "address add 10.88.0.9/24 dev eth0"
    )
    read = hops._news.news
    heard: list[tuple[list[bytes], bool]] = []

    def overheard() -> tuple[list[bytes], bool]:
        heard.append(read())
        return heard[-1]

    monkeypatch.setattr(hops._news, "news", overheard)
    assert set(hops.events()) == {LinkEvent.ADDRESSES, LinkEvent.NEXT_HOP}
    ((messages, overrun),) = heard
    assert overrun
    assert len(messages) < 200, "the changes that count were not among those heard"
    assert (hops.path_mtu(), hops.host.addresses(index_of(here, "eth0"))[1]) == (1400, ip_address("10.88.0.9"))
    assert resolved(hops, BEYOND[4], header("02:00:00:00:00:33", 4))


# -- the device


def test_down_and_up(here: Namespace, hops: Ways) -> None:
    remote = ip_address(THERE[4])
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", 4)))
    here.ip("link set eth0 down")
    assert LinkEvent.UP not in wait_for(hops, LinkEvent.DOWN)
    wait(hops, lambda: link_header(hops, remote) is None)
    here.ip("link set eth0 up")
    assert LinkEvent.DOWN not in wait_for(hops, LinkEvent.UP)
    wait(hops, lambda: resolved(hops, remote, header("far0", 4)))


def test_carrier_lost(there: Namespace, hops: Ways) -> None:
    hops.follow(ip_address(THERE[4]))
    there.ip("link set far0 down")
    wait_for(hops, LinkEvent.DOWN)
    there.ip("link set far0 up")
    wait_for(hops, LinkEvent.UP)


def test_the_mtu_is_the_least_of_what_is_in_use(here: Namespace, hops: Ways) -> None:
    assert hops.path_mtu() == 0
    hops.follow(ip_address(THERE[4]))
    assert hops.path_mtu() == 1500
    here.ip("link set eth0 mtu 1400", f"route add {BEYOND[4]} via {THERE[4]} mtu 1300")
    wait(hops, lambda: hops.path_mtu() == 1400)
    hops.follow(BEYOND[4])
    assert hops.path_mtu() == 1300


def test_addresses(here: Namespace, hops: Ways) -> None:
    here.ip("address add 10.88.0.9/24 dev eth0")
    assert wait_for(hops, LinkEvent.ADDRESSES) == {LinkEvent.ADDRESSES}
    here.ip("address add 10.88.1.9/24 dev eth1", "address del 10.88.0.9/24 dev eth0")
    assert wait_for(hops, LinkEvent.ADDRESSES) == {LinkEvent.ADDRESSES}
    assert ip_address("10.88.0.9") not in hops.host.addresses(index_of(here, "eth0"))


@pytest.mark.parametrize("how", ["link del eth0", "link set eth0 name eth9", "link set eth0 netns {there}"])
def test_a_device_that_is_gone_is_no_way(here: Namespace, there: Namespace, how: str) -> None:
    hops = here.call(lambda: Ways(Routing("eth0")))
    remote = ip_address(THERE[4])
    hops.follow(remote)
    wait(hops, lambda: resolved(hops, remote, header("far0", 4)))
    here.ip(how.format(there=there.name))
    assert LinkEvent.DOWN in wait(hops, lambda: link_header(hops, remote) is None)
    hops.suspect(remote)
    hops.tick(0.0)
    assert hops.missing() == [f"{remote}: no route (`ip route get {remote}` says why)"]
    if "name" in how:
        here.ip("link set eth9 name eth0", "link set eth0 up")
        assert LinkEvent.UP in wait(hops, lambda: resolved(hops, remote, header("far0", 4)))
    hops.close()


def test_a_tun_device_has_no_header(here: Namespace) -> None:
    here.ip("tuntap add tun0 mode tun", "link set tun0 up", "address add 10.99.0.1/24 dev tun0")
    hops = here.call(lambda: Ways(Routing("tun0")))
    remote = ip_address("10.99.0.2")
    assert link_header(hops, remote) is None
    hops.follow(remote)
    assert link_header(hops, remote) == b""
    hops.close()


@pytest.mark.parametrize("version", [4, 6])
def test_loopback(here: Namespace, version: int) -> None:
    hops = here.call(lambda: Ways(Routing("lo")))
    remote = ip_address(HERE[version])
    hops.follow(remote)
    assert link_header(hops, remote) == bytes(12) + ETHERTYPE[version]
    assert hops.source_for(remote) == remote
    hops.close()


def test_a_device_without_neighbours(here: Namespace) -> None:
    here.ip("link set eth0 arp off")
    hops = here.call(lambda: Ways(Routing("eth0")))
    remote = ip_address(THERE[4])
    hops.follow(remote)
    assert link_header(hops, remote) == header("eth0", 4)  # what the kernel itself would send
    hops.close()


def test_unknown_devices_are_refused(here: Namespace) -> None:
    with pytest.raises(LinkError, match=r"^nope: no such device; `ip link` lists them$"):
        here.call(lambda: Ways(Routing("nope")))


# -- source, mark, device


@pytest.mark.parametrize("version", [4, 6])
def test_a_rule_about_the_source(here: Namespace, hops: Ways, version: int) -> None:
    """Two uplinks, each with a table of its own: a question without the source gets the other one."""
    uplink, gateway = ("10.88.1.1", "10.88.1.2") if version == 4 else ("fd88:1::1", "fd88:1::2")
    here.ip(
        f"route add {DEFAULT[version]} via {THERE[version]}", f"route add {DEFAULT[version]} via {gateway} table 100"
    )
    here.run(["ip", f"-{version}", "rule", "add", "from", uplink, "lookup", "100"])
    remote, source = BEYOND[version], ip_address(uplink)
    hops.follow(remote)
    hops.follow(remote, source)

    def both() -> bool:
        own = hops.path(source.packed + remote.packed)
        return own is not None and own.link_header == header("far1", version, own="eth1")

    wait_ticking(hops, both)
    wait(hops, lambda: resolved(hops, remote, header("far0", version)))
    hops.forget(remote, source)
    assert hops.devices == ("eth0",)


def test_a_rule_about_the_mark(here: Namespace) -> None:
    here.ip(
        f"route add default via {THERE[4]}",
        "route add default via 10.88.1.2 table 77",
        "rule add fwmark 51820 table 77",
    )
    unmarked = here.call(lambda: Ways(Routing()))
    marked = here.call(lambda: Ways(Routing(mark=51820)))
    for ways, device in ((unmarked, "eth0"), (marked, "eth1")):
        ways.follow(BEYOND[4])
        assert ways.devices == (device,)
        ways.close()


@pytest.mark.parametrize("version", [4, 6])
def test_a_device_without_a_route_is_no_way(here: Namespace, version: int) -> None:
    """The kernel answers "on-link" over IPv4, and would ask that network for the far address for ever."""
    here.ip(f"route add {DEFAULT[version]} via {THERE[version]}")
    hops = here.call(lambda: Ways(Routing("eth1")))
    hops.follow(BEYOND[version])
    assert hops.source_for(BEYOND[version]) is None
    assert hops.missing() == [f"{BEYOND[version]}: no route (`ip route get {BEYOND[version]}` says why)"]
    gateway = "10.88.1.2" if version == 4 else "fd88:1::2"
    here.ip(f"route add {BEYOND[version]} via {gateway} dev eth1")
    wait_ticking(hops, lambda: resolved(hops, BEYOND[version], header("far1", version, own="eth1")))
    assert hops.missing() == []
    hops.close()


# -- before there is a link


def test_route_to(here: Namespace) -> None:
    here.ip(f"route add default via {THERE[4]}")
    one, other = ip_address(HERE[4]), ip_address(THERE[4])
    assert here.call(lambda: route_to(BEYOND[4])) == Route("eth0", one, other, local=False)
    assert here.call(lambda: route_to(other)) == Route("eth0", one, None, local=False)
    assert here.call(lambda: route_to(one)) == Route("lo", one, None, local=True)
    assert here.call(lambda: route_to(ip_address("fe80::9%eth1"))).device == "eth1"
    with pytest.raises(LinkError, match=f"^no route to {BEYOND[6]}; `ip route get {BEYOND[6]}` says why$"):
        here.call(lambda: route_to(BEYOND[6]))
    with pytest.raises(LinkError, match=r"a link-local address needs its device"):
        here.call(lambda: route_to(ip_address("fe80::9")))


def test_default_device(here: Namespace) -> None:
    assert here.call(default_device) is None
    here.ip("route add ::/0 via fd88:1::2")
    assert here.call(default_device) == "eth1"
    here.ip(f"route add default via {THERE[4]}")
    assert here.call(default_device) == "eth0"
    assert here.call(lambda: default_device(6)) == "eth1"
    here.ip("route add blackhole 192.0.2.0/24")
    assert here.call(default_device) == "eth0"


def test_a_device_that_goes_while_it_is_asked_for(here: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route still names its index."""
    here.ip("route add ::/0 via fd88:1::2", f"route add default via {THERE[4]}")
    device = RouteSocket.device

    def without_eth0(kernel: RouteSocket, name: str = "", index: int = 0) -> Device:
        found = device(kernel, name, index)
        if found.name == "eth0":
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return found

    monkeypatch.setattr(RouteSocket, "device", without_eth0)
    assert here.call(default_device) == "eth1"
    assert here.call(lambda: default_device(6)) == "eth1"
    with pytest.raises(LinkError, match=f"^no route to {BEYOND[4]}"):
        here.call(lambda: route_to(BEYOND[4]))
    here.ip("route delete ::/0", "route delete default")
    assert here.call(default_device) == "eth1", "the only one that is left with an address"


def test_device_addresses(here: Namespace) -> None:
    assert here.call(lambda: device_addresses("eth1")) == (ip_address("10.88.1.1"), ip_address("fd88:1::1"))
    assert here.call(lambda: device_addresses("lo")) == (ip_address("127.0.0.1"), ip_address("::1"))
    with pytest.raises(LinkError, match=r"^nope: no such device"):
        here.call(lambda: device_addresses("nope"))
