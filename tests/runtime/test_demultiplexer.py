"""A native server and one of wire rsock on one link: who gets what, and what the driver hears of it."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from rsock_nf.core.ends import endpoint
from rsock_nf.core.events import ConversationClosed, ConversationOpened, Follow, Forget
from rsock_nf.core.outbox import Deliver
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import Carried, Checksum, FlowKey, Packet, PortRange, Run, TransportAddress
from rsock_nf.runtime.demultiplexer import Branch, Demultiplexer, local_port
from rsock_nf.runtime.endpoints import outer_peer
from rsock_nf.wire.native.server import NativeServerWire
from rsock_nf.wire.parameters import NativeParameters, RsockParameters
from rsock_nf.wire.rsock.frames import Frame, build_frame
from rsock_nf.wire.rsock.server import RsockServerWire
from tests.core.conntrack import ACK, SYN, parse_tcp
from tests.core.outputs import outputs
from tests.core.tcp.test_icmp import message
from tests.core.wire import make_tcp

HERE, THERE = ip_address("192.0.2.2").packed, ip_address("198.51.100.7").packed
TARGETS = tuple(TransportAddress(ip_address("127.0.0.1"), port) for port in (9, 19, 29))
KEY = b"key"
NATIVE, RSOCK = (PortRange(10_001, 10_010),), (PortRange(20_001, 20_003), PortRange(20_010, 20_010))


class Both:
    """A demultiplexer, and the two servers behind it."""

    def __init__(self) -> None:
        rng = random.Random(1).randbytes
        native = ServerParameters(ports=NATIVE, targets=TARGETS[:2])
        rsock = ServerParameters(ports=RSOCK, targets=TARGETS[2:])
        native_wire, rsock_wire = (
            NativeServerWire(NativeParameters(bytes(32)), rng(32)),
            RsockServerWire(RsockParameters(KEY), rng(32)),
        )
        self.native = endpoint.server(native, native_wire, rng, mtu=1500, max_burst_bytes=0)
        self.rsock = endpoint.server(rsock, rsock_wire, rng, mtu=1500, max_burst_bytes=0)
        self.server = Demultiplexer([Branch(self.native, NATIVE, 0), Branch(self.rsock, RSOCK, len(native.targets))])


def packet(data: bytes) -> Packet:
    return Packet(memoryview(data), 0, Checksum.VERIFY, b"link")


def rsock_flow(server: Demultiplexer, port: int, client: bytes = b"a client") -> None:
    """An original's client says its first datagram."""
    syn = make_tcp((THERE, port), (HERE, 20_002), 100, 0, SYN)
    server.receive_packets(1.0, [packet(syn)])
    (answer,) = outputs(server).bursts
    seq = parse_tcp(answer.headers).seq
    server.receive_packets(1.0, [packet(make_tcp((THERE, port), (HERE, 20_002), 101, seq + 1, ACK))])
    frame = build_frame(KEY, Frame(2, 0, client, 2, port, b"datagram"))
    server.receive_packets(1.0, [packet(make_tcp((THERE, port), (HERE, 20_002), 102, 7, ACK, frame))])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [10_005, 20_002])
def test_a_segment_goes_by_its_port(family: int, port: int) -> None:
    here, there = (HERE, THERE) if family == 4 else (bytes(15) + b"\1", bytes(15) + b"\2")
    assert local_port(packet(make_tcp((there, 20_001), (here, port), 1, 2, ACK, b"payload"))) == port


def test_segments_with_ip_options_and_icmp_go_by_it_too() -> None:
    plain = make_tcp((THERE, 40_000), (HERE, 20_002), 1, 2, ACK)
    options = bytearray(b"\x46" + plain[1:20] + bytes(4) + plain[20:])
    options[2:4] = len(options).to_bytes(2, "big")
    assert local_port(Packet(memoryview(bytes(options)), 0, Checksum.VALID, b"")) == 20_002
    key = FlowKey(HERE, 20_002, THERE, 40_000)
    ours = make_tcp((HERE, 20_002), (THERE, 40_000), 1, 2, ACK, bytes(1000))
    assert local_port(packet(message(key, 3, 4, 600, ours[:28]))) == 20_002
    assert local_port(packet(b"\x45" + bytes(30))) == 0


