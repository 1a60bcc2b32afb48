"""The neighbours that our packets go to: next hops, and their link addresses, as the kernel knows them.

The kernel resolves a neighbour when it sends to it itself, and it does not see that we send.  So each neighbour that
is wanted is asked for (NTF_USE), again every 15 s while traffic flows, and at once when flows go silent.

Not here: which next hop a destination has (``ways``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link.ethernet import ETHERTYPE
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux import rtnetlink as rtnl
from rsock_nf.link.linux.devices import Devices, resolves
from rsock_nf.link.linux.resolve import Resolver
from rsock_nf.link.linux.rtnetlink import Neighbour, RouteSocket
from rsock_nf.link.recheck import Recheck

_LASTING: Final = rtnl.NUD_PERMANENT | rtnl.NUD_NOARP
_PROBEABLE: Final = rtnl.NUD_REACHABLE | rtnl.NUD_STALE | rtnl.NUD_DELAY

Hop = tuple[int, IPAddress]
"""A device's index, and the address of a neighbour there."""


@dataclass(slots=True)
class _Known:
    """What the kernel tells of a neighbour."""

    lladdr: bytes = b""
    """The last link address that was known.  It is kept while the kernel has none: a packet to an old address may
    arrive, a packet that is not sent cannot."""
    state: int = 0
    """NUD_*"""
    flags: int = 0
    """NTF_*"""
    retried: bool = False
    """It was asked for again since it failed."""
    recheck: Recheck = field(default_factory=Recheck)


class Neighbours:
    """The neighbours that are wanted.  ``kernel`` answers its questions."""

    def __init__(self, kernel: RouteSocket, devices: Devices) -> None:
        self._kernel = kernel
        self._resolver = Resolver(kernel)
        self._devices = devices
        self._known: dict[Hop, _Known] = {}

    def link_header(self, hop: Hop, version: int) -> bytes | None:
        """The link header of a packet to ``hop``; b"" on header-less links, None = not resolved yet."""
        device = self._devices.get(hop[0])
        if device is None:
            return None
        if device.link_type in arphrd.HEADERLESS:
            return b""
        if device.link_type == arphrd.LOOPBACK:
            return bytes(12) + ETHERTYPE[version]
        if not resolves(device):  # every neighbour has the device's own address (net/ipv4/arp.c, arp_constructor)
            return device.address + device.address + ETHERTYPE[version]
        known = self._known.get(hop)
        return known.lladdr + device.address + ETHERTYPE[version] if known is not None and known.lladdr else None

    def knows_device(self, ifindex: int) -> bool:
        """Whether a neighbour of this device is wanted: most news is about others, and need not be decoded."""
        return any(hop[0] == ifindex for hop in self._known)

    def want(self, hop: Hop) -> None:
        """Have it resolved, now and from now on."""
        device = self._devices.get(hop[0])
        if hop not in self._known and device is not None and resolves(device):
            self._known[hop] = known = _Known()
            self._use(hop, known)

    def close(self) -> None:
        """Idempotent."""
        self._resolver.close()

    def keep(self, wanted: Collection[Hop]) -> None:
        """Forget all others."""
        for hop in self._known.keys() - wanted:
            del self._known[hop]

    def suspect(self, hop: Hop) -> None:
        """Flows that go there fell silent: have it checked at once.

        An entry with a link address is probed at once; NTF_USE would wait 5 s.  Within 3 s it is confirmed, or it
        becomes FAILED and is then resolved by broadcast.  For an entry without a link address, or one that another
        program (a routing daemon) maintains, NTF_USE is used.
        """
        known = self._known.get(hop)
        if known is None:
            return
        self._read(hop, known)
        if known.state & _PROBEABLE and not known.flags & rtnl.NTF_EXT_LEARNED:
            with contextlib.suppress(OSError):
                self._kernel.probe_neighbour(*hop)
                return
        self._use(hop, known)

    def tick(self, now: float) -> None:
        """About once a second while traffic flows: it checks what is due."""
        for hop, known in self._known.items():
            if known.state & _LASTING:
                continue
            resolved = bool(known.lladdr) and not known.state & rtnl.NUD_FAILED
            if known.recheck.is_due(now, resolved=resolved):
                self._use(hop, known)

    # -- the kernel's news

    def hear(self, told: Neighbour, *, deleted: bool) -> None:
        """RTM_NEWNEIGH or RTM_DELNEIGH."""
        hop = (told.ifindex, told.address)
        known = self._known.get(hop)
        if known is None:
            return
        if deleted:  # the kernel deletes entries that it does not see used, and it does not see that we use them
            known.state = 0
            self._use(hop, known)
            return
        _update(known, told)
        if told.state & rtnl.NUD_FAILED and not known.retried:
            known.retried = True
            self._use(hop, known)

    def device_up(self, ifindex: int) -> None:
        """A device that was down has forgotten its neighbours."""
        for hop, known in self._known.items():
            if hop[0] == ifindex:
                self._use(hop, known)

    def read_all(self) -> None:
        """News was lost: ask for each of them."""
        for hop, known in self._known.items():
            self._read(hop, known)

    # -- asking

    def _use(self, hop: Hop, known: _Known) -> None:
        """NTF_USE, but not for a permanent entry, which would no longer be permanent (net/core/neighbour.c,
        ``__neigh_update``)."""
        device = self._devices.get(hop[0])
        if device is None or not device.up:  # once it is
            return
        self._read(hop, known)
        if not known.state & _LASTING:
            with contextlib.suppress(OSError):  # the device is gone: other news will tell
                self._resolver.use(hop[0], hop[1], known.flags)

    def _read(self, hop: Hop, known: _Known) -> None:
        with contextlib.suppress(OSError):  # the kernel has none
            _update(known, self._kernel.neighbour(*hop))


def _update(known: _Known, told: Neighbour) -> None:
    known.state, known.flags = told.state, told.flags
    known.lladdr = told.lladdr or known.lladdr
    if told.state & rtnl.NUD_REACHABLE:
        known.retried = False
