"""Flows over UDP kinds: alone, beside fake TCP, and where the path lets only one of the two kinds pass."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsock_nf.core import messages
from rsock_nf.core.events import FlowClosed, SessionDown, SessionUp
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from rsock_nf.core.parameters import Cipher, Kinds
from rsock_nf.core.types import Carried, FlowKey
from rsock_nf.wire.native.half_open import BURST
from tests.core.conntrack import parse_tcp
from tests.core.outputs import outputs
from tests.core.pair import CLIENT_ADDRESS, SERVER_ADDRESS, Pair, numbered
from tests.core.wire import Conditions, Merge, Nat, Predicate, Toward, endpoints, is_udp, make_udp

KINDS = [Kinds.UDP, Kinds.ALL]
PUBLIC = b"\xcb\x00\x71\x07"
STRANGER = (b"\xc6\x33\x64\x63", 5555)
SERVER_PORT = (SERVER_ADDRESS[4].packed, 10001)


def kinds_up(pair: Pair) -> Counter[bool]:
    """The client's established flows: UDP? → how many."""
    return Counter(flow.key.udp for flow in pair.flows(pair.client))


def only(udp: bool) -> Predicate:  # noqa: FBT001 - reads well: only(udp=True)
    """A router that loses everything of the other kind."""
    return lambda _, packet: is_udp(packet) is not udp


def exchange(pair: Pair, count: int, seconds: float, tag: bytes) -> tuple[int, int]:
    """A datagram at a time, evenly, and back; how many arrived at the target and at the application."""
    pair.echo = True
    before = len(pair.at_target), len(pair.at_app)
    for datagram in numbered(count, 900, tag):
        pair.say("app", datagram)
        pair.run(seconds / count)
    pair.run(0.5)
    return len(pair.at_target) - before[0], len(pair.at_app) - before[1]


@pytest.mark.parametrize("merge", Merge)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
@pytest.mark.parametrize("kinds", KINDS)
def test_what_goes_in_comes_out(kinds: Kinds, cipher: Cipher, family: int, merge: Merge) -> None:
    conditions = Conditions(merge=merge)
    with Pair(kinds=kinds, cipher=cipher, family=family, conditions=conditions) as pair:
        pair.up()
        assert kinds_up(pair) == {Kinds.UDP: {True: 10}, Kinds.ALL: {True: 10, False: 10}}[kinds]
        pair.echo = True
        sent: list[bytes] = []
        for at, size in enumerate([1200, 1, 0, 1400, 100, 3000, 1472] * 3):
            batch = numbered(40, size, b"%d/" % at) if size > 20 else [b"x" * size] * 3
            pair.say("app", *batch)
            sent += batch
            pair.run(0.1)
        pair.run(1.0)
        assert sorted(pair.heard()) == sorted(sent)
        assert sorted(datagram for _, datagram in pair.at_app) == sorted(sent)
        assert not pair.server.counters
        assert set(pair.client.counters) <= {"answers that are none"}


def test_udp_carriers_send_no_tcp_and_never_answer_more_than_they_got() -> None:
    seen: list[tuple[Toward, bytes]] = []

    def note(toward: Toward, packet: bytes) -> bool:
        seen.append((toward, packet))
        return False

    with Pair(kinds=Kinds.UDP) as pair:
        pair.wire.drop.append(note)
        pair.up()
        assert all(is_udp(packet) for _, packet in seen)
        balance: Counter[tuple[bytes, int]] = Counter()
        unconfirmed = 0
        for toward, packet in seen:
            source, destination, payload = endpoints(packet)
            client = source if toward is Toward.SERVER else destination
            said = len(
                [
                    1
                    for way, other in seen[: seen.index((toward, packet))]
                    if way is Toward.SERVER and client in endpoints(other)[:2]
                ]
            )
            if toward is Toward.SERVER:
                balance[client] += len(payload)
            elif said == 1:  # the hello or the join, and no confirmation yet
                unconfirmed += 1
                balance[client] -= len(payload)
                assert balance[client] >= 0
        assert unconfirmed >= 10


