"""What pump and flows ask of a wire format: the frames of one flow (``FlowCodec``), a session's keys, its limits.

``rsock_nf.wire`` implements them; what the ends ask of it is in ``ends.wire``.  The core never sees a key.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from rsock_nf.core.types import Buffer

Rng: TypeAlias = Callable[[int], bytes]
"""``rng(n)`` gives n random bytes: ``os.urandom``, or a seeded one in tests."""


class Kind(enum.IntEnum):
    """What a frame carries."""

    DATA = 0
    """One datagram."""
    OPENING = 1
    """Target index u16, then one datagram: the peer may not know the conversation yet."""
    FRAGMENT = 2
    """A fragment header (``core.fragments``), then a part of one datagram."""
    CONTROL = 3
    """A sealed control message."""


MAX_FRAME = 16384
"""Bytes of the longest frame, header and tag included: its length has 14 bits."""


class Frames(NamedTuple):
    """Consecutive frames of one kind and conversation, opened and authenticated."""

    kind: int
    conversation: int
    counter: int
    """Of the first frame, the others follow by one; -1 = this cipher has none (no replay check is possible)."""
    datagrams: list[Buffer]
    """What the frames carry (a control frame: its opened body)."""
    size: int
    """Bytes of each but the last, which may be shorter."""
    end: int
    """Offset behind the last of these frames in the payload that they came in."""


class FlowCodec(Protocol):
    """Builds and opens the frames of one flow, both directions.  Keeps no state: counters are the pump's."""

    overhead: int
    """Bytes that a data frame adds to its datagram."""

    def pack(
        self, kind: int, conversation: int, counter: int, prefix: bytes, datagrams: Sequence[Buffer]
    ) -> list[Buffer]:
        """The payload of a burst: a frame for each of ``datagrams`` (all of one size, the last may be shorter).

        ``prefix`` goes before each datagram, inside its frame; ``counter`` is the first frame's.
        """

    def unpack(self, payload: memoryview, segment_size: int) -> tuple[list[Frames], int]:
        """Open every frame of a received payload: (what authenticates, how many frames or segments did not).

        ``segment_size``: see ``Packet``; 0 = cut by the frames' own lengths.  Never raises.
        """

    def pack_control(self, counter: int, message: object) -> bytes:
        """One sealed control frame.  ``message``: one of ``core.messages``, or of the wire's own."""

    def control_size(self, message: object) -> int:
        """Bytes that ``pack_control`` makes of it."""

    def read_control(self, body: Buffer) -> object:
        """The message in an opened control frame.  Raises ``Malformed``."""


class Limits(NamedTuple):
    """What frames of a wire can carry."""

    max_payload: int
    """Bytes of the largest payload of one segment."""
    bursts: bool
    """Several frames may share a packet: they can be told apart where GRO has merged them."""
    fragments: bool
    """A datagram larger than a segment can travel in pieces."""
    shortest: int
    """Bytes of the shortest datagram that can travel."""
    opening_bytes: int
    """Bytes that an opening frame carries more than a plain one; 0 = the wire has no opening frames."""
    first_conversation: int | None
    """Where a client begins to number conversations; None = anywhere."""


class SessionKeys(Protocol):
    """The secrets of one session; opaque to the core."""

    def codec(self, flow_id: int, *, initiator: bool) -> FlowCodec:
        """The codec of a flow, for the client (``initiator``) or the server."""
