"""A wire between two cores on a virtual clock: every segment on its own through delay, loss, duplication and
reordering, past a judge in the middle, through a NAT if there is one, and merged again as GRO would.

Bursts are cut into segments at once (``rsock_nf.link.segmentation.cut``), as a NIC without TSO at the far end shows
them.  The way of a packet: sender → first half → rewriting (MSS, window scale) → judge → NAT → second half → receiver.
Half of all loss, duplication and reordering happens before the judge, half behind it.  The datagrams of UDP carriers
take the same way, as IP packets, but for the judge, who looks at TCP only.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from rsock_nf.core.types import Carried, Checksum, FlowKey, Outgoing, Packet
from rsock_nf.link.segmentation import cut
from tests.core.conntrack import ACK, FIN, PSH, RST, SYN, Tcp, Tracker, parse_tcp


class Toward(enum.Enum):
    """Which end a packet travels to."""

    SERVER = "server"
    CLIENT = "client"

    __hash__ = object.__hash__  # that of Enum runs in Python: 4 of 180 seconds of the tests in here


class Merge(enum.Enum):
    """What the receiver's link does with segments that arrive together."""

    NONE = "none"
    SIZED = "sized"
    """GRO, and the link tells where the cuts were."""
    UNSIZED = "unsized"
    """GRO (or LRO), and nothing tells."""


@dataclass
class Conditions:
    """Of one direction; shares are 0 to 1, times seconds."""

    delay: float = 0.01
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """This share of packets is held back by up to ``reorder_delay``."""
    reorder_delay: float = 0.03
    mtu: int = 65535
    """What is larger vanishes: a path MTU black hole."""
    rate: float = math.inf
    """Bytes a second, through one queue in front of everything else."""
    queue: int = 1_000_000
    """Bytes that the queue takes; what is more is lost."""
    merge: Merge = Merge.NONE


TCP, UDP = 6, 17
Predicate = Callable[[Toward, bytes], bool]


@dataclass
class Crossing:
    """One packet that reached the judge."""

    now: float
    toward: Toward
    tcp: Tcp
    verdict: str
    injected: bool


