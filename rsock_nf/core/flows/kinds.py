"""Which kind of flow carries a session's bulk: fake TCP, UDP, or both.

Routers throttle by protocol.  So each end compares what the two kinds lose of what it sends, and how long their round
trips take.  The worse kind *rests*: its flows stay, but carry no bulk.  The rules:

* A kind is worse if it loses more than the other one: by ``MARGIN``, and by more than chance explains.  One bad flow
  is no reason.  It is replaced instead (``probes``).
* If the loss is alike, a kind is worse if its round trip takes ``SLOWER`` times as long.
* While a kind rests, one flow of it is probed.  When this flow has been clean for a minute, the kind is *tried*: one
  of its flows carries a share of the bulk, then two, four and so on.  A policer that lets little through would look
  clean without that share, and the share is small, so a trial costs little.  A trial that fails ends at once, and the
  pause before the next one is twice as long.
* If the other kind becomes worse than the resting one was, the trial begins early.

Not here: where the numbers come from and what follows (``comparison``), and which flows carry (``pump.state``).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Collection, Iterable
from math import sqrt
from typing import NamedTuple

WINDOWS = (10.0, 30.0)
"""Seconds of which the loss of two kinds is compared.  In the longer time small differences become certain."""
CLEAN = 60.0
"""Seconds for which the probed flow of a resting kind must have been clean, before the kind is tried."""
MARGIN = 0.02
"""A kind is worse if it loses this share more."""
SIGMA = 3.5
"""… and if the difference is this many standard deviations of what chance would make of equal loss."""
MIN_LOST = 3
MIN_FRAMES = 30
"""With fewer frames on the better kind there is nothing to compare with."""
MIN_FLOWS = 3
"""From so many flows on, the quarter that loses most is not counted: one bad flow must not condemn its kind."""
SLOWER = 3.0
MIN_SLOWER = 0.01
"""Seconds.  Smaller differences of round-trip times do not matter."""
SLOW_FOR = 5.0
"""Seconds for which a kind must have been slower."""
STEP = 3.0
"""Seconds of each step of a trial.  Each step has twice as many flows."""
STEP_FRAMES = 10
"""A step lasts until so many frames were sent on the kind that is tried."""
FIRST_PAUSE = 60.0
"""Seconds until the first trial.  Each trial that fails doubles them."""
LONGEST_PAUSE = 600.0
CALM = 300.0
"""A kind that has been back for so many seconds may begin with the first pause again."""
_SETTLE = 5.0
"""Seconds until the frames of before have been counted."""
_EARLY = 6
"""If the other kind has become worse, the trial may begin after this part of the pause."""
_LOOK = 0.25
"""Seconds between two comparisons, with few flows."""
_FLOWS_A_SECOND = 400
"""With many flows a comparison takes longer, so there are fewer."""


class Count(NamedTuple):
    """Frames that were sent on a flow, and how many of them were lost."""

    sent: int
    lost: int

    @property
    def share(self) -> float:
        """The share that was lost."""
        return self.lost / self.sent if self.sent else 0.0


class Tally:
    """Frames sent and arrived on the flows of one kind, second by second for the last ``CLEAN`` seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, dict[int, tuple[int, int]]]] = deque()

    def note(self, now: float, flow_id: int, sent: int, arrived: int) -> None:
        """Since the last note about this flow ``sent`` frames were sent, and ``arrived`` frames have arrived."""
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, {}))
            while self._seconds[0][0] < second - CLEAN:
                self._seconds.popleft()
        flows = self._seconds[-1][1]
        before = flows.get(flow_id, (0, 0))
        flows[flow_id] = before[0] + sent, before[1] + arrived

    def counts(self, since: float) -> list[Count]:
        """For each flow its frames since the time ``since``."""
        sums: dict[int, tuple[int, int]] = {}
        for second, flows in reversed(self._seconds):
            if second < int(since):
                break
            for flow_id, (sent, arrived) in flows.items():
                before = sums.get(flow_id, (0, 0))
                sums[flow_id] = before[0] + sent, before[1] + arrived
        # Frames that the path duplicates arrive twice.
        return [Count(sent, max(sent - arrived, 0)) for sent, arrived in sums.values()]

    def clear(self) -> None:
        """Begin anew."""
        self._seconds.clear()


