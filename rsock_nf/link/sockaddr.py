"""What the kernel says beside a UDP datagram, and how an ``Endpoint`` is said to it.

struct sockaddr_in and sockaddr_in6 (the sender of a datagram), struct in_pktinfo and in6_pktinfo (the address it was
sent to, ip(7) and ipv6(7)), the size at which UDP_GRO merged (udp(7)).  All of these come from the kernel, not from the network.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeAlias

from rsock_nf.core.types import Endpoint

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
IP_PKTINFO: Final = 8

NAME_BYTES: Final = {socket.AF_INET: 16, socket.AF_INET6: 28}
"""sizeof(struct sockaddr_in), sizeof(struct sockaddr_in6)"""
GRO_CONTROL: Final = 24
CONTROL: Final = 24 + 40
"""CMSG_SPACE of an int, and of that with a struct in6_pktinfo."""
_CMSG: Final = struct.Struct("@Qii")

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


class Control(NamedTuple):
    """What one message's ancillary data says."""

    segment_size: int
    """Where to cut; 0 = one datagram."""
    source: bytes
    """struct in_pktinfo or in6_pktinfo with which an answer leaves from the address that was asked; b"" = not told."""


@functools.lru_cache(maxsize=8192)
def parse_control(data: bytes) -> Control:
    """Read a run of struct cmsghdr; each is aligned to 8 bytes (cmsg(3))."""
    segment_size, source, at = 0, b"", 0
    while at + _CMSG.size <= len(data):
        length, level, kind = _CMSG.unpack_from(data, at)
        body = data[at + _CMSG.size : at + length]
        if (level, kind) == (SOL_UDP, UDP_GRO):
            (segment_size,) = struct.unpack_from("@i", body)
        elif (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            # ipi_ifindex 0: the route chooses the device.  ipi_spec_dst is a local address also for a broadcast.
            source = bytes(4) + body[4:8] + bytes(4)
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            source = _ipv6_source(body)
        at += max((length + 7) & ~7, _CMSG.size)
    return Control(segment_size, source)


def _ipv6_source(received: bytes) -> bytes:
    """in6_pktinfo for the answer: the device only where the address means nothing without it; none to a multicast."""
    address, device = received[:16], received[16:20]
    if address[0] == 0xFF:
        return bytes(16) + device
    link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return address + (device if link_local else bytes(4))


def parse_sockaddr(name: bytes) -> SocketAddress:
    """The socket module's form of a struct sockaddr_in (16 bytes) or sockaddr_in6 (28 bytes)."""
    (port,) = struct.unpack_from("!H", name, 2)
    if len(name) == NAME_BYTES[socket.AF_INET]:
        return socket.inet_ntoa(name[4:8]), port
    (scope,) = struct.unpack_from("@I", name, 24)
    return socket.inet_ntop(socket.AF_INET6, name[8:24]), port, 0, scope


def to_endpoint(name: SocketAddress) -> Endpoint:
    """A socket's address for people: IPv4 in IPv6 as IPv4, the scope by its device's name."""
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
    match error.errno:
        case errno.EADDRINUSE:
            return f"{what}: address in use; `ss -uanp sport = :{endpoint.port}` tells by whom"
        case errno.EADDRNOTAVAIL:
            return f"{what}: not an address of this host; `ip address` lists them"
        case errno.EACCES:
            return f"{what}: permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case errno.ENODEV | errno.ENXIO:
            return f"{what}: no such device {endpoint.scope}"
        case errno.EINVAL if endpoint.address.is_link_local and not endpoint.scope:
            return f"{what}: a link-local address needs its device, as in {endpoint.address}%eth0"
        case errno.EMFILE | errno.ENFILE:
            return f"{what}: too many open files; raise `ulimit -n`"
    return f"{what}: {os.strerror(error.errno) if error.errno else error}"
