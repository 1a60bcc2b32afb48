"""Keep-alive requests: how wire ``rsock`` finds out whether flows still live.  They have no numbers.

An original answers a request on any of its flows, and its answer names only the flow.  A flow is dead after three
requests in a row without an answer, one ``keepalive`` apart.  A client does not ask on a flow that has carried
nothing: an original would not know that flow.  This wire has no padded probes and no counters.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from rsock_nf.core import messages
from rsock_nf.core.events import FlowSick
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established
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

    def begin(self, now: float, flow: Established) -> None:
        """See ``Probing``.  The first request leaves later: a client's datagrams go first."""
        self._context.deadlines.set(Timer.PROBE, flow, now + OVERDUE)

    # -- asking

    def due(self, now: float, flow: Established) -> None:
        """See ``Probing``.  Either it is time for the next request, or the last one was not answered."""
        if flow.health.waiting:
            flow.health.unanswered += 1
            if self._is_unproved(flow):
                self._table.step(now, flow, Input.DEAD, SILENT)
                return
            if flow.health.unanswered >= UNANSWERED:
                self._table.tell_others(flow, messages.FlowDown(flow.flow_id))
                self._table.step(now, flow, Input.DEAD, SILENT)
                return
            self._watch.silent(now, flow)
            if flow.usable and not flow.alone:
                flow.pump.group.rest(flow.pump)  # until it answers, the other flows carry the bulk
        self.ask(now, flow)

    def _is_unproved(self, flow: Established) -> bool:
        """Whether ``flow`` is a server's UDP flow whose peer has never answered.  It gets only one request.

        Anybody can send the first datagram of such a flow under a false address.  If it was our client after all,
        its next datagram makes the flow again.
        """
        return not self._initiator and flow.key.udp and flow.health.srtt is None

    def ask(self, now: float, flow: Established) -> None:
        """See ``Probing``."""
        if flow.state is not State.ESTABLISHED:
            return
        keepalive = self._context.parameters.keepalive
        if self._initiator and not flow.pump.sent_frames:
            self._context.deadlines.set(Timer.PROBE, flow, now + keepalive)
            return
        self._asked[flow] = now
        flow.health.probe_sent(now, flow.pump.sent_frames + 1, flow.heard)
        self._send(flow, KeepAliveRequest(flow.flow_id))
        wait = keepalive if flow.health.unanswered else min(OVERDUE, keepalive)
        self._context.deadlines.set(Timer.PROBE, flow, now + wait)

    def _send(self, flow: Established, message: object) -> None:
        self._context.outbox.send([self._table.pump.send_control(flow.pump, message)])

    # -- answers

    def receive(self, now: float, flow: Established, message: object, received: int) -> bool:
        """See ``Probing``."""
        flows = flow.session.flows
        match message:
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
            case _:
                return False
        return True

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
        if flow.state is State.ESTABLISHED and not flow.sick:
            flow.pump.group.use(flow.pump)
        self._forget_size(now, flow)
        keepalive = self._context.parameters.keepalive * (0.8 + 0.4 * self._context.random(1) / 255)
        self._context.deadlines.set(Timer.PROBE, flow, now + keepalive)

    # -- the rest

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
        """See ``Probing``.  Replace a flow before its sequence numbers begin again at 0.

        The ACKs of an original would stay where they are then.  If connection tracking is on the way, it would judge
        them INVALID.
        """
        if flow.key.udp or keys_of(flow).believed:
            return
        if not flow.sick and -flow.pump.next_seq & MASK < WRAP_AHEAD:
            flow.sick = True
            self._context.outbox.tell(FlowSick(flow.flow_id, flow.key, "its sequence numbers have run out"))
        if flow.sick:
            self._table.step(now, flow, Input.SICK)  # each time: the message to the client may have been lost