class Standing(NamedTuple):
    """The flows of one kind at this moment."""

    flows: int
    """That are established."""
    fit: int
    """That may carry bulk if their kind does."""
    rtt: float | None
    """The median of their smoothed round-trip times, seconds.  Of a resting kind: of those that are probed for it."""


class Outcome(enum.Enum):
    """What a comparison has changed."""

    RESTS = "rests"
    """A kind rests from now on, or again after a trial."""
    TRIED = "tried"
    """A kind that rests is tried, with more flows than before."""
    CARRIES = "carries"
    """Both kinds carry again."""


class KindJudge:
    """See the module.  One for each session, at each end.  A kind is told by ``udp``: True or False."""

    def __init__(self) -> None:
        self.resting: bool | None = None
        """The kind that rests (is it UDP?); None = both kinds carry."""
        self.carriers = 0
        """How many flows of the resting kind carry nonetheless: it is tried.  0 = it is not."""
        self.why = ""
        """Why it rests, for people."""
        self.due = 0.0
        """When it is tried again, if its probed flow is clean then."""
        self._tally = {False: Tally(), True: Tally()}
        self._next_look = 0.0
        self._since = 0.0
        """When the kind began to rest, or the step of the trial began."""
        self._lost = 0.0
        """The share that the kind lost when it began to rest."""
        self._pause = 0.0
        self._returned = float("-inf")
        self._slow: tuple[bool, float] | None = None
        """The kind that is slower, and since when; of a resting kind: when it was slower for the last time."""

    def note(self, now: float, flow_id: int, sent: int, arrived: int, *, udp: bool) -> None:
        """See ``Tally.note``."""
        self._tally[udp].note(now, flow_id, sent, arrived)

    def is_due(self, now: float) -> bool:
        """Whether ``judge`` would compare now."""
        return now >= self._next_look

    def judge(self, now: float, standings: dict[bool, Standing]) -> Outcome | None:
        """Compare the kinds.  Returns what has changed; None = nothing."""
        if not self.is_due(now):
            return None
        self._next_look = now + max(_LOOK, sum(kind.flows for kind in standings.values()) / _FLOWS_A_SECOND)
        if self.resting is None:
            return self._compare(now, standings)
        if not standings[not self.resting].flows:
            return self._carry(now)
        return self._try(now, standings) if self.carriers else self._wait(now, standings)

    def text(self, now: float) -> str:
        """Which kind rests, why, and until when, for people.  Empty = both carry."""
        if self.resting is None:
            return ""
        told = f"{name(self.resting)} flows rest: {self.why}; "
        if self.carriers:
            return f"{told}tried on {self.carriers} now"
        if now < self.due:
            return f"{told}next try in {self.due - now:.0f} s"
        return f"{told}next try when clean"

    # -- both carry

    def _compare(self, now: float, standings: dict[bool, Standing]) -> Outcome | None:
        if not (standings[False].fit and standings[True].fit):
            return None
        for window in WINDOWS:
            counts = self._counts(now - window)
            for udp in (False, True):
                if loses_more(counts[udp], counts[not udp]):
                    return self._rest(now, udp, counts)
        for udp in (False, True):
            if self._has_been_slower(now, standings, udp):
                return self._rest(now, udp, self._counts(now - WINDOWS[0]), standings)
        return None

    def _counts(self, since: float) -> dict[bool, list[Count]]:
        return {udp: tally.counts(since) for udp, tally in self._tally.items()}

    def _has_been_slower(self, now: float, standings: dict[bool, Standing], udp: bool) -> bool:  # noqa: FBT001 - a kind
        if not is_slower(standings[udp], standings[not udp]):
            if self._slow is not None and self._slow[0] is udp:
                self._slow = None
            return False
        if self._slow is None or self._slow[0] is not udp:
            self._slow = udp, now
        return now - self._slow[1] >= SLOW_FOR

    # -- one rests

    def _rest(
        self,
        now: float,
        udp: bool,  # noqa: FBT001 - a kind
        counts: dict[bool, list[Count]],
        slow: dict[bool, Standing] | None = None,
    ) -> Outcome:
        lost = {kind: total(counts[kind]).share for kind in counts}
        self.why = f"they lose {lost[udp]:.0%}, {name(not udp)} flows {lost[not udp]:.0%}"
        if slow is not None:
            times = [f"{1000 * (slow[kind].rtt or 0.0):.0f} ms" for kind in (udp, not udp)]
            self.why = f"their RTT is {times[0]}, {name(not udp)} flows {times[1]}"
        again = self.resting is not None or now - self._returned < CALM
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if again and self._pause else FIRST_PAUSE
        self.resting, self.carriers, self._lost = udp, 0, lost[udp]
        self.due = now + _SETTLE + self._pause
        self._begin(now)
        return Outcome.RESTS

    def _begin(self, now: float) -> None:
        self._since, self._slow = now, None
        for tally in self._tally.values():
            tally.clear()

    def _wait(self, now: float, standings: dict[bool, Standing]) -> Outcome | None:
        resting = self.resting is True
        if not standings[resting].fit:
            return None
        other = total(self._tally[not resting].counts(now - WINDOWS[0]))
        probed = total(self._tally[resting].counts(now - CLEAN))
        worse = other.lost >= MIN_LOST and other.sent >= MIN_FRAMES and other.share - self._lost >= MARGIN
        early = worse and now - self._since >= self._pause / _EARLY
        if is_slower(standings[resting], standings[not resting]):
            self._slow = resting, now
        clean = probed.sent >= STEP_FRAMES and probed.share - other.share < MARGIN
        fast = self._slow is None or now - self._slow[1] >= CLEAN
        if early or (now >= self.due and clean and fast):
            self.carriers = 1
            self._begin(now)
            return Outcome.TRIED
        return None

    # -- it is tried

    def _try(self, now: float, standings: dict[bool, Standing]) -> Outcome | None:
        tried = self.resting is True
        counts = self._counts(now - CLEAN)
        if loses_more(counts[tried], counts[not tried]) or not standings[tried].fit:
            return self._rest(now, tried, counts)
        if loses_more(counts[not tried], counts[tried]):
            return self._rest(now, not tried, counts)
        if now - self._since < STEP or total(counts[tried]).sent < STEP_FRAMES:
            return None
        if is_slower(standings[tried], standings[not tried]):
            return self._rest(now, tried, counts, standings)
        if 2 * self.carriers > standings[tried].fit:
            return self._carry(now)
        self.carriers *= 2
        self._begin(now)
        return Outcome.TRIED

    def _carry(self, now: float) -> Outcome:
        self.resting, self.carriers, self.why = None, 0, ""
        self._returned = now
        self._begin(now)
        return Outcome.CARRIES


