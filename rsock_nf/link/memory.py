"""Two links joined in memory on a virtual clock: the wire of sans-IO tests and of the demonstration.

What it is: a ``Link`` at either end, and between them loss, duplication, reordering, delay and a path MTU, all
drawn from one seeded generator, so that a seed is a whole run.  Bursts are cut into segments first
(``segmentation``): each suffers by itself, as on a real path, and may be merged again at the far end as GRO does.
What it is not: a router.  A packet above the path MTU vanishes; who wants an ICMP message injects one.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from rsock_nf.core.tcp.checksum import checksum
from rsock_nf.core.types import Checksum, IPAddress, Outgoing, Packet
from rsock_nf.link import LinkCounters, LinkEvent, Match
from rsock_nf.link.segmentation import cut, ip_header_length

_TCP: Final = 6
_ENDS_MERGE: Final = 0x01 | 0x02 | 0x04 | 0x08 | 0x20
"""FIN, SYN, RST, PSH, URG: nothing is merged behind a segment with one of them."""
_IPV4_VARIES: Final = (slice(2, 6), slice(10, 12))
"""Total length and identification, header checksum."""
_IPV6_VARIES: Final = (slice(4, 6),)
"""Payload length."""
_MAX_IP_BYTES: Final = 65_535


class MemoryWire:
    """Two ends, ``a`` and ``b``, and the path between them.

    ``loss``, ``duplicate`` and ``reorder`` are probabilities for each segment, ``delay`` the bounds of the one-way
    delay in seconds.  Segments keep their order unless chosen for reordering, which adds a further delay of up to
    the upper bound (at least 1 ms).  With ``merge`` the ends hand out contiguous segments as one packet.
    """

    def __init__(  # noqa: PLR0913 - all but one are keyword-only knobs
        self,
        rng: random.Random,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        delay: tuple[float, float] = (0.0, 0.0),
        mtu: int = 1500,
        merge: bool = False,
    ) -> None:
        self.rng = rng
        self.loss = loss
        self.duplicate = duplicate
        self.reorder = reorder
        self.delay = delay
        self.path_mtu = mtu
        """A larger packet vanishes on the way; the ends' own ``mtu`` stays what it was made with."""
        self.merge = merge
        self.now = 0.0
        self.taps: list[Callable[[MemoryLink, bytes], None]] = []
        """Called with the sending end and each complete segment, before anything happens to it."""
        self.drop_if: Callable[[MemoryLink, bytes], bool] | None = None
        """Asked, likewise, whether the segment vanishes."""
        self.a = MemoryLink(self, "a", mtu)
        self.b = MemoryLink(self, "b", mtu)
        self._on_the_way: list[tuple[float, int, MemoryLink, bytes]] = []
        self._count = 0
        self._last_arrival = {"a": 0.0, "b": 0.0}

    def carry(self, sender: MemoryLink, packet: bytes) -> None:
        """Take one segment from ``sender`` and decide what becomes of it."""
        for tap in self.taps:
            tap(sender, packet)
        if self.drop_if is not None and self.drop_if(sender, packet):
            return
        if len(packet) > self.path_mtu or self.rng.random() < self.loss:
            return
        receiver = self.b if sender is self.a else self.a
        copies = 2 if self.rng.random() < self.duplicate else 1
        for _ in range(copies):
            arrival = self.now + self.rng.uniform(*self.delay)
            if self.rng.random() < self.reorder:
                arrival += self.rng.uniform(0.0, max(self.delay[1], 0.001))
            else:
                arrival = max(arrival, self._last_arrival[receiver.device])
                self._last_arrival[receiver.device] = arrival
            self._put(arrival, receiver, packet)

    def inject(self, receiver: MemoryLink, packet: bytes, delay: float = 0.0) -> None:
        """Let a packet out of nowhere arrive at ``receiver``: a complete IP packet, checksums included."""
        self._put(self.now + delay, receiver, packet)

    def _put(self, arrival: float, receiver: MemoryLink, packet: bytes) -> None:
        self._count += 1  # the tie-break keeps the order and the heap from comparing links
        heapq.heappush(self._on_the_way, (arrival, self._count, receiver, packet))

    def next_delivery(self) -> float | None:
        """When the next packet arrives; None = nothing is on the way."""
        return self._on_the_way[0][0] if self._on_the_way else None

    def advance(self, now: float) -> None:
        """Set the clock, and let everything arrive that is due.  Raises ``ValueError`` for a step back."""
        if now < self.now:
            raise ValueError(f"the clock stands at {self.now}, not before {now}")
        self.now = now
        while self._on_the_way and self._on_the_way[0][0] <= now:
            _, _, receiver, packet = heapq.heappop(self._on_the_way)
            receiver.arrived.append(packet)


