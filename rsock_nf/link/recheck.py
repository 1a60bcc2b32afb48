"""When the kernel has to check a next hop again.  It is the same on every system; there is no system call here.

``linux.neighbours`` and ``bsd.next_hop`` have one for each neighbour.  They know what their kernels tell of it, and how
it is resolved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RECHECK: Final = 15.0
"""Seconds after which the kernel is made to check a next hop again, while traffic flows."""
RETRY: Final = 1.0
"""The same for a next hop that is not resolved."""


@dataclass(slots=True)
class Recheck:
    """Of one next hop."""

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
