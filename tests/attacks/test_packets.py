"""The packets of the attackers, judged by scapy: what a wrong checksum stops is no attack."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet as Judge

from tests.attacks.packets import SYN, UDP, Packet, ethernet, fragment, too_big, unreachable

ENDS = [("192.0.2.1", "198.51.100.2"), ("2001:db8::1", "2001:db8:7::2")]
MSS = bytes.fromhex("020405b4")
both_families = pytest.mark.parametrize(("source", "destination"), ENDS, ids=["IPv4", "IPv6"])


def judged(packet: bytes) -> Judge:
    """As scapy sees it; its checksums are what scapy would write."""
    form = IPv6 if packet[0] >> 4 == 6 else IP
    seen, again = form(packet), form(packet)
    for layer in (again, again.payload):
        for name in ("chksum", "cksum", "plen", "len"):
            if name in layer.fields:
                layer.delfieldval(name)
    assert bytes(again) == packet
    return seen


@both_families
def test_what_is_made_is_right_and_is_read_again(source: str, destination: str) -> None:
    segment = Packet((source, 5), (destination, 6), b"abc", seq=7, ack=8, flags=SYN, options=MSS)
    datagram = Packet((source, 5), (destination, 6), b"abcd", UDP)
    for packet in (segment, datagram):
        seen = judged(packet.octets())
        assert (seen.src, seen.dst, seen.sport, seen.dport) == (source, destination, 5, 6)
        found = Packet.read(ethernet("02:00:00:00:00:01", "02:00:00:00:00:02", packet.octets()))
        assert found
        assert found.octets() == packet.octets()
    assert judged(segment.octets()).payload.options[0] == ("MSS", 1460)


@both_families
def test_icmp_is_right_and_quotes_the_packet(source: str, destination: str) -> None:
    quoted = Packet((source, 5), (destination, 6), bytes(100), seq=7)
    messages = [
        too_big("2001:db8::9" if ":" in source else "192.0.2.9", quoted, 1280),
        *unreachable(destination, quoted),
    ]
    for message in messages:
        seen = judged(message)
        assert seen.dst == source
        assert quoted.octets()[-120:-112] == bytes(message)[-8:]
    assert 1280 in (getattr(judged(messages[0]).payload, name, 0) for name in ("mtu", "nexthopmtu"))


@both_families
def test_fragments_make_the_packet(source: str, destination: str) -> None:
    body = Packet((source, 5), (destination, 6), bytes(56)).transport()
    parts = [
        fragment(source, destination, 6, body[:24], more=True),
        fragment(source, destination, 6, body[24:], offset=24),
    ]
    first, last = (form(part) for form, part in zip([IPv6 if ":" in source else IP] * 2, parts, strict=True))
    if ":" in source:
        assert [(one.payload.offset, one.payload.m) for one in (first, last)] == [(0, 1), (3, 0)]
    else:
        assert [(one.frag, int(one.flags) & 1) for one in (first, last)] == [(0, 1), (3, 0)]
    assert parts[0][-24:] + parts[1][-(len(body) - 24) :] == body
