"""The envelope of each handshake message: it hides what is inside, and nobody without the secret can make one.

It has a synthetic IV (the construction of RFC 5297, with other primitives): 16 bytes of keyed BLAKE2s over kind and
body, called the salt.  Kind and body are masked with the output of SHAKE256 over mask key and salt.  Both keys come
from the secret.

A stranger's payload is opened before anything else is known of it.  So its length is looked at first, and both
primitives are one call into C: about 5 microseconds in all.

Not here: whether the message is new.  An attacker can send a recorded one.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Mapping

from rsock_nf.core.types import Buffer, Malformed

SALT = 16
ENVELOPE = SALT + 1
"""Bytes that a message is longer than its body."""
MAX_PADDING = 63
"""The most random bytes of padding in a hello or join."""


class MessageKind(enum.IntEnum):
    """What is in an envelope."""

    HELLO = 1
    ANSWER = 2
    JOIN = 3
    JOIN_ANSWER = 4
    CONFIRM = 5
    GONE = 6
    COOKIE = 7


class Lengths:
    """The lengths that the messages of one end may have, in bytes, envelope included."""

    def __init__(self, of: Mapping[int, range]) -> None:
        self.of = of
        self.possible = frozenset(size for sizes in of.values() for size in sizes)


FROM_CLIENT = Lengths(
    {
        MessageKind.HELLO: range(95, 95 + MAX_PADDING + 1),
        MessageKind.JOIN: range(50, 50 + MAX_PADDING + 1),
        MessageKind.CONFIRM: range(61, 62),
    }
)
FROM_SERVER = Lengths(
    {
        MessageKind.ANSWER: range(95, 96),
        MessageKind.JOIN_ANSWER: range(49, 50),
        MessageKind.GONE: range(33, 34),
        MessageKind.COOKIE: range(49, 50),
    }
)
"""None is longer than the message that it answers."""


class Envelope:
    """Envelopes under one secret.  ``mask`` and ``seal``: 32 bytes each."""

    def __init__(self, mask: bytes, seal: bytes) -> None:
        self._masks = hashlib.shake_256(mask)
        self._seal = seal

    def wrap(self, kind: MessageKind, body: bytes) -> bytes:
        """The message of ``kind`` with ``body``."""
        opened = bytes((kind,)) + body
        salt = self._salt(opened)
        return salt + self._masked(salt, opened)

    def open(self, message: Buffer, lengths: Lengths) -> tuple[int, bytes]:
        """(kind, body) of ``message``.  ``lengths``: ``FROM_CLIENT`` or ``FROM_SERVER``.

        Raises ``Malformed`` if no message of that end has this length, or if it was made without the secret.
        """
        size = len(message)
        if size not in lengths.possible:
            raise Malformed(f"no handshake message has {size} bytes")
        salt = bytes(message[:SALT])
        opened = self._masked(salt, message[SALT:])
        if not hmac.compare_digest(self._salt(opened), salt):
            raise Malformed("envelope of somebody without the secret")
        if size not in lengths.of.get(opened[0], ()):
            raise Malformed(f"message of kind {opened[0]} with {size} bytes")
        return opened[0], opened[1:]

    def _salt(self, opened: bytes) -> bytes:
        return hashlib.blake2s(opened, key=self._seal, digest_size=SALT).digest()

    def _masked(self, salt: bytes, data: Buffer) -> bytes:
        masks = self._masks.copy()
        masks.update(salt)
        size = len(data)
        mask = int.from_bytes(masks.digest(size), "big")
        return (int.from_bytes(data, "big") ^ mask).to_bytes(size, "big")
