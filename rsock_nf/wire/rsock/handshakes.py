"""TCP handshakes that are complete and have carried nothing yet: bounded, in all and for each source address.

A wire whose flows begin with a datagram needs it where the client's kernel made the handshake: its ACK proves the address
(it brings the cookie back), and may be long past when the first datagram comes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from rsock_nf.core.types import FlowKey

MAX_ENTRIES = 4096
MAX_OF_ONE_SOURCE = 256
MAX_AGE = 600.0
"""Seconds: an original waits as long for a connection's first use."""


class Complete(NamedTuple):
    """What is known of one handshake."""

    client_isn: int
    server_isn: int
    mss: int
    """What the SYN offered, rounded down; or ours, if that is less."""
    scale: int | None
    """The window scale of either side; None = the SYN had none."""
    since: float


class CompleteHandshakes:
    """See the module."""

    def __init__(self) -> None:
        self._entries: OrderedDict[FlowKey, Complete] = OrderedDict()
        self._of_source: dict[bytes, OrderedDict[FlowKey, None]] = {}
        """The keys of each source address, the oldest first: one that is greedy must not cost a search each time."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: FlowKey) -> Complete | None:
        """The handshake of these addresses and ports."""
        return self._entries.get(key)

    def put(self, now: float, key: FlowKey, entry: Complete) -> None:
        """Keep it; what is too old goes, and the oldest (of this source) where there are too many."""
        self.take(key)
        while self._entries and next(iter(self._entries.values())).since + MAX_AGE <= now:
            self.take(next(iter(self._entries)))
        own = self._of_source.get(key.remote, ())
        if len(own) >= MAX_OF_ONE_SOURCE:
            self.take(next(iter(own)))
        elif len(self._entries) >= MAX_ENTRIES:
            self.take(next(iter(self._entries)))
        self._entries[key] = entry
        self._of_source.setdefault(key.remote, OrderedDict())[key] = None

    def take(self, key: FlowKey) -> Complete | None:
        """Get it, and forget it."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            own = self._of_source[key.remote]
            del own[key]
            if not own:
                del self._of_source[key.remote]
        return entry
