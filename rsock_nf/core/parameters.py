"""What the core can be told: the frozen end of the configuration, as far as the protocol goes.

Each default lives here and nowhere else.  Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from rsock_nf.core.types import Endpoint, IPAddress, PortRange


class Cipher(enum.Enum):
    """How data frames are protected; control frames are always sealed."""

    NONE = "none"
    AES_256_GCM = "aes-256-gcm"
    CHACHA20_POLY1305 = "chacha20-poly1305"


class Spread(enum.Enum):
    """Which flow a burst goes out on."""

    BURST = "burst"
    """A random healthy flow for every burst."""
    PACKET = "packet"
    """A random healthy flow for every datagram (the original's way)."""
    CONVERSATION = "conversation"
    """One flow for a conversation as long as it is healthy: keeps order."""


class OnProbe(enum.Enum):
    """What a server does after the TCP handshake when no valid hello or join comes."""

    SILENT = "silent"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Common:
    """Both roles."""

    secret: bytes = field(repr=False)
    """32 bytes, as ``genkey`` makes them."""
    ports: tuple[PortRange, ...] = (PortRange(10001, 10010),)
    """The server's ports, merged and disjoint, ascending."""
    cipher: Cipher = Cipher.NONE
    spread: Spread = Spread.BURST
    duration: float = 300.0
    """A conversation lives while either direction moved within this time."""
    keepalive: float = 10.0
    """An idle flow is probed at this period (± 20 % jitter)."""


@dataclass(frozen=True, slots=True)
class ClientParameters(Common):
    """A client."""

    server: tuple[IPAddress, ...] = ()
    """The server's addresses in order of preference: one that answers no SYN gives way to the next, and flows go to one at a time."""
    flows: int = 10
    """At most this many flows, and at most one for each server port."""
    idle_timeout: float = 60.0
    """Flows close this long after the last conversation ended; 0 = never."""
    targets: tuple[int, ...] = (0,)
    """For each local listening socket, the index of its target in the server's list."""


@dataclass(frozen=True, slots=True)
class ServerParameters(Common):
    """A server."""

    targets: tuple[Endpoint, ...] = ()
    on_probe: OnProbe = OnProbe.SILENT
    max_sessions: int = 256
    max_conversations: int = 4096
    """Over all sessions: each is one UDP socket."""
