"""Reading a routing socket: what NETLINK_ROUTE (``rtnetlink``) and PF_ROUTE (``bsd_routing``) have in common.

Both answer within send(2), tell news unasked, and say by ENOBUFS that some were lost.
What it is not: the meaning of a message.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import Final

RECEIVE_BYTES: Final = 1 << 16
"""Of one read: more than any message has."""
_PATIENCE_MS: Final = 1000
"""A bound only: the answer is there when send(2) returns."""
_READS_AT_ONCE: Final = 256


def is_answered(end: socket.socket) -> bool:
    """Whether there is something to read, now or within a second."""
    waiter = select.poll()
    waiter.register(end, select.POLLIN)
    return bool(waiter.poll(_PATIENCE_MS))


def drain(end: socket.socket) -> tuple[list[bytes], bool]:
    """The reads that wait, a bounded number; and whether some were lost because we were too slow (ENOBUFS).

    ``end`` is non-blocking.  Raises ``OSError`` for everything else.
    """
    reads: list[bytes] = []
    overrun = False
    for _ in range(_READS_AT_ONCE):
        try:
            reads.append(end.recv(RECEIVE_BYTES))
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            overrun = True
    return reads, overrun
