"""The hosts that a configuration names, and their addresses.

Not here: how a name is looked up (``sockets.resolver``), and when it is looked up again (``runtime.host.names``).
"""

from __future__ import annotations

from pathlib import Path

from rsock_nf.config import values
from rsock_nf.config.values import HostPort, shown
from rsock_nf.core.types import HostAddress, IPAddress, TransportAddress
from rsock_nf.errors import ConfigError, UnresolvedError
from rsock_nf.settings import NO_ADDRESS, Host, server_addresses
from rsock_nf.sockets.resolver import LookUpError, can_be_name, look_up
from rsock_nf.wire.parameters import WireName


class Hosts:
    """See the module.  ``path``: the file that names them.  ``patient``: names are left without addresses, for the
    resolver may not answer for minutes.  They have to be looked up later."""

    def __init__(self, path: Path, *, patient: bool = False) -> None:
        self._path = path
        self._patient = patient
        self.servers: tuple[Host, ...] = ()
        """A client's."""
        self.targets: list[Host] = []
        """Of all targets that were asked for, in their order."""

    def find(self, field: str, name: str) -> Host:
        """The host that ``field`` names.  Raises ``UnresolvedError`` or ``ConfigError`` when it has no address."""
        literal, zone = values.split_zone(name)
        if literal is not None:
            return Host(name, literal=True, addresses=(HostAddress(literal, zone),))
        try:
            found = () if self._patient and can_be_name(name) else look_up(name)
        except LookUpError as error:
            kind = UnresolvedError if error.temporary else ConfigError
            raise kind(self._path, field, f"cannot resolve {shown(name)}: {error}") from None
        return Host(name, literal=False, addresses=found)

    def server(self, names: tuple[str, ...], wire: WireName) -> tuple[IPAddress, ...]:
        """The addresses that a client dials.  Raises ``ConfigError`` also for a host that the wire cannot reach."""
        self.servers = tuple(self.find("server", name) for name in names)
        for host in self.servers:
            if wire is WireName.RSOCK and host.addresses and all(one.address.version != 4 for one in host.addresses):
                message = f'{shown(host.name)} has no IPv4 address, and "wire": "rsock" is IPv4 only'
                raise ConfigError(self._path, "server", message)
        return server_addresses(self.servers, wire)

    def target(self, field: str, target: HostPort) -> TransportAddress:
        """A server's target."""
        host = self.find(field, target.host)
        self.targets.append(host)
        address, zone = host.addresses[0] if host.addresses else HostAddress(NO_ADDRESS)
        return TransportAddress(address, target.port, zone)
