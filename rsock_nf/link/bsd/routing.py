"""Questions to the routing tables of FreeBSD, NetBSD, OpenBSD and macOS, over a PF_ROUTE socket and sysctl(3); their
news.

``next_hop`` asks three questions, which messages answer: the route to an address (RTM_GET), the interfaces with their
addresses (NET_RT_IFLIST), the neighbours (NET_RT_FLAGS).  No program's text is read.  The system calls are an argument
(``RoutingCalls``), as those of the bpf device are.  Nothing here waits: the kernel answers within send(2).

The layout of messages is in ``pf_route``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Final, Protocol

from rsock_nf.core.types import IPAddress
from rsock_nf.link.bsd.abi import Abi
from rsock_nf.link.bsd.pf_route import LinkAddress, Message, Messages

_DISCARD: Final = 9
_READ_BYTES: Final = 1 << 16
"""Of one read: more than any message has."""
_READS_AT_ONCE: Final = 256
_PATIENCE_MS: Final = 1000
"""A bound only: the answer is there when send(2) returns."""


class RoutingCalls(Protocol):
    """The system calls for routes and neighbours.  Each raises ``OSError``."""

    def open(self) -> socket.socket:
        """A routing socket, non-blocking."""

    def sysctl(self, name: Sequence[int]) -> bytes:
        """A table, whole."""

    def touch(self, neighbour: IPAddress, index: int) -> None:
        """Make the kernel resolve or check ``neighbour`` on interface ``index``, by sending it a packet."""

    def address_flags(self, interface: str, address: IPv6Address) -> int:
        """IN6_IFF_* of one of the interface's addresses; 0 where the system does not tell."""


