"""Wire rsock against an original, whose packets are made here by hand: a live kernel beside forged segments.

Its first number is one too far, its ACKs follow nothing, it never sets PSH, and RST and FIN come from a
kernel that stands where the handshake left it.
"""

from __future__ import annotations

import random
from ipaddress import ip_address
from typing import Any

import pytest

from rsock_nf.core.ends import endpoint
from rsock_nf.core.events import (
    CarrierWanted,
    ConversationOpened,
    Event,
    FlowClosed,
    FlowSick,
    PortReleased,
    PortWanted,
)
from rsock_nf.core.messages import CloseConversation
from rsock_nf.core.parameters import ClientParameters, Kinds, ServerParameters
from rsock_nf.core.types import Carried, Checksum, FlowKey, Packet, PortRange, Run, TransportAddress
from rsock_nf.link.segmentation import cut
from rsock_nf.wire.parameters import RsockParameters
from rsock_nf.wire.rsock import server as rsock_server
from rsock_nf.wire.rsock.client import MAX_EXCHANGED, RsockClientWire
from rsock_nf.wire.rsock.frames import Frame, build_frame, hash_of, parse_frame_untrusted
from rsock_nf.wire.rsock.handshakes import MAX_AGE, MAX_ENTRIES, MAX_OF_ONE_SOURCE, Complete, CompleteHandshakes
from rsock_nf.wire.rsock.server import RsockServerWire
from tests.core.conntrack import ACK, FIN, PSH, RST, SYN, Tcp, Tracker, parse_tcp
from tests.core.outputs import outputs
from tests.core.wire import checksummed, make_tcp
from tests.wire.rsock.pair import CONV_RST, DATA, KEEP_ALIVE_REQ, KEEP_ALIVE_RESP, KEY, NETCONN_RST, frame

HERE, THERE = ip_address("192.0.2.2").packed, ip_address("198.51.100.7").packed
HASHES = [hash_of(KEY, first) for first in range(256)]
BOGUS = 0xFFFF0000
"""An ACK that was never raised, as about half of an original's flows have it for ever."""
SYN_OPTIONS = bytes.fromhex("020405b40101040201030307")