@pytest.mark.parametrize("seed", [0, 2, 3, 4])  # with seed 1 a SYN comes so late that the judge starts over
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.CHACHA20_POLY1305])
@pytest.mark.parametrize("kinds", KINDS)
def test_loss_duplication_and_reordering(kinds: Kinds, cipher: Cipher, seed: int) -> None:
    conditions = Conditions(loss=0.1, duplicate=0.2, reorder=0.3, merge=Merge.SIZED)
    with Pair(seed, kinds=kinds, cipher=cipher, conditions=conditions) as pair:
        pair.start()
        pair.run_until(lambda: pair.client.role.session is not None, 15.0)
        pair.run(5.0)
        for at in range(50):
            pair.say("app", *numbered(20, 500, first=20 * at))
            pair.run(0.05)
        pair.run(1.0)
        arrived = Counter(pair.heard())
        assert 800 < len(arrived) < 1000, "a tenth is lost, or a little more"
        if cipher is not Cipher.NONE:
            assert max(arrived.values()) == 1, "a replayed frame is delivered once"


@pytest.mark.parametrize("kinds", KINDS)
def test_a_nat_that_forgets(kinds: Kinds) -> None:
    with Pair(kinds=kinds, nat=Nat(PUBLIC)) as pair:
        pair.up()
        assert exchange(pair, 100, 2.0, b"a") == (100, 100)
        sockets = dict(pair.sockets)
        assert pair.wire.nat is not None
        pair.wire.nat.rebind(b"\xcb\x00\x71\x08")
        exchange(pair, 100, 16.0, b"b")  # a flow without traffic is found dead by its keepalive
        assert exchange(pair, 100, 2.0, b"c") == (100, 100)
        assert pair.sockets == sockets, "session and conversation outlive every address"
        assert pair.count(SessionUp, Toward.CLIENT) == 1
        pair.run(60.0)


@pytest.mark.parametrize("kinds", KINDS)
def test_a_server_restarts(kinds: Kinds) -> None:
    with Pair(kinds=kinds) as pair:
        pair.up()
        assert exchange(pair, 20, 1.0, b"a") == (20, 20)
        pair.restart_server()
        exchange(pair, 500, 5.0, b"b")
        assert exchange(pair, 100, 2.0, b"c") == (100, 100)
        assert pair.count(SessionUp, Toward.CLIENT) == 2


def test_a_long_outage_costs_no_session() -> None:
    """Unlike over TCP, unanswered joins say nothing of the server: only its own word ends the session."""
    with Pair(kinds=Kinds.UDP) as pair:
        pair.up()
        assert exchange(pair, 20, 1.0, b"a") == (20, 20)
        sockets = dict(pair.sockets)
        pair.wire.drop.append(lambda _toward, _packet: True)
        exchange(pair, 60, 60.0, b"b")
        pair.wire.drop.clear()
        exchange(pair, 10, 4.0, b"c")
        assert exchange(pair, 50, 1.0, b"d") == (50, 50)
        assert pair.sockets == sockets
        assert pair.count(SessionDown, Toward.CLIENT) == 0
        pair.run(40.0)
        assert kinds_up(pair)[True] == 10


@pytest.mark.parametrize("kinds", KINDS)
def test_idle_and_awake(kinds: Kinds) -> None:
    with Pair(kinds=kinds, client={"idle_timeout": 5.0, "duration": 10.0}, server={"duration": 10.0}) as pair:
        pair.up()
        assert exchange(pair, 10, 1.0, b"a") == (10, 10)
        pair.run(30.0)
        assert pair.client.role.idle
        assert not pair.client.flows
        assert not pair.server.flows
        before = dict(pair.wire.sent)
        pair.run(120.0)
        assert pair.wire.sent == before, "an idle tunnel is silent"
        assert exchange(pair, 10, 1.0, b"b") == (10, 10)
        assert pair.count(SessionUp, Toward.CLIENT) == 1, "the session was kept"


