"""Conversations: numbers, ends, limits; datagrams that wait, and datagrams too large for a segment."""

from collections import Counter, OrderedDict
from collections.abc import Iterator

import pytest

from rsock_nf.core import messages
from rsock_nf.core.ends.applications import REFUSAL_LASTS
from rsock_nf.core.ends.numbers import REST
from rsock_nf.core.ends.waiting import MAX_AGE, MAX_BYTES, MAX_DATAGRAMS, Waiting
from rsock_nf.core.events import ConversationClosed, ConversationOpened, FlowOpened, PortWanted
from rsock_nf.core.parameters import SPEEDTEST_TARGET, Cipher
from rsock_nf.core.pump.fragments import HEADER, MAX_FRAGMENTS, Reassembly, parse_fragment, split
from rsock_nf.core.types import Malformed, OwnPeer, Run
from tests.core.pair import Pair, numbered
from tests.core.wire import Conditions, Merge, Toward

SHORT = {"duration": 10.0, "idle_timeout": 0.0}
SHORT_SERVER = {"duration": 10.0}


def idle(pair: Pair) -> bool:
    return pair.client.role.idle


def numbers(pair: Pair) -> list[int]:
    """Of the client's conversations."""
    return list(pair.client.role.group.conversations)


# -- from opening to end


def test_each_peer_has_its_own_socket() -> None:
    with Pair() as pair:
        pair.up()
        for peer in range(50):
            pair.say(("app", peer), b"from %d" % peer)
        pair.run(0.2)
        assert len(pair.sockets) == 50
        for socket, datagram in list(pair.at_target):
            pair.reply(socket, b"to" + datagram[4:])
        pair.run(0.2)
        assert Counter(pair.at_app) == Counter((("app", peer), b"to %d" % peer) for peer in range(50))


def test_any_of_the_first_datagrams_may_arrive_first() -> None:
    """All are of the opening kind until something comes back, and the conversation opens once."""
    with Pair(conditions=Conditions(reorder=0.9, reorder_delay=0.3), late_syns=True) as pair:
        pair.up(within=30.0)
        for at in range(50):
            pair.say("app", b"%d" % at)
            pair.run(0.002)
        pair.run(1.0)
        assert Counter(pair.heard()) == Counter(b"%d" % at for at in range(50))
        assert pair.count(ConversationOpened) == 1


def test_the_first_may_be_lost_too() -> None:
    with Pair() as pair:
        pair.up()
        pair.run(1.0)
        lost = [0]

        def first_three(toward: Toward, _: bytes) -> bool:
            lost[0] += toward is Toward.SERVER
            return toward is Toward.SERVER and lost[0] <= 3

        pair.wire.drop.append(first_three)
        for at in range(10):
            pair.say("app", b"%d" % at)
        pair.run(0.5)
        assert len(pair.heard()) == 7


@pytest.mark.parametrize("direction", ["up", "down", "none"])
def test_it_lives_while_either_direction_moves(direction: str) -> None:
    with Pair(client=SHORT, server=SHORT_SERVER) as pair:
        pair.up()
        pair.say("app", b"open")
        pair.run(0.1)
        peer = pair.server_peer()
        for _ in range(10):
            pair.run(5.0)
            if direction == "up":
                pair.say("app", b"up")
            elif direction == "down" and pair.sockets:
                pair.reply(peer, b"down")
        assert len(pair.sockets) == len(numbers(pair)) == (0 if direction == "none" else 1)
        assert pair.count(ConversationClosed) == (direction == "none")


def test_its_end_comes_to_both_sides_at_about_the_same_time() -> None:
    with Pair(client=SHORT, server={"duration": 1000.0}) as pair:
        pair.up()
        pair.say("app", b"open")
        pair.run(15.0)
        assert not pair.sockets, "the close frame ended it there"
    with Pair(client={"duration": 1000.0}, server=SHORT_SERVER) as pair:
        pair.up()
        pair.say("app", b"open")
        pair.run(15.0)
        assert not numbers(pair), "and here"


