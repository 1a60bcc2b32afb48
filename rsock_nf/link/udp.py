"""What a system's UDP sockets can do beyond the standard calls: the protocols that ``udp_linux`` and ``udp_bsd`` fill.

Batches, merged datagrams, and the address that a datagram was sent to are said differently everywhere; ``datagram`` does
not know how.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple, Protocol, TypeAlias

from rsock_nf.core.types import IPAddress

MSG_TRUNC: Final = 0x20
"""In ``Reader.flags``, whatever number the system has for it."""

Ancillary: TypeAlias = list[tuple[int, int, bytes]]
"""As sendmsg takes it: level, type, data."""


class ReceivedAncillary(NamedTuple):
    """What one message's ancillary data says."""

    segment_size: int
    """Where to cut; 0 = one datagram."""
    source: bytes
    """Opaque: with it, an answer leaves from the address that was asked (``UdpSystem.answer_from``); b"" = not told."""


class Reader(Protocol):
    """``buffers`` receive buffers, filled by one ``read``; what they hold is valid until the next."""

    buffers: int
    name_stride: int
    """Bytes from one buffer's sockaddr to the next in ``names_raw``."""
    views: list[memoryview]
    """Each buffer, whole; cut it with ``lengths``."""

    def read(self, descriptor: int, limit: int | None = None) -> int:
        """Fill at most ``limit`` buffers (default: all); how many were, 0 when nothing waits.  Raises ``OSError``."""

    def lengths(self, count: int) -> list[int]:
        """Bytes in each of the first ``count`` buffers."""

    def flags(self, count: int) -> list[int]:
        """Of each of the first ``count`` buffers: ``MSG_TRUNC``."""

    def any_flags(self, count: int) -> bool:
        """Whether any of the first ``count`` buffers has one."""

    def names_raw(self, count: int) -> bytes:
        """The senders of the first ``count`` buffers, ``name_stride`` bytes each."""

    def name(self, index: int) -> bytes:
        """The sender of one buffer: two bytes, then what ``sockaddr.parse_sockaddr`` reads, or a Unix-domain path."""

    def any_ancillary(self, count: int) -> bool:
        """Whether any of the first ``count`` buffers has ancillary data."""

    def ancillary(self, index: int) -> bytes:
        """Ancillary data of one buffer, for ``UdpSystem.parse_ancillary``; b"" = none."""


class UdpSystem(Protocol):
    """How one system does it."""

    bursts: bool
    """Whether one send may be many datagrams, cut by ``segments``."""
    merge_ancillary_bytes: int
    """Bytes of ancillary data that tell where to cut what was merged."""
    destination_ancillary_bytes: int
    """Bytes of ancillary data that tell where a datagram was sent to."""

    def reader(self, buffers: int, buffer_bytes: int, *, names: int, ancillary: int) -> Reader:
        """Buffers with so much room each for a sockaddr and for ancillary data."""

    def configure(self, sock: socket.socket, buffer_bytes: int) -> None:
        """Large buffers, and merging where there is any."""

    def enlarge_send(self, sock: socket.socket, buffer_bytes: int) -> None:
        """The send buffer alone, of a socket of any family."""

    def ask_destination(self, sock: socket.socket) -> None:
        """Be told where each datagram was sent to.  Raises ``OSError``."""

    def parse_ancillary(self, data: bytes) -> ReceivedAncillary:
        """What ``Reader.ancillary`` gave."""

    def answer_from(self, family: int, source: bytes) -> Ancillary:
        """Of a ``ReceivedAncillary.source``."""

    def source_of(self, family: int, address: bytes, scope: int) -> bytes:
        """The ``ReceivedAncillary.source`` of a packed address; ``scope`` is the device of a link-local one, else 0."""

    def address_of(self, family: int, source: bytes) -> IPAddress:
        """The address in a ``ReceivedAncillary.source``, for people."""

    def segments(self, size: int) -> Ancillary:
        """Cut this send at ``size``."""

    def never_fragment(self, sock: socket.socket) -> None:
        """Set DF, and take no notice of what the kernel thinks of the path's MTU.  Raises ``OSError``."""

    def bind_device(self, sock: socket.socket, device: str) -> None:
        """Use no other device, where the system can.  Raises ``OSError``."""

    def receive_drops(self, sock: socket.socket) -> int:
        """Datagrams that its full receive buffer has cost; 0 where the system does not tell."""

    def route_mtu(self, sock: socket.socket) -> int:
        """The largest IP packet of a connected socket's route, bytes; 0 = there is no route."""


def ipv6_source(received: bytes) -> bytes:
    """An in6_pktinfo (RFC 3542) for the answer to what came with ``received``: the device only where the address means nothing without it; none to a multicast."""
    address, device = received[:16], received[16:20]
    if address[0] == 0xFF:
        return bytes(16) + device
    link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return address + (device if link_local else bytes(4))