@pytest.mark.parametrize("lost", range(6))
@pytest.mark.parametrize("toward", Toward)
def test_a_close_frame_takes_the_place_of_fin(toward: Toward, lost: int) -> None:
    """The closer repeats it, anew each time; the other end answers each; nobody answers an answer."""
    with Pair(kinds=Kinds.UDP, client={"flows": 2}) as pair:
        pair.up()
        pair.run(3.0)
        left = [lost]

        def lose(to: Toward, _: bytes) -> bool:
            hit = to is toward and left[0] > 0
            left[0] -= hit
            return hit

        pair.wire.drop.append(lose)
        before = sum(pair.wire.sent.values())
        pair.client.role.sleep(pair.now, "test")
        pair.flush()
        pair.run(12.0)
        assert not pair.client.flows
        assert not pair.server.flows
        assert sum(pair.wire.sent.values()) - before <= 2 * 2 * 3 + 2 * 4, (
            "close frames, and probes of who did not hear them"
        )


def test_both_ends_close_at_once() -> None:
    with Pair(kinds=Kinds.ALL, conditions=Conditions(duplicate=1.0)) as pair:
        pair.up()
        pair.client.role.stop(pair.now)
        pair.server.role.stop(pair.now)
        pair.flush()
        pair.run(10.0)
        assert not pair.client.flows
        assert not pair.server.flows
        assert pair.wire.next_arrival() is None


# -- one kind does not pass ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("udp", [False, True])
def test_one_kind_is_blocked_from_the_start(*, udp: bool) -> None:
    """The other one carries everything, and soon; the blocked one is tried now and then."""
    tried: list[float] = []

    def lose(toward: Toward, packet: bytes) -> bool:
        blocked = is_udp(packet) is not udp
        if blocked and toward is Toward.SERVER:
            tried.append(pair.now)
        return blocked

    with Pair(kinds=Kinds.ALL, client={"idle_timeout": 0.0}) as pair:
        pair.wire.drop.append(lose)
        pair.start()
        assert pair.run_until(lambda: bool(pair.client.role.group.usable), 10.0) < 0.6
        assert exchange(pair, 100, 2.0, b"a") == (100, 100)
        pair.run(600.0)
        assert kinds_up(pair) == {udp: 10}
        assert pair.client.role.reason == ""
        assert pair.count(SessionUp, Toward.SERVER) <= 2
        late = [when for when in tried if when > pair.now - 300.0]
        assert 10 <= len(late) <= 10 * 4 * 3, "each slot once to three times in five minutes, four packets a time"
        assert pair.count(FlowClosed) == 0
        pair.wire.drop.clear()
        assert pair.run_until(lambda: kinds_up(pair) == {True: 10, False: 10}, 400.0)


@pytest.mark.parametrize("udp", [False, True])
def test_one_kind_is_blocked_later_and_passes_again(*, udp: bool) -> None:
    with Pair(kinds=Kinds.ALL) as pair:
        pair.up()
        assert exchange(pair, 100, 2.0, b"a") == (100, 100)
        pair.wire.drop.append(only(udp))
        arrived, _ = exchange(pair, 500, 5.0, b"b")
        assert arrived > 350, "half is lost until the first probes are overdue, a second at most"
        assert exchange(pair, 200, 2.0, b"c") == (200, 200)
        assert kinds_up(pair)[not udp] == 0
        pair.wire.drop.clear()
        pair.run(330.0)
        assert kinds_up(pair) == {True: 10, False: 10}
        assert pair.count(SessionUp, Toward.CLIENT) == 1


def test_the_kind_that_was_blocked_takes_over_at_once_when_the_other_one_fails() -> None:
    """Its slots have waited for minutes, because there were flows; they need not now."""
    with Pair(kinds=Kinds.ALL, client={"idle_timeout": 0.0}) as pair:
        pair.wire.drop.append(only(udp=False))
        pair.start()
        pair.run(600.0)
        assert kinds_up(pair) == {False: 10}
        pair.wire.drop[:] = [only(udp=True)]
        exchange(pair, 100, 14.0, b"a")
        assert kinds_up(pair)[True] == 10
        assert exchange(pair, 100, 2.0, b"b") == (100, 100)


