"""A server that is several processes: every flow of a session leads to the process that knows it."""

from __future__ import annotations

from collections import Counter

import pytest

from rsock_nf.core.ends.port_reports import Outcome
from rsock_nf.core.ends.slots import SHARD_SILENT
from rsock_nf.core.events import SessionDown, SessionUp
from rsock_nf.core.parameters import Kinds
from rsock_nf.core.types import PortRange, Shard
from tests.core.pair import Pair, numbered
from tests.core.sharded import Workers, sharded
from tests.core.wire import Conditions, Toward

KINDS = pytest.mark.parametrize("kinds", list(Kinds))


def ports(pair: Pair) -> Counter[int]:
    """Of the client's flows."""
    return Counter(flow.key.remote_port for flow in pair.flows(pair.client))


def of_shard(pair: Pair) -> Shard:
    session = pair.client.role.session
    assert session is not None
    return session.shard


def no_wrong_joins(workers: Workers) -> None:
    """No process was asked for a session that it does not know, nor for one that ends."""
    for node in workers.nodes:
        assert not any("join" in what for what in node.counters), node.counters


@KINDS
@pytest.mark.parametrize("family", [4, 6])
def test_all_flows_lead_to_the_process_that_has_the_session(kinds: Kinds, family: int) -> None:
    pair, workers = sharded(4, kinds=kinds, family=family)
    with pair:
        pair.up()
        shard = of_shard(pair)
        assert shard.of == 4
        assert set(ports(pair)) == {port for port in range(10001, 10011) if shard.has(port)}
        told = {(report.port, report.outcome) for report in pair.client.role.ports()}
        assert told == {(port, Outcome.UP) for port in ports(pair)}, "nothing is told of ports that it does not use"
        assert ports(pair).total() == 10 * (kinds.tcp + kinds.udp)
        assert [len(sessions) for sessions in workers.sessions] == [number == shard.number for number in range(4)]
        pair.say("app", *numbered(200, 400))
        pair.run(1.0)
        assert sorted(pair.heard()) == sorted(numbered(200, 400))
        assert pair.count(SessionUp, Toward.CLIENT) == 1
        no_wrong_joins(workers)


def test_a_single_process_has_all_ports_and_says_so() -> None:
    with Pair() as pair:
        pair.up()
        assert of_shard(pair) == Shard(0, 1)
        assert ports(pair) == Counter(range(10001, 10011))


@pytest.mark.parametrize("first", range(10))
def test_where_the_client_begins_decides_at_which_process_it_is(first: int) -> None:
    pair, _ = sharded(4, client={"first_port": first})
    with pair:
        pair.up()
        assert of_shard(pair) == Shard((10001 + first) % 4, 4)


def test_fewer_flows_than_ports_of_the_shard_have_a_port_each() -> None:
    pair, _ = sharded(2, client={"flows": 3})
    with pair:
        pair.up()
        assert sorted(ports(pair).values()) == [1, 1, 1]


def test_the_client_may_know_some_of_the_ports_only() -> None:
    ranges = (PortRange(10002, 10003), PortRange(10007, 10007))
    pair, workers = sharded(4, client={"ports": ranges, "flows": 3})
    with pair:
        pair.up()
        shard = of_shard(pair)
        assert set(ports(pair)) == {port for port in (10002, 10003, 10007) if shard.has(port)}
        no_wrong_joins(workers)


def test_where_ports_are_translated_on_the_way_all_flows_lead_to_the_one_that_was_answered() -> None:
    pair, workers = sharded(4)
    workers.translated = lambda port: port + 1
    with pair:
        pair.up()
        assert list(ports(pair).values()) == [10]
        no_wrong_joins(workers)


@KINDS
@pytest.mark.parametrize("first", range(4))
def test_where_some_numbers_happen_to_fit_the_session_stays(kinds: Kinds, first: int) -> None:
    pair, workers = sharded(4, kinds=kinds, client={"first_port": first, "idle_timeout": 0.0})
    workers.translated = lambda port: port // 3
    with pair:
        pair.start()
        pair.run(20.0)
        session = pair.client.role.session
        assert session is not None
        assert {workers.translated(port) % 4 for port in ports(pair)} == {session.shard.number}
        assert ports(pair).total() == 10 * (kinds.tcp + kinds.udp)
        assert pair.count(SessionUp, Toward.CLIENT) == 1
        pair.say("app", b"carried")
        pair.run(1.0)
        assert pair.heard() == [b"carried"]


def test_ports_of_other_shards_are_left_without_blame() -> None:
    pair, _ = sharded(4)
    with pair:
        pair.up()
        slots = pair.client.role.slots
        assert all(slot.failures == 0 and not slot.unanswered for slot in slots)
        assert {report.outcome for report in pair.client.role.ports()} <= {Outcome.UP, Outcome.OPEN, Outcome.DIALLED}