@dataclass
class Wire:
    """See the module."""

    rng: random.Random
    conditions: dict[Toward, Conditions] = field(default_factory=lambda: {toward: Conditions() for toward in Toward})
    clamp_mss: int = 0
    strip_scale: tuple[Toward, ...] = ()
    """From SYNs toward which end the window scale option is taken."""
    strict: bool = True
    """The judge drops what it finds INVALID."""
    nat: Nat | None = None
    drop: list[Predicate] = field(default_factory=list)
    """Asked for every packet as it leaves its sender; True = it is lost."""
    late: Callable[[bytes], float] | None = None
    """How many seconds longer a packet travels than the others."""
    sent: dict[Toward, int] = field(default_factory=lambda: dict.fromkeys(Toward, 0))
    sent_bytes: dict[Toward, int] = field(default_factory=lambda: dict.fromkeys(Toward, 0))
    taps: list[Callable[[Crossing], None]] = field(default_factory=list)
    """Called for every packet at the judge."""
    invalid: list[Crossing] = field(default_factory=list)
    resets: list[Crossing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tracker = Tracker()
        self._free = dict.fromkeys(Toward, 0.0)
        """When the queue in each direction will have sent what is in it."""
        self._queue: list[tuple[float, int, bool, Toward, bytes, bool]] = []
        self._order = itertools.count()

    def send(self, now: float, toward: Toward, burst: Outgoing) -> None:
        """A burst leaves an end, segment by segment."""
        for packet in cut_carried(burst) if burst.carrier else cut(burst):
            self.sent[toward] += 1
            self.sent_bytes[toward] += len(packet)
            verdicts = [predicate(toward, packet) for predicate in self.drop]  # every one counts what it sees
            if any(verdicts):
                continue
            if len(packet) <= self.conditions[toward].mtu:
                self._queued(now, toward, packet)

    def inject(self, now: float, toward: Toward, packet: bytes, *, behind_judge: bool = False) -> None:
        """Somebody else's packet, before or behind the judge."""
        heapq.heappush(self._queue, (now, next(self._order), behind_judge, toward, packet, True))

    def next_arrival(self) -> float | None:
        """When something happens on the wire; None = it is empty."""
        return self._queue[0][0] if self._queue else None

    def arrived(self, now: float) -> list[tuple[Toward, Packet | Carried]]:
        """What reaches the ends until ``now``, in order."""
        whole: list[tuple[Toward, bytes]] = []
        while self._queue and self._queue[0][0] <= now:
            when, _, judged, toward, packet, injected = heapq.heappop(self._queue)
            if judged:
                whole.append((toward, packet))
            elif (passed := self._middle(when, toward, packet, injected=injected)) is not None:
                self._leg(when, toward, passed, judged=True)
        return self._merged(whole)

    def _queued(self, now: float, toward: Toward, packet: bytes) -> None:
        state = self.conditions[toward]
        leaves = max(now, self._free[toward])
        if state.rate < math.inf:
            if (leaves - now) * state.rate > state.queue:
                return
            leaves += len(packet) / state.rate
        self._free[toward] = leaves
        self._leg(leaves, toward, packet, judged=False)

    def _leg(self, now: float, toward: Toward, packet: bytes, *, judged: bool) -> None:
        """Half of the way."""
        state = self.conditions[toward]
        copies = 1
        if state.loss and self.rng.random() < 1 - (1 - state.loss) ** 0.5:
            return
        if state.duplicate and self.rng.random() < state.duplicate / 2:
            copies = 2
        for _ in range(copies):
            held = self.rng.random() * state.reorder_delay if self.rng.random() < state.reorder / 2 else 0.0
            held += self.late(packet) / 2 if self.late else 0.0
            entry = (now + state.delay / 2 + held, next(self._order), judged, toward, packet, False)
            heapq.heappush(self._queue, entry)

    def _middle(self, now: float, toward: Toward, packet: bytes, *, injected: bool) -> bytes | None:
        if is_udp(packet) and self.nat:
            return self.nat.inward(packet) if toward is Toward.CLIENT else self.nat.outward(packet)
        if packet[9 if packet[0] >> 4 == 4 else 6] != TCP:
            return packet  # ICMP: RELATED, not this judge's business
        if self.clamp_mss or self.strip_scale:
            packet = rewrite_syn(packet, mss=self.clamp_mss, strip_scale=toward in self.strip_scale)
        if self.nat and toward is Toward.CLIENT:
            translated = self.nat.inward(packet)
            if translated is None:
                return None
            packet = translated
        tcp = parse_tcp(packet)
        crossing = Crossing(now, toward, tcp, self.tracker.judge(now, tcp), injected)
        for tap in self.taps:
            tap(crossing)
        if tcp.flags & RST and not injected:
            self.resets.append(crossing)
        if crossing.verdict:
            if not injected:
                self.invalid.append(crossing)
            if self.strict:
                return None
        return self.nat.outward(packet) if self.nat and toward is Toward.SERVER else packet

    def _merged(self, arrivals: list[tuple[Toward, bytes]]) -> list[tuple[Toward, Packet | Carried]]:
        out: list[tuple[Toward, Packet | Carried]] = []
        run: list[bytes] = []
        for index, (toward, packet) in enumerate(arrivals):
            if is_udp(packet):
                self._add_carried(out, toward, packet)
                continue
            if self.conditions[toward].merge is Merge.NONE:
                out.append((toward, Packet(memoryview(packet), 0, Checksum.VERIFY, b"link")))
                continue
            run.append(packet)
            following = arrivals[index + 1] if index + 1 < len(arrivals) else None
            if following is None or following[0] is not toward or not _continues(run, following[1]):
                out.append((toward, _merge(run, sized=self.conditions[toward].merge is Merge.SIZED)))
                run = []
        return out

    def _add_carried(self, out: list[tuple[Toward, Packet | Carried]], toward: Toward, packet: bytes) -> None:
        """Behind what came before it, or merged with that as udp_gro_receive does (net/ipv4/udp_offload.c)."""
        source, destination, payload = endpoints(packet)
        key = FlowKey(*destination, *source, udp=True)
        last = out[-1][1] if out and out[-1][0] is toward else None
        if self.conditions[toward].merge is not Merge.NONE and isinstance(last, Carried) and last.key == key:
            size = last.segment_size or len(last.data)
            if len(last.data) % size == 0 and 0 < len(payload) <= size and len(last.data) + len(payload) < 65_000:
                out[-1] = toward, Carried(key, memoryview(bytes(last.data) + payload), size)
                return
        out.append((toward, Carried(key, memoryview(payload), 0)))


def _continues(run: list[bytes], packet: bytes) -> bool:
    """Whether GRO would add ``packet`` to ``run`` (tcp_gro_receive in net/ipv4/tcp_offload.c)."""
    if is_udp(packet):
        return False
    first, last, new = parse_tcp(run[0]), parse_tcp(run[-1]), parse_tcp(packet)
    size = len(first.payload)
    return (
        (new.source, new.destination, new.ack, new.window) == (last.source, last.destination, last.ack, last.window)
        and new.seq == last.end
        and last.flags == ACK
        and new.flags in (ACK, ACK | PSH)
        and len(last.payload) == size
        and 0 < len(new.payload) <= size
        and not new.options
        and sum(map(len, run)) + len(packet) < 65_000
    )


def _merge(run: list[bytes], *, sized: bool) -> Packet:
    if len(run) == 1:
        return Packet(memoryview(run[0]), 0, Checksum.VERIFY, b"link")
    first = parse_tcp(run[0])
    headers = bytearray(run[0][: len(run[0]) - len(first.payload)])
    payload = b"".join([parse_tcp(packet).payload for packet in run])
    total = len(headers) + len(payload)
    if headers[0] >> 4 == 4:
        struct.pack_into("!H", headers, 2, total)
        headers[20 + 13] |= PSH
    else:
        struct.pack_into("!H", headers, 4, total - 40)
        headers[40 + 13] |= PSH
    return Packet(memoryview(bytes(headers) + payload), len(first.payload) if sized else 0, Checksum.VALID, b"link")


def cut_carried(burst: Outgoing) -> list[bytes]:
    """The IP packets of a UDP carrier's burst."""
    key, payload = burst.carrier, b"".join(burst.payload)
    assert key is not None
    assert not burst.headers
    size = burst.segment_size or len(payload) or 1
    parts = [payload[at : at + size] for at in range(0, len(payload) or 1, size)]
    return [make_udp((key.local, key.local_port), (key.remote, key.remote_port), part) for part in parts]


def make_udp(source: tuple[bytes, int], destination: tuple[bytes, int], payload: bytes) -> bytes:
    """A datagram of anybody's, IPv4 or IPv6; no checksums, for nobody here looks at them."""
    udp = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0)
    if len(source[0]) == 4:
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 7, 0x4000, 60, UDP, 0, source[0], destination[0])
    else:
        ip = struct.pack("!IHBB16s16s", 6 << 28, 8 + len(payload), UDP, 60, source[0], destination[0])
    return ip + udp + payload