@pytest.mark.slow
def test_a_kind_that_is_throttled_is_taken_out_of_use() -> None:
    """With as many flows of each kind the median of all would call nobody sick."""
    with Pair(7, kinds=Kinds.ALL) as pair:
        pair.up()
        throttle = pair.rng.random
        pair.wire.drop.append(lambda _, packet: is_udp(packet) and throttle() < 0.4)
        exchange(pair, 20_000, 20.0, b"a")
        arrived, returned = exchange(pair, 2000, 2.0, b"b")
        # Where nobody is taken out, 20 % are lost each way: 1,600 and 1,280.  Ten seeds gave 1,817 and 1,618 at least.
        assert arrived > 1750
        assert returned > 1500


def test_the_server_has_no_udp_port() -> None:
    """ICMP port unreachable ends a dial, and is never believed about a flow that stands."""
    refused: list[FlowKey] = []
    with Pair(kinds=Kinds.ALL, client={"idle_timeout": 0.0}) as pair:

        def refuse(toward: Toward, packet: bytes) -> bool:
            if is_udp(packet) and toward is Toward.SERVER:
                source, destination, _ = endpoints(packet)
                refused.append(FlowKey(*source, *destination, udp=True))
            return is_udp(packet)

        pair.wire.drop.append(refuse)
        pair.start()
        for _ in range(300):
            pair.run(1.0)
            for key in refused:
                pair.client.role.carrier_refused(pair.now, key)
            refused.clear()
            pair.flush()
        assert kinds_up(pair) == {False: 10}
        assert pair.client.role.reason == ""
        assert not any(slot.flow for slot in pair.client.role.slots if slot.udp)
        assert min(slot.failures for slot in pair.client.role.slots if slot.udp) >= 6

    with Pair(kinds=Kinds.UDP) as pair:
        pair.up()
        pair.run(5.0)
        for flow in pair.flows(pair.client):
            pair.client.role.carrier_refused(pair.now, flow.key)
        assert kinds_up(pair) == {True: 10}
        assert not any(flow.health.waiting for flow in pair.flows(pair.client))
        pair.run(0.001)
        assert all(flow.health.waiting for flow in pair.flows(pair.client)), "it is asked"


def test_a_server_that_restarts_is_missed_at_once_though_there_is_no_traffic() -> None:
    """While it is down its kernel says so, and the flows are asked before their keepalive."""
    with Pair(kinds=Kinds.UDP) as pair:
        pair.up()
        assert exchange(pair, 5, 0.5, b"a") == (5, 5)
        pair.run(3.0)
        pair.restart_server()
        for flow in pair.flows(pair.client):
            pair.client.role.carrier_refused(pair.now, flow.key)
        assert pair.run_until(lambda: pair.count(SessionUp, Toward.CLIENT) == 2, 4.0)


def test_nobody_serves_udp() -> None:
    with Pair(kinds=Kinds.UDP) as pair:
        pair.wire.drop.append(lambda _toward, _packet: True)
        pair.start()
        pair.run(8.0)
        assert "UDP port" in pair.client.role.reason
        assert "secret" in pair.client.role.reason


# -- path MTU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_a_path_that_takes_less_than_the_link(family: int) -> None:
    headers = 28 if family == 4 else 48
    with Pair(kinds=Kinds.UDP, family=family, conditions=Conditions(mtu=1300), client={"flows": 3}) as pair:
        pair.up()
        assert all(flow.path.size == 1500 - headers for flow in pair.flows(pair.client))
        pair.run(15.0)
        for node in (pair.client, pair.server):
            sizes = {flow.path.size for flow in pair.flows(node)}
            assert sizes == {1240}
        pair.say("app", *numbered(20, 1200), *numbered(20, 1400, b"split"))
        pair.run(1.0)
        assert len(pair.heard()) == 40


def test_the_links_mtu_bounds_both_kinds() -> None:
    with Pair(kinds=Kinds.ALL, client={"flows": 2}) as pair:
        pair.up()
        pair.client.receive_mtu(pair.now, 1280, 64_000)
        sizes = {flow.key.udp: flow.path.size for flow in pair.flows(pair.client)}
        assert sizes == {False: 1240, True: 1252}


