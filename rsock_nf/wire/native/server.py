"""How a server of the native wire accepts clients: hello or join → answer with a challenge → confirmation.

A stranger gets a SYN-ACK whose number is a cookie.  Its first payload must be a hello or a join: nothing else is
answered.  An answer costs only a small, short-lived entry (``half_open``).  Only the confirmation, which sends the
challenge back, makes a session and a flow.

Not here: the bytes of these messages (``handshake``).
"""

from __future__ import annotations

import hashlib

from rsock_nf.core import messages
from rsock_nf.core.ends.accepting import MAX_FLOWS, Accepting, Proved, link_header
from rsock_nf.core.ends.wire import Probing
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.probes import Probes
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.timers import SWEEP, Timer
from rsock_nf.core.flows.watch import Watch
from rsock_nf.core.protocols import Frames, Kind
from rsock_nf.core.pump.state import OUR_WINDOW, Handover, PumpFlow
from rsock_nf.core.tcp.cookie import Cookie
from rsock_nf.core.tcp.segment import ACK, PSH, RST, HeaderTemplate, Segment, SynOptions
from rsock_nf.core.tcp.sequence import add
from rsock_nf.core.types import Buffer, Carried, Malformed, Outgoing, Packet
from rsock_nf.wire.native.half_open import MAX_AGE, HalfOpen, HalfOpenTable, Said
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.limits import LIMITS
from rsock_nf.wire.native.opening import Answer, ConfirmMessage, HelloMessage, JoinMessage, Status
from rsock_nf.wire.parameters import NativeParameters, WireName

SMALLEST_PAYLOAD = 256
"""A client that states a smaller MSS is turned away: no useful frame fits."""


