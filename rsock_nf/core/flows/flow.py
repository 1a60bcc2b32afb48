"""One flow: its states, as a table, and what the control side knows of it.

A client's flow walks SYN_SENT → TCP_UP → HELLO_SENT or JOIN_SENT → CONFIRMING → ESTABLISHED;
a server answers SYNs and hellos without a flow, so its flows begin ESTABLISHED.  Sequence
numbers belong to this object until the flow is established, and to the pump from then on.

A flow over a UDP carrier walks the same way, from TCP_UP on: it has no SYN, no numbers (they stay 0), and no FIN, whose
place a ``CloseFlow`` takes in either direction.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from rsock_nf.core.flows.health import Health
from rsock_nf.core.flows.path_mtu import PathMtu
from rsock_nf.core.pump.state import PumpFlow
from rsock_nf.core.tcp.segment import ACK, PSH, HeaderTemplate
from rsock_nf.core.types import FlowKey, Outgoing

if TYPE_CHECKING:
    from rsock_nf.core.flows.session import Session

_MASK = 0xFFFFFFFF


class State(enum.Enum):
    """Where a flow stands."""

    SYN_SENT = "syn-sent"
    TCP_UP = "tcp-up"
    """Looks established to every middlebox (UDP: there is nothing to look like); waits for its turn to say hello or join."""
    HELLO_SENT = "hello-sent"
    JOIN_SENT = "join-sent"
    CONFIRMING = "confirming"
    ESTABLISHED = "established"
    DEMOTED = "demoted"
    """A middlebox believes that it was reset: receives a little longer, sends nothing."""
    CLOSING = "closing"
    """We sent FIN."""
    LINGERING = "lingering"
    """Both sent FIN; late ones are answered."""
    CLOSED = "closed"


class Input(enum.Enum):
    """What can happen to a flow."""

    SYN_ACK = "SYN-ACK"
    SAY_HELLO = "say hello"
    SAY_JOIN = "say join"
    ANSWER = "answer"
    """To the hello or the join: a challenge."""
    TURNED_AWAY = "turned away"
    """The server refused the hello, or the session of the join is gone."""
    READY = "ready"
    """The server has the flow, or the wire asks for no more than TCP's handshake."""
    UNANSWERED = "unanswered"
    """A handshake or closing segment was sent as often as it may be."""
    DEAD = "dead"
    """Probes were not answered, or the peer gave it up."""
    RESET = "reset"
    """RST or FIN from outside, with the right sequence number."""
    CLOSE = "close"
    PEER_CLOSE = "peer closes"
    """A sealed close frame with FIN."""
    FIN = "FIN+ACK"
    """The answer to our FIN."""
    EXPIRE = "expire"


class Action(enum.Enum):
    """What the owner does on a transition."""

    WAIT_TURN = "ACK, wait for a turn"
    HELLO = "send hello"
    JOIN = "send join"
    CONFIRM = "send confirmation"
    OPEN = "open for traffic"
    DISCARD = "discard"
    DEMOTE = "stop sending, tell the peer"
    SEND_FIN = "send close frame with FIN"
    SEND_FIN_ACK = "send FIN+ACK"
    SEND_LAST_ACK = "send ACK"


_S, _I, _A = State, Input, Action
_GIVE_UP = {
    _I.UNANSWERED: (_S.CLOSED, _A.DISCARD),
    _I.RESET: (_S.CLOSED, _A.DISCARD),
    _I.CLOSE: (_S.CLOSED, _A.DISCARD),
    _I.DEAD: (_S.CLOSED, _A.DISCARD),
}

