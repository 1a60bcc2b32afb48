"""Segments: what is refused, what is cut, and the layouts that are promised."""

import struct

import pytest

from rsock_nf.core.tcp.checksum import ONES, checksum, ones_sum
from rsock_nf.core.tcp.segment import (
    ACK,
    HEADERS_V4,
    HEADERS_V6,
    PSH,
    SYN,
    HeaderTemplate,
    SynOptions,
    build_syn,
    build_syn_ack,
    flow_label,
    initial_window,
    parse_segment,
    parse_syn_options,
)
from rsock_nf.core.types import Checksum, FlowKey, Malformed, Packet
from rsock_nf.link.segmentation import complete

V4 = FlowKey(bytes([192, 0, 2, 1]), 40000, bytes([198, 51, 100, 7]), 10001)
V6 = FlowKey(bytes.fromhex("20010db8" + "00" * 11 + "01"), 40000, bytes.fromhex("20010db8" + "00" * 11 + "02"), 10001)
BOTH = pytest.mark.parametrize("key", [V4, V6], ids=["IPv4", "IPv6"])


def packet(data: bytes, state: Checksum = Checksum.VERIFY) -> Packet:
    return Packet(memoryview(data), 0, state, b"")


def one_segment(key: FlowKey, payload: bytes) -> bytes:
    """As it is on the wire, checksums and all."""
    return complete(HeaderTemplate(key).build(1, 2, ACK, 500, len(payload)), payload)


def with_options_v4(options: bytes) -> bytes:
    """The IPv4 segment with IP ``options`` put in, and the header checksum computed anew."""
    data = one_segment(V4, b"hello")
    header = bytearray(data[:20] + options)
    header[0] = 0x40 | len(header) // 4
    struct.pack_into("!H", header, 2, len(data) + len(options))
    struct.pack_into("!H", header, 10, 0)
    struct.pack_into("!H", header, 10, checksum(header))
    return bytes(header) + data[20:]


@BOTH
def test_link_padding_is_cut_off(key: FlowKey) -> None:
    data = one_segment(key, b"hello")
    assert bytes(parse_segment(packet(data + bytes(9))).payload) == b"hello"


@BOTH
def test_every_cut_is_malformed(key: FlowKey) -> None:
    data = one_segment(key, b"hello")
    for size in range(len(data)):
        with pytest.raises(Malformed):
            parse_segment(packet(data[:size], Checksum.VALID))


@BOTH
def test_every_flipped_bit_is_seen_by_the_checksum(key: FlowKey) -> None:
    """But those that no checksum covers: IPv6 traffic class, flow label, hop limit."""
    data = one_segment(key, b"hello")
    free = set() if key is V4 else {*range(4, 32), *range(56, 64)}
    for bit in set(range(len(data) * 8)) - free:
        broken = bytearray(data)
        broken[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(Malformed):
            parse_segment(packet(bytes(broken)))


@BOTH
@pytest.mark.parametrize("state", [Checksum.VALID, Checksum.PARTIAL])
def test_checksum_is_left_alone_when_told_so(key: FlowKey, state: Checksum) -> None:
    data = HeaderTemplate(key).build(1, 2, ACK, 500, 5) + b"hello"
    assert bytes(parse_segment(packet(data, state)).payload) == b"hello"
    with pytest.raises(Malformed, match="TCP checksum"):
        parse_segment(packet(data))


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x1FFF, 0x6000])
def test_fragments_are_refused(fragment: int) -> None:
    for data in (one_segment(V4, b"hello"), with_options_v4(bytes(4))):
        broken = bytearray(data)
        struct.pack_into("!H", broken, 6, fragment)
        with pytest.raises(Malformed, match="fragment"):
            parse_segment(packet(bytes(broken), Checksum.VALID))


def test_ipv4_options_are_stepped_over() -> None:
    data = with_options_v4(b"\x94\x04\x00\x00" * 10)  # router alert, IHL 15
    assert ones_sum(data[:60]) == ONES
    segment = parse_segment(packet(data))
    assert segment.key == V4.reversed()
    assert bytes(segment.payload) == b"hello"
    broken = bytearray(data)
    broken[59] ^= 1
    with pytest.raises(Malformed, match="IPv4 header checksum"):
        parse_segment(packet(bytes(broken)))


