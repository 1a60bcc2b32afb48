"""``type: all`` means the better kind: what a path does to one kind costs seconds, whatever it is, in either
direction."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.events import FlowClosed, FlowSick, KindCarries, KindRests
from rsock_nf.core.parameters import Kinds, Spread
from tests.core.pair import START, Pair, numbered
from tests.core.wire import Toward, is_udp

RATE = 100
"""Datagrams a second, and each comes back."""
NOTICED = 15.0
"""Seconds until the traffic must have left the worse kind."""
Harm = Callable[[Pair, bool], None]


def everything(pair: Pair, udp: bool) -> None:  # noqa: FBT001 - a kind
    pair.wire.drop.append(lambda _, packet: is_udp(packet) is udp)


def a_fifth(pair: Pair, udp: bool) -> None:  # noqa: FBT001 - a kind
    dice = random.Random(9)
    pair.wire.drop.append(lambda _, packet: is_udp(packet) is udp and dice.random() < 0.2)


def more_than_fifty_a_second(pair: Pair, udp: bool) -> None:  # noqa: FBT001 - a kind
    """A token bucket for both directions together, as nft's ``limit rate over 50/second``."""
    tokens, filled = 5.0, pair.now

    def police(_: Toward, packet: bytes) -> bool:
        nonlocal tokens, filled
        if is_udp(packet) is not udp:
            return False
        tokens, filled = min(5.0, tokens + (pair.now - filled) * 50), pair.now
        if tokens < 1:
            return True
        tokens -= 1
        return False

    pair.wire.drop.append(police)


def ten_times_the_delay(pair: Pair, udp: bool) -> None:  # noqa: FBT001 - a kind
    pair.wire.late = lambda packet: 0.09 if is_udp(packet) is udp else 0.0


HARMS: list[Harm] = [more_than_fifty_a_second, a_fifth, everything, ten_times_the_delay]


def exchange(pair: Pair, seconds: float) -> tuple[float, float]:
    """Datagrams evenly, and back: (share lost on the way out, on the way there and back)."""
    pair.echo = True
    before = len(pair.at_target), len(pair.at_app)
    sent = int(seconds * RATE)
    for datagram in numbered(sent, 500, b"%.3f " % pair.now):
        pair.say("app", datagram)
        pair.run(1 / RATE)
    pair.run(0.3)
    return 1 - (len(pair.at_target) - before[0]) / sent, 1 - (len(pair.at_app) - before[1]) / sent


def resting(node: Endpoint[Any]) -> bool | None:
    """The kind that rests at one end: is it UDP?"""
    (session,) = node.sessions
    return session.judge.resting


def carriers(node: Endpoint[Any], *, udp: bool) -> int:
    """How many flows of a kind carry bulk."""
    (session,) = node.sessions
    return sum(flow.key.udp is udp for flow in session.group.usable)


@pytest.mark.slow
@pytest.mark.parametrize("udp", [True, False])
@pytest.mark.parametrize("harm", HARMS)
def test_never_worse_than_the_better_kind_alone(harm: Harm, *, udp: bool) -> None:
    """By 1 %, in any quarter of a minute, trials of the worse kind included."""
    with Pair(3, kinds=Kinds.ALL) as pair:
        pair.up()
        assert exchange(pair, 5.0) == (0, 0)
        harm(pair, udp)
        exchange(pair, NOTICED)
        for _ in range(6):
            out, back = exchange(pair, 15.0)
            assert out <= 0.01
            assert back <= 0.01
        for node in (pair.client, pair.server):
            assert carriers(node, udp=udp) <= 1, "it is tried at most"
        assert pair.count(FlowSick) == 0, "another flow of the same kind would help nobody"
        if harm is not everything:
            assert pair.count(FlowClosed) <= 20, "those that died before the kind rested"


@pytest.mark.parametrize("udp", [True, False])
def test_the_worse_kind_rests_at_both_ends_and_people_are_told(*, udp: bool) -> None:
    with Pair(kinds=Kinds.ALL) as pair:
        pair.up()
        a_fifth(pair, udp)
        exchange(pair, 10.0)
        assert resting(pair.client) is resting(pair.server) is udp
        (told,) = [event for _, side, event in pair.events if side is Toward.CLIENT and isinstance(event, KindRests)]
        kind, other = ("UDP", "TCP") if udp else ("TCP", "UDP")
        assert told.text.startswith(f"{kind} flows rest: they lose ")
        assert f"%, {other} flows 0%; next try in 65 s" in told.text
        assert len(pair.client.sessions[0].flows) == 20, "its flows stay"


