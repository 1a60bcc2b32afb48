"""A server with as many conversations as it allows: the longest silent one makes room, and nothing is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from rsock_nf.core.ends import applications
from rsock_nf.core.ends.crowding import CROWDED, KEPT
from rsock_nf.core.ends.silence import BRIEF_SILENCE
from rsock_nf.core.events import ConversationClosed
from tests.core.pair import Pair, runs_of
from tests.core.wire import Toward

STEP = 0.25
"""Seconds from one look at the targets to the next."""


def reason(pair: Pair) -> str:
    (crowd,) = pair.server.role.crowds(pair.now)
    return crowd.reason


def made_room(pair: Pair) -> int:
    (crowd,) = pair.server.role.crowds(pair.now)
    return crowd.made_room


def ask(pair: Pair, seconds: float, rate: int, each_step: Callable[[], None] = lambda: None) -> int:
    """A resolver: ``rate`` questions a second, each from a port of its own; each is answered after 50 ms.

    Returns how many it asked.
    """
    seen, asked = len(pair.at_target), 0
    answers: deque[tuple[object, bytes]] = deque()
    for _ in range(round(seconds / STEP)):
        questions = [b"question %d at %f" % (at, pair.now) for at in range(round(rate * STEP))]
        asked += len(questions)
        pair._said.update(questions)
        runs = [run for question in questions for run in runs_of(("resolver", question), [question])]
        pair.client.receive_datagrams(pair.now, runs)
        each_step()
        pair.run(0.1)
        answers += [(peer, b"answer to " + said) for peer, said in pair.at_target[seen:] if said[:8] == b"question"]
        seen = len(pair.at_target)
        while answers:
            peer, answer = answers.popleft()
            if peer in pair.sockets:
                pair.reply(peer, answer)
        pair.run(STEP - 0.1)
    return asked


def answered(pair: Pair) -> int:
    return sum(said.startswith(b"answer to question") for _, said in pair.at_app)


def test_a_resolver_loses_nothing() -> None:
    """200 ports a second for as long as it likes, with a third of the numbers: those in use, and those that rest."""
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        pair.client.role.applications.numbers._unused = 20_000
        asked = ask(pair, 120.0, 200)
        pair.run(1.0)
        assert answered(pair) == asked == 24_000
        assert len(pair.sockets) == 4096
        assert pair.server.counters["data for no conversation"] == pair.client.counters["data for no conversation"] == 0
        assert pair.client.role.reason == ""


def test_few_sockets_are_enough_for_many_questions() -> None:
    with Pair(client={"flows": 1}, server={"max_conversations": 100}) as pair:
        pair.up()
        asked = ask(pair, 10.0, 200)
        assert answered(pair) == asked
        assert len(pair.sockets) == 100


def test_a_greedy_session_does_not_lock_out_another() -> None:
    """The first client is killed, and its server does not know: the second one starts afterwards."""
    with Pair(server={"max_conversations": 200}) as pair:
        pair.up()
        for peer in range(300):
            pair.say(peer, b"greedy %d" % peer)
        pair.run(1.0)
        assert len(pair.sockets) == 200
        greedy = set(pair.sockets)
        pair.replace_client()
        pair.up()
        for _ in range(2):
            for peer in range(20):
                pair.say(("second", peer), b"modest %d" % peer)
            pair.run(1.0)
        assert len(pair.heard()) == 300 + 2 * 20
        assert len(set(pair.sockets) - greedy) == 20
        assert len(pair.sockets) == 200


def test_long_lived_conversations_survive_a_flood() -> None:
    """One of them speaks every second, one keeps a NAT open as WireGuard does, and one only hears."""
    with Pair(client={"flows": 1}, server={"max_conversations": 1000}) as pair:
        pair.up()
        lasting = ("speaks", "keeps", "hears")
        for peer in lasting:
            for at in range(4):
                pair.say(peer, b"%s %d" % (peer.encode(), at))
        pair.run(2.0)
        theirs = {said.split()[0].decode(): peer for peer, said in pair.at_target}
        began, step = pair.now, [0]

        def each_step() -> None:
            step[0] += 1
            if step[0] % 4 == 0:
                pair.say("speaks", b"speaks on %d" % step[0])
                pair.reply(theirs["hears"], b"hears on %d" % step[0])
            if step[0] % 100 == 0:
                pair.say("keeps", b"keeps on %d" % step[0])

        ask(pair, 60.0, 200, each_step)
        assert pair.now - began == pytest.approx(60.0)
        assert made_room(pair) > 10_000
        assert set(theirs.values()) <= set(pair.sockets), "all three still have their first sockets"


def test_a_conversation_that_made_room_opens_again_without_loss() -> None:
    """The client has not been told: it still sends plain data."""
    with Pair(server={"max_conversations": 2}, client={"targets": (1, 0)}) as pair:
        pair.up()
        pair.echo = True
        pair.say((0, "app"), b"first")
        pair.run(1.0)
        (old,) = pair.sockets
        for peer in ("second", "third"):
            pair.say((1, peer), peer.encode())
            pair.run(1.0)
        assert old not in pair.sockets
        pair.say((0, "app"), b"again", b"and more")
        pair.run(1.0)
        assert [said for peer, said in pair.at_app if peer == (0, "app")] == [b"first", b"again", b"and more"]
        assert pair.sockets[old] == 1, "toward the same target"
        assert pair.client.counters["data for no conversation"] == 0
        pair.say((0, "app"), bytes(4000))
        pair.run(0.5)
        assert pair.at_app[-1] == ((0, "app"), bytes(4000))


def test_what_was_under_way_when_it_made_room_is_not_lost() -> None:
    """Two reads of one batch, after each other."""
    with Pair(server={"max_conversations": 1}) as pair:
        pair.up()
        pair.echo = True
        pair.say("app", b"first")
        pair.run(1.0)
        pair.say("other", b"in between")
        pair.say("app", b"long")
        pair.say("app", b"longer than before")
        pair.run(1.0)
        assert sorted(pair.heard()) == [b"first", b"in between", b"long", b"longer than before"]


def test_what_the_client_ended_opens_no_more() -> None:
    with Pair(client={"duration": 10.0}, server={"max_conversations": 1}) as pair:
        pair.up()
        pair.say("app", b"first")
        pair.run(5.0)
        (old,) = pair.sockets
        pair.say("other", b"second")
        pair.run(30.0)
        assert not pair.server.role.crowding._targets, "the client has said of both that they ended"
        assert isinstance(old, tuple)
        (session,) = pair.server.sessions
        assert pair.server.role.crowding.take(session, old[1]) is None


def test_what_is_kept_of_them_is_bounded() -> None:
    with Pair(server={"max_conversations": 3}) as pair:
        pair.up()
        for peer in range(100):
            pair.say(peer, b"hello %d" % peer)
        pair.run(0.5)
        assert len(pair.heard()) == 100
        assert made_room(pair) == 97
        assert len(pair.server.role.crowding._targets) == 3 * KEPT
        pair.say(0, b"forgotten")
        pair.run(0.5)
        pair.say(0, b"opened anew")
        pair.run(0.5)
        assert pair.heard()[-1] == b"opened anew", "as after any end of which the client was not told"


def test_the_operator_is_told() -> None:
    with Pair(server={"max_conversations": 3}) as pair:
        pair.up()
        for peer in range(3):
            pair.say(peer, b"hello %d" % peer)
        pair.run(0.5)
        assert reason(pair) == ""
        pair.say(3, b"hello 3")
        pair.run(0.5)
        text = "conversations: 3 of 3 in use: answered or silent ones make room; raise max_conversations"
        assert reason(pair) == text
        (crowd,) = pair.server.role.crowds(pair.now)
        (session,) = pair.server.sessions
        assert (crowd.limit, crowd.made_room, crowd.peer) == (3, 1, session.peer)
        pair.run(CROWDED)
        assert reason(pair) == "", "none had to make room since"


def test_a_question_ends_after_thirty_seconds_at_both_ends() -> None:
    with Pair() as pair:
        pair.up()
        pair.echo = True
        pair.say("dns", b"question")
        for at in range(10):
            pair.say("vpn", b"%d" % at)
        pair.run(BRIEF_SILENCE - 1.0)
        assert len(pair.sockets) == 2
        pair.run(4.0)
        assert len(pair.sockets) == len(pair.client.role.group.conversations) == 1
        assert pair.client.pump.conversation("vpn") is not None
        assert pair.count(ConversationClosed, Toward.SERVER) == 1
        assert pair.client.counters["data for no conversation"] == 0


def test_a_number_that_begins_anew_with_another_target() -> None:
    """The message about its end was lost: its socket leads to the old target."""
    with Pair(client={"targets": (0, 1)}) as pair:
        pair.up()
        pair.say((0, "app"), b"to the first")
        pair.run(0.5)
        role = pair.client.role
        pair.client.conversations.end(next(iter(role.group.conversations.values())))
        role.applications.numbers._next -= 1
        pair.say((1, "app"), b"to the second")
        pair.run(0.5)
        assert list(pair.sockets.values()) == [1]
        assert pair.heard() == [b"to the first", b"to the second"]


def test_a_client_has_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "MAX_CONVERSATIONS", 3)
    with Pair() as pair:
        pair.up()
        for peer in range(5):
            pair.say(peer, b"hello %d" % peer)
            pair.run(1.1)
        assert [conversation.peer for conversation in pair.client.role.group.conversations.values()] == [2, 3, 4]
        assert len(pair.heard()) == 5
        assert len(pair.sockets) == 3, "the server was told"


def test_questions_under_way_do_not_make_room() -> None:
    """Half of the sockets wait for an answer at any time, and nobody looks between."""
    with Pair(client={"flows": 1}, server={"max_conversations": 100}) as pair:
        pair.up()
        for round_ in range(40):
            for at in range(50):
                pair.say(("app", round_, at), b"question %d of round %d" % (at, round_))
            pair.run(0.011)
            asked = pair.at_target[-100:-50] if round_ else []
            assert len(pair.at_target) == 50 * (round_ + 1)
            for peer, said in asked:
                pair.reply(peer, b"answer to " + said)
        pair.run(0.1)
        assert answered(pair) == 50 * 39


def test_a_lowered_limit_holds_from_the_next_conversation_on() -> None:
    with Pair(client={"flows": 1}, server={"max_conversations": 100}) as pair:
        pair.up()
        for peer in range(100):
            pair.say(peer, b"%d" % peer)
        pair.run(0.5)
        role = pair.server.role
        role.use_parameters(pair.now, [replace(role.parameters, max_conversations=3)])
        pair.run(0.5)
        assert len(pair.sockets) == 100, "nobody needs room"
        pair.say("another", b"another")
        pair.run(0.5)
        assert len(pair.sockets) == 3
        assert made_room(pair) == 98
        assert len(role.crowding._targets) == 3 * KEPT
        assert pair.heard()[-1] == b"another"
