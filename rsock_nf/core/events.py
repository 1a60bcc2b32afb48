"""What the core tells its driver, among what ``poll`` gives."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias

from rsock_nf.core.types import FlowKey


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
class CarrierWanted:
    """Client: open a UDP socket toward ``port`` of ``remote``, then call ``receive_carrier``."""

    request: int
    remote: bytes
    port: int


@dataclass(frozen=True, slots=True)
class CarrierReleased:
    """Client: this UDP carrier is no longer used."""

    key: FlowKey


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
    key: FlowKey


@dataclass(frozen=True, slots=True)
class FlowClosed:
    """A flow ended."""

    flow_id: int
    key: FlowKey
    reason: str
    orderly: bool
    """One side closed it on purpose; nothing is wrong with its path."""


@dataclass(frozen=True, slots=True)
class FlowSick:
    """A flow is to be replaced, and carries no bulk until then if there is another."""

    flow_id: int
    key: FlowKey
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
    | CarrierWanted
    | CarrierReleased
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
