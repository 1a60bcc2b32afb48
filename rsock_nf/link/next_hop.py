"""The way from one device to the remote addresses that we send to: route, next hop, link header; followed.

What it is, in the order of a destination's life:

1. ``follow`` asks the kernel for the route (RTM_GETROUTE) and makes it resolve the next hop (NTF_USE).
2. ``events`` reads the kernel's news, and the link header is there.  ``header`` is one look-up from then on.
3. AF_PACKET never makes the kernel re-check a neighbour: under our traffic alone an entry stays STALE with whatever
   address it had.  So ``tick`` sends an NTF_USE every 15 s, ``suspect`` starts a probe at once, and an entry that
   went FAILED is asked for again, because only an entry without a link address is resolved by broadcast.
4. Routes, addresses or the device change: every followed destination is resolved anew, and ``events`` says what that meant.

What it is not: a routing table, or anything that waits.  Requests to the kernel are answered at once; what
depends on the network (ARP, neighbour discovery) comes as news.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link import LinkError, LinkEvent, Route
from rsock_nf.link import rtnetlink as rtnl
from rsock_nf.link.routes import (
    default_device,
    device_addresses,
    find_device,
    find_route,
    is_temporary,
    ranked,
    route_to,
)
from rsock_nf.link.rtnetlink import Device, Neighbour, RouteSocket

__all__ = ["RECHECK", "RETRY", "NextHops", "Route", "default_device", "device_addresses", "route_to"]

RECHECK: Final = 15.0
"""Seconds from one NTF_USE of a neighbour to the next while traffic flows."""
RETRY: Final = 1.0
"""The same while it is not resolved."""

_ETHERNET: Final = 1
_LOOPBACK: Final = 772
_HEADERLESS: Final = (512, 519, 65534, 768, 769, 776)
"""ARPHRD_PPP, RAWIP, NONE (TUN, WireGuard), TUNNEL, TUNNEL6, SIT (include/uapi/linux/if_arp.h)"""
_ETHERTYPE: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
_SECOND_CHOICE: Final = rtnl.IFA_F_TEMPORARY | rtnl.IFA_F_DEPRECATED | rtnl.IFA_F_TENTATIVE
_LASTING: Final = rtnl.NUD_PERMANENT | rtnl.NUD_NOARP
_PROBEABLE: Final = rtnl.NUD_REACHABLE | rtnl.NUD_STALE | rtnl.NUD_DELAY
_AF_UNSPEC: Final = 0
_AF_IP: Final = (2, 10)


@dataclass(slots=True)
class _Followed:
    """One destination."""

    remote: IPAddress
    ifindex: int = 0
    """Where the route leads, our device or another; 0 = no route."""
    next_hop: IPAddress | None = None
    """On our device; None = none."""
    source: IPAddress | None = None


@dataclass(slots=True)
class _Entry:
    """One next hop on our device, as the kernel last told."""

    address: IPAddress
    state: int = 0
    flags: int = 0
    lladdr: bytes = b""
    """The last one known: kept while the entry is FAILED or collected, for a wrong guess costs nothing that no guess saves."""
    asked: float | None = None
    """``now`` of the last tick that sent NTF_USE."""
    retried: bool = False
    """Asked again at once after it FAILED."""


class NextHops:
    """The next hops of ``device``.

    Raises ``LinkError`` when there is no such device, or when its link type is unknown.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.moved_to = ""
        """The device that the route of a followed destination leads out of, after ``MOVED``."""
        self.addresses: tuple[IPAddress, ...] = ()
        """The device's, those first that one would choose as a source."""
        self._followed: dict[bytes, _Followed] = {}
        self._entries: dict[bytes, _Entry] = {}
        self._headers: dict[bytes, bytes] = {}
        self._pending: dict[LinkEvent, None] = {}
        self._gone = False
        self._addresses_stale = False
        with contextlib.ExitStack() as undo:
            self._requests = undo.enter_context(contextlib.closing(RouteSocket()))
            # Before the first look, so that no change falls between.
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
        """The device's link address; b"" on header-less links."""
        return self._link.address

    def fileno(self) -> int:
        """Readable when ``events`` has something to read."""
        return self._news.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._requests.close()
        self._news.close()

    # -- destinations

    def header(self, remote: bytes) -> bytes | None:
        """The link header for a packed destination address; b"" on header-less links, None = not resolved."""
        return self._headers.get(remote)

    def follow(self, remote: IPAddress) -> None:
        """Resolve ``remote`` now, and again whenever something changes, until ``forget``.

        A route that leads out of another device already is ``MOVED`` in the next ``events``.
        """
        if remote.packed not in self._followed and not self._gone:
            self._followed[remote.packed] = followed = _Followed(remote)
            event = self._resolve(followed)
            if event is LinkEvent.MOVED:
                self._pending[event] = None

    def forget(self, remote: IPAddress) -> None:
        """Stop following ``remote``."""
        self._followed.pop(remote.packed, None)
        self._headers.pop(remote.packed, None)
        self._drop_unused()

    def suspect(self, remote: IPAddress) -> None:
        """Flows to ``remote`` went silent: have its next hop checked at once.

        An entry with a link address is probed without the 5 s of delay that NTF_USE brings: in 3 s it is confirmed, or
        FAILED and then resolved by broadcast.  Without one, or when another program (a routing daemon) keeps it: NTF_USE.
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

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """The source address that the route prefers, but no temporary one (RFC 8981); None = no route."""
        followed = self._followed.get(remote.packed)
        if followed is None:
            followed = _Followed(remote)
            self._look_up(followed)
        return followed.source

    def tick(self, now: float) -> None:
        """About once a second while traffic flows: re-check what is due."""
        for entry in self._entries.values():
            if entry.state & _LASTING:
                continue
            if entry.asked is None:
                entry.asked = now  # ``follow`` did
            resolved = entry.lladdr and not entry.state & rtnl.NUD_FAILED
            if now - entry.asked >= (RECHECK if resolved else RETRY):
                entry.asked = now
                self._use(entry)

    def _entry_of(self, remote: IPAddress) -> _Entry | None:
        followed = self._followed.get(remote.packed)
        if followed is None or followed.next_hop is None:
            return None
        return self._entries.get(followed.next_hop.packed)

    # -- resolving

    def _resolve(self, followed: _Followed) -> LinkEvent | None:
        """Ask for the route again; what changed."""
        before = (followed.ifindex, followed.next_hop, followed.source)
        self._look_up(followed)
        self._enter(followed)
        self._render(followed)
        if before == (followed.ifindex, followed.next_hop, followed.source):
            return None
        if followed.ifindex not in {0, self._link.ifindex, before[0]}:
            with contextlib.suppress(OSError):  # gone again: that will be news, too
                self.moved_to = self._requests.device(index=followed.ifindex).name
                return LinkEvent.MOVED
        return LinkEvent.NEXT_HOP

    def _look_up(self, followed: _Followed) -> None:
        """The route as the host has it; where it leads out of another device, the one that ours would offer."""
        remote = followed.remote
        route = find_route(
            self._requests, remote, self._link.ifindex if remote.version == 6 and remote.is_link_local else 0
        )
        followed.ifindex = route.ifindex if route else 0
        if route and route.ifindex != self._link.ifindex:
            route = find_route(self._requests, remote, self._link.ifindex)
        if route is None or route.ifindex != self._link.ifindex:
            followed.next_hop = followed.source = None
        else:
            followed.next_hop = route.gateway or remote
            followed.source = self._choose_source(remote, route.source)

    def _choose_source(self, remote: IPAddress, preferred: IPAddress | None) -> IPAddress | None:
        """``preferred``, unless it is temporary and the device has a lasting one, best in the same /64."""
        if preferred is not None and preferred not in self._temporary:
            return preferred
        lasting = [a.address for a in self._ranked if a.scope == rtnl.SCOPE_GLOBAL and not a.flags & _SECOND_CHOICE]
        lasting = [address for address in lasting if address.version == remote.version]
        if preferred is None:
            return lasting[0] if lasting else None
        return next((a for a in lasting if a.packed[:8] == preferred.packed[:8]), lasting[0] if lasting else preferred)

    def _enter(self, followed: _Followed) -> None:
        """Have an entry for its next hop, as the kernel knows it, and have the kernel check it."""
        hop = followed.next_hop
        if hop is None or not self._resolves or hop.packed in self._entries:
            return
        entry = self._entries[hop.packed] = _Entry(hop)
        self._use(entry)

    @property
    def _resolves(self) -> bool:
        """Whether the kernel asks the link for neighbours here."""
        return self._link.link_type == _ETHERNET and not self._link.flags & (rtnl.IFF_NOARP | rtnl.IFF_LOOPBACK)

    def _use(self, entry: _Entry) -> None:
        """NTF_USE, but not to a permanent entry: it would lose just that (net/core/neighbour.c, ``__neigh_update``)."""
        if not self._link.up:  # once it is
            return
        self._read_entry(entry)
        if not entry.state & _LASTING:
            with contextlib.suppress(OSError):  # the device is gone: that is news of its own
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

    def _render(self, followed: _Followed) -> None:
        """Put its link header where ``header`` finds it."""
        key = followed.remote.packed
        lladdr = self._lladdr(followed.next_hop)
        if lladdr is None:
            self._headers.pop(key, None)
        elif self._link.link_type in _HEADERLESS:
            self._headers[key] = b""
        else:
            self._headers[key] = lladdr + self._link.address + _ETHERTYPE[followed.remote.version]

    def _lladdr(self, hop: IPAddress | None) -> bytes | None:
        """Where the device takes no neighbours, its own address is every one's (net/ipv4/arp.c, ``arp_constructor``)."""
        if hop is None:
            return None
        if not self._resolves:
            return self._link.address
        entry = self._entries.get(hop.packed)
        return (entry.lladdr or None) if entry else None

    def _drop_unused(self) -> None:
        used = {followed.next_hop.packed for followed in self._followed.values() if followed.next_hop is not None}
        for key in self._entries.keys() - used:
            del self._entries[key]

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
        kind = rtnl.kind_of(message)
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
            self._gone = True
            self._followed.clear()
            self._entries.clear()
            self._headers.clear()
            found[LinkEvent.GONE] = None
            return
        self._link = told
        if told.up != before.up:  # down and up again between two looks is nothing
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
        if deleted:  # the kernel collects what it does not see used, and our use it does not see
            entry.state = 0
            self._use(entry)
            return
        self._update_entry(entry, told)
        if told.state & rtnl.NUD_FAILED and not entry.retried:
            entry.retried = True
            self._use(entry)

    def _read_all(self, found: dict[LinkEvent, None]) -> None:
        """News were lost: look at everything."""
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

    def _resolve_all(self, found: dict[LinkEvent, None]) -> None:
        for followed in self._followed.values():
            event = self._resolve(followed)
            if event is not None:
                found[event] = None
        self._drop_unused()


def _find_supported(kernel: RouteSocket, device: str) -> Device:
    link = find_device(kernel, device)
    if link.link_type not in {_ETHERNET, _LOOPBACK, *_HEADERLESS}:
        raise LinkError(f"{device}: link type {link.link_type} is not supported, only Ethernet and header-less ones")
    return link