class MemoryLink:
    """One end of a ``MemoryWire``: a ``Link`` without descriptors, header-less, that resolves everything."""

    def __init__(self, wire: MemoryWire, device: str, mtu: int) -> None:
        self.device = device
        self.mtu = mtu
        self.max_burst_bytes = _MAX_IP_BYTES
        self.moved_to = ""
        self.sources: tuple[IPAddress, ...] = ()
        """What ``source_for`` chooses from: the first of the family asked for."""
        self.followed: set[IPAddress] = set()
        self.suspected: list[IPAddress] = []
        self.matches: list[Match] = []
        """What ``rematch`` was called with.  Nothing is filtered here."""
        self.room: int | None = None
        """How many more bursts the send buffer takes; None = any number."""
        self.arrived: deque[bytes] = deque()
        """Complete IP packets that wait for ``receive``."""
        self._wire = wire
        self._events: list[LinkEvent] = []
        self._counters = LinkCounters()

    def fileno(self) -> int:
        """There is none: -1."""
        return -1

    def event_fileno(self) -> int:
        """There is none: -1."""
        return -1

    def receive(self, budget: int) -> list[Packet]:
        """See ``Link.receive``."""
        packets: list[Packet] = []
        while self.arrived and len(packets) < budget:
            packets.append(_merged(self.arrived) if self._wire.merge else _single(self.arrived.popleft()))
        self._counters.received_packets += len(packets)
        self._counters.received_bytes += sum(len(packet.data) for packet in packets)
        return packets

    def send(self, bursts: Sequence[Outgoing]) -> int:
        """See ``Link.send``."""
        counters = self._counters
        for done, burst in enumerate(bursts):
            total = len(burst.headers) + burst.payload_size
            segment = len(burst.headers) + min(burst.segment_size or burst.payload_size, burst.payload_size)
            if segment > self.mtu or total > _MAX_IP_BYTES:
                counters.too_big += 1
                continue
            if self.room is not None:
                if not self.room:
                    return done
                self.room -= 1
            packets = cut(burst)
            counters.sent_packets += 1
            counters.sent_segments += len(packets)
            counters.sent_bytes += total
            for packet in packets:
                self._wire.carry(self, packet)
        return len(bursts)

    def happen(self, event: LinkEvent) -> None:
        """Let ``events`` report ``event`` the next time."""
        self._events.append(event)

    def events(self) -> list[LinkEvent]:
        """See ``Link.events``."""
        found, self._events = self._events, []
        return found

    def rematch(self, match: Match) -> None:
        """See ``Link.rematch``: remembered only."""
        self.matches.append(match)

    def follow(self, remote: IPAddress) -> None:
        """See ``Link.follow``."""
        self.followed.add(remote)

    def forget(self, remote: IPAddress) -> None:
        """See ``Link.forget``."""
        self.followed.discard(remote)

    def suspect(self, remote: IPAddress) -> None:
        """See ``Link.suspect``."""
        self.suspected.append(remote)

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """See ``Link.source_for``."""
        return next((source for source in self.sources if source.version == remote.version), None)

    def tick(self, now: float) -> None:
        """Nothing to do."""

    def counters(self) -> LinkCounters:
        """See ``Link.counters``."""
        return dataclasses.replace(self._counters)

    def close(self) -> None:
        """Forget what has arrived."""
        self.arrived.clear()


def _single(packet: bytes) -> Packet:
    return Packet(memoryview(packet), 0, Checksum.VERIFY, b"")


def _merged(arrived: deque[bytes]) -> Packet:
    """Take the first packet and what continues it, as tcp_gro_receive would (net/ipv4/tcp_offload.c).

    Unlike the kernel's, only packets that arrived one right behind the other are merged.
    """
    first = arrived.popleft()
    head = _flow_part(first)
    if head is None:
        return _single(first)
    start, alike, sequence, flags = head
    size = len(first) - start
    pieces = [first[start:]]
    total = len(first)
    while arrived and size and not flags & _ENDS_MERGE and len(pieces[-1]) == size:
        following = _flow_part(arrived[0])
        length = len(arrived[0]) - start
        expected = sequence + total - start & 0xFFFFFFFF
        if following is None or following[:3] != (start, alike, expected):
            break
        if not 0 < length <= size or total + length > _MAX_IP_BYTES:
            break
        pieces.append(arrived.popleft()[start:])
        flags |= following[3]
        total += length
    if len(pieces) == 1:
        return _single(first)
    headers = bytearray(first[:start])
    tcp = ip_header_length(first)
    headers[tcp + 13] = flags
    if first[0] >> 4 == 4:
        struct.pack_into("!H", headers, 2, total)
        struct.pack_into("!H", headers, 10, 0)
        struct.pack_into("!H", headers, 10, checksum(bytes(headers[:tcp])))
    else:
        struct.pack_into("!H", headers, 4, total - tcp)
    return Packet(memoryview(b"".join((headers, *pieces))), size, Checksum.VALID, b"")


def _flow_part(packet: bytes) -> tuple[int, bytes, int, int] | None:
    """Where the payload starts, what must be alike in merged segments, the sequence number, and the flags.

    None for what is never merged: anything but TCP.  Alike must be all of the headers but lengths, IPv4
    identification, checksums, sequence number, PSH and FIN.
    """
    tcp = ip_header_length(packet)
    if packet[9 if packet[0] >> 4 == 4 else 6] != _TCP or len(packet) < tcp + 20:
        return None
    start = tcp + (packet[tcp + 12] >> 4) * 4
    (sequence,) = struct.unpack_from("!I", packet, tcp + 4)
    flags = packet[tcp + 13]
    alike = bytearray(packet[:start])
    for field in _IPV4_VARIES if packet[0] >> 4 == 4 else _IPV6_VARIES:
        alike[field] = bytes(len(alike[field]))
    alike[tcp + 4 : tcp + 8] = bytes(4)
    alike[tcp + 13] &= ~0x09
    alike[tcp + 16 : tcp + 18] = bytes(2)
    return start, bytes(alike), sequence, flags
