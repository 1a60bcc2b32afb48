"""Hints that this host stood still, or went back to an earlier state: its two clocks move apart.

The clock of the day goes on, or is set right, when a suspended machine wakes and when a snapshot of a virtual machine
is restored.  The monotonic clock knows nothing of it.  Somebody who sets the clock causes the same hint, so it may only
lead to what does no harm: new keys.

Not here: what follows (``want_keys`` of either role).  There is no hint if nobody sets the clock right.
"""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP = 2.0
"""Seconds by which the clocks must move apart between two looks."""


class ClockJumps:
    """See the module.  ``wall``: the clock of the day, in seconds."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._apart: float | None = None

    def jumped(self, now: float) -> bool:
        """Whether the clocks have moved apart since the last call.  ``now``: the monotonic clock, in seconds."""
        apart, before = self._wall() - now, self._apart
        self._apart = apart
        return before is not None and abs(apart - before) > JUMP
