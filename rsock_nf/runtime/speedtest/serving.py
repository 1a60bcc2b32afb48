"""The server's side of a speed test: it counts what comes, and sends what it is asked for.

One test at a time, at the rate that the configuration allows, for a minute; nothing is sent half a second after the
client's last question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Final

from rsock_nf.core.types import Malformed, Run
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.protocols import Endpoint
from rsock_nf.runtime.speedtest.messages import LEAST_DATA, Ask, Data, Report, parse_message
from rsock_nf.runtime.speedtest.stream import TICK, Receiver, Sender

SILENCE: Final = 0.5
"""Seconds after the last question for which data is sent."""
LONGEST: Final = 60.0
"""Seconds of one test."""
_MOST_BYTES: Final = 1500
"""Of a datagram: what is larger would be cut."""
_GONE: Final = 2.0
"""Seconds after which another client may begin."""


class _Test:
    """The one that is served."""

    def __init__(self, peer: Hashable, number: int, now: float) -> None:
        self.peer = peer
        self.number = number
        self.began = self.asked = now
        self.sender = Sender(number, now)
        self.receiver = Receiver()
        self.rate = 0.0
        """Bytes a second."""
        self.size = 0


class SpeedServer:
    """See the module.  ``allowed``: Mbit/s."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, driver: Driver, allowed: int) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._driver = driver
        self._allowed = allowed * 1000
        """kbit/s"""
        self._peers: set[Hashable] = set()
        self._test: _Test | None = None
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, peer: Hashable) -> None:
        """The conversation of ``peer`` is for us."""
        self._peers.add(peer)

    def closed(self, peer: Hashable) -> None:
        """It has ended."""
        self._peers.discard(peer)
        if self._test is not None and self._test.peer == peer:
            self._test = None

    def has(self, peer: Hashable) -> bool:
        """Whether the conversation of ``peer`` is for us."""
        return peer in self._peers

    def take(self, runs: list[Run]) -> list[Run]:
        """Receive those of ``runs`` that are for us; the others are returned."""
        if not self._peers:
            return runs
        for run in runs:
            if run.peer in self._peers:
                self._receive(run)
        return [run for run in runs if run.peer not in self._peers]

    def close(self) -> None:
        """Nothing is sent any more."""
        self._test = None
        if self._timer is not None:
            self._timer.cancel()

    def _receive(self, run: Run) -> None:
        now, answers = self._driver.now(), []
        for datagram in run.datagrams:
            try:
                message = parse_message(datagram)
            except Malformed:
                continue
            if isinstance(message, Ask):
                answers.append(self._asked(now, run.peer, message).build())
            elif isinstance(message, Data) and self._is_served(now, run.peer, message.test) and self._test is not None:
                self._test.receiver.count(message.number, len(datagram))
        if answers:
            # Soon, not now: we are called while the endpoint's outputs are done.
            self._loop.call_soon(self._say, run.peer, answers)

    def _is_served(self, now: float, peer: Hashable, number: int) -> bool:
        test = self._test
        return test is not None and (test.peer, test.number) == (peer, number) and now - test.began < LONGEST

    def _asked(self, now: float, peer: Hashable, ask: Ask) -> Report:
        test = self._test
        another = test is None or (test.peer, test.number) != (peer, ask.test)
        if another and (test is None or test.peer == peer or now - test.asked >= _GONE):
            test = self._test = _Test(peer, ask.test, now)
        if test is None or not self._is_served(now, peer, ask.test):
            return Report(ask.test, ask.number, 0, 0, 0, self._allowed, busy=True)
        test.asked = now
        test.rate = min(ask.rate, self._allowed) * 125.0
        test.size = min(max(ask.size, LEAST_DATA), _MOST_BYTES)
        if test.rate and self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)
        came = test.receiver
        return Report(ask.test, ask.number, came.datagrams, came.expected, came.octets, self._allowed, busy=False)

    def _say(self, peer: Hashable, datagrams: list[bytes]) -> None:
        if peer in self._peers:
            self._endpoint.receive_datagrams(self._driver.now(), [Run(peer, [each], len(each)) for each in datagrams])
            self._driver.settle()

    def _tick(self) -> None:
        """Send what is due, as long as somebody asks."""
        self._timer = None
        test, now = self._test, self._driver.now()
        if test is None or not test.rate or now - test.asked >= SILENCE or now - test.began >= LONGEST:
            return
        for datagrams in test.sender.burst(now, test.rate, test.size, held=self._driver.congested):
            self._endpoint.receive_datagrams(now, [Run(test.peer, list(datagrams), test.size)])
        self._driver.settle()
        self._timer = self._loop.call_later(TICK, self._tick)
