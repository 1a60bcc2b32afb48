"""The server's role: it answers SYNs and keeps nothing, has sessions, and opens conversations toward targets.

A stranger's way: SYN → SYN-ACK whose number is a cookie → a payload, which the wire handles (on a UDP carrier it
comes first) → a session and a flow (``accept``) → a conversation (``open_conversation``).

Not here: which payload proves a client (``ServerWire``), and the sockets toward targets (the driver opens them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol

from rsock_nf.core import messages
from rsock_nf.core.ends.allowed import Allowed
from rsock_nf.core.ends.crowding import Crowd, Crowding
from rsock_nf.core.ends.moving import Moves
from rsock_nf.core.ends.parts import Parts
from rsock_nf.core.ends.top_sources import TopSources
from rsock_nf.core.ends.wire import Wire
from rsock_nf.core.events import ConversationClosed, ConversationOpened, Follow, Forget, SessionDown, SessionUp
from rsock_nf.core.flows.opening import Opening
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Action, Input, State
from rsock_nf.core.flows.table import Flow
from rsock_nf.core.flows.timers import SWEEP, Timer
from rsock_nf.core.identity import ANYBODY, Identity
from rsock_nf.core.parameters import SPEEDTEST_TARGET, OnProbe, ServerParameters, adopt
from rsock_nf.core.protocols import Frames, SessionKeys
from rsock_nf.core.pump.state import OUR_SCALE, Handover, PumpConversation
from rsock_nf.core.tcp.segment import (
    ACK,
    DEFAULT_MSS,
    FIN,
    RST,
    SYN,
    HeaderTemplate,
    Segment,
    SynOptions,
    build_syn_ack,
    fitting,
    parse_syn_options,
)
from rsock_nf.core.tcp.sequence import add
from rsock_nf.core.types import Carried, FlowKey, Malformed, Outgoing, Packet, Run

SESSION_LINGER = 600.0
"""Seconds for which a session without flows and conversations is kept."""
STILLBORN_LINGER = 10.0
"""The same of a session on whose flows no frame ever came (``Session.carried``)."""
MAX_FLOWS = 1024
"""The most flows of one session."""
STRANGERS_WHILE_BEHIND = 2
"""Of one read.  While packets wait, most of a flood is dropped before it costs much, and a new client still comes
through."""
OPENING_FLAGS = SYN | ACK | RST | FIN
"""A segment that has only SYN of them opens a connection.  No host sends SYN with RST or FIN: that is not answered."""


class ServerWire(Wire, Protocol):
    """What the server's role asks of a wire.  ``accepting`` is the role that asks."""

    def initial_number(self, now: float, accepting: Accepting, segment: Segment, asked: SynOptions) -> int:
        """The sequence number with which the SYN ``segment`` is answered: a cookie (RFC 4987 section 3.6)."""

    def stranger(self, now: float, accepting: Accepting, segment: Segment, received: Packet | Carried) -> None:
        """A segment that belongs to no flow and is no SYN.  On a UDP carrier: a datagram that belongs to no flow."""

    def unopened(
        self, now: float, accepting: Accepting, flow: Established, segment: Segment, received: Packet | Carried
    ) -> None:
        """A payload came on ``flow`` in which nothing authenticates, or which is out of window."""

    def unknown_data(self, now: float, accepting: Accepting, session: Session, frames: Frames) -> None:
        """Authenticated data came for a conversation that is not open."""

    def control(self, now: float, accepting: Accepting, flow: Established, message: object) -> bool:
        """A control message that the role does not know.  False = it is not one of the wire's own."""

    def timeout(self, now: float, accepting: Accepting) -> None:
        """The HALF_OPEN timer is due."""

    def use_parameters(self, now: float, accepting: Accepting, parameters: object) -> None:
        """The wire's parameters have changed: end the sessions of those who are not known any more."""

    def want_keys(self, now: float, session: Session) -> None:
        """Renew the keys of ``session`` soon."""

    def sweep(self, now: float, accepting: Accepting, session: Session) -> None:
        """Once a second for each session."""


class Proved(NamedTuple):
    """A flow whose client has authenticated."""

    flow_id: int
    key: FlowKey
    mss: int
    """The largest payload of one segment, as the client says."""
    peer_isn: int
    """The client's initial sequence number."""
    start: Handover
    """The numbers of the flow.  ``max_payload`` is filled in from ``mss`` and the link."""


