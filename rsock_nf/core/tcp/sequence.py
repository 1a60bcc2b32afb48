"""Arithmetic on TCP sequence numbers: 32 bits, modulo 2**32 (RFC 9293 section 3.4).

The pump writes the same expressions in line, because one call costs as much as the rest of its work on a packet.
All other code uses these functions.
"""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def add(number: int, count: int) -> int:
    """``number`` moved forward by ``count``, which may be negative."""
    return (number + count) & MASK


def distance(start: int, end: int) -> int:
    """How far ``end`` is ahead of ``start``, ``0 .. 2**32 - 1``."""
    return (end - start) & MASK


def not_behind(number: int, other: int) -> bool:
    """Whether ``number`` is ``other`` or ahead of it, by less than half of the number space."""
    return distance(other, number) < _HALF
