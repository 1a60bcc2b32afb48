"""Openings on a path that loses most packets: what the client says of it, and what the server keeps of it."""

from __future__ import annotations

import pytest

from rsock_nf.core.ends.openings import Tally
from rsock_nf.core.parameters import Kinds
from tests.core.pair import Pair
from tests.core.wire import Toward

both_kinds = pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP], ids=["tcp", "udp"])


@both_kinds
def test_a_path_that_loses_most_is_not_taken_for_a_wrong_secret(kinds: Kinds) -> None:
    """Over TCP the session counts as lost in most such minutes, and hellos are said: in one of four at least."""
    told: set[str] = set()
    for seed in range(4):
        with Pair(seed, kinds=kinds, client={"flows": 4}) as pair:
            pair.up()
            pair.wire.conditions[Toward.CLIENT].loss = 0.95
            for _ in range(600):
                pair.say("app", b"x" * 100)
                pair.run(0.1)
                reason = pair.client.role.reason
                assert "secret" not in reason
                if "answers our hellos no more: the path loses" in reason:
                    told.add(reason)
    assert told or kinds is Kinds.UDP
    for reason in told:
        assert 50 <= int(reason.split(" %")[0].split()[-1]) <= 100


def test_the_tally_forgets() -> None:
    tally = Tally()
    assert tally.lost == 0
    for _ in range(100):
        tally.sent()
        tally.answered()
    assert tally.lost == 0
    for at in range(100):
        tally.sent()
        if at % 5 == 0:
            tally.answered()
    assert 70 <= tally.lost <= 90


def lose_the_end_of_an_opening(pair: Pair) -> None:
    """Nothing comes to the client any more from the moment at which its server has made the session."""
    known = set(pair.server.role.sessions_by_id)
    pair.wire.drop.append(lambda toward, _: toward is Toward.CLIENT and set(pair.server.role.sessions_by_id) > known)


@both_kinds
def test_a_session_of_which_its_client_knows_nothing_ends_soon(kinds: Kinds) -> None:
    with Pair(kinds=kinds, client={"flows": 1}) as pair:
        lose_the_end_of_an_opening(pair)
        pair.start()
        pair.run_until(lambda: bool(pair.server.role.sessions_by_id), 2.0)
        pair.wire.drop.append(lambda *_: True)
        pair.run(30.0)
        assert not pair.server.role.sessions_by_id


@both_kinds
def test_a_session_of_which_its_client_knows_nothing_makes_room_first(kinds: Kinds) -> None:
    with Pair(kinds=kinds, client={"flows": 1}, server={"max_sessions": 2}) as pair:
        pair.up()
        pair.run(1.0)
        [used] = pair.server.role.sessions_by_id
        pair.client.role.sleep(pair.now, "a test")
        pair.run(5.0)
        pair.replace_client()
        lose_the_end_of_an_opening(pair)
        pair.start()
        pair.run_until(lambda: len(pair.server.role.sessions_by_id) == 2, 2.0)
        pair.run_until(lambda: not any(session.flows for session in pair.server.role.sessions), 10.0)
        pair.wire.drop.clear()
        pair.replace_client()
        pair.up()
        assert used in pair.server.role.sessions_by_id
        assert len(pair.server.role.sessions_by_id) == 2
