"""Round trips that an operator asks for: they are told, and change nothing."""

from __future__ import annotations

import pytest

from rsock_nf.core.events import PingAnswered
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.pings import MOST, Pings
from rsock_nf.core.parameters import Cipher, ClientParameters, Kinds
from tests.core.pair import Pair
from tests.core.wire import Conditions, Toward

LONG = 1000.0
"""A keepalive, seconds: no probe but those that are asked for."""


def answers(pair: Pair, at: Toward) -> list[PingAnswered]:
    return [event for _, end, event in pair.events if end is at and isinstance(event, PingAnswered)]


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_a_ping_on_each_flow_from_each_end(kinds: Kinds, cipher: Cipher) -> None:
    keepalive = {"keepalive": LONG}
    delay = Conditions(delay=0.04)
    with Pair(kinds=kinds, cipher=cipher, conditions=delay, client=keepalive, server=keepalive) as pair:
        pair.up()
        pair.run(5.0)
        for end, node in ((Toward.CLIENT, pair.client), (Toward.SERVER, pair.server)):
            before = [(flow.health.srtt, flow.health.next_number) for flow in pair.flows(node)]
            numbers = [node.ping(pair.now, flow) for flow in pair.flows(node)]
            pair.run(1.0)
            told = answers(pair, end)
            assert sorted(one.number for one in told) == sorted(numbers)
            assert len(set(numbers)) == 10
            assert all(one.took == pytest.approx(0.08) for one in told)
            assert [(flow.health.srtt, flow.health.next_number) for flow in pair.flows(node)] == before


def test_a_ping_that_is_lost_is_not_told_and_its_answer_is_told_once() -> None:
    with Pair() as pair:
        pair.up()
        pair.run(1.0)
        (flow, *_) = pair.flows(pair.client)
        pair.wire.conditions[Toward.SERVER] = Conditions(loss=1.0)
        pair.client.ping(pair.now, flow)
        pair.run(0.1)
        pair.wire.conditions[Toward.SERVER] = Conditions(duplicate=1.0)
        number = pair.client.ping(pair.now, flow)
        pair.run(1.0)
        assert [one.number for one in answers(pair, Toward.CLIENT)] == [number]


def test_a_flow_that_closes_is_not_asked() -> None:
    with Pair() as pair:
        pair.up()
        flows = pair.flows(pair.client)
        pair.client.role.stop(pair.now)
        assert {pair.client.ping(pair.now, flow) for flow in flows} == {0}


def test_of_too_many_that_wait_the_oldest_is_forgotten() -> None:
    context = Context(ClientParameters(), bytes, 1500)
    pings = Pings(context)
    numbers = [pings.next(float(at)) for at in range(MOST + 1)]
    assert pings.answered(9999.0, numbers[0])
    assert context.outbox.take() == []
    assert pings.answered(MOST + 2.5, numbers[-1])
    assert context.outbox.take() == [PingAnswered(numbers[-1], 2.5)]
    assert not pings.answered(1.0, 1)
    assert not pings.answered(1.0, 0x8000_0001)
