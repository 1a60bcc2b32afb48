"""Offsets in IP, TCP and UDP headers, and the protocol numbers.  Other modules take these facts from here.

RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 section 3.1 (TCP), RFC 768 (UDP); numbers by IANA.  The pump has a copy of
what it needs, for speed.
"""

from __future__ import annotations

from typing import Final

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


def ip_header(address_bytes: int) -> int:
    """Bytes of the IP header, without options, for addresses of 4 or 16 bytes."""
    return IPV6_HEADER if address_bytes == 16 else IPV4_HEADER


def overhead(address_bytes: int, *, udp: bool) -> int:
    """Bytes of the IP header and the TCP (or UDP) header, without options, for addresses of 4 or 16 bytes."""
    return ip_header(address_bytes) + (UDP_HEADER if udp else TCP_HEADER)
