"""Rounds of pings that an operator waits for, beside an event loop that goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rsock_nf.core.events import PingAnswered
from rsock_nf.core.types import FlowKey
from rsock_nf.errors import ControlError
from rsock_nf.runtime.pings import MAX_PATIENCE, NO_NUMBERS, PingQuestion, Pings

SOON = 0.05
"""Seconds of patience where no answer is to come."""


def flow(session: Any, number: int, *, welcome: bool = True, udp: bool = False) -> Any:
    key = FlowKey(bytes((10, 0, 0, 1)), 40_000 + number, bytes((10, 0, 0, 2)), 10_000 + number, udp)
    made = SimpleNamespace(flow_id=number, key=key, welcome=welcome, session=session)
    session.flows[number] = made
    return made


class Endpoint:
    """Answers at once those of ``answered``, in the next round of the event loop."""

    def __init__(self, *, answered: tuple[int, ...] = (), numbered: bool = True) -> None:
        self.sessions: list[Any] = []
        self.asked: list[int] = []
        self.settled = 0
        self._answered = answered
        self._numbered = numbered
        self.pings: Pings

    def session(self, *numbers: int) -> Any:
        made = SimpleNamespace(session_id=0xABC + len(self.sessions), flows={})
        for number in numbers:
            flow(made, number)
        self.sessions.append(made)
        return made

    def ping(self, now: float, asked: Any) -> int:
        del now
        self.asked.append(asked.flow_id)
        if asked.flow_id in self._answered:
            event = PingAnswered(1000 + asked.flow_id, 0.0125)
            asyncio.get_running_loop().call_soon(self.pings.answered, event)
        return 1000 + asked.flow_id if self._numbered else 0

    def settle(self) -> None:
        self.settled += 1


def ask(endpoint: Endpoint, *questions: dict[str, Any]) -> list[list[dict[str, Any]]]:
    async def run() -> list[list[dict[str, Any]]]:
        driver = SimpleNamespace(now=lambda: 5.0, settle=endpoint.settle)
        endpoint.pings = Pings(asyncio.get_running_loop(), cast("Any", endpoint), cast("Any", driver))
        return [await endpoint.pings.ask(PingQuestion.parse(question)) for question in questions]

    return asyncio.run(run())


def test_one_flow_after_the_other_has_its_turn() -> None:
    endpoint = Endpoint(answered=(1, 2, 7))
    endpoint.session(7, 1, 2)
    rounds = ask(endpoint, *({"turn": turn} for turn in range(5)))
    assert endpoint.asked == [1, 2, 7, 1, 2]
    assert endpoint.settled == 5
    assert rounds[2] == [
        {
            "session": "0000000000000abc",
            "flow": 7,
            "type": "tcp",
            "local": "10.0.0.1:40007",
            "remote": "10.0.0.2:10007",
            "rtt_ms": 12.5,
        }
    ]


def test_a_server_asks_each_client_and_who_is_silent_has_no_time() -> None:
    endpoint = Endpoint(answered=(1,))
    endpoint.session(1)
    endpoint.session(2)
    ((first, second),) = ask(endpoint, {"patience": SOON})
    assert (first["rtt_ms"], second["rtt_ms"]) == (12.5, None)
    assert first["session"] != second["session"]


def test_every_flow_but_those_that_go() -> None:
    endpoint = Endpoint(answered=(1, 3))
    flow(endpoint.session(1, 3), 2, welcome=False)
    (found,) = ask(endpoint, {"flows": True})
    assert [reply["flow"] for reply in found] == [1, 3]


def test_without_a_flow_the_round_waits_and_then_says_so() -> None:
    assert ask(Endpoint(), {"patience": SOON}) == [[]]


def test_a_wire_whose_probes_have_no_numbers() -> None:
    endpoint = Endpoint(numbered=False)
    endpoint.session(1)
    with pytest.raises(ControlError, match=NO_NUMBERS):
        ask(endpoint, {})


@pytest.mark.parametrize(
    "question",
    [
        {"flows": 1},
        {"turn": -1},
        {"turn": True},
        {"turn": 1.5},
        {"patience": 0},
        {"patience": MAX_PATIENCE + 1},
        {"patience": "1"},
    ],
)
def test_a_question_that_makes_no_sense(question: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match="ping: "):
        PingQuestion.parse(question)


def test_who_asks_too_often_at_a_time_is_refused() -> None:
    async def run() -> int:
        endpoint = Endpoint()
        driver = SimpleNamespace(now=lambda: 5.0, settle=endpoint.settle)
        pings = Pings(asyncio.get_running_loop(), cast("Any", endpoint), cast("Any", driver))
        rounds = [pings.ask(PingQuestion(every_flow=False, turn=0, patience=SOON)) for _ in range(6)]
        found = await asyncio.gather(*rounds, return_exceptions=True)
        return sum(isinstance(one, ControlError) for one in found)

    assert asyncio.run(run()) == 2
