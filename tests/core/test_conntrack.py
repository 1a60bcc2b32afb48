"""The judge itself: it lets right connections pass and finds what is wrong, or its silence would prove nothing."""

import pytest

from tests.core.conntrack import ACK, FIN, PSH, RST, STARTED_OVER, SYN, State, Tcp, Tracker, parse_tcp
from tests.core.wire import checksummed, make_tcp, rewrite_syn

A, B = (b"\x0a\0\0\x01", 40_000), (b"\xc0\0\x02\x02", 10_001)
SCALE_7 = b"\x01\x03\x03\x07"


def segment(
    seq: int, ack: int, flags: int, size: int = 0, *, reply: bool = False, window: int = 65535, options: bytes = b""
) -> Tcp:
    source, destination = (B, A) if reply else (A, B)
    return Tcp(source, destination, seq, ack, flags, window, bytes(size), options)


def established(options: bytes = SCALE_7, server_options: bytes = SCALE_7) -> Tracker:
    """Client at 1001, server at 5001, and both have shown a scaled window."""
    tracker = Tracker()
    for tcp in (
        segment(1000, 0, SYN, window=64240, options=options),
        segment(5000, 1001, SYN | ACK, reply=True, window=64240, options=server_options),
        segment(1001, 5001, ACK),
        segment(5001, 1001, ACK, reply=True),
    ):
        assert tracker.judge(0.0, tcp) == ""
    assert tracker.state(A, B) is State.ESTABLISHED
    return tracker


def test_a_connection_from_syn_to_last_ack() -> None:
    tracker = established()
    for tcp in (
        segment(1001, 5001, ACK | PSH, 1000),
        segment(5001, 2001, ACK, reply=True),
        segment(2001, 5001, FIN | ACK),
        segment(5001, 2002, FIN | ACK, reply=True),
        segment(2002, 5002, ACK),
    ):
        assert tracker.judge(1.0, tcp) == ""
    assert tracker.state(A, B) is State.TIME_WAIT
    assert tracker.judge(122.0, segment(2002, 5002, ACK)) == "ACK of no connection"


def test_data_without_a_syn_is_invalid() -> None:
    assert Tracker().judge(0.0, segment(1, 1, ACK, 10)) == "ACK of no connection"


def test_data_after_the_syn_alone_is_invalid() -> None:
    tracker = Tracker()
    tracker.judge(0.0, segment(1000, 0, SYN))
    assert tracker.judge(0.0, segment(1001, 5001, ACK, 10)) == "ACK in state SYN_SENT"


@pytest.mark.parametrize(
    ("tcp", "reason"),
    [
        (segment(1001 + (65535 << 7) + 1, 5001, ACK, 1), "SEQ over the window of the receiver by 1"),
        (segment(1001 - (65535 << 7) - 2, 5001, ACK, 1), "SEQ of data acknowledged long ago"),
        (segment(1001, 5002, ACK), "ACK of data not seen yet, by 1"),
        (segment(1001, 5001 - (65535 << 7) - 1, ACK), "ACK overly delayed"),
        (segment(1001, 5001, FIN | SYN | ACK), "invalid flag combination 0x13"),
        (segment(1000, 5001, RST, reply=True), "RST before what was acknowledged"),
    ],
)
def test_what_is_out_of_window_is_invalid(tcp: Tcp, reason: str) -> None:
    tracker = established()
    tcp = tcp._replace(seq=tcp.seq & 0xFFFFFFFF, ack=tcp.ack & 0xFFFFFFFF)
    assert tracker.judge(0.0, tcp) == reason
    assert tracker.judge(0.0, segment(1001, 5001, ACK, 10)) == "", "and changes nothing"


@pytest.mark.parametrize(("options", "server_options"), [(b"", SCALE_7), (SCALE_7, b""), (b"", b"")])
def test_without_window_scale_on_both_sides_there_is_none(options: bytes, server_options: bytes) -> None:
    tracker = established(options, server_options)
    assert tracker.judge(0.0, segment(1001 + 65536, 5001, ACK, 1)) == "SEQ over the window of the receiver by 1"
    assert tracker.judge(0.0, segment(1001 + 65535, 5001, ACK, 1)) == ""


def test_the_window_in_syn_and_syn_ack_is_not_scaled() -> None:
    """Until the server has sent something else, the client may not send more than 64,240 bytes."""
    tracker = Tracker()
    tracker.judge(0.0, segment(1000, 0, SYN, window=64240, options=SCALE_7))
    tracker.judge(0.0, segment(5000, 1001, SYN | ACK, reply=True, window=64240, options=SCALE_7))
    assert tracker.judge(0.0, segment(1001, 5001, ACK)) == ""
    assert tracker.judge(0.0, segment(1001 + 64241, 5001, ACK, 1)).startswith("SEQ over the window")


def test_a_reset_is_remembered_for_ten_seconds() -> None:
    tracker = established()
    assert tracker.judge(0.0, segment(5001, 1001, RST | ACK, reply=True)) == ""
    assert tracker.state(A, B) is State.CLOSE
    assert tracker.judge(9.0, segment(1001, 5001, ACK)) == ""
    assert tracker.judge(20.0, segment(1001, 5001, ACK)) == "ACK of no connection"


def test_both_ends_start_over() -> None:
    """A SYN on a live connection is let through, and its answer brings the judge in step."""
    tracker = established()
    assert tracker.judge(0.0, segment(90_000_000, 0, SYN, options=SCALE_7)) == ""
    assert tracker.judge(0.0, segment(70_000_000, 90_000_001, SYN | ACK, reply=True, options=SCALE_7)) == ""
    assert tracker.judge(0.0, segment(90_000_001, 70_000_001, ACK, 100)) == ""
    assert tracker.judge(0.0, segment(1001, 5001, ACK, 100)).endswith(STARTED_OVER)


def test_a_wrong_checksum_is_invalid() -> None:
    packet = bytearray(make_tcp(A, B, 1, 0, SYN))
    assert parse_tcp(bytes(packet)).checksums
    packet[-1] ^= 1
    assert Tracker().judge(0.0, parse_tcp(bytes(packet))) == "bad checksum"


def test_rewriting_a_syn() -> None:
    plain = bytearray(make_tcp(A, B, 1, 0, SYN, b"\x02\x04\x05\xb4" + SCALE_7))
    plain[32] = 7 << 4
    packet = rewrite_syn(checksummed(plain), mss=1400, strip_scale=True)
    tcp = parse_tcp(packet)
    assert tcp.options == b"\x02\x04\x05\x78\x01\x01\x01\x01"
    assert tcp.checksums
