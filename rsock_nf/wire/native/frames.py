"""The native frames: the bytes of datagrams and control messages in the payload of a segment.

A frame begins with 8 bytes, big-endian: kind (2 bits) and length (14 bits), conversation (u16), token or counter
(u32).  The length counts what follows the header, without the tag.

* ``cipher: none``: a data frame carries the token of its flow, which only the two ends know.  All headers of a run are
  the same, so a burst is built by one ``join`` and checked by one comparison.
* sealed: a data frame carries its counter (the AEAD's nonce) and ends with a 16-byte tag.  Its header is masked with
  AES of the 16 bytes behind it.  The masks of a burst are made in one call; so the mask is AES with either cipher.
* a control frame is always sealed, with keys and counters of its own.  Its counter also takes the place of the
  conversation.
* the highest bit of a counter tells the epoch (``epochs``).  Counters go on from one epoch to the next.

All frames of a run have the same length; otherwise they could not be one burst.  ``docs/wire.md`` has every byte.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import CipherContext

from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import FlowCodec, Frames, Kind
from rsock_nf.core.types import Buffer
from rsock_nf.wire.native.control import build_control, parse_control
from rsock_nf.wire.native.epochs import DirectionKeys, Epoch, KeyRing
from rsock_nf.wire.native.limits import TAG

HEADER = struct.Struct("!HHI")
LENGTH = 0x3FFF
NONCE = struct.Struct("!4xQ")
SAMPLE = 16
_PADDING = bytes(SAMPLE - HEADER.size)
DATA_BITS = 31
"""The counter of a data frame has so many bits; the bit above tells the epoch."""
_COUNTER = (1 << DATA_BITS) - 1
CONTROL_BITS = 47
"""The same of a control frame."""


def flow_codec(cipher: Cipher, ring: KeyRing, flow_id: int, *, initiator: bool) -> FlowCodec:
    """The codec of flow ``flow_id`` of a session.  ``initiator``: True at the client."""
    keys = FlowKeys(ring, flow_id, initiator=initiator)
    return PlainCodec(keys) if cipher is Cipher.NONE else SealedCodec(keys)


class FlowKeys:
    """The keys of one flow at one end, in every epoch that its session has."""

    def __init__(self, ring: KeyRing, flow_id: int, *, initiator: bool) -> None:
        self.ring = ring
        self._flow_id = flow_id
        self._out, self._in = (0, 1) if initiator else (1, 0)
        self.mask_out, self.token_out, self.mask_out_key = ring.lasting(flow_id, self._out)
        self.mask_in, self.token_in, self.mask_in_key = ring.lasting(flow_id, self._in)

    def data_key(self, epoch: Epoch, *, outward: bool) -> bytes:
        """The key of data frames in ``epoch``, of those that we send or of those that we receive."""
        return epoch.of(self._flow_id, self._out if outward else self._in).data_key

    def sending(self) -> tuple[int, DirectionKeys]:
        """(the bit of the epoch in which to send, its keys)."""
        epoch = self.ring.sending
        return epoch.bit, epoch.of(self._flow_id, self._out)

    def receiving(self, bit: int) -> DirectionKeys | None:
        """The keys of what came.  None = there is no such epoch (any more)."""
        epoch = self.ring.understood[bit]
        return epoch.of(self._flow_id, self._in) if epoch else None

    def disclosed(self, direction: int) -> dict[str, Any]:
        """What opens the frames of one direction in the epochs that are understood now: see ``overheard``.

        ``direction``: 0 = toward the server, 1 = toward the client.
        """
        outward = direction == self._out
        token, mask_key = (self.token_out, self.mask_out_key) if outward else (self.token_in, self.mask_in_key)
        epochs = {
            str(epoch.bit): epoch.material(self._flow_id, direction).hex()
            for epoch in self.ring.understood
            if epoch is not None
        }
        return {"mask": mask_key.hex(), "token": token, "epochs": epochs}

    def came(self, bit: int) -> None:
        """A frame with this bit has authenticated."""
        epoch = self.ring.understood[bit]
        if epoch is not None and epoch.number > self.ring.heard:
            self.ring.came(epoch)


class _ControlFrames:
    """Sealed control frames of one flow, a part of either codec; who masks their headers does that by itself."""

    def __init__(self, keys: FlowKeys) -> None:
        self._keys = keys

    def seal(self, counter: int, message: object) -> tuple[bytes, bytes]:
        """(header, ciphertext and tag) of a control frame."""
        body = build_control(message)
        bit, keys = self._keys.sending()
        number = bit << CONTROL_BITS | counter
        header = HEADER.pack(Kind.CONTROL << 14 | len(body), number >> 32, number & 0xFFFFFFFF)
        return header, keys.control.encrypt(NONCE.pack(number), body, header)

    def open(self, header: bytes, sealed: memoryview, end: int) -> Frames | None:
        """Open a control frame.  None = it does not authenticate."""
        _, high, low = HEADER.unpack(header)
        number = high << 32 | low
        bit = number >> CONTROL_BITS
        keys = self._keys.receiving(bit)
        if keys is None:
            return None
        try:
            body = keys.control.decrypt(NONCE.pack(number), sealed, header)
        except InvalidTag:
            return None
        self._keys.came(bit)
        return Frames(Kind.CONTROL, 0, number & (1 << CONTROL_BITS) - 1, [body], len(body), end)


def _control_size(message: object) -> int:
    return HEADER.size + len(build_control(message)) + TAG


class PlainCodec:
    """``cipher: none``: data frames are not encrypted and carry a token; control frames are sealed."""

    overhead = HEADER.size

    def __init__(self, keys: FlowKeys) -> None:
        self.keys = keys
        self._control = _ControlFrames(keys)

    def pack(
        self,
        kind: int,
        conversation: int,
        counter: int,
        prefix: bytes,
        datagrams: Sequence[Buffer],
    ) -> list[Buffer]:
        """See ``FlowCodec``."""
        first, last = datagrams[0], datagrams[-1]
        token = self.keys.token_out
        header = HEADER.pack(kind << 14 | len(prefix) + len(first), conversation, token) + prefix
        if len(datagrams) == 1:
            return [header, first]
        if len(last) == len(first):
            return [header.join((b"", *datagrams))]
        short = HEADER.pack(kind << 14 | len(prefix) + len(last), conversation, token) + prefix
        return [header.join((b"", *datagrams[:-1])), short, last]

    def may_open(self, payload: memoryview) -> bool:
        """See ``FlowCodec``.  A control frame shows its length, any other also the token."""
        if len(payload) < HEADER.size:
            return False
        word, _, token = HEADER.unpack_from(payload)
        is_control = word >> 14 == Kind.CONTROL
        right_size = len(payload) == HEADER.size + (word & LENGTH) + (TAG if is_control else 0)
        return right_size and (is_control or bool(token == self.keys.token_in))

    def pack_control(self, counter: int, message: object) -> bytes:
        """See ``FlowCodec``."""
        header, sealed = self._control.seal(counter, message)
        return header + sealed

    def control_size(self, message: object) -> int:
        """See ``FlowCodec``."""
        return _control_size(message)

    def read_control(self, body: Buffer) -> object:
        """See ``FlowCodec``."""
        return parse_control(body)

    def unpack(self, payload: memoryview, segment_size: int) -> tuple[list[Frames], int]:
        """See ``FlowCodec``."""
        size = len(payload)
        if size < HEADER.size:
            return [], 1
        word, conversation, token = HEADER.unpack_from(payload)
        length = word & LENGTH
        frame = HEADER.size + length
        kind = word >> 14
        if token != self.keys.token_in or kind == Kind.CONTROL or segment_size not in (0, frame) or frame > size:
            return self._unpack_each(payload, segment_size, 0)
        if frame == size:
            return [Frames(kind, conversation, -1, [payload[HEADER.size :]], length, size)], 0
        count = size // frame
        headers = _headers(length, count).unpack_from(payload)
        if headers.count(headers[0]) != count:
            return self._unpack_each(payload, segment_size, 0)
        end = count * frame
        # + 1: in a run of empty datagrams the last one begins at the very end.
        datagrams: list[Buffer] = [payload[at : at + length] for at in range(HEADER.size, end + 1, frame)]
        run = Frames(kind, conversation, -1, datagrams, length, end)
        if end == size:
            return [run], 0
        rest, bad = self._unpack_each(payload, segment_size, end)
        return [run, *rest], bad

    def _unpack_each(self, payload: memoryview, segment_size: int, at: int) -> tuple[list[Frames], int]:
        """Open frame by frame: the sizes differ, or there are control frames, or some bytes are not ours."""
        opened: list[Frames] = []
        bad = 0
        size = len(payload)
        while at < size:
            frames = self._unpack_one(payload, at) if at + HEADER.size <= size else None
            if frames is not None:
                opened.append(frames)
                at = frames.end
            else:
                bad += 1
                if not segment_size:
                    break  # nothing tells where the next frame begins
                at += segment_size - at % segment_size
        return opened, bad

    def _unpack_one(self, payload: memoryview, at: int) -> Frames | None:
        word, conversation, token = HEADER.unpack_from(payload, at)
        length = word & LENGTH
        start = at + HEADER.size
        end = start + length
        if word >> 14 == Kind.CONTROL:
            end += TAG
            if end > len(payload):
                return None
            return self._control.open(bytes(payload[at:start]), payload[start:end], end)
        if token != self.keys.token_in or end > len(payload):
            return None
        return Frames(word >> 14, conversation, -1, [payload[start:end]], length, end)


@lru_cache(maxsize=1024)
def _headers(length: int, count: int) -> struct.Struct:
    """A layout that takes the 8-byte headers of ``count`` equal frames out of a payload in one call."""
    return struct.Struct(f"8s{length}x" * count)


class SealedCodec:
    """Every frame is sealed, and every header masked."""

    overhead = HEADER.size + TAG

    def __init__(self, keys: FlowKeys) -> None:
        self.keys = keys
        self._control = _ControlFrames(keys)

    def pack(
        self, kind: int, conversation: int, counter: int, prefix: bytes, datagrams: Sequence[Buffer]
    ) -> list[Buffer]:
        """See ``FlowCodec``."""
        bit, keys = self.keys.sending()
        encrypt = keys.data.encrypt
        headers, sealed = [], []
        word = kind << 14 | len(prefix)
        for number, datagram in enumerate(datagrams, bit << DATA_BITS | counter):
            header = HEADER.pack(word + len(datagram), conversation, number)
            headers.append(header)
            sealed.append(encrypt(NONCE.pack(number), prefix + datagram if prefix else datagram, header))
        payload: list[Buffer] = []
        samples = [body[:SAMPLE] for body in sealed]
        for header, body in zip(masked_headers(self.keys.mask_out, headers, samples), sealed, strict=True):
            payload += (header, body)
        return payload

    def may_open(self, payload: memoryview) -> bool:
        """See ``FlowCodec``.  The length behind this flow's mask must be right."""
        if len(payload) < HEADER.size + TAG:
            return False
        mask = self.keys.mask_in.update(payload[HEADER.size : HEADER.size + SAMPLE])
        length = (payload[0] ^ mask[0]) << 8 & LENGTH | payload[1] ^ mask[1]
        return len(payload) == HEADER.size + length + TAG

    def pack_control(self, counter: int, message: object) -> bytes:
        """See ``FlowCodec``."""
        header, sealed = self._control.seal(counter, message)
        return masked_headers(self.keys.mask_out, [header], [sealed[:SAMPLE]])[0] + sealed

    def control_size(self, message: object) -> int:
        """See ``FlowCodec``."""
        return _control_size(message)

    def read_control(self, body: Buffer) -> object:
        """See ``FlowCodec``."""
        return parse_control(body)

    def unpack(self, payload: memoryview, segment_size: int) -> tuple[list[Frames], int]:
        """See ``FlowCodec``."""
        size = len(payload)
        if 0 < segment_size < size and (burst := self._open_burst(payload, segment_size)):
            return [burst], 0
        opened: list[Frames] = []
        bad = at = 0
        while at < size:
            if size - at < HEADER.size + TAG:
                return opened, bad + 1
            step = segment_size or self._frame_size(payload, at)
            # A frame that the end of the payload cuts short has no sample: it is left for the next round.
            starts = range(at, max(at + 1, size - HEADER.size - TAG + 1), step)
            headers = self._headers(payload, starts)
            done = 0
            while done < len(starts):
                frames = self._open_run(payload, starts[done:], headers[done:])
                if frames is None:
                    bad += 1
                    if not segment_size:
                        return opened, bad  # nothing tells where the next frame begins
                    at = starts[done] + step
                    done += 1
                    continue
                opened.append(frames)
                done += len(frames.datagrams)
                at = frames.end
                if at != starts[done - 1] + step:
                    break  # a shorter frame: what follows it begins elsewhere
        return opened, bad

    def _open_burst(self, payload: memoryview, frame: int) -> Frames | None:
        """Open the usual burst: equal frames of ``frame`` bytes with consecutive counters.

        None = it is something else, which is then opened frame by frame.
        """
        count, rest = divmod(len(payload), frame)
        if rest or frame < HEADER.size + TAG:
            return None
        parts = _starts(frame, count).unpack_from(payload)
        plain = _xor_masks(self.keys.mask_in, parts[::2], parts[1::2])
        fields = _plain_headers(count).unpack(plain)
        word, conversation, first = fields[:3]
        length = word & LENGTH
        numbers = range(first, first + count)
        bit = first >> DATA_BITS
        keys = self.keys.receiving(bit)
        if (
            word >> 14 == Kind.CONTROL
            or keys is None
            or HEADER.size + length + TAG != frame
            or fields[::3].count(word) != count
            or fields[1::3].count(conversation) != count
            or fields[2::3] != tuple(numbers)
        ):
            return None
        decrypt, nonce = keys.data.decrypt, NONCE.pack
        try:
            datagrams: list[Buffer] = [
                decrypt(nonce(number), payload[start + HEADER.size : start + frame], plain[at : at + HEADER.size])
                for number, start, at in zip(
                    numbers, range(0, len(payload), frame), range(0, len(plain), SAMPLE), strict=True
                )
            ]
        except InvalidTag:
            return None
        self.keys.came(bit)
        return Frames(word >> 14, conversation, first & _COUNTER, datagrams, length, len(payload))

    def _open_run(self, payload: memoryview, starts: range, headers: Sequence[bytes]) -> Frames | None:
        """Open the frame at the first of ``starts``, and the frames after it that continue its run.

        None = the first one is not ours.
        """
        word, conversation, first = HEADER.unpack(headers[0])
        length = word & LENGTH
        start = starts[0] + HEADER.size
        end = start + length + TAG
        if end > len(payload):
            return None
        if word >> 14 == Kind.CONTROL:
            return self._control.open(headers[0], payload[start:end], end)
        bit = first >> DATA_BITS
        keys = self.keys.receiving(bit)
        if keys is None:
            return None
        decrypt = keys.data.decrypt
        datagrams: list[Buffer] = []
        like = headers[0][:4]
        step = starts.step
        number = first
        try:
            for header in headers:
                if header[:4] != like or int.from_bytes(header[4:], "big") != number:
                    break
                datagrams.append(decrypt(NONCE.pack(number), payload[start : start + length + TAG], header))
                end = start + length + TAG
                number += 1
                start += step
        except InvalidTag:
            if not datagrams:
                return None
        self.keys.came(bit)
        return Frames(word >> 14, conversation, first & _COUNTER, datagrams, length, end)

    def _frame_size(self, payload: memoryview, at: int) -> int:
        """The size that the frame at ``at`` has by its own header."""
        (header,) = self._headers(payload, range(at, at + 1))
        return HEADER.size + (int.from_bytes(header[:2], "big") & LENGTH) + TAG

    def _headers(self, payload: memoryview, starts: range) -> list[bytes]:
        """The unmasked headers at ``starts``."""
        masked = [payload[start : start + HEADER.size] for start in starts]
        samples = [payload[start + HEADER.size : start + HEADER.size + SAMPLE] for start in starts]
        return masked_headers(self.keys.mask_in, masked, samples)


