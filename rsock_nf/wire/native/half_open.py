"""What a server keeps of hellos and joins that are answered and not confirmed: bounded, short-lived, rate-limited.

A recorded hello replays whole, so it must not buy more than an entry here.  The same message
gets the same answer, whoever sends it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from rsock_nf.core.protocols import SessionKeys
from rsock_nf.core.types import FlowKey
from rsock_nf.wire.native.opening import Offer

MAX_ENTRIES = 256
MAX_AGE = 10.0
"""Seconds."""
RATE = 20.0
"""New entries a second for one source address, in the long run."""
BURST = 40.0
"""And at once: a client with many flows joins with all of them."""
_MAX_SOURCES = 1024
MAX_SAID_BY = 8


class Said(NamedTuple):
    """Where in sequence space a hello or join was said, and where its confirmation must be; zeros on a UDP carrier."""

    isn: int
    """The client's initial sequence number."""
    seq: int
    """Of the confirmation."""
    ack: int
    """What the confirmation acknowledges: our answer."""
    answered: float | None
    """When; None = more than once, so the confirmation tells no round-trip time."""


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One hello or join that was answered."""

    session_id: int
    number: int
    """The join's; a hello's is known only from the confirmation: -1."""
    offer: Offer
    keys: SessionKeys
    challenge: bytes
    answer: bytes
    digest: bytes
    since: float
    joined: bool
    """Of an existing session."""
    said_by: dict[FlowKey, Said] = field(default_factory=dict)
    """Who said it, on TCP behind a handshake that proved the address.
    A recorded message may be said by others too; a confirmation counts only from one of these."""

    def heard_from(self, key: FlowKey, said: Said) -> None:
        """``key`` said it; the one that said it first gives way when there are too many.

        But not to a UDP carrier: its address is not proved, and copies of what a client has just said, in the names of others, must not drive
        that client out.
        """
        if key in self.said_by:
            said = said._replace(answered=None)
        elif len(self.said_by) >= MAX_SAID_BY:
            if key.udp:
                return
            del self.said_by[next(iter(self.said_by))]
        self.said_by[key] = said


class HalfOpenTable:
    """Entries by message digest and by what a confirmation names."""

    def __init__(self) -> None:
        self._by_digest: OrderedDict[bytes, HalfOpen] = OrderedDict()
        self._by_name: dict[tuple[int, int], HalfOpen] = {}
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, digest: bytes) -> HalfOpen | None:
        """The entry of this very message."""
        return self._by_digest.get(digest)

    def named(self, session_id: int, number: int) -> HalfOpen | None:
        """The entry that a confirmation means: a join by its number, else the hello that made the session id."""
        return self._by_name.get((session_id, number)) or self._by_name.get((session_id, -1))

    def allow(self, now: float, source: bytes) -> bool:
        """Take one from the source's token bucket; False = it is empty."""
        tokens, since = self._buckets.pop(source, (BURST, now))
        tokens = min(tokens + (now - since) * RATE, BURST)
        allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MAX_SOURCES:
            self._buckets.popitem(last=False)
        return allowed

    def put(self, entry: HalfOpen) -> bool:
        """Keep it; the oldest goes when there are too many.  Whether it had to."""
        self._by_digest[entry.digest] = entry
        self._by_name[entry.session_id, entry.number] = entry
        full = len(self._by_digest) > MAX_ENTRIES
        if full:
            self._remove(next(iter(self._by_digest.values())))
        return full

    def remove(self, entry: HalfOpen) -> None:
        """It was confirmed."""
        self._remove(entry)

    def expire(self, now: float) -> None:
        """Drop what is too old."""
        while self._by_digest:
            oldest = next(iter(self._by_digest.values()))
            if oldest.since + MAX_AGE > now:
                return
            self._remove(oldest)

    def _remove(self, entry: HalfOpen) -> None:
        self._by_digest.pop(entry.digest, None)
        if self._by_name.get((entry.session_id, entry.number)) is entry:
            del self._by_name[entry.session_id, entry.number]
