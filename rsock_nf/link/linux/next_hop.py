"""The route, next hop and link header to each remote address that we send to, on Linux.

``rsock_nf.link.next_hop`` is the part that is the same on every system.  Here is the rest, in the order of a
destination's life:

1. ``follow`` asks the kernel for the route (RTM_GETROUTE) and makes it resolve the next hop (NTF_USE).
2. ``events`` reads the kernel's news, which has the link header.  From then on ``header`` is one look-up.
3. AF_PACKET never makes the kernel check a neighbour again: if there is no other traffic, an entry stays STALE and
   keeps its link address, right or wrong.  So ``tick`` sends an NTF_USE every 15 s, and ``suspect`` starts a probe at
   once.  An entry that becomes FAILED is asked for again, because only an entry without a link address is resolved by
   broadcast.
4. When routes, addresses or the device change, every followed destination is resolved again, and ``events`` says what
   changed.

Nothing here waits.  The kernel answers requests at once; what depends on the network (ARP, neighbour discovery) comes
as news.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from rsock_firewall.netlink import kind_of
from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux import rtnetlink as rtnl
from rsock_nf.link.linux.routes import find_device, find_route, is_temporary, name_of, ranked
from rsock_nf.link.linux.rtnetlink import Device, Neighbour, RouteSocket
from rsock_nf.link.next_hop import Entry, FollowedDestinations, Way
from rsock_nf.link.protocol import LinkError, LinkEvent

_SECOND_CHOICE: Final = rtnl.IFA_F_TEMPORARY | rtnl.IFA_F_DEPRECATED | rtnl.IFA_F_TENTATIVE
_LASTING: Final = rtnl.NUD_PERMANENT | rtnl.NUD_NOARP
_PROBEABLE: Final = rtnl.NUD_REACHABLE | rtnl.NUD_STALE | rtnl.NUD_DELAY
_AF_UNSPEC: Final = 0
_AF_IP: Final = (2, 10)


@dataclass(slots=True)
class _Entry(Entry):
    """One next hop on our device, as the kernel last described it."""

    state: int = 0
    flags: int = 0
    retried: bool = False
    """It was FAILED, and has been asked for again."""


class NextHops(FollowedDestinations[_Entry]):
    """The next hops of ``device``.

    Raises ``LinkError`` when there is no such device, or when its link type is unknown.
    """

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.addresses: tuple[IPAddress, ...] = ()
        """The device's addresses, the best source addresses first."""
        self._addresses_stale = False
        with contextlib.ExitStack() as undo:
            self._requests = undo.enter_context(contextlib.closing(RouteSocket()))
            # before the first request, so that no change is missed
            self._news = undo.enter_context(contextlib.closing(RouteSocket(rtnl.NEWS_GROUPS)))
            self._news.enlarge()
            self._link = _find_supported(self._requests, device)
            self._read_addresses()
            undo.pop_all()

    @property
    def mtu(self) -> int:
        """Bytes."""
        return self._link.mtu

    @property
    def link_type(self) -> int:
        """ARPHRD_*"""
        return self._link.link_type

    @property
    def address(self) -> bytes:
        """See ``FollowedDestinations.address``."""
        return self._link.address

    @property
    def _ifindex(self) -> int:
        return self._link.ifindex

    def fileno(self) -> int:
        """Readable when ``events`` has something to read."""
        return self._news.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._requests.close()
        self._news.close()

    # -- destinations

    def suspect(self, remote: IPAddress) -> None:
        """Flows to ``remote`` went silent: have its next hop checked at once.

        An entry with a link address is probed at once; NTF_USE would wait 5 s.  Within 3 s it is confirmed, or it
        becomes FAILED and is then resolved by broadcast.  For an entry without a link address, or one that another
        program (a routing daemon) maintains, NTF_USE is used.
        """
        entry = self._entry_of(remote)
        if entry is None:
            return
        self._read_entry(entry)
        if entry.state & _PROBEABLE and not entry.flags & rtnl.NTF_EXT_LEARNED:
            with contextlib.suppress(OSError):
                self._requests.probe_neighbour(self._link.ifindex, entry.address)
                return
        self._use(entry)

    def tick(self, now: float) -> None:
        """Call it about once a second while traffic flows: it checks what is due."""
        for entry in self._entries.values():
            if entry.state & _LASTING:
                continue
            resolved = bool(entry.lladdr) and not entry.state & rtnl.NUD_FAILED
            if entry.is_due(now, resolved=resolved):
                self._use(entry)

    # -- resolving

    def _look_up(self, remote: IPAddress) -> Way:
        """The host's route.  Where that leads out of another device, the route that our device would offer."""
        route = find_route(
            self._requests, remote, self._link.ifindex if remote.version == 6 and remote.is_link_local else 0
        )
        ifindex = route.ifindex if route else 0
        if route and route.ifindex != self._link.ifindex:
            route = find_route(self._requests, remote, self._link.ifindex)
        if route is None or route.ifindex != self._link.ifindex:
            return Way(ifindex)
        return Way(ifindex, route.gateway or remote, self._choose_source(remote, route.source))

    def _exists(self, ifindex: int) -> bool:
        return name_of(self._requests, ifindex) is not None  # if it is gone again, other news will tell

    def _is_second_choice(self, address: IPAddress) -> bool:
        return address in self._temporary

    def _lasting(self, version: int) -> list[IPAddress]:
        lasting = [a.address for a in self._ranked if a.scope == rtnl.SCOPE_GLOBAL and not a.flags & _SECOND_CHOICE]
        return [address for address in lasting if address.version == version]

    def _enter(self, hop: IPAddress) -> None:
        entry = self._entries[hop.packed] = _Entry(hop)
        self._use(entry)

    @property
    def _resolves(self) -> bool:
        return self._link.link_type == arphrd.ETHERNET and not self._link.flags & (rtnl.IFF_NOARP | rtnl.IFF_LOOPBACK)

    def _use(self, entry: _Entry) -> None:
        """NTF_USE, but not for a permanent entry, which would no longer be permanent (net/core/neighbour.c,
        ``__neigh_update``)."""
        if not self._link.up:  # once it is
            return
        self._read_entry(entry)
        if not entry.state & _LASTING:
            with contextlib.suppress(OSError):  # the device is gone: other news will tell
                self._requests.use_neighbour(self._link.ifindex, entry.address, entry.flags)

    def _read_entry(self, entry: _Entry) -> None:
        with contextlib.suppress(OSError):  # the kernel has none
            self._update_entry(entry, self._requests.neighbour(self._link.ifindex, entry.address))

    def _update_entry(self, entry: _Entry, told: Neighbour) -> None:
        before = entry.lladdr
        entry.state, entry.flags = told.state, told.flags
        entry.lladdr = told.lladdr or before
        if told.state & rtnl.NUD_REACHABLE:
            entry.retried = False
        if entry.lladdr != before:
            for followed in self._followed.values():
                self._render(followed)

    def _lladdr(self, hop: IPAddress | None) -> bytes | None:
        """On a device without neighbours every next hop has the device's own link address (net/ipv4/arp.c,
        ``arp_constructor``)."""
        if hop is not None and not self._resolves:
            return self._link.address
        return super()._lladdr(hop)

    def _link_header(self, lladdr: bytes, version: int) -> bytes:
        return b"" if self._link.link_type in arphrd.HEADERLESS else super()._link_header(lladdr, version)

    # -- the kernel's news

    def events(self) -> list[LinkEvent]:
        """What happened since the last call, in no order; link headers are up to date afterwards."""
        found = self._pending
        self._pending = {}
        messages, overrun = self._news.news()
        moved = overrun
        for message in messages:
            moved = self._hear(message, found) or moved
        if overrun:
            self._read_all(found)
        if self._addresses_stale and not self._gone:
            self._read_addresses(found)
        if moved and not self._gone:
            self._resolve_all(found)
        return list(found)

    def _hear(self, message: bytes, found: dict[LinkEvent, None]) -> bool:
        """One message; whether it may have changed a route."""
        kind = kind_of(message)
        if kind in {rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK}:
            if rtnl.device_key(message) == (_AF_UNSPEC, self._link.ifindex):
                self._hear_device(rtnl.parse_device(message), found, deleted=kind == rtnl.RTM_DELLINK)
        elif kind in {rtnl.RTM_NEWNEIGH, rtnl.RTM_DELNEIGH}:
            family, ifindex = rtnl.device_key(message)
            if family in _AF_IP and ifindex == self._link.ifindex:
                self._hear_neighbour(rtnl.parse_neighbour(message), deleted=kind == rtnl.RTM_DELNEIGH)
            return False
        elif kind in {rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR}:
            self._addresses_stale = self._addresses_stale or rtnl.device_key(message)[1] == self._link.ifindex
        return True  # links, addresses, routes, rules, nexthops

    def _hear_device(self, told: Device, found: dict[LinkEvent, None], *, deleted: bool) -> None:
        before = self._link
        if deleted or told.name != self.device:
            self._lose_device(found)
            return
        self._link = told
        if told.up != before.up:  # a device that went down and up again between two calls has not changed
            found.pop(LinkEvent.DOWN if told.up else LinkEvent.UP, None)
            found[LinkEvent.UP if told.up else LinkEvent.DOWN] = None
        if told.mtu != before.mtu:
            found[LinkEvent.MTU] = None
        if told.up and not before.up:
            for entry in self._entries.values():
                self._use(entry)

    def _hear_neighbour(self, told: Neighbour, *, deleted: bool) -> None:
        entry = self._entries.get(told.address.packed)
        if entry is None:
            return
        if deleted:  # the kernel deletes entries that it does not see used, and it does not see that we use them
            entry.state = 0
            self._use(entry)
            return
        self._update_entry(entry, told)
        if told.state & rtnl.NUD_FAILED and not entry.retried:
            entry.retried = True
            self._use(entry)

    def _read_all(self, found: dict[LinkEvent, None]) -> None:
        """News was lost: look at everything again."""
        self._addresses_stale = True
        try:
            link = self._requests.device(index=self._link.ifindex)
        except OSError:
            self._hear_device(self._link, found, deleted=True)
            return
        self._hear_device(link, found, deleted=False)
        for entry in self._entries.values():
            self._read_entry(entry)

    def _read_addresses(self, found: dict[LinkEvent, None] | None = None) -> None:
        self._ranked = ranked(self._requests.addresses(), self._link.ifindex)
        self._addresses_stale = False
        self._temporary = {a.address for a in self._ranked if is_temporary(a)}
        before, self.addresses = self.addresses, tuple(a.address for a in self._ranked)
        if found is not None and self.addresses != before:
            found[LinkEvent.ADDRESSES] = None


def _find_supported(kernel: RouteSocket, device: str) -> Device:
    link = find_device(kernel, device)
    if link.link_type not in arphrd.SUPPORTED:
        raise LinkError(f"{device}: link type {link.link_type} is not supported, only Ethernet and header-less ones")
    return link