class NativeServerWire:
    """See the module, and ``ServerWire``.  ``cookie_key``: 32 random bytes, made at start and never told to anybody."""

    name = WireName.NATIVE.value
    limits = LIMITS

    def __init__(self, parameters: NativeParameters, cookie_key: bytes) -> None:
        self._handshake = NativeHandshake(parameters.secret)
        self._cookie = Cookie(cookie_key)
        self.half_open = HalfOpenTable()

    def probing(self, context: Context, table: FlowTable, watch: Watch) -> Probing:
        """See ``Wire``."""
        return Probes(context, table, watch)

    def may_tell(self, flow: PumpFlow, message: object) -> bool:
        """See ``Wire``.  Always: the client knows every usable flow, and every message."""
        return True

    def is_end(self, flow: Established, seq: int) -> bool:
        """See ``Wire``.  An RST or FIN must have the next number in sequence."""
        return seq == flow.pump.received

    def answer_fin(self, flow: Established, segment: Segment) -> Outgoing | None:
        """See ``Wire``.  There is none besides what the table of states asks for."""
        return None

    # -- strangers

    def initial_number(self, now: float, accepting: Accepting, segment: Segment, asked: SynOptions) -> int:
        """See ``ServerWire``.  The cookie needs no options: a hello or join tells what its client received."""
        return self._cookie.isn(segment.key, segment.seq, now)

    def stranger(self, now: float, accepting: Accepting, segment: Segment, received: Packet | Carried) -> None:
        """See ``ServerWire``.  A segment without a payload, or with RST, is ignored."""
        if segment.payload and not segment.flags & RST and not accepting.stopping:
            self._first_payload(now, accepting, segment, link_header(received))

    def _first_payload(self, now: float, accepting: Accepting, segment: Segment, reply_to: bytes) -> None:
        """Handle a hello, join or confirmation.

        Anything else gets no answer; with ``on_probe: closed``, right after the TCP handshake, an RST
        (``Accepting.turn_away``).

        The cheapest check comes first.  A hello costs a Diffie-Hellman only if a cookie has proved the address, if
        the rate limit allows it, and only once.  On a UDP carrier nothing has proved the address, so the rate limit
        is checked last, for messages that were made with the secret.  So strangers cannot use up the rate limit of
        another address.
        """
        udp = segment.key.udp
        isn = add(segment.seq, -1)
        first = udp or self._cookie.check(segment.key, isn, add(segment.ack, -1), now)
        digest = hashlib.sha256(segment.payload).digest() if first else b""
        known = self.half_open.find(digest) if first else None
        if known is None and first and not udp and not self.half_open.allow(now, segment.key.remote):
            accepting.turn_away(segment, reply_to, "hellos above the rate limit", shaken=True)
            return
        try:
            answer = known.answer if known else self._answer(now, accepting, segment, reply_to, digest)
        except Malformed:
            # Without a cookie of ours: from our client, after its NAT address changed or its flow ended here.
            reason = "payloads from strangers" if first else "payloads of no flow"
            accepting.turn_away(segment, reply_to, reason, shaken=first)
            return
        if not answer:
            return
        entry = self.half_open.find(digest)
        if entry is not None:
            seq, ack = add(segment.seq, len(segment.payload)), add(segment.ack, len(answer))
            entry.heard_from(segment.key, Said(0, 0, 0, now) if udp else Said(isn, seq, ack, now))
            accepting.context.deadlines.set_if_unset(Timer.HALF_OPEN, None, now + MAX_AGE)
        _reply(accepting, segment, reply_to, answer)

    def _answer(self, now: float, accepting: Accepting, segment: Segment, reply_to: bytes, digest: bytes) -> bytes:
        """The answer to a payload that was not answered before.  b"" = there is none.

        ``digest``: of the payload; b"" = it is not the first payload of its flow.  Raises ``Malformed``.
        """

        def admit() -> bool:
            return bool(digest) and (not segment.key.udp or self.half_open.allow(now, segment.key.remote))

        message = self._handshake.read_untrusted(segment.payload, accepting.context.rng, admit=admit)
        if isinstance(message, ConfirmMessage):
            self._confirmed(now, accepting, segment, reply_to, message)
            return b""
        if not digest:
            accepting.context.counters["hellos without a handshake"] += 1
            return b""
        if isinstance(message, JoinMessage):
            return self._join(now, accepting, message, digest)
        return self._hello(now, accepting, message, digest)

    def _hello(self, now: float, accepting: Accepting, hello: HelloMessage, digest: bytes) -> bytes:
        if hello.offer.mss < SMALLEST_PAYLOAD:
            raise Malformed(f"hello with an MSS of {hello.offer.mss}")
        parameters, rng = accepting.parameters, accepting.context.rng
        status = Status.WELCOME
        if hello.offer.cipher is not parameters.cipher:
            status = Status.CIPHER
        elif not accepting.has_room():
            status = Status.FULL
        session_id = accepting.context.random(8)
        challenge = rng(16)
        answer = Answer(status, parameters.cipher, session_id, challenge, len(parameters.targets))
        message, keys = self._handshake.answer(hello, answer)
        if status is Status.WELCOME:
            entry = HalfOpen(session_id, -1, hello.offer, keys, challenge, message, digest, now, joined=False)
            self._remember(accepting, entry)
        return message

    def _join(self, now: float, accepting: Accepting, join: JoinMessage, digest: bytes) -> bytes:
        session = accepting.sessions_by_id.get(join.session_id)
        if session is None:
            return self._handshake.gone(join)
        offer = self._handshake.read_join(session.keys, join)
        if offer.mss < SMALLEST_PAYLOAD or len(session.flows) >= MAX_FLOWS or not session.numbers.accept(join.number):
            raise Malformed("join with a number used before, or for one flow too many")
        challenge = accepting.context.rng(16)
        message = self._handshake.join_answer(session.keys, join.number, challenge)
        entry = HalfOpen(
            join.session_id, join.number, offer, session.keys, challenge, message, digest, now, joined=True
        )
        self._remember(accepting, entry)
        return message

    def _remember(self, accepting: Accepting, entry: HalfOpen) -> None:
        if self.half_open.put(entry):
            accepting.context.counters["half-open entries that gave way to later ones"] += 1

    def _confirmed(
        self, now: float, accepting: Accepting, segment: Segment, reply_to: bytes, confirm: ConfirmMessage
    ) -> None:
        """Our challenge came back under the session's keys: the address is real, and the client has the secret."""
        counters = accepting.context.counters
        self.half_open.expire(now)
        entry = self.half_open.named(confirm.session_id, confirm.number)
        if entry is None:
            counters["confirmations of nothing"] += 1
            return
        if self._handshake.read_confirm(entry.keys, confirm) != entry.challenge:
            raise Malformed("another challenge than ours")
        said = entry.said_by.get(segment.key)
        if said is None or (segment.seq, segment.ack) != (said.seq, said.ack):
            counters["confirmations from elsewhere"] += 1  # its sender has not proved its address
            return
        session = accepting.sessions_by_id.get(entry.session_id)
        if session is None:
            if entry.joined or not accepting.make_room(now):
                return
            session = accepting.begin_session(now, entry.session_id, entry.keys, segment.key)
        if not entry.joined and not session.numbers.accept(confirm.number):
            return
        self.half_open.remove(entry)
        _ready(accepting, _accept(now, accepting, segment, session, entry, confirm.number), reply_to)

    # -- flows

    def unopened(
        self, now: float, accepting: Accepting, flow: Established, segment: Segment, received: Packet | Carried
    ) -> None:
        """See ``ServerWire``.

        It is the confirmation again, because our answer was lost, or a payload of a new client behind the same NAT.
        """
        reply_to = link_header(received)
        if flow.pump.received_frames == 0 and self._confirms(accepting, flow, segment):
            _ready(accepting, flow, reply_to)
        else:
            self._first_payload(now, accepting, segment, reply_to)

    def _confirms(self, accepting: Accepting, flow: Established, segment: Segment) -> bool:
        """Whether the payload is the confirmation that opened ``flow``, or looks like it."""
        try:
            message = self._handshake.read_untrusted(segment.payload, accepting.context.rng, admit=lambda: False)
        except Malformed:
            return False
        return isinstance(message, ConfirmMessage) and message[:2] == (flow.session.session_id, flow.flow_id)

    # -- conversations

    def unknown_data(self, now: float, accepting: Accepting, session: Session, frames: Frames) -> None:
        """See ``ServerWire``.  An opening frame opens the conversation.

        Plain data belongs to a conversation that has ended.  If it made room for another, it opens again.  Else the
        client is told.
        """
        number = frames.conversation
        target: int | None
        if frames.kind == Kind.OPENING:
            target, datagrams = _of_opening(frames)
        else:
            target, datagrams = accepting.crowding.take(session, number), frames.datagrams
        conversation = session.group.conversations.get(number)
        if conversation is not None and datagrams and target not in (None, conversation.target):
            accepting.end_conversation(now, conversation)  # its end was lost, and its number has begun anew
            conversation = None
        if conversation is None:
            if target is None:
                accepting.context.counters["data for no conversation"] += len(datagrams)
                accepting.table.tell(session, messages.CloseConversation(number))
                return
            conversation = accepting.open_conversation(now, session, number, target)
        if conversation is not None and datagrams:
            accepting.table.tell(session, messages.Opened(number))
            accepting.conversations.deliver(conversation, datagrams, len(datagrams[0]))

    # -- the rest

    def timeout(self, now: float, accepting: Accepting) -> None:
        """See ``ServerWire``.  Removes half-open entries that are too old."""
        self.half_open.expire(now)
        if len(self.half_open):
            accepting.context.deadlines.set(Timer.HALF_OPEN, None, now + SWEEP)


