"""How old flows become on the way to the server, if something on it ends all of them at the same age.

Flows that are born together then die together, again and again.  One death tells nothing: the path may have failed.
But if flows that die at different times had the same age, the next ones will die at that age, too, and are renewed
before (``renewals``).

Not here: how a flow is renewed.
"""

from __future__ import annotations

from collections import deque

SHORTEST = 5.0
"""Seconds.  A flow that dies younger was hardly a flow."""
APART = 4.0
"""Seconds.  Deaths that are nearer to each other have one cause, and count once."""
ALIKE = 0.1
"""Ages are alike if they differ by at most this share, and ``FOUND_LATE``."""
FOUND_LATE = 2.0
"""Seconds: a death is noticed so much later at one time than at another."""
REMEMBERED = 60.0
"""An age is remembered for so many times its length, at most for ``LONGEST``.  A short one may also come from faults
that had nothing to do with age, and costs many renewals: it is soon tried again whether flows may grow older."""
LONGEST = 3600.0
"""Seconds."""


class Ages:
    """See the module."""

    def __init__(self) -> None:
        self._deaths: deque[tuple[float, float]] = deque(maxlen=64)
        """When a flow died, and its age."""
        self._limit = 0.0
        self._until = 0.0

    def limit(self, now: float) -> float:
        """The age, in seconds, at which flows die here; 0 = none is known."""
        return self._limit if now < self._until else 0.0

    def died(self, now: float, age: float) -> bool:
        """A flow died at ``age`` (seconds).  Returns True if it is known from now on that flows become no older."""
        if age < SHORTEST:
            return False
        alike = [
            earlier
            for when, earlier in self._deaths
            if now - when > APART and abs(age - earlier) <= ALIKE * age + FOUND_LATE
        ]
        self._deaths.append((now, age))
        if not alike:
            return False
        before = self.limit(now)
        self._limit = min(age, *alike)
        self._until = now + min(REMEMBERED * self._limit, LONGEST)
        return self._limit != before
