"""``Endpoint`` to socket address and back, and one line of text for each way in which bind and connect fail.

A struct sockaddr_in or sockaddr_in6, the sender of a datagram (ip(7), ipv6(7)), comes from the kernel, not from the
network.  What else the kernel says about a datagram is in ``linux.udp`` and ``bsd.udp``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import ip_address
from typing import Final, TypeAlias

from rsock_nf.core.types import Endpoint
from rsock_nf.link import system

NAME_BYTES: Final = {socket.AF_INET: 16, socket.AF_INET6: 28}
"""sizeof(struct sockaddr_in), sizeof(struct sockaddr_in6)"""

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


def parse_sockaddr(name: bytes) -> SocketAddress:
    """The socket module's form of a struct sockaddr_in (16 bytes) or sockaddr_in6 (28 bytes)."""
    (port,) = struct.unpack_from("!H", name, 2)
    if len(name) == NAME_BYTES[socket.AF_INET]:
        return socket.inet_ntoa(name[4:8]), port
    (scope,) = struct.unpack_from("@I", name, 24)
    return socket.inet_ntop(socket.AF_INET6, name[8:24]), port, 0, scope


def to_endpoint(name: SocketAddress) -> Endpoint:
    """A socket's address for people: an IPv4-mapped IPv6 address becomes IPv4, the scope becomes the name of its
    device."""
    address = ip_address(name[0].partition("%")[0])
    mapped = address.ipv4_mapped if address.version == 6 else None
    scope = name[3] if len(name) == 4 else 0
    if not scope:
        return Endpoint(mapped or address, name[1])
    try:
        return Endpoint(address, name[1], socket.if_indextoname(scope))
    except OSError:  # the device is gone
        return Endpoint(address, name[1], str(scope))


def to_socket_address(endpoint: Endpoint) -> SocketAddress:
    """What bind and connect take.  Raises ``OSError`` when the scope is no device."""
    if endpoint.address.version == 4:
        return str(endpoint.address), endpoint.port
    try:
        scope = socket.if_nametoindex(endpoint.scope) if endpoint.scope else 0
    except OSError:  # comes without errno
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
    return str(endpoint.address), endpoint.port, 0, scope


def why_not(action: str, endpoint: Endpoint, error: OSError) -> str:
    """One line that says what failed, where, and what to do about it."""
    what = f"cannot {action} {endpoint}"
    remedies = system().remedies
    match error.errno:
        case errno.EADDRINUSE:
            return f"{what}: address in use; `{remedies.udp_port.format(port=endpoint.port)}` tells by whom"
        case errno.EADDRNOTAVAIL:
            return f"{what}: not an address of this host; `{remedies.addresses}` lists them"
        case errno.EACCES:
            return f"{what}: permission denied; ports below 1024 need {remedies.low_ports}"
        case errno.ENODEV | errno.ENXIO:
            return f"{what}: no such device {endpoint.scope}"
        case errno.EINVAL if endpoint.address.is_link_local and not endpoint.scope:
            return f"{what}: a link-local address needs its device, as in {endpoint.address}%eth0"
        case errno.EMFILE | errno.ENFILE:
            return f"{what}: too many open files; raise `ulimit -n`"
    return f"{what}: {os.strerror(error.errno) if error.errno else error}"