def test_each_wire_serves_its_own_ports() -> None:
    both = Both()
    server = both.server
    rsock_flow(server, 40_001)
    frame = build_frame(KEY, Frame(2, 0, b"a client", 2, 9, b"datagram"))
    server.receive_packets(1.0, [packet(make_tcp((THERE, 40_002), (HERE, 10_002), 102, 7, ACK, frame))])
    assert [bytes(run.datagrams[0]) for run in outputs(server).runs] == [b"datagram"]
    assert len(both.rsock.sessions) == 1
    assert both.native.counters["payloads of no flow"] == 1
    assert server.counters["payloads of no flow"] == 1
    (session,) = server.sessions
    assert outer_peer(server, session, "a peer") == (1, "a peer")
    assert server.next_timeout() == both.rsock.next_timeout()


def test_what_belongs_to_no_port_goes_to_the_first() -> None:
    both = Both()
    both.server.receive_packets(1.0, [packet(b"\x45" + bytes(30))])
    assert both.native.counters["malformed packets"] == 1
    assert not both.rsock.counters


def test_udp_carriers_go_by_their_port() -> None:
    server = Both().server
    frame = build_frame(KEY, Frame(2, 0, b"a client", 2, 9, b"datagram"))
    for port in (20_010, 10_001):
        server.receive_carried(1.0, [Carried(FlowKey(HERE, port, THERE, 40_000, udp=True), memoryview(frame), 0)])
    assert [bytes(run.datagrams[0]) for run in outputs(server).runs] == [b"datagram"]


def test_the_second_wires_targets_stand_behind_the_first_ones() -> None:
    both = Both()
    server = both.server
    rsock_flow(server, 40_001)
    made = outputs(server)
    (opened,) = [event for event in made.events if isinstance(event, ConversationOpened)]
    assert TARGETS[opened.target] == TARGETS[2]
    assert [run.peer for run in made.runs] == [opened.peer]
    server.receive_datagrams(1.0, [Run(opened.peer, [b"answer"], 6), Run((0, (1, 2)), [b"of nobody"], 9)])
    (answer,) = outputs(server).bursts
    assert b"".join(answer.payload).endswith(b"answer")
    assert both.native.counters["data from a closed conversation"] == 1
    server.socket_refused(1.0, opened.peer, "no socket")
    assert isinstance(opened.peer, tuple)
    assert not both.rsock.pump.conversation(opened.peer[1])


def test_peers_of_one_name_are_told_apart() -> None:
    both = Both()
    for end in (both.native, both.rsock):
        end._context.outbox.tell(ConversationOpened("peer", 0))
        end._context.outbox.deliver([Run("peer", [b"datagram"], 8)])
        end._context.outbox.tell(ConversationClosed("peer"))
    assert both.server.poll() == [
        ConversationOpened((0, "peer"), 0),
        Deliver([Run((0, "peer"), [b"datagram"], 8)]),
        ConversationClosed((0, "peer")),
        ConversationOpened((1, "peer"), 2),
        Deliver([Run((1, "peer"), [b"datagram"], 8)]),
        ConversationClosed((1, "peer")),
    ]


def test_an_address_is_followed_as_long_as_either_wants_it() -> None:
    both = Both()
    for told, heard in (
        ((both.native, Follow(THERE, HERE)), [Follow(THERE, HERE)]),
        ((both.rsock, Follow(THERE, HERE)), []),
        ((both.native, Forget(THERE, HERE)), []),
        ((both.rsock, Forget(THERE, HERE)), [Forget(THERE, HERE)]),
        ((both.rsock, Follow(THERE, HERE)), [Follow(THERE, HERE)]),
    ):
        told[0]._context.outbox.tell(told[1])
        assert both.server.poll() == heard


def test_each_tells_of_conversations_that_make_room() -> None:
    both = Both()
    rsock_flow(both.server, 40_001)
    both.server.poll()
    both.rsock.role.crowding._limit = 1
    rsock_flow(both.server, 40_002, b"client 2")
    first, second = both.server.crowds(1.0)
    assert not first.reason
    assert (second.made_room, bool(second.reason)) == (1, True)


def test_it_stops_both() -> None:
    server = Both().server
    rsock_flow(server, 40_001)
    assert server.followed() == [(THERE, HERE)]
    closing = [server.closing]
    server.stop(2.0)
    closing.append(server.closing)
    server.receive_mtu(2.0, 1400, 0)
    for now in (3.0, 4.0, 6.0, 9.0):
        server.handle_timeout(now)
    closing.append(server.closing)
    assert closing == [False, True, False]
