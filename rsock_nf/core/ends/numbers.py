"""The numbers of a client's conversations.

A number is used again when all others have been used since, and ``REST`` has passed since its conversation ended: what
is still under way on an ended conversation must not be taken for a part of a new one.
"""

from __future__ import annotations

from collections import OrderedDict

SPACE = 0x10000
"""Numbers are u16."""
REST = 60.0
"""Seconds for which a number is not used after the end of its conversation.  By then the server has been told of the
end.  If that message was lost, the server has found that a brief conversation is silent."""


class Numbers:
    """See the module.  ``first``: the first number."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._unused = SPACE
        """How many numbers, from ``_next`` on, have never been used."""
        self._ended: OrderedDict[int, float] = OrderedDict()
        """Number → when its conversation ended, the earliest end first."""

    def take(self, now: float) -> int | None:
        """A number that was never used, else the one whose conversation ended first.  None = no number is free.

        It takes no search, so a flood of new peers costs little.
        """
        if self._unused:
            self._unused -= 1
            number = self._next
            self._next = (number + 1) % SPACE
            return number
        if not self._ended:
            return None
        number, ended = next(iter(self._ended.items()))
        if ended + REST > now:
            return None
        del self._ended[number]
        return number

    def give_back(self, now: float, number: int) -> None:
        """The conversation with this number has ended."""
        self._ended[number] = now

    def has_ended(self, number: int) -> bool:
        """Whether this number belonged to a conversation that has ended."""
        return number in self._ended
