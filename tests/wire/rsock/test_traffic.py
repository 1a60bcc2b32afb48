"""Wire rsock between our own two ends: the original's bytes, in front of a strict firewall."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from rsock_nf.core.events import ConversationClosed, FlowClosed, FlowOpened, SessionUp
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import State
from rsock_nf.core.types import Checksum, Packet, PortRange
from rsock_nf.wire.rsock.frames import RsockKeys
from tests.core.conntrack import ACK, FIN, PSH, RST, SYN
from tests.core.pair import START, numbered
from tests.core.test_flows import too_big
from tests.core.wire import Conditions, Crossing, Merge, Nat, Predicate, Toward
from tests.wire.rsock.pair import DATA, KEEP_ALIVE_REQ, KEEP_ALIVE_RESP, NETCONN_RST, RsockPair

LOSSY = Conditions(delay=0.03, loss=0.05, reorder=0.05, duplicate=0.01)


def taps(pair: RsockPair) -> list[Crossing]:
    """Every packet at the judge from now on."""
    seen: list[Crossing] = []
    pair.wire.taps.append(seen.append)
    return seen


def commands(seen: list[Crossing], toward: Toward | None = None) -> Counter[int]:
    """What kinds of frame crossed."""
    return Counter(one.tcp.payload[9] for one in seen if one.tcp.payload and toward in (None, one.toward))


def numbers(pair: RsockPair) -> set[int]:
    """Of the conversations that the server has."""
    return {number for session in pair.server.role.sessions_by_id.values() for number in session.group.conversations}


def believed(session: Session) -> bool:
    """Its peer's acknowledgements are."""
    assert isinstance(session.keys, RsockKeys)
    return session.keys.believed


def load(pair: RsockPair, seconds: float, rate: int = 200, size: int = 1200) -> int:
    """``rate`` datagrams a second, eight a read; how many."""
    end, sent = pair.now + seconds, 0
    while pair.now < end:
        pair.say("app", *numbered(8, size, b"%010.3f" % pair.now, sent))
        sent += 8
        pair.run(8 / rate)
    return sent


def swallow(port: int) -> Predicate:
    """Everything of the flow to this server port is lost."""

    def lost(_toward: Toward, packet: bytes) -> bool:
        return port in (int.from_bytes(packet[20:22], "big"), int.from_bytes(packet[22:24], "big"))

    return lost


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_go_and_come(family: int, version: int) -> None:
    with RsockPair(client={"rsock_version": version}, family=family) as pair:
        pair.echo = True
        seen = taps(pair)
        pair.up()
        pair.say("one", *numbered(40, 1000, b"one"))
        pair.say("two", b"x")
        pair.run(1.0)
        assert sorted(pair.heard()) == sorted(datagram for _, datagram in pair.at_app)
        assert len(pair.at_app) == 41
        assert numbers(pair) == {2, 3}
        assert {one.tcp.payload[8] for one in seen if one.tcp.payload} == {23 if version == 2 else 19}


def test_each_frame_is_a_segment_with_psh_of_its_own() -> None:
    """The frames have no length, and an original drops what GRO merged."""
    with RsockPair() as pair:
        pair.echo = True
        seen = taps(pair)
        pair.up()
        pair.say("app", *numbered(30, 1000))
        pair.run(0.5)
        data = [one.tcp for one in seen if one.tcp.payload]
        assert len(data) == 60
        assert {len(tcp.payload) for tcp in data} == {1031}
        assert {tcp.flags for tcp in data} == {PSH | ACK}


def test_a_flow_carries_traffic_as_soon_as_it_looks_established() -> None:
    with RsockPair(conditions=Conditions(delay=0.05)) as pair:
        pair.say("app", b"first")
        took = pair.run_until(lambda: bool(pair.at_target), 1.0)
        assert took < 0.151  # SYN, SYN-ACK, then the datagram
        assert pair.count(SessionUp, Toward.CLIENT) == 1


def test_the_first_burst_waits_for_credit_and_loses_nothing() -> None:
    """The window of a SYN-ACK is 64 kB, unscaled: ten flows have less than half of this, and the first alone a
    tenth."""
    with RsockPair(conditions=Conditions(delay=0.05)) as pair:
        sent = numbered(500, 1200)
        pair.say("app", *sent)
        pair.run(1.0)
        assert sorted(pair.heard()) == sent
        assert pair.client.role.group.no_credit == 0
        assert not pair.client.role.group.patient


