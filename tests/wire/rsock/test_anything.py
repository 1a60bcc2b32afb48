"""Wire rsock under anything: damaged, repeated, swapped and misdirected packets, at both ends, in any order."""

from __future__ import annotations

import random

import pytest

from rsock_nf.core.parameters import Kinds
from rsock_nf.core.types import Carried, Checksum, Packet
from tests.core.outputs import outputs
from tests.core.pair import numbered
from tests.core.wire import Toward
from tests.wire.rsock.pair import RsockPair

ROUNDS = 1500


def damaged(rng: random.Random, packet: bytes) -> bytes:
    """One to three bytes changed anywhere, or an end cut off, or something appended."""
    changed = bytearray(packet)
    for _ in range(rng.randint(1, 3)):
        match rng.randrange(8):
            case 0:
                del changed[rng.randrange(len(changed) + 1) :]
            case 1:
                changed += rng.randbytes(rng.randint(1, 40))
            case _ if changed:
                changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


@pytest.fixture(params=range(4))
def recorded(request: pytest.FixtureRequest) -> tuple[random.Random, RsockPair, list[tuple[Toward, bytes]]]:
    """A pair that has carried something, and every packet of it."""
    seen: list[tuple[Toward, bytes]] = []
    pair = RsockPair(request.param, strict=False, late_syns=True, resets_allowed=True)
    pair.wire.drop.append(lambda toward, packet: bool(seen.append((toward, packet))))  # type: ignore[func-returns-value]
    pair.echo = True
    pair.up()
    for at in range(5):
        pair.say("app", *numbered(20, 300, b"%d" % at))
        pair.run(2.0)
    return random.Random(request.param), pair, seen


def test_no_packet_breaks_either_end(recorded: tuple[random.Random, RsockPair, list[tuple[Toward, bytes]]]) -> None:
    """What is delivered that nobody said is this wire's weakness, and not looked at here."""
    rng, pair, seen = recorded
    for _ in range(ROUNDS):
        toward, packet = rng.choice(seen)
        if rng.random() < 0.8:
            packet = damaged(rng, packet)
        node = pair.server if (toward is Toward.SERVER) is (rng.random() < 0.95) else pair.client
        size = rng.choice((0, 0, 31, 331, 2000))
        node.receive_packets(pair.now, [Packet(memoryview(packet), size, rng.choice(list(Checksum)), b"link")])
        outputs(node)
        pair.now += rng.choice((0.0, 0.001, 0.3))
        for end in (pair.client, pair.server):
            end.handle_timeout(pair.now)
    for end in (pair.client, pair.server):
        assert len(end.flows) < 100


@pytest.mark.parametrize("seed", range(3))
def test_no_datagram_on_a_udp_carrier_breaks_the_server(seed: int) -> None:
    rng = random.Random(seed)
    pair = RsockPair(seed, server={"kinds": Kinds.UDP})
    pair.echo = True
    recording = RsockPair(seed)
    frames: list[bytes] = []
    recording.wire.taps.append(lambda crossing: frames.append(crossing.tcp.payload))
    recording.up()
    recording.say("app", *numbered(20, 300))
    recording.run(10.0)
    frames = [payload for payload in frames if payload]
    key = recording.flows(recording.server)[0].key._replace(udp=True)
    for _ in range(ROUNDS):
        payload = damaged(rng, b"".join(rng.choices(frames, k=rng.randint(1, 3))))
        carried = Carried(key._replace(remote_port=rng.randint(1, 20)), memoryview(payload), rng.choice((0, 331)))
        pair.server.receive_carried(pair.now, [carried])
        outputs(pair.server)
        pair.now += 0.05
        pair.server.handle_timeout(pair.now)
    assert len(pair.server.flows) <= 20 * 2
