"""IP and TCP headers of fake-TCP segments: parse what arrives, build what leaves.

The way of a packet through this file:

1. a SYN or SYN-ACK leaves through ``build_syn`` / ``build_syn_ack`` (the only segments of ours with options);
2. everything else of a flow leaves through its ``HeaderTemplate``, one ``build`` for each burst;
3. what arrives, merged by GRO or not, goes through ``parse_segment``, once for each received packet;
4. only for a SYN or SYN-ACK are the options looked at: ``parse_syn_options``.

Not here: which flow a segment belongs to, whether its sequence number is acceptable, and the frames in its
payload.  TCP outside of RFC 9293 section 3.1 (urgent data, options after the handshake) is ignored.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from rsock_nf.core.tcp.checksum import ONES, fold, ones_sum, pseudo_header_sum
from rsock_nf.core.tcp.header import IPV4_HEADER, IPV4_PLAIN, IPV6_HEADER, TCP, TCP_HEADER
from rsock_nf.core.types import Buffer, Carried, Checksum, FlowKey, Malformed, Packet

FIN: Final = 0x01  # control bits, RFC 9293 section 3.1
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

MAX_IP_LENGTH: Final = 65535
HOP_LIMIT: Final = 64
"""Linux's default for the IPv4 TTL and the IPv6 hop limit."""
DEFAULT_MSS: Final = 536
"""What a SYN without the option means (RFC 9293 section 3.7.1)."""
MAX_WINDOW_SCALE: Final = 14
"""RFC 7323 section 2.3: what is above counts as 14."""

HEADERS_V4: Final = struct.Struct("!xxHxxHxBxx4s4sHHIIBBHxxxx")
"""IPv4 without options + TCP: total length, fragment word, protocol, source, destination, source port,
destination port, seq, ack, data offset (upper 4 bits), flags, window."""
HEADERS_V6: Final = struct.Struct("!xxxxHBx16s16sHHIIBBHxxxx")
"""IPv6 + TCP: payload length, next header, source, destination, then as in ``HEADERS_V4``."""
_TCP: Final = struct.Struct("!HHIIBBHxxxx")
_IPV4: Final = struct.Struct("!BxHxxHxBxx4s4s")
_IPV6: Final = struct.Struct("!xxxxHBx16s16s")

_NOT_FIRST_OR_MORE: Final = 0x3FFF
"""MF and fragment offset in the IPv4 fragment word; DF and the reserved bit may be anything."""
_BUILD_V4: Final = struct.Struct("!HHHIH12sIIHHHxx")
_BUILD_V6: Final = struct.Struct("!IHH36sIIHHHxx")
_V4_DSCP_0: Final = 0x4500
_V4_DF_TTL_TCP: Final = 0x4000_0000 | HOP_LIMIT << 8 | TCP
_V6_TCP_HOP_LIMIT: Final = TCP << 8 | HOP_LIMIT
_NO_OPTIONS: Final = 5 << 12
_EMPTY: Final = memoryview(b"")


class SynOptions(NamedTuple):
    """The options of a SYN or SYN-ACK that mean something to us; None or False = not there."""

    mss: int | None
    window_scale: int | None
    sack_permitted: bool


class Segment(NamedTuple):
    """A received segment, or several merged by GRO (then with the first one's sequence number).

    Of a UDP carrier: one datagram (``carried_segments``).
    """

    key: FlowKey
    """As the receiver sees it: local is the destination."""
    seq: int
    ack: int
    flags: int
    """Control bits: ``FIN`` to ``ACK``, and those that we never send."""
    window: int
    """As it stands in the header: not scaled."""
    payload: memoryview
    """Lives as long as the packet's buffer."""
    options: memoryview
    """Raw TCP options, padding included; empty in nearly every segment."""


# -- received ---------------------------------------------------------------------------------------------------


