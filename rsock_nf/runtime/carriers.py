"""The UDP carriers of one instance: their descriptors in the event loop, and what waits for a full one.

Between ``sockets.carriers`` and the driver.  It knows on which socket a burst leaves.  What is in a burst is the
endpoint's business, and what to do with received datagrams is the driver's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from rsock_nf.core.types import FlowKey, Outgoing
from rsock_nf.runtime.backlog import Backlog
from rsock_nf.runtime.unread import Unread
from rsock_nf.sockets.carriers import ClientCarrier, ServerCarrier
from rsock_nf.sockets.datagrams import DatagramCounters

MAX_WAITING = 256
"""Bursts of either sort that may wait for one socket; more are dropped."""

Carrier: TypeAlias = ClientCarrier | ServerCarrier


class Carriers:
    """The sockets of one instance.

    ``readable(carrier)`` is called when a carrier has received something, ``blocked`` when a burst begins to wait for
    a full socket, and ``free`` when none waits any more.  ``unread`` is told the descriptors.  ``known`` says which
    flows there are.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        readable: Callable[[Carrier], None],
        *,
        blocked: Callable[[], None],
        free: Callable[[], None],
        unread: Unread,
        known: Callable[[FlowKey], bool],
    ) -> None:
        self._loop = loop
        self._readable = readable
        self._blocked = blocked
        self._free = free
        self._dialled: dict[FlowKey, ClientCarrier] = {}
        self._ports: dict[tuple[bytes, int], ServerCarrier] = {}
        """By our address (all zeros: any) and port."""
        self._waiting: dict[Carrier, Backlog] = {}
        self._unread = unread
        self._known = known
        self._closed = Counter[str]()
        """What the sockets that are closed by now counted."""
        self.dropped = 0
        """Datagrams that waited for a full socket and found no room, or had no socket (any more)."""

    def __len__(self) -> int:
        return len(self._dialled) + len(self._ports)

    @property
    def waiting(self) -> bool:
        """Some socket is full."""
        return bool(self._waiting)

    def add(self, carrier: Carrier) -> None:
        """It is ours from now on, and read."""
        carrier.known = self._known
        if isinstance(carrier, ClientCarrier):
            self._dialled[carrier.key] = carrier
        else:
            self._ports[carrier.endpoint.address.packed, carrier.endpoint.port] = carrier
        self._loop.add_reader(carrier.fileno(), self._readable, carrier)
        self._unread.add(carrier.fileno())

    def drop(self, key: FlowKey) -> None:
        """Close the one of a client's flow; harmless if it is not there."""
        carrier = self._dialled.pop(key, None)
        if carrier is not None:
            self._close(carrier)

    def close(self) -> None:
        """All of them."""
        for carrier in self._all():
            self._close(carrier)
        self._dialled.clear()
        self._ports.clear()

    def _close(self, carrier: Carrier) -> None:
        self._closed.update(_counted(carrier))
        self._loop.remove_reader(carrier.fileno())
        self._unread.remove(carrier.fileno())
        waiting = self._waiting.pop(carrier, None)
        if waiting is not None:
            self._loop.remove_writer(carrier.fileno())
        carrier.close()
        if waiting is not None and not self._waiting:
            self._free()

    def _all(self) -> list[Carrier]:
        return [*self._dialled.values(), *self._ports.values()]

    # -- out

    def send(self, bursts: Iterable[Outgoing]) -> list[Outgoing]:
        """Send those that have a carrier; the others, in order."""
        others: list[Outgoing] = []
        for burst in bursts:
            if burst.carrier is None:
                others.append(burst)
                continue
            carrier = self._of(burst.carrier)
            if carrier is None:
                self.dropped += count(burst)
            elif carrier in self._waiting or not carrier.send(burst):
                self._keep(carrier, burst)
        return others

    def _of(self, key: FlowKey) -> Carrier | None:
        dialled = self._dialled.get(key)
        if dialled is not None:
            return dialled
        ports = self._ports
        return ports.get((bytes(len(key.local)), key.local_port)) or ports.get((key.local, key.local_port))

    def _keep(self, carrier: Carrier, burst: Outgoing) -> None:
        waiting = self._waiting.get(carrier)
        if waiting is None:
            if not self._waiting:
                self._blocked()
            waiting = self._waiting[carrier] = Backlog(MAX_WAITING)
            self._loop.add_writer(carrier.fileno(), self._writable, carrier)
        self.dropped += sum(map(count, waiting.keep([burst])))

    def _writable(self, carrier: Carrier) -> None:
        waiting = self._waiting[carrier]

        def send(bursts: Sequence[Outgoing]) -> int:
            return sum(1 for _ in itertools.takewhile(carrier.send, bursts))

        waiting.send(send)
        if waiting:
            return
        del self._waiting[carrier]
        self._loop.remove_writer(carrier.fileno())
        if not self._waiting:
            self._free()

    def steer(self, remote: bytes, ifindex: int) -> None:
        """A client's flows to this packed address leave by another device now; 0 = the kernel's route decides."""
        for key, carrier in self._dialled.items():
            if key.remote == remote:
                carrier.steer(ifindex)

    # -- looking

    def mtu(self) -> int:
        """The least that the routes of a client's flows take; 0 = there is none."""
        return min((mtu for carrier in self._dialled.values() if (mtu := carrier.mtu)), default=0)

    def too_big(self) -> list[tuple[FlowKey, int]]:
        """A client's flows about which ICMP has said something new: see ``ClientCarrier.too_big``."""
        return [(key, mtu) for key, carrier in self._dialled.items() if (mtu := carrier.too_big())]

    @property
    def late(self) -> int:
        """Datagrams that were dropped because they had waited too long."""
        return self._closed["late"] + sum(carrier.counters.late for carrier in self._all())

    def counters(self) -> dict[str, int]:
        """Summed over all of them, also those that are closed by now."""
        total = Counter[str]({field.name: 0 for field in dataclasses.fields(DatagramCounters)} | {"receive_drops": 0})
        total.update(self._closed)
        for carrier in self._all():
            total.update(_counted(carrier))
        return {**total, "dropped": self.dropped}


def _counted(carrier: Carrier) -> dict[str, int]:
    return {**dataclasses.asdict(carrier.counters), "receive_drops": carrier.receive_drops}


def count(burst: Outgoing) -> int:
    """Datagrams in it."""
    return -(-burst.payload_size // burst.segment_size) if burst.segment_size else 1
