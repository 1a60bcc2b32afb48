"""The comparison of the two kinds, for real flows: answers of probes go in, and the worse kind rests.

Not here: the rules (``kinds``).
"""

from __future__ import annotations

from statistics import median_low

from rsock_nf.core.events import KindCarries, KindRests
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.kinds import Outcome, Standing
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.timers import Timer

RESTING_PROBE = 1.0
"""Seconds between two probes of the flow that is probed for a resting kind."""
TRIAL_PROBES = 8
"""Probes a second on the flows of a kind that is tried, together."""
TRIAL_PROBE = 0.25
"""The least seconds between two probes of one of them."""


class Comparison:
    """See the module."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def begin(self, session: Session) -> None:
        """A flow of ``session`` carries traffic from now on.  A client's group may come from an earlier session."""
        session.group.let_rest(session.judge.resting, session.judge.carriers)

    def answered(self, now: float, flow: Established) -> None:
        """A probe of ``flow`` was answered.  Its health has the counts."""
        session = flow.session
        if session.judge.resting is not flow.key.udp or flow in self._probed(session):
            sent, arrived = flow.health.counted
            session.judge.note(now, flow.flow_id, sent, arrived, udp=flow.key.udp)
        self.compare(now, session)

    def compare(self, now: float, session: Session) -> None:
        """Look whether a kind has to rest, is to be tried, or may carry again."""
        judge = session.judge
        if not judge.is_due(now):
            return
        outcome = judge.judge(now, {udp: self._standing(session, udp=udp) for udp in (False, True)})
        if outcome is None:
            return
        session.group.let_rest(judge.resting, judge.carriers)
        if outcome is Outcome.RESTS:
            self._context.outbox.tell(KindRests(session.session_id, judge.text(now)))
        elif outcome is Outcome.CARRIES:
            self._context.outbox.tell(KindCarries(session.session_id))
        for flow in self._probed(session):
            if not flow.health.waiting:
                self._context.deadlines.hasten(Timer.PROBE, flow, now + TRIAL_PROBE)

    def pause(self, flow: Established) -> float | None:
        """Seconds until the next probe of ``flow``, if it is probed for its kind.  None = it is not."""
        judge = flow.session.judge
        if flow not in self._probed(flow.session):
            return None
        if not judge.carriers:
            return RESTING_PROBE
        return min(max(judge.carriers / TRIAL_PROBES, TRIAL_PROBE), RESTING_PROBE)

    def _probed(self, session: Session) -> list[Established]:
        """The flows by which a resting kind is judged: those that carry nonetheless, or else one."""
        judge = session.judge
        if judge.resting is None:
            return []
        fit = [flow for flow in _fit(session) if flow.key.udp is judge.resting]
        return fit[: max(judge.carriers, 1)]

    def _standing(self, session: Session, *, udp: bool) -> Standing:
        flows = sum(flow.key.udp is udp for flow in session.flows.values())
        fit = [flow for flow in _fit(session) if flow.key.udp is udp]
        asked = self._probed(session) if session.judge.resting is udp else fit
        times = [flow.health.srtt for flow in asked if flow.health.srtt is not None]
        return Standing(flows, len(fit), median_low(times) if times else None)


def _fit(session: Session) -> list[Established]:
    """The flows that may carry bulk if their kind does, in the order in which the group takes them."""
    flows = session.flows
    return [flow for pump in session.group.fit if (flow := flows.get(pump.flow_id)) is not None]
