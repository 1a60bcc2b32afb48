"""The server of wire rsock: a first datagram behind a complete handshake makes session, flow and conversation.

A stranger's way: SYN → SYN-ACK whose number is a cookie → an ACK that brings it back, from our client or from the
kernel beside an original → a frame with the right hash, whose head names client and flow.  An original's first number is one
too far, and its ACK is none of ours: so the handshake is kept until then (``handshakes``).

Nothing is delivered that has no handshake behind it.  Who sends such frames all the same, and knows the
key, belongs to a server that was restarted here: it is told so by an RST, for only the client can dial.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from rsock_nf.core.ends.server import Server
from rsock_nf.core.flows.flow import Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.protocols import FirstFrame, Frames, OpenFormat, Rng
from rsock_nf.core.pump.state import OUR_SCALE, OUR_WINDOW, PumpFlow
from rsock_nf.core.tcp.segment import ACK, DEFAULT_MSS, FIN, PSH, RST, SYN, HeaderTemplate, Segment, SynOptions
from rsock_nf.core.types import FlowKey, Malformed, Outgoing, Run
from rsock_nf.wire.rsock.handshakes import Complete, CompleteHandshakes
from rsock_nf.wire.rsock.node import MAX_PAYLOAD, RsockNode

_MASK = 0xFFFFFFFF
MAX_FLOWS = 1024
"""Of one session."""
MAX_ALL_FLOWS = 8192
"""Of all: over UDP a single datagram, perhaps in another's name, makes one."""
MSS_STEPS = (1460, 1452, 1440, 1400, 1360, 1300, 1200, 536)
"""To one of these, downward, the MSS of a SYN is rounded: the cookie has room for no more."""
FIRST_WINDOW = OUR_WINDOW << OUR_SCALE
"""How far from the handshake a first frame's number may be: those before it were lost."""
RESET_AFTER = 0.5
"""Seconds for which frames without a handshake get no answer: its ACK may have been overtaken."""
UNSHAKEN_AGE = 30.0
"""Seconds after which they count as new again."""
_MAX_UNSHAKEN = 256
_PEER = "rsock"
_CARRIER = Complete(_MASK, _MASK, MAX_PAYLOAD, None, 0.0)
"""In the place of a handshake where the carrier is UDP: all numbers are 0."""


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

    def _stranger(self, now: float, segment: Segment, link_header: bytes) -> None:
        if segment.flags & RST:
            self._forget(segment)
        elif segment.flags & SYN or self._stopping:
            super()._stranger(now, segment, link_header)
        else:
            self._complete_handshake(now, segment)
            if segment.flags & FIN:
                self._unused(segment, link_header)
            elif segment.payload:
                self._first_payload(now, segment, link_header)

    def _complete_handshake(self, now: float, segment: Segment) -> None:
        """Keep the handshake that ``segment`` completes, if it does."""
        if segment.key.udp or self._shaken(segment) is not None:
            return
        client_isn, server_isn = (segment.seq - 1) & _MASK, (segment.ack - 1) & _MASK
        note = self._cookie.note(segment.key, client_isn, server_isn, now)
        if note is not None:
            scale = OUR_SCALE if note & 1 else None
            self._complete.put(now, segment.key, Complete(client_isn, server_isn, MSS_STEPS[note >> 1], scale, now))

    def _shaken(self, segment: Segment) -> Complete | None:
        """The handshake that ``segment`` may follow; not one of the same ports long ago."""
        known = self._complete.get(segment.key)
        if known is None or (segment.seq - known.client_isn - 1) & _MASK > FIRST_WINDOW:
            return None
        return known

    def _forget(self, segment: Segment) -> None:
        """The client gives a connection up that it never used."""
        known = self._complete.get(segment.key)
        if known is not None and segment.seq == (known.client_isn + 1) & _MASK:
            self._complete.take(segment.key)

    def _unused(self, segment: Segment, link_header: bytes) -> None:
        """The client closes a connection that it never used: as TCP would (RFC 9293 section 3.6)."""
        known = self._shaken(segment)
        if known is None:
            return
        self._complete.take(segment.key)
        ack = (segment.seq + len(segment.payload) + 1) & _MASK
        template = HeaderTemplate(segment.key, int.from_bytes(self._rng(2), "big"))
        headers = template.build((known.server_isn + 1) & _MASK, ack, FIN | ACK, OUR_WINDOW, 0)
        self._outbox.send([Outgoing(headers, [], 0, 0, link_header)])

    def _first_payload(self, now: float, segment: Segment, link_header: bytes) -> None:
        """A frame of no flow that we know, or several merged.  On a UDP carrier there is no handshake to ask for."""
        size = self._received.segment_size or len(segment.payload)
        first = segment.payload[:size]
        try:
            frame = self._format.read_untrusted(first)
        except Malformed:
            self._turn_away(segment, link_header, "payloads from strangers")
            return
        known = _CARRIER if segment.key.udp else self._shaken(segment)
        if known is None:
            self._without_handshake(now, segment, link_header)
            return
        session = self._session_of(now, frame, segment.key, first)
        if session is not None:
            self._open(now, segment, session, frame, known)
            self._acknowledge_first(now, segment, session, link_header)

    def _without_handshake(self, now: float, segment: Segment, link_header: bytes) -> None:
        self.counters["frames without a handshake"] += 1
        if segment.key in self._flows:
            return
        since = self._unshaken.get(segment.key)
        if since is None or now - since > UNSHAKEN_AGE:
            self._unshaken[segment.key] = now
            if len(self._unshaken) > _MAX_UNSHAKEN:
                self._unshaken.popitem(last=False)
        elif now - since >= RESET_AFTER:
            del self._unshaken[segment.key]
            headers = HeaderTemplate(segment.key).build(segment.ack, 0, RST, 0, 0)
            self._outbox.send([Outgoing(headers, [], 0, 0, link_header)])

    def _session_of(self, now: float, frame: FirstFrame, key: FlowKey, payload: memoryview) -> Session | None:
        """The client's session, made if this is a datagram; None = the frame opens nothing."""
        session = self.sessions.get(frame.client)
        if session is None:
            if not frame.data:
                self.counters["control frames of no session"] += 1
                return None
            if not self._make_room(now):
                self.counters["clients above max_sessions"] += 1
                return None
            return self._new_session(now, frame.client, self._format.keys(frame.client, frame.version), key)
        codec = session.keys.codec(frame.flow_id, initiator=False)
        if len(session.flows) >= MAX_FLOWS or len(self._flows) >= MAX_ALL_FLOWS or not codec.unpack(payload, 0)[0]:
            self.counters["frames of another version, or of one flow too many"] += 1
            return None
        return session

    def _open(self, now: float, segment: Segment, session: Session, frame: FirstFrame, known: Complete) -> None:
        self._complete.take(segment.key)
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

    def _acknowledge_first(self, now: float, segment: Segment, session: Session, link_header: bytes) -> None:
        """Take the frame, and tell at once: neither the client nor a tracker on the way has seen our scaled window yet."""
        flow = self._flows[segment.key]
        if flow.pump is not None and not flow.key.udp:
            pushes = bool(segment.flags & PSH) and segment.ack == flow.next_seq
            self._know(flow.pump, session, pushes=pushes)
        self._again(now)
        if flow.pump is not None and not flow.key.udp:
            self._outbox.send([self.pump.acknowledge(flow.pump)._replace(reply_to=link_header)])

    # -- flows

    def _odd(self, now: float, flow: Flow, segment: Segment, link_header: bytes) -> None:
        """Also what followed a flow's first frame in one batch: the pump did not know the flow yet."""
        has_ip_options = self._received.data[0] >> 4 == 4 and self._received.data[0] != 0x45
        if segment.flags & ACK and not segment.flags & SYN and not has_ip_options:  # those the pump never takes
            self._again(now)
        else:
            super()._odd(now, flow, segment, link_header)

    def _unopened(self, now: float, pump: PumpFlow, segment: Segment, link_header: bytes) -> None:
        """Behind a hole, or of a new client to which a NAT has given this flow's place."""
        flow = self._flows.get(segment.key)
        if flow is None or flow.pump is not pump:
            return  # what came before it in one merged payload has opened another
        if not self._rejoins(now, pump, segment):
            self._complete_handshake(now, segment)
            self._first_payload(now, segment, link_header)

    def _unproved(self, flow: Flow) -> bool:
        """A UDP flow whose peer has never answered: anybody may have sent its first datagram in somebody's name.

        If that was a client of ours after all, its next datagram makes the flow again.
        """
        return flow.key.udp and flow.health.srtt is None

    # -- conversations

    def _peer(self, session: Session, number: int) -> Hashable:
        return _PEER, session.session_id, number

    def _unknown_data(self, now: float, session: Session, frames: Frames) -> None:
        """Any datagram makes its conversation; where there is no room for it, the client is told that it ended."""
        conversation = session.group.conversations.get(frames.conversation)
        if conversation is None:  # else what came before it in this batch has opened it
            conversation = self._open_conversation(now, session, frames.conversation, 0)
        if conversation is not None:
            conversation.received_datagrams += len(frames.datagrams)
            conversation.received_bytes += sum(map(len, frames.datagrams))
            self._outbox.deliver([Run(conversation.peer, frames.datagrams, frames.size)])


def is_rsock_peer(peer: object) -> bool:
    """Whether ``peer`` is of a conversation of this wire: session ids are chosen by clients, and might meet."""
    return isinstance(peer, tuple) and peer[0] == _PEER
