"""When a flow is probed outside of its own rhythm: when one flow falls silent, the others are probed too.

If all flows are dead at once, for example because a NAT has forgotten them, one of them notices first.  Then the
others are probed at once.  On the native wire, if a session sends and nothing comes back on any flow, all are probed
before their time; when no flow answers, the role is told (``all_silent``).

Not here: the probes themselves (``probes``, or the wire's own).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rsock_nf.core.events import Suspect
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established, Hearing, Session
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.pump.state import FlowGroup

ACTIVE_PROBE = 1.0
"""Seconds between two probes of a flow with traffic."""
_PAUSE = 1.0
"""Seconds between two alarms."""
LISTEN = 0.2
"""Seconds between two looks whether anything was heard, and the shortest silence that means something."""
_LISTEN_PAUSE = 0.5
"""Seconds between two alarms because nothing was heard: datagrams that nobody answers are no reason to ask always."""
HEARS = 0.9
"""Seconds.  A session hears its peer if it has heard something for so long at most: less than any flow is given."""
LATER = 4
"""An answer may take so many times as long as the last one of its session."""
LONGEST = 60.0
"""Seconds for which no answer has come, after which a flow is dead whatever its session hears."""
CARRIED = 1.5
"""Seconds after which a session does not count as carrying: one sweep, and a late timer."""


class Watch:
    """See the module."""

    def __init__(self, context: Context, table: FlowTable) -> None:
        self._context = context
        self._table = table
        self._suspected = 0.0
        self.all_silent: Callable[[float, Established], None] = lambda _now, _flow: None
        """Called when no flow of a session answers, with one of them.  The endpoint sets it."""
        self.heard_again: Callable[[float, Established], None] = lambda _now, _flow: None
        """Called when a flow answers after that."""

    def silent(self, now: float, flow: Established) -> None:
        """A probe of ``flow`` is overdue: have the other flows probed.

        If several flows fall silent at once, their next hop may have changed: tell the driver (``Suspect``).
        """
        session = flow.session
        if flow.health.unanswered != 1:
            return
        if now - session.alarmed > _PAUSE:
            # The cause may concern all flows, and an idle flow would notice only at its next keepalive.
            self._alarm(now, session)
        if not flow.key.udp and now - self._suspected > _PAUSE:
            # The kernel knows the next hop of a UDP carrier.
            silent = [other for other in session.flows.values() if other.health.unanswered and not other.key.udp]
            if len(silent) > 1:
                self._suspected = now
                self._context.outbox.tell(Suspect(flow.key.remote))

    def look_at_all(self, now: float, flow: Established) -> None:
        """A probe of ``flow`` is overdue: tell the role if the others are silent, too."""
        flows = flow.session.flows.values()
        least = 1 if len(flows) > 1 else 2  # the only flow may have lost one probe by accident
        if flow.health.unanswered == least and all(other.health.unanswered for other in flows):
            flow.session.silent = True
            self.all_silent(now, flow)

    def answered(self, now: float, flow: Established) -> None:
        """A probe of ``flow`` was answered.  If all flows were silent, the role is told that they are not."""
        if flow.session.silent:
            flow.session.silent = False
            self.heard_again(now, flow)

    def is_slow(self, now: float, flow: Established) -> bool:
        """Probes of ``flow`` are not answered, but its session hears its peer: the queue on the way may be long.

        Then answers take as long on every flow.  Or none has come yet since the queue began to fill.
        """
        session, waited = flow.session, flow.health.waited(now)
        hearing = session.hearing if flow.key.udp else session.hearing_tcp
        if now - hearing.at > HEARS or waited > LONGEST:
            return False
        unanswered = all(other.health.unanswered for other in session.flows.values())
        return waited < LATER * session.took or unanswered

    def _alarm(self, now: float, session: Session) -> None:
        session.alarmed = now
        for other in session.flows.values():
            if not other.health.waiting:
                self._context.deadlines.hasten(Timer.PROBE, other, now)

    def listen(self, now: float, session: Session) -> None:
        """Look whether anything was heard lately on a session that sends, and on its fake TCP flows."""
        if not session.flows or now - session.moved_at > CARRIED:
            return
        self._context.deadlines.set(Timer.LISTEN, session, now + LISTEN)
        flows = list(session.flows.values())
        tcp = [flow for flow in flows if not flow.key.udp]
        quiet = self._is_quiet(now, session.hearing, flows)
        if len(tcp) == len(flows):
            session.hearing_tcp.follow(session.hearing)
        elif tcp:
            quiet |= self._is_quiet(now, session.hearing_tcp, tcp)
        if quiet and now - session.alarmed > _LISTEN_PAUSE:
            self._alarm(now, session)

    def _is_quiet(self, now: float, hearing: Hearing, flows: Sequence[Established]) -> bool:
        """Whether ``flows`` send, and nothing comes back; none of them waits for an answer yet."""
        heard = sum(flow.pump.received_frames + flow.pump.highest_ack for flow in flows)
        said = sum(flow.pump.sent_frames for flow in flows)
        if heard != hearing.heard:
            if heard > hearing.heard:  # else a flow has ended, and its numbers are missing
                hearing.at = now
            hearing.heard, hearing.said = heard, said
            return False
        patience = max(LISTEN, *(2 * (flow.health.srtt or 0.0) for flow in flows))
        waits = any(flow.health.waiting for flow in flows)
        return now - hearing.at >= patience and said > hearing.said and not waits

    def sample(self, now: float, group: FlowGroup) -> None:
        """A group has traffic, perhaps too little on each flow for frequent probes: probe one of its flows.

        This flow stands for all of them: if it falls silent, ``silent`` has the others probed.
        """
        deadlines = self._context.deadlines
        flows = [flow for pump in group.usable if (flow := self._table.of(pump)) is not None]
        for flow in flows[:1]:
            flow.session.moved_at = now
        due = [deadlines.get(Timer.PROBE, flow) or now for flow in flows]
        if not flows or min(due) <= now + ACTIVE_PROBE:
            return
        ready = [flow for flow in flows if not flow.health.waiting]  # the others have their time to answer
        if ready:
            deadlines.hasten(Timer.PROBE, ready[self._context.random(2) % len(ready)], now)
