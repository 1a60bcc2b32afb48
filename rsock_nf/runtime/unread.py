"""Whether something has arrived that was not read yet.

The event loop knows, but has no question for it.
"""

from __future__ import annotations

import contextlib
import select


class Unread:
    """Any number of descriptors that are read by others."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def add(self, descriptor: int) -> None:
        """Ask about this one, too."""
        self._poll.register(descriptor, select.POLLIN)

    def remove(self, descriptor: int) -> None:
        """It is about to be closed.  Does nothing if it is not known."""
        with contextlib.suppress(KeyError, ValueError):
            self._poll.unregister(descriptor)

    def __bool__(self) -> bool:
        """One of them is readable."""
        return any(events & select.POLLIN for _, events in self._poll.poll(0))