def test_renewed_flows_stay_in_the_shard() -> None:
    pair, workers = sharded(4)
    with pair:
        pair.up()
        shard, before = of_shard(pair), {flow.key for flow in pair.flows(pair.client)}
        pair.client.role.renew(pair.now)
        pair.run(10.0)
        after = {flow.key for flow in pair.flows(pair.client)}
        assert len(after) == 10
        assert not before & after
        assert all(shard.has(key.remote_port) for key in after)
        no_wrong_joins(workers)


def test_a_port_of_the_shard_that_dies_is_replaced_by_one_of_the_shard() -> None:
    pair, workers = sharded(4, client={"idle_timeout": 0.0})
    with pair:
        pair.up()
        shard = of_shard(pair)
        dead = min(ports(pair))

        def blocked(_: Toward, packet: bytes) -> bool:
            return dead in (int.from_bytes(packet[20:22], "big"), int.from_bytes(packet[22:24], "big"))

        pair.wire.drop.append(blocked)
        pair.run(60.0)
        assert set(ports(pair)) == {port for port in range(10001, 10011) if shard.has(port) and port != dead}
        assert pair.count(SessionUp, Toward.CLIENT) == 1
        no_wrong_joins(workers)


@KINDS
def test_a_process_that_dies_loses_its_sessions_and_the_client_finds_another_process(kinds: Kinds) -> None:
    pair, workers = sharded(4, kinds=kinds)
    with pair:
        pair.up()
        first = of_shard(pair)
        workers.dead.add(first.number)
        began = pair.now
        pair.run_until(lambda: pair.client.role.session is not None and of_shard(pair) != first, 120.0)
        assert pair.now - began < SHARD_SILENT + 40.0
        pair.say("app", b"again")
        pair.run(2.0)
        assert pair.heard() == [b"again"]


@KINDS
def test_a_process_that_is_started_again_has_its_client_again(kinds: Kinds) -> None:
    pair, workers = sharded(4, kinds=kinds)
    with pair:
        pair.echo = True
        pair.up()
        pair.say("app", b"before")
        pair.run(1.0)
        number = of_shard(pair).number
        pair._server_parameters = workers.nodes[number].role.parameters
        workers.nodes[number] = pair._make_server()
        pair.sockets.clear()
        pair.run_until(lambda: pair.count(SessionUp, Toward.CLIENT) == 2, 60.0)
        pair.say("app", b"after")
        pair.run(2.0)
        assert b"after" in pair.heard()
        assert ("app", b"after") in pair.at_app


def test_a_short_outage_costs_no_session() -> None:
    pair, _ = sharded(4, client={"idle_timeout": 0.0})
    with pair:
        pair.up()
        until = pair.now + SHARD_SILENT - 5.0
        pair.wire.drop.append(lambda *_: pair.now < until)
        pair.run(SHARD_SILENT + 60.0)
        assert pair.count(SessionUp, Toward.CLIENT) == 1
        assert pair.count(SessionDown, Toward.CLIENT) == 0
        assert ports(pair).total() == 10


def test_when_the_ports_of_the_shard_do_not_pass_any_more_others_do() -> None:
    pair, _ = sharded(2)
    with pair:
        pair.up()
        shard = of_shard(pair)

        def blocked(toward: Toward, packet: bytes) -> bool:
            at = 22 if toward is Toward.SERVER else 20
            return shard.has(int.from_bytes(packet[at : at + 2], "big"))

        pair.wire.drop.append(blocked)
        pair.run_until(lambda: pair.client.role.session is not None and of_shard(pair) != shard, 180.0)
        pair.run(5.0)
        assert set(ports(pair)) == {port for port in range(10001, 10011) if not shard.has(port)}


def test_the_server_comes_back_with_another_number_of_processes() -> None:
    pair, _ = sharded(4)
    with pair:
        pair.up()
        pair._server_parameters = Pair()._server_parameters
        pair.restart_server()
        pair.run_until(lambda: pair.count(SessionUp, Toward.CLIENT) == 2, 60.0)
        pair.run(5.0)
        assert of_shard(pair) == Shard(0, 1)
        assert ports(pair) == Counter(range(10001, 10011))


@KINDS
@pytest.mark.parametrize("seed", range(4))
def test_it_comes_up_through_loss(kinds: Kinds, seed: int) -> None:
    pair, _ = sharded(4, seed=seed, kinds=kinds, conditions=Conditions(loss=0.2), late_syns=True)
    with pair:
        pair.up(120.0)
        shard = of_shard(pair)
        assert all(shard.has(port) for port in ports(pair))


def test_a_reconnect_and_a_sleep_stay_at_the_process_that_knows_the_session() -> None:
    pair, workers = sharded(4, client={"idle_timeout": 5.0})
    with pair:
        pair.up()
        shard = of_shard(pair)
        pair.client.role.reconnect(pair.now)
        pair.run(3.0)
        assert ports(pair).total() == 10
        pair.run(30.0)
        assert pair.client.role.idle
        pair.say("app", b"awake")
        pair.run(3.0)
        assert pair.heard() == [b"awake"]
        assert of_shard(pair) == shard
        no_wrong_joins(workers)
