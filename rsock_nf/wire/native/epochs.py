"""The keys of a session's frames, epoch by epoch.

A session begins with epoch 0.  Each rekey (``rekeying``) begins the next epoch, with another session key, from which
every flow gets other keys.  While one epoch follows another, both are there: a bit in each sealed frame tells its
epoch.  So nothing that is on its way is lost, and no flow has to stop.

The server sends in the new epoch from the moment at which a frame of it has come: then the client has its keys.  The
old epoch is forgotten ``GRACE`` seconds later, and its keys with it.

The mask of headers and the token of ``cipher: none`` stay the same as long as the flow lives: they keep no secret of
anybody, and a receiver needs them before it can see the epoch.

Not here: how the two ends agree on the next session key (``rekeying``), and the bytes of frames (``frames``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers import CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from rsock_nf.core.parameters import Cipher
from rsock_nf.wire.native.keys import hkdf

GRACE = 10.0
"""Seconds for which the keys of the old epoch are kept, for frames that are still on their way."""

_FLOW_INFO = struct.Struct("!16sIB")

Aead: TypeAlias = AESGCM | ChaCha20Poly1305


class DirectionKeys(NamedTuple):
    """The keys of one flow in one direction, in one epoch."""

    data: Aead
    control: Aead
    data_key: bytes
    """The key of ``data``, for who seals elsewhere."""


class LastingKeys(NamedTuple):
    """What one flow has in one direction as long as it lives."""

    mask: CipherContext
    """See ``header_mask``."""
    token: int
    mask_key: bytes
    """The key of ``mask``."""


def aead_of(cipher: Cipher) -> type[Aead]:
    """What seals the frames of a session; control frames are sealed with cipher ``none``, too."""
    return AESGCM if cipher is Cipher.AES_256_GCM else ChaCha20Poly1305


def direction_keys(aead: type[Aead], material: bytes) -> DirectionKeys:
    """From the key of data frames and that of control frames, 32 bytes each (``Epoch.material``)."""
    return DirectionKeys(aead(material[:32]), aead(material[32:]), material[:32])


def header_mask(key: bytes) -> CipherContext:
    """AES-128-ECB, encrypting: 16 bytes in, 16 bytes of mask out."""
    return BlockCipher(AES(key), ECB()).encryptor()  # noqa: S305 - as in RFC 9001 section 5.4.3


class Epoch:
    """One epoch of a session: the keys of all its flows.  A flow's keys are derived when they are first asked for."""

    __slots__ = ("_aead", "_flows", "bit", "number", "session_key")

    def __init__(self, cipher: Cipher, session_key: bytes, number: int) -> None:
        self._aead = aead_of(cipher)
        self.session_key = session_key
        self.number = number
        self.bit = number & 1
        """What frames of this epoch say.  Only two epochs that follow each other are there at the same time."""
        self._flows: dict[tuple[int, int], DirectionKeys] = {}

    def of(self, flow_id: int, direction: int) -> DirectionKeys:
        """The keys of a flow in one direction: 0 = toward the server, 1 = toward the client."""
        keys = self._flows.get((flow_id, direction))
        if keys is None:
            material = self.material(flow_id, direction)
            keys = self._flows[flow_id, direction] = direction_keys(self._aead, material)
        return keys

    def material(self, flow_id: int, direction: int) -> bytes:
        """The key of data frames and that of control frames, 32 bytes each."""
        return hkdf(self.session_key, b"", flow_info(flow_id, direction), 64)


class KeyRing:
    """The epochs of one session at one end: the one in which it sends, and those that it understands."""

    __slots__ = ("_cipher", "_lasting", "_turned", "_watchers", "heard", "newest", "sending", "understood")

    def __init__(self, cipher: Cipher, session_key: bytes) -> None:
        first = Epoch(cipher, session_key, 0)
        self._cipher = cipher
        self._lasting = hkdf(session_key, b"", b"rsock-nf lasting", 32)
        self._watchers: list[Callable[[], None]] = []
        self._turned: float | None = None
        """When a sweep first found that the peer sends in the newest epoch."""
        self.newest = self.sending = first
        self.understood: list[Epoch | None] = [first, None]
        """By bit."""
        self.heard = 0
        """The number of the newest epoch of which a frame has come."""

    def lasting(self, flow_id: int, direction: int) -> LastingKeys:
        """What does not change while the flow lives."""
        material = hkdf(self._lasting, b"", flow_info(flow_id, direction), 20)
        return LastingKeys(header_mask(material[:16]), int.from_bytes(material[16:], "big"), material[:16])

    @property
    def cipher(self) -> Cipher:
        """The session's."""
        return self._cipher

    @property
    def is_aes(self) -> bool:
        """Data frames are sealed with AES-256-GCM; else with ChaCha20-Poly1305."""
        return self._cipher is Cipher.AES_256_GCM

    def watch(self, turned: Callable[[], None]) -> None:
        """Call ``turned`` whenever epochs begin, end, or take the other's place, until ``unwatch``."""
        self._watchers.append(turned)

    def unwatch(self, turned: Callable[[], None]) -> None:
        """Does nothing if it does not watch."""
        if turned in self._watchers:
            self._watchers.remove(turned)

    def _tell(self) -> None:
        for turned in self._watchers:
            turned()

    @property
    def settled(self) -> bool:
        """There is one epoch only, so the next one may begin."""
        return None in self.understood

    def begin(self, session_key: bytes, *, send: bool) -> None:
        """The next epoch, with ``session_key``, is understood from now on.

        ``send``: the peer understands it, so send in it, too.  If not, sending waits until a frame of it has come.
        """
        self.newest = Epoch(self._cipher, session_key, self.newest.number + 1)
        self.understood[self.newest.bit] = self.newest
        self._turned = None
        if send:
            self.sending = self.newest
        self._tell()

    def came(self, epoch: Epoch) -> None:
        """A frame of ``epoch``, which is newer than any before, has authenticated: the peer has the keys."""
        self.heard = epoch.number
        self.sending = epoch
        self._tell()

    def sweep(self, now: float) -> None:
        """Once a second: forget the old epoch when it is time."""
        if self.settled or self.heard != self.newest.number:
            return
        if self._turned is None:
            self._turned = now
        elif now - self._turned >= GRACE:
            self.forget_old()

    def forget_old(self) -> None:
        """Forget the old epoch, if the peer sends in the newest one."""
        if self.heard == self.newest.number:
            self.understood[1 - self.newest.bit] = None
            self._tell()


def flow_info(flow_id: int, direction: int) -> bytes:
    """The HKDF info of a flow in one direction."""
    return _FLOW_INFO.pack(b"rsock-nf flow", flow_id, direction)
