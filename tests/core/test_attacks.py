"""What comes from outside: forged and replayed segments.  Nothing is believed, kept or multiplied for a stranger."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rsock_nf.core.events import FlowClosed, FlowOpened, PortWanted
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from rsock_nf.core.parameters import Cipher, OnProbe
from rsock_nf.core.pump.state import PumpFlow
from tests.core.conntrack import ACK, FIN, PSH, RST, SYN, Tcp, parse_tcp
from tests.core.pair import SERVER_ADDRESS, Pair, numbered
from tests.core.wire import Crossing, Nat, Toward, make_tcp

SERVER = SERVER_ADDRESS[4].packed
STRANGER = b"\xc6\x33\x64\x63"
ENDS = list(Toward)


def standing(pair: Pair, toward: Toward) -> tuple[Established, PumpFlow]:
    """The end that ``toward`` names, of the first flow."""
    flow = pair.flows(pair.server if toward is Toward.SERVER else pair.client)[0]
    return flow, flow.pump


def forged(flow: Established, seq: int, ack: int, flags: int, payload: bytes = b"") -> bytes:
    """As if from the other end of ``flow``."""
    key = flow.key
    return make_tcp(
        (key.remote, key.remote_port), (key.local, key.local_port), seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, payload
    )


@pytest.fixture(params=[Cipher.NONE, Cipher.AES_256_GCM])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Pair(cipher=request.param, client={"flows": 3}) as pair:
        pair.up()
        pair.run(11.0)
        yield pair


@pytest.mark.parametrize("toward", ENDS)
@pytest.mark.parametrize("far", [1000, 1 << 20, (65535 << 7) - 1, 65535 << 7, 1 << 31, -1000, -(65535 << 7)])
def test_a_segment_far_ahead_moves_nothing(pair: Pair, toward: Toward, far: int) -> None:
    flow, pump = standing(pair, toward)
    received = pump.received
    pair.wire.inject(
        pair.now, toward, forged(flow, received + far, pump.next_seq, ACK | PSH, bytes(900)), behind_judge=True
    )
    pair.run(0.1)
    assert pump.received == received
    for at in range(50):
        pair.say("app", *numbered(20, 800, first=20 * at))
        pair.run(0.02)
    assert len(pair.heard()) == 1000
    assert flow.state is State.ESTABLISHED


@pytest.mark.parametrize("toward", ENDS)
@pytest.mark.parametrize("ahead", [1, 5000, 1 << 30, 1 << 31, -1, -100_000])
def test_an_ack_of_what_was_never_sent_gives_no_credit(pair: Pair, toward: Toward, ahead: int) -> None:
    flow, pump = standing(pair, toward)
    acked = pump.highest_ack
    pair.wire.inject(pair.now, toward, forged(flow, pump.received, pump.next_seq + ahead, ACK), behind_judge=True)
    pair.run(0.001)
    assert pump.highest_ack == acked
    assert pump.window == 65535 << 7


def test_an_ack_with_a_wrong_sequence_number_gives_no_credit(pair: Pair) -> None:
    """Blind forgers know neither number: one of both in a window of 8 MiB is not enough (RFC 5961 section 5)."""
    pair.wire.drop.append(lambda toward, _: toward is Toward.CLIENT)
    pair.say("app", *numbered(50, 1000))
    (flow,) = [flow for flow in pair.flows(pair.client) if flow.pump.in_flight]
    pump = flow.pump
    assert pump is not None
    in_flight = pump.in_flight
    pair.wire.inject(
        pair.now, Toward.CLIENT, forged(flow, pump.received + (1 << 28), pump.next_seq, ACK), behind_judge=True
    )
    pair.run(0.001)
    assert pump.in_flight == in_flight
    assert pump.out_of_window == 1


@pytest.mark.parametrize("toward", ENDS)
@pytest.mark.parametrize("flags", [RST, RST | ACK, FIN | ACK])
@pytest.mark.parametrize("off", [1, -1, 1000, 1 << 20, 1 << 31])
def test_rst_and_fin_with_a_wrong_number_are_ignored(pair: Pair, toward: Toward, flags: int, off: int) -> None:
    flow, pump = standing(pair, toward)
    packet = forged(flow, pump.received + off, pump.next_seq, flags)
    pair.wire.inject(pair.now, toward, packet, behind_judge=True)
    pair.run(5.0)
    assert flow.state is State.ESTABLISHED
    node = pair.server if toward is Toward.SERVER else pair.client
    kind = "RST" if flags & RST else "FIN"
    assert node.counters[f"{kind} out of sequence"] == 1


@pytest.mark.parametrize("toward", ENDS)
@pytest.mark.parametrize("flags", [RST, RST | ACK, FIN | ACK])
def test_rst_and_fin_with_the_right_number_demote_the_flow(pair: Pair, toward: Toward, flags: int) -> None:
    """A middlebox took it for real: no bulk there any more, a replacement at once, and the peer is told."""
    flow, pump = standing(pair, toward)
    number = flow.flow_id
    pair.wire.inject(pair.now, toward, forged(flow, pump.received, pump.next_seq, flags))
    pair.run(0.2)
    for node in (pair.client, pair.server):
        assert number not in {other.flow_id for other in pair.flows(node)}
        assert len(pair.flows(node)) == 3, "replaced"
    pair.say("app", *numbered(100, 900))
    pair.run(10.0)
    assert len(pair.heard()) == 100
    assert flow.state is State.CLOSED


def test_resets_again_and_again_do_not_make_it_dial_like_mad() -> None:
    """A censor that resets every flow as soon as it carries something."""
    with Pair(client={"flows": 2}, resets_allowed=True) as pair:

        def reset(crossing: Crossing) -> None:
            tcp = crossing.tcp
            if not crossing.injected and crossing.toward is Toward.SERVER and len(tcp.payload) == 1460:
                answer = make_tcp(tcp.destination, tcp.source, tcp.ack, tcp.end, RST | ACK)
                pair.wire.inject(pair.now, Toward.CLIENT, answer)

        pair.wire.taps.append(reset)
        pair.start()
        pair.run(120.0)
        assert pair.count(FlowOpened, Toward.CLIENT) > 10
        assert pair.count(PortWanted) < 60


def test_a_syn_flood_leaves_nothing() -> None:
    with Pair() as pair:
        for at in range(3000):
            source = b"\xc6\x33" + (at // 250).to_bytes(1, "big") + (at % 250).to_bytes(1, "big")
            pair.wire.inject(pair.now, Toward.SERVER, make_tcp((source, 1024 + at), (SERVER, 10001), at * 7919, 0, SYN))
        pair.run(0.1)
        assert pair.wire.sent[Toward.CLIENT] == 3000, "an open port, to whoever scans"
        assert not pair.server.flows
        assert not pair.server.role.sessions_by_id
        assert len(pair.server_wire.half_open) == 0
        assert pair.server.next_timeout() is None
        assert not pair.server.counters


@contextmanager
def connected(pair: Pair, source: tuple[bytes, int]) -> Iterator[tuple[int, int]]:
    """A stranger's TCP handshake up to its ACK; (its next seq, its ack)."""
    answers: list[Tcp] = []
    pair.wire.taps.append(lambda crossing: answers.append(crossing.tcp) if crossing.tcp.destination == source else None)
    pair.wire.inject(pair.now, Toward.SERVER, make_tcp(source, (SERVER, 10001), 777, 0, SYN))
    pair.run(0.05)
    (syn_ack,) = answers
    pair.wire.inject(pair.now, Toward.SERVER, make_tcp(source, (SERVER, 10001), 778, syn_ack.end, ACK))
    yield 778, syn_ack.end