@lru_cache(maxsize=64)
def _starts(frame: int, count: int) -> struct.Struct:
    """A layout that takes header and sample of ``count`` equal frames out of a payload in one call."""
    return struct.Struct(f"{HEADER.size}s{SAMPLE}s{frame - HEADER.size - SAMPLE}x" * count)


@lru_cache(maxsize=64)
def _plain_headers(count: int) -> struct.Struct:
    """A layout for the fields of ``count`` headers in what ``_xor_masks`` returns."""
    return struct.Struct("!" + f"{HEADER.format[1:]}{len(_PADDING)}x" * count)


def masked_headers(mask: CipherContext, headers: Sequence[Buffer], samples: Sequence[Buffer]) -> list[bytes]:
    """Each header XOR its mask: this masks and unmasks."""
    mixed = _xor_masks(mask, headers, samples)
    return [mixed[at : at + HEADER.size] for at in range(0, len(mixed), SAMPLE)]


def _xor_masks(mask: CipherContext, headers: Sequence[Buffer], samples: Sequence[Buffer]) -> bytes:
    """All headers XOR their masks, in one piece: each header is followed by the 8 bytes by which its mask is longer.

    The mask of a header is AES of its sample, the 16 bytes behind it.
    """
    masks = mask.update(b"".join(samples))
    size = len(masks)
    padded = _PADDING.join((*headers, b""))
    return (int.from_bytes(padded, "big") ^ int.from_bytes(masks, "big")).to_bytes(size, "big")
