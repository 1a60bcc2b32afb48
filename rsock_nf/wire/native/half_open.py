"""Hellos and joins that a server has answered and that are not confirmed yet: bounded, short-lived, rate-limited.

A recorded hello is genuine, so it gets an entry here, and costs a Diffie-Hellman.  Therefore only few entries are made
for hellos without a cookie (``freshness``), and they never take the place of others: when there are ``MAX_STRANGE`` of
them, a hello needs a cookie, which no recorded one has.  Hellos with a cookie, and joins, have a place of their own.
The same message always gets the same answer on the same flow.

The rate limits are token buckets (``Buckets``).  Hellos with a cookie have another bucket than those without, so that
recordings use up nothing of what a client is allowed.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rsock_nf.core.flows.allowance import Allowance
from rsock_nf.core.identity import Identity
from rsock_nf.core.protocols import SessionKeys
from rsock_nf.core.types import FlowKey
from rsock_nf.wire.native.freshness import challenge
from rsock_nf.wire.native.opening import Offer

MAX_STRANGE = 128
"""Entries of hellos without a cookie."""
MAX_FRESH = 256
"""Entries of hellos with a cookie, and of joins."""
MAX_AGE = 10.0
"""Seconds for which an entry is kept."""
SAFE_AGE = 2.0
"""Seconds for which no other entry takes its place."""
RATE = 20.0
"""Tokens per second of one bucket.  Each new entry takes one."""
BURST = 40.0
"""Tokens in a full bucket: a client with many flows joins with all of them at once."""
_MAX_SOURCES = 1024
_MAX_ANSWERED = 8
"""Flows of one entry whose round-trip time is taken."""


class Admission(enum.Enum):
    """Whether a new hello or join gets an entry."""

    ADMITTED = "admitted"
    NEEDS_COOKIE = "it needs a cookie"
    LIMITED = "too many came from there"


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One hello or join that was answered."""

    message: bytes
    """Its bytes."""
    identity: Identity
    """Who made it."""
    session_id: int
    number: int
    """The number of the join.  -1 for a hello, whose number comes with the confirmation."""
    offer: Offer
    keys: SessionKeys
    seed: bytes
    """The challenges are made from it."""
    sealed: bytes
    """The answer to a hello, without its challenge.  b"" for a join."""
    since: float
    fresh: bool
    """It is a join, or a hello with a cookie."""
    before: int = 0
    """Payload bytes that the client had sent on its flow before this message."""
    welcome: bool = True
    """False = the hello was turned away.  The entry only remembers the answer."""
    answered: dict[FlowKey, float | None] = field(default_factory=dict)
    """When it was answered on a flow.  None = several times, so the confirmation gives no round-trip time."""

    @property
    def joined(self) -> bool:
        """It is a join, to an existing session."""
        return self.number >= 0

    def challenge(self, flow: FlowKey, seq: int, ack: int) -> bytes:
        """What the confirmation with these numbers has to send back on ``flow``."""
        return challenge(self.seed, flow, seq, ack)

    def note(self, now: float, flow: FlowKey) -> None:
        """The message is answered on ``flow``."""
        if flow in self.answered:
            self.answered[flow] = None
        elif len(self.answered) < _MAX_ANSWERED:
            self.answered[flow] = now


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A hello in a genuine envelope that gets no answer: of another version, or with an MSS that is too small.

    It is remembered, because to find that out costs a Diffie-Hellman.
    """

    message: bytes
    identity: Identity
    since: float
    fresh: bool


class Buckets:
    """A token bucket for each source: ``RATE`` a second, ``BURST`` at once, and the 1,024 most recent sources."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[bytes, Allowance] = OrderedDict()

    def take(self, now: float, source: bytes) -> bool:
        """Take one token from the bucket of ``source``.  False = the bucket is empty."""
        bucket = self._buckets.pop(source, None) or Allowance(RATE, BURST)
        self._buckets[source] = bucket
        if len(self._buckets) > _MAX_SOURCES:
            self._buckets.popitem(last=False)
        return bucket.take(now)


class HalfOpenTable:
    """The entries, by the bytes of the message and by what a confirmation names."""

    def __init__(self) -> None:
        self._strange: OrderedDict[bytes, HalfOpen | Unreadable] = OrderedDict()
        self._fresh: OrderedDict[bytes, HalfOpen | Unreadable] = OrderedDict()
        self._by_name: dict[tuple[int, int], HalfOpen] = {}
        self._strange_buckets = Buckets()
        self._fresh_buckets = Buckets()

    def __len__(self) -> int:
        return len(self._strange) + len(self._fresh)

    def find(self, message: bytes) -> HalfOpen | Unreadable | None:
        """The entry of exactly this message; None = there is none."""
        return self._strange.get(message) or self._fresh.get(message)

    def named(self, session_id: int, number: int) -> HalfOpen | None:
        """The entry that a confirmation names: the join with its number, else the hello with its session id."""
        return self._by_name.get((session_id, number)) or self._by_name.get((session_id, -1))

    def admit(self, now: float, source: bytes, *, fresh: bool) -> Admission:
        """Whether a new message gets an entry.  If so, it takes a token from the bucket of ``source``.

        ``source``: of a hello, the client's name and ``source_of``; of a join, its session.
        ``fresh``: it is a join, or has a cookie.
        """
        if not fresh:
            allowed = len(self._strange) < MAX_STRANGE and self._strange_buckets.take(now, source)
            return Admission.ADMITTED if allowed else Admission.NEEDS_COOKIE
        room = len(self._fresh) < MAX_FRESH or next(iter(self._fresh.values())).since + SAFE_AGE <= now
        return Admission.ADMITTED if room and self._fresh_buckets.take(now, source) else Admission.LIMITED

    def put(self, entry: HalfOpen | Unreadable) -> bool:
        """Add an entry that was admitted.  Returns whether the oldest one was removed for it."""
        (self._fresh if entry.fresh else self._strange)[entry.message] = entry
        if isinstance(entry, HalfOpen) and entry.welcome:
            self._by_name[entry.session_id, entry.number] = entry
        full = len(self._fresh) > MAX_FRESH
        if full:
            self.remove(next(iter(self._fresh.values())))
        return full

    def remove(self, entry: HalfOpen | Unreadable) -> None:
        """Remove ``entry``: it was confirmed, is too old, or makes room."""
        (self._fresh if entry.fresh else self._strange).pop(entry.message, None)
        if isinstance(entry, HalfOpen) and self._by_name.get((entry.session_id, entry.number)) is entry:
            del self._by_name[entry.session_id, entry.number]

    def keep(self, valid: Callable[[Identity], bool]) -> None:
        """Remove the entries of everybody else."""
        for entries in (self._strange, self._fresh):
            for entry in list(entries.values()):
                if not valid(entry.identity):
                    self.remove(entry)

    def expire(self, now: float) -> None:
        """Remove the entries that are too old."""
        for entries in (self._strange, self._fresh):
            while entries:
                oldest = next(iter(entries.values()))
                if oldest.since + MAX_AGE > now:
                    break
                self.remove(oldest)


def source_of(flow: FlowKey) -> bytes:
    """Whose bucket counts: the remote IPv4 address, or the /64 network of an IPv6 address, which one host may fill."""
    return flow.remote if len(flow.remote) == 4 else flow.remote[:8]
