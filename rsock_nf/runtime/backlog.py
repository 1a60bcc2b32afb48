"""Bursts that wait for a full send buffer: control before bulk.

Probes, answers, ACKs and closes are small, and somebody waits for them.  Behind bulk they would be late, and flows
would be taken for dead.  On its flow a control frame then has the higher sequence number and arrives first.  That is
what reordering on the way does, too: no frame needs another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rsock_nf.core.types import Outgoing


class Backlog:
    """Of one socket, or of the link.  ``limit``: bursts of either sort that may wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._control: list[Outgoing] = []
        self._bulk: list[Outgoing] = []

    def __bool__(self) -> bool:
        """Something waits."""
        return bool(self._control or self._bulk)

    def keep(self, bursts: Sequence[Outgoing]) -> list[Outgoing]:
        """Add ``bursts``, with their buffers copied.  Returns those that find no room."""
        refused = []
        for burst in bursts:
            queue = self._bulk if burst.bulk else self._control
            if len(queue) < self._limit:
                queue.append(burst._replace(payload=[b"".join(burst.payload)]))  # its buffers are used again
            else:
                refused.append(burst)
        return refused

    def send(self, send: Callable[[Sequence[Outgoing]], int]) -> None:
        """``send`` takes bursts, and returns how many are done.  What is not done still waits."""
        for queue in (self._control, self._bulk):
            if queue:
                del queue[: send(queue)]
            if queue:
                return

    def clear(self) -> None:
        """Nothing waits any more."""
        self._control.clear()
        self._bulk.clear()