@pytest.mark.parametrize("lost_close", [False, True])
def test_the_next_datagram_opens_a_new_one(*, lost_close: bool) -> None:
    """Also if the server ended it and the client was not told."""
    with Pair(client={"duration": 1000.0}, server=SHORT_SERVER) as pair:
        pair.up()
        pair.say("app", b"one")
        pair.run(1.0)
        old = pair.server_peer()
        if lost_close:
            pair.wire.drop.append(lambda *_: 8.0 < pair.now - began < 14.0)
        began = pair.now
        pair.run(16.0)
        assert not pair.sockets
        assert len(numbers(pair)) == lost_close
        pair.say("app", b"two")
        pair.run(3.0)
        pair.say("app", b"three")
        pair.run(0.2)
        assert pair.heard()[-1] == b"three"
        assert pair.server_peer() != old


def test_numbers_rest_after_their_conversations() -> None:
    """65,536 numbers, round-robin, and a rest for each: who needs more is told so by the counter."""
    with Pair(client=SHORT, server={"max_conversations": 4, **SHORT_SERVER}) as pair:
        pair.up()
        client = pair.client
        rule = client.role.applications.numbers
        for number in range(3, 0x10000):  # as if all but three had been used, and had ended now
            rule._ended[(rule._next + number) & 0xFFFF] = pair.now
        rule._unused = 3
        for peer in range(5):
            pair.say(peer, b"hello %d" % peer)
        assert len(numbers(pair)) == 3
        assert client.counters["no conversation number free"] == 2
        started = dict.fromkeys(numbers(pair), pair.now)
        pair.run(12.0)
        assert not numbers(pair), "ended by silence"
        pair.run(REST - 12.0 - 0.1)
        pair.say("early", b"nothing is free yet")
        assert not numbers(pair)
        pair.run(0.2)
        pair.say("later", b"free")
        assert len(numbers(pair)) == 1
        assert not set(numbers(pair)) & started.keys(), "those three ended later, and rest still"


class Looks(OrderedDict[int, float]):
    """Counts how many ended numbers are looked at."""

    count = 0

    def items(self) -> Iterator[tuple[int, float]]:  # type: ignore[override]
        for item in super().items():
            self.count += 1
            yield item

    def __contains__(self, number: object) -> bool:
        self.count += 1
        return super().__contains__(number)

    def get(self, number: int, default: float | None = None) -> float | None:  # type: ignore[override]
        self.count += 1
        return super().get(number, default)


def test_a_number_is_found_without_a_search() -> None:
    """A flood of new application addresses when every number rests: one look each, not 65,536."""
    with Pair(client=SHORT) as pair:
        pair.up()
        pair.client.role.applications.numbers._ended = looks = Looks(dict.fromkeys(range(0x10000), pair.now))
        pair.client.role.applications.numbers._unused = 0
        looks.count = 0
        for peer in range(100):
            pair.say(peer, b"hello")
        assert pair.client.counters["no conversation number free"] == 100
        assert looks.count == 100
        pair.client.role.applications.numbers._ended = looks = Looks(dict.fromkeys(range(0x10000), pair.now - 1000.0))
        looks.count = 0
        for peer in range(100):
            pair.say(peer, b"hello")
        assert sorted(numbers(pair)) == list(range(100))
        assert looks.count == 100


def test_late_frames_of_an_ended_conversation_go_nowhere() -> None:
    with Pair(client=SHORT, server=SHORT_SERVER) as pair:
        pair.up()
        pair.say("app", b"one")
        pair.run(1.0)
        pair.reply(pair.server_peer(), b"opened")
        pair.run(1.0)
        pair.say("app", b"two")
        conversation = pair.client.pump.conversation("app")
        assert conversation is not None
        assert conversation.kind == 0
        pair.run(30.0)
        pair.client.conversations.put(pair.now, conversation)  # as a frame that was very long on its way
        pair.say("app", b"late")
        pair.run(0.5)
        assert pair.heard() == [b"one", b"two"]
        assert pair.server.counters["data for no conversation"] == 1
        assert not numbers(pair), "the server said that there is none"


