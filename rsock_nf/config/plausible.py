"""Settings that can only fail on any host: addresses that no packet can have, sockets that exclude each other.

Not here: what depends on the host (devices, routes, ports in use), which ``up`` and ``doctor`` look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import combinations

from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import IPAddress, TransportAddress
from rsock_nf.errors import ConfigError
from rsock_nf.settings import NO_ADDRESS, Settings

_BROADCAST = IPv4Address("255.255.255.255")


def refuse_impossible(settings: Settings) -> None:
    """Raise ``ConfigError`` about the first thing that cannot work on any host."""
    tunnel = settings.tunnel
    found = _addresses(settings)
    both = [*found, *(_client(settings, tunnel) if isinstance(tunnel, ClientParameters) else _server(settings, tunnel))]
    for field, message in both:
        raise ConfigError(settings.path, field, message)


def _addresses(settings: Settings) -> Iterator[tuple[str, str]]:
    for address in settings.addresses:
        if address.is_unspecified or _is_many(address):
            yield "addresses", f"{address} is not the address of a host; leave the key out for all of the device's"


def _client(settings: Settings, tunnel: ClientParameters) -> Iterator[tuple[str, str]]:
    for address in tunnel.server:
        if address.is_unspecified or _is_many(address):
            yield "server", f"{address} is not the address of a host"
        if address.is_loopback and tunnel.kinds.tcp:
            yield (
                "server",
                f"{address} is this host itself: client and server need two hosts, or two network namespaces",
            )
        if address.version == 6 and address.is_link_local and settings.device is None:
            yield "server", f'{address} needs its device: write {address}%eth0, or give "device"'
    known = tunnel.server and settings.addresses
    if known and not {a.version for a in settings.addresses} & {a.version for a in tunnel.server}:
        yield "addresses", f"none is IPv{tunnel.server[0].version}, as the server's {tunnel.server[0]} is"
    ends = [end for end in settings.listen if isinstance(end, TransportAddress)]
    for end in ends:
        if _is_many(end.address):
            yield "listen", f"{end} is not the address of a host"
        yield from _without_zone("listen", end)
    for one, other in combinations(ends, 2):
        if _exclude(one, other):
            yield "listen", f"{one} and {other} exclude each other: one of them takes what comes to both"


def _server(settings: Settings, tunnel: ServerParameters) -> Iterator[tuple[str, str]]:
    second = settings.second.tunnel if settings.second else None
    for field, one in (("target", tunnel), ("rsock.target", second)):
        for target in one.targets if one else ():
            if target.address == NO_ADDRESS and settings.unresolved:
                continue  # this is called again when its name has been looked up
            if _is_many(target.address):
                yield field, f"{target} is not the address of a host: no answer would come from it"
            yield from _without_zone(field, target)
            own = [
                *(tunnel.ports if tunnel.kinds.udp else ()),
                *(second.ports if second and second.kinds.udp else ()),
            ]
            here = target.address.is_loopback or target.address.is_unspecified or target.address in settings.addresses
            if here and any(target.port in span for span in own):
                yield field, f"{target} is one of this server's own ports: datagrams would go round in circles"


def _without_zone(field: str, end: TransportAddress) -> Iterator[tuple[str, str]]:
    if end.address.version == 6 and end.address.is_link_local and not end.scope:
        yield field, f"{end} needs its device: write [{end.address}%eth0]:{end.port}"


def _is_many(address: IPAddress) -> bool:
    return address.is_multicast or address == _BROADCAST


def _exclude(one: TransportAddress, other: TransportAddress) -> bool:
    """Whether bind(2) refuses the second: a wildcard takes a port of every address, that of IPv6 also IPv4's."""
    if one.port != other.port:
        return False
    return any(
        wild.address.is_unspecified and (wild.address.version == 6 or end.address.version == 4)
        for wild, end in ((one, other), (other, one))
    )
