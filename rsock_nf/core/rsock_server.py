"""The server of wire rsock: a first datagram behind a complete handshake makes session, flow and conversation.

A stranger's way: SYN → SYN-ACK whose number is a cookie → an ACK that brings it back, from our client or from the
kernel beside an original → a frame with the right hash, whose head names client and flow.  An original's first number is one
too far, and its ACK is none of ours: so the handshake is kept until then (``handshakes``).

Nothing is delivered that has no handshake behind it.  Who sends such frames all the same, and knows the
key, belongs to a server that was restarted here: it is told so by an RST, for only the client can dial.
"""

from __future__ import annotations

from collections import OrderedDict

from rsock_nf.core.flow import Flow, Input, State
from rsock_nf.core.handshakes import Complete, CompleteHandshakes
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.protocols import FirstFrame, Frames, OpenFormat, Rng
from rsock_nf.core.pump import OUR_SCALE, OUR_WINDOW, PumpFlow, SlowPayload
from rsock_nf.core.rsock_node import RsockNode
from rsock_nf.core.segment import (
    ACK,
    DEFAULT_MSS,
    FIN,
    PSH,
    RST,
    SYN,
    FlowKey,
    HeaderTemplate,
    Segment,
    SynOptions,
    parse_segment,
)
from rsock_nf.core.server import Server
from rsock_nf.core.session import Session
from rsock_nf.core.types import Malformed, Outgoing, Packet, Run

_MASK = 0xFFFFFFFF
MAX_FLOWS = 1024
"""Of one session."""
MSS_STEPS = (1460, 1452, 1440, 1400, 1360, 1300, 1200, 536)
"""To one of these, downward, the MSS of a SYN is rounded: the cookie has room for no more."""
FIRST_WINDOW = OUR_WINDOW << OUR_SCALE
"""How far from the handshake a first frame's number may be: those before it were lost."""
RESET_AFTER = 0.5
"""Seconds for which frames without a handshake get no answer: its ACK may have been overtaken."""
_MAX_UNSHAKEN = 256


