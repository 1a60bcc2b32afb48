"""UDP on Linux: recvmmsg(2) for batches, UDP_GRO and UDP_SEGMENT for runs, IP_PKTINFO for where a datagram was sent
to.

struct in_pktinfo and in6_pktinfo: ip(7) and ipv6(7); the size at which UDP_GRO merged: udp(7).  All of them come from
the kernel, not from the network.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from ipaddress import ip_address
from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux import buffers as linux_buffers
from rsock_nf.link.linux.mmsg import BatchReader
from rsock_nf.link.linux.rtnetlink import RouteQuestion, RouteSocket
from rsock_nf.link.linux.stamp import SO_TIMESTAMPNS, TIMESPEC, age_of, age_of_last_message
from rsock_nf.link.udp import Ancillary, ReceivedAncillary, ipv6_source

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104  # include/uapi/linux/udp.h
IP_PKTINFO: Final = 8
_SO_BINDTODEVICE: Final = 25  # asm-generic/socket.h
_SO_MARK: Final = 36
_SO_MEMINFO: Final = 55
_SO_BINDTOIFINDEX: Final = 62
_SK_MEMINFO_VARS: Final = 9
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE, _IP_MTU = 10, 3, 14  # include/uapi/linux/in.h
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24  # include/uapi/linux/in6.h
_IP_UNICAST_IF: Final = 50  # include/uapi/linux/in.h
_CMSG: Final = struct.Struct("@Qii")


class LinuxUdp:
    """See ``UdpSystem``."""

    bursts = True
    merge_ancillary_bytes = 24
    """CMSG_SPACE of an int."""
    stamp_ancillary_bytes = 32
    """CMSG_SPACE of a struct timespec."""
    destination_ancillary_bytes = 40
    """CMSG_SPACE of a struct in6_pktinfo."""

    @staticmethod
    def reader(buffers: int, buffer_bytes: int, *, names: int, ancillary: int) -> BatchReader:
        """See ``UdpSystem.reader``."""
        return BatchReader(buffers, buffer_bytes, names=names, ancillary=ancillary)

    def configure(self, sock: socket.socket, buffer_bytes: int) -> None:
        """See ``UdpSystem.configure``."""
        linux_buffers.enlarge_receive(sock, buffer_bytes)
        self.enlarge_send(sock, buffer_bytes)
        with contextlib.suppress(OSError):  # before Linux 5.0: every datagram comes alone
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)

    @staticmethod
    def enlarge_send(sock: socket.socket, buffer_bytes: int) -> None:
        """See ``UdpSystem.enlarge_send``."""
        linux_buffers.enlarge_send(sock, buffer_bytes)

    @staticmethod
    def resize_send(sock: socket.socket, size: int) -> None:
        """See ``UdpSystem.resize_send``.  The kernel doubles what SO_SNDBUF is given."""
        linux_buffers.enlarge_send(sock, size // 2)

    @staticmethod
    def unsent(sock: socket.socket) -> int:
        """See ``UdpSystem.unsent``."""
        return linux_buffers.unsent(sock.fileno())

    @staticmethod
    def ask_destination(sock: socket.socket) -> None:
        """See ``UdpSystem.ask_destination``."""
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    @staticmethod
    def parse_ancillary(data: bytes) -> ReceivedAncillary:
        """See ``UdpSystem.parse_ancillary``."""
        return _parse_ancillary(data)

    @staticmethod
    def answer_from(family: int, source: bytes) -> Ancillary:
        """See ``UdpSystem.answer_from``."""
        if family == socket.AF_INET6:
            return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
        return [(socket.IPPROTO_IP, IP_PKTINFO, source)]

    @staticmethod
    def source_of(family: int, address: bytes, scope: int) -> bytes:
        """See ``UdpSystem.source_of``."""
        if family == socket.AF_INET:
            return bytes(4) + address + bytes(4)
        return address + struct.pack("@I", scope)

    @staticmethod
    def address_of(family: int, source: bytes) -> IPAddress:
        """See ``UdpSystem.address_of``."""
        return ip_address(source[4:8] if family == socket.AF_INET else source[:16])

    @staticmethod
    def segments(size: int) -> Ancillary:
        """See ``UdpSystem.segments``."""
        return [(_SOL_UDP, _UDP_SEGMENT, _segment_option(size))]

    @staticmethod
    def never_fragment(sock: socket.socket) -> None:
        """See ``UdpSystem.never_fragment``: IP_PMTUDISC_PROBE (ip(7))."""
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_PROBE)

    @staticmethod
    def bind_device(sock: socket.socket, device: str) -> None:
        """See ``UdpSystem.bind_device``."""
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())

    def send_by(self, sock: socket.socket, ifindex: int) -> None:
        """See ``UdpSystem.send_by``: IP_UNICAST_IF (ip(7)).  It has no effect on a route that the socket has found
        already.

        Over IPv6 that option gives way to a longer prefix on another device as soon as the socket has an address
        (net/ipv6/route.c, ``ip6_route_output_flags``).  So there the socket is bound to the device.  To change that
        again needs CAP_NET_RAW."""
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_UNICAST_IF, struct.pack("!i", ifindex))
        else:
            self.bind_device(sock, socket.if_indextoname(ifindex) if ifindex else "")

    @staticmethod
    def mark(sock: socket.socket, mark: int) -> None:
        """See ``UdpSystem.mark``: SO_MARK (socket(7))."""
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)

    @staticmethod
    def receive_drops(sock: socket.socket) -> int:
        """See ``UdpSystem.receive_drops``: SO_MEMINFO, which ends in sk_drops (include/uapi/linux/sock_diag.h)."""
        told = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _SK_MEMINFO_VARS)
        return int(struct.unpack_from("=I", told, 4 * (_SK_MEMINFO_VARS - 1))[0])

    @staticmethod
    def waited(sock: socket.socket) -> float:
        """See ``UdpSystem.waited``."""
        return age_of_last_message(sock.fileno())

    @staticmethod
    def stamp(sock: socket.socket) -> None:
        """See ``UdpSystem.stamp``: SO_TIMESTAMPNS (socket(7))."""
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    @staticmethod
    def age(ancillary: bytes) -> float:
        """See ``UdpSystem.age``."""
        if len(ancillary) < _CMSG.size + TIMESPEC.size:
            return 0.0
        return age_of(ancillary, _CMSG.size)

    @staticmethod
    def route_mtu(sock: socket.socket) -> int:
        """See ``UdpSystem.route_mtu``."""
        try:
            remote, local = (ip_address(name[0].partition("%")[0]) for name in (sock.getpeername(), sock.getsockname()))
            mark, ifindex = (sock.getsockopt(socket.SOL_SOCKET, option) for option in (_SO_MARK, _SO_BINDTOIFINDEX))
            with contextlib.closing(RouteSocket()) as kernel:
                found = kernel.route(RouteQuestion(remote, local, mark, ifindex))
                device = kernel.device(index=found.ifindex)
        except OSError:
            return 0
        return min(device.mtu, found.mtu or device.mtu)

    @staticmethod
    def told_mtu(sock: socket.socket) -> int:
        """See ``UdpSystem.told_mtu``: IP_MTU (ip(7))."""
        level, option = (
            (socket.IPPROTO_IP, _IP_MTU) if sock.family == socket.AF_INET else (socket.IPPROTO_IPV6, _IPV6_MTU)
        )
        try:
            return sock.getsockopt(level, option)
        except OSError:
            return 0


UDP: Final = LinuxUdp()


@functools.lru_cache(maxsize=8192)
def _parse_ancillary(data: bytes) -> ReceivedAncillary:
    """Read a run of struct cmsghdr; each is aligned to 8 bytes (cmsg(3))."""
    segment_size, source, at = 0, b"", 0
    while at + _CMSG.size <= len(data):
        length, level, kind = _CMSG.unpack_from(data, at)
        body = data[at + _CMSG.size : at + length]
        if (level, kind) == (_SOL_UDP, _UDP_GRO):
            (segment_size,) = struct.unpack_from("@i", body)
        elif (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            # ipi_ifindex 0: the route chooses the device.  ipi_spec_dst is a local address also for a broadcast.
            source = bytes(4) + body[4:8] + bytes(4)
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            source = ipv6_source(body)
        at += max((length + 7) & ~7, _CMSG.size)
    return ReceivedAncillary(segment_size, source)


@functools.lru_cache(maxsize=2048)
def _segment_option(size: int) -> bytes:
    return struct.pack("@H", size)
