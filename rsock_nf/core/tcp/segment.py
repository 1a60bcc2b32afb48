"""IP and TCP headers of fake-TCP segments: parse what arrives, build what leaves.

The way of a packet through this file:

1. a SYN or SYN-ACK leaves through ``build_syn`` / ``build_syn_ack`` (the only segments of ours with options);
2. everything else of a flow leaves through its ``HeaderTemplate``, one ``build`` for each burst;
3. what arrives, merged by GRO or not, goes through ``parse_segment``, once for each received packet;
4. only of a SYN or SYN-ACK the options are read: ``parse_syn_options``.

Not here: which flow a segment belongs to, whether its sequence number is acceptable, and the frames in its payload.
TCP outside of RFC 9293 section 3.1 (urgent data, options after the TCP handshake) is ignored.
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
"""The MSS of a SYN without the option (RFC 9293 section 3.7.1)."""
MAX_WINDOW_SCALE: Final = 14
"""RFC 7323 section 2.3: a larger value counts as 14."""

HEADERS_V4: Final = struct.Struct("!xxHxxHxBxx4s4sHHIIBBHxxxx")
"""IPv4 without options + TCP: total length, fragment word, protocol, source, destination, source port,
destination port, seq, ack, data offset (upper 4 bits), flags, window."""
HEADERS_V6: Final = struct.Struct("!xxxxHBx16s16sHHIIBBHxxxx")
"""IPv6 + TCP: payload length, next header, source, destination, then as in ``HEADERS_V4``."""
_TCP: Final = struct.Struct("!HHIIBBHxxxx")
_IPV4: Final = struct.Struct("!BxHxxHxBxx4s4s")
_IPV6: Final = struct.Struct("!xxxxHBx16s16s")

_NOT_FIRST_OR_MORE: Final = 0x3FFF
"""MF and fragment offset in the IPv4 fragment word.  DF and the reserved bit may have any value."""
_BUILD_V4: Final = struct.Struct("!HHHIH12sIIHHHxx")
_BUILD_V6: Final = struct.Struct("!IHH36sIIHHHxx")
_V4_DSCP_0: Final = 0x4500
_V4_DF_TTL_TCP: Final = 0x4000_0000 | HOP_LIMIT << 8 | TCP
_V6_TCP_HOP_LIMIT: Final = TCP << 8 | HOP_LIMIT
_NO_OPTIONS: Final = 5 << 12
_EMPTY: Final = memoryview(b"")


class SynOptions(NamedTuple):
    """The options of a SYN or SYN-ACK that we use.  None or False = the option is absent."""

    mss: int | None
    window_scale: int | None
    sack_permitted: bool


class Segment(NamedTuple):
    """A received segment, or several merged by GRO: then ``seq`` is that of the first one.

    Of a UDP carrier: one datagram (``carried_segments``).
    """

    key: FlowKey
    """The flow as the receiver sees it: its local address is the destination."""
    seq: int
    ack: int
    flags: int
    """Control bits: ``FIN`` to ``ACK``, and bits that we never send."""
    window: int
    """The header field, not scaled."""
    payload: memoryview
    """Valid as long as the buffer of the packet."""
    options: memoryview
    """Raw TCP options, padding included; empty in nearly every segment."""


# -- received ---------------------------------------------------------------------------------------------------


def parse_segment(packet: Packet) -> Segment:
    """The TCP segment in ``packet``: IPv4 with any header length, or IPv6 without extension headers.

    Padding behind the IP length is cut off.  IPv4 fragments and jumbograms are refused.  If the packet says
    ``Checksum.VERIFY``, the IPv4 header checksum and the TCP checksum are verified.

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
    """Each datagram of a UDP carrier as a segment, for the slow path.

    A carrier has no sequence numbers and no window: both are 0 here.  An opening over UDP keeps its own numbers at
    0 too, so they match.
    """
    data, size = carried.data, carried.segment_size or len(carried.data)
    starts = range(0, len(data), size or 1)
    return [Segment(carried.key, 0, 0, PSH | ACK, 0, data[at : at + size], _EMPTY) for at in starts]


class IPHeader(NamedTuple):
    """The fields of an IP header.  ``start`` and ``end`` bound its payload; both count from the header's first byte."""

    source: bytes
    destination: bytes
    protocol: int
    start: int
    end: int