def endpoints(packet: bytes) -> tuple[tuple[bytes, int], tuple[bytes, int], bytes]:
    """(source, destination, UDP payload) of an IP packet with ports."""
    v4 = packet[0] >> 4 == 4
    start = 20 if v4 else 40
    source, destination = (packet[12:16], packet[16:20]) if v4 else (packet[8:24], packet[24:40])
    ports = struct.unpack_from("!HH", packet, start)
    return (source, ports[0]), (destination, ports[1]), packet[start + 8 :]


# -- what stands in the middle ---------------------------------------------------------------------------------------


def checksummed(packet: bytearray) -> bytes:
    """``packet`` with IP header and TCP checksums made anew; UDP has none here."""
    if is_udp(packet):
        return bytes(packet)
    v4 = packet[0] >> 4 == 4
    start = 20 if v4 else 40
    packet[start + 16 : start + 18] = b"\0\0"
    if v4:
        packet[10:12] = b"\0\0"
        packet[10:12] = _complement(bytes(packet[:20]))
    addresses = bytes(packet[12:20] if v4 else packet[8:40])
    pseudo = addresses + struct.pack("!II", len(packet) - start, 6)
    packet[start + 16 : start + 18] = _complement(pseudo + bytes(packet[start:]))
    return bytes(packet)


def is_udp(packet: bytes | bytearray) -> bool:
    return packet[9 if packet[0] >> 4 == 4 else 6] == UDP


def _complement(data: bytes) -> bytes:
    total = int.from_bytes(data + b"\0" * (len(data) & 1), "big") % 0xFFFF or 0xFFFF
    return (0xFFFF - total).to_bytes(2, "big")


