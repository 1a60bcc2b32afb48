"""The server of the native wire: hellos and joins are answered almost without state, and confirmed before they count.

A stranger's payload, behind a SYN-ACK whose number is a cookie, must be a hello or a join (nothing else is answered) →
the answer, with a challenge → a confirmation that echoes it.  Only then is there a session, and a flow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

from rsock_nf.core import messages
from rsock_nf.core.ends.flows import SWEEP
from rsock_nf.core.ends.server import Server
from rsock_nf.core.flows.flow import Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.protocols import (
    Answer,
    ConfirmMessage,
    Frames,
    Handshake,
    HelloMessage,
    JoinMessage,
    Kind,
    Rng,
    Status,
)
from rsock_nf.core.pump.state import OUR_WINDOW, PumpFlow
from rsock_nf.core.tcp.segment import ACK, PSH, HeaderTemplate, Segment
from rsock_nf.core.types import Buffer, Malformed, Outgoing, Run
from rsock_nf.wire.native.half_open import MAX_AGE, HalfOpen, HalfOpenTable, Said

_MASK = 0xFFFFFFFF
MAX_FLOWS = 1024
"""Of one session."""
SMALLEST_PAYLOAD = 256
"""A client that states a smaller MSS than this is turned away: nothing useful fits."""


class NativeServer(Server):
    """See the module."""

    def __init__(
        self, parameters: ServerParameters, handshake: Handshake, rng: Rng, *, mtu: int, max_burst_bytes: int
    ) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self._handshake = handshake
        self._half_open = HalfOpenTable()

    # -- strangers

    def _first_payload(self, now: float, segment: Segment, link_header: bytes) -> None:
        """A hello, a join, or a confirmation; anything else is treated as ``on_probe`` says.

        What costs least is asked first: a hello costs a Diffie-Hellman only behind a handshake that proved the
        address, below the rate limit, and once.  On a UDP carrier nothing has proved the address: the rate limit is asked
        last, by what somebody with the secret has made, lest strangers use up what is allowed to another address.
        """
        udp = segment.key.udp
        isn = (segment.seq - 1) & _MASK
        first = udp or self._cookie.check(segment.key, isn, (segment.ack - 1) & _MASK, now)
        digest = hashlib.sha256(segment.payload).digest() if first else b""
        known = self._half_open.find(digest) if first else None
        if known is None and first and not udp and not self._half_open.allow(now, segment.key.remote):
            self._turn_away(segment, link_header, "hellos above the rate limit")
            return
        try:
            answer = known.answer if known else self._answer(now, segment, link_header, digest)
        except Malformed:
            # Behind no handshake of ours: a client of ours whose NAT address changed, or whose flow ended here.
            self._turn_away(segment, link_header, "payloads from strangers" if first else "payloads of no flow")
            return
        if not answer:
            return
        entry = self._half_open.find(digest)
        if entry is not None:
            seq, ack = (segment.seq + len(segment.payload)) & _MASK, (segment.ack + len(answer)) & _MASK
            entry.heard_from(segment.key, Said(0, 0, 0, now) if udp else Said(isn, seq, ack, now))
            self._deadlines.set_if_unset(Timer.HALF_OPEN, None, now + MAX_AGE)
        self._reply(segment, link_header, answer)

    def _answer(self, now: float, segment: Segment, link_header: bytes, digest: bytes) -> bytes:
        """To a payload that was not answered before; b"" = none is due.  ``digest`` b"": not the first of its flow.

        Raises ``Malformed``.
        """

        def admit() -> bool:
            return bool(digest) and (not segment.key.udp or self._half_open.allow(now, segment.key.remote))

        message = self._handshake.read_untrusted(segment.payload, self._rng, admit=admit)
        if isinstance(message, ConfirmMessage):
            self._confirmed(now, segment, link_header, message)
            return b""
        if not digest:
            self.counters["hellos without a handshake"] += 1
            return b""
        if isinstance(message, JoinMessage):
            return self._join(now, message, digest)
        return self._hello(now, message, digest)

    def _hello(self, now: float, hello: HelloMessage, digest: bytes) -> bytes:
        if hello.offer.mss < SMALLEST_PAYLOAD:
            raise Malformed(f"hello with an MSS of {hello.offer.mss}")
        status = Status.WELCOME
        if hello.offer.cipher is not self._config.cipher:
            status = Status.CIPHER
        elif not self._has_room():
            status = Status.FULL
        session_id = int.from_bytes(self._rng(8), "big")
        challenge = self._rng(16)
        answer = Answer(status, self._config.cipher, session_id, challenge, len(self._config.targets))
        message, keys = self._handshake.answer(hello, answer)
        if status is Status.WELCOME:
            entry = HalfOpen(session_id, -1, hello.offer, keys, challenge, message, digest, now, joined=False)
            self._remember(entry)
        return message

    def _join(self, now: float, join: JoinMessage, digest: bytes) -> bytes:
        session = self.sessions.get(join.session_id)
        if session is None:
            return self._handshake.gone(join)
        offer = self._handshake.read_join(session.keys, join)
        if offer.mss < SMALLEST_PAYLOAD or len(session.flows) >= MAX_FLOWS or not session.numbers.accept(join.number):
            raise Malformed("join with a number used before, or for one flow too many")
        challenge = self._rng(16)
        message = self._handshake.join_answer(session.keys, join.number, challenge)
        entry = HalfOpen(
            join.session_id, join.number, offer, session.keys, challenge, message, digest, now, joined=True
        )
        self._remember(entry)
        return message

    def _remember(self, entry: HalfOpen) -> None:
        if self._half_open.put(entry):
            self.counters["half-open entries that gave way to later ones"] += 1

    def _confirmed(self, now: float, segment: Segment, link_header: bytes, confirm: ConfirmMessage) -> None:
        """Our challenge came back under the session's keys: this address is real, this client has the secret."""
        self._half_open.expire(now)
        entry = self._half_open.named(confirm.session_id, confirm.number)
        if entry is None:
            self.counters["confirmations of nothing"] += 1
            return
        if self._handshake.read_confirm(entry.keys, confirm) != entry.challenge:
            raise Malformed("another challenge than ours")
        said = entry.said_by.get(segment.key)
        if said is None or (segment.seq, segment.ack) != (said.seq, said.ack):
            self.counters["confirmations from elsewhere"] += 1  # who says it has proved no address
            return
        session = self.sessions.get(entry.session_id)
        if session is None:
            if entry.joined or not self._make_room(now):
                return
            session = self._new_session(now, entry.session_id, entry.keys, segment.key)
        if not entry.joined and not session.numbers.accept(confirm.number):
            return
        self._half_open.remove(entry)
        old = self._flows.get(segment.key)
        if old is not None:
            self._step(now, old, Input.DEAD, "its addresses and ports were used again")
            self._discard(now, old, "its addresses and ports were used again")
        self._ready(self._open(now, segment, session, entry, confirm.number), link_header)

    def _open(self, now: float, segment: Segment, session: Session, entry: HalfOpen, number: int) -> Flow:
        flow = Flow(number, segment.key, state=State.ESTABLISHED, identification=int.from_bytes(self._rng(2), "big"))
        said = entry.said_by[segment.key]
        flow.isn = said.isn
        if said.answered is not None:
            flow.health.sample(max(now - said.answered, 0.0))
        flow.mss = min(entry.offer.mss, self._link_payload(segment.key))
        flow.scale = entry.offer.window_scale
        flow.next_seq = segment.ack
        flow.received = (segment.seq + len(segment.payload)) & _MASK
        flow.window = segment.window << (flow.scale or 0)
        self._accept(now, flow, session)
        return flow

    def _ready(self, flow: Flow, link_header: bytes) -> None:
        if flow.pump:
            burst = self.pump.send_control(flow.pump, messages.Ready())
            self._outbox.send([burst._replace(reply_to=link_header)])

    def _reply(self, segment: Segment, link_header: bytes, payload: bytes) -> None:
        """Answer a stranger where the segment came from; sequence numbers are the segment's own."""
        if segment.key.udp:
            self._outbox.send([Outgoing(b"", [payload], len(payload), 0, carrier=segment.key)])
            return
        template = HeaderTemplate(segment.key, int.from_bytes(self._rng(2), "big"))
        ack = (segment.seq + len(segment.payload)) & _MASK
        headers = template.build(segment.ack, ack, PSH | ACK, OUR_WINDOW, len(payload))
        self._outbox.send([Outgoing(headers, [payload], len(payload), 0, link_header)])

    # -- flows

    def _unopened(self, now: float, pump: PumpFlow, segment: Segment, link_header: bytes) -> None:
        """Nothing authenticates: the confirmation again, since our answer was lost, or a new client behind this NAT."""
        flow = self._flows.get(segment.key)
        if flow is not None and pump.received_frames == 0 and self._confirms(flow, segment):
            self._ready(flow, link_header)
        else:
            self._first_payload(now, segment, link_header)

    def _confirms(self, flow: Flow, segment: Segment) -> bool:
        """It is the confirmation that opened ``flow``, or looks like it."""
        try:
            message = self._handshake.read_untrusted(segment.payload, self._rng, admit=lambda: False)
        except Malformed:
            return False
        session_id = flow.session.session_id if flow.session else -1
        return isinstance(message, ConfirmMessage) and message[:2] == (session_id, flow.flow_id)

    # -- conversations

    def _unknown_data(self, now: float, session: Session, frames: Frames) -> None:
        """An opening frame makes the conversation; plain data of one that ended is told so."""
        if frames.kind != Kind.OPENING:
            self.counters["data for no conversation"] += len(frames.datagrams)
            self._tell(session, messages.CloseConversation(frames.conversation))
            return
        datagrams: list[Buffer] = []
        target = -1
        for body in frames.datagrams:
            if len(body) >= 2:
                target = int.from_bytes(body[:2], "big")
                datagrams.append(body[2:])
        conversation = session.group.conversations.get(frames.conversation)
        if conversation is None:
            conversation = self._open_conversation(now, session, frames.conversation, target)
        if conversation is None or not datagrams:
            return
        self._tell(session, messages.Opened(frames.conversation))
        conversation.received_datagrams += len(datagrams)
        conversation.received_bytes += sum(map(len, datagrams))
        self._outbox.deliver([Run(conversation.peer, datagrams, len(datagrams[0]))])

    # -- the rest

    def _timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        if timer is Timer.HALF_OPEN:
            self._half_open.expire(now)
            if len(self._half_open):
                self._deadlines.set(Timer.HALF_OPEN, None, now + SWEEP)
        else:
            super()._timeout(now, timer, key)
