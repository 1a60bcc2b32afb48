"""The server, whatever the wire: answers SYNs without state, keeps sessions, opens conversations toward targets.

A stranger's way: SYN → SYN-ACK whose number is a cookie → a payload (``_first_payload``; on a UDP carrier it comes first), of which the wire makes what
it will (``native_server``) → a session and a flow (``_accept``) → a conversation (``_open_conversation``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Hashable
from ipaddress import ip_address

from rsock_nf.core import messages
from rsock_nf.core.ends.flows import SWEEP
from rsock_nf.core.ends.node import Node
from rsock_nf.core.events import ConversationClosed, ConversationOpened, Follow, Forget, SessionDown, SessionUp
from rsock_nf.core.flows.flow import Flow, Input
from rsock_nf.core.flows.session import Session
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.parameters import OnProbe, ServerParameters
from rsock_nf.core.protocols import Rng, SessionKeys
from rsock_nf.core.pump.state import OUR_SCALE, FlowGroup, PumpConversation
from rsock_nf.core.tcp.cookie import Cookie
from rsock_nf.core.tcp.segment import (
    ACK,
    DEFAULT_MSS,
    RST,
    SYN,
    HeaderTemplate,
    Segment,
    SynOptions,
    build_syn_ack,
    parse_syn_options,
)
from rsock_nf.core.types import Endpoint, FlowKey, Malformed, Outgoing, Run

_MASK = 0xFFFFFFFF
SESSION_LINGER = 600.0
"""Seconds that a session without flows and conversations is kept."""


class Server(Node):
    """See the module."""

    initiator = False

    def __init__(self, parameters: ServerParameters, rng: Rng, *, mtu: int, max_burst_bytes: int) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self._config = parameters
        self._cookie = Cookie(rng(32))
        self._stopping = False
        self.sessions: dict[int, Session] = {}
        self._followed: Counter[bytes] = Counter()
        """Remote addresses, by how many fake-TCP flows lead there."""

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

    def socket_refused(self, now: float, peer: object, reason: str) -> None:  # noqa: ARG002 - for the log
        """The driver could not open the socket of ``ConversationOpened``."""
        conversation = self.pump.conversation(peer)
        if conversation is not None:
            session = conversation.group.owner
            if isinstance(session, Session):
                self._tell(session, messages.Refused(conversation.number, messages.RefusalReason.SOCKET))
            self._end_conversation(conversation)

    # -- strangers

    def _stranger(self, now: float, segment: Segment, link_header: bytes) -> None:
        if segment.flags & RST or self._stopping:
            return
        if segment.flags & SYN:
            if not segment.flags & ACK:
                self._syn(now, segment, link_header)
        elif segment.payload:
            self._first_payload(now, segment, link_header)

    def _syn(self, now: float, segment: Segment, link_header: bytes) -> None:
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
        isn = self._cookie.isn(segment.key, segment.seq, now, self._note(segment, asked))
        headers = build_syn_ack(segment.key, isn, (segment.seq + 1) & _MASK, offer)
        self._outbox.send([Outgoing(headers, [], 0, 0, link_header)])

    def _note(self, segment: Segment, asked: SynOptions) -> int:  # noqa: ARG002 - the native hello tells it all
        """What the cookie is to remember of a SYN."""
        return 0

    @abstractmethod
    def _first_payload(self, now: float, segment: Segment, link_header: bytes) -> None:
        """The payload of a segment of no flow, or a datagram on a UDP carrier that nobody knows."""

    def _turn_away(self, segment: Segment, link_header: bytes, reason: str) -> None:
        """Silence or, with ``on_probe: closed``, what a kernel without a listener says (RFC 9293 section 3.10.7.1).

        On a UDP carrier it is always silence, as of a service that does not know what it was sent.
        """
        self.counters[reason] += 1
        if self._config.on_probe is not OnProbe.CLOSED or segment.key in self._flows or segment.key.udp:
            return
        headers = HeaderTemplate(segment.key).build(segment.ack, 0, RST, 0, 0)
        self._outbox.send([Outgoing(headers, [], 0, 0, link_header)])

    # -- flows

    def _accept(self, now: float, flow: Flow, session: Session) -> None:
        """The client has proved itself on ``flow``, which carries traffic from now on."""
        self._flows[flow.key] = flow
        self._pump_flow(flow, session)
        session.peer = str(_endpoint(flow.key))
        if not flow.key.udp:
            self._followed[flow.key.remote] += 1
            if self._followed[flow.key.remote] == 1:
                self._outbox.tell(Follow(flow.key.remote))
        self._establish(now, flow)

    def _odd(self, now: float, flow: Flow, segment: Segment, link_header: bytes) -> None:
        """A SYN on the addresses of a live flow: a NAT has given them to somebody new, or it is the old one again.

        The old one gets a challenge ACK (RFC 5961 section 4): to a SYN-ACK, trackers would start over with us.
        """
        if segment.flags & SYN and not segment.flags & ACK:
            if segment.seq == flow.isn and flow.pump:
                self._outbox.send([self.pump.acknowledge(flow.pump)])
            else:
                self._syn(now, segment, link_header)
        else:
            self.counters["odd segments"] += 1

    def _handshaking(self, now: float, flow: Flow, segment: Segment) -> None:  # noqa: ARG002
        raise AssertionError("a server's flows are established from the first")

    def _discard(self, now: float, flow: Flow, reason: str) -> None:
        if self._flows.get(flow.key) is flow and not flow.key.udp:
            remote = flow.key.remote
            self._followed[remote] -= 1
            if self._followed[remote] <= 0:
                del self._followed[remote]
                self._outbox.tell(Forget(remote))
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

    def _open_conversation(self, now: float, session: Session, number: int, target: int) -> PumpConversation | None:
        if not 0 <= target < len(self._config.targets):
            self._tell(session, messages.Refused(number, messages.RefusalReason.NO_TARGET))
            return None
        if len(self._moved) >= self._config.max_conversations:
            self._tell(session, messages.Refused(number, messages.RefusalReason.LIMIT))
            return None
        peer = self._peer(session, number)
        conversation = PumpConversation(session.group, number, peer, target=target, opening=False)
        self._put_conversation(now, conversation)
        self._outbox.tell(ConversationOpened(peer, target))
        return conversation

    def _peer(self, session: Session, number: int) -> Hashable:
        """What a conversation's target is called toward the driver."""
        return session.session_id, number

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
        self._outbox.tell(ConversationClosed(conversation.peer))

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
        self._outbox.tell(SessionDown(session.session_id, reason))

    def _new_session(self, now: float, session_id: int, keys: SessionKeys, key: FlowKey) -> Session:
        group = FlowGroup(None)
        peer = str(_endpoint(key))
        session = Session(session_id, keys, self._config.cipher, group, now, peer=peer, wire=self._config.wire)
        group.owner = session
        self.sessions[session_id] = session
        self._outbox.tell(SessionUp(session_id, peer))
        return session

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


def _endpoint(key: FlowKey) -> Endpoint:
    return Endpoint(ip_address(key.remote), key.remote_port)
