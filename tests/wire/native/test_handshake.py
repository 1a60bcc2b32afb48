"""Hello, join, confirmation and their answers: who gets in, who does not, and how long the messages are."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import Kind, SessionKeys
from rsock_nf.core.types import Malformed, Shard
from rsock_nf.wire.native.handshake import NativeHandshake, NativeKeys
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

SECRET = bytes(range(32))
SESSION_ID = 0x0123456789ABCDEF
CHALLENGE = bytes(range(100, 116))
HELLO_SIZES = range(95, 95 + 64)
JOIN_SIZES = range(50, 50 + 64)
ANSWER_SIZE, JOIN_ANSWER_SIZE, CONFIRMATION_SIZE, GONE_SIZE = 95, 49, 61, 33

ciphers = pytest.mark.parametrize("cipher", list(Cipher), ids=lambda cipher: cipher.value)
offers = st.builds(Offer, st.sampled_from(Cipher), st.integers(0, 65535), st.one_of(st.none(), st.integers(0, 14)))


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


class Ends(NamedTuple):
    """After hello and answer: both ends, and what went over the wire."""

    client: NativeHandshake
    server: NativeHandshake
    client_keys: SessionKeys
    server_keys: SessionKeys
    hello: bytes
    answer: bytes
    challenge: bytes


def read_hello(server: NativeHandshake, hello: bytes, seed: int = 2) -> Hello:
    message = server.read_untrusted(hello)
    assert isinstance(message, HelloMessage)
    return server.read_hello(message, seeded(seed))


def say(server: NativeHandshake, hello: Hello, said: Answer) -> tuple[bytes, SessionKeys]:
    sealed, keys = server.answer(hello, said)
    return server.challenged(sealed, CHALLENGE), keys


def hear(client: NativeHandshake, pending: object, answer: bytes) -> tuple[Answer, bytes, SessionKeys]:
    read = client.read_answer(pending, answer)
    assert not isinstance(read, CookieMessage)
    return read


def meet(cipher: Cipher = Cipher.NONE, seed: int = 1) -> Ends:
    client, server = NativeHandshake(SECRET), NativeHandshake(SECRET)
    hello, pending = client.hello(Offer(cipher, 1460, 7), seeded(seed))
    said = Answer(Status.WELCOME, cipher, SESSION_ID, 3)
    answer, server_keys = say(server, read_hello(server, hello, seed + 1), said)
    heard, challenge, client_keys = hear(client, pending, answer)
    assert heard == said
    return Ends(client, server, client_keys, server_keys, hello, answer, challenge)


def read_join(server: NativeHandshake, join: bytes) -> JoinMessage:
    message = server.read_untrusted(join)
    assert isinstance(message, JoinMessage)
    return message


def read_confirm(server: NativeHandshake, confirm: bytes) -> ConfirmMessage:
    message = server.read_untrusted(confirm)
    assert isinstance(message, ConfirmMessage)
    return message


# -- every path once


@ciphers
def test_hello_answer_confirmation(cipher: Cipher) -> None:
    ends = meet(cipher)
    confirm = ends.client.confirm(ends.client_keys, SESSION_ID, 1, ends.challenge)
    message = read_confirm(ends.server, confirm)
    assert message[:2] == (SESSION_ID, 1)
    assert ends.server.read_confirm(ends.server_keys, message) == CHALLENGE
    to_server, at_server = (
        keys.codec(1, initiator=initiator) for keys, initiator in ((ends.client_keys, True), (ends.server_keys, False))
    )
    payload = b"".join(to_server.pack(Kind.DATA, 9, 0, b"", [b"datagram"]))
    [frames], bad = at_server.unpack(memoryview(payload), 0)
    assert (bytes(frames.datagrams[0]), bad) == (b"datagram", 0)


@ciphers
def test_join_answer_confirmation(cipher: Cipher) -> None:
    ends = meet(cipher)
    offer = Offer(cipher, 1400, None)
    join = ends.client.join(ends.client_keys, SESSION_ID, 2, offer, seeded(4))
    message = read_join(ends.server, join)
    assert message[:2] == (SESSION_ID, 2)
    assert ends.server.read_join(ends.server_keys, message) == offer
    answer = ends.server.join_answer(ends.server_keys, 2, CHALLENGE)
    assert ends.client.read_join_answer(ends.client_keys, 2, join, answer) == CHALLENGE
    confirm = ends.client.confirm(ends.client_keys, SESSION_ID, 2, CHALLENGE)
    assert ends.server.read_confirm(ends.server_keys, read_confirm(ends.server, confirm)) == CHALLENGE


@given(offers, st.integers(0, 2**32))
def test_offer_arrives_as_it_was(offer: Offer, seed: int) -> None:
    client, server = NativeHandshake(SECRET), NativeHandshake(SECRET)
    hello, _ = client.hello(offer, seeded(seed))
    assert read_hello(server, hello).offer == offer


@given(
    st.builds(
        Answer,
        st.sampled_from(Status),
        st.sampled_from(Cipher),
        st.integers(0, 2**64 - 1),
        st.integers(0, 65535),
    )
)
def test_answer_arrives_as_it_was(said: Answer) -> None:
    client, server = NativeHandshake(SECRET), NativeHandshake(SECRET)
    hello, pending = client.hello(Offer(said.cipher, 1460, 7), seeded(1))
    answer, _ = say(server, read_hello(server, hello), said)
    assert hear(client, pending, answer)[0] == said


def test_other_cipher_is_named_by_the_server() -> None:
    client, server = NativeHandshake(SECRET), NativeHandshake(SECRET)
    hello, pending = client.hello(Offer(Cipher.NONE, 1460, 7), seeded(1))
    said = Answer(Status.CIPHER, Cipher.AES_256_GCM, 0, 0)
    answer, _ = say(server, read_hello(server, hello), said)
    assert hear(client, pending, answer)[0] == said


# -- who does not get in


def test_another_secret_gets_nothing() -> None:
    ends = meet()
    stranger = NativeHandshake(bytes(32))
    join = ends.client.join(ends.client_keys, SESSION_ID, 2, Offer(Cipher.NONE, 1460, 7), seeded(4))
    confirm = ends.client.confirm(ends.client_keys, SESSION_ID, 2, CHALLENGE)
    for message in (ends.hello, join, confirm):
        with pytest.raises(Malformed):
            stranger.read_untrusted(message)
    _, pending = stranger.hello(Offer(Cipher.NONE, 1460, 7), seeded(6))
    with pytest.raises(Malformed):
        stranger.read_answer(pending, ends.answer)


@given(st.binary(max_size=200))
def test_garbage_is_never_a_message(payload: bytes) -> None:
    with pytest.raises(Malformed):
        NativeHandshake(SECRET).read_untrusted(payload)


def test_much_garbage_is_never_a_message() -> None:
    """One kind byte in 85 is a hello's, a join's or a confirmation's: an envelope that does not authenticate shows."""
    rng, server = seeded(1), NativeHandshake(SECRET)
    for _ in range(3000):
        with pytest.raises(Malformed):
            server.read_untrusted(rng(100))


