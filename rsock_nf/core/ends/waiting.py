"""Datagrams that wait for a first flow.  Their number, bytes and age are limited; the oldest are dropped first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rsock_nf.core.types import Run

MAX_DATAGRAMS = 512
MAX_BYTES = 1 << 20
MAX_AGE = 5.0
"""Seconds.  After this time the application has given the datagram up."""


@dataclass(slots=True)
class Waiting:
    """See the module.  Buffers are copied."""

    dropped: int = 0
    _queue: deque[tuple[float, Run]] = field(default_factory=deque)
    _datagrams: int = 0
    _bytes: int = 0

    def __len__(self) -> int:
        return self._datagrams

    def put(self, now: float, run: Run) -> None:
        """Keep ``run``.  Drop the oldest datagrams if there are too many."""
        for datagram in run.datagrams:
            kept = bytes(datagram)
            self._queue.append((now, Run(run.peer, [kept], len(kept))))
            self._datagrams += 1
            self._bytes += len(kept)
        while self._datagrams > MAX_DATAGRAMS or self._bytes > MAX_BYTES:
            self._pop()
            self.dropped += 1

    def take(self, now: float) -> list[Run]:
        """Take out every datagram that is not too old, in order."""
        self.expire(now)
        runs = [run for _, run in self._queue]
        self._queue.clear()
        self._datagrams = self._bytes = 0
        return runs

    def expire(self, now: float) -> None:
        """Drop the datagrams that are too old."""
        while self._queue and self._queue[0][0] + MAX_AGE <= now:
            self._pop()
            self.dropped += 1

    def _pop(self) -> None:
        _, run = self._queue.popleft()
        self._datagrams -= 1
        self._bytes -= run.size
