"""How a server of wire ``rsock`` accepts clients: the first datagram after a complete TCP handshake opens everything.

A stranger's way: SYN → SYN-ACK whose number carries a cookie → an ACK that brings it back, from our client or from the
kernel beside an original → a frame with the right hash, whose head names client and flow → session, flow,
conversation.  The first number of an original's frame is one too far, and its ACK means nothing.  So the TCP
handshake is kept until the frame comes (``handshakes``).

The forged ACKs of an original's client begin at its *own* first number + 3, and follow ours only if ours is
numerically larger.  So our first number is a little ahead of the client's: then these ACKs are of something that we
sent, and connection tracking on the way passes them.  The cookie is only what is left: how far ahead.

Frames without a TCP handshake are not delivered.  If their sender knows the key, it is probably a client from
before a restart of this server.  It gets an RST, because only the client can dial.
"""

from __future__ import annotations

from collections import OrderedDict

from rsock_nf.core.ends.accepting import MAX_FLOWS, Accepting, Proved, link_header
from rsock_nf.core.ends.wire import Probing
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import State
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.watch import Watch
from rsock_nf.core.protocols import Frames
from rsock_nf.core.pump.state import OUR_SCALE, OUR_WINDOW, Handover, PumpFlow
from rsock_nf.core.tcp.cookie import Cookie
from rsock_nf.core.tcp.segment import ACK, DEFAULT_MSS, FIN, PSH, RST, HeaderTemplate, Segment, SynOptions
from rsock_nf.core.tcp.sequence import MASK, add, distance
from rsock_nf.core.types import Carried, FlowKey, Malformed, Outgoing, Packet
from rsock_nf.wire.parameters import RsockParameters, WireName
from rsock_nf.wire.rsock import quirks
from rsock_nf.wire.rsock.frames import FirstFrame, RsockFormat
from rsock_nf.wire.rsock.handshakes import Complete, CompleteHandshakes
from rsock_nf.wire.rsock.keepalive import KeepAlives
from rsock_nf.wire.rsock.limits import LIMITS, MAX_PAYLOAD

MAX_ALL_FLOWS = 8192
"""The most flows of all sessions.  Over UDP a single datagram makes one, perhaps with a false address."""
MSS_STEPS = (1460, 1452, 1440, 1400, 1360, 1300, 1200, 536)
"""The MSS of a SYN is rounded down to one of these, because the cookie has only a few bits for it."""
AHEAD = 2
"""Our first number is so far ahead of the client's, and as much more as the cookie says: 0 to 65,535.

An original's first ACK is its first number + 3.  Connection tracking takes ACKs that are up to 66,000 behind
(MAXACKWINCONST, net/netfilter/nf_conntrack_proto_tcp.c).
"""
COOKIE_MASK = 0xFFFF
"""The bits of the cookie: 12 of the keyed hash, and 4 of it that a note is laid over."""
UNSCALED_MASK = 0x7FFF
"""The same after a SYN without window scale.  There the limit of 66,000 never rises, so half of it is left for what is
on its way.  With a scale it rises to 8 MiB with the first frame."""
NOTES = 16
"""The number of different notes in a cookie: which MSS step, and whether the SYN had a window scale."""
FIRST_WINDOW = OUR_WINDOW << OUR_SCALE
"""The first frame's sequence number may be so far from the TCP handshake: earlier frames may be lost."""
RESET_AFTER = 0.5
"""Seconds for which frames without a TCP handshake get no answer: perhaps they have overtaken its ACK."""
UNSHAKEN_AGE = 30.0
"""Seconds after which such frames are treated as new again."""
_MAX_UNSHAKEN = 256
_CARRIER = Complete(MASK, MASK, MAX_PAYLOAD, None, 0.0)
"""Takes the place of a TCP handshake on a UDP carrier: all numbers are 0."""


