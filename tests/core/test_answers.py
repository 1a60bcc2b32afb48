"""No answer to a stranger is larger than what it answers: SYNs with any flags and options, FINs."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.flows.states import Input, State
from rsock_nf.core.tcp.segment import SynOptions, fitting
from rsock_nf.core.types import Checksum, Outgoing, Packet
from tests.core.conntrack import ACK, FIN, RST, SYN, parse_tcp
from tests.core.outputs import outputs
from tests.core.pair import CLIENT_ADDRESS, SERVER_ADDRESS, Pair
from tests.core.wire import Toward, make_tcp

OPTIONS = {
    "mss": b"\x02\x04\x05\xb4",
    "sack": b"\x01\x01\x04\x02",
    "sack alone": b"\x04\x02",
    "scale": b"\x01\x03\x03\x07",
    "scale alone": b"\x03\x03\x0e",
    "time stamps": b"\x08\x0a" + bytes(8),
    "fast open": b"\x22\x02",
    "nop": b"\x01",
}
options = st.lists(st.sampled_from([*OPTIONS.values()]), max_size=8).map(b"".join)


def syn(family: int, data: bytes, flags: int = SYN) -> bytes:
    """A SYN with ``data`` as its options, padded to whole words by NOP."""
    data = data[:40]
    data += b"\x01" * (-len(data) % 4)
    source, server = CLIENT_ADDRESS[family].packed, SERVER_ADDRESS[family].packed
    packet = bytearray(make_tcp((source, 5555), (server, 10001), 777, 0, flags, data))
    packet[-len(data) - 8] = 5 + len(data) // 4 << 4  # what was the payload is options
    return bytes(packet)


def answers(pair: Pair, packet: bytes) -> list[Outgoing]:
    pair.server.receive_packets(pair.now, [Packet(memoryview(packet), 0, Checksum.VALID, b"link")])
    return outputs(pair.server).bursts


def size(answer: Outgoing) -> int:
    return len(answer.headers) + answer.payload_size


@given(st.sampled_from([4, 6]), options)
def test_a_syn_ack_is_never_larger_than_its_syn(family: int, data: bytes) -> None:
    pair = Pair(family=family)
    packet = syn(family, data)
    for answer in answers(pair, packet):
        assert size(answer) <= len(packet)


def test_a_syn_without_options_gets_an_answer_without_options() -> None:
    pair = Pair()
    [answer] = answers(pair, syn(4, b""))
    assert size(answer) == 40
    assert struct.unpack_from("!H", answer.headers, 34) == (65535 // 536 * 536,)


def test_a_syn_of_ours_gets_everything() -> None:
    pair = Pair()
    [answer] = answers(pair, syn(4, OPTIONS["mss"] + OPTIONS["sack"] + OPTIONS["scale"]))
    assert answer.headers[40:] == OPTIONS["mss"] + OPTIONS["sack"] + OPTIONS["scale"]


@given(st.integers(0, 40), st.integers(536, 1460), st.booleans(), st.sampled_from([None, 7]))
def test_what_fits_begins_with_the_mss(room: int, mss: int, sack: bool, scale: int | None) -> None:  # noqa: FBT001
    kept = fitting(SynOptions(mss, scale, sack), room)
    used = 4 * ((kept.mss is not None) + (kept.window_scale is not None) + kept.sack_permitted)
    assert used <= room
    assert (kept.mss == mss) == (room >= 4)
    if room >= 12:
        assert kept == SynOptions(mss, scale, sack)


@pytest.mark.parametrize("flags", [SYN | FIN, SYN | RST, SYN | FIN | RST, SYN | FIN | ACK, SYN | RST | ACK, SYN | ACK])
def test_what_no_host_sends_is_not_answered(flags: int) -> None:
    pair = Pair()
    assert answers(pair, syn(4, OPTIONS["mss"], flags)) == []
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        key = pair.flows(pair.server)[0].key
        packet = make_tcp((key.remote, key.remote_port), (key.local, key.local_port), 99, 0, flags)
        assert answers(pair, packet) == []


def test_a_fin_that_comes_again_gets_no_more_than_it_is() -> None:
    """Forged, without payload and with any number; our own FIN is not acknowledged yet."""
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        pair.run(1.0)
        [flow], [mine] = pair.flows(pair.server), pair.flows(pair.client)
        pair.wire.drop.append(lambda toward, packet: toward is Toward.CLIENT and bool(parse_tcp(packet).flags & FIN))
        pair.client.flows.step(pair.now, mine, Input.CLOSE, "")
        pair.client.flows.settle()
        pair.run_until(lambda: flow.state is State.LINGERING, 0.1)
        key = flow.key
        packet = make_tcp((key.remote, key.remote_port), (key.local, key.local_port), 12345, 1, FIN | ACK)
        assert sum(size(answer) for answer in answers(pair, packet)) <= len(packet)
        pair.wire.drop.clear()
        pair.run(5.0)