def test_data_comes_first_on_every_flow_and_nothing_on_a_flow_without_data() -> None:
    """An original's server knows a flow by its first datagram, and resets what it does not know."""
    with RsockPair(client={"idle_timeout": 0.0, "duration": 1000.0}, server={"duration": 1000.0}) as pair:
        pair.up()
        pair.run(1.0)
        seen = taps(pair)
        pair.run(60.0)
        assert not seen
        pair.say("app", b"only one")
        pair.run(60.0)
        assert len({frozenset((one.tcp.source, one.tcp.destination)) for one in seen}) == 1
        first = next(one for one in seen if one.tcp.payload)
        assert first.tcp.payload[9] == DATA
        asked = commands(seen, Toward.SERVER)[KEEP_ALIVE_REQ]
        assert 12 <= asked <= 20  # every 4 s, give or take
        assert pair.count(FlowOpened, Toward.CLIENT) == 10


def test_a_keepalive_travels_on_its_own_flow_and_so_does_the_answer() -> None:
    with RsockPair() as pair:
        pair.up()
        seen = taps(pair)
        load(pair, 10.0)
        frames = [one.tcp.payload for one in seen if one.tcp.payload and one.tcp.payload[9] >= KEEP_ALIVE_REQ]
        assert len(frames) > 40
        assert all(payload[22:30] == payload[31:39] for payload in frames)
        asked = commands(seen)
        assert asked[KEEP_ALIVE_REQ] == asked[KEEP_ALIVE_RESP]
        assert asked[NETCONN_RST] == 0
        assert all(flow.health.srtt and flow.health.srtt < 0.05 for flow in pair.flows(pair.client))


@pytest.mark.parametrize("direction", list(Toward))
def test_a_flow_that_swallows_is_avoided_then_replaced(direction: Toward) -> None:
    with RsockPair() as pair:
        pair.echo = True
        pair.up()
        load(pair, 6.0)
        lost = swallow(10_004)
        pair.wire.drop.append(lambda toward, packet: toward is direction and lost(toward, packet))
        began = pair.now
        pair.run_until(lambda: bool(load(pair, 0.2)) and pair.count(FlowClosed, Toward.CLIENT) > 0, 20.0)
        assert 5.0 < pair.now - began < 14.0
        pair.wire.drop.clear()
        load(pair, 8.0)
        assert len(pair.flows(pair.client)) == 10
        assert len(pair.flows(pair.server)) == 10


def test_bulk_avoids_a_flow_whose_keepalive_is_overdue() -> None:
    with RsockPair() as pair:
        pair.up()
        load(pair, 6.0)
        pair.wire.drop.append(swallow(10_004))
        load(pair, 3.5)
        before = len(pair.heard())
        sent = load(pair, 3.0)
        pair.run(0.1)
        assert len(pair.heard()) - before >= sent


@pytest.mark.parametrize("kind", ["plain", "clamped", "no scale"])
def test_nothing_is_invalid_for_a_strict_firewall(kind: str) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "clamped": {"clamp_mss": 1400},
        "no scale": {"strip_scale": tuple(Toward)},
    }
    with RsockPair(conditions=LOSSY, nat=Nat(b"\xc6\x33\x64\x01"), late_syns=True, **kinds[kind]) as pair:
        pair.echo = True
        pair.up()
        for _ in range(20):
            pair.say("app", *numbered(400, 1000, b"%f" % pair.now))
            pair.run(0.25)
        assert len(pair.heard()) > 7000
        assert pair.server.role.sessions_by_id
        assert all(believed(session) for session in pair.server.sessions)
        assert all(believed(session) for session in pair.client.sessions)


def test_the_window_holds_through_a_black_hole() -> None:
    """Five seconds at full load in which the tracker sees our segments pass, and nothing come back."""
    with RsockPair(client={"flows": 1, "ports": (PortRange(10_001, 10_001),)}) as pair:
        pair.up()
        load(pair, 2.0)
        hole = swallow(10_001)
        pair.wire.drop.append(lambda toward, packet: toward is Toward.CLIENT and hole(toward, packet))
        for _ in range(30):
            pair.say("app", *numbered(800, 1400, b"%f" % pair.now))
            pair.run(0.1)
        assert pair.client.role.group.no_credit > 0
        pair.wire.drop.clear()
        before = len(pair.heard())
        pair.run(5.0)
        sent = load(pair, 2.0)
        assert len(pair.heard()) - before >= sent