class KernelRouting:
    """``RoutingCalls`` of the kernel that this process runs on."""

    def __init__(self, abi: Abi) -> None:
        self._abi = abi
        self._libc = ctypes.CDLL(None, use_errno=True)

    def open(self) -> socket.socket:
        """See ``RoutingCalls.open``."""
        made = socket.socket(self._abi["PF_ROUTE"], socket.SOCK_RAW, 0)
        made.setblocking(False)
        if "SO_RERROR" in self._abi:  # have an overrun told, by ENOBUFS
            with contextlib.suppress(OSError):  # a kernel that is older than the headers
                made.setsockopt(socket.SOL_SOCKET, self._abi["SO_RERROR"], 1)
        return made

    def sysctl(self, name: Sequence[int]) -> bytes:
        """See ``RoutingCalls.sysctl``.  When the table grows after its size was asked for, it is asked again."""
        mib = (ctypes.c_int * len(name))(*name)
        while True:
            size = ctypes.c_size_t(0)
            self._call(mib, None, size)
            size.value += size.value // 4 + 512
            buffer = ctypes.create_string_buffer(size.value)
            try:
                self._call(mib, buffer, size)
            except OSError as error:
                if error.errno == errno.ENOMEM:
                    continue
                raise
            return buffer.raw[: size.value]

    def _call(
        self, mib: ctypes.Array[ctypes.c_int], buffer: ctypes.Array[ctypes.c_char] | None, size: ctypes.c_size_t
    ) -> None:
        if self._libc.sysctl(mib, ctypes.c_uint(len(mib)), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    @staticmethod
    def touch(neighbour: IPAddress, index: int) -> None:
        """See ``RoutingCalls.touch``: an empty datagram to its discard port, with a hop limit of one."""
        family = socket.AF_INET if neighbour.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            if isinstance(neighbour, IPv6Address):
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
                scope = index if neighbour.is_link_local else 0
                sender.sendto(b"", (str(IPv6Address(neighbour.packed)), _DISCARD, 0, scope))
            else:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
                sender.sendto(b"", (str(neighbour), _DISCARD))

    def address_flags(self, interface: str, address: IPv6Address) -> int:
        """See ``RoutingCalls.address_flags``: SIOCGIFAFLAG_IN6 with a struct in6_ifreq."""
        abi = self._abi
        if "SIOCGIFAFLAG_IN6" not in abi:
            return 0
        request = bytearray(abi["sizeof(struct in6_ifreq)"])
        name = interface.encode()
        request[: len(name)] = name
        at = abi["offsetof(struct in6_ifreq, ifr_addr)"]
        struct.pack_into(
            "=BBHI16sI", request, at, abi["sizeof(struct sockaddr_in6)"], abi["AF_INET6"], 0, 0, address.packed, 0
        )
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asked:
            answer = fcntl.ioctl(asked, abi["SIOCGIFAFLAG_IN6"], bytes(request))
        (flags,) = struct.unpack_from("=i", answer, abi["offsetof(struct in6_ifreq, ifr_ifru.ifru_flags6)"])
        return int(flags)


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface with its addresses."""

    index: int
    name: str
    flags: int
    """IFF_*"""
    mtu: int
    link_state: int
    address: bytes
    addresses: tuple[IPAddress, ...]


class RouteSocket:
    """Questions to the routing tables, and their news.  Raises ``OSError`` as the kernel says."""

    def __init__(self, abi: Abi, calls: RoutingCalls) -> None:
        self.abi = abi
        self.calls = calls
        self._messages = Messages(abi)
        self.neighbour_flag = abi["RTF_LLINFO" if "RTF_LLINFO" in abi else "RTF_LLDATA"]
        """Of RTF_*: the message is about a neighbour."""
        self._sequence = 0
        self._requests = calls.open()
        try:
            self._news = calls.open()
        except BaseException:
            self._requests.close()
            raise

    def fileno(self) -> int:
        """Readable when news wait."""
        return self._news.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._requests.close()
        self._news.close()

    def news(self) -> tuple[list[Message], bool]:
        """Messages that wait, a bounded number; and whether some were lost because we were too slow."""
        reads, overrun = _drain(self._news)
        return self._parsed(reads), overrun

    def _parsed(self, reads: list[bytes]) -> list[Message]:
        return [message for data in reads for message in self._messages.parse(data)]

    def route(self, remote: IPAddress) -> Message | None:
        """RTM_GET; None = no route (ESRCH), or one that leads nowhere.

        While a neighbour does not answer, its own route is RTF_REJECT on OpenBSD and macOS, but leads to it all the
        same.
        """
        abi = self.abi
        _drain(self._requests)  # every routing socket receives all messages
        self._sequence += 1
        asked = (abi["RTM_GET"], os.getpid(), self._sequence)
        try:
            self._requests.send(self._messages.get(remote, *asked[1:]))
        except OSError:  # ESRCH; ENETUNREACH on some
            return None
        while _is_answered(self._requests):
            for message in self._parsed(_drain(self._requests)[0]):
                if (message.kind, message.pid, message.sequence) == asked:
                    nowhere = message.flags & (abi["RTF_REJECT"] | abi["RTF_BLACKHOLE"])
                    neighbour = message.flags & self.neighbour_flag
                    return None if message.error or (nowhere and not neighbour) else message
        return None

    def interfaces(self) -> list[Interface]:
        """Every interface: NET_RT_IFLIST gives each, and its addresses behind it."""
        abi = self.abi
        found: list[Interface] = []
        for message in self._table(0, "NET_RT_IFLIST", 0):
            if message.kind == abi["RTM_IFINFO"]:
                link = message.addresses.get(abi["RTA_IFP"])
                if isinstance(link, LinkAddress):
                    told = (message.index, link.name, message.flags, message.mtu, message.link_state, link.address)
                    found.append(Interface(*told, ()))
            elif message.kind == abi["RTM_NEWADDR"] and found and found[-1].index == message.index:
                own = message.addresses.get(abi["RTA_IFA"])
                if own is not None and not isinstance(own, LinkAddress):
                    found[-1] = replace(found[-1], addresses=(*found[-1].addresses, own))
        return found

    def neighbours(self, version: int) -> Iterator[tuple[int, IPAddress, bytes]]:
        """Interface, address and link address of each that is resolved: the routes with RTF_LLINFO (RTF_LLDATA)."""
        abi = self.abi
        family = abi["AF_INET" if version == 4 else "AF_INET6"]
        for message in self._table(family, "NET_RT_FLAGS", self.neighbour_flag):
            address, link = message.addresses.get(abi["RTA_DST"]), message.addresses.get(abi["RTA_GATEWAY"])
            if isinstance(link, LinkAddress) and link.address and address and not isinstance(address, LinkAddress):
                yield message.index or link.index, address, link.address

    def _table(self, family: int, what: str, argument: int) -> Iterator[Message]:
        abi = self.abi
        name = (abi["CTL_NET"], abi["PF_ROUTE"], 0, family, abi[what], argument)
        return self._messages.parse(self.calls.sysctl(name))


def _is_answered(end: socket.socket) -> bool:
    """Whether there is something to read, now or within a second."""
    waiter = select.poll()
    waiter.register(end, select.POLLIN)
    return bool(waiter.poll(_PATIENCE_MS))


def _drain(end: socket.socket) -> tuple[list[bytes], bool]:
    """The reads that wait, a bounded number; and whether some were lost because we were too slow (ENOBUFS).

    ``end`` is non-blocking.  Raises ``OSError`` for everything else.
    """
    reads: list[bytes] = []
    overrun = False
    for _ in range(_READS_AT_ONCE):
        try:
            reads.append(end.recv(_READ_BYTES))
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            overrun = True
    return reads, overrun
