"""A flow's health, its path's MTU, its counters and its table."""

import struct
from collections import Counter
from itertools import product

import pytest

from rsock_nf.core.events import FlowClosed, FlowOpened, Suspect
from rsock_nf.core.flows.opening import Opening
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import TRANSITIONS, Action, Input, State
from rsock_nf.core.flows.timers import Deadlines, Timer
from rsock_nf.core.messages import CloseFlow, FlowDown
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.types import FlowKey
from rsock_nf.wire.native.handshake import NativeKeys
from rsock_nf.wire.native.limits import LIMITS
from tests.core.conntrack import Tcp, parse_tcp
from tests.core.outputs import outputs
from tests.core.pair import SERVER_ADDRESS, Pair, numbered
from tests.core.wire import Conditions, Toward

KEY = FlowKey(b"\x0a\0\0\x01", 40_000, b"\xc0\0\x02\x02", 10_001)


def port_of(packet: bytes) -> int:
    """The client's."""
    tcp = parse_tcp(packet)
    return tcp.destination[1] if 10_001 <= tcp.source[1] <= 10_010 else tcp.source[1]


def load(pair: Pair, seconds: float, *, size: int = 600, back: bool = True) -> None:
    for at in range(int(seconds / 0.02)):
        pair.say("app", *numbered(10, size, b"u", 10 * at))
        if back:
            for peer in pair.sockets:
                pair.reply(peer, *numbered(10, size, b"d", 10 * at))
        pair.run(0.02)


# -- health


@pytest.mark.slow
@pytest.mark.parametrize("bad", Toward)
def test_a_flow_that_loses_half_is_avoided_and_replaced(bad: Toward) -> None:
    """In either direction: only the sending end can tell, and only the client can dial."""
    with Pair(client={"flows": 5}) as pair:
        pair.up()
        load(pair, 12.0)
        sick = pair.flows(pair.client)[2]
        port = sick.key.local_port
        lossy = pair.rng.__class__(3)
        pair.wire.drop.append(lambda toward, packet: toward is bad and port_of(packet) == port and lossy.random() < 0.5)
        load(pair, 12.0)
        assert sick not in pair.flows(pair.client)
        assert len(pair.flows(pair.client)) == len(pair.flows(pair.server)) == 5
        assert pair.count(FlowClosed, Toward.CLIENT) == 1, "the others are well"


def test_the_same_loss_on_all_flows_makes_none_of_them_sick() -> None:
    with Pair(client={"flows": 5}, conditions=Conditions(loss=0.25), late_syns=True) as pair:
        pair.start()
        pair.run(5.0)
        load(pair, 20.0)
        assert not [flow for flow in pair.flows(pair.client) if flow.sick]
        losses = [flow.health.loss for flow in pair.flows(pair.client)]
        assert all(0.15 < loss < 0.35 for loss in losses)


@pytest.mark.parametrize("seed", range(3))
def test_a_replacement_is_made_before_the_break(seed: int) -> None:
    """How long it takes depends on which packets are lost; the order does not."""
    with Pair(seed, client={"flows": 4}) as pair:
        pair.up()
        load(pair, 12.0)
        port = pair.flows(pair.client)[0].key.local_port
        lossy = pair.rng.__class__(seed)
        pair.wire.drop.append(
            lambda toward, packet: toward is Toward.SERVER and port_of(packet) == port and lossy.random() < 0.5
        )
        for _ in range(30):
            load(pair, 2.0)
            if pair.count(FlowClosed, Toward.CLIENT):
                break
        opened = [when for when, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowOpened)]
        closed = [when for when, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowClosed)]
        assert len(opened) == 5
        assert opened[-1] <= closed[0]


def test_several_silent_flows_make_the_next_hop_suspect() -> None:
    with Pair() as pair:
        pair.up()
        load(pair, 2.0)
        pair.wire.drop.append(lambda *_: True)
        load(pair, 1.5)
        assert pair.count(Suspect, Toward.CLIENT) >= 1


