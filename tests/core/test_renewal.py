"""Flows are renewed, by age or by command, and no datagram is lost: make before break."""

from __future__ import annotations

from typing import Any

import pytest

from rsock_nf.core.events import FlowClosed, FlowOpened
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from rsock_nf.core.parameters import Kinds
from rsock_nf.core.types import PortRange
from tests.core.pair import Pair, numbered
from tests.core.wire import Conditions, Toward
from tests.wire.rsock.pair import RsockPair

AGE = 60.0
KINDS = list(Kinds)
ROUGH = Conditions(delay=0.05, reorder=0.3, reorder_delay=0.04)


def exchange(pair: Pair, count: int, rate: float) -> None:
    """Datagrams evenly, and back."""
    pair.echo = True
    for datagram in numbered(count, 500, b"%.4f " % pair.now):
        pair.say("app", datagram)
        pair.run(1 / rate)


def renewed(pair: Pair) -> list[tuple[bytes, int]]:
    """The source address and port of each flow so far, in order."""
    opened = [event for _, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowOpened)]
    return [(event.key.local, event.key.local_port) for event in opened]


def standing(pair: Pair) -> list[Established]:
    """The client's flows that have no successor."""
    return [flow for flow in pair.flows(pair.client) if not flow.retired]


@pytest.mark.parametrize("make", [Pair, RsockPair])
@pytest.mark.parametrize("kinds", KINDS)
def test_the_command_loses_nothing(kinds: Kinds, make: type[Pair]) -> None:
    """Every three seconds, six times, at 50 a second, over a path with jitter."""
    with make(kinds=kinds, conditions=ROUGH) as pair:
        pair.up()
        exchange(pair, 50, 50)
        flows = len(standing(pair))
        for _ in range(6):
            before = set(standing(pair))
            pair.client.role.renew(pair.now)
            pair.flush()
            exchange(pair, 150, 50)
            assert len(standing(pair)) == flows
            assert not before & set(standing(pair)), "each was replaced"
        pair.run(1.0)
        assert len(pair.at_target) == len(pair.at_app) == 50 + 6 * 150
        assert len(renewed(pair)) == len(set(renewed(pair))) == 7 * flows, "each from another port"
        assert len(pair.sockets) == 1, "the same conversation"
        pair.run(5.0)
        assert len(pair.flows(pair.server)) == flows


@pytest.mark.parametrize("make", [Pair, RsockPair])
@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
def test_a_full_path_loses_nothing_either(kinds: Kinds, make: type[Pair]) -> None:
    """Bursts in both directions: much is on its way when a flow closes."""
    with make(kinds=kinds, conditions=ROUGH, client={"flows": 4}) as pair:
        pair.up()
        exchange(pair, 50, 50)
        pair.run(1.0)
        before, back = len(pair.at_target), len(pair.at_app)
        peer = pair.server_peer()
        pair.echo = False
        for at in range(100):
            if at % 25 == 0:
                pair.client.role.renew(pair.now)
                pair.flush()
            pair.say("app", *numbered(60, 1200, b"up%d/" % at))
            pair.reply(peer, *numbered(60, 1200, b"down%d/" % at))
            pair.run(0.02)
        pair.run(1.0)
        assert len(pair.at_target) - before == 6000
        assert len(pair.at_app) - back == 6000
        assert len(renewed(pair)) >= 4 * 4


@pytest.mark.parametrize("make", [Pair, RsockPair])
@pytest.mark.parametrize("kinds", KINDS)
def test_old_flows_are_renewed_one_at_a_time(kinds: Kinds, make: type[Pair]) -> None:
    with make(kinds=kinds, client={"flow_age": AGE, "flows": 3}) as pair:
        pair.up()
        flows = len(standing(pair))
        for _ in range(4):
            for _ in range(60):
                exchange(pair, 25, 25)
                assert len(pair.client.flows.opening(*State)) <= 1
                assert len(standing(pair)) == flows
        pair.run(1.0)
        assert len(pair.at_target) == len(pair.at_app) == 4 * 60 * 25
        assert 3 * flows <= len(renewed(pair)) - flows <= 5 * flows, "four minutes, ± 20 %"
        assert len(set(renewed(pair))) == len(renewed(pair))
        closed = [when for when, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowClosed)]
        assert len(set(closed)) == len(closed), "not together"


def test_by_default_flows_stay() -> None:
    with Pair(client={"flows": 2, "idle_timeout": 0.0}) as pair:
        pair.up()
        pair.run(7200.0)
        assert pair.count(FlowClosed) == 0


def test_where_there_are_more_ports_than_flows_the_next_one_is_another() -> None:
    ports = (PortRange(10001, 10010),)
    with Pair(client={"flows": 3, "ports": ports}, server={"ports": ports}) as pair:
        pair.up()
        before = {flow.key.remote_port for flow in standing(pair)}
        pair.client.role.renew(pair.now)
        pair.flush()
        pair.run(2.0)
        assert not before & {flow.key.remote_port for flow in standing(pair)}


def test_a_port_that_is_not_served_gives_way_to_the_one_that_is() -> None:
    """The old flow carries meanwhile."""
    with Pair(client={"flows": 1, "ports": (PortRange(10001, 10002),)}, late_syns=True) as pair:
        pair.up()
        (old,) = standing(pair)
        silent = (10001 + 10002 - old.key.remote_port).to_bytes(2, "big")
        pair.wire.drop.append(lambda _, packet: silent in packet[20:24])
        pair.client.role.renew(pair.now)
        pair.flush()
        exchange(pair, 1000, 50)
        pair.run(1.0)
        assert len(pair.at_app) == 1000
        (new,) = standing(pair)
        assert new is not old
        assert new.key.remote_port == old.key.remote_port


def test_with_no_flow_up_it_dials_anew_at_once() -> None:
    with Pair(client={"flows": 3}, late_syns=True) as pair:
        pair.wire.drop.append(lambda *_: True)
        pair.start()
        pair.run(60.0)
        pair.wire.drop.clear()
        pair.client.role.renew(pair.now)
        pair.flush()
        assert pair.run_until(lambda: len(standing(pair)) == 3, 1.0)


@pytest.mark.parametrize("options", [{"flows": 1}, {"flows": 2}])
def test_a_new_flow_that_cannot_be_had_costs_nothing(options: dict[str, Any]) -> None:
    """Every SYN is lost: the old flows go on."""
    with Pair(client=options, late_syns=True) as pair:
        pair.up()
        pair.wire.drop.append(lambda _, packet: bool(packet[33] & 2))
        before = set(standing(pair))
        pair.client.role.renew(pair.now)
        pair.flush()
        exchange(pair, 1000, 50)
        pair.run(1.0)
        assert len(pair.at_app) == 1000
        assert set(standing(pair)) == before
        pair.wire.drop.clear()
        pair.run(40.0)
        assert not before & set(standing(pair))
