"""Segmentation in software: a burst becomes the packets that a NIC would make of it.

For links that take single packets only: /dev/bpf, and a device that refused a burst in one piece.  The rules are those
of the kernel's tcp_gso_segment (net/ipv4/tcp_offload.c) and inet_gso_segment (net/ipv4/af_inet.c), so a capture shows
the same with and without GSO.

It merges nothing: the kernel does (GRO).  It makes no IP fragments.
"""

from __future__ import annotations

import struct
from typing import Final

from rsock_nf.core.tcp.checksum import ONES, checksum, fold
from rsock_nf.core.tcp.header import (
    IPV4_CHECKSUM,
    IPV4_IDENTIFICATION,
    IPV4_TOTAL_LENGTH,
    IPV6_PAYLOAD_LENGTH,
    TCP_CHECKSUM,
    TCP_FLAGS,
    TCP_SEQUENCE,
    ip_header_length,
    ip_version,
)
from rsock_nf.core.tcp.segment import FIN, PSH
from rsock_nf.core.types import Buffer, Outgoing

_CWR: Final = 0x80
_H: Final = struct.Struct("!H")
_I: Final = struct.Struct("!I")


def complete(headers: Buffer, payload: Buffer) -> bytes:
    """One whole IP packet: ``headers`` as in ``Outgoing``, with the TCP checksum computed over ``payload``.

    The checksum field holds the folded sum of the pseudo-header.  So the sum over the TCP header, this field included,
    and the payload is the one to complement.  The kernel's skb_checksum_help does the same.
    """
    packet = bytearray(headers)
    packet += payload
    tcp = ip_header_length(headers)
    _H.pack_into(packet, tcp + TCP_CHECKSUM, checksum(memoryview(packet)[tcp:]))
    return bytes(packet)


def cut(outgoing: Outgoing) -> list[bytes]:
    """The IP packets that ``outgoing`` stands for, complete, in order.

    The sequence number and the IPv4 identification count on from segment to segment.  PSH and FIN are on the last
    segment only, CWR on the first only.  Each segment has its own lengths and checksums.
    """
    payload = b"".join(outgoing.payload)
    size = outgoing.segment_size
    if not size or len(payload) <= size:
        return [complete(outgoing.headers, payload)]
    starts = range(0, len(payload), size)
    return [
        complete(_headers(outgoing.headers, len(payload), start, size), payload[start : start + size])
        for start in starts
    ]


def _headers(headers: bytes, total: int, start: int, size: int) -> bytearray:
    """The headers of the segment at offset ``start`` of a ``total`` bytes long burst, cut at ``size``."""
    cut_headers = bytearray(headers)
    tcp = ip_header_length(headers)
    length = min(size, total - start)
    if ip_version(headers) == 4:
        (identification,) = _H.unpack_from(headers, IPV4_IDENTIFICATION)
        _H.pack_into(cut_headers, IPV4_TOTAL_LENGTH, len(headers) + length)
        _H.pack_into(cut_headers, IPV4_IDENTIFICATION, identification + start // size & 0xFFFF)
        _H.pack_into(cut_headers, IPV4_CHECKSUM, 0)
        _H.pack_into(cut_headers, IPV4_CHECKSUM, checksum(bytes(cut_headers[:tcp])))
    else:
        _H.pack_into(cut_headers, IPV6_PAYLOAD_LENGTH, len(headers) - tcp + length)
    (sequence,) = _I.unpack_from(headers, tcp + TCP_SEQUENCE)
    _I.pack_into(cut_headers, tcp + TCP_SEQUENCE, sequence + start & 0xFFFFFFFF)
    if start:
        cut_headers[tcp + TCP_FLAGS] &= ~_CWR
    if start + size < total:
        cut_headers[tcp + TCP_FLAGS] &= ~(FIN | PSH)
    # The pseudo-header's sum contains the TCP length, and is linear in it (RFC 1624).
    (pseudo,) = _H.unpack_from(headers, tcp + TCP_CHECKSUM)
    _H.pack_into(cut_headers, tcp + TCP_CHECKSUM, fold(pseudo + 2 * ONES - total + length))
    return cut_headers
