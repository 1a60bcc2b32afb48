"""The applications that talk to a client, and how its packets find their ways past those that are VPNs."""

from __future__ import annotations

from rsock_nf.core.types import TransportAddress
from rsock_nf.link import Routing
from rsock_nf.runtime.host.local_ends import LocalEnds
from rsock_nf.runtime.protocols import ClientEndpoint
from rsock_nf.settings import Settings


class Talkers:
    """The applications that talk to a client now: a VPN may be among them."""

    def __init__(self, ends: LocalEnds) -> None:
        self._ends = ends
        self.endpoint: ClientEndpoint | None = None
        """Its conversations are with applications; None = it is not made yet."""

    def __call__(self) -> list[TransportAddress]:
        """Their addresses; those on Unix-domain sockets have none."""
        peers = self.endpoint.role.peers() if self.endpoint is not None else []
        return [address for peer in peers if (address := self._ends.address(peer)) is not None]

    def routing(self, settings: Settings, device: str | None) -> Routing:
        """How the client's packets find their ways; ``device``: the only one, None = any."""
        listens = tuple(end for end in settings.listen if isinstance(end, TransportAddress))
        return Routing(device, settings.fwmark, listens, self)
