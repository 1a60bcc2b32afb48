"""A peer made from ``docs/wire.md`` alone speaks with our server: handshake, frames of each cipher, close."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address

import pytest

from rsock_nf.core.ends import endpoint
from rsock_nf.core.events import ConversationClosed, ConversationOpened, FlowClosed, SessionUp
from rsock_nf.core.parameters import Cipher, OnProbe, ServerParameters
from rsock_nf.core.types import Checksum, Packet, Run, TransportAddress
from rsock_nf.link.segmentation import cut
from rsock_nf.wire.native.server import NativeServerWire
from rsock_nf.wire.parameters import NativeParameters
from tests.core.outputs import Mailbox
from tests.wire.native import independent_peer as peer

SECRET = bytes(range(32))
CLIENT, SERVER = ip_address("192.0.2.1").packed, ip_address("192.0.2.2").packed
CODES = {Cipher.NONE: peer.NONE, Cipher.AES_256_GCM: peer.AES_256_GCM, Cipher.CHACHA20_POLY1305: peer.CHACHA20_POLY1305}
ciphers = pytest.mark.parametrize("cipher", list(Cipher), ids=lambda cipher: cipher.value)


class Site:
    """Our server, and an independent client whose packets reach it at once and whole."""

    def __init__(self, cipher: Cipher, *, on_probe: OnProbe = OnProbe.SILENT, secret: bytes = SECRET) -> None:
        self.random = random.Random(7)
        self.now = 1000.0
        self.cipher = CODES[cipher]
        self.parameters = ServerParameters(
            cipher=cipher, on_probe=on_probe, targets=(TransportAddress(ip_address("192.0.2.9"), 9),) * 2
        )
        self.secret = peer.Secret(secret)
        self.flows: dict[int, peer.Flow] = {}
        self.restart()

    def restart(self) -> None:
        rng = self.random.randbytes
        wire = NativeServerWire(NativeParameters(SECRET), rng(32))
        self.server = endpoint.server(self.parameters, wire, rng, mtu=1500, max_burst_bytes=64000)
        self.mailbox = Mailbox(self.server)

    def send(self, packet: bytes) -> list[tuple[peer.Flow, peer.Segment]]:
        """What the server answers at once."""
        self.server.receive_packets(self.now, [Packet(memoryview(packet), 0, Checksum.VERIFY, b"")])
        return self.collect()

    def collect(self) -> list[tuple[peer.Flow, peer.Segment]]:
        segments = []
        for outgoing in self.mailbox.bursts():
            for packet in cut(outgoing):
                (_, port), segment = peer.parse_ipv4(packet)
                segments.append((self.flows[port], segment))
        return segments

    def pass_time(self, seconds: float) -> list[tuple[peer.Flow, peer.Segment]]:
        end = self.now + seconds
        segments = []
        while (due := self.server.next_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.server.handle_timeout(self.now)
            segments += self.collect()
        self.now = end
        return segments

    def deliver(self, segments: list[tuple[peer.Flow, peer.Segment]]) -> None:
        """Let the client's flows take frames."""
        for flow, segment in segments:
            flow.take(segment)

    def dial(self) -> peer.Flow:
        """SYN, SYN-ACK, ACK."""
        port = 40000 + len(self.flows)
        flow = peer.Flow(CLIENT, SERVER, (port, 10001), self.random.getrandbits(32))
        self.flows[port] = flow
        [(_, segment)] = self.send(flow.syn())
        flow.syn_ack(segment)
        assert self.send(flow.segment()) == []
        return flow

    def offer(self, flow: peer.Flow) -> bytes:
        return peer.offer(self.cipher, flow.mss, flow.scale)

    def exchange(self, flow: peer.Flow, payload: bytes) -> bytes:
        """The server's one answer to a handshake message."""
        [(_, segment)] = self.send(flow.segment(payload))
        return flow.handshake_payload(segment)

    def hello(self, flow_id: int = 1) -> tuple[peer.Flow, peer.Session, int]:
        """A session with one flow: (flow, keys, session id)."""
        flow = self.dial()
        hello, noise = peer.hello(self.secret, self.offer(flow), self.random.randbytes(32), self.random.randrange(64))
        answer, session = peer.read_answer(self.secret, noise, self.exchange(flow, hello))
        assert (answer.status, answer.cipher, answer.targets) == (0, self.cipher, 2)
        self.confirm(flow, session, answer.session_id, flow_id, answer.challenge)
        address, port = flow.local, flow.ports[0]
        assert flow.controls.pop() == peer.seen_as(address, port), "the first flow of a session hears its own address"
        assert flow.controls == [bytes((peer.READY,))]
        return flow, session, answer.session_id

    def confirm(self, flow: peer.Flow, session: peer.Session, session_id: int, number: int, challenge: bytes) -> None:
        flow.stand(session, self.cipher, number)
        message = peer.confirmation(self.secret, session, session_id, number, challenge)
        self.deliver(self.send(flow.segment(message)))
        assert flow.controls[:1] == [bytes((peer.READY,))]

    def join(self, session: peer.Session, session_id: int, number: int) -> peer.Flow:
        flow = self.dial()
        join = peer.join(self.secret, session, session_id, number, self.offer(flow), self.random.randrange(64))
        challenge = peer.read_join_answer(self.secret, session, number, join, self.exchange(flow, join))
        assert challenge is not None
        self.confirm(flow, session, session_id, number, challenge)
        assert flow.controls == [bytes((peer.READY,))]
        return flow

    def events(self) -> list[object]:
        return [*self.mailbox.events()]

    def delivered(self) -> list[bytes]:
        """Datagrams that the server hands to targets."""
        return [bytes(datagram) for run in self.mailbox.runs() for datagram in run.datagrams]