def parse_segment(packet: Packet) -> Segment:
    """The TCP segment in ``packet``: IPv4 with any header length, or IPv6 without extension headers.

    Link padding behind the IP length is cut off.  IPv4 fragments and jumbograms are refused.  Where the packet
    says ``Checksum.VERIFY`` the IPv4 header checksum and the TCP checksum are verified.

    Raises ``Malformed``.  One unpack for either family; about 2 microseconds.
    """
    data = packet.data
    try:
        first = data[0]
        if first == IPV4_PLAIN:
            (total, fragment, protocol, src, dst, sport, dport, seq, ack, offset, flags, window) = (
                HEADERS_V4.unpack_from(data)
            )
            tcp = IPV4_HEADER
        elif first >> 4 == 6:
            (total, protocol, src, dst, sport, dport, seq, ack, offset, flags, window) = HEADERS_V6.unpack_from(data)
            total += IPV6_HEADER
            fragment = 0
            tcp = IPV6_HEADER
        else:
            ip = parse_ip_header(packet)
            src, dst, protocol, tcp, total = ip
            sport, dport, seq, ack, offset, flags, window = _TCP.unpack_from(data, tcp)
            fragment = 0
    except (struct.error, IndexError):
        raise Malformed("packet ends inside its headers") from None
    start = tcp + (offset >> 4 << 2)
    if protocol != TCP:
        raise Malformed(f"protocol {protocol}, not TCP")
    if fragment & _NOT_FIRST_OR_MORE:
        raise Malformed("IPv4 fragment")
    if not tcp + TCP_HEADER <= start <= total <= len(data):
        raise Malformed(f"lengths disagree: TCP at {tcp}, payload at {start}, end at {total}, {len(data)} received")
    if packet.checksum == Checksum.VERIFY:
        _verify(data, src, dst, tcp, total)
    return Segment(
        FlowKey(dst, dport, src, sport),
        seq,
        ack,
        flags,
        window,
        data[start:total],
        data[tcp + TCP_HEADER : start] if offset >= 0x60 else _EMPTY,
    )


def carried_segments(carried: Carried) -> list[Segment]:
    """Each datagram of a UDP carrier as a segment of a flow without numbers: what the slow path reads.

    A carrier has no sequence numbers and no window: both are 0 here, so is where a handshake on it stands, and they agree.
    """
    data, size = carried.data, carried.segment_size or len(carried.data)
    starts = range(0, len(data), size or 1)
    return [Segment(carried.key, 0, 0, PSH | ACK, 0, data[at : at + size], _EMPTY) for at in starts]


class IPHeader(NamedTuple):
    """What an IP header says; ``start`` and ``end`` bound its payload, counted from the header's first byte."""

    source: bytes
    destination: bytes
    protocol: int
    start: int
    end: int


def parse_ip_header(packet: Packet) -> IPHeader:
    """The IPv4 (any header length) or IPv6 (no extension headers) header of an unfragmented ``packet``.

    ``parse_segment`` takes this way only for IPv4 options; ICMP always does.  The IPv4 header checksum is not
    looked at here: who verifies the payload's verifies it too.

    Raises ``Malformed``.
    """
    data = packet.data
    try:
        version = data[0] >> 4
        if version == 6:
            length, protocol, source, destination = _IPV6.unpack_from(data)
            start, end = IPV6_HEADER, IPV6_HEADER + length
        elif version == 4:
            first, end, fragment, protocol, source, destination = _IPV4.unpack_from(data)
            start = (first & 0x0F) << 2
            if fragment & _NOT_FIRST_OR_MORE:
                raise Malformed("IPv4 fragment")
        else:
            raise Malformed(f"IP version {version}")
    except (struct.error, IndexError):
        raise Malformed("packet ends inside its IP header") from None
    if not (IPV4_HEADER if version == 4 else IPV6_HEADER) <= start <= end <= len(data):
        raise Malformed(f"IP header of {start} bytes, length {end}, {len(data)} received")
    return IPHeader(source, destination, protocol, start, end)


