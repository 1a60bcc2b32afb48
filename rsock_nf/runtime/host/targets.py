"""A server's sockets toward its targets: one for each conversation, by the conversation's peer.

A target may get another address (``use``), because its name was looked up again.  A conversation with the old address
goes on there as long as answers come; see ``astray``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rsock_nf.core.types import HostAddress, Run, TransportAddress
from rsock_nf.runtime.host.rates import ClientRate, LimitedSocket
from rsock_nf.runtime.host.refusals import Counts, Refusals, Target
from rsock_nf.sockets.datagrams import DatagramCounters, TargetSocket
from rsock_nf.sockets.source import Source

AnySocket: TypeAlias = TargetSocket | LimitedSocket

SILENT = 5.0
"""Seconds in which a conversation sends and gets no answer, until its target counts as silent."""


@dataclass(slots=True)
class Health:
    """What the socket of one conversation told at the last looks at its counters."""

    number: int
    """Of the target."""
    received: int = 0
    sent: int = 0
    """When it last received something."""
    errors: int = 0
    silent_since: float | None = None
    """Since when it sends and receives nothing."""
    refused: bool = False
    """Errors came after the last answer."""

    def look(self, now: float, counters: DatagramCounters) -> None:
        """Once a second."""
        errors = counters.refused + counters.send_errors + counters.receive_errors
        self.refused = errors > self.errors or (self.refused and counters.received == self.received)
        self.errors = errors
        if counters.received > self.received:
            self.received, self.sent, self.silent_since = counters.received, counters.sent, None
        elif counters.sent > self.sent and self.silent_since is None:
            self.silent_since = now

    def is_silent(self, now: float) -> bool:
        """Whether nothing has come for too long."""
        return self.silent_since is not None and now - self.silent_since >= SILENT


class Targets:
    """See the module."""

    def __init__(self, targets: Sequence[TransportAddress]) -> None:
        self._targets = list(targets)
        self._sockets: dict[Hashable, AnySocket] = {}
        self._health: dict[Hashable, Health] = {}
        self._left: dict[int, AnySocket] = {}
        """By descriptor: those that ``move`` has replaced."""
        self._closed = Counter[str]()
        """What the sockets that are closed by now counted, summed: the names are those of ``DatagramCounters``."""
        self._refused, self._answers = Counter[TransportAddress](), Counter[TransportAddress]()
        """Refusals and answers by target, of the sockets that are closed by now."""
        self._refusals = Refusals()

    def open(self, peer: Hashable, number: int, rate: ClientRate | None = None) -> Source:
        """Open a socket toward target ``number``.  ``rate``: of its client.  Raises ``LinkError``."""
        socket = TargetSocket(self._targets[number])
        self._health[peer] = Health(number)
        return self._limited(peer, socket, rate)

    def _limited(self, peer: Hashable, socket: TargetSocket, rate: ClientRate | None) -> Source:
        """Use ``socket`` for the conversation.  The native data path knows no rates: it must not read such a socket."""
        limited = socket if rate is None else LimitedSocket(socket, rate)
        self._sockets[peer] = limited
        counters = socket.counters if rate is None else None
        return Source(limited.fileno(), functools.partial(limited.receive, peer), counters, peer)

    def rate(self, peer: Hashable) -> ClientRate | None:
        """Of the peer's conversation; None = it has no limit."""
        socket = self._sockets[peer]
        return socket.rate if isinstance(socket, LimitedSocket) else None

    def limit(self, peer: Hashable, rate: ClientRate | None) -> Source:
        """Another rate for the peer's conversation, or none.  The event loop must not watch its socket now."""
        socket = self._sockets[peer]
        return self._limited(peer, socket.inner if isinstance(socket, LimitedSocket) else socket, rate)

    def __len__(self) -> int:
        return len(self._sockets)

    def descriptor(self, peer: Hashable) -> int | None:
        """Of the peer's socket; None = it has none (any more)."""
        socket = self._sockets.get(peer)
        return socket.fileno() if socket is not None else None

    def close(self, peer: Hashable) -> None:
        """Close the peer's socket.  The event loop must not watch it any more."""
        del self._health[peer]
        self._closed_one(self._sockets.pop(peer))

    def _closed_one(self, socket: AnySocket) -> None:
        socket.close()
        self._closed.update(dataclasses.asdict(socket.counters))
        self._refused[socket.target] += socket.counters.refused
        self._answers[socket.target] += socket.counters.received

    # -- targets that refuse

    def tick(self, now: float) -> list[tuple[int, bool]]:
        """Once a second: what clients are to be told.  See ``Refusals.due``."""
        refused = self._refused.total() + sum([socket.counters.refused for socket in self._sockets.values()])
        if self._refusals.needs_a_look(refused):
            self._refusals.look(now, self._counts())
        return self._refusals.due(now, self._targets)

    def _forget(self) -> set[TransportAddress]:
        """Drop what was counted of addresses to which nothing leads any more; those that are left: of every target, and
        those that conversations still have though their target has another one by now."""
        there = {*self._targets, *(socket.target for socket in self._sockets.values())}
        for counter in (self._refused, self._answers):
            for gone in counter.keys() - there:
                del counter[gone]
        return there

    def _counts(self) -> dict[TransportAddress, Counts]:
        """Of each of them."""
        there = self._forget()
        refused, answers = Counter(self._refused), Counter(self._answers)
        for socket in self._sockets.values():
            refused[socket.target] += socket.counters.refused
            answers[socket.target] += socket.counters.received
        return {address: Counts(refused[address], answers[address]) for address in there}

    def refusals(self) -> Sequence[Target]:
        """The targets that have refused anything, as the last ``tick`` found them."""
        return self._refusals.all()

    # -- targets whose addresses change

    def addresses(self) -> tuple[TransportAddress, ...]:
        """Of all targets, now."""
        return tuple(self._targets)

    def use(self, number: int, address: HostAddress) -> None:
        """Target ``number`` has this address now.  New conversations go there."""
        self._targets[number] = TransportAddress(address.address, self._targets[number].port, address.zone)
        self._forget()

    def replace(self, targets: Sequence[TransportAddress]) -> list[Hashable]:
        """Other targets from now on.  Returns the peers whose conversations are to ``move``, because their target has
        another address.  Conversations with a target that is there no more have ended by now."""
        self._targets = list(targets)
        self._forget()
        return [peer for peer, one in self._health.items() if self._sockets[peer].target != self._targets[one.number]]

    def look(self, now: float, number: int) -> tuple[bool, bool, bool]:
        """Once a second, for a target that has a name: whether some conversation has heard from it since the last look,
        whether some was refused, and whether some gets no answer."""
        heard = refused = silent = False
        for peer, health in self._health.items():
            if health.number != number:
                continue
            before, counters = health.received, self._sockets[peer].counters
            health.look(now, counters)
            heard |= health.received > before
            refused |= health.refused
            silent |= health.is_silent(now)
        return heard, refused, silent

    def astray(self, now: float, number: int) -> list[Hashable]:
        """The peers whose conversations with this target get no answer from an address that it no longer has."""
        return [
            peer
            for peer, health in self._health.items()
            if health.number == number
            and (health.refused or health.is_silent(now))
            and self._sockets[peer].target != self._targets[number]
        ]

    def move(self, peer: Hashable) -> tuple[int, Source]:
        """Open another socket for the conversation, to the present address of its target.

        Returns the descriptor of the old socket, which is still open and has to be given to ``drop``, and the new one.
        Raises ``LinkError``; then all is as before.
        """
        old = self._sockets[peer]
        source = self.open(peer, self._health[peer].number, self.rate(peer))
        self._left[old.fileno()] = old
        return old.fileno(), source

    def drop(self, descriptor: int) -> None:
        """Close a socket that ``move`` has replaced.  The event loop must not watch it any more."""
        self._closed_one(self._left.pop(descriptor))

    # -- all of them

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
