"""The contents of hello, join, their answers and the confirmation, as values.  ``handshake`` makes their bytes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rsock_nf.core.parameters import Cipher
from rsock_nf.core.types import ALL_PORTS, Shard


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client says about itself and about the flow, in a hello or join."""

    cipher: Cipher
    mss: int
    """The MSS option of the SYN-ACK as the client received it."""
    window_scale: int | None
    """The window scale of the SYN-ACK as the client received it.  None = it had no such option."""


class Status(enum.IntEnum):
    """What the server decides about a hello."""

    WELCOME = 0
    CIPHER = 1
    """The server uses another cipher, which the answer names."""
    FULL = 2
    """The server has as many sessions as it allows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to a hello."""

    status: Status
    cipher: Cipher
    session_id: int
    targets: int
    """The number of targets that the server has."""
    shard: Shard = ALL_PORTS
    """The server's ports at which the session is known."""


class Place(NamedTuple):
    """What a client sent and received on a flow before a hello, as bytes of payload; both at most 65,535.

    So the server finds the first numbers of the TCP connection, although it has kept nothing of it.
    """

    sent: int = 0
    received: int = 0


class HelloMessage(NamedTuple):
    """A hello in a genuine envelope.  It may be a recorded one."""

    cookie: bytes
    place: Place
    message: bytes


class Hello(Protocol):
    """A hello that has authenticated under the secret.  ``NativeHandshake.answer`` needs the object itself."""

    @property
    def offer(self) -> Offer:
        """What the client says about itself and the flow."""


class JoinMessage(NamedTuple):
    """A join in a genuine envelope, that has not authenticated yet."""

    session_id: int
    number: int
    message: bytes


class ConfirmMessage(NamedTuple):
    """A confirmation that has not authenticated yet."""

    session_id: int
    number: int
    message: bytes


class CookieMessage(NamedTuple):
    """The server wants a hello with this cookie.  ``freshness.NO_COOKIE`` = it wants none from there at present."""

    cookie: bytes
    place: Place
    """Of the next hello on this flow."""


class Gone:
    """The server was restarted and does not know the session: the client must say hello."""
