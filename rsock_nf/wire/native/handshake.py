"""The messages that authenticate: hello, join, their answers and the confirmation, from one shared secret.

The first flow of a session carries Noise_NNpsk0_25519_ChaChaPoly_SHA256 (Noise revision 34).  The hello is message
1, the answer is message 2.  Then comes a confirmation, which sends back the challenge of the answer.  Each further
flow sends a *join* under keys of the session, gets a challenge, and confirms.

Each message travels in an envelope (``envelope``), which hides structure: an X25519 point, a repeated session id.
Without the secret, nobody can make an envelope; an attacker can only send a recorded one.  So garbage never looks like
a join, and costs no Diffie-Hellman.

The challenge is another one on each flow on which the same hello or join comes (``freshness``).  Therefore it is beside
the Noise message and not in it, and the answer to a join has a keyed hash and no AEAD: no nonce is used for two texts.

Hello and join are padded to at least the size of their answers, and by some random bytes more.  ``docs/wire.md``
has every byte.

Not here: who sends what and when (``client``, ``server``), when a cookie is wanted (``half_open``), and Noise itself
(``noise``).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import FlowCodec, Rng, SessionKeys
from rsock_nf.core.types import Buffer, Malformed, Shard
from rsock_nf.wire.native.envelope import (
    ENVELOPE,
    FROM_CLIENT,
    FROM_SERVER,
    MAX_PADDING,
    SALT,
    Envelope,
    Lengths,
    MessageKind,
)
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import flow_codec
from rsock_nf.wire.native.freshness import NO_COOKIE
from rsock_nf.wire.native.freshness import SIZE as CHALLENGE
from rsock_nf.wire.native.hints import SIZE as HINT
from rsock_nf.wire.native.hints import Hinted, Hints
from rsock_nf.wire.native.keys import hkdf
from rsock_nf.wire.native.noise import NNpsk0
from rsock_nf.wire.native.opening import (
    Answer,
    ConfirmMessage,
    CookieMessage,
    Gone,
    Hello,
    HelloMessage,
    JoinMessage,
    Offer,
    Place,
    Status,
)
from rsock_nf.wire.native.rekeying import Answering, Asking

VERSION = 2
PROLOGUE = b"rsock-nf 2"
ANSWER_SIZE = FROM_SERVER.of[MessageKind.ANSWER].start
JOIN_ANSWER_SIZE = FROM_SERVER.of[MessageKind.JOIN_ANSWER].start

_TAG = 16
_POINT = 32
_OFFER = struct.Struct("!BBHB")
_HELLO_HEAD = struct.Struct("!16sHH")
_ANSWER_BODY = struct.Struct("!BBQHBB")
_JOIN_HEAD = struct.Struct("!QI")
_NONCE = struct.Struct("!8xI")
_NO_SCALE = 255
_START = Place()

_CIPHERS = {Cipher.NONE: 0, Cipher.AES_256_GCM: 1, Cipher.CHACHA20_POLY1305: 2}
_CIPHER_OF = {code: cipher for cipher, code in _CIPHERS.items()}


@dataclass(frozen=True, slots=True)
class NativeKeys:
    """The keys of one session (``SessionKeys``).  Those of its frames change with each epoch, the others do not."""

    cipher: Cipher
    ring: KeyRing
    asking: Asking
    """Client: what it does for the next epoch."""
    answering: Answering
    """Server: the same."""
    join: ChaCha20Poly1305
    join_answer: bytes
    confirm: ChaCha20Poly1305

    @classmethod
    def derive(cls, cipher: Cipher, to_server: bytes, to_client: bytes) -> NativeKeys:
        """The keys of a session, from the two keys of Noise's Split()."""
        session_key = to_server + to_client
        material = hkdf(session_key, b"", b"rsock-nf session", 96)
        join, confirm = (ChaCha20Poly1305(material[at : at + 32]) for at in (0, 64))
        ring = KeyRing(cipher, session_key)
        return cls(cipher, ring, Asking(ring), Answering(ring), join, material[32:64], confirm)

    def codec(self, flow_id: int, *, initiator: bool) -> FlowCodec:
        """See ``SessionKeys``."""
        return flow_codec(self.cipher, self.ring, flow_id, initiator=initiator)


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
    hello: bytes
    place: Place
    hinted: Hinted | None


