"""Who sends most of what does not authenticate, in a fixed amount of memory.

A few counters follow the stream (J. Misra, D. Gries, "Finding repeated elements", 1982): a source that has a counter
adds to it; a new one takes a free counter; if none is free, every counter loses one.  A source with more than a
seventeenth of all payloads has a counter for sure.  Its count is never too high, so "at least" is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

COUNTERS: Final = 16


class Source(NamedTuple):
    """A source, and how much came from it."""

    address: bytes
    """Packed."""
    payloads: int
    """At least so many."""


class TopSources:
    """See the module."""

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}
        self.last: float | None = None
        """When something last came; None = never."""

    def note(self, now: float, address: bytes) -> None:
        """A payload came from this packed address."""
        self.last = now
        counts = self._counts
        if address in counts or len(counts) < COUNTERS:
            counts[address] = counts.get(address, 0) + 1
        else:
            self._counts = {source: count - 1 for source, count in counts.items() if count > 1}

    def merged(self, other: TopSources) -> TopSources:
        """Both together, of which the largest keep their counters."""
        together = TopSources()
        counts = Counter(self._counts) + Counter(other._counts)
        together._counts = dict(counts.most_common(COUNTERS))
        together.last = max((last for last in (self.last, other.last) if last is not None), default=None)
        return together

    def top(self) -> Sequence[Source]:
        """Those with a counter, the largest first."""
        found = [Source(address, count) for address, count in self._counts.items()]
        return sorted(found, key=lambda source: (-source.payloads, source.address))
