"""rsock_nf and the independent peer make the same bytes of every message, and they stay what they are."""

import json
from typing import Any

import pytest

from rsock_nf.core import messages
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import FlowCodec, Kind, SessionKeys
from rsock_nf.wire.native.handshake import NativeHandshake, NativeKeys
from rsock_nf.wire.native.hints import Form, Hinted
from rsock_nf.wire.native.opening import Answer, CookieMessage, Gone, HelloMessage, Offer, Place, Status
from rsock_nf.wire.native.rekeying import Rekey, Rekeyed, RekeyWanted
from tests.wire.native import vectors
from tests.wire.native.independent_peer import public_key

GOLDEN: dict[str, Any] = json.loads(vectors.PATH.read_text())
C = vectors.CONVERSATION
MESSAGES: dict[str, object] = {
    "Ready": messages.Ready(),
    "Probe": messages.Probe(0x01020304),
    "Probe, padded": messages.Probe(0x01020304, 20),
    "ProbeAnswer": messages.ProbeAnswer(0x01020304, 0x05060708, 0x090A0B0C),
    "FlowDown": messages.FlowDown(0x05060708),
    "CloseFlow": messages.CloseFlow(),
    "Opened": messages.Opened(C),
    "CloseConversation": messages.CloseConversation(C),
    "Refused": messages.Refused(C, messages.RefusalReason.LIMIT),
    "CloseSession": messages.CloseSession(),
    "Rekey": Rekey(1, public_key(vectors.EPHEMERALS[0])),
    "Rekeyed": Rekeyed(1, public_key(vectors.EPHEMERALS[1])),
    "RekeyWanted": RekeyWanted(),
}
ciphers = pytest.mark.parametrize("cipher", list(Cipher), ids=lambda cipher: cipher.value)


def scripted(size: int) -> bytes:
    """The randomness that the vectors assume: a client's ephemeral key, and padding."""
    return {32: vectors.EPHEMERALS[0], 1: bytes((vectors.PADDING | 0x40,))}[size]  # 0x40: only six bits count


def keys_of(cipher: Cipher) -> SessionKeys:
    key = bytes.fromhex(GOLDEN[cipher.value]["session key"])
    return NativeKeys.derive(cipher, key[:32], key[32:])


def test_independent_peer_still_makes_the_file() -> None:
    assert vectors.vectors() == GOLDEN


def test_hints() -> None:
    made, message = NativeHandshake(vectors.SECRET).hints, bytes(16)
    hourly = [made.attach(message, Hinted(Form.HOURLY, hour))[16:].hex() for hour in (0, vectors.HOUR)]
    assert [*hourly, made.attach(message, Hinted(Form.LASTING))[16:].hex()] == list(
        GOLDEN["behind a message of 16 zero bytes"].values()
    )


@ciphers
def test_hello_and_answer(cipher: Cipher) -> None:
    golden = {name: bytes.fromhex(text) for name, text in GOLDEN[cipher.value].items() if isinstance(text, str)}
    client, server = NativeHandshake(vectors.SECRET), NativeHandshake(vectors.SECRET)
    offer = Offer(cipher, vectors.MSS, vectors.SCALE)
    said = Answer(Status.WELCOME, cipher, vectors.SESSION_ID, vectors.TARGETS)

    hello, pending = client.hello(offer, scripted)
    assert hello == golden["hello"]
    message = server.read_untrusted(golden["hello"])
    assert isinstance(message, HelloMessage)
    read = server.read_hello(message, lambda _: vectors.EPHEMERALS[1])
    assert read.offer == offer
    sealed, server_keys = server.answer(read, said)
    assert server.challenged(sealed, vectors.CHALLENGE) == golden["answer"]
    answered = client.read_answer(pending, golden["answer"])
    assert not isinstance(answered, CookieMessage)
    assert answered[:2] == (said, vectors.CHALLENGE)
    client_keys = answered[2]
    for keys in (server_keys, client_keys):
        assert isinstance(keys, NativeKeys)
        assert keys.ring.newest.session_key == golden["session key"]


@ciphers
def test_cookie(cipher: Cipher) -> None:
    golden = {name: bytes.fromhex(text) for name, text in GOLDEN[cipher.value].items() if isinstance(text, str)}
    client, server = NativeHandshake(vectors.SECRET), NativeHandshake(vectors.SECRET)
    offer = Offer(cipher, vectors.MSS, vectors.SCALE)
    hello, pending = client.hello(offer, scripted)
    assert server.want_cookie(hello, vectors.COOKIE) == golden["cookie"]
    place = Place(len(hello), vectors.COOKIE_MESSAGE)
    assert client.read_answer(pending, golden["cookie"]) == CookieMessage(vectors.COOKIE, place)
    again, _ = client.hello(offer, scripted, vectors.COOKIE, place)
    assert again == golden["hello with the cookie"]
    message = server.read_untrusted(again)
    assert isinstance(message, HelloMessage)
    assert message[:2] == (vectors.COOKIE, place)


