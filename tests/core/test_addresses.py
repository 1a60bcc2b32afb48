"""The server's addresses change while a client runs, because its name was looked up again."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from rsock_nf.core.events import SessionUp
from rsock_nf.core.parameters import Kinds
from tests.core.pair import SERVER_ADDRESS, Pair
from tests.core.wire import Toward

OLD, NEW = SERVER_ADDRESS[4], SERVER_ADDRESS[4] + 50
SIX = SERVER_ADDRESS[6]
Address = IPv4Address | IPv6Address


def silent(*dead: Address) -> Callable[[Toward, bytes], bool]:
    """What goes to these addresses is lost, and what comes from them."""

    def drop(_: Toward, packet: bytes) -> bool:
        v4 = packet[0] >> 4 == 4
        ends = (packet[12:16], packet[16:20]) if v4 else (packet[8:24], packet[24:40])
        return any(address.packed in ends for address in dead)

    return drop


def carries(pair: Pair, datagram: bytes, within: float) -> None:
    """An application that tries until its datagram has arrived."""
    began = pair.now
    while datagram not in pair.heard():
        assert pair.now - began < within, pair.client.role.reason
        pair.say("app", datagram)
        pair.run(0.25)


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP, Kinds.ALL])
def test_a_server_that_has_moved_is_dialled_at_its_new_address_and_keeps_the_session(kinds: Kinds) -> None:
    with Pair(kinds=kinds) as pair:
        pair.up()
        carries(pair, b"before", 1.0)
        pair.wire.drop.append(silent(OLD))
        pair.run_until(lambda: not pair.client.role.group.usable, 60.0)
        pair.client.role.use_addresses(pair.now, [NEW])
        pair.flush()
        assert pair.client.role.remote_text == str(NEW)
        carries(pair, b"after", 2.0)
        assert pair.count(SessionUp, Toward.CLIENT) == 1


def test_flows_that_work_are_left_alone() -> None:
    with Pair() as pair:
        pair.up()
        before = {flow.key for flow in pair.client.flows}
        pair.client.role.use_addresses(pair.now, [NEW])
        pair.run(5.0)
        assert {flow.key for flow in pair.client.flows} == before
        assert pair.client.role.remote_text == str(OLD)


def test_once_the_last_flow_is_down_the_new_address_is_dialled() -> None:
    with Pair() as pair:
        pair.up()
        pair.client.role.use_addresses(pair.now, [NEW])
        pair.wire.drop.append(silent(OLD))
        pair.say("app", b"lost")
        pair.run_until(lambda: pair.client.role.remote_text == str(NEW), 60.0)
        pair.run_until(lambda: bool(pair.client.role.group.usable), 1.0)
        carries(pair, b"after", 1.0)


def test_a_client_that_has_got_no_answer_yet_gives_up_what_it_opens() -> None:
    with Pair(client={"server": (NEW,)}) as pair:
        pair.wire.drop.append(silent(NEW))
        pair.start()
        pair.run(1.0)
        pair.client.role.use_addresses(pair.now, [OLD])
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 1.0)
        assert {flow.key.remote for flow in pair.client.flows} == {OLD.packed}


def test_an_address_that_the_answer_still_has_stays_in_use() -> None:
    with Pair(client={"server": (OLD,)}) as pair:
        pair.wire.drop.append(silent(OLD))
        pair.start()
        pair.run(1.0)
        opened = {flow.key for flow in pair.client.flows}
        pair.client.role.use_addresses(pair.now, [NEW, OLD])
        pair.flush()
        assert {flow.key for flow in pair.client.flows} == opened
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 6.0)
        assert pair.client.role.remote_text == str(NEW), "the other one had its turn, too"


@pytest.mark.parametrize(("dead", "alive"), [(SIX, OLD), (OLD, SIX)])
def test_the_family_that_is_dead_gives_way_to_the_other(dead: Address, alive: Address) -> None:
    """At first, and when it dies while there is a session."""
    with Pair(client={"server": (dead, alive)}) as pair:
        pair.wire.drop.append(silent(dead))
        pair.start()
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 2.5)
        pair.wire.drop[:] = [silent(alive)]
        pair.say("app", b"lost")
        pair.run_until(lambda: not pair.client.role.group.usable, 60.0)
        pair.run_until(lambda: bool(pair.client.role.group.usable), 2.5)
        assert pair.client.role.remote_text == str(dead)
        carries(pair, b"after", 1.0)
        assert pair.count(SessionUp, Toward.CLIENT) == 1


def test_a_client_that_sleeps_wakes_at_the_new_address() -> None:
    with Pair(client={"idle_timeout": 5.0}) as pair:
        pair.up()
        pair.run_until(lambda: pair.client.role.idle and not pair.client.flows, 30.0)
        pair.client.role.use_addresses(pair.now, [NEW])
        pair.wire.drop.append(silent(OLD))
        carries(pair, b"after", 1.0)


def test_who_is_asked_to_move_loses_nothing() -> None:
    """Although the old address works: other flows first, then the old ones close."""
    with Pair() as pair:
        pair.up()
        sent = [b"datagram %d" % at for at in range(200)]
        pair.say("app", sent[0])
        pair.client.role.renew(pair.now)
        pair.run(0.01)
        pair.client.role.use_addresses(pair.now, [NEW], move=True)
        for datagram in sent[1:]:
            pair.say("app", datagram)
            pair.run(0.02)
        assert {flow.key.remote for flow in pair.flows(pair.client)} == {NEW.packed}
        assert pair.heard() == sent
        assert pair.count(SessionUp, Toward.CLIENT) == 1
