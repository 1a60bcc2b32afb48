"""The largest segment that passes on a flow's path, found by padded probes (after RFC 8899, for one flow).

The search starts with the MSS of the TCP handshake.  A probe is padded to that size.  If it is answered, the size
is confirmed.  If three such probes are lost while small probes are answered, the next lower size is tried.  A
router that says "too big" shortens the search (``reduce``).

A path may become wider again, and three probes may be lost by accident.  So larger sizes are tried from time to
time, by probes of their own.  The loss of such a probe says nothing about the health of the flow.
"""

from __future__ import annotations

from dataclasses import dataclass

PLATEAUS = (1400, 1360, 1320, 1240, 1160, 1000, 536)
"""Payload sizes tried below that of the TCP handshake: what common tunnels leave of 1,500 bytes."""
RAISE_AFTER = 600.0
"""Seconds until larger sizes are tried (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)."""
_LOST_PROBES = 3
"""RFC 8899 section 5.1.2, MAX_PROBES."""
_LARGER = 0x80000000
"""Probes of larger sizes have numbers from here on.  The other probes of a flow never reach such numbers."""


@dataclass(slots=True)
class PathMtu:
    """The largest payload of one segment on one flow's path."""

    size: int = 0
    confirmed: bool = False
    _probe: int = 0
    """The number of the padded probe that is on its way.  0 = none."""
    _lost: int = 0
    _raise_at: float = 0.0
    _candidate: int = 0
    """The larger size that is being tried.  0 = none."""
    _tries: int = 0
    _number: int = _LARGER
    """The number of the last probe of a larger size."""

    def start(self, size: int) -> None:
        """Begin the search with ``size``: the MSS of the TCP handshake, or what the link takes if that is less."""
        self.size = size
        self.confirmed = False
        self._lost = self._candidate = 0

    def reduce(self, now: float, size: int) -> bool:
        """A router or the link says that at most ``size`` bytes pass.  Returns True if that is less than we thought."""
        if size >= self.size:
            return False
        self.start(size)
        self._raise_at = now + RAISE_AFTER
        return True

    def probe_sent(self, number: int) -> None:
        """Probe ``number`` was sent, padded to ``size``."""
        self._probe = number

    def answered(self, now: float, number: int) -> bool:
        """Probe ``number`` was answered.  Returns True if ``size`` was reduced."""
        if not self._probe or self.confirmed:
            return False
        if number == self._probe:
            self.confirmed, self._probe, self._lost = True, 0, 0
            return False
        self._probe = 0  # a later, small probe was answered, but the padded one was not
        self._lost += 1
        if self._lost < _LOST_PROBES:
            return False
        lower = next((size for size in PLATEAUS if size < self.size), self.size)
        self.confirmed = lower == self.size
        self.size, self._lost = lower, 0
        self._raise_at = now + RAISE_AFTER
        return True

    # -- upwards

    def widened(self, now: float) -> None:
        """The link takes more than before: try larger sizes at once."""
        self._raise_at = now
        self._candidate = 0

    def may_grow(self, now: float) -> bool:
        """It is time to try larger sizes again."""
        return now >= self._raise_at

    def larger(self, now: float, ceiling: int) -> tuple[int, int] | None:
        """(number, size) of a probe to send now.  None = ``size`` is the ceiling, or it is not yet time.

        ``ceiling``: what the TCP handshake and the link allow.  It is tried first, then the sizes between.
        """
        if not self.confirmed or self.size >= ceiling or not self.may_grow(now):
            return None
        if not self.size < self._candidate <= ceiling:
            self._candidate, self._tries = ceiling, 0
        elif self._tries >= _LOST_PROBES:
            between = (size for size in PLATEAUS if self.size < size < self._candidate)
            self._candidate, self._tries = next(between, 0), 0
            if not self._candidate:
                self._raise_at = now + RAISE_AFTER
                return None
        self._tries += 1
        self._number = self._number + 1 & 0xFFFFFFFF | _LARGER
        return self._number, self._candidate

    def larger_passed(self, now: float, number: int) -> bool:
        """Whether probe ``number`` was the last probe of a larger size.  If so, that is ``size`` from now on."""
        if number != self._number or not self._candidate:
            return False
        self.size, self._candidate = self._candidate, 0
        self._raise_at = now + RAISE_AFTER
        return True
