"""An instance that waits for its host: for a name's address, a route, a device, an address of its own.

So it is at boot, when the network comes later than the instance.  What can only be wrong is not waited for.

Not here: what is tried again (``rsock_nf.daemon``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHORT_PAUSE = 1.0
LONG_PAUSE = 5.0
"""Seconds from one try to the next, in the first minute and later."""
FIRST_REMINDER = 60.0
LONGEST_REMINDER = 3600.0
"""Seconds until the same reason is told again: they double."""


class Waiting:
    """See the module.  ``tell`` gets a line for people: at once, when the reason changes, and then ever more seldom."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._began: float | None = None
        self._remind_at = 0.0
        self._pause = FIRST_REMINDER
        self.reason = ""
        """What was missing at the last try; empty = nothing was."""

    def note(self, reason: str) -> None:
        """This is missing now."""
        now = self._clock()
        if self._began is None:
            self._began = now
        if reason != self.reason:
            self._pause = FIRST_REMINDER
        elif now < self._remind_at:
            return
        else:
            self._pause = min(2 * self._pause, LONGEST_REMINDER)
        self.reason, self._remind_at = reason, now + self._pause
        self._tell(f"waiting: {reason}")

    @property
    def pause(self) -> float:
        """Seconds until the next try."""
        return SHORT_PAUSE if self._began is None or self._clock() - self._began < FIRST_REMINDER else LONG_PAUSE
