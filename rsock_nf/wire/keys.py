"""Secrets and the keys that come from them.

Not here: which keys there are and what they are for (``native``), and the handshake (``noise``).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_SIZE: Final = 32


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869): ``length`` bytes, at most 8,160; an empty ``salt`` counts as 32 zero bytes."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def generate_secret(rng: Callable[[int], bytes]) -> str:
    """A new secret as text: 32 bytes from ``rng`` (``os.urandom`` in production), 44 characters of base64."""
    return base64.b64encode(rng(SECRET_SIZE)).decode("ascii")


def parse_secret(text: str) -> bytes:
    """The 32 bytes that ``generate_secret`` wrote; white space around is ignored.

    Raises ``ValueError`` with one line that never shows the text, since it may be nearly a secret.
    """
    remedy = "make one with `rsock-nf genkey`"
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"secret is not base64 text; {remedy}") from None
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"secret has {len(secret)} bytes, need {SECRET_SIZE}; {remedy}")
    return secret
