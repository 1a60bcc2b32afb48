"""What hello, join, their answers and the confirmation say, as values.  Their bytes are ``handshake``'s business."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rsock_nf.core.parameters import Cipher


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


class Gone:
    """The server does not know the session (it was restarted): say hello."""
