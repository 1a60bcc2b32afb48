"""What the original rsock put onto the wire, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.core import messages
from rsock_nf.core.protocols import Kind
from rsock_nf.core.types import FlowKey
from rsock_nf.wire.rsock.frames import (
    Frame,
    KeepAliveAnswer,
    KeepAliveRequest,
    RsockFormat,
    build_frame,
    hash_of,
    parse_frame_untrusted,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "rsock-frames.json").read_text())
KEY = b"hello135"
CLIENT = "6db7599348e81d15"
CONVERSATION = 2
FRAMES = {frame["what"]: {**frame, "flow": int(frame["flow"], 16)} for frame in GOLDEN["frames"]}
HASHES = tuple(hash_of(KEY, first) for first in range(256))


@pytest.mark.parametrize("vector", GOLDEN["hashes"], ids=lambda vector: f"{vector['key']}-{vector['first']}")
def test_the_hash_of_key_and_first_byte(vector: dict[str, Any]) -> None:
    assert hash_of(vector["key"].encode(), vector["first"]).hex() == vector["hash"]


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_captured_frame_is_read_and_built_the_same(frame: dict[str, Any]) -> None:
    meant = Frame(2, frame["command"], bytes.fromhex(CLIENT), CONVERSATION, frame["flow"], bytes.fromhex(frame["body"]))
    captured = bytes.fromhex(frame["bytes"])
    assert build_frame(KEY, meant) == captured
    assert parse_frame_untrusted(HASHES, memoryview(captured)) == meant


def test_a_flow_is_named_by_the_ports_before_any_nat() -> None:
    form = RsockFormat(KEY)
    key = FlowKey(b"\x0a\0\0\x01", 54464, b"\xc0\0\x02\x02", 10002)
    assert form.flow_id(key, 2) == FRAMES["DATA on flow 54464 to 10002"]["flow"]
    assert form.flow_id(key, 1) == 54464 << 1


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("KEEP_ALIVE_RESP about 0x3712d4c0 on itself", KeepAliveAnswer(0x3712D4C0)),
        ("NETCONN_RST about 0x3711a464 on 0x3713a024", messages.FlowDown(0x3711A464)),
        ("KEEP_ALIVE_REQ about 0x3712d4c0 on 0x3713a024", KeepAliveRequest(0x3712D4C0)),
    ],
)
def test_a_captured_control_frame_is_understood_on_the_flow_that_it_came_on(what: str, message: object) -> None:
    frame = FRAMES[what]
    codec = RsockFormat(KEY).keys(int(CLIENT, 16), 2).codec(frame["flow"], initiator=True)
    (opened,), bad = codec.unpack(memoryview(bytes.fromhex(frame["bytes"])), 0)
    assert (opened.kind, bad) == (Kind.CONTROL, 0)
    assert codec.read_control(opened.datagrams[0]) == message


def test_our_data_frame_is_the_captured_one() -> None:
    frame = FRAMES["DATA on flow 54464 to 10002"]
    codec = RsockFormat(KEY).keys(int(CLIENT, 16), 2).codec(frame["flow"], initiator=True)
    payload = codec.pack(Kind.DATA, CONVERSATION, 0, b"", [bytes.fromhex(frame["body"])])
    assert b"".join(payload) == bytes.fromhex(frame["bytes"])
