"""The data path of a running instance: between link, carriers and sockets on one side and the endpoint on the other.

1. A packet comes in: ``_link_readable`` → ``endpoint.receive_packets`` → ``drain``.  Over UDP: ``_carrier_readable`` →
   ``endpoint.receive_carried`` → ``drain``.
2. A datagram comes in from an application or a target: ``_source_readable`` → ``endpoint.receive_datagrams`` →
   ``drain``.
3. ``drain`` does what ``endpoint.poll`` gives, in its order: ``_transmit`` sends bursts, ``deliver`` gives datagrams
   to the owner's sockets, ``handle`` gives events to the owner.
4. ``_arm_timer`` then sets the one timer of the endpoint.  ``settle`` is 3 and 4.
5. When the timer is due, what has arrived is read first (``_timeout``): an answer that waits in a buffer is no missing
   answer.

When the send buffer of the link or of a carrier is full, the rest waits in a ``Backlog``, and the sources (the sockets
of the application or toward targets) are not read until it has left.  So overload shows in the buffers of those
sockets.

Not here: which sockets there are, and what an event asks for (``client``, ``server``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from rsock_nf.core.events import Event
from rsock_nf.core.outbox import Deliver, Transmit
from rsock_nf.core.types import FlowKey, Outgoing, Run
from rsock_nf.link import Link
from rsock_nf.link.waiting_time import BEHIND, LATE
from rsock_nf.native.path import HotPath
from rsock_nf.runtime.backlog import Backlog
from rsock_nf.runtime.carriers import Carrier, Carriers
from rsock_nf.runtime.protocols import Endpoint
from rsock_nf.runtime.unread import Unread
from rsock_nf.sockets.carriers import ClientCarrier
from rsock_nf.sockets.source import Source

BATCH = 64
"""Packets or datagrams of one read."""
STRANGERS = 8
"""SYNs of one read, where they have a queue of their own.  They take about 0.2 ms."""
ROUNDS = 8
"""Reads of one UDP socket before the others get their turn."""
UNREAD_FIRST = 0.25
"""Seconds for which a timer waits at most until everything that has arrived is read.  A little more than
``link.waiting_time.LATE``: what arrived before the timer was due is read by then, or dropped."""
MAX_BACKLOG = 1024
"""Bursts of either sort that may wait for the link; more are dropped."""


class Driver:
    """See the module."""

    def __init__(  # noqa: PLR0913 - what it drives, and who gets what
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        *,
        deliver: Callable[[list[Run]], None],
        handle: Callable[[Event], None],
        carrier_refused: Callable[[FlowKey], None],
        has_carriers: bool,
        hot: HotPath | None = None,
    ) -> None:
        """``deliver`` and ``handle``: what the owner does with datagrams and with events.

        ``carrier_refused`` is called when ICMP says that the server's port behind a client's carrier is closed.
        ``has_carriers``: flows may go over UDP.  ``hot``: the native data path; None = all is done here.
        """
        self._loop = loop
        self._endpoint = endpoint
        self._deliver = deliver
        self._handle = handle
        self._carrier_refused = carrier_refused
        self._has_carriers = has_carriers
        self._unread = Unread()
        """The link and the carriers."""
        self.carriers = Carriers(
            loop,
            self._carrier_readable,
            blocked=self._stop_reading,
            free=self._let_go,
            unread=self._unread,
            known=endpoint.knows_carrier,
            hot=hot,
        )
        self.hot = hot
        if hot is not None:
            loop.add_reader(hot.bell, self._take_left)
        self._link: Link | None = None
        self._full = -1
        """The descriptor of the link that is waited for; -1 = none."""
        self._backlog = Backlog(MAX_BACKLOG)
        self._sources: dict[int, Callable[[], list[Run]]] = {}
        """By descriptor: what reads a batch of datagrams there.  Not those that the native path reads."""
        self._paused = True
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._behind_at = -LATE
        """When packets or carriers' datagrams were last read that had waited.  For a moment after it, each source is
        read once in its turn: what has arrived comes before what is to leave."""
        self._unread_since: float | None = None
        """Since when a timer waits until everything is read."""
        self.backlog_dropped = 0
        """Bursts that found no room while the link was full."""

    @staticmethod
    def now() -> float:
        """The endpoint's time, in seconds."""
        return time.monotonic()

    # -- in: packets

    def use_link(self, link: Link, read_events: Callable[[], None]) -> None:
        """Receive from this link and send on it; ``read_events`` is called when it has events."""
        self._link = link
        link.serve_first(self._endpoint.knows)
        if self.hot is None or not self.hot.take_link(link):
            self._loop.add_reader(link.fileno(), self._link_readable)
        self._unread.add(link.fileno())
        if link.strangers_fileno() >= 0:
            self._loop.add_reader(link.strangers_fileno(), self._strangers_readable)
        if link.event_fileno() >= 0:
            self._loop.add_reader(link.event_fileno(), read_events)

    def drop_link(self) -> None:
        """The link is about to be closed.  What waits for it is dropped."""
        link, self._link = self._link, None
        if self.hot is not None:
            self.hot.drop_link()
        if link is not None:
            with contextlib.suppress(ValueError, OSError):
                self._unread.remove(link.fileno())
                self._loop.remove_reader(link.fileno())
                if link.strangers_fileno() >= 0:
                    self._loop.remove_reader(link.strangers_fileno())
                self._stop_writing()
                self._loop.remove_reader(link.event_fileno())
        if self._backlog:
            self._backlog.clear()
            self._let_go()

    def link_changed(self) -> None:
        """After ``link.events()``: the socket that is waited for may have been closed with its device.  It would never
        be writable again, so what waits is sent now."""
        if self._link is not None and self._full not in (-1, self._link.write_fileno()):
            self._link_writable()

    def watch(self, descriptor: int, read: Callable[[], None]) -> None:
        """Call ``read`` whenever ``descriptor`` is readable, until ``unwatch``."""
        self._loop.add_reader(descriptor, read)

    def unwatch(self, descriptor: int) -> None:
        """The descriptor is about to be closed."""
        self._loop.remove_reader(descriptor)

    def _link_readable(self) -> None:
        """One read in each round of the event loop: more of them gain nothing, as 32 packets may be 2 MiB and cost much
        more than the round.  But if they have waited, the other sockets get their turn after ``ROUNDS`` of them."""
        link = self._link
        for _ in range(ROUNDS):
            if link is None or link is not self._link:
                return
            packets = link.receive(BATCH)
            now, behind = time.monotonic(), link.waited >= BEHIND
            if packets:
                self._endpoint.receive_packets(now, packets, behind=behind)
                self.drain()
            if not behind:
                break
            self._behind_at = now
        self._arm_timer()

    def _strangers_readable(self) -> None:
        """A few in each round of the event loop: everything else has its turn in between."""
        if self._link is not None:
            packets = self._link.receive_strangers(STRANGERS)
            self._endpoint.receive_packets(time.monotonic(), packets, behind=self._link.waited >= BEHIND)
            self.settle()

    def _carrier_readable(self, carrier: Carrier) -> None:
        endpoint = self._endpoint
        for _ in range(ROUNDS):
            received = carrier.receive()
            if isinstance(carrier, ClientCarrier) and carrier.refused():
                self._carrier_refused(carrier.key)
            if not received:
                break
            now, behind = time.monotonic(), carrier.waited >= BEHIND
            if behind:
                self._behind_at = now
            endpoint.receive_carried(now, received, behind=behind)
            self.drain()
            if len(received) < BATCH:
                break
        self.settle()

    def resize(self, mtu: int, max_burst_bytes: int) -> None:
        """The path below takes packets and bursts of this many bytes now; ``settle`` is to follow."""
        self._endpoint.receive_mtu(self.now(), mtu, max_burst_bytes)

    # -- in: datagrams

    def add_source(self, source: Source) -> None:
        """Read its datagrams whenever there are any, and nothing waits to be sent."""
        if self.hot is not None and self.hot.take_source(source):
            return
        self._sources[source.descriptor] = source.receive
        if not self._paused:
            self._loop.add_reader(source.descriptor, self._source_readable, source.receive)

    def remove_source(self, descriptor: int) -> None:
        """Its socket is about to be closed."""
        if self.hot is not None and self.hot.drop_source(descriptor):
            return
        del self._sources[descriptor]
        self._loop.remove_reader(descriptor)

    def _source_readable(self, receive: Callable[[], list[Run]]) -> None:
        for _ in range(ROUNDS):
            runs = receive()
            if not runs:
                break
            now = time.monotonic()
            self._endpoint.receive_datagrams(now, runs)
            self.drain()
            if self.congested or sum([len(run.datagrams) for run in runs]) < BATCH or now < self._behind_at + LATE:
                break
        self._arm_timer()

    def start_reading(self) -> None:
        """Everything is there: sources may be read."""
        self._paused = False
        if self.hot is not None:
            self.hot.pause(paused=False)
        for descriptor, receive in self._sources.items():
            self._loop.add_reader(descriptor, self._source_readable, receive)

    def _stop_reading(self) -> None:
        self._paused = True
        if self.hot is not None:
            self.hot.pause(paused=True)
        for descriptor in self._sources:
            self._loop.remove_reader(descriptor)

    def _let_go(self) -> None:
        """Read the sources again, unless something else still waits."""
        if not self.congested and not self._stopping:
            self.start_reading()

    # -- in: what the native path left

    def _take_left(self) -> None:
        """Do what would have been done without the native path."""
        if self.hot is None:
            return
        left = self.hot.left()
        if left.bursts:
            self._transmit(left.bursts)
            self.hot.learn_ways()
        if left.behind:
            self._behind_at = self.now()
        if left.packets:
            self._endpoint.receive_packets(time.monotonic(), left.packets, behind=left.behind)
            self.drain()
        for carrier in left.refused:
            if carrier.refused():
                self._carrier_refused(carrier.key)
        if left.carried:
            self._endpoint.receive_carried(time.monotonic(), left.carried, behind=left.carried_behind)
            self.drain()
        if left.runs:
            self._endpoint.receive_datagrams(time.monotonic(), left.runs)
        self.settle()

    def fold(self) -> None:
        """Have the counters of link and sockets tell what the native path carried, too."""
        if self.hot is not None:
            self.hot.fold()

    # -- out: the one drain

    def settle(self) -> None:
        """After anything was put into the endpoint: do what it wants done, and arm its timer again."""
        self.drain()
        self._arm_timer()

    def drain(self) -> None:
        """Do what the endpoint wants done, in its order; what is done for an event may make it want more."""
        more = True
        while more:
            more = False
            for output in self._endpoint.poll():
                if isinstance(output, Transmit):
                    self._transmit(output.bursts)
                elif isinstance(output, Deliver):
                    self._deliver(output.runs)
                else:
                    self._handle(output)
                    more = True

    def _arm_timer(self) -> None:
        due = self._endpoint.next_timeout()
        if due is not None and (self._timer is None or due < self._timer_at):
            if self._timer:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_at(due, self._timeout)

    def _timeout(self) -> None:
        now = self.now()
        if self._unread and now - (self._unread_since or now) < UNREAD_FIRST:
            self._unread_since = self._unread_since or now
            self._timer_at = now
            self._timer = self._loop.call_later(0, self._timeout)  # after the readers, which come first in each round
            return
        self._timer = self._unread_since = None
        self._endpoint.handle_timeout(self.now())
        self.settle()

    def _transmit(self, bursts: Sequence[Outgoing]) -> None:
        """Send; what the link does not take now waits, with its buffers copied."""
        if bursts and self._has_carriers:
            # Also what was meant for a carrier that is closed by now: the link could not send it.
            bursts = self.carriers.send(bursts)
        if not bursts:
            return
        link = self._link
        if link is None:
            return
        if self._backlog:
            self.backlog_dropped += len(self._backlog.keep(bursts))
            return
        done = link.send(bursts)
        if done < len(bursts):
            self.backlog_dropped += len(self._backlog.keep(bursts[done:]))
            self._write_when_possible(link)
            self._stop_reading()

    def _link_writable(self) -> None:
        link = self._link
        if link is None:
            return
        self._stop_writing()
        self._backlog.send(link.send)
        if self._backlog:
            self._write_when_possible(link)
        else:
            self._let_go()

    def _write_when_possible(self, link: Link) -> None:
        """Wait for the socket that is full: a link may have one for each device."""
        self._full = link.write_fileno()
        self._loop.add_writer(self._full, self._link_writable)

    def _stop_writing(self) -> None:
        if self._full >= 0:
            self._loop.remove_writer(self._full)
            self._full = -1

    @property
    def congested(self) -> bool:
        """Something waits for a full send buffer."""
        return bool(self._backlog) or self.carriers.waiting

    # -- the end

    def finish(self) -> None:
        """Read no more datagrams; what waits is still sent, and packets are still received."""
        self._stopping = True
        self._stop_reading()

    def close(self) -> None:
        """Give up the timer and the carriers."""
        if self.hot is not None:
            self._loop.remove_reader(self.hot.bell)
            self.hot.close()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self.carriers.close()
