"""The route, next hop and link header to each remote address that we send to, on the BSDs and macOS.

``linux.next_hop`` uses netlink; this uses routing messages.  ``rsock_nf.link.next_hop`` is the part that is the same on
every system.  Here is the rest, in the order of a destination's life:

1. ``follow`` asks for the route (RTM_GET), and looks for its next hop among the neighbours.
2. A frame that is written to bpf does not make the kernel resolve a neighbour, and no message asks for that. A packet
   of the kernel's own does: an empty datagram to the neighbour's discard port.  One is sent every second while its link
   address is not known, every 15 s while traffic flows, and when flows go silent.
3. ``events`` reads the news, and asks the kernel again: for our interface when the news is about interfaces or
   addresses, for routes and neighbours when it is about those.

Nothing here waits.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link.bsd.pf_route import LinkAddress, Message
from rsock_nf.link.bsd.routes import find_interface, gateway_of, is_second_choice, is_up, source_of, usable
from rsock_nf.link.bsd.routing import RouteSocket
from rsock_nf.link.next_hop import Entry, FollowedDestinations, Way
from rsock_nf.link.protocol import LinkError, LinkEvent

LOOK_AGAIN: Final = 30.0
"""Seconds after which the kernel is asked for everything again: when we are slow, some kernels drop messages and do
not tell (macOS, FreeBSD before 14)."""


@dataclass(slots=True)
class _Entry(Entry):
    """One next hop on our interface."""

    resolved: bool = False
    """The kernel had a link address when it was last asked."""


class NextHops(FollowedDestinations[_Entry]):
    """The next hops of ``interface``.  It owns ``kernel``.  Raises ``LinkError`` when there is no such interface."""

    def __init__(self, interface: str, kernel: RouteSocket) -> None:
        super().__init__(interface)
        self._kernel = kernel
        self._asked: float | None = None
        """``now`` of the last tick after which everything was asked again."""
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

    @property
    def address(self) -> bytes:
        """See ``FollowedDestinations.address``."""
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
        """See ``FollowedDestinations.header``."""
        found = super().header(remote)
        if found is None and remote in self._followed:
            self._read_neighbours()  # not every system tells us when a neighbour answers
            found = super().header(remote)
        return found

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
        due = any(entry.asked is None and not entry.resolved for entry in self._entries.values())
        for entry in self._entries.values():
            if entry.is_due(now, resolved=entry.resolved):
                self._touch(entry)
                due = True
        if due:
            self._read_neighbours()

    # -- resolving

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
