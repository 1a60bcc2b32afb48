"""The side of applications and targets: UDP sockets that take and give whole runs of datagrams.

A ``Listener`` is bound, and many peers send to it: the application, at a client. A ``TargetSocket`` is connected to
one target: a conversation, at the server.  The way of a datagram, in the order of this file:

1. in: one recvmmsg(2) of up to 64 messages.  With UDP_GRO a message may be many datagrams of one sender; its ancillary
   data says at which size to cut it, and fewer messages are read at once.  Consecutive datagrams of one peer become
   ``Run``s.
2. out: each run is one sendmsg(2) with UDP_SEGMENT, at most 64 datagrams and 65,507 bytes.  Where the kernel
   refuses (a segment above the device's MTU, a device without checksum offload) the run is sent one by one, and so are
   later ones of that segment size to the same destination.

3. What has waited too long in a receive buffer is dropped: see ``rsock_nf.link.waiting_time``.  A peer that sends more
   than we can carry does not push the others out.

There is no queue.  What a full socket buffer refuses is dropped and counted, as everywhere with UDP; the application
has its own flow control.  Systems without these calls read and send one by one (``link.udp``).

Kernel sources: net/ipv4/udp.c, include/uapi/linux/udp.h.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from rsock_nf.core.types import Buffer, Run, TransportAddress
from rsock_nf.link import system, udp
from rsock_nf.link.sockaddr import NAME_BYTES, SocketAddress, parse_sockaddr, to_endpoint, to_socket_address
from rsock_nf.link.udp import Ancillary
from rsock_nf.link.waiting_time import LATE, LATE_READS, LOST, WaitingTime, not_the_cause
from rsock_nf.sockets.buffers import BUFFER_BYTES, BUFFERS, ReceiveBuffers, shared_buffers
from rsock_nf.sockets.refusals import refusal

UDP_MAX_SEGMENTS: Final = 64
"""Datagrams in one UDP_SEGMENT send (include/linux/udp.h; newer kernels take 128)."""
SOCKET_BUFFER: Final = udp.SOCKET_BUFFER

_BURST_BYTES: Final = {socket.AF_INET: 65_507, socket.AF_INET6: 65_487}
"""UDP payload of one send, so that its IP packet is at most 65,535 bytes long."""
_REMEMBERED: Final = 8192
"""Entries in a cache of peers; the oldest is removed first."""
_READ_ATTEMPTS: Final = 4
_READ_BYTES: Final = 256 << 10
"""How much one read should bring: so little that it stays in the CPU's cache until it is sent.  Assumes messages of the
size that the last read brought."""
NO_GSO: Final = (errno.EINVAL, errno.EMSGSIZE, errno.EIO)
FULL: Final = (errno.EAGAIN, errno.ENOBUFS)
TOLD_BY_ICMP: Final = (errno.ECONNREFUSED, errno.EMSGSIZE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO)
"""What a connected socket's next call reports, whatever it is about (net/ipv4/udp.c, ``__udp4_lib_err``)."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(slots=True)
class DatagramCounters:
    """Datagrams since the socket was opened."""

    received: int = 0
    sent: int = 0
    refused: int = 0
    """ECONNREFUSED: nobody had the target's port when an earlier datagram arrived."""
    send_full: int = 0
    """Dropped: the socket buffer or the device queue was full."""
    too_big: int = 0
    """Dropped: with DF set, larger than the device or the path takes, as far as the kernel knows (carriers only)."""
    send_errors: int = 0
    """Dropped: any other error."""
    receive_errors: int = 0
    """Errors other than ECONNREFUSED that a read reported; they are about earlier sends."""
    sent_singly: int = 0
    """Sent one by one, because the kernel refused their run or one like it."""
    unanswerable: int = 0
    """Dropped: the sender's Unix-domain socket is bound to nothing that can be answered."""
    late: int = 0
    """Dropped: had waited too long in the receive buffer (``rsock_nf.link.waiting_time``)."""
    oversize: int = 0
    """Dropped: came through a Unix-domain socket, and is longer than a UDP datagram can be."""


class Destination(NamedTuple):
    """How sendmsg(2) reaches a peer."""

    address: SocketAddress | None
    """None = connected."""
    ancillary: Ancillary


