"""``TransportAddress`` to socket address and back.

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

from rsock_nf.core.types import TransportAddress

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


def to_endpoint(name: SocketAddress) -> TransportAddress:
    """A socket's address for people: an IPv4-mapped IPv6 address becomes IPv4, the scope becomes the name of its
    device."""
    address = ip_address(name[0].partition("%")[0])
    mapped = address.ipv4_mapped if address.version == 6 else None
    scope = name[3] if len(name) == 4 else 0
    if not scope:
        return TransportAddress(mapped or address, name[1])
    try:
        return TransportAddress(address, name[1], socket.if_indextoname(scope))
    except OSError:  # the device is gone
        return TransportAddress(address, name[1], str(scope))


def to_socket_address(endpoint: TransportAddress) -> SocketAddress:
    """What bind and connect take.  Raises ``OSError`` when the scope is no device."""
    if endpoint.address.version == 4:
        return str(endpoint.address), endpoint.port
    try:
        scope = socket.if_nametoindex(endpoint.scope) if endpoint.scope else 0
    except OSError:  # comes without errno
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
    return str(endpoint.address), endpoint.port, 0, scope
