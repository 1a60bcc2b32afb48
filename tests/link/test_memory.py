"""The wire in memory: what it promises to the tests that stand on it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from rsock_nf.core.tcp.checksum import checksum, ones_sum, pseudo_header_sum
from rsock_nf.core.types import Checksum, Outgoing, PortRange
from rsock_nf.link import Link, LinkEvent, Match, PortSide
from rsock_nf.link.memory import MemoryLink, MemoryWire
from rsock_nf.link.segmentation import cut

ADDRESSES = {
    4: (ip_address("192.0.2.1").packed, ip_address("192.0.2.2").packed),
    6: (ip_address("2001:db8::1").packed, ip_address("2001:db8::2").packed),
}


def burst(
    payload: bytes, size: int, *, version: int = 4, seq: int = 0, flags: int = 0x18, port: int = 40000
) -> Outgoing:
    source, destination = ADDRESSES[version]
    length = 20 + len(payload)
    pseudo = pseudo_header_sum(source, destination, length)
    tcp = struct.pack("!HHIIBBHHH", port, 10001, seq, 1, 0x50, flags, 502, pseudo, 0)
    if version == 6:
        return Outgoing(
            struct.pack("!IHBB16s16s", 6 << 28, length, 6, 64, source, destination) + tcp, [payload], len(payload), size
        )
    ip = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0x4000, 64, 6, 0, source, destination))
    struct.pack_into("!H", ip, 10, checksum(bytes(ip)))
    return Outgoing(bytes(ip) + tcp, [payload], len(payload), size)


def payloads(link: MemoryLink, version: int = 4) -> list[bytes]:
    return [bytes(p.data[(20 if version == 4 else 40) + 20 :]) for p in link.receive(10_000)]


def test_ends_are_links() -> None:
    end: Link = MemoryWire(random.Random(0)).a
    assert end.fileno() == end.event_fileno() == -1


def test_segments_arrive_in_order_and_on_time() -> None:
    wire = MemoryWire(random.Random(1), delay=(0.010, 0.030))
    assert wire.next_delivery() is None
    assert wire.a.send([burst(bytes(range(250)), 100)]) == 1
    due = wire.next_delivery()
    assert due is not None
    assert 0.010 <= due <= 0.030
    wire.advance(due - 1e-9)
    assert payloads(wire.b) == []
    wire.advance(0.030)
    assert payloads(wire.b) == [bytes(range(100)), bytes(range(100, 200)), bytes(range(200, 250))]
    assert wire.a.receive(9) == []
    with pytest.raises(ValueError, match="clock"):
        wire.advance(0.01)


def run(seed: int) -> list[bytes]:
    wire = MemoryWire(random.Random(seed), loss=0.2, duplicate=0.1, reorder=0.2, delay=(0.01, 0.02))
    for n in range(200):
        wire.a.send([burst(bytes([n]) * 10, 5)])
        wire.advance(n * 0.001)
    wire.advance(1.0)
    return payloads(wire.b)


def test_a_seed_is_a_run() -> None:
    assert run(7) == run(7)
    assert run(7) != run(8)


@pytest.mark.parametrize(
    ("knob", "low", "high"), [("loss", 1500, 1700), ("duplicate", 2300, 2500), ("reorder", 2000, 2000)]
)
def test_impairments(knob: str, low: int, high: int) -> None:
    wire = MemoryWire(random.Random(3), delay=(0.01, 0.02))
    setattr(wire, knob, 0.2)
    for n in range(1000):
        wire.a.send([burst(struct.pack("!HH", 2 * n, 2 * n + 1), 2)])
    wire.advance(1.0)
    got = [struct.unpack("!H", p)[0] for p in payloads(wire.b)]
    assert low <= len(got) <= high
    assert (got == sorted(got)) == (knob != "reorder")


def test_limits_of_the_path_and_of_the_link() -> None:
    wire = MemoryWire(random.Random(0), mtu=1500)
    assert wire.a.send([burst(bytes(2000), 0), burst(bytes(3000), 1461), burst(bytes(2920), 1460)]) == 3
    assert wire.a.counters().too_big == 2
    wire.path_mtu = 1400
    wire.a.send([burst(bytes(1361), 0), burst(bytes(1360), 0)])
    wire.advance(0.0)
    assert [len(p) for p in payloads(wire.b)] == [1460, 1460, 1360]
    wire.b.room = 1
    assert wire.b.send([burst(b"x", 0)] * 3) == 1


def test_taps_drops_and_injection() -> None:
    wire = MemoryWire(random.Random(0))
    seen: list[tuple[str, bytes]] = []
    wire.taps.append(lambda sender, packet: seen.append((sender.device, packet)))
    wire.drop_if = lambda _, packet: packet[40:] == b"b"
    wire.a.send([burst(b"abc", 1)])
    wire.inject(wire.a, b"\x45 an ICMP message", delay=0.5)
    wire.advance(0.0)
    assert payloads(wire.b) == [b"a", b"c"]
    assert [(device, packet[40:]) for device, packet in seen] == [("a", b"a"), ("a", b"b"), ("a", b"c")]
    assert wire.next_delivery() == 0.5
    wire.advance(0.5)
    assert [bytes(p.data) for p in wire.a.receive(1)] == [b"\x45 an ICMP message"]


@pytest.mark.parametrize("version", [4, 6])
def test_merging_gives_back_the_burst(version: int) -> None:
    wire = MemoryWire(random.Random(0), merge=True)
    sent = burst(bytes(n & 0xFF for n in range(1050)), 100, version=version, seq=2**32 - 500)
    wire.a.send([sent])
    wire.advance(0.0)
    (packet,) = wire.b.receive(10)
    assert (packet.segment_size, packet.checksum) == (100, Checksum.VALID)
    ip = 20 if version == 4 else 40
    data = bytes(packet.data)
    assert data[ip + 20 :] == sent.payload[0]
    assert data[: ip + 16] == sent.headers[: ip + 16]
    if version == 4:
        assert ones_sum(data[:20]) == 0xFFFF


def single(payload: bytes, **fields: int) -> Outgoing:
    return burst(payload, 0, **fields)


@pytest.mark.parametrize(
    ("second", "merged"),
    [
        (lambda: single(b"5678", seq=4, flags=0x10), True),
        (lambda: single(b"5678", seq=4, flags=0x18), True),
        (lambda: single(b"567", seq=4, flags=0x10), True),
        (lambda: single(b"56789", seq=4, flags=0x10), False),
        (lambda: single(b"", seq=4, flags=0x10), False),
        (lambda: single(b"5678", seq=5, flags=0x10), False),
        (lambda: single(b"5678", seq=4, flags=0x10, port=40001), False),
        (lambda: single(b"5678", seq=4, flags=0x10, version=6), False),
    ],
    ids=["next", "psh", "shorter", "longer", "empty", "gap", "other-flow", "other-family"],
)
def test_what_is_merged(second: Callable[[], Outgoing], merged: bool) -> None:  # noqa: FBT001
    wire = MemoryWire(random.Random(0), merge=True)
    wire.a.send([single(b"1234", flags=0x10), second()])
    wire.advance(0.0)
    assert len(wire.b.receive(10)) == (1 if merged else 2)


def test_psh_ends_a_merge() -> None:
    wire = MemoryWire(random.Random(0), merge=True)
    wire.a.send([burst(b"abcdef", 2), burst(b"ghij", 2, seq=6)])
    wire.advance(0.0)
    assert [bytes(p.data[40:]) for p in wire.b.receive(10)] == [b"abcdef", b"ghij"]


def test_single_packets_are_as_cut() -> None:
    wire = MemoryWire(random.Random(0))
    sent = burst(bytes(100), 0)
    wire.a.send([sent])
    wire.advance(0.0)
    assert [(bytes(p.data), p.segment_size, p.checksum) for p in wire.b.receive(1)] == [
        (cut(sent)[0], 0, Checksum.VERIFY)
    ]


def test_the_rest_of_a_link() -> None:
    end = MemoryWire(random.Random(0)).a
    address, match = ip_address("192.0.2.2"), Match(PortSide.SOURCE, (ip_address("192.0.2.2"),), (PortRange(1, 2),))
    end.follow(address)
    end.suspect(address)
    end.rematch(match)
    assert (end.followed, end.suspected, end.matches) == ({address}, [address], [match])
    end.forget(address)
    assert not end.followed
    assert end.source_for(address) is None
    end.sources = (ip_address("2001:db8::1"), ip_address("192.0.2.1"))
    assert end.source_for(address) == ip_address("192.0.2.1")
    end.happen(LinkEvent.MTU)
    assert end.events() == [LinkEvent.MTU]
    assert end.events() == []