class UdpSocket:
    """A non-blocking UDP socket with large buffers that sends runs."""

    def __init__(self, endpoint: TransportAddress) -> None:
        self.counters = DatagramCounters()
        self._family = socket.AF_INET if endpoint.address.version == 4 else socket.AF_INET6
        self._burst_bytes = _BURST_BYTES[self._family]
        self._udp = system().udp
        self._single_from: dict[Hashable, int] = {}
        """Destinations that refused a run: the smallest segment size with which they did."""
        self._read_limit = BUFFERS
        """How many messages one read takes."""
        self._waited = 0.0
        """Seconds that the messages of the last read have waited at least."""
        try:
            self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
            try:
                self._socket.setblocking(False)
                self._configure()
                self._attach(endpoint)
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            raise refusal(self._purpose, endpoint, error) from error
        self._waiting = WaitingTime(lambda: self._udp.waited(self._socket))

    _purpose = ""
    """What the socket is opened for, for an error message."""

    def _attach(self, endpoint: TransportAddress) -> None:
        """Bind or connect.  Raises ``OSError``."""
        raise NotImplementedError

    def _configure(self) -> None:
        self._udp.configure(self._socket, SOCKET_BUFFER)

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4 or IPv6."""
        return self._family

    def fileno(self) -> int:
        """Readable when datagrams or errors wait."""
        return self._socket.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    @property
    def local(self) -> TransportAddress:
        """Where this socket is bound."""
        return to_endpoint(self._socket.getsockname())

    def _read(self, buffers: ReceiveBuffers) -> list[int]:
        """Read once; returns the length of each buffer that was filled.

        When the read reports an error of an earlier send, that is counted, and it is read again."""
        reader = buffers.reader
        for _ in range(_READ_ATTEMPTS):
            limit = min(self._read_limit, self._waiting.limit, BUFFERS)
            try:
                count = reader.read(self._socket.fileno(), limit)
            except OSError as error:
                if error.errno in {errno.EBADF, errno.ENOTSOCK}:
                    raise
                if error.errno == errno.ECONNREFUSED:
                    self.counters.refused += 1
                else:
                    self.counters.receive_errors += 1
                continue
            if not count:
                self._waiting.empty()
                break
            self._waited = self._waiting.read(full=count >= limit)
            lengths = reader.lengths(count)
            self._read_limit = _READ_BYTES // (max(lengths) or 1)
            return lengths
        self._waited = 0.0
        return []

    def _receive_in_time(self, receive: Callable[[], list[Run]]) -> list[Run]:
        """What ``receive`` reads, without what is late."""
        runs: list[Run] = []
        for _ in range(LATE_READS):
            runs = receive()
            if self._waited < LATE:
                break
            runs = self._shares(runs)
            if runs:
                break
        self.counters.received += sum([len(run.datagrams) for run in runs])
        return runs

    def _shares(self, runs: list[Run]) -> list[Run]:
        """Of a late read: what is from peers that are not the cause, or nothing if all is useless by now."""
        kept: list[Run] = []
        if self._waited < LOST:
            others = not_the_cause([(run.peer, len(run.datagrams)) for run in runs])
            kept = [run for run in runs if run.peer in others]
        self.counters.late += sum([len(run.datagrams) for run in runs]) - sum([len(run.datagrams) for run in kept])
        return kept

    def _send_run(self, key: Hashable, destination: Destination, datagrams: Sequence[Buffer], size: int) -> None:
        """Send one run to ``destination``, known as ``key``."""
        count = len(datagrams)
        if count == 1:
            self._settle(self._transmit(datagrams[0], destination.ancillary, destination.address), 1)
        elif not self._udp.bursts:
            self._send_all(destination, datagrams)
        elif size == 0 or size >= self._single_from.get(key, BUFFER_BYTES):
            self._send_singly(destination, datagrams)
        elif not len(datagrams[-1]):  # a burst cannot end in an empty datagram: it would vanish
            self._send_run(key, destination, datagrams[:-1], size)
            self._send_singly(destination, datagrams[-1:])
        elif count <= UDP_MAX_SEGMENTS and size * (count - 1) + len(datagrams[-1]) <= self._burst_bytes:
            self._send_burst(key, destination, datagrams, size)
        else:
            at_once = max(1, min(UDP_MAX_SEGMENTS, self._burst_bytes // size))
            for at in range(0, count, at_once):
                self._send_run(key, destination, datagrams[at : at + at_once], size)

    def _send_burst(self, key: Hashable, destination: Destination, datagrams: Sequence[Buffer], size: int) -> None:
        ancillary = [*destination.ancillary, *self._udp.segments(size)]
        failure = self._transmit(b"".join(datagrams), ancillary, destination.address)
        if failure not in NO_GSO:
            self._settle(failure, len(datagrams))
        elif self._send_singly(destination, datagrams):  # so the kernel refused the burst, not the destination
            remember(self._single_from, key, size if failure == errno.EMSGSIZE else 1)

    def _send_singly(self, destination: Destination, datagrams: Sequence[Buffer]) -> bool:
        """Send one by one what could be a burst.  Returns whether the kernel took the first."""
        self.counters.sent_singly += len(datagrams)
        return self._send_all(destination, datagrams)

    def _send_all(self, destination: Destination, datagrams: Sequence[Buffer]) -> bool:
        failures = [self._transmit(datagram, destination.ancillary, destination.address) for datagram in datagrams]
        for failure in failures:
            self._settle(failure, 1)
        return failures[0] == 0

    def _transmit(self, data: Buffer, ancillary: Ancillary, address: SocketAddress | None) -> int:
        """One sendmsg(2), and a second one if the first may only have reported what ICMP said of an earlier datagram.

        Returns errno, 0 = sent."""
        failure = 0
        for _ in range(2):
            try:
                if ancillary:
                    self._socket.sendmsg((data,), ancillary, 0, address)
                elif address is None:
                    self._socket.send(data)
                else:
                    self._socket.sendto(data, address)
            except OSError as error:
                failure = error.errno or errno.EIO
                if failure not in TOLD_BY_ICMP:
                    return failure
                self.counters.refused += failure == errno.ECONNREFUSED
            else:
                return 0
        return failure

    def _settle(self, failure: int, datagrams: int) -> None:
        if failure == 0:
            self.counters.sent += datagrams
        elif failure in FULL:
            self.counters.send_full += datagrams
        else:
            self.counters.send_errors += datagrams


class Listener(UdpSocket):
    """Bound to ``endpoint``; any number of peers.  ``::`` takes IPv4 as well.

    A peer is bytes, opaque to others: the sender's sockaddr and, on a wildcard address, what ``UdpSystem.answer_from``
    needs for an answer from the address that was asked.
    ``shared``: others of this user may be bound to it in the same way.  The kernel gives each of them some of the
    peers, as long as none comes or goes (``System.has_workers``).

    Raises ``LinkError``.
    """

    _purpose = "listen on"

    def __init__(
        self, endpoint: TransportAddress, *, buffers: ReceiveBuffers | None = None, shared: bool = False
    ) -> None:
        self._shared = shared
        super().__init__(endpoint)
        self._buffers = buffers or shared_buffers(
            NAME_BYTES[self._family], self._udp.merge_ancillary_bytes + self._udp.destination_ancillary_bytes
        )
        self._destinations: dict[Hashable, Destination] = {}

    def _attach(self, endpoint: TransportAddress) -> None:
        self._wildcard = endpoint.address.is_unspecified
        if self._wildcard:
            if self._family == socket.AF_INET6:
                with contextlib.suppress(OSError):  # OpenBSD's IPv6 sockets never take IPv4
                    self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self._udp.ask_destination(self._socket)
        if self._shared:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(to_socket_address(endpoint))

    def receive(self) -> list[Run]:
        """What waits, at most 64 kernel messages; empty when nothing does, or when all of it was late.

        The datagrams are views, valid until the next ``receive`` of any socket on the same ``ReceiveBuffers``.
        """
        return self._receive_in_time(self._receive)

    def _receive(self) -> list[Run]:
        buffers = self._buffers
        reader = buffers.reader
        lengths = self._read(buffers)
        if not lengths:
            return []
        count = len(lengths)
        names = reader.names_raw(count)
        name = names[: reader.name_stride]
        one_sender = names == name * count
        if self._wildcard or reader.any_ancillary(count):
            runs = self._receive_with_ancillary(names, lengths, one_sender=one_sender)
        elif one_sender:
            runs = buffers.runs(name, lengths)
        else:
            runs = buffers.mixed_runs(_cut(names, reader.name_stride), lengths, None)
        return runs

    def _receive_with_ancillary(self, names: bytes, lengths: list[int], *, one_sender: bool) -> list[Run]:
        reader = self._buffers.reader
        stride = reader.name_stride
        ancillaries = [reader.ancillary(index) for index in range(len(lengths))]
        if one_sender and ancillaries.count(ancillaries[0]) == len(ancillaries):
            segment_size, source = self._udp.parse_ancillary(ancillaries[0])
            peer = names[:stride] + source
            if not segment_size:
                return self._buffers.runs(peer, lengths)
            return self._buffers.mixed_runs([peer] * len(lengths), lengths, [segment_size] * len(lengths))
        parsed = [self._udp.parse_ancillary(ancillary) for ancillary in ancillaries]
        peers = [name + told.source for name, told in zip(_cut(names, stride), parsed, strict=True)]
        return self._buffers.mixed_runs(peers, lengths, [told.segment_size for told in parsed])

    def send(self, runs: Sequence[Run]) -> None:
        """Send each run to its peer.  What the kernel does not take is dropped and counted."""
        known = self._destinations
        for peer, datagrams, size in runs:
            self._send_run(peer, known.get(peer) or self._destination(peer), datagrams, size)

    def _destination(self, peer: Hashable) -> Destination:
        name, source = self._split(peer)
        ancillary = self._udp.answer_from(self._family, source) if source else []
        destination = Destination(parse_sockaddr(name), ancillary)
        remember(self._destinations, peer, destination)
        return destination

    def _split(self, peer: Hashable) -> tuple[bytes, bytes]:
        size = NAME_BYTES[self._family]
        if not isinstance(peer, bytes) or len(peer) < size:
            raise ValueError(f"not a peer of a listener: {peer!r}")
        return peer[:size], peer[size:]

    def sender(self, peer: Hashable) -> TransportAddress:
        """The address and port of ``peer``."""
        return to_endpoint(parse_sockaddr(self._split(peer)[0]))

    def describe(self, peer: Hashable) -> str:
        """``peer`` for people: its address and port, and on a wildcard address, which of our addresses it sent to."""
        name, source = self._split(peer)
        sender = str(to_endpoint(parse_sockaddr(name)))
        if not source:
            return sender
        local = self._udp.address_of(self._family, source)
        return f"{sender} via {getattr(local, 'ipv4_mapped', None) or local}"


class TargetSocket(UdpSocket):
    """Connected to ``target``: it receives from nobody else, and has one source port.  Its owner knows which peer it
    belongs to.

    Raises ``LinkError``.
    """

    _purpose = "open a socket toward"

    def __init__(self, target: TransportAddress, *, buffers: ReceiveBuffers | None = None) -> None:
        super().__init__(target)
        self.target = target
        self._buffers = buffers or shared_buffers()
        self._to_target = Destination(None, [])

    def _attach(self, endpoint: TransportAddress) -> None:
        self._socket.connect(to_socket_address(endpoint))

    def receive(self, peer: Hashable) -> list[Run]:
        """What waits, at most 64 kernel messages, as runs of ``peer``; empty when nothing does, or when all of it was
        late.

        The datagrams are views, valid until the next ``receive`` of any socket on the same ``ReceiveBuffers``.
        """
        return self._receive_in_time(functools.partial(self._receive, peer))

    def _receive(self, peer: Hashable) -> list[Run]:
        buffers = self._buffers
        reader = buffers.reader
        lengths = self._read(buffers)
        if not lengths:
            return []
        count = len(lengths)
        if reader.any_ancillary(count):
            segments = [self._udp.parse_ancillary(reader.ancillary(index)).segment_size for index in range(count)]
            runs = buffers.mixed_runs([peer] * count, lengths, segments)
        else:
            runs = buffers.runs(peer, lengths)
        return runs

    def send(self, runs: Sequence[Run]) -> None:
        """Send each run to the target, whatever its peer.  What the kernel does not take is dropped and counted."""
        for _, datagrams, size in runs:
            self._send_run(None, self._to_target, datagrams, size)

    def describe(self, peer: Hashable) -> str:  # noqa: ARG002 - the same question as to a Listener
        """Where its datagrams go."""
        return str(self.target)


def _cut(names: bytes, stride: int) -> list[bytes]:
    return [names[at : at + stride] for at in range(0, len(names), stride)]


def remember(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Store in a bounded dictionary; the oldest entry is removed to make room."""
    if len(cache) >= _REMEMBERED:
        del cache[next(iter(cache))]
    cache[key] = value
