"""A client's sockets toward its applications: where datagrams come in, and where the answers go.

With one socket, a peer is what that socket calls it; with several, ``(number of the socket, peer)``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from rsock_nf.core.types import Run, TransportAddress
from rsock_nf.sockets.datagrams import DatagramCounters, Listener
from rsock_nf.sockets.source import Source
from rsock_nf.sockets.unix_datagrams import UnixListener


class LocalEnds:
    """All of them, open."""

    def __init__(self, listeners: Sequence[Listener | UnixListener], log: logging.Logger) -> None:
        self._listeners = tuple(listeners)
        self._log = log
        self._told = False
        """An application that cannot be answered was told of: once is enough."""

    @classmethod
    def open(
        cls, ends: Sequence[TransportAddress | Path | Listener], log: logging.Logger, stack: contextlib.ExitStack
    ) -> LocalEnds:
        """Open a socket for each of ``ends`` that is none yet; ``stack`` closes all.  Raises ``LinkError``."""
        listeners: list[Listener | UnixListener] = []
        for end in ends:
            listener = _opened(end)
            stack.callback(listener.close)
            listeners.append(listener)
        return cls(listeners, log)

    def sources(self) -> list[Source]:
        """Of each socket."""
        several = len(self._listeners) > 1
        return [
            Source(
                listener.fileno(),
                _numbered(index, listener) if several else listener.receive,
                counters=listener.counters if isinstance(listener, Listener) else None,
                number=index if several else None,
            )
            for index, listener in enumerate(self._listeners)
        ]

    def sink(self) -> Callable[[list[Run]], None]:
        """What gives datagrams to the applications."""
        return self._listeners[0].send if len(self._listeners) == 1 else self._send

    def _send(self, runs: list[Run]) -> None:
        for run in runs:
            index, peer = _split(run.peer)
            self._listeners[index].send([Run(peer, run.datagrams, run.size)])

    def describe(self, peer: Hashable) -> str:
        """An application's address, for people."""
        index, inner = _split(peer) if len(self._listeners) > 1 else (0, peer)
        return self._listeners[index].describe(inner)

    def address(self, peer: Hashable) -> TransportAddress | None:
        """An application's address; None = it is on a Unix-domain socket."""
        index, inner = _split(peer) if len(self._listeners) > 1 else (0, peer)
        listener = self._listeners[index]
        return listener.sender(inner) if isinstance(listener, Listener) else None

    @property
    def names(self) -> tuple[str, ...]:
        """What people call each socket."""
        ends = [listener.local for listener in self._listeners]
        return tuple(f"unix:{end}" if isinstance(end, Path) else str(end) for end in ends)

    def counters(self) -> list[DatagramCounters]:
        """Of each socket."""
        return [listener.counters for listener in self._listeners]

    def tick(self) -> None:
        """An application that waits for answers in vain looks like a tunnel that carries nothing: say so, once."""
        if self._told:
            return
        for listener in self._listeners:
            if listener.counters.unanswerable:
                self._told = True
                remedy = "it must bind its socket to an absolute path or an abstract name"
                self._log.warning("unix:%s: an application cannot be answered: %s", listener.local, remedy)


def _opened(end: TransportAddress | Path | Listener) -> Listener | UnixListener:
    if isinstance(end, Listener):
        return end
    return UnixListener(end) if isinstance(end, Path) else Listener(end)


def _numbered(index: int, listener: Listener | UnixListener) -> Callable[[], list[Run]]:
    def receive() -> list[Run]:
        return [Run((index, run.peer), run.datagrams, run.size) for run in listener.receive()]

    return receive


def _split(peer: Hashable) -> tuple[int, Hashable]:
    if not isinstance(peer, tuple):
        raise TypeError(f"not a peer of several listeners: {peer!r}")
    return peer[0], peer[1]
