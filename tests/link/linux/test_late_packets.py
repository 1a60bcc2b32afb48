"""What of a late read of packets is kept: flows first, then what may be control."""

from __future__ import annotations

from rsock_nf.core.types import Checksum, Packet
from rsock_nf.link.linux.tap import _useful
from rsock_nf.link.waiting_time import SMALL, STRANGERS
from tests.core.conntrack import ACK, PSH
from tests.core.wire import make_tcp

SERVER = bytes([192, 0, 2, 1]), 10001
CLIENT, OTHER = bytes([198, 51, 100, 7]), bytes([198, 51, 100, 8])


def packet(source: bytes, size: int) -> Packet:
    return Packet(memoryview(make_tcp((source, 40_000), SERVER, 1, 1, ACK | PSH, bytes(size))), 0, Checksum.VALID, b"")


def strangers(count: int, size: int = 93) -> list[Packet]:
    return [packet(bytes([203, 0, 113, number]), size) for number in range(count)]


def from_client(received: Packet) -> bool:
    return bytes(received.data[12:16]) in (CLIENT, OTHER)


def test_many_strangers_do_not_push_out_the_one_client() -> None:
    """Before: of thirty garbage packets and one datagram of the client's, the datagram was dropped."""
    bulk = packet(CLIENT, 1200)
    kept = _useful([*strangers(30), bulk, *strangers(5, SMALL + 1)], from_client)
    assert [one for one in kept if from_client(one)] == [bulk]
    assert len(kept) == 1 + STRANGERS, "what is small may be an opening"


def test_a_few_strangers_are_no_flood() -> None:
    few = strangers(3)
    assert _useful([*[packet(CLIENT, 1200)] * 4, *few], from_client) == few


def test_between_flows_shares_are_as_they_were() -> None:
    heavy, light = [packet(CLIENT, 1200)] * 20, packet(OTHER, 1200)
    assert _useful([*heavy, light, *strangers(3, SMALL + 1)], from_client) == [light]


def test_a_probe_is_kept_whoever_is_the_cause() -> None:
    probe = packet(CLIENT, 40)
    assert _useful([*[packet(CLIENT, 1200)] * 20, probe], from_client) == [probe]
