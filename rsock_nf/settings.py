"""One instance's settings: the result of ``config``, and what ``runtime`` starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import zip_longest
from pathlib import Path
from typing import Final

from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import HostAddress, IPAddress, PortRange, TransportAddress
from rsock_nf.wire.parameters import WireName, WireParameters

NO_ADDRESS: Final = IPv4Address(0)
"""See ``Settings.target_hosts``."""


@dataclass(frozen=True, slots=True)
class Log:
    """Where log lines go and which."""

    level: str = "info"
    """debug | info | warning | error"""
    file: Path | None = None
    """None = standard error (foreground) or ``log`` in the instance's directory (background)."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host as the configuration names it."""

    name: str
    """A name, or a literal address as written."""
    literal: bool
    """It is an address: there is nothing to look up."""
    addresses: tuple[HostAddress, ...]
    """In the resolver's order of preference.  Empty = the name could not be looked up yet."""


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
    """Server: the local addresses that it answers on; empty = all of the host, or of ``device``.  Client: the source
    addresses; empty = the one that the route prefers."""
    listen: tuple[TransportAddress | Path, ...] = ()
    """Client: where the application sends: a UDP endpoint, or the absolute path of a Unix datagram socket."""
    client_ports: tuple[PortRange, ...] = ()
    """Client: where its source ports come from; empty = chosen by the kernel."""
    server_hosts: tuple[Host, ...] = ()
    """Client: the server, in order of preference.  ``tunnel.server`` has the addresses that can be used."""
    target_hosts: tuple[Host, ...] = ()
    """Server: one for each target, those of the second wire last.  While the name of one has no address yet, its target
    has the address ``NO_ADDRESS``."""
    backend: str = "auto"
    """Firewall backend: auto | nftables | iptables | pf | ipfw | manual."""
    workers: int = 1
    """How many processes carry its traffic; 1 = the instance's own."""
    pump: str = "auto"
    """The data path: auto | native | python."""
    metrics: TransportAddress | Path | None = None
    """Where metrics for Prometheus are served: a loopback address, or the absolute path of a Unix stream socket; None =
    nowhere."""
    user: str | None = None
    """The system user that the instance becomes once it has opened what takes root; None = it stays who it is."""
    key_log: bool = False
    """The keys of its flows' frames are told to who asks the control socket."""
    log: Log = field(default_factory=Log)

    @property
    def tunnels(self) -> tuple[ClientParameters | ServerParameters, ...]:
        """The parameters of each wire."""
        return (self.tunnel, self.second.tunnel) if self.second else (self.tunnel,)

    @property
    def wires(self) -> tuple[WireParameters, ...]:
        """Each wire, in the same order."""
        return (self.wire, self.second.wire) if self.second else (self.wire,)

    @property
    def unresolved(self) -> tuple[str, ...]:
        """The names that have no address yet."""
        hosts = dict.fromkeys(host.name for host in self.server_hosts + self.target_hosts if not host.addresses)
        return tuple(hosts)


def server_addresses(hosts: Iterable[Host], wire: WireName) -> tuple[IPAddress, ...]:
    """The addresses that a client dials, in order: host by host, and for each host the families in turn, beginning with
    that of its first address (RFC 8305 section 4).  Wire rsock is IPv4 only.
    """
    found: list[IPAddress] = []
    for host in hosts:
        addresses = [one.address for one in host.addresses if wire is WireName.NATIVE or one.address.version == 4]
        first = [one for one in addresses if one.version == addresses[0].version]
        second = [one for one in addresses if one.version != addresses[0].version]
        found += [one for pair in zip_longest(first, second) for one in pair if one is not None]
    return tuple(dict.fromkeys(found))
