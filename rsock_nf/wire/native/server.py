"""How a server of the native wire accepts clients: hello or join → answer with a challenge → confirmation.

A stranger gets a SYN-ACK whose number is a cookie.  Its first payload must be a hello or a join: nothing else is
answered.  An answer costs only a small, short-lived entry (``half_open``).  While there are many of them, a hello must
bring a cookie of its own (``freshness``).  Only the confirmation, which sends the challenge back, makes a session and a
flow.

Not here: the bytes of these messages (``handshake``).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

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
from rsock_nf.core.types import Buffer, Carried, FlowKey, Malformed, Outgoing, Packet
from rsock_nf.wire.native.freshness import NO_COOKIE, HelloCookies
from rsock_nf.wire.native.half_open import MAX_AGE, Admission, HalfOpen, HalfOpenTable, Unreadable, source_of
from rsock_nf.wire.native.handshake import ANSWER_SIZE, JOIN_ANSWER_SIZE, native_keys
from rsock_nf.wire.native.hints import no_clock
from rsock_nf.wire.native.holders import Holder, Holders
from rsock_nf.wire.native.limits import LIMITS
from rsock_nf.wire.native.opening import Answer, ConfirmMessage, HelloMessage, JoinMessage, Place, Status
from rsock_nf.wire.native.rekeying import Rekey, RekeyWanted
from rsock_nf.wire.parameters import NativeParameters, WireName

SMALLEST_PAYLOAD = 256
"""A client that states a smaller MSS is turned away: no useful frame fits."""


class NativeServerWire:
    """See the module, and ``ServerWire``.  ``cookie_key``: 32 random bytes, made at start and never told to anybody.

    ``time_of_day``: what the clock of the host says, in seconds since 1970.
    """

    name = WireName.NATIVE.value
    limits = LIMITS

    def __init__(
        self, parameters: NativeParameters, cookie_key: bytes, time_of_day: Callable[[], float] = no_clock
    ) -> None:
        self._time_of_day = time_of_day
        self._holders = Holders(parameters, time_of_day)
        self._cookie = Cookie(cookie_key)
        self._hello_cookies = HelloCookies(cookie_key)
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
        """Handle a hello, join or confirmation, and over UDP a frame of a flow whose client has moved (``moving``).

        Anything else gets no answer; with ``on_probe: closed``, right after the TCP handshake, an RST
        (``Accepting.turn_away``).

        The cheapest check comes first: the length, the envelope, the cookie of the TCP handshake.  Only what passes
        them counts for a rate limit, so garbage uses up nothing of what a client is allowed.
        """
        try:
            holder, message = self._holders.read_untrusted(segment.payload)
            if isinstance(message, ConfirmMessage):
                self._confirmed(now, accepting, segment, reply_to, holder, message)
            elif not self._shaken(now, segment, message.place if isinstance(message, HelloMessage) else Place()):
                accepting.context.counters["hellos without a handshake"] += 1
            else:
                answer = self._answer(now, accepting, segment, holder, message)
                if answer:
                    _reply(accepting, segment, reply_to, answer)
        except Malformed:
            if segment.key.udp and accepting.moves.receive(now, segment):
                return
            # Without a cookie of ours: from our client, after its NAT address changed or its flow ended here.
            first = self._shaken(now, segment, Place())
            reason = "payloads from strangers" if first else "payloads of no flow"
            if first:
                accepting.strangers.note(now, segment.key.remote)
            accepting.turn_away(segment, reply_to, reason, shaken=first)

    def _shaken(self, now: float, segment: Segment, place: Place) -> bool:
        """Whether our SYN-ACK has reached the sender of ``segment``.  A UDP carrier has none: then True."""
        isn, ack = add(segment.seq, -1 - place.sent), add(segment.ack, -1 - place.received)
        return segment.key.udp or self._cookie.check(segment.key, isn, ack, now)

    def _answer(
        self,
        now: float,
        accepting: Accepting,
        segment: Segment,
        holder: Holder,
        message: HelloMessage | JoinMessage,
    ) -> bytes:
        """The answer to a hello or join.  b"" = there is none.  Raises ``Malformed``."""
        payload = bytes(segment.payload)
        entry = self.half_open.find(payload)
        if entry is None:
            made = (
                self._join(now, accepting, holder, message, payload)
                if isinstance(message, JoinMessage)
                else self._hello(now, accepting, segment, holder, message, payload)
            )
            if isinstance(made, bytes):
                return made
            self._remember(now, accepting, made)
            entry = made
        if isinstance(entry, Unreadable):
            raise Malformed("a hello that cannot be answered")
        entry.note(now, segment.key)
        size = JOIN_ANSWER_SIZE if entry.joined else ANSWER_SIZE
        end, heard = add(segment.seq, len(payload)), add(segment.ack, size)
        challenge = entry.challenge(segment.key, *((0, 0) if segment.key.udp else (end, heard)))
        if entry.joined:
            return holder.handshake.join_answer(entry.keys, entry.number, challenge)
        return holder.handshake.challenged(entry.sealed, challenge)

    def _remember(self, now: float, accepting: Accepting, entry: HalfOpen | Unreadable) -> None:
        if self.half_open.put(entry):
            accepting.context.counters["half-open entries that gave way to later ones"] += 1
        accepting.context.deadlines.set_if_unset(Timer.HALF_OPEN, None, now + MAX_AGE)

    def _hello(
        self,
        now: float,
        accepting: Accepting,
        segment: Segment,
        holder: Holder,
        message: HelloMessage,
        payload: bytes,
    ) -> HalfOpen | Unreadable | bytes:
        """The entry for a new hello, or the answer that asks for a cookie."""
        parameters, rng, counters = accepting.parameters, accepting.context.rng, accepting.context.counters
        fresh = self._hello_cookies.check(now, segment.key, message.cookie)
        admission = self.half_open.admit(now, _source(holder, segment.key), fresh=fresh)
        if admission is Admission.LIMITED:
            counters["hellos above the rate limit"] += 1
            return holder.handshake.want_cookie(payload, NO_COOKIE)
        if admission is Admission.NEEDS_COOKIE:
            counters["hellos that were asked for a cookie"] += 1
            return holder.handshake.want_cookie(payload, self._hello_cookies.make(now, segment.key))
        try:
            hello = holder.handshake.read_hello(message, rng)
        except Malformed:
            return Unreadable(payload, holder.identity, now, fresh)
        if hello.offer.mss < SMALLEST_PAYLOAD:
            return Unreadable(payload, holder.identity, now, fresh)
        status = Status.WELCOME
        if hello.offer.cipher is not parameters.cipher:
            status = Status.CIPHER
        elif not accepting.has_room():
            status = Status.FULL
        session_id = accepting.context.random(8)
        answer = Answer(status, parameters.cipher, session_id, len(parameters.targets), parameters.shard)
        sealed, keys = holder.handshake.answer(hello, answer)
        return HalfOpen(
            payload,
            holder.identity,
            session_id,
            -1,
            hello.offer,
            keys,
            seed=rng(16),
            sealed=sealed,
            since=now,
            fresh=fresh,
            before=message.place.sent,
            welcome=status is Status.WELCOME,
        )

    def _join(
        self, now: float, accepting: Accepting, holder: Holder, join: JoinMessage, payload: bytes
    ) -> HalfOpen | bytes:
        """The entry for a new join, or that its session is gone.  b"" = no answer.  Raises ``Malformed``."""
        session = accepting.sessions_by_id.get(join.session_id)
        if session is None:
            return holder.handshake.gone(join)
        if session.identity.name != holder.identity.name:
            raise Malformed("join to the session of another client")
        offer = holder.handshake.read_join(session.keys, join)
        used = not session.numbers.may_accept(join.number)
        if used or offer.mss < SMALLEST_PAYLOAD or len(session.flows) >= MAX_FLOWS:
            raise Malformed("join with a number used before, or for one flow too many")
        source = b"session" + join.session_id.to_bytes(8, "big")
        if self.half_open.admit(now, source, fresh=True) is not Admission.ADMITTED:
            accepting.context.counters["joins above the rate limit"] += 1
            return b""
        session.numbers.accept(join.number)
        seed = accepting.context.rng(16)
        return HalfOpen(
            payload,
            holder.identity,
            join.session_id,
            join.number,
            offer,
            session.keys,
            seed,
            sealed=b"",
            since=now,
            fresh=True,
        )

    def _confirmed(
        self,
        now: float,
        accepting: Accepting,
        segment: Segment,
        reply_to: bytes,
        holder: Holder,
        confirm: ConfirmMessage,
    ) -> None:
        """Our challenge came back under the session's keys: the address is real, and the client has the secret."""
        counters = accepting.context.counters
        self.half_open.expire(now)
        entry = self.half_open.named(confirm.session_id, confirm.number)
        if entry is None or entry.identity.name != holder.identity.name:
            counters["confirmations of nothing"] += 1
            return
        challenge = entry.challenge(segment.key, segment.seq, segment.ack)
        if not hmac.compare_digest(holder.handshake.read_confirm(entry.keys, confirm), challenge):
            counters["confirmations from elsewhere"] += 1  # its sender has not proved its address
            return
        session = accepting.sessions_by_id.get(entry.session_id)
        is_new = session is None
        if session is None:
            if entry.joined or not accepting.make_room(now):
                return
            session = accepting.begin_session(now, entry.session_id, entry.keys, segment.key, holder.identity)
        if not entry.joined and not session.numbers.accept(confirm.number):
            return
        self.half_open.remove(entry)
        session.identity = holder.identity  # the client may have changed its secret
        flow = _accept(now, accepting, segment, session, entry, confirm.number)
        _ready(accepting, flow, reply_to)
        if is_new:
            _tell(accepting, flow, messages.SeenAs(_mapped(segment.key.remote), segment.key.remote_port), reply_to)

    # -- flows

    def unopened(
        self, now: float, accepting: Accepting, flow: Established, segment: Segment, received: Packet | Carried
    ) -> None:
        """See ``ServerWire``.

        It is the confirmation again, because our answer was lost, or a payload of a new client behind the same NAT.
        """
        reply_to = link_header(received)
        if flow.pump.received_frames == 0 and self._confirms(flow, segment):
            _ready(accepting, flow, reply_to)
        else:
            self._first_payload(now, accepting, segment, reply_to)

    def _confirms(self, flow: Established, segment: Segment) -> bool:
        """Whether the payload is the confirmation that opened ``flow``, or looks like it."""
        try:
            _, message = self._holders.read_untrusted(segment.payload)
        except Malformed:
            return False
        return isinstance(message, ConfirmMessage) and message[:2] == (flow.session.session_id, flow.flow_id)

    # -- secrets that come and go

    def use_parameters(self, now: float, accepting: Accepting, parameters: object) -> None:
        """See ``ServerWire``.  The sessions of a secret that is not valid any more end."""
        if not isinstance(parameters, NativeParameters):
            raise TypeError("parameters of another wire")
        self._holders = Holders(parameters, self._time_of_day, self._holders)
        self.half_open.keep(lambda identity: self._holders.now_of(identity) is not None)
        for session in accepting.sessions:
            identity = self._holders.now_of(session.identity)
            if identity is None:
                accepting.dismiss(now, session, "its secret is not valid any more")
            else:
                session.identity = identity

    # -- rekeys

    def control(self, now: float, accepting: Accepting, flow: Established, message: object) -> bool:
        """See ``ServerWire``.  The client asks for the next epoch."""
        if not isinstance(message, Rekey):
            return False
        try:
            answer = native_keys(flow.session.keys).answering.answer(message, accepting.context.rng)
        except Malformed:
            accepting.context.counters["malformed control messages"] += 1
            return True
        if answer is not None:
            accepting.table.answer(now, flow.session, answer)
        return True

    def want_keys(self, now: float, session: Session) -> None:
        """See ``ServerWire``.  Only the client can begin: the next sweep tells it."""
        native_keys(session.keys).answering.wanted = True

    def sweep(self, now: float, accepting: Accepting, session: Session) -> None:
        """See ``ServerWire``.  Forget the keys of an epoch that is over."""
        keys = native_keys(session.keys)
        keys.ring.sweep(now)
        if keys.answering.wanted:
            accepting.table.tell(session, RekeyWanted())

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
                accepting.table.answer(now, session, messages.CloseConversation(number))
                return
            conversation = accepting.open_conversation(now, session, number, target)
        if conversation is not None and datagrams:
            accepting.table.answer(now, session, messages.Opened(number))
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
    mss, scale = entry.offer.mss, entry.offer.window_scale
    isn = 0 if segment.key.udp else add(segment.seq, -1 - entry.before - len(entry.message))
    old = accepting.table.get(segment.key)
    if old is not None:
        accepting.evict(now, old, "its addresses and ports were used again")
    received = add(segment.seq, len(segment.payload))
    window = segment.window << (scale or 0)
    start = Handover(segment.ack, received, scale, window, 0, accepting.context.random(2))
    flow = accepting.accept(now, session, Proved(number, segment.key, mss, isn, start))
    answered = entry.answered.get(segment.key)
    if answered is not None:
        flow.health.sample(max(now - answered, 0.0))
    return flow


