"""Events: what the core tells its driver.  ``poll`` gives them, among bursts and runs.

Values only.  The driver acts on some of them (a port is wanted) and only reports others (a session is up).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias

from rsock_nf.core.identity import ANYBODY, Identity
from rsock_nf.core.types import FlowKey, OwnPeer


@dataclass(frozen=True, slots=True)
class PortWanted:
    """Client: hold a local TCP port toward ``remote``, add it to the firewall rules, then call ``receive_port``."""

    request: int
    remote: bytes


@dataclass(frozen=True, slots=True)
class PortReleased:
    """Client: no flow uses this local port any more."""

    port: int


@dataclass(frozen=True, slots=True)
class CarrierWanted:
    """Client: open a UDP socket toward ``port`` of ``remote``, then call ``receive_carrier``."""

    request: int
    remote: bytes
    port: int


@dataclass(frozen=True, slots=True)
class CarrierReleased:
    """Client: no flow uses this UDP carrier any more."""

    key: FlowKey


@dataclass(frozen=True, slots=True)
class ConversationOpened:
    """Server: open a UDP socket toward target number ``target``.  Datagrams for ``peer`` follow."""

    peer: Hashable
    target: int
    client: Identity = ANYBODY
    """Whose conversation it is."""


@dataclass(frozen=True, slots=True)
class ConversationClosed:
    """``peer``'s conversation ended: close its socket."""

    peer: Hashable


@dataclass(frozen=True, slots=True)
class SessionUp:
    """A session is established."""

    session_id: int
    peer: str
    whose: str = ""
    """The client, for people, if it has a name."""


@dataclass(frozen=True, slots=True)
class SessionDown:
    """A session ended."""

    session_id: int
    reason: str
    whose: str = ""
    """The client, for people, if it has a name."""


@dataclass(frozen=True, slots=True)
class FlowOpened:
    """A flow carries traffic."""

    flow_id: int
    key: FlowKey


@dataclass(frozen=True, slots=True)
class FlowClosed:
    """A flow ended."""

    flow_id: int
    key: FlowKey
    reason: str
    orderly: bool
    """One side closed the flow on purpose: nothing is wrong with its path."""


@dataclass(frozen=True, slots=True)
class FlowMoved:
    """Server: the client of a flow over UDP has another address now, and the flow has followed it."""

    flow_id: int
    old: FlowKey
    key: FlowKey


@dataclass(frozen=True, slots=True)
class FlowSick:
    """A flow is to be replaced.  Until then it carries no bulk, unless it is the only one."""

    flow_id: int
    key: FlowKey
    reason: str


@dataclass(frozen=True, slots=True)
class FlowsDieAt:
    """Something on the way ends flows at this age, in seconds.  From now on they are renewed before."""

    age: float


@dataclass(frozen=True, slots=True)
class KindRests:
    """One kind of a session's flows carries no bulk from now on, because the other kind is better."""

    session_id: int
    text: str
    """Which kind, why, and when it is tried again, for people."""


@dataclass(frozen=True, slots=True)
class KindCarries:
    """Both kinds of a session's flows carry bulk again."""

    session_id: int


@dataclass(frozen=True, slots=True)
class OwnRefused:
    """Client: the server does not serve the conversation of this client's own process."""

    peer: OwnPeer


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """The answer to a ping came (``Probing.ping``)."""

    number: int
    took: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class TargetAnswers:
    """Client: the server's target ``target`` refused, and somebody listens there again."""

    target: int


@dataclass(frozen=True, slots=True)
class Follow:
    """Packets will go between these packed addresses: keep their way up to date."""

    remote: bytes
    local: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """No more packets will go between these packed addresses."""

    remote: bytes
    local: bytes


@dataclass(frozen=True, slots=True)
class Suspect:
    """Several flows to this packed address fell silent at once: check its next hop again."""

    remote: bytes


Event: TypeAlias = (
    PortWanted
    | PortReleased
    | CarrierWanted
    | CarrierReleased
    | ConversationOpened
    | ConversationClosed
    | SessionUp
    | SessionDown
    | FlowOpened
    | FlowClosed
    | FlowMoved
    | FlowSick
    | FlowsDieAt
    | KindRests
    | KindCarries
    | OwnRefused
    | PingAnswered
    | TargetAnswers
    | Follow
    | Forget
    | Suspect
)
