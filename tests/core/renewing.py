"""Renewal of flows, over any wire: by age or by command, no datagram is lost."""

from __future__ import annotations

from rsock_nf.core.events import FlowClosed, FlowOpened
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from tests.core.pair import Pair, numbered
from tests.core.wire import Conditions, Toward

AGE = 60.0
ROUGH = Conditions(delay=0.05, reorder=0.3, reorder_delay=0.04)
"""A path with jitter."""
AGED = {"flow_age": AGE, "flows": 3}
"""The client's parameters for ``one_at_a_time``."""


def exchange(pair: Pair, count: int, rate: float) -> None:
    """Datagrams evenly, and back."""
    pair.echo = True
    for datagram in numbered(count, 500, b"%.4f " % pair.now):
        pair.say("app", datagram)
        pair.run(1 / rate)


def both_ways(pair: Pair, count: int, rate: float) -> None:
    """Datagrams evenly in both directions.  The server does not wait for the client's."""
    pair.echo = False
    there = numbered(count, 500, b"there %.4f " % pair.now)
    back = numbered(count, 500, b"back %.4f " % pair.now)
    for out, answer in zip(there, back, strict=True):
        pair.say("app", out)
        pair.reply(pair.server_peer(), answer)
        pair.run(1 / rate)


def ports(pair: Pair) -> list[tuple[bool, int]]:
    """The kind and the source port of each flow so far, in order."""
    opened = [event for _, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowOpened)]
    return [(event.key.udp, event.key.local_port) for event in opened]


def standing(pair: Pair) -> list[Established]:
    """The client's flows that have no successor."""
    return [flow for flow in pair.flows(pair.client) if not flow.retired]


def by_command(pair: Pair) -> None:
    """Every three seconds, six times, at 50 datagrams a second."""
    pair.up()
    exchange(pair, 50, 50)
    pair.run(1.0)
    flows = len(standing(pair))
    for _ in range(6):
        before = set(standing(pair))
        pair.client.role.renew(pair.now)
        pair.flush()
        both_ways(pair, 150, 50)
        assert len(standing(pair)) == flows
        assert not before & set(standing(pair)), "each was replaced"
    pair.run(1.0)
    assert len(pair.at_target) == len(pair.at_app) == 50 + 6 * 150
    assert len(ports(pair)) == len(set(ports(pair))) == 7 * flows, "each from another port"
    assert len(pair.sockets) == 1, "the same conversation"
    pair.run(5.0)
    assert len(pair.flows(pair.server)) == flows


def under_load(pair: Pair) -> None:
    """Bursts in both directions: much is on its way when a flow closes."""
    pair.up()
    exchange(pair, 50, 50)
    pair.run(1.0)
    before, back, flows = len(pair.at_target), len(pair.at_app), len(ports(pair))
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
    assert len(ports(pair)) > 2 * flows


def one_at_a_time(pair: Pair) -> None:
    """Three minutes with flows that are renewed after one minute, ± 20 %."""
    pair.up()
    flows = len(standing(pair))
    for _ in range(180):
        exchange(pair, 10, 10)
        assert len(pair.client.flows.opening(*State)) <= 1
        assert len(standing(pair)) == flows
    pair.run(1.0)
    assert len(pair.at_target) == len(pair.at_app) == 1800
    assert 2 * flows <= len(ports(pair)) - flows <= 4 * flows
    assert len(set(ports(pair))) == len(ports(pair))
    closed = [when for when, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowClosed)]
    assert len(set(closed)) == len(closed), "not together"