class RsockServer(RsockNode, Server):
    """See the module."""

    def __init__(self, parameters: ServerParameters, form: OpenFormat, rng: Rng, *, mtu: int) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=0)
        self._format = form
        self._undecided: dict[PumpFlow, Session] = {}
        self._complete = CompleteHandshakes()
        self._unshaken: OrderedDict[FlowKey, float] = OrderedDict()
        """Who sends frames without a handshake, and since when."""

    # -- strangers

    def _note(self, segment: Segment, asked: SynOptions) -> int:
        """What the cookie is to remember: MSS and window scale of the SYN."""
        mss = min(asked.mss or DEFAULT_MSS, self._link_payload(segment.key))
        step = next((at for at, size in enumerate(MSS_STEPS) if size <= mss), len(MSS_STEPS) - 1)
        return step << 1 | (asked.window_scale is not None)

    def _stranger(self, now: float, packet: Packet, segment: Segment) -> None:
        if segment.flags & RST:
            self._forget(segment)
        elif segment.flags & SYN or self._stopping:
            super()._stranger(now, packet, segment)
        else:
            self._complete_handshake(now, segment)
            if segment.flags & FIN:
                self._unused(packet, segment)
            elif segment.payload:
                self._first_payload(now, packet, segment)

    def _complete_handshake(self, now: float, segment: Segment) -> None:
        """Keep the handshake that ``segment`` completes, if it does."""
        client_isn, server_isn = (segment.seq - 1) & _MASK, (segment.ack - 1) & _MASK
        if self._complete.get(segment.key) is not None:
            return
        for note in range(2 * len(MSS_STEPS)):
            if self._cookie.check(segment.key, client_isn, server_isn, now, note):
                scale = OUR_SCALE if note & 1 else None
                self._complete.put(now, segment.key, Complete(client_isn, server_isn, MSS_STEPS[note >> 1], scale, now))
                return

    def _forget(self, segment: Segment) -> None:
        """The client gives a connection up that it never used."""
        known = self._complete.get(segment.key)
        if known is not None and segment.seq == (known.client_isn + 1) & _MASK:
            self._complete.take(segment.key)

    def _unused(self, packet: Packet, segment: Segment) -> None:
        """The client closes a connection that it never used: as TCP would (RFC 9293 section 3.6)."""
        known = self._complete.get(segment.key)
        if known is None or (segment.seq - known.client_isn - 1) & _MASK > FIRST_WINDOW:
            return
        self._complete.take(segment.key)
        ack = (segment.seq + len(segment.payload) + 1) & _MASK
        template = HeaderTemplate(segment.key, int.from_bytes(self._rng(2), "big"))
        headers = template.build((known.server_isn + 1) & _MASK, ack, FIN | ACK, OUR_WINDOW, 0)
        self._out.append(Outgoing(headers, [], 0, 0, packet.link_header))

    def _first_payload(self, now: float, packet: Packet, segment: Segment) -> None:
        """A frame of no flow that we know, or several merged."""
        size = packet.segment_size or len(segment.payload)
        try:
            frame = self._format.read_untrusted(segment.payload[:size])
        except Malformed:
            self._turn_away(packet, segment, "payloads from strangers")
            return
        known = self._complete.get(segment.key)
        if known is None or (segment.seq - known.client_isn - 1) & _MASK > FIRST_WINDOW:
            self._without_handshake(now, packet, segment)
            return
        session = self._session_of(now, frame, packet, segment)
        if session is not None:
            self._open(now, packet, segment, session, frame)

    def _without_handshake(self, now: float, packet: Packet, segment: Segment) -> None:
        self.counters["frames without a handshake"] += 1
        if segment.key in self._flows:
            return
        since = self._unshaken.setdefault(segment.key, now)
        if len(self._unshaken) > _MAX_UNSHAKEN:
            self._unshaken.popitem(last=False)
        if now - since >= RESET_AFTER:
            del self._unshaken[segment.key]
            headers = HeaderTemplate(segment.key).build(segment.ack, 0, RST, 0, 0)
            self._out.append(Outgoing(headers, [], 0, 0, packet.link_header))

    def _session_of(self, now: float, frame: FirstFrame, packet: Packet, segment: Segment) -> Session | None:
        """The client's session, made if this is a datagram; None = the frame opens nothing."""
        session = self.sessions.get(frame.client)
        if session is None:
            if not frame.data:
                self.counters["control frames of no session"] += 1
                return None
            if not self._make_room(now):
                self.counters["clients above max_sessions"] += 1
                return None
            return self._new_session(now, frame.client, self._format.keys(frame.client, frame.version), segment.key)
        codec = session.keys.codec(frame.flow_id, initiator=False)
        if len(session.flows) >= MAX_FLOWS or not codec.unpack(segment.payload, packet.segment_size)[0]:
            self.counters["frames of another version, or of one flow too many"] += 1
            return None
        return session

    def _open(self, now: float, packet: Packet, segment: Segment, session: Session, frame: FirstFrame) -> None:
        known = self._complete.take(segment.key)
        if known is None:
            return
        for old in (session.flows.get(frame.flow_id), self._flows.get(segment.key)):
            if old is not None and old.state is not State.CLOSED:
                self._step(now, old, Input.DEAD, "its addresses or its name are used again")
                self._discard(now, old, "its addresses or its name are used again")
        self._unshaken.pop(segment.key, None)
        flow = Flow(
            frame.flow_id, segment.key, state=State.ESTABLISHED, identification=int.from_bytes(self._rng(2), "big")
        )
        flow.isn = known.client_isn
        flow.mss = min(known.mss, self._link_payload(segment.key))
        flow.scale = known.scale
        flow.next_seq = (known.server_isn + 1) & _MASK
        flow.received = segment.seq
        flow.window = segment.window << (flow.scale or 0)
        self._accept(now, flow, session)
        if flow.pump is not None:
            pushes = bool(segment.flags & PSH) and segment.ack == flow.next_seq
            self._know(flow.pump, session, pushes=pushes)
            self.receive_packets(now, [packet])
            # At once: neither the client nor a tracker on the way has seen our scaled window yet.
            self._out.append(self.pump.acknowledge(flow.pump)._replace(reply_to=packet.link_header))

    # -- flows

    def _odd(self, now: float, flow: Flow, packet: Packet, segment: Segment) -> None:
        """Also what followed a flow's first frame in one batch: the pump did not know the flow yet."""
        if segment.flags & ACK and not segment.flags & SYN and not _has_ip_options(packet):
            self.receive_packets(now, [packet])
        else:
            super()._odd(now, flow, packet, segment)

    def _unopened(self, now: float, item: SlowPayload) -> None:
        """Behind a hole, or of a new client to which a NAT has given this flow's place."""
        try:
            segment = parse_segment(item.packet)
        except Malformed:
            self.counters["malformed packets"] += 1
            return
        if not self._rejoins(now, item, segment):
            self._complete_handshake(now, segment)
            self._first_payload(now, item.packet, segment)

    # -- conversations

    def _unknown_data(self, now: float, session: Session, frames: Frames) -> None:
        """Any datagram makes its conversation; where there is no room for it, the client is told that it ended."""
        conversation = self._open_conversation(now, session, frames.conversation, 0)
        if conversation is not None:
            conversation.received_datagrams += len(frames.datagrams)
            conversation.received_bytes += sum(map(len, frames.datagrams))
            self._runs.append(Run(conversation.peer, frames.datagrams, frames.size))


def _has_ip_options(packet: Packet) -> bool:
    """The pump takes no such packet, of no flow."""
    return packet.data[0] >> 4 == 4 and packet.data[0] != 0x45
