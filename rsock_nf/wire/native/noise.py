"""The Noise handshake NNpsk0 over X25519 (Noise Protocol Framework, revision 34).

    NNpsk0:
      -> psk, e
      <- e, ee

Two messages between two ends that share a 32-byte secret.  Both ephemeral keys are fresh, so recorded traffic stays
secret even if the shared secret leaks later.  Cipher and hash are parameters: rsock-nf uses ChaChaPoly or AESGCM
with SHA256; published test vectors use the others.

Not here: transport messages (frames have nonces and keys of their own, derived from ``split``), padding and masking
of the two messages, and replay of the first one, which no handshake of this form can detect.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from rsock_nf.core.types import Malformed

CipherName: TypeAlias = Literal["ChaChaPoly", "AESGCM"]
HashName: TypeAlias = Literal["SHA256", "SHA512", "BLAKE2s", "BLAKE2b"]

KEY_SIZE: Final = 32
"""Bytes of a secret, of either half of an X25519 pair, and of every cipher key."""
TAG_SIZE: Final = 16
OVERHEAD: Final = KEY_SIZE + TAG_SIZE
"""Bytes that a message is longer than its payload."""
MAX_MESSAGE: Final = 65535
"""Bytes.  Section 3."""


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


_CIPHERS: Final[dict[CipherName, tuple[Callable[[bytes], _Aead], Literal["little", "big"]]]] = {
    "ChaChaPoly": (ChaCha20Poly1305, "little"),
    "AESGCM": (AESGCM, "big"),
}
"""Constructor, and the byte order of the 64-bit counter in the nonce (sections 12.3, 12.4)."""


class _Symmetric:
    """SymmetricState with its CipherState (sections 5.1, 5.2): the transcript and the keys so far."""

    def __init__(self, protocol_name: bytes, cipher: CipherName, hash_name: HashName) -> None:
        self._aead, self._byte_order = _CIPHERS[cipher]
        self._hash_name = hash_name.lower()
        size = hashlib.new(self._hash_name).digest_size
        padded = protocol_name.ljust(size, b"\0")
        self.hash = padded if len(padded) == size else self._digest(protocol_name)
        self._chaining_key = self.hash
        self._key = b""
        self._nonce = 0

    def _digest(self, data: bytes) -> bytes:
        return hashlib.new(self._hash_name, data).digest()

    def _hkdf(self, material: bytes, outputs: int) -> list[bytes]:
        """HKDF of section 4.3: ``outputs`` values, each of the size of the hash."""
        temporary = hmac.digest(self._chaining_key, material, self._hash_name)
        output, result = b"", []
        for i in range(1, outputs + 1):
            output = hmac.digest(temporary, output + bytes((i,)), self._hash_name)
            result.append(output)
        return result

    def _start_key(self, key: bytes) -> None:
        self._key, self._nonce = key[:KEY_SIZE], 0

    def mix_hash(self, data: bytes) -> None:
        self.hash = self._digest(self.hash + data)

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = self._hkdf(material, 2)
        self._start_key(key)

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, to_hash, key = self._hkdf(material, 3)
        self.mix_hash(to_hash)
        self._start_key(key)

    def _next_nonce(self) -> bytes:
        counter = self._nonce
        self._nonce += 1
        return bytes(4) + counter.to_bytes(8, self._byte_order)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._aead(self._key).encrypt(self._next_nonce(), plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        try:
            plaintext = self._aead(self._key).decrypt(self._next_nonce(), ciphertext, self.hash)
        except (InvalidTag, ValueError):
            raise Malformed("handshake message does not authenticate") from None
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The two keys: initiator → responder, and responder → initiator."""
        first, second = self._hkdf(b"", 2)
        return first[:KEY_SIZE], second[:KEY_SIZE]