def test_data_of_the_server_for_an_ended_conversation() -> None:
    with Pair(client=SHORT, server={"duration": 1000.0}) as pair:
        pair.up()
        pair.say("app", b"one")
        pair.run(1.0)
        peer = pair.server_peer()
        pump = pair.flows(pair.client)[0].pump
        assert pump is not None
        close_frame = 40 + pump.codec.control_size(messages.CloseConversation(0))
        pair.wire.drop.append(lambda _, packet: len(packet) == close_frame)
        pair.run(13.0)
        assert not numbers(pair)
        assert peer in pair.sockets, "the close frame was lost"
        pair.wire.drop.clear()
        pair.reply(peer, b"anybody?")
        pair.run(0.5)
        assert peer not in pair.sockets


@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_bytes_are_the_applications_own_at_both_ends(cipher: Cipher) -> None:
    """Whatever goes around them: opening frames, headers, tags, fragments; and the last of a run may be shorter."""
    with Pair(cipher=cipher) as pair:
        pair.up()
        said = [b"first", *(b"%02d" % at + bytes(98) for at in range(20)), b"short", b"", bytes(5000)]
        pair.say("app", said[0])
        pair.run(0.5)
        pair.say("app", *said[1:22])
        pair.say("app", *said[22:])
        pair.run(0.5)
        for datagram in said:
            pair.reply(pair.server_peer(), datagram + b"!")
        pair.run(0.5)
        (here,) = pair.client.role.group.conversations.values()
        (session,) = pair.server.role.sessions_by_id.values()
        (there,) = session.group.conversations.values()
        out = len(said), sum(map(len, said))
        back = len(said), sum(map(len, said)) + len(said)
        assert (here.sent_datagrams, here.sent_bytes) == (there.received_datagrams, there.received_bytes) == out
        assert (there.sent_datagrams, there.sent_bytes) == (here.received_datagrams, here.received_bytes) == back


def test_no_such_target() -> None:
    with Pair(client={"targets": (7,)}) as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(0.5)
        assert pair.client.role.reason == "the server refuses the conversations: it has no target 7 (counted from 0)"
        assert pair.client.counters["conversations refused"] == 1
        assert not pair.sockets
        assert not numbers(pair)


def test_a_refusal_is_not_forgotten_with_the_next_flow() -> None:
    """The application speaks first: its datagram goes with the first flow, and nine more come up after the refusal."""
    with Pair(client={"targets": (7,)}) as pair:
        pair.start()
        pair.say("app", b"hello")
        pair.run(5.0)
        assert len(pair.flows(pair.client)) == 10
        assert pair.client.role.reason == "the server refuses the conversations: it has no target 7 (counted from 0)"


def test_which_local_socket_asks_for_a_target_that_is_not() -> None:
    ends = {"targets": (0, 7, 8), "local_ends": ("127.0.0.1:30000", "127.0.0.1:30001", "unix:/run/a")}
    second = "the server refuses the conversations of 127.0.0.1:30001: it has no target 7 (counted from 0)"
    third = "the server refuses the conversations of unix:/run/a: it has no target 8 (counted from 0)"
    with Pair(client=ends) as pair:
        pair.up()
        pair.say((1, "app"), b"hello")
        pair.run(0.5)
        assert pair.client.role.reason == second
        pair.say((0, "app"), b"to a target that there is")
        pair.run(0.5)
        assert pair.client.role.reason == second, "that one of them works does not help the other"
        pair.say((2, "app"), b"hello")
        pair.run(0.5)
        assert pair.client.role.reason == f"{second}; {third}"


def test_a_refusal_ends_with_the_next_conversation_of_that_socket() -> None:
    with Pair() as pair:
        pair.up()
        pair.say("app", b"no descriptor is left")
        pair.run(0.015)
        pair.server.role.socket_refused(pair.now, pair.server_peer(), "Too many open files")
        pair.flush()
        pair.run(0.5)
        assert pair.client.role.reason
        pair.say("app", b"now there is room")
        pair.run(0.5)
        assert pair.client.role.reason == ""


