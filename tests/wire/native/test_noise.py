"""What the handshake refuses, and that a refusal leaves no trace."""

import random

import pytest

from rsock_nf.core.types import Malformed
from rsock_nf.wire.native.noise import OVERHEAD, NNpsk0

PSK = bytes(range(32))
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


def pair(**changed: bytes) -> tuple[NNpsk0, NNpsk0]:
    rng = random.Random(1)
    initiator = NNpsk0(initiator=True, psk=PSK, prologue=b"rsock-nf", rng_key=rng.randbytes(32))
    responder = NNpsk0(
        initiator=False,
        psk=changed.get("psk", PSK),
        prologue=changed.get("prologue", b"rsock-nf"),
        rng_key=rng.randbytes(32),
    )
    return initiator, responder


def test_both_ends_get_the_same_keys() -> None:
    initiator, responder = pair()
    assert responder.read_message(initiator.write_message(b"hello")) == b"hello"
    assert initiator.read_message(responder.write_message(b"welcome")) == b"welcome"
    assert initiator.finished
    assert responder.finished
    assert initiator.split() == responder.split()[::-1]
    assert initiator.split()[0] != initiator.split()[1]
    assert initiator.handshake_hash == responder.handshake_hash


@pytest.mark.parametrize("changed", [{"psk": bytes(32)}, {"prologue": b"other"}])
def test_other_secret_or_prologue_is_refused(changed: dict[str, bytes]) -> None:
    initiator, responder = pair(**changed)
    with pytest.raises(Malformed):
        responder.read_message(initiator.write_message(b"hello"))


@pytest.mark.parametrize("size", [0, 1, 31, 32, OVERHEAD - 1, 65536])
def test_impossible_sizes_are_refused(size: int) -> None:
    _, responder = pair()
    with pytest.raises(Malformed):
        responder.read_message(bytes(size))


def test_empty_payload_is_the_shortest_message() -> None:
    initiator, responder = pair()
    message = initiator.write_message(b"")
    assert len(message) == OVERHEAD
    assert responder.read_message(message) == b""


@pytest.mark.parametrize("public", LOW_ORDER, ids=lambda public: public.hex()[:8])
def test_public_key_of_low_order_is_refused(public: bytes) -> None:
    """In either message, and for that reason: the first message would decrypt without the check."""
    initiator, responder = pair()
    message = initiator.write_message(b"hello")
    with pytest.raises(Malformed, match="low order"):
        responder.read_message(public + message[32:])
    with pytest.raises(Malformed, match="low order"):
        initiator.read_message(public + bytes(16))


def test_forged_messages_do_not_spoil_the_genuine_one() -> None:
    initiator, responder = pair()
    hello = initiator.write_message(b"hello")
    forged = bytearray(hello)
    forged[40] ^= 1
    with pytest.raises(Malformed):
        responder.read_message(bytes(forged))
    responder.read_message(hello)
    welcome = responder.write_message(b"welcome")
    for i in range(len(welcome)):
        forged = bytearray(welcome)
        forged[i] ^= 0x10
        with pytest.raises(Malformed):
            initiator.read_message(bytes(forged))
    assert initiator.read_message(welcome) == b"welcome"


def test_methods_out_of_order_are_bugs() -> None:
    initiator, responder = pair()
    with pytest.raises(RuntimeError):
        initiator.read_message(bytes(64))
    with pytest.raises(RuntimeError):
        responder.write_message(b"")
    with pytest.raises(RuntimeError):
        initiator.split()
    initiator.write_message(b"")
    with pytest.raises(RuntimeError):
        initiator.write_message(b"")


def test_key_sizes() -> None:
    with pytest.raises(ValueError, match="psk of 31"):
        NNpsk0(initiator=True, psk=bytes(31), prologue=b"", rng_key=bytes(32))
