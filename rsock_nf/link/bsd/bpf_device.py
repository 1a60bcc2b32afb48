"""The link on FreeBSD, NetBSD, OpenBSD and macOS: one /dev/bpf descriptor.

The way of a packet through this file:

1. ``bpf_descriptor`` opens a device that is free and sets it up.
2. In: one read(2) takes a whole buffer, and ``bpf_buffer`` cuts it into packets.  The kernel may have merged segments
   (LRO).  It does not say where, but each frame has its own length, so ``segment_size`` stays 0.
3. Out: there is no GSO.  ``segmentation`` cuts a burst into segments with their checksums, the link header comes from
   the next hops (Ethernet) or is the address family (DLT_NULL, DLT_LOOP), and each segment is one write(2).
4. Lost: when an interface is deleted, the device is lost, too, and does not become readable.  The routing socket
   tells, or a write, or ``tick``, which asks.  After ``LinkEvent.GONE`` the link's owner opens a new one.

It is no TCP: it changes nothing behind the IP header, and keeps no state of flows.
Source: bpf(4) of each system.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from rsock_nf.core.tcp.checksum import pseudo_header_sum
from rsock_nf.core.tcp.header import (
    IPV4_HEADER,
    TCP,
    TCP_CHECKSUM,
    destination,
    ip_header_length,
    ip_length,
    ip_version,
    protocol,
    source,
)
from rsock_nf.core.types import Buffer, Checksum, Outgoing, Packet
from rsock_nf.link.bsd.abi import Abi, load
from rsock_nf.link.bsd.bpf_buffer import BufferReader
from rsock_nf.link.bsd.bpf_descriptor import NO_LOCK, BpfDescriptor, KernelCalls, SystemCalls
from rsock_nf.link.ethernet import ethernet_answer
from rsock_nf.link.kernel_routes import NO_ROUTES
from rsock_nf.link.protocol import LinkCounters, LinkEvent, Match, Routes
from rsock_nf.link.segmentation import cut

__all__ = ["BpfLink", "KernelCalls", "NextHopSource", "SystemCalls", "checksum_state"]

_MAX_IP_BYTES: Final = 65_535
_DEFAULT_MTU: Final = 1500
_H: Final = struct.Struct("!H")


class NextHopSource(Routes, Protocol):
    """Where the link headers of an Ethernet device come from, and the news about it: ``next_hop.NextHops``."""

    @property
    def mtu(self) -> int:
        """Of the device, bytes."""

    @property
    def up(self) -> bool:
        """The device is up, as far as the routing socket told."""

    def look_again(self) -> None:
        """The next ``events`` asks the kernel for everything: a message may have been lost."""

    def header(self, remote: bytes) -> bytes | None:
        """The link header for a packed destination address; None = not resolved."""


class BpfLink:
    """``Link`` over /dev/bpf on ``ifname``, as the system named by ``abi`` has it.

    Without ``match`` nothing is received until ``rematch``.  Without ``next_hops`` the link can, on Ethernet, only
    answer (``Outgoing.reply_to``), and the MTU is taken as 1,500.  It owns ``next_hops``.
    ``receive_buffer``: bytes to ask for; the limit is the system's BPF_MAXBUFSIZE, and the kernel may give less.  After
    ``LinkEvent.GONE`` the link is of no more use: close it and open another one.  Raises ``LinkError``.
    """

    def __init__(
        self,
        ifname: str,
        match: Match | None = None,
        *,
        abi: str | Abi,
        syscalls: SystemCalls | None = None,
        next_hops: NextHopSource | None = None,
        receive_buffer: int = 32 << 20,
    ) -> None:
        self.device = ifname
        self._next_hops = next_hops
        self.max_burst_bytes = _MAX_IP_BYTES
        """Bursts are cut here and not in the core, so that a burst costs the core the same however many segments it
        has."""
        self._counters = LinkCounters()
        self._events: dict[LinkEvent, None] = {}
        self._refused = False
        """A write failed because the interface is down, and none has succeeded since."""
        self._told_up = True
        """What ``events`` said last: UP or DOWN."""
        table = abi if isinstance(abi, Abi) else load(abi)
        self._again, self._too_big, self._down = table["EAGAIN"], table["EMSGSIZE"], table["ENETDOWN"]
        self._full = (table["ENOBUFS"], table["ENOMEM"], table["EAGAIN"])
        self._gone = (table["ENXIO"], table["ENODEV"])
        self._reader = BufferReader(table)
        self._bpf = BpfDescriptor(ifname, match, table, syscalls or KernelCalls(), receive_buffer)
        self.warnings: tuple[str, ...] = ()
        if self._bpf.lacks_lock:
            self.warnings = (f"{ifname}: {NO_LOCK}",)
        self._read_mtu()

    def _read_mtu(self) -> None:
        """Set ``mtu`` to the interface's MTU, or to less where bpf writes no frames of that length."""
        self._device_mtu = self._next_hops.mtu if self._next_hops else _DEFAULT_MTU
        self.mtu = min(self._device_mtu, self._bpf.largest_frame - self._bpf.link_bytes)

    def rematch(self, match: Match) -> None:
        """See ``Link.rematch``.  A client's filter is locked where the system can: that raises ``LinkError``."""
        self._bpf.set_match(match)

    # -- in -------------------------------------------------------------------------------------------------------

    @property
    def sends(self) -> bool:
        """False where the system's bpf can only receive on an interface of this kind."""
        return self._bpf.sends

    def serve_first(self, known: Callable[[Packet], bool]) -> None:
        """See ``Link``: how long packets have waited is not known, and none is dropped."""

    def strangers_fileno(self) -> int:
        """See ``Link``: there is one queue."""
        return -1

    def receive_strangers(self, budget: int) -> list[Packet]:  # noqa: ARG002 - as ``Link`` has it
        """See ``Link``."""
        return []

    @property
    def waited(self) -> float:
        """See ``Link``.  It is not asked for here."""
        return 0.0

    def fileno(self) -> int:
        """The device: readable when packets wait."""
        return self._bpf.fileno()

    def receive(self, budget: int) -> list[Packet]:  # noqa: ARG002 - see below
        """All packets of one buffer, however many: packets left over would not make the device readable."""
        try:
            buffer = self._bpf.read()
        except OSError as error:
            if not (isinstance(error, BlockingIOError | InterruptedError) or error.errno == self._again):
                self._events[LinkEvent.GONE] = None  # ENXIO, ENETDOWN or EIO, by system
            return []
        if not buffer:  # idle: OpenBSD, or a read time-out
            return []
        found, truncated = self._reader.packets(buffer)
        start, mtu = self._bpf.link_bytes, self._device_mtu
        packets = []
        received = 0
        for frame in found:
            data = frame[start:]
            if len(data) < IPV4_HEADER:  # not what the filter lets through
                truncated += 1
                continue
            packets.append(Packet(data, 0, checksum_state(data, mtu), bytes(frame[:start])))
            received += len(data)
        counters = self._counters
        counters.truncated += truncated
        counters.received_packets += len(packets)
        counters.received_bytes += received
        return packets

    # -- out ------------------------------------------------------------------------------------------------------

    def send(self, bursts: Sequence[Outgoing]) -> int:
        """See ``Link.send``: every burst is sent or dropped.

        A write(2) to bpf never waits for room. A full queue is an error, and not every system can say when there is
        room again.
        """
        for burst in bursts:
            segment = burst.segment_size or burst.payload_size
            if len(burst.headers) + min(segment, burst.payload_size) > self.mtu:
                self._counters.too_big += 1
                continue
            link = self._link_header(burst.headers, burst.reply_to)
            if link is None:
                self._counters.unresolved += 1
            else:
                self._send(cut(burst), link)
        return len(bursts)

    def _link_header(self, headers: bytes, reply_to: bytes) -> bytes | None:
        """The link header toward the destination of ``headers``; None = not resolved yet."""
        constant = self._bpf.constant_header
        if constant is not None:
            return constant[ip_version(headers)]
        if reply_to:
            return ethernet_answer(reply_to)
        if self._next_hops is None:
            return None
        return self._next_hops.header(destination(headers))

    def _send(self, packets: Sequence[bytes], link: bytes) -> None:
        """Write complete packets.  The first that the kernel refuses ends the burst: it would refuse the others,
        too."""
        counters = self._counters
        for packet in packets:
            try:
                self._bpf.write(link + packet)
            except OSError as error:
                self._note_refusal(error)
                return
            counters.sent_segments += 1
            counters.sent_bytes += len(packet)
        counters.sent_packets += 1
        if self._refused:
            self._refused = False
            if self._next_hops:
                self._next_hops.look_again()

    def _note_refusal(self, error: OSError) -> None:
        """Count what the kernel did not take, and find out whether the interface is down or gone."""
        if isinstance(error, BlockingIOError) or error.errno in self._full:
            self._counters.send_full += 1
        elif error.errno == self._too_big:
            self._counters.too_big += 1
        else:
            self._counters.send_errors += 1
            if error.errno == self._down:
                self._refused = True  # still attached: works again when it is up
            elif error.errno in self._gone:
                self._events[LinkEvent.GONE] = None

    # -- what happens to the interface ----------------------------------------------------------------------------

    def write_fileno(self) -> int:
        """See ``Link``."""
        return self.fileno()

    def event_fileno(self) -> int:
        """Readable when the routing socket told something."""
        return self._next_hops.fileno() if self._next_hops else -1

    def events(self) -> list[LinkEvent]:
        """See ``Link.events``; also what sends and receives met with."""
        news = dict.fromkeys(self._next_hops.events()) if self._next_hops else {}
        if self._next_hops:
            self._read_mtu()
        self._tell_up_or_down(news)
        found = list(self._events | news)
        self._events.clear()
        return found

    def _tell_up_or_down(self, news: dict[LinkEvent, None]) -> None:
        """Make one UP or DOWN of what the routing socket told and of what writes met with: both see the same change,
        in either order."""
        if LinkEvent.UP in news:
            self._refused = False
        for told in (LinkEvent.UP, LinkEvent.DOWN):
            news.pop(told, None)
        up = self.up
        if up != self._told_up:
            self._told_up = up
            news[LinkEvent.UP if up else LinkEvent.DOWN] = None

    @property
    def up(self) -> bool:
        """See ``Link``."""
        return not self._refused and (self._next_hops is None or self._next_hops.up)

    @property
    def routes(self) -> Routes:
        """See ``Link``."""
        return self._next_hops or NO_ROUTES

    def tick(self, now: float) -> None:
        """See ``Link.tick``."""
        if self._next_hops:
            self._next_hops.tick(now)
        self._bpf.read_statistics()
        if not self._bpf.is_attached():
            self._events[LinkEvent.GONE] = None

    def counters(self) -> LinkCounters:
        """See ``Link.counters``."""
        self._bpf.read_statistics()
        return dataclasses.replace(self._counters, receive_drops=self._bpf.dropped)

    def close(self) -> None:
        """See ``Link.close``."""
        if self._next_hops:
            self._next_hops.close()
        self._bpf.close()


def checksum_state(packet: Buffer, mtu: int) -> Checksum:
    """What is known of the TCP checksum of a captured IP packet (at least 20 bytes).

    bpf does not say, but there are two signs.  A packet above the MTU was merged (LRO) by a driver or NIC, which
    verified the segments and need not have corrected the field.  A field with only the sum of the pseudo-header was
    left for a NIC to fill in, but the packet never passed one: it comes from this host or, in a virtual machine, from
    the same machine.
    """
    header, total = ip_header_length(packet), ip_length(packet)
    if total > mtu:
        return Checksum.VALID
    checksum_at = header + TCP_CHECKSUM
    if protocol(packet) != TCP or len(packet) < checksum_at + 2 or total < header:
        return Checksum.VERIFY
    (field,) = _H.unpack_from(packet, checksum_at)
    ip = bytes(packet[:header])
    partial = pseudo_header_sum(source(ip), destination(ip), total - header) == field
    return Checksum.PARTIAL if partial else Checksum.VERIFY
