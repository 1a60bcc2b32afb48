"""The numbers of a client's conversations.

A number is used again only when 2 × ``duration`` has passed since its conversation ended: a peer that still sends
on an ended conversation must not be taken for one of a new conversation.
"""

from __future__ import annotations

from collections import OrderedDict

SPACE = 0x10000
"""Numbers are u16."""


class Numbers:
    """See the module.  ``first``: the first number; ``rest``: seconds for which a number is not used after its end."""

    def __init__(self, first: int, rest: float) -> None:
        self._next = first
        self._unused = SPACE
        """How many numbers, from ``_next`` on, have never been used."""
        self._rest = rest
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
        if ended + self._rest > now:
            return None
        del self._ended[number]
        return number

    def give_back(self, now: float, number: int) -> None:
        """The conversation with this number has ended."""
        self._ended[number] = now

    def has_ended(self, number: int) -> bool:
        """Whether this number belonged to a conversation that has ended."""
        return number in self._ended
