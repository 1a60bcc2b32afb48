"""What the firewall must keep from the kernel, by the settings.  For running instances and for ``rules``."""

from __future__ import annotations

from rsock_firewall import Policy
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import ALL_PORTS, IPAddress, PortRange, Shard, ports_of
from rsock_nf.settings import Settings

MANY_ADDRESSES = 64
"""A server that has more addresses, and is to answer on all of them, has rules for any address: what is forwarded does
not pass them (``System.drops_at_input``)."""


def fake_tcp_ports(settings: Settings) -> tuple[PortRange, ...]:
    """The server's ports that must be kept from its kernel, over both wires: none where only UDP is carried."""
    return tuple(sorted(span for tunnel in settings.tunnels if tunnel.kinds.tcp for span in tunnel.ports))


def carrier_ports(settings: Settings) -> tuple[PortRange, ...]:
    """The server's ports on which UDP is carried, over both wires: ordinary sockets of its kernel."""
    return tuple(sorted(span for tunnel in settings.tunnels if tunnel.kinds.udp for span in tunnel.ports))


def own_ports(ports: tuple[PortRange, ...], shard: Shard) -> tuple[PortRange, ...]:
    """Those of ``ports`` that a server process with ``shard`` takes."""
    return ports if shard == ALL_PORTS else ports_of(ports, shard)


def served_ports(settings: Settings) -> tuple[PortRange, ...]:
    """The ports that a server takes of its host, over both wires; none of a client."""
    if not isinstance(settings.tunnel, ServerParameters):
        return ()
    return tuple(sorted(span for tunnel in settings.tunnels for span in tunnel.ports))


def policy_for(
    settings: Settings,
    *,
    device: str | None,
    local_addresses: tuple[IPAddress, ...],
    held_ports: tuple[PortRange, ...] = (),
    at_input: bool = False,
) -> Policy:
    """The instance's policy on ``device``.

    Server: what comes to its ports at ``local_addresses``.  Client: what comes from the server's ports to the source
    ports that it holds now, ``held_ports`` (none before it dials), whatever the local address; with the manual
    backend: all that it may ever hold.  ``at_input``: see ``System.drops_at_input``.  UDP carriers are ordinary
    sockets: nothing is dropped for them.
    Raises ``rsock_firewall.FirewallError`` when the addresses contradict each other.
    """
    tunnel = settings.tunnel
    if isinstance(tunnel, ServerParameters):
        if not settings.addresses and len(local_addresses) > MANY_ADDRESSES:
            local_addresses = ()
        return Policy(settings.name, device, local_addresses, fake_tcp_ports(settings), at_input=at_input)
    if not tunnel.kinds.tcp:
        held_ports = ()
    elif settings.backend == "manual":
        # The operator's rules cannot follow the flows: they cover every port at once.
        held_ports = settings.client_ports
    remote = (tunnel.server, tunnel.ports)
    return Policy(settings.name, device, local_addresses, held_ports, *remote, at_input=at_input)