class NativeHandshake:
    """The messages of a handshake under one shared secret of 32 bytes.  It keeps nothing but the secret."""

    def __init__(self, secret: bytes) -> None:
        material = hkdf(secret, b"", b"rsock-nf 2 secret", 160)
        self._psk, mask, self._gone, seal, hint = (material[at : at + 32] for at in range(0, 160, 32))
        self._envelope = Envelope(mask, seal)
        self.hints = Hints(hint)

    # -- client

    def hello(
        self, offer: Offer, rng: Rng, cookie: bytes = NO_COOKIE, place: Place = _START, *, hinted: Hinted | None = None
    ) -> tuple[bytes, object]:
        """Client: make a hello.  Returns (the message, what ``read_answer`` needs).

        ``place``: with a cookie it is that of the ``CookieMessage``.  ``hinted``: None = without a hint, as clients of
        before said it.
        """
        noise = NNpsk0(initiator=True, psk=self._psk, prologue=PROLOGUE, rng_key=rng(32))
        head, body = _HELLO_HEAD.pack(cookie, *place), _build_offer(offer)
        padding = ANSWER_SIZE - (ENVELOPE + len(head) + _POINT + len(body) + _TAG)
        bare = self._envelope.wrap(MessageKind.HELLO, head + noise.write_message(_padded(body, padding, rng)))
        message = bare if hinted is None else self.hints.attach(bare, hinted)
        return message, _Pending(noise, offer.cipher, message, place, hinted)

    def read_answer(self, pending: object, message: Buffer) -> tuple[Answer, bytes, SessionKeys] | CookieMessage:
        """Client: read the answer to a hello: (answer, challenge, keys), or that the server wants a cookie.

        Raises ``Malformed`` unless its sender has the secret, and it answers this very hello.
        """
        if not isinstance(pending, _Pending):
            raise TypeError("not what hello() returned")
        kind, body = self._envelope.open(message, FROM_SERVER)
        if kind == MessageKind.COOKIE and body[:SALT] == pending.hello[:SALT]:
            sent, received = pending.place
            return CookieMessage(body[SALT:], Place(sent + len(pending.hello), received + len(message)))
        if kind != MessageKind.ANSWER or pending.noise.finished:
            raise Malformed("not an answer to a hello")
        payload = pending.noise.read_message(body[CHALLENGE:])
        # the envelope has checked the length
        status, cipher, session_id, targets, number, shards = _ANSWER_BODY.unpack(payload)
        if status not in list(Status) or cipher not in _CIPHER_OF or number >= shards:
            raise Malformed(f"answer with status {status}, cipher {cipher}, shard {number} of {shards}")
        keys = NativeKeys.derive(pending.cipher, *pending.noise.split())
        answer = Answer(Status(status), _CIPHER_OF[cipher], session_id, targets, Shard(number, shards))
        return answer, body[:CHALLENGE], keys

    def join(self, keys: SessionKeys, session_id: int, number: int, offer: Offer, rng: Rng) -> bytes:
        """Client: make a join, which asks for another flow of a session.  ``number`` becomes the flow's id.

        It has no hint yet, like a confirmation: ``hints.attach``.
        """
        head = _JOIN_HEAD.pack(session_id, number)
        body = _build_offer(offer)
        padding = JOIN_ANSWER_SIZE - (ENVELOPE + len(head) + len(body) + _TAG)
        sealed = native_keys(keys).join.encrypt(_NONCE.pack(number), _padded(body, padding, rng), head)
        return self._envelope.wrap(MessageKind.JOIN, head + sealed)

    def read_join_answer(self, keys: SessionKeys, number: int, join: bytes, message: Buffer) -> bytes | Gone:
        """Client: read the answer to a join: its challenge, or that the session is gone.  Raises ``Malformed``.

        ``join``: as ``join`` made it, without a hint.
        """
        kind, body = self._envelope.open(message, FROM_SERVER)
        if kind == MessageKind.GONE:
            if not hmac.compare_digest(body, self._gone_mac(self._envelope.open(join, FROM_CLIENT)[1])):
                raise Malformed("a 'gone' that does not belong to this join")
            return Gone()
        challenge, mac = body[:CHALLENGE], body[CHALLENGE:]
        if kind != MessageKind.JOIN_ANSWER or not hmac.compare_digest(mac, _join_mac(keys, number, challenge)):
            raise Malformed("not an answer to this join")
        return challenge

    def confirm(self, keys: SessionKeys, session_id: int, number: int, challenge: bytes) -> bytes:
        """Client: make a confirmation, which sends the challenge back, sealed."""
        head = _JOIN_HEAD.pack(session_id, number)
        sealed = native_keys(keys).confirm.encrypt(_NONCE.pack(number), challenge, head)
        return self._envelope.wrap(MessageKind.CONFIRM, head + sealed)

    # -- server

    def read_untrusted(self, message: Buffer) -> HelloMessage | JoinMessage | ConfirmMessage:
        """Server: read a stranger's payload.  Raises ``Malformed``, also for a wrong secret.

        What it returns was made with the secret, perhaps long ago.  No public-key operation is done here.
        """
        kind, body = self._envelope.open(message, FROM_CLIENT)
        if kind == MessageKind.HELLO:
            cookie, sent, received = _HELLO_HEAD.unpack_from(body)
            return HelloMessage(cookie, Place(sent, received), body[_HELLO_HEAD.size :])
        session_id, number = _JOIN_HEAD.unpack_from(body)
        return (JoinMessage if kind == MessageKind.JOIN else ConfirmMessage)(session_id, number, body)

    def read_hello(self, hello: HelloMessage, rng: Rng) -> Hello:
        """Server: read the content of a hello: one Diffie-Hellman.  Raises ``Malformed``."""
        noise = NNpsk0(initiator=False, psk=self._psk, prologue=PROLOGUE, rng_key=rng(32))
        return _Hello(_parse_offer(noise.read_message(hello.message)), noise)

    def answer(self, hello: Hello, answer: Answer) -> tuple[bytes, SessionKeys]:
        """Server: answer a hello.  Returns (the answer without its challenge, the session's keys).

        ``challenged`` makes the message of it.
        """
        if not isinstance(hello, _Hello):
            raise TypeError("not what read_hello() returned")
        cipher = _CIPHERS[answer.cipher]
        payload = _ANSWER_BODY.pack(answer.status, cipher, answer.session_id, answer.targets, *answer.shard)
        sealed = hello.noise.write_message(payload)
        return sealed, NativeKeys.derive(answer.cipher, *reversed(hello.noise.split()))

    def challenged(self, sealed: bytes, challenge: bytes) -> bytes:
        """Server: the answer to a hello on one flow."""
        return self._envelope.wrap(MessageKind.ANSWER, challenge + sealed)

    def want_cookie(self, hello: Buffer, cookie: bytes) -> bytes:
        """Server: answer the message ``hello`` by a cookie, with which the client is to say hello anew."""
        return self._envelope.wrap(MessageKind.COOKIE, bytes(hello[:SALT]) + cookie)

    def read_join(self, keys: SessionKeys, join: JoinMessage) -> Offer:
        """Server: read the content of a join.  Raises ``Malformed`` unless the session's client made it."""
        head, sealed = join.message[: _JOIN_HEAD.size], join.message[_JOIN_HEAD.size :]
        return _parse_offer(_decrypt(native_keys(keys).join, join.number, sealed, head))

    def join_answer(self, keys: SessionKeys, number: int, challenge: bytes) -> bytes:
        """Server: answer a join with a challenge."""
        return self._envelope.wrap(MessageKind.JOIN_ANSWER, challenge + _join_mac(keys, number, challenge))

    def gone(self, join: JoinMessage) -> bytes:
        """Server: answer a join whose session the server does not know."""
        return self._envelope.wrap(MessageKind.GONE, self._gone_mac(join.message))

    def read_confirm(self, keys: SessionKeys, confirm: ConfirmMessage) -> bytes:
        """Server: the challenge in a confirmation.  Raises ``Malformed``."""
        head, sealed = confirm.message[: _JOIN_HEAD.size], confirm.message[_JOIN_HEAD.size :]
        return _decrypt(native_keys(keys).confirm, confirm.number, sealed, head, CHALLENGE)

    # -- who looks on

    def overhear(self, message: Buffer, *, from_client: bool) -> bytes:
        """A handshake message without its mask: salt, kind, body, and of a client's also the hint; as long as it was.

        Of a hello also the offer is in clear.  What takes the ephemeral keys of both ends stays sealed.
        Raises ``Malformed`` if it is none, or one of another secret.
        """
        if from_client:
            with contextlib.suppress(Malformed):  # else it is of a client of before, which says no hint
                return self._overheard(message[:-HINT], FROM_CLIENT) + bytes(message[-HINT:])
        return self._overheard(message, FROM_CLIENT if from_client else FROM_SERVER)

    def _overheard(self, message: Buffer, lengths: Lengths) -> bytes:
        kind, body = self._envelope.open(message, lengths)
        if kind == MessageKind.HELLO:
            at = _HELLO_HEAD.size + _POINT
            # Nothing is answered, so the key may be any.
            noise = NNpsk0(initiator=False, psk=self._psk, prologue=PROLOGUE, rng_key=bytes(range(32)))
            body = body[:at] + noise.read_message(body[_HELLO_HEAD.size :]) + body[-_TAG:]
        return bytes(message[:SALT]) + bytes((kind,)) + body

    def _gone_mac(self, join: bytes) -> bytes:
        return hashlib.blake2s(join, key=self._gone, digest_size=16).digest()


def _padded(body: bytes, at_least: int, rng: Rng) -> bytes:
    """``body`` with zeros behind it: as many as are needed, and up to 63 more, so that the size tells nothing."""
    return body + bytes(max(at_least, 0) + (rng(1)[0] & MAX_PADDING))


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


def _join_mac(keys: SessionKeys, number: int, challenge: bytes) -> bytes:
    text = number.to_bytes(4, "big") + challenge
    return hashlib.blake2s(text, key=native_keys(keys).join_answer, digest_size=16).digest()


def hint_of(pending: object) -> Hinted | None:
    """How the hello was hinted of which this is what ``hello`` returned."""
    if not isinstance(pending, _Pending):
        raise TypeError("not what hello() returned")
    return pending.hinted


def native_keys(keys: SessionKeys) -> NativeKeys:
    """``keys`` as what they are.  Raises ``TypeError`` if they are of another wire."""
    if not isinstance(keys, NativeKeys):
        raise TypeError("keys of another wire format")
    return keys
