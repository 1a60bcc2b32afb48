"""UDP on FreeBSD, NetBSD, OpenBSD and macOS: one recvmsg(2) for each datagram; nothing merges or cuts datagrams.

Three of them have recvmmsg(2), each with another layout.  It would save one call, where the datagram's way through bpf
takes many.  IP_RECVDSTADDR says where a datagram was sent to, and IP_SENDSRCADDR is for the answer; macOS has
IP_PKTINFO (ip(4)).  For IPv6 it is RFC 3542 everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from rsock_nf.core.types import IPAddress
from rsock_nf.link.bsd.abi import Abi
from rsock_nf.link.sockaddr import NAME_BYTES
from rsock_nf.link.udp import MSG_TRUNC, Ancillary, ReceivedAncillary, ipv6_source

_LEAST_BUFFER: Final = 128 << 10
_SOCKADDR_IN: Final = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6: Final = struct.Struct("!2xH4x16s")


class DestinationOption(NamedTuple):
    """How an IPv4 socket says where a datagram was sent to, and how it is told which address an answer comes from."""

    ask: int
    """The socket option."""
    told: int
    """The type of the ancillary data."""
    answer: int
    """The type that an answer's takes."""
    packet_info: bool
    """The data is a struct in_pktinfo, else a struct in_addr."""


def destination_option(abi: Abi) -> DestinationOption:
    """IP_SENDSRCADDR where the system has it."""
    if "IP_SENDSRCADDR" in abi:
        return DestinationOption(abi["IP_RECVDSTADDR"], abi["IP_RECVDSTADDR"], abi["IP_SENDSRCADDR"], False)
    return DestinationOption(abi["IP_RECVPKTINFO"], abi["IP_PKTINFO"], abi["IP_PKTINFO"], True)


