"""Which route a packet takes: the kernel's, but not into a VPN that runs over this tunnel.

The kernel is asked as it asks itself for a packet of its own: with the source address where it is known, our mark, and
the device if one is configured.

The route may lead into the device of a VPN.  If that VPN runs over this tunnel (``passengers``), a packet that goes
there comes back to us.  Then the best route out of any other device is used.  If we cannot tell, and a device is in use
already, we stay there as long as it has a route.  If nothing is answered through the VPN, the best route beside it is
used.

Not here: when to ask (``ways``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux import rtnetlink as rtnl
from rsock_nf.link.linux.devices import Devices, is_vpn
from rsock_nf.link.linux.passengers import Passengers
from rsock_nf.link.linux.routes import find_route
from rsock_nf.link.linux.rtnetlink import RouteQuestion, RouteReply, RouteSocket
from rsock_nf.link.protocol import Detour, LinkError, Routing


class Way(NamedTuple):
    """How packets to a destination go now."""

    ifindex: int = 0
    """The device; 0 = there is no route."""
    next_hop: IPAddress | None = None
    source: IPAddress | None = None
    """The source address that the route prefers, where none was chosen before."""
    mtu: int = 0
    """Of the route, bytes; 0 = the device's."""
    vpn: int = 0
    """The VPN's device that the route leads into, and that is not used; 0 = the route's device is used."""
    over_us: bool = False
    """That VPN runs over this tunnel."""


NOWHERE: Final = Way()


class RouteChoice:
    """See the module.  ``kernel`` answers its questions; ``host`` has the devices and addresses."""

    def __init__(self, routing: Routing, kernel: RouteSocket, host: Devices, passengers: Passengers) -> None:
        self._routing = routing
        self._kernel = kernel
        self._host = host
        self._passengers = passengers

    def way(self, remote: IPAddress, source: IPAddress | None, in_use: int, doubted: Collection[int]) -> Way:
        """The way of packets from ``source`` (None = not chosen yet) to ``remote``.

        ``in_use``: the device by which they leave now; 0 = none.  ``doubted``: VPN devices on which nothing was
        answered.
        """
        wanted = self._wanted_device(remote)
        if wanted is None:
            return NOWHERE
        question = RouteQuestion(_plain(remote), source, self._routing.mark, wanted)
        if question.source is not None and not self._host.has(question.source):
            question = question._replace(source=None)  # the kernel refuses the question
        found = find_route(self._kernel, question)
        device = self._host.get(found.ifindex) if found is not None else None
        vpn, over_us = 0, False
        if found is not None and device is not None and is_vpn(device) and not question.ifindex:
            vpn, over_us = device.ifindex, self._passengers.carries(device)
            found = self._best_beside(question) if over_us else self._around(question, found, in_use, doubted)
        if found is None:
            return Way(vpn=vpn, over_us=over_us)
        chosen = source or self._choose_source(remote, found)
        if found.ifindex == vpn:
            vpn = 0
        return Way(found.ifindex, found.gateway or _plain(remote), chosen, found.mtu, vpn, over_us)

    def _wanted_device(self, remote: IPAddress) -> int | None:
        """The index of the device that has to be used; 0 = any, None = it is gone."""
        name = self._routing.device
        if name is None and remote.version == 6 and remote.is_link_local:
            name = getattr(remote, "scope_id", None)
        if name is None:
            return 0
        device = self._host.named(name)
        return device.ifindex if device is not None else None

    def _around(
        self, question: RouteQuestion, found: RouteReply, in_use: int, doubted: Collection[int]
    ) -> RouteReply | None:
        """``found`` leads into a VPN of which we cannot tell whether it runs over us: the route to use."""
        if in_use not in {0, found.ifindex}:
            asked = question._replace(ifindex=in_use)
            return find_route(self._kernel, asked) or find_route(self._kernel, asked._replace(source=None)) or found
        if found.ifindex in doubted:
            return self._best_beside(question) or found
        return found

    def _best_beside(self, question: RouteQuestion) -> RouteReply | None:
        """The route that the kernel would take if there were no VPN: the longest prefix, then the lowest metric."""
        found: list[tuple[int, int, RouteReply]] = []
        for device in self._host:
            if not device.up or device.flags & rtnl.IFF_LOOPBACK or is_vpn(device):
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
        if preferred is not None and not self._host.is_temporary(preferred):
            return preferred
        lasting = self._host.lasting(route.ifindex, remote.version)
        if preferred is None:
            return lasting[0] if lasting else None
        return next(
            (one for one in lasting if one.packed[:8] == preferred.packed[:8]), lasting[0] if lasting else preferred
        )


def detour(remote: IPAddress, routing: Routing) -> Detour | None:
    """See ``System.detour``: asked once, while nothing is in use."""
    with _asking() as kernel:
        host = Devices(kernel)
        way = RouteChoice(routing, kernel, host, Passengers(routing, host)).way(remote, None, 0, ())
        if way.vpn:
            return Detour(remote, host.name(way.vpn), host.name(way.ifindex), way.over_us)
        followed = host.get(way.ifindex)
        if followed is None or not is_vpn(followed) or routing.device is not None:
            return None
        return Detour(remote, followed.name, followed.name, over_us=False)


def passengers(routing: Routing) -> list[str]:
    """See ``System.passengers``."""
    with _asking() as kernel:
        host = Devices(kernel)
        known = Passengers(routing, host)
        return [device.name for device in host if is_vpn(device) and known.carries(device)]


@contextlib.contextmanager
def _asking() -> Iterator[RouteSocket]:
    """Raises ``LinkError`` when the kernel cannot be asked."""
    try:
        with contextlib.closing(RouteSocket()) as kernel:
            yield kernel
    except OSError as error:
        raise LinkError(f"the routes cannot be asked for: {error.strerror or error}") from error


def _plain(address: IPAddress) -> IPAddress:
    """The address without its scope: netlink names the device by index."""
    return IPv6Address(address.packed) if address.version == 6 else address
