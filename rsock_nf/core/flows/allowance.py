"""How often one session may have something done that costs this end much more than the peer."""

from __future__ import annotations


class Allowance:
    """A token bucket: at most ``rate`` a second, and ``burst`` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._since = 0.0

    def take(self, now: float) -> bool:
        """Take one.  False = nothing is left."""
        self._left = min(self._left + max(now - self._since, 0.0) * self._rate, self._burst)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