@ciphers
def test_hello_makes_a_session(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, session_id = site.hello()
    assert [event.session_id for event in site.events() if isinstance(event, SessionUp)] == [session_id]
    assert list(site.server.role.sessions_by_id) == [session_id]
    assert (flow.mss, flow.scale) == (1460, 7)


@ciphers
def test_joined_flows_carry_one_conversation(cipher: Cipher) -> None:
    site = Site(cipher)
    first, session, session_id = site.hello()
    second = site.join(session, session_id, 2)
    site.events()

    site.deliver(site.send(first.data(peer.OPENING, 0xBEEF, struct.pack("!H", 1) + b"one")))
    assert site.delivered() == [b"one"]
    [opened] = [event for event in site.events() if isinstance(event, ConversationOpened)]
    assert opened.target == 1
    assert struct.pack("!BH", peer.OPENED, 0xBEEF) in first.controls + second.controls

    site.deliver(site.send(second.data(peer.DATA, 0xBEEF, b"two")))
    site.deliver(site.send(first.data(peer.DATA, 0xBEEF, b"")))
    assert site.delivered() == [b"two", b""]

    datagrams = [bytes((number,)) * 100 for number in range(50)]
    site.server.receive_datagrams(site.now, [Run(opened.peer, list(datagrams), 100)])
    site.deliver(site.collect())
    received = [*first.datagrams, *second.datagrams]
    assert received == [(peer.DATA, 0xBEEF, datagram) for datagram in datagrams]


@ciphers
def test_fragments_both_ways(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    parts = [struct.pack("!IBBH", 99, index, 3, 0) + bytes((65 + index,)) * 1000 for index in range(3)]
    for part in reversed(parts):
        site.deliver(site.send(flow.data(peer.FRAGMENT, 5, part)))
    assert site.delivered() == [b"A" * 1000 + b"B" * 1000 + b"C" * 1000]
    [opened] = [event for event in site.events() if isinstance(event, ConversationOpened)]

    site.server.receive_datagrams(site.now, [Run(opened.peer, [b"x" * 4000], 4000)])
    site.deliver(site.collect())
    assert {kind for kind, _, _ in flow.datagrams} == {peer.FRAGMENT}
    headers = [struct.unpack("!IBBH", body[:8]) for _, _, body in flow.datagrams]
    assert [(index, count) for _, index, count, _ in headers] == [(0, 3), (1, 3), (2, 3)]
    assert len({identification for identification, _, _, _ in headers}) == 1
    assert b"".join(body[8:] for _, _, body in flow.datagrams) == b"x" * 4000


@ciphers
def test_probes_are_answered_with_the_count_of_frames(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    site.deliver(site.send(flow.data(peer.OPENING, 5, b"\0\0x")))
    site.deliver(site.send(flow.control(struct.pack("!BI", peer.PROBE, 77))))
    assert struct.pack("!BIII", peer.PROBE_ANSWER, 77, 1, 2) in flow.controls


def answer_probes(site: Site, flow: peer.Flow, segments: list[tuple[peer.Flow, peer.Segment]]) -> list[int]:
    """Answer the server's probes; the sizes of the frames that brought them."""
    sizes = []
    for to, segment in segments:
        seen = len(to.controls)
        to.take(segment)
        for message in to.controls[seen:]:
            if message[0] == peer.PROBE:
                sizes.append(len(segment.payload))
                number = int.from_bytes(message[1:5], "big")
                answer = struct.pack("!BIII", peer.PROBE_ANSWER, number, flow.flow_id, flow.received_frames)
                sizes += answer_probes(site, flow, site.send(flow.control(answer)))
    return sizes


@ciphers
def test_server_probes_at_once_with_a_full_segment_then_at_keepalive(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    assert answer_probes(site, flow, site.pass_time(0.05)) == [1460]
    sizes = [size for _ in range(1200) for size in answer_probes(site, flow, site.pass_time(0.05))]
    assert 4 <= len(sizes) <= 9
    assert set(sizes) == {29}
    assert len(site.server.role.sessions_by_id) == 1


@ciphers
def test_unanswered_probes_end_the_flow(cipher: Cipher) -> None:
    site = Site(cipher)
    site.hello()
    site.pass_time(5.0)
    assert [event.flow_id for event in site.events() if isinstance(event, FlowClosed)] == [1]


@ciphers
def test_close_by_the_client(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    site.deliver(site.send(flow.control(bytes((peer.CLOSE_FLOW,)), ACK_FIN)))
    assert flow.fin
    assert site.send(flow.segment()) == []
    assert len(list(site.server.pump.flows())) == 1, "it lingers"
    site.pass_time(4.0)
    assert list(site.server.pump.flows()) == []


@ciphers
def test_close_by_the_server(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    site.server.role.stop(site.now)
    site.deliver(site.collect())
    assert flow.fin
    assert flow.controls[1:] == [bytes((peer.CLOSE_SESSION,))] * 2 + [bytes((peer.CLOSE_FLOW,))]
    [(_, last)] = site.send(flow.segment(flags=ACK_FIN))
    assert (last.flags, last.payload, last.ack) == (peer.ACK, b"", flow.next_seq)


ACK_FIN = peer.ACK | peer.FIN


@ciphers
def test_close_conversation_and_refusal(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    site.deliver(site.send(flow.data(peer.OPENING, 5, b"\0\0x")))
    site.deliver(site.send(flow.control(struct.pack("!BH", peer.CLOSE_CONVERSATION, 5))))
    assert any(isinstance(event, ConversationClosed) for event in site.events())
    site.deliver(site.send(flow.data(peer.DATA, 5, b"late")))
    site.deliver(site.send(flow.data(peer.OPENING, 6, b"\0\7x")))
    assert flow.controls[-2:] == [
        struct.pack("!BH", peer.CLOSE_CONVERSATION, 5),
        struct.pack("!BHB", peer.REFUSED, 6, 1),
    ]


@ciphers
def test_repeated_handshake_messages_get_the_same_answer(cipher: Cipher) -> None:
    site = Site(cipher)
    flow = site.dial()
    hello, noise = peer.hello(site.secret, site.offer(flow), bytes(range(32)), 0)
    packet = flow.segment(hello)
    [(_, one)] = site.send(packet)
    [(_, two)] = site.send(packet)
    assert (one.payload, one.seq) == (two.payload, two.seq)
    answer, session = peer.read_answer(site.secret, noise, flow.handshake_payload(one))
    flow.stand(session, site.cipher, 9)
    confirmation = flow.segment(peer.confirmation(site.secret, session, answer.session_id, 9, answer.challenge))
    for _ in range(2):
        site.deliver(site.send(confirmation))
    assert flow.controls == [bytes((peer.READY,)), peer.seen_as(flow.local, flow.ports[0]), bytes((peer.READY,))]
    assert len(site.server.role.sessions_by_id) == 1


@ciphers
def test_restarted_server_says_gone(cipher: Cipher) -> None:
    site = Site(cipher)
    _, session, session_id = site.hello()
    site.restart()
    flow = site.dial()
    join = peer.join(site.secret, session, session_id, 2, site.offer(flow), 0)
    assert peer.read_join_answer(site.secret, session, 2, join, site.exchange(flow, join)) is None


@ciphers
def test_used_number_is_not_answered(cipher: Cipher) -> None:
    site = Site(cipher)
    _, session, session_id = site.hello(flow_id=3)
    flow = site.dial()
    assert site.send(flow.segment(peer.join(site.secret, session, session_id, 3, site.offer(flow), 0))) == []


def test_recorded_handshake_buys_nothing() -> None:
    site = Site(Cipher.NONE)
    recorded: list[bytes] = []
    envelope = site.secret.envelope

    def record(kind: int, body: bytes) -> bytes:
        recorded.append(envelope(kind, body))
        return recorded[-1]

    site.secret.envelope = record  # type: ignore[method-assign]
    flow, session, session_id = site.hello()
    site.deliver(site.send(flow.control(struct.pack("!BI", peer.PROBE, 1))))  # the session has carried something
    site.join(session, session_id, 2)
    hello, confirmation, join, second = recorded
    site.pass_time(15.0)  # probes went unanswered: no flow is left
    site.events()
    for message, answered in ((confirmation, 0), (join, 0), (second, 0), (hello, 1), (hello, 1), (confirmation, 0)):
        flow = site.dial()
        assert [len(segment.payload) for _, segment in site.send(flow.segment(message))] == [95] * answered
    assert list(site.server.role.sessions_by_id) == [session_id]
    assert list(site.server.pump.flows()) == []
    assert site.events() == []


@ciphers
def test_other_cipher_is_named(cipher: Cipher) -> None:
    site = Site(cipher)
    flow = site.dial()
    other = (site.cipher + 1) % 3
    hello, noise = peer.hello(site.secret, peer.offer(other, 1460, 7), bytes(range(32)), 0)
    answer, _ = peer.read_answer(site.secret, noise, site.exchange(flow, hello))
    assert (answer.status, answer.cipher) == (1, site.cipher)


@pytest.mark.parametrize("on_probe", list(OnProbe))
def test_stranger_without_the_secret(on_probe: OnProbe) -> None:
    site = Site(Cipher.NONE, on_probe=on_probe, secret=bytes(32))
    for make in range(600):
        flow = site.dial()
        if make % 2:
            payload, _ = peer.hello(site.secret, site.offer(flow), site.random.randbytes(32), 0)
        else:
            payload = site.random.randbytes(site.random.randrange(1, 200))
        answers = site.send(flow.segment(payload))
        if on_probe is OnProbe.SILENT:
            assert answers == []
        else:
            [(_, segment)] = answers
            assert (segment.flags, segment.seq, segment.payload) == (peer.RST, flow.received, b"")
    assert site.server.role.sessions_by_id == {}


@pytest.mark.parametrize("on_probe", list(OnProbe))
def test_payload_without_the_tcp_handshake_gets_no_reset(on_probe: OnProbe) -> None:
    """Perhaps this host translates addresses, and it is somebody else's connection that a reset would end."""
    site = Site(Cipher.NONE, on_probe=on_probe)
    flow = site.dial()
    flow.received = flow.received + 1 & 0xFFFFFFFF
    for size in (1, 40, 200):
        assert site.send(flow.segment(site.random.randbytes(size))) == []


def test_hello_without_the_tcp_handshake_is_not_answered() -> None:
    site = Site(Cipher.NONE)
    flow = site.dial()
    flow.received = flow.received + 1 & 0xFFFFFFFF  # not what the SYN-ACK said
    hello, _ = peer.hello(site.secret, site.offer(flow), bytes(range(32)), 0)
    assert site.send(flow.segment(hello)) == []


@pytest.mark.parametrize("cipher", [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305], ids=lambda cipher: cipher.value)
def test_replayed_sealed_frame_is_not_delivered(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    packet = flow.data(peer.OPENING, 5, b"\0\0x")
    site.send(packet)
    site.send(packet)
    assert site.delivered() == [b"x"]


@ciphers
def test_bad_frame_does_not_move_the_acknowledgement(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    before = flow.next_seq
    forged = flow.segment(site.random.randbytes(500))
    assert site.send(forged) == []
    site.pass_time(0.02)
    flow.next_seq = before
    [(_, segment)] = [
        (to, segment) for to, segment in site.send(flow.control(struct.pack("!BI", peer.PROBE, 1))) if segment.payload
    ]
    assert segment.ack == flow.next_seq


@ciphers
def test_acknowledgement_jumps_over_what_was_lost_within_20_ms(cipher: Cipher) -> None:
    site = Site(cipher)
    flow, _, _ = site.hello()
    answer_probes(site, flow, site.pass_time(0.05))
    site.pass_time(0.05)
    flow.control(struct.pack("!BI", peer.PROBE, 1))  # never arrives
    assert site.send(flow.control(bytes((peer.PROBE_ANSWER,)) + bytes(12))) == []
    [(_, segment)] = site.pass_time(0.021)
    assert (segment.flags, segment.ack, segment.payload) == (peer.ACK, flow.next_seq, b"")


@ciphers
def test_rekey(cipher: Cipher) -> None:
    """Three times.  Frames of the old epoch still count while both are there, then they do not."""
    site = Site(cipher)
    flow, session, session_id = site.hello()
    answer_probes(site, flow, site.pass_time(0.1))
    site.deliver(site.send(flow.data(peer.OPENING, 5, struct.pack("!H", 0) + b"first")))
    assert flow.sending is not None
    assert flow.receiving is not None
    key = session.key
    for epoch in (1, 2, 3):
        private = site.random.randbytes(32)
        question = struct.pack("!BI", peer.REKEY, epoch) + peer.public_key(private)
        for _ in range(2):  # the same question has the same answer
            site.deliver(site.send(flow.control(question)))
        assert flow.controls[-1] == flow.controls[-2]
        kind, number, public = struct.unpack("!BI32s", flow.controls[-1])
        assert (kind, number) == (peer.REKEYED, epoch)
        before, key = key, peer.next_key(key, epoch, private, public, peer.public_key(private) + public)
        late = flow.data(peer.DATA, 5, b"late")
        flow.sending.use(key, epoch)
        [(_, answer)] = site.send(flow.control(struct.pack("!BI", peer.PROBE, epoch)))
        if cipher is not Cipher.NONE:
            with pytest.raises(peer.Garbage, match="epoch"):
                flow.take(answer)
        flow.receiving.use(key, epoch)
        flow.take(answer)
        assert flow.controls[-1][:5] == struct.pack("!BI", peer.PROBE_ANSWER, epoch)
        site.delivered()
        site.send(late)
        assert site.delivered() == [b"late"]
        flow.sending.use(key, epoch)
        for _ in range(60):
            answer_probes(site, flow, site.pass_time(0.2))
        flow.sending.use(before, epoch - 1)
        site.send(flow.data(peer.DATA, 5, b"too late"))
        assert site.delivered() == ([b"too late"] if cipher is Cipher.NONE else [])
        flow.sending.use(key, epoch)
    assert list(site.server.role.sessions_by_id) == [session_id]
