"""Failures that may repeat without end, with counts: one log line for each would fill a disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

MAX_TROUBLES = 50
"""Distinct texts that are counted separately; the rest share one line."""
_OTHERS = "other errors"


class Troubles:
    """Counts by text."""

    def __init__(self) -> None:
        self._counts = Counter[str]()

    def note(self, what: str) -> None:
        """Count one.  A text may contain words of another program, which vary without end."""
        known = what in self._counts or len(self._counts) < MAX_TROUBLES
        self._counts[what if known else _OTHERS] += 1

    @property
    def counts(self) -> Mapping[str, int]:
        """How often, by text."""
        return self._counts
