"""What an onlooker with the keys of flows reads of what the real cores say, and what those keys do not open."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from rsock_nf.core.parameters import Cipher, Kinds
from rsock_nf.core.protocols import FlowCodec, Kind
from rsock_nf.core.types import Malformed
from rsock_nf.wire.native.envelope import MessageKind
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import flow_codec
from rsock_nf.wire.native.handshake import NativeHandshake, native_keys
from rsock_nf.wire.native.hints import SIZE as HINT
from rsock_nf.wire.native.limits import TAG
from rsock_nf.wire.native.overheard import TO_CLIENT, TO_SERVER, OverheardFlow, disclose
from tests.core.pair import SECRET, Pair
from tests.core.wire import endpoints
from tests.wire.native.scene import Scene, payload_of

HEADER = 8


def read_clear(clear: bytes, cipher: Cipher) -> list[tuple[int, int, bytes]]:
    """(kind, conversation, body) of each frame in clear, as docs/wire.md has the header."""
    found, at = [], 0
    while at < len(clear):
        word = int.from_bytes(clear[at : at + 2])
        kind, length = word >> 14, word & 0x3FFF
        conversation = 0 if kind == Kind.CONTROL else int.from_bytes(clear[at + 2 : at + 4])
        found.append((kind, conversation, clear[at + HEADER : at + HEADER + length]))
        at += HEADER + length + (TAG if kind == Kind.CONTROL or cipher is not Cipher.NONE else 0)
    assert at == len(clear)
    return found


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
@pytest.mark.parametrize("cipher", list(Cipher))
def test_every_frame_is_read_as_the_core_made_it(cipher: Cipher, kinds: Kinds, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, Any] = {}
    scene = Scene.played(
        cipher,
        monkeypatch,
        kinds=kinds,
        before_the_end=lambda pair: told.update(
            {
                flow.key.local_port: json.loads(json.dumps(disclose(flow.pump.codec)))
                for flow in pair.client.flows.established()
            }
        ),
    )
    flows = {port: OverheardFlow(keys) for port, keys in told.items()}
    assert len(flows) == 10
    seen: Counter[int] = Counter()
    for _, packet in scene.merged():
        payload = payload_of(packet)
        if not payload or payload in scene.messages:
            continue
        (_, source), (_, destination), _ = endpoints(packet)
        direction = TO_SERVER if source in flows else TO_CLIENT
        flow = flows[source if direction == TO_SERVER else destination]
        clear = flow.reveal(payload, direction)
        assert clear is not None
        assert len(clear) == len(payload)
        expected = scene.said_in(payload)
        assert read_clear(clear, cipher) == [(said.kind, said.conversation, said.body) for said in expected]
        seen.update(said.kind for said in expected)
        harmed = bytearray(payload)
        harmed[len(payload) // 2] ^= 1
        if cipher is not Cipher.NONE:
            assert flow.reveal(bytes(harmed), direction) is None
            assert flow.reveal(payload[:-1], direction) is None
    assert set(seen) == set(Kind)


def codecs(ring: KeyRing, cipher: Cipher, flow: int = 7) -> tuple[FlowCodec, FlowCodec]:
    return flow_codec(cipher, ring, flow, initiator=True), flow_codec(cipher, ring, flow, initiator=False)


def told_of(codec: FlowCodec) -> OverheardFlow:
    keys = disclose(codec)
    assert keys is not None
    return OverheardFlow(keys)


def test_keys_of_one_epoch_open_nothing_of_the_next_and_keys_that_are_kept_go_on() -> None:
    cipher = Cipher.AES_256_GCM
    ring = KeyRing(cipher, bytes(64))
    client, _ = codecs(ring, cipher)
    before = told_of(client)
    old = b"".join(client.pack(Kind.DATA, 1, 5, b"", [b"old"]))
    ring.begin(bytes(range(64)), send=True)
    new = b"".join(client.pack(Kind.DATA, 1, 6, b"", [b"new"]))
    assert before.reveal(old, TO_SERVER)
    assert before.reveal(new, TO_SERVER) is None
    ring.came(ring.newest)
    ring.forget_old()
    after = told_of(client)
    assert after.reveal(new, TO_SERVER)
    assert after.reveal(old, TO_SERVER) is None
    after.keep(before)
    assert after.reveal(old, TO_SERVER)
    assert after.reveal(new, TO_SERVER)


def test_keys_of_a_flow_open_no_other_and_hold_neither_the_session_key_nor_the_secret() -> None:
    with Pair(seed=2, cipher=Cipher.AES_256_GCM) as pair:
        pair.up()
        first, second = pair.client.flows.established()[:2]
        keys = disclose(first.pump.codec)
        payload = b"".join(second.pump.codec.pack(Kind.DATA, 1, 5, b"", [b"text"]))
        assert keys is not None
        assert OverheardFlow(keys).reveal(payload, TO_SERVER) is None
        assert told_of(second.pump.codec).reveal(payload, TO_SERVER)
        (session,) = pair.client.sessions
        ring = native_keys(session.keys).ring
        text = json.dumps(keys)
        for secret in (SECRET, ring.newest.session_key[:32], ring.newest.session_key[32:]):
            assert secret.hex() not in text


def test_flows_of_the_originals_wire_disclose_nothing() -> None:
    class Other:
        """No codec of the native wire."""

    other: Any = Other()
    assert disclose(other) is None


@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_handshake_messages_without_their_mask(cipher: Cipher, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene.played(cipher, monkeypatch)
    handshake = NativeHandshake(SECRET)
    seen: Counter[MessageKind] = Counter()
    for message, kind in scene.messages.items():
        from_client = kind in {MessageKind.HELLO, MessageKind.JOIN, MessageKind.CONFIRM}
        clear = handshake.overhear(message, from_client=from_client)
        assert (len(clear), clear[:16], clear[16]) == (len(message), message[:16], kind)
        if kind is MessageKind.HELLO:  # section 4.2: cookie, sent, received, e, offer
            offer = clear[17 + 16 + 4 + 32 :]
            assert offer[:5] == bytes([2, int(cipher is not Cipher.NONE)]) + (1460).to_bytes(2) + b"\x07"
            assert not any(offer[5 : -TAG - HINT])
        if kind is MessageKind.CONFIRM:  # section 4.4: session id, number
            (session,) = {session.session_id for session in scene.sessions}
            assert clear[17:25] == session.to_bytes(8)
            assert int.from_bytes(clear[25:29]) in range(1, 11)
        seen[kind] += 1
        for other in (NativeHandshake(bytes(32)), handshake):
            with pytest.raises(Malformed):
                other.overhear(message, from_client=from_client is (other is not handshake))
    assert len(seen) == 5


def test_what_makes_no_sense_is_refused() -> None:
    client, _ = codecs(KeyRing(Cipher.NONE, bytes(64)), Cipher.NONE)
    keys = disclose(client)
    assert keys is not None
    for wrong in ({}, {**keys, "cipher": "rot13"}, {**keys, "directions": keys["directions"][:1]}):
        with pytest.raises((ValueError, KeyError, TypeError)):
            OverheardFlow(wrong)
