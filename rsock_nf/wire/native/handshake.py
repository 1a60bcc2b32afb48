"""The messages that authenticate: hello, join, their answers and the confirmation, from one shared secret.

The first flow of a session carries Noise_NNpsk0_25519_ChaChaPoly_SHA256 (Noise revision 34).  The hello is message
1, the answer is message 2.  Then comes a confirmation, which sends back the challenge of the answer.  Each further
flow sends a *join* under keys of the session, gets a challenge, and confirms.

Each message travels in an envelope with a synthetic IV (the construction of RFC 5297, with a keyed hash): 16 bytes
of BLAKE2s over kind and body.  They are the initial counter of AES-256-CTR over kind and body.  Both keys come from
the secret.  The envelope hides structure (an X25519 point, a repeated session id).  Without the secret, nobody can
make an envelope; an attacker can only send a recorded one.  So garbage never looks like a join, and costs no
Diffie-Hellman.  No two messages have the same content, except a repeated "gone".  So no two different messages use
the same counter.

Hello and join are padded to at least the size of their answers, and by some random bytes more.  ``docs/wire.md``
has every byte.

Not here: who sends what and when (``client``, ``server``), and Noise itself (``noise``).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import FlowCodec, Rng, SessionKeys
from rsock_nf.core.types import Buffer, Malformed
from rsock_nf.wire.native.frames import flow_codec
from rsock_nf.wire.native.keys import hkdf
from rsock_nf.wire.native.noise import NNpsk0
from rsock_nf.wire.native.opening import Answer, ConfirmMessage, Gone, HelloMessage, JoinMessage, Offer, Status

VERSION = 1
PROLOGUE = b"rsock-nf 1"
CHALLENGE = 16

_HELLO, _ANSWER, _JOIN, _JOIN_ANSWER, _CONFIRM, _GONE = range(1, 7)
_SALT = 16
_TAG = 16
_POINT = 32
_ENVELOPE = _SALT + 1
_OFFER = struct.Struct("!BBHB")
_ANSWER_BODY = struct.Struct("!BBQ16sH")
_JOIN_HEAD = struct.Struct("!QI")
_NONCE = struct.Struct("!8xI")
_NO_SCALE = 255
_MAX_RANDOM_PADDING = 63

_CIPHERS = {Cipher.NONE: 0, Cipher.AES_256_GCM: 1, Cipher.CHACHA20_POLY1305: 2}
_CIPHER_OF = {code: cipher for cipher, code in _CIPHERS.items()}


@dataclass(frozen=True, slots=True)
class NativeKeys:
    """The keys of one session (``SessionKeys``)."""

    cipher: Cipher
    session_key: bytes
    join: ChaCha20Poly1305
    join_answer: ChaCha20Poly1305
    confirm: ChaCha20Poly1305

    @classmethod
    def derive(cls, cipher: Cipher, to_server: bytes, to_client: bytes) -> NativeKeys:
        """The keys of a session, from the two keys of Noise's Split()."""
        session_key = to_server + to_client
        material = hkdf(session_key, b"", b"rsock-nf session", 96)
        join, join_answer, confirm = (ChaCha20Poly1305(material[at : at + 32]) for at in (0, 32, 64))
        return cls(cipher, session_key, join, join_answer, confirm)

    def codec(self, flow_id: int, *, initiator: bool) -> FlowCodec:
        """See ``SessionKeys``."""
        return flow_codec(self.cipher, self.session_key, flow_id, initiator=initiator)


@dataclass(frozen=True, slots=True)
class _Hello:
    """A hello that has authenticated, with the Noise state for its answer."""

    offer: Offer
    noise: NNpsk0


@dataclass(frozen=True, slots=True)
class _Pending:
    """Client: a hello that waits for its answer."""

    noise: NNpsk0
    cipher: Cipher


