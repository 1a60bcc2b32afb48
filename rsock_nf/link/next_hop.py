"""A next hop, and when the kernel has to check it again.  It is the same on every system; there is no system call here.

``linux.neighbours`` and ``bsd.next_hop`` add what their kernels tell of a neighbour, and how one is resolved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rsock_nf.core.types import IPAddress

RECHECK: Final = 15.0
"""Seconds after which the kernel is made to check a next hop again, while traffic flows."""
RETRY: Final = 1.0
"""The same for a next hop that is not resolved."""


@dataclass(slots=True)
class Entry:
    """One next hop; a system adds what else its kernel tells of a neighbour."""

    address: IPAddress
    lladdr: bytes = b""
    """The last one that was known.  It is kept while the kernel has none: a packet to an old address may arrive, a
    packet that is not sent cannot."""
    asked: float | None = None
    """``now`` of the last tick that made the kernel check it."""

    def is_due(self, now: float, *, resolved: bool) -> bool:
        """Whether the kernel has to check it again.  If so, it counts as asked at ``now``.

        The first call says no, because ``follow`` has just asked."""
        if self.asked is None:
            self.asked = now
            return False
        due = now - self.asked >= (RECHECK if resolved else RETRY)
        if due:
            self.asked = now
        return due
