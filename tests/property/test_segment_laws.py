"""What is built parses to what was asked for, and scapy reads every field of it the same."""

from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from rsock_nf.core.tcp.checksum import ones_sum, pseudo_header_sum
from rsock_nf.core.tcp.segment import (
    ACK,
    SYN,
    HeaderTemplate,
    Segment,
    SynOptions,
    build_syn,
    build_syn_ack,
    flow_label,
    initial_window,
    parse_segment,
    parse_syn_options,
)
from rsock_nf.core.types import Checksum, FlowKey, Packet
from rsock_nf.link.segmentation import complete

u8, u16, u32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))
keys = st.sampled_from([4, 16]).flatmap(
    lambda size: st.builds(
        FlowKey,
        local=st.binary(min_size=size, max_size=size),
        local_port=u16,
        remote=st.binary(min_size=size, max_size=size),
        remote_port=u16,
        udp=st.just(False),
    )
)
offers = st.builds(
    SynOptions,
    mss=st.none() | st.integers(1, 65535),
    window_scale=st.none() | st.integers(0, 14),
    sack_permitted=st.booleans(),
)


def parse(data: bytes, state: Checksum) -> Segment:
    return parse_segment(Packet(memoryview(data), 0, state, b""))


def dissect(key: FlowKey, wire: bytes) -> Any:
    """Scapy's reading of ``wire``; it must compute the same checksums and lengths by itself, too."""
    ip = (IP if len(key.local) == 4 else IPv6)(wire)
    assert ip_address(ip.src) == ip_address(key.local)
    assert ip_address(ip.dst) == ip_address(key.remote)
    if ip.version == 4:
        assert (ip.ihl, ip.tos, ip.len, ip.flags, ip.frag, ip.ttl, ip.proto) == (5, 0, len(wire), "DF", 0, 64, 6)
    else:
        assert (ip.tc, ip.fl, ip.plen, ip.nh, ip.hlim) == (0, flow_label(key), len(wire) - 40, 6, 64)
    tcp = ip[TCP]
    assert (tcp.sport, tcp.dport, tcp.reserved, tcp.urgptr) == (key.local_port, key.remote_port, 0, 0)
    again = ip.copy()
    del again[TCP].chksum
    if ip.version == 4:
        del again.chksum, again.len
    else:
        del again.plen
    assert bytes(again) == wire
    return tcp


@given(keys, u32, u32, u8, u16, st.binary(max_size=3000), u16)
def test_segment(key: FlowKey, seq: int, ack: int, flags: int, window: int, payload: bytes, start: int) -> None:
    headers = HeaderTemplate(key, start).build(seq, ack, flags, window, len(payload))
    expected = Segment(key.reversed(), seq, ack, flags, window, memoryview(payload), memoryview(b""))
    assert parse(headers + payload, Checksum.PARTIAL) == expected
    wire = complete(headers, payload)
    assert parse(wire, Checksum.VERIFY) == expected
    tcp = dissect(key, wire)
    assert (tcp.seq, tcp.ack, int(tcp.flags), tcp.window, tcp.dataofs) == (seq, ack, flags, window, 5)
    assert bytes(tcp.payload) == payload


@given(keys, st.integers(0, 65535 - 40), u16)
def test_sums_of_a_burst(key: FlowKey, size: int, start: int) -> None:
    """The IPv4 header sums to ones; the TCP field is what the kernel expects beside NEEDS_CSUM."""
    headers = HeaderTemplate(key, start).build(0, 0, ACK, 1, size, 44)
    tcp = len(headers) - 20
    assert tcp == 40 or ones_sum(headers[:20]) == 0xFFFF
    assert int.from_bytes(headers[tcp + 16 : tcp + 18]) == pseudo_header_sum(key.local, key.remote, size + 20)


@given(keys, u32, st.integers(1, 65535), st.none() | st.integers(0, 14), u16)
def test_syn(key: FlowKey, seq: int, mss: int, window_scale: int | None, start: int) -> None:
    wire = complete(build_syn(key, seq, mss, window_scale, start), b"")
    segment = parse(wire, Checksum.VERIFY)
    assert segment[:5] == (key.reversed(), seq, 0, SYN, initial_window(mss))
    assert parse_syn_options(segment.options) == SynOptions(mss, window_scale, sack_permitted=True)
    tcp = dissect(key, wire)
    assert (tcp.seq, tcp.flags, tcp.dataofs * 4) == (seq, "S", 20 + len(segment.options))
    scale = [] if window_scale is None else [("NOP", None), ("WScale", window_scale)]
    assert tcp.options == [("MSS", mss), ("NOP", None), ("NOP", None), ("SAckOK", b""), *scale]


@given(keys, u32, u32, offers)
def test_syn_ack(key: FlowKey, seq: int, ack: int, offer: SynOptions) -> None:
    wire = complete(build_syn_ack(key, seq, ack, offer), b"")
    segment = parse(wire, Checksum.VERIFY)
    assert segment[:4] == (key.reversed(), seq, ack, SYN | ACK)
    assert parse_syn_options(segment.options) == offer
    tcp = dissect(key, wire)
    named = dict(tcp.options)
    assert (named.get("MSS"), named.get("WScale"), "SAckOK" in named) == offer


@given(keys, st.binary(min_size=1, max_size=200), st.integers(1, 0xFFFF))
def test_a_wrong_sum_is_never_taken(key: FlowKey, payload: bytes, error: int) -> None:
    """Any change of the checksum field but to its other zero."""
    headers = HeaderTemplate(key).build(1, 1, ACK, 1, len(payload))
    wire = bytearray(complete(headers, payload))
    field = len(headers) - 4
    right = int.from_bytes(wire[field : field + 2])
    wrong = right ^ error
    wire[field : field + 2] = wrong.to_bytes(2, "big")
    try:
        parse(bytes(wire), Checksum.VERIFY)
    except ValueError:
        assert {right, wrong} != {0, 0xFFFF}
    else:
        assert {right, wrong} == {0, 0xFFFF}
