"""The route, next hop and link header to each remote address that we send to, on the BSDs and macOS.

Linux has netlink (``linux.ways``); here are routing messages.  In the order of a destination's life:

1. ``follow`` asks for the route (RTM_GET), and looks for its next hop among the neighbours.
2. A frame that is written to bpf does not make the kernel resolve a neighbour, and no message asks for that. A packet
   of the kernel's own does: an empty datagram to the neighbour's discard port.  One is sent every second while its link
   address is not known, every 15 s while traffic flows, and when flows go silent.
3. ``events`` reads the news, and asks the kernel again: for our interface when the news is about interfaces or
   addresses, for routes and neighbours when it is about those.

It follows destinations on one interface.  If a route leads out of another one, the link has to be opened anew there
(``LinkEvent.MOVED``).  Nothing here waits.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rsock_nf.core.types import IPAddress
from rsock_nf.link.bsd.pf_route import LinkAddress, Message
from rsock_nf.link.bsd.routes import find_interface, gateway_of, is_second_choice, is_up, source_of, usable
from rsock_nf.link.bsd.routing import RouteSocket
from rsock_nf.link.ethernet import ETHERTYPE
from rsock_nf.link.protocol import Detour, LinkError, LinkEvent
from rsock_nf.link.recheck import Recheck

LOOK_AGAIN: Final = 30.0
"""Seconds after which the kernel is asked for everything again: when we are slow, some kernels drop messages and do
not tell (macOS, FreeBSD before 14)."""


class Way(NamedTuple):
    """How packets to a destination go now."""

    ifindex: int = 0
    """The device that the route leads out of, ours or another; 0 = no route."""
    next_hop: IPAddress | None = None
    """The next hop on our device; None = our device has no route."""
    source: IPAddress | None = None
    """Our address, where the route leads out of our device."""


_NOWHERE: Final = Way()


@dataclass(slots=True)
class Followed:
    """One destination."""

    remote: IPAddress
    sources: set[IPAddress | None]
    """The source addresses that it is followed for: all of them go the same way."""
    way: Way = _NOWHERE


@dataclass(slots=True)
class _Entry:
    """One next hop on our interface."""

    address: IPAddress
    lladdr: bytes = b""
    """The last link address that was known.  It is kept while the kernel has none: a packet to an old address may
    arrive, a packet that is not sent cannot."""
    resolved: bool = False
    """The kernel had a link address when it was last asked."""
    recheck: Recheck = field(default_factory=Recheck)


class NextHops:
    """The next hops of ``interface``.  It owns ``kernel``.  Raises ``LinkError`` when there is no such interface."""

    def __init__(self, interface: str, kernel: RouteSocket) -> None:
        self.device = interface
        self._followed: dict[bytes, Followed] = {}
        self._entries: dict[bytes, _Entry] = {}
        self._headers: dict[bytes, bytes] = {}
        self._pending: dict[LinkEvent, None] = {}
        """Events that ``follow`` found; the next ``events`` tells of them."""
        self._gone = False
        self._kernel = kernel
        self._asked: float | None = None
        """``now`` of the last tick after which everything was asked again."""
        self._stale = False
        """The next ``events`` asks for everything."""
        self._link = find_interface(kernel, interface)

    @property
    def devices(self) -> tuple[str, ...]:
        """See ``Routes``: one."""
        return (self.device,)

    @property
    def mtu(self) -> int:
        """Bytes."""
        return self._link.mtu

    @property
    def up(self) -> bool:
        """Set up by the administrator, and not known to have lost its carrier."""
        return is_up(self._kernel, self._link)

    @property
    def address(self) -> bytes:
        """The interface's link address; b"" on header-less links."""
        return self._link.address

    @property
    def _ifindex(self) -> int:
        return self._link.index

    @property
    def _resolves(self) -> bool:
        return bool(self._link.address)

    def fileno(self) -> int:
        """Readable when ``events`` has something to read."""
        return self._kernel.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._kernel.close()

    # -- destinations

    def header(self, remote: bytes) -> bytes | None:
        """The link header for a packed destination address; b"" on header-less links, None = not resolved."""
        found = self._headers.get(remote)
        if found is None and remote in self._followed:
            self._read_neighbours()  # not every system tells us when a neighbour answers
            found = self._headers.get(remote)
        return found

    def follow(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """Resolve ``remote`` now, and again whenever something changes, until ``forget``.

        A route that leads out of another device already is ``MOVED`` in the next ``events``.
        """
        if self._gone:
            return
        if remote.packed in self._followed:
            self._followed[remote.packed].sources.add(source)
            return
        self._followed[remote.packed] = followed = Followed(remote, {source})
        event = self._resolve(followed)
        if event is LinkEvent.MOVED:
            self._pending[event] = None

    def forget(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """Stop following ``remote`` for this source; with the last one it is forgotten."""
        followed = self._followed.get(remote.packed)
        if followed is not None:
            followed.sources.discard(source)
        if followed is None or followed.sources:
            return
        del self._followed[remote.packed]
        self._headers.pop(remote.packed, None)
        self._drop_unused()

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """The source address that the route prefers, but no temporary one (RFC 8981); None = no route."""
        followed = self._followed.get(remote.packed)
        return (self._look_up(remote) if followed is None else followed.way).source

    def unanswered(self, remote: IPAddress) -> None:
        """See ``Routes``: there is one interface, so there is no other way."""

    def device_for(self, remote: IPAddress) -> int:  # noqa: ARG002 - as ``Routes`` has it
        """See ``Routes``."""
        return 0

    def path_mtu(self) -> int:
        """Not known here: each destination's route is asked for its own (``bsd.system.route_mtu``)."""
        return 0

    def detours(self) -> list[Detour]:
        """See ``Routes``: routes through a VPN that runs over this tunnel are not recognised here."""
        return []

    @property
    def through_vpn(self) -> bool:
        """See ``Routes``: the devices of VPNs have no link header."""
        return not self._link.address

    def missing(self) -> list[str]:
        """See ``Routes``."""
        lost = [one for key, one in self._followed.items() if key not in self._headers]
        return [f"{one.remote}: no route, or no neighbour answers on {self.device}" for one in lost]

    def _entry_of(self, remote: IPAddress) -> _Entry | None:
        followed = self._followed.get(remote.packed)
        if followed is None or followed.way.next_hop is None:
            return None
        return self._entries.get(followed.way.next_hop.packed)

    def suspect(self, remote: IPAddress) -> None:
        """Flows to ``remote`` went silent: have its next hop checked at once."""
        entry = self._entry_of(remote)
        if entry is not None:
            self._touch(entry)
            self._read_neighbours()

    def look_again(self) -> None:
        """The next ``events`` asks the kernel for everything."""
        self._stale = True

    def tick(self, now: float) -> None:
        """Call it about once a second while traffic flows: it checks what is due."""
        if self._asked is None:
            self._asked = now
        elif now - self._asked >= LOOK_AGAIN:
            self._asked = now
            self.look_again()
        due = any(entry.recheck.asked is None and not entry.resolved for entry in self._entries.values())
        for entry in self._entries.values():
            if entry.recheck.is_due(now, resolved=entry.resolved):
                self._touch(entry)
                due = True
        if due:
            self._read_neighbours()

    # -- resolving

    def _resolve(self, followed: Followed) -> LinkEvent | None:
        """Ask for the route again; returns what changed."""
        before, followed.way = followed.way, self._look_up(followed.remote)
        hop = followed.way.next_hop
        if hop is not None and self._resolves and hop.packed not in self._entries:
            self._enter(hop)
        self._render(followed)
        if followed.way == before:
            return None
        elsewhere = followed.way.ifindex not in {0, self._ifindex, before.ifindex}
        return LinkEvent.MOVED if elsewhere and self._exists(followed.way.ifindex) else LinkEvent.NEXT_HOP

    def _resolve_all(self, found: dict[LinkEvent, None]) -> None:
        for followed in self._followed.values():
            event = self._resolve(followed)
            if event is not None:
                found[event] = None
        self._drop_unused()

    def _choose_source(self, remote: IPAddress, preferred: IPAddress | None) -> IPAddress | None:
        """``preferred``, unless it is a second choice and the device has a lasting address; one in the same /64 comes
        first."""
        if preferred is not None and not self._is_second_choice(preferred):
            return preferred
        lasting = self._lasting(remote.version)
        if preferred is None:
            return lasting[0] if lasting else None
        return next(
            (one for one in lasting if one.packed[:8] == preferred.packed[:8]), lasting[0] if lasting else preferred
        )

    def _render(self, followed: Followed) -> None:
        """Store its link header, where ``header`` finds it."""
        key = followed.remote.packed
        lladdr = self._lladdr(followed.way.next_hop)
        if lladdr is None:
            self._headers.pop(key, None)
        else:
            self._headers[key] = self._link_header(lladdr, followed.remote.version)

    def _lladdr(self, hop: IPAddress | None) -> bytes | None:
        entry = self._entries.get(hop.packed) if hop is not None else None
        return (entry.lladdr or None) if entry else None

    def _link_header(self, lladdr: bytes, version: int) -> bytes:
        """Ethernet's."""
        return lladdr + self.address + ETHERTYPE[version]

    def _drop_unused(self) -> None:
        used = {one.way.next_hop.packed for one in self._followed.values() if one.way.next_hop is not None}
        for key in self._entries.keys() - used:
            del self._entries[key]

    def _lose_device(self, found: dict[LinkEvent, None]) -> None:
        """The device was deleted or renamed."""
        self._gone = True
        self._followed.clear()
        self._entries.clear()
        self._headers.clear()
        found[LinkEvent.GONE] = None

    def _look_up(self, remote: IPAddress) -> Way:
        route = self._kernel.route(remote)
        if route is None or route.index != self._link.index:
            return Way(route.index if route else 0)
        source = self._choose_source(remote, source_of(self._kernel, route))
        return Way(route.index, gateway_of(self._kernel, route) or remote, source)

    def _exists(self, ifindex: int) -> bool:
        return any(one.index == ifindex for one in self._kernel.interfaces())

    def _is_second_choice(self, address: IPAddress) -> bool:
        return is_second_choice(self._kernel, self.device, address)

    def _lasting(self, version: int) -> list[IPAddress]:
        able = [one for one in usable(self._kernel, self._link) if one.version == version]
        return [one for one in able if not self._is_second_choice(one)]

    def _enter(self, hop: IPAddress) -> None:
        entry = self._entries[hop.packed] = _Entry(hop)
        self._read_neighbours()
        if not entry.resolved:
            self._touch(entry)
            self._read_neighbours()

    def _touch(self, entry: _Entry) -> None:
        with contextlib.suppress(OSError):  # it is down, or nobody answers: the next check will find out
            self._kernel.calls.touch(entry.address, self._link.index)

    def _read_neighbours(self) -> None:
        """Read the kernel's table once, for all entries."""
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
            self._resolve_all(found)
        return list(found)

    def _is_strangers(self, message: Message) -> bool:
        """Whether it is about a neighbour that we send nothing to.  On a large network such news comes all the time."""
        neighbour = message.addresses.get(self._kernel.abi["RTA_DST"])
        if not message.flags & self._kernel.neighbour_flag or neighbour is None or isinstance(neighbour, LinkAddress):
            return False
        return neighbour.packed not in self._entries

    def _about(self, *names: str) -> set[int]:
        return {self._kernel.abi[name] for name in names if name in self._kernel.abi}

    def _look_at_interface(self, found: dict[LinkEvent, None]) -> None:
        """Compare our interface with what it was."""
        before, was_up = self._link, self.up
        try:
            self._link = now = find_interface(self._kernel, self.device)
        except (LinkError, OSError):
            now = None
        if now is None or now.index != before.index:
            self._lose_device(found)
            return
        if self.up != was_up:
            found[LinkEvent.UP if self.up else LinkEvent.DOWN] = None
        if now.mtu != before.mtu:
            found[LinkEvent.MTU] = None
        if set(now.addresses) != set(before.addresses):
            found[LinkEvent.ADDRESSES] = None
