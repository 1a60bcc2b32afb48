"""The networks from which a server takes clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rsock_nf.core.types import IPNetwork


class _Bits(NamedTuple):
    size: int
    """Bytes of an address: 4 or 16."""
    network: int
    mask: int


class Allowed:
    """See the module.  No network = all addresses are allowed."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._networks = [
            _Bits(network.max_prefixlen // 8, int(network.network_address), int(network.netmask))
            for network in networks
        ]

    def __contains__(self, address: bytes) -> bool:
        """Whether the packed ``address`` is in one of the networks."""
        if not self._networks:
            return True
        size, number = len(address), int.from_bytes(address, "big")
        return any(size == one.size and number & one.mask == one.network for one in self._networks)