# -- strangers -------------------------------------------------------------------------------------------------------


def carried(source: tuple[bytes, int], payload: bytes, segment_size: int = 0) -> Carried:
    return Carried(FlowKey(*SERVER_PORT, *source, udp=True), memoryview(payload), segment_size)


def first_datagram(pair: Pair) -> bytes:
    """The hello of the client's first flow."""
    said: list[bytes] = []

    def record(_: Toward, packet: bytes) -> bool:
        said.append(endpoints(packet)[2])
        return True

    pair.wire.drop.append(record)
    pair.start()
    pair.run(0.01)
    pair.wire.drop.clear()
    return said[0]


def test_garbage_gets_silence_and_costs_nobody_its_allowance() -> None:
    """Its source may be anybody's address: that of a client which wants to say hello."""
    client = CLIENT_ADDRESS[4].packed
    with Pair(kinds=Kinds.UDP) as pair:
        for at in range(int(BURST) * 20):
            pair.server.receive_carried(pair.now, [carried((client, 1000 + at), bytes(200))])
        pair.flush()
        assert not any(pair.wire.sent.values())
        assert len(pair.server_wire.half_open) == 0
        pair.up(1.0)


def test_a_recorded_hello_makes_one_entry_whoever_says_it() -> None:
    with Pair(kinds=Kinds.UDP, client={"flows": 1}) as pair:
        hello = first_datagram(pair)
        for port in range(500):
            pair.server.receive_carried(pair.now, [carried((STRANGER[0], 1000 + port), hello)])
        answers = [bytes(burst.payload[0]) for burst in outputs(pair.server).bursts]
        assert len(pair.server_wire.half_open) == 1
        assert len(set(answers)) == 500, "the challenge is another one for each address"
        assert len(answers[0]) <= len(hello)
        pair.run(0.1)
        pair.up(15.0)


def test_copies_of_a_hello_in_the_names_of_others_do_not_drive_its_client_out() -> None:
    """Whoever sees a hello can repeat it with any source; the client's confirmation still counts."""
    for kinds in KINDS:
        with Pair(kinds=kinds, client={"flows": 1}) as pair:

            def repeat(toward: Toward, packet: bytes) -> bool:
                payload = endpoints(packet)[2] if is_udp(packet) else parse_tcp(packet).payload
                if toward is Toward.SERVER and len(payload) >= 93:
                    for port in range(50):
                        made = make_udp((STRANGER[0], 1000 + port), SERVER_PORT, payload)
                        pair.wire.inject(pair.now + 0.011, Toward.SERVER, made, behind_judge=True)
                return False

            pair.wire.drop.append(repeat)
            pair.up(1.0)


def test_a_confirmation_counts_only_where_its_hello_was_answered() -> None:
    with Pair(kinds=Kinds.UDP, client={"flows": 1}) as pair:
        stolen: list[bytes] = []

        def steal(toward: Toward, packet: bytes) -> bool:
            payload = endpoints(packet)[2]
            if toward is Toward.SERVER and len(payload) == 65:
                stolen.append(payload)
            return bool(stolen)

        pair.wire.drop.append(steal)
        pair.start()
        pair.run_until(lambda: bool(stolen), 2.0)
        pair.server.receive_carried(pair.now, [carried(STRANGER, stolen[0])])
        assert not pair.server.role.sessions_by_id
        assert pair.server.counters["confirmations from elsewhere"] == 1
        assert not outputs(pair.server).bursts


def test_a_new_client_behind_the_same_address() -> None:
    """A NAT has given the flow's port to somebody else: whoever proves itself there takes it over."""
    with Pair(kinds=Kinds.UDP, client={"flows": 1}) as pair:
        pair.up()
        pair.replace_client()
        pair._port = 40_000
        pair.up()
        assert exchange(pair, 10, 1.0, b"a") == (10, 10)
        assert len(pair.flows(pair.server)) == 1


