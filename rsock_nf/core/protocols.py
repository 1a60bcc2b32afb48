"""What pump and flows ask of a wire: the frames of one flow (``FlowCodec``), a session's keys, and its limits.

``rsock_nf.wire`` implements these interfaces.  What the endpoint asks of a wire is in ``ends.wire``.  The core
never sees a key.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from rsock_nf.core.types import Buffer

Rng: TypeAlias = Callable[[int], bytes]
"""``rng(n)`` gives n random bytes: ``os.urandom``, or a seeded function in tests."""


class Kind(enum.IntEnum):
    """What a frame carries."""

    DATA = 0
    """One datagram."""
    OPENING = 1
    """The target index (u16), then one datagram.  Used while the peer may not know the conversation yet."""
    FRAGMENT = 2
    """A fragment header (``pump.fragments``), then a part of one datagram."""
    CONTROL = 3
    """A sealed control message."""


MAX_FRAME = 16384
"""Bytes of the longest frame, header and tag included.  A frame's length field has 14 bits."""


class Frames(NamedTuple):
    """Consecutive frames of one kind and conversation, opened and authenticated."""

    kind: int
    conversation: int
    counter: int
    """The counter of the first frame; each later frame has the next number.  -1 = the cipher has no counters, so
    there is no replay check."""
    datagrams: list[Buffer]
    """What the frames carry.  Of a control frame: its opened body."""
    size: int
    """Bytes of each but the last, which may be shorter."""
    end: int
    """The offset behind the last of these frames, in the payload in which they came."""


class FlowCodec(Protocol):
    """Builds and opens the frames of one flow, in both directions.  Keeps no counters: they belong to the pump."""

    overhead: int
    """Bytes that a data frame is larger than its datagram."""

    def pack(
        self, kind: int, conversation: int, counter: int, prefix: bytes, datagrams: Sequence[Buffer]
    ) -> list[Buffer]:
        """The payload of a burst: one frame for each of ``datagrams``.

        All datagrams have one size, but the last may be shorter.  ``prefix`` is put before each datagram, inside
        its frame.  ``counter`` is the counter of the first frame.
        """

    def unpack(self, payload: memoryview, segment_size: int) -> tuple[list[Frames], int]:
        """Open every frame of a received payload: (the frames that authenticate, how many frames or segments did not).

        ``segment_size``: see ``Packet``.  0 = the lengths in the frames tell where each begins.  Never raises.
        """

    def may_open(self, payload: memoryview) -> bool:
        """Whether a datagram of unknown origin may be one frame of this flow.  Costs no decryption.

        False = it is not.  True = ``unpack`` is to decide; with a sealed cipher one of 16,384 others gets that far.
        """

    def pack_control(self, counter: int, message: object) -> bytes:
        """Build one sealed control frame.  ``message``: one of ``core.messages``, or one of the wire's own."""

    def control_size(self, message: object) -> int:
        """Bytes of the control frame that ``pack_control`` makes of ``message``."""

    def read_control(self, body: Buffer) -> object:
        """The message in an opened control frame.  Raises ``Malformed``."""


class Limits(NamedTuple):
    """What frames of a wire can carry."""

    max_payload: int
    """Bytes of the largest payload of one segment."""
    bursts: bool
    """Several frames may share a packet: the receiver can tell them apart even after GRO has merged them."""
    fragments: bool
    """A datagram larger than a segment can travel in pieces."""
    shortest: int
    """Bytes of the shortest datagram that can travel."""
    opening_bytes: int
    """Bytes that an opening frame is larger than a plain one.  0 = the wire has no opening frames."""
    first_conversation: int | None
    """The number of a client's first conversation.  None = any."""


class SessionKeys(Protocol):
    """The secrets of one session; opaque to the core."""

    def codec(self, flow_id: int, *, initiator: bool) -> FlowCodec:
        """The codec of one flow.  ``initiator``: True at the client, False at the server."""
