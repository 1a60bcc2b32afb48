"""Targets behind the envelope and behind the seals: what only a holder of the secret can say.

The fuzzer owns the keys.  It chooses the plain text; the target seals it, and gives it to the other end.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

from rsock_nf.core import messages
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.types import Malformed
from rsock_nf.wire.native import frames as native_frames
from rsock_nf.wire.native.control import build_control
from rsock_nf.wire.native.envelope import SALT, MessageKind
from rsock_nf.wire.native.handshake import (
    _ANSWER_BODY,
    _HELLO_HEAD,
    _JOIN_HEAD,
    _NONCE,
    PROLOGUE,
    NativeHandshake,
    NativeKeys,
    _build_offer,
)
from rsock_nf.wire.native.noise import NNpsk0
from rsock_nf.wire.native.opening import HelloMessage, JoinMessage, Offer, Status
from tests.fuzz.target import Target

SECRET = bytes(range(32))
HANDSHAKE = NativeHandshake(SECRET)
KEYS = NativeKeys.derive(Cipher.AES_256_GCM, bytes(32), bytes(range(32)))
SHARE = 4
ID, NUMBER = 0x1122334455667788, 5
_OFFERS = [Offer(Cipher.NONE, 1460, scale) for scale in (None, 7)]


class Raw(NamedTuple):
    """A control message by its bytes."""

    body: bytes


@contextmanager
def raw_control() -> Iterator[None]:
    """Codecs of the native wire take ``Raw``, too."""

    def build(message: object) -> bytes:
        return message.body if isinstance(message, Raw) else build_control(message)

    with patch.object(native_frames, "build_control", build):
        yield


def _random(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


# -- to the server


def read_as_server(message: bytes) -> object:
    """As a server whose only session has ``KEYS``."""
    read = HANDSHAKE.read_untrusted(message)
    if isinstance(read, HelloMessage):
        return HANDSHAKE.read_hello(read, _random(2))
    if isinstance(read, JoinMessage):
        HANDSHAKE.gone(read)
        return HANDSHAKE.read_join(KEYS, read)
    return HANDSHAKE.read_confirm(KEYS, read)


def run_to_server(data: bytes) -> object:
    """The first byte is the kind; the rest is the body, which stays as it is."""
    return read_as_server(HANDSHAKE._envelope.wrap(MessageKind(data[0] % 7 + 1 if data else 1), data[1:]))


def to_server_seeds() -> list[bytes]:
    made = [
        HANDSHAKE.hello(_OFFERS[0], _random(1))[0],
        HANDSHAKE.join(KEYS, ID, NUMBER, _OFFERS[1], _random(1)),
        HANDSHAKE.confirm(KEYS, ID, NUMBER, bytes(16)),
    ]
    kinds = (MessageKind.HELLO, MessageKind.JOIN, MessageKind.CONFIRM)
    return [
        bytes((kind - 1,)) + HANDSHAKE._envelope._masked(one[:SALT], one[SALT:])[1:]
        for kind, one in zip(kinds, made, strict=True)
    ]


def run_join(data: bytes) -> object:
    """Session and number, then the plain text that the join seals."""
    head = data[: _JOIN_HEAD.size].ljust(_JOIN_HEAD.size, b"\0")
    number = int.from_bytes(head[-4:], "big")
    sealed = KEYS.join.encrypt(_NONCE.pack(number), data[_JOIN_HEAD.size :], head)
    return read_as_server(HANDSHAKE._envelope.wrap(MessageKind.JOIN, head + sealed))


def run_confirm(data: bytes) -> object:
    """As ``run_join``; the plain text is a challenge."""
    head = data[: _JOIN_HEAD.size].ljust(_JOIN_HEAD.size, b"\0")
    number = int.from_bytes(head[-4:], "big")
    sealed = KEYS.confirm.encrypt(_NONCE.pack(number), data[_JOIN_HEAD.size :], head)
    return read_as_server(HANDSHAKE._envelope.wrap(MessageKind.CONFIRM, head + sealed))


def run_hello(data: bytes) -> object:
    """Cookie and place, then the plain text that the Noise message seals."""
    head = data[: _HELLO_HEAD.size].ljust(_HELLO_HEAD.size, b"\0")
    noise = NNpsk0(initiator=True, psk=HANDSHAKE._psk, prologue=PROLOGUE, rng_key=_random(3)(32))
    said = noise.write_message(data[_HELLO_HEAD.size :])
    return read_as_server(HANDSHAKE._envelope.wrap(MessageKind.HELLO, head + said))


# -- to the client


def run_to_client(data: bytes) -> object:
    """The first byte is the kind; the rest is the body, which stays as it is.  The client has said hello and joined."""
    message = HANDSHAKE._envelope.wrap(MessageKind(data[0] % 7 + 1 if data else 1), data[1:])
    _, pending = HANDSHAKE.hello(_OFFERS[0], _random(1))
    try:
        return HANDSHAKE.read_answer(pending, message)
    except Malformed:
        join = HANDSHAKE.join(KEYS, ID, NUMBER, _OFFERS[0], _random(1))
        return HANDSHAKE.read_join_answer(KEYS, NUMBER, join, message)


def to_client_seeds() -> list[bytes]:
    hello, _ = HANDSHAKE.hello(_OFFERS[0], _random(1))
    join = HANDSHAKE.read_untrusted(HANDSHAKE.join(KEYS, ID, NUMBER, _OFFERS[0], _random(1)))
    assert isinstance(join, JoinMessage)
    made = {
        MessageKind.JOIN_ANSWER: HANDSHAKE.join_answer(KEYS, NUMBER, bytes(16)),
        MessageKind.GONE: HANDSHAKE.gone(join),
        MessageKind.COOKIE: HANDSHAKE.want_cookie(hello, bytes(16)),
    }
    return [
        bytes((kind - 1,)) + HANDSHAKE._envelope._masked(message[:SALT], message[SALT:])[1:]
        for kind, message in made.items()
    ]


def run_answer(data: bytes) -> object:
    """The plain text of an answer to a hello."""
    hello, pending = HANDSHAKE.hello(_OFFERS[0], _random(1))
    read = HANDSHAKE.read_untrusted(hello)
    assert isinstance(read, HelloMessage)
    noise = NNpsk0(initiator=False, psk=HANDSHAKE._psk, prologue=PROLOGUE, rng_key=_random(2)(32))
    noise.read_message(read.message)
    return HANDSHAKE.read_answer(pending, HANDSHAKE.challenged(noise.write_message(data), bytes(16)))


# -- on a flow


def run_control(cipher: Cipher, data: bytes) -> object:
    """The body of a control frame, which is sealed, opened and read."""
    with raw_control():
        payload = KEYS_OF[cipher].codec(1, initiator=True).pack_control(3, Raw(data))
    opened, bad = KEYS_OF[cipher].codec(1, initiator=False).unpack(memoryview(payload), 0)
    if len(data) < native_frames.LENGTH:
        assert not bad
        return KEYS_OF[cipher].codec(1, initiator=False).read_control(opened[0].datagrams[0])
    return None


KEYS_OF = {cipher: NativeKeys.derive(cipher, bytes(32), bytes(range(32))) for cipher in Cipher}


def control_seeds() -> list[bytes]:
    said: list[messages.Control] = [
        messages.Ready(),
        messages.Probe(1, 20),
        messages.ProbeAnswer(1, 2, 3),
        messages.FlowDown(4),
        messages.CloseFlow(),
        messages.Opened(5),
        messages.CloseConversation(6),
        messages.Refused(6, messages.RefusalReason.LIMIT),
        messages.SeenAs(bytes(16), 7),
        messages.CloseSession(),
    ]
    return [build_control(message) for message in said]


_HEAD = ID.to_bytes(8, "big") + NUMBER.to_bytes(4, "big")
TARGETS: dict[str, Target] = {
    "insider_to_server": Target(run_to_server, to_server_seeds, 4, SHARE),
    "insider_hello": Target(
        run_hello, lambda: [bytes(20) + _build_offer(one) + bytes(40) for one in _OFFERS], 8, SHARE
    ),
    "insider_join": Target(run_join, lambda: [_HEAD + _build_offer(one) + bytes(10) for one in _OFFERS], 2, SHARE),
    "insider_confirm": Target(run_confirm, lambda: [_HEAD + bytes(16)], 2, SHARE),
    "insider_to_client": Target(run_to_client, to_client_seeds, 8, SHARE),
    "insider_answer": Target(
        run_answer,
        lambda: [
            _ANSWER_BODY.pack(status, cipher, ID, 2, *shard)
            for status in Status
            for cipher, shard in enumerate(((0, 1), (3, 4), (0, 255)))
        ],
        cost=16,
        share=SHARE,
    ),
    "insider_control_none": Target(partial(run_control, Cipher.NONE), control_seeds, share=SHARE),
    "insider_control_aes": Target(partial(run_control, Cipher.AES_256_GCM), control_seeds, share=SHARE),
}
