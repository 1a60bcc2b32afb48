"""The load's judgement: what it counts as lost, flipped, doubled and misdelivered."""

from __future__ import annotations

import time

from tests.faults.amounts import Amount, Carried, carry
from tests.faults.field import AES, Variant
from tests.faults.load import Direction, datagram, out


def sent(direction: Direction, number: int, when: float, conversation: int = 1) -> bytes:
    direction.sent += 1
    direction.window(when).sent += 1
    return datagram(b"u", conversation, number, when, 200)


def test_every_kind_is_told_from_the_others() -> None:
    way, now = Direction(), time.monotonic()
    good = sent(way, 1, now)
    flipped = bytes([*good[:50], good[50] ^ 4, *good[51:]])
    assert way.take(good, b"u", 1) == 1
    way.take(good, b"u", 1)
    way.take(flipped, b"u", 1)
    way.take(sent(way, 2, now), b"u", 3)
    way.take(datagram(b"d", 1, 9, now, 200), b"u", 1)  # it came back to where it was sent from
    way.take(b"short", b"u", 1)
    assert (way.sent, way.arrived, way.doubled, way.corrupted, way.misdelivered) == (2, 1, 1, 3, 1)


def test_a_window_is_out_when_more_than_half_is_lost() -> None:
    way = Direction()
    for number in range(10):
        way.take(sent(way, number, 5.0), b"u", 1)  # all arrive
        late = sent(way, 100 + number, 5.2)
        if number < 4:
            way.take(late, b"u", 1)
        half = sent(way, 200 + number, 5.4)
        if number < 5:
            way.take(half, b"u", 1)
    assert round(out(way.between(0, 10)), 3) == 0.1
    assert out(way.between(5.3, 10)) == 0


def test_a_tunnel_harms_none_of_so_many_datagrams() -> None:
    """The short form of ``make load``.  A busy machine may lose some: what waits too long is dropped."""
    found = carry(Amount("short", 10_000, 1000, 40), Variant("tcp", AES))
    assert found.offences() == []
    assert found.sent == 10_000
    assert found.lost < 5_000


def test_a_table_of_amounts_tells_what_was_lost_and_harmed() -> None:
    up, down = Direction(sent=3, arrived=2, doubled=1), Direction(sent=2, arrived=2, misdelivered=4)
    up.delays += [(0.0, 0.001), (0.0, 0.002)]
    found = Carried(Amount("few", 5, 100, 2), Variant("udp"), (up, down), {"invalid": 3})
    assert (
        found.row() == "| **few**: 2 conversations, 100/s each way | udp none | 5 | 1 | 4 | 0 | 1 | 2.0 / 2.0 / 2.0 |"
    )
    assert found.offences() == ["3 invalid", "4 misdelivered, 0 corrupted, 1 twice"]
