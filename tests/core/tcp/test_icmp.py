"""Claims of "too big": what is believed, clamped and refused."""

import struct

import pytest

from rsock_nf.core.tcp.checksum import checksum, fold, ones_sum, pseudo_header_sum
from rsock_nf.core.tcp.icmp import TooBig, parse_too_big, plateau_below
from rsock_nf.core.tcp.segment import HeaderTemplate
from rsock_nf.core.types import Checksum, FlowKey, Malformed, Packet

V4 = FlowKey(bytes([192, 0, 2, 1]), 40000, bytes([198, 51, 100, 7]), 10001)
V6 = FlowKey(bytes.fromhex("20010db8" + "00" * 11 + "01"), 40000, bytes.fromhex("20010db8" + "00" * 11 + "02"), 10001)
ROUTER_V4 = bytes([203, 0, 113, 254])
ROUTER_V6 = bytes.fromhex("20010db8" + "00" * 11 + "fe")


def inner(key: FlowKey) -> bytes:
    """Headers of a burst of ours: its length is far above any MTU."""
    return HeaderTemplate(key).build(77, 0, 0x10, 1, 64000)


def message(key: FlowKey, kind: int, code: int, word: int, returned: bytes) -> bytes:
    """An ICMP or ICMPv6 message to ``key.local``, with its IP header and right checksums."""
    body = struct.pack("!BBHI", kind, code, 0, word) + returned
    if len(key.local) == 4:
        body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0xC0, 20 + len(body), 1, 0, 64, 1, 0, ROUTER_V4, key.local)
        return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + body
    pseudo = pseudo_header_sum(ROUTER_V6, key.local, len(body), 58)
    body = body[:2] + (0xFFFF - fold(pseudo + ones_sum(body))).to_bytes(2, "big") + body[4:]
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), 58, 64, ROUTER_V6, key.local) + body


def parse(data: bytes, state: Checksum = Checksum.VERIFY) -> TooBig:
    return parse_too_big(Packet(memoryview(data), 0, state, b""))


@pytest.mark.parametrize(
    ("word", "mtu"), [(1300, 1300), (576, 576), (575, 576), (68, 576), (1, 576), (0x1234_0514, 1300), (0, 0)]
)
def test_fragmentation_needed(word: int, mtu: int) -> None:
    """The word's upper half is unused; 0 is a router from before RFC 1191, which does not say."""
    assert parse(message(V4, 3, 4, word, inner(V4))) == TooBig(V4, mtu, 77)


@pytest.mark.parametrize(("mtu", "code"), [(1280, 0), (1400, 0), (1400, 9), (100_000, 0)])
def test_packet_too_big(mtu: int, code: int) -> None:
    """Any code (RFC 4443 section 3.2: ignored by the receiver)."""
    assert parse(message(V6, 2, code, mtu, inner(V6))) == TooBig(V6, mtu, 77)


@pytest.mark.parametrize("mtu", [0, 68, 1279])
def test_ipv6_below_its_minimum_is_refused(mtu: int) -> None:
    with pytest.raises(Malformed, match=f"MTU {mtu}"):
        parse(message(V6, 2, 0, mtu, inner(V6)))


@pytest.mark.parametrize(
    ("mtu", "plateau"),
    [(65536, 65535), (65535, 32000), (9000, 8166), (1500, 1492), (1492, 1006), (1006, 576), (576, 576), (1, 576)],
)
def test_plateaus(mtu: int, plateau: int) -> None:
    assert plateau_below(mtu) == plateau


@pytest.mark.parametrize(
    ("key", "kind", "code"), [(V4, 3, 3), (V4, 8, 0), (V4, 11, 0), (V4, 2, 0), (V6, 1, 0), (V6, 3, 4), (V6, 128, 0)]
)
def test_other_types_are_refused(key: FlowKey, kind: int, code: int) -> None:
    with pytest.raises(Malformed, match="not ICMP"):
        parse(message(key, kind, code, 1400, inner(key)))


@pytest.mark.parametrize(("key", "kind", "code", "header"), [(V4, 3, 4, 20), (V6, 2, 0, 40)])
def test_eight_bytes_of_tcp_are_enough_and_fewer_are_not(key: FlowKey, kind: int, code: int, header: int) -> None:
    returned = inner(key)
    assert parse(message(key, kind, code, 1400, returned[: header + 8])).inner_seq == 77
    for size in range(header + 8):
        with pytest.raises(Malformed):
            parse(message(key, kind, code, 1400, returned[:size]))


def changed(key: FlowKey, offset: int, value: int) -> bytes:
    data = bytearray(inner(key))
    data[offset] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("key", "returned"),
    [
        (V4, changed(V4, 9, 17)),  # UDP
        (V4, changed(V4, 7, 1)),  # a later fragment has no ports
        (V4, changed(V4, 0, 0x44)),
        (V4, inner(V6)),
        (V6, changed(V6, 6, 17)),
        (V6, inner(V4) + bytes(40)),
    ],
)
def test_returned_packet_must_be_the_start_of_tcp(key: FlowKey, returned: bytes) -> None:
    kind, code = (3, 4) if key is V4 else (2, 0)
    with pytest.raises(Malformed, match="something else"):
        parse(message(key, kind, code, 1400, returned))


def test_returned_ipv4_options_are_stepped_over() -> None:
    plain = inner(V4)
    returned = b"\x46" + plain[1:20] + b"\x94\x04\x00\x00" + plain[20:]
    assert parse(message(V4, 3, 4, 1400, returned)) == TooBig(V4, 1400, 77)


@pytest.mark.parametrize("key", [V4, V6], ids=["IPv4", "IPv6"])
def test_checksums_are_verified_where_nobody_else_did(key: FlowKey) -> None:
    kind, code, offset = (3, 4, 20) if key is V4 else (2, 0, 40)
    data = bytearray(message(key, kind, code, 1400, inner(key)))
    data[offset + 7] ^= 1
    with pytest.raises(Malformed, match="checksum"):
        parse(bytes(data))
    assert parse(bytes(data), Checksum.VALID).mtu == 1401


def test_padding_behind_the_packet_is_not_part_of_it() -> None:
    assert parse(message(V4, 3, 4, 1400, inner(V4)) + b"\xff" * 7).mtu == 1400
