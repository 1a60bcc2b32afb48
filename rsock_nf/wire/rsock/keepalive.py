"""Keep-alive requests: how wire ``rsock`` finds out whether flows still live.  They have no numbers.

An original answers a request on any of its flows, and its answer names only the flow.  A flow is dead after three
requests in a row without an answer, one ``keepalive`` apart.  A client does not ask on a flow that has carried
nothing: an original would not know that flow.  This wire has no padded probes and no counters.

A UDP flow has no TCP handshake, so nothing shows that it passes until a request on it is answered (or, at a client,
something comes on it).  Until then it is *unproved*.  It carries no bulk while a proved flow does, and is asked at
once.  While none does, it carries: nobody would ever know otherwise.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

from rsock_nf.core import messages
from rsock_nf.core.events import FlowSick
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Input, State
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.flows.watch import Watch
from rsock_nf.core.tcp.sequence import MASK
from rsock_nf.wire.rsock.frames import KeepAliveAnswer, KeepAliveRequest
from rsock_nf.wire.rsock.quirks import keys_of

UNANSWERED = 3
"""Requests without an answer after which a flow is dead."""
SILENT = "probes are not answered"
"""The reason with which such a flow ends."""
WRAP_AHEAD = 64 << 20
"""Bytes.  With so many left until its sequence numbers begin again at 0, a flow to an original is replaced."""
OVERDUE = 1.0
"""Seconds after which a request is repeated.  From then on its flow carries no bulk until it answers."""


class KeepAlives:
    """See the module, and ``Probing``.  ``initiator``: True at a client."""

    def __init__(self, context: Context, table: FlowTable, watch: Watch, *, initiator: bool) -> None:
        self._context = context
        self._table = table
        self._watch = watch
        self._initiator = initiator
        self._asked: WeakKeyDictionary[Established, float] = WeakKeyDictionary()
        """When the request was sent that waits for its answer."""
        self._answering: WeakSet[Established] = WeakSet()
        """The flows on which a request was answered."""

    def begin(self, now: float, flow: Established) -> None:
        """See ``Probing``.  The first request leaves later: a client's datagrams go first."""
        self._context.deadlines.set(Timer.PROBE, flow, now + OVERDUE)
        self._rest_unproved(now, flow.session)

    # -- UDP flows that are not known to pass

    def _is_proved(self, flow: Established) -> bool:
        """Whether the flow is known to pass.

        A server's UDP flow begins with a datagram, but anybody can send that under a false address.
        """
        heard = self._initiator and flow.pump.received_frames
        return not flow.key.udp or flow in self._answering or bool(heard)

    def _rest_unproved(self, now: float, session: Session) -> None:
        """While some flow is known to pass, only such flows carry bulk."""
        flows = session.flows.values()
        if any(flow.usable and self._is_proved(flow) for flow in flows):
            for flow in flows:
                if flow.usable and not self._is_proved(flow):
                    flow.pump.group.rest(flow.pump)
                    if not flow.health.waiting:
                        self._context.deadlines.hasten(Timer.PROBE, flow, now)

    def carry_anyway(self, session: Session) -> None:
        """If no flow carries bulk, the unproved ones do."""
        if not session.group.usable:
            for flow in session.flows.values():
                if not self._is_proved(flow) and flow.welcome:
                    session.group.use(flow.pump)

    # -- asking

    def due(self, now: float, flow: Established) -> None:
        """See ``Probing``.  Either it is time for the next request, or the last one was not answered."""
        if flow.health.waiting:
            flow.health.unanswered += 1
            if not self._initiator and not self._is_proved(flow):
                # One request must do, because its address may be false.  If it was our client after all, its next
                # frame makes the flow again.
                self._table.step(now, flow, Input.DEAD, SILENT)
                return
            if flow.health.unanswered >= UNANSWERED:
                if self._is_proved(flow):  # else the peer has probably never heard of it
                    self._table.tell_others(flow, messages.FlowDown(flow.flow_id))
                self._table.step(now, flow, Input.DEAD, SILENT)
                return
            if flow.usable:
                self._watch.silent(now, flow)
            if flow.usable and not flow.alone:
                flow.pump.group.rest(flow.pump)  # until it answers, the other flows carry the bulk
        self.ask(now, flow)

    def ask(self, now: float, flow: Established) -> None:
        """See ``Probing``."""
        if flow.state is not State.ESTABLISHED:
            return
        keepalive = self._context.parameters.keepalive
        if self._initiator and not flow.pump.sent_frames and not self._may_begin(flow):
            self._context.deadlines.set(Timer.PROBE, flow, now + (OVERDUE if flow.key.udp else keepalive))
            return
        self._asked[flow] = now
        flow.health.probe_sent(now, flow.pump.sent_frames + 1, flow.heard)
        self._send(flow, KeepAliveRequest(flow.flow_id))
        wait = keepalive if flow.health.unanswered else min(OVERDUE, keepalive)
        self._context.deadlines.set(Timer.PROBE, flow, now + wait)

    def ping(self, now: float, flow: Established) -> int:
        """See ``Probing``.  Answers have no numbers, so they could not be told apart."""
        del now, flow
        return 0

    @staticmethod
    def _may_begin(flow: Established) -> bool:
        """Whether a request may be the first frame on a client's ``flow``: it may not carry datagrams yet, and the
        server knows the client.
        """
        known = any(other.pump.received_frames for other in flow.session.flows.values())
        return flow.key.udp and not flow.usable and known

    def _send(self, flow: Established, message: object) -> None:
        self._context.outbox.send([self._table.pump.send_control(flow.pump, message)])

    # -- answers

    def receive(self, now: float, flow: Established, message: object, received: int) -> bool:
        """See ``Probing``."""
        flows = flow.session.flows
        match message:
            case KeepAliveRequest() if not flow.session.probe_answers.take(now):
                self._context.counters["probes above a session's rate"] += 1
            case KeepAliveRequest(flow_id=flow_id):
                asked = flows.get(flow_id)
                if asked is not None:
                    self._answer(asked)
                elif flow.state is State.ESTABLISHED:
                    self._send(flow, messages.FlowDown(flow_id))
            case KeepAliveAnswer(flow_id=flow_id):
                about = flows.get(flow_id)
                if about is not None and about.health.waiting:
                    self._answered(now, about)
            case messages.FlowDown(flow_id=flow_id) if self._is_only_asked(flows.get(flow_id)):
                self._answered(now, flows[flow_id])
            case _:
                return False
        return True

    def _is_only_asked(self, flow: Established | None) -> bool:
        """Whether a client's ``flow`` to an original has carried requests, but no datagram.

        A server of version 1 does not know such a flow, and says so.  This, too, is an answer.
        """
        if flow is None or not self._initiator or not flow.key.udp or keys_of(flow).layout.version != 1:
            return False
        return flow.health.waiting and not flow.pump.counter

    def _answer(self, flow: Established) -> None:
        if flow.state not in (State.ESTABLISHED, State.CONFIRMING):
            return
        answer = KeepAliveAnswer(flow.flow_id)
        self._send(flow, answer)
        if not flow.usable:
            self._table.tell_others(flow, answer)

    def _answered(self, now: float, flow: Established) -> None:
        """Only a request that was sent once gives a round-trip time (Karn's rule, RFC 6298 section 3)."""
        if not flow.health.unanswered:
            flow.health.sample(max(now - self._asked[flow], 0.0))
        flow.health.clear()
        self._answering.add(flow)
        if flow.welcome:
            flow.pump.group.use(flow.pump)
        self._rest_unproved(now, flow.session)
        self._forget_size(now, flow)
        keepalive = self._context.parameters.keepalive * (0.8 + 0.4 * self._context.random(1) / 255)
        self._context.deadlines.set(Timer.PROBE, flow, now + keepalive)

    # -- the rest

    def too_big(self, now: float, flow: Established, size: int) -> None:
        """See ``Probing``.  No probe can find out whether it is true, so it is believed."""
        if flow.path.shrink(now, size):
            self._table.pump.set_max_payload(flow.pump, flow.path.size)

    def widened(self, now: float, flow: Established) -> None:
        """See ``Probing``.  No probe can test the larger size, so it is used at once."""
        flow.path.widened(now)
        self._forget_size(now, flow)

    def _forget_size(self, now: float, flow: Established) -> None:
        """After some time, use the largest size again: a path that was narrow once need not stay so.

        A router's claim is valid as long as in Linux (ip-sysctl, ``mtu_expires``).
        """
        ceiling = self._table.ceiling(flow)
        if flow.path.size < ceiling and flow.path.may_grow(now):
            flow.path.start(ceiling)
            self._table.pump.set_max_payload(flow.pump, ceiling)

    def sweep(self, now: float, flow: Established) -> None:
        """See ``Probing``.  There is always a flow that carries.

        Replace a flow before its sequence numbers begin again at 0.  The ACKs of an original would stay where they are
        then, and connection tracking on the way would judge them INVALID.
        """
        self.carry_anyway(flow.session)
        if flow.key.udp or keys_of(flow).believed:
            return
        if not flow.sick and _ends_soon(flow):
            flow.sick = True
            self._context.outbox.tell(FlowSick(flow.flow_id, flow.key, "its sequence numbers have run out"))
        if flow.sick:
            self._table.step(now, flow, Input.SICK)  # each time: the message to the client may have been lost


def _ends_soon(flow: Established) -> bool:
    """Whether our sequence numbers on ``flow`` begin again at 0 soon, or have done so.

    A flow may begin so near to the end that it cannot be replaced in time.  It is replaced afterwards.
    """
    begins_near = -flow.first_seq & MASK < WRAP_AHEAD
    return flow.pump.next_seq < flow.first_seq or (not begins_near and -flow.pump.next_seq & MASK < WRAP_AHEAD)
