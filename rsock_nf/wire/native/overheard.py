"""What an onlooker with keys reads: the payloads of one flow in clear, for ``rsock-nf capture``.

The secret opens no frame: session keys come from fresh randomness of both ends (``noise``).  So an instance discloses
keys, if its configuration allows that (``key_log``): of each flow those that open its frames in the epochs that it
understands now.  They come from the session key, which stays inside: with them nobody can open a flow, nor know what
comes after the next rekey.

A payload in clear is as long as it was: each header without its mask, each body decrypted, each tag as it came.
A handshake message in clear is salt, kind and body.  What takes a session key in it stays sealed.

Not here: who may ask (``ops.control_socket``), and which packet is of which flow (``ops.capture``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag

from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import FlowCodec, Kind
from rsock_nf.wire.native.epochs import Aead, DirectionKeys, aead_of, direction_keys, header_mask
from rsock_nf.wire.native.frames import (
    CONTROL_BITS,
    DATA_BITS,
    HEADER,
    LENGTH,
    NONCE,
    SAMPLE,
    PlainCodec,
    SealedCodec,
    masked_headers,
)
from rsock_nf.wire.native.limits import TAG

TO_SERVER, TO_CLIENT = 0, 1
"""The directions of a flow, as the keys are told."""


def disclose(codec: FlowCodec) -> dict[str, Any] | None:
    """The keys that open the frames of one flow, as JSON can hold them; None = it is a flow of another wire."""
    if not isinstance(codec, PlainCodec | SealedCodec):
        return None
    cipher = Cipher.NONE if isinstance(codec, PlainCodec) else codec.keys.ring.cipher
    return {"cipher": cipher.value, "directions": [codec.keys.disclosed(way) for way in (TO_SERVER, TO_CLIENT)]}


class _Direction:
    """The keys of one direction."""

    def __init__(self, told: Mapping[str, Any], aead: type[Aead]) -> None:
        self.token = int(told["token"])
        self.mask = header_mask(bytes.fromhex(told["mask"]))
        self._epochs: dict[int, DirectionKeys] = {
            int(bit): direction_keys(aead, bytes.fromhex(text)) for bit, text in told["epochs"].items()
        }

    def keep(self, before: _Direction) -> None:
        """Go on with the keys of an epoch that the instance has forgotten meanwhile."""
        self._epochs = before._epochs | self._epochs

    def key(self, bit: int, *, control: bool) -> Aead | None:
        """The key of an epoch, by the lowest bit of its number; None = it is not known."""
        keys = self._epochs.get(bit)
        if keys is None:
            return None
        return keys.control if control else keys.data


class OverheardFlow:
    """One flow, by what ``disclose`` told.  Raises ``ValueError``, ``KeyError``, ``TypeError`` if that makes no
    sense."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.cipher = Cipher(told["cipher"])
        aead = aead_of(self.cipher)
        to_server, to_client = told["directions"]
        self._directions = _Direction(to_server, aead), _Direction(to_client, aead)

    def keep(self, before: OverheardFlow) -> None:
        """See ``_Direction``: packets of that epoch may have been captured, but not read yet."""
        for now, then in zip(self._directions, before._directions, strict=True):
            now.keep(then)

    def reveal(self, payload: bytes, direction: int) -> bytes | None:
        """``payload``, one frame or several, in clear.  None = some frame in it does not authenticate."""
        keys = self._directions[direction]
        found: list[bytes] = []
        at = 0
        while at < len(payload):
            frame = self._reveal_one(keys, payload, at)
            if frame is None:
                return None
            found.append(frame)
            at += len(frame)
        return b"".join(found)

    def _reveal_one(self, keys: _Direction, payload: bytes, at: int) -> bytes | None:
        masked = self.cipher is not Cipher.NONE
        body = at + HEADER.size
        if body + (TAG if masked else 0) > len(payload):
            return None
        header = payload[at:body]
        if masked:
            (header,) = masked_headers(keys.mask, [header], [payload[body : body + SAMPLE]])
        word, high, low = HEADER.unpack(header)
        control = word >> 14 == Kind.CONTROL
        end = body + (word & LENGTH)
        if not (masked or control):
            return header + payload[body:end] if low == keys.token and end <= len(payload) else None
        number = high << 32 | low if control else low
        key = keys.key(number >> (CONTROL_BITS if control else DATA_BITS), control=control)
        if key is None or end + TAG > len(payload):
            return None
        try:
            return (
                header + key.decrypt(NONCE.pack(number), payload[body : end + TAG], header) + payload[end : end + TAG]
            )
        except InvalidTag:
            return None
