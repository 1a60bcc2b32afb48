"""Offsets in IP, TCP and UDP headers, and the protocol numbers.  Other modules take these facts from here.

RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 section 3.1 (TCP), RFC 768 (UDP); numbers by IANA.  The pump has a copy of
what it needs, for speed.
"""

from __future__ import annotations

from typing import Final

from rsock_nf.core.types import Buffer

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMPV6: Final = 58

IPV4_HEADER: Final = 20
"""Bytes, without options."""
IPV6_HEADER: Final = 40
TCP_HEADER: Final = 20
"""Bytes, without options."""
UDP_HEADER: Final = 8

IPV4_PROTOCOL: Final = 9
"""Offset of the protocol number in an IPv4 header."""
IPV6_NEXT_HEADER: Final = 6
"""Offset of the protocol number in an IPv6 header."""
IPV4_PLAIN: Final = 0x45
"""The first byte of an IPv4 header without options."""
SOURCE_PORT: Final = 0
"""Offset in a TCP or UDP header."""
DESTINATION_PORT: Final = 2
"""Offset in a TCP or UDP header."""


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
"""Bytes of the ICMP or ICMPv6 header, before the packet that it returns."""

TCP_SEQUENCE: Final = 4
TCP_FLAGS: Final = 13
TCP_CHECKSUM: Final = 16


def ip_version(packet: Buffer) -> int:
    """The version of the IP header: 4 or 6."""
    return packet[0] >> 4


def ip_header_length(packet: Buffer) -> int:
    """Bytes of the IP header at the start of ``packet``."""
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


def ip_header(address_bytes: int) -> int:
    """Bytes of the IP header, without options, for addresses of 4 or 16 bytes."""
    return IPV6_HEADER if address_bytes == 16 else IPV4_HEADER


def overhead(address_bytes: int, *, udp: bool) -> int:
    """Bytes of the IP header and the TCP (or UDP) header, without options, for addresses of 4 or 16 bytes."""
    return ip_header(address_bytes) + (UDP_HEADER if udp else TCP_HEADER)