def test_frames_of_one_flow_mean_nothing_on_another() -> None:
    with Pair(kinds=Kinds.UDP, client={"flows": 2}, cipher=Cipher.AES_256_GCM) as pair:
        pair.up()
        seen: list[bytes] = []

        def record(toward: Toward, packet: bytes) -> bool:
            seen.append(packet)
            return toward is Toward.SERVER

        pair.wire.drop.append(record)
        pair.say("app", b"once")
        pair.wire.drop.clear()
        source, _, payload = endpoints(seen[0])
        (other,) = [flow for flow in pair.flows(pair.server) if flow.key.remote_port != source[1]]
        pair.wire.inject(
            pair.now, Toward.SERVER, make_udp((other.key.remote, other.key.remote_port), SERVER_PORT, payload)
        )
        pair.run(0.1)
        assert pair.heard() == []


def live(pair: Pair, toward: Toward) -> Established:
    return pair.flows(pair.server if toward is Toward.SERVER else pair.client)[0]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(Toward)), st.booleans(), st.binary(max_size=400), st.integers(0, 400), st.integers(0, 2**31)
)
def test_no_payload_does_any_harm(toward: Toward, known: bool, payload: bytes, segment_size: int, seed: int) -> None:  # noqa: FBT001
    """From a stranger or on a live flow, cut anywhere, also a real frame with something flipped."""
    pair = STANDING
    flow = live(pair, toward)
    key = flow.key if known else FlowKey(flow.key.local, flow.key.local_port, *STRANGER, udp=True)
    if seed & 1 and payload:
        frame = bytearray(flow.pump.codec.pack(0, 1, 0, b"", [payload])[0])
        frame[seed % len(frame)] ^= 0x40
        payload = bytes(frame)
    node = pair.server if toward is Toward.SERVER else pair.client
    states = [flow.state for flow in node.flows]
    node.receive_carried(pair.now, [Carried(key, memoryview(payload), segment_size)])
    assert [flow.state for flow in node.flows] == states
    found = outputs(node)
    assert not found.bursts
    assert not found.runs


def _standing() -> Pair:
    pair = Pair(kinds=Kinds.UDP, client={"flows": 1}, cipher=Cipher.AES_256_GCM)
    pair.up()
    pair.run(1.0)
    return pair


STANDING = _standing()


def test_flows_of_both_kinds_with_the_same_ports_are_two() -> None:
    """A kernel may well give a UDP socket the number of a TCP port."""
    with Pair(kinds=Kinds.ALL, client={"flows": 1}) as pair:
        pair.start()
        pair.run_until(lambda: kinds_up(pair) == {True: 1, False: 1}, 2.0)
        (tcp,) = [flow for flow in pair.flows(pair.client) if not flow.key.udp]
        twin = tcp.key._replace(udp=True)
        pair.client.receive_carried(pair.now, [Carried(twin, memoryview(b"x" * 50), 0)])
        assert pair.client.counters["segments of no flow"] == 1
        assert tcp.state is State.ESTABLISHED


@pytest.mark.parametrize("duplicate", [0.0, 0.5])
def test_close_frames_that_cross_are_not_answered_for_ever(duplicate: float) -> None:
    """Each end takes the other's close frame for the first one, and its answers for more of them.

    Before, the two answered each other until the flow was forgotten.  With duplicates on the way, there were ever more.
    """
    with Pair(kinds=Kinds.UDP, client={"flows": 1}, conditions=Conditions(duplicate=duplicate)) as pair:
        pair.up()
        pair.run(0.5)
        closes = Counter[Toward]()

        def count(toward: Toward, packet: bytes) -> bool:
            closes[toward] += endpoints(packet)[0][1] in old or endpoints(packet)[1][1] in old
            return False

        old = {pair.flows(pair.client)[0].key.local_port}
        for node in (pair.client, pair.server):
            (flow,) = pair.flows(node)
            node._context.outbox.send([node.pump.send_control(flow.pump, messages.CloseFlow())])
        pair.wire.drop.append(count)
        pair.run(2.0)
        # Its own frame, the answer to the other's first one, and three more.
        assert 2 <= closes[Toward.SERVER] <= 5
        assert 2 <= closes[Toward.CLIENT] <= 5
