"""The Internet checksum (RFC 1071), computed by one division of a big integer.

2**16 is 1 modulo 0xffff.  So we take a string of bytes as one big-endian number: its remainder modulo 0xffff is the
ones' complement sum of its 16-bit words.  The remainder 0 can mean either zero of ones' complement: the sum is 0
only if all bytes are zero, else it is 0xffff.

Not here: where the checksum fields are (``segment``), and when to verify them (``types.Checksum``).
"""

from __future__ import annotations

from typing import Final

from rsock_nf.core.tcp.header import TCP
from rsock_nf.core.types import Buffer

ONES: Final = 0xFFFF
"""The modulus, and the other zero of ones' complement."""


def fold(total: int) -> int:
    """Bring a non-negative sum to 16 bits with end-around carry.  The result is 0 only for 0."""
    return (total - 1) % ONES + 1 if total else 0


def ones_sum(data: Buffer) -> int:
    """Ones' complement sum of the big-endian 16-bit words of ``data``, padded with one zero byte if its length is odd.

    Sums of pieces can be added (then call ``fold``) if all pieces but the last have an even length.
    """
    number = int.from_bytes(data, "big")
    return fold(number << 8 if len(data) & 1 else number)


def checksum(data: Buffer) -> int:
    """The value of the checksum field: the complement of the sum.  The field itself must be zero in ``data``."""
    return ONES - ones_sum(data)


def pseudo_header_sum(src: bytes, dst: bytes, length: int, protocol: int = TCP) -> int:
    """Sum of the pseudo-header, folded, not complemented.

    ``src`` and ``dst`` are packed IPv4 or IPv6 addresses.  ``length`` is the length of the upper-layer packet, with
    its header (RFC 9293 section 3.1, RFC 8200 section 8.1: both layouts have the same sum).
    """
    return fold(int.from_bytes(src + dst, "big") + length + protocol)