def test_a_speed_test_that_the_server_serves_ends_no_refusal() -> None:
    """It has no local end.  The first of them, number 0, is refused as before."""
    with Pair(client={"targets": (7,)}, server={"speedtest": 10}) as pair:
        pair.up()
        pair.say((0, "app"), b"hello")
        pair.run(0.5)
        refused = pair.client.role.reason
        assert refused
        pair.say(OwnPeer(SPEEDTEST_TARGET, 0), b"a test")
        pair.run(0.5)
        assert any(opened.target == SPEEDTEST_TARGET for opened in pair.server.sessions[0].group.conversations.values())
        assert pair.client.role.reason == refused


def test_a_refusal_is_not_told_for_ever() -> None:
    """Nobody asks again.  Perhaps the server has the target by now."""
    with Pair(client={"targets": (7,)}) as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(REFUSAL_LASTS - 2.0)
        assert pair.client.role.reason
        pair.run(4.0)
        assert pair.client.role.reason == ""
        pair.say("app", b"hello")
        pair.run(0.5)
        assert pair.client.role.reason


def test_targets_by_socket() -> None:
    with Pair(client={"targets": (1, 0)}) as pair:
        pair.up()
        pair.say((0, "app"), b"first socket")
        pair.say((1, "app"), b"second socket")
        pair.run(0.5)
        assert sorted(pair.sockets.values()) == [0, 1]
        assert {pair.sockets[peer]: datagram for peer, datagram in pair.at_target} == {
            1: b"first socket",
            0: b"second socket",
        }


def test_the_server_cannot_open_a_socket() -> None:
    with Pair() as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(0.015)
        peer = pair.server_peer()
        pair.server.role.socket_refused(pair.now, peer, "Too many open files")
        pair.flush()
        pair.run(0.5)
        assert not pair.sockets
        assert not numbers(pair)
        assert "could not open a socket toward its target" in pair.client.role.reason


# -- waiting and idling


def test_the_first_datagrams_wait_for_the_first_flow() -> None:
    with Pair() as pair:
        pair.start()
        pair.say("app", *numbered(100, 500))
        pair.run(1.0)
        assert Counter(pair.heard()) == Counter(numbered(100, 500))


def test_the_queue_is_bounded_in_number_bytes_and_age() -> None:
    with Pair() as pair:
        pair.wire.drop.append(lambda *_: pair.now < held)
        held = pair.now + 3.0
        pair.start()
        pair.say("app", *numbered(MAX_DATAGRAMS + 100, 100))
        assert len(pair.client.role.applications.waiting) == MAX_DATAGRAMS
        pair.run_until(lambda: bool(pair.heard()), 20.0)
        pair.run(0.5)
        assert Counter(pair.heard()) == Counter(numbered(MAX_DATAGRAMS, 100, first=100)), "the oldest go first"
    waiting = Waiting()
    waiting.put(0.0, Run("app", [bytes(60_000)] * 30, 60_000))
    assert len(waiting) == MAX_BYTES // 60_000
    waiting.put(1.0, Run("app", [b"young"], 5))
    assert [run.datagrams for run in waiting.take(MAX_AGE)] == [[b"young"]]
    assert waiting.take(MAX_AGE) == []
    assert waiting.dropped == 30
    assert waiting._bytes == len(waiting) == 0


def test_what_waits_is_a_copy() -> None:
    buffer = bytearray(b"before")
    waiting = Waiting()
    waiting.put(0.0, Run("app", [memoryview(buffer)], 6))
    buffer[:] = b"behind"
    assert waiting.take(0.0)[0].datagrams == [b"before"]


def test_an_idle_tunnel_closes_its_flows_and_is_silent() -> None:
    with Pair(client={"duration": 10.0, "idle_timeout": 5.0}, server=SHORT_SERVER) as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(11.5)
        assert not idle(pair)
        pair.run(15.0)
        assert idle(pair)
        assert not pair.client.flows
        assert not pair.server.flows
        sent = dict(pair.wire.sent)
        events = len(pair.events)
        pair.run(500.0)
        assert pair.wire.sent == sent
        assert len(pair.events) == events
        assert pair.client.next_timeout() is None, "not even a timer"


