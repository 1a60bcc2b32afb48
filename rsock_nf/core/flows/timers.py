"""All timers of the core: one enumeration, and one table of deadlines.

It reads no clock: the driver asks for the earliest deadline and says when it has come.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Hashable, Iterator

SWEEP = 1.0
"""Seconds between two sweeps."""


class Timer(enum.Enum):
    """The reason for which the core is to be woken.  The key beside it says for which flow or slot."""

    DIAL = "dial"
    """A slot of the client may dial, or dial again."""
    RETRANSMIT = "retransmit"
    """A segment of a flow's opening or closing was not answered."""
    ACKNOWLEDGE = "acknowledge"
    """Received bytes have waited for 20 ms for a segment that carries their ACK."""
    PROBE = "probe"
    """It is time to probe a flow, or its last probe is overdue."""
    LISTEN = "listen"
    """Look whether anything is heard on a session that sends."""
    RETIRE = "retire"
    """A flow whose successor carries is to close: what was on its way has arrived."""
    FORGET = "forget"
    """A closed or demoted flow is to be discarded: it has answered late FINs long enough."""
    HALF_OPEN = "half-open"
    """A hello or join at the server was not confirmed in time."""
    SWEEP = "sweep"
    """Check conversations, fragments and sessions for their end: once a second while there are any."""


class Deadlines:
    """When each (timer, key) is due.  Each has one deadline; setting it again moves it."""

    def __init__(self) -> None:
        self._when: dict[tuple[Timer, Hashable], float] = {}
        self._heap: list[tuple[float, int, tuple[Timer, Hashable]]] = []
        self._order = itertools.count()

    def set(self, timer: Timer, key: Hashable, when: float) -> None:
        """Set a deadline, or move it.  ``when``: seconds on the clock of every ``now``."""
        entry = (timer, key)
        if self._when.get(entry) != when:
            self._when[entry] = when
            heapq.heappush(self._heap, (when, next(self._order), entry))

    def set_if_unset(self, timer: Timer, key: Hashable, when: float) -> None:
        """Set a deadline, unless one is set already."""
        if (timer, key) not in self._when:
            self.set(timer, key, when)

    def get(self, timer: Timer, key: Hashable) -> float | None:
        """The deadline; None = none is set."""
        return self._when.get((timer, key))

    def hasten(self, timer: Timer, key: Hashable, when: float) -> None:
        """Set a deadline, or move it forward.  An earlier one stays."""
        armed = self._when.get((timer, key))
        if armed is None or armed > when:
            self.set(timer, key, when)

    def cancel(self, timer: Timer, key: Hashable) -> None:
        """Remove a deadline.  Does nothing if none is set."""
        self._when.pop((timer, key), None)

    def cancel_all(self, key: Hashable) -> None:
        """Remove every deadline of ``key``."""
        for timer in Timer:
            self._when.pop((timer, key), None)

    def next(self) -> float | None:
        """The earliest deadline; None = none is set."""
        while self._heap:
            when, _, entry = self._heap[0]
            if self._when.get(entry) == when:
                return when
            heapq.heappop(self._heap)  # it was moved or cancelled since
        return None

    def due(self, now: float) -> Iterator[tuple[Timer, Hashable]]:
        """Take out what is due at ``now``, earliest first.  What the caller sets meanwhile for a later time stays."""
        while (when := self.next()) is not None and when <= now:
            _, _, entry = heapq.heappop(self._heap)
            del self._when[entry]
            yield entry