def test_round_trip_and_loss_are_measured() -> None:
    with Pair(conditions=Conditions(delay=0.04), client={"flows": 2}) as pair:
        pair.up()
        load(pair, 5.0)
        for node in (pair.client, pair.server):
            for flow in pair.flows(node):
                assert flow.health.srtt == pytest.approx(0.08, abs=0.005)
                assert flow.health.loss == 0.0


def test_an_unused_tunnel_is_quiet() -> None:
    """Keepalives only: ten flows, each probed from both ends every ten seconds, with its answer and an ACK for it."""
    with Pair(client={"idle_timeout": 0.0}) as pair:
        pair.up()
        pair.run(20.0)
        before = sum(pair.wire.sent.values())
        pair.run(100.0)
        assert 100 <= sum(pair.wire.sent.values()) - before <= 10 * 2 * 13 * 3


# -- path MTU


@pytest.mark.slow
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
@pytest.mark.parametrize("mtu", [1480, 1400, 1300, 1280])
@pytest.mark.parametrize("toward", Toward)
def test_a_black_hole_for_large_segments_from_the_start(cipher: Cipher, mtu: int, toward: Toward) -> None:
    """A tunnel on the way eats what is larger, and says nothing: the flows shrink, large datagrams become fragments."""
    with Pair(cipher=cipher, client={"flows": 3}) as pair:
        pair.wire.conditions = {end: Conditions(mtu=mtu if end is toward else 65535) for end in Toward}
        pair.up()
        load(pair, 8.0, size=1400)
        sender = pair.client if toward is Toward.SERVER else pair.server
        for flow in pair.flows(sender):
            assert flow.path.confirmed
            assert mtu - 40 - 120 <= flow.path.size <= mtu - 40
        pair.run(1.0)
        pair.at_target.clear()
        pair.at_app.clear()
        pair.say("app", *numbered(20, 1400, b"x"))
        pair.reply(pair.server_peer(), *numbered(20, 1400, b"y"))
        pair.run(0.5)
        assert len(pair.at_target) == len(pair.at_app) == 20


@pytest.mark.parametrize("flows", [1, 2, 5])
def test_a_black_hole_that_comes_later(flows: int) -> None:
    """The route changes: what was confirmed is not true any more."""
    with Pair(client={"flows": flows}) as pair:
        pair.up()
        load(pair, 5.0, size=1400)
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(mtu=1300))
        load(pair, 10.0, size=1400)
        pair.at_target.clear()
        pair.at_app.clear()
        pair.say("app", *numbered(20, 1400, b"x"))
        pair.reply(pair.server_peer(), *numbered(20, 1400, b"y"))
        pair.run(0.5)
        assert len(pair.at_target) == len(pair.at_app) == 20


def test_two_lost_probes_are_no_black_hole() -> None:
    """RFC 8899 section 5.1.2: MAX_PROBES is 3."""
    with Pair(client={"flows": 1}) as pair:
        lost = Counter[Toward]()

        def lose(toward: Toward, packet: bytes) -> bool:
            lost[toward] += len(packet) == 1500
            return len(packet) == 1500 and lost[toward] <= 2

        pair.wire.drop.append(lose)
        pair.up()
        pair.run(10.0)
        assert lost[Toward.SERVER] == lost[Toward.CLIENT] == 3
        for node in (pair.client, pair.server):
            assert pair.flows(node)[0].path.size == 1460


def too_big(about: bytes, mtu: int) -> bytes:
    """ICMP fragmentation needed about a packet, from a router on the way (RFC 1191)."""
    inner = about[:28]
    icmp = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + inner
    total = int.from_bytes(icmp + b"\0" * (len(icmp) & 1), "big") % 0xFFFF or 0xFFFF
    icmp = icmp[:2] + (0xFFFF - total).to_bytes(2, "big") + icmp[4:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 1, 0, 60, 1, 0, b"\x0a\xff\xff\x01", about[12:16])
    header = int.from_bytes(ip, "big") % 0xFFFF or 0xFFFF
    return ip[:10] + (0xFFFF - header).to_bytes(2, "big") + ip[12:] + icmp


