"""The ways of our packets on Linux: device, next hop and source address for each destination that is followed.

1. ``follow`` asks the kernel for the route, with the source address where it is known and with our mark, as the kernel
   asks itself for a packet of its own.  It has the next hop resolved (``neighbours``).
2. ``path`` is then one look-up for each burst.
3. When devices, addresses, routes or rules change, every followed destination is asked for again.  ``events`` says what
   is different.

A route may lead into the device of a VPN.  If that VPN runs over this tunnel (``passengers``), a packet that goes there
comes back to us: then the best route out of any other device is used.  If we cannot tell, and a way is in use already,
we stay on that way as long as it exists; and if nothing is answered, ``unanswered`` tries the other one.

Nothing here waits.  The kernel answers requests at once; what depends on the network (ARP, neighbour discovery) comes
as news.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from rsock_firewall.netlink import kind_of
from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux import rtnetlink as rtnl
from rsock_nf.link.linux.devices import SOFTWARE_TUNNELS, Devices
from rsock_nf.link.linux.neighbours import Hop, Neighbours
from rsock_nf.link.linux.passengers import Passengers
from rsock_nf.link.linux.routes import find_route
from rsock_nf.link.linux.rtnetlink import Device, RouteQuestion, RouteReply, RouteSocket
from rsock_nf.link.protocol import Detour, LinkError, LinkEvent, Routing

LOOK_AGAIN: Final = 15.0
"""Seconds until a VPN's device is looked at again that did not seem to run over this tunnel."""
_AF_UNSPEC: Final = 0
_AF_IP: Final = (2, 10)


class Way(NamedTuple):
    """How packets to a destination go now."""

    ifindex: int = 0
    """The device; 0 = there is no route."""
    next_hop: IPAddress | None = None
    source: IPAddress | None = None
    """The source address that the route prefers, where none was chosen before."""
    mtu: int = 0
    """Of the route, bytes; 0 = the device's."""
    avoided: int = 0
    """The device that the route leads into, if its packets come to this tunnel."""
    aside: bool = False
    """The route leads into a VPN's device, and another one is used."""


class Path(NamedTuple):
    """What ``link.linux.af_packet`` needs for one packet."""

    ifindex: int
    link_header: bytes


_NOWHERE: Final = Way()


@dataclass(slots=True)
class _Followed:
    """One destination, and the source address of packets to it."""

    remote: IPAddress
    source: IPAddress | None
    way: Way = _NOWHERE
    doubted: set[int] = field(default_factory=set)
    """VPN devices on which nothing was answered."""

    @property
    def key(self) -> bytes:
        return _key(self.remote, self.source)


