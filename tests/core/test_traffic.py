"""Datagrams through the tunnel: over a bad wire, as GRO shows them, at full load into nothing."""

from collections import Counter

import pytest

from rsock_nf.core.events import FlowClosed
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import Input
from rsock_nf.core.parameters import Cipher, Spread
from rsock_nf.core.pump.state import PumpFlow
from tests.core.conntrack import parse_tcp
from tests.core.pair import Pair, numbered
from tests.core.wire import Conditions, Crossing, Merge, Toward


def pump_of(flow: Established) -> PumpFlow:
    return flow.pump


@pytest.mark.parametrize("merge", Merge)
@pytest.mark.parametrize("cipher", Cipher)
def test_every_size_both_ways(cipher: Cipher, merge: Merge) -> None:
    """In bursts of equal sizes, of mixed sizes, and singly; empty datagrams too."""
    with Pair(cipher=cipher, conditions=Conditions(merge=merge)) as pair:
        pair.up()
        sizes = [*numbered(40, 1200), *numbered(3, 100, b"a"), *numbered(60, 9, b"b"), b"", b"x", b"y", b"z" * 1400]
        for _ in range(3):
            pair.say("app", *sizes)
            pair.run(0.1)
        assert Counter(pair.heard()) == Counter(sizes * 3)
        pair.reply(pair.server_peer(), *sizes)
        pair.run(0.1)
        assert Counter(datagram for _, datagram in pair.at_app) == Counter(sizes)
        assert not pair.client.counters
        assert not pair.server.counters


@pytest.mark.parametrize("cipher", Cipher)
def test_ten_flows_over_a_wire_that_loses_a_fifth(cipher: Cipher) -> None:
    """10,000 datagrams: no crash, none corrupted (``Pair`` looks), and none delivered more often than the wire has it.

    With ``cipher: none`` a copy made by the wire is a copy for the application, as with UDP; sealed, it is replay.
    """
    wire = Conditions(loss=0.2, duplicate=0.05, reorder=0.2, merge=Merge.SIZED)
    with Pair(5, cipher=cipher, conditions=wire, late_syns=True) as pair:
        pair.start()
        pair.run(2.0)
        for burst in range(100):
            pair.say("app", *numbered(100, 900, first=100 * burst))
            pair.run(0.02)
        pair.run(1.0)
        heard = Counter(pair.heard())
        assert 7000 < len(heard) < 9500
        assert max(heard.values()) == (1 if cipher is not Cipher.NONE else max(heard.values()))
        assert max(heard.values()) <= 4, "two places on the way may double"
        assert pair.count(FlowClosed, Toward.CLIENT) <= 3, "a fifth is no reason to give up"


def test_without_duplicates_on_the_wire_there_are_none_for_the_application() -> None:
    with Pair(6, conditions=Conditions(loss=0.2, reorder=0.3), late_syns=True) as pair:
        pair.start()
        pair.run(2.0)
        for burst in range(40):
            pair.say("app", *numbered(50, 700, first=50 * burst))
            pair.run(0.02)
        pair.run(1.0)
        assert max(Counter(pair.heard()).values()) == 1


@pytest.mark.parametrize("strip", [(), tuple(Toward)])
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
@pytest.mark.parametrize("merge", Merge)
def test_full_load_both_ways_past_the_judge(strip: tuple[Toward, ...], cipher: Cipher, merge: Merge) -> None:
    """With and without window scale, with the MSS clamped: nothing out of window, nothing late."""
    conditions = Conditions(delay=0.03, loss=0.01, merge=merge)
    with Pair(cipher=cipher, strip_scale=strip, clamp_mss=1400, conditions=conditions, client={"flows": 2}) as pair:
        pair.up()
        pair.echo = True
        for burst in range(60):
            pair.say("app", *numbered(60, 1300, first=60 * burst))
            pair.run(0.01)
        pair.run(1.0)
        assert len(pair.heard()) > 500
        assert len(pair.at_app) > 300


