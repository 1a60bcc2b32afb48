"""A netlink socket: it sends requests to the kernel, and reads answers, dumps and news.

It serves the nftables backend (NETLINK_NETFILTER) and ``rsock_nf.link.linux`` (NETLINK_ROUTE).  pyroute2's message
classes encode and decode the messages.  pyroute2's sockets are not used, for these reasons:

* ``IPRoute`` and ``NFTSocket`` bring an event loop and threads.
* ``NFTSocket`` waits for ever when the kernel refuses a batch because the process lacks the privilege.
* A table of nf_tables can belong to the socket that made it.  pyroute2's sockets are local to a thread, so such a table
  would go with the thread.

No call waits for the network: the kernel answers within send(2), or while a dump is read.
It does not know what a message means, and has no error texts but the kernel's.  It imports the standard library only.

Sources: include/uapi/linux/netlink.h, net/netlink/af_netlink.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
NLM_F_REQUEST: Final = 0x001
NLM_F_ACK: Final = 0x004
NLM_F_DUMP_INTR: Final = 0x010
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

_AF_NETLINK: Final = 16
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_CAP_ACK: Final = 10
_HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port id."""
_CODE: Final = struct.Struct("=i")
"""What NLMSG_ERROR and NLMSG_DONE begin with: 0, or an errno with a minus sign."""
_READ_BYTES: Final = 1 << 18
"""The size of a read: no message, and no part of a dump, is longer."""
_READS_AT_ONCE: Final = 256

Request = Any
"""A message of a pyroute2 class, with type and flags in its header; pyroute2 is not typed."""


class Answer(NamedTuple):
    """One message from the kernel."""

    kind: int
    """NLMSG_* or a type of the protocol."""
    flags: int
    """NLM_F_*"""
    sequence: int
    """The number of the request that it answers."""
    data: bytes
    """The whole message with its header: what pyroute2's classes decode."""

    @property
    def error(self) -> int:
        """The errno in an NLMSG_ERROR or NLMSG_DONE; 0 = none, so an NLMSG_ERROR is an acknowledgement."""
        if self.kind not in {NLMSG_ERROR, NLMSG_DONE} or len(self.data) < _HEADER.size + _CODE.size:
            return 0
        return -int(_CODE.unpack_from(self.data, _HEADER.size)[0])

    def check(self) -> None:
        """Raise ``OSError`` if it is an error."""
        if self.error:
            raise OSError(self.error, os.strerror(self.error))


class NetlinkSocket:
    """One socket of ``protocol`` (NETLINK_*), non-blocking.  ``OSError``, as the kernel says, unless said otherwise.

    ``groups``: multicast groups whose news it reads; one that the kernel does not know is left out.  Use one socket for
    requests and another one for news: answers and news would come mixed.
    ``patience``: seconds to wait for an answer, which the kernel gives within milliseconds.
    """

    def __init__(self, protocol: int, groups: Iterable[int] = (), *, patience: float = 1.0) -> None:
        self.socket = socket.socket(_AF_NETLINK, socket.SOCK_RAW, protocol)
        """For options of the protocol."""
        self._patience = patience
        self._sequence = 0
        try:
            self.socket.setblocking(False)
            with contextlib.suppress(OSError):  # before Linux 4.3: errors repeat the request
                self.socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self.socket.bind((0, 0))
            for group in groups:
                self._join(group)
        except BaseException:
            self.socket.close()
            raise

    def _join(self, group: int) -> None:
        try:
            self.socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a group that is newer than the kernel
                raise

    def fileno(self) -> int:
        """Readable when something waits."""
        return self.socket.fileno()

    def close(self) -> None:
        """Idempotent."""
        self.socket.close()

    # -- requests

    def send(self, requests: Iterable[Request]) -> int:
        """Send them as one datagram and number them one after the other; the number of the first."""
        first = self._sequence + 1
        self.socket.send(b"".join([self._encode(request) for request in requests]))
        return first

    def _encode(self, request: Request) -> bytes:
        self._sequence += 1
        request["header"]["sequence_number"] = self._sequence
        request["header"]["pid"] = 0
        request.reset()
        request.encode()
        return bytes(request.data)

    def answers(self, first: int) -> Iterator[Answer]:
        """What the kernel says about request ``first`` and later ones.  It ends only by its caller or an ``OSError``.

        Raises ``TimeoutError`` when the kernel says nothing for too long.
        """
        deadline = time.monotonic() + self._patience
        waiter = select.poll()
        waiter.register(self.socket, select.POLLIN)
        while True:
            if not waiter.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "the kernel does not answer a netlink request")
            for data in split(self.socket.recv(_READ_BYTES)):
                _, kind, flags, sequence, _ = _HEADER.unpack_from(data)
                if sequence >= first:  # else a late answer to a request that was given up
                    yield Answer(kind, flags, sequence, data)

    def ask(self, request: Request) -> bytes:
        """The answer to one request, or its acknowledgement."""
        answer = next(self.answers(self.send([request])))
        answer.check()
        return answer.data

    def dump(self, request: Request, attempts: int) -> tuple[list[bytes], bool]:
        """All messages that answer a request for everything, and whether they belong together.

        The kernel tells when something changed while they were read.  They are read again then, ``attempts`` times in
        all.
        """
        request["header"]["flags"] |= NLM_F_DUMP
        found, whole = self._dump_once(request)
        for _ in range(attempts - 1):
            if whole:
                break
            found, whole = self._dump_once(request)
        return found, whole

    def _dump_once(self, request: Request) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        whole = True
        for answer in self.answers(self.send([request])):
            whole = whole and not answer.flags & NLM_F_DUMP_INTR
            if answer.error == errno.EINTR:
                return found, False
            answer.check()
            if answer.kind in {NLMSG_DONE, NLMSG_ERROR}:
                break
            found.append(answer.data)
        return found, whole

    # -- news

    def news(self) -> tuple[list[bytes], bool]:
        """Messages that wait, a bounded number; and whether some were lost because we were too slow (ENOBUFS)."""
        found: list[bytes] = []
        overrun = False
        for _ in range(_READS_AT_ONCE):
            try:
                found += split(self.socket.recv(_READ_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                overrun = True
        return found, overrun


def split(data: bytes) -> Iterator[bytes]:
    """A datagram's messages, each aligned to 4 bytes."""
    at = 0
    while at + _HEADER.size <= len(data):
        length = int(_HEADER.unpack_from(data, at)[0])
        if not _HEADER.size <= length <= len(data) - at:
            return
        yield data[at : at + length]
        at += (length + 3) & ~3


def kind_of(message: bytes) -> int:
    """The type of an undecoded message."""
    return int(_HEADER.unpack_from(message)[1])
