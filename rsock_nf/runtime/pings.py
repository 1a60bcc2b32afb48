"""Asking the other end for answers while the tunnel runs: for ``rsock-nf ping`` and ``doctor``.

A round sends one ping on one flow of each session, or on every flow, and waits for the answers.  The event loop goes on
meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from rsock_nf.core.events import PingAnswered
from rsock_nf.core.flows.session import Established
from rsock_nf.errors import ControlError
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.protocols import Endpoint

MAX_PATIENCE = 5.0
"""Seconds that a round lasts at most."""
MOST = 256
"""Pings of one round: those of one session's ``MAX_FLOWS`` flows, or of ``max_sessions`` sessions."""
_MAX_ROUNDS = 4
"""At the same time; who asks for more is refused."""
_LOOK_AGAIN = 0.02
"""Seconds from one look to the next whether the first flow is up."""
NO_NUMBERS = "wire rsock: its probes have no numbers, so answers cannot be told apart"


class PingQuestion(NamedTuple):
    """What a round is to do."""

    every_flow: bool
    turn: int
    """Without ``every_flow``: which of the flows, in their order; it may be larger than their number."""
    patience: float
    """Seconds to wait, for a flow and for the answers."""

    @classmethod
    def parse(cls, question: Mapping[str, Any]) -> Self:
        """From the keys ``flows``, ``turn`` and ``patience``.  Raises ``ControlError``."""
        every, turn, patience = question.get("flows", False), question.get("turn", 0), question.get("patience", 1.0)
        well = isinstance(every, bool) and type(turn) is int and type(patience) in (int, float)
        if not well or turn < 0 or not 0 < patience <= MAX_PATIENCE:
            raise ControlError(f'ping: "flows": true or false, "turn": 0 or more, "patience": up to {MAX_PATIENCE:g}')
        return cls(every, turn, float(patience))


class Pings:
    """See the module."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, driver: Driver) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._driver = driver
        self._waiting: dict[int, asyncio.Future[float]] = {}
        self._rounds = 0

    def answered(self, event: PingAnswered) -> None:
        """The endpoint tells of an answer."""
        waiting = self._waiting.get(event.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(event.took)

    async def ask(self, question: PingQuestion) -> list[dict[str, Any]]:
        """One round: a dictionary for each ping, in the order of the flows.  Empty = there was no flow in time.

        Raises ``ControlError`` when too many rounds are going on, or if the wire has no pings.
        """
        if self._rounds >= _MAX_ROUNDS:
            raise ControlError(f"ping: {_MAX_ROUNDS} others are pinging already")
        self._rounds += 1
        try:
            return await self._round(question)
        finally:
            self._rounds -= 1

    async def _round(self, question: PingQuestion) -> list[dict[str, Any]]:
        end = self._loop.time() + question.patience
        while not (flows := self._flows(question)) and self._loop.time() < end:  # noqa: ASYNC110 - it calls nobody
            await asyncio.sleep(_LOOK_AGAIN)
        sent = [(flow, self._endpoint.ping(self._driver.now(), flow)) for flow in flows]
        pings = [(flow, number, self._loop.create_future()) for flow, number in sent if number]
        if flows and not pings:
            raise ControlError(f"ping: {NO_NUMBERS}")
        self._waiting.update({number: future for _, number, future in pings})
        try:
            self._driver.settle()
            if pings:
                await asyncio.wait([future for *_, future in pings], timeout=max(end - self._loop.time(), 0.0))
        finally:
            for _, number, _ in pings:
                self._waiting.pop(number, None)
        return [_reply(flow, future.result() if future.done() else None) for flow, _, future in pings]

    def _flows(self, question: PingQuestion) -> list[Established]:
        """The flows that are asked in this round."""
        found: list[Established] = []
        for session in self._endpoint.sessions:
            flows = [flow for _, flow in sorted(session.flows.items()) if flow.welcome]
            found += flows if question.every_flow else flows[question.turn % len(flows) :][:1] if flows else []
        return found[:MOST]


def _reply(flow: Established, took: float | None) -> dict[str, Any]:
    return {
        "session": f"{flow.session.session_id:016x}",
        "flow": flow.flow_id,
        "type": "udp" if flow.key.udp else "tcp",
        "local": str(flow.key.local_address),
        "remote": str(flow.key.remote_address),
        "rtt_ms": None if took is None else round(took * 1000, 3),
    }