class Accepting:
    """See the module."""

    strangers_while_behind = STRANGERS_WHILE_BEHIND

    def __init__(self, parameters: ServerParameters, wire: ServerWire, parts: Parts) -> None:
        self.parameters = parameters
        self.context = parts.context
        self.table = parts.table
        self.intake = parts.intake
        self.conversations = parts.conversations
        self._allowed = Allowed(parameters.allow)
        self.crowding = Crowding(parameters.max_conversations, parts.conversations)
        self.moves = Moves(parts.context, parts.table, parts.intake, parts.probing)
        self.strangers = TopSources()
        """Who sends what does not authenticate.  The wire notes it."""
        self.sessions_by_id: dict[int, Session] = {}
        self._wire = wire
        self._probing = parts.probing
        self._stopping = False
        self._followed: Counter[tuple[bytes, bytes]] = Counter()
        """Number of fake-TCP flows between each remote and each local address."""

    # -- the driver's verbs

    def stop(self, now: float) -> None:
        """The process ends: tell every client, close every flow, take no new ones."""
        self._stopping = True
        for session in self.sessions:
            self._farewell(session)
        for flow in self.table:
            self.table.step(now, flow, Input.CLOSE, "this side ends")
        self.table.settle()

    def use_parameters(self, now: float, of_each_wire: Sequence[ServerParameters]) -> None:
        """Follow the parameters as far as a running endpoint can (``adopt``).  ``of_each_wire``: here it is one.

        Flows of clients that are outside of ``allow`` now close.  Conversations with a target that is there no more
        end.  All others stay.
        """
        (wanted,) = of_each_wire
        self.parameters = self.context.parameters = parameters = adopt(self.parameters, wanted)
        self._allowed = Allowed(parameters.allow)
        for flow in self.table:
            if flow.key.remote not in self._allowed:
                self.table.step(now, flow, Input.CLOSE, "its client is outside of allow now")
        self.table.settle()
        self.crowding.use_limit(parameters.max_conversations)
        self.conversations.use_duration(parameters.duration)
        for session in self.sessions:
            for conversation in list(session.group.conversations.values()):
                if not self._serves(conversation.target):
                    self.expire(now, conversation)

    def use_secrets(self, now: float, secrets: object) -> None:
        """Other clients are known from now on.  ``secrets``: the wire's parameters.

        The sessions of those whose secret is not valid any more end; nothing changes for the others.
        """
        self._wire.use_parameters(now, self, secrets)
        self.table.settle()

    def kick(self, now: float, name: str) -> int:
        """End the sessions of the client that has this name; returns how many.  It may come back at once."""
        found = [session for session in self.sessions if session.identity.name == name]
        for session in found:
            self.dismiss(now, session, "the operator ended it")
        return len(found)

    def want_keys(self, now: float) -> None:
        """The host may have gone back to an earlier state: renew the keys of every session soon."""
        for session in self.sessions:
            self._wire.want_keys(now, session)

    def socket_refused(self, now: float, peer: object, reason: str) -> None:
        """The driver could not open the socket for ``ConversationOpened``."""
        conversation = self.table.pump.conversation(peer)
        if conversation is not None:
            refused = messages.Refused(conversation.number, messages.RefusalReason.SOCKET)
            self.table.tell(session_of(conversation), refused)
            self._end_conversation(conversation)

    def tell_target(self, now: float, target: int, *, refuses: bool) -> None:
        """Tell the clients that have conversations with ``target`` whether nobody listens there."""
        for session in self.sessions:
            if any(conversation.target == target for conversation in session.group.conversations.values()):
                self.table.tell(session, messages.TargetState(target, int(refuses)))

    def followed(self) -> list[tuple[bytes, bytes]]:
        """The packed addresses, remote and local, between which there are fake-TCP flows."""
        return list(self._followed)

    def crowds(self, now: float) -> list[Crowd]:
        """What an operator is told of conversations that make room for others."""
        return [self.crowding.crowd(now)]

    @property
    def sessions(self) -> list[Session]:
        """Every session, the oldest first."""
        return list(self.sessions_by_id.values())

    @property
    def stopping(self) -> bool:
        """The server takes no new flows."""
        return self._stopping

    # -- strangers

    def stranger(self, now: float, segment: Segment, received: Packet | Carried) -> None:
        """A segment that belongs to no flow.  On a UDP carrier: a datagram that belongs to no flow."""
        if segment.key.remote not in self._allowed:
            self.context.counters["packets from outside of allow"] += 1
        elif not segment.flags & SYN:
            self._wire.stranger(now, self, segment, received)
        elif segment.flags & OPENING_FLAGS == SYN and not self._stopping:
            self._syn(now, segment, link_header(received))

    def _syn(self, now: float, segment: Segment, reply_to: bytes) -> None:
        """Answer as a listening Linux would, and keep nothing.

        But no answer is larger than the SYN: its address may be forged, and belong to somebody else.
        """
        try:
            asked = parse_syn_options(segment.options)
        except Malformed:
            self.context.counters["malformed SYNs"] += 1
            return
        mss = min(self.table.link_payload(segment.key), asked.mss or DEFAULT_MSS)
        offer = SynOptions(mss, None if asked.window_scale is None else OUR_SCALE, asked.sack_permitted)
        offer = fitting(offer, len(segment.options))
        if offer.window_scale is None:
            asked = asked._replace(window_scale=None)
        isn = self._wire.initial_number(now, self, segment, asked)
        headers = build_syn_ack(segment.key, isn, add(segment.seq, 1), offer)
        self.context.outbox.send([Outgoing(headers, [], 0, 0, reply_to)])

    def turn_away(self, segment: Segment, reply_to: bytes, reason: str, *, shaken: bool) -> None:
        """Do not answer a stranger, or with ``on_probe: closed`` answer as a kernel without a listener.

        That answer is an RST (RFC 9293 section 3.10.7.1).  ``shaken``: the sender has completed a TCP handshake with
        us.  Without one there is no RST: on a host that translates addresses, the segment may belong to a connection of
        somebody else, which an RST would end.
        On a UDP carrier we are always silent, as a service is that does not understand what it received.  Something
        else is a refusal in an authenticated answer: it gives the client the input ``TURNED_AWAY``.
        """
        self.context.counters[reason] += 1
        closed = self.parameters.on_probe is OnProbe.CLOSED
        if closed and shaken and not segment.key.udp and self.table.get(segment.key) is None:
            self.reset(segment, reply_to)

    def reset(self, segment: Segment, reply_to: bytes) -> None:
        """Send an RST, as a kernel does that knows no such connection."""
        headers = HeaderTemplate(segment.key).build(segment.ack, 0, RST, 0, 0)
        self.context.outbox.send([Outgoing(headers, [], 0, 0, reply_to)])

    # -- flows

    def accept(self, now: float, session: Session, proved: Proved) -> Established:
        """The client has authenticated: a flow of its session carries traffic from now on."""
        flow_id, key, mss, peer_isn, start = proved
        mss = min(mss, self.table.link_payload(key))
        pump = self.table.hand_over(session, flow_id, key, mss, start)
        flow = Established(State.ESTABLISHED, session, pump, mss=mss, peer_isn=peer_isn)
        self.table.put(flow)
        self.moves.begin(flow)
        session.peer = str(key.remote_address)
        if not key.udp:
            ends = (key.remote, key.local)
            self._followed[ends] += 1
            if self._followed[ends] == 1:
                self.context.outbox.tell(Follow(*ends))
        self.table.carry(now, flow)
        self._probing.begin(now, flow)
        return flow

    def evict(self, now: float, flow: Flow, reason: str) -> None:
        """Another flow replaces ``flow``."""
        self.table.step(now, flow, Input.DEAD, reason)
        self.table.settle()

    def odd(self, now: float, flow: Established, segment: Segment, reply_to: bytes) -> None:
        """A SYN came on the addresses and ports of a live flow.

        It is the flow's own SYN again, or that of another client behind the same NAT.  The flow's own SYN gets a
        challenge ACK (RFC 5961 section 4).  After another SYN-ACK, connection tracking on the way would begin anew
        with this flow.
        """
        if segment.flags & OPENING_FLAGS == SYN:
            if segment.seq == flow.peer_isn:
                self.context.outbox.send([self.table.pump.acknowledge(flow.pump)])
            else:
                self._syn(now, segment, reply_to)
        else:
            self.context.counters["odd segments"] += 1

    def unopened(self, now: float, flow: Established, segment: Segment, received: Packet | Carried) -> None:
        """A payload came on ``flow`` in which nothing authenticates, or which is out of window."""
        self._wire.unopened(now, self, flow, segment, received)

    def replace(self, now: float, flow: Established) -> None:
        """Only the client can replace ``flow``: tell it, on another flow if there is one."""
        alone = flow.alone
        if not alone:
            flow.pump.group.rest(flow.pump)
        self.table.tell(flow.session, messages.FlowDown(flow.flow_id), avoid=None if alone else flow)

    def all_silent(self, now: float, flow: Established) -> None:
        """Only the client can dial."""

    def heard_again(self, now: float, flow: Established) -> None:
        """Nothing was done."""

    def discarded(self, now: float, flow: Flow) -> None:
        """``flow`` is no longer in the table."""
        if isinstance(flow, Established):
            self.moves.end(flow)
            flow.session.carried |= bool(flow.pump.received_frames)
        if flow.key.udp:
            return
        ends = (flow.key.remote, flow.key.local)
        self._followed[ends] -= 1
        if self._followed[ends] <= 0:
            del self._followed[ends]
            self.context.outbox.tell(Forget(*ends))

    # -- a server's flows begin established: the role has nothing to do here

    def vacate(self, now: float, flow: Established, reason: str) -> None:
        """Does nothing: the client dials another flow."""

    def perform(self, now: float, flow: Flow, action: Action) -> None:
        """A server has no actions of an opening."""
        raise AssertionError(f"{action} at a server")

    def receive_opening(self, now: float, opening: Opening, segment: Segment) -> None:
        """A server has no opening flows."""
        raise AssertionError(f"{opening} at a server")

    def repeat(self, now: float, flow: Flow) -> None:
        """A server repeats nothing of an opening."""
        raise AssertionError(f"{flow} repeats its opening at a server")

    def received(self, now: float) -> None:
        """Does nothing: at a server nothing waits for the end of a read."""

    def control(self, now: float, flow: Established, message: object) -> bool:
        """A control message.  False = it is not for this role only.

        The client may end a conversation that has made room here.
        """
        if isinstance(message, messages.CloseConversation):
            self.crowding.take(flow.session, message.conversation)
        return self._wire.control(now, self, flow, message)

    # -- conversations

    def open_conversation(self, now: float, session: Session, number: int, target: int) -> PumpConversation | None:
        """Open a client's new conversation, or return None.

        Then it is refused and the client was told, or its session has ended, or the session has begun too many in this
        second, and its next datagram is to open it.  If there are ``max_conversations``, one that is silent makes room.
        """
        if self.sessions_by_id.get(session.session_id) is not session:
            self.context.counters["conversations of a session that ended"] += 1
            return None
        if not self._serves(target):
            self.table.answer(now, session, messages.Refused(number, messages.RefusalReason.NO_TARGET))
            return None
        if not session.openings.take(now):
            self.context.counters["conversations above a session's rate"] += 1
            return None
        while (leaving := self.crowding.needed(now, session, self.sessions_by_id.values())) is not None:
            self._end_conversation(leaving)
        self.crowding.take(session, number)
        peer = (session.session_id, number)
        states = self.table.pump.states
        conversation = states.conversation(session.group, number, peer, target=target, opening=False)
        self.conversations.put(now, conversation)
        self.context.outbox.tell(ConversationOpened(peer, target, session.identity))
        return conversation

    def _serves(self, target: int) -> bool:
        """Whether conversations may have this target."""
        tested = target == SPEEDTEST_TARGET and self.parameters.speedtest > 0
        return tested or 0 <= target < len(self.parameters.targets)

    def send(self, now: float, runs: Iterable[Run]) -> None:
        """Send what targets sent."""
        bursts, slow = self.table.pump.from_app(runs)
        self.context.outbox.send(bursts)
        for run in slow:
            conversation = self.table.pump.conversation(run.peer)
            if conversation is None:
                self.context.counters["data from a closed conversation"] += len(run.datagrams)
            elif not conversation.group.usable:
                self.context.counters["data while no flow is up"] += len(run.datagrams)
            else:
                self.conversations.send_large(now, conversation, run)

    def unknown_data(self, now: float, session: Session, frames: Frames) -> None:
        """Authenticated data came for a conversation that is not open."""
        self._wire.unknown_data(now, self, session, frames)

    def expire(self, now: float, conversation: PumpConversation) -> None:
        """``conversation`` has been silent for too long: end it."""
        self.table.tell(session_of(conversation), messages.CloseConversation(conversation.number))
        self._end_conversation(conversation)

    def end_conversation(self, now: float, conversation: PumpConversation) -> None:
        """The client says that ``conversation`` has ended."""
        self._end_conversation(conversation)

    def _end_conversation(self, conversation: PumpConversation) -> None:
        self.conversations.end(conversation)
        self.context.outbox.tell(ConversationClosed(conversation.peer))

    # -- sessions

    def session_closed(self, now: float, session: Session) -> None:
        """The client says that it ends the session."""
        self._end_session(now, session, "the client ended it")

    def _end_session(self, now: float, session: Session, reason: str) -> None:
        if self.sessions_by_id.pop(session.session_id, None) is None:
            return
        for flow in list(session.flows.values()):
            self.table.step(now, flow, Input.CLOSE, reason)
        for conversation in list(session.group.conversations.values()):
            self._end_conversation(conversation)
        self.context.outbox.tell(SessionDown(session.session_id, reason, session.identity.text))

    def begin_session(
        self, now: float, session_id: int, keys: SessionKeys, key: FlowKey, identity: Identity = ANYBODY
    ) -> Session:
        """A client has authenticated: its session begins."""
        group = self.table.pump.states.group(None)
        wire, cipher, peer = self._wire, self.parameters.cipher, str(key.remote_address)
        session = Session(session_id, keys, wire.name, wire.limits, cipher, group, now, peer=peer, identity=identity)
        group.owner = session
        self.sessions_by_id[session_id] = session
        self.context.outbox.tell(SessionUp(session_id, peer, identity.text))
        return session

    def dismiss(self, now: float, session: Session, reason: str) -> None:
        """End ``session``, and tell its client."""
        self._farewell(session)
        self._end_session(now, session, reason)
        self.table.settle()

    def _farewell(self, session: Session) -> None:
        for _ in range(2):  # one may be lost; if both are, the client only loses time
            self.table.tell(session, messages.CloseSession())

    def has_room(self) -> bool:
        """Whether there is room for another session, perhaps after ending one that has no flow."""
        full = len(self.sessions_by_id) >= self.parameters.max_sessions
        return not full or any(not session.flows for session in self.sessions)

    def make_room(self, now: float) -> bool:
        """Make room for a new client that has authenticated.  False = there is no room.

        If need be, a session without a flow ends: one that never carried anything, else the longest without a flow.
        """
        if not self.has_room():
            return False
        if len(self.sessions_by_id) >= self.parameters.max_sessions:
            unused = [session for session in self.sessions if not session.flows]
            self._end_session(
                now, min(unused, key=lambda session: (session.carried, session.used)), "made room for another"
            )
        return True

    # -- the rest

    def timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        """A timer is due that only this role has."""
        if timer is not Timer.HALF_OPEN:
            raise AssertionError(f"timer {timer} of {key!r}")
        self._wire.timeout(now, self)

    def sweep(self, now: float) -> None:
        """Once a second: end what is unused."""
        for session in self.sessions:
            session.reassembly.expire(now)
            self._wire.sweep(now, self, session)
            if session.flows or session.group.conversations:
                session.used = now
            elif now - session.used >= (SESSION_LINGER if session.carried else STILLBORN_LINGER):
                self._end_session(now, session, "unused")
        if self.sessions_by_id:
            self.context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)


def session_of(conversation: PumpConversation) -> Session:
    """The session of a server's conversation.  It never changes."""
    session = conversation.group.owner
    if not isinstance(session, Session):
        raise TypeError(f"a conversation of {session!r}")
    return session


def link_header(received: Packet | Carried) -> bytes:
    """The link header with which to answer ``received``; empty on a UDP carrier."""
    return received.link_header if isinstance(received, Packet) else b""
