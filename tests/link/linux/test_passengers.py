"""Whether a VPN's device belongs to a program that talks to us: asked of real processes with real TUN devices."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from rsock_nf.core.types import TransportAddress
from rsock_nf.lab.netns import Namespace
from rsock_nf.link.linux.devices import Devices
from rsock_nf.link.linux.passengers import FIRST_PAUSE, LONGEST_PAUSE, Passengers, udp_sockets
from rsock_nf.link.linux.route_choice import detour, passengers
from rsock_nf.link.linux.rtnetlink import Device, RouteSocket
from rsock_nf.link.protocol import Detour, Routing

LISTEN = TransportAddress(ip_address("127.0.0.1"), 30000)
PROGRAM = """
import fcntl, os, socket, struct, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x1001))
udp = socket.socket(getattr(socket, sys.argv[2]), socket.SOCK_DGRAM)
udp.bind((sys.argv[3], 0))
if sys.argv[4]:
    at, _, port = sys.argv[4].rpartition(":")
    udp.connect((at or "127.0.0.1", int(port)))
print(udp.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    made = Namespace(f"rsnf-passenger-{os.getpid()}")
    try:
        yield made
    finally:
        made.close()


def start(host: Namespace, device: str, family: str = "AF_INET", address: str = "127.0.0.1", toward: str = "") -> int:
    """A VPN's program; the port of its UDP socket."""
    program = host.popen(
        [sys.executable, "-c", PROGRAM, device, family, address, toward],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    return int(program.stdout.readline())


def device_of(host: Namespace, name: str) -> Device:
    with contextlib.closing(host.call(RouteSocket)) as kernel:
        return kernel.device(name)


def passengers_of(
    host: Namespace,
    ends: list[TransportAddress],
    listens: tuple[TransportAddress, ...],
    clock: Callable[[], float] = time.monotonic,
) -> Passengers:
    with contextlib.closing(host.call(RouteSocket)) as kernel:
        return Passengers(Routing(listens=listens, applications=lambda: ends), Devices(kernel), clock)


def carries(
    host: Namespace,
    name: str,
    *ports: int,
    listens: tuple[TransportAddress, ...] = (LISTEN,),
    where: str = "127.0.0.1",
) -> bool:
    """Whether the device is a passenger if applications on these ports of an address talk to us."""
    passengers = passengers_of(host, [TransportAddress(ip_address(where), port) for port in ports], listens)
    device = device_of(host, name)
    return host.call(lambda: passengers.carries(device))


@pytest.mark.parametrize(("family", "address"), [("AF_INET", "127.0.0.1"), ("AF_INET", "0.0.0.0"), ("AF_INET6", "::")])
def test_a_program_that_talks_to_us(host: Namespace, family: str, address: str) -> None:
    port = start(host, "tq0", family, address)
    assert carries(host, "tq0", port)
    assert not carries(host, "tq0", port + 1)
    assert not carries(host, "tq0")


def test_a_program_that_is_connected_to_our_local_end(host: Namespace) -> None:
    start(host, "tq0", toward="30000")
    assert carries(host, "tq0")
    assert carries(host, "tq0", listens=(TransportAddress(ip_address("0.0.0.0"), 30000),))
    assert not carries(host, "tq0", listens=(TransportAddress(ip_address("127.0.0.1"), 30001),))


def test_the_port_alone_is_nothing(host: Namespace) -> None:
    """51820 is everybody's port.  Before: the tunnel went around a VPN of somebody else, out of another device."""
    host.ip("link add eth0 type veth peer name far", "address add 10.79.0.2/24 dev eth0", "link set eth0 up")
    host.ip("link set far up")
    port = start(host, "tq0", address="0.0.0.0")
    assert carries(host, "tq0", port, where="10.79.0.2")
    assert not carries(host, "tq0", port, where="10.79.0.7"), "an application on another host"
    everywhere = TransportAddress(ip_address("0.0.0.0"), 30000)
    start(host, "tq1", address="0.0.0.0", toward="10.79.0.9:30000")
    assert not carries(host, "tq1", listens=(everywhere,)), "its server has our port, on another host"
    start(host, "tq2", address="0.0.0.0", toward="10.79.0.2:30000")
    assert carries(host, "tq2", listens=(everywhere,))


def test_the_device_of_another_program(host: Namespace) -> None:
    ours, _ = start(host, "tq0"), start(host, "tq1")
    assert carries(host, "tq0", ours)
    assert not carries(host, "tq1", ours)


def test_it_looks_again_when_other_applications_talk_to_us(host: Namespace) -> None:
    port = start(host, "tq0")
    device = device_of(host, "tq0")
    ends: list[TransportAddress] = []
    now = [100.0]
    passengers = passengers_of(host, ends, (LISTEN,), lambda: now[0])
    asked: Callable[[], bool] = lambda: host.call(lambda: passengers.carries(device))  # noqa: E731
    assert not asked()
    ends.append(TransportAddress(ip_address("127.0.0.1"), port))
    assert not asked(), "a look costs milliseconds"
    now[0] += FIRST_PAUSE
    assert asked()
    ends.clear()
    assert asked(), "once found, it stays one"


def test_a_device_that_is_not_one_is_looked_at_ever_more_rarely(
    host: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver that uses 200 new ports a second must not have all processes looked through each second."""
    start(host, "tq0")
    device = device_of(host, "tq0")
    now = [100.0]
    looks: list[float] = []
    ports = iter(range(1, 1000))

    def look(*_: object) -> bool:
        looks.append(now[0])
        return False

    passengers = passengers_of(host, [], (), lambda: now[0])
    routing = Routing(applications=lambda: [TransportAddress(ip_address("127.0.0.1"), next(ports))])
    monkeypatch.setattr(passengers, "_routing", routing)
    monkeypatch.setattr(passengers, "_look", look)
    for _ in range(121):
        passengers.carries(device)
        now[0] += 1.0
    assert len(looks) <= 5 + 120 / LONGEST_PAUSE


def test_which_vpns_run_over_a_tunnel_with_these_ends(host: Namespace) -> None:
    port = start(host, "tq0")
    start(host, "tq1")
    target = TransportAddress(ip_address("127.0.0.1"), port)
    assert host.call(lambda: passengers(Routing(applications=lambda: [target]))) == ["tq0"]
    assert host.call(lambda: passengers(Routing())) == []


def test_what_becomes_of_a_route_that_leads_into_a_vpn(host: Namespace) -> None:
    server = ip_address("203.0.113.5")
    ours = Routing(listens=(LISTEN,))
    host.ip("link add eth0 type veth peer name far", "address add 10.79.0.2/24 dev eth0", "link set eth0 up")
    host.ip("link set far up", "route add default via 10.79.0.1")
    start(host, "tq0", toward="30000")
    assert host.call(lambda: detour(server, ours)) is None
    host.ip("link set tq0 up", "route add 203.0.113.0/24 dev tq0")
    assert host.call(lambda: detour(server, ours)) == Detour(server, "tq0", "eth0", over_us=True)
    assert host.call(lambda: detour(server, Routing())) == Detour(server, "tq0", "tq0", over_us=False)
    assert host.call(lambda: detour(server, Routing(device="eth0"))) is None
    host.ip("route delete default")
    assert host.call(lambda: detour(server, ours)) == Detour(server, "tq0", "", over_us=True)


def test_the_kernels_list_of_udp_sockets(host: Namespace) -> None:
    port = start(host, "tq0", "AF_INET6", "::1")
    found = host.call(udp_sockets)
    assert (ip_address("::1"), port) in [one.local for one in found]
    assert all(one.inode for one in found)
