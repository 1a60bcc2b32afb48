"""Making the kernel resolve or check a neighbour, with or without CAP_NET_ADMIN.

With the privilege: NTF_USE by netlink.  Without it, as in a container that has CAP_NET_RAW only: an ICMP echo request,
a "ping", to the neighbour itself, with a TTL of 1.  Before the kernel sends it, it resolves the neighbour, or checks
one that it has not heard from for a while.  The outcome comes as news in either case.

Of everything that one may send to a router, an echo request surprises it least.  Its reply is not read.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux.rtnetlink import RouteSocket
from rsock_nf.link.linux.udp import IP_PKTINFO

_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1  # linux/icmp.h, linux/icmpv6.h
_MSG_DONTROUTE: Final = 4
_ECHO: Final = {
    4: struct.pack("!BBHHH", 8, 0, 0xF7FF, 0, 0),  # with its checksum
    6: struct.pack("!BBHHH", 128, 0, 0, 0, 0),  # the kernel fills it in (RFC 3542 section 3.1)
}


class Resolver:
    """See the module.  ``kernel`` takes its requests."""

    def __init__(self, kernel: RouteSocket) -> None:
        self._kernel = kernel
        self._refused = False
        """The kernel has refused NTF_USE: the privilege is missing."""
        self._sockets: dict[int, socket.socket] = {}
        """By IP version."""

    def use(self, index: int, address: IPAddress, flags: int) -> None:
        """Have the kernel resolve or check ``address`` on the device with that index.  Never waits.

        ``flags``: see ``RouteSocket.use_neighbour``.  Raises ``OSError``.
        """
        if not self._refused:
            try:
                self._kernel.use_neighbour(index, address, flags)
            except PermissionError:
                self._refused = True
            else:
                return
        self._ping(index, address)

    def close(self) -> None:
        """Idempotent."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def _ping(self, index: int, address: IPAddress) -> None:
        if address.version not in self._sockets:
            self._sockets[address.version] = _open(address.version)
        sock, host = self._sockets[address.version], str(address).partition("%")[0]
        if address.version == 4:
            way = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i8x", index))
            sock.sendmsg([_ECHO[4]], [way], _MSG_DONTROUTE, (host, 0))
        else:
            way = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16xi", index))
            sock.sendmsg([_ECHO[6]], [way], _MSG_DONTROUTE, (host, 0, 0, index if address.is_link_local else 0))


def _open(version: int) -> socket.socket:
    """A raw socket that receives nothing.  Needs CAP_NET_RAW.  Raises ``OSError``."""
    ipv4 = version == 4
    family = socket.AF_INET if ipv4 else socket.AF_INET6
    with contextlib.ExitStack() as undo:
        sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP if ipv4 else socket.IPPROTO_ICMPV6)
        undo.enter_context(sock)
        sock.setblocking(False)
        if ipv4:
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, b"\xff" * 4)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        else:
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, b"\xff" * 32)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
        undo.pop_all()
    return sock