class NativeHandshake:
    """The messages of a handshake under one shared secret of 32 bytes.  It keeps nothing but the secret."""

    _hello_answer_size = _ENVELOPE + _POINT + _ANSWER_BODY.size + _TAG
    _join_answer_size = _ENVELOPE + CHALLENGE + _TAG

    def __init__(self, secret: bytes) -> None:
        material = hkdf(secret, b"", b"rsock-nf secret", 128)
        self._psk, self._mask, self._gone, self._seal = (material[at : at + 32] for at in range(0, 128, 32))

    # -- client

    def hello(self, offer: Offer, rng: Rng) -> tuple[bytes, object]:
        """Client: make a hello.  Returns (the message, what ``read_answer`` needs)."""
        noise = NNpsk0(initiator=True, psk=self._psk, prologue=PROLOGUE, rng_key=rng(32))
        body = _build_offer(offer)
        padding = self._hello_answer_size - (_ENVELOPE + _POINT + len(body) + _TAG)
        message = noise.write_message(_padded(body, padding, rng))
        return self._envelope(_HELLO, message), _Pending(noise, offer.cipher)

    def read_answer(self, pending: object, message: Buffer) -> tuple[Answer, SessionKeys]:
        """Client: read the answer to a hello.  Raises ``Malformed`` unless its sender has the secret."""
        if not isinstance(pending, _Pending):
            raise TypeError("not what hello() returned")
        kind, body = self._open(message)
        if kind != _ANSWER or pending.noise.finished:
            raise Malformed("not an answer to a hello")
        payload = pending.noise.read_message(body)
        if len(payload) != _ANSWER_BODY.size:
            raise Malformed(f"answer of {len(payload)} bytes")
        status, cipher, session_id, challenge, targets = _ANSWER_BODY.unpack(payload)
        if status not in list(Status) or cipher not in _CIPHER_OF:
            raise Malformed(f"answer with status {status}, cipher {cipher}")
        keys = NativeKeys.derive(pending.cipher, *pending.noise.split())
        return Answer(Status(status), _CIPHER_OF[cipher], session_id, challenge, targets), keys

    def join(self, keys: SessionKeys, session_id: int, number: int, offer: Offer, rng: Rng) -> bytes:
        """Client: make a join, which asks for another flow of a session.  ``number`` becomes the flow's id."""
        head = _JOIN_HEAD.pack(session_id, number)
        body = _build_offer(offer)
        padding = self._join_answer_size - (_ENVELOPE + len(head) + len(body) + _TAG)
        sealed = _native(keys).join.encrypt(_NONCE.pack(number), _padded(body, padding, rng), head)
        return self._envelope(_JOIN, head + sealed)

    def read_join_answer(self, keys: SessionKeys, number: int, join: bytes, message: Buffer) -> bytes | Gone:
        """Client: read the answer to a join: its challenge, or that the session is gone.  Raises ``Malformed``."""
        kind, body = self._open(message)
        if kind == _GONE:
            if not hmac.compare_digest(body, self._gone_mac(self._open(join)[1])):
                raise Malformed("a 'gone' that does not belong to this join")
            return Gone()
        if kind != _JOIN_ANSWER:
            raise Malformed("not an answer to a join")
        return _decrypt(_native(keys).join_answer, number, body, b"", CHALLENGE)

    def confirm(self, keys: SessionKeys, session_id: int, number: int, challenge: bytes) -> bytes:
        """Client: make a confirmation, which sends the challenge back, sealed."""
        head = _JOIN_HEAD.pack(session_id, number)
        sealed = _native(keys).confirm.encrypt(_NONCE.pack(number), challenge, head)
        return self._envelope(_CONFIRM, head + sealed)

    # -- server

    def read_untrusted(
        self, message: Buffer, rng: Rng, *, admit: Callable[[], bool] | None = None
    ) -> HelloMessage | JoinMessage | ConfirmMessage:
        """Server: read a stranger's payload.  Raises ``Malformed``, also for a wrong secret.

        A hello needs public-key operations.  Before them ``admit`` is asked; False refuses the hello.  It is asked
        only about hellos that were made with the secret, perhaps long ago.
        """
        kind, body = self._open(message)
        if kind == _HELLO and (admit is None or admit()):
            noise = NNpsk0(initiator=False, psk=self._psk, prologue=PROLOGUE, rng_key=rng(32))
            return _Hello(_parse_offer(noise.read_message(body)), noise)
        if kind not in (_JOIN, _CONFIRM) or len(body) < _JOIN_HEAD.size + _TAG:
            raise Malformed("neither hello, join nor confirmation")
        session_id, number = _JOIN_HEAD.unpack_from(body)
        return (JoinMessage if kind == _JOIN else ConfirmMessage)(session_id, number, body)

    def answer(self, hello: HelloMessage, answer: Answer) -> tuple[bytes, SessionKeys]:
        """Server: answer a hello.  Returns (the message, the session's keys)."""
        if not isinstance(hello, _Hello):
            raise TypeError("not what read_untrusted() returned")
        payload = _ANSWER_BODY.pack(
            answer.status, _CIPHERS[answer.cipher], answer.session_id, answer.challenge, answer.targets
        )
        message = hello.noise.write_message(payload)
        keys = NativeKeys.derive(answer.cipher, *reversed(hello.noise.split()))
        return self._envelope(_ANSWER, message), keys

    def read_join(self, keys: SessionKeys, join: JoinMessage) -> Offer:
        """Server: read the content of a join.  Raises ``Malformed`` unless the session's client made it."""
        head, sealed = join.message[: _JOIN_HEAD.size], join.message[_JOIN_HEAD.size :]
        return _parse_offer(_decrypt(_native(keys).join, join.number, sealed, head))

    def join_answer(self, keys: SessionKeys, number: int, challenge: bytes) -> bytes:
        """Server: answer a join with a challenge."""
        sealed = _native(keys).join_answer.encrypt(_NONCE.pack(number), challenge, b"")
        return self._envelope(_JOIN_ANSWER, sealed)

    def gone(self, join: JoinMessage) -> bytes:
        """Server: answer a join whose session the server does not know."""
        return self._envelope(_GONE, self._gone_mac(join.message))

    def read_confirm(self, keys: SessionKeys, confirm: ConfirmMessage) -> bytes:
        """Server: the challenge in a confirmation.  Raises ``Malformed``."""
        head, sealed = confirm.message[: _JOIN_HEAD.size], confirm.message[_JOIN_HEAD.size :]
        return _decrypt(_native(keys).confirm, confirm.number, sealed, head, CHALLENGE)

    # -- the envelope

    def _envelope(self, kind: int, body: bytes) -> bytes:
        opened = bytes((kind,)) + body
        salt = self._salt(opened)
        return salt + self._masked(salt, opened)

    def _open(self, message: Buffer) -> tuple[int, bytes]:
        if len(message) <= _ENVELOPE:
            raise Malformed(f"envelope of {len(message)} bytes")
        salt = bytes(message[:_SALT])
        opened = self._masked(salt, bytes(message[_SALT:]))
        if not hmac.compare_digest(self._salt(opened), salt):
            raise Malformed("envelope of somebody without the secret")
        return opened[0], opened[1:]

    def _salt(self, opened: bytes) -> bytes:
        return hashlib.blake2s(opened, key=self._seal, digest_size=_SALT).digest()

    def _masked(self, salt: bytes, data: bytes) -> bytes:
        return BlockCipher(AES(self._mask), CTR(salt)).encryptor().update(data)

    def _gone_mac(self, join: bytes) -> bytes:
        return hashlib.blake2s(join, key=self._gone, digest_size=16).digest()