@pytest.mark.parametrize("spread", Spread)
def test_spread(spread: Spread) -> None:
    """Every flow is used; ``conversation`` keeps to one, and so keeps order."""
    with Pair(client={"spread": spread}, conditions=Conditions(reorder=0.5), late_syns=True) as pair:
        pair.up()
        before = {flow: pump_of(flow).sent_bytes for flow in pair.flows(pair.client)}
        for burst in range(40):
            pair.say("app", *numbered(10, 500, first=10 * burst))
            pair.run(0.1 if spread is Spread.CONVERSATION else 0.005)
        used = [flow for flow, sent in before.items() if pump_of(flow).sent_bytes > sent + 5000]
        assert len(used) == (1 if spread is Spread.CONVERSATION else 10)
        pair.run(0.5)
        assert len(pair.heard()) == 400


def test_spread_per_packet_sends_no_bursts() -> None:
    with Pair(client={"spread": Spread.PACKET}) as pair:
        pair.up()
        pair.client.receive_datagrams(pair.now, [])
        sent = []
        plain = pair.wire.send
        pair.wire.send = lambda now, toward, burst: (sent.append(burst), plain(now, toward, burst))[1]  # type: ignore[func-returns-value, method-assign]
        pair.say("app", *numbered(50, 500))
        assert len([burst for burst in sent if burst.payload_size]) == 50


def test_a_conversation_moves_to_another_flow_when_its_own_dies() -> None:
    with Pair(client={"spread": Spread.CONVERSATION}) as pair:
        pair.up()
        pair.say("app", b"one")
        pair.run(0.1)
        conversation = pair.client.pump.conversation("app")
        assert conversation is not None
        assert conversation.pinned is not None
        port = conversation.pinned.key.local_port
        pair.wire.drop.append(lambda _, packet: port in (parse_tcp(packet).source[1], parse_tcp(packet).destination[1]))
        for second in range(30):
            pair.say("app", b"later %d" % second)
            pair.run(0.2)
        assert pair.heard()[-1] == b"later 29"
        assert conversation.pinned.key.local_port != port


