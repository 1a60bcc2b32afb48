"""Receive buffers that all UDP sockets share, and how their content becomes runs.

One read of one socket fills them, and the next read of any socket overwrites them.  So datagrams are passed on at once,
or copied.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Final

from rsock_nf.core.types import Buffer, Run
from rsock_nf.link import system

BUFFERS: Final = 64
BUFFER_BYTES: Final = 64 << 10
"""If a buffer is smaller than what GRO merged, the rest is lost."""


class ReceiveBuffers:
    """64 buffers of 64 KiB, with room for ancillary data, that any number of sockets use one after the other.

    Whatever a ``receive`` returned is valid until the next ``receive`` of *any* socket with the same
    ``ReceiveBuffers``.
    """

    def __init__(self, *, names: int = 0, ancillary: int | None = None) -> None:
        """``ancillary``: bytes for ancillary data; by default enough for what says where to cut merged datagrams."""
        udp = system().udp
        room = udp.merge_ancillary_bytes if ancillary is None else ancillary
        self.reader = udp.reader(BUFFERS, BUFFER_BYTES, names=names, ancillary=room)
        self._equal_size = -1
        self._equal: list[Buffer] = []

    def runs(self, peer: Hashable, lengths: list[int]) -> list[Run]:
        """The first ``len(lengths)`` buffers as runs of one peer, where no buffer is to be cut."""
        size = lengths[0]
        if size and lengths.count(size) == len(lengths):
            if size != self._equal_size:  # the same size as in the batch before costs nothing
                self._equal_size = size
                self._equal = [view[:size] for view in self.reader.views]
            return [Run(peer, self._equal[: len(lengths)], size)]
        return self.mixed_runs([peer] * len(lengths), lengths, None)

    def mixed_runs(self, peers: Sequence[Hashable], lengths: list[int], segments: Sequence[int] | None) -> list[Run]:
        """Filled buffers as runs, each with its own peer, length and size to cut at (0 or None = whole)."""
        runs: list[Run] = []
        views = self.reader.views
        open_run: list[Buffer] | None = None  # takes further datagrams of open_peer, of open_size or the shorter last
        open_peer: Hashable = None
        open_size = 0
        for index, length in enumerate(lengths):
            peer = peers[index]
            view = views[index][:length]
            cut = segments[index] if segments is not None else 0
            if 0 < cut < length:
                runs.append(Run(peer, [view[at : at + cut] for at in range(0, length, cut)], cut))
                open_run = None
            elif open_run is not None and peer == open_peer and 0 < length <= open_size:
                open_run.append(view)
                if length < open_size:
                    open_run = None
            else:
                started: list[Buffer] = [view]
                runs.append(Run(peer, started, length))
                open_run, open_peer, open_size = (started if length else None), peer, length
        return runs


@functools.cache
def shared_buffers(names: int = 0, ancillary: int | None = None) -> ReceiveBuffers:
    """The process's one ``ReceiveBuffers`` with that much room for names and ancillary data.  It is 4 MiB, too much for
    each socket to have its own."""
    return ReceiveBuffers(names=names, ancillary=ancillary)
