"""How much somebody is allowed in a second: a token bucket.  And how much one session is allowed.

A small frame may ask for an answer, and a segment has room for 175 of them.  Without a limit, one client with the
secret would fill a core of the server by 4 Mbit/s, and get eight bytes for each of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ANSWERS = 1000
"""Answers a second to one session, and as many at once: what a conversation is told (it does not exist, it is open, it
is refused).  One that was not told asks again."""
PROBE_ANSWERS = 2000
"""The same of answers to probes: more than the probes of ``MAX_FLOWS`` flows."""

OPENINGS = 2000
"""New conversations a second of one session.  Each is a socket to open, and with ``max_conversations`` one to close."""
MOST_OPENINGS = 4096
"""As many at once: the default of ``max_conversations``."""


@dataclass(slots=True)
class Allowance:
    """``rate``: a second.  ``most``: at once, and in the beginning; 0 = as many as in a second."""

    rate: float
    most: float = 0.0
    _left: float = math.inf
    _since: float = 0.0

    def take(self, now: float) -> bool:
        """Take one.  False = there is none left."""
        left = min(self._left + (now - self._since) * self.rate, self.most or self.rate)
        self._since = now
        self._left = left - 1 if left >= 1 else left
        return left >= 1
