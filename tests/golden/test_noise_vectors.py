"""The handshake against published vectors (cacophony's, the NNpsk0 ones over X25519)."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from rsock_nf.wire.native.noise import NNpsk0

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("noise-nnpsk0.json").read_text())["vectors"]


def test_the_file_holds_what_we_speak() -> None:
    names = {vector["protocol_name"] for vector in VECTORS}
    assert {"Noise_NNpsk0_25519_ChaChaPoly_SHA256", "Noise_NNpsk0_25519_AESGCM_SHA256"} <= names


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["protocol_name"])
def test_published_vector(vector: dict[str, Any]) -> None:
    _, _, _, cipher, hash_name = vector["protocol_name"].split("_")
    initiator, responder = (
        NNpsk0(
            initiator=role == "init",
            psk=bytes.fromhex(vector[f"{role}_psks"][0]),
            prologue=bytes.fromhex(vector[f"{role}_prologue"]),
            rng_key=bytes.fromhex(vector[f"{role}_ephemeral"]),
            cipher=cipher,
            hash_name=hash_name,
        )
        for role in ("init", "resp")
    )
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    for (payload, ciphertext), (writer, reader) in zip(
        messages[:2], ((initiator, responder), (responder, initiator)), strict=True
    ):
        assert writer.write_message(payload) == ciphertext
        assert reader.read_message(ciphertext) == payload
    assert initiator.handshake_hash == responder.handshake_hash == bytes.fromhex(vector["handshake_hash"])

    # The transport messages show that the split keys are right; their nonces are Noise's, not ours.
    assert initiator.split() == responder.split()[::-1]
    to_responder, to_initiator = initiator.split()
    aead, order = (AESGCM, "big") if cipher == "AESGCM" else (ChaCha20Poly1305, "little")
    assert len(messages) > 2
    for i, (payload, ciphertext) in enumerate(messages[2:]):
        key, nonce = (to_responder, to_initiator)[i % 2], bytes(4) + (i // 2).to_bytes(8, order)  # type: ignore[arg-type]
        assert aead(key).encrypt(nonce, payload, None) == ciphertext