def all_messages() -> list[tuple[str, bytes, Callable[[bytes], object]]]:
    """Each message with a reader that accepts it."""
    ends = meet()
    offer = Offer(Cipher.NONE, 1460, 7)
    client, server, keys = ends.client, ends.server, ends.server_keys
    _, pending = client.hello(offer, seeded(1))
    join = client.join(ends.client_keys, SESSION_ID, 2, offer, seeded(4))
    confirm = client.confirm(ends.client_keys, SESSION_ID, 2, CHALLENGE)
    answer = server.join_answer(keys, 2, CHALLENGE)
    gone = server.gone(read_join(server, join))
    return [
        ("hello", ends.hello, lambda message: read_hello(server, message)),
        ("answer", ends.answer, lambda message: client.read_answer(pending, message)),
        ("join", join, lambda message: server.read_join(keys, read_join(server, message))),
        ("join answer", answer, lambda message: client.read_join_answer(keys, 2, join, message)),
        ("confirmation", confirm, lambda message: server.read_confirm(keys, read_confirm(server, message))),
        ("gone", gone, lambda message: client.read_join_answer(keys, 2, join, message)),
    ]


@pytest.mark.parametrize(("name", "message", "read"), [pytest.param(*row, id=row[0]) for row in all_messages()])
def test_flipped_bits_and_cuts_are_malformed(name: str, message: bytes, read: Callable[[bytes], object]) -> None:
    for bit in range(len(message) * 8):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Malformed):
            read(bytes(flipped))
    for size in range(len(message)):
        with pytest.raises(Malformed):
            read(message[:size])
    with pytest.raises(Malformed):
        read(message + b"\0")
    read(message), name  # a failed attempt spoils nothing: the genuine one still opens


