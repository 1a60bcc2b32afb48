"""How many answers one session gets: a token bucket.

A small frame may ask for an answer, and a segment has room for 175 of them.  Without a limit, one client with the
secret would fill a core of the server by 4 Mbit/s, and get eight bytes for each of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

ANSWERS = 1000
"""Answers a second to one session, and as many at once: what a conversation is told (it does not exist, it is open, it
is refused).  One that was not told asks again."""
PROBE_ANSWERS = 2000
"""The same of answers to probes: more than the probes of ``MAX_FLOWS`` flows."""


@dataclass(slots=True)
class Allowance:
    """``rate``: a second, and at once."""

    rate: float
    _left: float = -1.0
    _since: float = 0.0

    def take(self, now: float) -> bool:
        """Take one.  False = there is none left."""
        left = self.rate if self._left < 0 else min(self._left + (now - self._since) * self.rate, self.rate)
        self._since = now
        self._left = left - 1 if left >= 1 else left
        return left >= 1
