"""Receiving: one AF_PACKET socket that takes our packets from every device, in batches.

1. The filter is attached while the socket is bound to no protocol, so that no foreign packet is ever queued.  Then it
   is bound to ETH_P_ALL: a socket bound to ETH_P_IP would not see what an ingress rule drops.  It is bound to no
   device: the kernel's own TCP takes a packet for a local address from any device (RFC 1122 section 3.3.4.2, the weak
   host model), and so do we.  ``tap_filter`` sees to it that each packet is taken once.
2. One recvmmsg(2) for a batch.  Each message is a virtio_net_hdr, the link header and the IP packet, up to 64 KiB
   where GRO or the sender's GSO merged segments.  The header tells where to cut and what is known of the checksum.
3. The sockaddr of a message tells the device, and with it the kind of link header.  ``Packet.link_header`` carries the
   device's index in front, so that an answer leaves by the device that brought the question.
4. A server has two of them: SYNs have one of their own, so that a flood of them cannot fill the other.
5. What has waited too long in the buffer is dropped: see ``waiting_time``.  Small packets, among them every probe and
   its answer, are kept longer than bulk.

Sources: packet(7), net/packet/af_packet.c, include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from rsock_nf.core.tcp.header import IPV6_HEADER, TCP_HEADER, destination, ip_header_length, source
from rsock_nf.core.types import Checksum, Packet
from rsock_nf.link.bpf_filter import Syns
from rsock_nf.link.ethernet import ETHERNET_HEADER
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux.buffers import enlarge_receive
from rsock_nf.link.linux.mmsg import MSG_TRUNC, BatchReader
from rsock_nf.link.linux.sender import AF_PACKET, DEVICE_LOST, PACKET_VNET_HDR, SOL_PACKET, VNET
from rsock_nf.link.linux.socket_filter import attach_filter
from rsock_nf.link.linux.stamp import age_of_last_message
from rsock_nf.link.linux.tap_filter import tap_program
from rsock_nf.link.protocol import LinkCounters, LinkError, Match, PortSide
from rsock_nf.link.waiting_time import LATE, LATE_READS, LOST, STRANGERS, WaitingTime, may_be_control, not_the_cause

_ETH_P_ALL: Final = 0x0003  # linux/if_ether.h
_PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 6, 23  # linux/if_packet.h
_CHECKSUMS: Final = (Checksum.VERIFY, Checksum.PARTIAL, Checksum.VALID, Checksum.PARTIAL)
"""By the flags NEEDS_CSUM (1) and DATA_VALID (2)."""
_NAME: Final = struct.Struct("=HHiH")
"""struct sockaddr_ll as far as it is read: sll_family, sll_protocol, sll_ifindex, sll_hatype."""
_NAME_BYTES: Final = 20
_SOCKADDR_LL: Final = struct.Struct("=HHi12x")
"""The same for bind(2): without a device."""
_MAX_IP_BYTES: Final = 65_535
_BUFFERS: Final = 32
MANY_ADDRESSES: Final = 64
"""A filter names at most so many of a server's addresses."""
INDEX: Final = struct.Struct("=i")
"""In front of ``Packet.link_header``: the device's index."""


_libc = ctypes.CDLL(None, use_errno=True)


def new_drops(sock: socket.socket) -> int:
    """Packets that the kernel dropped since this was last asked: tp_drops of struct tpacket_stats (packet(7)).

    0 if the socket is closed.
    """
    try:
        return int(struct.unpack("=II", sock.getsockopt(SOL_PACKET, _PACKET_STATISTICS, 8))[1])
    except OSError:
        return 0


