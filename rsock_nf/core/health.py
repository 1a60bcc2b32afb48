"""How a flow does: round-trip time, loss toward the peer, and whether it still answers.

A probe travels on the flow itself; its answer tells how many frames arrived there so far,
so each side learns the loss in its *sending* direction.  Round-trip time is estimated as
RFC 6298 does; each probe has a number of its own, so no sample is ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

MIN_RTO = 0.1
"""Seconds.  Less would take a busy host for a dead path."""
MAX_RTO = 3.0
INITIAL_RTO = 0.5
GIVE_UP_SILENT = 3
"""Unanswered probes in a row, with nothing else received either, after which a flow is dead."""
GIVE_UP = 8
"""Unanswered probes in a row after which it is dead even if something is received."""
MIN_SAMPLE = 32
"""Frames sent between two answered probes below which they say nothing about loss."""
_LOSS_WEIGHT = 0.25


class _Sent(NamedTuple):
    at: float
    frames: int


@dataclass(slots=True)
class Health:
    """Of one flow, as one side sees it."""

    srtt: float | None = None
    """Smoothed round-trip time, seconds; None = no sample yet."""
    rttvar: float = 0.0
    loss: float = 0.0
    """Share of our frames that did not arrive, smoothed."""
    unanswered: int = 0
    """Probes in a row without an answer."""
    next_number: int = 1
    _outstanding: dict[int, _Sent] = field(default_factory=dict)
    _received_frames: int = 0
    """The pump's counter when the first unanswered probe was sent."""
    _answered_sent: int = 0
    _answered_received: int = 0

    @property
    def rto(self) -> float:
        """How long to wait for an answer, seconds."""
        if self.srtt is None:
            return INITIAL_RTO
        return min(max(self.srtt + 4 * self.rttvar, MIN_RTO), MAX_RTO)

    @property
    def waiting(self) -> bool:
        """The last probe is not answered yet."""
        return bool(self._outstanding)

    def probe_sent(self, now: float, sent_frames: int, received_frames: int) -> int:
        """Account for a probe, which is frame ``sent_frames`` of this flow; its number."""
        if not self._outstanding:
            self._received_frames = received_frames
        number = self.next_number
        self.next_number = (number + 1) & 0xFFFFFFFF
        self._outstanding[number] = _Sent(now, sent_frames)
        return number

    def overdue(self, received_frames: int) -> bool:
        """The last probe was not answered in time.  True = the flow is dead."""
        self.unanswered += 1
        silent = received_frames == self._received_frames
        return self.unanswered >= GIVE_UP or (silent and self.unanswered >= GIVE_UP_SILENT)

    def answered(self, now: float, number: int, received: int) -> bool:
        """An answer came: ``received`` frames arrived at the peer.  False = to no probe of ours."""
        sent = self._outstanding.get(number)
        if sent is None:
            return False
        self._sample(max(now - sent.at, 0.0))
        self._outstanding.clear()
        self.unanswered = 0
        frames = sent.frames - self._answered_sent
        if frames >= MIN_SAMPLE:
            arrived = (received - self._answered_received) & 0xFFFFFFFF
            loss = 1 - min(arrived / frames, 1.0)
            self.loss += (loss - self.loss) * _LOSS_WEIGHT
            self._answered_sent, self._answered_received = sent.frames, received
        return True

    def _sample(self, rtt: float) -> None:
        if self.srtt is None:
            self.srtt, self.rttvar = rtt, rtt / 2
        else:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4
            self.srtt += (rtt - self.srtt) / 8