def name(udp: bool) -> str:  # noqa: FBT001 - a kind
    """A kind, for people."""
    return "UDP" if udp else "TCP"


def total(counts: Iterable[Count]) -> Count:
    """The sum over flows."""
    counts = list(counts)
    return Count(sum(count.sent for count in counts), sum(count.lost for count in counts))


def loses_more(worse: Collection[Count], better: Collection[Count]) -> bool:
    """Whether the flows ``worse`` lose more than the flows ``better``.  See the module."""
    one, other = total(worse), total(better)
    if one.lost < MIN_LOST or other.sent < MIN_FRAMES or one.share - other.share < MARGIN:
        return False
    usual = (one.lost + other.lost) / (one.sent + other.sent)
    deviation = sqrt(usual * (1 - usual) * (1 / one.sent + 1 / other.sent))
    if one.share - other.share < SIGMA * deviation:
        return False
    if len(worse) < MIN_FLOWS:
        return True
    kept = sorted(worse, key=lambda count: count.lost)[: -max(1, len(worse) // 4)]
    return total(kept).share - other.share >= MARGIN / 2


def is_slower(one: Standing, other: Standing) -> bool:
    """Whether the round trip of ``one`` takes much longer than that of ``other``."""
    if one.rtt is None or other.rtt is None:
        return False
    return one.rtt > SLOWER * other.rtt and one.rtt - other.rtt > MIN_SLOWER
