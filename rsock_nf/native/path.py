"""The native data path of one instance: what C is told, and what comes back from it.

1. The driver offers its link, its carriers and its sources.  What C takes, the event loop does not watch.
2. ``SharedStates`` says which flows and conversations there are.  ``Departures`` tells C how each flow leaves, and
   ``Homes`` where the datagrams of each conversation go.
3. What C could not decide comes back from ``left``, and the driver does with it what it would have done without C.
4. C counts by itself.  ``fold`` adds that to the counters of the link and the sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rsock_nf.core.parameters import Spread
from rsock_nf.core.types import Carried, Outgoing, Packet, Run
from rsock_nf.link.protocol import Link, LinkCounters
from rsock_nf.link.waiting_time import BEHIND
from rsock_nf.native.departures import Departures
from rsock_nf.native.homes import Homes
from rsock_nf.native.registry import HotCarrier, HotSource, Registry
from rsock_nf.native.selector import HotSelector
from rsock_nf.native.states import SharedFlow, SharedStates
from rsock_nf.sockets.carriers import ClientCarrier

_SOCKADDR_LL: Final = 20
"""sizeof(struct sockaddr_ll)"""
_LINK_COUNTERS: Final = (
    "received_packets",
    "received_bytes",
    "truncated",
    "late",
    "sent_packets",
    "sent_segments",
    "sent_bytes",
)


class Left(NamedTuple):
    """What C left.  Its buffers are valid until the event loop waits again."""

    bursts: list[Outgoing]
    """To be sent: there was no way, or the kernel did not take them."""
    packets: list[Packet]
    behind: bool
    """The packets have waited."""
    runs: list[Run]
    carried: list[Carried]
    carried_behind: bool
    """What is carried has waited."""
    refused: list[ClientCarrier]
    """Carriers whose server says that nobody has the port."""


class HotPath:
    """See the module."""

    def __init__(self, selector: HotSelector, spread: Spread) -> None:
        library, engine = selector.library, selector.engine
        self.bell = selector.bell
        self._ffi, self._lib, self._engine = library.ffi, library.lib, engine
        self._left = self._lib.hot_left_of(engine)
        self.sift: Callable[[list[Run]], list[Run]] | None = None
        """Looks at each datagram of an application, before the endpoint gets it."""
        self.states = SharedStates(library, engine, spread)
        self._registry = Registry(library, engine)
        self._departures = Departures(library, engine, self._registry, self.states)
        self._homes = Homes(library, engine, self._registry)
        self.states.flow_ready, self.states.flow_gone = self._departures.learn, self._departures.forget
        self.states.conversation_ready, self.states.conversation_gone = self._homes.house, self._homes.forget
        selector.before_wait = self._before_wait
        self.take_carrier, self.drop_carrier = self._departures.take_carrier, self._departures.drop_carrier
        self.take_source, self.drop_source = self._homes.take_source, self._homes.drop_source
        self.look_at_each = self._homes.look_at_each

    def _before_wait(self) -> None:
        self._departures.follow()
        self._registry.waits()
        self.states.waits()

    def close(self) -> None:
        """Take everything out of C: sockets are about to be closed, and another tunnel may follow on the same loop."""
        self.fold()
        self.states.close()
        self._homes.drop_all()
        self._departures.drop_all()
        self._lib.hot_forget_left(self._engine)

    # -- what C reads

    def take_link(self, link: Link) -> bool:
        """Read this link from now on.  False = C cannot."""
        return self._departures.take_link(link)

    def drop_link(self) -> None:
        """It is about to be closed."""
        self.fold()
        self._departures.drop_link()

    def pause(self, *, paused: bool) -> None:
        """Whether sources are read."""
        self._lib.hot_pause(self._engine, paused)

    # -- what comes back

    def left(self) -> Left:
        """What C left when it last ran."""
        left = self._left
        made = Left(
            [burst for index in range(left.burst_count) if (burst := self._burst(left.bursts[index])) is not None],
            self._packets(),
            left.tap_waited >= BEHIND * 1e9,
            [],
            [],
            left.carrier_waited >= BEHIND * 1e9,
            [],
        )
        for index in range(left.run_count):
            self._sort(left.runs[index], made)
        return made

    def _burst(self, burst: Any) -> Outgoing | None:
        """None = over UDP, and its flow has ended since: nobody knows on which socket."""
        whole = memoryview(self._ffi.buffer(burst.data, burst.header_bytes + burst.payload_bytes))
        headers, payload = bytes(whole[: burst.header_bytes]), whole[burst.header_bytes :]
        flow = self._flow_of(burst)
        if flow is None and not headers:
            return None
        carrier = flow.key if flow is not None and flow.key.udp else None
        bulk = len(payload) > 0  # else it is an ACK
        pieces = [payload] if bulk else []
        return Outgoing(headers, pieces, len(payload), burst.segment_size, carrier=carrier, bulk=bulk)

    def _flow_of(self, burst: Any) -> SharedFlow | None:
        return self.states.flows.get(int(self._ffi.cast("uintptr_t", burst.flow)))

    def _packets(self) -> list[Packet]:
        left, ffi, link = self._left, self._ffi, self._departures.link
        if link is None:
            return []
        told = [left.packets[index] for index in range(left.packet_count)]
        packets = [
            link.tap.packet_of(memoryview(ffi.buffer(one.data, one.length)), bytes(ffi.buffer(one.name, _SOCKADDR_LL)))
            for one in told
        ]
        return [packet for packet in packets if packet is not None]

    def _sort(self, run: Any, made: Left) -> None:
        """Put what a socket brought where it belongs."""
        ffi, hot = self._ffi, self._registry.of(run.source)
        told = bytes(ffi.buffer(run.peer, run.peer_bytes)) if run.peer_bytes else b""
        pieces = [self._left.pieces[at] for at in range(run.first, run.first + run.count)]
        views = [memoryview(ffi.buffer(piece.data, piece.length)) for piece in pieces]
        if isinstance(hot, HotSource):
            runs = [Run(hot.peer(told), list(views), run.size)]
            made.runs.extend(runs if self.sift is None or hot.source.peer is not None else self.sift(runs))
        elif isinstance(hot, HotCarrier) and views:
            made.carried.append(Carried(hot.key(told), views[0], run.size))
        elif isinstance(hot, HotCarrier) and isinstance(hot.carrier, ClientCarrier):
            self._registry.fold()
            made.refused.append(hot.carrier)

    def learn_ways(self) -> None:
        """After the bursts of ``left`` were sent: the way of their flows is known now, or another one."""
        left = self._left
        flows = {self._flow_of(left.bursts[index]) for index in range(left.burst_count)}
        for flow in flows:
            if flow is not None:
                self._departures.learn(flow)

    def fold(self) -> None:
        """Add what C has counted to the counters of link and sockets."""
        counted, link = self._left.link, self._departures.link
        if link is not None:
            link.add(LinkCounters(**{name: getattr(counted, name) for name in _LINK_COUNTERS}))
        for name in _LINK_COUNTERS:
            setattr(counted, name, 0)
        self._registry.fold()