@pytest.mark.parametrize("asleep", [30.0, 3000.0])
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_the_first_datagram_wakes_it_and_is_not_lost(asleep: float, cipher: Cipher) -> None:
    """Same session if the server remembers it, another if not."""
    with Pair(cipher=cipher, client={"duration": 10.0, "idle_timeout": 5.0}, server=SHORT_SERVER) as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(20.0 + asleep)
        assert idle(pair)
        remembered = bool(pair.server.role.sessions_by_id)
        assert remembered is (asleep < 600.0)
        began = pair.now
        pair.say("app", b"wake up")
        pair.run_until(lambda: pair.heard()[-1] == b"wake up", 1.0)
        assert pair.now - began < 0.5
        assert not idle(pair)


def test_it_never_idles_if_told_so() -> None:
    with Pair(client=SHORT) as pair:
        pair.up()
        pair.run(300.0)
        assert len(pair.flows(pair.client)) == 10
        assert pair.count(FlowOpened, Toward.CLIENT) == 10


def test_a_datagram_just_while_it_falls_asleep() -> None:
    with Pair(client={"idle_timeout": 5.0}) as pair:
        pair.up()
        pair.run_until(lambda: pair.client.role.idle, 10.0)
        pair.say("app", b"not yet")
        pair.run(1.0)
        assert pair.heard() == [b"not yet"]
        pair.run(5.0)
        assert len(pair.flows(pair.client)) == 10
        assert pair.count(PortWanted) == 20


# -- fragments

LIMIT = 1460 - 8
"""A datagram that just fits with ``cipher: none``."""


@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
@pytest.mark.parametrize("merge", [Merge.NONE, Merge.SIZED, Merge.UNSIZED])
def test_sizes_around_the_limits(cipher: Cipher, merge: Merge) -> None:
    with Pair(cipher=cipher, conditions=Conditions(merge=merge), client={"flows": 2}) as pair:
        pair.up()
        around = [LIMIT - 27, LIMIT - 26, LIMIT - 25, LIMIT - 3, LIMIT - 2, LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 9]
        sizes = [*around, 2 * LIMIT - 16, 2 * LIMIT - 15, 9000, 65507]
        sent = [bytes([at]) * size for at, size in enumerate(sizes)]
        for opened in range(2):
            for datagram in sent:
                pair.say("app", datagram)
            pair.run(0.5)
            assert Counter(pair.heard()) == Counter(sent * (opened + 1))
        for datagram in sent:
            pair.reply(pair.server_peer(), datagram)
        pair.run(0.5)
        assert Counter(datagram for _, datagram in pair.at_app) == Counter(sent)


def test_datagrams_that_are_cut_are_counted_at_the_end_that_cuts() -> None:
    with Pair() as pair:
        pair.up()
        (client,), (server,) = pair.client.sessions, pair.server.sessions
        assert client.largest_datagram() == server.largest_datagram() == LIMIT
        pair.say("app", bytes(LIMIT), b"small")
        pair.run(0.5)
        assert (client.group.oversized, client.group.largest_oversized) == (0, 0), (
            "only its opening frame was too small"
        )
        pair.say("app", bytes(LIMIT))
        pair.say("app", bytes(LIMIT + 3), bytes(LIMIT + 1), bytes(9))
        pair.run(0.5)
        assert (client.group.oversized, client.group.largest_oversized) == (2, LIMIT + 3)
        assert server.group.oversized == 0
        pair.reply(pair.server_peer(), bytes(LIMIT + 5))
        assert (server.group.oversized, server.group.largest_oversized) == (1, LIMIT + 5)


@pytest.mark.parametrize("last", [b"", b"x", bytes(1452), bytes(8999)])
def test_a_run_of_large_datagrams_with_a_shorter_last_one(last: bytes) -> None:
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        datagrams = [*numbered(3, 9000), last]
        pair._said.update(datagrams)
        for _ in range(2):
            pair.client.receive_datagrams(pair.now, [Run("app", list(datagrams), 9000)])
            pair.run(0.3)
        assert Counter(pair.heard()) == Counter(datagrams * 2)
        pair.server.receive_datagrams(pair.now, [Run(pair.server_peer(), list(datagrams), 9000)])
        pair.run(0.3)
        assert Counter(datagram for _, datagram in pair.at_app) == Counter(datagrams)


