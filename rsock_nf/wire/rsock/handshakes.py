"""Complete TCP handshakes of connections that have carried nothing yet.

They are limited in number, in all and for each source address.  On this wire a flow begins with a datagram.  If the
client's kernel made the TCP handshake, its ACK proves the address (it brings the cookie back), but the first
datagram may come much later.  So the TCP handshake is kept until then.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from rsock_nf.core.types import FlowKey

MAX_ENTRIES = 4096
MAX_OF_ONE_SOURCE = 256
MAX_AGE = 600.0
"""Seconds.  An original waits equally long for the first use of a connection."""


class Complete(NamedTuple):
    """One complete TCP handshake."""

    client_isn: int
    server_isn: int
    mss: int
    """The MSS of the SYN, rounded down; at most ours."""
    scale: int | None
    """The window scale of both sides.  None = the SYN had no such option."""
    since: float


class CompleteHandshakes:
    """See the module."""

    def __init__(self) -> None:
        self._entries: OrderedDict[FlowKey, Complete] = OrderedDict()
        self._of_source: dict[bytes, OrderedDict[FlowKey, None]] = {}
        """The keys of each source address, the oldest first: a source with many must not cost a search each time."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: FlowKey) -> Complete | None:
        """The TCP handshake of these addresses and ports; None = there is none."""
        return self._entries.get(key)

    def put(self, now: float, key: FlowKey, entry: Complete) -> None:
        """Add one.  Remove what is too old.

        If this source address has too many, its oldest one is removed; if there are too many in all, the oldest of
        all.
        """
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
        """Return one and remove it; None = there is none."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            own = self._of_source[key.remote]
            del own[key]
            if not own:
                del self._of_source[key.remote]
        return entry
