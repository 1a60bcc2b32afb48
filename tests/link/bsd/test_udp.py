"""The application's sockets as the BSDs have them, without merging and cutting: the tests of Linux's, again, and some
more.

IP_RECVDSTADDR exists on no Linux; what stands for it is IP_PKTINFO, whose structure macOS shares.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from rsock_nf.link import system
from rsock_nf.link.bsd.abi import load
from rsock_nf.link.bsd.udp import DestinationOption, MessageReader, PlainUdp, destination_option
from rsock_nf.link.linux.system import REMEDIES
from rsock_nf.link.udp import MSG_TRUNC
from rsock_nf.sockets import buffers, unix_datagrams, unix_path
from rsock_nf.sockets import datagrams as datagram_sockets
from tests.sockets.test_datagrams import (
    Keep,
    endpoint,
    here,
    keep,
    pair,
    run_of,
    take,
    test_a_dead_port_costs_nothing,
    test_a_foreign_peer_is_a_bug,
    test_a_full_buffer_is_a_counted_drop,
    test_a_stranger_cannot_speak_for_the_target,
    test_an_unreachable_peer_is_counted_and_stays_no_single_destination,
    test_answers_come_from_the_address_that_was_asked,
    test_buffers_of_ones_own_are_not_overwritten_by_others,
    test_closing_twice,
    test_empty_datagrams_survive,
    test_equal_datagrams_make_one_run,
    test_every_size_both_ways,
    test_interleaved_peers_stay_apart,
    test_link_local_answers,
    test_mixed_sizes_keep_their_order,
    test_of_many_ipv6_addresses_the_one_that_was_asked_answers,
    test_one_sender_who_asks_two_of_our_addresses_is_two_peers,
    test_opening_errors_are_one_line,
)
from tests.sockets.test_unix_datagrams import (
    listener,
    sender,
    stack,
    test_every_bound_sender_gets_its_own_answers,
    test_unbound_senders_are_heard_and_not_answered,
    test_what_no_udp_datagram_can_hold_is_dropped_alone,
)

__all__ = [
    "here",
    "keep",
    "listener",
    "pair",
    "sender",
    "stack",
    "test_a_dead_port_costs_nothing",
    "test_a_foreign_peer_is_a_bug",
    "test_a_full_buffer_is_a_counted_drop",
    "test_a_stranger_cannot_speak_for_the_target",
    "test_an_unreachable_peer_is_counted_and_stays_no_single_destination",
    "test_answers_come_from_the_address_that_was_asked",
    "test_buffers_of_ones_own_are_not_overwritten_by_others",
    "test_closing_twice",
    "test_empty_datagrams_survive",
    "test_equal_datagrams_make_one_run",
    "test_every_bound_sender_gets_its_own_answers",
    "test_every_size_both_ways",
    "test_interleaved_peers_stay_apart",
    "test_link_local_answers",
    "test_mixed_sizes_keep_their_order",
    "test_of_many_ipv6_addresses_the_one_that_was_asked_answers",
    "test_one_sender_who_asks_two_of_our_addresses_is_two_peers",
    "test_opening_errors_are_one_line",
    "test_unbound_senders_are_heard_and_not_answered",
    "test_what_no_udp_datagram_can_hold_is_dropped_alone",
]

IP_PKTINFO = 8
PLAIN = PlainUdp(DestinationOption(IP_PKTINFO, IP_PKTINFO, IP_PKTINFO, packet_info=True), {}, lambda _: 1400)


@pytest.fixture(autouse=True)
def plain_udp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (datagram_sockets, buffers, unix_datagrams, unix_path):
        monkeypatch.setattr(
            module, "system", lambda: SimpleNamespace(udp=PLAIN, remedies=REMEDIES, run_directory_groups=())
        )
    buffers.shared_buffers.cache_clear()
    yield
    buffers.shared_buffers.cache_clear()


def test_long_runs_go_one_by_one_and_that_is_no_fault(keep: Keep) -> None:
    receiver = keep(datagram_sockets.Listener(endpoint("127.0.0.1")))
    connected = keep(datagram_sockets.TargetSocket(receiver.local))
    datagrams = [bytes([n]) * 1000 for n in range(100)]
    connected.send([run_of(datagrams)])
    assert [data for _, data in take(receiver, 100)] == datagrams
    assert (connected.counters.sent, connected.counters.sent_singly) == (100, 0)


def test_an_error_behind_datagrams_is_told_by_the_next_read() -> None:
    class Refused(MessageReader):
        def _one(self, borrowed: socket.socket, view: memoryview) -> None:
            if len(self._lengths) == 2:
                raise ConnectionRefusedError(111, "refused")
            super()._one(borrowed, view)

    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        near.setblocking(False)
        for text in (b"one", b"two", b"three"):
            far.send(text)
        reader = Refused(8, 100)
        assert (reader.read(near.fileno()), reader.lengths(2)) == (2, [3, 3])
        with pytest.raises(ConnectionRefusedError):
            reader.read(near.fileno())
        assert (reader.read(near.fileno()), reader.lengths(1)) == (1, [5])
        with pytest.raises(OSError, match="Bad file descriptor"):
            reader.read(9999)


def test_a_datagram_above_the_slot_is_flagged() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        near.setblocking(False)
        far.send(b"x" * 11)
        far.send(b"y" * 10)
        reader = MessageReader(4, 10, names=110)
        assert reader.read(near.fileno(), 1) == 1
        assert (reader.flags(1), reader.any_flags(1)) == ([MSG_TRUNC], True)
        assert reader.read(near.fileno()) == 1
        assert (reader.lengths(1), reader.flags(1), bytes(reader.views[0])) == ([10], [0], b"y" * 10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("freebsd", DestinationOption(7, 7, 7, packet_info=False)),
        ("netbsd", DestinationOption(7, 7, 7, packet_info=False)),
        ("openbsd", DestinationOption(7, 7, 7, packet_info=False)),
        ("macos", DestinationOption(26, 26, 26, packet_info=True)),
    ],
)
def test_where_a_datagram_was_sent_to_is_said_in_the_systems_way(name: str, expected: DestinationOption) -> None:
    abi = load(name)
    assert destination_option(abi) == expected
    udp = PlainUdp(expected, abi.numbers, lambda _: 0)
    address = socket.inet_aton("192.0.2.1")
    body = bytes(4) + address + address if expected.packet_info else address  # struct in_pktinfo, struct in_addr
    ancillary = udp.parse_ancillary(struct.pack("=ii", socket.IPPROTO_IP, expected.told) + body)
    assert str(udp.address_of(socket.AF_INET, ancillary.source)) == "192.0.2.1"
    assert ancillary.source == udp.source_of(socket.AF_INET, address, 0)
    answer = bytes(4) + address + bytes(4) if expected.packet_info else address
    assert udp.answer_from(socket.AF_INET, ancillary.source) == [(socket.IPPROTO_IP, expected.answer, answer)]
    assert udp.parse_ancillary(b"").source == udp.parse_ancillary(struct.pack("=ii", 0, 99)).source == b""


def test_large_buffers_are_asked_for_until_one_is_taken() -> None:
    class Small:
        """kern.ipc.maxsockbuf: ENOBUFS above."""

        def __init__(self) -> None:
            self.taken: list[int] = []
            self.refused: list[int] = []

        def setsockopt(self, level: int, option: int, size: int) -> None:
            assert level == socket.SOL_SOCKET
            assert option in {socket.SO_RCVBUF, socket.SO_SNDBUF}
            if size > 2 << 20:
                self.refused.append(size)
                raise OSError(55, "No buffer space available")
            self.taken.append(size)

    sock = Small()
    PLAIN.configure(sock, 8 << 20)  # type: ignore[arg-type]
    assert sock.taken == [2 << 20] * 2
    assert sock.refused == [8 << 20, 4 << 20] * 2


def test_the_mtu_comes_from_the_route() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert PLAIN.route_mtu(sock) == 0  # to nobody
        sock.connect(("127.0.0.1", 9))
        assert PLAIN.route_mtu(sock) == 1400


def test_linux_keeps_its_own() -> None:
    assert system().udp.bursts
