"""The loop of ``rsock-nf capture``: from the kernel into a pcapng file, until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol

from rsock_nf import __version__
from rsock_nf.link import Seen, Watch
from rsock_nf.ops.capture import pcapng

_BATCH: Final = 256
"""Packets that are written together."""
_STOP: Final = (signal.SIGINT, signal.SIGTERM)


class Reader(Protocol):
    """What makes of packets those that are written (``clear.Clear``)."""

    def read(self, batch: Iterable[Seen]) -> Iterable[tuple[Seen, str]]:
        """Each packet as it is to be written, with its comment."""


class AsTheyAre:
    """Packets as they are, without a comment."""

    @staticmethod
    def read(batch: Iterable[Seen]) -> Iterable[tuple[Seen, str]]:
        """See ``Reader``."""
        return ((seen, "") for seen in batch)


@dataclass(slots=True)
class Limits:
    """When to stop, beside Ctrl-C; None = never."""

    packets: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Tally:
    """What came of it."""

    packets: int = 0
    drops: int = 0
    """Packets that were lost because this process was too slow."""
    reader_gone: bool = False
    """Who read the pipe has ended."""
    received: list[int] = field(default_factory=list)
    """Packets, by interface."""


class _File:
    """Writes blocks; each interface is described before its first packet."""

    def __init__(self, output: BinaryIO, snap: int, comment: str, about: str) -> None:
        self._output = output
        self._snap = snap
        self._about = about
        self._numbers: dict[tuple[str, bool], int] = {}
        self.tally = Tally()
        output.write(pcapng.section(f"rsock-nf {__version__}", comment))
        output.flush()

    def add(self, seen: Seen, comment: str) -> None:
        number = self._numbers.get((seen.device, seen.ethernet))
        if number is None:
            number = self._describe(seen.device, ethernet=seen.ethernet)
        self._output.write(
            pcapng.packet(number, seen.when, seen.data, seen.length, outgoing=seen.outgoing, comment=comment)
        )
        self.tally.received[number] += 1
        self.tally.packets += 1

    def _describe(self, device: str, *, ethernet: bool) -> int:
        link_type = pcapng.ETHERNET if ethernet else pcapng.RAW_IP
        self._output.write(pcapng.interface(link_type, self._snap, device, self._about))
        self._numbers[device, ethernet] = len(self._numbers)
        self.tally.received.append(0)
        return len(self._numbers) - 1

    def end(self, drops: int) -> None:
        """The kernel counts drops of the socket, not of a device: they are told with the first interface."""
        self.tally.drops = drops
        if not self._numbers:  # readers want one
            self._describe("any", ethernet=True)
        for number, received in enumerate(self.tally.received):
            lost = 0 if number else drops
            self._output.write(pcapng.statistics(number, time.time_ns(), received + lost, lost))
        self._output.flush()


def record(watch: Watch, output: BinaryIO, reader: Reader, limits: Limits, about: tuple[str, str, int]) -> Tally:
    """Write what ``watch`` shows to ``output`` until a signal, a limit, or the end of who reads it.

    ``about``: the comment of the file, the description of its interfaces, and the snap length.  The file is whole at
    the end.  Raises ``OSError`` if it cannot be written.
    """
    comment, description, snap = about
    tally = Tally()
    with _signalled() as told:
        try:
            file = _File(output, snap, comment, description)
            tally = file.tally
            _loop(watch, file, reader, limits, told, output)
            file.end(watch.drops())
        except BrokenPipeError:
            tally.reader_gone = True
            tally.drops = watch.drops()
    return tally


def _loop(watch: Watch, file: _File, reader: Reader, limits: Limits, told: socket.socket, output: BinaryIO) -> None:
    """What the kernel has seen until it is to stop is written, too."""
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    poll.register(told.fileno(), select.POLLIN)
    poll.register(output.fileno(), 0)  # an error, if who reads the pipe has gone
    end = None if limits.seconds is None else time.monotonic() + limits.seconds
    stop: int | None = None
    while limits.packets is None or file.tally.packets < limits.packets:
        if stop is None:
            left = None if end is None else max(end - time.monotonic(), 0) * 1000
            ready = dict(poll.poll(left))
            if ready.get(output.fileno(), 0) & (select.POLLERR | select.POLLHUP):
                raise BrokenPipeError
            if told.fileno() in ready or left == 0:
                stop = time.time_ns()
        wanted = _BATCH if limits.packets is None else min(_BATCH, limits.packets - file.tally.packets)
        batch = watch.read(wanted)
        for seen, comment in reader.read(batch):
            file.add(seen, comment)
        output.flush()
        if stop is not None and (not batch or batch[-1].when > stop):
            return


@contextlib.contextmanager
def _signalled() -> Iterator[socket.socket]:
    """A socket that is readable once a signal has told us to stop: it comes at no other moment than ``poll``."""
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in _STOP}
    waker = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(waker)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()


def open_output(path: str, *, private: bool) -> BinaryIO:
    """The file ``path``, made anew, or standard output for ``-``.  ``private``: only its owner may read it.

    Raises ``OSError``.
    """
    if path == "-":
        return os.fdopen(os.dup(1), "wb")
    mode = 0o600 if private else 0o666
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    if private:
        with contextlib.suppress(OSError):  # a pipe of somebody else's
            os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb")