def bind_to_all(sock: socket.socket) -> None:
    """Receive from every device.  Python's bind() can only name one.  Raises ``OSError``."""
    everything = _SOCKADDR_LL.pack(AF_PACKET, socket.htons(_ETH_P_ALL), 0)
    if _libc.bind(sock.fileno(), everything, _SOCKADDR_LL.size):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _useful(packets: list[Packet], known: Callable[[Packet], bool]) -> list[Packet]:
    """Of a late read: what may be control, and what is from senders that are ``known`` and do not fill the queue.

    If most of it is of strangers, few of their packets: what is kept costs much more than what is dropped.
    """
    ours = [known(packet) for packet in packets]
    strangers = len(packets) - sum(ours)
    room = STRANGERS if 2 * strangers > len(packets) else strangers
    senders = [
        source(bytes(packet.data[:IPV6_HEADER])) if is_ours else None
        for packet, is_ours in zip(packets, ours, strict=True)
    ]
    amounts = [
        (sender, len(packet.data)) for sender, packet in zip(senders, packets, strict=True) if sender is not None
    ]
    others = not_the_cause(amounts, strangers=strangers)
    kept = []
    for sender, packet in zip(senders, packets, strict=True):
        if sender is not None:
            if sender in others or _may_be_control(packet):
                kept.append(packet)
        elif room and _may_be_control(packet):
            room -= 1
            kept.append(packet)
    return kept


def _everybody(_: Packet) -> bool:
    """As long as nobody says who is known."""
    return True


def _may_be_control(packet: Packet) -> bool:
    headers = ip_header_length(packet.data) + TCP_HEADER
    return may_be_control(max(len(packet.data) - headers, 0), packet.segment_size)


