"""A session outlives its flows, the client's addresses and, for the client's side, the server."""

import re
from collections import Counter

import pytest

from rsock_nf.core.events import ConversationOpened, FlowOpened, SessionDown, SessionUp
from rsock_nf.core.flows.states import Input
from rsock_nf.core.parameters import Cipher, Kinds, OnProbe
from rsock_nf.core.types import PortRange
from tests.core.conntrack import ACK, RST, SYN, parse_tcp
from tests.core.pair import SECRET, SERVER_ADDRESS, Pair, numbered
from tests.core.wire import Conditions, Nat, Toward, make_tcp

PUBLIC, OTHER_PUBLIC = b"\xc6\x33\x64\x01", b"\xc6\x33\x64\x02"
UNANSWERED_HELLOS = re.compile(
    r"192\.0\.2\.2 port 100\d\d is open, but leaves our hellos unanswered: "
    r"are secret, wire and version of rsock-nf the same on both sides\?"
)


def talk(pair: Pair, seconds: float, *, tag: bytes, back: bool = True) -> None:
    """Every 20 ms a datagram from the application, and one back to every open socket."""
    for at in range(int(seconds / 0.02)):
        pair.say("app", b"%s up %d" % (tag, at))
        if back:
            for peer in list(pair.sockets):
                pair.reply(peer, b"%s down %d" % (tag, at))
        pair.run(0.02)


def session_ids(pair: Pair) -> set[int]:
    return {event.session_id for _, _, event in pair.events if isinstance(event, SessionUp)}


@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.CHACHA20_POLY1305])
def test_it_survives_the_loss_of_all_flows(cipher: Cipher) -> None:
    """Nothing passes for eight seconds: the same session, the same conversation, the same socket afterwards."""
    with Pair(cipher=cipher) as pair:
        pair.up()
        talk(pair, 1.0, tag=b"before")
        peer = pair.server_peer()
        pair.wire.drop.append(lambda *_: True)
        talk(pair, 8.0, tag=b"lost")
        assert not pair.flows(pair.client)
        pair.wire.drop.clear()
        pair.at_target.clear()
        pair.run_until(lambda: bool(pair.flows(pair.client)), within=32.0)
        talk(pair, 1.0, tag=b"after")
        assert len(session_ids(pair)) == 1
        assert pair.server_peer() == peer
        assert pair.count(ConversationOpened) == 1
        assert Counter(who for who, _ in pair.at_target).keys() == {peer}


@pytest.mark.parametrize("on_probe", OnProbe)
@pytest.mark.parametrize("new_address", [None, OTHER_PUBLIC])
def test_a_nat_that_forgets_and_a_new_public_address(new_address: bytes | None, on_probe: OnProbe) -> None:
    """What comes from the new place belongs to no flow; ``closed`` answers it with RST, which the client
    understands."""
    nat = Nat(PUBLIC)
    with Pair(nat=nat, server={"on_probe": on_probe}, resets_allowed=on_probe is OnProbe.CLOSED) as pair:
        pair.up()
        talk(pair, 12.0, tag=b"before")
        peer = pair.server_peer()
        nat.rebind(new_address)
        pair.at_target.clear()
        began = pair.now
        while not pair.at_target:
            talk(pair, 0.1, tag=b"moved")
            assert pair.now - began < 5.0
        talk(pair, 3.0, tag=b"after")
        assert pair.at_target[-1] == (peer, b"after up 149")
        assert pair.at_app[-1][1].startswith(b"after down")
        assert len(session_ids(pair)) == 1
        assert pair.count(ConversationOpened) == 1
        assert len(pair.flows(pair.client)) == 10
        session = next(iter(pair.server.role.sessions_by_id.values()))
        assert str(session.peer).startswith("198.51.100.2" if new_address else "198.51.100.1")
        assert pair.server.counters["payloads of no flow"]
        assert not pair.server.counters["payloads from strangers"], "it is our own client"


