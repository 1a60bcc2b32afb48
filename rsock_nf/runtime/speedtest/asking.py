"""The client's side of a speed test: idle round trips, then down, then up; each under load with round trips beside it.

Rates are adjusted in steps (``pace``).  A step first lets pass what is still on its way from the one before, then
counts.  What is told of a direction are the steps after the search.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import urandom
from typing import Any, Final, NamedTuple

from rsock_nf.core.parameters import SPEEDTEST_TARGET
from rsock_nf.core.types import Malformed, OwnPeer, Run
from rsock_nf.errors import ControlError
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.pings import PingQuestion, Pings
from rsock_nf.runtime.protocols import ClientEndpoint
from rsock_nf.runtime.speedtest.messages import Ask, Data, Report, parse_message
from rsock_nf.runtime.speedtest.pace import Pace
from rsock_nf.runtime.speedtest.stream import TICK, Receiver, Sender

MAX_SECONDS: Final = 25.0
"""Of each direction: two of them fit what a server serves in one test."""
_ASK_AGAIN: Final = 0.1
_NO_WORD: Final = 3.0
"""Seconds without a report after which the test is given up."""
_UNWATCHED: Final = 3.0
"""Seconds after which a test ends that nobody looks at: its command has gone."""
_IDLE_PINGS: Final = 10
_PING_AGAIN: Final = 0.2
_STEP: Final = 0.2
"""Seconds that a step counts, at least."""
_OPENING: Final = 2
"""Bytes: the first datagrams of a conversation name its target."""
NOT_ALLOWED: Final = 'the server does not allow speed tests: set "speedtest": MBITS in its file'


class _Seen(NamedTuple):
    """Counters of a stream, at its receiving end; ``at``: when they were so."""

    at: float
    datagrams: int
    expected: int
    octets: int


@dataclass(slots=True)
class Direction:
    """What is known of one direction."""

    rate: float = 0.0
    """bit/s that arrived in the last step."""
    steady: list[tuple[float, float, float]] = field(default_factory=list)
    """(seconds, bytes, share lost) of each step after the search, or of the last one if it did not end."""
    found: bool = False
    """``steady`` has steps after the search."""
    trips: list[float | None] = field(default_factory=list)
    """Milliseconds of the round trips under load; None = lost."""

    def add(self, step: tuple[float, float, float], *, searching: bool) -> None:
        """A step is over that was part of the search, or not."""
        self.rate = step[1] * 8 / step[0]
        self.steady = [*self.steady, step] if self.found else [step]
        self.found = not searching

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        seconds = math.fsum(step[0] for step in self.steady)
        octets = math.fsum(step[1] for step in self.steady)
        lost = math.fsum(step[0] * step[2] for step in self.steady)
        return {
            "bits_per_second": round(octets * 8 / seconds) if seconds else 0,
            "loss": round(lost / seconds, 4) if seconds else 0.0,
            "settled": self.found,
            "rtt_ms": [None if trip is None else round(trip, 3) for trip in self.trips],
        }


class Speedtest:
    """See the module: at most one test at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: ClientEndpoint, driver: Driver, pings: Pings) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._driver = driver
        self._pings = pings
        self._task: asyncio.Task[None] | None = None
        self._watched = 0.0
        self._peer = OwnPeer(SPEEDTEST_TARGET, 0)
        self._test = 0
        self._phase = "none"
        self._error = ""
        self._report: Report | None = None
        self._reported = 0.0
        self._receiver = Receiver()
        self._found: dict[str, Direction] = {}
        self._idle: list[float | None] = []
        self._allowed = 0
        self._size = 0

    def command(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What the control socket asks: ``do`` is begin (with ``seconds`` of each direction), look or stop."""
        self._watched = self._loop.time()
        match question.get("do"):
            case "begin":
                seconds = question.get("seconds", 5.0)
                if type(seconds) not in (int, float) or not 1 <= seconds <= MAX_SECONDS:
                    raise ControlError(f'speedtest: "seconds": 1 to {MAX_SECONDS:g}')
                self._begin(float(seconds))
            case "stop":
                self.close()
            case "look":
                pass
            case _:
                raise ControlError('speedtest: "do": begin, look or stop')
        return self._told()

    def _told(self) -> dict[str, Any]:
        return {
            "phase": self._phase,
            "error": self._error,
            "datagram_bytes": self._size,
            "allowed_bits_per_second": self._allowed * 1000,
            "idle_rtt_ms": [None if trip is None else round(trip, 3) for trip in self._idle],
            "now": {name: round(found.rate) for name, found in self._found.items()},
            "found": {name: found.as_json() for name, found in self._found.items()},
        }

    def close(self) -> None:
        """End the test."""
        if self._task is not None:
            self._task.cancel()

    # -- what comes

    def take(self, runs: list[Run]) -> list[Run]:
        """Receive those of ``runs`` that are for us, of earlier tests too; the others are returned."""
        own = [run for run in runs if isinstance(run.peer, OwnPeer)]
        if not own:
            return runs
        for run in own:
            if run.peer == self._peer:
                self._receive(run)
        return [run for run in runs if not isinstance(run.peer, OwnPeer)]

    def _receive(self, run: Run) -> None:
        for datagram in run.datagrams:
            try:
                message = parse_message(datagram)
            except Malformed:
                continue
            if isinstance(message, Report) and message.test == self._test:
                self._report, self._reported = message, self._loop.time()
                self._allowed = message.allowed
            elif isinstance(message, Data) and message.test == self._test:
                self._receiver.count(message.number, len(datagram))

    def refused(self, peer: OwnPeer) -> None:
        """The server does not serve our conversation."""
        if peer == self._peer and self._phase not in ("done", "failed"):
            self._error = NOT_ALLOWED
            self.close()

    # -- the test

    def _begin(self, seconds: float) -> None:
        if self._task is not None:
            raise ControlError("speedtest: another one is going on")
        self._peer = OwnPeer(SPEEDTEST_TARGET, self._peer.number + 1)
        self._phase, self._error, self._report, self._allowed = "begin", "", None, 0
        self._found, self._idle, self._receiver = {}, [], Receiver()
        self._reported = self._loop.time()
        self._task = self._loop.create_task(self._run(seconds))

    async def _run(self, seconds: float) -> None:
        try:
            await self._measure(seconds)
            self._phase = "done"
        except ControlError as error:
            self._phase, self._error = "failed", str(error)
        except asyncio.CancelledError:
            self._phase, self._error = "failed", self._error or "it was stopped"
        finally:
            self._task = None
            self._endpoint.role.hang_up(self._driver.now(), self._peer)
            self._driver.settle()

    async def _measure(self, seconds: float) -> None:
        self._phase = "idle"
        for turn in range(_IDLE_PINGS):
            self._idle += await self._ping(turn)
            if not self._idle:
                raise ControlError(f"no flow is up: {self._endpoint.role.reason or 'try again'}")
        self._test = int.from_bytes(urandom(4), "big")
        largest = [session.largest_datagram() for session in self._endpoint.sessions]
        self._size = min((size for size in largest if size), default=1200) - _OPENING
        await self._first_report()
        for name in ("down", "up"):
            self._phase = name
            self._found[name] = Direction()
            pinging = self._loop.create_task(self._ping_under_load(self._found[name]))
            try:
                await self._stream(name, seconds)
            finally:
                pinging.cancel()

    async def _ping(self, turn: int) -> list[float | None]:
        replies = await self._pings.ask(PingQuestion(every_flow=False, turn=turn, patience=1.0))
        return [reply["rtt_ms"] for reply in replies]

    async def _ping_under_load(self, direction: Direction) -> None:
        turn = 0
        with contextlib.suppress(ControlError):
            while True:
                await asyncio.sleep(_PING_AGAIN)
                direction.trips += await self._ping(turn)
                turn += 1

    async def _first_report(self) -> None:
        """A conversation has to be opened first."""
        end = self._loop.time() + _NO_WORD
        while self._report is None:
            self._say(Ask(self._test, 0, self._size, 0).build())
            await asyncio.sleep(_ASK_AGAIN)
            if self._loop.time() >= end:
                raise ControlError(f"the server does not answer: is its rsock-nf of this version? Or {NOT_ALLOWED}")
        if self._report.busy:
            raise ControlError("the server is testing with another client: try again")

    async def _stream(self, name: str, seconds: float) -> None:
        """Send, or have the server send, and adjust the rate, for so many seconds."""
        direction, pace = self._found[name], Pace(self._allowed * 1000.0)
        now = self._loop.time()
        end, asked = now + seconds, 0.0
        sender = Sender(self._test, self._driver.now())
        steps = _Steps(self._seen(name), self._trip())
        while (now := self._loop.time()) < end:
            if now - self._watched >= _UNWATCHED:
                raise ControlError("nobody looks at the test any more")
            if now - self._reported >= _NO_WORD:
                raise ControlError("the server does not answer any more")
            if now - asked >= _ASK_AGAIN:
                asked = now
                self._say(Ask(self._test, int(pace.rate / 1000) if name == "down" else 0, self._size, 0).build())
            if name == "up":
                self._send(sender, pace.rate / 8)
            step = steps.look(self._seen(name), self._trip())
            if step is not None:
                direction.add(step, searching=pace.searching)
                pace.measured(direction.rate, step[2])
            await asyncio.sleep(TICK)

    def _seen(self, name: str) -> _Seen:
        if name == "down":
            came = self._receiver
            return _Seen(self._loop.time(), came.datagrams, came.expected, came.octets)
        report = self._report
        return _Seen(self._reported, *(report[2:5] if report is not None else (0, 0, 0)))

    def _trip(self) -> float:
        """Seconds of a round trip, as flows know it."""
        flows = [flow for session in self._endpoint.sessions for flow in session.flows.values()]
        return max((flow.health.srtt or 0.0 for flow in flows), default=0.0)

    def _say(self, datagram: bytes) -> None:
        self._endpoint.receive_datagrams(self._driver.now(), [Run(self._peer, [datagram], len(datagram))])
        self._driver.settle()

    def _send(self, sender: Sender, rate: float) -> None:
        now = self._driver.now()
        for datagrams in sender.burst(now, rate, self._size, held=self._driver.congested):
            self._endpoint.receive_datagrams(now, [Run(self._peer, list(datagrams), self._size)])
        self._driver.settle()


class _Steps:
    """When a step begins to count, and when it ends."""

    def __init__(self, seen: _Seen, trip: float) -> None:
        self._counts_from = seen.at + trip + _ASK_AGAIN
        self._first: _Seen | None = None

    def look(self, seen: _Seen, trip: float) -> tuple[float, float, float] | None:
        """(seconds, bytes, share lost) of the step that ends now; None = none does."""
        first = self._first
        if first is None:
            self._first = seen if seen.at >= self._counts_from else None
            return None
        passed = seen.at - first.at
        if passed < max(_STEP, trip):
            return None
        octets, datagrams, expected = (seen[at] - first[at] for at in (3, 1, 2))
        self._first, self._counts_from = None, seen.at + trip + _ASK_AGAIN
        return passed, float(octets), max(1 - datagrams / expected, 0.0) if expected > 0 else 0.0
