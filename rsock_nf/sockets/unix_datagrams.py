"""The application's side without UDP: a bound Unix-domain datagram socket that takes and gives runs, as a ``Listener``
does.

A sender whose own socket is bound, to an absolute path or an abstract name, is a peer and gets answers.  All senders
with unbound sockets are one peer: their datagrams are carried, but nobody can get the answers, so these are dropped
and counted.  The same goes for a sender with a relative path.  We would look the path up in our own working directory,
so the sender could choose a socket that it may not write to itself.  Links in absolute paths are followed with our
rights (``SECURITY.md`` says whom to let in).

The members of the group of its directory may use the tunnel: ``unix_path`` tells to whom the file belongs, and what is
done with one that is there already.

It is not reliable, though the kernel's socket is.  What a peer's full queue refuses is dropped and counted, as with
UDP.  That queue is short (``net.unix.max_dgram_qlen``, by default 10 datagrams). A peer that is connected to us has no
such queue: what it leaves unread counts against our send buffer, which all peers share.  See unix(7),
net/unix/af_unix.c.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Final

from rsock_nf.core.types import Run
from rsock_nf.link import system
from rsock_nf.link.udp import MSG_TRUNC
from rsock_nf.link.waiting_time import LOST
from rsock_nf.printable import printable
from rsock_nf.sockets.buffers import ReceiveBuffers, shared_buffers
from rsock_nf.sockets.datagrams import FULL, SOCKET_BUFFER, DatagramCounters
from rsock_nf.sockets.unix_path import BoundPath

_SOCKADDR_UN: Final = 110
_FAMILY_BYTES: Final = 2
_LONGEST: Final = 65_507
"""The longest UDP datagram over IPv4; this socket would take longer ones."""
_GONE: Final = (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTDIR)
_NOBODY: Final = b""
"""The one peer for all senders with unbound sockets."""


class UnixListener:
    """Bound to ``path``; any number of peers.  A peer is bytes: what the sender is bound to.

    Raises ``LinkError``.
    """

    def __init__(self, path: Path, *, buffers: ReceiveBuffers | None = None) -> None:
        self.local = path
        self.counters = DatagramCounters()
        self._buffers = buffers or shared_buffers(_SOCKADDR_UN, system().udp.stamp_ancillary_bytes)
        self._since = time.monotonic()
        """What waits has come after this time."""
        self._bound = BoundPath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._bound.bind(self._socket, self._enlarge)
        except BaseException:
            self.close()
            raise

    def _enlarge(self) -> None:
        system().udp.enlarge_send(self._socket, SOCKET_BUFFER)
        system().udp.stamp(self._socket)

    def fileno(self) -> int:
        """Readable when datagrams wait."""
        return self._socket.fileno()

    def close(self) -> None:
        """Idempotent.  Removes the file, unless somebody put another in its place."""
        self._socket.close()
        self._bound.remove()

    def receive(self) -> list[Run]:
        """What waits, at most 64 datagrams; empty when nothing does.

        The datagrams are views, valid until the next ``receive`` of any socket on the same ``ReceiveBuffers``.
        """
        reader = self._buffers.reader
        while count := self._read():
            peers = [_answerable(reader.name(index)[_FAMILY_BYTES:]) for index in range(count)]
            lengths = reader.lengths(count)
            runs = self._buffers.mixed_runs(peers, lengths, None)
            perhaps_lost = time.monotonic() - self._since >= LOST
            if perhaps_lost or reader.any_flags(count) or max(lengths) > _LONGEST:
                runs = self._useful(peers, lengths, perhaps_lost=perhaps_lost)
            if count < self._buffers.reader.buffers:
                self._since = time.monotonic()
            self.counters.received += sum([len(run.datagrams) for run in runs])
            if runs:
                return runs
        return []

    def _read(self) -> int:
        try:
            count = self._buffers.reader.read(self._socket.fileno())
        except OSError as error:
            if error.errno in {errno.EBADF, errno.ENOTSOCK}:
                raise
            self.counters.receive_errors += 1
            return 0
        if not count:
            self._since = time.monotonic()
        return count

    def _useful(self, peers: Sequence[Hashable], lengths: list[int], *, perhaps_lost: bool) -> list[Run]:
        """A run for each datagram.  Those that are too long for any target, or came too long ago for anybody, are
        dropped and counted."""
        reader, age = self._buffers.reader, system().udp.age
        views, flags = reader.views, reader.flags(len(lengths))
        runs: list[Run] = []
        for index, length in enumerate(lengths):
            if length > _LONGEST or flags[index] & MSG_TRUNC:
                self.counters.oversize += 1
            elif perhaps_lost and age(reader.ancillary(index)) >= LOST:
                self.counters.late += 1
            else:
                runs.append(Run(peers[index], [views[index][:length]], length))
        return runs

    def send(self, runs: Sequence[Run]) -> None:
        """Send each run to its peer.  What the kernel does not take is dropped and counted."""
        for peer, datagrams, _ in runs:
            if not isinstance(peer, bytes):
                raise TypeError(f"not a peer of a Unix-domain socket: {peer!r}")
            if peer == _NOBODY:
                self.counters.unanswerable += len(datagrams)
                continue
            for datagram in datagrams:
                self._send(datagram, peer)

    def _send(self, datagram: bytes | bytearray | memoryview, peer: bytes) -> None:
        try:
            self._socket.sendto(datagram, peer)
        except OSError as error:
            if error.errno in _GONE:
                self.counters.refused += 1
            elif error.errno in FULL:
                self.counters.send_full += 1
            else:
                self.counters.send_errors += 1
        else:
            self.counters.sent += 1

    def describe(self, peer: Hashable) -> str:
        """``peer`` for people: the path it is bound to, an abstract name with ``@`` in front as ss(8) has it."""
        if not isinstance(peer, bytes):
            raise TypeError(f"not a peer of a Unix-domain socket: {peer!r}")
        if peer == _NOBODY:
            return "unix: unbound senders"
        text = os.fsdecode(peer[1:] if peer[:1] == b"\0" else peer)
        return f"unix:@{printable(text)}" if peer[:1] == b"\0" else f"unix:{printable(text)}"


def _answerable(name: bytes) -> bytes:
    """What a sender is bound to, if an answer may be sent there."""
    if name[:1] == b"\0":  # abstract: every byte counts
        return name
    path = name.partition(b"\0")[0]
    return path if path.startswith(b"/") else _NOBODY