@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
@pytest.mark.parametrize("on_probe", OnProbe)
@pytest.mark.parametrize("back", [False, True])
def test_a_server_restarts_under_traffic(*, back: bool, on_probe: OnProbe, cipher: Cipher) -> None:
    """Back within five seconds, also if the server stays silent: a new session, new sockets, the old conversation."""
    closed = on_probe is OnProbe.CLOSED
    with Pair(cipher=cipher, server={"on_probe": on_probe}, resets_allowed=closed) as pair:
        pair.up()
        talk(pair, 3.0, tag=b"before", back=back)
        number = next(iter(pair.client.role.group.conversations))
        pair.restart_server()
        pair.at_target.clear()
        began = pair.now
        while not pair.at_target:
            talk(pair, 0.1, tag=b"after", back=back)
            assert pair.now - began < 5.0
        assert list(pair.client.role.group.conversations) == [number]
        assert len(session_ids(pair)) == 2
        assert pair.count(SessionDown, Toward.CLIENT) == 1
        if back:
            pair.at_app.clear()
            talk(pair, 1.0, tag=b"and back")
            assert len(pair.at_app) > 40


def test_a_server_restarts_while_the_application_is_quiet() -> None:
    """The keepalive finds out; then the first datagram finds everything ready."""
    with Pair() as pair:
        pair.up()
        talk(pair, 1.0, tag=b"before")
        pair.run(5.0)
        pair.restart_server()
        pair.run(20.0)
        pair.say("app", b"hello again")
        pair.run(0.1)
        assert pair.heard()[-1] == b"hello again"


def test_a_server_restarts_and_only_targets_talk() -> None:
    """The first datagram of a target after the restart has no socket to come to: the client's probes find out."""
    with Pair() as pair:
        pair.up()
        talk(pair, 12.0, tag=b"before")
        pair.restart_server()
        pair.run(15.0)
        assert len(session_ids(pair)) == 2


def test_a_client_restarts() -> None:
    """A new process knows nothing: a new session, and the old one is gone when nothing is left of it."""
    with Pair(client={"idle_timeout": 0.0}) as pair:
        pair.up()
        talk(pair, 1.0, tag=b"before")
        pair.replace_client()
        pair.up()
        talk(pair, 1.0, tag=b"after")
        assert len(pair.server.role.sessions_by_id) == 2
        assert len(pair.sockets) == 2
        pair.run(1000.0)
        assert len(pair.server.role.sessions_by_id) == 1


def test_the_client_stops() -> None:
    """It says goodbye, every flow ends with FIN both ways, and the server keeps nothing."""
    with Pair() as pair:
        pair.up()
        talk(pair, 1.0, tag=b"before")
        pair.client.role.stop(pair.now)
        pair.flush()
        assert pair.client.closing
        took = pair.run_until(lambda: not pair.client.closing, 5.0)
        assert took < 0.1
        pair.run(5.0)
        assert not pair.client.flows
        assert not pair.server.flows
        assert not pair.server.role.sessions_by_id
        assert not pair.sockets
        sent = dict(pair.wire.sent)
        pair.run(1000.0)
        assert pair.wire.sent == sent, "nothing more is said"


def test_the_server_stops() -> None:
    """The client ends its flows too, so that the server need not wait, and dials on."""
    with Pair() as pair:
        pair.up()
        talk(pair, 12.0, tag=b"before")
        pair.server.role.stop(pair.now)
        pair.flush()
        took = pair.run_until(lambda: not pair.server.closing, 5.0)
        assert took < 0.1
        assert pair.client.role.reason == "the server ended the session"
        assert not pair.flows(pair.client)
        assert {str(flow.state.value) for flow in pair.server.flows} == {"lingering"}
        pair.restart_server()
        pair.run_until(lambda: bool(pair.flows(pair.client)), 5.0)


@pytest.mark.parametrize("lost", [Toward.CLIENT, Toward.SERVER])
@pytest.mark.parametrize("k", range(1, 8))
def test_the_last_packets_may_be_lost(lost: Toward, k: int) -> None:
    """Whichever packet of the goodbye is lost, both ends come to their end."""
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        pair.run(1.0)
        seen = Counter[Toward]()

        def nth(toward: Toward, _: bytes) -> bool:
            seen[toward] += 1
            return toward is lost and seen[toward] == k

        pair.wire.drop.append(nth)
        pair.client.role.stop(pair.now)
        pair.flush()
        pair.run_until(lambda: not pair.client.closing, 2.0)
        pair.run(8.0)
        assert not pair.client.flows
        assert not pair.server.flows


