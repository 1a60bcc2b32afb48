"""The parameters of an endpoint: the part of the configuration that the protocol needs, as frozen dataclasses.

Each default is defined here and nowhere else.  Durations are in seconds, sizes in bytes.

Not here: the keys of the file and what they may hold (``rsock_nf.config``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from rsock_nf.core.types import Endpoint, IPAddress, PortRange

DEFAULT_HASH = "hello135"
"""The key that the original uses when none is given.  It is public."""
RSOCK_KEEPALIVE = 4.0
"""The default of ``Common.keepalive`` on wire ``rsock``: what the original's own peers use."""


class Carriers(enum.Enum):
    """The kinds of flow.  The ports are the same for both kinds."""

    TCP = "tcp"
    """Segments that look like TCP.  A drop rule keeps them from the kernel."""
    UDP = "udp"
    """Datagrams of ordinary UDP sockets."""
    ALL = "all"
    """Both kinds at once."""

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
    """Authenticated.  ``docs/wire.md`` specifies it."""
    RSOCK = "rsock"
    """The original's: ``hash_key`` does not authenticate anybody, IPv4 only, one target."""


class Cipher(enum.Enum):
    """How data frames are protected.  Control frames are always sealed."""

    NONE = "none"
    AES_256_GCM = "aes-256-gcm"
    CHACHA20_POLY1305 = "chacha20-poly1305"


class Spread(enum.Enum):
    """On which flow a burst leaves."""

    BURST = "burst"
    """Each burst on a random healthy flow."""
    PACKET = "packet"
    """Each datagram on a random healthy flow, as the original does."""
    CONVERSATION = "conversation"
    """All datagrams of a conversation on one flow, as long as it is healthy: this keeps their order."""


class OnProbe(enum.Enum):
    """What a server does after the TCP handshake when no valid hello or join comes."""

    SILENT = "silent"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Common:
    """What client and server both need."""

    secret: bytes = field(default=b"", repr=False)
    """32 bytes, as ``genkey`` makes them.  Empty on wire ``rsock``."""
    wire: Wire = Wire.NATIVE
    hash_key: bytes = field(default=DEFAULT_HASH.encode(), repr=False)
    """Wire ``rsock`` only: the key of the checks in its frames, as the bytes of the text.  It may be empty."""
    carriers: Carriers = Carriers.TCP
    ports: tuple[PortRange, ...] = (PortRange(10001, 10010),)
    """The server's ports: merged, disjoint, ascending."""
    cipher: Cipher = Cipher.NONE
    spread: Spread = Spread.BURST
    duration: float = 300.0
    """A conversation ends when no datagram has moved in either direction for this time."""
    keepalive: float = 10.0
    """The time between two probes of an idle flow, ± 20 % jitter.  Wire ``rsock``: ``RSOCK_KEEPALIVE``."""


@dataclass(frozen=True, slots=True)
class ClientParameters(Common):
    """What only a client needs."""

    server: tuple[IPAddress, ...] = ()
    """The server's addresses, in order of preference.  Flows go to one address at a time.  When it answers no SYN,
    the next one is used."""
    flows: int = 10
    """At most this many flows, and at most one for each server port."""
    idle_timeout: float = 60.0
    """Flows close when this time has passed since the last conversation ended.  0 = never."""
    targets: tuple[int, ...] = (0,)
    """For each local listening socket, the index of its target in the server's list."""
    local_ends: tuple[str, ...] = ()
    """The name of each local listening socket, for people."""
    rsock_version: int = 2
    """Wire ``rsock`` only: 2 (a head of 23 bytes) or 1 (19 bytes).  A server answers in the version that the client
    used."""


@dataclass(frozen=True, slots=True)
class ServerParameters(Common):
    """What only a server needs."""

    targets: tuple[Endpoint, ...] = ()
    on_probe: OnProbe = OnProbe.SILENT
    max_sessions: int = 256
    max_conversations: int = 4096
    """Of all sessions together.  Each conversation is one UDP socket."""
