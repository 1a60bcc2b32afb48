"""Anti-replay window: which packet counters were accepted already (the job of RFC 6479).

RFC 6479 keeps a ring of words so that no bits need shifting.  Here the window is one big int, since in Python the
price is per operation, not per word: a run of 44 new counters is one shift and one "or" of 8,192 bits, 0.6
microseconds in all, where a single trip around a loop over words costs a tenth of that.

Not here: authentication.  Only a counter whose frame has authenticated may be given to ``accept*``, or one forged
frame far ahead would shut out all that is on the way.
"""

from __future__ import annotations

from typing import Final

SIZE: Final = 8192
"""Counters.  More than a GRO packet of the smallest frames holds (65,535 / 9), and a burst of 44 may be 180 late."""


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

    def accept(self, counter: int) -> bool:
        """Accept ``counter``, once."""
        return self.accept_mask(counter, 1) == 1

    def accept_run(self, first: int, count: int) -> int:
        """Accept the ``count`` counters from ``first`` on, as if one after the other.

        Returns a mask: bit i is set when ``first + i`` was accepted.  All of them: ``(1 << count) - 1``.
        """
        return self.accept_mask(first, (1 << count) - 1)

    def accept_mask(self, first: int, run: int) -> int:
        """Accept ``first + i`` for each bit i set in ``run`` (the frames of a burst that authenticated), ascending.

        Returns those of ``run`` that were accepted: neither seen before nor below the window.  A run longer than
        the window moves it on the way, exactly as its counters one by one would.
        """
        size = self.size
        length = run.bit_length()
        if length > size:
            low = self.accept_mask(first, run & (1 << size) - 1)
            return low | self.accept_mask(first + size, run >> size) << size
        ahead = first - self._floor
        excess = ahead + length - size
        if ahead >= size:
            # The common case, a run ahead of everything seen: nothing to look up.  Shift right before left, so
            # that no counter, however large, makes a large number.
            if run:
                self._seen = self._seen >> excess | run << size - length
                self._floor += excess
            return run
        below = 0
        if ahead < 0:
            # What is below the window is too old.  Right shifts first here as well, for the same reason.
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