def test_the_servers_segments_fit_what_the_syn_said() -> None:
    """Nobody states an MSS on this wire: the cookie remembers it, rounded down."""
    for clamp, largest in ((1400, 1400), (1452, 1452), (1399, 1360), (600, 536)):
        with RsockPair(clamp_mss=clamp) as pair:
            pair.up()
            pair.say("app", b"x")
            pair.run(0.5)
            (session,) = pair.server.role.sessions_by_id.values()
            assert session.usable_payload() == largest
            pair.reply(pair.server_peer(), b"y" * (largest - 31), b"z" * (largest - 30))
            pair.run(0.5)
            assert [len(datagram) for _, datagram in pair.at_app] == [largest - 31]
            assert pair.server.counters["datagrams too large"] == 1
            assert pair.server.sessions[0].group.oversized == 1


def test_no_segment_is_larger_than_an_original_takes() -> None:
    with RsockPair(mtu=9000) as pair:
        seen = taps(pair)
        pair.up()
        pair.say("app", b"a" * 1437, b"b" * 1429)
        pair.run(0.5)
        assert [len(datagram) for datagram in pair.heard()] == [1437, 1429]
        pair.say("app", b"c" * 1438)
        pair.run(0.5)
        assert len(pair.heard()) == 2
        assert pair.client.counters["datagrams too large"] == 1
        assert max(len(one.tcp.payload) for one in seen) == 1468


def test_an_empty_datagram_cannot_travel() -> None:
    with RsockPair() as pair:
        pair.up()
        pair.say("app", b"full", b"")
        pair.say("app", b"")
        pair.run(0.5)
        assert pair.heard() == [b"full"]
        assert pair.client.counters["empty datagrams"] == 2


@pytest.mark.parametrize("merge", [Merge.SIZED, Merge.UNSIZED])
def test_psh_keeps_frames_apart_whatever_the_receiver_merges(merge: Merge) -> None:
    with RsockPair(conditions=Conditions(merge=merge)) as pair:
        pair.echo = True
        pair.up()
        for _ in range(20):
            pair.say("app", *numbered(40, 1000, b"%f" % pair.now))
            pair.run(0.1)
        assert len(pair.heard()) == len(pair.at_app) == 800


def test_a_conversation_that_rests_is_closed_at_both_ends() -> None:
    with RsockPair(client={"duration": 20.0, "idle_timeout": 0.0}) as pair:
        pair.up()
        pair.say("app", b"x")
        pair.run(1.0)
        assert pair.sockets
        pair.run(25.0)
        assert not pair.sockets
        assert pair.count(ConversationClosed) == 1
        pair.say("app", b"y")
        pair.run(1.0)
        assert numbers(pair) == {3}


def test_a_conversation_that_the_server_closed_is_opened_anew() -> None:
    with RsockPair(server={"duration": 10.0}) as pair:
        pair.up()
        pair.say("app", b"x")
        pair.run(20.0)
        assert not pair.sockets
        pair.say("app", b"y")
        pair.run(1.0)
        assert pair.heard() == [b"x", b"y"]


def test_the_longest_silent_conversation_makes_room() -> None:
    """The client is not told: its next datagram opens the conversation again."""
    with RsockPair(server={"max_conversations": 2}) as pair:
        pair.up()
        pair.echo = True
        for peer in (0, 1, 2, 0):
            pair.say(peer, b"of %d" % peer)
            pair.run(1.5)
            assert len(pair.sockets) <= 2
        assert pair.heard() == [b"of 0", b"of 1", b"of 2", b"of 0"]
        assert pair.at_app == [(0, b"of 0"), (1, b"of 1"), (2, b"of 2"), (0, b"of 0")]


def test_an_unused_tunnel_goes_silent_and_wakes() -> None:
    with RsockPair(client={"duration": 10.0, "idle_timeout": 10.0}) as pair:
        pair.up()
        seen = taps(pair)
        pair.say("app", b"x")
        pair.run(25.0)
        assert pair.client.role.idle
        assert not pair.client.flows
        assert not pair.server.flows
        assert sum(bool(one.tcp.flags & FIN) for one in seen) == 20  # ten flows, both sides
        del seen[:]
        pair.run(60.0)
        assert not seen
        pair.say("app", b"y")
        pair.run(1.0)
        assert pair.heard() == [b"x", b"y"]


@pytest.mark.parametrize("end", ["client", "server"])
def test_who_stops_says_so(end: str) -> None:
    with RsockPair() as pair:
        pair.up()
        load(pair, 3.0)
        node = getattr(pair, end)
        node.role.stop(pair.now)
        pair.flush()
        pair.run_until(lambda: not node.closing, 1.0)
        pair.run(0.5)
        other = pair.server if end == "client" else pair.client
        assert not pair.flows(other)
        if end == "server":
            pair.client.role._close_flows(pair.now, "the test ends")
            pair.run(5.0)