class Ways:
    """See ``Routes``.  Raises ``LinkError`` when ``routing`` names a device that does not exist, or if the kernel cannot
    be asked."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._followed: dict[bytes, _Followed] = {}
        self._paths: dict[bytes, Path] = {}
        self._pending: dict[LinkEvent, None] = {}
        """What calls between two ``events`` found."""
        self._look_at = 0.0
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
                raise LinkError(f"{routing.device}: no such device; `ip link` lists them")
            undo.pop_all()
        self._neighbours = Neighbours(self._kernel, self.host)
        self._passengers = Passengers(routing)

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
            self._followed[followed.key] = followed
            self._resolve(followed)
            self._tidy()

    def forget(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """See ``Routes``."""
        key = _key(remote, source)
        self._followed.pop(key, None)
        self._paths.pop(key, None)
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
            if device is not None and device.kind in SOFTWARE_TUNNELS:
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
        return way.ifindex if remote.version == 4 or way.aside else 0

    def _way(self, remote: IPAddress) -> Way:
        followed = self._followed.get(_key(remote, None))
        return followed.way if followed is not None else self._look_up(_Followed(remote, None))

    def detours(self) -> list[Detour]:
        """See ``Routes``."""
        found: dict[IPAddress, Detour] = {}
        for one in self._followed.values():
            before = found.get(one.remote)
            if one.way.avoided and (before is None or not before.used):
                names = self.host.name(one.way.avoided), self.host.name(one.way.ifindex)
                found[one.remote] = Detour(one.remote, *names)
        return list(found.values())

    @property
    def through_vpn(self) -> bool:
        """See ``Routes``."""
        return any(device.kind in SOFTWARE_TUNNELS for device in self.in_use())

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

    def mtu(self) -> int:
        """The least of all ways, bytes; 0 = there is none."""
        known = [
            min(device.mtu, one.way.mtu or device.mtu)
            for one in self._followed.values()
            if (device := self.host.get(one.way.ifindex)) is not None
        ]
        return min(known, default=0)

    @property
    def up(self) -> bool:
        """A device that is in use, or was in use last, is up."""
        return self._was_up

    # -- asking for a way

    def _resolve(self, followed: _Followed) -> bool:
        """Ask for the route again; returns whether it has changed."""
        before, followed.way = followed.way, self._look_up(followed)
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

    def _look_up(self, followed: _Followed) -> Way:
        remote = followed.remote
        wanted = self._wanted_device(remote)
        if wanted is None:
            return _NOWHERE
        question = RouteQuestion(_plain(remote), followed.source, self._routing.mark, wanted)
        if question.source is not None and not self._is_ours(question.source):
            question = question._replace(source=None)  # the kernel refuses the question
        found = find_route(self._kernel, question)
        device = self.host.get(found.ifindex) if found is not None else None
        avoided = 0
        if found is not None and device is not None and device.kind in SOFTWARE_TUNNELS and not question.ifindex:
            found, avoided = self._around(followed, question, found, device)
        if found is None:
            return Way(avoided=avoided)
        source = followed.source or self._choose_source(remote, found)
        aside = device is not None and found.ifindex != device.ifindex
        return Way(found.ifindex, found.gateway or _plain(remote), source, found.mtu, avoided, aside)

    def _wanted_device(self, remote: IPAddress) -> int | None:
        """The index of the device that has to be used; 0 = any, None = it is gone."""
        name = self._routing.device
        if name is None and remote.version == 6 and remote.is_link_local:
            name = getattr(remote, "scope_id", None)
        if name is None:
            return 0
        device = self.host.named(name)
        return device.ifindex if device is not None else None

    def _is_ours(self, address: IPAddress) -> bool:
        return any(address == own for _, own in self.host.all_addresses())

    def _around(
        self, followed: _Followed, question: RouteQuestion, found: RouteReply, device: Device
    ) -> tuple[RouteReply | None, int]:
        """The route leads into a VPN: the route to use, and the device that was avoided because it runs over us."""
        if self._passengers.carries(device):
            return self._best_beside(question), device.ifindex
        in_use = followed.way.ifindex
        if in_use not in {0, device.ifindex}:
            asked = question._replace(ifindex=in_use)
            return find_route(self._kernel, asked) or find_route(self._kernel, asked._replace(source=None)) or found, 0
        if device.ifindex in followed.doubted:
            return self._best_beside(question) or found, 0
        return found, 0

    def _best_beside(self, question: RouteQuestion) -> RouteReply | None:
        """The route that the kernel would take if there were no VPN: the longest prefix, then the lowest metric."""
        found: list[tuple[int, int, RouteReply]] = []
        for device in self.host:
            if not device.up or device.flags & rtnl.IFF_LOOPBACK or device.kind in SOFTWARE_TUNNELS:
                continue
            asked = question._replace(ifindex=device.ifindex)
            reply = find_route(self._kernel, asked)
            if reply is None and question.source is not None:  # with a source, IPv6 looks at no device
                asked = asked._replace(source=None)
                reply = find_route(self._kernel, asked)
            if reply is not None and reply.kind == rtnl.RTN_UNICAST:
                with contextlib.suppress(OSError):
                    entry = self._kernel.entry(asked)
                    found.append((-entry.prefix_bits, entry.metric, reply))
        return min(found, key=lambda one: one[:2])[2] if found else None

    def _choose_source(self, remote: IPAddress, route: RouteReply) -> IPAddress | None:
        """What the route prefers, unless that is a temporary address and the device has a lasting one; one in the same
        /64 comes first."""
        preferred = route.source
        if preferred is not None and not self.host.is_temporary(preferred):
            return preferred
        lasting = self.host.lasting(route.ifindex, remote.version)
        if preferred is None:
            return lasting[0] if lasting else None
        return next(
            (one for one in lasting if one.packed[:8] == preferred.packed[:8]), lasting[0] if lasting else preferred
        )

    def _render(self, followed: _Followed) -> None:
        """Store its path, where ``path`` finds it."""
        hop = _hop(followed.way)
        header = self._neighbours.link_header(hop, followed.remote.version) if hop is not None else None
        if hop is None or header is None:
            self._paths.pop(followed.key, None)
        else:
            self._paths[followed.key] = Path(hop[0], header)

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
        if now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            self._passengers.look_again()
        for followed in self._followed.values():
            device = self.host.get(followed.way.ifindex)
            if device is not None and device.kind in SOFTWARE_TUNNELS and self._passengers.carries(device):
                self._note(followed)

    # -- the kernel's news

    def events(self) -> list[LinkEvent]:
        """See ``Routes``; paths are up to date afterwards."""
        found, self._pending = self._pending, {}
        messages, overrun = self._news.news()
        heard = {self._hear(message) for message in messages}
        before = self.host.all_addresses()
        if overrun:
            self.host.read_all()
            self._neighbours.read_all()
        elif "addresses" in heard:
            self.host.read_addresses()
        if self.host.all_addresses() != before:
            found[LinkEvent.ADDRESSES] = None
        if overrun or not heard.isdisjoint(("device", "addresses", "routes")):
            self._resolve_all(found)
            self._note_up(found)
        elif "neighbour" in heard:
            self._render_all()
        return list(found)

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


def _plain(address: IPAddress) -> IPAddress:
    """The address without its scope: netlink names the device by index."""
    return IPv6Address(address.packed) if address.version == 6 else address


def _key(remote: IPAddress, source: IPAddress | None) -> bytes:
    return (source.packed if source is not None else b"") + remote.packed
