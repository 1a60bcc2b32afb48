"""The way from one interface to the remote addresses that we send to: route, next hop, link header; followed.  BSD, macOS.

What ``next_hop`` does on Linux with netlink, with routing messages, in the order of a destination's life:

1. ``follow`` asks for the route (RTM_GET), and looks for its next hop among the neighbours.
2. A frame written to bpf makes the kernel resolve nothing, and there is no message that asks for it.  What does is a packet
   of the kernel's own: an empty datagram to the neighbour's discard port, when its link address is not known (every
   second), while traffic flows (every 15 s), and when flows go silent.
3. ``events`` reads the news.  Whatever they say, the kernel is asked again: for our interface when it is about interfaces
   or addresses, for the routes and neighbours when it is about those.

What it is not: a routing table, or anything that waits.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link import LinkError, LinkEvent
from rsock_nf.link.bsd_routes import find_interface, gateway_of, is_second_choice, is_up, source_of, usable
from rsock_nf.link.bsd_routing import RouteSocket
from rsock_nf.link.pf_route import LinkAddress, Message

RECHECK: Final = 15.0
"""Seconds from one look at a neighbour to the next while traffic flows."""
RETRY: Final = 1.0
"""The same while it is not resolved."""
LOOK_AGAIN: Final = 30.0
"""Seconds after which the kernel is asked for everything again: some drop messages without a word when we are slow (macOS,
FreeBSD before 14)."""
_ETHERTYPE: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}


@dataclass(slots=True)
class _Followed:
    """One destination."""

    remote: IPAddress
    index: int = 0
    """Where the route leads, our interface or another; 0 = no route."""
    next_hop: IPAddress | None = None
    """On our interface; None = none."""
    source: IPAddress | None = None


@dataclass(slots=True)
class _Entry:
    """One next hop on our interface."""

    address: IPAddress
    lladdr: bytes = b""
    """The last one known: kept while the kernel has none, for a wrong guess costs nothing that no guess saves."""
    resolved: bool = False
    """The kernel had one when it was last asked."""
    asked: float | None = None
    """``now`` of the last tick that touched it."""


class NextHops:
    """The next hops of ``interface``.  It owns ``kernel``.  Raises ``LinkError`` when there is no such interface."""

    def __init__(self, interface: str, kernel: RouteSocket) -> None:
        self.device = interface
        self.moved_to = ""
        """The interface that the route of a followed destination leads out of, after ``MOVED``."""
        self._kernel = kernel
        self._followed: dict[bytes, _Followed] = {}
        self._entries: dict[bytes, _Entry] = {}
        self._headers: dict[bytes, bytes] = {}
        self._pending: dict[LinkEvent, None] = {}
        self._gone = False
        self._asked: float | None = None
        """``now`` of the last tick that had everything asked again."""
        self._stale = False
        """The next ``events`` asks for everything."""
        self._link = find_interface(kernel, interface)

    @property
    def mtu(self) -> int:
        """Bytes."""
        return self._link.mtu

    @property
    def up(self) -> bool:
        """Set up by the administrator, and not known to have lost its carrier."""
        return is_up(self._kernel, self._link)

    def fileno(self) -> int:
        """Readable when ``events`` has something to read."""
        return self._kernel.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._kernel.close()

    # -- destinations

    def header(self, remote: bytes) -> bytes | None:
        """The Ethernet header for a packed destination address; None = not resolved."""
        found = self._headers.get(remote)
        if found is None and remote in self._followed:
            self._read_neighbours()  # not every system tells when a neighbour answers
            found = self._headers.get(remote)
        return found

    def follow(self, remote: IPAddress) -> None:
        """Resolve ``remote`` now, and again whenever something changes, until ``forget``."""
        if remote.packed in self._followed or self._gone:
            return
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
        """Flows to ``remote`` went silent: have its next hop checked at once."""
        followed = self._followed.get(remote.packed)
        if followed is not None and followed.next_hop is not None:
            entry = self._entries.get(followed.next_hop.packed)
            if entry is not None:
                self._touch(entry)
                self._read_neighbours()

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """Our address on the route, but no temporary one (RFC 8981); None = no route."""
        followed = self._followed.get(remote.packed)
        if followed is None:
            followed = _Followed(remote)
            self._look_up(followed)
        return followed.source

    def tick(self, now: float) -> None:
        """About once a second while traffic flows: look again at what is due."""
        if self._asked is None:
            self._asked = now
        elif now - self._asked >= LOOK_AGAIN:
            self._asked, self._stale = now, True
        due = False
        for entry in self._entries.values():
            if entry.asked is None:
                entry.asked = now  # ``follow`` did
                due = due or not entry.resolved
            elif now - entry.asked >= (RECHECK if entry.resolved else RETRY):
                entry.asked = now
                self._touch(entry)
                due = True
        if due:
            self._read_neighbours()

    # -- resolving

    def _resolve(self, followed: _Followed) -> LinkEvent | None:
        """Ask for the route again; what changed."""
        before = (followed.index, followed.next_hop, followed.source)
        self._look_up(followed)
        self._enter(followed)
        self._render(followed)
        if before == (followed.index, followed.next_hop, followed.source):
            return None
        if followed.index not in {0, self._link.index, before[0]}:
            moved = next((one.name for one in self._kernel.interfaces() if one.index == followed.index), None)
            if moved is not None:
                self.moved_to = moved
                return LinkEvent.MOVED
        return LinkEvent.NEXT_HOP

    def _look_up(self, followed: _Followed) -> None:
        route = self._kernel.route(followed.remote)
        followed.index = route.index if route else 0
        if route is None or route.index != self._link.index:
            followed.next_hop = followed.source = None
        else:
            followed.next_hop = gateway_of(self._kernel, route) or followed.remote
            followed.source = self._choose_source(followed.remote, source_of(self._kernel, route))

    def _choose_source(self, remote: IPAddress, preferred: IPAddress | None) -> IPAddress | None:
        """``preferred``, unless it is temporary and the interface has a lasting one, best in the same /64."""
        if preferred is not None and not is_second_choice(self._kernel, self.device, preferred):
            return preferred
        lasting = [one for one in usable(self._kernel, self._link) if one.version == remote.version]
        lasting = [one for one in lasting if not is_second_choice(self._kernel, self.device, one)]
        if preferred is None:
            return lasting[0] if lasting else None
        return next(
            (one for one in lasting if one.packed[:8] == preferred.packed[:8]), lasting[0] if lasting else preferred
        )

    def _enter(self, followed: _Followed) -> None:
        """Have an entry for its next hop, as the kernel knows it, or else have the kernel resolve it."""
        hop = followed.next_hop
        if hop is None or not self._link.address or hop.packed in self._entries:
            return
        entry = self._entries[hop.packed] = _Entry(hop)
        self._read_neighbours()
        if not entry.resolved:
            self._touch(entry)
            self._read_neighbours()

    def _touch(self, entry: _Entry) -> None:
        with contextlib.suppress(OSError):  # it is down, or nobody answers: the next look tells
            self._kernel.calls.touch(entry.address, self._link.index)

    def _read_neighbours(self) -> None:
        """One look at the kernel's table, for all entries."""
        for version in {entry.address.version for entry in self._entries.values()}:
            known: dict[bytes, bytes] = {}
            with contextlib.suppress(OSError):
                neighbours = self._kernel.neighbours(version)
                known = {one.packed: lladdr for index, one, lladdr in neighbours if index == self._link.index}
            for key, entry in self._entries.items():
                if entry.address.version == version:
                    entry.resolved = key in known
                    entry.lladdr = known.get(key, entry.lladdr)
        for followed in self._followed.values():
            self._render(followed)

    def _render(self, followed: _Followed) -> None:
        """Put its link header where ``header`` finds it."""
        key = followed.remote.packed
        entry = self._entries.get(followed.next_hop.packed) if followed.next_hop is not None else None
        if entry is None or not entry.lladdr:
            self._headers.pop(key, None)
        else:
            self._headers[key] = entry.lladdr + self._link.address + _ETHERTYPE[followed.remote.version]

    def _drop_unused(self) -> None:
        used = {followed.next_hop.packed for followed in self._followed.values() if followed.next_hop is not None}
        for key in self._entries.keys() - used:
            del self._entries[key]

    # -- the kernel's news

    def events(self) -> list[LinkEvent]:
        """What happened since the last call, in no order; link headers are up to date afterwards."""
        found, self._pending = self._pending, {}
        messages, overrun = self._kernel.news()
        overrun, self._stale = overrun or self._stale, False
        kinds = {message.kind for message in messages if not self._is_strangers(message)}
        if overrun or not kinds.isdisjoint(
            self._about("RTM_IFINFO", "RTM_IFANNOUNCE", "RTM_NEWADDR", "RTM_DELADDR", "RTM_DESYNC")
        ):
            self._look_at_interface(found)
            overrun = True  # routes come and go with addresses
        if (
            overrun or not kinds.isdisjoint(self._about("RTM_ADD", "RTM_DELETE", "RTM_CHANGE", "RTM_RESOLVE"))
        ) and not self._gone:
            self._read_neighbours()
            for followed in self._followed.values():
                event = self._resolve(followed)
                if event is not None:
                    found[event] = None
            self._drop_unused()
        return list(found)

    def _is_strangers(self, message: Message) -> bool:
        """Whether it is about a neighbour that no packet of ours goes to: on a large network there is always one."""
        neighbour = message.addresses.get(self._kernel.abi["RTA_DST"])
        if not message.flags & self._kernel.neighbour_flag or neighbour is None or isinstance(neighbour, LinkAddress):
            return False
        return neighbour.packed not in self._entries

    def _about(self, *names: str) -> set[int]:
        return {self._kernel.abi[name] for name in names if name in self._kernel.abi}

    def _look_at_interface(self, found: dict[LinkEvent, None]) -> None:
        """Our interface as it is now, against what it was."""
        before, was_up = self._link, self.up
        try:
            self._link = now = find_interface(self._kernel, self.device)
        except (LinkError, OSError):
            now = None
        if now is None or now.index != before.index:
            self._gone = True
            self._followed.clear()
            self._entries.clear()
            self._headers.clear()
            found[LinkEvent.GONE] = None
            return
        if self.up != was_up:
            found[LinkEvent.UP if self.up else LinkEvent.DOWN] = None
        if now.mtu != before.mtu:
            found[LinkEvent.MTU] = None
        if set(now.addresses) != set(before.addresses):
            found[LinkEvent.ADDRESSES] = None