class Alone:
    """One of our ends, its peer the test.  ``sent`` is what it sent since the last look."""

    def __init__(self, node: endpoint.Endpoint[Any]) -> None:
        self.node = node
        self.now = 1000.0
        self.events: list[Event] = []
        self.runs: list[Run] = []
        self.carried: list[tuple[FlowKey, bytes]] = []
        """What left on UDP carriers."""

    def sent(self) -> list[Tcp]:
        found = outputs(self.node)
        self.events += found.events
        self.runs += [run._replace(datagrams=[bytes(one) for one in run.datagrams]) for run in found.runs]
        self.carried += [(one.carrier, b"".join(one.payload)) for one in found.bursts if one.carrier]
        return [parse_tcp(packet) for burst in found.bursts if not burst.carrier for packet in cut(burst)]

    def frames(self) -> list[Frame]:
        frames = [parse_frame_untrusted(HASHES, memoryview(tcp.payload)) for tcp in self.sent() if tcp.payload]
        return [frame._replace(body=bytes(frame.body)) for frame in frames]

    def receive(self, *packets: bytes, segment_size: int = 0) -> list[Tcp]:
        self.node.receive_packets(
            self.now, [Packet(memoryview(packet), segment_size, Checksum.VERIFY, b"link") for packet in packets]
        )
        return self.sent()

    def wait(self, seconds: float) -> list[Tcp]:
        end, sent = self.now + seconds, self.sent()
        while (due := self.node.next_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.node.handle_timeout(self.now)
            sent += self.sent()
        self.now = end
        return sent

    def delivered(self) -> list[bytes]:
        self.sent()
        return [bytes(datagram) for run in self.runs for datagram in run.datagrams]

    def conversations(self) -> int:
        return sum(isinstance(event, ConversationOpened) for event in self.events)

    def closed(self) -> list[str]:
        self.sent()
        return [event.reason for event in self.events if isinstance(event, FlowClosed)]


class Flow:
    """A flow of an original's client toward our server: what its kernel sends, and what it forges."""

    def __init__(
        self,
        server: Alone,
        number: int,
        *,
        isn: int = 0xFFFFFF00,
        shake: bool = True,
        options: bytes = SYN_OPTIONS,
    ) -> None:
        self.server = server
        self.port, self.server_port = 40_000 + number, 10_001 + number
        self.key = 0x10000000 | self.server_port << 16 | self.port
        self.isn, self.seq = isn, (isn + 2) & 0xFFFFFFFF
        syn = make_tcp((THERE, self.port), (HERE, self.server_port), isn, 0, SYN)
        self.answer = server.receive(with_options(syn, options))[0]
        self.server_isn = self.answer.seq
        if shake:
            self.kernel(ACK)

    def packet(self, seq: int, ack: int, flags: int, payload: bytes = b"") -> bytes:
        source, destination = (THERE, self.port), (HERE, self.server_port)
        return make_tcp(source, destination, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, payload)

    def kernel(self, flags: int, seq: int | None = None) -> list[Tcp]:
        """A segment of the kernel, which has never sent anything since the handshake."""
        return self.server.receive(self.packet(self.isn + 1 if seq is None else seq, self.server_isn + 1, flags))

    def forge(self, payload: bytes) -> bytes:
        made = self.packet(self.seq, BOGUS, ACK, payload)
        self.seq += len(payload)
        return made

    def say(self, body: bytes, command: int = DATA, **changes: int) -> list[Tcp]:
        return self.server.receive(self.forge(frame(body, flow=self.key, command=command, **changes)))

    def about(self, command: int, key: int) -> list[Frame]:
        """A control frame about flow ``key`` on this one; the frames that answer it."""
        answer = self.say(key.to_bytes(8, "little"), command)
        return [parse_frame_untrusted(HASHES, memoryview(tcp.payload)) for tcp in answer if tcp.payload]


def with_options(syn: bytes, options: bytes = SYN_OPTIONS) -> bytes:
    changed = bytearray(syn + options)
    changed[2:4] = len(changed).to_bytes(2, "big")
    changed[32] = (5 + len(options) // 4) << 4
    return checksummed(changed)


@pytest.fixture
def server() -> Alone:
    parameters = ServerParameters(keepalive=4.0, targets=(TransportAddress(ip_address("127.0.0.1"), 9),))
    wire = RsockServerWire(RsockParameters(KEY), bytes(32))
    return Alone(endpoint.server(parameters, wire, random.Random(1).randbytes, mtu=1500, max_burst_bytes=64_000))


def body_key(found: Frame) -> int:
    return int.from_bytes(found.body, "little")


# -- our server


def test_a_first_datagram_one_byte_too_far_with_a_meaningless_ack(server: Alone) -> None:
    flow = Flow(server, 0)
    answer = flow.say(b"datagram")
    assert server.delivered() == [b"datagram"]
    assert [(tcp.seq, tcp.ack, tcp.flags) for tcp in answer] == [
        (flow.server_isn + 1, (flow.isn + 2 + 39) & 0xFFFFFFFF, ACK)
    ]


def test_an_answer_names_the_clients_flow_id_and_conversation(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram", conversation=5)
    server.node.receive_datagrams(server.now, [Run(server.runs[0].peer, [b"answer"], 6)])
    (tcp,) = server.sent()
    assert (tcp.seq, tcp.flags) == (flow.server_isn + 1, PSH | ACK)
    found = parse_frame_untrusted(HASHES, memoryview(tcp.payload))
    assert found == (2, DATA, (7).to_bytes(8, "big"), 5, flow.key, b"answer")


@pytest.mark.parametrize("version", [1, 2])
def test_a_client_is_answered_as_it_speaks(server: Alone, version: int) -> None:
    flow = Flow(server, 0)
    server.receive(flow.forge(build_frame(KEY, Frame(version, DATA, b"a client", 5, 80_000, b"datagram"))))
    server.node.receive_datagrams(server.now, [Run(server.runs[0].peer, [b"answer"], 6)])
    assert server.frames() == [Frame(version, DATA, b"a client", 5, 80_000, b"answer")]


def test_nothing_waits_for_acks_that_never_come(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram")
    peer = server.runs[0].peer
    for _ in range(200):
        server.node.receive_datagrams(server.now, [Run(peer, [b"x" * 1400] * 64, 1400)])
        assert len(server.sent()) == 64
        server.now += 0.001
        flow.kernel(ACK)
    assert flow.server_isn + 200 * 64 * 1431 > flow.server_isn + (8 << 20)


def test_frames_beyond_a_hole_of_more_than_our_window(server: Alone) -> None:
    """It has no credit to run out of, and goes on through a path that was away."""
    flow = Flow(server, 0)
    flow.say(b"before")
    flow.seq += 64 << 20
    answer = flow.say(b"behind")
    assert server.delivered() == [b"before", b"behind"]
    assert server.node.counters["frames behind a hole"] == 1
    flow.say(b"next")
    assert server.delivered()[2:] == [b"next"]
    assert not any(tcp.flags & RST for tcp in answer)


def test_what_gro_merged_is_cut_even_as_the_first_payload(server: Alone) -> None:
    """An original's frames have no PSH, so they are merged wherever they can be."""
    flow = Flow(server, 0)
    frames = [frame(bytes([65 + at]) * 100, flow=flow.key) for at in range(4)]
    server.receive(flow.forge(b"".join(frames)), segment_size=131)
    server.receive(flow.forge(b"".join(frames)), segment_size=131)
    assert server.delivered() == [bytes([65 + at]) * 100 for at in range(4)] * 2


def test_two_packets_of_a_new_flow_in_one_batch(server: Alone) -> None:
    flow = Flow(server, 0)
    server.receive(*(flow.forge(frame(b"%d" % at, flow=flow.key)) for at in range(5)))
    assert server.delivered() == [b"0", b"1", b"2", b"3", b"4"]
    assert server.conversations() == 1


def test_two_packets_of_a_new_conversation_in_one_batch(server: Alone) -> None:
    """Else it had two sockets, and when the first was given up as silent, the one in use would be closed."""
    flow = Flow(server, 0)
    flow.say(b"another conversation")
    server.receive(*[flow.forge(frame(body, flow=flow.key, conversation=3)) for body in (b"one", b"three")])
    assert server.delivered() == [b"another conversation", b"one", b"three"]
    assert server.conversations() == 2


def test_nothing_is_delivered_that_has_no_handshake(server: Alone) -> None:
    """The key is public, or might as well be: an address at least has to be a real one."""
    known = Flow(server, 0)
    known.say(b"datagram")
    for ack in (BOGUS, known.server_isn + 1):
        stranger = Flow(server, 1, shake=False)
        packet = stranger.packet(stranger.isn + 2, ack, ACK, frame(b"injected", flow=stranger.key))
        assert server.receive(packet) == []
    assert server.delivered() == [b"datagram"]
    assert server.node.counters["frames without a handshake"] == 2


def test_a_first_frame_far_from_its_handshake_is_none(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.seq += 1 << 28
    assert flow.say(b"injected") == []
    assert not server.delivered()


@pytest.mark.parametrize("options", [SYN_OPTIONS, SYN_OPTIONS[:4]], ids=["scaled", "not scaled"])
@pytest.mark.parametrize("isn", [0, 0x12345678, 0x7FFFFFF0, 0xE0000000])
def test_connection_tracking_passes_an_originals_client(server: Alone, isn: int, options: bytes) -> None:
    """Its ACK begins at its own number + 3, and follows ours where ours is numerically larger, but later."""
    judge = Tracker()
    for number in range(64):
        flow = Flow(server, number, isn=isn + 1000 * number, options=options)
        syn = with_options(make_tcp((THERE, flow.port), (HERE, flow.server_port), flow.isn, 0, SYN), options)
        passed = [parse_tcp(syn), flow.answer, parse_tcp(flow.packet(flow.isn + 1, flow.server_isn + 1, ACK))]
        ack = received = flow.isn + 3
        for at in range(4):
            payload = frame(b"%d" % at * 1400, flow=flow.key, client=7 + number)
            made = flow.packet(flow.seq, ack, ACK, payload)
            flow.seq += len(payload)
            answers = server.receive(made)
            server.node.receive_datagrams(server.now, [Run(server.runs[-1].peer, [b"x" * 1400] * 4, 1400)])
            answers += server.sent()
            passed += [parse_tcp(made), *answers]
            ack, received = received, max(ack, passed[-1].end)  # what came meanwhile is acknowledged by the next frame
        assert [verdict for tcp in passed if (verdict := judge.judge(server.now, tcp))] == []


def test_a_clients_flow_is_given_up_before_our_numbers_begin_again(server: Alone) -> None:
    """Its ACKs would stay where they are.  Only it can dial, so it is told that the flow is down until it obeys."""
    flows = [Flow(server, 0, isn=1000), Flow(server, 1, isn=0xF0000000)]
    for flow in flows:
        flow.say(b"datagram")
    server.node.pump.flows()[1].next_seq = 0xFE000000  # type: ignore[index]
    for _ in range(2):
        told = [parse_frame_untrusted(HASHES, memoryview(tcp.payload)) for tcp in server.wait(1.0) if tcp.payload]
        about = [(frame.flow_id, body_key(frame)) for frame in told if frame.command == NETCONN_RST]
        assert about == [(flows[0].key, flows[1].key)]
    assert [event.reason for event in server.events if isinstance(event, FlowSick)] == [
        "its sequence numbers have run out"
    ]


def test_a_flow_that_begins_near_the_end_of_the_numbers_stays_until_they_begin_again(server: Alone) -> None:
    flow = Flow(server, 0, isn=0xFFF00000)
    flow.say(b"datagram")
    server.wait(2.5)
    assert not [event for event in server.events if isinstance(event, FlowSick)]
    (pump,) = server.node.pump.flows()
    pump.next_seq = 5
    server.wait(1.0)
    assert [event for event in server.events if isinstance(event, FlowSick)]


def old(flow: int, body: bytes) -> bytes:
    """A frame of version 1."""
    return build_frame(KEY, Frame(1, DATA, (7).to_bytes(8, "big"), 2, flow, body))


@pytest.mark.parametrize("apart", [0x90000000, 0x30000000])
def test_version_1_sends_with_the_numbers_of_another_connection(server: Alone, apart: int) -> None:
    """Behind the right ones, or far ahead of them: its frames name the flow."""
    flows = [Flow(server, 0), Flow(server, 1, isn=0x12345678)]
    flows[1].seq = flows[1].isn + apart
    for at in range(3):
        for flow in flows:
            server.receive(flow.forge(old(flow.port << 1, b"%d" % at)))
    assert server.delivered() == [b"0", b"0", b"1", b"1", b"2", b"2"]
    assert len(server.node.flows) == 2
    flows[1].seq += apart
    server.receive(flows[1].forge(old(flows[1].port << 1, b"another jump")))
    assert server.delivered()[6:] == [b"another jump"]
    assert not server.closed()


def test_version_1_needs_a_handshake_as_well(server: Alone) -> None:
    flow = Flow(server, 0, shake=False)
    flow.seq += 0x90000000
    assert server.receive(flow.forge(old(flow.port << 1, b"injected"))) == []
    assert not server.delivered()
    assert server.node.counters["frames without a handshake"] == 1


def test_version_2_has_right_numbers(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram")
    flow.seq += 0x90000000
    flow.say(b"injected")
    assert server.delivered() == [b"datagram"]


def test_who_goes_on_without_a_handshake_is_told_to_dial(server: Alone) -> None:
    """A server restarted under live flows; an original looks at the RST's ports only, ours at its number too."""
    flow = Flow(server, 0, shake=False)
    assert flow.say(b"first") == []
    assert server.wait(0.4) == []
    assert flow.say(b"second") == []
    server.wait(0.2)
    (reset,) = flow.say(b"third")
    assert (reset.flags, reset.seq) == (RST, BOGUS)
    assert flow.say(b"fourth") == []
    assert not server.delivered()


def test_ports_that_are_used_again_need_a_handshake_again(server: Alone) -> None:
    """The first connection was never used, and its end was lost."""
    Flow(server, 0)
    again = Flow(server, 0, isn=0x12345678)
    again.say(b"datagram")
    assert server.delivered() == [b"datagram"]


def test_who_went_on_without_a_handshake_long_ago_is_new_again(server: Alone) -> None:
    flow = Flow(server, 0, shake=False)
    assert flow.say(b"first") == []
    server.wait(60.0)
    assert flow.say(b"second") == []


def test_our_own_datagram_completes_the_handshake_by_itself(server: Alone) -> None:
    """Its ACK is right, so it proves the address though the bare ACK was lost."""
    flow = Flow(server, 0, shake=False)
    server.receive(flow.packet(flow.isn + 1, flow.server_isn + 1, PSH | ACK, frame(b"ours", flow=flow.key)))
    assert server.delivered() == [b"ours"]
    (session,) = server.node.role.sessions_by_id.values()
    assert session.keys.believed


def test_bare_acks_of_the_kernel_do_nothing(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram")
    for _ in range(5):
        assert flow.kernel(ACK) == []
    assert server.closed() == []


@pytest.mark.parametrize("flags", [RST, RST | ACK, FIN | ACK])
def test_the_kernels_rst_and_fin_have_the_handshakes_number(server: Alone, flags: int) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram")
    for seq in (flow.isn, flow.isn + 2, flow.seq - 1, flow.seq + 1):
        flow.kernel(flags, seq & 0xFFFFFFFF)
    assert server.closed() == []
    flow.kernel(flags)
    assert len(server.closed()) == 1


def test_the_kernels_fin_is_answered_where_it_stands(server: Alone) -> None:
    """It has taken nothing of what we sent, and would repeat its FIN for minutes."""
    flow = Flow(server, 0)
    flow.say(b"datagram")
    server.node.receive_datagrams(server.now, [Run(server.runs[0].peer, [b"answer"], 6)])
    server.sent()
    (fin,) = flow.kernel(FIN | ACK)
    assert (fin.flags, fin.seq, fin.ack) == (FIN | ACK, flow.server_isn + 1, (flow.isn + 2) & 0xFFFFFFFF)
    assert len(server.closed()) == 1


def test_an_rst_with_the_number_that_is_due_counts_as_well(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram")
    flow.kernel(RST, flow.seq & 0xFFFFFFFF)
    assert len(server.closed()) == 1


def test_a_connection_closed_without_use_is_closed_in_order(server: Alone) -> None:
    flow = Flow(server, 0)
    (fin,) = flow.kernel(FIN | ACK)
    assert (fin.flags, fin.seq, fin.ack) == (FIN | ACK, flow.server_isn + 1, (flow.isn + 2) & 0xFFFFFFFF)
    assert flow.say(b"after") == []
    assert not server.delivered()


def test_a_keepalive_about_any_flow_on_any_other_is_answered_on_the_one_that_it_is_about(server: Alone) -> None:
    flows = [Flow(server, at) for at in range(3)]
    for flow in flows:
        flow.say(b"datagram")
    (answer,) = flows[0].about(KEEP_ALIVE_REQ, flows[2].key)
    assert (answer.command, answer.flow_id, body_key(answer)) == (KEEP_ALIVE_RESP, flows[2].key, flows[2].key)


def test_a_key_that_nobody_has_is_reset_over_a_live_flow(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram")
    (answer,) = flow.about(KEEP_ALIVE_REQ, 0x12345678)
    assert (answer.command, answer.flow_id, body_key(answer)) == (NETCONN_RST, flow.key, 0x12345678)


def test_a_control_frame_opens_a_flow_of_a_known_client_only(server: Alone) -> None:
    """An original resets such a flow, and its client dials it again, every 20 s for ever."""
    first, second = Flow(server, 0), Flow(server, 1)
    assert second.about(KEEP_ALIVE_REQ, second.key) == []
    first.say(b"datagram")
    (answer,) = second.about(KEEP_ALIVE_REQ, second.key)
    assert (answer.command, answer.flow_id) == (KEEP_ALIVE_RESP, second.key)


def test_a_flow_that_the_client_gave_up_is_gone(server: Alone) -> None:
    flows = [Flow(server, at) for at in range(2)]
    for flow in flows:
        flow.say(b"datagram")
    flows[0].about(NETCONN_RST, flows[1].key)
    assert server.closed() == ["the peer gave it up"]


def test_a_conversation_is_closed_by_its_number(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram", conversation=70_000)
    assert server.conversations() == 1
    flow.say((70_000).to_bytes(4, "little"), CONV_RST)
    flow.say(b"again", conversation=70_000)
    server.sent()
    assert server.conversations() == 2


def test_our_keepalive_goes_unanswered_three_times(server: Alone) -> None:
    flow = Flow(server, 0)
    flow.say(b"datagram")
    server.node.receive_datagrams(server.now, [Run(server.runs[0].peer, [b"answer"], 6)])
    asked = [tcp for tcp in server.wait(20.0) if tcp.payload and tcp.payload[9] == KEEP_ALIVE_REQ]
    assert len(asked) == 3
    assert server.closed() == ["probes are not answered"]


def test_a_client_that_never_gets_anything_is_asked_as_well(server: Alone) -> None:
    """Or a host that lost its power would keep its session, and its place among ``max_sessions``, for ever."""
    flow = Flow(server, 0)
    flow.say(b"datagram")
    asked = [tcp for tcp in server.wait(20.0) if tcp.payload and tcp.payload[9] == KEEP_ALIVE_REQ]
    assert len(asked) == 3
    assert server.closed() == ["probes are not answered"]


def test_a_new_client_in_the_place_of_an_old_one_on_a_udp_carrier(server: Alone) -> None:
    """What it says arrives once, though several datagrams come merged."""
    key = FlowKey(HERE, 10_001, THERE, 40_000, udp=True)
    for client in (7, 8):
        merged = b"".join(frame(b"%d of %d" % (at, client), flow=5, client=client) for at in range(3))
        server.node.receive_carried(server.now, [Carried(key, memoryview(merged), len(merged) // 3)])
    assert server.delivered() == [b"%d of %d" % (at, client) for client in (7, 8) for at in range(3)]
    assert server.conversations() == 2


def test_datagrams_in_other_peoples_names_cost_them_little(server: Alone) -> None:
    """Over UDP one datagram makes a flow, wherever it says that it comes from: its address is asked once, not three
    times."""
    received = 0
    for number in range(2000):
        source = (0x0A000000 + number).to_bytes(4, "big")
        carried = frame(b"x", flow=number, client=1 + number % 20)
        received += len(carried)
        key = FlowKey(HERE, 10_001, source, 40_000, udp=True)
        server.node.receive_carried(server.now, [Carried(key, memoryview(carried), 0)])
    answered = 0
    for _ in range(60):
        answered += sum(burst.payload_size for burst in outputs(server.node).bursts)
        server.node.handle_timeout(server.now)
        server.now += 1.0
    assert answered <= 1.5 * received
    assert not server.node.flows


def test_there_is_an_end_to_the_flows_of_all(server: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsock_server, "MAX_ALL_FLOWS", 10)
    for number in range(20):
        key = FlowKey(HERE, 10_001, THERE, 40_000 + number, udp=True)
        carried = frame(b"x", flow=number, client=1 + number % 2)
        server.node.receive_carried(server.now, [Carried(key, memoryview(carried), 0)])
    assert len(server.node.flows) == 10


def test_a_client_that_keeps_its_key_on_new_ports_has_one_flow(server: Alone) -> None:
    first = Flow(server, 0)
    first.say(b"datagram")
    again = Flow(server, 1)
    again.key = first.key
    again.say(b"datagram")
    (session,) = server.node.role.sessions_by_id.values()
    assert list(session.flows) == [first.key]
    assert session.flows[first.key].key.remote_port == again.port


def test_another_version_in_the_same_session_is_refused(server: Alone) -> None:
    Flow(server, 0).say(b"datagram")
    other = Flow(server, 1)
    server.receive(other.forge(build_frame(KEY, Frame(1, DATA, (7).to_bytes(8, "big"), 2, 9, b"old"))))
    assert server.delivered() == [b"datagram"]


def test_complete_handshakes_are_bounded() -> None:
    table = CompleteHandshakes()

    def put(source: int, port: int, now: float = 0.0) -> FlowKey:
        key = FlowKey(HERE, 10_001, source.to_bytes(4, "big"), port)
        table.put(now, key, Complete(1, 2, 1460, 7, now))
        return key

    greedy = [put(1, port) for port in range(MAX_OF_ONE_SOURCE + 10)]
    assert len(table) == MAX_OF_ONE_SOURCE
    assert table.get(greedy[9]) is None
    assert table.get(greedy[10]) is not None
    other = put(2, 1)
    assert table.get(greedy[10]) is not None
    for source in range(3, MAX_ENTRIES):
        put(source, 1)
    assert len(table) == MAX_ENTRIES
    put(MAX_ENTRIES, 1, now=MAX_AGE)
    assert len(table) == 1
    assert table.take(other) is None


# -- our client


class Server:
    """An original's server toward our client: a kernel that accepted, and forged segments.

    ``isns``: its first numbers, one after the other; 0x7FFFFFF0 from then on.
    """

    def __init__(
        self, *, flows: int = 3, version: int = 2, isns: tuple[int, ...] = (), kinds: Kinds = Kinds.TCP
    ) -> None:
        self.isns = list(isns)
        parameters = ClientParameters(
            keepalive=4.0,
            server=(ip_address("198.51.100.7"),),
            ports=(PortRange(10_001, 10_000 + flows),),
            kinds=kinds,
        )
        wire = RsockClientWire(RsockParameters(KEY, version), 7)
        rng = random.Random(1).randbytes
        self.client = Alone(endpoint.client(parameters, wire, rng, mtu=1500, max_burst_bytes=64_000))
        self.node = self.client.node
        self.flows: dict[int, Connection] = {}
        self.port = 50_000
        self.node.role.start(self.client.now)
        self.serve()
        self.client.wait(0.2)
        self.serve()

    def serve(self) -> None:
        """Give ports, answer SYNs, until nothing more comes."""
        while True:
            sent = self.client.sent()
            wanted = [event for event in self.client.events if isinstance(event, PortWanted | CarrierWanted)]
            self.client.events = [event for event in self.client.events if event not in wanted]
            for event in wanted:
                self.port += 1
                if isinstance(event, CarrierWanted):
                    key = FlowKey(HERE, self.port, THERE, event.port, udp=True)
                    self.node.role.receive_carrier(self.client.now, event.request, key)
                    continue
                self.node.role.receive_port(self.client.now, event.request, HERE, self.port)
            for syn in (tcp for tcp in sent if tcp.flags == SYN):
                isn = self.isns.pop(0) if self.isns else 0x7FFFFFF0
                self.flows[syn.source[1]] = Connection(self.client, syn, isn)
            if not wanted and not sent:
                return


class Connection:
    """One of its accepted sockets."""

    def __init__(self, client: Alone, syn: Tcp, isn: int) -> None:
        self.client, self.syn = client, syn
        self.isn = isn
        self.seq = self.isn + 1
        self.key = 0x10000000 | syn.destination[1] << 16 | syn.source[1]
        answer = make_tcp(syn.destination, syn.source, self.isn, syn.seq + 1, SYN | ACK)
        self.ack, *self.rest = client.receive(with_options(answer))

    def send(self, seq: int, ack: int, flags: int, payload: bytes = b"") -> list[Tcp]:
        source, destination = self.syn.destination, self.syn.source
        return self.client.receive(make_tcp(source, destination, seq & 0xFFFFFFFF, ack, flags, payload))

    def say(self, body: bytes, command: int = DATA, conversation: int = 2) -> list[Tcp]:
        client = 7
        payload = frame(body, flow=self.key, command=command, client=client, conversation=conversation)
        self.seq += len(payload)
        return self.send(self.seq - len(payload), BOGUS, ACK, payload)


def app(server: Server, *datagrams: bytes) -> list[Tcp]:
    server.node.receive_datagrams(server.client.now, [Run("app", list(datagrams), len(datagrams[0]))])
    return server.client.sent()


def test_our_numbers_are_right() -> None:
    server = Server()
    assert len(server.flows) == 3
    (tcp,) = app(server, b"datagram")
    flow = server.flows[tcp.source[1]]
    assert (tcp.seq, tcp.ack, tcp.flags) == (flow.syn.seq + 1, flow.isn + 1, PSH | ACK)
    found = parse_frame_untrusted(HASHES, memoryview(tcp.payload))
    assert (found.command, found.conversation, found.flow_id, found.body) == (DATA, 2, flow.key, b"datagram")


def test_our_first_number_is_high_and_random() -> None:
    """An original's server acknowledges it only where it is numerically larger than its own."""
    numbers = {flow.syn.seq for flow in Server(flows=10).flows.values()}
    assert len(numbers) == 10
    assert min(numbers) >= 0xE0000000
    assert max(numbers) < 0xF0000000


def test_a_flow_whose_server_has_a_higher_number_is_exchanged_at_once() -> None:
    server = Server(flows=1, isns=(0xFFFFFF00, 0xF0000000))
    for _ in range(2):
        server.client.wait(0.01)
        server.serve()
    *bad, good = server.flows.values()
    assert [[tcp.flags for tcp in one.rest] for one in bad] == [[RST], [RST]]
    assert [one.rest[0].seq for one in bad] == [one.syn.seq + 1 for one in bad]
    assert good.syn.destination == bad[0].syn.destination
    assert len({one.syn.source for one in server.flows.values()}) == 3
    (tcp,) = app(server, b"datagram")
    assert tcp.source == good.syn.source


def test_a_number_that_is_higher_each_time_is_put_up_with() -> None:
    """Then it is not the server's choice, or nothing can be done."""
    server = Server(flows=1, isns=(0xFFFFFF00,) * 100)
    for _ in range(10):
        server.client.wait(0.1)
        server.serve()
    assert len(server.flows) == MAX_EXCHANGED + 1
    assert len(app(server, b"datagram")) == 1


def test_a_flow_is_replaced_before_its_numbers_begin_again() -> None:
    server = Server(flows=1)
    (flow,) = server.flows.values()
    app(server, b"datagram")
    flow.say(b"answer")
    (pump,) = server.node.pump.flows()
    pump.next_seq = pump.highest_ack = 0xFC000001
    server.client.wait(2.0)
    server.serve()
    assert len(server.flows) == 2
    assert [event.reason for event in server.client.events if isinstance(event, FlowSick)] == [
        "its sequence numbers have run out"
    ]
    (tcp,) = app(server, b"another")
    assert tcp.source != flow.syn.source


def test_an_answer_on_any_flow_is_delivered() -> None:
    server = Server()
    app(server, b"datagram")
    for flow in server.flows.values():
        flow.say(b"answer")
    assert server.client.delivered() == [b"answer"] * 3


def test_a_server_of_version_1_answers_with_the_numbers_of_another_connection() -> None:
    server = Server(version=1)
    app(server, b"datagram")
    for at, flow in enumerate(server.flows.values()):
        for body in (b"one", b"two"):
            flow.seq += 0x90000000 * at
            payload = build_frame(KEY, Frame(1, DATA, (7).to_bytes(8, "big"), 2, flow.syn.source[1] << 1, body))
            flow.send(flow.seq, BOGUS, ACK, payload)
            flow.seq += len(payload)
    assert server.client.delivered() == [b"one", b"two"] * 3
    assert server.node.counters["payloads of no frame"] == 0


def test_a_server_of_version_1_answers_that_it_does_not_know_a_udp_flow() -> None:
    """It makes a flow of a datagram only.  So the request has arrived, and datagrams may follow it."""

    def v1(flow: int, body: bytes, command: int = DATA) -> bytes:
        return build_frame(KEY, Frame(1, command, (7).to_bytes(8, "big"), 2, flow, body))

    server = Server(flows=1, version=1, kinds=Kinds.ALL)
    (flow,) = server.flows.values()
    app(server, *[b"datagram"] * 20)
    assert server.client.carried == []
    flow.send(flow.seq, BOGUS, ACK, v1(flow.syn.source[1] << 1, b"answer"))
    server.client.wait(1.5)
    (key, asked), *_ = server.client.carried
    assert asked[9] == KEEP_ALIVE_REQ
    name = (key.local_port << 1 | 1).to_bytes(4, "little")
    assert asked.endswith(name)
    asked_before = len(server.client.carried)
    flow.send(flow.seq + 33, BOGUS, ACK, v1(flow.syn.source[1] << 1, name, NETCONN_RST))
    assert server.client.closed() == []
    app(server, *[b"datagram"] * 20)
    assert {payload[9] for _, payload in server.client.carried[asked_before:]} == {DATA}


def test_credit_ends_until_the_peer_shows_that_its_acks_mean_nothing() -> None:
    """Until then the window of the SYN-ACK holds, as with a peer of our kind behind a strict firewall."""
    server = Server(flows=1)
    (flow,) = server.flows.values()

    def data(sent: list[Tcp]) -> int:
        return len([tcp for tcp in sent if tcp.payload and tcp.payload[9] == DATA])

    first = data(app(server, *[b"x" * 1400] * 64))
    assert first == 65_535 * 3 // 4 // 1431
    assert first + data(flow.say(b"answer")) == 64
    for _ in range(200):
        assert data(app(server, *[b"x" * 1400] * 64)) == 64


def test_a_peer_of_our_kind_is_known_by_its_psh() -> None:
    server = Server(flows=1)
    (flow,) = server.flows.values()
    (first,) = app(server, b"x")
    client = 7
    payload = frame(b"answer", flow=flow.key, client=client)
    flow.send(flow.seq, first.seq + len(first.payload), PSH | ACK, payload)
    app(server, *[b"x" * 1400] * 64)
    flow.say(b"from somebody else, later")
    for _ in range(120):
        app(server, *[b"x" * 1400] * 64)
    assert server.node.role.group.no_credit > 0


@pytest.mark.parametrize("flags", [RST, RST | ACK, FIN | ACK])
def test_the_servers_kernel_ends_a_flow_by_the_handshakes_number(flags: int) -> None:
    server = Server()
    flow = next(iter(server.flows.values()))
    flow.say(b"answer")
    for seq in (flow.isn, flow.isn + 2, flow.seq + 1, 12345):
        flow.send(seq, 0, flags)
    assert server.client.closed() == []
    flow.send(flow.isn + 1, 0, flags)
    assert len(server.client.closed()) == 1
    before = set(server.flows)
    server.client.wait(5.0)
    server.serve()
    server.client.sent()
    assert PortReleased(flow.syn.source[1]) in server.client.events
    assert len(set(server.flows) - before) == 1  # another source port, the same server port
    (fresh,) = set(server.flows) - before
    assert server.flows[fresh].syn.destination == flow.syn.destination


def test_a_flow_that_the_server_does_not_know_is_dialled_anew() -> None:
    server = Server()
    first, second, _ = server.flows.values()
    app(server, b"datagram")
    first.say(second.key.to_bytes(8, "little"), NETCONN_RST)
    assert server.client.closed() == ["the peer gave it up"]
    before = set(server.flows)
    server.client.wait(5.0)
    server.serve()
    assert len(set(server.flows) - before) == 1


def test_a_keepalive_is_answered_by_key() -> None:
    server = Server()
    first, second, _ = server.flows.values()
    answers = first.say(second.key.to_bytes(8, "little"), KEEP_ALIVE_REQ)
    (answer,) = [parse_frame_untrusted(HASHES, memoryview(tcp.payload)) for tcp in answers if tcp.payload]
    assert (answer.command, answer.flow_id, body_key(answer)) == (KEEP_ALIVE_RESP, second.key, second.key)
    answers = first.say((99).to_bytes(8, "little"), KEEP_ALIVE_REQ)
    (answer,) = [parse_frame_untrusted(HASHES, memoryview(tcp.payload)) for tcp in answers if tcp.payload]
    assert (answer.command, body_key(answer)) == (NETCONN_RST, 99)


def test_our_keepalive_may_be_answered_on_any_flow() -> None:
    server = Server()
    (tcp,) = app(server, b"datagram")
    flow = server.flows[tcp.source[1]]
    other = next(one for one in server.flows.values() if one is not flow)
    for _ in range(10):
        asked = [one for one in server.client.wait(4.9) if one.payload and one.payload[9] == KEEP_ALIVE_REQ]
        assert {one.source[1] for one in asked} == {flow.syn.source[1]}
        other.say(flow.key.to_bytes(8, "little"), KEEP_ALIVE_RESP)
    assert server.client.closed() == []
    server.client.wait(14.0)
    assert server.client.closed() == ["probes are not answered"]


def test_data_of_no_conversation_is_refused() -> None:
    server = Server()
    flow = next(iter(server.flows.values()))
    answers = flow.say(b"late", conversation=99)
    (answer,) = [parse_frame_untrusted(HASHES, memoryview(tcp.payload)) for tcp in answers if tcp.payload]
    assert (answer.command, body_key(answer)) == (CONV_RST, 99)
    assert not server.client.delivered()


def test_nothing_but_a_datagram_is_first_on_a_flow() -> None:
    """A conversation that ends is told where the server will understand it."""
    server = Server(flows=8)
    (tcp,) = app(server, b"datagram")
    for _ in range(20):
        server.node.flows.tell(server.node.role.session, CloseConversation(2))
    assert {one.source[1] for one in server.client.sent()} == {tcp.source[1]}


def test_what_a_stranger_injects_is_not_delivered() -> None:
    """It knows the key, not the client's id."""
    server = Server()
    flow = next(iter(server.flows.values()))
    app(server, b"datagram")
    flow.send(flow.seq, BOGUS, ACK, frame(b"injected", flow=flow.key, client=99))
    assert not server.client.delivered()
    assert server.node.counters["payloads of no frame"] == 1
