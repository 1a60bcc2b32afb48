"""Slow items come one by one, and what opened a flow can be given to the pump again, once."""

from __future__ import annotations

import random

from rsock_nf.core.ends.intake import Intake
from rsock_nf.core.flows.context import Context
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.pump.pump import ANY_NUMBER, Pump
from rsock_nf.core.types import Carried, Checksum, FlowKey, Packet
from tests.core.conntrack import ACK
from tests.core.wire import make_tcp

KEY = FlowKey(b"\x0a\0\0\x01", 40_000, b"\xc0\0\x02\x02", 10_001)


def intake() -> Intake:
    context = Context(ClientParameters(), random.Random(1).randbytes, 1500)
    return Intake(context, Pump(seed=1, max_burst_bytes=0))


def packet(seq: int) -> Packet:
    data = make_tcp((KEY.remote, KEY.remote_port), (KEY.local, KEY.local_port), seq, 0, ACK, b"payload")
    return Packet(memoryview(data), 0, Checksum.VALID, b"")


def test_items_come_in_the_order_in_which_they_arrived() -> None:
    received = intake()
    packets = [packet(1), packet(2), packet(3)]
    received.packets(packets, ANY_NUMBER)
    carried = Carried(KEY._replace(udp=True), memoryview(b"datagram"), 0)
    received.carried([carried], ANY_NUMBER)
    assert [received.next() for _ in range(5)] == [*packets, carried, None]


def test_what_is_given_again_is_next_and_only_once() -> None:
    received = intake()
    first, second = packet(1), packet(2)
    received.packets([first, second], ANY_NUMBER)
    assert received.next() is first
    assert received.again(first)
    assert received.next() is first, "the pump still does not know its flow"
    assert not received.again(first)
    assert received.next() is second
    assert received.again(second)
    assert received.next() is second
    assert received.next() is None
    assert received.again(second), "another read"
