"""A server's sockets toward its targets: one for each conversation, by the conversation's peer."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from rsock_nf.core.types import Run, TransportAddress
from rsock_nf.sockets.datagrams import DatagramCounters, TargetSocket


class Targets:
    """See the module."""

    def __init__(self, targets: Sequence[TransportAddress]) -> None:
        self._targets = tuple(targets)
        self._sockets: dict[Hashable, TargetSocket] = {}
        self._closed = Counter[str]()
        """What the sockets that are closed by now counted, summed: the names are those of ``DatagramCounters``."""
        self._refused = Counter[str]()
        """Refusals by target, of the sockets that are closed by now."""

    def open(self, peer: Hashable, number: int) -> tuple[int, Callable[[], list[Run]]]:
        """Open a socket toward target ``number``.

        Returns its descriptor, and what reads a batch there.  Raises ``LinkError``.
        """
        socket = TargetSocket(self._targets[number])
        self._sockets[peer] = socket
        return socket.fileno(), functools.partial(socket.receive, peer)

    def descriptor(self, peer: Hashable) -> int | None:
        """Of the peer's socket; None = it has none (any more)."""
        socket = self._sockets.get(peer)
        return socket.fileno() if socket is not None else None

    def close(self, peer: Hashable) -> None:
        """Close the peer's socket.  The event loop must not watch it any more."""
        socket = self._sockets.pop(peer)
        socket.close()
        self._closed.update(dataclasses.asdict(socket.counters))
        if socket.counters.refused:
            self._refused[str(socket.target)] += socket.counters.refused

    def close_all(self) -> None:
        """Close every socket."""
        for peer in list(self._sockets):
            self.close(peer)

    def send(self, runs: list[Run]) -> None:
        """Give datagrams to the targets; those of a conversation that has no socket are dropped."""
        sockets = self._sockets
        for run in runs:
            socket = sockets.get(run.peer)
            if socket is not None:
                socket.send([run])

    def describe(self, peer: Hashable) -> str:
        """Our end of a conversation, for people."""
        socket = self._sockets.get(peer)
        return f"{socket.local} → {socket.target}" if socket else "closed"

    def counters(self) -> list[DatagramCounters]:
        """Of each open socket, and the sum of those that are closed."""
        return [DatagramCounters(**self._closed), *(socket.counters for socket in self._sockets.values())]

    def refusals(self) -> dict[str, int]:
        """How often each target said that nobody listens there, since the start; only those that did."""
        found = Counter(self._refused)
        for socket in self._sockets.values():
            if socket.counters.refused:
                found[str(socket.target)] += socket.counters.refused
        return dict(found)
