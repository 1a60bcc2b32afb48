"""When to ask a flow whether it still lives, apart from its own rhythm: one silence has the others asked.

If all flows are dead at once (a NAT has forgotten them), one finds out, and the others are asked at once.
"""

from __future__ import annotations

from rsock_nf.core.events import Suspect
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.pump.state import FlowGroup

ACTIVE_PROBE = 1.0
"""Seconds from one probe of a flow with traffic to the next."""
_PAUSE = 1.0
"""Seconds from one alarm to the next."""


class Watch:
    """See the module."""

    def __init__(self, context: Context, table: FlowTable) -> None:
        self._context = context
        self._table = table
        self._suspected = 0.0

    def silent(self, now: float, flow: Established) -> None:
        """A probe of ``flow`` is overdue.  Several flows that go silent at once: perhaps their neighbour has moved."""
        session = flow.session
        if flow.health.unanswered != 1:
            return
        if now - session.alarmed > _PAUSE:
            # What silenced one may have silenced all, and an idle one would find out in ten seconds only.
            session.alarmed = now
            for other in session.flows.values():
                if not other.health.waiting:
                    self._context.deadlines.hasten(Timer.PROBE, other, now)
        if not flow.key.udp and now - self._suspected > _PAUSE:
            # The next hop of a UDP carrier is the kernel's own business.
            silent = [other for other in session.flows.values() if other.health.unanswered and not other.key.udp]
            if len(silent) > 1:
                self._suspected = now
                self._context.outbox.tell(Suspect(flow.key.remote))

    def sample(self, now: float, group: FlowGroup) -> None:
        """Something moves, perhaps too little on each flow to have it watched: probe one of them.

        It stands for the others: if it falls silent, ``silent`` has them asked.
        """
        deadlines = self._context.deadlines
        flows = [flow for pump in group.usable if (flow := self._table.of(pump)) is not None]
        due = [deadlines.get(Timer.PROBE, flow) or now for flow in flows]
        if flows and min(due) > now + ACTIVE_PROBE:
            deadlines.hasten(Timer.PROBE, flows[self._context.random(2) % len(flows)], now)
