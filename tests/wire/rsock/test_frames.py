"""The codec of wire rsock, both versions: merges, what is not of this flow, and the words that it has."""

from __future__ import annotations

import pytest

from rsock_nf.core import messages
from rsock_nf.core.protocols import FlowCodec, Kind
from rsock_nf.core.types import Malformed
from rsock_nf.wire.rsock.frames import MAX_RECEIVED, Frame, KeepAliveAnswer, KeepAliveRequest, RsockFormat, build_frame

KEY = b"a key"
CLIENT = 0x0123456789ABCDEF
FLOW = 0x10002711
FORMAT = RsockFormat(KEY)
HEAD = {1: 27, 2: 31}
VERSIONS = pytest.mark.parametrize("version", [1, 2])


def codec(version: int = 2, flow: int = FLOW, client: int = CLIENT) -> FlowCodec:
    return FORMAT.keys(client, version).codec(flow, initiator=True)


def frame(body: bytes, version: int = 2, command: int = 0, conversation: int = 7) -> bytes:
    return build_frame(KEY, Frame(version, command, CLIENT.to_bytes(8, "big"), conversation, FLOW, body))


def unpack(payload: bytes, segment_size: int = 0, version: int = 2) -> tuple[list[tuple[int, int, list[bytes]]], int]:
    frames, bad = codec(version).unpack(memoryview(payload), segment_size)
    return [(one.kind, one.conversation, [bytes(body) for body in one.datagrams]) for one in frames], bad


@VERSIONS
def test_a_frame_is_head_and_datagram(version: int) -> None:
    payload = b"".join(codec(version).pack(Kind.DATA, 7, 0, b"", [b"datagram"]))
    assert payload == frame(b"datagram", version)
    assert len(payload) == HEAD[version] + 8 == codec(version).overhead + 8
    assert payload[8] == HEAD[version] - 8
    assert unpack(payload, version=version) == ([(Kind.DATA, 7, [b"datagram"])], 0)


@VERSIONS
def test_a_merge_is_cut_by_the_segment_size(version: int) -> None:
    """Runs of one conversation and size stay runs; the last of one may be shorter."""
    sizes = [(3, 100), (3, 100), (3, 100), (4, 100), (4, 30)]
    payload = b"".join(
        frame(bytes([at]) * size, version, conversation=number) for at, (number, size) in enumerate(sizes)
    )
    opened, bad = unpack(payload, HEAD[version] + 100, version)
    assert bad == 0
    assert [(number, [len(body) for body in bodies]) for _, number, bodies in opened] == [
        (3, [100, 100, 100]),
        (4, [100, 30]),
    ]
    frames, _ = codec(version).unpack(memoryview(payload), HEAD[version] + 100)
    assert [one.end for one in frames] == [3 * (HEAD[version] + 100), len(payload)]


def test_a_merge_without_a_segment_size_is_lost() -> None:
    payload = frame(b"a" * 1400) + frame(b"b" * 1400)
    assert unpack(payload, 1431) == ([(Kind.DATA, 7, [b"a" * 1400, b"b" * 1400])], 0)
    assert unpack(payload) == ([], 1)


def test_one_bad_segment_of_a_merge_costs_no_other() -> None:
    parts = [frame(bytes([at]) * 50) for at in range(4)]
    parts[1] = b"\0" * 81
    opened, bad = unpack(b"".join(parts), 81)
    assert bad == 1
    assert [bodies for _, _, bodies in opened] == [[b"\0" * 50], [b"\2" * 50, b"\3" * 50]]


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(frame(b"x")[:-1], id="no body"),
        pytest.param(b"\0" + frame(b"x")[1:], id="another hash"),
        pytest.param(frame(b"x")[:8] + b"\x18" + frame(b"x")[9:], id="another head length"),
        pytest.param(frame(b"x", version=1), id="another version"),
        pytest.param(frame(b"x", command=5), id="an unknown command"),
        pytest.param(frame(b"x" * MAX_RECEIVED), id="longer than any frame"),
        pytest.param(b"".join(codec(flow=FLOW + 1).pack(Kind.DATA, 7, 0, b"", [b"x"])), id="another flow"),
        pytest.param(b"".join(codec(client=CLIENT + 1).pack(Kind.DATA, 7, 0, b"", [b"x"])), id="another client"),
    ],
)
def test_what_is_no_frame_of_this_flow_is_counted(payload: bytes) -> None:
    assert unpack(payload) == ([], 1)


@pytest.mark.parametrize(
    "message",
    [
        KeepAliveRequest(FLOW + 1),
        KeepAliveAnswer(FLOW),
        messages.FlowDown(FLOW + 1),
        messages.CloseFlow(),
        messages.CloseConversation(70_000),
    ],
    ids=lambda message: type(message).__name__,
)
@VERSIONS
def test_control_messages_come_back_as_they_were(version: int, message: object) -> None:
    made = codec(version).pack_control(0, message)
    assert len(made) == codec(version).control_size(message)
    ((kind, _, (body,)),), _ = unpack(made, version=version)
    assert kind == Kind.CONTROL
    assert codec(version).read_control(body) == message


def test_a_keepalive_asks_for_the_flow_that_it_travels_on() -> None:
    ((_, _, (body,)),), _ = unpack(codec().pack_control(0, KeepAliveRequest(FLOW)))
    assert codec().read_control(body) == KeepAliveRequest(FLOW)


def test_a_refusal_closes_the_conversation() -> None:
    ((_, _, (body,)),), _ = unpack(codec().pack_control(0, messages.Refused(9, 1)))
    assert codec().read_control(body) == messages.CloseConversation(9)


@pytest.mark.parametrize("message", [messages.Ready(), messages.Opened(1), messages.CloseSession()])
def test_there_are_no_words_for_the_rest(message: object) -> None:
    with pytest.raises(ValueError, match="no words"):
        codec().pack_control(0, message)


@pytest.mark.parametrize("kind", [Kind.OPENING, Kind.FRAGMENT])
def test_there_are_no_opening_frames_and_no_fragments(kind: Kind) -> None:
    with pytest.raises(ValueError, match="neither"):
        codec().pack(kind, 1, 0, b"", [b"x"])


@pytest.mark.parametrize("body", [b"", b"\0x", b"\x01abc", b"\x02abcdefg", b"\x05abcdefgh"])
def test_a_control_body_that_is_none(body: bytes) -> None:
    with pytest.raises(Malformed):
        codec().read_control(body)


@VERSIONS
@pytest.mark.parametrize("command", range(5))
def test_a_strangers_frame_says_who_and_where(version: int, command: int) -> None:
    said = FORMAT.read_untrusted(memoryview(frame(b"12345678", version, command)))
    assert said == (version, CLIENT, FLOW, command == 0)


def test_a_strangers_frame_with_another_key_is_refused() -> None:
    with pytest.raises(Malformed, match="another key"):
        RsockFormat(b"another key").read_untrusted(memoryview(frame(b"datagram")))
