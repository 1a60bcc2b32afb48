"""The Internet checksum (RFC 1071), at the speed of one big-integer division.

2**16 is 1 modulo 0xffff, so a string of bytes taken as one big-endian number leaves, divided by 0xffff, the
ones' complement sum of its 16-bit words.  The remainder 0 stands for both zeros of ones' complement: only
all-zero data has the sum 0, everything else has 0xffff.

Not here: where the checksum fields are (``segment``), and when to verify them (``types.Checksum``).
"""

from __future__ import annotations

from typing import Final

from rsock_nf.core.tcp.header import TCP
from rsock_nf.core.types import Buffer

ONES: Final = 0xFFFF
"""The modulus, and ones' complement's other zero."""


def fold(total: int) -> int:
    """A sum of any non-negative size brought to 16 bits with end-around carry: 0 only for 0."""
    return (total - 1) % ONES + 1 if total else 0


def ones_sum(data: Buffer) -> int:
    """Ones' complement sum of the big-endian 16-bit words of ``data``; odd data is padded with one zero byte.

    Sums of pieces add up (then ``fold``) as long as all pieces but the last are of even length.
    """
    number = int.from_bytes(data, "big")
    return fold(number << 8 if len(data) & 1 else number)


def checksum(data: Buffer) -> int:
    """What belongs in a checksum field that is zero in ``data``: the complement of the sum."""
    return ONES - ones_sum(data)


def pseudo_header_sum(src: bytes, dst: bytes, length: int, protocol: int = TCP) -> int:
    """Sum of the pseudo-header, folded, not complemented.

    ``src`` and ``dst`` are packed IPv4 or IPv6 addresses; ``length`` is that of the upper-layer packet, header
    included (RFC 9293 section 3.1, RFC 8200 section 8.1: both layouts have the same sum).
    """
    return fold(int.from_bytes(src + dst, "big") + length + protocol)
