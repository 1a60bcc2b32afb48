"""Where in a captured packet what is, and the same packet with another payload of the same length.

RFC 791, RFC 8200, RFC 9293, RFC 768; the checksum: RFC 1071, RFC 1624.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

from rsock_nf.core.tcp.header import (
    IPV4_FRAGMENT,
    TCP,
    TCP_CHECKSUM,
    TCP_HEADER,
    UDP,
    UDP_HEADER,
    destination,
    ip_header_length,
    ip_length,
    protocol,
    source,
)
from rsock_nf.link.ethernet import ETHERNET_HEADER

End: TypeAlias = tuple[bytes, int]
"""A packed address and a port."""

_UDP_CHECKSUM = 6
_MORE_OR_LATER = 0x3FFF


@dataclass(frozen=True, slots=True)
class Located:
    """A TCP segment or UDP datagram in the bytes of a packet."""

    udp: bool
    source: End
    destination: End
    start: int
    """Where its payload begins."""
    end: int
    """Where it ends; beyond the captured bytes if it was cut off."""
    checksum: int
    """Where the checksum of TCP or UDP is."""


def locate(data: bytes, *, ethernet: bool) -> Located | None:
    """What ``data``, as captured, holds; None = no whole headers of TCP or UDP."""
    at = ETHERNET_HEADER if ethernet else 0
    packet = data[at:]
    if not packet or packet[0] >> 4 not in (4, 6):
        return None
    head = ip_header_length(packet)
    if len(packet) < head + UDP_HEADER or protocol(packet) not in (TCP, UDP):
        return None
    if packet[0] >> 4 == 4 and struct.unpack_from("!H", packet, IPV4_FRAGMENT)[0] & _MORE_OR_LATER:
        return None
    udp = protocol(packet) == UDP
    if udp:
        payload = head + UDP_HEADER
    elif len(packet) < head + TCP_HEADER:
        return None
    else:
        payload = head + (packet[head + 12] >> 4) * 4
    ports: tuple[int, int] = struct.unpack_from("!HH", packet, head)
    return Located(
        udp,
        (source(packet), ports[0]),
        (destination(packet), ports[1]),
        at + payload,
        at + max(ip_length(packet), payload),
        at + head + (_UDP_CHECKSUM if udp else TCP_CHECKSUM),
    )


def replaced(data: bytes, where: Located, payload: bytes) -> bytes:
    """The packet with ``payload`` in place of its own, which is as long.  A right checksum stays right, a wrong one
    wrong; that of UDP may be absent."""
    before = data[where.start : where.end]
    (checksum,) = struct.unpack_from("!H", data, where.checksum)
    if checksum or not where.udp:
        # The complement of a sum of 16-bit words; 0 and 65535 are the same number there (RFC 1624 section 3).
        checksum = (checksum + _sum(before) - _sum(payload)) % 0xFFFF or (0xFFFF if where.udp else 0)
    packed = struct.pack("!H", checksum)
    headers = data[: where.checksum] + packed + data[where.checksum + 2 : where.start]
    return headers + payload + data[where.end :]


def _sum(content: bytes) -> int:
    """The words' sum modulo 65535; a last odd byte is the high one of a word."""
    return int.from_bytes(content + bytes(len(content) % 2), "big") % 0xFFFF
