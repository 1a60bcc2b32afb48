"""The parameters of an endpoint: the part of the configuration that the protocol needs, as frozen dataclasses.

Each default is defined here and nowhere else.  Durations are in seconds, sizes in bytes.

Not here: the keys of the file and what they may hold (``rsock_nf.config``).
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar

from rsock_nf.core.types import ALL_PORTS, IPAddress, IPNetwork, PortRange, Shard, TransportAddress

SPEEDTEST_TARGET = 0xFFFF
"""The target whose conversations end in the server's own process, where it allows that."""


class Kinds(enum.Enum):
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
        return self is not Kinds.UDP

    @property
    def udp(self) -> bool:
        """Whether there are UDP flows."""
        return self is not Kinds.TCP


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
    """Each datagram on a random healthy flow."""
    CONVERSATION = "conversation"
    """All datagrams of a conversation on one flow, as long as it is healthy: this keeps their order."""


class OnProbe(enum.Enum):
    """What a server does after the TCP handshake when no valid hello or join comes."""

    SILENT = "silent"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Common:
    """What client and server both need."""

    LIVE: ClassVar[tuple[str, ...]] = ("duration", "keepalive")
    """What may change while the endpoint runs: see ``adopt``."""

    kinds: Kinds = Kinds.TCP
    ports: tuple[PortRange, ...] = (PortRange(10001, 10010),)
    """The server's ports: merged, disjoint, ascending."""
    shard: Shard = ALL_PORTS
    """Which of its own host's ports this process uses, where an instance is several processes: of ``ports`` at a
    server, of its source ports of fake TCP at a client."""
    cipher: Cipher = Cipher.NONE
    spread: Spread = Spread.BURST
    duration: float = 300.0
    """A conversation ends when no datagram has moved in either direction for this time."""
    keepalive: float = 10.0
    """The time between two probes of an idle flow, ± 20 % jitter."""


@dataclass(frozen=True, slots=True)
class ClientParameters(Common):
    """What only a client needs."""

    LIVE: ClassVar[tuple[str, ...]] = (*Common.LIVE, "idle_timeout", "flow_age")

    server: tuple[IPAddress, ...] = ()
    """The server's addresses, in order of preference.  Flows go to one address at a time.  When it answers no SYN,
    the next one is used."""
    flows: int = 10
    """At most this many flows, and at most as many as there are server ports."""
    first_port: int = 0
    """The index in ``ports`` at which it begins to dial; it may be larger than their number."""
    idle_timeout: float = 60.0
    """Flows close when this time has passed since the last conversation ended.  0 = never."""
    flow_age: float = 0.0
    """A flow is renewed when it is this old, ± 20 % jitter.  0 = never."""
    targets: tuple[int, ...] = (0,)
    """For each local listening socket, the index of its target in the server's list."""
    local_ends: tuple[str, ...] = ()
    """The name of each local listening socket, for people."""

    @property
    def flows_of_a_kind(self) -> int:
        """How many flows of each kind it has if every port answers."""
        return min(self.flows, sum(map(len, self.ports)))

    @property
    def flows_wanted(self) -> int:
        """How many flows it has if every port answers."""
        return self.flows_of_a_kind * (self.kinds.tcp + self.kinds.udp)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What a server lets one client have, over all of its sessions.  None = no limit but the server's own."""

    max_conversations: int | None = None
    rate: float | None = None
    """Bits a second of the application's datagrams, each way."""


NO_LIMITS: Final = ClientLimits()


@dataclass(frozen=True, slots=True)
class ServerParameters(Common):
    """What only a server needs."""

    LIVE: ClassVar[tuple[str, ...]] = (
        *Common.LIVE,
        "targets",
        "on_probe",
        "allow",
        "max_sessions",
        "max_conversations",
    )

    targets: tuple[TransportAddress, ...] = ()
    on_probe: OnProbe = OnProbe.SILENT
    allow: tuple[IPNetwork, ...] = ()
    """Clients come from these networks only.  Empty = from anywhere."""
    speedtest: int = 0
    """Mbit/s at which a client may test the tunnel, each way: see ``SPEEDTEST_TARGET``.  0 = not at all."""
    max_sessions: int = 256
    max_conversations: int = 4096
    """Of all sessions together.  Each conversation is one UDP socket."""


P = TypeVar("P", bound=Common)


def adopt(running: P, wanted: Common) -> P:
    """The parameters of an endpoint that runs with ``running``, and is to follow ``wanted`` as far as it can.

    Both are of the same role.
    """
    return dataclasses.replace(running, **{name: getattr(wanted, name) for name in running.LIVE})
