"""What both roles of wire rsock have in common: probes, ends of flows, and patience with an original's numbers.

An original rsock forges segments beside a live kernel socket.  What follows from it:

* its ACKs follow nothing, and its first number may be one too far.  Our own are right, and what is right is
  asked only of a peer of our kind, known by the PSH that an original never sets (``_know``);
* its kernel stands where the handshake left it, so its RST and FIN have that number (``_exact``);
* it answers a probe on any of its flows, and names only the flow: three unanswered ones in a row, a ``keepalive`` apart,
  end a flow, and a client does not probe a flow that has carried nothing, since an original would not know it.

There are no fragments, no padded probes and no counters on this wire.
"""

from __future__ import annotations

from collections.abc import Iterable

from rsock_nf.core import messages
from rsock_nf.core.ends.node import Node
from rsock_nf.core.flows.flow import Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.pump.pump import Slow, SlowFrames, SlowPayload
from rsock_nf.core.pump.state import OUR_WINDOW, PumpConversation, PumpFlow
from rsock_nf.core.tcp.segment import ACK, FIN, HeaderTemplate, Segment
from rsock_nf.core.types import Carried, FlowKey, Outgoing, Packet, Run

MAX_PAYLOAD = 1468
"""Bytes of the longest frame that an original takes: its buffer of 1,500 without 32 of headers."""
UNANSWERED = 3
"""Probes without an answer after which a flow is dead."""
SILENT = "probes are not answered"
"""Why such a flow ended."""
OVERDUE = 1.0
"""Seconds after which an unanswered probe keeps bulk away from its flow; it is repeated then."""
_MASK = 0xFFFFFFFF


