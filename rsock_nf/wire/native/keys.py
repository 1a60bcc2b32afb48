"""Key derivation.

Not here: the secret as text (``rsock_nf.config.values``), which keys there are and their purpose (``handshake``,
``frames``), and the Noise handshake (``noise``).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869): ``length`` bytes, at most 8,160.  An empty ``salt`` counts as 32 zero bytes."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)
