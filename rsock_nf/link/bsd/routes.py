"""Where packets to an address would go, on the BSDs and macOS: questions that are asked once, before there is a link.

``next_hop`` follows what changes; ``routing`` has the questions themselves.  ``linux.routes`` is the same for Linux.
"""

from __future__ import annotations

import contextlib
from ipaddress import IPv6Address

from rsock_nf.core.types import IPAddress
from rsock_nf.link.bsd.pf_route import LinkAddress, Message
from rsock_nf.link.bsd.routing import Interface, RouteSocket
from rsock_nf.link.protocol import AbsentError, LinkError, Route, abroad


def route_to(kernel: RouteSocket, remote: IPAddress) -> Route:
    """How packets to ``remote`` leave this host.  Raises ``LinkError`` when there is no route."""
    if remote.version == 6 and remote.is_link_local and not getattr(remote, "scope_id", None):
        raise LinkError(f"{remote}: a link-local address needs its interface, as in {remote}%em0")
    route = kernel.route(remote)
    interface = None if route is None else next((one for one in kernel.interfaces() if one.index == route.index), None)
    if route is None or interface is None:
        raise AbsentError(f"no route to {remote}; `route -n get {remote}` says why")
    # OpenBSD keeps its own addresses' routes on their interface, the others on lo0
    local = bool(interface.flags & kernel.abi["IFF_LOOPBACK"] or route.flags & kernel.abi["RTF_LOCAL"])
    return Route(interface.name, source_of(kernel, route), gateway_of(kernel, route), local)


def default_device(kernel: RouteSocket, version: int | None = None) -> str | None:
    """See ``rsock_nf.link.default_device``."""
    interfaces = kernel.interfaces()
    for probe in abroad(version):
        route = kernel.route(probe)
        for one in interfaces:
            if route is not None and one.index == route.index and not one.flags & kernel.abi["IFF_LOOPBACK"]:
                return one.name
    able = [
        one.name
        for one in interfaces
        if not one.flags & kernel.abi["IFF_LOOPBACK"]
        and any(version in {None, address.version} for address in usable(kernel, one))
    ]
    return able[0] if len(able) == 1 else None


def device_addresses(kernel: RouteSocket, interface: str) -> tuple[IPAddress, ...]:
    """Its addresses of global scope (the loopback interface: all), lasting and usable ones first.

    Raises ``LinkError`` when there is no such interface.
    """
    return tuple(usable(kernel, find_interface(kernel, interface)))


def usable(kernel: RouteSocket, interface: Interface) -> list[IPAddress]:
    """Its addresses but the link-local ones and duplicates, settled and lasting ones first."""
    abi = kernel.abi
    bad = abi.numbers.get("IN6_IFF_DUPLICATED", 0)
    ranked = [
        (bool(flags), address)
        for address in interface.addresses
        if not address.is_link_local and not (flags := _flags(kernel, interface.name, address)) & bad
    ]
    return [address for _, address in sorted(ranked, key=lambda one: one[0])]


def is_second_choice(kernel: RouteSocket, interface: str, address: IPAddress) -> bool:
    """Temporary, deprecated or tentative."""
    return bool(_flags(kernel, interface, address))


def _flags(kernel: RouteSocket, interface: str, address: IPAddress) -> int:
    """The IN6_IFF_* that make an address a worse choice; 0 where the system does not tell."""
    if not isinstance(address, IPv6Address):
        return 0
    names = ("IN6_IFF_TENTATIVE", "IN6_IFF_DUPLICATED", "IN6_IFF_DEPRECATED", "IN6_IFF_TEMPORARY")
    with contextlib.suppress(OSError):  # gone in between
        return kernel.calls.address_flags(interface, address) & sum(kernel.abi.numbers.get(name, 0) for name in names)
    return 0


def gateway_of(kernel: RouteSocket, route: Message) -> IPAddress | None:
    """None = on-link: then the gateway is the interface itself, or the neighbour's link address."""
    gateway = route.addresses.get(kernel.abi["RTA_GATEWAY"])
    if not route.flags & kernel.abi["RTF_GATEWAY"] or isinstance(gateway, LinkAddress):
        return None
    return gateway


def source_of(kernel: RouteSocket, route: Message) -> IPAddress | None:
    """RTA_IFA: our address on the route."""
    own = route.addresses.get(kernel.abi["RTA_IFA"])
    return None if isinstance(own, LinkAddress) else own


def find_interface(kernel: RouteSocket, name: str) -> Interface:
    """Raises ``LinkError`` when there is none of that name."""
    found = next((one for one in kernel.interfaces() if one.name == name), None)
    if found is None:
        raise AbsentError(f"{name}: no such interface; `ifconfig -a` lists them")
    return found


def is_up(kernel: RouteSocket, interface: Interface) -> bool:
    """IFF_UP, and a link state that is not LINK_STATE_DOWN."""
    lost = kernel.abi.numbers.get("LINK_STATE_DOWN")
    return bool(interface.flags & kernel.abi["IFF_UP"]) and (not interface.link_state or interface.link_state != lost)
