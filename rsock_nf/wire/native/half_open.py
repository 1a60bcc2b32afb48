"""Hellos and joins that a server has answered and that are not confirmed yet: bounded, short-lived, rate-limited.

An attacker can replay a recorded hello.  So a hello gets no more than an entry here.  The same message always gets
the same answer, whoever sends it.

The rate limit is a token bucket for each source address (``allow``).  ``native.server`` applies it to hellos and joins
that it has not answered yet: in ``_first_payload`` over TCP, in ``_answer`` over UDP.
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
"""Seconds for which an entry is kept."""
RATE = 20.0
"""Tokens per second for one source address.  Each new entry takes one."""
BURST = 40.0
"""Tokens in a full bucket: a client with many flows joins with all of them at once."""
_MAX_SOURCES = 1024
MAX_SAID_BY = 8
"""Flows that one entry remembers."""


class Said(NamedTuple):
    """The sequence numbers of a hello or join, and those that we expect of its confirmation.

    All of them are 0 on a UDP carrier.
    """

    isn: int
    """The client's initial sequence number."""
    seq: int
    """The confirmation's sequence number."""
    ack: int
    """The confirmation's acknowledgement number: it acknowledges our answer."""
    answered: float | None
    """When we answered.  None = we answered several times, so the confirmation gives no round-trip time."""


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One hello or join that was answered."""

    session_id: int
    number: int
    """The number of the join.  -1 for a hello, whose number comes with the confirmation."""
    offer: Offer
    keys: SessionKeys
    challenge: bytes
    answer: bytes
    digest: bytes
    since: float
    joined: bool
    """It is a join, to an existing session."""
    said_by: dict[FlowKey, Said] = field(default_factory=dict)
    """The flows on which this message came; over TCP, a cookie has proved the address of each.  Others may send a
    recorded message too.  A confirmation counts only on one of these flows."""

    def heard_from(self, key: FlowKey, said: Said) -> None:
        """The message came on flow ``key``.  If there are too many such flows, the first one is removed.

        A UDP flow removes no other: its address is not proved.  Otherwise an attacker could send copies of a
        client's message under other addresses, and so remove that client.
        """
        if key in self.said_by:
            said = said._replace(answered=None)
        elif len(self.said_by) >= MAX_SAID_BY:
            if key.udp:
                return
            del self.said_by[next(iter(self.said_by))]
        self.said_by[key] = said


class HalfOpenTable:
    """The entries, by the digest of the message and by what a confirmation names."""

    def __init__(self) -> None:
        self._by_digest: OrderedDict[bytes, HalfOpen] = OrderedDict()
        self._by_name: dict[tuple[int, int], HalfOpen] = {}
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, digest: bytes) -> HalfOpen | None:
        """The entry of exactly this message; None = there is none."""
        return self._by_digest.get(digest)

    def named(self, session_id: int, number: int) -> HalfOpen | None:
        """The entry that a confirmation names: the join with its number, else the hello with its session id."""
        return self._by_name.get((session_id, number)) or self._by_name.get((session_id, -1))

    def allow(self, now: float, source: bytes) -> bool:
        """Take one token from the bucket of ``source``.  False = the bucket is empty."""
        tokens, since = self._buckets.pop(source, (BURST, now))
        tokens = min(tokens + (now - since) * RATE, BURST)
        allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MAX_SOURCES:
            self._buckets.popitem(last=False)
        return allowed

    def put(self, entry: HalfOpen) -> bool:
        """Add an entry.  Returns whether the oldest one was removed for it."""
        self._by_digest[entry.digest] = entry
        self._by_name[entry.session_id, entry.number] = entry
        full = len(self._by_digest) > MAX_ENTRIES
        if full:
            self._remove(next(iter(self._by_digest.values())))
        return full

    def remove(self, entry: HalfOpen) -> None:
        """``entry`` was confirmed: remove it."""
        self._remove(entry)

    def expire(self, now: float) -> None:
        """Remove the entries that are too old."""
        while self._by_digest:
            oldest = next(iter(self._by_digest.values()))
            if oldest.since + MAX_AGE > now:
                return
            self._remove(oldest)

    def _remove(self, entry: HalfOpen) -> None:
        self._by_digest.pop(entry.digest, None)
        if self._by_name.get((entry.session_id, entry.number)) is entry:
            del self._by_name[entry.session_id, entry.number]