TRANSITIONS: dict[State, dict[Input, tuple[State, Action]]] = {
    _S.SYN_SENT: {_I.SYN_ACK: (_S.TCP_UP, _A.WAIT_TURN), **_GIVE_UP},
    _S.TCP_UP: {
        _I.SAY_HELLO: (_S.HELLO_SENT, _A.HELLO),
        _I.SAY_JOIN: (_S.JOIN_SENT, _A.JOIN),
        _I.READY: (_S.ESTABLISHED, _A.OPEN),
        **_GIVE_UP,
    },
    _S.HELLO_SENT: {
        _I.ANSWER: (_S.CONFIRMING, _A.CONFIRM),
        _I.TURNED_AWAY: (_S.CLOSED, _A.DISCARD),
        **_GIVE_UP,
    },
    _S.JOIN_SENT: {
        _I.ANSWER: (_S.CONFIRMING, _A.CONFIRM),
        _I.TURNED_AWAY: (_S.CLOSED, _A.DISCARD),
        **_GIVE_UP,
    },
    _S.CONFIRMING: {_I.READY: (_S.ESTABLISHED, _A.OPEN), **_GIVE_UP},
    _S.ESTABLISHED: {
        _I.RESET: (_S.DEMOTED, _A.DEMOTE),
        _I.DEAD: (_S.CLOSED, _A.DISCARD),
        _I.CLOSE: (_S.CLOSING, _A.SEND_FIN),
        _I.PEER_CLOSE: (_S.LINGERING, _A.SEND_FIN_ACK),
    },
    _S.DEMOTED: {
        _I.EXPIRE: (_S.CLOSED, _A.DISCARD),
        _I.DEAD: (_S.CLOSED, _A.DISCARD),
        _I.CLOSE: (_S.CLOSED, _A.DISCARD),
    },
    _S.CLOSING: {
        _I.FIN: (_S.LINGERING, _A.SEND_LAST_ACK),
        _I.PEER_CLOSE: (_S.LINGERING, _A.SEND_LAST_ACK),
        _I.UNANSWERED: (_S.CLOSED, _A.DISCARD),
        _I.RESET: (_S.CLOSED, _A.DISCARD),
    },
    _S.LINGERING: {_I.EXPIRE: (_S.CLOSED, _A.DISCARD)},
    _S.CLOSED: {},
}
"""State → input → (next state, action).  An input that is not there is dropped, and counted."""


class Flow:
    """Control-side state of one flow, either role."""

    def __init__(self, flow_id: int, key: FlowKey, *, state: State, identification: int, slot: int = -1) -> None:
        self.flow_id = flow_id
        self.key = key
        self.state = state
        self.slot = slot
        """Client: which of its slots (server ports) it fills."""
        self.session: Session | None = None
        self.pump: PumpFlow | None = None
        self.health = Health()
        self.since = 0.0
        """When it was established."""
        # Until it is established:
        self.template = None if key.udp else HeaderTemplate(key, identification)
        self.next_seq = 0
        self.received = 0
        self.isn = -1
        """Server: the client's initial sequence number, by which its SYN is known when it comes again; -1 = not known.
        Wire rsock, either role: the peer's, where its kernel still stands."""
        self.mss = 0
        """The MSS option of the SYN-ACK, as it reached the client."""
        self.scale: int | None = None
        self.window = 0
        """What the peer last advertised, scaled."""
        self.pending: object = None
        """What the handshake needs to read the answer."""
        self.repeat: Outgoing | None = None
        """The segment that is sent again, at the same place in sequence space, until it is answered."""
        self.tries = 0
        self.repeat_since = 0.0
        """When ``repeat`` was sent first."""
        # Once it is:
        self.path = PathMtu()
        self.sick = False
        self.swept_frames = 0
        """The pump's counters at the last sweep: tells whether there was traffic since."""

    def __repr__(self) -> str:
        kind = "udp" if self.key.udp else "tcp"
        return f"<{kind} flow {self.flow_id} {self.state.value} {self.key.local_port}→{self.key.remote_port}>"

    def repeat_answered(self, now: float) -> None:
        """What came answers ``repeat``: a round-trip time, if that was sent once (RFC 6298 section 3)."""
        if self.tries == 1:
            self.health.sample(max(now - self.repeat_since, 0.0))

    def segment(self, payload: bytes, *, window: int, flags: int = PSH | ACK) -> Outgoing:
        """A segment before the flow is established; on a UDP carrier ``payload`` alone."""
        if self.template is None:
            return Outgoing(b"", [payload], len(payload), 0, carrier=self.key)
        headers = self.template.build(self.next_seq, self.received, flags, window, len(payload))
        self.next_seq = (self.next_seq + len(payload)) & _MASK
        return Outgoing(headers, [payload] if payload else [], len(payload), 0)
