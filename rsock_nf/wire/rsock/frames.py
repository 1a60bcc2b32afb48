"""Frames of the original rsock: one for each segment, behind a head that says who and where, but proves nothing.

    hash 8 | head length 1 | command 1 | client 8 | conversation 4 | flow 8 (v1: 4) | 0 | body, at least one byte

Integers are little-endian; the head is 23 bytes (v1: 19), counted from its length byte.  The hash is the second half of
MD5(key, first byte of the body): 256 values for each key, the same in every frame.  It keeps strangers apart
and no attacker out, which is why nothing here is called authentication.  ``docs/rsock.md`` has every byte.

A frame has no length of its own: its segment is its length.  So none is sent in a burst, and what a receiver's GRO
merged can be cut only where the link tells the segment size.

Not here: who may have a session (``client``, ``server``), and what becomes of a control message.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rsock_nf.core import messages
from rsock_nf.core.protocols import FlowCodec, Frames, Kind
from rsock_nf.core.types import Buffer, FlowKey, Malformed

MAX_RECEIVED: Final = 1500
"""Bytes of the longest frame that an original sends; a payload beyond it is several frames that somebody merged."""

DATA, CONV_RST, NETCONN_RST, KEEP_ALIVE_REQ, KEEP_ALIVE_RESP = range(5)

_TCP_FLOW: Final = 0x10000000
_UDP_FLOW: Final = 0x20000000


class Layout(NamedTuple):
    """What differs between the versions."""

    version: int
    head: struct.Struct
    """Hash, length of the head, command, client, conversation, flow, reserved."""
    flow: struct.Struct
    """A flow's key, as the head and control bodies spell it."""


LAYOUTS: Final = {
    1: Layout(1, struct.Struct("<8sBB8sIIB"), struct.Struct("<I")),
    2: Layout(2, struct.Struct("<8sBB8sIQB"), struct.Struct("<Q")),
}
_CONVERSATION: Final = struct.Struct("<I")
HASH: Final = 8


class Frame(NamedTuple):
    """One parsed frame."""

    version: int
    command: int
    client: bytes
    """8 bytes, chosen by the client process; opaque."""
    conversation: int
    """Means nothing in a control frame."""
    flow_id: int
    body: Buffer


class FirstFrame(NamedTuple):
    """What a stranger's frame says of itself.  It proves only that somebody knows the key."""

    version: int
    client: int
    """The client's id."""
    flow_id: int
    data: bool
    """It carries a datagram, not a control message."""


@dataclass(frozen=True, slots=True)
class KeepAliveRequest:
    """Control message: does flow ``flow_id`` still live?  It may travel on any flow."""

    flow_id: int


@dataclass(frozen=True, slots=True)
class KeepAliveAnswer:
    """Control message: it does.  Nothing tells which request it answers."""

    flow_id: int


def hash_of(key: bytes, first: int) -> bytes:
    """The 8 bytes that a frame with the first body byte ``first`` begins with."""
    return hashlib.md5(key + bytes((first,)), usedforsecurity=False).digest()[8:]


def build_frame(key: bytes, frame: Frame) -> bytes:
    """``frame`` as bytes; its body must not be empty."""
    layout = LAYOUTS[frame.version]
    size = layout.head.size - HASH
    digest = hash_of(key, frame.body[0])
    head = layout.head.pack(digest, size, frame.command, frame.client, frame.conversation, frame.flow_id, 0)
    return head + frame.body


def parse_frame_untrusted(hashes: Sequence[bytes], payload: memoryview) -> Frame:
    """The frame that ``payload`` is, of either version.  Raises ``Malformed``, also for another key's hash."""
    size = len(payload)
    layout = _BY_LENGTH.get(payload[HASH]) if size > HASH else None
    if layout is None or not layout.head.size < size <= MAX_RECEIVED:
        raise Malformed(f"no rsock frame in {size} bytes")
    digest, _, command, client, conversation, flow_id, _ = layout.head.unpack_from(payload)
    body = payload[layout.head.size :]
    if digest != hashes[body[0]]:
        raise Malformed("rsock frame with the hash of another key")
    if command > KEEP_ALIVE_RESP:
        raise Malformed(f"rsock command {command}")
    return Frame(layout.version, command, client, conversation, flow_id, body)


_BY_LENGTH: Final = {layout.head.size - HASH: layout for layout in LAYOUTS.values()}


class RsockFormat:
    """A wire without a handshake: the first frame of a flow is a datagram, and names client and flow.

    ``key``: what both ends call ``hash``.
    """

    def __init__(self, key: bytes) -> None:
        self._hashes = tuple(hash_of(key, first) for first in range(256))

    def keys(self, client: int, version: int) -> RsockKeys:
        """What the codecs of client ``client`` (64 bits) need, in version ``version`` of the wire."""
        return RsockKeys(self._hashes, client.to_bytes(8, "big"), LAYOUTS[version])

    def flow_id(self, key: FlowKey, version: int) -> int:
        """What a client calls a flow: as the original's does, by its ports before any NAT."""
        if version == 1:
            return key.local_port << 1 | key.udp
        return (_UDP_FLOW if key.udp else _TCP_FLOW) | key.remote_port << 16 | key.local_port

    def read_untrusted(self, payload: memoryview) -> FirstFrame:
        """What a stranger's payload is.  Raises ``Malformed``, also for another key's hash."""
        frame = parse_frame_untrusted(self._hashes, payload)
        client = int.from_bytes(frame.client, "big")
        return FirstFrame(frame.version, client, frame.flow_id, data=frame.command == DATA)


