"""By which socket the datagrams of each conversation are delivered, and whose datagrams a socket brings.

A client's conversation belongs to the socket to which its application sent.  A server's has a socket of its own toward
the target, which is opened after the conversation.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Hashable
from typing import Any, Final

from rsock_nf.link.sockaddr import NAME_BYTES
from rsock_nf.native.library import Library
from rsock_nf.native.registry import HotSource, Registry
from rsock_nf.native.states import SharedConversation
from rsock_nf.sockets.source import Source

_FAMILY: Final = struct.Struct("@H")


class Homes:
    """See the module."""

    def __init__(self, library: Library, engine: Any, registry: Registry) -> None:
        self._ffi, self._lib = library.ffi, library.lib
        self._engine = engine
        self._registry = registry
        self._sources: dict[int, HotSource] = {}
        """By descriptor."""
        self._homes: dict[SharedConversation, HotSource] = {}
        self._homeless: dict[Hashable, SharedConversation] = {}
        """Those whose socket is not open yet, by peer."""

    def take_source(self, source: Source) -> bool:
        """Read this socket from now on.  False = C cannot."""
        if source.counters is None:
            return False
        hot = HotSource(self._ffi, source)
        if self._lib.hot_add_source(self._engine, hot.c):
            return False
        self._registry.add(hot)
        self._sources[source.descriptor] = hot
        conversation = self._homeless.pop(source.peer, None) if source.peer is not None else None
        if conversation is not None:
            self._settle(hot, conversation)
            hot.c.conversation = conversation.c
        return True

    def drop_source(self, descriptor: int) -> bool:
        """Its socket is about to be closed.  False = C does not read it."""
        hot = self._sources.pop(descriptor, None)
        if hot is None:
            return False
        for conversation in list(hot.guests):
            self.forget(conversation)
            self._homeless[conversation.peer] = conversation
        self._registry.remove(hot)
        self._lib.hot_drop_source(self._engine, hot.c)
        return True

    def drop_all(self) -> None:
        """Every source."""
        for descriptor in list(self._sources):
            self.drop_source(descriptor)

    def look_at_each(self, *, wanted: bool) -> None:
        """Whether Python sees each datagram of an application."""
        for hot in self._sources.values():
            if hot.source.peer is None:
                hot.c.aside = wanted

    # -- conversations

    def house(self, conversation: SharedConversation) -> None:
        """Find its socket."""
        number, peer = _split(conversation.peer)
        if peer is None:
            self._homeless[conversation.peer] = conversation
            return
        for hot in self._sources.values():
            if hot.source.peer is None and hot.source.number == number:
                self._answer(hot, conversation, peer)

    def _settle(self, hot: HotSource, conversation: SharedConversation) -> None:
        self._homes[conversation] = hot
        hot.guests.add(conversation)
        conversation.c.out = hot.c

    def _answer(self, hot: HotSource, conversation: SharedConversation, peer: bytes) -> None:
        """Datagrams for an application: to its address, from ours that it has asked."""
        size = NAME_BYTES[socket.AddressFamily(_FAMILY.unpack_from(peer)[0])]
        self._registry.direct(conversation.c.destination, peer[:size], peer[size:])
        self._settle(hot, conversation)
        self._lib.hot_put_peer(self._engine, hot.c, peer, len(peer), conversation.c)

    def forget(self, conversation: SharedConversation) -> None:
        """It has no socket any more.  Does nothing if it has none."""
        self._homeless.pop(conversation.peer, None)
        conversation.c.out = self._ffi.NULL
        hot = self._homes.pop(conversation, None)
        if hot is None:
            return
        hot.guests.discard(conversation)
        _, peer = _split(conversation.peer)
        if peer is None:
            hot.c.conversation = self._ffi.NULL
        else:
            self._lib.hot_drop_peer(self._engine, hot.c, peer, len(peer), conversation.c)


def _split(peer: Hashable) -> tuple[int | None, bytes | None]:
    """The number of a client's socket (None = it has only one), and what that socket calls the sender (None = it is a
    server's conversation)."""
    if isinstance(peer, bytes):
        return None, peer
    if isinstance(peer, tuple) and isinstance(peer[1], bytes):
        return peer[0], peer[1]
    return None, None
