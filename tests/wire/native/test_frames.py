"""Frames of each cipher: what is packed comes out as it was, merged or not, and nothing else ever does."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core import messages
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import FlowCodec, Frames, Kind
from rsock_nf.core.types import Buffer
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import HEADER, SealedCodec, flow_codec

SESSION_KEY = bytes(range(64))
TAG = 16
PROBE_FRAME = 29
"""Header, probe without padding, tag."""
SEALED = (Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305)

ciphers = pytest.mark.parametrize("cipher", list(Cipher), ids=lambda cipher: cipher.value)
sealed_ciphers = pytest.mark.parametrize("cipher", SEALED, ids=lambda cipher: cipher.value)
any_cipher = st.sampled_from(Cipher)
conversations = st.integers(0, 0xFFFF)
counters = st.integers(0, 0x7FFFFFFF - 20)
kinds = st.sampled_from((Kind.DATA, Kind.OPENING, Kind.FRAGMENT))


def sender(cipher: Cipher, flow_id: int = 1, key: bytes = SESSION_KEY) -> FlowCodec:
    return flow_codec(cipher, KeyRing(cipher, key), flow_id, initiator=True)


def receiver(cipher: Cipher, flow_id: int = 1, key: bytes = SESSION_KEY) -> FlowCodec:
    return flow_codec(cipher, KeyRing(cipher, key), flow_id, initiator=False)


def pack(
    codec: FlowCodec, datagrams: list[bytes], kind: int = Kind.DATA, counter: int = 0, prefix: bytes = b""
) -> bytes:
    return b"".join(codec.pack(kind, 0xBEEF, counter, prefix, datagrams))


def unpack(codec: FlowCodec, payload: bytes, segment_size: int = 0) -> tuple[list[Frames], int]:
    return codec.unpack(memoryview(payload), segment_size)


class Opened(NamedTuple):
    kind: int
    conversation: int
    counter: int
    body: bytes


def each(frames: list[Frames], *, sealed: bool) -> list[Opened]:
    """Runs as single frames."""
    return [
        Opened(run.kind, run.conversation, run.counter + at if sealed or run.kind == Kind.CONTROL else -1, bytes(body))
        for run in frames
        for at, body in enumerate(run.datagrams)
    ]


@st.composite
def runs(draw: st.DrawFn, largest: int = 300) -> list[bytes]:
    """Datagrams of one size, the last of which may be shorter."""
    size = draw(st.integers(0, largest))
    count = draw(st.integers(1, 20))
    last = draw(st.integers(0, size))
    rng = random.Random(draw(st.integers(0, 2**32)))
    return [*(rng.randbytes(size) for _ in range(count - 1)), rng.randbytes(last)]


# -- round trips


@given(any_cipher, kinds, conversations, counters, st.binary(max_size=2), runs())
def test_run_comes_out_as_it_was(
    cipher: Cipher, kind: int, conversation: int, counter: int, prefix: bytes, datagrams: list[bytes]
) -> None:
    codec = sender(cipher)
    payload = b"".join(codec.pack(kind, conversation, counter, prefix, datagrams))
    frame = codec.overhead + len(prefix) + len(datagrams[0])
    assert len(payload) == frame * (len(datagrams) - 1) + codec.overhead + len(prefix) + len(datagrams[-1])
    for segment_size in (0, frame) if len(datagrams) > 1 else (0,):
        opened, bad = unpack(receiver(cipher), payload, segment_size)
        assert bad == 0
        assert each(opened, sealed=(cipher is not Cipher.NONE)) == [
            Opened(kind, conversation, counter + at if (cipher is not Cipher.NONE) else -1, prefix + datagram)
            for at, datagram in enumerate(datagrams)
        ]


@ciphers
def test_run_of_empty_datagrams(cipher: Cipher) -> None:
    payload = pack(sender(cipher), [b""] * 5)
    for segment_size in (0, len(payload) // 5):
        opened, bad = unpack(receiver(cipher), payload, segment_size)
        assert ([one.body for one in each(opened, sealed=False)], bad) == ([b""] * 5, 0)


@given(any_cipher, runs(), counters)
def test_result_keeps_the_promises_of_frames(cipher: Cipher, datagrams: list[bytes], counter: int) -> None:
    payload = pack(sender(cipher), datagrams, counter=counter)
    opened, _ = unpack(receiver(cipher), payload)
    for run in opened:
        assert {len(body) for body in run.datagrams[:-1]} <= {run.size}
        assert len(run.datagrams[-1]) <= run.size
    assert [run.end for run in opened] == sorted({run.end for run in opened})
    assert opened[-1].end == len(payload)


@ciphers
def test_burst_of_equal_datagrams_is_one_run(cipher: Cipher) -> None:
    payload = pack(sender(cipher), [bytes((n,)) * 100 for n in range(40)])
    for segment_size in (0, len(payload) // 40):
        [run], bad = unpack(receiver(cipher), payload, segment_size)
        assert (len(run.datagrams), run.size, run.end, bad) == (40, 100, len(payload), 0)


@ciphers
def test_frames_of_equal_datagrams_are_equally_long(cipher: Cipher) -> None:
    """Whatever the conversation and the counter: bursts would fall apart otherwise."""
    codec = sender(cipher)
    sizes = {
        len(b"".join(codec.pack(Kind.DATA, conversation, counter, b"", [bytes(100)])))
        for conversation in (0, 255, 256, 65535)
        for counter in (0, 255, 65536, 2**30, 2**31 - 1)
    }
    assert sizes == {100 + codec.overhead}
    assert codec.overhead == (8 if cipher is Cipher.NONE else 24)


@given(any_cipher, st.binary(min_size=1, max_size=64))
def test_datagrams_may_be_any_buffer(cipher: Cipher, datagram: bytes) -> None:
    codec = sender(cipher)
    buffers: list[Buffer] = [memoryview(datagram), bytearray(datagram), datagram]
    payload = b"".join(codec.pack(Kind.OPENING, 7, 0, b"\0\1", buffers))
    opened, _ = unpack(receiver(cipher), payload)
    assert [frame.body for frame in each(opened, sealed=(cipher is not Cipher.NONE))] == [b"\0\1" + datagram] * 3


@ciphers
@pytest.mark.parametrize("counter", [0, 1, 2**32, 2**47 - 1])
def test_control_frame_comes_out_as_it_was(cipher: Cipher, counter: int) -> None:
    frame = sender(cipher).pack_control(counter, messages.ProbeAnswer(1, 2, 3))
    codec = receiver(cipher)
    [opened], bad = unpack(codec, frame)
    assert (opened.kind, opened.counter, opened.end, bad) == (Kind.CONTROL, counter, len(frame), 0)
    assert codec.read_control(opened.datagrams[0]) == messages.ProbeAnswer(1, 2, 3)


@given(st.integers(0, 1400))
def test_padding_of_a_probe_reaches_any_segment_size(padding: int) -> None:
    for cipher in Cipher:
        assert len(sender(cipher).pack_control(9, messages.Probe(1, padding))) == PROBE_FRAME + padding


# -- many frames in one payload, as GRO merges them


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Cipher, list[bytes], list[Opened]]:
    """Frames in any order: data of several kinds, sizes and conversations, and control."""
    cipher = draw(any_cipher)
    codec = sender(cipher)
    frames: list[bytes] = []
    expected: list[Opened] = []
    counter = control = 0
    for _ in range(draw(st.integers(1, 12))):
        if draw(st.booleans()):
            number = draw(st.integers(0, 2**32 - 1))
            frames.append(codec.pack_control(control, messages.Probe(number)))
            expected.append(Opened(Kind.CONTROL, 0, control, b"\2" + number.to_bytes(4, "big")))
            control += 1
        else:
            kind, conversation = draw(kinds), draw(st.integers(0, 3))
            body = draw(st.binary(max_size=40))
            frames.append(b"".join(codec.pack(kind, conversation, counter, b"", [body])))
            expected.append(Opened(kind, conversation, counter if (cipher is not Cipher.NONE) else -1, body))
            counter += 1
    return cipher, frames, expected


@given(mixtures())
def test_mixed_frames_are_cut_by_their_own_lengths(mixture: tuple[Cipher, list[bytes], list[Opened]]) -> None:
    cipher, frames, expected = mixture
    opened, bad = unpack(receiver(cipher), b"".join(frames))
    assert (each(opened, sealed=cipher is not Cipher.NONE), bad) == (expected, 0)


class FrameByFrame(SealedCodec):
    """The receiver without its short cut for equal frames."""

    def __init__(self, cipher: Cipher) -> None:
        codec = receiver(cipher)
        assert isinstance(codec, SealedCodec)
        super().__init__(codec.keys)

    def _open_burst(self, payload: memoryview, frame: int) -> None:  # noqa: ARG002 - as the base has it
        return None


@given(st.sampled_from(SEALED), runs(largest=60), counters, st.data())
def test_a_burst_opened_in_one_go_is_what_it_is_frame_by_frame(
    cipher: Cipher, datagrams: list[bytes], counter: int, data: st.DataObject
) -> None:
    """Also damaged, cut short, or with a counter out of its turn."""
    codec = sender(cipher)
    size = len(datagrams[0]) + HEADER.size + TAG
    payload = bytearray(pack(codec, datagrams, counter=counter))
    match data.draw(st.sampled_from(("whole", "flipped", "cut", "another counter"))):
        case "flipped":
            payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del payload[data.draw(st.integers(1, len(payload))) :]
        case "another counter":
            payload += pack(codec, datagrams, counter=counter + len(datagrams) + 1)
    found = unpack(receiver(cipher), bytes(payload), size)
    assert found == unpack(FrameByFrame(cipher), bytes(payload), size)


def probes_among_data(codec: FlowCodec) -> list[bytes]:
    """Frames of one size: data, a probe padded to the same, data."""
    one, two = pack(codec, [b"1" * 100]), pack(codec, [b"2" * 100], counter=1)
    return [one, codec.pack_control(0, messages.Probe(5, len(one) - PROBE_FRAME)), two]


@ciphers
@pytest.mark.parametrize("told", [True, False])
def test_control_frame_among_data_of_its_size(cipher: Cipher, told: bool) -> None:  # noqa: FBT001
    frames = probes_among_data(sender(cipher))
    opened, bad = unpack(receiver(cipher), b"".join(frames), len(frames[0]) if told else 0)
    assert [run.kind for run in opened] == [Kind.DATA, Kind.CONTROL, Kind.DATA]
    assert [run.end for run in opened] == [len(b"".join(frames[: n + 1])) for n in range(3)]
    assert bad == 0


@ciphers
def test_shorter_last_segment_of_a_merge(cipher: Cipher) -> None:
    """GRO ends a merge with the first shorter segment, here a control frame."""
    codec = sender(cipher)
    burst = pack(codec, [b"x" * 100] * 3)
    size = len(burst) // 3
    opened, bad = unpack(receiver(cipher), burst + codec.pack_control(0, messages.Ready()), size)
    assert ([run.kind for run in opened], len(opened[0].datagrams), bad) == ([Kind.DATA, Kind.CONTROL], 3, 0)


@given(any_cipher, st.integers(1, 200), st.integers(2, 12), st.data())
def test_damaged_segment_costs_itself_alone_where_the_size_is_told(
    cipher: Cipher, size: int, count: int, data: st.DataObject
) -> None:
    datagrams = [bytes((n,)) * size for n in range(count)]
    payload = bytearray(pack(sender(cipher), datagrams))
    frame = len(payload) // count
    broken = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    for at in broken:
        payload[at * frame + data.draw(st.integers(4, 7))] ^= data.draw(st.integers(1, 255))  # token, or counter
    opened, bad = unpack(receiver(cipher), bytes(payload), frame)
    bodies = [one.body for one in each(opened, sealed=cipher is not Cipher.NONE)]
    assert (bodies, bad) == ([d for n, d in enumerate(datagrams) if n not in broken], len(broken))


@given(any_cipher, st.integers(1, 100), st.integers(2, 10), st.data())
def test_damaged_frame_ends_the_reading_where_no_size_is_told(
    cipher: Cipher, size: int, count: int, data: st.DataObject
) -> None:
    datagrams = [bytes((n,)) * size for n in range(count)]
    payload = bytearray(pack(sender(cipher), datagrams))
    frame = len(payload) // count
    broken = data.draw(st.integers(0, count - 1))
    payload[broken * frame + 7] ^= 1
    opened, bad = unpack(receiver(cipher), bytes(payload))
    assert ([one.body for one in each(opened, sealed=cipher is not Cipher.NONE)], bad) == (datagrams[:broken], 1)


@ciphers
def test_runs_break_where_counters_or_conversations_do(cipher: Cipher) -> None:
    codec = sender(cipher)
    payload = pack(codec, [b"a" * 50, b"b" * 50]) + pack(codec, [b"c" * 50], counter=9)
    payload += b"".join(codec.pack(Kind.DATA, 1, 10, b"", [b"d" * 50]))
    opened, bad = unpack(receiver(cipher), payload)
    assert bad == 0
    assert b"".join(one.body[:1] for one in each(opened, sealed=(cipher is not Cipher.NONE))) == b"abcd"
    if cipher is not Cipher.NONE:
        assert [(run.conversation, run.counter, len(run.datagrams)) for run in opened] == [
            (0xBEEF, 0, 2), (0xBEEF, 9, 1), (1, 10, 1),
        ]  # fmt: skip
    else:
        assert sum(len(run.datagrams) for run in opened if run.conversation == 0xBEEF) == 3


# -- what does not open


@given(any_cipher, runs(60), st.data())
def test_truncated_payload_gives_the_whole_frames_before_the_cut(
    cipher: Cipher, datagrams: list[bytes], data: st.DataObject
) -> None:
    codec = sender(cipher)
    payload = pack(codec, datagrams)
    cut = data.draw(st.integers(0, len(payload) - 1))
    frame = codec.overhead + len(datagrams[0])
    for segment_size in (0, frame):
        opened, bad = unpack(receiver(cipher), payload[:cut], segment_size)
        whole = min(cut // frame, len(datagrams))
        assert [one.body for one in each(opened, sealed=(cipher is not Cipher.NONE))] == datagrams[:whole]
        assert bad == (1 if cut % frame or (cut == 0 and cipher is Cipher.NONE) else 0)


@sealed_ciphers
def test_no_flipped_bit_of_a_sealed_frame_authenticates(cipher: Cipher) -> None:
    codec = sender(cipher)
    for frame in (pack(codec, [b"some datagram"], counter=5), codec.pack_control(5, messages.Probe(5))):
        for bit in range(len(frame) * 8):
            flipped = bytearray(frame)
            flipped[bit // 8] ^= 1 << bit % 8
            for segment_size in (0, len(frame)):
                assert unpack(receiver(cipher), bytes(flipped), segment_size) == ([], 1)


def test_no_flipped_bit_of_a_plain_control_frame_is_a_control_frame() -> None:
    frame = sender(Cipher.NONE).pack_control(5, messages.Probe(5))
    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unpack(receiver(Cipher.NONE), bytes(flipped)) == ([], 1)


def test_no_flipped_bit_of_the_token_is_taken() -> None:
    frame = pack(sender(Cipher.NONE), [b"datagram"])
    for bit in range(32, 64):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unpack(receiver(Cipher.NONE), bytes(flipped)) == ([], 1)


@ciphers
def test_keys_are_of_one_flow_one_direction_one_session(cipher: Cipher) -> None:
    codec = sender(cipher)
    for frame in (pack(codec, [b"datagram"]), codec.pack_control(0, messages.Ready())):
        assert unpack(receiver(cipher), frame)[1] == 0
        assert unpack(receiver(cipher, flow_id=2), frame) == ([], 1)
        assert unpack(receiver(cipher, key=bytes(64)), frame) == ([], 1)
        assert unpack(codec, frame) == ([], 1), "reflected"


@ciphers
def test_other_ciphers_do_not_open_it(cipher: Cipher) -> None:
    frame = pack(sender(cipher), [b"datagram" * 4])
    for other in set(Cipher) - {cipher}:
        assert unpack(receiver(other), frame)[0] == []


@ciphers
def test_data_sealed_as_control_is_not_control(cipher: Cipher) -> None:
    """Someone who reads cipher none cannot make a control frame out of a data frame."""
    payload = bytearray(pack(sender(cipher), [messages_like_close_session()]))
    payload[0] |= Kind.CONTROL << 6
    opened, _ = unpack(receiver(cipher), bytes(payload))
    assert [run for run in opened if run.kind == Kind.CONTROL] == []


def messages_like_close_session() -> bytes:
    return b"\x09" + bytes(TAG)


@given(any_cipher, st.binary(max_size=400), st.integers(0, 500))
def test_anything_unpacks_to_nothing(cipher: Cipher, payload: bytes, segment_size: int) -> None:
    opened, bad = unpack(receiver(cipher), payload, segment_size)
    assert opened == []
    assert bad >= 1 or not payload


@given(any_cipher, st.binary(max_size=100), st.integers(0, 200))
def test_garbage_behind_a_frame_does_not_spoil_it(cipher: Cipher, garbage: bytes, segment_size: int) -> None:
    frame = pack(sender(cipher), [b"datagram"])
    opened, _ = unpack(receiver(cipher), frame + garbage, 0 if segment_size < len(frame) else segment_size)
    assert [one.body for one in each(opened, sealed=cipher is not Cipher.NONE)] == [b"datagram"]


# -- the header


def test_plain_header_is_kind_length_conversation_token() -> None:
    codec = sender(Cipher.NONE)
    frames = [b"".join(codec.pack(kind, 0xBEEF, 77, b"", [b"12345"])) for kind in (0, 1, 2)]
    tokens = {HEADER.unpack_from(frame)[2] for frame in frames}
    assert [HEADER.unpack_from(frame)[:2] for frame in frames] == [(kind << 14 | 5, 0xBEEF) for kind in (0, 1, 2)]
    assert len(tokens) == 1
    assert all(frame[8:] == b"12345" for frame in frames)


@sealed_ciphers
def test_masked_headers_and_bodies_never_repeat(cipher: Cipher) -> None:
    """Equal datagrams: eight bytes of header in which no byte stands out, and no sealed body twice."""
    codec = sender(cipher)
    count, size = 512, 40
    payload = pack(codec, [b"same" * 10] * count)
    frames = [payload[at : at + size + 24] for at in range(0, len(payload), size + 24)]
    headers = [frame[:8] for frame in frames]
    assert len(set(headers)) == len({frame[8:] for frame in frames}) == count
    for column in zip(*headers, strict=True):
        assert len(set(column)) > 180  # of 256: 221 are expected


@sealed_ciphers
def test_each_counter_seals_differently(cipher: Cipher) -> None:
    codec = sender(cipher)
    sealed = [pack(codec, [bytes(32)], counter=counter)[8:] for counter in range(64)]
    sealed += [codec.pack_control(counter, messages.Probe(0, 27))[8:] for counter in range(64)]
    assert len({body[:16] for body in sealed}) == 128
    for one, two in pairwise(sealed):
        assert bytes(a ^ b for a, b in zip(one[:32], two[:32], strict=True)) != bytes(32)


@ciphers
def test_largest_frame(cipher: Cipher) -> None:
    payload = pack(sender(cipher), [bytes(16383)])
    [run], bad = unpack(receiver(cipher), payload)
    assert (run.size, run.end, bad) == (16383, len(payload), 0)
