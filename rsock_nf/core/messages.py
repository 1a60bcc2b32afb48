"""Control messages between the two ends of a session: values only, their bytes are the codec's business.

Each travels in one sealed control frame, on a flow like any other frame, and may be
lost like any other: whoever needs an answer asks again.
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
    """Server: the flow that carries this is established."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Answer this.  It travels on the flow that it is about."""

    number: int
    """u32, chosen by the sender, per flow."""
    padding: int = 0
    """Bytes appended to reach the size of the segment whose passage is tested."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """To a ``Probe``; travels on the same flow, and on another one too if that flow is sick."""

    number: int
    """The probe's."""
    flow_id: int
    received: int
    """Frames received on that flow so far, the probe included, modulo 2**32."""


@dataclass(frozen=True, slots=True)
class FlowDown:
    """The sender no longer uses this flow: a middlebox tore it, or it stopped answering."""

    flow_id: int


@dataclass(frozen=True, slots=True)
class CloseFlow:
    """The flow that carries this ends here; the segment has FIN."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Server: the conversation exists, plain data frames will do from now on."""

    conversation: int


@dataclass(frozen=True, slots=True)
class CloseConversation:
    """Either: the conversation ended; late frames of it are dropped."""

    conversation: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Server: the conversation cannot be served."""

    conversation: int
    reason: int


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Either: the process goes away; everything of the session ends."""


Control: TypeAlias = (
    Ready | Probe | ProbeAnswer | FlowDown | CloseFlow | Opened | CloseConversation | Refused | CloseSession
)