@pytest.mark.parametrize("on_probe", OnProbe)
@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"x", bytes(1400), b"\x16\x03\x01\x02\x00\x01\x00"])
def test_who_does_not_know_the_secret_gets_silence_or_rst(on_probe: OnProbe, first: bytes) -> None:
    source = (STRANGER, 5555)
    with Pair(server={"on_probe": on_probe}, resets_allowed=on_probe is OnProbe.CLOSED) as pair:
        with connected(pair, source) as (seq, ack):
            pair.run(0.1)
            before = pair.wire.sent[Toward.CLIENT]
            pair.wire.inject(pair.now, Toward.SERVER, make_tcp(source, (SERVER, 10001), seq, ack, PSH | ACK, first))
            pair.run(5.0)
        assert pair.wire.sent[Toward.CLIENT] - before == len(pair.wire.resets) == (on_probe is OnProbe.CLOSED)
        assert pair.server.counters["payloads from strangers"] == 1
        assert not pair.server.flows
        assert pair.server.next_timeout() is None


class Recorder:
    """What the client says before its first flow stands: hello, joins, confirmations."""

    def __init__(self, pair: Pair) -> None:
        self.payloads: list[Tcp] = []
        pair.wire.taps.append(self)

    def __call__(self, crossing: Crossing) -> None:
        if crossing.toward is Toward.SERVER and crossing.tcp.payload and not crossing.injected:
            self.payloads.append(crossing.tcp)