def test_icmp_too_big_shrinks_the_flow_at_once() -> None:
    with Pair(client={"flows": 2}) as pair:

        def router(toward: Toward, packet: bytes) -> bool:
            if toward is Toward.SERVER and len(packet) > 1300:
                pair.wire.inject(pair.now + 0.005, Toward.CLIENT, too_big(packet, 1300), behind_judge=True)
                return True
            return False

        pair.wire.drop.append(router)
        pair.up()
        pair.run(1.0)
        pair.say("app", *numbered(40, 1400))
        pair.run(0.3)
        assert len(pair.heard()) == 40
        assert {flow.path.size for flow in pair.flows(pair.client)} == {1260}
        assert {flow.path.size for flow in pair.flows(pair.server)} == {1460}, "the other direction is another path"


def test_a_router_that_does_not_say_which_size_fits() -> None:
    """RFC 1191 section 7: the plateau below what *this flow* uses, not below what the link has."""
    with Pair(client={"flows": 1}) as pair:
        pair.wire.conditions[Toward.SERVER] = Conditions(mtu=1300)

        def router(toward: Toward, packet: bytes) -> bool:
            if toward is Toward.SERVER and len(packet) > 1100:
                known = len(packet) > 1300
                pair.wire.inject(pair.now, Toward.CLIENT, too_big(packet, 1300 if known else 0), behind_judge=True)
                return True
            return False

        pair.wire.drop.append(router)
        pair.up()
        pair.run(5.0)
        assert [flow.path.size for flow in pair.flows(pair.client)] == [1000], "the search finds more than a plateau"


@pytest.mark.parametrize("what", ["seq", "port", "larger", "tiny"])
def test_a_forged_too_big(what: str) -> None:
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        pair.run(5.0)
        flow = pair.flows(pair.client)[0]
        pump = flow.pump
        assert pump is not None
        key = flow.key
        pair.say("app", bytes(200))
        assert pump.in_flight
        seq = pump.highest_ack if what in ("larger", "tiny") else pump.highest_ack - 100
        port = key.local_port + (what == "port")
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 1, 0, 60, 6, 0, key.local, key.remote)
        inner = ip + struct.pack("!HHI", port, key.remote_port, seq & 0xFFFFFFFF)
        mtu = {"larger": 9000, "tiny": 68}.get(what, 1000)
        pair.wire.inject(pair.now, Toward.CLIENT, too_big(inner, mtu), behind_judge=True)
        pair.run(3.0)
        assert flow.path.size == 1460
        assert pair.client.counters["ICMP for nothing of ours"] == (what in ("seq", "port"))


def test_the_link_shrinks() -> None:
    with Pair(client={"flows": 2}) as pair:
        pair.up()
        pair.run(3.0)
        pair.client.receive_mtu(pair.now, 1300, 64_000)
        pair.wire.conditions[Toward.SERVER] = Conditions(mtu=1300)
        pair.say("app", *numbered(40, 1400))
        pair.run(0.3)
        assert len(pair.heard()) == 40


@pytest.mark.parametrize("traffic", [True, False])
def test_the_link_widens_again(*, traffic: bool) -> None:
    """Both ends go up as soon as they may, with or without something to carry."""
    with Pair(client={"flows": 2}) as pair:
        pair.up()
        pair.run(3.0)
        for node in (pair.client, pair.server):
            node.receive_mtu(pair.now, 1300, 64_000)
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(mtu=1300))
        pair.say("app", *numbered(4, 1200))
        pair.run(3.0)
        assert {flow.path.size for node in (pair.client, pair.server) for flow in pair.flows(node)} == {1260}
        for node in (pair.client, pair.server):
            node.receive_mtu(pair.now, 1500, 64_000)
        pair.wire.conditions = dict.fromkeys(Toward, Conditions())
        if traffic:
            load(pair, 2.0, size=1200)
        else:
            pair.run(2.0)
        flows = [flow for node in (pair.client, pair.server) for flow in pair.flows(node)]
        assert [flow.path.size for flow in flows] == [1460] * 4
        assert [flow.pump.max_payload for flow in flows] == [1460] * 4