@pytest.mark.parametrize("toward", Toward)
def test_each_end_judges_what_it_sends(toward: Toward) -> None:
    with Pair(kinds=Kinds.ALL) as pair:
        pair.up()
        dice = random.Random(3)
        pair.wire.drop.append(lambda way, packet: way is toward and is_udp(packet) and dice.random() < 0.2)
        exchange(pair, 15.0)
        sender, receiver = (pair.client, pair.server) if toward is Toward.SERVER else (pair.server, pair.client)
        assert resting(sender) is True
        assert resting(receiver) is None
        assert exchange(pair, 15.0) == (0, 0)


@pytest.mark.parametrize("harm", [a_fifth, ten_times_the_delay])
def test_it_returns_when_it_was_clean_for_a_minute(harm: Harm) -> None:
    with Pair(kinds=Kinds.ALL) as pair:
        pair.up()
        harm(pair, True)
        exchange(pair, 40.0)
        assert resting(pair.client) is resting(pair.server) is True
        pair.wire.drop.clear()
        pair.wire.late = None
        assert exchange(pair, 30.0) == (0, 0)
        assert resting(pair.client) is resting(pair.server) is True, "it rests for a minute"
        assert exchange(pair, 80.0) == (0, 0)
        assert resting(pair.client) is resting(pair.server) is None
        assert carriers(pair.client, udp=True) == carriers(pair.server, udp=True) == 10
        assert pair.count(KindRests) == pair.count(KindCarries) == 2


def test_the_other_kind_fails_while_one_rests() -> None:
    """A lossy kind is better than none, at once."""
    with Pair(kinds=Kinds.ALL) as pair:
        pair.up()
        a_fifth(pair, True)
        exchange(pair, 15.0)
        assert resting(pair.client) is True
        everything(pair, False)
        exchange(pair, 5.0)
        out, _ = exchange(pair, 5.0)
        assert out < 0.3
        assert carriers(pair.client, udp=True) >= 5


def test_one_bad_flow_is_replaced_and_its_kind_carries() -> None:
    with Pair(kinds=Kinds.ALL) as pair:
        pair.up()
        dice = random.Random(3)
        bad = next(flow.key for flow in pair.flows(pair.client) if flow.key.udp)
        port = bad.local_port.to_bytes(2, "big")
        pair.wire.drop.append(lambda _, packet: is_udp(packet) and port in packet[20:24] and dice.random() < 0.5)
        exchange(pair, 60.0)
        assert pair.client.flows.get(bad) is None
        assert pair.count(KindRests) == 0
        assert carriers(pair.client, udp=True) == 10


def test_the_same_loss_on_both_kinds_is_no_reason() -> None:
    with Pair(kinds=Kinds.ALL) as pair:
        pair.up()
        dice = random.Random(1)
        pair.wire.drop.append(lambda *_: dice.random() < 0.1)
        exchange(pair, 60.0)
        assert pair.count(KindRests) == 0


def test_a_pinned_conversation_leaves_the_worse_kind() -> None:
    with Pair(kinds=Kinds.ALL, client={"spread": Spread.CONVERSATION}, server={"spread": Spread.CONVERSATION}) as pair:
        pair.up()
        a_fifth(pair, True)
        for at in range(300):
            for number in range(20):
                pair.say(f"app {number}", b"%d/%d" % (number, at))
            pair.run(0.05)
        assert resting(pair.client) is True
        before = len(pair.at_target)
        for number in range(20):
            pair.say(f"app {number}", *numbered(20, 100, b"%d" % number))
        pair.run(1.0)
        assert len(pair.at_target) - before == 400


def test_a_new_session_begins_with_both_kinds() -> None:
    with Pair(kinds=Kinds.ALL) as pair:
        pair.up()
        a_fifth(pair, True)
        exchange(pair, 10.0)
        assert resting(pair.client) is True
        pair.wire.drop.clear()
        pair.restart_server()
        pair.run(20.0)
        assert pair.now < START + 60
        assert resting(pair.client) is resting(pair.server) is None
        assert carriers(pair.client, udp=True) == carriers(pair.client, udp=False) == 10
