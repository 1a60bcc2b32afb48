"""The peer made from ``docs/wire.md`` alone, over UDP carriers (§2.7): alone, and in one session with fake TCP."""

from __future__ import annotations

import struct

import pytest

from rsock_nf.core.events import ConversationOpened
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.types import Carried, FlowKey, Run
from rsock_nf.link.segmentation import cut
from tests.wire.native import independent_peer as peer
from tests.wire.native.test_independent_peer import CLIENT, SERVER, Site, ciphers

MSS = 1500 - 28


class Carrier:
    """A client's flow: datagrams in and out, frames in them."""

    def __init__(self, port: int) -> None:
        self.key = FlowKey(SERVER, 10001, CLIENT, port, udp=True)
        self.mail: list[bytes] = []
        """Payloads that came, not read yet."""
        self.sending: peer.Direction | None = None
        self.receiving: peer.Direction | None = None

    def stand(self, session: peer.Session, cipher: int, flow_id: int) -> None:
        self.sending = peer.Direction(session, cipher, flow_id, 0)
        self.receiving = peer.Direction(session, cipher, flow_id, 1)

    def read(self) -> list[tuple[int, int, bytes]]:
        """(kind, conversation, body) of every frame that came."""
        assert self.receiving is not None
        mail, self.mail = self.mail, []
        frames = [self.receiving.open_frame(payload) for payload in mail]
        return [(kind, conversation, body) for kind, conversation, _, body in frames]


class CarrierSite(Site):
    """``Site`` with carriers beside its TCP flows."""

    def restart(self) -> None:
        super().restart()
        self.carriers: dict[int, Carrier] = {}

    def collect(self) -> list[tuple[peer.Flow, peer.Segment]]:
        segments = []
        for outgoing in self.mailbox.bursts():
            if outgoing.carrier is not None:
                data = b"".join(outgoing.payload)
                size = outgoing.segment_size or len(data)
                assert not outgoing.headers
                self.carriers[outgoing.carrier.remote_port].mail += [
                    data[at : at + size] for at in range(0, len(data), size)
                ]
                continue
            for packet in cut(outgoing):
                (_, port), segment = peer.parse_ipv4(packet)
                segments.append((self.flows[port], segment))
        return segments

    def say(self, carrier: Carrier, payload: bytes, merged: int = 0) -> None:
        self.server.receive_carried(self.now, [Carried(carrier.key, memoryview(payload), merged)])
        self.deliver(self.collect())

    def open(self, port: int) -> Carrier:
        self.carriers[port] = Carrier(port)
        return self.carriers[port]

    def carrier_hello(self, port: int = 50000, flow_id: int = 1) -> tuple[Carrier, peer.Session, int]:
        carrier = self.open(port)
        offered = peer.offer(self.cipher, MSS, None)
        hello, noise = peer.hello(self.secret, offered, self.random.randbytes(32), self.random.randrange(64))
        self.say(carrier, hello)
        (answered,) = carrier.mail
        carrier.mail.clear()
        assert len(answered) <= len(hello)
        answer, session = peer.read_answer(self.secret, noise, answered)
        self.prove(carrier, session, answer.session_id, flow_id, answer.challenge)
        seen_as = peer.seen_as(carrier.key.remote, carrier.key.remote_port)
        assert [*self.told] == [(peer.CONTROL, 0, seen_as)], "the first flow of a session hears its own address"
        return carrier, session, answer.session_id

    def carrier_join(self, session: peer.Session, session_id: int, number: int, port: int) -> Carrier:
        carrier = self.open(port)
        offered = peer.offer(self.cipher, MSS, None)
        join = peer.join(self.secret, session, session_id, number, offered, self.random.randrange(64))
        self.say(carrier, join)
        (answered,) = carrier.mail
        carrier.mail.clear()
        assert len(answered) <= len(join)
        challenge = peer.read_join_answer(self.secret, session, number, join, answered)
        assert challenge is not None
        self.prove(carrier, session, session_id, number, challenge)
        assert [*self.told] == []
        return carrier

    def prove(self, carrier: Carrier, session: peer.Session, session_id: int, number: int, challenge: bytes) -> None:
        carrier.stand(session, self.cipher, number)
        confirmation = peer.confirmation(self.secret, session, session_id, number, challenge)
        self.say(carrier, confirmation)
        self.told = iter(carrier.read())
        assert next(self.told) == (peer.CONTROL, 0, bytes((peer.READY,)))


def data(carrier: Carrier, kind: int, conversation: int, body: bytes) -> bytes:
    assert carrier.sending is not None
    return carrier.sending.frame(kind, conversation, body)


def control(carrier: Carrier, message: bytes) -> bytes:
    assert carrier.sending is not None
    return carrier.sending.control_frame(message)


