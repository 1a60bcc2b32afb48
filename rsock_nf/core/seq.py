"""Sequence numbers: arithmetic modulo 2**32 on plain ints.

RFC 9293 section 3.4 with the comparison of RFC 1982.  Not a class: a sequence number stays an ``int`` in
``0 .. 2**32 - 1``, because one is touched for every burst.  Two numbers exactly 2**31 apart have no order
(RFC 1982 leaves it undefined); here neither is ``lt`` nor ``gt`` the other.
"""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFF_FFFF
HALF: Final = 0x8000_0000
MODULUS: Final = 0x1_0000_0000


def add(a: int, n: int) -> int:
    """``a`` moved by ``n`` bytes; ``n`` may be negative."""
    return (a + n) & MASK


def diff(a: int, b: int) -> int:
    """The signed distance from ``b`` to ``a``, ``-2**31 .. 2**31 - 1``: adding it to ``b`` gives ``a``."""
    return ((a - b + HALF) & MASK) - HALF


def lt(a: int, b: int) -> bool:
    """``a`` comes before ``b``."""
    return 0 < (b - a) & MASK < HALF


def le(a: int, b: int) -> bool:
    """``a`` comes before ``b``, or is ``b``."""
    return (b - a) & MASK < HALF


def gt(a: int, b: int) -> bool:
    """``a`` comes after ``b``."""
    return 0 < (a - b) & MASK < HALF


def ge(a: int, b: int) -> bool:
    """``a`` comes after ``b``, or is ``b``."""
    return (a - b) & MASK < HALF


def in_window(seq: int, start: int, size: int) -> bool:
    """``seq`` is one of the ``size`` numbers from ``start`` on; ``size`` may be any ``0 .. 2**32``."""
    return (seq - start) & MASK < size