@pytest.mark.parametrize(("really", "found"), [(65535, 1460), (1500 - 48, 1400), (1300, 1240)])
def test_a_path_becomes_wider(really: int, found: int) -> None:
    """What was measured once is looked at again every ten minutes, and costs no flow its place."""
    with Pair(client={"flows": 1, "idle_timeout": 0.0}) as pair:
        pair.wire.conditions[Toward.SERVER] = Conditions(mtu=1290)
        pair.up()
        pair.run(20.0)
        (flow,) = pair.flows(pair.client)
        assert flow.path.size == 1240
        pair.wire.conditions[Toward.SERVER] = Conditions(mtu=really)
        pair.run(560.0)
        assert flow.path.size == 1240
        pair.run(200.0)
        assert flow.path.size == found
        assert pair.flows(pair.client) == [flow]
        assert flow.health.unanswered == 0
        sent = pair.wire.sent[Toward.SERVER]
        pair.run(400.0)
        assert pair.wire.sent[Toward.SERVER] - sent <= 400 / 8 * 3, "and then there is peace again"


def test_a_link_without_bursts() -> None:
    with Pair(burst=0) as pair:
        pair.up()
        pair.say("app", *numbered(50, 1000))
        pair.reply("nobody", b"unknown")
        pair.run(0.3)
        assert len(pair.heard()) == 50
        pair.client.receive_mtu(pair.now, 1500, 64_000)
        pair.say("app", *numbered(50, 1000, b"b"))
        pair.run(0.3)
        assert len(pair.heard()) == 100
        assert pair.server.counters["data from a closed conversation"] == 1


# -- wear


@pytest.mark.parametrize("end", Toward)
def test_a_flow_is_replaced_before_its_counter_is_used_up(end: Toward) -> None:
    """Make before break at 2**30, whichever end's counter it is; a nonce is never used twice."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 2}) as pair:
        pair.up()
        pair.say("app", b"first")
        pair.run(12.0)
        worn = pair.flows(pair.client)[0].flow_id
        sender = pair.client if end is Toward.CLIENT else pair.server
        flow = next(flow for flow in pair.flows(sender) if flow.flow_id == worn)
        flow.pump.counter = 1 << 30
        load(pair, 5.0)
        assert worn not in {flow.flow_id for flow in pair.flows(pair.client)}
        assert len(pair.flows(pair.client)) == 2
        assert len(pair.heard()) == 2501


def test_a_flow_that_cannot_be_replaced_ends_before_its_counter_wraps() -> None:
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 1}) as pair:
        pair.up()
        pair.run(12.0)
        pair.wire.drop.append(lambda _, packet: parse_tcp(packet).kind == "SYN")
        flow = pair.flows(pair.client)[0]
        flow.pump.counter = (1 << 31) - 3000
        load(pair, 3.0, back=False)
        assert flow not in pair.flows(pair.client)
        assert flow.pump.counter < 1 << 31


def test_a_worn_flow_that_is_the_only_one() -> None:
    """The server cannot dial: it says so on the flow itself, and the client dials before it lets go."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 1}) as pair:
        pair.up()
        pair.say("app", b"first")
        pair.run(12.0)
        flow = pair.flows(pair.server)[0]
        flow.pump.counter = 1 << 30
        load(pair, 5.0)
        opened = [when for when, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowOpened)]
        closed = [when for when, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowClosed)]
        assert len(opened) == 2
        assert opened[1] <= closed[0]
        pair.run(1.0)
        assert len(pair.heard()) == len(pair.at_app) + 1 == 2501


def test_the_server_goes_on_saying_that_a_flow_is_sick() -> None:
    """Its word may be lost like any other: nobody else can know that the way to the client is bad."""
    with Pair(client={"flows": 5}) as pair:
        pair.up()
        load(pair, 12.0)
        flow = pair.flows(pair.server)[2]
        told = []
        plain = pair.server.flows.tell
        deaf = True

        def tell(session: Session, message: object, avoid: Established | None = None) -> None:
            if isinstance(message, FlowDown):
                told.append(message.flow_id)
                if deaf:
                    return
            plain(session, message, avoid)

        pair.server.flows.tell = tell  # type: ignore[method-assign]
        flow.health.loss = 0.5
        load(pair, 3.0)
        assert flow in pair.flows(pair.server)
        assert set(told) == {flow.flow_id}
        deaf = False
        load(pair, 5.0)
        assert flow.flow_id not in {other.flow_id for other in pair.flows(pair.client)}
        assert len(pair.flows(pair.client)) == 5
        pair.run(15.0)
        assert flow not in pair.flows(pair.server), "nobody answers its probes any more"


