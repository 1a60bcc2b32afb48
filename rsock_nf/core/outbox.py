"""What an endpoint wants done, in the order in which it arose: bursts to send, runs to deliver, events.

The order matters.  A server's ``ConversationOpened`` comes before the first run of that conversation, and a
``Follow`` before the first burst to that address.  The driver takes everything with one ``poll`` and does it from
first to last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from rsock_nf.core.events import Event
from rsock_nf.core.types import Outgoing, Run


class Transmit(NamedTuple):
    """Send these bursts, in order."""

    bursts: list[Outgoing]


class Deliver(NamedTuple):
    """Give these runs to the applications or to the targets, in order."""

    runs: list[Run]


Output: TypeAlias = Transmit | Deliver | Event


class Outbox:
    """Outputs that wait for ``poll``.  Neighbours of the same kind are joined, so that a batch stays a batch."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: list[Output] = []

    def __len__(self) -> int:
        return len(self._items)

    def send(self, bursts: Iterable[Outgoing]) -> None:
        """Add bursts that are to leave."""
        last = self._items[-1] if self._items else None
        if isinstance(last, Transmit):
            last.bursts.extend(bursts)
        elif found := list(bursts):
            self._items.append(Transmit(found))

    def deliver(self, runs: Iterable[Run]) -> None:
        """Add runs that are to be delivered."""
        last = self._items[-1] if self._items else None
        if isinstance(last, Deliver):
            last.runs.extend(runs)
        elif found := list(runs):
            self._items.append(Deliver(found))

    def tell(self, event: Event) -> None:
        """Add an event, on which the driver must act or which it wants to know."""
        self._items.append(event)

    def take(self) -> list[Output]:
        """Everything since the last call, in order."""
        items, self._items = self._items, []
        return items
