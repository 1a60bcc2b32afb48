"""Seeded mutation of byte strings: the usual small damages, plus lengths and checksums that are right again."""

import random
from collections.abc import Callable, Sequence

from rsock_nf.core.tcp.checksum import checksum

INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0",
    b"\xff\xff",
    b"\x05\x00",
    b"\x3f\xff",
    b"\x45",
    b"\x4f",
    b"\x60",
)


def _flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _interesting(rng: random.Random, data: bytearray) -> None:
    value, at = rng.choice(INTERESTING), rng.randrange(len(data))
    data[at : at + len(value)] = value


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 8)]


def _insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.randint(1, 8))


def _repeat(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data += data[at : at + 64]


def _step(rng: random.Random, data: bytearray) -> None:
    """A 16-bit field off by a little, as lengths are."""
    at = rng.randrange(len(data))
    field = int.from_bytes(data[at : at + 2], "big") + rng.choice((-8, -4, -2, -1, 1, 2, 4, 8))
    data[at : at + 2] = (field & 0xFFFF).to_bytes(2, "big")


def _right_again(_rng: random.Random, data: bytearray) -> None:
    """The IPv4 header checksum computed anew, so that the damage gets past it (behind the byte of ``as_packet``)."""
    header = 1 + (data[1] & 0x0F) * 4 if len(data) > 1 else 0
    if 21 <= header <= len(data):
        data[11:13] = bytes(2)
        data[11:13] = checksum(bytes(data[1:header])).to_bytes(2, "big")


MUTATIONS: Sequence[Callable[[random.Random, bytearray], None]] = (
    *(_flip, _set, _interesting, _cut, _remove),
    *(_insert, _repeat, _step, _right_again),
)


def mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One of ``corpus`` with one to four mutations, sometimes with the tail of another one."""
    data = bytearray(rng.choice(corpus))
    if rng.random() < 0.1:
        other = rng.choice(corpus)
        data[rng.randint(0, len(data)) :] = other[rng.randint(0, len(other)) :]
    for _ in range(rng.randint(1, 4)):
        if not data:
            data += rng.randbytes(4)
        rng.choice(MUTATIONS)(rng, data)
    return bytes(data)
