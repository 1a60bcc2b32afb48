"""What the core asks of a wire format: ``FlowCodec`` (frames of one flow) and ``Handshake`` (who may have a session).

``rsock_nf.wire`` implements them.  The core never sees a key.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from rsock_nf.core.messages import Control
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.types import Buffer, FlowKey

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

    def pack_control(self, counter: int, message: Control) -> bytes:
        """One sealed control frame."""

    def control_size(self, message: Control) -> int:
        """Bytes that ``pack_control`` makes of it."""

    def read_control(self, body: Buffer) -> Control:
        """The message in an opened control frame.  Raises ``Malformed``."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the client tells of itself and of the flow in a hello or join."""

    cipher: Cipher
    mss: int
    """The MSS option of the SYN-ACK as the client received it."""
    window_scale: int | None
    """The window scale of the SYN-ACK as the client received it; None = it had none."""


class Status(enum.IntEnum):
    """A server's word on a hello."""

    WELCOME = 0
    CIPHER = 1
    """The server uses another cipher (named in the answer)."""
    FULL = 2
    """The server has as many sessions as it allows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to a hello."""

    status: Status
    cipher: Cipher
    session_id: int
    challenge: bytes
    targets: int
    """How many targets the server has."""


class SessionKeys(Protocol):
    """The secrets of one session; opaque to the core."""

    def codec(self, flow_id: int, *, initiator: bool) -> FlowCodec:
        """The codec of a flow, for the client (``initiator``) or the server."""


class HelloMessage(Protocol):
    """A hello that authenticated under the secret; only its answer can use the rest."""

    @property
    def offer(self) -> Offer:
        """What the client tells of itself."""


class JoinMessage(NamedTuple):
    """A join: not authenticated yet."""

    session_id: int
    number: int
    message: bytes


class ConfirmMessage(NamedTuple):
    """A confirmation: not authenticated yet."""

    session_id: int
    number: int
    message: bytes


class FirstFrame(NamedTuple):
    """A stranger's frame in an ``OpenFormat``: what it says of itself.  It proves only that somebody knows the key."""

    version: int
    client: int
    """The client's id."""
    flow_id: int
    data: bool
    """It carries a datagram, not a control message."""


class OpenFormat(Protocol):
    """A wire without a handshake of its own: the first frame of a flow is a datagram, and names client and flow."""

    def keys(self, client: int, version: int) -> SessionKeys:
        """What the codecs of client ``client`` (64 bits) need, in version ``version`` of the wire."""

    def flow_id(self, key: FlowKey, version: int) -> int:
        """Client: what a flow is called."""

    def read_untrusted(self, payload: memoryview) -> FirstFrame:
        """Server: what a stranger's payload is.  Raises ``Malformed``, also for another key's hash."""


class Gone:
    """The server does not know the session (it was restarted): say hello."""


class Handshake(Protocol):
    """Who may have a session, from one shared secret.  Stateless but for the secret."""

    hello_answer_size: int
    """Bytes of an answer; a hello is never shorter."""

    def hello(self, offer: Offer, rng: Rng) -> tuple[bytes, object]:
        """Client: (first message, what ``read_answer`` needs)."""

    def read_answer(self, pending: object, message: Buffer) -> tuple[Answer, SessionKeys]:
        """Client.  Raises ``Malformed`` unless it is the answer of someone who has the secret."""

    def join(self, keys: SessionKeys, session_id: int, number: int, offer: Offer, rng: Rng) -> bytes:
        """Client: ask for a further flow in a session; ``number`` becomes the flow's id."""

    def read_join_answer(self, keys: SessionKeys, number: int, join: bytes, message: Buffer) -> bytes | Gone:
        """Client: the challenge, or the word that the session is gone.  Raises ``Malformed``."""

    def confirm(self, keys: SessionKeys, session_id: int, number: int, challenge: bytes) -> bytes:
        """Client: the challenge sent back, sealed."""

    def read_untrusted(
        self, message: Buffer, rng: Rng, *, admit: Callable[[], bool] | None = None
    ) -> HelloMessage | JoinMessage | ConfirmMessage:
        """Server: what a stranger's payload is.  Raises ``Malformed``, also for a wrong secret.

        A hello costs public-key operations: ``admit`` is asked before them, and refuses it by False.  Only a hello that
        somebody with the secret has made some time comes so far.
        """

    def answer(self, hello: HelloMessage, answer: Answer) -> tuple[bytes, SessionKeys]:
        """Server: (second message, the session's keys)."""

    def read_join(self, keys: SessionKeys, join: JoinMessage) -> Offer:
        """Server.  Raises ``Malformed`` unless the session's client made it."""

    def join_answer(self, keys: SessionKeys, number: int, challenge: bytes) -> bytes:
        """Server: challenge whoever sent the join."""

    def gone(self, join: JoinMessage) -> bytes:
        """Server: it does not know the session that this join names."""

    def read_confirm(self, keys: SessionKeys, confirm: ConfirmMessage) -> bytes:
        """Server: the challenge that came back.  Raises ``Malformed``."""
