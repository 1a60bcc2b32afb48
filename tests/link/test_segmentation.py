"""Cut bursts, judged by scapy."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.tcp.checksum import checksum, pseudo_header_sum
from rsock_nf.core.tcp.header import ip_header_length
from rsock_nf.core.types import Outgoing
from rsock_nf.link.segmentation import cut

SRC4, DST4 = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 2))
SRC6, DST6 = bytes.fromhex("20010db8" + "00" * 11 + "01"), bytes.fromhex("20010db8" + "00" * 11 + "02")


def burst(version: int, payload: bytes, size: int, **fields: int) -> Outgoing:
    """``fields``: seq, flags, identification, words (of TCP options)."""
    options = bytes([1]) * 4 * fields.get("words", 0)
    src, dst = (SRC4, DST4) if version == 4 else (SRC6, DST6)
    length = 20 + len(options) + len(payload)
    pseudo = pseudo_header_sum(src, dst, length)
    offset = (5 + fields.get("words", 0)) << 4
    tcp = struct.pack(
        "!HHIIBBHHH", 40000, 10001, fields.get("seq", 1), 7, offset, fields.get("flags", 0x18), 502, pseudo, 0
    )
    if version == 4:
        ident = fields.get("identification", 1)
        ip = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, ident, 0x4000, 64, 6, 0, src, dst))
        struct.pack_into("!H", ip, 10, checksum(bytes(ip)))
    else:
        ip = bytearray(struct.pack("!IHBB16s16s", 6 << 28 | 0x12345, length, 6, 64, src, dst))
    return Outgoing(bytes(ip) + tcp + options, [payload], len(payload), size)


def dissect(packet: bytes) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    return (IP if packet[0] >> 4 == 4 else IPv6)(packet)


def with_scapys_checksums(packet: bytes) -> bytes:
    """The same packet, lengths and checksums filled in by scapy."""
    from scapy.layers.inet import TCP

    layers = dissect(packet)
    del layers[TCP].chksum
    if packet[0] >> 4 == 4:
        del layers.chksum, layers.len
    else:
        del layers.plen
    return bytes(layers)


@given(
    version=st.sampled_from((4, 6)),
    length=st.integers(0, 5000),
    size=st.integers(0, 2000).filter(lambda n: n == 0 or n > 50),
    seq=st.integers(0, 2**32 - 1) | st.integers(2**32 - 5000, 2**32 - 1),
    flags=st.integers(0, 255),
    identification=st.integers(0xFFF0, 0xFFFF) | st.just(0),
    words=st.integers(0, 10),
)
def test_cut(version: int, length: int, size: int, **fields: int) -> None:
    from scapy.layers.inet import IP, TCP

    payload = bytes(n * 7 & 0xFF for n in range(length))
    packets = cut(burst(version, payload, size, **fields))
    whole = not size or length <= size
    assert len(packets) == (1 if whole else -(-length // size))
    joined = b""
    for n, packet in enumerate(packets):
        assert packet == with_scapys_checksums(packet)
        layers = dissect(packet)
        tcp = layers[TCP]
        assert tcp.seq == (fields["seq"] + len(joined)) % 2**32
        if version == 4:
            assert layers[IP].id == (fields["identification"] + n) % 2**16
        expected = fields["flags"]
        if n != len(packets) - 1:
            expected &= ~0x09
        if n:
            expected &= ~0x80
        assert int(tcp.flags) & 0xFF == expected
        joined += bytes(tcp.payload)
    assert joined == payload


def test_the_last_segment_may_be_shorter() -> None:
    packets = cut(burst(4, bytes(2500), 1000))
    assert [len(p) - 40 for p in packets] == [1000, 1000, 500]
    assert [p[33] for p in packets] == [0x10, 0x10, 0x18]


@pytest.mark.parametrize("version", [4, 6])
def test_payload_in_pieces(version: int) -> None:
    whole = burst(version, bytes(range(256)) * 10, 512)
    pieces = whole._replace(payload=[whole.payload[0][:700], memoryview(whole.payload[0])[700:]])
    assert cut(pieces) == cut(whole)


def test_ip_header_length() -> None:
    assert [ip_header_length(h) for h in (b"\x45", b"\x4f", b"\x60")] == [20, 60, 40]
