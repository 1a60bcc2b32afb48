"""How the two ends of a session agree on the keys of its next epoch: one X25519 exchange in two control messages.

    client: Rekey(epoch, public)  →  server: Rekeyed(epoch, public), and understands the epoch from now on
    client: understands the epoch, and sends in it  →  server: hears it, and sends in it, too

The next session key is HKDF of the shared point, with the present session key as salt.  So whoever learns a key of
today has neither those before (they are forgotten) nor those after (a new exchange), and only the two ends of the
session can take part.  The client begins; it sends the same message again each second until there is an answer.  The
server gives the same answer again.

Not here: which epoch a frame is sent in, and when the old one is forgotten (``epochs``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from rsock_nf.core.protocols import Rng
from rsock_nf.core.types import Malformed
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.keys import hkdf

INTERVAL: Final = 120.0
"""Seconds between two rekeys, as in WireGuard (its REKEY_AFTER_TIME)."""
JITTER: Final = 0.1
"""The interval is shorter by up to this share, another one in each session."""
MAX_TRIES: Final = 60
"""A client asks so often, once a second while a flow carries.  Then it forgets the session, and says hello."""


@dataclass(frozen=True, slots=True)
class Rekey:
    """From the client: let epoch ``epoch`` begin.  ``public``: the client's X25519 public key, 32 bytes."""

    epoch: int
    public: bytes


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """From the server: it understands epoch ``epoch``.  ``public``: its X25519 public key, 32 bytes."""

    epoch: int
    public: bytes


@dataclass(frozen=True, slots=True)
class RekeyWanted:
    """From the server: ask for the next epoch soon."""


class Asking:
    """The client's part in one session."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._interval = INTERVAL
        self._due: float | None = None
        self._private: X25519PrivateKey | None = None
        self._message: Rekey | None = None
        self.tries = 0
        """How often the present question was asked."""
        self._again = False
        """Rekey once more when the present question is answered: it began before somebody wished for new keys."""

    def start(self, now: float, session_id: int) -> None:
        """The session has begun."""
        self._interval = INTERVAL * (1 - JITTER * (session_id & 0xFF) / 0xFF)
        self._due = now + self._interval

    def hasten(self, now: float) -> None:
        """Rekey as soon as possible."""
        self._due = now
        self._again = self._message is not None

    @property
    def unheard(self) -> bool:
        """The server has not sent in the newest epoch yet."""
        return self._ring.heard != self._ring.newest.number

    def question(self, now: float, rng: Rng) -> Rekey | None:
        """What to send now.  Asked once a second while a flow carries.  None = nothing."""
        if self._message is None:
            if self._due is None or now < self._due or not self._ring.settled:
                return None
            self._private = X25519PrivateKey.from_private_bytes(rng(32))
            public = self._private.public_key().public_bytes_raw()
            self._message = Rekey(self._ring.newest.number + 1, public)
            self.tries = 0
        self.tries += 1
        return self._message

    def answered(self, now: float, answer: Rekeyed) -> bool:
        """The server's answer.  False = it does not belong to the question.  Raises ``Malformed``."""
        asked, private = self._message, self._private
        if asked is None or private is None or answer.epoch != asked.epoch:
            return False
        key = _next_key(self._ring, private, answer.public, asked.public, answer.public)
        self._message = self._private = None
        self.tries = 0
        self._due = now if self._again else now + self._interval
        self._again = False
        self._ring.begin(key, send=True)
        return True


class Answering:
    """The server's part in one session."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._asked: Rekey | None = None
        self._answer: Rekeyed | None = None
        self.wanted = False
        """The client is to ask.  It is told once a second until it does."""

    def answer(self, question: Rekey, rng: Rng) -> Rekeyed | None:
        """The answer to ``question``.  None = there is none.  Raises ``Malformed``.

        A question costs one Diffie-Hellman, and another one counts only when the epoch before has been forgotten: at
        most one each ``epochs.GRACE`` seconds.
        """
        if question == self._asked:
            return self._answer
        if question.epoch != self._ring.newest.number + 1 or not self._ring.settled:
            return None
        private = X25519PrivateKey.from_private_bytes(rng(32))
        public = private.public_key().public_bytes_raw()
        key = _next_key(self._ring, private, question.public, question.public, public)
        self._ring.begin(key, send=False)
        self._asked, self._answer = question, Rekeyed(question.epoch, public)
        self.wanted = False
        return self._answer


def _next_key(ring: KeyRing, private: X25519PrivateKey, theirs: bytes, client: bytes, server: bytes) -> bytes:
    """The session key of the next epoch.  Raises ``Malformed`` for a point of low order."""
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise Malformed("a public key of low order") from None
    number = ring.newest.number + 1
    info = b"rsock-nf rekey" + number.to_bytes(4, "big") + client + server
    return hkdf(shared, ring.newest.session_key, info, 64)
