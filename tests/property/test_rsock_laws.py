"""What holds for every frame of wire rsock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.protocols import Kind
from rsock_nf.core.types import Malformed
from rsock_nf.wire.rsock.frames import Frame, RsockFormat, build_frame, hash_of, parse_frame_untrusted

keys = st.binary(max_size=32)
versions = st.sampled_from([1, 2])
flows = st.integers(0, 2**32 - 1)
bodies = st.binary(min_size=1, max_size=1400)
frames = st.builds(Frame, versions, st.integers(0, 4), st.binary(min_size=8, max_size=8), flows, flows, bodies)


@given(keys, frames)
def test_what_is_built_is_parsed_the_same(key: bytes, frame: Frame) -> None:
    hashes = [hash_of(key, first) for first in range(256)]
    assert parse_frame_untrusted(hashes, memoryview(build_frame(key, frame))) == frame


@given(keys, st.binary(max_size=1600))
def test_any_bytes_are_a_frame_or_malformed(key: bytes, data: bytes) -> None:
    try:
        RsockFormat(key).read_untrusted(memoryview(data))
    except Malformed:
        return


@given(
    versions,
    st.integers(0, 2**64 - 1),
    flows,
    st.lists(st.tuples(st.integers(0, 2), bodies), min_size=1, max_size=12),
)
def test_segments_merged_in_any_way_give_the_same_datagrams(
    version: int, client: int, flow: int, said: list[tuple[int, bytes]]
) -> None:
    """A merge has segments of one size but the last; GRO never merges others."""
    codec = RsockFormat(b"key").keys(client, version).codec(flow, initiator=True)
    size = len(said[0][1])
    equal = [(number, body.ljust(size, b".")[:size]) for number, body in said[:-1]]
    equal.append((said[-1][0], said[-1][1][:size]))
    segments = [b"".join(codec.pack(Kind.DATA, number, 0, b"", [body])) for number, body in equal]
    apart = [codec.unpack(memoryview(segment), 0) for segment in segments]
    merged, bad = codec.unpack(memoryview(b"".join(segments)), len(segments[0]))
    assert bad == sum(lost for _, lost in apart) == 0
    assert [(one.conversation, bytes(body)) for one in merged for body in one.datagrams] == equal
    assert [(one.conversation, bytes(body)) for found, _ in apart for one in found for body in one.datagrams] == equal
    assert merged[-1].end == sum(map(len, segments))
    for one in merged:
        assert all(len(body) == one.size for body in one.datagrams[:-1])
        assert len(one.datagrams[-1]) <= one.size
