"""Flows are renewed, by age or by command, and no datagram is lost: make before break."""

from __future__ import annotations

import pytest

from rsock_nf.core.events import FlowClosed, FlowsDieAt
from rsock_nf.core.parameters import Kinds
from rsock_nf.core.types import PortRange
from tests.core.conntrack import FIN, Tracker
from tests.core.pair import Pair
from tests.core.renewing import AGED, ROUGH, by_command, exchange, one_at_a_time, standing, under_load
from tests.core.test_flows import load
from tests.core.wire import Toward, endpoints


@pytest.mark.parametrize("kinds", Kinds)
def test_the_command_loses_nothing(kinds: Kinds) -> None:
    with Pair(kinds=kinds, conditions=ROUGH) as pair:
        by_command(pair)


@pytest.mark.parametrize("kinds", Kinds)
def test_a_full_path_loses_nothing_either(kinds: Kinds) -> None:
    with Pair(kinds=kinds, conditions=ROUGH, client={"flows": 4}) as pair:
        under_load(pair)


@pytest.mark.parametrize("kinds", Kinds)
def test_old_flows_are_renewed_one_at_a_time(kinds: Kinds) -> None:
    with Pair(kinds=kinds, client=AGED) as pair:
        one_at_a_time(pair)


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


@pytest.mark.parametrize("flows", [1, 2])
def test_a_new_flow_that_cannot_be_had_costs_nothing(flows: int) -> None:
    """Every SYN is lost: the old flows go on."""
    with Pair(client={"flows": flows}, late_syns=True) as pair:
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


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
@pytest.mark.parametrize("life", [15.0, 30.0])
def test_something_on_the_way_ends_every_flow_at_the_same_age(kinds: Kinds, life: float) -> None:
    """Twice all flows die together.  Then their age is known: they are renewed before, and no datagram is lost."""
    with Pair(kinds=kinds) as pair:
        born: dict[frozenset[tuple[bytes, int]], float] = {}

        def too_old(_toward: Toward, packet: bytes) -> bool:
            source, destination, _ = endpoints(packet)
            return pair.now - born.setdefault(frozenset((source, destination)), pair.now) > life

        pair.wire.drop.append(too_old)
        pair.up()
        exchange(pair, int((2 * life + 15) * 20), 20)
        (known,) = [event.age for _, _, event in pair.events if isinstance(event, FlowsDieAt)]
        assert life <= known <= life + 4.0
        pair.at_target.clear()
        pair.at_app.clear()
        exchange(pair, int(3 * life * 20), 20)
        pair.run(0.5)
        assert len(pair.at_target) == len(pair.at_app) == int(3 * life * 20)


@pytest.mark.parametrize("seed", range(4))
def test_a_flow_that_the_nat_has_forgotten_closes_without_a_fin(seed: int) -> None:
    """Another one is dialled before it counts as dead, and takes its place.  A strict firewall would drop its FIN."""
    with Pair(seed) as pair:
        pair.up()
        load(pair, 3.0 + 0.13 * seed)
        old = pair.flows(pair.server)
        pair.wire.tracker = Tracker()
        load(pair, 8.0)
        assert len(pair.flows(pair.client)) == 10
        assert not set(old) & set(pair.server.flows), "both ends have forgotten them"
        assert not [crossing for crossing in pair.wire.invalid if crossing.tcp.flags & FIN]
        pair.wire.invalid.clear()  # what was on its way, and the probes
        load(pair, 5.0)
