"""What a client with the secret may ask of a server: so much a second, and nothing of other clients."""

from __future__ import annotations

import pytest

from rsock_nf.core import messages
from rsock_nf.core.events import ConversationOpened
from rsock_nf.core.flows.allowance import ANSWERS, MOST_OPENINGS, OPENINGS, PROBE_ANSWERS
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import Frames, Kind
from tests.core.pair import Pair
from tests.core.wire import Toward

ABOVE = "conversations above a session's rate"


def test_so_many_probes_are_answered_and_the_flows_stay() -> None:
    with Pair() as pair:
        pair.up()
        before = {flow.flow_id for flow in pair.flows(pair.server)}
        (session,) = pair.client.sessions
        before_them = sum(flow.pump.received_frames for flow in pair.flows(pair.client))
        for _ in range(3):
            for number in range(6000):
                pair.client.flows.tell(session, messages.Probe(1_000_000 + number))
            pair.run(1.0)
        received = sum(flow.pump.received_frames for flow in pair.flows(pair.client))
        assert received - before_them < 4 * PROBE_ANSWERS + 500
        assert pair.server.counters["probes above a session's rate"] > 18_000 - 4 * PROBE_ANSWERS - 500
        pair.run(10.0)
        assert {flow.flow_id for flow in pair.flows(pair.server)} == before
        pair.say("app", b"still here")
        pair.run(1.0)
        assert pair.heard() == [b"still here"]


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.OPENING])
def test_data_for_nothing_is_refused_so_many_times_a_second(kind: Kind) -> None:
    """Plain data of unknown conversations; opening frames for a target that is not there."""
    with Pair() as pair:
        pair.up()
        (session,) = pair.server.sessions
        above = "answers above a session's rate"

        def send(number: int) -> None:
            body = b"\0\7x" if kind == Kind.OPENING else b""
            frames = Frames(kind, number, number, [memoryview(body)], len(body), 0)
            pair.server.role.unknown_data(pair.now, session, frames)

        for number in range(5000):
            send(number)
        assert pair.server.counters[above] == 5000 - ANSWERS
        pair.run(1.0)
        send(0)
        assert pair.server.counters[above] == 5000 - ANSWERS, "it is told again"


def test_a_full_server_opens_so_many_conversations_of_one_session() -> None:
    with Pair(server={"max_conversations": 100}) as pair:
        pair.up()
        for peer in range(5000):
            pair.say(peer, b"greedy %d" % peer)
        pair.run(0.1)
        opened = pair.count(ConversationOpened, Toward.SERVER)
        assert opened <= MOST_OPENINGS + OPENINGS * 0.2
        assert pair.server.counters[ABOVE] == 5000 - opened
        pair.replace_client()
        pair.up()
        pair.say("modest", b"another client")
        pair.run(0.5)
        assert b"another client" in pair.heard()
        assert pair.server.counters[ABOVE] == 5000 - opened


def test_what_was_dropped_is_opened_by_a_later_datagram() -> None:
    with Pair(server={"max_conversations": 100}) as pair:
        pair.up()
        for peer in range(5000):
            pair.say(peer, b"greedy %d" % peer)
        pair.run(2.0)
        assert b"greedy 4999" not in pair.heard()
        pair.say(4999, b"once more")
        pair.run(1.0)
        assert pair.heard()[-1] == b"once more"


def test_who_has_the_secret_can_play_the_server_to_others() -> None:
    """SECURITY.md says so: a secret names nobody.  The second server has nothing else in common with the first."""
    with Pair() as pair:
        pair.up()
        (first,) = pair.client.sessions
        pair.restart_server()
        pair.run_until(lambda: first not in pair.client.sessions and bool(pair.flows(pair.client)), 30.0)
        pair.say("app", b"private")
        pair.run(1.0)
        assert pair.heard() == [b"private"]


@pytest.mark.parametrize("cipher", list(Cipher))
def test_who_looks_on_reads_what_is_not_sealed(cipher: Cipher) -> None:
    packets: list[bytes] = []

    def watch(_: Toward, packet: bytes) -> bool:
        packets.append(bytes(packet))
        return False

    with Pair(cipher=cipher) as pair:
        pair.wire.drop.append(watch)
        pair.up()
        pair.echo = True
        pair.say("app", *(b"content %d" % number for number in range(20)))
        pair.run(1.0)
        assert len(pair.at_app) == 20
    assert any(b"content" in packet for packet in packets) is (cipher is Cipher.NONE)
