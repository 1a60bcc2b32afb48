"""What the link reads and writes in headers: Ethernet, and the offsets in IP and TCP that the core does not need.

``rsock_nf.core.tcp.header`` has the protocol numbers, the lengths, and the other offsets.  IPv6 headers are always
without extension headers here: our own segments have none, and the filter accepts no others.

RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 section 3.1 (TCP).
"""

from __future__ import annotations

from typing import Final

from rsock_nf.core.tcp.header import IPV4_HEADER, IPV4_PROTOCOL, IPV6_HEADER, IPV6_NEXT_HEADER
from rsock_nf.core.types import Buffer

ETHERNET_HEADER: Final = 14
ETHERTYPE: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
"""By IP version."""

IPV4_TOTAL_LENGTH: Final = 2
IPV4_IDENTIFICATION: Final = 4
IPV4_FRAGMENT: Final = 6
"""Flags and fragment offset."""
IPV4_CHECKSUM: Final = 10
IPV4_SOURCE: Final = 12
IPV4_DESTINATION: Final = 16
IPV6_PAYLOAD_LENGTH: Final = 4
IPV6_SOURCE: Final = 8
IPV6_DESTINATION: Final = 24

ICMP_HEADER: Final = 8
"""Bytes, of ICMP and ICMPv6 alike, before the packet that it quotes."""

TCP_SEQUENCE: Final = 4
TCP_FLAGS: Final = 13
TCP_CHECKSUM: Final = 16


def ip_version(packet: Buffer) -> int:
    """4 or 6."""
    return packet[0] >> 4


def ip_header_length(packet: Buffer) -> int:
    """Bytes of the IP header that ``packet`` begins with."""
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else IPV6_HEADER


def ip_length(packet: Buffer) -> int:
    """Bytes of the whole packet, as its IP header says."""
    if packet[0] >> 4 == 4:
        return packet[IPV4_TOTAL_LENGTH] << 8 | packet[IPV4_TOTAL_LENGTH + 1]
    return IPV6_HEADER + (packet[IPV6_PAYLOAD_LENGTH] << 8 | packet[IPV6_PAYLOAD_LENGTH + 1])


def protocol(packet: Buffer) -> int:
    """The number of the protocol behind the IP header."""
    return packet[IPV4_PROTOCOL if packet[0] >> 4 == 4 else IPV6_NEXT_HEADER]


def source(headers: bytes) -> bytes:
    """The packed source address."""
    return headers[IPV4_SOURCE:IPV4_DESTINATION] if headers[0] >> 4 == 4 else headers[IPV6_SOURCE:IPV6_DESTINATION]


def destination(headers: bytes) -> bytes:
    """The packed destination address."""
    return headers[IPV4_DESTINATION:IPV4_HEADER] if headers[0] >> 4 == 4 else headers[IPV6_DESTINATION:IPV6_HEADER]


def ethernet_answer(header: bytes) -> bytes:
    """The link header of an answer to a packet that came with ``header``; b"" on devices without link headers."""
    return header[6:12] + header[:6] + header[12:]