def test_reconnect() -> None:
    with Pair() as pair:
        pair.up()
        talk(pair, 1.0, tag=b"before")
        peer = pair.server_peer()
        ports = set(pair.ports)
        pair.client.role.reconnect(pair.now)
        pair.flush()
        talk(pair, 3.0, tag=b"after")
        pair.run(4.0)
        assert len(pair.ports) == 10
        assert not ports & pair.ports
        assert pair.server_peer() == peer
        assert len(session_ids(pair)) == 1
        assert pair.client.role.reason == ""


@pytest.mark.parametrize("delay", [0.001, 0.15, 0.5])
def test_datagrams_right_after_a_reconnect_wait_for_the_new_flows(delay: float) -> None:
    """Three round trips; a datagram waits five seconds."""
    with Pair(conditions=Conditions(delay=delay), late_syns=True) as pair:
        pair.up()
        pair.run(1.0)
        pair.client.role.reconnect(pair.now)
        pair.flush()
        pair.say("app", *numbered(30, 500))
        pair.run(8 * delay + 0.1)
        for datagram in pair.heard(pair.server_peer()):
            pair.reply(pair.server_peer(), datagram)
        pair.run(2 * delay + 0.1)
        assert sorted(datagram for _, datagram in pair.at_app) == sorted(numbered(30, 500))


def test_the_server_closes_every_flow() -> None:
    with Pair() as pair:
        pair.up()
        pair.run(11.0)
        for flow in list(pair.server.flows):
            pair.server.flows.step(pair.now, flow, Input.CLOSE)
        pair.flush()
        pair.run_until(lambda: pair.count(FlowOpened, Toward.CLIENT) == 20, 2.0)
        assert len(session_ids(pair)) == 1


def test_wrong_secret() -> None:
    with Pair(client={"secret": b"x" * 32}) as pair:
        pair.start()
        pair.run(40.0)
        assert UNANSWERED_HELLOS.fullmatch(pair.client.role.reason)
        assert not pair.server.role.sessions_by_id
        assert len(pair.server_wire.half_open) == 0
        assert not pair.flows(pair.server)


def test_what_is_known_of_silence_is_told_at_once() -> None:
    """A port that answers SYNs, and hellos not, is told apart from a dead host long before anybody gives up."""
    with Pair(client={"secret": b"x" * 32}) as pair:
        pair.start()
        assert pair.client.role.reason == "dialling 192.0.2.2, no answer yet"
        pair.run(0.3)
        assert pair.client.role.reason == "192.0.2.2 port 10001 is open, no answer to our hello yet"
        pair.run(1.1)
        for _ in range(200):  # and nothing that says less takes its place
            assert UNANSWERED_HELLOS.fullmatch(pair.client.role.reason), pair.client.role.reason
            pair.run(0.1)


def test_a_silent_port_does_not_hide_an_open_one() -> None:
    """Of ten ports one passes the provider's firewall, and it does not know our secret: so much is known."""
    with Pair(client={"secret": b"x" * 32}) as pair:
        pair.wire.drop.append(lambda toward, packet: toward is Toward.SERVER and packet[22:24] != b"\x27\x15")
        pair.start()
        pair.run(8.0)
        assert UNANSWERED_HELLOS.fullmatch(pair.client.role.reason), pair.client.role.reason


def test_wrong_secret_over_both_kinds() -> None:
    with Pair(client={"secret": b"x" * 32}, kinds=Kinds.ALL) as pair:
        pair.start()
        pair.run(3.0)
        assert UNANSWERED_HELLOS.fullmatch(pair.client.role.reason), pair.client.role.reason
    with Pair(client={"secret": b"x" * 32}, kinds=Kinds.UDP) as pair:
        pair.start()
        pair.run(0.3)
        assert pair.client.role.reason == "dialling 192.0.2.2, no answer yet"
        pair.run(1.2)
        assert re.fullmatch(
            r"192\.0\.2\.2 UDP port 100\d\d leaves our hellos unanswered: is UDP open on the way, and are .* the same on both sides\?",
            pair.client.role.reason,
        )


