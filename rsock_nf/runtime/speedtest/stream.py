"""Sending datagrams at a rate, in bursts, and counting those that come."""

from __future__ import annotations

from typing import Final

from rsock_nf.runtime.speedtest.messages import Data

TICK: Final = 0.005
"""Seconds from one burst to the next."""
_CATCH_UP: Final = 4
"""Ticks that a late burst makes up for at most: a host that stood still does not send all at once."""
RUN: Final = 64
"""Datagrams of one run."""
_NUMBERS: Final = 1 << 32


class Sender:
    """What is to leave, and when.  ``test``: whose number it is."""

    def __init__(self, test: int, now: float) -> None:
        self.sent = 0
        """Datagrams."""
        self._test = test
        self._credit = 0.0
        self._last = now

    def burst(self, now: float, rate: float, size: int, *, held: bool) -> list[list[bytes]]:
        """Runs of datagrams of ``size`` bytes that are due at ``rate`` bytes a second.

        ``held``: what was sent before has not left yet, so nothing is due, nor made up for.
        """
        passed, self._last = min(now - self._last, _CATCH_UP * TICK), now
        if held:
            self._credit = 0.0
            return []
        self._credit += passed * rate
        count = int(self._credit / size)
        self._credit -= count * size
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        datagrams = [Data(self._test, number % _NUMBERS).build(size) for number in numbers]
        return [datagrams[at : at + RUN] for at in range(0, count, RUN)]


class Receiver:
    """What came of a stream."""

    def __init__(self) -> None:
        self.datagrams = 0
        self.octets = 0
        self.expected = 0
        """One more than the highest number that came: so many were sent, at least."""

    def count(self, number: int, size: int) -> None:
        """A datagram came."""
        self.datagrams += 1
        self.octets += size
        self.expected = max(self.expected, number + 1)
