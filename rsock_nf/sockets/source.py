"""A socket from which datagrams come, as the event loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from rsock_nf.core.types import Run
from rsock_nf.sockets.datagrams import DatagramCounters


@dataclass(frozen=True, slots=True)
class Source:
    """See the module."""

    descriptor: int
    receive: Callable[[], list[Run]]
    """Reads a batch."""
    counters: DatagramCounters | None = None
    """Of a UDP socket, which the native data path may read in our place.  None = only ``receive`` may read it."""
    peer: Hashable = None
    """Whose datagrams all of them are: a conversation's with its target.  None = each tells its sender."""
    number: int | None = None
    """What is put in front of each peer, where there are several sockets."""
