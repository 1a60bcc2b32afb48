"""Golden vectors of every message, made by the independent peer from fixed input.

``python -m tests.wire.native.vectors`` writes ``tests/golden/wire-vectors.json`` anew: only for a new version of the
format.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tests.wire.native import independent_peer as peer

PATH = Path(__file__).parents[2] / "golden" / "wire-vectors.json"

SECRET = bytes(range(32))
EPHEMERALS = bytes(range(32, 64)), bytes(range(64, 96))
SESSION_ID = 0x0123456789ABCDEF
CHALLENGE = bytes(range(0xA0, 0xB0))
COOKIE = bytes(range(0xC0, 0xD0))
COOKIE_MESSAGE = 49
TARGETS = 2
MSS, SCALE = 1460, 7
PADDING = 11
FLOW_ID = 7
HOUR = 480_000
CONVERSATION = 0xBEEF
CIPHERS = {"none": peer.NONE, "aes-256-gcm": peer.AES_256_GCM, "chacha20-poly1305": peer.CHACHA20_POLY1305}

DATAGRAMS = (b"first datagram", b"other datagram")
OPENING = struct.pack("!H", 1) + b"opening datagram"
FRAGMENTS = (struct.pack("!IBBH", 0xCAFE, 0, 2, 1) + b"part one", struct.pack("!IBBH", 0xCAFE, 1, 2, 1) + b"two")
LATE_COUNTER = 0x7FFF_FFFE
NEXT_COUNTER = 99
LATE_CONTROL_COUNTER = 0x0001_0000_0002

CONTROLS = {
    "Ready": struct.pack("!B", 1),
    "Probe": struct.pack("!BI", 2, 0x01020304),
    "Probe, padded": struct.pack("!BI", 2, 0x01020304) + bytes(20),
    "ProbeAnswer": struct.pack("!BIII", 3, 0x01020304, 0x05060708, 0x090A0B0C),
    "FlowDown": struct.pack("!BI", 4, 0x05060708),
    "CloseFlow": struct.pack("!B", 5),
    "Opened": struct.pack("!BH", 6, CONVERSATION),
    "CloseConversation": struct.pack("!BH", 7, CONVERSATION),
    "Refused": struct.pack("!BHB", 8, CONVERSATION, 2),
    "CloseSession": struct.pack("!B", 9),
    "Rekey": struct.pack("!BI", 10, 1) + peer.public_key(EPHEMERALS[0]),
    "Rekeyed": struct.pack("!BI", 11, 1) + peer.public_key(EPHEMERALS[1]),
    "RekeyWanted": struct.pack("!B", 12),
}


def handshake(cipher: int) -> tuple[dict[str, str], peer.Session]:
    secret = peer.Secret(SECRET)
    offered = peer.offer(cipher, MSS, SCALE)
    hello, noise = peer.hello(secret, offered, EPHEMERALS[0], PADDING)
    said = peer.Answer(0, cipher, SESSION_ID, CHALLENGE, TARGETS)
    answer, _, session = peer.answer(secret, hello, said, EPHEMERALS[1])
    if peer.read_answer(secret, noise, answer)[1].key != session.key:
        raise AssertionError("the two ends disagree")
    join = peer.join(secret, session, SESSION_ID, FLOW_ID, peer.offer(cipher, MSS, None), PADDING)
    messages = {
        "hello": hello,
        "answer": answer,
        "session key": session.key,
        "session key of epoch 1": next_session_key(session),
        "confirmation": peer.confirmation(secret, session, SESSION_ID, 1, CHALLENGE),
        "join": join,
        "join answer": peer.join_answer(secret, session, FLOW_ID, CHALLENGE),
        "gone": peer.gone(secret, join),
        "cookie": peer.want_cookie(secret, hello, COOKIE),
        "hello with the cookie": peer.hello(
            secret, offered, EPHEMERALS[0], PADDING, (COOKIE, len(hello), COOKIE_MESSAGE)
        )[0],
    }
    return {name: message.hex() for name, message in messages.items()}, session


def frames(session: peer.Session, cipher: int, number: int) -> dict[str, object]:
    """Frames of direction ``number``, each list with the counters running on."""
    flow = peer.Direction(session, cipher, FLOW_ID, number)
    plain = [flow.frame(peer.DATA, CONVERSATION, datagram) for datagram in DATAGRAMS]
    plain.append(flow.frame(peer.OPENING, CONVERSATION, OPENING))
    plain += [flow.frame(peer.FRAGMENT, CONVERSATION, part) for part in FRAGMENTS]
    flow.counter = LATE_COUNTER
    plain.append(flow.frame(peer.DATA, CONVERSATION, b""))
    control = {name: flow.control_frame(message).hex() for name, message in CONTROLS.items()}
    flow.control_counter = LATE_CONTROL_COUNTER
    late = flow.control_frame(CONTROLS["Ready"]).hex()
    flow.counter, flow.control_counter = NEXT_COUNTER, NEXT_COUNTER
    flow.use(next_session_key(session), 1)
    following = [flow.frame(peer.DATA, CONVERSATION, DATAGRAMS[0]), flow.control_frame(CONTROLS["Ready"])]
    return {
        "data": [frame.hex() for frame in plain],
        "control": control,
        "late control": late,
        "epoch 1": [frame.hex() for frame in following],
    }


def next_session_key(session: peer.Session) -> bytes:
    """Of epoch 1, after the rekey in ``CONTROLS``."""
    publics = [peer.public_key(private) for private in EPHEMERALS]
    keys = [
        peer.next_key(session.key, 1, own, theirs, b"".join(publics))
        for own, theirs in zip(EPHEMERALS, reversed(publics), strict=True)
    ]
    if keys[0] != keys[1]:
        raise AssertionError("the two ends disagree")
    return keys[0]


def vectors() -> dict[str, object]:
    """All of them, as the file has them."""
    document: dict[str, object] = {
        "about": "rsock-nf wire format 2, see docs/wire.md; made by tests/wire/native/vectors.py",
        "secret": SECRET.hex(),
        "ephemeral keys": [key.hex() for key in EPHEMERALS],
    }
    secret = peer.Secret(SECRET)
    document["behind a message of 16 zero bytes"] = {
        "hint of hour 0": secret.hinted(bytes(16), 0)[16:].hex(),
        f"hint of hour {HOUR}": secret.hinted(bytes(16), HOUR)[16:].hex(),
        "lasting hint": secret.hinted(bytes(16), None)[16:].hex(),
    }
    for name, cipher in CIPHERS.items():
        messages, session = handshake(cipher)
        document[name] = messages | {
            "to server": frames(session, cipher, 0),
            "to client": frames(session, cipher, 1),
        }
    return document


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
