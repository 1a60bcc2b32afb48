"""An application and its target for the laboratory.  The content of every datagram follows from its number.

It is plain Python over plain sockets, so that everyone who has installed the wheel can run the demo.  It checks what
arrives; it cannot make tens of thousands of datagrams a second, as a load generator would.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rsock_nf.lab.lab import Lab
from rsock_nf.lab.tunnel import LISTEN, TARGET

SMALLEST = 4
"""Bytes: the number alone."""
_ROOM = 65536
_BUFFER = 4 << 20
_PATIENCE = 0.25
"""Seconds without any answer after which all datagrams that are not answered count as lost."""


def content(number: int, size: int) -> bytes:
    """The datagram of this number and size: the number, then bytes that only it has."""
    return number.to_bytes(SMALLEST) + hashlib.shake_128(number.to_bytes(SMALLEST)).digest(size - SMALLEST)


def genuine(data: bytes) -> int | None:
    """Its number if the content is what ``content`` makes; None = corrupted."""
    if len(data) < SMALLEST:
        return None
    number = int.from_bytes(data[:SMALLEST])
    return number if data == content(number, len(data)) else None


def mixed_sizes(seed: int, largest: int = 1400) -> Iterator[int]:
    """An endless series of sizes: runs of 1 to 40 datagrams of equal size, as bulk transfers make them, and single
    ones."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    while True:
        size = rng.choice((rng.randint(SMALLEST, largest), largest, 1200))
        yield from [size] * rng.choice((1, 1, rng.randint(2, 40)))


class EchoTarget:
    """``with EchoTarget(lab) as target:`` verifies and returns datagrams on the server's host."""

    def __init__(self, lab: Lab, address: tuple[str, int] = TARGET) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.seen: set[int] = set()
        self.duplicates = 0
        self.corrupted = 0
        self.peers: set[tuple[str, int]] = set()
        """Source addresses seen: one for each conversation."""
        self._socket = lab.server.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind(address)
        self._wake, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="echo target")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._thread.join()
        self._wake.close()
        self._socket.close()

    def _serve(self) -> None:
        while self._wake not in select.select([self._socket, self._wake], [], [])[0]:
            try:
                data, peer = self._socket.recvfrom(_ROOM)
                self._judge(data)
                self.peers.add(peer[:2])
                self._socket.sendto(data, peer)
            except OSError:  # an ICMP error about an answer: the peer has gone
                continue

    def _judge(self, data: bytes) -> None:
        number = genuine(data)
        if number is None:
            self.corrupted += 1
        elif number in self.seen:
            self.duplicates += 1
        else:
            self.seen.add(number)


@dataclass(slots=True)
class Exchange:
    """What the application saw of its datagrams and their echoes."""

    first: int = 0
    """The number of its first datagram.  One of before that comes late counts as nothing here."""
    sent: int = 0
    returned: int = 0
    """Distinct datagrams that came back unharmed."""
    duplicates: int = 0
    corrupted: int = 0
    payload: int = 0
    """Bytes that came back."""
    seconds: float = 0.0
    round_trips: list[float] = field(default_factory=list)
    """Seconds each, where only one datagram is under way at a time."""

    @property
    def lost(self) -> int:
        """Datagrams that did not come back."""
        return self.sent - self.returned


class Application:
    """A UDP socket on the client's host; ``address`` is where the tunnel listens, or the target itself."""

    def __init__(self, lab: Lab, address: tuple[str, int] = LISTEN) -> None:
        self._socket = lab.client.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.setblocking(False)
        self._socket.connect(address)
        self._number = 0
        self._answered: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ping(self, count: int, size: int = 100) -> Exchange:
        """One at a time, each sent when the one before came back or was given up."""
        found = Exchange()
        for _ in range(count):
            pending: set[int] = set()
            started = time.perf_counter()
            self._send(size, pending, found)
            if self._await_any(pending, found, _PATIENCE):
                found.round_trips.append(time.perf_counter() - started)
        found.seconds = sum(found.round_trips)
        return found

    def exchange(self, count: int, *, window: int = 256, sizes: Iterator[int] | None = None) -> Exchange:
        """``count`` datagrams with at most ``window`` unanswered.  Ends when all came back, or nothing comes any
        more."""
        return self._run(window, sizes, lambda found: found.sent < count)

    def exchange_for(self, seconds: float, *, window: int = 256, sizes: Iterator[int] | None = None) -> Exchange:
        """The same for a time."""
        end = time.perf_counter() + seconds
        return self._run(window, sizes, lambda _found: time.perf_counter() < end)

    def exchange_evenly(self, count: int, rate: float, *, size: int = 500) -> Exchange:
        """``count`` datagrams, ``rate`` a second, whatever comes back."""
        found, pending, started = Exchange(first=self._number), set[int](), time.perf_counter()
        for at in range(count):
            self._send(size, pending, found)
            while (left := started + (at + 1) / rate - time.perf_counter()) > 0:
                select.select([self._socket], [], [], left)
                self._collect(pending, found)
        while pending and self._await_any(pending, found, 2 * _PATIENCE):
            pass
        found.seconds = time.perf_counter() - started
        return found

    def _run(self, window: int, sizes: Iterator[int] | None, more: Callable[[Exchange], bool]) -> Exchange:
        sizes = sizes or mixed_sizes(1)
        found, pending, started = Exchange(first=self._number), set[int](), time.perf_counter()
        while more(found):
            while len(pending) < window and more(found):
                self._send(next(sizes), pending, found)
                self._collect(pending, found)
            if not self._await_any(pending, found, _PATIENCE):
                pending.clear()
        last = time.perf_counter()
        while pending and self._await_any(pending, found, _PATIENCE):
            last = time.perf_counter()
        found.seconds = last - started
        return found

    def _send(self, size: int, pending: set[int], found: Exchange) -> None:
        # Full, or nobody listens (an ICMP error about the one before): lost, like any other.
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self._socket.send(content(self._number, size))
        pending.add(self._number)
        self._number += 1
        found.sent += 1

    def _await_any(self, pending: set[int], found: Exchange, patience: float) -> bool:
        """Wait for something that was pending to come back; False = nothing did."""
        end = time.perf_counter() + patience
        while (left := end - time.perf_counter()) > 0:
            select.select([self._socket], [], [], left)
            if self._collect(pending, found):
                return True
        return False

    def _collect(self, pending: set[int], found: Exchange) -> int:
        """Take what waits; how many of the pending ones it was."""
        answered = 0
        while True:
            try:
                data = self._socket.recv(_ROOM)
            except BlockingIOError:
                return answered
            except ConnectionRefusedError:
                continue
            number = genuine(data)
            if number is None or number >= self._number:
                found.corrupted += 1
            elif number in self._answered:
                found.duplicates += 1
            else:
                self._answered.add(number)
                answered += number in pending
                pending.discard(number)
                if number >= found.first:
                    found.returned += 1
                    found.payload += len(data)
