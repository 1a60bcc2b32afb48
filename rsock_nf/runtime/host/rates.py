"""How many bits a second a client may move, each way: a token bucket between its conversations and their targets.

It stands at the sockets toward the targets.  So the fast path knows nothing of it, and clients without a rate pay
nothing.  What is above the rate is dropped, as by a policer: the sender inside (TCP, QUIC) slows down.

Counted are the bytes of the application's datagrams.  All sessions and conversations of a client share its two buckets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from rsock_nf.core.identity import Identity
from rsock_nf.core.types import Buffer, Run, TransportAddress
from rsock_nf.sockets.datagrams import DatagramCounters, TargetSocket

BURST: Final = 0.25
"""Seconds: so much of the rate may come at once."""
LEAST_BURST: Final = 128 << 10
"""Bytes: what may come at once in any case.  One read may bring 64 datagrams."""


class Bucket:
    """Bytes that may pass.  ``rate``: bits a second."""

    def __init__(self, rate: float) -> None:
        self._since: float | None = None
        self._left = 0.0
        self.use(rate)
        self.dropped = 0
        """Datagrams that were above the rate."""

    def use(self, rate: float) -> None:
        """Another rate from now on."""
        self._rate = rate / 8
        self._most = max(self._rate * BURST, float(LEAST_BURST))

    def passing(self, now: float, datagrams: list[Buffer]) -> list[Buffer]:
        """Those that may pass, in their order."""
        since, self._since = self._since, now
        left = self._most if since is None else min(self._left + (now - since) * self._rate, self._most)
        passed = []
        for datagram in datagrams:
            size = len(datagram)
            if size <= left:
                left -= size
                passed.append(datagram)
        self._left = left
        self.dropped += len(datagrams) - len(passed)
        return passed


class ClientRate:
    """Both directions of one client."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.to_targets, self.to_client = Bucket(rate), Bucket(rate)

    def use(self, rate: float) -> None:
        """Another rate from now on."""
        self.rate = rate
        self.to_targets.use(rate)
        self.to_client.use(rate)

    @property
    def dropped(self) -> int:
        """Datagrams that were above the rate, both ways."""
        return self.to_targets.dropped + self.to_client.dropped


class Rates:
    """Those of all clients that have one."""

    def __init__(self) -> None:
        self._rates: dict[str, ClientRate] = {}
        """By the client's name.  They stay, so that who comes back has no full bucket."""

    def of(self, client: Identity) -> ClientRate | None:
        """What this client shares with its other sessions.  None = it has no limit."""
        wanted = client.limits.rate
        if wanted is None:
            return None
        rate = self._rates.get(client.name)
        if rate is None:
            rate = self._rates[client.name] = ClientRate(wanted)
        elif rate.rate != wanted:
            rate.use(wanted)
        return rate

    @property
    def dropped(self) -> int:
        """Datagrams that were above the rate of their client."""
        return sum(rate.dropped for rate in self._rates.values())


class LimitedSocket:
    """A socket toward a target, of a client that has a rate.  See ``TargetSocket`` for what it does not explain."""

    def __init__(self, inner: TargetSocket, rate: ClientRate, clock: Callable[[], float] = time.monotonic) -> None:
        self.inner = inner
        self.rate = rate
        self._clock = clock

    def send(self, runs: Sequence[Run]) -> None:
        """Send what is within the rate."""
        self.inner.send(_within(self.rate.to_targets, self._clock(), runs))

    def receive(self, peer: Hashable) -> list[Run]:
        """Of what waits, what is within the rate."""
        return _within(self.rate.to_client, self._clock(), self.inner.receive(peer))

    def fileno(self) -> int:
        """Of the socket."""
        return self.inner.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.inner.close()

    @property
    def counters(self) -> DatagramCounters:
        """Of the socket."""
        return self.inner.counters

    @property
    def target(self) -> TransportAddress:
        """Where its datagrams go."""
        return self.inner.target

    @property
    def local(self) -> TransportAddress:
        """Our end of it."""
        return self.inner.local


def _within(bucket: Bucket, now: float, runs: Sequence[Run]) -> list[Run]:
    passed = []
    for run in runs:
        datagrams = bucket.passing(now, run.datagrams)
        if datagrams:
            passed.append(run._replace(datagrams=datagrams))
    return passed
