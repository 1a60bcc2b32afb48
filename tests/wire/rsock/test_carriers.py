"""Wire rsock over UDP kinds, alone and beside fake TCP, between our own two ends."""

from __future__ import annotations

import pytest

from rsock_nf.core.events import FlowClosed
from rsock_nf.core.flows.states import Input, State
from rsock_nf.core.parameters import Kinds
from rsock_nf.core.types import PortRange
from tests.core.pair import numbered
from tests.core.wire import UDP, Conditions, Toward
from tests.wire.rsock.pair import RsockPair
from tests.wire.rsock.test_traffic import load

KINDS = pytest.mark.parametrize("kind", [Kinds.UDP, Kinds.ALL])
COUNT = {Kinds.UDP: 10, Kinds.ALL: 20}


@KINDS
@pytest.mark.parametrize("version", [1, 2])
def test_datagrams_go_and_come(kind: Kinds, version: int) -> None:
    with RsockPair(client={"rsock_version": version}, kinds=kind) as pair:
        pair.echo = True
        pair.up()
        sent = [datagram for at in range(40) for datagram in numbered(20, 1000, b"%d" % at)]
        for at in range(40):
            pair.say("app", *sent[20 * at : 20 * at + 20])
            pair.run(0.2)
        assert sorted(pair.heard()) == sorted(datagram for _, datagram in pair.at_app) == sorted(sent)
        assert len(pair.flows(pair.client)) == len(pair.flows(pair.server)) == COUNT[kind]
        assert len({flow.flow_id for flow in pair.flows(pair.client)}) == COUNT[kind]
        assert all(flow.health.srtt for flow in pair.flows(pair.client))
        assert pair.count(FlowClosed) == 0


def test_a_flow_that_swallows_is_replaced() -> None:
    with RsockPair(kinds=Kinds.UDP) as pair:
        pair.echo = True
        pair.up()
        load(pair, 3.0)
        port = pair.flows(pair.client)[4].key.local_port
        pair.wire.drop.append(lambda _, packet: port.to_bytes(2, "big") in (packet[20:22], packet[22:24]))
        load(pair, 15.0)
        assert port not in {flow.key.local_port for flow in pair.flows(pair.client)}
        assert len(pair.flows(pair.client)) == 10


@KINDS
def test_an_unused_tunnel_goes_silent_and_wakes(kind: Kinds) -> None:
    with RsockPair(client={"duration": 10.0, "idle_timeout": 10.0}, kinds=kind) as pair:
        pair.up()
        load(pair, 2.0)
        pair.run(30.0)
        assert pair.client.role.idle
        assert not pair.client.flows
        assert not pair.server.flows
        sent = dict(pair.wire.sent)
        pair.run(60.0)
        assert pair.wire.sent == sent
        before = len(pair.heard())
        pair.say("app", b"awake")
        pair.run(1.0)
        assert pair.heard()[before:] == [b"awake"]


def test_a_restarted_server_goes_on_with_the_first_datagram() -> None:
    """Nothing had to be shaken."""
    with RsockPair(kinds=Kinds.UDP) as pair:
        pair.up()
        load(pair, 2.0)
        pair.restart_server()
        before = len(pair.heard())
        sent = load(pair, 2.0)
        pair.run(0.1)
        assert len(pair.heard()) - before == sent
        assert pair.count(FlowClosed, Toward.CLIENT) == 0


def no_udp(pair: RsockPair, *, refused: bool = False) -> list[float]:
    """No UDP passes any more; if ``refused``, ICMP says so to the client.  When the client sent some."""
    sent: list[float] = []

    def lost(toward: Toward, packet: bytes) -> bool:
        udp = packet[9] == UDP
        if udp and toward is Toward.SERVER:
            sent.append(pair.now)
            if refused:
                key = next(key for key in pair.carriers if key.local_port == int.from_bytes(packet[20:22], "big"))
                pair.client.role.carrier_refused(pair.now, key)
        return udp

    pair.wire.drop.append(lost)
    return sent


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("idle", [0.0, 20.0])
def test_where_udp_does_not_pass_nothing_is_lost(idle: float, *, refused: bool) -> None:
    """A router blocks it, or the server has TCP only.  UDP flows look open, and no bulk may go there."""
    with RsockPair(kinds=Kinds.ALL) as pair:
        pair.echo = True
        sent = no_udp(pair, refused=refused)
        pair.start()
        pair.run(1.0 + idle)
        for at in range(1500):
            pair.say("app", b"%d" % at)
            pair.run(0.02)
        pair.run(0.5)
        assert [datagram for _, datagram in pair.at_app] == [b"%d" % at for at in range(1500)]
        assert pair.client.role.reason == ""
        before = 0
        for _ in range(2):  # less and less often, in the end once in five minutes
            before = len(sent)
            for _ in range(600):
                pair.say("app", b"x")
                pair.run(1.0)
        assert 0 < len(sent) - before <= 10 * 3 * 3  # for each port three times three requests, at most


def test_udp_that_passes_again_is_used_again() -> None:
    with RsockPair(kinds=Kinds.ALL) as pair:
        pair.echo = True
        no_udp(pair)
        pair.start()
        load(pair, 60.0, rate=50)
        assert not [flow for flow in pair.flows(pair.client) if flow.key.udp and flow.usable]
        pair.wire.drop.clear()
        load(pair, 320.0, rate=16)
        assert len([flow for flow in pair.flows(pair.client) if flow.key.udp and flow.usable]) == 10
        assert len([flow for flow in pair.flows(pair.server) if flow.key.udp and flow.usable]) == 10