@ciphers
def test_join_confirmation_and_gone(cipher: Cipher) -> None:
    golden = {name: bytes.fromhex(text) for name, text in GOLDEN[cipher.value].items() if isinstance(text, str)}
    handshake, keys = NativeHandshake(vectors.SECRET), keys_of(cipher)
    number, session_id, challenge = vectors.FLOW_ID, vectors.SESSION_ID, vectors.CHALLENGE
    offer = Offer(cipher, vectors.MSS, None)

    assert handshake.join(keys, session_id, number, offer, scripted) == golden["join"]
    join = handshake.read_untrusted(golden["join"])
    assert isinstance(join, tuple)
    assert join[:2] == (session_id, number)
    assert handshake.read_join(keys, join) == offer  # type: ignore[arg-type]
    assert handshake.join_answer(keys, number, challenge) == golden["join answer"]
    assert handshake.read_join_answer(keys, number, golden["join"], golden["join answer"]) == challenge
    assert handshake.gone(join) == golden["gone"]  # type: ignore[arg-type]
    assert isinstance(handshake.read_join_answer(keys, number, golden["join"], golden["gone"]), Gone)
    assert handshake.confirm(keys, session_id, 1, challenge) == golden["confirmation"]


def packed(codec: FlowCodec) -> list[str]:
    """The vectors' data frames, a burst at a time."""
    bursts = [
        codec.pack(Kind.DATA, C, 0, b"", list(vectors.DATAGRAMS)),
        codec.pack(Kind.OPENING, C, 2, vectors.OPENING[:2], [vectors.OPENING[2:]]),
        codec.pack(Kind.FRAGMENT, C, 3, b"", list(vectors.FRAGMENTS)),
        codec.pack(Kind.DATA, C, vectors.LATE_COUNTER, b"", [b""]),
    ]
    return [b"".join(burst).hex() for burst in bursts]


@ciphers
@pytest.mark.parametrize("initiator", [True, False])
def test_frames(cipher: Cipher, initiator: bool) -> None:  # noqa: FBT001
    golden = GOLDEN[cipher.value]["to server" if initiator else "to client"]
    codec = keys_of(cipher).codec(vectors.FLOW_ID, initiator=initiator)
    data = golden["data"]
    assert packed(codec) == ["".join(data[:2]), data[2], "".join(data[3:5]), data[5]]
    assert {
        name: codec.pack_control(counter, message).hex() for counter, (name, message) in enumerate(MESSAGES.items())
    } == golden["control"]
    assert codec.pack_control(vectors.LATE_CONTROL_COUNTER, messages.Ready()).hex() == golden["late control"]


@ciphers
@pytest.mark.parametrize("initiator", [True, False])
def test_frames_open_at_the_other_end(cipher: Cipher, initiator: bool) -> None:  # noqa: FBT001
    golden = GOLDEN[cipher.value]["to server" if initiator else "to client"]
    codec = keys_of(cipher).codec(vectors.FLOW_ID, initiator=not initiator)
    payload = bytes.fromhex("".join(golden["data"]) + "".join(golden["control"].values()))
    opened, bad = codec.unpack(memoryview(payload), 0)
    assert bad == 0
    bodies = [bytes(body) for frames in opened if frames.kind != Kind.CONTROL for body in frames.datagrams]
    assert bodies == [*vectors.DATAGRAMS, vectors.OPENING, *vectors.FRAGMENTS, b""]
    controls = [codec.read_control(frames.datagrams[0]) for frames in opened if frames.kind == Kind.CONTROL]
    assert controls == list(MESSAGES.values())


@ciphers
@pytest.mark.parametrize("initiator", [True, False])
def test_rekey(cipher: Cipher, initiator: bool) -> None:  # noqa: FBT001
    client, server = keys_of(cipher), keys_of(cipher)
    assert isinstance(client, NativeKeys)
    assert isinstance(server, NativeKeys)
    client.asking.hasten(0.0)
    question = client.asking.question(0.0, lambda _: vectors.EPHEMERALS[0])
    assert question == MESSAGES["Rekey"]
    answer = server.answering.answer(Rekey(1, public_key(vectors.EPHEMERALS[0])), lambda _: vectors.EPHEMERALS[1])
    assert answer == MESSAGES["Rekeyed"]
    assert client.asking.answered(0.0, Rekeyed(1, public_key(vectors.EPHEMERALS[1])))
    golden = GOLDEN[cipher.value]
    for keys in (client, server):
        assert keys.ring.newest.session_key.hex() == golden["session key of epoch 1"]
    frames = golden["to server" if initiator else "to client"]["epoch 1"]
    codecs = [keys.codec(vectors.FLOW_ID, initiator=keys is client) for keys in (client, server)]
    sending, receiving = codecs if initiator else reversed(codecs)
    if not initiator:  # the server sends in the new epoch from the moment at which it hears it
        sending.unpack(memoryview(receiving.pack_control(0, messages.Ready())), 0)
    made = [b"".join(sending.pack(Kind.DATA, C, vectors.NEXT_COUNTER, b"", [vectors.DATAGRAMS[0]]))]
    made.append(sending.pack_control(vectors.NEXT_COUNTER, messages.Ready()))
    assert [frame.hex() for frame in made] == frames
    opened, bad = receiving.unpack(memoryview(b"".join(made)), 0)
    assert bad == 0
    assert [run.counter for run in opened if run.counter >= 0][-1] == vectors.NEXT_COUNTER
