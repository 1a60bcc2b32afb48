"""What client and server have in common: the verbs of the driver, the way in, conversations, timers.

The driver calls ``receive_*`` and ``handle_timeout`` with the time, then empties
``poll`` and sleeps until ``next_timeout``.
A packet's way in: pump → (what it could not decide) ``_slow`` → the flow's transition table →
``_act``.  The flows themselves are ``flows``'s; what only one role does is in ``client`` and ``server``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from typing import Self

from rsock_nf.core import messages
from rsock_nf.core.ends.flows import ACTIVE_PROBE, SWEEP, Flows
from rsock_nf.core.flows.flow import Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.outbox import Output
from rsock_nf.core.parameters import Common
from rsock_nf.core.protocols import Frames, Kind, Rng
from rsock_nf.core.pump.fragments import parse_fragment, split
from rsock_nf.core.pump.pump import Slow, SlowFrames, SlowPayload
from rsock_nf.core.pump.state import FlowGroup, PumpConversation, PumpFlow
from rsock_nf.core.tcp.icmp import parse_too_big, plateau_below
from rsock_nf.core.tcp.segment import FIN, RST, Segment, carried_segments, parse_segment
from rsock_nf.core.types import Buffer, Carried, Malformed, Outgoing, Packet, Run

ACK_DELAY = 0.02
"""Seconds that received bytes wait for something to carry their ACK."""


class Node(Flows):
    """See the module."""

    def __init__(self, parameters: Common, rng: Rng, *, mtu: int, max_burst_bytes: int) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self._moved: dict[PumpConversation, tuple[int, float]] = {}
        """Every conversation: (datagrams both ways, when that number last changed)."""
        self._next_fragment = int.from_bytes(rng(4), "big")

    # -- the driver's verbs

    def receive_packets(self, now: float, packets: Iterable[Packet]) -> None:
        """Packets from the link; their buffers are used up when this returns, except what ``poll`` gives."""
        runs, slow = self.pump.from_link(packets)
        self._outbox.deliver(runs)
        for item in slow:
            self._slow(now, item)
        if self.pump.owes_acknowledgements:
            self._outbox.send(self.pump.take_unacknowledged(all_of_them=False))
            self._deadlines.set_if_unset(Timer.ACKNOWLEDGE, None, now + ACK_DELAY)

    def receive_carried(self, now: float, received: Iterable[Carried]) -> None:
        """What UDP carriers received; buffers as with ``receive_packets``."""
        runs, slow = self.pump.from_carriers(received)
        self._outbox.deliver(runs)
        for item in slow:
            self._slow(now, item)

    def receive_datagrams(self, now: float, runs: Iterable[Run]) -> None:
        """Datagrams from the application or the targets."""
        bursts, slow = self.pump.from_app(runs)
        self._outbox.send(bursts)
        for run in slow:
            self._slow_run(now, run)
        if self.pump.stalled:
            self._probe_stalled(now)

    def receive_mtu(self, now: float, mtu: int, max_burst_bytes: int) -> None:
        """The link's MTU or burst size changed."""
        wider = mtu > self._mtu
        self._mtu = mtu
        self.pump.set_max_burst_bytes(max_burst_bytes)
        for flow in self._flows.values():
            if flow.pump and flow.path.reduce(now, self._ceiling(flow)):
                self.pump.set_max_payload(flow.pump, flow.path.size)
            elif wider:
                self._widened(now, flow)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for timer, key in self._deadlines.due(now):
            self._timeout(now, timer, key)

    def next_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called; None = never."""
        return self._deadlines.next()

    def poll(self) -> list[Output]:
        """What is to be done, in the order in which it arose."""
        return self._outbox.take()

    @property
    def role(self) -> Self:
        """What only a client, or only a server, can be asked."""
        return self

    # -- in: what the pump could not decide

    def _slow(self, now: float, item: Slow) -> None:
        if isinstance(item, SlowFrames):
            self._frames(now, item)
        elif isinstance(item, SlowPayload):
            for segment, link_header in self._segments(item.packet):
                self._unopened(now, item.flow, segment, link_header)
        elif isinstance(item, Carried):
            for segment in carried_segments(item):
                self._carried(now, segment)
        else:
            self._packet(now, item)

    def _segments(self, received: Packet | Carried) -> list[tuple[Segment, bytes]]:
        """What was received of a known flow, and the link header to answer it with."""
        if isinstance(received, Carried):
            return [(segment, b"") for segment in carried_segments(received)]
        try:
            return [(parse_segment(received), received.link_header)]
        except Malformed:
            self.counters["malformed packets"] += 1
            return []

    def _carried(self, now: float, segment: Segment) -> None:
        """A datagram on a UDP carrier whose flow the pump does not have (yet)."""
        flow = self._flows.get(segment.key)
        if flow is None:
            self._stranger(now, segment, b"")
        elif flow.pump is None:
            self._handshaking(now, flow, segment)

    def _packet(self, now: float, packet: Packet) -> None:
        """A whole packet: of a flow that is not established, with SYN, FIN or RST, or a router's word on size."""
        try:
            segment = parse_segment(packet)
        except Malformed:
            self._too_big(now, packet)
            return
        flow = self._flows.get(segment.key)
        if flow is None:
            self._stranger(now, segment, packet.link_header)
        elif flow.pump is None:
            self._handshaking(now, flow, segment)
        elif segment.flags & RST:
            self._reset(now, flow, segment, flow.pump)
        elif segment.flags & FIN:
            self._fin(now, flow, packet, segment)
        else:
            self._odd(now, flow, segment, packet.link_header)

    def _too_big(self, now: float, packet: Packet) -> None:
        """ICMP for a live flow, about something that it really has in flight; anything else is counted."""
        try:
            claim = parse_too_big(packet)
        except Malformed:
            self.counters["malformed packets"] += 1
            return
        flow = self._flows.get(claim.key)
        pump = flow.pump if flow else None
        if flow is None or pump is None or (pump.next_seq - claim.inner_seq - 1) & 0xFFFFFFFF >= max(pump.window, 1):
            self.counters["ICMP for nothing of ours"] += 1
            return
        headers = 60 if len(flow.key.local) == 16 else 40
        if flow.path.reduce(now, (claim.mtu or plateau_below(flow.path.size + headers)) - headers):
            self.pump.set_max_payload(pump, flow.path.size)

    def _reset(self, now: float, flow: Flow, segment: Segment, pump: PumpFlow) -> None:
        """RST from outside: only the exact number tears a flow (RFC 5961 section 3)."""
        if self._exact(flow, pump, segment.seq):
            self._step(now, flow, Input.RESET, "a RST came from outside")
        else:
            self.counters["RST out of sequence"] += 1

    def _exact(self, flow: Flow, pump: PumpFlow, seq: int) -> bool:  # noqa: ARG002 - wire rsock asks the flow, too
        """An RST or FIN may have this number."""
        return seq == pump.received

    def _fin(self, now: float, flow: Flow, packet: Packet, segment: Segment) -> None:
        pump = flow.pump
        if pump is None:
            return
        expected = self._exact(flow, pump, segment.seq)
        runs, slow = self.pump.receive_final(pump, packet, segment)
        self._outbox.deliver(runs)
        sealed = False
        for item in slow:
            sealed |= isinstance(item, SlowFrames) and self._frames(now, item, fin=True)
        if sealed:
            # Frames that overtook the FIN in this batch have moved ``received`` already.
            end = (segment.seq + len(segment.payload) + 1) & 0xFFFFFFFF
            if (end - pump.received) & 0xFFFFFFFF < 0x80000000:
                pump.received = end
            self._step(now, flow, Input.PEER_CLOSE, "the other side closed it")
        elif flow.state is State.LINGERING:
            if flow.repeat and pump.in_flight:
                self._outbox.send([flow.repeat])  # our own FIN has not arrived
            self._outbox.send([self.pump.acknowledge(pump)])
        elif not segment.payload and expected:
            if flow.state is State.CLOSING:
                pump.received = (pump.received + 1) & 0xFFFFFFFF
            answer = flow.state is State.CLOSING
            self._step(now, flow, Input.FIN if answer else Input.RESET, "" if answer else "a FIN came from outside")
        else:
            self.counters["FIN out of sequence"] += 1

    def _frames(self, now: float, item: SlowFrames, *, fin: bool = False) -> bool:
        """Authenticated frames that are not plain data.  True = a close frame, in the segment with FIN."""
        pump, frames, received = item
        flow = self._flows.get(pump.key)
        if flow is None or flow.session is None:
            return False
        if frames.kind == Kind.CONTROL:
            try:
                message = pump.codec.read_control(frames.datagrams[0])
            except Malformed:
                self.counters["malformed control messages"] += 1
                return False
            if isinstance(message, messages.CloseFlow):
                if flow.key.udp:
                    self._peer_closes(now, flow)
                return fin
            self._control(now, flow, flow.session, message, received)
        elif frames.kind == Kind.FRAGMENT:
            for body in frames.datagrams:
                self._fragment(now, flow.session, frames.conversation, body)
        else:
            self._unknown_data(now, flow.session, frames)
        return False

    def _fragment(self, now: float, session: Session, conversation: int, body: Buffer) -> None:
        try:
            fragment = parse_fragment(body)
        except Malformed:
            self.counters["malformed fragments"] += 1
            return
        datagram = session.reassembly.receive(now, conversation, fragment)
        self._deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)
        if datagram is None:
            return
        known = session.group.conversations.get(conversation)
        if known is None:
            opening = fragment.target.to_bytes(2, "big") + datagram
            self._unknown_data(now, session, Frames(Kind.OPENING, conversation, -1, [opening], len(opening), 0))
        else:
            known.received_datagrams += 1
            known.received_bytes += len(datagram)
            self._outbox.deliver([Run(known.peer, [datagram], len(datagram))])

    def _control(self, now: float, flow: Flow, session: Session, message: messages.Control, received: int) -> None:
        """Control messages that both roles understand; the roles extend it.

        ``received``: frames received on ``flow`` up to and with this one.
        """
        match message:
            case messages.Probe(number=number):
                self._answer_probe(flow, session, messages.ProbeAnswer(number, flow.flow_id, received & 0xFFFFFFFF))
            case messages.ProbeAnswer(number=number, flow_id=flow_id, received=arrived):
                self._probe_answered(now, session.flows.get(flow_id), number, arrived)
            case messages.FlowDown(flow_id=flow_id):
                down = session.flows.get(flow_id)
                if down is not None:
                    self._step(now, down, Input.DEAD, "the peer gave it up")
            case messages.CloseConversation(conversation=number):
                conversation = session.group.conversations.get(number)
                if conversation is not None:
                    self._end_conversation(conversation)
            case messages.CloseSession():
                self._session_closed(now, session)
            case _:
                self.counters["unexpected control messages"] += 1

    # -- conversations

    def _put_conversation(self, now: float, conversation: PumpConversation) -> None:
        self.pump.put_conversation(conversation)
        self._moved[conversation] = (0, now)
        self._deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)

    def _send_large(self, now: float, conversation: PumpConversation, run: Run) -> None:
        """Datagrams that do not fit a segment leave as fragments."""
        session_payload = min((flow.max_payload for flow in conversation.group.usable), default=0)
        if not session_payload:
            return
        room = session_payload - conversation.group.usable[0].codec.overhead
        bursts: list[Outgoing] = []
        for datagram in run.datagrams:
            self._next_fragment += 1
            parts = split(datagram, room, self._next_fragment, conversation.target)
            if parts is None:
                self.counters["datagrams too large"] += 1
                continue
            fragments: list[Buffer] = list(parts)
            before = conversation.sent_datagrams, conversation.sent_bytes
            self.pump.send(conversation, Kind.FRAGMENT, b"", fragments, len(fragments[0]), bursts)
            all_left = conversation.sent_datagrams == before[0] + len(fragments)
            conversation.sent_datagrams, conversation.sent_bytes = before
            if all_left:
                conversation.count_sent([datagram], 1, len(datagram))
        self._outbox.send(bursts)
        self._deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)

    def _end_conversation(self, conversation: PumpConversation) -> None:
        self._moved.pop(conversation, None)
        self.pump.drop_conversation(conversation)

    # -- timers

    def _timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        """Timers that both roles have."""
        match timer, key:
            case Timer.ACKNOWLEDGE, _:
                self._outbox.send(self.pump.take_unacknowledged(all_of_them=True))
            case Timer.PROBE, Flow() as flow:
                self._probe_due(now, flow)
            case Timer.RETRANSMIT, Flow() as flow:
                self._retransmit(now, flow)
            case Timer.FORGET, Flow() as flow:
                self._step(now, flow, Input.EXPIRE)
            case Timer.SWEEP, _:
                self._sweep(now)
            case _:
                raise AssertionError(f"timer {timer} of {key!r}")

    def _sweep(self, now: float) -> None:
        """Once a second while there is anything: who moved, who ended."""
        active: dict[FlowGroup, None] = {}
        for conversation, (count, since) in list(self._moved.items()):
            moved = conversation.sent_datagrams + conversation.received_datagrams
            if moved != count:
                self._moved[conversation] = (moved, now)
                active[conversation.group] = None
            elif now - since >= self._parameters.duration:
                self._expire_conversation(now, conversation)
        for flow in list(self._flows.values()):
            if flow.pump and flow.state is State.ESTABLISHED:
                frames = flow.pump.sent_frames + flow.pump.received_frames
                self._worn_out(now, flow, flow.pump)
                if frames > flow.swept_frames + 4 and not flow.health.waiting:
                    # The first traffic after silence: do not leave the flow unwatched until its keepalive.
                    self._hasten(Timer.PROBE, flow, now + ACTIVE_PROBE)
                flow.swept_frames = frames
        for group in active:
            self._watch(now, group)
        if self._flows or self._moved:
            self._deadlines.set(Timer.SWEEP, None, now + SWEEP)

    # -- what the roles define

    @abstractmethod
    def _stranger(self, now: float, segment: Segment, link_header: bytes) -> None:
        """A segment of no flow; ``link_header``: what it came with, to be answered without a look-up."""

    @abstractmethod
    def _handshaking(self, now: float, flow: Flow, segment: Segment) -> None:
        """A segment of a flow that is not established."""

    @abstractmethod
    def _odd(self, now: float, flow: Flow, segment: Segment, link_header: bytes) -> None:
        """A segment that has no place on an established flow: with SYN, or a flag too many."""

    @abstractmethod
    def _unopened(self, now: float, pump: PumpFlow, segment: Segment, link_header: bytes) -> None:
        """A payload of which nothing authenticates, or that is out of window."""

    @abstractmethod
    def _unknown_data(self, now: float, session: Session, frames: Frames) -> None:
        """Authenticated data of a conversation that is not open."""

    @abstractmethod
    def _slow_run(self, now: float, run: Run) -> None:
        """Datagrams that the pump could not send: new peer, no flow, too large."""

    @abstractmethod
    def _session_closed(self, now: float, session: Session) -> None:
        """The peer said goodbye."""

    @abstractmethod
    def _expire_conversation(self, now: float, conversation: PumpConversation) -> None:
        """Nothing has moved in it for ``duration``."""