def test_where_tcp_is_lost_and_udp_never_answered_udp_is_tried() -> None:
    """Nobody would ever know otherwise."""
    with RsockPair(kinds=Kinds.ALL) as pair:
        pair.up()
        assert not [flow for flow in pair.flows(pair.client) if flow.key.udp and flow.usable]  # nothing was said yet
        pair.wire.drop.append(lambda _, packet: packet[9] != UDP)
        for flow in pair.flows(pair.client):
            if not flow.key.udp:
                pair.client.flows.step(pair.now, flow, Input.DEAD, "for the test")
        pair.client.flows.settle()
        pair.say("app", b"datagram")
        pair.run(0.1)
        assert pair.heard() == [b"datagram"]
        pair.wire.drop.clear()


@pytest.mark.parametrize("toward", list(Toward))
def test_udp_that_passes_one_way_loses_nothing(toward: Toward) -> None:
    with RsockPair(kinds=Kinds.ALL) as pair:
        pair.echo = True
        pair.wire.drop.append(lambda to, packet: to is toward and packet[9] == UDP)
        pair.start()
        pair.run(1.0)
        sent = [b"%d" % at for at in range(1500)]
        for datagram in sent:
            pair.say("app", datagram)
            pair.run(0.02)
        pair.run(0.5)
        assert sorted(datagram for _, datagram in pair.at_app) == sorted(sent)


def test_udp_ports_that_the_server_does_not_serve_cost_nothing() -> None:
    with RsockPair(kinds=Kinds.UDP) as pair:
        pair.echo = True
        closed = [(10_001 + at).to_bytes(2, "big") for at in range(5)]
        pair.wire.drop.append(lambda to, packet: to is Toward.SERVER and packet[22:24] in closed)
        pair.start()
        pair.run(1.0)
        load(pair, 2.0)
        before = len(pair.at_app)
        sent = load(pair, 30.0)
        pair.run(0.5)
        assert len(pair.at_app) - before >= sent


@pytest.mark.parametrize("kind", list(Kinds))
@pytest.mark.parametrize("trouble", ["hash", "version", "dead"])
def test_a_server_that_answers_nothing_is_told_within_five_seconds(kind: Kinds, trouble: str) -> None:
    changes = {"hash": {"hash_key": b"another"}, "version": {}, "dead": {}}[trouble]
    with RsockPair(client=changes, kinds=kind) as pair:
        pair.start()
        pair.run(3.0)
        if trouble == "version":
            pair.wire.drop.append(lambda to, packet: len(packet) > 60 and to is Toward.SERVER)  # as one that is ignored
        if trouble == "dead":
            pair.wire.drop.append(lambda to, _: to is Toward.SERVER)
        pair.say("app", b"datagram")
        pair.run(5.0)
        assert "answers no frame: are ports, wire, hash and rsock_version" in pair.client.role.reason


def test_loss_and_disorder_end_no_flow() -> None:
    with RsockPair(conditions=Conditions(delay=0.03, loss=0.05, reorder=0.05, duplicate=0.01), kinds=Kinds.UDP) as pair:
        pair.echo = True
        pair.up()
        load(pair, 30.0)
        assert len(pair.flows(pair.client)) == 10
        assert pair.count(FlowClosed, Toward.CLIENT) <= 1


def test_a_udp_flow_may_not_be_called_like_a_tcp_flow() -> None:
    """The bits of ports 12288 to 16383 hide the kind, and a client may have one port twice, once for each."""
    ports = (PortRange(12_288, 12_288),)
    with RsockPair(client={"ports": ports, "flows": 1}, kinds=Kinds.ALL) as pair:
        pair.start()
        pair.run_until(lambda: len(pair.flows(pair.client)) == 2, 5.0)
        first, second = pair.flows(pair.client)
        form = pair.client_wire._format
        assert form.flow_id(first.key, 2) == form.flow_id(first.key._replace(udp=not first.key.udp), 2)
        assert first.flow_id != second.flow_id
        # The same once more, with one port for both kinds.
        pair.client.flows.step(pair.now, second, Input.DEAD, "the test says so")
        port = first.key.local_port
        pair._port = port - 1
        pair.run_until(lambda: len(pair.flows(pair.client)) == 2, 10.0)
        assert pair._port == port + 1, "the name was not taken"
        assert len({flow.flow_id for flow in pair.flows(pair.client)}) == 2
        assert all(flow.state is State.ESTABLISHED for flow in pair.flows(pair.client))


@pytest.mark.parametrize("after", [0.0, 0.11, 0.13, 0.16, 0.21, 0.26])
def test_the_first_burst_waits_for_credit_and_loses_nothing(after: float) -> None:
    """UDP flows have endless credit, but they rest until they are known to pass: the first TCP flows carry alone."""
    with RsockPair(kinds=Kinds.ALL, conditions=Conditions(delay=0.05)) as pair:
        pair.say("another", b"it starts the client")
        pair.run(after)
        sent = numbered(500, 1200)
        pair.say("app", *sent)
        pair.run(2.0)
        assert sorted(set(pair.heard()) - {b"it starts the client"}) == sent
        assert pair.client.role.group.no_credit == 0
        assert not pair.client.role.group.patient
