"""Which number a new conversation gets at the client: in a circle, and none again within 2 × ``duration`` of its end.

A peer that still sends on an ended conversation must not be taken for one of the new.
"""

from __future__ import annotations

from collections import OrderedDict

SPACE = 0x10000
"""Numbers are u16."""


class Numbers:
    """See the module.  ``first``: where it begins; ``rest``: seconds that a number lies fallow."""

    def __init__(self, first: int, rest: float) -> None:
        self._next = first
        self._unused = SPACE
        """Numbers, from ``_next`` on, that no conversation has had yet."""
        self._rest = rest
        self._ended: OrderedDict[int, float] = OrderedDict()
        """Number → when its conversation ended, the first to end first."""

    def take(self, now: float) -> int | None:
        """One that was never used, else the one that ended first: a flood of new peers must not cost a search each.

        None = all are in use, or ended too short a time ago.
        """
        if self._unused:
            self._unused -= 1
            number = self._next
            self._next = (number + 1) % SPACE
            return number
        if not self._ended:
            return None
        number, ended = next(iter(self._ended.items()))
        if ended + self._rest > now:
            return None
        del self._ended[number]
        return number

    def give_back(self, now: float, number: int) -> None:
        """Its conversation ended."""
        self._ended[number] = now

    def has_ended(self, number: int) -> bool:
        """It was a conversation's, which ended."""
        return number in self._ended
