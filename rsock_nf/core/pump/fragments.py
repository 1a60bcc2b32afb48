"""Datagrams larger than a frame: cut into fragment frames, and joined again in bounded memory.

A fragment begins with 8 bytes: identification u32, index u8, count u8, target index u16 (big-endian).  Then follows
its part of the datagram.  All fragments but the last have one size, so they can be one burst.  As with IP (RFC
8900), one lost fragment loses the datagram.  An application that keeps to the MTU shown by ``status`` sends nothing
that needs fragments, once its conversation is open.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from rsock_nf.core.types import Buffer, Malformed

HEADER = struct.Struct("!IBBH")
MAX_FRAGMENTS = 255
_ENTRY = 400
_PART = 64
"""Bytes charged for an entry, and for each of its parts, beside the datagram's own bytes.  So many small parts are
bounded too."""


class Fragment(NamedTuple):
    """One parsed fragment."""

    identification: int
    position: int
    total: int
    target: int
    part: Buffer


def split(datagram: Buffer, room: int, identification: int, target: int) -> list[bytes] | None:
    """Cut ``datagram`` into fragment bodies of at most ``room`` bytes each, header included; None = 255 are too few."""
    part = room - HEADER.size
    count = max(-(-len(datagram) // part), 1) if part > 0 else MAX_FRAGMENTS + 1
    if count > MAX_FRAGMENTS:
        return None
    return [
        HEADER.pack(identification & 0xFFFFFFFF, index, count, target) + datagram[index * part : (index + 1) * part]
        for index in range(count)
    ]


def parse_fragment(body: Buffer) -> Fragment:
    """The fragment in the body of a fragment frame.  Raises ``Malformed``."""
    if len(body) < HEADER.size:
        raise Malformed("fragment shorter than its header")
    identification, index, count, target = HEADER.unpack_from(body)
    if not index < count:
        raise Malformed("fragment index beyond its count")
    return Fragment(identification, index, count, target, body[HEADER.size :])


@dataclass(slots=True)
class _Partial:
    parts: list[bytes | None]
    missing: int
    since: float
    size: int
    """Bytes charged for this entry."""


@dataclass(slots=True)
class Reassembly:
    """The incomplete datagrams of one session."""

    max_bytes: int = 1 << 20
    max_age: float = 3.0
    """Seconds until an incomplete datagram is given up."""
    dropped: int = 0
    """Datagrams given up."""
    _partials: dict[tuple[int, int], _Partial] = field(default_factory=dict)
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self._partials)

    def receive(self, now: float, conversation: int, fragment: Fragment) -> bytes | None:
        """Take one fragment.  Returns the datagram when this fragment completes it, else None."""
        key = (conversation, fragment.identification)
        partial = self._partials.get(key)
        if partial is None:
            charge = _ENTRY + _PART * fragment.total
            partial = self._partials[key] = _Partial([None] * fragment.total, fragment.total, now, charge)
            self._bytes += charge
        if len(partial.parts) != fragment.total or partial.parts[fragment.position] is not None:
            return None  # a duplicate, or a fragment of another datagram with a reused number
        part = bytes(fragment.part)
        partial.parts[fragment.position] = part
        partial.missing -= 1
        partial.size += len(part)
        self._bytes += len(part)
        if not partial.missing:
            self._remove(key)
            return b"".join(part for part in partial.parts if part is not None)
        while self._bytes > self.max_bytes and self._partials:
            self._give_up(next(iter(self._partials)))  # the oldest one: a dict keeps the order of insertion
        return None

    def expire(self, now: float) -> None:
        """Give up the datagrams that are too old."""
        for key in [key for key, partial in self._partials.items() if partial.since + self.max_age <= now]:
            self._give_up(key)

    def _give_up(self, key: tuple[int, int]) -> None:
        self._remove(key)
        self.dropped += 1

    def _remove(self, key: tuple[int, int]) -> None:
        self._bytes -= self._partials.pop(key).size