@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_fragments_over_a_bad_wire(cipher: Cipher) -> None:
    """One lost fragment loses the datagram; none comes damaged (``Pair`` looks), and memory stays bounded."""
    wire = Conditions(loss=0.1, duplicate=0.1, reorder=0.5)
    with Pair(4, cipher=cipher, conditions=wire, late_syns=True, client={"flows": 3}) as pair:
        pair.start()
        pair.run(3.0)
        for at in range(300):
            pair.say("app", *numbered(2, 5000, first=2 * at))
            pair.run(0.01)
        pair.run(1.0)
        heard = Counter(pair.heard())
        assert 200 < len(heard) < 500, "about 0.9 to the power of 4"
        if cipher is not Cipher.NONE:
            assert max(heard.values()) == 1
        session = next(iter(pair.server.role.sessions_by_id.values()))
        assert 0 < session.reassembly._bytes <= session.reassembly.max_bytes
        pair.run(5.0)
        assert len(session.reassembly) == session.reassembly._bytes == 0
        assert session.reassembly.dropped > 50


def test_a_conversation_of_large_datagrams_only() -> None:
    """Its first fragments carry the target themselves."""
    with Pair(client={"targets": (1,)}) as pair:
        pair.up()
        pair.say("app", bytes(4000))
        pair.run(0.5)
        assert pair.heard() == [bytes(4000)]
        assert list(pair.sockets.values()) == [1]


def test_larger_than_what_fits_in_255_fragments() -> None:
    with Pair(clamp_mss=256, conditions=Conditions(mtu=296), client={"flows": 1}) as pair:
        pair.up()
        pair.say("app", bytes(65_000), b"small")
        pair.run(0.5)
        assert pair.heard() == [b"small"]
        assert pair.client.counters["datagrams too large"] == 1


def test_reassembly_is_bounded_whatever_comes() -> None:
    """Beginnings of datagrams that never end: old ones are given up."""
    reassembly = Reassembly(max_bytes=100_000)
    for identification in range(5000):
        body = HEADER.pack(identification, identification % 255, 255, 0) + bytes(identification % 1400)
        assert reassembly.receive(0.0, 1, parse_fragment(body)) is None
        assert reassembly._bytes <= 100_000
    assert reassembly.dropped > 4000
    reassembly.expire(3.0)
    assert len(reassembly) == reassembly._bytes == 0


@pytest.mark.parametrize("body", [b"", bytes(7), HEADER.pack(1, 3, 3, 0) + b"x", HEADER.pack(1, 0, 0, 0) + b"x"])
def test_malformed_fragments(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_fragment(body)


@pytest.mark.parametrize("size", [0, 1, 91, 92, 93, 184, 92 * MAX_FRAGMENTS, 92 * MAX_FRAGMENTS + 1])
def test_split_and_join(size: int) -> None:
    datagram = bytes(at % 251 for at in range(size))
    parts = split(datagram, 100, 7, 3)
    if size > 92 * MAX_FRAGMENTS:
        assert parts is None
        return
    assert parts is not None
    assert all(len(part) == 100 for part in parts[:-1])
    whole = [Reassembly().receive(0.0, 1, parse_fragment(parts[0]))] if len(parts) == 1 else None
    if whole is None:
        reassembly = Reassembly()
        whole = [reassembly.receive(0.0, 1, parse_fragment(part)) for part in reversed(parts)]
        assert len(reassembly) == reassembly._bytes == 0
    assert whole[-1] == datagram


def test_a_frame_behind_the_end_of_its_session_opens_nothing() -> None:
    """Its flow still receives while it closes."""
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        (session,) = pair.server.sessions
        pair.server.role.session_closed(pair.now, session)
        assert pair.server.role.open_conversation(pair.now, session, 7, 0) is None
        pair.flush()
        assert not pair.sockets
        assert pair.server.counters["conversations of a session that ended"] == 1