def _accept(
    now: float, accepting: Accepting, segment: Segment, session: Session, entry: HalfOpen, number: int
) -> Established:
    """Make a flow of a confirmed entry.  Its sequence numbers continue those of the confirmation."""
    said, mss, scale = entry.said_by[segment.key], entry.offer.mss, entry.offer.window_scale
    old = accepting.table.get(segment.key)
    if old is not None:
        accepting.evict(now, old, "its addresses and ports were used again")
    received = add(segment.seq, len(segment.payload))
    window = segment.window << (scale or 0)
    start = Handover(segment.ack, received, scale, window, 0, accepting.context.random(2))
    flow = accepting.accept(now, session, Proved(number, segment.key, mss, said.isn, start))
    if said.answered is not None:
        flow.health.sample(max(now - said.answered, 0.0))
    return flow


def _ready(accepting: Accepting, flow: Established, reply_to: bytes) -> None:
    burst = accepting.table.pump.send_control(flow.pump, messages.Ready())
    accepting.context.outbox.send([burst._replace(reply_to=reply_to)])


def _reply(accepting: Accepting, segment: Segment, reply_to: bytes, payload: bytes) -> None:
    """Answer a stranger over the way that the segment came, with the sequence numbers that the segment names."""
    if segment.key.udp:
        accepting.context.outbox.send([Outgoing(b"", [payload], len(payload), 0, carrier=segment.key)])
        return
    template = HeaderTemplate(segment.key, accepting.context.random(2))
    ack = add(segment.seq, len(segment.payload))
    headers = template.build(segment.ack, ack, PSH | ACK, OUR_WINDOW, len(payload))
    accepting.context.outbox.send([Outgoing(headers, [payload], len(payload), 0, reply_to)])


def _of_opening(frames: Frames) -> tuple[int, list[Buffer]]:
    """(index of the target, datagrams) of opening frames.  -1 = none of them is long enough to name a target."""
    whole = [body for body in frames.datagrams if len(body) >= LIMITS.opening_bytes]
    target = int.from_bytes(whole[-1][: LIMITS.opening_bytes], "big") if whole else -1
    return target, [body[LIMITS.opening_bytes :] for body in whole]
