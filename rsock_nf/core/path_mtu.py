"""What size of segment a path really lets through, found by padded probes (after RFC 8899, for one flow).

The handshake's MSS is where it starts.  A probe padded to that size either comes back, and
the size is confirmed, or is lost three times while small probes are answered: then the next lower
size is tried.  A router that says "too big" shortens the search (``reduce``).
"""

from __future__ import annotations

from dataclasses import dataclass

PLATEAUS = (1400, 1360, 1320, 1240, 1160, 1000, 536)
"""TCP payload sizes tried below the handshake's: what common tunnels leave of 1,500 bytes."""
_LOST_PROBES = 3
"""RFC 8899 section 5.1.2, MAX_PROBES."""


@dataclass(slots=True)
class PathMtu:
    """Largest TCP payload of one flow's path."""

    size: int = 0
    confirmed: bool = False
    _probe: int = 0
    """The number of the padded probe on its way; 0 = none."""
    _lost: int = 0

    def start(self, size: int) -> None:
        """``size``: the handshake's MSS, or the link's, whichever is less."""
        self.size = size
        self.confirmed = False
        self._lost = 0

    def reduce(self, size: int) -> bool:
        """A router or the link says that no more than ``size`` bytes pass.  True = that is less than we thought."""
        if size >= self.size:
            return False
        self.start(size)
        return True

    def probe_sent(self, number: int) -> None:
        """Probe ``number`` was padded to ``size``."""
        self._probe = number

    def answered(self, number: int) -> bool:
        """Probe ``number`` was answered.  True = ``size`` was reduced."""
        if not self._probe or self.confirmed:
            return False
        if number == self._probe:
            self.confirmed, self._probe, self._lost = True, 0, 0
            return False
        self._probe = 0  # a later, small one was answered, the padded one was not
        self._lost += 1
        if self._lost < _LOST_PROBES:
            return False
        lower = next((size for size in PLATEAUS if size < self.size), self.size)
        self.confirmed = lower == self.size
        self.size, self._lost = lower, 0
        return True