def _verify(data: memoryview, src: bytes, dst: bytes, tcp: int, total: int) -> None:
    """Raise ``Malformed`` unless the IPv4 header checksum (if there is one) and the TCP checksum are right."""
    if len(src) == 4 and ones_sum(data[:tcp]) != ONES:
        raise Malformed("IPv4 header checksum")
    if fold(pseudo_header_sum(src, dst, total - tcp) + ones_sum(data[tcp:total])) != ONES:
        raise Malformed("TCP checksum")


def parse_syn_options(data: Buffer) -> SynOptions:
    """The options of a SYN or SYN-ACK (RFC 9293 section 3.2; window scale RFC 7323; SACK RFC 2018).

    Unknown kinds, and known kinds of a wrong length, are skipped as Linux does; of repeated ones the last
    counts; a window scale above 14 is 14.

    Raises ``Malformed`` when an option's length is below 2 or leads beyond ``data``.
    """
    mss: int | None = None
    window_scale: int | None = None
    sack_permitted = False
    position, size = 0, len(data)
    while position < size:
        kind = data[position]
        if kind == 0:
            break
        if kind == 1:
            position += 1
            continue
        if position + 1 >= size:
            raise Malformed(f"TCP option {kind} without a length")
        length = data[position + 1]
        if length < 2 or position + length > size:
            raise Malformed(f"TCP option {kind} of length {length}")
        if kind == 2 and length == 4:
            mss = data[position + 2] << 8 | data[position + 3]
        elif kind == 3 and length == 3:
            window_scale = min(data[position + 2], MAX_WINDOW_SCALE)
        elif kind == 4 and length == 2:
            sack_permitted = True
        position += length
    return SynOptions(mss, window_scale, sack_permitted)


# -- sent -------------------------------------------------------------------------------------------------------


def flow_label(key: FlowKey) -> int:
    """A non-zero IPv6 flow label, 20 bits, always the same for one flow.

    GRO merges only what has one label (``ipv6_gro_receive``), and the SYN must carry the same as the data, so it
    comes from the key (RFC 6437 section 3 asks for stateless labels spread uniformly, which a CRC does).
    """
    ports = key.local_port << 16 | key.remote_port
    return (zlib.crc32(key.local + key.remote + ports.to_bytes(4, "big")) & 0xFFFFF) or 1


class HeaderTemplate:
    """IP and TCP headers without options for one flow: what does not change is laid out and summed once.

    IPv4: DF, DSCP 0, TTL 64.  The identification counts up by one for each *segment*, as a connected Linux socket
    does even with DF (``ip_select_ident_segs``): with DF its value means nothing to IP (RFC 6864 section 4.1), but
    TSO numbers the segments of a burst upward, GRO merges either a run of consecutive numbers or one constant, and
    a constant would be a fingerprint as well as no longer constant inside a burst.

    IPv6: hop limit 64, traffic class 0, ``flow_label(key)``.
    """

    __slots__ = ("_addresses", "_ip_base", "_tcp_base", "_v4", "_v6_first", "identification")

    identification: int
    """IPv4: of the next segment."""

    def __init__(self, key: FlowKey, identification: int = 0) -> None:
        """``identification``: where the IPv4 counter starts; a random 16-bit number in production."""
        if len(key.local) != len(key.remote) or len(key.local) not in (4, 16):
            raise ValueError(f"addresses of {len(key.local)} and {len(key.remote)} bytes in a flow key")
        self.identification = identification & 0xFFFF
        self._v4 = len(key.local) == 4
        self._addresses = b"".join(
            (key.local, key.remote, key.local_port.to_bytes(2, "big"), key.remote_port.to_bytes(2, "big"))
        )
        self._tcp_base = pseudo_header_sum(key.local, key.remote, 0)
        self._ip_base = fold(_V4_DSCP_0 + _V4_DF_TTL_TCP) + ones_sum(key.local + key.remote)
        self._v6_first = 6 << 28 | flow_label(key)

    def build(self, seq: int, ack: int, flags: int, window: int, payload_size: int, segments: int = 1) -> bytes:
        """Headers of a burst of ``payload_size`` bytes that will be cut into ``segments``: 40 or 60 bytes.

        ``window`` is the 16-bit header field.  The IP length covers the whole burst; the TCP checksum field holds
        the folded pseudo-header sum, *not* complemented, as ``Outgoing`` asks for.  Raises ``struct.error`` when
        the burst's IP length exceeds 65,535 bytes or a field its width: a bug of the caller's, not a condition.
        """
        length = payload_size + TCP_HEADER
        tcp_sum = (self._tcp_base + length - 1) % ONES + 1
        if self._v4:
            total = length + IPV4_HEADER
            identification = self.identification
            self.identification = identification + segments & 0xFFFF
            return _BUILD_V4.pack(
                _V4_DSCP_0,
                total,
                identification,
                _V4_DF_TTL_TCP,
                -(self._ip_base + total + identification) % ONES,
                self._addresses,
                seq,
                ack,
                _NO_OPTIONS | flags,
                window,
                tcp_sum,
            )
        return _BUILD_V6.pack(
            self._v6_first,
            length,
            _V6_TCP_HOP_LIMIT,
            self._addresses,
            seq,
            ack,
            _NO_OPTIONS | flags,
            window,
            tcp_sum,
        )


