"""The door to the operating system: the link, routes, addresses, and what else differs between systems.

This is one of the two places where the operating system is chosen; ``rsock_firewall.select`` is the other one.
``system`` takes the file that knows it, ``linux.system`` or ``bsd.system``, and the functions below ask that.  Nothing
else in ``rsock_nf`` knows which one it runs on.

What the system has to bring, and what a ``Link`` is: ``protocol``.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link.protocol import (
    NO_DESCRIPTOR,
    AbsentError,
    Detour,
    Link,
    LinkCounters,
    LinkError,
    LinkEvent,
    Match,
    PortSide,
    Remedies,
    Route,
    Routes,
    Routing,
    Seen,
    System,
    Watch,
    Watched,
    abroad,
)

__all__ = [
    "NO_DESCRIPTOR",
    "OWN_ADDRESS",
    "AbsentError",
    "Detour",
    "Link",
    "LinkCounters",
    "LinkError",
    "LinkEvent",
    "Match",
    "PortSide",
    "Remedies",
    "Route",
    "Routes",
    "Routing",
    "Seen",
    "System",
    "Watch",
    "Watched",
    "abroad",
    "default_device",
    "device_addresses",
    "device_to",
    "host_addresses",
    "open_link",
    "open_routes",
    "open_watch",
    "own_address",
    "own_addresses",
    "route_to",
    "system",
]

_BSD = {"freebsd": "freebsd", "netbsd": "netbsd", "openbsd": "openbsd", "darwin": "macos"}


@functools.cache
def system() -> System:
    """The system that this process runs on.  Raises ``LinkError`` for one that we do not know."""
    name = sys.platform.rstrip("0123456789")  # freebsd14
    if name == "linux":
        from rsock_nf.link.linux.system import Linux

        return Linux()
    if name in _BSD:
        from rsock_nf.link.bsd.system import Bsd

        return Bsd(_BSD[name])
    raise LinkError(f"{sys.platform}: only Linux, FreeBSD, NetBSD, OpenBSD and macOS are known")


def open_link(routing: Routing, match: Match, *, receive_buffer: int = 32 << 20) -> Link:
    """Open the link of this operating system.  On a system that does not tap every device, ``routing`` names one.

    Raises ``LinkError`` when the device does not exist, is down, is of an unknown kind, or the privilege is missing.
    """
    with _in_one_line(f"{routing.device or 'all devices'}: the link cannot be opened"):
        return system().open_link(routing, match, receive_buffer)


def open_routes(routing: Routing) -> Routes:
    """Follow routes without a link: for flows over UDP, whose packets the kernel makes.

    Needs no privilege.  Raises ``LinkError`` when the device does not exist, or if the kernel cannot be asked.
    """
    with _in_one_line("the routes cannot be followed"):
        return system().open_routes(routing)


def open_watch(watched: Watched, device: str | None, *, snap: int) -> Watch:
    """Look on at the packets of ``watched`` on ``device``, or on all devices; ``snap`` bytes of each are kept.

    Raises ``LinkError`` when the device does not exist, the privilege is missing, or the system has no such thing.
    """
    with _in_one_line("packets cannot be watched"):
        return system().open_watch(watched, device, snap)


def route_to(remote: IPAddress, mark: int = 0) -> Route:
    """How packets to ``remote`` leave this host, those with ``mark`` where there are rules about marks.

    Raises ``LinkError`` when there is no route.
    """
    with _in_one_line(f"the way to {remote} cannot be asked for"):
        return system().route_to(remote, mark)


def device_to(remotes: Sequence[IPAddress], mark: int = 0) -> str:
    """The device toward the first of ``remotes`` that has a route, for packets with ``mark``.  ``remotes`` is not
    empty.

    Raises ``LinkError`` about the first of them when none has a route.
    """
    refusals = []
    for remote in remotes:
        try:
            return route_to(remote, mark).device
        except LinkError as error:
            refusals.append(error)
    raise refusals[0]


OWN_ADDRESS: Final = "is an address of this host: client and server need two hosts, or two network namespaces"
"""The text that goes with what ``own_address`` found."""


def own_address(remotes: Sequence[IPAddress]) -> IPAddress | None:
    """The first of ``remotes`` that is an address of this host.  What a host sends to itself passes no network
    device."""
    for remote in remotes:
        with contextlib.suppress(LinkError):  # no route
            if route_to(remote).local:
                return remote
    return None


def default_device(version: int | None = None) -> str | None:
    """The device of the default route, for IP ``version`` or for either version, IPv4 first.

    Without a default route: the only device that has an address of global scope.  None = no device has one, or several
    have.
    Raises ``LinkError`` when the kernel cannot be asked.
    """
    with _in_one_line("the default route cannot be asked for"):
        return system().default_device(version)


def device_addresses(device: str) -> tuple[IPAddress, ...]:
    """Its addresses of global scope (the loopback device: of host scope too), lasting and usable ones first.

    Raises ``LinkError`` when there is no such device.
    """
    with _in_one_line(f"{device}: its addresses cannot be asked for"):
        return system().device_addresses(device)


def host_addresses() -> tuple[IPAddress, ...]:
    """The addresses of global scope of all devices.  Raises ``LinkError`` when the kernel cannot be asked."""
    with _in_one_line("the addresses of this host cannot be asked for"):
        return system().host_addresses()


def own_addresses(device: str | None) -> tuple[IPAddress, ...]:
    """Those of ``device``; None = of all devices.  Raises ``LinkError``."""
    return host_addresses() if device is None else device_addresses(device)


@contextlib.contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Turn an ``OSError`` that the system's own file did not expect into a ``LinkError``."""
    try:
        yield
    except OSError as error:
        raise LinkError(f"{what}: {error.strerror or error}") from error
