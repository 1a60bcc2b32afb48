"""By what the packets of each flow leave: the sender of a device and a link header, or a carrier.

A flow learns its way when it is established, and again after Python had to send for it: because C knew none, or the
kernel took nothing.  When the link's ways change, C uses none that it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsock_nf.core.types import FlowKey
from rsock_nf.link.protocol import Link
from rsock_nf.native.library import Library
from rsock_nf.native.registry import Carrier, HotCarrier, Registry
from rsock_nf.native.states import SharedFlow, SharedStates
from rsock_nf.sockets.carriers import ClientCarrier

if TYPE_CHECKING:
    from rsock_nf.link.linux.af_packet import PacketLink


class Departures:
    """See the module."""

    def __init__(self, library: Library, engine: Any, registry: Registry, states: SharedStates) -> None:
        self._ffi, self._lib = library.ffi, library.lib
        self._engine = engine
        self._registry = registry
        self._states = states
        self.link: PacketLink | None = None
        self._revision = -1
        """Of the link's ways, as C knows them."""
        self._dialled: dict[FlowKey, HotCarrier] = {}
        self._ports: dict[tuple[bytes, int], HotCarrier] = {}
        """A server's carriers, by our address (all zeros: any) and port."""
        self._put: dict[int, tuple[HotCarrier, bytes]] = {}
        """Of the flows on a server's carriers, by the name that C has for them: as what they were put there.  The same
        question may have another answer later: a stranger may come from the same link-local address on another device.
        """

    # -- what there is

    def take_link(self, link: Link) -> bool:
        """Read this link from now on.  False = C cannot: it is none of AF_PACKET."""
        from rsock_nf.link.linux.af_packet import PacketLink

        if not isinstance(link, PacketLink) or self._lib.hot_add_tap(self._engine, link.fileno()):
            return False
        self.link, self._revision = link, -1
        return True

    def drop_link(self) -> None:
        """It is about to be closed."""
        if self.link is not None:
            self._lib.hot_drop_tap(self._engine)
            self.link, self._revision = None, -1
            self._lib.hot_ways_changed(self._engine)

    def take_carrier(self, carrier: Carrier) -> bool:
        """Read this one from now on.  False = C cannot."""
        hot = HotCarrier(self._ffi, carrier)
        if self._lib.hot_add_carrier(self._engine, hot.c):
            return False
        self._registry.add(hot)
        if isinstance(carrier, ClientCarrier):
            self._dialled[carrier.key] = hot
        else:
            self._ports[carrier.endpoint.address.packed, carrier.endpoint.port] = hot
        return True

    def drop_carrier(self, carrier: Carrier) -> bool:
        """It is about to be closed.  False = C does not read it."""
        hot = (
            self._dialled.get(carrier.key)
            if isinstance(carrier, ClientCarrier)
            else self._ports.get((carrier.endpoint.address.packed, carrier.endpoint.port))
        )
        if hot is None:
            return False
        for flow in self._states.flows.values():
            if flow.key.udp and self._carrier_of(flow.key) is hot:
                self.forget(flow)
        if isinstance(carrier, ClientCarrier):
            del self._dialled[carrier.key]
        else:
            del self._ports[carrier.endpoint.address.packed, carrier.endpoint.port]
        self._registry.remove(hot)
        self._lib.hot_drop_carrier(self._engine, hot.c)
        return True

    def drop_all(self) -> None:
        """Link and carriers."""
        self.drop_link()
        for hot in [*self._dialled.values(), *self._ports.values()]:
            self.drop_carrier(hot.carrier)

    def _carrier_of(self, key: FlowKey) -> HotCarrier | None:
        ports = self._ports
        return (
            self._dialled.get(key)
            or ports.get((bytes(len(key.local)), key.local_port))
            or ports.get((key.local, key.local_port))
        )

    # -- what each flow gets

    def follow(self) -> None:
        """Before each wait: a socket or a link header may be another one than C knows."""
        link = self.link
        if link is not None and link.ways_revision != self._revision:
            self._revision = link.ways_revision
            self._lib.hot_ways_changed(self._engine)
            self._lib.hot_set_aside(self._engine, link.tap.sifts)

    def learn(self, flow: SharedFlow) -> None:
        """``flow`` leaves as it would leave now, if Python sent for it."""
        if flow.key.udp:
            self._learn_carrier(flow)
        else:
            self._learn_way(flow)

    def _learn_way(self, flow: SharedFlow) -> None:
        way, link, key = flow.c.way, self.link, flow.key
        way.fd = -1
        path = link.routes.path(key.local + key.remote) if link is not None else None
        sender = link.sender(path.ifindex) if link is not None and path is not None else None
        if sender is None or path is None or sender.fitting:
            return
        name = sender.socket_name(key.local)
        way.mtu, way.max_burst = sender.mtu, sender.max_burst_bytes
        way.link_bytes, way.name_bytes = len(path.link_header), len(name)
        self._ffi.memmove(way.link_header, path.link_header, len(path.link_header))
        self._ffi.memmove(way.name, name, len(name))
        way.fd = sender.fileno()
        self._lib.hot_set_way(self._engine, flow.c)

    def _learn_carrier(self, flow: SharedFlow) -> None:
        hot = self._carrier_of(flow.key)
        if hot is None:
            return
        flow.c.carrier = self._ffi.NULL if hot.carrier.fitting else hot.c
        if isinstance(hot.carrier, ClientCarrier):
            hot.c.flow = flow.c
            return
        name, source = hot.carrier.names_of(flow.key)
        self._take_back(flow)
        self._registry.direct(flow.c.destination, name, source)
        peer = name + source
        self._put[flow.name] = hot, peer
        self._lib.hot_put_carried(self._engine, hot.c, peer, len(peer), flow.c)

    def _take_back(self, flow: SharedFlow) -> None:
        put = self._put.pop(flow.name, None)
        if put is not None:
            hot, peer = put
            self._lib.hot_drop_carried(self._engine, hot.c, peer, len(peer), flow.c)

    def forget(self, flow: SharedFlow) -> None:
        """``flow`` leaves no more."""
        hot = self._carrier_of(flow.key) if flow.key.udp else None
        flow.c.carrier = self._ffi.NULL
        self._take_back(flow)
        if hot is not None and isinstance(hot.carrier, ClientCarrier):
            hot.c.flow = self._ffi.NULL
