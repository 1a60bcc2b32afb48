"""One holder of the secret does what he likes: what he costs, and what is kept for him, is bounded for each session."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rsock_nf.core import messages
from rsock_nf.core.events import ConversationOpened
from rsock_nf.core.flows.allowance import ANSWERS, MOST_OPENINGS, PROBE_ANSWERS, Allowance
from rsock_nf.core.flows.session import Established
from rsock_nf.core.outbox import Transmit
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import Kind
from rsock_nf.core.pump.fragments import HEADER
from rsock_nf.core.tcp.segment import ACK, PSH
from rsock_nf.core.types import Buffer
from rsock_nf.wire.native.rekeying import Rekey
from tests.core.many import Many
from tests.core.pair import numbered

SEGMENT = 1400
MOST_CONVERSATIONS = 100
Frame = Callable[[Established, int], list[Buffer]]


def data(flow: Established, number: int, kind: int, conversation: int, body: bytes) -> list[Buffer]:
    return flow.pump.codec.pack(kind, conversation, number, b"", [body])


def unknown(flow: Established, number: int) -> list[Buffer]:
    return data(flow, number, Kind.DATA, 1000 + number % 50_000, b"")


def opening(flow: Established, number: int, target: bytes = b"\0\0") -> list[Buffer]:
    return data(flow, number, Kind.OPENING, 1000 + number % 50_000, target)


def no_target(flow: Established, number: int) -> list[Buffer]:
    return opening(flow, number, b"\0\x09")


def fragment(flow: Established, number: int) -> list[Buffer]:
    """One of 255; the others never come."""
    return data(flow, number, Kind.FRAGMENT, number % 7, HEADER.pack(number, 0, 255, 0) + bytes(20))


def probe(flow: Established, number: int) -> list[Buffer]:
    return [flow.pump.codec.pack_control(1000 + number, messages.Probe(number))]


def closing(flow: Established, number: int) -> list[Buffer]:
    return [flow.pump.codec.pack_control(1000 + number, messages.CloseConversation(number & 0xFFFF))]


def flow_down(flow: Established, number: int) -> list[Buffer]:
    return [flow.pump.codec.pack_control(1000 + number, messages.FlowDown(1000 + number))]


def refused(flow: Established, number: int) -> list[Buffer]:
    """A message that only a client understands."""
    return [flow.pump.codec.pack_control(1000 + number, messages.Refused(number & 0xFFFF, 200))]


def rekey(flow: Established, number: int) -> list[Buffer]:
    """The same question for new keys again and again: the server says the same answer."""
    base_point = b"\x09" + bytes(31)
    return [flow.pump.codec.pack_control(1000 + number, Rekey(1, base_point))]


class Insider:
    """The first of two clients; the second one is honest."""

    def __init__(self, cipher: Cipher) -> None:
        limits = {"max_conversations": MOST_CONVERSATIONS, "cipher": cipher}
        self.many = Many(2, client={"flows": 1, "cipher": cipher}, server=limits)
        self.many.up(0)
        self.many.up(1)
        self.many.say(1, "honest", [b"hello"])
        (self.peer,) = self.many.sockets
        client = self.many.clients[0]
        (self.flow,) = client.flows.established()
        self.pump = client.pump
        self.opened = 0
        self.sent = self.answers = self.bytes_in = self.bytes_out = 0

    def say(self, frame: Frame) -> None:
        """A segment full of such frames."""
        payload: list[Buffer] = []
        while sum(map(len, payload)) < SEGMENT - 100:
            payload += frame(self.flow, self.sent)
            self.sent += 1
        burst = self.pump._segment(self.flow.pump, payload, 0, PSH | ACK)
        self.bytes_in += burst.payload_size + 40
        server = self.many.server
        self.many._pass(server, [burst])
        for output in server.poll():
            if isinstance(output, Transmit):
                self.answers += len(output.bursts)
                self.bytes_out += sum(one.payload_size + 40 for one in output.bursts)
            self.opened += isinstance(output, ConversationOpened)


FRAMES = [unknown, opening, no_target, fragment, probe, closing, flow_down, refused, rekey]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_a_flood_of_small_frames_gets_few_answers_and_harms_nobody(cipher: Cipher, frame: Frame) -> None:
    insider = Insider(cipher)
    for _ in range(200):
        insider.say(frame)
    acknowledgements = 200
    assert insider.answers <= max(ANSWERS, PROBE_ANSWERS) + acknowledgements
    assert insider.bytes_out <= 1.1 * insider.bytes_in
    assert insider.opened <= MOST_OPENINGS
    server = insider.many.server
    assert len(server.conversations) <= MOST_CONVERSATIONS
    (session, _) = server.sessions
    assert session.reassembly._bytes <= session.reassembly.max_bytes
    assert len(server._context.deadlines._heap) < 100
    insider.many.at_target.clear()
    for datagram in numbered(50, 60):
        insider.many.say(1, "honest", [datagram])
    assert [one for arrived in insider.many.at_target for one in arrived.datagrams] == numbered(50, 60)
    assert {arrived.peer for arrived in insider.many.at_target} == {insider.peer}


def test_an_allowance_fills_again() -> None:
    large = Allowance(100, 500)
    assert [sum(large.take(now) for _ in range(1000)) for now in (1.0, 2.0)] == [500, 100]
    allowance = Allowance(100)
    assert sum(allowance.take(5.0) for _ in range(1000)) == 100
    assert sum(allowance.take(5.5) for _ in range(1000)) == 50
    assert sum(allowance.take(500.0) for _ in range(1000)) == 100
