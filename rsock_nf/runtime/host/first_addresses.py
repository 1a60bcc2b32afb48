"""The first addresses of names that could not be looked up when the configuration was read: before there is a tunnel.

Not here: how they are looked up again later (``names``, ``targets``).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import HostAddress, TransportAddress
from rsock_nf.errors import NotYetError
from rsock_nf.runtime.host.names import Answer, Questions
from rsock_nf.settings import Host, Settings, server_addresses
from rsock_nf.sockets.resolver import LookUpError


async def look_up_all(settings: Settings) -> Settings:
    """``settings`` with an address for each name.

    It takes as long as the resolver does, and may be cancelled.  Raises ``NotYetError`` about the first name that has
    no address now.
    """
    names = settings.unresolved
    if not names:
        return settings
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Mapping[str, Answer]] = loop.create_future()

    def take(answers: Mapping[str, Answer]) -> None:
        if not answered.done():  # cancelled
            answered.set_result(answers)

    Questions(loop).ask(names, take)
    found: dict[str, tuple[HostAddress, ...]] = {}
    for name, answer in (await answered).items():
        if isinstance(answer, LookUpError):
            raise NotYetError(f"cannot resolve {name}: {answer}")
        found[name] = answer
    return with_addresses(settings, found)


def with_addresses(settings: Settings, found: Mapping[str, tuple[HostAddress, ...]]) -> Settings:
    """Put in the addresses of the names in ``found``.

    Raises ``NotYetError`` if the server has none that can be used."""

    def filled(host: Host) -> Host:
        return dataclasses.replace(host, addresses=found.get(host.name, host.addresses))

    tunnel, second = settings.tunnel, settings.second
    if isinstance(tunnel, ClientParameters):
        hosts = tuple(map(filled, settings.server_hosts))
        addresses = server_addresses(hosts, settings.wire.name)
        if not addresses:
            names = ", ".join(host.name for host in hosts)
            raise NotYetError(f'server: {names} has no IPv4 address, and "wire": "rsock" is IPv4 only')
        zones = [one.zone for host in hosts for one in host.addresses if one.zone]
        device = settings.device or (zones[0] if zones else None)
        tunnel = dataclasses.replace(tunnel, server=addresses)
        return dataclasses.replace(settings, tunnel=tunnel, server_hosts=hosts, device=device)
    hosts = tuple(map(filled, settings.target_hosts))
    count = len(tunnel.targets)
    if second is not None:
        second = dataclasses.replace(second, tunnel=_with_targets(second.tunnel, hosts[count:]))
    return dataclasses.replace(settings, tunnel=_with_targets(tunnel, hosts[:count]), second=second, target_hosts=hosts)


def _with_targets(tunnel: ServerParameters | ClientParameters, hosts: tuple[Host, ...]) -> ServerParameters:
    if not isinstance(tunnel, ServerParameters):
        raise TypeError("a client has no targets")
    targets = [
        TransportAddress(host.addresses[0].address, target.port, host.addresses[0].zone) if host.addresses else target
        for host, target in zip(hosts, tunnel.targets, strict=True)
    ]
    return dataclasses.replace(tunnel, targets=tuple(targets))
