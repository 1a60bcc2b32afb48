"""Whether a datagram from an application is a packet of this tunnel itself, which came back to us.

A VPN on top of the tunnel may take the route to the server: then our packet goes into the VPN, and the VPN sends it to
our local end.  If the VPN does not encrypt, the packet is inside the datagram as it was, with our address, the server's
address and the server's port.  Such a datagram is dropped, so that it cannot go round again.

If the VPN encrypts, nothing can be recognised in the datagram.  ``rsock_nf.link`` sees such a VPN by its device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rsock_nf.core.types import Buffer, PortRange, Run

_LOOKED_AT: Final = 160
"""Bytes of a datagram: a VPN's own header, then the IP header."""


class LoopGuard:
    """``ports``: the server's.  ``watch`` tells between which addresses our flows are."""

    def __init__(self, ports: Iterable[PortRange]) -> None:
        self._ports = tuple(ports)
        self._needles: tuple[bytes, ...] = ()
        self.dropped = 0
        """Datagrams that were our own packets."""

    def watch(self, ends: Iterable[bytes]) -> None:
        """``ends``: source and destination address of our packets, packed, one after the other as in an IP header.

        Without any, nothing is looked at."""
        self._needles = tuple(set(ends))

    def sift(self, runs: list[Run]) -> list[Run]:
        """``runs`` without our own packets."""
        if not self._needles:
            return runs
        kept: list[Run] = []
        for run in runs:
            datagrams = [datagram for datagram in run.datagrams if not self._is_ours(datagram)]
            self.dropped += len(run.datagrams) - len(datagrams)
            if datagrams:
                kept.append(run._replace(datagrams=datagrams))
        return kept

    def _is_ours(self, datagram: Buffer) -> bool:
        start = bytes(datagram[:_LOOKED_AT])
        for needle in self._needles:
            at = start.find(needle)
            if at < 0:
                continue
            # IPv4 without options, or IPv6: the ports come right after the addresses
            port = int.from_bytes(start[at + len(needle) + 2 : at + len(needle) + 4], "big")
            if any(port in span for span in self._ports):
                return True
        return False