def test_a_link_that_becomes_narrower_during_the_opening_counts() -> None:
    with Pair(client={"flows": 1}) as pair:
        pair.start()
        pair.run_until(lambda: bool(pair.flows(pair.client, State.CONFIRMING)), 5.0)
        (flow,) = pair.flows(pair.client, State.CONFIRMING)
        pair.client.receive_mtu(pair.now, 1280, 64_000)
        pair.run(1.0)
        assert flow.state is State.ESTABLISHED
        assert flow.pump.max_payload == flow.path.size == 1240


# -- the table


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.SYN_SENT, State.ESTABLISHED}  # where clients' and servers' flows begin
    for rows in TRANSITIONS.values():
        reached |= {state for state, _ in rows.values()}
    assert reached == set(State) == set(TRANSITIONS)
    for state in State:
        seen, todo = {state}, [state]
        while todo:
            todo += [to for to, _ in TRANSITIONS[todo.pop()].values() if to not in seen and not seen.add(to)]  # type: ignore[func-returns-value]
        assert State.CLOSED in seen


@pytest.mark.parametrize(("state", "event"), list(product(State, Input)), ids=lambda value: value.name)
def test_every_input_in_every_state(state: State, event: Input) -> None:
    """Is a row of the table, or is dropped and counted; nothing raises, and no action runs before ``settle``."""
    with Pair() as pair:
        flows = pair.client.flows
        ran: list[Action] = []
        flows.perform = lambda pending: ran.append(pending.action)
        flow = flow_in(pair, state)
        row = TRANSITIONS[state].get(event)
        assert flows.step(pair.now, flow, event) is (row is not None)
        assert not ran
        flows.settle()
        if row is not None:
            assert (flow.state, tuple(ran)) == row
        else:
            assert flow.state is state
            assert not ran
            assert pair.client.counters[f"{event.value} in {state.value}"] == 1
        flows.discard(flow)
        outputs(pair.client)


def flow_in(pair: Pair, state: State) -> Opening | Established:
    """A flow of the client's that stands in ``state``; the pump has it from CONFIRMING on."""
    flows = pair.client.flows
    opening = Opening(1, KEY, state=state, identification=0)
    opening.mss = 1460
    flows.put(opening)
    if state in (State.SYN_SENT, State.TCP_UP, State.HELLO_SENT, State.JOIN_SENT):
        return opening
    keys = NativeKeys.derive(Cipher.NONE, bytes(32), bytes(32))
    return flows.take_over(
        opening, Session(1, keys, "native", LIMITS, Cipher.NONE, flows.pump.states.group(None), pair.now)
    )


def test_an_action_never_runs_inside_another() -> None:
    with Pair() as pair:
        flows = pair.client.flows
        flow = flow_in(pair, State.ESTABLISHED)
        flows.perform = lambda _: flows.settle()
        flows.step(pair.now, flow, Input.SICK)
        with pytest.raises(AssertionError, match="must not run actions"):
            flows.settle()
        flows.discard(flow)


@pytest.mark.parametrize(
    ("state", "event"),
    [(state, event) for state, rows in TRANSITIONS.items() for event in rows],
    ids=lambda value: value.name,
)
def test_every_action_of_a_living_client_can_run(state: State, event: Input) -> None:
    """Whatever the order in which things happen: no action finds a flow that it cannot serve."""
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        flows = pair.client.flows
        flow = flow_in(pair, state)
        if isinstance(flow, Established):
            flow.session = pair.flows(pair.client)[0].session
            flow.pump.group = flow.session.group
        if event is Input.ANSWER:
            assert isinstance(flow, Opening)
            flow.exchange, flow.challenge = pair.client.role.session, bytes(16)
        if event is Input.READY and isinstance(flow, Opening):
            flow = pair.client.role.openings.take_over(
                flow, pair.client.sessions[0]
            )  # as a wire does that asks for no more
        assert flows.step(pair.now, flow, event)
        flows.settle()
        outputs(pair.client)
        pair.ports = {other.key.local_port for other in flows}


