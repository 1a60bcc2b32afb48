"""Which copies of a packet a tap on all devices takes, by what the kernel knows about each of them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from rsock_nf.core.types import PortRange
from rsock_nf.link import Match, PortSide
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
