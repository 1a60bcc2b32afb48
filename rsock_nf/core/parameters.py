"""What the core can be told: the frozen end of the configuration, as far as the protocol goes.

Each default lives here and nowhere else.  Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from rsock_nf.core.types import Endpoint, IPAddress, PortRange

DEFAULT_HASH = "hello135"
"""The key that the original falls back to; everyone knows it."""
RSOCK_KEEPALIVE = 4.0
"""``Common.keepalive`` where the wire is the original's: what its own peers take."""


class Carriers(enum.Enum):
    """What the flows are; the ports are the same for either kind."""

    TCP = "tcp"
    """Segments that look like TCP, behind a drop rule."""
    UDP = "udp"
    """Datagrams of ordinary UDP sockets."""
    ALL = "all"
    """Both at once."""

    @property
    def tcp(self) -> bool:
        """Whether there are fake-TCP flows."""
        return self is not Carriers.UDP

    @property
    def udp(self) -> bool:
        """Whether there are UDP flows."""
        return self is not Carriers.TCP


class Wire(enum.Enum):
    """What the bytes in the flows look like."""

    NATIVE = "native"
    """Authenticated; ``docs/wire.md``."""
    RSOCK = "rsock"
    """The original's: ``hash_key`` is no authentication, IPv4 only, one target."""


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

    secret: bytes = field(default=b"", repr=False)
    """32 bytes, as ``genkey`` makes them; empty where the wire is the original's."""
    wire: Wire = Wire.NATIVE
    hash_key: bytes = field(default=DEFAULT_HASH.encode(), repr=False)
    """The original's wire only: what its frames are checked with, as the bytes of the text (perhaps none)."""
    carriers: Carriers = Carriers.TCP
    ports: tuple[PortRange, ...] = (PortRange(10001, 10010),)
    """The server's ports, merged and disjoint, ascending."""
    cipher: Cipher = Cipher.NONE
    spread: Spread = Spread.BURST
    duration: float = 300.0
    """A conversation lives while either direction moved within this time."""
    keepalive: float = 10.0
    """An idle flow is probed at this period (± 20 % jitter); the original's wire: ``RSOCK_KEEPALIVE``."""


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
    local_ends: tuple[str, ...] = ()
    """For each local listening socket, what people call it."""
    rsock_version: int = 2
    """The original's wire only: 2 (a head of 23 bytes) or 1 (19 bytes).  A server answers as it was addressed."""


@dataclass(frozen=True, slots=True)
class ServerParameters(Common):
    """A server."""

    targets: tuple[Endpoint, ...] = ()
    on_probe: OnProbe = OnProbe.SILENT
    max_sessions: int = 256
    max_conversations: int = 4096
    """Over all sessions: each is one UDP socket."""
