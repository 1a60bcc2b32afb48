"""Which copies of a packet a tap on all devices takes, by what the kernel knows about each of them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from rsock_nf.core.types import PortRange
from rsock_nf.link import Match, PortSide
from rsock_nf.link.bpf_filter import Syns
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux.tap_filter import (
    HARDWARE_TYPE,
    INTERFACE,
    PACKET_TYPE,
    VLAN_TAG,
    VLAN_TAG_PRESENT,
    tap_program,
)
from tests.property.cbpf_interpreter import interpret

HOST, OTHER_HOST = 0, 3
HERE, THERE = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
MATCH = Match(PortSide.DESTINATION, (HERE,), (PortRange(443, 443),))
SYN = struct.pack("!HHIIBBHHH", 40000, 443, 1, 0, 5 << 4, 2, 65535, 0, 0)
IP = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(SYN), 0, 0, 64, 6, 0, THERE.packed, HERE.packed) + SYN
FRAME = bytes(12) + b"\x08\x00" + IP


def taken(
    *, kind: int = HOST, device: int = 2, link: int = arphrd.ETHERNET, tag: int = 0, tagged: bool = False,
    only: int = 0, hidden: tuple[int, ...] = (),
) -> bool:  # fmt: skip
    known = {PACKET_TYPE: kind, INTERFACE: device, HARDWARE_TYPE: link, VLAN_TAG: tag, VLAN_TAG_PRESENT: int(tagged)}
    ancillary = {offset & 0xFFFFFFFF: value for offset, value in known.items()}
    data = IP if link in arphrd.HEADERLESS else FRAME
    return interpret(tap_program(MATCH, only=only, hidden=hidden), data, ancillary) > 0


@pytest.mark.parametrize("link", arphrd.SUPPORTED)
def test_a_packet_for_this_host(link: int) -> None:
    assert taken(link=link)
    assert not taken(link=link, kind=OTHER_HOST)


def test_a_packet_with_a_vlan_tag_comes_again_on_the_vlan() -> None:
    assert not taken(tag=100, tagged=True)


def test_a_tag_that_was_taken_out_counts_no_more_although_it_can_be_read() -> None:
    """Linux before 6.2, on the device of the VLAN."""
    assert taken(tag=100, tagged=False)


def test_a_tag_with_nothing_but_a_priority_belongs_to_the_device_itself() -> None:
    assert taken(tag=5 << 13, tagged=True)


def test_ports_of_a_bridge_or_bond_and_other_devices_than_the_only_one() -> None:
    assert not taken(device=2, hidden=(2, 3))
    assert taken(device=4, hidden=(2, 3))
    assert taken(device=2, only=2)
    assert not taken(device=4, only=2)


def made(version: int, flags: int, options: bytes = b"") -> bytes:
    """A frame with a TCP segment; ``options`` of the IPv4 header."""
    tcp = struct.pack("!HHIIBBHHH", 40000, 443, 1, 0, 5 << 4, flags, 65535, 0, 0)
    if version == 6:
        ip = struct.pack("!IHBB16s16s", 6 << 28, len(tcp), 6, 64, THERE_6.packed, HERE_6.packed)
        return bytes(12) + b"\x86\xdd" + ip + tcp
    size = 20 + len(options)
    addresses = THERE.packed, HERE.packed
    ip = struct.pack("!BBHHHBBH4s4s", 0x40 | size // 4, 0, size + len(tcp), 0, 0, 64, 6, 0, *addresses) + options
    return bytes(12) + b"\x08\x00" + ip + tcp


HERE_6, THERE_6 = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")
TOO_BIG = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 56, 0, 0, 64, 1, 0, THERE.packed, HERE.packed) + (
    struct.pack("!BBHHH", 3, 4, 0, 0, 1400)
    + struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 0, 0, 64, 6, 0, HERE.packed, THERE.packed)
    + struct.pack("!HHI", 443, 40000, 1)
)


@pytest.mark.parametrize(
    ("packet", "stranger"),
    [
        *((made(version, flags), True) for version in (4, 6) for flags in (0x02, 0x02 | 0x08, 0x02 | 0xC0)),
        *((made(version, flags), False) for version in (4, 6) for flags in (0x12, 0x10, 0x18, 0x04, 0x11)),
        (made(4, 0x02, bytes(8)), True), (made(4, 0x10, bytes(8)), False),
        (bytes(12) + b"\x08\x00" + TOO_BIG, False),
    ],
)  # fmt: skip
def test_syns_have_a_tap_of_their_own(packet: bytes, stranger: bool) -> None:  # noqa: FBT001
    """Each packet is taken by one of both."""
    match = Match(PortSide.DESTINATION, (HERE, HERE_6), (PortRange(443, 443),))
    known = {PACKET_TYPE: HOST, INTERFACE: 2, HARDWARE_TYPE: arphrd.ETHERNET, VLAN_TAG: 0, VLAN_TAG_PRESENT: 0}
    ancillary = {offset & 0xFFFFFFFF: value for offset, value in known.items()}
    taken_by = {syns: interpret(tap_program(match, syns=syns), packet, ancillary) > 0 for syns in Syns}
    assert taken_by == {Syns.TAKEN: True, Syns.ALONE: stranger, Syns.LEFT: not stranger}
