"""The netlink socket against a kernel that is played by the other end of a socket pair."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from rsock_firewall.netlink import (
    NETLINK_ROUTE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NetlinkSocket,
    Request,
    kind_of,
    split,
)

GET, OBJECT = 18, 16


def message(kind: int, sequence: int, body: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def error(code: int, sequence: int, kind: int = NLMSG_ERROR) -> bytes:
    return message(kind, sequence, struct.pack("=i", -code))


def request() -> Request:
    made = ifinfmsg()
    made["header"]["type"] = GET
    made["header"]["flags"] = NLM_F_REQUEST
    return made


@pytest.fixture
def pair() -> Iterator[tuple[NetlinkSocket, socket.socket]]:
    """A socket, and the end that plays the kernel."""
    near, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    netlink = NetlinkSocket(NETLINK_ROUTE, patience=0.05)
    netlink.socket.close()
    netlink.socket = near
    near.setblocking(False)
    with near, kernel:
        yield netlink, kernel


def test_requests_are_numbered_and_sent_as_one_datagram(pair: tuple[NetlinkSocket, socket.socket]) -> None:
    netlink, kernel = pair
    assert netlink.send([request(), request()]) == 1
    assert netlink.send([request()]) == 3
    first, second = split(kernel.recv(65536))
    assert [struct.unpack_from("=IHHI", one)[1:] for one in (first, second)] == [(GET, 1, 1), (GET, 1, 2)]
    assert kind_of(first) == GET


def test_a_late_answer_to_an_earlier_request_is_passed_over(pair: tuple[NetlinkSocket, socket.socket]) -> None:
    netlink, kernel = pair
    netlink.send([request()])
    kernel.send(message(OBJECT, 1, b"late") + message(OBJECT, 2, b"mine"))
    assert netlink.ask(request()) == message(OBJECT, 2, b"mine")


def test_an_error_is_raised_and_an_acknowledgement_is_none(pair: tuple[NetlinkSocket, socket.socket]) -> None:
    netlink, kernel = pair
    kernel.send(error(errno.ENOENT, 1))
    with pytest.raises(FileNotFoundError):
        netlink.ask(request())
    kernel.send(error(0, 2))
    assert kind_of(netlink.ask(request())) == NLMSG_ERROR


def test_a_silent_kernel_is_not_waited_for(pair: tuple[NetlinkSocket, socket.socket]) -> None:
    with pytest.raises(TimeoutError, match="does not answer"):
        pair[0].ask(request())


def test_a_dump_comes_in_parts(pair: tuple[NetlinkSocket, socket.socket]) -> None:
    netlink, kernel = pair
    kernel.send(message(OBJECT, 1, b"a") + message(OBJECT, 1, b"bcd"))
    kernel.send(message(OBJECT, 1, b"efgh") + error(0, 1, NLMSG_DONE))
    found, whole = netlink.dump(request(), attempts=1)
    assert ([data[16:] for data in found], whole) == ([b"a", b"bcd", b"efgh"], True)
    flags = struct.unpack_from("=IHH", kernel.recv(65536))[2]
    assert flags == NLM_F_REQUEST | NLM_F_DUMP


@pytest.mark.parametrize("sign", [message(OBJECT, 1, b"old", NLM_F_DUMP_INTR), error(errno.EINTR, 1, NLMSG_DONE)])
def test_a_dump_that_changed_under_way_is_read_again(pair: tuple[NetlinkSocket, socket.socket], sign: bytes) -> None:
    netlink, kernel = pair
    kernel.send(sign + error(0, 1, NLMSG_DONE))
    kernel.send(message(OBJECT, 2, b"new!") + error(0, 2, NLMSG_DONE))
    found, whole = netlink.dump(request(), attempts=2)
    assert ([data[16:] for data in found], whole) == ([b"new!"], True)


def test_a_dump_that_changes_every_time_is_not_whole(pair: tuple[NetlinkSocket, socket.socket]) -> None:
    netlink, kernel = pair
    for sequence in (1, 2):
        kernel.send(message(OBJECT, sequence, b"part", NLM_F_DUMP_INTR) + error(0, sequence, NLMSG_DONE))
    found, whole = netlink.dump(request(), attempts=2)
    assert (len(found), whole) == (1, False)


def test_a_dump_that_fails_is_an_error(pair: tuple[NetlinkSocket, socket.socket]) -> None:
    netlink, kernel = pair
    kernel.send(message(OBJECT, 1, b"part") + error(errno.ENOMEM, 1, NLMSG_DONE))
    with pytest.raises(OSError, match="memory"):
        netlink.dump(request(), attempts=3)


def test_news_are_all_that_waits(pair: tuple[NetlinkSocket, socket.socket]) -> None:
    netlink, kernel = pair
    assert netlink.news() == ([], False)
    kernel.send(message(OBJECT, 0, b"one.") + message(OBJECT, 0, b"two."))
    kernel.send(message(OBJECT, 0, b"six."))
    messages, overrun = netlink.news()
    assert ([data[16:] for data in messages], overrun) == ([b"one.", b"two.", b"six."], False)


@pytest.mark.parametrize("tail", [b"", b"\x10\0\0", struct.pack("=IHHII", 8, OBJECT, 0, 0, 0), message(OBJECT, 0)[:-1]])
def test_what_is_no_message_ends_a_datagram(tail: bytes) -> None:
    assert list(split(message(OBJECT, 0, b"good") + tail)) == [message(OBJECT, 0, b"good")]


def test_a_group_that_the_kernel_does_not_know_is_left_out() -> None:
    NetlinkSocket(NETLINK_ROUTE, [1, 4000]).close()
