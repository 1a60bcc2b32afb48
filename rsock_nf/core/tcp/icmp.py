"""ICMP "fragmentation needed" and ICMPv6 "packet too big", if they are about our own flows.

Anybody can send such a message, and it is easily forged: what is parsed here is only a claim.  The caller first
checks that the flow is ours and that ``inner_seq`` is in flight (RFC 5927 section 4).  Even then it only is a reason to
ask the path itself (RFC 8899 section 4.6).

Not here: any other ICMP message, path MTU probing, and the repetition of lost segments.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from rsock_nf.core.tcp.checksum import ONES, fold, ones_sum, pseudo_header_sum
from rsock_nf.core.tcp.header import ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER, TCP
from rsock_nf.core.tcp.segment import parse_ip_header
from rsock_nf.core.types import Checksum, FlowKey, Malformed, Packet

MIN_MTU_V4: Final = 576
"""A smaller MTU is taken for this one: every host takes 576 bytes (RFC 791), and a frame needs some room (Linux:
min_pmtu 552)."""
MIN_MTU_V6: Final = 1280
"""RFC 8200 section 5.  A claim below it is discarded (RFC 8201 section 4)."""
PLATEAUS: Final = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)
"""RFC 1191 section 7."""

_FRAGMENTATION_NEEDED: Final = (3, 4)
_PACKET_TOO_BIG: Final = 2
_ICMP: Final = struct.Struct("!BBxxI")
"""Type, code, and the second word: unused + next-hop MTU (IPv4), or the MTU (IPv6)."""
_INNER_V4: Final = struct.Struct("!BxxxxxHxBxx4s4s")
_INNER_V6: Final = struct.Struct("!BxxxxxBx16s16s")
_INNER_TCP: Final = struct.Struct("!HHI")
"""The first 8 bytes of the TCP header, which every router returns: both ports and seq."""


class TooBig(NamedTuple):
    """A router's claim that a segment of ours did not fit."""

    key: FlowKey
    """The flow as we send on it: its local address is the source of the inner packet."""
    mtu: int
    """The largest IP packet that fits, in bytes: at least 576 (IPv4) or 1,280 (IPv6).  Not compared with anything
    that we know.  0 = the router is older than RFC 1191 and does not say: use ``plateau_below`` of the MTU in use."""
    inner_seq: int
    """Sequence number of the segment that did not fit."""


def plateau_below(mtu: int) -> int:
    """The next smaller IPv4 MTU in common use (RFC 1191 section 7), for a router that does not tell its MTU.

    ``mtu``: the one in use.  The RFC uses the total length of the inner packet instead.  Ours may be the length of
    a whole burst.
    """
    return max(next((plateau for plateau in PLATEAUS if plateau < mtu), 0), MIN_MTU_V4)


def parse_too_big(packet: Packet) -> TooBig:
    """The claim in ``packet``: ICMP type 3 code 4 (RFC 1191), or ICMPv6 type 2 (RFC 4443 section 3.2).

    The ICMP checksum is verified if the packet says ``Checksum.VERIFY``.

    Raises ``Malformed``: also for every other type, for ICMPv6 MTUs below 1,280, and if the inner packet is not TCP
    or not a first fragment.
    """
    ip = parse_ip_header(packet)
    message = packet.data[ip.start : ip.end]
    v6 = packet.data[0] >> 4 == 6
    try:
        kind, code, word = _ICMP.unpack_from(message)
        if v6:
            if ip.protocol != ICMPV6 or kind != _PACKET_TOO_BIG:
                raise Malformed(f"protocol {ip.protocol} type {kind}, not ICMPv6 packet too big")
            key, inner_seq = _parse_inner_v6(message[_ICMP.size :])
        else:
            if ip.protocol != ICMP or (kind, code) != _FRAGMENTATION_NEEDED:
                raise Malformed(f"protocol {ip.protocol} type {kind} code {code}, not ICMP fragmentation needed")
            key, inner_seq = _parse_inner_v4(message[_ICMP.size :])
    except struct.error:
        raise Malformed("ICMP message ends inside the packet that it returns") from None
    if packet.checksum == Checksum.VERIFY:
        pseudo = pseudo_header_sum(ip.source, ip.destination, len(message), ICMPV6) if v6 else 0
        if fold(pseudo + ones_sum(message)) != ONES or not (v6 or ones_sum(packet.data[: ip.start]) == ONES):
            raise Malformed("ICMP or IPv4 header checksum")
    if v6:
        if word < MIN_MTU_V6:
            raise Malformed(f"ICMPv6 packet too big with MTU {word}")
        return TooBig(key, word, inner_seq)
    mtu = word & 0xFFFF
    return TooBig(key, max(mtu, MIN_MTU_V4) if mtu else 0, inner_seq)


def _parse_inner_v4(inner: memoryview) -> tuple[FlowKey, int]:
    """Flow and seq of the returned IPv4 packet.  Raises ``struct.error`` if it is cut too short."""
    first, fragment, protocol, source, destination = _INNER_V4.unpack_from(inner)
    header = (first & 0x0F) << 2
    if first >> 4 != 4 or header < IPV4_HEADER or fragment & 0x1FFF or protocol != TCP:
        raise Malformed("ICMP returns something else than the start of TCP over IPv4")
    sport, dport, seq = _INNER_TCP.unpack_from(inner, header)
    return FlowKey(source, sport, destination, dport), seq


def _parse_inner_v6(inner: memoryview) -> tuple[FlowKey, int]:
    """Flow and seq of the returned IPv6 packet.  Raises ``struct.error`` if it is cut too short."""
    first, protocol, source, destination = _INNER_V6.unpack_from(inner)
    if first >> 4 != 6 or protocol != TCP:
        raise Malformed("ICMPv6 returns something else than TCP over IPv6")
    sport, dport, seq = _INNER_TCP.unpack_from(inner, IPV6_HEADER)
    return FlowKey(source, sport, destination, dport), seq
