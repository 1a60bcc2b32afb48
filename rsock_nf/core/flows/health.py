"""The health of a flow: round-trip time, loss toward the peer, and whether the peer still answers.

A probe travels on the flow itself.  Its answer tells how many frames have arrived there so far, so each side learns
the loss in its *sending* direction.  The round-trip time is estimated as in RFC 6298.  Each probe has a number of
its own, so no sample is ambiguous.

While a queue on the way fills up (bufferbloat), the path looks dead until the answer comes.  So every unanswered
probe doubles the time-out, and everything that we hear from the peer meanwhile counts as a sign of life.

Not here: when to probe, and what follows from the results (``probes``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

MIN_RTO = 0.2
"""Seconds: Linux's TCP_RTO_MIN.  With less, a busy host or a filling queue would be taken for a dead path."""
MAX_RTO = 3.0
INITIAL_RTO = 0.5
GIVE_UP_SILENT = 3
"""A flow is dead after so many unanswered probes in a row, if nothing has come from the peer for as long as the
time-outs of the second and the third probe together.  What comes during the time-out of the first one may have been on
its way before the peer fell silent: it is no sign of life."""
GIVE_UP = 8
"""A flow is dead after so many unanswered probes in a row, even if frames or ACKs still come from the peer."""
MIN_SAMPLE = 32
"""With fewer frames sent between two answered probes, the answers say nothing about loss."""
_LOSS_WEIGHT = 0.25
_ROUNDING = 1e-3
"""Seconds by which a sum of time-outs may be shorter than the time that passed."""


class _Sent(NamedTuple):
    at: float
    frames: int


@dataclass(slots=True)
class Health:
    """The health of one flow, as one side sees it."""

    srtt: float | None = None
    """Smoothed round-trip time, seconds; None = no sample yet."""
    rttvar: float = 0.0
    loss: float = 0.0
    """The share of our frames that did not arrive, smoothed."""
    lost: int = 0
    """Our frames that did not arrive, since the flow began: it only grows.  A frame that the last probe has overtaken
    is not lost yet, so this follows one answer later."""
    unanswered: int = 0
    """Probes in a row without an answer."""
    next_number: int = 1
    took: float = 0.0
    """Seconds that the last answer took, however many."""
    counted: tuple[int, int] = (0, 0)
    """Between the last two answered probes: (frames that we sent, frames that arrived)."""
    _outstanding: dict[int, _Sent] = field(default_factory=dict)
    _heard: tuple[int, int] = (0, 0)
    """(frames received, highest ACK), as last seen."""
    _silent_since: float = 0.0
    """The time of a probe.  From this probe to the last one, nothing came from the peer: ``_heard`` did not change."""
    _answered: tuple[int, int] = (0, 0)
    """(frames sent, frames arrived) as the last answer told."""
    _sampled: tuple[int, int] = (0, 0)
    """The same, as ``loss`` last took them."""
    _missing: int = 0
    """Frames that had not arrived when the last answer left, since the flow began."""

    @property
    def rto(self) -> float:
        """Seconds to wait for the next answer.  Each unanswered probe doubles them (RFC 6298 section 5.5)."""
        return self._rto(self.unanswered)

    def _rto(self, unanswered: int) -> float:
        base = INITIAL_RTO if self.srtt is None else max(self.srtt + 4 * self.rttvar, MIN_RTO)
        return min(base * (1 << unanswered), MAX_RTO)

    @property
    def waiting(self) -> bool:
        """The last probe has not been answered yet."""
        return bool(self._outstanding)

    def waited(self, now: float) -> float:
        """Seconds since the first of the probes left that have no answer yet; 0 = none is waiting."""
        return max((now - sent.at for sent in self._outstanding.values()), default=0.0)

    def probe_sent(self, now: float, sent_frames: int, heard: tuple[int, int]) -> int:
        """Count a probe, which is frame ``sent_frames`` of this flow.  Returns the probe's number.

        ``heard``: (frames received on the flow, its highest ACK).
        """
        if not self._outstanding or heard != self._heard:
            self._heard, self._silent_since = heard, now
        number = self.next_number
        self.next_number = (number + 1) & 0xFFFFFFFF
        self._outstanding[number] = _Sent(now, sent_frames)
        return number

    def overdue(self, now: float, heard: tuple[int, int], *, resting: bool = False) -> bool:
        """The last probe was not answered in time.  Returns True if the flow is dead.

        ``heard``: see ``probe_sent``.  ``resting``: the peer sends nothing else on the flow, so silence means less.
        """
        self.unanswered += 1
        if self.unanswered < (GIVE_UP if resting else GIVE_UP_SILENT):
            return False
        if self.unanswered >= GIVE_UP:
            return True
        patience = sum(self._rto(unanswered) for unanswered in range(1, GIVE_UP_SILENT))
        return heard == self._heard and now - self._silent_since >= patience - _ROUNDING

    def answered(self, now: float, number: int, received: int, *, count: bool = True) -> bool:
        """Probe ``number`` was answered: ``received`` frames have arrived at the peer.  Returns False if we know no
        such probe.

        ``count``: False = the frames since the last answer say nothing about loss, for some were too large on purpose.
        """
        sent = self._outstanding.get(number)
        if sent is None:
            return False
        self.clear()
        self.took = max(now - sent.at, 0.0)
        self.sample(self.took)
        self.counted = _since(self._answered, sent.frames, received) if count else (0, 0)
        before, self._missing = self._missing, self._missing + self.counted[0] - self.counted[1]
        self.lost = max(self.lost, min(before, self._missing))
        self._answered = sent.frames, received
        if not count:
            self._sampled = self._answered
        frames, arrived = _since(self._sampled, sent.frames, received)
        if frames >= MIN_SAMPLE:
            loss = 1 - min(arrived / frames, 1.0)
            self.loss += (loss - self.loss) * _LOSS_WEIGHT
            self._sampled = sent.frames, received
        return True

    def clear(self) -> None:
        """The peer answers: no probe is waiting any more."""
        self._outstanding.clear()
        self.unanswered = 0

    def sample(self, rtt: float) -> None:
        """Take a round-trip time, in seconds.  Callers give that of an opening segment only if it was sent once
        (Karn's rule).  One above ``MAX_RTO`` counts as that: more than the path, it tells that a host stood still.
        """
        rtt = min(rtt, MAX_RTO)
        if self.srtt is None:
            self.srtt, self.rttvar = rtt, rtt / 2
        else:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4
            self.srtt += (rtt - self.srtt) / 8


def _since(before: tuple[int, int], sent: int, arrived: int) -> tuple[int, int]:
    """(frames sent, frames arrived) since ``before``.  The peer counts modulo 2**32."""
    return sent - before[0], (arrived - before[1]) & 0xFFFFFFFF
