"""What the core tells its driver, one at a time through ``poll_event``."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class PortWanted:
    """Client: hold a local TCP port toward ``remote``, let the firewall know, then call ``receive_port``."""

    request: int
    remote: bytes


@dataclass(frozen=True, slots=True)
class PortReleased:
    """Client: this local port is no longer used."""

    port: int


@dataclass(frozen=True, slots=True)
class ConversationOpened:
    """Server: open a UDP socket toward target ``target``; datagrams for ``peer`` follow."""

    peer: Hashable
    target: int


@dataclass(frozen=True, slots=True)
class ConversationClosed:
    """``peer``'s conversation ended: close its socket."""

    peer: Hashable


@dataclass(frozen=True, slots=True)
class SessionUp:
    """A session is established."""

    session_id: int
    peer: str


@dataclass(frozen=True, slots=True)
class SessionDown:
    """A session ended."""

    session_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class FlowOpened:
    """A flow carries traffic."""

    flow_id: int
    local_port: int
    remote_port: int


@dataclass(frozen=True, slots=True)
class FlowClosed:
    """A flow ended."""

    flow_id: int
    local_port: int
    remote_port: int
    reason: str


@dataclass(frozen=True, slots=True)
class FlowSick:
    """A flow is to be replaced, and carries no bulk until then if there is another."""

    flow_id: int
    local_port: int
    remote_port: int
    reason: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Packets will go to this packed address: keep its next hop."""

    remote: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """No more packets will go to this packed address."""

    remote: bytes


@dataclass(frozen=True, slots=True)
class Suspect:
    """Several flows to this packed address went silent at once: re-check its neighbour."""

    remote: bytes


Event: TypeAlias = (
    PortWanted
    | PortReleased
    | ConversationOpened
    | ConversationClosed
    | SessionUp
    | SessionDown
    | FlowOpened
    | FlowClosed
    | FlowSick
    | Follow
    | Forget
    | Suspect
)
