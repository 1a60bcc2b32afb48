"""The server: answers SYNs, hellos and joins without state, and opens flows on confirmation.

A stranger's way: SYN → SYN-ACK whose number is a cookie → a payload that must be a hello or
a join (nothing else is answered) → the answer → a confirmation that echoes its challenge.
Only then is there a session, a flow, and a conversation toward the target.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable
from ipaddress import ip_address

from rsock_nf.core import messages
from rsock_nf.core.cookie import Cookie
from rsock_nf.core.events import ConversationClosed, ConversationOpened, Follow, Forget, SessionDown, SessionUp
from rsock_nf.core.flow import Flow, Input, State
from rsock_nf.core.half_open import MAX_AGE, HalfOpen, HalfOpenTable, Said
from rsock_nf.core.node import SWEEP, Node
from rsock_nf.core.parameters import OnProbe, ServerParameters
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
from rsock_nf.core.pump import OUR_SCALE, OUR_WINDOW, FlowGroup, PumpConversation, SlowPayload
from rsock_nf.core.segment import (
    ACK,
    DEFAULT_MSS,
    PSH,
    RST,
    SYN,
    HeaderTemplate,
    Segment,
    SynOptions,
    build_syn_ack,
    parse_segment,
    parse_syn_options,
)
from rsock_nf.core.session import Session
from rsock_nf.core.timers import Timer
from rsock_nf.core.types import Buffer, Endpoint, Malformed, Outgoing, Packet, Run

_MASK = 0xFFFFFFFF
SESSION_LINGER = 600.0
"""Seconds that a session without flows and conversations is kept."""
MAX_FLOWS = 1024
"""Of one session."""
SMALLEST_PAYLOAD = 256
"""A client that states a smaller MSS than this is turned away: nothing useful fits."""


class Server(Node):
    """See the module."""

    initiator = False

    def __init__(
        self, parameters: ServerParameters, handshake: Handshake, rng: Rng, *, mtu: int, max_burst_bytes: int
    ) -> None:
        super().__init__(parameters, handshake, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self._config = parameters
        self._cookie = Cookie(rng(32))
        self._half_open = HalfOpenTable()
        self._stopping = False
        self.sessions: dict[int, Session] = {}
        self._followed: Counter[bytes] = Counter()
        """Remote addresses, by how many flows lead there."""

    def stop(self, now: float) -> None:
        """The process ends: tell every client, close every flow, take no new ones."""
        self._stopping = True
        for session in list(self.sessions.values()):
            for _ in range(2):  # a lost one costs the client only time
                self._tell(session, messages.CloseSession())
        for flow in list(self._flows.values()):
            self._step(now, flow, Input.CLOSE, "this side ends")

    def followed(self) -> list[bytes]:
        """The packed addresses that flows lead to."""
        return list(self._followed)

    def give_up_flows(self, now: float) -> None:
        """Close every flow; their clients dial new ones."""
        for flow in list(self._flows.values()):
            self._step(now, flow, Input.CLOSE, "asked to reconnect")

    def socket_refused(self, now: float, peer: object, reason: str) -> None:  # noqa: ARG002 - for the log
        """The driver could not open the socket of ``ConversationOpened``."""
        conversation = self.pump.conversation(peer)
        if conversation is not None:
            session = conversation.group.owner
            if isinstance(session, Session):
                self._tell(session, messages.Refused(conversation.number, messages.RefusalReason.SOCKET))
            self._end_conversation(conversation)

    # -- strangers

    def _stranger(self, now: float, packet: Packet, segment: Segment) -> None:
        if segment.flags & RST or self._stopping:
            return
        if segment.flags & SYN:
            if not segment.flags & ACK:
                self._syn(now, packet, segment)
        elif segment.payload:
            self._first_payload(now, packet, segment)

    def _syn(self, now: float, packet: Packet, segment: Segment) -> None:
        """Answer as a listening Linux would, and remember nothing."""
        try:
            asked = parse_syn_options(segment.options)
        except Malformed:
            self.counters["malformed SYNs"] += 1
            return
        own = self._link_payload(segment.key)
        offer = SynOptions(
            min(own, asked.mss or DEFAULT_MSS),
            None if asked.window_scale is None else OUR_SCALE,
            asked.sack_permitted,
        )
        isn = self._cookie.isn(segment.key, segment.seq, now)
        headers = build_syn_ack(segment.key, isn, (segment.seq + 1) & _MASK, offer)
        self._out.append(Outgoing(headers, [], 0, 0, packet.link_header))

    def _first_payload(self, now: float, packet: Packet, segment: Segment) -> None:
        """A hello, a join, or a confirmation; anything else is treated as ``on_probe`` says.

        What costs least is asked first: a hello costs a Diffie-Hellman only behind a handshake that proved the
        address, below the rate limit, and once.
        """
        isn = (segment.seq - 1) & _MASK
        first = self._cookie.check(segment.key, isn, (segment.ack - 1) & _MASK, now)
        digest = hashlib.sha256(segment.payload).digest() if first else b""
        known = self._half_open.find(digest) if first else None
        if known is None and first and not self._half_open.allow(now, segment.key.remote):
            self._turn_away(packet, segment, "hellos above the rate limit")
            return
        try:
            answer = known.answer if known else self._answer(now, packet, segment, digest)
        except Malformed:
            self._turn_away(packet, segment, "payloads from strangers")
            return
        if not answer:
            return
        entry = self._half_open.find(digest)
        if entry is not None:
            seq = (segment.seq + len(segment.payload)) & _MASK
            entry.heard_from(segment.key, Said(isn, seq, (segment.ack + len(answer)) & _MASK, now))
            self._deadlines.set_if_unset(Timer.HALF_OPEN, None, now + MAX_AGE)
        self._reply(packet, segment, answer)

    def _answer(self, now: float, packet: Packet, segment: Segment, digest: bytes) -> bytes:
        """To a payload that was not answered before; b"" = none is due.  ``digest`` b"": not the first of its flow.

        Raises ``Malformed``.
        """
        message = self._handshake.read_untrusted(segment.payload, self._rng, hello=bool(digest))
        if isinstance(message, ConfirmMessage):
            self._confirmed(now, packet, segment, message)
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
            self._half_open.put(entry)
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
        self._half_open.put(entry)
        return message

    def _confirmed(self, now: float, packet: Packet, segment: Segment, confirm: ConfirmMessage) -> None:
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
            session = self._new_session(now, entry, segment)
        if not entry.joined and not session.numbers.accept(confirm.number):
            return
        self._half_open.remove(entry)
        old = self._flows.get(segment.key)
        if old is not None:
            self._step(now, old, Input.DEAD, "its addresses and ports were used again")
            self._discard(now, old, "its addresses and ports were used again")
        self._open(now, packet, segment, session, entry, confirm.number)

    def _new_session(self, now: float, entry: HalfOpen, segment: Segment) -> Session:
        group = FlowGroup(None)
        peer = str(_endpoint(segment))
        session = Session(entry.session_id, entry.keys, self._config.cipher, group, now, peer=peer)
        group.owner = session
        self.sessions[entry.session_id] = session
        self._events.append(SessionUp(entry.session_id, peer))
        return session

    def _open(
        self, now: float, packet: Packet, segment: Segment, session: Session, entry: HalfOpen, number: int
    ) -> None:
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
        self._flows[segment.key] = flow
        self._pump_flow(flow, session)
        session.peer = str(_endpoint(segment))
        self._followed[segment.key.remote] += 1
        if self._followed[segment.key.remote] == 1:
            self._events.append(Follow(segment.key.remote))
        self._ready(flow, packet)
        self._establish(now, flow)

    def _ready(self, flow: Flow, packet: Packet) -> None:
        if flow.pump:
            burst = self.pump.send_control(flow.pump, messages.Ready())
            self._out.append(burst._replace(reply_to=packet.link_header))

    def _reply(self, packet: Packet, segment: Segment, payload: bytes) -> None:
        """Answer a stranger where the segment came from; sequence numbers are the segment's own."""
        template = HeaderTemplate(segment.key, int.from_bytes(self._rng(2), "big"))
        ack = (segment.seq + len(segment.payload)) & _MASK
        headers = template.build(segment.ack, ack, PSH | ACK, OUR_WINDOW, len(payload))
        self._out.append(Outgoing(headers, [payload], len(payload), 0, packet.link_header))

    def _turn_away(self, packet: Packet, segment: Segment, reason: str) -> None:
        """Silence or, with ``on_probe: closed``, what a kernel without a listener says (RFC 9293 section 3.10.7.1)."""
        self.counters[reason] += 1
        if self._config.on_probe is not OnProbe.CLOSED or segment.key in self._flows:
            return
        headers = HeaderTemplate(segment.key).build(segment.ack, 0, RST, 0, 0)
        self._out.append(Outgoing(headers, [], 0, 0, packet.link_header))

    # -- flows

    def _odd(self, now: float, flow: Flow, packet: Packet, segment: Segment) -> None:
        """A SYN on the addresses of a live flow: a NAT has given them to somebody new, or it is the old one again.

        The old one gets a challenge ACK (RFC 5961 section 4): to a SYN-ACK, trackers would start over with us.
        """
        if segment.flags & SYN and not segment.flags & ACK:
            if segment.seq == flow.isn and flow.pump:
                self._out.append(self.pump.acknowledge(flow.pump))
            else:
                self._syn(now, packet, segment)
        else:
            self.counters["odd segments"] += 1

    def _unopened(self, now: float, item: SlowPayload) -> None:
        """Nothing authenticates: the confirmation again, since our answer was lost, or a new client behind this NAT."""
        try:
            segment = parse_segment(item.packet)
        except Malformed:
            self.counters["payloads that do not authenticate"] += 1
            return
        flow = self._flows.get(segment.key)
        if flow is not None and item.flow.received_frames == 0 and self._confirms(flow, segment):
            self._ready(flow, item.packet)
        else:
            self._first_payload(now, item.packet, segment)

    def _confirms(self, flow: Flow, segment: Segment) -> bool:
        """It is the confirmation that opened ``flow``, or looks like it."""
        try:
            message = self._handshake.read_untrusted(segment.payload, self._rng, hello=False)
        except Malformed:
            return False
        session_id = flow.session.session_id if flow.session else -1
        return isinstance(message, ConfirmMessage) and message[:2] == (session_id, flow.flow_id)

    def _handshaking(self, now: float, flow: Flow, segment: Segment) -> None:  # noqa: ARG002
        raise AssertionError("a server's flows are established from the first")

    def _discard(self, now: float, flow: Flow, reason: str) -> None:
        if self._flows.get(flow.key) is flow:
            remote = flow.key.remote
            self._followed[remote] -= 1
            if self._followed[remote] <= 0:
                del self._followed[remote]
                self._events.append(Forget(remote))
        super()._discard(now, flow, reason)

    def _turned_sick(self, now: float, flow: Flow) -> None:  # noqa: ARG002 - as the base has it
        """Only the client can replace it: say so, on the flow itself where there is no other."""
        if flow.session is None or flow.pump is None:
            return
        usable = flow.session.group.usable
        alone = usable == [flow.pump]
        if flow.pump in usable and not alone:
            usable.remove(flow.pump)
        self._tell(flow.session, messages.FlowDown(flow.flow_id), avoid=None if alone else flow)

    def _judge(self, now: float, flow: Flow) -> None:
        """Also: what the client was told may have been lost."""
        if flow.sick:
            self._turned_sick(now, flow)
        super()._judge(now, flow)

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
        self._runs.append(Run(conversation.peer, datagrams, len(datagrams[0])))

    def _open_conversation(self, now: float, session: Session, number: int, target: int) -> PumpConversation | None:
        if not 0 <= target < len(self._config.targets):
            self._tell(session, messages.Refused(number, messages.RefusalReason.NO_TARGET))
            return None
        if len(self._moved) >= self._config.max_conversations:
            self._tell(session, messages.Refused(number, messages.RefusalReason.LIMIT))
            return None
        peer = (session.session_id, number)
        conversation = PumpConversation(session.group, number, peer, target=target, opening=False)
        self._put_conversation(now, conversation)
        self._events.append(ConversationOpened(peer, target))
        return conversation

    def _slow_run(self, now: float, run: Run) -> None:
        """From a target: larger than a segment, or no flow is up."""
        conversation = self.pump.conversation(run.peer)
        if conversation is None:
            self.counters["data from a closed conversation"] += len(run.datagrams)
        elif not conversation.group.usable:
            self.counters["data while no flow is up"] += len(run.datagrams)
        else:
            self._send_large(now, conversation, run)

    def _expire_conversation(self, now: float, conversation: PumpConversation) -> None:  # noqa: ARG002
        session = conversation.group.owner
        if isinstance(session, Session):
            self._tell(session, messages.CloseConversation(conversation.number))
        self._end_conversation(conversation)

    def _end_conversation(self, conversation: PumpConversation) -> None:
        super()._end_conversation(conversation)
        self._events.append(ConversationClosed(conversation.peer))

    # -- sessions

    def _session_closed(self, now: float, session: Session) -> None:
        """The client said goodbye."""
        self._end_session(now, session, "the client ended it", tell=False)

    def _end_session(self, now: float, session: Session, reason: str, *, tell: bool) -> None:
        if self.sessions.pop(session.session_id, None) is None:
            return
        if tell:
            self._tell(session, messages.CloseSession())
        for flow in list(session.flows.values()):
            self._step(now, flow, Input.CLOSE, reason)
        for conversation in list(session.group.conversations.values()):
            self._end_conversation(conversation)
        self._events.append(SessionDown(session.session_id, reason))

    def _has_room(self) -> bool:
        """For another session, be it in the place of one that has no flow."""
        full = len(self.sessions) >= self._config.max_sessions
        return not full or any(not session.flows for session in self.sessions.values())

    def _make_room(self, now: float) -> bool:
        """A new client has proved itself: where there is no room, the session that was longest without a flow goes."""
        if not self._has_room():
            return False
        if len(self.sessions) >= self._config.max_sessions:
            unused = [session for session in self.sessions.values() if not session.flows]
            self._end_session(now, min(unused, key=lambda session: session.used), "made room for another", tell=False)
        return True

    def _timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        if timer is Timer.HALF_OPEN:
            self._half_open.expire(now)
            if len(self._half_open):
                self._deadlines.set(Timer.HALF_OPEN, None, now + SWEEP)
        else:
            super()._timeout(now, timer, key)

    def _sweep(self, now: float) -> None:
        super()._sweep(now)
        for session in list(self.sessions.values()):
            session.reassembly.expire(now)
            if session.flows or session.group.conversations:
                session.used = now
            elif now - session.used >= SESSION_LINGER:
                self._end_session(now, session, "unused", tell=False)
        if self.sessions:
            self._deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)


def _endpoint(segment: Segment) -> Endpoint:
    return Endpoint(ip_address(segment.key.remote), segment.key.remote_port)
