"""Every timer of the core: one enumeration, one table of deadlines."""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Hashable, Iterator

SWEEP = 1.0
"""Seconds between two sweeps."""


class Timer(enum.Enum):
    """Why the core wants to be woken.  The key beside it says for whom."""

    DIAL = "dial"
    """A slot of the client may dial (again)."""
    RETRANSMIT = "retransmit"
    """A flow's handshake or closing segment was not answered."""
    ACKNOWLEDGE = "acknowledge"
    """Received bytes have waited long enough for something to carry their ACK (20 ms)."""
    PROBE = "probe"
    """A flow is due to be probed, or its last probe is overdue."""
    FORGET = "forget"
    """A closed flow may be forgotten: late FINs have been answered."""
    HALF_OPEN = "half-open"
    """A hello or join at the server was never confirmed."""
    SWEEP = "sweep"
    """Look at conversations, fragments and sessions that may have ended (once a second while there are any)."""


class Deadlines:
    """When each (timer, key) falls due; one deadline each, set again to move it."""

    def __init__(self) -> None:
        self._when: dict[tuple[Timer, Hashable], float] = {}
        self._heap: list[tuple[float, int, tuple[Timer, Hashable]]] = []
        self._order = itertools.count()

    def set(self, timer: Timer, key: Hashable, when: float) -> None:
        """(Re)arm: ``when`` is on the clock of every ``now``."""
        entry = (timer, key)
        if self._when.get(entry) != when:
            self._when[entry] = when
            heapq.heappush(self._heap, (when, next(self._order), entry))

    def set_if_unset(self, timer: Timer, key: Hashable, when: float) -> None:
        """Arm, unless it is armed already."""
        if (timer, key) not in self._when:
            self.set(timer, key, when)

    def get(self, timer: Timer, key: Hashable) -> float | None:
        """When it falls due; None = it is not armed."""
        return self._when.get((timer, key))

    def hasten(self, timer: Timer, key: Hashable, when: float) -> None:
        """Arm, or move it forward; one that is due earlier stays."""
        armed = self._when.get((timer, key))
        if armed is None or armed > when:
            self.set(timer, key, when)

    def cancel(self, timer: Timer, key: Hashable) -> None:
        """Disarm; harmless when it is not armed."""
        self._when.pop((timer, key), None)

    def cancel_all(self, key: Hashable) -> None:
        """Disarm every timer of ``key``."""
        for timer in Timer:
            self._when.pop((timer, key), None)

    def next(self) -> float | None:
        """The earliest deadline; None = none is armed."""
        while self._heap:
            when, _, entry = self._heap[0]
            if self._when.get(entry) == when:
                return when
            heapq.heappop(self._heap)  # moved or cancelled since
        return None

    def due(self, now: float) -> Iterator[tuple[Timer, Hashable]]:
        """Take out, earliest first, what is due at ``now``; what is armed meanwhile for later stays."""
        while (when := self.next()) is not None and when <= now:
            _, _, entry = heapq.heappop(self._heap)
            del self._when[entry]
            yield entry