class RsockServerWire:
    """See the module, and ``ServerWire``.  ``cookie_key``: 32 random bytes."""

    name = WireName.RSOCK.value
    limits = LIMITS

    def __init__(self, parameters: RsockParameters, cookie_key: bytes) -> None:
        self._format = RsockFormat(parameters.key)
        self._cookie = Cookie(cookie_key)
        self._complete = CompleteHandshakes()
        self._unshaken: OrderedDict[FlowKey, float] = OrderedDict()
        """Flows on which frames come without a TCP handshake, and since when."""

    def probing(self, context: Context, table: FlowTable, watch: Watch) -> Probing:
        """See ``Wire``."""
        return KeepAlives(context, table, watch, initiator=False)

    def may_tell(self, flow: PumpFlow, message: object) -> bool:
        """See ``Wire``, and ``quirks``."""
        return quirks.may_tell(flow, message, initiator=False)

    def is_end(self, flow: Established, seq: int) -> bool:
        """See ``Wire``, and ``quirks``: which RST or FIN counts."""
        return quirks.is_end(flow, seq)

    def answer_fin(self, flow: Established, segment: Segment) -> Outgoing | None:
        """See ``Wire``, and ``quirks``."""
        return quirks.answer_fin(flow, segment, initiator=False)

    # -- the TCP handshake

    def initial_number(self, now: float, accepting: Accepting, segment: Segment, asked: SynOptions) -> int:
        """See ``ServerWire``.  It is ahead of the client's number by a cookie with a note of MSS and window scale.

        The four bits of the note are combined with the hash by exclusive-or.  The ACK of a kernel does not tell what
        its SYN had.  With 16 possible notes, 16 numbers are accepted instead of one.
        """
        mss = min(asked.mss or DEFAULT_MSS, accepting.table.link_payload(segment.key))
        step = next((at for at, size in enumerate(MSS_STEPS) if size <= mss), len(MSS_STEPS) - 1)
        note = step << 1 | (asked.window_scale is not None)
        cookie = self._cookie.isn(segment.key, segment.seq, now) ^ note
        return add(segment.seq, AHEAD + (cookie & _mask_of(note)))

    def stranger(self, now: float, accepting: Accepting, segment: Segment, received: Packet | Carried) -> None:
        """See ``ServerWire``."""
        if segment.flags & RST:
            self._forget(segment)
        elif not accepting.stopping:
            self._complete_handshake(now, segment)
            if segment.flags & FIN:
                self._unused(accepting, segment, link_header(received))
            elif segment.payload:
                self._first_payload(now, accepting, segment, received)

    def _complete_handshake(self, now: float, segment: Segment) -> None:
        """Keep the TCP handshake if ``segment`` completes one."""
        if segment.key.udp or self._shaken(segment) is not None:
            return
        client_isn, server_isn = add(segment.seq, -1), add(segment.ack, -1)
        cookie = distance(add(client_isn, AHEAD), server_isn)
        if cookie > COOKIE_MASK:
            return
        for difference in self._cookie.differences(segment.key, client_isn, cookie, now):
            note = difference & (NOTES - 1)
            mask = _mask_of(note)
            if difference & mask == note and cookie <= mask:
                scale = OUR_SCALE if note & 1 else None
                complete = Complete(client_isn, server_isn, MSS_STEPS[note >> 1], scale, now)
                self._complete.put(now, segment.key, complete)
                return

    def _shaken(self, segment: Segment, version: int = 2) -> Complete | None:
        """The TCP handshake to which ``segment`` may belong, and not one of the same ports long ago.

        ``version``: of the frame in it.
        """
        known = self._complete.get(segment.key)
        if known is None or quirks.numbers_are_foreign(version):
            return known
        return known if distance(add(known.client_isn, 1), segment.seq) <= FIRST_WINDOW else None

    def _forget(self, segment: Segment) -> None:
        """The client resets a connection that it has never used."""
        known = self._complete.get(segment.key)
        if known is not None and segment.seq == add(known.client_isn, 1):
            self._complete.take(segment.key)

    def _unused(self, accepting: Accepting, segment: Segment, reply_to: bytes) -> None:
        """The client closes a connection that it has never used: answer as TCP does (RFC 9293 section 3.6)."""
        known = self._shaken(segment)
        if known is None:
            return
        self._complete.take(segment.key)
        ack = add(segment.seq, len(segment.payload) + 1)
        template = HeaderTemplate(segment.key, accepting.context.random(2))
        headers = template.build(add(known.server_isn, 1), ack, FIN | ACK, OUR_WINDOW, 0)
        accepting.context.outbox.send([Outgoing(headers, [], 0, 0, reply_to)])

    # -- the first frame

    def _first_payload(self, now: float, accepting: Accepting, segment: Segment, received: Packet | Carried) -> None:
        """Handle a frame, or several merged, of a flow that we do not know.  A UDP carrier needs no TCP handshake."""
        reply_to = link_header(received)
        first = segment.payload[: received.segment_size or len(segment.payload)]
        try:
            frame = self._format.read_untrusted(first)
        except Malformed:
            shaken = self._shaken(segment) is not None
            accepting.strangers.note(now, segment.key.remote)
            accepting.turn_away(segment, reply_to, "payloads from strangers", shaken=shaken)
            return
        known = _CARRIER if segment.key.udp else self._shaken(segment, frame.version)
        if known is None:
            self._without_handshake(now, accepting, segment, reply_to)
            return
        session = self._session_of(now, accepting, frame, segment.key, first)
        if session is not None:
            flow = self._open(now, accepting, segment, session, frame.flow_id, known)
            accepting.intake.again(received)
            if not flow.key.udp:  # neither the client nor connection tracking on the way has seen our scaled window yet
                ack = accepting.table.pump.acknowledge(flow.pump)
                accepting.context.outbox.send([ack._replace(reply_to=reply_to)])

    def _without_handshake(self, now: float, accepting: Accepting, segment: Segment, reply_to: bytes) -> None:
        accepting.context.counters["frames without a handshake"] += 1
        if accepting.table.get(segment.key) is not None:
            return
        since = self._unshaken.get(segment.key)
        if since is None or now - since > UNSHAKEN_AGE:
            self._unshaken[segment.key] = now
            if len(self._unshaken) > _MAX_UNSHAKEN:
                self._unshaken.popitem(last=False)
        elif now - since >= RESET_AFTER:
            del self._unshaken[segment.key]
            accepting.reset(segment, reply_to)

    def _session_of(
        self, now: float, accepting: Accepting, frame: FirstFrame, key: FlowKey, payload: memoryview
    ) -> Session | None:
        """The client's session; a datagram makes it if need be.  None = the frame opens nothing."""
        counters = accepting.context.counters
        session = accepting.sessions_by_id.get(frame.client)
        if session is None:
            if not frame.data:
                counters["control frames of no session"] += 1
                return None
            if not accepting.make_room(now):
                counters["clients above max_sessions"] += 1
                return None
            return accepting.begin_session(now, frame.client, self._format.keys(frame.client, frame.version), key)
        codec = session.keys.codec(frame.flow_id, initiator=False)
        full = len(session.flows) >= MAX_FLOWS or len(accepting.table) >= MAX_ALL_FLOWS
        if full or not codec.unpack(payload, 0)[0]:
            counters["frames of another version, or of one flow too many"] += 1
            return None
        return session

    def _open(
        self, now: float, accepting: Accepting, segment: Segment, session: Session, flow_id: int, known: Complete
    ) -> Established:
        self._complete.take(segment.key)
        for old in (session.flows.get(flow_id), accepting.table.get(segment.key)):
            if old is not None and old.state is not State.CLOSED:
                accepting.evict(now, old, "its addresses or its name are used again")
        self._unshaken.pop(segment.key, None)
        window = segment.window << (known.scale or 0)
        identification = accepting.context.random(2)
        start = Handover(add(known.server_isn, 1), segment.seq, known.scale, window, 0, identification)
        flow = accepting.accept(now, session, Proved(flow_id, segment.key, known.mss, known.client_isn, start))
        quirks.begin(accepting.table.pump, flow, unheard=False)
        if not flow.key.udp:
            pushes = bool(segment.flags & PSH) and segment.ack == flow.first_seq
            quirks.judge(accepting.table.pump, flow, pushes=pushes)
        return flow

    # -- flows

    def unopened(
        self, now: float, accepting: Accepting, flow: Established, segment: Segment, received: Packet | Carried
    ) -> None:
        """See ``ServerWire``.  Frames before it were lost, or a NAT has given this flow's ports to a new client."""
        context, pump, intake = accepting.context, accepting.table.pump, accepting.intake
        if not quirks.take_again(context, pump, intake, flow, segment, received):
            self._complete_handshake(now, segment)
            self._first_payload(now, accepting, segment, received)

    # -- conversations

    def unknown_data(self, now: float, accepting: Accepting, session: Session, frames: Frames) -> None:
        """See ``ServerWire``.  Every datagram opens its conversation.

        If there is no room, the client is told that the conversation ended.
        """
        conversation = session.group.conversations.get(frames.conversation)
        if conversation is None:  # else a frame before it in this batch has opened it
            conversation = accepting.open_conversation(now, session, frames.conversation, 0)
        if conversation is not None:
            accepting.conversations.deliver(conversation, frames.datagrams, frames.size)

    def timeout(self, now: float, accepting: Accepting) -> None:
        """See ``ServerWire``.  Does nothing: this wire does not use the timer."""

    def control(self, now: float, accepting: Accepting, flow: Established, message: object) -> bool:
        """See ``ServerWire``.  There is none."""
        return False

    def use_parameters(self, now: float, accepting: Accepting, parameters: object) -> None:
        """See ``ServerWire``.  All clients have one key, which does not change while the server runs."""

    def want_keys(self, now: float, session: Session) -> None:
        """See ``ServerWire``.  There are no keys of a session."""

    def sweep(self, now: float, accepting: Accepting, session: Session) -> None:
        """See ``ServerWire``.  Does nothing."""


def _mask_of(note: int) -> int:
    """The bits of a cookie that carries ``note``."""
    return COOKIE_MASK if note & 1 else UNSCALED_MASK
