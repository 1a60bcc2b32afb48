"""The sockets that C reads, by the name that C has for each; and what C has counted on them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Hashable
from typing import Any, Final, TypeAlias

from rsock_nf.core.types import FlowKey
from rsock_nf.link import system
from rsock_nf.link.sockaddr import NAME_BYTES
from rsock_nf.native.library import Library
from rsock_nf.native.states import SharedConversation
from rsock_nf.sockets.carriers import ClientCarrier, ServerCarrier
from rsock_nf.sockets.source import Source

Carrier: TypeAlias = ClientCarrier | ServerCarrier

_CMSG: Final = struct.Struct("@Qii")
"""struct cmsghdr (cmsg(3))"""
_COUNTERS: Final = (
    "received",
    "sent",
    "refused",
    "send_full",
    "send_errors",
    "receive_errors",
    "sent_singly",
    "late",
)


class HotSource:
    """A socket toward applications, or toward one target."""

    def __init__(self, ffi: Any, source: Source) -> None:
        self.source = source
        self.counters = source.counters
        self.c = ffi.new("hot_source *")
        self.c.fd = source.descriptor
        self.guests: set[SharedConversation] = set()
        """Whose datagrams it delivers."""

    def peer(self, told: bytes) -> Hashable:
        """What the endpoint calls who sent a datagram."""
        if self.source.peer is not None:
            return self.source.peer
        return told if self.source.number is None else (self.source.number, told)


class HotCarrier:
    """A carrier of flows over UDP."""

    def __init__(self, ffi: Any, carrier: Carrier) -> None:
        self.carrier = carrier
        self.counters = carrier.counters
        self.c = ffi.new("hot_source *")
        self.c.fd = carrier.fileno()
        self.c.carrier = True

    def key(self, told: bytes) -> FlowKey:
        """The flow of a datagram."""
        carrier = self.carrier
        if isinstance(carrier, ClientCarrier):
            return carrier.key
        size = NAME_BYTES[carrier.family]
        return carrier.key_of(told[:size], told[size:])


class Registry:
    """See the module."""

    def __init__(self, library: Library, engine: Any) -> None:
        self._ffi, self._lib = library.ffi, library.lib
        self._engine = engine
        self._known: dict[int, HotSource | HotCarrier] = {}
        self._next = 1
        self._removed: list[HotSource | HotCarrier] = []

    def add(self, hot: HotSource | HotCarrier) -> None:
        """C knows it from now on."""
        hot.c.id = self._next
        self._known[self._next] = hot
        self._next += 1

    def remove(self, hot: HotSource | HotCarrier) -> None:
        """C is about to forget it."""
        self.fold()
        del self._known[hot.c.id]
        self._removed.append(hot)  # what C left may still name it

    def waits(self) -> None:
        """C is about to run, and forgets what it has left."""
        self._removed.clear()

    def of(self, c: Any) -> HotSource | HotCarrier | None:
        """What belongs to a ``hot_source``; None = it is gone."""
        return self._known.get(c.id)

    def fold(self) -> None:
        """Add what C has counted to the sockets' counters."""
        while (c := self._lib.hot_next_dirty(self._engine)) != self._ffi.NULL:
            counters = self._known[c.id].counters
            for name in _COUNTERS:
                setattr(counters, name, getattr(counters, name) + getattr(c, name))
                setattr(c, name, 0)

    def direct(self, destination: Any, name: bytes, source: bytes) -> None:
        """Fill in a ``hot_destination``: a struct sockaddr, and the pktinfo that says from where (b"" = none)."""
        control = b""
        if source:
            family = socket.AF_INET6 if len(name) == NAME_BYTES[socket.AF_INET6] else socket.AF_INET
            for level, kind, told in system().udp.answer_from(family, source):
                control += _CMSG.pack(_CMSG.size + len(told), level, kind) + told
                control += bytes(-len(control) % 8)
        self._ffi.memmove(destination.name, name, len(name))
        self._ffi.memmove(destination.control, control, len(control))
        destination.name_bytes, destination.control_bytes = len(name), len(control)
