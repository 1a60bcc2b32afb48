"""A server's ports and other uses of the same ports on its host: what an operator should know before it matters."""

from __future__ import annotations

from collections.abc import Sequence

from rsock_nf.core.types import PortRange
from rsock_nf.link.protocol import System


def overlap_warning(ports: Sequence[PortRange], host: System) -> str | None:
    """One line about those of ``ports`` that ``host`` also gives to outgoing connections; None = there are none.

    The kernel gives no port that we hold.  But a connection may have the port when the tunnel starts.  And a host that
    forwards may translate connections of others to such a port: they work, and our tap sees their packets, too.
    """
    shared = [
        PortRange(max(ours.first, theirs.first), min(ours.last, theirs.last))
        for ours in ports
        for theirs in host.ephemeral_ports()
        if ours.first <= theirs.last and theirs.first <= ours.last
    ]
    if not shared:
        return None
    names = ", ".join(map(str, dict.fromkeys(shared)))
    setting = host.remedies.ephemeral_ports
    if host.forwards():
        return (
            f"ports: {names} lie in {setting}, and this host forwards: packets of connections that it masquerades to "
            'these ports cost this process CPU time, too: choose "ports" below 32768'
        )
    return (
        f"ports: {names} lie in {setting}: a connection of this host may have one when the tunnel starts: "
        f'choose "ports" below 32768, or add them to net.ipv4.ip_local_reserved_ports'
    )