def test_a_restarted_server_says_so_by_rst() -> None:
    """It knows the key, and not the handshake: the client's connections are gone, and only the client can dial."""
    with RsockPair(resets_allowed=True) as pair:
        pair.up()
        load(pair, 3.0)
        pair.restart_server()
        began = pair.now
        before = len(pair.heard())
        pair.run_until(lambda: bool(load(pair, 0.1)) and len(pair.heard()) > before, 5.0)
        assert pair.now - began < 2.0
        load(pair, 5.0)
        assert len(pair.flows(pair.client)) == 10
        assert {one.toward for one in pair.wire.resets} == {Toward.CLIENT}


def test_a_restarted_server_tells_nobody_who_lacks_the_key() -> None:
    with RsockPair(client={"hash_key": b"another"}) as pair:
        seen = taps(pair)
        pair.up()
        load(pair, 3.0)
        assert not pair.server.role.sessions_by_id
        assert not pair.at_target
        assert pair.server.counters["payloads from strangers"] > 100
        assert all(one.tcp.flags & SYN for one in seen if one.toward is Toward.CLIENT)


def test_a_client_with_another_key_says_what_it_may_be() -> None:
    """Until the server answers, after a restart with the right one."""
    with RsockPair(client={"hash_key": b"another"}, resets_allowed=True) as pair:
        pair.up()
        load(pair, 15.0)
        assert "hash" in pair.client.role.reason
        pair.server_key = b"another"
        pair.restart_server()
        load(pair, 15.0)
        assert pair.client.role.reason == ""
        assert pair.heard()


def test_a_rebound_nat_costs_the_flows_and_nothing_else() -> None:
    nat = Nat(b"\xc6\x33\x64\x01")
    with RsockPair(nat=nat, resets_allowed=True, late_syns=True, strict=False) as pair:
        pair.up()
        load(pair, 3.0)
        peer = pair.server_peer()
        nat.rebind(b"\xc6\x33\x64\x02")
        pair.wire.tracker = type(pair.wire.tracker)()
        load(pair, 15.0)
        before = len(pair.heard())
        sent = load(pair, 2.0)
        pair.run(0.2)
        assert len(pair.heard()) - before >= sent
        assert pair.server_peer() == peer
        pair.wire.invalid.clear()


def test_after_an_outage_the_server_answers_on_the_new_flows_alone() -> None:
    """Its own probes would take twelve seconds to tell it which of the old ones are dead."""
    with RsockPair() as pair:
        pair.up()
        load(pair, 3.0)
        peer = pair.server_peer()
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(loss=1.0))
        load(pair, 0.5)
        pair.run_until(lambda: not pair.flows(pair.client), 15.0)
        assert len(pair.flows(pair.server)) > 0, "both found out at the same time: this shows nothing"
        pair.wire.conditions = dict.fromkeys(Toward, Conditions())
        seen = taps(pair)
        pair.say("app", b"wake")
        pair.run_until(lambda: bool(pair.flows(pair.client)), 5.0)
        pair.run(0.1)
        first = next(one for one in seen if one.tcp.payload)
        assert first.tcp.payload[9] == DATA, "an original's server knows no flow before its first datagram"
        assert commands(seen, Toward.SERVER)[NETCONN_RST] > 0
        pair.at_app.clear()
        for datagram in numbered(200, 100, b"down"):
            pair.reply(peer, datagram)
        pair.run(0.5)
        assert len(pair.at_app) == 200


def test_a_flow_that_has_the_name_of_one_given_up_lives() -> None:
    """Flows are called by their ports, and ports are used again."""
    with RsockPair() as pair:
        pair.up()
        load(pair, 1.0)
        flows = pair.flows(pair.client)
        pair.client.role._given_up.extend([*(flow.flow_id for flow in flows), 12345])
        seen = taps(pair)
        pair.client.role._tell_given_up(flows[0])
        load(pair, 1.0)
        assert commands(seen, Toward.SERVER)[NETCONN_RST] == 1
        assert pair.flows(pair.client) == flows


def test_reconnecting_keeps_conversations() -> None:
    with RsockPair() as pair:
        pair.up()
        pair.say("app", b"x")
        pair.run(1.0)
        pair.client.role.reconnect(pair.now)
        pair.flush()
        pair.run(1.0)
        pair.say("app", b"y")
        pair.run(1.0)
        assert pair.heard() == [b"x", b"y"]
        assert len(pair.sockets) == 1


