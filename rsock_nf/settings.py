"""One instance's settings: the result of ``config``, and what ``runtime`` starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import IPAddress, PortRange, TransportAddress
from rsock_nf.wire.parameters import WireParameters


@dataclass(frozen=True, slots=True)
class Log:
    """Where log lines go and which."""

    level: str = "info"
    """debug | info | warning | error"""
    file: Path | None = None
    """None = standard error (foreground) or ``log`` in the instance's directory (background)."""


@dataclass(frozen=True, slots=True)
class SecondWire:
    """Another wire that a server speaks, on ports of its own."""

    tunnel: ServerParameters
    wire: WireParameters


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that one instance needs."""

    name: str
    path: Path
    """The configuration file, absolute."""
    digest: str
    """Hash of the validated configuration, the secret included: shows whether a running instance has the same one."""
    tunnel: ClientParameters | ServerParameters
    wire: WireParameters
    second: SecondWire | None = None
    """Server: a second wire, the original's, on ports of its own; ``wire`` is then native."""
    device: str | None = None
    """None = packets come in by any device, and leave by that of their route."""
    fwmark: int = 0
    """The firewall mark of our packets, given with route questions, and to UDP and packet sockets; 0 = none."""
    addresses: tuple[IPAddress, ...] = ()
    """Server: the local addresses it answers on; client: the source addresses.  Empty = all of the host, or of ``device``."""
    listen: tuple[TransportAddress | Path, ...] = ()
    """Client: where the application sends: a UDP endpoint, or the absolute path of a Unix datagram socket."""
    client_ports: tuple[PortRange, ...] = ()
    """Client: where its source ports come from; empty = chosen by the kernel."""
    backend: str = "auto"
    """Firewall backend: auto | nftables | iptables | pf | ipfw | manual."""
    log: Log = field(default_factory=Log)

    @property
    def tunnels(self) -> tuple[ClientParameters | ServerParameters, ...]:
        """The parameters of each wire."""
        return (self.tunnel, self.second.tunnel) if self.second else (self.tunnel,)

    @property
    def wires(self) -> tuple[WireParameters, ...]:
        """Each wire, in the same order."""
        return (self.wire, self.second.wire) if self.second else (self.wire,)
