"""Our headers against captures of Linux 6.18 (between namespaces, ``net.ipv4.tcp_timestamps=0``, checksum offload off).

``linux-handshake.pcap``: one connection over IPv4 and one over IPv6, SYN to last ACK.
``linux-too-big.pcap``: what a router says when a burst of 5,000 bytes meets a path MTU of 1,300, IPv4 and IPv6.
"""

from pathlib import Path

import pytest
from scapy.utils import RawPcapReader

from rsock_nf.core.tcp.icmp import TooBig, parse_too_big
from rsock_nf.core.tcp.segment import (
    ACK,
    SYN,
    HeaderTemplate,
    Segment,
    SynOptions,
    build_syn,
    build_syn_ack,
    parse_segment,
    parse_syn_options,
)
from rsock_nf.core.types import Checksum, FlowKey, Packet
from rsock_nf.link.segmentation import complete

HERE = Path(__file__).parent
LINK_HEADER = 14
LINUX_WINDOW_SCALE = 10  # of that host, with its tcp_rmem


def packets(name: str) -> list[bytes]:
    with RawPcapReader(str(HERE / name)) as reader:
        return [frame[LINK_HEADER:] for frame, _ in reader]


def parse(data: bytes) -> Segment:
    return parse_segment(Packet(memoryview(data), 0, Checksum.VERIFY, b""))


def identification(data: bytes) -> int:
    return int.from_bytes(data[4:6]) if data[0] >> 4 == 4 else 0


def without_flow_label(data: bytes) -> bytes:
    """Linux's IPv6 flow label is a keyed hash; no checksum covers it."""
    return data if data[0] >> 4 == 4 else data[:1] + bytes(3) + data[4:]


def rebuilt(captured: bytes) -> bytes:
    """The captured packet as we build it from what it says."""
    segment = parse(captured)
    key = segment.key.reversed()
    offer = parse_syn_options(segment.options)
    if segment.flags == SYN:
        assert offer.mss is not None
        headers = build_syn(key, segment.seq, offer.mss, offer.window_scale, identification(captured))
    elif segment.flags == SYN | ACK:
        headers = build_syn_ack(key, segment.seq, segment.ack, offer)
    else:
        headers = HeaderTemplate(key, identification(captured)).build(
            segment.seq, segment.ack, segment.flags, segment.window, len(segment.payload)
        )
    return complete(headers, segment.payload)


@pytest.mark.parametrize("number", range(20))
def test_packet_is_byte_for_byte_as_linux_sends_it(number: int) -> None:
    captured = packets("linux-handshake.pcap")[number]
    assert without_flow_label(rebuilt(captured)).hex() == without_flow_label(captured).hex()


def test_the_capture_holds_both_families_from_syn_to_fin() -> None:
    seen = [(data[0] >> 4, parse(data).flags) for data in packets("linux-handshake.pcap")]
    for version in (4, 6):
        flags = [flag for family, flag in seen if family == version]
        assert flags == [0x02, 0x12, 0x10, 0x18, 0x10, 0x18, 0x10, 0x11, 0x11, 0x10]


def test_linux_offers_what_we_offer() -> None:
    for number, mss in ((0, 1460), (10, 1440)):
        for offset in (0, 1):
            options = parse(packets("linux-handshake.pcap")[number + offset]).options
            assert parse_syn_options(options) == SynOptions(mss, LINUX_WINDOW_SCALE, sack_permitted=True)


def test_linux_counts_the_identification_as_the_template_does() -> None:
    client = [
        data for data in packets("linux-handshake.pcap") if data[0] == 0x45 and parse(data).key.local_port == 10001
    ]
    numbers = [identification(data) for data in client]
    assert numbers == list(range(numbers[0], numbers[0] + len(client)))


def test_linux_keeps_one_flow_label_for_each_direction() -> None:
    labels = {
        (parse(data).key, int.from_bytes(data[1:4]) & 0xFFFFF)
        for data in packets("linux-handshake.pcap")
        if data[0] >> 4 == 6
    }
    assert len(labels) == 2
    assert all(label for _, label in labels)


def test_too_big_as_a_linux_router_says_it() -> None:
    """The inner IPv4 packet claims 5,040 bytes, the whole burst: its length means nothing."""
    v4, v6 = packets("linux-too-big.pcap")
    assert int.from_bytes(v4[30:32]) == 5040
    assert parse_too_big(Packet(memoryview(v4), 0, Checksum.VERIFY, b"")) == TooBig(
        FlowKey(bytes([192, 0, 2, 1]), 53926, bytes([198, 51, 100, 2]), 10001), 1300, 1663748713
    )
    claim = parse_too_big(Packet(memoryview(v6), 0, Checksum.VERIFY, b""))
    assert (claim.mtu, claim.key.remote_port, claim.key.local.hex()) == (
        1300,
        10001,
        "20010db8000100000000000000000001",
    )
