"""Which flows a client renews, and when: make before break.

A renewed flow goes on until its slot has another one, from another source port.  With ``max_age``, flows that are
older are renewed, one at a time: the next one when the old flow of the one before has closed.  The same is done before
an age at which something on the way ends flows (``ages``), but a few at a time.  ``all`` renews every flow, a few at a
time.

Not here: how a flow is dialled and how the old one closes (``dialling``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rsock_nf.core.ends.ages import Ages
from rsock_nf.core.ends.slots import Slot
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from rsock_nf.core.protocols import Rng

AT_ONCE = 3
"""At most so many flows are renewed at the same time when all are."""
JITTER = 0.2
"""The age at which a flow is renewed varies by this share: nobody sees a pattern, and flows do not come due
together."""
BEFORE = (0.3, 0.7)
"""The shares of the age at which flows die between which they are renewed: long enough before, and not together."""


class Renewals:
    """See the module.  ``max_age``: seconds; 0 = flows are never renewed because of their age."""

    def __init__(self, slots: Iterable[Slot], rng: Rng, max_age: float) -> None:
        self._slots = slots
        self._rng = rng
        self._max_age = max_age
        self._ages = {False: Ages(), True: Ages()}
        """Of each kind of flow (is it UDP?)."""
        self._due: dict[Slot, float] = {}
        """When the flow of each slot is old."""
        self._wanted: deque[tuple[Slot, Established]] = deque()
        """Flows that ``all`` has named, and that have not had their turn."""
        self._under_way: dict[Slot, Established] = {}
        self._aged: Established | None = None
        """The last flow that was renewed because of its age."""

    def use_max_age(self, now: float, max_age: float) -> None:
        """``max_age`` is another one from now on, for the flows that there are, too."""
        self._max_age = max_age
        self._due.clear()
        for slot in self._slots:
            if slot.flow is not None:
                self.opened(now, slot, born=slot.flow.since)

    def opened(self, now: float, slot: Slot, born: float | None = None) -> None:
        """``slot`` has a new flow, which began at ``born``; None = now."""
        since = now if born is None else born
        self._due.pop(slot, None)
        if self._max_age:
            self._due[slot] = since + self._max_age * (1 - JITTER + 2 * JITTER * self._rng(1)[0] / 255)
        self._plan(now, slot, since)

    def _plan(self, now: float, slot: Slot, born: float) -> None:
        """The flow of ``slot``, which began at ``born``, is to be renewed before the age at which flows die."""
        limit = self._ages[slot.udp].limit(now)
        if limit:
            early, late = BEFORE
            due = born + limit * (early + (late - early) * self._rng(1)[0] / 255)
            self._due[slot] = min(self._due.get(slot, due), due)

    def died(self, now: float, flow: Established) -> float:
        """``flow`` was lost.  Returns the age, in seconds, at which flows die here, if that is news; else 0."""
        ages = self._ages[flow.key.udp]
        if not flow.pump.received_frames or not ages.died(now, now - flow.since):
            return 0.0
        for slot in self._slots:
            if slot.flow is not None and slot.udp is flow.key.udp:
                self._plan(now, slot, slot.flow.since)
        return ages.limit(now)

    def all(self) -> None:
        """Every flow that there is now is to be renewed."""
        self._wanted = deque((slot, slot.flow) for slot in self._slots if slot.flow is not None)

    def is_under_way(self, slot: Slot) -> bool:
        """Whether the flow of ``slot`` is being renewed."""
        return slot in self._under_way

    def take(self, now: float) -> list[Slot]:
        """The slots whose flow is to be renewed now.  Each is given once for each flow."""
        # A flow that ended meanwhile has a successor, or its slot is dialled anyway.
        self._under_way = {slot: flow for slot, flow in self._under_way.items() if slot.flow is flow}
        begun = []
        while self._wanted and len(self._under_way) < AT_ONCE:
            slot, flow = self._wanted.popleft()
            if slot.flow is flow and slot not in self._under_way:
                self._under_way[slot] = flow
                begun.append(slot)
        if any(ages.limit(now) for ages in self._ages.values()):
            while len(self._under_way) < AT_ONCE and (oldest := self._take_oldest(now)):
                begun += oldest
        elif not self._under_way and (self._aged is None or self._aged.state is not State.ESTABLISHED):
            begun += self._take_oldest(now)
        return begun

    def _take_oldest(self, now: float) -> list[Slot]:
        self._aged = None
        old = [slot for slot, due in self._due.items() if due <= now and slot.flow is not None]
        old = [slot for slot in old if slot not in self._under_way]
        slot = min(old, key=self._due.__getitem__, default=None)
        if slot is None or slot.flow is None:
            return []
        self._aged = self._under_way[slot] = slot.flow
        return [slot]
