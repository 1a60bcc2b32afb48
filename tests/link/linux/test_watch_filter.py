"""Which packets ``rsock-nf capture`` sees: those of the tunnel, both ways, each once."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address

import pytest

from rsock_nf.core.types import PortRange
from rsock_nf.link import Watched
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux.tap_filter import (
    HARDWARE_TYPE,
    INTERFACE,
    PACKET_TYPE,
    VLAN_TAG,
    VLAN_TAG_PRESENT,
    watch_program,
)
from tests.core.conntrack import ACK
from tests.core.wire import make_tcp, make_udp
from tests.property.cbpf_interpreter import interpret

HOST, OTHER_HOST, OUTGOING = 0, 3, 4
SERVER, CLIENT, STRANGER = "192.0.2.2", "192.0.2.1", "198.51.100.7"
SERVER_6, CLIENT_6, STRANGER_6 = "2001:db8::2", "2001:db8::1", "2001:db8::3"
TCP_PORTS, UDP_PORTS = PortRange(10001, 10010), PortRange(10001, 10003)
WATCHED = Watched((ip_address(SERVER), ip_address(SERVER_6)), (TCP_PORTS,), (UDP_PORTS,))


def seen(
    packet: bytes, watched: Watched = WATCHED, *, kind: int = HOST, link: int = arphrd.ETHERNET, device: int = 2,
    tagged: bool = False, only: int = 0, hidden: tuple[int, ...] = (),
) -> bool:  # fmt: skip
    known = {
        PACKET_TYPE: kind, INTERFACE: device, HARDWARE_TYPE: link, VLAN_TAG: 7 * tagged, VLAN_TAG_PRESENT: int(tagged)
    }  # fmt: skip
    ancillary = {offset & 0xFFFFFFFF: value for offset, value in known.items()}
    ethertype = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    data = packet if link in arphrd.HEADERLESS else bytes(12) + ethertype + packet
    return interpret(watch_program(watched, only=only, hidden=hidden), data, ancillary) > 0


def between(source: tuple[str, int], destination: tuple[str, int], *, udp: bool) -> bytes:
    near, far = ((ip_address(address).packed, port) for address, port in (source, destination))
    return make_udp(near, far, b"x") if udp else make_tcp(near, far, 1, 1, ACK, b"x")


@pytest.mark.parametrize("link", arphrd.SUPPORTED)
@pytest.mark.parametrize("kind", [HOST, OUTGOING, OTHER_HOST])
@pytest.mark.parametrize("server", [SERVER, SERVER_6])
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_both_directions_are_seen_wherever_they_pass(link: int, kind: int, server: str, udp: bool) -> None:  # noqa: FBT001
    client = CLIENT if server == SERVER else CLIENT_6
    for ends in (((client, 40000), (server, 10001)), ((server, 10001), (client, 40000))):
        twice = link == arphrd.LOOPBACK and kind == OUTGOING  # it comes in again
        assert seen(between(*ends, udp=udp), link=link, kind=kind) == (kind != OTHER_HOST and not twice)


def test_what_the_filter_says_is_what_the_words_say() -> None:
    """Against the definition, for packets of any ends."""
    rng = random.Random(8)
    took = 0
    for _ in range(600):
        version = rng.choice([4, 6])
        addresses = (SERVER, CLIENT, STRANGER) if version == 4 else (SERVER_6, CLIENT_6, STRANGER_6)
        ends = [(rng.choice(addresses), rng.choice([10000, 10001, 10003, 10004, 10010, 10011])) for _ in range(2)]
        udp = rng.random() < 0.5
        span = UDP_PORTS if udp else TCP_PORTS
        of_the_tunnel = any(address in {SERVER, SERVER_6} and span.first <= port <= span.last for address, port in ends)
        assert seen(between(ends[0], ends[1], udp=udp)) == of_the_tunnel
        took += of_the_tunnel
    assert took > 100


def test_kinds_that_the_tunnel_has_not_are_not_seen() -> None:
    tcp_only, udp_only = WATCHED.__class__(WATCHED.addresses, (TCP_PORTS,), ()), Watched((), (), (UDP_PORTS,))
    ends = (CLIENT, 40000), (SERVER, 10001)
    assert [seen(between(*ends, udp=udp), tcp_only) for udp in (False, True)] == [True, False]
    assert [seen(between(*ends, udp=udp), udp_only) for udp in (False, True)] == [False, True]
    with pytest.raises(ValueError, match="at least one port"):
        watch_program(Watched((), (), ()))


def test_without_addresses_any_end_will_do() -> None:
    anywhere = Watched((), (TCP_PORTS,), ())
    assert seen(between((STRANGER, 10001), (CLIENT, 5), udp=False), anywhere)
    assert not seen(between((STRANGER, 10011), (CLIENT, 5), udp=False), anywhere)


def test_copies_on_other_devices_are_not_seen() -> None:
    packet = between((SERVER, 10001), (CLIENT, 40000), udp=False)
    for kind in (HOST, OUTGOING):
        assert seen(packet, kind=kind, device=2)
        assert not seen(packet, kind=kind, tagged=True)
        assert not seen(packet, kind=kind, device=2, hidden=(2, 3))
        assert not seen(packet, kind=kind, device=2, only=3)
        assert seen(packet, kind=kind, device=3, only=3)


@pytest.mark.parametrize("port", [10001, 9999])
def test_the_icmp_about_a_segment_is_seen(port: int) -> None:
    server, client = (ip_address(address).packed for address in (SERVER, CLIENT))
    quoted = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 0, 0, 64, 6, 0, server, client)
    icmp = struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + quoted + struct.pack("!HHI", port, 40000, 1)
    whole = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0, server, server) + icmp
    assert seen(whole) == (port == 10001)
