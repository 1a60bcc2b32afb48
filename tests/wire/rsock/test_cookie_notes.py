"""What a server of wire rsock remembers of a SYN, in the cookie alone."""

import random

import pytest

from rsock_nf.core.ends import endpoint
from rsock_nf.core.ends.accepting import Accepting
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.pump.state import OUR_SCALE
from rsock_nf.core.tcp.cookie import PERIOD
from rsock_nf.core.tcp.segment import ACK, SYN, Segment, SynOptions
from rsock_nf.core.types import Checksum, FlowKey, Packet
from rsock_nf.wire.parameters import RsockParameters
from rsock_nf.wire.rsock.server import MSS_STEPS, NOTES, RsockServerWire
from tests.core.pair import TARGETS

START = 100 * PERIOD
HERE, THERE = bytes([198, 51, 100, 7]), bytes([192, 0, 2, 1])
EMPTY = memoryview(b"")
NOTHING = Packet(EMPTY, 0, Checksum.VALID, b"")


def server() -> tuple[RsockServerWire, endpoint.Endpoint[Accepting]]:
    wire = RsockServerWire(RsockParameters(b"key"), bytes(32))
    parameters = ServerParameters(targets=TARGETS[:1])
    return wire, endpoint.server(parameters, wire, random.Random(1).randbytes, mtu=1500, max_burst_bytes=0)


@pytest.mark.parametrize("scale", [None, 7])
@pytest.mark.parametrize("step", range(len(MSS_STEPS)))
def test_mss_and_scale_come_back_with_the_ack(step: int, scale: int | None) -> None:
    wire, end = server()
    key = FlowKey(HERE, 10001, THERE, 40000)
    syn = Segment(key, 7, 0, SYN, 0, EMPTY, EMPTY)
    isn = wire.initial_number(START, end.role, syn, SynOptions(MSS_STEPS[step], scale, sack_permitted=True))
    note = wire._cookie.isn(key, 7, START) ^ isn
    assert note == step << 1 | (scale is not None) < NOTES
    for later, kept in ((0.0, True), (PERIOD, True), (2 * PERIOD, False)):
        wire, end = server()
        wire.stranger(START + later, end.role, Segment(key, 8, isn + 1, ACK, 0, EMPTY, EMPTY), NOTHING)
        complete = wire._complete.get(key)
        assert (complete is not None) is kept
        if complete is not None:
            assert (complete.mss, complete.scale) == (MSS_STEPS[step], None if scale is None else OUR_SCALE)


@pytest.mark.parametrize("wrong", [NOTES, 1 << 31])
def test_another_number_brings_no_note(wrong: int) -> None:
    wire, end = server()
    key = FlowKey(HERE, 10001, THERE, 40000)
    isn = wire._cookie.isn(key, 7, START) ^ wrong
    wire.stranger(START, end.role, Segment(key, 8, isn + 1 & 0xFFFFFFFF, ACK, 0, EMPTY, EMPTY), NOTHING)
    assert wire._complete.get(key) is None
