"""The state of a pump in memory that C shares: the same names as in ``core.pump.state``, stored in C structures.

``SharedFlow`` is a ``PumpFlow`` whose numbers are in a ``hot_flow``, and so on.  Each inherits, because it *is* one:
only the place of the numbers is another one, and no behaviour changes.  The Python pump and the native one work on the
same flow, one after the other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable
from typing import Any

from rsock_nf.core.parameters import Spread
from rsock_nf.core.protocols import FlowCodec, Kind
from rsock_nf.core.pump.state import FlowGroup, Handover, PumpConversation, PumpFlow
from rsock_nf.core.types import FlowKey
from rsock_nf.native.library import Library
from rsock_nf.wire.native.frames import PlainCodec, SealedCodec

_UNKNOWN, _PLAIN, _AES, _CHACHA = range(4)
"""``hot_flow.cipher``."""


def _stored(name: str, kind: type[int] = int) -> Any:
    """An attribute that is stored in the C structure ``c`` of its object, and is read as ``kind``: int or bool."""
    if kind is int:
        read: Any = operator.attrgetter(f"c.{name}")  # cffi makes an int of it, and no call of Python's is needed
    else:

        def read(self: Any) -> int:
            return kind(getattr(self.c, name))

    def write(self: Any, value: int) -> None:
        setattr(self.c, name, value)

    return property(read, write)


class SharedWindow:
    """The replay window of a flow.  See ``core.pump.replay.Replay``."""

    def __init__(self, library: Library, flow: Any) -> None:
        self._accept = library.lib.hot_accept
        self._window = library.ffi.addressof(flow, "replay")

    @property
    def highest(self) -> int:
        """See ``Replay``."""
        return int(self._window.next) - 1

    def accept_run(self, first: int, count: int) -> int:
        """See ``Replay``."""
        accept, window = self._accept, self._window
        return sum(1 << index for index in range(count) if accept(window, first + index))


class _SharedHeaders:
    """The headers of a flow: both pumps number their packets with the same counter."""

    def __init__(self, template: Any, flow: Any) -> None:
        self._template = template
        self._flow = flow

    def build(self, seq: int, ack: int, flags: int, window: int, payload_size: int, segments: int = 1) -> bytes:
        """See ``Headers``."""
        self._template.identification = self._flow.identification
        made: bytes = self._template.build(seq, ack, flags, window, payload_size, segments)
        self._flow.identification = self._template.identification
        return made


class SharedFlow(PumpFlow):
    """See the module."""

    __slots__ = ("c", "keys", "name")

    next_seq = _stored("next_seq")
    highest_ack = _stored("highest_ack")
    received = _stored("received")
    window = _stored("window")
    scale = _stored("scale")
    receive_window = _stored("receive_window")
    bulk_window = _stored("bulk_window")
    unacknowledged = _stored("unacknowledged")
    windowed = _stored("windowed", bool)
    stalled = _stored("stalled", bool)
    max_payload = _stored("max_payload")
    burst_bytes = _stored("burst_bytes")
    counter = _stored("counter")
    sent = _stored("sent")
    sent_frames = _stored("sent_frames")
    sent_bytes = _stored("sent_bytes")
    received_frames = _stored("received_frames")
    received_bytes = _stored("received_bytes")
    bad_checksums = _stored("bad_checksums")
    bad_frames = _stored("bad_frames")
    replayed = _stored("replayed")
    out_of_window = _stored("out_of_window")

    def __init__(
        self, library: Library, group: SharedGroup, flow_id: int, key: FlowKey, codec: FlowCodec, start: Handover
    ) -> None:
        ffi = library.ffi
        self.c = ffi.new("hot_flow *")
        self.name = int(ffi.cast("uintptr_t", self.c))
        """What C calls it."""
        super().__init__(group, flow_id, key, codec, start)
        self.c.way.fd = -1
        self.c.group = group.c
        self.replay = SharedWindow(library, self.c)
        self.c.udp = key.udp
        if self.template is not None:
            headers = self.template.build(0, 0, 0, 0, 0)
            ffi.buffer(self.c.headers)[: len(headers)] = headers
            self.c.header_bytes = len(headers)
            self.c.identification = start.identification & 0xFFFF
            self.template = _SharedHeaders(self.template, self.c)
        self.keys = FlowKeysInC(library, self.c, codec)


class FlowKeysInC:
    """What C knows of the frames of one flow: token or keys.  ``turn`` follows the epochs of the session."""

    def __init__(self, library: Library, flow: Any, codec: FlowCodec) -> None:
        self._library = library
        self._flow = flow
        self._codec = codec if isinstance(codec, SealedCodec) else None
        self._sending = -1
        self._receiving = [-1, -1]
        """The numbers of the epochs that C has."""
        self._c: Any = None
        if isinstance(codec, PlainCodec):
            flow.cipher = _PLAIN
            flow.token_out, flow.token_in = codec.keys.token_out, codec.keys.token_in
        elif self._codec is not None and library.has_ciphers:
            self._seal(self._codec)

    def _seal(self, codec: SealedCodec) -> None:
        lib, ffi, keys = self._library.lib, self._library.ffi, codec.keys
        cipher = _AES if keys.ring.is_aes else _CHACHA
        made = lib.hot_keys_new(cipher, keys.mask_out_key, keys.mask_in_key)
        if made == ffi.NULL:
            return
        self._c = ffi.gc(made, lib.hot_keys_free)
        self._flow.cipher, self._flow.keys = cipher, self._c

    def follow(self) -> None:
        """C has the flow: it follows the epochs of the session from now on."""
        self.release()
        if self._codec is not None and self._c is not None:
            self._codec.keys.ring.watch(self.turn)
            self.turn()

    def release(self) -> None:
        """The flow has ended."""
        if self._codec is not None:
            self._codec.keys.ring.unwatch(self.turn)

    def turn(self) -> None:
        """The epochs of the session have changed."""
        if self._c is None or self._codec is None:
            return
        lib, ffi, keys = self._library.lib, self._library.ffi, self._codec.keys
        ring = keys.ring
        if ring.sending.number != self._sending:
            self._sending = ring.sending.number
            lib.hot_keys_send(self._c, ring.sending.bit, keys.data_key(ring.sending, outward=True))
        for bit in (0, 1):
            epoch = ring.understood[bit]
            # The first frame of a new epoch is Python's: it has to hear of it.
            number = epoch.number if epoch is not None and epoch.number <= ring.heard else -1
            if number != self._receiving[bit]:
                self._receiving[bit] = number
                key = keys.data_key(epoch, outward=False) if epoch is not None and number >= 0 else ffi.NULL
                lib.hot_keys_receive(self._c, bit, key)


class SharedGroup(FlowGroup):
    """See the module."""

    __slots__ = ("_array", "_usable", "c", "ffi")

    def __init__(self, library: Library, owner: object) -> None:
        self.ffi = library.ffi
        self.c = library.ffi.new("hot_group *")
        super().__init__(owner)

    @property
    def usable(self) -> list[PumpFlow]:
        """See ``FlowGroup``."""
        return self._usable

    @usable.setter
    def usable(self, flows: list[PumpFlow]) -> None:
        self._usable = flows
        self._array = self.ffi.new("hot_flow *[]", [flow.c for flow in flows if isinstance(flow, SharedFlow)])
        self.c.usable = self._array
        self.c.usable_count = len(flows)


class SharedConversation(PumpConversation):
    """See the module."""

    __slots__ = ("c",)

    number = _stored("number")
    kind = _stored("kind")
    sent_datagrams = _stored("sent_datagrams")
    sent_bytes = _stored("sent_bytes")
    received_datagrams = _stored("received_datagrams")
    received_bytes = _stored("received_bytes")

    def __init__(
        self,
        library: Library,
        group: SharedGroup,
        number: int,
        peer: Hashable,
        *,
        target: int,
        opening: bool,
    ) -> None:
        self.c = library.ffi.new("hot_conversation *")
        self.c.group = group.c
        super().__init__(group, number, peer, target=target, opening=opening)

    @property
    def prefix(self) -> bytes:
        """See ``PumpConversation``.  It follows ``kind``, which C changes."""
        return self.target.to_bytes(2, "big") if self.c.kind == Kind.OPENING else b""

    @prefix.setter
    def prefix(self, _: bytes) -> None:
        pass

    @property
    def pinned(self) -> PumpFlow | None:
        """See ``PumpConversation``."""
        return next((flow for flow in self.group.usable if getattr(flow, "c", None) == self.c.pinned), None)

    @pinned.setter
    def pinned(self, flow: PumpFlow | None) -> None:
        if isinstance(flow, SharedFlow):
            self.c.pinned = flow.c


class SharedStates:
    """See ``core.pump.state.States``.  ``engine``: the native one.

    ``flow_ready`` and ``conversation_ready`` are called with what C has just got, to say how it leaves this host;
    ``flow_gone`` and ``conversation_gone`` with what it no longer has.
    """

    def __init__(self, library: Library, engine: Any, spread: Spread) -> None:
        self._library = library
        self._engine = engine
        self.flows: dict[int, SharedFlow] = {}
        """By the name that C has for them."""
        self._conversations: dict[SharedConversation, None] = {}
        """Also keeps them alive as long as C has them."""
        self._lost: list[SharedFlow] = []
        self.flow_ready: Callable[[SharedFlow], None] = lambda _flow: None
        self.flow_gone: Callable[[SharedFlow], None] = lambda _flow: None
        self.conversation_ready: Callable[[SharedConversation], None] = lambda _conversation: None
        self.conversation_gone: Callable[[SharedConversation], None] = lambda _conversation: None
        library.lib.hot_set_spread(engine, spread is Spread.PACKET, spread is Spread.CONVERSATION)

    def waits(self) -> None:
        """C is about to run, and forgets what it has left."""
        self._lost.clear()

    def close(self) -> None:
        """Take every flow and conversation out of C."""
        for flow in list(self.flows.values()):
            self.lost_flow(flow)
        for conversation in list(self._conversations):
            self.lost_conversation(conversation)

    def flow(self, group: FlowGroup, flow_id: int, key: FlowKey, codec: FlowCodec, start: Handover) -> PumpFlow:
        """See ``States``."""
        return SharedFlow(self._library, _shared(group), flow_id, key, codec, start)

    def group(self, owner: object) -> FlowGroup:
        """See ``States``."""
        return SharedGroup(self._library, owner)

    def conversation(
        self, group: FlowGroup, number: int, peer: Hashable, *, target: int, opening: bool
    ) -> PumpConversation:
        """See ``States``."""
        return SharedConversation(self._library, _shared(group), number, peer, target=target, opening=opening)

    def has_flow(self, flow: PumpFlow) -> None:
        """See ``States``."""
        if isinstance(flow, SharedFlow):
            self.flows[flow.name] = flow
            flow.keys.follow()
            self._library.lib.hot_put_flow(self._engine, flow.c)
            self.flow_ready(flow)

    def lost_flow(self, flow: PumpFlow) -> None:
        """See ``States``."""
        if isinstance(flow, SharedFlow) and self.flows.pop(flow.name, None) is not None:
            self._lost.append(flow)  # what C left may still name it: no other flow may get its place in memory
            self._library.lib.hot_drop_flow(self._engine, flow.c)
            self.flow_gone(flow)
            flow.keys.release()

    def has_conversation(self, conversation: PumpConversation) -> None:
        """See ``States``."""
        if isinstance(conversation, SharedConversation):
            self._conversations[conversation] = None
            self._library.lib.hot_put_conversation(self._engine, conversation.c)
            self.conversation_ready(conversation)

    def lost_conversation(self, conversation: PumpConversation) -> None:
        """See ``States``."""
        if isinstance(conversation, SharedConversation):
            self._conversations.pop(conversation, None)
            self._library.lib.hot_drop_conversation(self._engine, conversation.c)
            self.conversation_gone(conversation)


def _shared(group: FlowGroup) -> SharedGroup:
    if not isinstance(group, SharedGroup):
        raise TypeError("a session that was begun with other states")
    return group