# -- timers


def test_every_timer_is_handled() -> None:
    """Each that the enumeration names is armed by somebody in ordinary life, and none is left over."""
    armed: set[Timer] = set()
    plain = Deadlines.set

    class Spy(Deadlines):
        def set(self, timer: Timer, key: object, when: float) -> None:
            armed.add(timer)
            plain(self, timer, key, when)

    with Pair() as pair:
        pair.client._context.deadlines = Spy()
        pair.server._context.deadlines = Spy()
        pair.up()
        pair.say("app", b"hello")
        pair.run(3.0)
        pair.client.role.renew(pair.now)
        pair.run(3.0)
        pair.client.role.stop(pair.now)
        pair.flush()
        pair.run(900.0)
        assert armed == set(Timer)
        assert pair.server.next_timeout() is None


def test_deadlines() -> None:
    deadlines = Deadlines()
    assert deadlines.next() is None
    deadlines.set(Timer.PROBE, "a", 3.0)
    deadlines.set(Timer.PROBE, "b", 2.0)
    deadlines.set(Timer.PROBE, "a", 1.0)
    deadlines.set_if_unset(Timer.PROBE, "b", 0.5)
    deadlines.set(Timer.DIAL, "c", 4.0)
    assert deadlines.next() == 1.0
    deadlines.cancel(Timer.PROBE, "nothing")
    seen = []
    for timer, key in deadlines.due(3.5):
        seen.append((timer, key))
        if key == "a":
            deadlines.set(Timer.PROBE, "a", 3.2)  # armed meanwhile, and due too
            deadlines.cancel_all("b")
        if len(seen) == 2:
            break
    assert seen == [(Timer.PROBE, "a"), (Timer.PROBE, "a")]
    assert deadlines.get(Timer.DIAL, "c") == 4.0


def test_nothing_is_left_of_closed_flows() -> None:
    """Hundreds of flows come and go: neither flows nor deadlines pile up."""
    with Pair(client={"flows": 3}, conditions=Conditions(loss=0.1), late_syns=True) as pair:
        pair.up()
        for _ in range(40):
            pair.client.role.reconnect(pair.now)
            pair.flush()
            pair.run(2.0)
        pair.run(60.0)
        assert len(pair.client.flows) <= 3
        assert len(pair.server.flows) <= 6
        for node in (pair.client, pair.server):
            flows = {key for _, key in node._context.deadlines._when if isinstance(key, Opening | Established)}
            assert flows <= set(node.flows)
            assert len(node._context.deadlines._heap) < 200
            assert len(list(node.pump.flows())) <= 6
        assert len(pair.server.role.followed()) <= 1
        assert str(SERVER_ADDRESS[4]) in pair.client.role.remote_text


@pytest.mark.parametrize("duplicate", [0.0, 0.5])
def test_fins_that_cross_are_not_answered_for_ever(duplicate: float) -> None:
    """Each end takes the other's FIN for the first one, and its answers for more of them."""
    with Pair(client={"flows": 1}, conditions=Conditions(duplicate=duplicate)) as pair:
        pair.up()
        pair.run(0.5)
        port = pair.flows(pair.client)[0].key.local_port
        seen: list[int] = []
        pair.wire.taps.append(
            lambda crossing: seen.append(crossing.tcp.flags) if port in _ports(crossing.tcp) else None
        )
        for node in (pair.client, pair.server):
            (flow,) = pair.flows(node)
            node._context.outbox.send([node.pump.send_control(flow.pump, CloseFlow(), fin=True)])
        pair.run(2.0)
        assert len(seen) < 60
        pair.wire.invalid.clear()


def _ports(tcp: Tcp) -> tuple[int, int]:
    return tcp.source[1], tcp.destination[1]
