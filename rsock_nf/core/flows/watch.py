"""When a flow is probed outside of its own rhythm: when one flow falls silent, the others are probed too.

If all flows are dead at once, for example because a NAT has forgotten them, one of them notices first.  Then the
others are probed at once.

Not here: the probes themselves (``probes``, or the wire's own).
"""

from __future__ import annotations

from rsock_nf.core.events import Suspect
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.pump.state import FlowGroup

ACTIVE_PROBE = 1.0
"""Seconds between two probes of a flow with traffic."""
_PAUSE = 1.0
"""Seconds between two alarms."""


class Watch:
    """See the module."""

    def __init__(self, context: Context, table: FlowTable) -> None:
        self._context = context
        self._table = table
        self._suspected = 0.0

    def silent(self, now: float, flow: Established) -> None:
        """A probe of ``flow`` is overdue: have the other flows probed.

        If several flows fall silent at once, their next hop may have changed: tell the driver (``Suspect``).
        """
        session = flow.session
        if flow.health.unanswered != 1:
            return
        if now - session.alarmed > _PAUSE:
            # The cause may concern all flows, and an idle flow would notice only at its next keepalive.
            session.alarmed = now
            for other in session.flows.values():
                if not other.health.waiting:
                    self._context.deadlines.hasten(Timer.PROBE, other, now)
        if not flow.key.udp and now - self._suspected > _PAUSE:
            # The kernel knows the next hop of a UDP carrier.
            silent = [other for other in session.flows.values() if other.health.unanswered and not other.key.udp]
            if len(silent) > 1:
                self._suspected = now
                self._context.outbox.tell(Suspect(flow.key.remote))

    def sample(self, now: float, group: FlowGroup) -> None:
        """A group has traffic, perhaps too little on each flow for frequent probes: probe one of its flows.

        This flow stands for all of them: if it falls silent, ``silent`` has the others probed.
        """
        deadlines = self._context.deadlines
        flows = [flow for pump in group.usable if (flow := self._table.of(pump)) is not None]
        for flow in flows[:1]:
            flow.session.carried = now
        due = [deadlines.get(Timer.PROBE, flow) or now for flow in flows]
        if flows and min(due) > now + ACTIVE_PROBE:
            deadlines.hasten(Timer.PROBE, flows[self._context.random(2) % len(flows)], now)
