"""The values that enter and leave the core: packets, bursts, runs of datagrams.

Nothing here has behaviour.  The link makes ``Packet`` (fake TCP), the carriers make ``Carried`` (UDP), and both
take ``Outgoing``.  The application side makes and takes ``Run``.  Buffers inside a received value are valid until
the next ``receive`` on the object that made them: code that keeps a buffer copies it.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple, Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network


class Malformed(ValueError):  # noqa: N818 - the field's word, as in "malformed packet"
    """Bytes from the network that do not parse.  The only exception that a ``parse_*`` function raises."""


class Checksum(enum.IntEnum):
    """What is known about a received TCP checksum (virtio_net_hdr flags, include/uapi/linux/virtio_net.h)."""

    VERIFY = 0
    """Nobody has verified it: verify it."""
    VALID = 1
    """Verified by the NIC or the kernel (VIRTIO_NET_HDR_F_DATA_VALID)."""
    PARTIAL = 2
    """Not computed: the packet never left this host (VIRTIO_NET_HDR_F_NEEDS_CSUM).  Do not verify."""


class FlowKey(NamedTuple):
    """A flow as one end sees it.  Both packed addresses are of one family: 4 or 16 bytes each."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    udp: bool = False
    """True = the flow travels over a UDP carrier; False = it is fake TCP."""

    @property
    def local_address(self) -> TransportAddress:
        """Where it ends here."""
        return TransportAddress(ip_address(self.local), self.local_port)

    @property
    def remote_address(self) -> TransportAddress:
        """Where it ends at the other side."""
        return TransportAddress(ip_address(self.remote), self.remote_port)

    def reversed(self) -> FlowKey:
        """The same flow as the other end sees it."""
        return FlowKey(self.remote, self.remote_port, self.local, self.local_port, self.udp)


class Packet(NamedTuple):
    """One received IP packet, perhaps several segments merged by GRO."""

    data: memoryview
    """From the first byte of the IP header on.  Padding of the link may follow the packet."""
    segment_size: int
    """TCP payload bytes of each merged segment but the last.  0 = not merged, or not known."""
    checksum: Checksum
    link_header: bytes
    """The link header that came with it; b"" where the link has none.  With it we answer strangers without a
    look-up."""


class Carried(NamedTuple):
    """One read of a UDP carrier: the payload of one datagram, or of several that GRO has merged."""

    key: FlowKey
    """The flow as we see it."""
    data: memoryview
    segment_size: int
    """Bytes of each merged datagram but the last.  0 = not merged."""


class Outgoing(NamedTuple):
    """One burst to send: the IP and TCP headers of its first segment, then the frames."""

    headers: bytes
    """IP + TCP header; b"" on a UDP carrier, where the kernel makes the headers.  The IP length covers the whole
    burst, and the IPv4 header checksum is right for it.  The TCP checksum field holds the folded, *not*
    complemented, pseudo-header sum, as NEEDS_CSUM asks for."""
    payload: Sequence[Buffer]
    """The payload of the whole burst, in pieces."""
    payload_size: int
    """Bytes in ``payload``."""
    segment_size: int
    """Payload bytes of each segment but the last.  0 = one segment, not to be cut."""
    reply_to: bytes = b""
    """A received link header, to be sent back reversed.  b"" = look up the next hop of the destination address."""
    carrier: FlowKey | None = None
    """The UDP carrier on which it leaves.  None = fake TCP, through the link."""
    bulk: bool = False
    """Data frames.  All else leaves before them where a send buffer is full."""


class Run(NamedTuple):
    """Consecutive datagrams of one peer.  All have one size, but the last may be shorter (never longer)."""

    peer: Hashable
    """The sender, or the receiver.  The core only compares and hashes it."""
    datagrams: list[Buffer]
    size: int
    """Bytes of each datagram but the last."""


@dataclass(frozen=True, slots=True)
class OwnPeer:
    """A peer that is no application: the client's process talks to something in the server's, as in a speed test."""

    target: int
    """What it talks to: a target that is not in the server's list."""
    number: int


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """TCP ports ``first`` to ``last``, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1


class Shard(NamedTuple):
    """A part of all ports: those that are ``number`` modulo ``of``.  One of several server processes has a shard."""

    number: int
    """``0 .. of - 1``."""
    of: int
    """1 = all ports."""

    def has(self, port: int) -> bool:
        """Whether ``port`` belongs to it."""
        return port % self.of == self.number


ALL_PORTS = Shard(0, 1)


class _Span(Protocol):
    """Ports ``first`` to ``last``, both included."""

    @property
    def first(self) -> int:
        """The lowest."""

    @property
    def last(self) -> int:
        """The highest."""


def ports_of(spans: Iterable[_Span], shard: Shard) -> tuple[PortRange, ...]:
    """Those ports of ``spans`` that belong to ``shard``, one by one."""
    ports = (port for span in spans for port in range(span.first, span.last + 1) if shard.has(port))
    return tuple(PortRange(port, port) for port in ports)


class HostAddress(NamedTuple):
    """An IP address of a host; ``zone`` is the device of a link-local IPv6 address, else empty."""

    address: IPAddress
    zone: str = ""


class TransportAddress(NamedTuple):
    """An IP address and a port; ``scope`` is the device of a link-local IPv6 address, else empty."""

    address: IPAddress
    port: int
    scope: str = ""

    def __str__(self) -> str:
        host = f"{self.address}%{self.scope}" if self.scope else str(self.address)
        return f"[{host}]:{self.port}" if self.address.version == 6 else f"{host}:{self.port}"
