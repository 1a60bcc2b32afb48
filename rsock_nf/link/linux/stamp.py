"""When the kernel received the message that a socket gave last: SIOCGSTAMPNS (socket(7)).

No ancillary data: the kernel keeps the stamp with the socket (net/core/sock.c, ``sock_gettstamp``)."""

from __future__ import annotations

import fcntl
import struct
import time
from typing import Final

_SIOCGSTAMPNS: Final = 0x8907  # asm-generic/sockios.h: struct timespec
TIMESPEC: Final = struct.Struct("@qq")
SO_TIMESTAMPNS: Final = 35  # asm-generic/socket.h


def age_of_last_message(descriptor: int) -> float:
    """Seconds since then; 0.0 = not known.  The first call has the kernel keep stamps from then on."""
    try:
        return age_of(fcntl.ioctl(descriptor, _SIOCGSTAMPNS, bytes(TIMESPEC.size)))
    except OSError:  # ENOENT: nothing was received yet, or without a stamp
        return 0.0


def age_of(stamp: bytes, at: int = 0) -> float:
    """Seconds since the time in the struct timespec at this offset."""
    seconds, nanoseconds = TIMESPEC.unpack_from(stamp, at)
    return max(time.time() - float(seconds) - float(nanoseconds) * 1e-9, 0.0)