def test_a_refused_udp_port_is_told_rather_than_silent_ones() -> None:
    """A host sends few ICMP errors: of ten ports without a server perhaps one is refused."""
    with Pair(kinds=Kinds.UDP) as pair:
        pair.wire.drop.append(lambda *_: True)
        pair.start()
        pair.run(0.1)
        pair.client.role.carrier_refused(pair.now, next(iter(pair.client.flows)).key)
        refused = pair.client.role.reason
        assert re.fullmatch(r"192\.0\.2\.2 refuses UDP port 100\d\d \(ICMP port unreachable\)", refused)
        pair.run(10.0)
        assert pair.client.role.reason == refused
        pair.run(40.0)
        assert "leaves our hellos unanswered" in pair.client.role.reason, "it is no longer refused"


def test_what_one_address_refused_says_nothing_of_another() -> None:
    first, second = SERVER_ADDRESS[4] + 7, SERVER_ADDRESS[4]
    with Pair(kinds=Kinds.UDP, client={"server": (first, second)}) as pair:
        pair.wire.drop.append(lambda *_: True)
        pair.start()
        pair.run(0.1)
        pair.client.role.carrier_refused(pair.now, next(iter(pair.client.flows)).key)
        pair.run_until(lambda: pair.client.role.remote_text == str(second), 10.0)
        pair.run(3.0)
        assert pair.client.role.remote_text == str(second)
        assert pair.client.role.reason.startswith(f"{second} UDP port ")
        assert "leaves our hellos unanswered" in pair.client.role.reason


def test_wrong_secret_against_a_server_that_closes() -> None:
    with Pair(client={"secret": b"x" * 32}, server={"on_probe": OnProbe.CLOSED}, resets_allowed=True) as pair:
        pair.start()
        pair.run(5.0)
        assert re.fullmatch(
            r"192\.0\.2\.2 refuses port 100\d\d \(RST\): it was open: are secret and wire the server's\?",
            pair.client.role.reason,
        )


def test_a_host_without_a_server() -> None:
    """Its kernel has no socket there, and says so."""
    with Pair(resets_allowed=True) as pair:

        def refuse(toward: Toward, packet: bytes) -> bool:
            if toward is Toward.CLIENT:
                return False
            syn = parse_tcp(packet)
            rst = make_tcp(syn.destination, syn.source, 0, syn.end, RST | ACK)
            pair.wire.inject(pair.now, Toward.CLIENT, rst, behind_judge=True)
            return True

        pair.wire.drop.append(refuse)
        pair.start()
        pair.run(1.0)
        assert re.fullmatch(
            r"192\.0\.2\.2 refuses port 100\d\d \(RST\): does the server run, with this port\?", pair.client.role.reason
        )


@pytest.mark.parametrize(("ours", "theirs"), [(Cipher.NONE, Cipher.AES_256_GCM), (Cipher.AES_256_GCM, Cipher.NONE)])
def test_different_ciphers(ours: Cipher, theirs: Cipher) -> None:
    with Pair(client={"cipher": ours}, server={"cipher": theirs}) as pair:
        pair.start()
        pair.run(10.0)
        expected = f'the server uses cipher {theirs.value}: set "cipher": "{theirs.value}" on this side too'
        assert pair.client.role.reason == expected
        assert not pair.server.role.sessions_by_id


def test_nobody_there() -> None:
    with Pair() as pair:
        pair.wire.drop.append(lambda toward, _: toward is Toward.CLIENT)
        pair.start()
        assert pair.client.role.reason == "dialling 192.0.2.2, no answer yet"
        pair.run(20.0)
        assert pair.client.role.reason.startswith("no answer from 192.0.2.2 on port 100")
        sent = pair.wire.sent[Toward.SERVER]
        pair.run(300.0)
        assert pair.wire.sent[Toward.SERVER] - sent < 300 / 20 * 10 * 5, "it backs off"


def test_a_full_server_turns_hellos_away_and_forgets_the_session_without_flows() -> None:
    with Pair(server={"max_sessions": 1}) as pair:
        pair.up()
        first = next(iter(pair.server.role.sessions_by_id))
        old = pair.client
        pair.replace_client()
        pair.start()
        pair.run_until(lambda: pair.client.role.reason.startswith("the server has as many sessions"), 5.0)
        assert pair.client.role.why.turned_away
        assert list(pair.server.role.sessions_by_id) == [first]
        old.role.stop(pair.now)
        pair.run_until(lambda: pair.client.role.session is not None, 60.0)
        assert not pair.client.role.turned_away
        assert first not in pair.server.role.sessions_by_id