class Tap:
    """The socket.  ``receive_buffer``: bytes to ask for; the kernel doubles it, and counts a merged packet with about
    twice its size.

    Needs CAP_NET_RAW; with CAP_NET_ADMIN as well, the buffer may exceed net.core.rmem_max.  ``match``, ``only``,
    ``hidden`` and ``syns``: see ``tap_filter``.  Raises ``LinkError``.
    """

    def __init__(
        self,
        match: Match,
        counters: LinkCounters,
        *,
        only: int,
        hidden: Sequence[int],
        receive_buffer: int,
        syns: Syns = Syns.TAKEN,
    ) -> None:
        self.known: Callable[[Packet], bool] = _everybody
        """See ``Link.serve_first``."""
        self._counters = counters
        self._syns = syns
        self._layouts: dict[bytes, tuple[int, bytes]] = {}
        """By what of the sockaddr counts: where the IP packet begins, and the device's index, packed."""
        self._only_to: frozenset[bytes] | None = None
        """Our addresses, if the filter cannot name so many; None = the filter names them."""
        self._reader = BatchReader(_BUFFERS, VNET.size + ETHERNET_HEADER + _MAX_IP_BYTES, names=_NAME_BYTES)
        try:
            self._socket = socket.socket(AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise LinkError("no permission for a packet socket: run as root or grant CAP_NET_RAW") from None
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            with contextlib.suppress(OSError):  # since Linux 4.20; else the filter refuses our own packets
                self._socket.setsockopt(SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            enlarge_receive(self._socket, receive_buffer)
            self.rematch(match, only=only, hidden=hidden)
            bind_to_all(self._socket)
            self._waiting = WaitingTime(lambda: age_of_last_message(self._socket.fileno()))
        except OSError as error:
            self._socket.close()
            raise LinkError(f"cannot bind a packet socket: {error.strerror}") from None
        except BaseException:
            self._socket.close()
            raise

    def rematch(self, match: Match, *, only: int, hidden: Sequence[int]) -> None:
        """Replace the filter, atomically.  Raises ``LinkError`` when ``match`` does not fit into one."""
        self._only_to = None
        if match.side is PortSide.DESTINATION and len(match.addresses) > MANY_ADDRESSES:
            self._only_to = frozenset(address.packed for address in match.addresses)
            match = dataclasses.replace(match, addresses=())
        try:
            instructions = tap_program(match, only=only, hidden=hidden, syns=self._syns)
        except ValueError as error:
            raise LinkError(str(error)) from None
        try:
            attach_filter(self._socket, instructions)
        except OSError as error:
            raise LinkError(
                f"the kernel refuses the filter ({len(instructions)} instructions): {error.strerror}; "
                "net.core.optmem_max limits its size"
            ) from None

    def fileno(self) -> int:
        """Readable when packets wait."""
        return self._socket.fileno()

    @property
    def sifts(self) -> bool:
        """The filter cannot name all of our addresses: each packet is looked at here."""
        return self._only_to is not None

    def packet_of(self, view: memoryview, name: bytes) -> Packet | None:
        """A message of this socket that somebody else has read, with its struct sockaddr_ll.  None = it is for another
        host."""
        told = name[: _NAME.size]
        start, index = self._layouts.get(told) or self._layout(told)
        flags, _, _, segment_size, _, _ = VNET.unpack_from(view)
        if self._only_to is not None and destination(bytes(view[start : start + 40])) not in self._only_to:
            return None
        self._counters.received_packets += 1
        self._counters.received_bytes += len(view) - start
        return Packet(view[start:], segment_size, _CHECKSUMS[flags & 3], index + bytes(view[VNET.size : start]))

    @property
    def waited(self) -> float:
        """See ``Link``."""
        return self._waiting.waited

    def receive(self, budget: int) -> list[Packet]:
        """One batch: at most ``budget`` packets, and at most 32.  Late ones are dropped."""
        packets: list[Packet] = []
        for _ in range(LATE_READS):
            packets, waited = self._read(budget)
            if waited < LATE:
                break
            kept = _useful(packets, self.known) if waited < LOST else []
            self._counters.late += len(packets) - len(kept)
            packets = kept
            if packets:
                break
        return packets

    def _read(self, budget: int) -> tuple[list[Packet], float]:
        """Packets, and how long they have waited at least, in seconds."""
        reader = self._reader
        budget = min(budget, _BUFFERS, self._waiting.limit)
        try:
            count = reader.read(self._socket.fileno(), budget)
        except OSError as error:
            if error.errno not in DEVICE_LOST:
                raise
            return [], 0.0  # it is told once to a socket, of any device that goes down
        if not count:
            self._waiting.empty()
            return [], 0.0
        waited = self._waiting.read(full=count >= budget)
        truncated = reader.flags(count) if reader.any_flags(count) else None
        names = reader.names_raw(count)
        packets = []
        received = 0
        name, start, index = b"", 0, b""
        for at, (view, length) in enumerate(zip(reader.views, reader.lengths(count), strict=False)):
            if truncated and truncated[at] & MSG_TRUNC:
                self._counters.truncated += 1
                continue
            told = names[at * _NAME_BYTES : at * _NAME_BYTES + _NAME.size]
            if told != name:
                name = told
                start, index = self._layouts.get(told) or self._layout(told)
            flags, _, _, segment_size, _, _ = VNET.unpack_from(view)
            if self._only_to is not None and destination(bytes(view[start : start + 40])) not in self._only_to:
                continue  # for another host, which this one forwards to
            received += length - start
            packets.append(
                Packet(view[start:length], segment_size, _CHECKSUMS[flags & 3], index + view[VNET.size : start])
            )
        self._counters.received_packets += len(packets)
        self._counters.received_bytes += received
        return packets, waited

    def _layout(self, name: bytes) -> tuple[int, bytes]:
        _, _, ifindex, kind = _NAME.unpack(name)
        start = VNET.size + (0 if kind in arphrd.HEADERLESS else ETHERNET_HEADER)
        if len(self._layouts) > 256:
            self._layouts.clear()
        self._layouts[name] = found = (start, INDEX.pack(ifindex))
        return found

    def read_statistics(self) -> None:
        """Count what the kernel dropped since this was last done."""
        self._counters.receive_drops += new_drops(self._socket)

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()