class PlainUdp:
    """See ``UdpSystem``."""

    bursts = False
    merge_ancillary_bytes = 0
    stamp_ancillary_bytes = 0
    destination_ancillary_bytes = 64
    """More than CMSG_SPACE of a struct in6_pktinfo."""

    def __init__(
        self, option: DestinationOption, numbers: Mapping[str, int], route_mtu: Callable[[IPAddress], int]
    ) -> None:
        """``numbers``: the system's, as in ``abi``; ``route_mtu``: of the route to an address, 0 = there is none."""
        self._option = option
        self._numbers = numbers
        self._route_mtu = route_mtu

    @staticmethod
    def reader(buffers: int, buffer_bytes: int, *, names: int, ancillary: int) -> MessageReader:
        """See ``UdpSystem.reader``."""
        return MessageReader(buffers, buffer_bytes, names=names, ancillary=ancillary)

    def configure(self, sock: socket.socket, buffer_bytes: int) -> None:
        """See ``UdpSystem.configure``."""
        _set_largest(sock, socket.SO_RCVBUF, buffer_bytes)
        self.enlarge_send(sock, buffer_bytes)

    @staticmethod
    def enlarge_send(sock: socket.socket, buffer_bytes: int) -> None:
        """See ``UdpSystem.enlarge_send``."""
        _set_largest(sock, socket.SO_SNDBUF, buffer_bytes)

    @staticmethod
    def resize_send(sock: socket.socket, size: int) -> None:
        """See ``UdpSystem.resize_send``: nothing waits in it, as a datagram goes to the device's queue at once."""

    @staticmethod
    def unsent(sock: socket.socket) -> int:  # noqa: ARG004 - see ``resize_send``
        """See ``UdpSystem.unsent``."""
        return 0

    def ask_destination(self, sock: socket.socket) -> None:
        """See ``UdpSystem.ask_destination``."""
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, self._option.ask, 1)

    def parse_ancillary(self, data: bytes) -> ReceivedAncillary:
        """See ``UdpSystem.parse_ancillary``; ``data`` is level, type and data of one, as ``MessageReader`` has packed
        it."""
        if len(data) < _ITEM.size:
            return ReceivedAncillary(0, b"")
        level, kind = _ITEM.unpack_from(data)
        body = data[_ITEM.size :]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(body) >= 20:
            return ReceivedAncillary(0, ipv6_source(body))
        if (level, kind) == (socket.IPPROTO_IP, self._option.told):
            return ReceivedAncillary(0, body[4:8] if self._option.packet_info else body[:4])
        return ReceivedAncillary(0, b"")

    def answer_from(self, family: int, source: bytes) -> Ancillary:
        """See ``UdpSystem.answer_from``."""
        if family == socket.AF_INET6:
            return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
        data = bytes(4) + source + bytes(4) if self._option.packet_info else source
        return [(socket.IPPROTO_IP, self._option.answer, data)]

    @staticmethod
    def source_of(family: int, address: bytes, scope: int) -> bytes:
        """See ``UdpSystem.source_of``."""
        return address if family == socket.AF_INET else address + struct.pack("@I", scope)

    @staticmethod
    def address_of(family: int, source: bytes) -> IPAddress:
        """See ``UdpSystem.address_of``."""
        return ip_address(source[:4] if family == socket.AF_INET else source[:16])

    @staticmethod
    def segments(size: int) -> Ancillary:
        """See ``UdpSystem.segments``: never called, because ``bursts`` is False."""
        raise NotImplementedError(size)

    def never_fragment(self, sock: socket.socket) -> None:
        """See ``UdpSystem.never_fragment``: IP_DONTFRAG, where there is one (NetBSD and OpenBSD have none for IPv4)."""
        ipv4 = sock.family == socket.AF_INET
        option = self._numbers.get("IP_DONTFRAG" if ipv4 else "IPV6_DONTFRAG")
        if option is not None:
            sock.setsockopt(socket.IPPROTO_IP if ipv4 else socket.IPPROTO_IPV6, option, 1)

    def bind_device(self, sock: socket.socket, device: str) -> None:
        """See ``UdpSystem.bind_device``: IP_BOUND_IF on macOS; elsewhere the route decides."""
        ipv4 = sock.family == socket.AF_INET
        option = self._numbers.get("IP_BOUND_IF" if ipv4 else "IPV6_BOUND_IF")
        if option is not None:
            level = socket.IPPROTO_IP if ipv4 else socket.IPPROTO_IPV6
            sock.setsockopt(level, option, socket.if_nametoindex(device))

    def send_by(self, sock: socket.socket, ifindex: int) -> None:
        """See ``UdpSystem.send_by``: the kernel chooses."""

    def mark(self, sock: socket.socket, mark: int) -> None:
        """See ``UdpSystem.mark``: there are none here."""

    @staticmethod
    def receive_drops(sock: socket.socket) -> int:  # noqa: ARG004 - as the protocol has it
        """See ``UdpSystem.receive_drops``: counted for the whole system only (``netstat -s -p udp``)."""
        return 0

    @staticmethod
    def waited(sock: socket.socket) -> float:  # noqa: ARG004 - the socket cannot be asked
        """See ``UdpSystem.waited``: only ancillary data of each message would tell (SO_TIMESTAMP)."""
        return 0.0

    @staticmethod
    def stamp(sock: socket.socket) -> None:
        """See ``UdpSystem.stamp``."""

    @staticmethod
    def age(ancillary: bytes) -> float:  # noqa: ARG004 - see ``waited``
        """See ``UdpSystem.age``."""
        return 0.0

    def route_mtu(self, sock: socket.socket) -> int:
        """See ``UdpSystem.route_mtu``: no socket option tells, the routing table does."""
        try:
            return self._route_mtu(ip_address(sock.getpeername()[0]))
        except OSError:
            return 0

    @staticmethod
    def told_mtu(sock: socket.socket) -> int:  # noqa: ARG004 - as the protocol has it
        """See ``UdpSystem.told_mtu``: a route has one MTU only."""
        return 0


_ITEM: Final = struct.Struct("=ii")
_FAMILIES: Final = {size: family for family, size in NAME_BYTES.items()}