@pytest.mark.parametrize("size", [0, 17, 32, 48, 159, 1400, 64_000])
def test_a_payload_of_another_length_is_not_even_hashed(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    server = NativeHandshake(SECRET)
    monkeypatch.setattr("rsock_nf.wire.native.envelope.hashlib", None)
    with pytest.raises(Malformed):
        server.read_untrusted(memoryview(bytes(size)))


def test_a_cookie_belongs_to_one_hello_and_one_secret() -> None:
    client, server = NativeHandshake(SECRET), NativeHandshake(SECRET)
    offer = Offer(Cipher.NONE, 1460, 7)
    hello, pending = client.hello(offer, seeded(1))
    other, _ = client.hello(offer, seeded(2))
    cookie = bytes(range(16))
    wanted = server.want_cookie(hello, cookie)
    assert len(wanted) == JOIN_ANSWER_SIZE
    assert client.read_answer(pending, wanted) == CookieMessage(cookie, Place(len(hello), len(wanted)))
    for message in (server.want_cookie(other, cookie), NativeHandshake(bytes(32)).want_cookie(hello, cookie)):
        with pytest.raises(Malformed):
            client.read_answer(pending, message)


def test_messages_are_not_taken_for_one_another() -> None:
    rows = all_messages()
    for name, message, _ in rows:
        for other, _, read in rows:
            if {name, other} == {"join answer", "gone"} or name == other:
                continue  # one reader takes both
            with pytest.raises((Malformed, AssertionError)):
                read(message)


@pytest.mark.parametrize(
    ("at", "value"), [(0, 0), (0, 1), (1, 3), (4, 15), (4, 254)], ids=["version", "v1", "cipher", "scale", "scale 254"]
)
def test_offer_with_an_impossible_field_is_malformed(at: int, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_: Offer) -> bytes:
        offer = bytearray((2, 0, 5, 180, 7))
        offer[at] = value
        return bytes(offer)

    monkeypatch.setattr("rsock_nf.wire.native.handshake._build_offer", build)
    hello, _ = NativeHandshake(SECRET).hello(Offer(Cipher.NONE, 1460, 7), seeded(1))
    with pytest.raises(Malformed):
        read_hello(NativeHandshake(SECRET), hello)


# -- replay


def test_replayed_hello_gets_keys_that_the_first_pending_does_not_have() -> None:
    ends = meet()
    said = Answer(Status.WELCOME, Cipher.NONE, 5, 1)
    _, keys = say(ends.server, read_hello(ends.server, ends.hello, 77), said)
    assert isinstance(keys, NativeKeys)
    assert isinstance(ends.client_keys, NativeKeys)
    assert keys.ring.newest.session_key != ends.client_keys.ring.newest.session_key
    confirm = ends.client.confirm(ends.client_keys, 5, 1, CHALLENGE)
    with pytest.raises(Malformed):
        ends.server.read_confirm(keys, read_confirm(ends.server, confirm))


def answered(shard: Shard) -> tuple[NativeHandshake, object, Answer, bytes]:
    """A client with the hello that it has said, and a server's answer: what it tells, and its bytes."""
    client, server = NativeHandshake(SECRET), NativeHandshake(SECRET)
    hello, pending = client.hello(Offer(Cipher.NONE, 1460, 7), seeded(1))
    told = Answer(Status.WELCOME, Cipher.NONE, SESSION_ID, 3, shard)
    answer, _ = say(server, read_hello(server, hello), told)
    return client, pending, told, answer


@pytest.mark.parametrize("shard", [Shard(0, 1), Shard(0, 255), Shard(254, 255), Shard(3, 4)])
def test_an_answer_tells_at_which_ports_the_session_is_known(shard: Shard) -> None:
    client, pending, told, answer = answered(shard)
    assert hear(client, pending, answer)[0] == told


@pytest.mark.parametrize("shard", [Shard(0, 0), Shard(1, 1), Shard(4, 4), Shard(255, 3)])
def test_an_answer_with_a_shard_that_there_cannot_be_is_garbage(shard: Shard) -> None:
    client, pending, _, answer = answered(shard)
    with pytest.raises(Malformed):
        client.read_answer(pending, answer)


def test_hello_has_one_answer_and_the_answer_one_reading() -> None:
    client, server = NativeHandshake(SECRET), NativeHandshake(SECRET)
    hello, pending = client.hello(Offer(Cipher.NONE, 1460, 7), seeded(1))
    said = Answer(Status.WELCOME, Cipher.NONE, SESSION_ID, 3)
    answer, _ = say(server, read_hello(server, hello), said)
    client.read_answer(pending, answer)
    with pytest.raises(Malformed):
        client.read_answer(pending, answer)


def test_join_and_confirmation_are_of_one_session_and_one_number() -> None:
    ends, other = meet(seed=1), meet(seed=50)
    join = ends.client.join(ends.client_keys, SESSION_ID, 2, Offer(Cipher.NONE, 1460, 7), seeded(4))
    confirm = ends.client.confirm(ends.client_keys, SESSION_ID, 2, CHALLENGE)
    read_a_join, read_a_confirm = read_join(ends.server, join), read_confirm(ends.server, confirm)
    with pytest.raises(Malformed):
        other.server.read_join(other.server_keys, read_a_join)
    with pytest.raises(Malformed):
        other.server.read_confirm(other.server_keys, read_a_confirm)
    for head in ((SESSION_ID, 3), (1, 2)):
        renamed = head[0].to_bytes(8, "big") + head[1].to_bytes(4, "big")
        with pytest.raises(Malformed):
            ends.server.read_join(ends.server_keys, JoinMessage(*head, renamed + read_a_join.message[12:]))
        with pytest.raises(Malformed):
            ends.server.read_confirm(ends.server_keys, ConfirmMessage(*head, renamed + read_a_confirm.message[12:]))


def test_join_answer_is_of_one_number() -> None:
    ends = meet()
    offer = Offer(Cipher.NONE, 1460, 7)
    answer = ends.server.join_answer(ends.server_keys, 2, CHALLENGE)
    join = ends.client.join(ends.client_keys, SESSION_ID, 3, offer, seeded(4))
    with pytest.raises(Malformed):
        ends.client.read_join_answer(ends.client_keys, 3, join, answer)


def test_gone_is_of_one_join_and_one_secret() -> None:
    ends = meet()
    offer = Offer(Cipher.NONE, 1460, 7)
    join, other = (ends.client.join(ends.client_keys, SESSION_ID, n, offer, seeded(n)) for n in (2, 3))
    gone = ends.server.gone(read_join(ends.server, join))
    assert isinstance(ends.client.read_join_answer(ends.client_keys, 2, join, gone), Gone)
    with pytest.raises(Malformed):
        ends.client.read_join_answer(ends.client_keys, 3, other, gone)


# -- sizes


@given(offers, st.integers(0, 2**32))
def test_hello_and_join_are_at_least_as_long_as_their_answers(offer: Offer, seed: int) -> None:
    ends = meet()
    hello, _ = ends.client.hello(offer, seeded(seed))
    join = ends.client.join(ends.client_keys, SESSION_ID, 2, offer, seeded(seed))
    join_answer = ends.server.join_answer(ends.server_keys, 2, CHALLENGE)
    gone = ends.server.gone(read_join(ends.server, join))
    confirm = ends.client.confirm(ends.client_keys, SESSION_ID, 2, CHALLENGE)
    assert len(ends.answer) == ANSWER_SIZE
    assert len(hello) in HELLO_SIZES
    assert len(join) in JOIN_SIZES
    assert (len(join_answer), len(gone), len(confirm)) == (JOIN_ANSWER_SIZE, GONE_SIZE, CONFIRMATION_SIZE)
    assert HELLO_SIZES.start >= ANSWER_SIZE
    assert JOIN_SIZES.start >= max(JOIN_ANSWER_SIZE, GONE_SIZE)


def test_sizes_of_hello_and_join_vary() -> None:
    ends, rng, offer = meet(), seeded(9), Offer(Cipher.NONE, 1460, 7)
    assert {len(ends.client.hello(offer, rng)[0]) for _ in range(1000)} == set(HELLO_SIZES)
    assert {len(ends.client.join(ends.client_keys, 1, n, offer, rng)) for n in range(1000)} == set(JOIN_SIZES)


def test_no_byte_is_the_same_in_every_message() -> None:
    ends, rng, offer = meet(), seeded(9), Offer(Cipher.NONE, 1460, 7)
    hellos = [ends.client.hello(offer, rng)[0][: HELLO_SIZES.start] for _ in range(64)]
    joins = [ends.client.join(ends.client_keys, SESSION_ID, n, offer, rng)[: JOIN_SIZES.start] for n in range(64)]
    for messages in (hellos, joins):
        assert min(len(set(column)) for column in zip(*messages, strict=True)) > 32


def test_objects_of_another_wire_format_are_a_type_error() -> None:
    ends = meet()
    with pytest.raises(TypeError):
        ends.client.read_answer(object(), ends.answer)
    with pytest.raises(TypeError):
        ends.server.answer(object(), Answer(Status.FULL, Cipher.NONE, 0, 0))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ends.client.confirm(object(), 1, 1, CHALLENGE)  # type: ignore[arg-type]