def claim_too_big(pair: RsockPair, flow: Established, seq: int) -> None:
    """A router on the client's way says that 1,240 bytes pass."""
    key = flow.key
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 1, 0, 60, 6, 0, key.local, key.remote)
    inner = ip + struct.pack("!HHI", key.local_port, key.remote_port, seq & 0xFFFFFFFF)
    pair.client.receive_packets(pair.now, [Packet(memoryview(too_big(inner, 1240)), 0, Checksum.VERIFY, b"link")])


def test_icmp_shortens_what_passes() -> None:
    with RsockPair(client={"flows": 1}) as pair:
        pair.up()
        load(pair, 2.0)
        flow = pair.flows(pair.client)[0]
        assert pair.client.role.session is not None
        claim_too_big(pair, flow, flow.pump.highest_ack - 10)
        assert pair.client.role.session.usable_payload() == 1460, "not of what is acknowledged"
        pair.say("app", bytes(500))
        claim_too_big(pair, flow, flow.pump.highest_ack)
        assert pair.client.role.session.usable_payload() == 1200, "no probe can ask the path: it is believed"
        assert flow.path.whole == 1460
        pair.run(30.0)
        assert flow.path.size == 1200


def test_what_icmp_said_is_forgotten_after_a_while() -> None:
    """Nothing on this wire asks the path again: without that, what was narrow once would be so for the flow's life."""
    with RsockPair() as pair:
        pair.up()
        pair.say("app", *numbered(100, 500))
        flow = next(flow for flow in pair.flows(pair.client) if flow.pump.sent_frames)
        assert flow.path.reduce(pair.now, 1200)
        pair.client.pump.set_max_payload(flow.pump, flow.path.size)
        for minute in range(11):
            assert flow.pump.max_payload == 1200, minute
            pair.say("app", *numbered(20, 500, b"%d/" % minute))
            pair.run(60.0)
        assert flow.pump.max_payload == 1460


def test_a_link_that_is_wider_again_is_used() -> None:
    with RsockPair() as pair:
        pair.up()
        load(pair, 1.0)
        assert pair.client.role.session is not None
        for mtu in (1300, 1500):
            for node in (pair.client, pair.server):
                node.receive_mtu(pair.now, mtu, 64_000)
            assert pair.client.role.session.usable_payload() == mtu - 40


def test_the_last_word_of_a_flow_is_understood_though_its_fin_was_lost() -> None:
    """``NETCONN_RST`` and FIN go together, up to three times."""
    with RsockPair(client={"duration": 5.0, "idle_timeout": 5.0}) as pair:
        pair.up()
        load(pair, 2.0)
        lost: Callable[[Toward, bytes], bool] = lambda _, packet: bool(packet[33] & FIN) and pair.now < START + 8.0  # noqa: E731
        pair.wire.drop.append(lost)
        pair.run(30.0)
        assert not pair.client.flows
        assert not pair.server.flows


def test_no_rst_is_ours_but_the_restarted_servers() -> None:
    with RsockPair(conditions=LOSSY, late_syns=True) as pair:
        seen = taps(pair)
        pair.up()
        load(pair, 5.0)
        pair.client.role.sleep(pair.now, "the test ends")
        pair.flush()
        pair.run(10.0)
        assert not any(one.tcp.flags & RST for one in seen)
        assert {flow.state for flow in pair.server.flows} <= {State.ESTABLISHED, State.LINGERING}


def test_a_close_frame_may_be_the_first_frame_on_a_flow() -> None:
    """The server takes datagrams, says nothing, and stops before it has answered a keep-alive request."""
    with RsockPair(client={"flows": 2}) as pair:
        pair.up()
        for at in range(20):
            pair.say("app", *numbered(4, 100, b"%d." % at))
            pair.run(0.01)
        assert pair.heard()
        flows = pair.flows(pair.client)
        assert all(not flow.pump.received_frames for flow in flows)
        pair.server.role.stop(pair.now)
        pair.run(0.5)
        assert all(flow.state is not State.ESTABLISHED for flow in flows)
        assert {event.reason for _, _, event in pair.events if isinstance(event, FlowClosed)} <= {
            "the other side closed it",
            "this side ends",
        }


def test_the_state_of_a_target_has_no_words_here_and_is_not_told() -> None:
    with RsockPair() as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(1.0)
        assert pair.server.sessions
        pair.server.role.tell_target(pair.now, 0, refuses=True)
        pair.run(1.0)
        assert pair.client.role.reason == ""
        pair.say("app", b"still there")
        pair.run(1.0)
        assert pair.heard()[-1] == b"still there"
