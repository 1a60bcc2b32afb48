"""The header of Ethernet frames (IEEE 802.3): its length, the types of IP, and how a frame is answered."""

from __future__ import annotations

from typing import Final

ETHERNET_HEADER: Final = 14
"""Bytes, without a VLAN tag."""
ETHERNET_MTU: Final = 1500
"""Bytes of an IP packet.  Assumed where neither device nor route tells another one; the probes find out."""
ETHERTYPE: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
"""By IP version."""


def ethernet_answer(header: bytes) -> bytes:
    """The link header of an answer to a packet that came with ``header``; b"" on devices without link headers."""
    return header[6:12] + header[:6] + header[12:]