def initial_window(mss: int) -> int:
    """The window that Linux offers in a SYN: as many whole segments as fit into 65,535 bytes, which is never scaled
    (RFC 7323 section 2.2; ``tcp_select_initial_window``): 64,240 for an MSS of 1,460."""
    return MAX_IP_LENGTH // mss * mss


def build_syn(key: FlowKey, seq: int, mss: int, window_scale: int | None, identification: int = 0) -> bytes:
    """IP and TCP headers with options of a SYN, as Linux sends it with ``net.ipv4.tcp_timestamps=0``.

    SACK is always offered, as Linux does; the window is ``initial_window(mss)``.  ``identification`` is the IPv4
    one: on a connected socket the flow's later segments count on from it.  Checksums as in ``HeaderTemplate.build``.
    """
    template = HeaderTemplate(key, identification)
    options = _syn_options(SynOptions(mss, window_scale, sack_permitted=True))
    return _with_options(template.build(seq, 0, SYN, initial_window(mss), len(options)), options)


def build_syn_ack(key: FlowKey, seq: int, ack: int, offer: SynOptions) -> bytes:
    """The same of a SYN-ACK; ``offer`` should hold only what the SYN asked for (RFC 7323 section 1.3).

    ``offer.mss`` None leaves the option out.  The IPv4 identification is 0, as in Linux's, which has no socket yet.
    """
    options = _syn_options(offer)
    window = initial_window(offer.mss or DEFAULT_MSS)
    return _with_options(HeaderTemplate(key).build(seq, ack, SYN | ACK, window, len(options)), options)


def _syn_options(offer: SynOptions) -> bytes:
    """In Linux's order and padding (``tcp_options_write`` in net/ipv4/tcp_output.c)."""
    parts = []
    if offer.mss is not None:
        parts.append(struct.pack("!BBH", 2, 4, offer.mss))
    if offer.sack_permitted:
        parts.append(b"\x01\x01\x04\x02")
    if offer.window_scale is not None:
        parts.append(bytes((1, 3, 3, offer.window_scale)))
    return b"".join(parts)


def _with_options(header: bytes, options: bytes) -> bytes:
    """``header``, built for a payload of the size of ``options``, with ``options`` put behind it.

    Their length is a multiple of 4.  Only the data offset changes: no sum covers it yet.
    """
    offset = len(header) - TCP_HEADER + 12
    words = TCP_HEADER + len(options) >> 2
    return b"".join((header[:offset], (words << 4).to_bytes(1, "big"), header[offset + 1 :], options))