@dataclass(slots=True)
class RsockKeys:
    """What the flows of one client have in common (``SessionKeys``)."""

    hashes: tuple[bytes, ...]
    client: bytes
    layout: Layout
    believed: bool = True
    """The peer's acknowledgements follow what it received; else it is an original, and they follow nothing."""

    def codec(self, flow_id: int, *, initiator: bool) -> FlowCodec:
        """See ``SessionKeys``.  Both directions are alike."""
        return RsockCodec(self, flow_id)


class RsockCodec:
    """See ``FlowCodec``.  A control frame's opened body begins with its command."""

    def __init__(self, keys: RsockKeys, flow_id: int) -> None:
        self._hashes = keys.hashes
        self._head = keys.layout.head
        self._flow = keys.layout.flow
        self._flow_id = flow_id
        self._client = keys.client
        self._length = self._head.size - HASH
        self._lead = bytes((self._length, DATA)) + keys.client
        self._tail = self._flow.pack(flow_id) + b"\0"
        self.overhead = self._head.size
        self.unheard = False
        """Nothing is opened yet: the first frame comes to the wire whole (``quirks``), to tell what kind of peer it is of."""

    def pack(
        self,
        kind: int,
        conversation: int,
        counter: int,
        prefix: bytes,
        datagrams: Sequence[Buffer],
    ) -> list[Buffer]:
        """See ``FlowCodec``; no datagram may be empty."""
        if kind != Kind.DATA or prefix:
            raise ValueError("wire rsock has neither opening frames nor fragments")
        head = self._lead + _CONVERSATION.pack(conversation) + self._tail
        payload: list[Buffer] = []
        for datagram in datagrams:
            payload += (self._hashes[datagram[0]] + head, datagram)
        return payload

    def unpack(self, payload: memoryview, segment_size: int) -> tuple[list[Frames], int]:
        """See ``FlowCodec``.  Where nothing tells the segment size, the payload is one frame or it is lost."""
        if self.unheard:
            return [], 0
        return self.open(payload, segment_size)

    def open(self, payload: memoryview, segment_size: int) -> tuple[list[Frames], int]:
        """The same, also while the flow is unheard."""
        size = len(payload)
        if not segment_size or segment_size >= size:
            found = self._open(payload, 0, size)
            return ([found], 0) if found else ([], 1)
        opened: list[Frames] = []
        bad = 0
        for at in range(0, size, segment_size):
            found = self._open(payload, at, min(at + segment_size, size))
            if found is None:
                bad += 1
            elif opened and _continues(opened[-1], found, at):
                last = opened[-1]
                last.datagrams.append(found.datagrams[0])
                opened[-1] = last._replace(end=found.end)
            else:
                opened.append(found)
        return opened, bad

    def _open(self, payload: memoryview, start: int, end: int) -> Frames | None:
        """The frame at ``start``; None = it is none of this flow."""
        body = start + self.overhead
        if not body < end <= start + MAX_RECEIVED:
            return None
        digest, length, command, client, conversation, flow_id, _ = self._head.unpack_from(payload, start)
        if digest != self._hashes[payload[body]] or (length, client, flow_id) != (
            self._length,
            self._client,
            self._flow_id,
        ):
            return None
        if command == DATA:
            return Frames(Kind.DATA, conversation, -1, [payload[body:end]], end - body, end)
        if command > KEEP_ALIVE_RESP:
            return None
        message = bytes((command,)) + payload[body:end]
        return Frames(Kind.CONTROL, 0, -1, [message], len(message), end)

    def pack_control(self, counter: int, message: object) -> bytes:
        """See ``FlowCodec``.  A flow that closes says that it is down."""
        match message:
            case KeepAliveRequest(flow_id=flow_id):
                command, body = KEEP_ALIVE_REQ, self._flow.pack(flow_id)
            case KeepAliveAnswer(flow_id=flow_id):
                command, body = KEEP_ALIVE_RESP, self._flow.pack(flow_id)
            case messages.FlowDown(flow_id=flow_id):
                command, body = NETCONN_RST, self._flow.pack(flow_id)
            case messages.CloseFlow():
                command, body = NETCONN_RST, self._flow.pack(self._flow_id)
            case messages.CloseConversation(conversation=number) | messages.Refused(conversation=number):
                command, body = CONV_RST, _CONVERSATION.pack(number)
            case _:
                raise ValueError(f"wire rsock has no words for {message}")
        head = self._head.pack(self._hashes[body[0]], self._length, command, self._client, 0, self._flow_id, 0)
        return head + body

    def control_size(self, message: object) -> int:
        """See ``FlowCodec``."""
        return len(self.pack_control(0, message))

    def read_control(self, body: Buffer) -> object:
        """See ``FlowCodec``.  What this flow says of its own end is ``CloseFlow``."""
        command = body[0] if body else DATA
        field = _CONVERSATION if command == CONV_RST else self._flow
        if not CONV_RST <= command <= KEEP_ALIVE_RESP or len(body) < 1 + field.size:
            raise Malformed(f"rsock command {command} with {len(body) - 1} bytes")
        (number,) = field.unpack_from(body, 1)
        if command == CONV_RST:
            return messages.CloseConversation(number)
        if command == KEEP_ALIVE_REQ:
            return KeepAliveRequest(number)
        if command == KEEP_ALIVE_RESP:
            return KeepAliveAnswer(number)
        return messages.CloseFlow() if number == self._flow_id else messages.FlowDown(number)


def _continues(run: Frames, frame: Frames, at: int) -> bool:
    """``frame``, which begins at ``at``, belongs to ``run``: equal sizes, only the last may be shorter."""
    return (
        run.kind == frame.kind == Kind.DATA
        and run.conversation == frame.conversation
        and run.end == at
        and len(run.datagrams[-1]) == run.size >= frame.size
    )