def make_tcp(
    source: tuple[bytes, int],
    destination: tuple[bytes, int],
    seq: int,
    ack: int,
    flags: int,
    payload: bytes = b"",
    window: int = 65535,
) -> bytes:
    """A packet of anybody's, IPv4 or IPv6, with right checksums."""
    tcp = struct.pack("!HHIIBBHHH", source[1], destination[1], seq, ack, 5 << 4, flags, window, 0, 0)
    if len(source[0]) == 4:
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 7, 0x4000, 60, 6, 0, source[0], destination[0])
    else:
        ip = struct.pack("!IHBB16s16s", 6 << 28, 20 + len(payload), 6, 60, source[0], destination[0])
    return checksummed(bytearray(ip + tcp + payload))


def rewrite_syn(packet: bytes, *, mss: int, strip_scale: bool) -> bytes:
    """What ``tcp option maxseg size set`` and ``tcp option window reset`` do to SYN and SYN-ACK."""
    start = 20 if packet[0] >> 4 == 4 else 40
    if not packet[start + 13] & SYN:
        return packet
    changed = bytearray(packet)
    at, end = start + 20, start + (packet[start + 12] >> 4) * 4
    while at < end:
        kind = changed[at]
        if kind <= 1:
            at += 1
            continue
        size = changed[at + 1]
        if kind == 2 and mss:
            changed[at + 2 : at + 4] = min(mss, int.from_bytes(changed[at + 2 : at + 4], "big")).to_bytes(2, "big")
        if kind == 3 and strip_scale:
            changed[at : at + size] = b"\x01" * size
        at += size
    return checksummed(changed)


class Nat:
    """Masquerading: inside endpoints get ports of one public address.  ``rebind`` forgets them all."""

    def __init__(self, public: bytes, first_port: int = 50_000) -> None:
        self.public = public
        self._udp_public: bytes | None = None
        """Of UDP, if another."""
        self._next = first_port
        self._out: dict[tuple[bool, tuple[bytes, int], tuple[bytes, int]], int] = {}
        self._in: dict[tuple[bool, int, tuple[bytes, int]], tuple[bytes, int]] = {}

    def rebind(self, public: bytes | None = None) -> None:
        """The mappings are lost, and the public address changes if one is given."""
        self.public = public or self.public
        self._out.clear()
        self._in.clear()

    def rebind_udp(self, public: bytes | None = None) -> None:
        """The same for UDP alone; TCP keeps the old address."""
        self._udp_public = public or self.public
        self._out = {key: port for key, port in self._out.items() if not key[0]}
        self._in = {key: inside for key, inside in self._in.items() if not key[0]}

    def outward(self, packet: bytes) -> bytes:
        """Toward the server."""
        source, destination, _ = endpoints(packet)
        key = is_udp(packet), source, destination
        port = self._out.get(key)
        if port is None:
            self._next += 1
            port = self._out[key] = self._next
            self._in[is_udp(packet), port, destination] = source
        return _with_source(packet, self._public_of(packet), port)

    def _public_of(self, packet: bytes) -> bytes:
        return self._udp_public if is_udp(packet) and self._udp_public else self.public

    def inward(self, packet: bytes) -> bytes | None:
        """Toward the client; None = there is no mapping (any more)."""
        source, destination, _ = endpoints(packet)
        inside = self._in.get((is_udp(packet), destination[1], source))
        if inside is None or destination[0] != self._public_of(packet):
            return None
        return _with_destination(packet, *inside)


def _with_source(packet: bytes, address: bytes, port: int) -> bytes:
    changed = bytearray(packet)
    v4 = packet[0] >> 4 == 4
    start = 20 if v4 else 40
    changed[(12 if v4 else 8) : (16 if v4 else 24)] = address
    changed[start : start + 2] = port.to_bytes(2, "big")
    return checksummed(changed)


def _with_destination(packet: bytes, address: bytes, port: int) -> bytes:
    changed = bytearray(packet)
    v4 = packet[0] >> 4 == 4
    start = 20 if v4 else 40
    changed[(16 if v4 else 24) : (20 if v4 else 40)] = address
    changed[start + 2 : start + 4] = port.to_bytes(2, "big")
    return checksummed(changed)


__all__ = ["ACK", "FIN", "PSH", "RST", "SYN", "Conditions", "Crossing", "Merge", "Nat", "Toward", "Wire", "make_tcp"]
