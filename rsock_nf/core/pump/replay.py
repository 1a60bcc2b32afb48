"""Anti-replay window: which packet counters were accepted already (the purpose of RFC 6479).

RFC 6479 keeps a ring of words, so that no bits need to be shifted.  Here the window is one big int.  In Python the
cost depends on the number of operations, not of words: a run of 44 new counters is one shift and one "or" of 8,192
bits, 0.6 microseconds together.  One iteration of a loop over words already costs a tenth of that.

Not here: authentication.  Give ``accept*`` only counters of frames that have authenticated.  Otherwise one forged
frame far ahead would shut out everything that is on its way.
"""

from __future__ import annotations

from typing import Final, Protocol

SIZE: Final = 8192
"""Counters.  A GRO packet of the smallest frames has fewer (65,535 / 9), and a burst of 44 may come 180 bursts late."""


class Replay(Protocol):
    """What the pump asks of a replay window."""

    @property
    def highest(self) -> int:
        """The highest counter accepted so far; -1 = none yet."""

    def accept_run(self, first: int, count: int) -> int:
        """See ``ReplayWindow.accept_run``."""


class ReplayWindow:
    """The last ``size`` counters up to the highest accepted.  Counters start at 0 and have no upper limit."""

    __slots__ = ("_floor", "_seen", "size")

    def __init__(self, size: int = SIZE) -> None:
        if size < 1:
            raise ValueError(f"replay window of {size} counters")
        self.size = size
        self._floor = 0
        """The lowest counter that may still be accepted."""
        self._seen = 0
        """Bit i: counter ``_floor + i`` was accepted.  Never longer than ``size`` bits."""

    @property
    def highest(self) -> int:
        """The highest counter accepted so far; -1 = none yet."""
        return self._floor + self._seen.bit_length() - 1 if self._seen else -1

    def may_accept(self, counter: int) -> bool:
        """Whether ``accept`` would accept ``counter``."""
        ahead = counter - self._floor
        return ahead >= 0 and not self._seen >> ahead & 1

    def accept(self, counter: int) -> bool:
        """Accept ``counter``, once."""
        return self.accept_mask(counter, 1) == 1

    def accept_run(self, first: int, count: int) -> int:
        """Accept the ``count`` counters from ``first`` on, as if one after the other.

        Returns a mask: bit i is set if ``first + i`` was accepted.  ``(1 << count) - 1`` = all were accepted.
        """
        return self.accept_mask(first, (1 << count) - 1)

    def accept_mask(self, first: int, run: int) -> int:
        """Accept ``first + i`` for each bit i of ``run``, in ascending order: the authenticated frames of a burst.

        Returns the bits of ``run`` that were accepted: neither seen before nor below the window.  A run longer than
        the window moves it meanwhile, exactly as if its counters came one by one.
        """
        size = self.size
        length = run.bit_length()
        if length > size:
            low = self.accept_mask(first, run & (1 << size) - 1)
            return low | self.accept_mask(first + size, run >> size) << size
        ahead = first - self._floor
        excess = ahead + length - size
        if ahead >= size:
            # The common case: the run is ahead of everything seen, so there is nothing to look up.  Shift right
            # before left, so # that even a very large counter makes no large number.
            if run:
                self._seen = self._seen >> excess | run << size - length
                self._floor += excess
            return run
        below = 0
        if ahead < 0:
            # A counter below the window is too old.  Shift right first here too, for the same reason.
            below, ahead = -ahead, 0
            run >>= below
            if not run:
                return 0
        fresh = run & ~(self._seen >> ahead)
        self._seen |= fresh << ahead
        if excess > 0:
            self._seen >>= excess
            self._floor += excess
        return fresh << below