class Watch:
    """What one flow of the client has on its way, by the packets that cross the wire, and what it may have."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.end = self.acked = 0
        self.window = 65535 << 7
        self.beyond: list[Crossing] = []
        """Segments that end beyond three quarters of the window."""

    def __call__(self, crossing: Crossing) -> None:
        tcp = crossing.tcp
        if tcp.source[1] == self.port:
            if tcp.payload and (tcp.end - self.acked) & 0xFFFFFFFF > self.window * 3 // 4:
                self.beyond.append(crossing)
        elif tcp.destination[1] == self.port:
            self.acked = tcp.ack


@pytest.mark.parametrize("strip", [(), tuple(Toward)])
@pytest.mark.parametrize("answers_only", [False, True])
def test_black_hole_of_one_flow_for_five_seconds(*, strip: tuple[Toward, ...], answers_only: bool) -> None:
    """At full load, behind the judge, who sees all that is sent: bulk stops at three quarters of the window, probes go
    on.

    The flow is replaced; nothing that was sent was out of window, before, in, and after it.
    """
    with Pair(strip_scale=strip, client={"flows": 2}) as pair:
        pair.up()
        pair.run(11.0)  # steady: a flow that dies now is replaced at once
        flow = pair.flows(pair.client)[0]
        watch = Watch(flow.key.local_port)
        watch.acked = pump_of(flow).next_seq
        watch.window = pump_of(flow).window
        pair.wire.taps.append(watch)
        holed = pair.now + 0.5

        def hole(toward: Toward, packet: bytes) -> bool:
            if not holed <= pair.now < holed + 5.0 or (answers_only and toward is Toward.SERVER):
                return False
            tcp = parse_tcp(packet)
            if flow.key.local_port not in (tcp.source[1], tcp.destination[1]):
                return False
            if toward is Toward.SERVER:
                watch(Crossing(pair.now, toward, tcp, pair.wire.tracker.judge(pair.now, tcp), injected=False))
            return True

        pair.wire.drop.append(hole)
        for burst in range(120):
            pair.say("app", *numbered(200, 1200, first=200 * burst))
            pair.run(0.05)
        assert flow not in pair.client.flows, "it was given up"
        assert len(pair.flows(pair.client)) == 2, "and replaced"
        assert all(len(crossing.tcp.payload) < 100 for crossing in watch.beyond), "only probes go beyond"
        assert not [crossing for crossing in watch.beyond if crossing.verdict]


def test_control_messages_stay_in_the_window_too() -> None:
    """The way back is a hole, and every datagram that comes asks for an answer (``Opened``) on it."""
    with Pair(strip_scale=tuple(Toward), client={"flows": 1}) as pair:
        pair.up()
        pair.run(11.0)
        judged = []

        def hole(toward: Toward, packet: bytes) -> bool:
            if toward is Toward.CLIENT:
                judged.append(pair.wire.tracker.judge(pair.now, parse_tcp(packet)))
            return toward is Toward.CLIENT

        pair.wire.drop.append(hole)
        for at in range(4000):
            pair.say("app", b"%d" % (at % 10))
            pair.run(0.0001)
        assert len(judged) > 1000
        assert not any(judged)


def test_what_finds_no_credit_waits_only_while_the_window_is_about_to_open() -> None:
    """Kept longer, it would leave behind segments that the path still holds back: a strict firewall calls those
    INVALID."""
    with Pair(strip_scale=tuple(Toward), client={"flows": 1}) as pair:
        pair.start()
        pair.say("app", *numbered(400, 1200))
        pair.run(0.5)
        assert pair.client.role.group.no_credit
        assert not pair.client.role.group.patient
        assert len(pair.client.role.applications.waiting) == 0


def test_no_credit_is_counted() -> None:
    with Pair(strip_scale=tuple(Toward), client={"flows": 1}) as pair:
        pair.up()
        pair.say("app", *numbered(100, 1200))
        conversation = pair.client.pump.conversation("app")
        assert conversation is not None
        assert conversation.group.no_credit == 100 - conversation.sent_datagrams > 0
        pair.run(0.5)
        assert len(pair.heard()) == conversation.sent_datagrams


def test_totals_of_a_session_keep_what_has_ended() -> None:
    """Conversations and flows come and go: a session's counters only grow."""
    with Pair(client={"duration": 2.0}, server={"duration": 2.0}) as pair:
        pair.up()
        for number in range(3):
            pair.say(f"app{number}", *numbered(10, 100, b"%d" % number))
        pair.run(1.0)
        (ours,), (theirs,) = pair.client.sessions, pair.server.sessions
        said = 3 * sum(map(len, numbered(10, 100, b"0")))
        frames = ours.frames(udp=False)
        pair.run(40.0)
        assert not ours.group.conversations
        assert not theirs.group.conversations
        assert (ours.group.traffic().sent_datagrams, ours.group.traffic().sent_bytes) == (30, said)
        assert (theirs.group.traffic().received_datagrams, theirs.group.traffic().received_bytes) == (30, said)
        for flow in pair.flows(pair.client):
            pair.client.flows.step(pair.now, flow, Input.CLOSE)
        pair.client.flows.settle()
        pair.run(2.0)
        later = ours.frames(udp=False)
        assert min(later.sent - frames.sent, later.received - frames.received) > 0
        assert (ours.frames(udp=True).sent, later.lost) == (0, 0)


def test_a_session_knows_when_something_last_came() -> None:
    with Pair(client={"idle_timeout": 0.0}) as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(3.0)
        (theirs,) = pair.server.sessions
        assert pair.now - theirs.heard_at <= 3.0
        pair.wire.drop.append(lambda toward, _: toward is Toward.SERVER)
        heard = theirs.heard_at
        pair.run(30.0)
        assert theirs.heard_at - heard <= 1.0, "what was on its way"
