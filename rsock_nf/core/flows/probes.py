"""Numbered probes: whether a flow answers, how long that takes, how much it loses, what size of segment passes.

A probe travels on the flow that it asks about.  Its answer tells how many frames have arrived there (``health``).
A probe padded to the flow's segment size finds out whether that size passes (``path_mtu``).  While a session carries
datagrams, about one such probe a second checks that the size still passes.  The answers judge the flow: one that loses
much more than its siblings carries no bulk any more, and is replaced.

Not here: the arithmetic of loss and time-outs (``health``), when a silent flow has the others probed (``watch``), and
what follows if a whole kind of flows is worse than the other (``comparison``).
"""

from __future__ import annotations

from rsock_nf.core import messages
from rsock_nf.core.events import FlowSick
from rsock_nf.core.flows.comparison import Comparison
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.kinds import name
from rsock_nf.core.flows.path_mtu import PLATEAUS
from rsock_nf.core.flows.pings import Pings
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Input, State
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.flows.watch import ACTIVE_PROBE, CARRIED, LISTEN, Watch

SICK_LOSS = 0.1
"""A flow is sick if its loss exceeds twice the usual loss by more than this share.  The usual loss is the median of the
session's flows of the same kind: what a whole kind loses, no successor of that kind would save."""
MIN_HEALTHY = 3
"""With fewer flows of a kind than this there is nothing to compare, and no flow counts as sick."""
CHECK_AGAIN = 1.0
"""Seconds.  While a session carries datagrams, the first probe is padded that leaves half to all of this time after the
last padded one.  So each session sends at most two segments a second as padding, and each flow has its turn."""
REPLACE_AT = 2**30
"""A flow is replaced after so many data frames: their counter, a part of the nonce, has 31 bits."""
END_AT = 3 * 2**29