def test_the_secret_is_not_in_the_parameters_text() -> None:
    with Pair() as pair:
        assert SECRET.decode() not in repr(pair._client_parameters)


def test_a_second_address_of_the_server_is_tried() -> None:
    dead = SERVER_ADDRESS[4] + 7
    with Pair(client={"server": (dead, SERVER_ADDRESS[4])}) as pair:
        pair.wire.drop.append(lambda toward, packet: toward is Toward.SERVER and packet[16:20] == dead.packed)
        pair.start()
        pair.run_until(lambda: pair.client.role.session is not None, 3.5)
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 2.0)


def test_addresses_are_tried_in_their_order_and_then_with_back_off() -> None:
    """Two or three seconds for each that is silent, and no storm when none of them answers."""
    servers = tuple(SERVER_ADDRESS[4] + at for at in (5, 6, 7))
    with Pair(client={"server": servers}) as pair:
        order: list[int] = []
        syns: list[float] = []

        def dead(_: Toward, packet: bytes) -> bool:
            syns.append(pair.now)
            last = packet[19] - SERVER_ADDRESS[4].packed[3]
            if not order or order[-1] != last:
                order.append(last)
            return True

        pair.wire.drop.append(dead)
        pair.start()
        pair.run(8.0)
        assert order == [5, 6, 7]
        pair.run(112.0)
        assert set(order[3:]) == {5, 6, 7}
        assert len([when for when in syns if when > pair.now - 60]) < 10 * 4 * 4, "ten slots, 30 s of back-off"


def test_an_address_that_answers_its_syns_is_not_passed_over() -> None:
    """It is alive, and says why it takes nobody: the reason must not be covered by the next address's silence."""
    with Pair(client={"server": (SERVER_ADDRESS[4], SERVER_ADDRESS[4] + 7), "secret": bytes(range(32))}) as pair:
        pair.start()
        pair.run(5.0)
        assert pair.client.role.remote_text == str(SERVER_ADDRESS[4])


def test_addresses_of_both_families() -> None:
    """While a port is being got, the other address may have become the one to use: the port is for the first."""
    with Pair(client={"server": (SERVER_ADDRESS[4], SERVER_ADDRESS[6])}) as pair:
        pair.wire.drop.append(lambda toward, packet: toward is Toward.SERVER and packet[0] >> 4 == 4)
        pair.port_delay = 0.3
        pair.start()
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 60.0)
        assert pair.client.role.remote_text == str(SERVER_ADDRESS[6])


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_nat_that_forgets_a_quiet_application(seed: int) -> None:
    """Two datagrams a second over ten flows: most flows are idle, and all of them are dead at once."""
    nat = Nat(PUBLIC)
    with Pair(seed, nat=nat) as pair:
        pair.up()
        pair.say("app", b"first")
        pair.run(15.0)
        nat.rebind(None)
        began, last = pair.now, len(pair.at_target)
        while len(pair.at_target) == last or pair.now - began < 1.0:
            last = len(pair.at_target)
            pair.say("app", b"at %d" % round(pair.now * 1000))
            pair.run(0.5)
            assert pair.now - began < 5.0
        assert len(pair.flows(pair.client)) >= 1


