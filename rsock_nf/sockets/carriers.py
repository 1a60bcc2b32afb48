"""UDP carriers: ordinary UDP sockets in which flows travel.

A client has a ``ClientCarrier`` for each flow: one connected socket. A server has a ``ServerCarrier`` for each port
and family (or for each address, where the configuration names some): one socket, to which any number of clients' flows
come.  An answer leaves from the address that was asked.

They differ from the application's sockets (``datagrams``) in two ways.  What UDP_GRO merged stays one buffer, because
the codec opens a whole burst at once. A burst is sent as it is: one sendmsg(2) with UDP_SEGMENT, at most 64 datagrams
and 65,507 bytes.  ``link.udp`` hides what systems lack, or do differently.
DF is always set, and the MTU that the kernel knows of the path is ignored (IP_PMTUDISC_PROBE, ip(7)): the core finds
the size that passes by padded probes, as it does for fake TCP. A UDP_SEGMENT size above the device's MTU is refused by
the kernel.

Kernel sources: net/ipv4/udp.c (udp_send_skb), include/uapi/linux/in.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Hashable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from rsock_nf.core.types import Buffer, Carried, FlowKey, IPAddress, Outgoing, PortRange, TransportAddress
from rsock_nf.link import LinkError, system
from rsock_nf.link.send_buffer import SendBuffer
from rsock_nf.link.sockaddr import NAME_BYTES, to_socket_address
from rsock_nf.link.udp import Ancillary
from rsock_nf.link.waiting_time import LATE, LOST, may_be_control, not_the_cause
from rsock_nf.sockets.buffers import BUFFER_BYTES, shared_buffers
from rsock_nf.sockets.datagrams import NO_GSO, UDP_MAX_SEGMENTS, Destination, UdpSocket, remember

_DISCARD: Final = 9
_LEAST_MTU: Final = {socket.AF_INET: 576, socket.AF_INET6: 1280}
_ANY: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - a server's port, as TCP's


def _every_flow(_: FlowKey) -> bool:
    """As long as nobody says which there are."""
    return True


class _Carrier(UdpSocket):
    """What both ends share: socket options, and sending a burst."""

    def __init__(self, endpoint: TransportAddress, device: str | None, mark: int) -> None:
        self.known: Callable[[FlowKey], bool] = _every_flow
        """Which flows there are: of what has waited too long, all else is dropped before what is theirs."""
        self._device = device
        self._mark = mark
        super().__init__(endpoint)

    def _configure(self) -> None:
        super()._configure()
        self._buffer = SendBuffer(
            lambda size: self._udp.resize_send(self._socket, size), lambda: self._udp.unsent(self._socket)
        )
        if self._family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self._udp.never_fragment(self._socket)
        if self._device is not None:
            self._udp.bind_device(self._socket, self._device)
        if self._mark:
            self._udp.mark(self._socket, self._mark)

    def _destination_of(self, key: FlowKey) -> Destination:
        raise NotImplementedError

    @property
    def receive_drops(self) -> int:
        """How many datagrams were dropped because the receive buffer was full, where the system tells."""
        return self._udp.receive_drops(self._socket)

    @property
    def waited(self) -> float:
        """Seconds that the last datagram of ``receive`` has waited in the kernel, at least."""
        return self._waiting.waited

    def _in_time(self, received: list[Carried]) -> list[Carried]:
        """What was read, without what is late: bulk after ``LATE`` seconds, everything after ``LOST``."""
        kept = received
        if self._waited >= LATE:
            useful = received if self._waited < LOST else []
            amounts = [(item.key.remote, len(item.data)) for item in useful if self.known(item.key)]
            others = not_the_cause(amounts, strangers=len(useful) - len(amounts))
            kept = [
                item
                for item in useful
                if may_be_control(len(item.data), item.segment_size)
                or (item.key.remote in others and self.known(item.key))
            ]
            self.counters.late += count_datagrams(received) - count_datagrams(kept)
        self.counters.received += count_datagrams(kept)
        return kept

    def send(self, burst: Outgoing) -> bool:
        """Send a burst, whole or in the pieces that the kernel takes.

        False = the socket buffer is full, and nothing was sent.  What the kernel refuses for another reason is dropped
        and counted.
        """
        if burst.carrier is None:
            raise ValueError("a burst for the link")
        if self._buffer.was_full:
            self._buffer.fit()
        destination = self._destination_of(burst.carrier)
        data: Buffer = burst.payload[0] if len(burst.payload) == 1 else b"".join(burst.payload)
        size = burst.segment_size
        if not size or size >= len(data):
            return self._sent(self._give(data, destination.ancillary, destination), 1)
        at_once = min(UDP_MAX_SEGMENTS, self._burst_bytes // size) * size
        if len(data) <= at_once:
            return self._send_piece(burst.carrier, destination, data, size)
        view = memoryview(data)
        pieces = [view[at : at + at_once] for at in range(0, len(data), at_once)]
        if not self._send_piece(burst.carrier, destination, pieces[0], size):
            return False
        for piece in pieces[1:]:  # the buffer is full by now: what cannot be sent is lost, as in any queue
            if not self._send_piece(burst.carrier, destination, piece, size):
                self.counters.send_full += -(-len(piece) // size)
        return True

    def _send_piece(self, key: FlowKey, destination: Destination, data: Buffer, size: int) -> bool:
        """One UDP_SEGMENT send, or one datagram after the other where the kernel refuses that."""
        count = -(-len(data) // size)
        if self._udp.bursts and size < self._single_from.get(key, BUFFER_BYTES):
            ancillary = [*destination.ancillary, *self._udp.segments(size)]
            failure = self._give(data, ancillary, destination)
            if failure not in NO_GSO:
                return self._sent(failure, count)
            if not self._send_each(destination, data, size, count):
                remember(self._single_from, key, size if failure == errno.EMSGSIZE else 1)
            return True
        self._send_each(destination, data, size, count)
        return True

    def _send_each(self, destination: Destination, data: Buffer, size: int, count: int) -> int:
        """Send datagram by datagram; returns the errno of the first.  If the first is too big, the others are, too."""
        view = memoryview(data)
        first = self._give(view[:size], destination.ancillary, destination)
        if first == errno.EMSGSIZE:
            self.counters.too_big += count
            return first
        self.counters.sent_singly += count
        self._settle(first, 1)
        for at in range(size, len(data), size):
            self._settle(self._give(view[at : at + size], destination.ancillary, destination), 1)
        return first

    def _give(self, data: Buffer, ancillary: Ancillary, destination: Destination) -> int:
        """One send, as ``_transmit``."""
        failure = self._transmit(data, ancillary, destination.address)
        if failure == errno.EAGAIN:
            self._buffer.full()
        return failure

    def _sent(self, failure: int, count: int) -> bool:
        """Account for one send; False = try it again later."""
        if failure == errno.EAGAIN:
            return False
        if failure == errno.EMSGSIZE:
            self.counters.too_big += count
        else:
            self._settle(failure, count)
        return True


class ClientCarrier(_Carrier):
    """A client's flow over UDP, toward ``remote``.

    ``source``: the address to send from; ``ports``: the ranges that a random free source port is taken from.  Without
    them the kernel chooses.  ``device``: the only device that it may use.  ``send_by``: see ``steer``.  ``mark``: the
    firewall mark of what it sends; 0 = none.
    Raises ``LinkError``.
    """

    _purpose = "open a UDP flow to"

    def __init__(  # noqa: PLR0913 - one for each thing that a socket can be told
        self,
        remote: TransportAddress,
        *,
        source: IPAddress | None = None,
        ports: Sequence[PortRange] = (),
        device: str | None = None,
        send_by: int = 0,
        mark: int = 0,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._remote = remote
        self._send_by = send_by
        self._source = source
        self._ports = [port for span in ports for port in range(span.first, span.last + 1)]
        self._rng = rng
        super().__init__(remote, device, mark)
        local = self._socket.getsockname()
        self.key = FlowKey(
            ip_address(local[0].partition("%")[0]).packed, local[1], remote.address.packed, remote.port, udp=True
        )
        self._to_remote = Destination(None, [])
        self._buffers = shared_buffers()
        self._told = self._udp.told_mtu(self._socket)
        self._refusals = 0
        """How many ECONNREFUSED ``refused`` has reported."""

    def _attach(self, endpoint: TransportAddress) -> None:
        if self._send_by:
            self._udp.send_by(self._socket, self._send_by)
        if self._ports or self._source is not None:
            self._bind(endpoint)
        self._socket.connect(to_socket_address(endpoint))

    def steer(self, ifindex: int) -> None:
        """Send by the device with this index from now on; 0 = by the one that the kernel's route names.

        The address stays.  If the device has no route, what is sent is lost, as it is without any route.
        """
        if ifindex == self._send_by:
            return
        self._send_by = ifindex
        with contextlib.suppress(OSError):  # the device is gone, or has no route: the flow falls silent
            self._udp.send_by(self._socket, ifindex)
            self._socket.connect(to_socket_address(self._remote))  # so that it looks for its route again

    def _bind(self, remote: TransportAddress) -> None:
        """Bind the source address, and the first free port of ``ports`` from a random one on.  Raises ``OSError``."""
        host = self._source or ip_address(_ANY[self._family])
        start = int.from_bytes(self._rng(4), "big") % len(self._ports) if self._ports else 0
        taken: OSError | None = None
        for port in self._ports[start:] + self._ports[:start] or [0]:
            try:
                self._socket.bind(to_socket_address(TransportAddress(host, port, remote.scope)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                taken = error
            else:
                return
        if taken is not None:
            raise taken

    def _destination_of(self, key: FlowKey) -> Destination:  # noqa: ARG002 - it has one
        return self._to_remote

    @property
    def mtu(self) -> int:
        """The largest IP packet of the route, bytes; 0 = there is no route."""
        return _plausible(self._udp.route_mtu(self._socket), self._family)

    def too_big(self) -> int:
        """The largest IP packet that passes, bytes, if ICMP has said since the last call that it is smaller now.

        0 = it has not.  Anybody can say so.
        """
        before, self._told = self._told, _plausible(self._udp.told_mtu(self._socket), self._family)
        return self._told if self._told < before else 0

    def refused(self) -> bool:
        """Whether a send or a read since the last call got ECONNREFUSED: ICMP said that nobody has the server's
        port."""
        told, self._refusals = self._refusals, self.counters.refused
        return self._refusals > told

    def receive(self) -> list[Carried]:
        """What waits and is not late, at most 64 kernel messages; buffers are valid until the next ``receive`` on the
        same ``ReceiveBuffers``."""
        lengths = self._read(self._buffers)
        if not lengths:
            return []
        key = self.key
        reader = self._buffers.reader
        views = reader.views
        if not reader.any_ancillary(len(lengths)):
            received = [Carried(key, views[index][:length], 0) for index, length in enumerate(lengths)]
        else:
            received = [
                Carried(key, views[index][:length], self._udp.parse_ancillary(reader.ancillary(index)).segment_size)
                for index, length in enumerate(lengths)
            ]
        return self._in_time(received)


class ServerCarrier(_Carrier):
    """A server's port.  An unspecified address stands for every local address of its family.

    Raises ``LinkError``.
    """

    _purpose = "serve UDP on"

    def __init__(self, endpoint: TransportAddress, *, device: str | None = None, mark: int = 0) -> None:
        super().__init__(endpoint, device, mark)
        self.endpoint = endpoint
        self._buffers = shared_buffers(
            NAME_BYTES[self._family], self._udp.merge_ancillary_bytes + self._udp.destination_ancillary_bytes
        )
        self._keys: dict[Hashable, FlowKey] = {}
        """Sender and our address, as the kernel says them → flow."""
        self._destinations: dict[Hashable, Destination] = {}
        self._scopes: dict[Hashable, int] = {}
        """Link-local senders → the device that they are on."""

    def _attach(self, endpoint: TransportAddress) -> None:
        self._wildcard = endpoint.address.is_unspecified
        if self._wildcard:
            self._udp.ask_destination(self._socket)
        self._socket.bind(to_socket_address(endpoint))

    def receive(self) -> list[Carried]:
        """See ``ClientCarrier.receive``."""
        lengths = self._read(self._buffers)
        if not lengths:
            return []
        reader = self._buffers.reader
        stride = reader.name_stride
        names = reader.names_raw(len(lengths))
        views = reader.views
        received: list[Carried] = []
        last_name = last_ancillary = b""
        key, segment_size = None, 0
        for index, length in enumerate(lengths):
            name, ancillary = names[index * stride : index * stride + stride], reader.ancillary(index)
            if key is None or name != last_name or ancillary != last_ancillary:
                last_name, last_ancillary = name, ancillary
                segment_size, source = self._udp.parse_ancillary(ancillary)
                key = self._keys.get((name, source)) or self._learn(name, source)
            received.append(Carried(key, views[index][:length], segment_size))
        return self._in_time(received)

    def _learn(self, name: bytes, source: bytes) -> FlowKey:
        """``name`` is a struct sockaddr_in or sockaddr_in6.  ``source`` is the pktinfo of an answer, on a wildcard
        address."""
        (port,) = struct.unpack_from("!H", name, 2)
        local = self._udp.address_of(self._family, source).packed if source else b""
        if self._family == socket.AF_INET:
            remote = name[4:8]
        else:
            remote = name[8:24]
            (scope,) = struct.unpack_from("@I", name, 24)
            if scope:
                remember(self._scopes, remote, scope)
        key = FlowKey(local or self.endpoint.address.packed, self.endpoint.port, remote, port, udp=True)
        remember(self._keys, (name, source), key)
        return key

    def _destination_of(self, key: FlowKey) -> Destination:
        return self._destinations.get(key) or self._prepare(key)

    def _prepare(self, key: FlowKey) -> Destination:
        scope = self._scopes.get(key.remote, 0)
        ancillary: Ancillary = []
        if self._wildcard:
            ancillary = self._udp.answer_from(self._family, self._udp.source_of(self._family, key.local, scope))
        if self._family == socket.AF_INET:
            destination = Destination((str(IPv4Address(key.remote)), key.remote_port), ancillary)
        else:
            destination = Destination((str(IPv6Address(key.remote)), key.remote_port, 0, scope), ancillary)
        remember(self._destinations, key, destination)
        return destination


def count_datagrams(received: Sequence[Carried]) -> int:
    """How many datagrams the kernel has merged into these."""
    return sum([-(-len(item.data) // item.segment_size) if item.segment_size else 1 for item in received])


def route_mtu(remotes: Sequence[IPAddress], device: str | None) -> int:
    """The MTU of the route to the first of ``remotes`` that has a route, bytes of an IP packet; 0 = none has.  Nothing
    is sent."""
    for remote in remotes:
        family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asked:
            if device is not None:
                system().udp.bind_device(asked, device)
            asked.connect(
                to_socket_address(TransportAddress(remote, _DISCARD, (device or "") if remote.is_link_local else ""))
            )
            return _plausible(system().udp.route_mtu(asked), family)
    return 0


def _plausible(mtu: int, family: int) -> int:
    """``mtu``, or 0 for one that no real device has: a route that was just deleted leads to a device with 68 bytes
    (net/core/dst.c, blackhole_netdev)."""
    return mtu if mtu >= _LEAST_MTU[socket.AddressFamily(family)] else 0


def serve_ports(
    ranges: Sequence[PortRange], addresses: Sequence[IPAddress] = (), *, device: str | None = None, mark: int = 0
) -> list[ServerCarrier]:
    """A ``ServerCarrier`` for every port of ``ranges`` on each of ``addresses``; by default on every IPv4 and IPv6
    address.

    All of them, or none and ``LinkError``.  A host without IPv6 serves IPv4 only.
    """
    opened: list[ServerCarrier] = []
    with contextlib.ExitStack() as stack:
        hosts = list(addresses) or [ip_address(host) for family, host in _ANY.items() if _has(family)]
        for span in ranges:
            for port in range(span.first, span.last + 1):
                for host in hosts:
                    carrier = ServerCarrier(TransportAddress(host, port), device=device, mark=mark)
                    stack.callback(carrier.close)
                    opened.append(carrier)
        stack.pop_all()
    return opened


def _has(family: socket.AddressFamily) -> bool:
    """Whether the kernel has ``family`` at all (``ipv6.disable=1``)."""
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise LinkError(f"cannot open a UDP socket: {error.strerror}") from error
        return False
    return True


__all__ = ["ClientCarrier", "ServerCarrier", "count_datagrams", "route_mtu", "serve_ports"]
