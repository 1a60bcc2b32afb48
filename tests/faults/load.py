"""A steady load in both directions, of which every datagram is accounted for.

Each datagram says who sent it, on which conversation, with which number and when, and carries a hash of all of it.
So the receiver knows what was lost, flipped, doubled, or given to the wrong conversation, and how old it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rsock_nf.lab.lab import Lab
from rsock_nf.lab.tunnel import LISTEN, TARGET

WINDOW = 0.1
"""Seconds.  What was sent is judged in windows of this length."""
_HEADER = struct.Struct("!cBId")
"""Direction, conversation, number, time of sending (monotonic clock)."""
_HASH = 8
_SMALLEST = _HEADER.size + _HASH
_BUFFER = 4 << 20
SO_RCVBUFFORCE = 33
"""Of Linux: more than net.core.rmem_max.  What overflowed here would count as lost in the tunnel."""
_STOOD_STILL = 1.0
"""Seconds."""
_PADDING = random.Random(7).randbytes(2048)


def datagram(direction: bytes, conversation: int, number: int, now: float, size: int) -> bytes:
    """One of ``size`` bytes, at least 22."""
    at = number % 512
    body = _HEADER.pack(direction, conversation, number, now) + _PADDING[at : at + size - _SMALLEST]
    return body + hashlib.blake2b(body, digest_size=_HASH).digest()


def genuine(data: bytes) -> tuple[bytes, int, int, float] | None:
    """What a datagram says; None = it is not as it was sent."""
    if len(data) < _SMALLEST or hashlib.blake2b(data[:-_HASH], digest_size=_HASH).digest() != data[-_HASH:]:
        return None
    direction, conversation, number, sent = _HEADER.unpack_from(data)
    return direction, conversation, number, sent


@dataclass(slots=True)
class Window:
    """What was sent in one tenth of a second, and how much of it arrived."""

    sent: int = 0
    arrived: int = 0

    @property
    def is_out(self) -> bool:
        """More than half was lost."""
        return self.arrived * 2 < self.sent


@dataclass(slots=True)
class Direction:
    """What became of the datagrams of one direction."""

    sent: int = 0
    arrived: int = 0
    doubled: int = 0
    corrupted: int = 0
    misdelivered: int = 0
    windows: dict[int, Window] = field(default_factory=dict)
    delays: list[tuple[float, float]] = field(default_factory=list)
    """(Time of sending, seconds under way) of each that arrived."""
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def window(self, when: float) -> Window:
        """The window of this time of sending."""
        return self.windows.setdefault(int(when / WINDOW), Window())

    def take(self, data: bytes, direction: bytes, conversation: int | None) -> int | None:
        """Judge what arrived.  ``conversation``: where it arrived, if that is known.  Returns its own if it is
        genuine."""
        found = genuine(data)
        if found is None or found[0] != direction:
            self.corrupted += 1
            return None
        _, named, number, sent = found
        if conversation is not None and named != conversation:
            self.misdelivered += 1
        elif (named, number) in self._seen:
            self.doubled += 1
        else:
            self._seen.add((named, number))
            self.arrived += 1
            self.window(sent).arrived += 1
            self.delays.append((sent, time.monotonic() - sent))
        return named

    def between(self, start: float, end: float) -> list[tuple[float, Window]]:
        """(Begin, window) of each window that begins between two times."""
        whole = [(at * WINDOW, window) for at, window in sorted(self.windows.items())]
        return [(at, window) for at, window in whole if start <= at < end]


class Load:
    """``with Load(lab, rate=300) as load:`` runs until it is left.  ``rate``: datagrams a second, each way.

    ``most``: so many are sent, both ways together; then it only listens.  0 = without end.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        rate: float = 300,
        conversations: int = 6,
        most: int = 0,
        sizes: tuple[int, int] = (200, 1200),
        listen: tuple[str, int] = LISTEN,
        target: tuple[str, int] = TARGET,
    ) -> None:
        self.up = Direction()
        self.down = Direction()
        self._rate = rate
        self._most = most
        self._sizes = sizes
        self._random = random.Random(3)
        self._applications = [self._socket(lab, listen) for _ in range(conversations)]
        self._target = lab.server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._target.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER)
        self._target.bind(target)
        self._target.setblocking(False)
        self._peers: dict[int, tuple[str, int]] = {}
        """By conversation: the address that it has at the target."""
        self._of_peer: dict[tuple[str, int], int] = {}
        self._numbers: Counter[tuple[bytes, int]] = Counter()
        self._wake, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="load")

    @staticmethod
    def _socket(lab: Lab, listen: tuple[str, int]) -> socket.socket:
        made = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER)
        made.setblocking(False)
        made.connect(listen)
        return made

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._thread.join()
        for one in (self._wake, self._target, *self._applications):
            one.close()

    def directions(self) -> tuple[Direction, Direction]:
        """(Client to server, server to client)."""
        return self.up, self.down

    @property
    def is_heard(self) -> bool:
        """Every conversation has reached the target, and something of each has come back."""
        return len(self._peers) == len(self._applications) and self.down.arrived >= len(self._applications)

    @property
    def is_sent(self) -> bool:
        """All that there was to send."""
        return 0 < self._most <= self.up.sent + self.down.sent

    def _run(self) -> None:
        sockets = [self._target, *self._applications, self._wake]
        began = time.monotonic()
        turn = 0
        while True:
            due = began + turn / self._rate
            patience = None if self.is_sent else max(due - time.monotonic(), 0.0)
            ready = select.select(sockets, [], [], patience)[0]
            if self._wake in ready:
                return
            self._collect(ready)
            now = time.monotonic()
            if now - due > _STOOD_STILL:  # this process was stopped: it does not send at once what it has missed
                began += now - due
            while began + turn / self._rate <= now and not self.is_sent:
                self._send(turn % len(self._applications))
                turn += 1

    def _send(self, conversation: int) -> None:
        """One datagram each way."""
        # Nobody listens (an ICMP error about an earlier one), or the queue is full: lost, like any other.
        with contextlib.suppress(OSError):
            self._applications[conversation].send(self._next(b"u", conversation, self.up))
        peer = self._peers.get(conversation)
        if peer is not None and not self.is_sent:
            with contextlib.suppress(OSError):
                self._target.sendto(self._next(b"d", conversation, self.down), peer)

    def _next(self, way: bytes, conversation: int, direction: Direction) -> bytes:
        self._numbers[way, conversation] += 1
        now = time.monotonic()
        direction.sent += 1
        direction.window(now).sent += 1
        size = self._random.randint(*self._sizes)
        return datagram(way, conversation, self._numbers[way, conversation], now, size)

    def _collect(self, ready: Iterable[socket.socket]) -> None:
        for one in ready:
            with contextlib.suppress(OSError):  # nothing more, or an ICMP error
                while True:
                    data, peer = one.recvfrom(65536)
                    if one is self._target:
                        self._at_target(data, peer)
                    else:
                        self.down.take(data, b"d", self._applications.index(one))

    def _at_target(self, data: bytes, peer: tuple[str, int]) -> None:
        known = self._of_peer.get(peer)
        if known is not None and self._peers.get(known) != peer:
            known = None  # the conversation has another address now, and this one may be another's
        named = self.up.take(data, b"u", known)
        if named is not None and known is None:
            self._peers[named] = peer
            self._of_peer[peer] = named


def out(windows: Iterable[tuple[float, Window]]) -> float:
    """Seconds for which more than half was lost."""
    return WINDOW * sum(window.is_out for _, window in windows)


def delays_of(direction: Direction, start: float, end: float) -> list[float]:
    """Sorted seconds under way of what was sent between two times and arrived."""
    return sorted(delay for sent, delay in direction.delays if start <= sent < end)


__all__ = ["Direction", "Load", "Window", "datagram", "delays_of", "genuine", "out"]