def _padded(body: bytes, at_least: int, rng: Rng) -> bytes:
    """``body`` with zeros behind it: as many as are needed, and up to 63 more, so that the size tells nothing."""
    return body + bytes(max(at_least, 0) + (rng(1)[0] & _MAX_RANDOM_PADDING))


def _build_offer(offer: Offer) -> bytes:
    scale = _NO_SCALE if offer.window_scale is None else offer.window_scale
    return _OFFER.pack(VERSION, _CIPHERS[offer.cipher], offer.mss, scale)


def _parse_offer(payload: bytes) -> Offer:
    if len(payload) < _OFFER.size:
        raise Malformed(f"offer of {len(payload)} bytes")
    version, cipher, mss, scale = _OFFER.unpack_from(payload)
    if version != VERSION:
        raise Malformed(f"protocol version {version}")
    if cipher not in _CIPHER_OF or (scale > 14 and scale != _NO_SCALE):
        raise Malformed(f"offer with cipher {cipher}, window scale {scale}")
    return Offer(_CIPHER_OF[cipher], mss, None if scale == _NO_SCALE else scale)


def _decrypt(aead: ChaCha20Poly1305, number: int, sealed: bytes, associated: bytes, size: int | None = None) -> bytes:
    try:
        opened = aead.decrypt(_NONCE.pack(number), sealed, associated)
    except (InvalidTag, ValueError):
        raise Malformed("does not authenticate") from None
    if size is not None and len(opened) != size:
        raise Malformed(f"{len(opened)} bytes where {size} are due")
    return opened


def _native(keys: SessionKeys) -> NativeKeys:
    if not isinstance(keys, NativeKeys):
        raise TypeError("keys of another wire format")
    return keys