class NNpsk0:
    """One end of one handshake.

    The initiator writes, then reads; the responder reads, then writes.  Then both call ``split``.  Another order is
    a bug of the caller and raises ``RuntimeError``.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        psk: bytes,
        prologue: bytes,
        rng_key: bytes,
        cipher: CipherName = "ChaChaPoly",
        hash_name: HashName = "SHA256",
    ) -> None:
        """``psk``: 32 bytes.  ``prologue``: bytes on which both ends must agree.

        ``rng_key``: 32 fresh random bytes, the ephemeral private key, never used twice.  Raises ``ValueError`` for
        other sizes.
        """
        if len(psk) != KEY_SIZE or len(rng_key) != KEY_SIZE:
            raise ValueError(f"psk of {len(psk)} and ephemeral key of {len(rng_key)} bytes, need {KEY_SIZE} each")
        self._initiator = initiator
        self._psk = psk
        self._ephemeral = X25519PrivateKey.from_private_bytes(rng_key)
        self._public = self._ephemeral.public_key().public_bytes_raw()
        self._remote: X25519PublicKey | None = None
        self._messages = 0
        self._state = _Symmetric(f"Noise_NNpsk0_25519_{cipher}_{hash_name}".encode(), cipher, hash_name)
        self._state.mix_hash(prologue)

    @property
    def handshake_hash(self) -> bytes:
        """After both messages: equal at both ends, and different for every other handshake.

        This is for channel binding (section 11.2).
        """
        return self._state.hash

    @property
    def finished(self) -> bool:
        """Both messages are done."""
        return self._messages == 2

    def write_message(self, payload: bytes) -> bytes:
        """The next message, 48 bytes longer than ``payload``.

        Raises ``ValueError`` if ``payload`` is longer than 65,487 bytes.
        """
        self._check_turn(writing=True)
        if len(payload) + OVERHEAD > MAX_MESSAGE:
            raise ValueError(f"handshake payload of {len(payload)} bytes")
        state = copy.copy(self._state)
        if self._messages == 0:
            state.mix_key_and_hash(self._psk)
        self._mix_public(state, self._public)
        if self._messages == 1:
            state.mix_key(self._shared(self._remote))
        message = self._public + state.encrypt_and_hash(payload)
        self._state, self._messages = state, self._messages + 1
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the other end's next message.

        Raises ``Malformed`` if the message is too short or too long, if it was made with another secret, prologue
        or handshake, or if its public key has low order (the shared secret would be all zero, RFC 7748 section
        6.1).  Then the state does not change: a forged answer does no harm to the real one.
        """
        self._check_turn(writing=False)
        if not OVERHEAD <= len(message) <= MAX_MESSAGE:
            raise Malformed(f"handshake message of {len(message)} bytes")
        state = copy.copy(self._state)
        public = bytes(message[:KEY_SIZE])
        remote = X25519PublicKey.from_public_bytes(public)
        # The second message needs the shared secret.  For the first it is a check: such a key gets no answer.
        shared = self._shared(remote)
        if self._messages == 0:
            state.mix_key_and_hash(self._psk)
        self._mix_public(state, public)
        if self._messages == 1:
            state.mix_key(shared)
        payload = state.decrypt_and_hash(bytes(message[KEY_SIZE:]))
        self._state, self._messages, self._remote = state, self._messages + 1, remote
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """Two keys of 32 bytes, after both messages: to send with, and to receive with."""
        if not self.finished:
            raise RuntimeError("split before both handshake messages are through")
        first, second = self._state.split()
        return (first, second) if self._initiator else (second, first)

    def _check_turn(self, *, writing: bool) -> None:
        if self.finished or writing != (self._initiator == (self._messages == 0)):
            raise RuntimeError(f"handshake message {self._messages + 1} out of order")

    @staticmethod
    def _mix_public(state: _Symmetric, public: bytes) -> None:
        """Token "e" in a handshake with a PSK: the key is mixed in as well (section 9.2)."""
        state.mix_hash(public)
        state.mix_key(public)

    def _shared(self, remote: X25519PublicKey | None) -> bytes:
        """Token "ee".  Raises ``Malformed`` if the result would be all zero."""
        if remote is None:
            raise RuntimeError("no public key received yet")
        try:
            return self._ephemeral.exchange(remote)
        except ValueError:
            raise Malformed("handshake with a public key of low order") from None
