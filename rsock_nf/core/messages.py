"""Control messages between the two ends of a session.  Values only: the codec of the wire makes their bytes.

Each travels in one sealed control frame.  Like any other frame it may be lost: an endpoint that needs an answer
asks again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class RefusalReason(enum.IntEnum):
    """Why a server does not serve a conversation."""

    NO_TARGET = 1
    """The target index is not in the server's list."""
    LIMIT = 2
    """The server has as many conversations as it allows."""
    SOCKET = 3
    """The server could not open a socket toward the target."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From the server: the flow that carries this message is established."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A request for an answer.  It travels on the flow that it asks about."""

    number: int
    """A u32.  The sender chooses it; it is unique on one flow."""
    padding: int = 0
    """Bytes appended, so that the segment has the size whose passage is tested.  Also of one that has come."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The answer to a ``Probe``.  It travels on the same flow; if that flow is sick, on another one too."""

    number: int
    """The number of the probe."""
    flow_id: int
    received: int
    """Frames received on that flow so far, with the probe, modulo 2**32."""


@dataclass(frozen=True, slots=True)
class FlowDown:
    """The sender no longer uses this flow: a middlebox has reset it, or it stopped answering."""

    flow_id: int


@dataclass(frozen=True, slots=True)
class CloseFlow:
    """The flow that carries this message ends here.  Over TCP its segment has FIN."""


@dataclass(frozen=True, slots=True)
class Opened:
    """From the server: the conversation exists, so plain data frames are enough from now on."""

    conversation: int


@dataclass(frozen=True, slots=True)
class CloseConversation:
    """From either end: the conversation ended.  Frames of it that come later are dropped."""

    conversation: int


@dataclass(frozen=True, slots=True)
class Refused:
    """From the server: it does not serve this conversation."""

    conversation: int
    reason: int


@dataclass(frozen=True, slots=True)
class TargetState:
    """From the server: whether somebody listens at a target.  A client that does not know it drops it."""

    target: int
    """Its index in the server's list."""
    refuses: int
    """0 = it answers again; else nobody listens there: ICMP port unreachable came back."""


@dataclass(frozen=True, slots=True)
class SeenAs:
    """From the server, on the first flow of a session: from where that flow comes, as the server sees it.

    A client that does not know this message drops it."""

    address: bytes
    """16 bytes; an IPv4 address as IPv6 maps it (RFC 4291 section 2.5.5.2)."""
    port: int


@dataclass(frozen=True, slots=True)
class CloseSession:
    """From either end: the process ends, and with it everything of the session."""


Control: TypeAlias = (
    Ready
    | Probe
    | ProbeAnswer
    | FlowDown
    | CloseFlow
    | Opened
    | CloseConversation
    | Refused
    | TargetState
    | SeenAs
    | CloseSession
)