@pytest.mark.parametrize(
    ("key", "offset", "value", "why"),
    [
        (V4, 9, 17, "protocol 17"),
        (V6, 6, 0, "protocol 0"),  # hop-by-hop options
        (V4, 0, 0x44, "IP header of 16"),
        (V4, 0, 0x55, "IP version 5"),
        (V4, 32, 0x40, "lengths disagree"),
        (V4, 32, 0xF0, "lengths disagree"),
        (V6, 52, 0x40, "lengths disagree"),
        (V4, 3, 39, "lengths disagree"),
        (V4, 2, 0xFF, "lengths disagree"),
        (V6, 5, 19, "lengths disagree"),
        (V6, 5, 0, "lengths disagree"),  # a jumbogram would say 0
        (V6, 4, 0xFF, "lengths disagree"),
    ],
)
def test_fields_out_of_range(key: FlowKey, offset: int, value: int, why: str) -> None:
    data = bytearray(one_segment(key, b"hello"))
    data[offset] = value
    with pytest.raises(Malformed, match=why):
        parse_segment(packet(bytes(data), Checksum.VALID))


def test_header_structs_read_what_the_fast_path_needs() -> None:
    data = one_segment(V4, b"hello")
    expected = (V4.local, V4.remote, 40000, 10001, 1, 2, 0x50, ACK, 500)
    assert HEADERS_V4.unpack_from(data) == (45, 0x4000, 6, *expected)
    data = one_segment(V6, b"hello")
    assert HEADERS_V6.unpack_from(data) == (25, 6, V6.local, V6.remote, *expected[2:])


@BOTH
def test_syn_and_syn_ack_options(key: FlowKey) -> None:
    syn = parse_segment(packet(complete(build_syn(key, 7, 1400, 7), b"")))
    assert syn.flags == SYN
    assert bytes(syn.options).hex() == "0204057801010402" + "01030307"
    assert parse_syn_options(syn.options) == SynOptions(1400, 7, sack_permitted=True)
    offer = SynOptions(1400, None, sack_permitted=True)
    syn_ack = parse_segment(packet(complete(build_syn_ack(key, 9, 8, offer), b"")))
    assert syn_ack.flags == SYN | ACK
    assert bytes(syn_ack.options).hex() == "0204057801010402"
    assert parse_syn_options(syn_ack.options) == offer
    bare = parse_segment(packet(complete(build_syn_ack(key, 9, 8, SynOptions(None, None, False)), b"")))
    assert bytes(bare.options) == b""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", SynOptions(None, None, sack_permitted=False)),
        ("0000ffff", SynOptions(None, None, sack_permitted=False)),
        ("020405b4", SynOptions(1460, None, sack_permitted=False)),
        ("01030314", SynOptions(None, 14, sack_permitted=False)),
        ("0402080a0102030405060708", SynOptions(None, None, sack_permitted=True)),
        ("020405b40204057800", SynOptions(1400, None, sack_permitted=False)),
        ("020500000004020000", SynOptions(None, None, sack_permitted=True)),
    ],
)
def test_syn_options(options: str, expected: SynOptions) -> None:
    assert parse_syn_options(bytes.fromhex(options)) == expected


@pytest.mark.parametrize("options", ["02", "0200", "0201", "020405", "01010103", "0101030e01", "080a00", "fe"])
def test_option_lengths_that_lead_astray(options: str) -> None:
    with pytest.raises(Malformed):
        parse_syn_options(bytes.fromhex(options))


@pytest.mark.parametrize(("mss", "window"), [(1460, 64240), (1440, 64800), (536, 65392), (65495, 65495)])
def test_initial_window_is_whole_segments(mss: int, window: int) -> None:
    assert initial_window(mss) == window


def test_identification_counts_segments_and_wraps() -> None:
    template = HeaderTemplate(V4, 0xFFFE)
    seen = [int.from_bytes(template.build(0, 0, ACK, 1, 0, segments)[4:6]) for segments in (1, 44, 1)]
    assert seen == [0xFFFE, 0xFFFF, 43]
    assert template.identification == 44


def test_largest_burst_and_one_byte_more() -> None:
    assert len(HeaderTemplate(V4).build(0, 0, ACK | PSH, 1, 65535 - 40)) == 40
    assert len(HeaderTemplate(V6).build(0, 0, ACK | PSH, 1, 65535 - 20)) == 60
    with pytest.raises(struct.error):
        HeaderTemplate(V4).build(0, 0, ACK, 1, 65535 - 39)
    with pytest.raises(struct.error):
        HeaderTemplate(V6).build(0, 0, ACK, 1, 65535 - 19)


def test_mixed_families_are_a_bug() -> None:
    with pytest.raises(ValueError, match="4 and 16 bytes"):
        HeaderTemplate(FlowKey(V4.local, 1, V6.remote, 2))


def test_flow_label_is_constant_non_zero_and_its_own() -> None:
    labels = {flow_label(V6._replace(local_port=port)) for port in range(1, 2000)}
    assert flow_label(V6) == flow_label(V6)
    assert all(0 < label <= 0xFFFFF for label in labels)
    assert len(labels) > 1900
