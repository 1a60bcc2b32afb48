"""The frames of the original rsock: one in each segment.  A frame names client, conversation and flow; it proves
nothing.

    hash 8 | head length 1 | command 1 | client 8 | conversation 4 | flow 8 (v1: 4) | 0 | body, at least one byte

Integers are little-endian.  The head has 23 bytes (v1: 19), counted from its length byte.  The hash is the second
half of MD5(key, first byte of the body): 256 values for each key, the same in every frame.  It separates instances
with different keys, but stops no attacker.  So nothing here is called authentication.  ``docs/rsock.md`` has every
byte.

A frame has no length field: it is as long as its segment.  So no frame is sent in a burst.  Segments that GRO has
merged can be cut only if the link tells the segment size.

Not here: who may have a session (``client``, ``server``), and what a control message leads to.
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
"""Bytes of the longest frame that an original sends.  A longer payload is several frames that were merged."""

DATA, CONV_RST, NETCONN_RST, KEEP_ALIVE_REQ, KEEP_ALIVE_RESP = range(5)

_TCP_FLOW: Final = 0x10000000
_UDP_FLOW: Final = 0x20000000


class Layout(NamedTuple):
    """What differs between the two versions of the wire."""

    version: int
    head: struct.Struct
    """Hash, length of the head, command, client, conversation, flow, reserved."""
    flow: struct.Struct
    """The number of a flow, as in the head and in the body of a control frame."""


LAYOUTS: Final = {
    1: Layout(1, struct.Struct("<8sBB8sIIB"), struct.Struct("<I")),
    2: Layout(2, struct.Struct("<8sBB8sIQB"), struct.Struct("<Q")),
}
_CONVERSATION: Final = struct.Struct("<I")
HASH: Final = 8


class Frame(NamedTuple):
    """A parsed frame."""

    version: int
    command: int
    client: bytes
    """8 bytes, chosen by the client process.  We only compare them."""
    conversation: int
    """Has no meaning in a control frame."""
    flow_id: int
    body: Buffer


class FirstFrame(NamedTuple):
    """What a stranger's frame says about itself.  It proves only that its sender knows the key."""

    version: int
    client: int
    """The number of the client."""
    flow_id: int
    data: bool
    """It carries a datagram; False = a control message."""


@dataclass(frozen=True, slots=True)
class KeepAliveRequest:
    """Control message: is flow ``flow_id`` alive?  It may travel on any flow."""

    flow_id: int


@dataclass(frozen=True, slots=True)
class KeepAliveAnswer:
    """Control message: flow ``flow_id`` is alive.  It does not say which request it answers."""

    flow_id: int


def hash_of(key: bytes, first: int) -> bytes:
    """The first 8 bytes of a frame whose body begins with byte ``first``."""
    return hashlib.md5(key + bytes((first,)), usedforsecurity=False).digest()[8:]


def build_frame(key: bytes, frame: Frame) -> bytes:
    """The bytes of ``frame``.  Its body must not be empty."""
    layout = LAYOUTS[frame.version]
    size = layout.head.size - HASH
    digest = hash_of(key, frame.body[0])
    head = layout.head.pack(digest, size, frame.command, frame.client, frame.conversation, frame.flow_id, 0)
    return head + frame.body


def parse_frame_untrusted(hashes: Sequence[bytes], payload: memoryview) -> Frame:
    """The frame in ``payload``, of either version.  Raises ``Malformed``, also for the hash of another key."""
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
    """Frames, keys and names of a wire without a handshake.  The first frame on a flow names client and flow.

    ``key``: the ``hash`` of both ends.
    """

    def __init__(self, key: bytes) -> None:
        self._hashes = tuple(hash_of(key, first) for first in range(256))

    def keys(self, client: int, version: int) -> RsockKeys:
        """The keys for the codecs of client ``client`` (64 bits), in version ``version`` of the wire."""
        return RsockKeys(self._hashes, client.to_bytes(8, "big"), LAYOUTS[version])

    def flow_id(self, key: FlowKey, version: int) -> int:
        """The number that a client gives to a flow: from its ports before any NAT, as an original's client does."""
        if version == 1:
            return key.local_port << 1 | key.udp
        return (_UDP_FLOW if key.udp else _TCP_FLOW) | key.remote_port << 16 | key.local_port

    def read_untrusted(self, payload: memoryview) -> FirstFrame:
        """Read a stranger's payload.  Raises ``Malformed``, also for the hash of another key."""
        frame = parse_frame_untrusted(self._hashes, payload)
        client = int.from_bytes(frame.client, "big")
        return FirstFrame(frame.version, client, frame.flow_id, data=frame.command == DATA)


@dataclass(slots=True)
class RsockKeys:
    """What the flows of one client share (``SessionKeys``)."""

    hashes: tuple[bytes, ...]
    client: bytes
    layout: Layout
    believed: bool = True
    """True = the peer acknowledges what it received.  False = it is an original, and its ACKs mean nothing."""

    def codec(self, flow_id: int, *, initiator: bool) -> FlowCodec:
        """See ``SessionKeys``.  The codec is the same for both directions."""
        return RsockCodec(self, flow_id)


class RsockCodec:
    """See ``FlowCodec``.  The opened body of a control frame begins with its command."""

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
        """While True, ``unpack`` opens nothing.  So the wire gets the first frame whole and sees of which kind the
        peer is (``quirks``)."""

    def pack(
        self,
        kind: int,
        conversation: int,
        counter: int,
        prefix: bytes,
        datagrams: Sequence[Buffer],
    ) -> list[Buffer]:
        """See ``FlowCodec``.  No datagram may be empty."""
        if kind != Kind.DATA or prefix:
            raise ValueError("wire rsock has neither opening frames nor fragments")
        head = self._lead + _CONVERSATION.pack(conversation) + self._tail
        payload: list[Buffer] = []
        for datagram in datagrams:
            payload += (self._hashes[datagram[0]] + head, datagram)
        return payload

    def unpack(self, payload: memoryview, segment_size: int) -> tuple[list[Frames], int]:
        """See ``FlowCodec``.  If the segment size is not known, the payload must be one frame; else it is lost."""
        if self.unheard:
            return [], 0
        return self.open(payload, segment_size)

    def open(self, payload: memoryview, segment_size: int) -> tuple[list[Frames], int]:
        """The same as ``unpack``, also while ``unheard`` is True."""
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
        """The frame at ``start``.  None = it is not a frame of this flow."""
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

    def may_open(self, payload: memoryview) -> bool:
        """See ``FlowCodec``.  Its flows are fake TCP."""
        return False

    def pack_control(self, counter: int, message: object) -> bytes:
        """See ``FlowCodec``.  ``CloseFlow`` becomes the message that this flow is down."""
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
        """See ``FlowCodec``.  If a flow says that it is down itself, that is ``CloseFlow``."""
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
    """Whether ``frame``, which begins at ``at``, continues ``run``: equal sizes, but the last may be shorter."""
    return (
        run.kind == frame.kind == Kind.DATA
        and run.conversation == frame.conversation
        and run.end == at
        and len(run.datagrams[-1]) == run.size >= frame.size
    )