@ciphers
def test_a_session_over_udp_alone(cipher: Cipher) -> None:
    site = CarrierSite(cipher)
    carrier, session, session_id = site.carrier_hello()
    second = site.carrier_join(session, session_id, 2, 50001)
    site.events()
    site.say(carrier, data(carrier, peer.OPENING, 7, b"\0\1one"))
    site.say(second, data(second, peer.DATA, 7, b"two"))
    assert site.delivered() == [b"one", b"two"]
    [opened] = [event for event in site.events() if isinstance(event, ConversationOpened)]
    site.server.receive_datagrams(site.now, [Run(opened.peer, [bytes((n,)) * 90 for n in range(40)], 90)])
    site.deliver(site.collect())
    answers = [body for one in (carrier, second) for kind, _, body in one.read() if kind == peer.DATA]
    assert sorted(answers) == [bytes((n,)) * 90 for n in range(40)]


@ciphers
def test_merged_frames_are_cut_where_the_link_says(cipher: Cipher) -> None:
    site = CarrierSite(cipher)
    carrier, _, _ = site.carrier_hello()
    site.say(carrier, data(carrier, peer.OPENING, 7, b"\0\1one"))
    frames = [data(carrier, peer.DATA, 7, bytes((n,)) * 50) for n in range(9)] + [data(carrier, peer.DATA, 7, b"end")]
    site.say(carrier, b"".join(frames), merged=len(frames[0]))
    assert site.delivered() == [b"one", *(bytes((n,)) * 50 for n in range(9)), b"end"]


@ciphers
def test_both_kinds_are_one_session(cipher: Cipher) -> None:
    site = CarrierSite(cipher)
    flow, session, session_id = site.hello()
    carrier = site.carrier_join(session, session_id, 2, 50000)
    site.deliver(site.send(flow.data(peer.OPENING, 9, b"\0\0by tcp")))
    site.say(carrier, data(carrier, peer.DATA, 9, b"by udp"))
    assert site.delivered() == [b"by tcp", b"by udp"]
    assert list(site.server.role.sessions_by_id) == [session_id]
    assert len(site.server.role.sessions_by_id[session_id].flows) == 2


@ciphers
def test_probes_and_close(cipher: Cipher) -> None:
    site = CarrierSite(cipher)
    carrier, _, _ = site.carrier_hello()
    site.deliver(site.pass_time(0.01))
    (probe,) = [mail for mail in carrier.mail if len(mail) == MSS]
    assert len(probe) == MSS, "the first one is as large as the offer allows"
    carrier.mail.clear()
    site.say(carrier, control(carrier, struct.pack("!BI", peer.PROBE, 5)))
    (answer,) = [body for _, _, body in carrier.read() if body[0] == peer.PROBE_ANSWER]
    assert answer == struct.pack("!BIII", peer.PROBE_ANSWER, 5, 1, 1)
    for _ in range(3):  # an answer may be lost: each of ours, made anew, gets one
        site.say(carrier, control(carrier, bytes((peer.CLOSE_FLOW,))))
        assert [body for _, _, body in carrier.read()] == [bytes((peer.CLOSE_FLOW,))]
    repeated = control(carrier, bytes((peer.CLOSE_FLOW,)))
    site.say(carrier, repeated)
    carrier.mail.clear()
    site.say(carrier, repeated)
    assert not carrier.mail, "the same bytes again are a replay"
    site.pass_time(4.0)
    assert list(site.server.pump.flows()) == []


@ciphers
def test_the_server_closes(cipher: Cipher) -> None:
    site = CarrierSite(cipher)
    carrier, _, _ = site.carrier_hello()
    site.server.role.stop(site.now)
    site.deliver(site.collect())
    assert carrier.read()[-1] == (peer.CONTROL, 0, bytes((peer.CLOSE_FLOW,)))
    site.pass_time(0.6)
    assert carrier.read() == [(peer.CONTROL, 0, bytes((peer.CLOSE_FLOW,)))], "again, after 0.5 s"
    site.say(carrier, control(carrier, bytes((peer.CLOSE_FLOW,))))
    assert not carrier.mail
    site.pass_time(4.0)
    assert list(site.server.pump.flows()) == []


def test_a_restarted_server_says_so() -> None:
    site = CarrierSite(Cipher.NONE)
    _, session, session_id = site.carrier_hello()
    site.restart()
    carrier = site.open(50001)
    join = peer.join(site.secret, session, session_id, 2, peer.offer(site.cipher, MSS, None), 0)
    site.say(carrier, join)
    (answer,) = carrier.mail
    assert peer.read_join_answer(site.secret, session, 2, join, answer) is None
    assert len(answer) < len(join)


@pytest.mark.parametrize("mss", [0, 255])
def test_an_offer_of_too_little_is_garbage(mss: int) -> None:
    site = CarrierSite(Cipher.NONE)
    carrier = site.open(50000)
    hello, _ = peer.hello(site.secret, peer.offer(site.cipher, mss, None), bytes(range(32)), 0)
    site.say(carrier, hello)
    assert not carrier.mail