class RsockNode(Node):
    """See the module.  Stands before the role among a class's bases."""

    _undecided: dict[PumpFlow, Session]
    """Flows on which no frame has told yet what kind of peer it is."""
    _received: Packet | Carried
    """What the slow path looks at."""

    def receive_packets(self, now: float, packets: Iterable[Packet]) -> None:
        """See ``Node``."""
        super().receive_packets(now, packets)
        if self._undecided:
            for pump, session in list(self._undecided.items()):
                if pump.received_frames:
                    self._know(pump, session, pushes=bool(pump.pushed))

    def receive_datagrams(self, now: float, runs: Iterable[Run]) -> None:
        """See ``Node``.  The hash of a frame covers its first byte: a datagram without one cannot travel."""
        super().receive_datagrams(now, [full for run in runs if (full := self._without_empty(run))])

    def receive_mtu(self, now: float, mtu: int, max_burst_bytes: int) -> None:  # noqa: ARG002 - no bursts here
        """See ``Node``: a frame has no length, so no two of them may share a packet."""
        super().receive_mtu(now, mtu, 0)

    def _without_empty(self, run: Run) -> Run | None:
        if run.size and run.datagrams[-1]:
            return run
        datagrams = [datagram for datagram in run.datagrams if datagram]
        self.counters["empty datagrams"] += len(run.datagrams) - len(datagrams)
        return run._replace(datagrams=datagrams) if datagrams else None

    def _link_payload(self, key: FlowKey) -> int:
        return min(super()._link_payload(key), MAX_PAYLOAD)

    def _send_large(self, now: float, conversation: PumpConversation, run: Run) -> None:  # noqa: ARG002 - as the base has it
        """There are no fragments."""
        self.counters["datagrams too large"] += len(run.datagrams)

    def _slow(self, now: float, item: Slow) -> None:
        if not isinstance(item, SlowFrames):
            self._received = item.packet if isinstance(item, SlowPayload) else item
        if isinstance(item, Carried) and (flow := self._flows.get(item.key)) and flow.pump:
            self._again(now)  # what came before it in this batch has opened the flow
        else:
            super()._slow(now, item)

    def _again(self, now: float) -> None:
        """Give what is looked at to the pump, which knows its flow by now."""
        if isinstance(self._received, Carried):
            self.receive_carried(now, [self._received])
        else:
            self.receive_packets(now, [self._received])

    # -- what kind of peer

    def _establish(self, now: float, flow: Flow) -> None:
        super()._establish(now, flow)
        if flow.pump and flow.session:
            if flow.session.lax and not flow.key.udp:
                self.pump.ignore_window(flow.pump)
            elif not flow.key.udp:
                self._undecided[flow.pump] = flow.session
            self._deadlines.set(Timer.PROBE, flow, now + OVERDUE)

    def _know(self, pump: PumpFlow, session: Session, *, pushes: bool) -> None:
        """The first frame on a flow: an original never sets PSH, and no ACK of such a peer means anything."""
        self._undecided.pop(pump, None)
        if not pushes:
            session.lax = True
            for flow in session.flows.values():
                if flow.pump and not flow.key.udp:
                    self._undecided.pop(flow.pump, None)
                    self.pump.ignore_window(flow.pump)

    def _discard(self, now: float, flow: Flow, reason: str) -> None:
        if flow.pump:
            self._undecided.pop(flow.pump, None)
        super()._discard(now, flow, reason)

    # -- ends of flows, and holes

    def _exact(self, flow: Flow, pump: PumpFlow, seq: int) -> bool:
        """Also where the kernel beside an original stands: right behind its SYN."""
        return seq in (pump.received, (flow.isn + 1) & _MASK)

    def _fin(self, now: float, flow: Flow, packet: Packet, segment: Segment) -> None:
        """An original's kernel closes: it gets the answer that it understands, or it would ask for minutes."""
        pump = flow.pump
        bare = segment.seq == (flow.isn + 1) & _MASK and not segment.payload
        if pump and bare and flow.state is State.ESTABLISHED:
            # A server's kernel has taken all that we sent; a client's nothing, our ACKs being beyond what it ever said.
            seq = pump.next_seq if self.initiator else flow.next_seq
            headers = HeaderTemplate(flow.key).build(seq, (segment.seq + 1) & _MASK, FIN | ACK, OUR_WINDOW, 0)
            self._outbox.send([Outgoing(headers, [], 0, 0)])
        super()._fin(now, flow, packet, segment)

    def _rejoins(self, now: float, pump: PumpFlow, segment: Segment) -> bool:
        """A frame of this very flow beyond our window: an original has no credit to run out of, and sends through a hole.

        It names client and flow, 96 bits that nobody knows who does not read the wire.
        """
        ahead = (segment.seq - pump.received) & _MASK
        if pump.key.udp or pump.in_window(segment.seq) or ahead >= 1 << 31:
            return False
        if not pump.codec.unpack(segment.payload, self._received.segment_size)[0]:
            return False
        self.counters["frames behind a hole"] += 1
        pump.received = segment.seq
        self._again(now)
        return True

    def _worn_out(self, now: float, flow: Flow, pump: PumpFlow) -> None:
        """No counter runs out."""

    # -- the path's size

    def _widened(self, now: float, flow: Flow) -> None:
        """The link takes more: so may the path, for nothing here could ask it."""
        flow.path.widened(now)
        self._forget_size(now, flow)

    def _forget_size(self, now: float, flow: Flow) -> None:
        """A path that was narrow once must not cost a flow its large datagrams for ever."""
        if flow.pump and flow.path.forget(now, self._ceiling(flow)):
            self.pump.set_max_payload(flow.pump, flow.path.size)

    # -- control

    def _tell(self, session: Session, message: messages.Control, avoid: Flow | None = None) -> None:
        """What this wire has no words for stays unsaid."""
        if not isinstance(message, messages.CloseSession):
            super()._tell(session, message, avoid)

    def _knows(self, flow: PumpFlow) -> bool:
        """A server makes a flow of its first datagram only, and sends on no other."""
        return not self.initiator or bool(flow.sent_frames or flow.received_frames)

    def _control(self, now: float, flow: Flow, session: Session, message: messages.Control, received: int) -> None:
        match message:
            case messages.Probe(flow_id=flow_id):
                asked = session.flows.get(flow_id)
                if asked is not None:
                    self._answer_probe(asked, session, messages.ProbeAnswer(None, flow_id, None))
                elif flow.pump and flow.state is State.ESTABLISHED:
                    self._outbox.send([self.pump.send_control(flow.pump, messages.FlowDown(flow_id))])
            case _:
                super()._control(now, flow, session, message, received)

    # -- probes

    def _send_probe(self, now: float, flow: Flow) -> None:
        pump = flow.pump
        if pump is None or flow.state is not State.ESTABLISHED:
            return
        if self.initiator and not pump.sent_frames:
            self._deadlines.set(Timer.PROBE, flow, now + self._parameters.keepalive)
            return
        flow.health.probe_sent(now, pump.sent_frames + 1, (pump.received_frames, pump.highest_ack))
        self._outbox.send([self.pump.send_control(pump, messages.Probe(0))])
        wait = self._parameters.keepalive if flow.health.unanswered else min(OVERDUE, self._parameters.keepalive)
        self._deadlines.set(Timer.PROBE, flow, now + wait)

    def _probe_due(self, now: float, flow: Flow) -> None:
        """The next probe, or the last one is not answered."""
        pump = flow.pump
        if pump and flow.health.waiting:
            flow.health.unanswered += 1
            if self._unproved(flow):
                self._step(now, flow, Input.DEAD, SILENT)
                return
            if flow.health.unanswered >= UNANSWERED:
                self._tell_others(flow, messages.FlowDown(flow.flow_id))
                self._step(now, flow, Input.DEAD, SILENT)
                return
            self._suspect(now, flow)
            if pump in pump.group.usable and len(pump.group.usable) > 1:
                pump.group.usable.remove(pump)  # until it answers: the others carry the bulk meanwhile
        self._send_probe(now, flow)

    def _unproved(self, flow: Flow) -> bool:  # noqa: ARG002 - a client knows whom it dialled
        """Nothing says that the peer is at this address: one question is all that it gets."""
        return False

    def _probe_answered(self, now: float, flow: Flow | None, number: int | None, received: int | None) -> None:
        if flow is None or flow.pump is None or not flow.health.answered(now, number, received):
            return
        usable = flow.pump.group.usable
        if flow.state is State.ESTABLISHED and not flow.sick and flow.pump not in usable:
            usable.append(flow.pump)
        self._forget_size(now, flow)
        self._deadlines.set(Timer.PROBE, flow, now + self._keepalive())