class MessageReader:
    """See ``Reader``: one recvmsg(2) for each datagram."""

    def __init__(self, buffers: int, buffer_bytes: int, *, names: int = 0, ancillary: int = 0) -> None:
        self.buffers = buffers
        self.name_stride = names
        self._family = _FAMILIES.get(names, socket.AF_UNIX)
        """It follows from the length of a sender's sockaddr."""
        self._room = socket.CMSG_SPACE(ancillary) if ancillary else 0
        whole = memoryview(bytearray(buffers * buffer_bytes))
        self.views = [whole[at : at + buffer_bytes] for at in range(0, buffers * buffer_bytes, buffer_bytes)]
        self._lengths: list[int] = []
        self._flags: list[int] = []
        self._names: list[bytes] = []
        self._ancillaries: list[bytes] = []
        self._error: OSError | None = None
        """An error that came after a datagram; the next read raises it."""

    def read(self, descriptor: int, limit: int | None = None) -> int:
        """See ``Reader.read``.  The descriptor is non-blocking."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        for column in (self._lengths, self._flags, self._names, self._ancillaries):
            column.clear()
        borrowed = socket.socket(self._family, socket.SOCK_DGRAM, 0, fileno=descriptor)
        try:
            for view in self.views[:limit]:
                self._one(borrowed, view)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as failure:
            if not self._lengths or failure.errno in {errno.EBADF, errno.ENOTSOCK}:
                raise
            self._error = failure
        finally:
            borrowed.detach()
        return len(self._lengths)

    def _one(self, borrowed: socket.socket, view: memoryview) -> None:
        if not self.name_stride and not self._room:
            self._add(borrowed.recv_into(view), 0, b"", b"")
            return
        length, items, flags, sender = borrowed.recvmsg_into([view], self._room)
        ancillary = _ITEM.pack(*items[0][:2]) + items[0][2] if items else b""
        self._add(length, flags, _name(sender) if self.name_stride else b"", ancillary)

    def _add(self, length: int, flags: int, name: bytes, ancillary: bytes) -> None:
        self._lengths.append(length)
        self._flags.append(MSG_TRUNC if flags & socket.MSG_TRUNC else 0)
        self._names.append(name)
        self._ancillaries.append(ancillary)

    def lengths(self, count: int) -> list[int]:
        """See ``Reader.lengths``."""
        return self._lengths[:count]

    def flags(self, count: int) -> list[int]:
        """See ``Reader.flags``."""
        return self._flags[:count]

    def any_flags(self, count: int) -> bool:
        """See ``Reader.any_flags``."""
        return any(self._flags[:count])

    def names_raw(self, count: int) -> bytes:
        """See ``Reader.names_raw``."""
        return b"".join([name.ljust(self.name_stride, b"\0") for name in self._names[:count]])

    def name(self, index: int) -> bytes:
        """See ``Reader.name``."""
        return self._names[index]

    def any_ancillary(self, count: int) -> bool:
        """See ``Reader.any_ancillary``."""
        return any(self._ancillaries[:count])

    def ancillary(self, index: int) -> bytes:
        """See ``Reader.ancillary``."""
        return self._ancillaries[index]


def _name(sender: object) -> bytes:
    """The socket module's form of an address as Linux's sockaddr; the first two bytes are 0."""
    match sender:
        case (str(host), int(port)):
            return _SOCKADDR_IN.pack(port, socket.inet_aton(host))
        case (str(host), int(port), int(), int(scope)):
            packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
            return _SOCKADDR_IN6.pack(port, packed) + struct.pack("@I", scope)
        case str(path):
            return bytes(2) + path.encode(errors="surrogateescape")
        case bytes(path):
            return bytes(2) + path
    return bytes(2)


def _set_largest(sock: socket.socket, option: int, most: int) -> None:
    """Set the largest size that the kernel takes.  It refuses larger ones (kern.ipc.maxsockbuf, for example), and does
    not say what it would take."""
    while most >= _LEAST_BUFFER:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, most)
            return
        most //= 2
