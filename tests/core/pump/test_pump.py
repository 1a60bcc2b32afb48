"""The pump by itself: two of them, and between them only bursts handed over by the test."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from rsock_nf.core import messages
from rsock_nf.core.parameters import Cipher, Spread
from rsock_nf.core.protocols import Kind
from rsock_nf.core.pump.pump import Pump, SlowFrames, SlowPayload, wire_key
from rsock_nf.core.pump.state import OUR_WINDOW, FlowGroup, Handover, PumpConversation, PumpFlow
from rsock_nf.core.types import Checksum, FlowKey, Outgoing, Packet, Run
from rsock_nf.link.segmentation import cut
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import flow_codec
from tests.core.conntrack import ACK, FIN, PSH, RST, SYN, Tcp, parse_tcp
from tests.core.wire import make_tcp

CLIENT, SERVER = b"\x0a\0\0\x01", b"\xc0\0\x02\x02"
WINDOW = OUR_WINDOW << 7


@dataclass
class End:
    """One pump with its flows and one conversation, number 5."""

    pump: Pump
    group: FlowGroup
    flows: list[PumpFlow] = field(default_factory=list)

    def out(self, *datagrams: bytes) -> list[Outgoing]:
        bursts, slow = self.pump.from_app([Run("peer", list(datagrams), len(datagrams[0]))])
        assert not slow
        return bursts

    def take(self, packets: Iterable[bytes]) -> tuple[list[bytes], list[object]]:
        runs, slow = self.pump.from_link([Packet(memoryview(packet), 0, Checksum.VERIFY, b"") for packet in packets])
        return [bytes(datagram) for run in runs for datagram in run.datagrams], list(slow)


def ends(
    flows: int = 1, *, cipher: Cipher = Cipher.NONE, scale: int | None = 7, spread: Spread = Spread.BURST
) -> tuple[End, End]:
    made = []
    for initiator in (True, False):
        group = FlowGroup(None)
        end = End(Pump(seed=42, max_burst_bytes=64_000, spread=spread), group)
        for flow_id in range(flows):
            key = FlowKey(CLIENT, 40_000 + flow_id, SERVER, 10_001 + flow_id)
            start, received = (1000, 5000) if initiator else (5000, 1000)
            window = OUR_WINDOW << (scale or 0)
            handover = Handover(start, received, scale, window, 1460, 1)
            codec = flow_codec(cipher, KeyRing(cipher, b"k" * 64), flow_id, initiator=initiator)
            flow = PumpFlow(group, flow_id, key if initiator else key.reversed(), codec, handover)
            end.pump.put_flow(flow)
            group.use(flow)
            end.flows.append(flow)
        end.pump.put_conversation(PumpConversation(group, 5, "peer", target=0, opening=False))
        made.append(end)
    return made[0], made[1]


def packets(bursts: Iterable[Outgoing]) -> list[bytes]:
    return [packet for burst in bursts for packet in cut(burst)]


def owes(end: End) -> bool:
    return end.pump.owes_acknowledgements


def test_a_run_is_one_burst() -> None:
    one, other = ends()
    bursts = one.out(*[bytes([at]) * 1000 for at in range(40)])
    assert len(bursts) == 1
    assert bursts[0].segment_size == 1008
    assert bursts[0].payload_size == 40 * 1008 == sum(map(len, bursts[0].payload))
    got, slow = other.take(packets(bursts))
    assert got == [bytes([at]) * 1000 for at in range(40)]
    assert not slow


def test_bursts_stay_below_the_link_and_end_with_the_short_one() -> None:
    one, other = ends()
    datagrams = [bytes(1200)] * 130 + [b"short"]
    bursts = one.out(*datagrams)
    assert all(len(burst.headers) + burst.payload_size <= 64_000 for burst in bursts)
    assert [burst.payload_size for burst in bursts][:2] == [1208 * 52] * 2
    assert other.take(packets(bursts))[0] == datagrams


def test_conversations_share_a_burst_as_long_as_their_datagrams_have_one_size() -> None:
    one, other = ends(10)
    for end in (one, other):
        for number in range(6, 9):
            made = PumpConversation(end.group, number, f"peer {number}", target=0, opening=False)
            end.pump.put_conversation(made)
    sizes = {"peer": 300, "peer 6": 300, "peer 7": 200, "peer 8": 300}
    said = [Run(peer, [bytes([at]) * 300, bytes([at]) * size], 300) for at, (peer, size) in enumerate(sizes.items())]
    bursts, slow = one.pump.from_app(said)
    assert not slow
    assert [(burst.segment_size, burst.payload_size) for burst in bursts] == [
        (308, 6 * 308 - 100),  # behind a shorter one nothing can follow
        (308, 2 * 308),
    ]
    runs, left = other.pump.from_link([Packet(memoryview(one), 0, Checksum.VERIFY, b"") for one in packets(bursts)])
    assert not left
    got: dict[object, list[bytes]] = {run.peer: [] for run in said}
    for run in runs:
        got[run.peer] += map(bytes, run.datagrams)
    assert got == {run.peer: run.datagrams for run in said}


@pytest.mark.parametrize("spread", [Spread.PACKET, Spread.CONVERSATION])
def test_how_it_spreads_limits_what_shares_a_burst(spread: Spread) -> None:
    one, _ = ends(10, spread=spread)
    runs = []
    for number in range(6, 40):
        one.pump.put_conversation(PumpConversation(one.group, number, number, target=0, opening=False))
        runs.append(Run(number, [b"same", b"size"], 4))
    used: dict[int, set[int]] = {number: set() for number in range(6, 40)}
    for _ in range(5):
        bursts, _ = one.pump.from_app(runs)
        for burst in bursts:
            for packet in packets([burst]):
                tcp = parse_tcp(packet)
                used[int.from_bytes(tcp.payload[2:4], "big")].add(tcp.source[1])
        if spread is Spread.PACKET:
            assert {burst.segment_size for burst in bursts} == {0}
    assert (max(map(len, used.values())) > 1) is (spread is Spread.PACKET)


def test_a_burst_of_one_is_not_to_be_cut() -> None:
    one, _ = ends()
    assert [burst.segment_size for burst in one.out(bytes(1400))] == [0]


def test_what_it_cannot_decide_comes_back_whole() -> None:
    one, _ = ends()
    stranger, large = Run("stranger", [b"x"], 1), Run("peer", [bytes(2000)] * 3, 2000)
    assert one.pump.from_app([stranger, large]) == ([], [stranger, large])
    one.group.rest(one.flows[0])
    fitting = Run("peer", [b"x"], 1)
    assert one.pump.from_app([fitting]) == ([], [fitting])


def test_empty_datagrams() -> None:
    one, other = ends()
    assert other.take(packets(one.out(b"", b"", b"")))[0] == [b"", b"", b""]


def test_bulk_stops_at_three_quarters_of_the_window_and_goes_on_with_credit() -> None:
    one, _ = ends(scale=None)
    flow = one.flows[0]
    bursts = one.out(*[bytes(992)] * 100)
    assert flow.in_flight == 49_000 == sum(burst.payload_size for burst in bursts)
    assert one.group.no_credit == 51
    assert list(one.pump.stalled) == [flow]
    assert not one.out(bytes(992))
    flow.acked(1000 + 10_000, OUR_WINDOW)
    assert flow.in_flight == 39_000
    assert sum(burst.payload_size for burst in one.out(*[bytes(992)] * 100)) == 10_000
    conversation = one.pump.conversation("peer")
    assert conversation is not None
    assert conversation.sent_datagrams == 59


@pytest.mark.parametrize("ack", [999, 1000 + 49_001, 1000 - 49_000, 1000 + (1 << 31)])
def test_an_ack_beyond_what_was_sent_or_behind_counts_for_nothing(ack: int) -> None:
    one, _ = ends(scale=None)
    one.out(*[bytes(992)] * 100)
    one.flows[0].acked(ack & 0xFFFFFFFF, 10)
    assert one.flows[0].in_flight == 49_000
    assert one.flows[0].window == OUR_WINDOW


def test_a_smaller_window_of_the_peer_is_kept() -> None:
    one, _ = ends(scale=None)
    one.flows[0].acked(1000, 8000)
    one.out(*[bytes(992)] * 100)
    assert one.flows[0].in_flight == 6000


def test_a_flow_without_credit_is_passed_over() -> None:
    one, _ = ends(3, scale=None)
    one.flows[1].acked(1000, 0)
    bursts = one.out(*[bytes(992)] * 90)
    assert not one.group.no_credit
    ports = {parse_tcp(packets([burst])[0]).source[1] for burst in bursts}
    assert ports <= {40_000, 40_002}


def test_bursts_spread_evenly() -> None:
    one, _ = ends(10)
    used: Counter[int] = Counter()
    for _ in range(2000):
        (burst,) = one.out(b"x")
        used[parse_tcp(packets([burst])[0]).source[1]] += 1
    assert len(used) == 10
    assert all(140 < count < 260 for count in used.values())


def test_one_conversation_cannot_starve_another() -> None:
    """A full run of one, then one datagram of another: both go, in the order in which they came."""
    one, _ = ends(2)
    one.pump.put_conversation(PumpConversation(one.group, 6, "second", target=0, opening=False))
    bursts, slow = one.pump.from_app([Run("peer", [bytes(1200)] * 500, 1200), Run("second", [b"me too"], 6)])
    assert not slow
    assert not one.group.no_credit
    assert b"me too" in b"".join(bursts[-1].payload)


@pytest.mark.parametrize("cipher", Cipher)
def test_received_moves_frame_by_frame_and_only_by_what_authenticates(cipher: Cipher) -> None:
    one, other = ends(cipher=cipher)
    parts = packets(one.out(*[bytes([at]) * 500 for at in range(10)]))
    flow = other.flows[0]
    size = len(parse_tcp(parts[0]).payload)
    damaged = bytearray(b"".join(parse_tcp(packet).payload for packet in parts))
    for at in range(6 * size, 10 * size, size):
        damaged[at + 4 : at + 12] = bytes(8)
    merged = make_tcp((CLIENT, 40_000), (SERVER, 10_001), 1000, 5000, PSH | ACK, bytes(damaged))
    runs, slow = other.pump.from_link([Packet(memoryview(merged), size, Checksum.VERIFY, b"")])
    assert sum(len(run.datagrams) for run in runs) == 6
    assert not slow
    assert flow.received == 1000 + 6 * size
    assert flow.bad_frames == 4
    ack = parse_tcp(packets([other.pump.acknowledge(flow)])[0])
    assert ack.ack == 1000 + 6 * size


def test_reordered_segments_do_not_move_it_back() -> None:
    one, other = ends()
    parts = packets(one.out(*[bytes([at]) * 500 for at in range(10)]))
    assert len(other.take(reversed(parts))[0]) == 10
    assert other.flows[0].received == 1000 + 10 * 508


def test_damaged_packets_are_counted_and_dropped() -> None:
    one, other = ends()
    (packet,) = packets(one.out(b"hello"))
    damaged = packet[:-1] + bytes([packet[-1] ^ 1])
    assert other.take([damaged]) == ([], [])
    assert other.flows[0].bad_checksums == 1
    runs, _ = other.pump.from_link([Packet(memoryview(damaged), 0, Checksum.PARTIAL, b"")])
    assert [bytes(run.datagrams[0]) for run in runs] == [b"hell" + damaged[-1:]], "not computed yet: not looked at"


def test_padding_of_the_link_is_cut_off() -> None:
    one, other = ends()
    (packet,) = packets(one.out(b""))
    assert other.take([packet + bytes(6)])[0] == [b""]


@pytest.mark.parametrize("flags", [SYN, SYN | ACK, RST, FIN | ACK, PSH])
def test_odd_flags_go_the_slow_way(flags: int) -> None:
    _, other = ends()
    packet = make_tcp((CLIENT, 40_000), (SERVER, 10_001), 1000, 5000, flags)
    got, slow = other.take([packet])
    assert not got
    assert isinstance(slow[0], Packet)


def test_unknown_flows_and_other_protocols_go_the_slow_way() -> None:
    _, other = ends()
    udp = bytearray(make_tcp((CLIENT, 40_000), (SERVER, 10_001), 1000, 5000, ACK))
    udp[9] = 17
    strange = [make_tcp((CLIENT, 40_001), (SERVER, 10_001), 1, 1, ACK), bytes(udp), b"", b"\x45", bytes(60)]
    assert len(other.take(strange)[1]) == len(strange)


def test_it_knows_whose_packets_are_a_flows() -> None:
    one, other = ends()
    (packet,) = packets(one.out(b"hello"))
    assert other.pump.knows(Packet(memoryview(packet), 0, Checksum.VERIFY, b""))
    elsewhere = make_tcp((CLIENT, 40_001), (SERVER, 10_001), 1, 1, ACK, b"")
    for strange in (elsewhere, b"", b"\x45" * 3, bytes(60)):
        assert not other.pump.knows(Packet(memoryview(strange), 0, Checksum.VERIFY, b""))
    assert not other.pump.knows_carrier(other.flows[0].key)


def test_payload_that_does_not_authenticate_is_slow_too() -> None:
    _, other = ends()
    got, slow = other.take([make_tcp((CLIENT, 40_000), (SERVER, 10_001), 1000, 5000, ACK, b"GET / HTTP/1.0")])
    assert not got
    assert isinstance(slow[0], SlowPayload)
    assert other.flows[0].received == 1000


def test_control_and_unknown_conversations_are_slow() -> None:
    one, other = ends()
    flow = one.flows[0]
    bursts = [one.pump.send_control(flow, messages.Probe(7)), *one.out(b"known")]
    conversation = PumpConversation(one.group, 9, "nine", target=3, opening=True)
    one.pump.send(conversation, Kind.OPENING, conversation.prefix, [b"new"], 3, bursts)
    got, slow = other.take(packets(bursts))
    assert got == [b"known"]
    kinds = [(item.frames.kind, bytes(item.frames.datagrams[0])) for item in slow if isinstance(item, SlowFrames)]
    assert kinds[0][0] == Kind.CONTROL
    assert kinds[1] == (Kind.OPENING, b"\0\x03new")
    counts = [item.received for item in slow if isinstance(item, SlowFrames)]
    assert counts == [1, 3], "up to and with each"


def test_acks_by_bytes_and_for_all() -> None:
    one, other = ends(2)
    flow = one.flows[0]
    for taken in (b"few", bytes(1400)):
        other.take(packets([one.pump._segment(flow, flow.codec.pack(0, 5, 0, b"", [taken]), 0, PSH | ACK)]))
    assert owes(other)
    assert other.pump.take_unacknowledged(all_of_them=False) == []
    (ack,) = other.pump.take_unacknowledged(all_of_them=True)
    assert ack.payload_size == 0
    assert not owes(other)
    for _ in range(WINDOW // 16 // 1400 + 1):
        other.take(packets([one.pump._segment(flow, flow.codec.pack(0, 5, 0, b"", [bytes(1400)]), 0, PSH | ACK)]))
    assert len(other.pump.take_unacknowledged(all_of_them=False)) == 1


def test_bulk_is_told_from_what_leaves_before_it() -> None:
    one, other = ends()
    bulk = one.out(b"hello")
    other.take(packets(bulk))
    urgent = [one.pump.send_control(one.flows[0], messages.Probe(1)), *other.pump.take_unacknowledged(all_of_them=True)]
    assert [burst.bulk for burst in [*bulk, *urgent, one.pump.finish(one.flows[0])]] == [True, False, False, False]


def test_what_is_sent_carries_the_ack() -> None:
    one, other = ends()
    other.take(packets(one.out(b"hello")))
    other.out(b"and back")
    assert other.pump.take_unacknowledged(all_of_them=True) == []


@pytest.mark.parametrize("cipher", [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305])
def test_replayed_frames_are_dropped_one_by_one(cipher: Cipher) -> None:
    one, other = ends(cipher=cipher)
    parts = packets(one.out(*[bytes([at]) * 500 for at in range(10)]))
    assert len(other.take(parts[3:5])[0]) == 2
    assert len(other.take(parts)[0]) == 8
    assert other.take(parts)[0] == []
    assert other.flows[0].replayed == 12


def test_identification_runs_on_over_bursts() -> None:
    one, _ = ends()
    parts = packets(one.out(*[bytes(1000)] * 130))
    numbers = [int.from_bytes(packet[4:6], "big") for packet in parts]
    assert numbers == list(range(numbers[0], numbers[0] + 130))


def test_sequence_numbers_pass_the_end_of_the_circle() -> None:
    one, other = ends()
    start = 0xFFFFFFFF - 20_000
    one.flows[0].next_seq = one.flows[0].highest_ack = start
    other.flows[0].received = start
    for at in range(10):
        datagrams = [bytes([at]) * 500] * 10
        assert other.take(packets(one.out(*datagrams)))[0] == datagrams
        one.take(packets(other.pump.take_unacknowledged(all_of_them=True)))
    assert one.flows[0].in_flight == 0
    assert one.flows[0].next_seq == (start + 100 * 508) & 0xFFFFFFFF


def test_a_dropped_flow_is_gone() -> None:
    one, other = ends(2)
    bursts = one.out(b"x")
    flow = next(flow for flow in other.flows if wire_key(flow.key) == bytes(packets(bursts)[0][12:24]))
    other.take(packets(bursts))
    other.pump.drop_flow(flow)
    other.pump.drop_flow(flow)
    assert not other.pump.owes_acknowledgements
    assert flow not in other.group.usable
    assert isinstance(other.take(packets(bursts))[1][0], Packet)


def test_a_dropped_conversation_is_gone_but_not_its_successor() -> None:
    one, _ = ends()
    old = one.pump.conversation("peer")
    assert old is not None
    new = PumpConversation(one.group, 5, "peer", target=0, opening=False)
    one.pump.put_conversation(new)
    one.pump.drop_conversation(old)
    assert one.pump.conversation("peer") is new
    one.pump.drop_conversation(new)
    assert one.pump.conversation("peer") is None
    assert not one.group.conversations


def test_the_packets_of_a_burst_are_right() -> None:
    one, _ = ends()
    tcps: list[Tcp] = [parse_tcp(packet) for packet in packets(one.out(*[bytes(1000)] * 20))]
    assert all(tcp.checksums for tcp in tcps)
    assert [tcp.flags for tcp in tcps] == [ACK] * 19 + [PSH | ACK]
    assert [tcp.seq for tcp in tcps] == [1000 + 1008 * at for at in range(20)]
    assert {tcp.window for tcp in tcps} == {65535}


def _again(packet: bytes, *, seq: int, ack: int, window: int) -> bytes:
    """A recorded packet once more, with other numbers."""
    tcp = parse_tcp(packet)
    return make_tcp(tcp.source, tcp.destination, seq, ack, tcp.flags, tcp.payload, window)


@pytest.mark.parametrize("ahead", [0, 4_000_000])
def test_a_replayed_frame_moves_nothing_but_the_count_of_replayed_ones(ahead: int) -> None:
    one, other = ends(cipher=Cipher.AES_256_GCM)
    (recorded,) = packets(one.out(b"recorded"))
    other.take([recorded])
    other.out(b"in flight")
    other.pump.take_unacknowledged(all_of_them=True)
    flow = other.flows[0]
    slots = [slot for slot in PumpFlow.__slots__ if slot not in ("replayed", "replay")]
    before = {slot: getattr(flow, slot) for slot in slots}
    replayed = _again(recorded, seq=flow.received + ahead, ack=flow.next_seq, window=0)
    assert other.take([replayed]) == ([], [])
    assert {slot: getattr(flow, slot) for slot in slots} == before
    assert flow.replayed == 1
    assert not owes(other)


def test_a_replayed_frame_behind_fresh_ones_does_not_move_the_highest_number() -> None:
    """GRO may merge an attacker's copy with the segments before it."""
    one, other = ends(cipher=Cipher.AES_256_GCM)
    burst = packets(one.out(*[bytes([at]) * 500 for at in range(4)]))
    start, size = other.flows[0].received, 524
    last = parse_tcp(burst[3])
    other.take([make_tcp(last.source, last.destination, start, last.ack, ACK, last.payload)])
    assert other.flows[0].received == start + size
    merged = b"".join(parse_tcp(packet).payload for packet in burst)
    whole = make_tcp(last.source, last.destination, start, last.ack, ACK, merged)
    runs, slow = other.pump.from_link([Packet(memoryview(whole), size, Checksum.VALID, b"")])
    assert [len(run.datagrams) for run in runs] == [3]
    assert not slow
    assert other.flows[0].received == start + 3 * size
    assert other.flows[0].received_frames == 4
