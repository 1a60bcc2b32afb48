"""The ways of our packets on Linux: device, next hop and source address for each destination that is followed.

1. ``follow`` asks the kernel for the route, with the source address where it is known and with our mark, as the kernel
   asks itself for a packet of its own.  It has the next hop resolved (``neighbours``).
2. ``path`` is then one look-up for each burst.
3. When devices, addresses, routes or rules change, every followed destination is asked for again.  ``events`` says what
   is different.

Not here: which route is taken where one leads into a VPN (``route_choice``).

Nothing here waits.  The kernel answers requests at once; what depends on the network (ARP, neighbour discovery) comes
as news.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rsock_firewall.netlink import kind_of
from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux import rtnetlink as rtnl
from rsock_nf.link.linux.devices import Devices, is_vpn
from rsock_nf.link.linux.neighbours import Hop, Neighbours
from rsock_nf.link.linux.passengers import Passengers
from rsock_nf.link.linux.route_choice import NOWHERE, RouteChoice, Way
from rsock_nf.link.linux.routes import find_default_device
from rsock_nf.link.linux.rtnetlink import Device, RouteSocket
from rsock_nf.link.protocol import AbsentError, Detour, LinkError, LinkEvent, Routing

_AF_UNSPEC: Final = 0
_AF_IP: Final = (2, 10)


class Path(NamedTuple):
    """The device and the link header of a packet."""

    ifindex: int
    link_header: bytes


@dataclass(slots=True)
class _Followed:
    """One destination, and the source address of packets to it."""

    remote: IPAddress
    source: IPAddress | None
    way: Way = NOWHERE
    doubted: set[int] = field(default_factory=set)
    """VPN devices on which nothing was answered."""

    @property
    def key(self) -> bytes:
        return _key(self.remote, self.source)


class Ways:
    """See ``Routes``.

    Raises ``LinkError`` when ``routing`` names a device that does not exist, or if the kernel cannot be asked."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._followed: dict[bytes, _Followed] = {}
        self._paths: dict[bytes, Path] = {}
        self._pending: dict[LinkEvent, None] = {}
        """What calls between two ``events`` found."""
        self.paths_revision = 0
        """It grows whenever ``path`` may answer something else than before."""
        self.revision = 0
        """It grows with each news about devices, addresses, routes and rules."""
        self._was_up = True
        self._last_used: set[int] = set()
        """The devices that are in use; while none is, those that were."""
        with contextlib.ExitStack() as undo:
            try:
                self._kernel = undo.enter_context(contextlib.closing(RouteSocket()))
                # before the first request, so that no change is missed
                self._news = undo.enter_context(contextlib.closing(RouteSocket(rtnl.NEWS_GROUPS)))
                self._news.enlarge()
                self.host = Devices(self._kernel)
            except OSError as error:
                raise LinkError(f"the routes cannot be asked for: {error.strerror or error}") from error
            if routing.device is not None and self.host.named(routing.device) is None:
                raise AbsentError(f"{routing.device}: no such device; `ip link` lists them")
            undo.pop_all()
        self._neighbours = Neighbours(self._kernel, self.host)
        self._passengers = Passengers(routing, self.host)
        self._choice = RouteChoice(routing, self._kernel, self.host, self._passengers)

    def fileno(self) -> int:
        """See ``Routes``."""
        return self._news.fileno()

    def close(self) -> None:
        """See ``Routes``."""
        self._neighbours.close()
        self._kernel.close()
        self._news.close()

    # -- destinations

    def follow(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """See ``Routes``."""
        followed = _Followed(remote, source)
        if followed.key not in self._followed:
            # What was found out about a VPN counts for the destination, whatever the source address.
            followed.doubted.update(*(other.doubted for other in self._toward(remote)))
            self._followed[followed.key] = followed
            self._resolve(followed)
            self._tidy()

    def forget(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """See ``Routes``."""
        key = _key(remote, source)
        self._followed.pop(key, None)
        self._paths.pop(key, None)
        self.paths_revision += 1
        self._tidy()

    def suspect(self, remote: IPAddress) -> None:
        """See ``Routes``."""
        for followed in self._toward(remote):
            hop = _hop(followed.way)
            if hop is not None:
                self._neighbours.suspect(hop)

    def unanswered(self, remote: IPAddress) -> None:
        """See ``Routes``."""
        for followed in self._toward(remote):
            device = self.host.get(followed.way.ifindex)
            if device is not None and is_vpn(device):
                followed.doubted.add(device.ifindex)
            else:  # nor is anything answered beside the VPN
                followed.doubted.clear()
            self._note(followed)

    def _toward(self, remote: IPAddress) -> list[_Followed]:
        return [followed for followed in self._followed.values() if followed.remote == remote]

    # -- looking

    def path(self, ends: bytes) -> Path | None:
        """For a packet with these addresses, source and destination, packed; None = no route, or not resolved yet."""
        return self._paths.get(ends) or self._paths.get(ends[len(ends) // 2 :])

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """See ``Routes``.  No temporary address (RFC 8981) is chosen where there is another one."""
        return self._way(remote).source

    def device_for(self, remote: IPAddress) -> int:
        """See ``Routes``.

        Over IPv4 always the way's, so that a VPN's new route changes nothing until we know what it is.  Over IPv6 the
        socket would receive from no other device (``UdpSystem.send_by``), so only while a VPN is gone around.
        """
        way = self._way(remote)
        return way.ifindex if remote.version == 4 or way.vpn else 0

    def _way(self, remote: IPAddress) -> Way:
        followed = self._followed.get(_key(remote, None))
        return followed.way if followed is not None else self._choice.way(remote, None, 0, ())

    def detours(self) -> list[Detour]:
        """See ``Routes``."""
        found: dict[IPAddress, Detour] = {}
        for one in self._followed.values():
            before = found.get(one.remote)
            if one.way.vpn and (before is None or not before.used):
                names = self.host.name(one.way.vpn), self.host.name(one.way.ifindex)
                found[one.remote] = Detour(one.remote, *names, one.way.over_us)
        return list(found.values())

    @property
    def through_vpn(self) -> bool:
        """See ``Routes``."""
        return any(map(is_vpn, self.in_use()))

    def missing(self) -> list[str]:
        """See ``Routes``."""
        found = []
        for followed in self._followed.values():
            hop = _hop(followed.way)
            start = f" from {followed.source}" if followed.source is not None else ""
            if hop is None:
                found.append(f"{followed.remote}{start}: no route (`ip route get {followed.remote}{start}` says why)")
            elif followed.key not in self._paths:
                device = self.host.name(hop[0])
                found.append(
                    f"{followed.remote}{start}: the next hop {hop[1]} does not answer on device {device} "
                    f"(`ip neigh show {hop[1]}`)"
                )
        return found

    @property
    def devices(self) -> tuple[str, ...]:
        """See ``Routes``."""
        if self._routing.device is not None:
            return (self._routing.device,)
        return tuple(name for ifindex in sorted(self._last_used) if (name := self.host.name(ifindex)))

    def in_use(self) -> list[Device]:
        """The devices of all ways."""
        indexes = {one.way.ifindex for one in self._followed.values()}
        return [device for device in map(self.host.get, sorted(indexes)) if device is not None]

    def path_mtu(self) -> int:
        """The least of all ways, bytes; 0 = there is none."""
        known = [
            min(device.mtu, one.way.mtu or device.mtu)
            for one in self._followed.values()
            if (device := self.host.get(one.way.ifindex)) is not None
        ]
        return min(known, default=0)

    def default_device(self) -> str | None:
        """See ``rsock_nf.link.default_device``; None also if the kernel cannot be asked."""
        with contextlib.suppress(OSError):
            return find_default_device(self._kernel)
        return None

    @property
    def up(self) -> bool:
        """A device that is in use, or was in use last, is up."""
        return self._was_up

    # -- asking for a way

    def _resolve(self, followed: _Followed) -> bool:
        """Ask for the route again; returns whether it has changed."""
        before = followed.way
        followed.way = self._choice.way(followed.remote, followed.source, before.ifindex, followed.doubted)
        hop = _hop(followed.way)
        if hop is not None:
            self._neighbours.want(hop)
        self._render(followed)
        return followed.way != before

    def _note(self, followed: _Followed) -> None:
        """Ask again outside of ``events``; the next ``events`` tells."""
        if self._resolve(followed):
            self._pending[LinkEvent.NEXT_HOP] = None
            self._tidy()

    def _render(self, followed: _Followed) -> None:
        """Store its path, where ``path`` finds it."""
        hop = _hop(followed.way)
        header = self._neighbours.link_header(hop, followed.remote.version) if hop is not None else None
        before = self._paths.get(followed.key)
        if hop is None or header is None:
            self._paths.pop(followed.key, None)
        else:
            self._paths[followed.key] = Path(hop[0], header)
        self.paths_revision += self._paths.get(followed.key) != before

    def _render_all(self) -> None:
        for followed in self._followed.values():
            self._render(followed)

    def _resolve_all(self, found: dict[LinkEvent, None]) -> None:
        changed = [self._resolve(followed) for followed in self._followed.values()]
        if any(changed):
            found[LinkEvent.NEXT_HOP] = None
        self._tidy()

    def _tidy(self) -> None:
        self._last_used = {device.ifindex for device in self.in_use()} or self._last_used
        self._neighbours.keep({hop for one in self._followed.values() if (hop := _hop(one.way)) is not None})

    # -- time

    def tick(self, now: float) -> None:
        """See ``Routes``: neighbours are checked, and VPN devices that are in use."""
        self._neighbours.tick(now)
        for followed in self._followed.values():
            way = followed.way
            device = self.host.get(way.vpn or way.ifindex)
            if device is not None and is_vpn(device) and not way.over_us and self._passengers.carries(device):
                self._note(followed)

    # -- the kernel's news

    def events(self) -> list[LinkEvent]:
        """See ``Routes``; paths are up to date afterwards."""
        found, self._pending = self._pending, {}
        messages, overrun = self._news.news()
        heard = {self._hear(message) for message in messages}
        if overrun or "addresses" in heard:
            self._read_again(found, everything=overrun)
        if overrun or not heard.isdisjoint(("device", "addresses", "routes")):
            self.revision += 1
            self._resolve_all(found)
            self._note_up(found)
        elif "neighbour" in heard:
            self._render_all()
        return list(found)

    def _read_again(self, found: dict[LinkEvent, None], *, everything: bool) -> None:
        """Addresses have changed; or news was lost, and everything may have."""
        before = self.host.all_addresses()
        if everything:
            self.host.read_all()
            self._neighbours.read_all()
        else:
            self.host.read_addresses()
        if self.host.all_addresses() != before:
            found[LinkEvent.ADDRESSES] = None

    def _hear(self, message: bytes) -> str:
        """One message; what it is about: ``device``, ``addresses``, ``neighbour``, ``routes``, or nothing of ours."""
        kind = kind_of(message)
        if kind in {rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK}:
            if rtnl.device_key(message)[0] != _AF_UNSPEC:
                return ""
            self._hear_device(rtnl.parse_device(message), deleted=kind == rtnl.RTM_DELLINK)
            return "device"
        if kind in {rtnl.RTM_NEWNEIGH, rtnl.RTM_DELNEIGH}:
            family, ifindex = rtnl.device_key(message)
            if family not in _AF_IP or not self._neighbours.knows_device(ifindex):
                return ""
            self._neighbours.hear(rtnl.parse_neighbour(message), deleted=kind == rtnl.RTM_DELNEIGH)
            return "neighbour"
        return "addresses" if kind in {rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR} else "routes"

    def _hear_device(self, told: Device, *, deleted: bool) -> None:
        before = self.host.get(told.ifindex)
        self.host.hear(told, deleted=deleted)
        if not deleted and told.up and before is not None and not before.up:
            self._neighbours.device_up(told.ifindex)

    def _note_up(self, found: dict[LinkEvent, None]) -> None:
        """The devices that are in use count, or those that were in use last; before there were any, all of them."""
        if self._routing.device is not None:
            counting = [device for device in self.host if device.name == self._routing.device]
        elif self._last_used:
            counting = [device for device in self.host if device.ifindex in self._last_used]
        else:
            counting = [device for device in self.host if not device.flags & rtnl.IFF_LOOPBACK]
        up = any(device.up for device in counting)
        if up != self._was_up:
            self._was_up = up
            found[LinkEvent.UP if up else LinkEvent.DOWN] = None


def _hop(way: Way) -> Hop | None:
    return (way.ifindex, way.next_hop) if way.ifindex and way.next_hop is not None else None


def _key(remote: IPAddress, source: IPAddress | None) -> bytes:
    return (source.packed if source is not None else b"") + remote.packed
