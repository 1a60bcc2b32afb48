"""The batch reader against real UDP sockets on loopback."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsock_nf.link.linux.mmsg import MSG_CTRUNC, MSG_TRUNC, BatchReader

UDP_SEGMENT, UDP_GRO = 103, 104


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.fixture
def sender(receiver: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(receiver.getsockname())
        yield sock


def sockaddr(sock: socket.socket) -> bytes:
    host, port = sock.getsockname()
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def test_what_is_read_is_in_no_memory_that_a_fork_shares() -> None:
    """Workers are forked from a process that may have such buffers already."""

    def shared() -> int:
        return Path("/proc/self/maps").read_text().count(" rw-s ")

    before = shared()
    assert BatchReader(64, 65536).views[63].nbytes == 65536
    assert shared() == before


def test_empty_socket_gives_zero(receiver: socket.socket) -> None:
    assert BatchReader(4, 100).read(receiver.fileno()) == 0


def test_each_message_in_its_own_slot(receiver: socket.socket, sender: socket.socket) -> None:
    reader = BatchReader(4, 100)
    sent = [bytes([i]) * (i * 7) for i in range(6)]
    for datagram in sent:
        sender.send(datagram)
    got: list[bytes] = []
    while count := reader.read(receiver.fileno()):
        got += [bytes(v[:n]) for v, n in zip(reader.views, reader.lengths(count), strict=False)]
        assert not reader.any_flags(count)
    assert got == sent


def test_limit(receiver: socket.socket, sender: socket.socket) -> None:
    reader = BatchReader(8, 100)
    for _ in range(5):
        sender.send(b"x")
    assert [reader.read(receiver.fileno(), 3), reader.read(receiver.fileno(), 3)] == [3, 2]


def test_truncation_is_flagged_on_its_slot(receiver: socket.socket, sender: socket.socket) -> None:
    reader = BatchReader(3, 10)
    for size in (10, 11, 9):
        sender.send(bytes(size))
    assert reader.read(receiver.fileno()) == 3
    assert reader.lengths(3) == [10, 10, 9]
    assert reader.flags(3) == [0, MSG_TRUNC, 0]
    assert reader.any_flags(3)
    assert not reader.any_flags(1)


def test_names_of_a_whole_batch_compare_at_once(receiver: socket.socket, sender: socket.socket) -> None:
    reader = BatchReader(4, 100, names=28)
    for _ in range(2):  # the second round finds msg_namelen reset
        for _ in range(3):
            sender.send(b"x")
        assert reader.read(receiver.fileno()) == 3
        assert reader.names_raw(3) == sockaddr(sender).ljust(28, b"\0") * 3
        assert reader.name(2) == sockaddr(sender)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        sender.send(b"x")
        other.sendto(b"y", receiver.getsockname())
        assert reader.read(receiver.fileno()) == 2
        assert [reader.name(i)[2:8] for i in range(2)] == [
            struct.pack("!H", s.getsockname()[1]) + socket.inet_aton("127.0.0.1") for s in (sender, other)
        ]


def test_control_data_of_udp_gro(receiver: socket.socket, sender: socket.socket) -> None:
    receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    reader = BatchReader(4, 65535, ancillary=socket.CMSG_SPACE(4))
    for _ in range(2):  # the second round finds msg_controllen reset
        sender.send(b"single")
        assert reader.read(receiver.fileno()) == 1
        assert not reader.any_ancillary(1)
        assert reader.ancillary(0) == b""
        sender.sendmsg([bytes(1050)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 100))])
        assert reader.read(receiver.fileno()) == 1
        assert reader.lengths(1) == [1050]
        assert reader.any_ancillary(1)
        length, level, kind, size = struct.unpack_from("=Qiii", reader.ancillary(0))
        assert (length, level, kind, size) == (socket.CMSG_LEN(4), socket.IPPROTO_UDP, UDP_GRO, 100)


def test_too_little_room_for_control_data_is_flagged(receiver: socket.socket, sender: socket.socket) -> None:
    receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    reader = BatchReader(1, 65535, ancillary=8)
    sender.sendmsg([bytes(1050)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 100))])
    assert reader.read(receiver.fileno()) == 1
    assert reader.flags(1) == [MSG_CTRUNC]


def test_errors_of_the_socket_are_raised_and_leave_the_reader_usable(receiver: socket.socket) -> None:
    reader = BatchReader(2, 100, names=16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        probe.connect(receiver.getsockname())
        receiver.close()
        probe.send(b"to a port that is closed by now")
        with pytest.raises(ConnectionRefusedError):
            reader.read(probe.fileno())
        assert reader.read(probe.fileno()) == 0
    with pytest.raises(OSError, match="Bad file") as caught:
        reader.read(-1)
    assert caught.value.errno == errno.EBADF


def test_slots_do_not_begin_in_the_same_cache_set() -> None:
    reader = BatchReader(8, 65536)
    starts = [ctypes.addressof(ctypes.c_char.from_buffer(view)) for view in reader.views]
    assert len({start % 4096 for start in starts}) == 8


@pytest.mark.parametrize(("buffers", "size"), [(0, 10), (1, 0)])
def test_senseless_sizes(buffers: int, size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        BatchReader(buffers, size)