@pytest.mark.parametrize("outage", [6.0, 25.0, 90.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_an_outage_every_flow_returns_at_once(outage: float, seed: int) -> None:
    """Nothing passes for a while, and the application goes on trying: no back-off may keep it waiting afterwards."""
    with Pair(seed) as pair:
        pair.up()
        talk(pair, 3.0, tag=b"before")
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(loss=1.0))
        talk(pair, outage, tag=b"lost")
        pair.wire.conditions = dict.fromkeys(Toward, Conditions())
        pair.at_target.clear()
        began = pair.now
        while not pair.at_target:
            talk(pair, 0.1, tag=b"after")
            assert pair.now - began < 3.0
        began = pair.now
        while len(pair.flows(pair.client)) < 10:
            talk(pair, 0.1, tag=b"more")
            assert pair.now - began < 5.0


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_the_server_learns_at_once_which_flows_were_given_up(*, moved: bool, cipher: Cipher) -> None:
    """After an outage, or from behind another NAT: answers on the old flows would be lost until its own probes fail."""
    nat = Nat(PUBLIC)
    with Pair(cipher=cipher, nat=nat) as pair:
        pair.up()
        talk(pair, 1.0, tag=b"before")
        if moved:
            pair.run(15.0)  # idle flows are not watched closely
            nat.rebind(OTHER_PUBLIC)
            pair.client.role.reconnect(pair.now)
            pair.flush()
            pair.run(0.8)
        else:
            pair.wire.conditions = dict.fromkeys(Toward, Conditions(loss=1.0))
            pair.run_until(lambda: not pair.flows(pair.client), 15.0)
            assert len(pair.flows(pair.server)) > 0, "both found out at the same time: this shows nothing"
            pair.wire.conditions = dict.fromkeys(Toward, Conditions())
            pair.say("app", b"wake")
            pair.run_until(lambda: bool(pair.flows(pair.client)), 5.0)
            pair.run(0.1)
        pair.at_app.clear()
        for datagram in numbered(200, 100, b"down"):
            pair.reply(pair.server_peer(), datagram)  # each on a flow of its own
        pair.run(0.5)
        assert len(pair.at_app) == 200


def test_an_outage_is_no_storm_of_syns() -> None:
    with Pair() as pair:
        pair.up()
        talk(pair, 1.0, tag=b"before")
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(loss=1.0))
        pair.run(60.0)
        before = pair.wire.sent[Toward.SERVER]
        talk(pair, 60.0, tag=b"lost")
        assert pair.wire.sent[Toward.SERVER] - before <= 60 / 2 * 4 + 10 * 4 * 3


def test_a_server_that_serves_few_of_the_ports() -> None:
    """More ports than flows: a port that does not answer gives its slot to another, until every slot has its flow."""
    served = range(10001, 10011)
    with Pair(client={"ports": (PortRange(10001, 10020),)}) as pair:
        pair.wire.drop.append(
            lambda toward, packet: toward is Toward.SERVER and int.from_bytes(packet[22:24], "big") not in served
        )
        pair.start()
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 90.0)
        assert sorted(flow.key.remote_port for flow in pair.flows(pair.client)) == list(served)


def test_a_slow_path_is_not_a_dead_one() -> None:
    """A round trip of 700 ms from the start: SYNs are repeated before the answer comes, and still it stands."""
    with Pair(conditions=Conditions(delay=0.35)) as pair:
        pair.start()
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 15.0)
        pair.say("app", *numbered(50, 1000))
        pair.run(30.0)
        assert len(pair.heard()) == 50
        assert len(pair.flows(pair.client)) == 10


def test_a_port_that_cannot_be_had_is_no_reason_while_flows_carry() -> None:
    with Pair(client={"flows": 2}) as pair:
        pair.up()
        pair.client.role.port_refused(pair.now, 1, "too many open files")
        assert pair.client.role.reason == ""


def dead_ports(pair: Pair, ports: range, *, rst: bool) -> Counter[int]:
    """Ports of the server that answer no SYN, or with RST; SYNs to each of them from now on."""
    dialled = Counter[int]()

    def refuse(toward: Toward, packet: bytes) -> bool:
        if toward is not Toward.SERVER or (tcp := parse_tcp(packet)).destination[1] not in ports:
            return False
        dialled[tcp.destination[1]] += bool(tcp.flags & SYN)
        if rst and tcp.flags & SYN:
            answer = make_tcp(tcp.destination, tcp.source, 0, tcp.end, RST | ACK)
            pair.wire.inject(pair.now, Toward.CLIENT, answer, behind_judge=True)
        return True

    pair.wire.drop.append(refuse)
    return dialled


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP, Kinds.ALL])
@pytest.mark.parametrize("outage", [10.0, 60.0])
def test_after_the_own_link_was_down_every_flow_returns_at_once(kinds: Kinds, outage: float) -> None:
    """There was no route, so no dial left this host."""
    wanted = 20 if kinds is Kinds.ALL else 10
    with Pair(kinds=kinds) as pair:
        pair.up()
        talk(pair, 3.0, tag=b"before")
        pair.no_way = "no route"
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(loss=1.0))
        talk(pair, outage, tag=b"lost")
        assert not pair.flows(pair.client)
        pair.no_way = ""
        pair.wire.conditions = dict.fromkeys(Toward, Conditions())
        began = pair.now
        while len(pair.flows(pair.client)) < wanted:
            talk(pair, 0.1, tag=b"more")
            assert pair.now - began < 3.0


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
def test_news_of_the_link_end_the_back_off(kinds: Kinds) -> None:
    """Nothing waits to be sent: only the news tell that the way may be open again."""
    with Pair(kinds=kinds, client={"idle_timeout": 0.0}) as pair:
        pair.up()
        pair.no_way = "no route"
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(loss=1.0))
        pair.run(70.0)
        assert not pair.flows(pair.client)
        pair.no_way = ""
        pair.wire.conditions = dict.fromkeys(Toward, Conditions())
        pair.client.role.hurry(pair.now)
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 1.0)