class Probes:
    """See the module.  The ``Probing`` (``ends.wire``) of a wire whose messages have numbers and padding."""

    def __init__(self, context: Context, table: FlowTable, watch: Watch) -> None:
        self._context = context
        self._table = table
        self._watch = watch
        self._kinds = Comparison(context)
        self._pings = Pings(context)

    def begin(self, now: float, flow: Established) -> None:
        """See ``Probing``.  The first probe leaves at once, padded.

        If the session's other flows have found less to pass, the flow begins with that and tries larger sizes soon.
        """
        self._kinds.begin(flow.session)
        siblings = [other.path for other in flow.session.flows.values() if other.key.udp is flow.key.udp]
        found = min((path.size for path in siblings if path.whole), default=flow.path.size)
        if flow.path.shrink(now, found):
            flow.path.widened(now)
            self._resize(flow)
        for other in flow.session.flows.values():
            if other.health.unanswered and other.fit and not other.alone:
                other.pump.group.rest(other.pump)  # it was the only one left
        self._context.deadlines.set(Timer.PROBE, flow, now)

    # -- asking

    def due(self, now: float, flow: Established) -> None:
        """See ``Probing``.  Either it is time for the next probe, or the last one is overdue."""
        resting = flow.session.judge.resting is flow.key.udp
        overdue = flow.health.waiting and flow.health.overdue(now, flow.heard, resting=resting)
        if overdue and not self._watch.is_slow(now, flow):
            self._table.tell_others(flow, messages.FlowDown(flow.flow_id))
            self._table.step(now, flow, Input.DEAD, "probes are not answered")
            return
        self._watch.silent(now, flow)
        self._watch.look_at_all(now, flow)
        if flow.health.unanswered and flow.fit and not flow.alone:
            flow.pump.group.rest(flow.pump)  # until it answers, the other flows carry the bulk
        self.ask(now, flow)

    def ask(self, now: float, flow: Established) -> None:
        """See ``Probing``.  The probe is padded while the size of the path is not confirmed, and to check it."""
        if flow.state is not State.ESTABLISHED:
            return
        padding = 0
        if not flow.health.unanswered:
            for number, size in flow.path.round():
                self._send(flow, messages.Probe(number, self._padding(flow, size)))
            if not flow.path.searching and (not flow.path.confirmed or self._is_check_due(now, flow.session)):
                padding = self._padding(flow, flow.path.size)
        number = flow.health.probe_sent(now, flow.pump.sent_frames + 1, flow.heard)
        if padding:
            flow.path.probe_sent(number)
        self._send(flow, messages.Probe(number, padding))
        self._context.deadlines.set(Timer.PROBE, flow, now + flow.health.rto)

    def ping(self, now: float, flow: Established) -> int:
        """See ``Probing``."""
        number = self._pings.next(now)
        self._send(flow, messages.Probe(number))
        return number

    def _is_check_due(self, now: float, session: Session) -> bool:
        """Whether this probe is to check a confirmed size."""
        if now < session.check_at or now - session.moved_at > CARRIED:
            return False
        session.check_at = now + CHECK_AGAIN * (0.5 + 0.5 * self._context.random(1) / 255)
        return True

    @staticmethod
    def _padding(flow: Established, size: int) -> int:
        """Bytes that make a probe ``size`` bytes long."""
        return max(size - flow.pump.codec.control_size(messages.Probe(0)), 0)

    def _send(self, flow: Established, message: messages.Control) -> None:
        self._context.outbox.send([self._table.pump.send_control(flow.pump, message)])

    # -- answers

    def receive(self, now: float, flow: Established, message: object, received: int) -> bool:
        """See ``Probing``.  A probe is answered; an answer may be about another flow of the session."""
        match message:
            case messages.Probe() if not flow.session.probe_answers.take(now):
                self._context.counters["probes above a session's rate"] += 1
            case messages.Probe(number=number):
                flow.largest_in = max(flow.largest_in, flow.pump.codec.control_size(message))
                self._answer(flow, messages.ProbeAnswer(number, flow.flow_id, received & 0xFFFFFFFF))
            case messages.ProbeAnswer(number=number, flow_id=flow_id, received=arrived):
                about = flow.session.flows.get(flow_id)
                if about is not None:
                    self._answered(now, about, number, arrived)
            case _:
                return False
        return True

    def _answer(self, flow: Established, answer: messages.ProbeAnswer) -> None:
        if flow.state not in (State.ESTABLISHED, State.CONFIRMING):
            return  # after our FIN no sequence number is left, and a demoted flow sends nothing
        self._send(flow, answer)
        if not flow.usable:
            self._table.tell_others(flow, answer)

    def _answered(self, now: float, flow: Established, number: int, received: int) -> None:
        if self._pings.answered(now, number):
            return
        if flow.path.passed(now, number):
            self._resize(flow)
        if not flow.health.answered(now, number, received, count=not flow.path.searching):
            return
        flow.session.took = flow.health.took
        self._watch.answered(now, flow)
        if flow.welcome:
            flow.pump.group.use(flow.pump)
        searched = flow.path.searching
        if flow.path.answered(now, number):
            self._resize(flow)
            if flow.path.searching and not searched:
                self._doubt_others(now, flow)
        self._kinds.answered(now, flow)
        self._judge(now, flow)
        flow.path.grow(now, self._table.ceiling(flow))
        if not flow.path.settled:
            self._context.deadlines.set(Timer.PROBE, flow, now)
            return
        pause = self._kinds.pause(flow) or (ACTIVE_PROBE if flow.had_traffic else self._keepalive())
        self._context.deadlines.set(Timer.PROBE, flow, now + pause)

    def _keepalive(self) -> float:
        """Seconds between two probes of an idle flow: the configured time, ± 20 %."""
        return self._context.parameters.keepalive * (0.8 + 0.4 * self._context.random(1) / 255)

    # -- what the answers tell

    def _judge(self, now: float, flow: Established) -> None:
        """Take a flow out of use for good if it loses much more than the others do.  Another one is dialled for it."""
        if flow.state is not State.ESTABLISHED:
            return
        if flow.sick:
            self._table.step(now, flow, Input.SICK)  # repeat it: the message to the client may have been lost
        usual = _usual_loss(flow)
        if flow.health.loss > SICK_LOSS + 2 * usual and not flow.sick and flow.usable and not flow.alone:
            flow.pump.group.rest(flow.pump)
            others = f"half of the {name(flow.key.udp)} flows lose less than {usual:.0%}"
            self._turn_sick(now, flow, f"loses {flow.health.loss:.0%} of what we send on it, {others}")

    def _turn_sick(self, now: float, flow: Established, reason: str) -> None:
        flow.sick = True
        self._context.outbox.tell(FlowSick(flow.flow_id, flow.key, reason))
        self._table.step(now, flow, Input.SICK)

    def sweep(self, now: float, flow: Established) -> None:
        """See ``Probing``.  Compare the kinds, also without an answer.

        Replace a flow long before its counters run out; end it before a counter could be used twice.
        """
        self._kinds.compare(now, flow.session)
        self._context.deadlines.set_if_unset(Timer.LISTEN, flow.session, now + LISTEN)
        if flow.pump.counter >= END_AT:
            self._table.step(now, flow, Input.DEAD, "its counters have run out")
        elif flow.pump.counter >= REPLACE_AT and not flow.sick:
            self._turn_sick(now, flow, "has used up half of its counters")

    # -- the size of the path

    def _resize(self, flow: Established) -> None:
        self._table.pump.set_max_payload(flow.pump, flow.path.size)

    def _doubt_others(self, now: float, flow: Established) -> None:
        """The size of ``flow`` does not seem to pass any more: check the session's other flows."""
        for other in flow.session.flows.values():
            if other is flow:
                continue
            if other.key.udp is flow.key.udp and other.path.doubt():
                self._resize(other)
            else:
                self.too_big(now, other, PLATEAUS[-1])

    def too_big(self, now: float, flow: Established, size: int) -> None:
        """See ``Probing``.  A padded probe decides (RFC 8899 section 4.6)."""
        if flow.path.claim(now, size) and flow.state is State.ESTABLISHED and not flow.health.waiting:
            self._context.deadlines.hasten(Timer.PROBE, flow, now)

    def widened(self, now: float, flow: Established) -> None:
        """See ``Probing``.  Larger sizes are tried soon."""
        flow.path.widened(now)
        if flow.state is State.ESTABLISHED and not flow.health.waiting:
            self._context.deadlines.hasten(Timer.PROBE, flow, now)


def _usual_loss(flow: Established) -> float:
    """The median loss of the session's flows of the same kind; 1 if they are too few."""
    flows = flow.session.flows.values()
    losses = sorted(other.health.loss for other in flows if other.key.udp is flow.key.udp)
    return losses[len(losses) // 2] if len(losses) >= MIN_HEALTHY else 1.0
