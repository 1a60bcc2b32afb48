"""The server tells its clients of targets at which nobody listens."""

import pytest

from rsock_nf.core.ends.applications import REFUSAL_LASTS
from rsock_nf.core.events import TargetAnswers
from rsock_nf.core.types import Malformed
from rsock_nf.wire.native.control import parse_control
from tests.core.pair import Pair
from tests.core.wire import Toward

REFUSES = "the server's target refuses: nobody listens there"


def tell(pair: Pair, target: int, *, refuses: bool) -> None:
    pair.server.role.tell_target(pair.now, target, refuses=refuses)
    pair.flush()
    pair.run(0.2)


def test_a_client_knows_that_the_target_refuses_and_that_it_answers_again() -> None:
    with Pair() as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(0.2)
        for _ in range(3):
            tell(pair, 0, refuses=True)
            assert pair.client.role.reason == REFUSES
        tell(pair, 0, refuses=False)
        assert pair.client.role.reason == ""
        tell(pair, 0, refuses=False)
        assert pair.count(TargetAnswers, Toward.CLIENT) == 1


def test_who_has_no_conversation_there_is_not_told() -> None:
    with Pair() as pair:
        pair.up()
        tell(pair, 0, refuses=True)
        assert pair.client.role.reason == ""
        pair.say("app", b"hello")
        pair.run(0.2)
        tell(pair, 1, refuses=True)
        assert pair.client.role.reason == ""


def test_a_client_forgets_when_nothing_more_is_said() -> None:
    with Pair(client={"idle_timeout": 0.0}) as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(0.2)
        tell(pair, 0, refuses=True)
        pair.run(REFUSAL_LASTS - 2)
        assert pair.client.role.reason == REFUSES
        pair.run(4)
        assert pair.client.role.reason == ""
        assert pair.count(TargetAnswers, Toward.CLIENT) == 0, "nobody knows that"


def test_of_several_targets_it_is_said_which_and_others_are_ignored() -> None:
    with Pair(client={"targets": (0, 1)}) as pair:
        pair.up()
        pair.say((1, "app"), b"hello")
        pair.run(0.2)
        tell(pair, 1, refuses=True)
        assert pair.client.role.reason == ("the server's target 1 (counted from 0) refuses: nobody listens there")
        applications = pair.client.role.applications
        for target in range(2, 5000):
            applications.target_state(pair.now, target, refuses=True)
        assert applications.refusal.count("refuses") == 1


def test_a_client_that_does_not_know_the_message_counts_it_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_before(body: bytes) -> object:
        raise Malformed(f"control message of unknown type {body[0]}")

    with Pair() as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(0.2)
        monkeypatch.setattr(
            "rsock_nf.wire.native.frames.parse_control",
            lambda body: of_before(body) if body[0] == 13 else parse_control(body),
        )
        flows = len(pair.flows(pair.client))
        tell(pair, 0, refuses=True)
        assert pair.client.counters["malformed control messages"] == 1
        assert (pair.client.role.reason, len(pair.flows(pair.client))) == ("", flows)
