"""The states of a flow, as one table: state and input give the next state and the actions.

A client's flow goes SYN_SENT → TCP_UP → HELLO_SENT or JOIN_SENT → CONFIRMING → ESTABLISHED.  A server answers SYNs
and hellos without a flow, so its flows begin ESTABLISHED.  A flow over a UDP carrier has no SYN, no sequence
numbers and no FIN: a client's flow begins in TCP_UP, and a ``CloseFlow`` message takes the place of FIN in both
directions.

A transition runs nothing.  It returns actions, which the endpoint then runs one after the other from a queue
(``flows.table``).  ``diagram`` draws the table for ARCHITECTURE.md.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias


class State(enum.Enum):
    """The state of a flow."""

    SYN_SENT = "syn-sent"
    TCP_UP = "tcp-up"
    """Over TCP every middlebox now takes the flow for an established connection.  The flow waits until the wire lets it
    go on (``ClientWire.take_turns``): on the native wire, until it may say hello or join."""
    HELLO_SENT = "hello-sent"
    JOIN_SENT = "join-sent"
    CONFIRMING = "confirming"
    ESTABLISHED = "established"
    DEMOTED = "demoted"
    """A middlebox believes that the flow was reset.  It still receives and acknowledges for a short time, and sends no
    frames."""
    CLOSING = "closing"
    """We sent FIN."""
    LINGERING = "lingering"
    """Both sides sent FIN.  A FIN that comes late is answered."""
    CLOSED = "closed"


class Input(enum.Enum):
    """What can happen to a flow."""

    SYN_ACK = "SYN-ACK"
    SAY_HELLO = "say hello"
    SAY_JOIN = "say join"
    ANSWER = "answer"
    """The server answered the hello or the join, with a challenge."""
    TURNED_AWAY = "turned away"
    """The server's answer is a refusal: of the hello, or because it does not know the session of the join.  Something
    else is ``Accepting.turn_away``: it gives no answer, or an RST, to somebody who has not shown the secret."""
    READY = "ready"
    """The server has the flow, or the wire needs no more than the TCP handshake."""
    UNANSWERED = "unanswered"
    """A segment of the opening or of the closing was repeated as often as is allowed."""
    SICK = "sick"
    """The flow should be replaced: it loses too much, its counters run out, or the peer says so."""
    DEAD = "dead"
    """Probes were not answered, the peer gave the flow up, or another flow has its addresses and ports now."""
    RESET = "reset"
    """An RST or FIN from outside, with the right sequence number."""
    CLOSE = "close"
    PEER_CLOSE = "peer closes"
    """A sealed close frame, over TCP with FIN."""
    FIN = "FIN+ACK"
    """The answer to our FIN."""
    EXPIRE = "expire"


class Action(enum.Enum):
    """What the endpoint does after a transition."""

    WAIT_TURN = "send ACK, wait until the wire lets it go on"
    HELLO = "send hello"
    JOIN = "send join"
    CONFIRM = "send confirmation"
    OPEN = "open for traffic"
    REPLACE = "dial a successor or ask the client to"
    VACATE = "free its slot"
    DISCARD = "discard"
    DEMOTE = "stop sending, tell the peer"
    SEND_FIN = "send close frame with FIN"
    SEND_FIN_ACK = "send FIN+ACK"
    SEND_LAST_ACK = "send ACK"


Row: TypeAlias = tuple[State, tuple[Action, ...]]

_S, _I, _A = State, Input, Action
_GONE: Final[Row] = (_S.CLOSED, (_A.DISCARD,))
_GIVE_UP: Final[dict[Input, Row]] = {
    _I.UNANSWERED: _GONE,
    _I.RESET: _GONE,
    _I.CLOSE: _GONE,
    _I.DEAD: _GONE,
}

TRANSITIONS: Final[dict[State, dict[Input, Row]]] = {
    _S.SYN_SENT: {_I.SYN_ACK: (_S.TCP_UP, (_A.WAIT_TURN,)), **_GIVE_UP},
    _S.TCP_UP: {
        _I.SAY_HELLO: (_S.HELLO_SENT, (_A.HELLO,)),
        _I.SAY_JOIN: (_S.JOIN_SENT, (_A.JOIN,)),
        _I.READY: (_S.ESTABLISHED, (_A.OPEN,)),
        **_GIVE_UP,
    },
    _S.HELLO_SENT: {
        _I.ANSWER: (_S.CONFIRMING, (_A.CONFIRM,)),
        _I.TURNED_AWAY: _GONE,
        **_GIVE_UP,
    },
    _S.JOIN_SENT: {
        _I.ANSWER: (_S.CONFIRMING, (_A.CONFIRM,)),
        _I.TURNED_AWAY: _GONE,
        **_GIVE_UP,
    },
    _S.CONFIRMING: {_I.READY: (_S.ESTABLISHED, (_A.OPEN,)), **_GIVE_UP},
    _S.ESTABLISHED: {
        _I.SICK: (_S.ESTABLISHED, (_A.REPLACE,)),
        _I.RESET: (_S.DEMOTED, (_A.VACATE, _A.DEMOTE)),
        _I.DEAD: (_S.CLOSED, (_A.VACATE, _A.DISCARD)),
        _I.CLOSE: (_S.CLOSING, (_A.VACATE, _A.SEND_FIN)),
        _I.PEER_CLOSE: (_S.LINGERING, (_A.VACATE, _A.SEND_FIN_ACK)),
    },
    _S.DEMOTED: {
        _I.EXPIRE: _GONE,
        _I.DEAD: _GONE,
        _I.CLOSE: _GONE,
    },
    _S.CLOSING: {
        _I.FIN: (_S.LINGERING, (_A.SEND_LAST_ACK,)),
        _I.PEER_CLOSE: (_S.LINGERING, (_A.SEND_LAST_ACK,)),
        _I.UNANSWERED: _GONE,
        _I.RESET: _GONE,
        _I.DEAD: _GONE,
    },
    _S.LINGERING: {_I.EXPIRE: _GONE, _I.DEAD: _GONE},
    _S.CLOSED: {},
}
"""State → input → (next state, actions in order).  An input without a row is dropped and counted."""


def diagram() -> str:
    """``TRANSITIONS`` as a Mermaid state diagram: an arrow for each pair of states, with inputs and actions."""
    lines = ["stateDiagram-v2", f"    [*] --> {_name(State.SYN_SENT)} : client dials over TCP"]
    lines.append(f"    [*] --> {_name(State.TCP_UP)} : client dials over UDP")
    lines.append(f"    [*] --> {_name(State.ESTABLISHED)} : server takes a confirmed flow")
    for state, rows in TRANSITIONS.items():
        arrows: dict[Row, list[str]] = {}
        for happened, row in rows.items():
            arrows.setdefault(row, []).append(happened.value)
        for (to, actions), happened_here in arrows.items():
            done = ", ".join(action.value for action in actions)
            lines.append(f"    {_name(state)} --> {_name(to)} : {' or '.join(happened_here)} / {done}")
    lines.append(f"    {_name(State.CLOSED)} --> [*]")
    return "\n".join(lines)


def _name(state: State) -> str:
    return state.name