def _ready(accepting: Accepting, flow: Established, reply_to: bytes) -> None:
    _tell(accepting, flow, messages.Ready(), reply_to)


def _tell(accepting: Accepting, flow: Established, message: messages.Control, reply_to: bytes) -> None:
    burst = accepting.table.pump.send_control(flow.pump, message)
    accepting.context.outbox.send([burst._replace(reply_to=reply_to)])


def _mapped(address: bytes) -> bytes:
    """16 bytes: see ``messages.SeenAs``."""
    return address if len(address) == 16 else bytes(10) + b"\xff\xff" + address


def _reply(accepting: Accepting, segment: Segment, reply_to: bytes, payload: bytes) -> None:
    """Answer a stranger over the way that the segment came, with the sequence numbers that the segment names."""
    if segment.key.udp:
        accepting.context.outbox.send([Outgoing(b"", [payload], len(payload), 0, carrier=segment.key)])
        return
    template = HeaderTemplate(segment.key, accepting.context.random(2))
    ack = add(segment.seq, len(segment.payload))
    headers = template.build(segment.ack, ack, PSH | ACK, OUR_WINDOW, len(payload))
    accepting.context.outbox.send([Outgoing(headers, [payload], len(payload), 0, reply_to)])


def _source(holder: Holder, flow: FlowKey) -> bytes:
    """Whose bucket counts: clients do not use up what others are allowed, not even behind one address."""
    return holder.identity.name.encode() + b"@" + source_of(flow)


def _of_opening(frames: Frames) -> tuple[int, list[Buffer]]:
    """(index of the target, datagrams) of opening frames.  -1 = none of them is long enough to name a target."""
    whole = [body for body in frames.datagrams if len(body) >= LIMITS.opening_bytes]
    target = int.from_bytes(whole[-1][: LIMITS.opening_bytes], "big") if whole else -1
    return target, [body[LIMITS.opening_bytes :] for body in whole]
