"""How large a socket's send buffer is: what the device takes in a tenth of a second.

What stands in it has left us: nothing overtakes it, no probe and no answer.  So on a slow device a large buffer becomes
a queue of seconds, and flows are taken for dead.  A small one runs dry on a fast device before we come back to fill it.
The device's speed is not known before, so the buffer is fitted each time that it was full: the same idea as the
kernel's Byte Queue Limits (lib/dynamic_queue_limits.c), by the time that bytes waited.

Where the device's queue takes everything at once, the buffer is never full, and this does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

QUEUE: Final = 0.1
"""Seconds that a full buffer takes to become empty, about."""
FIRST: Final = 256 << 10
"""Bytes.  A socket begins with this size."""
LEAST: Final = 32 << 10
MOST: Final = 16 << 20
"""Bytes, with the kernel's bookkeeping, as SO_SNDBUF tells them."""


class SendBuffer:
    """Of one socket.

    ``resize`` sets its size in bytes.  ``unsent``: how many bytes wait in it; 0 = none, or the system does not tell.
    Both count as SO_SNDBUF tells, with the kernel's bookkeeping.
    """

    def __init__(
        self,
        resize: Callable[[int], None],
        unsent: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resize = resize
        self._unsent = unsent
        self._clock = clock
        self.size = FIRST
        resize(FIRST)
        self.was_full = False
        """``full`` was called, and the buffer was not fitted since then."""
        self._full_at = 0.0
        self._held = 0
        """Bytes that waited then."""

    def full(self) -> None:
        """The kernel has refused a burst because the buffer is full."""
        if not self.was_full:
            self.was_full = True
            self._full_at, self._held = self._clock(), self._unsent()

    def fit(self) -> None:
        """To be called before a send while ``was_full``.  Does nothing before half of the buffer is empty."""
        left, took = self._unsent(), self._clock() - self._full_at
        if left > self._held / 2:
            return
        self.was_full = False
        dry = left <= self._held / 8 or took <= 0  # the device could have taken more meanwhile
        wanted = 2.0 * self.size if dry else (self._held - left) / took * QUEUE
        size = int(min(max(wanted, self.size / 2, LEAST), self.size * 2, MOST))
        if size != self.size:
            self.size = size
            self._resize(size)
