"""The native data path of one instance: what C is told of sockets and ways, and what comes back from it.

1. The driver offers its link and its sources (``take_link``, ``take_source``).  What C takes, the event loop does not
   watch.
2. ``SharedStates`` says which flows and conversations there are.  Here they get the ways by which they leave: the
   sender of a device and a link header, or the socket of an application or a target.
3. What C could not decide comes back from ``left``, and the driver does with it what it would have done without C.
4. C counts by itself.  ``fold`` adds that to the counters of the link and the sockets.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from rsock_nf.core.parameters import Spread
from rsock_nf.core.types import Carried, FlowKey, Outgoing, Packet, Run
from rsock_nf.link.protocol import Link, LinkCounters
from rsock_nf.link.waiting_time import BEHIND
from rsock_nf.native.selector import HotSelector
from rsock_nf.native.states import SharedConversation, SharedFlow, SharedStates
from rsock_nf.sockets.carriers import ClientCarrier, ServerCarrier
from rsock_nf.sockets.source import Source

if TYPE_CHECKING:
    from rsock_nf.link.linux.af_packet import PacketLink

Carrier: TypeAlias = ClientCarrier | ServerCarrier

_NAME_BYTES: Final = {socket.AF_INET: 16, socket.AF_INET6: 28}
_CMSG: Final = struct.Struct("@Qii")
_PKTINFO: Final = {16: (socket.IPPROTO_IP, 8), 28: (socket.IPPROTO_IPV6, 50)}
"""Level and type of IP_PKTINFO and IPV6_PKTINFO, by the length of the sockaddr (include/uapi/linux/in.h, in6.h)."""
_SOCKET_COUNTERS: Final = (
    "received",
    "sent",
    "refused",
    "send_full",
    "send_errors",
    "receive_errors",
    "sent_singly",
    "late",
)
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
    refused: list[ClientCarrier]
    """Carriers whose server says that nobody has the port."""


class _HotSource:
    """A source that C reads."""

    def __init__(self, ffi: Any, source: Source, name: int) -> None:
        self.source = source
        self.counters = source.counters
        self.c = ffi.new("hot_source *")
        self.c.fd = source.descriptor
        self.c.id = name
        self.guests: set[SharedConversation] = set()
        """Whose datagrams it delivers."""

    def peer(self, told: bytes) -> Hashable:
        """What the endpoint calls who sent a datagram."""
        if self.source.peer is not None:
            return self.source.peer
        return told if self.source.number is None else (self.source.number, told)


class _HotCarrier:
    """A carrier that C reads."""

    def __init__(self, ffi: Any, carrier: Carrier, name: int) -> None:
        self.carrier = carrier
        self.counters = carrier.counters
        self.c = ffi.new("hot_source *")
        self.c.fd = carrier.fileno()
        self.c.id = name
        self.c.carrier = True

    def key(self, told: bytes) -> FlowKey:
        """The flow of a datagram."""
        carrier = self.carrier
        if isinstance(carrier, ClientCarrier):
            return carrier.key
        size = _NAME_BYTES[carrier.family]
        return carrier.key_of(told[:size], told[size:])


class HotPath:
    """See the module."""

    def __init__(self, selector: HotSelector, spread: Spread) -> None:
        self.bell = selector.bell
        self._ffi, self._lib = selector.library.ffi, selector.library.lib
        self._engine = selector.engine
        self._left = self._lib.hot_left_of(self._engine)
        self._link: PacketLink | None = None
        self._ways = -1
        """The revision of the link's ways that C knows."""
        self._sources: dict[int, _HotSource] = {}
        """By descriptor."""
        self._names: dict[int, _HotSource | _HotCarrier] = {}
        """Sources and carriers, by what C calls them."""
        self._next_name = 1
        self._dialled: dict[FlowKey, _HotCarrier] = {}
        self._ports: dict[tuple[bytes, int], _HotCarrier] = {}
        """A server's carriers, by our address (all zeros: any) and port."""
        self._homes: dict[SharedConversation, _HotSource] = {}
        """By which socket the datagrams of a conversation are delivered."""
        self._homeless: dict[Hashable, SharedConversation] = {}
        """Conversations whose socket is not open yet, by peer."""
        self.sift: Callable[[list[Run]], list[Run]] | None = None
        """Looks at each datagram of an application, before the endpoint gets it."""
        self.states = SharedStates(selector.library, self._engine, spread)
        self.states.flow_ready = self._learn_way
        self.states.flow_gone = self._forget_way
        self.states.conversation_ready = self._house
        self.states.conversation_gone = self._leave_house
        selector.before_wait = self._follow_ways

    def close(self) -> None:
        """Take everything out of C: sockets are about to be closed, and another tunnel may follow on the same loop."""
        self.drop_link()
        for descriptor in list(self._sources):
            self.drop_source(descriptor)
        for hot in [*self._dialled.values(), *self._ports.values()]:
            self.drop_carrier(hot.carrier)
        self.states.close()
        self._lib.hot_forget_left(self._engine)

    # -- the link

    def take_link(self, link: Link) -> bool:
        """Read this link from now on.  False = C cannot: it is none of AF_PACKET."""
        from rsock_nf.link.linux.af_packet import PacketLink

        if not isinstance(link, PacketLink) or self._lib.hot_add_tap(self._engine, link.fileno()):
            return False
        self._link, self._ways = link, -1
        return True

    def drop_link(self) -> None:
        """It is about to be closed."""
        if self._link is not None:
            self.fold()
            self._lib.hot_drop_tap(self._engine)
            self._link, self._ways = None, -1
            self._lib.hot_ways_changed(self._engine)

    def _follow_ways(self) -> None:
        """Called before each wait: a socket or a link header may be another one than C knows."""
        link = self._link
        if link is not None and link.ways_revision != self._ways:
            self._ways = link.ways_revision
            self._lib.hot_ways_changed(self._engine)
            self._lib.hot_set_aside(self._engine, link.tap.sifts)

    def _learn_way(self, flow: SharedFlow) -> None:
        if flow.key.udp:
            self._learn_carrier(flow)
            return
        way = flow.c.way
        way.fd = -1
        link, key = self._link, flow.key
        path = link.routes.path(key.local + key.remote) if link is not None else None
        sender = link.sender(path.ifindex) if link is not None and path is not None else None
        if sender is None or path is None or sender.fitting:
            return
        way.mtu, way.max_burst = sender.mtu, sender.max_burst_bytes
        way.link_bytes = len(path.link_header)
        self._ffi.memmove(way.link_header, path.link_header, len(path.link_header))
        name = sender.socket_name(key.local)
        way.name_bytes = len(name)
        self._ffi.memmove(way.name, name, len(name))
        way.fd = sender.fileno()
        self._lib.hot_set_way(self._engine, flow.c)

    def _learn_carrier(self, flow: SharedFlow) -> None:
        key, c = flow.key, flow.c
        hot = self._carrier_of(key)
        if hot is None:
            return
        if isinstance(hot.carrier, ClientCarrier):
            hot.c.flow, c.carrier = c, self._ffi.NULL if hot.carrier.fitting else hot.c
            return
        name, source = hot.carrier.names_of(key)
        self._direct(c.destination, name, source)
        self._lib.hot_put_carried(self._engine, hot.c, name + source, len(name + source), c)
        c.carrier = self._ffi.NULL if hot.carrier.fitting else hot.c

    def _carrier_of(self, key: FlowKey) -> _HotCarrier | None:
        ports = self._ports
        return (
            self._dialled.get(key)
            or ports.get((bytes(len(key.local)), key.local_port))
            or ports.get((key.local, key.local_port))
        )

    def _forget_way(self, flow: SharedFlow) -> None:
        hot = self._carrier_of(flow.key) if flow.key.udp else None
        if hot is None:
            return
        flow.c.carrier = self._ffi.NULL
        if isinstance(hot.carrier, ClientCarrier):
            hot.c.flow = self._ffi.NULL
        else:
            peer = b"".join(hot.carrier.names_of(flow.key))
            self._lib.hot_drop_carried(self._engine, hot.c, peer, len(peer), flow.c)

    def _direct(self, destination: Any, name: bytes, source: bytes) -> None:
        """Fill in a ``hot_destination``.  ``source``: the pktinfo of the answer; b"" = none."""
        control = b""
        if source:
            level, kind = _PKTINFO[len(name)]
            control = _CMSG.pack(_CMSG.size + len(source), level, kind) + source
            control += bytes(-len(control) % 8)
        self._ffi.memmove(destination.name, name, len(name))
        self._ffi.memmove(destination.control, control, len(control))
        destination.name_bytes, destination.control_bytes = len(name), len(control)

    # -- carriers

    def take_carrier(self, carrier: Carrier) -> bool:
        """Read this one from now on.  False = C cannot."""
        hot = _HotCarrier(self._ffi, carrier, self._next_name)
        if self._lib.hot_add_carrier(self._engine, hot.c):
            return False
        self._names[self._next_name] = hot
        self._next_name += 1
        if isinstance(carrier, ClientCarrier):
            self._dialled[carrier.key] = hot
        else:
            self._ports[carrier.endpoint.address.packed, carrier.endpoint.port] = hot
        return True

    def drop_carrier(self, carrier: Carrier) -> bool:
        """It is about to be closed.  False = C does not read it."""
        hot = (
            self._dialled.pop(carrier.key, None)
            if isinstance(carrier, ClientCarrier)
            else self._ports.pop((carrier.endpoint.address.packed, carrier.endpoint.port), None)
        )
        if hot is None:
            return False
        self.fold()
        for flow in self.states.flows.values():
            if flow.c.carrier == hot.c:
                flow.c.carrier = self._ffi.NULL
        del self._names[hot.c.id]
        self._lib.hot_drop_carrier(self._engine, hot.c)
        return True

    # -- sources

    def take_source(self, source: Source) -> bool:
        """Read this socket from now on.  False = C cannot."""
        if source.counters is None:
            return False
        hot = _HotSource(self._ffi, source, self._next_name)
        if self._lib.hot_add_source(self._engine, hot.c):
            return False
        self._sources[source.descriptor] = self._names[self._next_name] = hot
        self._next_name += 1
        conversation = self._homeless.pop(source.peer, None) if source.peer is not None else None
        if conversation is not None:
            self._move_in(hot, conversation)
        return True

    def drop_source(self, descriptor: int) -> bool:
        """Its socket is about to be closed.  False = C does not read it."""
        hot = self._sources.pop(descriptor, None)
        if hot is None:
            return False
        self.fold()
        for conversation in list(hot.guests):
            self._leave_house(conversation)
            self._homeless[conversation.peer] = conversation
        del self._names[hot.c.id]
        self._lib.hot_drop_source(self._engine, hot.c)
        return True

    def pause(self, *, paused: bool) -> None:
        """Whether sources are read."""
        self._lib.hot_pause(self._engine, paused)

    def look_at_each(self, *, wanted: bool) -> None:
        """Whether each datagram of an application goes through ``sift``."""
        for hot in self._sources.values():
            if hot.source.peer is None:
                hot.c.aside = wanted

    # -- conversations

    def _house(self, conversation: SharedConversation) -> None:
        """Find the socket by which its datagrams leave; a target's may come later."""
        peer, number = conversation.peer, None
        if isinstance(peer, tuple) and len(peer) == 2 and isinstance(peer[1], bytes):
            number, peer = peer
        if not isinstance(peer, bytes):
            self._homeless[conversation.peer] = conversation
            return
        for hot in self._sources.values():
            if hot.source.peer is None and hot.source.number == number:
                self._answer(hot, conversation, peer)

    def _move_in(self, hot: _HotSource, conversation: SharedConversation) -> None:
        self._homes[conversation] = hot
        hot.guests.add(conversation)
        hot.c.conversation = conversation.c
        conversation.c.out = hot.c

    def _answer(self, hot: _HotSource, conversation: SharedConversation, peer: bytes) -> None:
        """Datagrams for an application: to its address, from ours that it has asked."""
        c = conversation.c
        family = socket.AddressFamily(int.from_bytes(peer[:2], "little" if _LITTLE else "big"))
        name, source = peer[: _NAME_BYTES[family]], peer[_NAME_BYTES[family] :]
        self._direct(c.destination, name, source)
        self._homes[conversation] = hot
        hot.guests.add(conversation)
        c.out = hot.c
        self._lib.hot_put_peer(self._engine, hot.c, peer, len(peer), c)

    def _leave_house(self, conversation: SharedConversation) -> None:
        self._homeless.pop(conversation.peer, None)
        conversation.c.out = self._ffi.NULL
        hot = self._homes.pop(conversation, None)
        if hot is None:
            return
        hot.guests.discard(conversation)
        if hot.source.peer is not None:
            hot.c.conversation = self._ffi.NULL
            return
        peer = conversation.peer[1] if isinstance(conversation.peer, tuple) else conversation.peer
        if isinstance(peer, bytes):
            self._lib.hot_drop_peer(self._engine, hot.c, peer, len(peer), conversation.c)

    # -- what comes back

    def left(self) -> Left:
        """What C left when it last ran."""
        left, ffi = self._left, self._ffi
        bursts = [self._burst(left.bursts[index]) for index in range(left.burst_count)]
        packets: list[Packet] = []
        if left.packet_count and self._link is not None:
            tap = self._link.tap
            for index in range(left.packet_count):
                packet = left.packets[index]
                view = memoryview(ffi.buffer(packet.data, packet.length))
                taken = tap.packet_of(view, bytes(ffi.buffer(packet.name, _SOCKADDR_LL)))
                if taken is not None:
                    packets.append(taken)
        behind = max(left.tap_waited, left.carrier_waited) >= BEHIND * 1e9
        made = Left(bursts, packets, behind, [], [], [])
        for index in range(left.run_count):
            self._sort(left.runs[index], made)
        return made

    def _burst(self, burst: Any) -> Outgoing:
        whole = memoryview(self._ffi.buffer(burst.data, burst.header_bytes + burst.payload_bytes))
        headers, payload = bytes(whole[: burst.header_bytes]), whole[burst.header_bytes :]
        flow = self.states.flows.get(int(self._ffi.cast("uintptr_t", burst.flow)))
        carrier = flow.key if flow is not None and flow.key.udp else None
        bulk = len(payload) > 0  # else it is an ACK
        pieces = [payload] if bulk else []
        return Outgoing(headers, pieces, len(payload), burst.segment_size, carrier=carrier, bulk=bulk)

    def _sort(self, run: Any, made: Left) -> None:
        """Put what a socket brought where it belongs."""
        ffi, hot = self._ffi, self._names.get(run.source.id)
        told = bytes(ffi.buffer(run.peer, run.peer_bytes)) if run.peer_bytes else b""
        pieces = [self._left.pieces[at] for at in range(run.first, run.first + run.count)]
        views = [memoryview(ffi.buffer(piece.data, piece.length)) for piece in pieces]
        if isinstance(hot, _HotSource):
            runs = [Run(hot.peer(told), list(views), run.size)]
            made.runs.extend(runs if self.sift is None or hot.source.peer is not None else self.sift(runs))
        elif isinstance(hot, _HotCarrier) and views:
            made.carried.append(Carried(hot.key(told), views[0], run.size))
        elif isinstance(hot, _HotCarrier) and isinstance(hot.carrier, ClientCarrier):
            self.fold()
            made.refused.append(hot.carrier)

    def learn_ways(self) -> None:
        """After the bursts of ``left`` were sent: the way of their flows is known now, or another one."""
        left = self._left
        names = {int(self._ffi.cast("uintptr_t", left.bursts[index].flow)) for index in range(left.burst_count)}
        for name in names:
            flow = self.states.flows.get(name)
            if flow is not None:
                self._learn_way(flow)

    def fold(self) -> None:
        """Add what C has counted to the counters of link and sockets."""
        link_counts = self._left.link
        if self._link is not None:
            self._link.add(LinkCounters(**{name: getattr(link_counts, name) for name in _LINK_COUNTERS}))
        for name in _LINK_COUNTERS:
            setattr(link_counts, name, 0)
        while (c := self._lib.hot_next_dirty(self._engine)) != self._ffi.NULL:
            hot = self._names[c.id]
            for name in _SOCKET_COUNTERS:
                setattr(hot.counters, name, getattr(hot.counters, name) + getattr(c, name))
                setattr(c, name, 0)

    @property
    def carried(self) -> tuple[int, int]:
        """Packets taken and datagrams carried without Python."""
        return self._left.hot_packets, self._left.hot_datagrams


_SOCKADDR_LL: Final = 20
_LITTLE: Final = struct.pack("@H", 1) == b"\x01\x00"
