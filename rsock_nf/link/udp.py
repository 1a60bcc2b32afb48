"""What a system's UDP sockets can do beyond the standard calls: the protocols that ``linux.udp`` and ``bsd.udp``
fulfil.

Each system has calls of its own for batches, for merged datagrams, and for the address that a datagram was sent to.
``rsock_nf.sockets`` does not know them.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple, Protocol, TypeAlias

from rsock_nf.core.types import IPAddress

SOCKET_BUFFER: Final = 8 << 20
"""Bytes that each UDP socket of a tunnel asks for, in each direction."""
MSG_TRUNC: Final = 0x20
"""In ``Reader.flags`` on every system, whatever its own number is."""

Ancillary: TypeAlias = list[tuple[int, int, bytes]]
"""Ancillary data (cmsg(3)) as sendmsg takes it: level, type, data."""


class ReceivedAncillary(NamedTuple):
    """What the ancillary data of one received message says."""

    segment_size: int
    """Bytes of each merged datagram but the last, which may be shorter; 0 = it is one datagram."""
    source: bytes
    """Opaque.  ``UdpSystem.answer_from`` makes of it what lets an answer leave from the address that was asked. b"" =
    not known."""


class Reader(Protocol):
    """``buffers`` receive buffers, which one ``read`` fills.  Their content is valid until the next ``read``."""

    buffers: int
    name_stride: int
    """Bytes from one buffer's sockaddr to the next in ``names_raw``."""
    views: list[memoryview]
    """The buffers at their full size; ``lengths`` says how much of each is filled."""

    def read(self, descriptor: int, limit: int | None = None) -> int:
        """Fill at most ``limit`` buffers (default: all); how many were, 0 when nothing waits.  Raises ``OSError``."""

    def lengths(self, count: int) -> list[int]:
        """Bytes in each of the first ``count`` buffers."""

    def flags(self, count: int) -> list[int]:
        """The flags of each of the first ``count`` buffers: ``MSG_TRUNC`` or 0."""

    def any_flags(self, count: int) -> bool:
        """Whether any of the first ``count`` buffers has a flag."""

    def names_raw(self, count: int) -> bytes:
        """The senders of the first ``count`` buffers, ``name_stride`` bytes each."""

    def name(self, index: int) -> bytes:
        """The sender of one buffer: two bytes, then what ``sockaddr.parse_sockaddr`` reads, or a Unix-domain path."""

    def any_ancillary(self, count: int) -> bool:
        """Whether any of the first ``count`` buffers has ancillary data."""

    def ancillary(self, index: int) -> bytes:
        """Ancillary data of one buffer, for ``UdpSystem.parse_ancillary``; b"" = none."""


class UdpSystem(Protocol):
    """UDP sockets on one system."""

    bursts: bool
    """Whether one send may be many datagrams, which ``segments`` cuts."""
    merge_ancillary_bytes: int
    """Room that is needed for the ancillary data that says where to cut merged datagrams."""
    stamp_ancillary_bytes: int
    """Room that is needed for the ancillary data that says when a message came; 0 = the system does not tell."""
    destination_ancillary_bytes: int
    """Room that is needed for the ancillary data that says where a datagram was sent to."""

    def reader(self, buffers: int, buffer_bytes: int, *, names: int, ancillary: int) -> Reader:
        """New buffers.  ``names`` and ``ancillary``: bytes that each has for a sockaddr and for ancillary data."""

    def configure(self, sock: socket.socket, buffer_bytes: int) -> None:
        """Enlarge the socket's buffers, and have the kernel merge datagrams if it can."""

    def enlarge_send(self, sock: socket.socket, buffer_bytes: int) -> None:
        """Enlarge the send buffer alone, of a socket of any family."""

    def resize_send(self, sock: socket.socket, size: int) -> None:
        """Give the send buffer ``size`` bytes, with the kernel's bookkeeping (``send_buffer``)."""

    def unsent(self, sock: socket.socket) -> int:
        """Bytes that wait in the send buffer, counted in the same way; 0 = none, or the system does not tell."""

    def ask_destination(self, sock: socket.socket) -> None:
        """Have the kernel say where each datagram was sent to.  Raises ``OSError``."""

    def parse_ancillary(self, data: bytes) -> ReceivedAncillary:
        """Decode what ``Reader.ancillary`` returned."""

    def answer_from(self, family: int, source: bytes) -> Ancillary:
        """The ancillary data that makes an answer leave from ``source``, a ``ReceivedAncillary.source``."""

    def source_of(self, family: int, address: bytes, scope: int) -> bytes:
        """The ``ReceivedAncillary.source`` of a packed address; ``scope`` is the device of a link-local one, else 0."""

    def address_of(self, family: int, source: bytes) -> IPAddress:
        """The address in a ``ReceivedAncillary.source``, for people."""

    def segments(self, size: int) -> Ancillary:
        """The ancillary data that has a send cut into datagrams of ``size`` bytes."""

    def never_fragment(self, sock: socket.socket) -> None:
        """Set DF, and ignore what the kernel knows of the path's MTU.  Raises ``OSError``."""

    def bind_device(self, sock: socket.socket, device: str) -> None:
        """Use no other device, where the system can.  Raises ``OSError``."""

    def send_by(self, sock: socket.socket, ifindex: int) -> None:
        """Send by the device with this index; 0 = by the device that the route names.

        Over IPv6 the socket may then receive from that device alone.  Does nothing where the system cannot.  Raises
        ``OSError``."""

    def mark(self, sock: socket.socket, mark: int) -> None:
        """Give what a socket of any family sends a firewall mark, where the system has them.  Raises ``OSError``."""

    def receive_drops(self, sock: socket.socket) -> int:
        """How many datagrams were dropped because its receive buffer was full; 0 where the system does not tell."""

    def waited(self, sock: socket.socket) -> float:
        """Seconds since the kernel received the message that the socket gave last; 0.0 = the system does not tell."""

    def stamp(self, sock: socket.socket) -> None:
        """Have the kernel say with each message when it came, where it can.  For a socket of any family."""

    def age(self, ancillary: bytes) -> float:
        """Seconds since a message with this ancillary data came, and nothing else in it; 0.0 = it does not tell."""

    def route_mtu(self, sock: socket.socket) -> int:
        """The largest IP packet of a connected socket's route and its device, bytes; 0 = there is no route."""

    def told_mtu(self, sock: socket.socket) -> int:
        """The same, or what ICMP said if that is less: anybody can say it.

        0 = there is no route, or the system does not tell.
        """


def ipv6_source(received: bytes) -> bytes:
    """The in6_pktinfo (RFC 3542) for the answer to a datagram that came with ``received``.

    It names the device only for a link-local address, which means nothing without it.  For a datagram to a multicast
    address it names no source."""
    address, device = received[:16], received[16:20]
    if address[0] == 0xFF:
        return bytes(16) + device
    link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return address + (device if link_local else bytes(4))