def test_after_a_server_was_down_every_flow_returns_at_once() -> None:
    """Its kernel refused every SYN."""
    with Pair() as pair:
        pair.up()
        talk(pair, 3.0, tag=b"before")
        pair.restart_server()
        dead_ports(pair, range(65536), rst=True)
        talk(pair, 60.0, tag=b"lost")
        pair.wire.drop.clear()
        began = pair.now
        while len(pair.flows(pair.client)) < 10:
            talk(pair, 0.1, tag=b"more")
            assert pair.now - began < 3.0


@pytest.mark.parametrize("rst", [True, False])
def test_good_ports_take_the_flows_of_dead_ones(*, rst: bool) -> None:
    with Pair() as pair:
        dialled = dead_ports(pair, range(10001, 10006), rst=rst)
        pair.start()
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 10.0)
        talk(pair, 60.0, tag=b"on")
        ports = Counter(flow.key.remote_port for flow in pair.flows(pair.client))
        assert ports.keys() == set(range(10006, 10011))
        assert max(ports.values()) <= 3
        assert max(dialled.values()) <= 8, "the dead ones are left alone"


def test_ports_that_die_under_traffic_and_live_again() -> None:
    with Pair(client={"flow_age": 20.0}) as pair:
        pair.up()
        talk(pair, 5.0, tag=b"before")
        dialled = dead_ports(pair, range(10001, 10006), rst=False)
        talk(pair, 28.0, tag=b"dead")
        assert len(pair.flows(pair.client)) == 10
        assert max(dialled.values()) <= 16
        pair.wire.drop.clear()
        talk(pair, 60.0, tag=b"alive")
        assert len({flow.key.remote_port for flow in pair.flows(pair.client)}) == 10, "renewed flows try them again"


@pytest.mark.parametrize("kinds", Kinds)
@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("delay", [0.01, 0.05])
def test_a_nat_that_forgets_costs_less_than_a_second(kinds: Kinds, delay: float, *, back: bool) -> None:
    """All flows are dead at once, and nothing tells the client.  Also if only the application sends."""
    nat = Nat(PUBLIC)
    with Pair(kinds=kinds, nat=nat, conditions=Conditions(delay=delay)) as pair:
        pair.up()
        talk(pair, 15.0, tag=b"before", back=back)
        nat.rebind(OTHER_PUBLIC)
        talk(pair, 1.0, tag=b"lost", back=back)
        pair.at_target.clear()
        pair.at_app.clear()
        talk(pair, 2.0, tag=b"on", back=back)
        pair.run(0.2)
        assert len([datagram for _, datagram in pair.at_target if datagram.startswith(b"on")]) == 100
        if back:
            assert len([datagram for _, datagram in pair.at_app if datagram.startswith(b"on")]) > 90
        pair.run_until(lambda: len(pair.flows(pair.client)) == (20 if kinds is Kinds.ALL else 10), 5.0)


def test_datagrams_that_nobody_answers_are_no_alarm() -> None:
    """Over UDP nothing comes back but answers to probes."""
    with Pair(kinds=Kinds.UDP) as pair:
        pair.up()
        talk(pair, 5.0, tag=b"a", back=False)
        back = pair.wire.sent[Toward.CLIENT]
        flows = pair.flows(pair.client)
        talk(pair, 20.0, tag=b"b", back=False)
        assert pair.wire.sent[Toward.CLIENT] - back < 20 * 10 * 2 * 2, "two probes of each flow and end a second"
        assert pair.flows(pair.client) == flows