def parse_ip_header(packet: Packet) -> IPHeader:
    """The header of an unfragmented ``packet``: IPv4 with any header length, or IPv6 without extension headers.

    ``parse_segment`` comes here only for IPv4 options; ICMP always does.  The IPv4 header checksum is not verified
    here: the caller verifies it together with that of the payload.

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
    """Raise ``Malformed`` unless the TCP checksum and, with IPv4, the header checksum are right."""
    if len(src) == 4 and ones_sum(data[:tcp]) != ONES:
        raise Malformed("IPv4 header checksum")
    if fold(pseudo_header_sum(src, dst, total - tcp) + ones_sum(data[tcp:total])) != ONES:
        raise Malformed("TCP checksum")


def parse_syn_options(data: Buffer) -> SynOptions:
    """The options of a SYN or SYN-ACK (RFC 9293 section 3.2; window scale RFC 7323; SACK RFC 2018).

    As in Linux, unknown kinds and known kinds of a wrong length are skipped.  If an option is repeated, the last
    one counts.  A window scale above 14 counts as 14.

    Raises ``Malformed`` if the length of an option is below 2, or if the option ends beyond ``data``.
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

    GRO merges only packets with the same label (``ipv6_gro_receive``), and the SYN must carry the same label as the
    data.  So the label is computed from the key.  RFC 6437 section 3 asks for stateless labels that are spread
    uniformly; a CRC does that.
    """
    ports = key.local_port << 16 | key.remote_port
    return (zlib.crc32(key.local + key.remote + ports.to_bytes(4, "big")) & 0xFFFFF) or 1


class HeaderTemplate:
    """IP and TCP headers without options for one flow.  The constant parts are laid out and summed only once.

    IPv4: DF, DSCP 0, TTL 64.  The identification grows by one for each *segment*, as on a connected Linux socket
    even with DF (``ip_select_ident_segs``).  With DF its value means nothing to IP (RFC 6864 section 4.1), but TSO
    numbers the segments of a burst upward, and GRO merges either consecutive numbers or one constant.  We use no
    constant: it would be a fingerprint, and inside a burst it would not stay constant.

    IPv6: hop limit 64, traffic class 0, ``flow_label(key)``.
    """

    __slots__ = ("_addresses", "_ip_base", "_tcp_base", "_v4", "_v6_first", "identification")

    identification: int
    """The IPv4 identification of the next segment."""

    def __init__(self, key: FlowKey, identification: int = 0) -> None:
        """``identification``: the first value of the IPv4 counter; a random 16-bit number in production."""
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

        ``window`` is the 16-bit header field.  The IP length covers the whole burst.  The TCP checksum field holds
        the folded pseudo-header sum, *not* complemented, as ``Outgoing`` asks for.  Raises ``struct.error`` if the
        IP length of the burst exceeds 65,535 bytes, or a value its field: that is a bug of the caller.
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
    """The window that Linux offers in a SYN: as many whole segments as fit into 65,535 bytes.

    A SYN's window is never scaled (RFC 7323 section 2.2; ``tcp_select_initial_window``).  64,240 for an MSS of
    1,460.
    """
    return MAX_IP_LENGTH // mss * mss


def build_syn(key: FlowKey, seq: int, mss: int, window_scale: int | None, identification: int = 0) -> bytes:
    """IP and TCP headers with options of a SYN, as Linux sends it with ``net.ipv4.tcp_timestamps=0``.

    SACK is always offered, as Linux does.  The window is ``initial_window(mss)``.  ``identification`` is the IPv4
    one; on a connected socket the later segments of the flow continue from it.  Checksums as in
    ``HeaderTemplate.build``.
    """
    template = HeaderTemplate(key, identification)
    options = _syn_options(SynOptions(mss, window_scale, sack_permitted=True))
    return _with_options(template.build(seq, 0, SYN, initial_window(mss), len(options)), options)


def build_syn_ack(key: FlowKey, seq: int, ack: int, offer: SynOptions) -> bytes:
    """IP and TCP headers with options of a SYN-ACK.

    ``offer`` should hold only options that the SYN had (RFC 7323 section 1.3); with ``offer.mss`` None the MSS
    option is left out.  The IPv4 identification is 0, as in Linux's SYN-ACK: Linux has no socket for it yet.
    """
    options = _syn_options(offer)
    window = initial_window(offer.mss or DEFAULT_MSS)
    return _with_options(HeaderTemplate(key).build(seq, ack, SYN | ACK, window, len(options)), options)


def fitting(offer: SynOptions, size: int) -> SynOptions:
    """As much of ``offer`` as ``size`` bytes of options hold: first the MSS, then the window scale, then SACK."""
    room = size // 4  # each option takes four bytes, padding included
    mss = offer.mss if room else None
    scale = offer.window_scale if room > 1 else None
    sack = offer.sack_permitted and room > (scale is not None) + 1
    return SynOptions(mss, scale, sack)


def _syn_options(offer: SynOptions) -> bytes:
    """The options in the order and with the padding of Linux (``tcp_options_write`` in net/ipv4/tcp_output.c)."""
    parts = []
    if offer.mss is not None:
        parts.append(struct.pack("!BBH", 2, 4, offer.mss))
    if offer.sack_permitted:
        parts.append(b"\x01\x01\x04\x02")
    if offer.window_scale is not None:
        parts.append(bytes((1, 3, 3, offer.window_scale)))
    return b"".join(parts)


def _with_options(header: bytes, options: bytes) -> bytes:
    """``header`` followed by ``options``.  ``header`` was built for a payload of the size of ``options``.

    The length of the options is a multiple of 4.  Only the data offset changes: no checksum covers it yet.
    """
    offset = len(header) - TCP_HEADER + 12
    words = TCP_HEADER + len(options) >> 2
    return b"".join((header[:offset], (words << 4).to_bytes(1, "big"), header[offset + 1 :], options))