@pytest.mark.parametrize("stage", ["half-open", "established", "forgotten"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("handshake", [False, True])
def test_replay_from_another_address(stage: str, count: int, *, handshake: bool) -> None:
    """Hello, confirmation, join, confirmation of a real client: said again, in order, by somebody else.

    No flow, no session, and never more bytes to that address than came from it, with or without a TCP handshake.
    """
    source = (STRANGER, 5555)
    with Pair(client={"flows": 2}) as pair:
        recorder = Recorder(pair)
        if stage == "half-open":
            pair.start()
            pair.run_until(lambda: len(recorder.payloads) >= 1, 1.0)
        else:
            pair.up()
            pair.run(1.0)
        if stage == "forgotten":
            pair.client.role.stop(pair.now)
            pair.run(700.0)
        replayed = [tcp.payload for tcp in recorder.payloads[:count]]
        flows = len(pair.server.flows)
        received = 0

        def count_bytes(crossing: Crossing) -> None:
            nonlocal received
            if crossing.tcp.destination == source and not crossing.tcp.flags & SYN:
                received += len(crossing.tcp.packet)

        pair.wire.strict = False
        pair.wire.taps.append(count_bytes)
        seq, ack = 778, 4242
        if handshake:
            with connected(pair, source) as (seq, ack):
                pass
        sent = 0
        for payload in replayed:
            packet = make_tcp(source, (SERVER, 10001), seq, ack, PSH | ACK, payload)
            pair.wire.inject(pair.now, Toward.SERVER, packet)
            sent += len(packet)
            seq += len(payload)
            pair.run(0.5)
        pair.run(3.0)
        assert received <= sent
        if stage != "half-open":
            assert len(pair.server.flows) <= flows
        assert all(flow.key.remote != STRANGER for flow in pair.server.flows)
        pair.wire.invalid.clear()


def test_a_confirmation_overtaken_by_its_copy_from_elsewhere() -> None:
    """Somebody who reads the wire says the client's confirmation first, from an address that proved nothing."""
    with Pair(client={"flows": 1}) as pair:
        recorder = Recorder(pair)
        stolen: list[bytes] = []

        def steal(toward: Toward, packet: bytes) -> bool:
            tcp = parse_tcp(packet)
            if toward is Toward.SERVER and tcp.payload and len(recorder.payloads) == 1 and not stolen:
                stolen.append(tcp.payload)
                copy = make_tcp((STRANGER, 5555), (SERVER, 10001), tcp.seq, tcp.ack, PSH | ACK, tcp.payload)
                pair.wire.inject(pair.now, Toward.SERVER, copy, behind_judge=True)
            return False

        pair.wire.drop.append(steal)
        pair.up()
        assert stolen
        assert [flow.key.remote for flow in pair.server.flows] == [pair.flows(pair.client)[0].key.local]
        assert pair.server.counters["confirmations from elsewhere"] == 1


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_replay_on_the_flow_itself_draws_no_reset(stage: int) -> None:
    """``on_probe: closed`` answers strangers so; a flow that stands is no stranger."""
    with Pair(client={"flows": 2}, server={"on_probe": OnProbe.CLOSED}) as pair:
        recorder = Recorder(pair)
        pair.up()
        pair.run(12.0)
        pair.wire.inject(pair.now, Toward.SERVER, recorder.payloads[stage].packet)
        pair.run(5.0)
        assert pair.count(FlowClosed) == 0


def test_a_hello_without_a_tcp_handshake_is_not_answered() -> None:
    """Or spoofed hellos would make the server send to whoever they name."""
    with Pair() as pair:
        recorder = Recorder(pair)
        pair.start()
        pair.run_until(lambda: bool(recorder.payloads), 1.0)
        sent = pair.wire.sent[Toward.CLIENT]
        hello = recorder.payloads[0].payload
        spoofed = make_tcp((STRANGER, 5555), (SERVER, 10001), 1, 1, ACK | PSH, hello)
        pair.wire.inject(pair.now, Toward.SERVER, spoofed, behind_judge=True)
        pair.wire.drop.append(lambda toward, _: toward is Toward.SERVER)
        pair.run(0.004)
        assert pair.wire.sent[Toward.CLIENT] == sent
        assert pair.server.counters["hellos without a handshake"] == 1


def test_a_nat_gives_the_place_of_a_flow_to_a_new_client() -> None:
    """Same public address and port, another client behind it: its hello must not be lost on the old flow's window."""
    nat = Nat(b"\xc6\x33\x64\x01")
    with Pair(nat=nat, client={"flows": 1}) as pair:
        pair.up()
        pair.say("app", b"old")
        pair.run(1.0)
        pair.replace_client()
        nat.rebind()
        nat._next = 50_000
        pair.up(within=1.0)
        pair.say("app", b"new")
        pair.run(0.2)
        assert pair.heard() == [b"old", b"new"]
        assert len(pair.flows(pair.server)) == 1
        # The server could not know: what the old flow still sent was for somebody who is not there any more.
        assert {crossing.toward for crossing in pair.wire.invalid} == {Toward.CLIENT}
        assert len(pair.wire.invalid) == 1
        pair.wire.invalid.clear()


def test_replayed_data_is_delivered_once_when_sealed() -> None:
    for cipher, copies in ((Cipher.NONE, 2), (Cipher.CHACHA20_POLY1305, 1)):
        with Pair(cipher=cipher, client={"flows": 1}) as pair:
            pair.up()
            recorder = Recorder(pair)
            pair.say("app", b"once?")
            pair.run(1.0)
            data = next(tcp for tcp in recorder.payloads if len(tcp.payload) == 15 + (cipher is not Cipher.NONE) * 16)
            pair.wire.inject(pair.now, Toward.SERVER, data.packet, behind_judge=True)
            pair.run(1.0)
            assert pair.heard() == [b"once?"] * copies


@pytest.mark.parametrize("toward", ENDS)
@pytest.mark.parametrize("behind_judge", [True, False])
@pytest.mark.parametrize(("ahead", "copies"), [(4_000_000, 4), (0, 100)])
def test_replayed_sealed_frames_move_nothing(toward: Toward, ahead: int, copies: int, *, behind_judge: bool) -> None:
    """Else our ACKs would be of numbers that the peer never sent, and a strict firewall would drop them."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 4}) as pair:
        pair.up()
        pair.echo = True
        recorded: dict[tuple[int, int], Tcp] = {}

        def record(crossing: Crossing) -> None:
            tcp = crossing.tcp
            if crossing.toward is toward and len(tcp.payload) > 500 and not crossing.injected:
                recorded.setdefault((tcp.source[1], tcp.destination[1]), tcp)

        pair.wire.taps.append(record)
        while len(recorded) < 4:
            pair.say("app", *numbered(4, 600, b"a", first=int(pair.now * 1000)))
            pair.run(0.05)
        pair.run(1.0)
        node = pair.server if toward is Toward.SERVER else pair.client
        flows = pair.flows(node)
        before = {flow: (flow.pump.received, flow.pump.received_frames, flow.pump.window) for flow in flows}
        for flow in flows:
            tcp = recorded[flow.key.remote_port, flow.key.local_port]
            seq = (flow.pump.received + ahead) & 0xFFFFFFFF
            again = make_tcp(tcp.source, tcp.destination, seq, flow.pump.next_seq, PSH | ACK, tcp.payload, 0)
            for _ in range(copies):
                pair.wire.inject(pair.now, toward, again, behind_judge=behind_judge)
        pair.run(0.006)
        assert [flow.pump.replayed for flow in flows] == [copies] * 4
        assert {flow: (flow.pump.received, flow.pump.received_frames, flow.pump.window) for flow in flows} == before
        pair.at_app.clear()
        for at in range(50):
            pair.say("app", *numbered(10, 600, b"b", first=10 * at))
            pair.run(0.1)
        assert len(pair.at_app) == 500
        assert set(flows) == set(pair.flows(node))
