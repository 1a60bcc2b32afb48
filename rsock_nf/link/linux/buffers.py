"""The size of a Linux socket's buffers (socket(7)).

With CAP_NET_ADMIN it may exceed net.core.rmem_max and wmem_max, without that privilege it may not."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import Final

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
_SIOCOUTQ: Final = 0x5411  # linux/sockios.h, as TIOCOUTQ: sk_wmem_alloc


def enlarge_receive(sock: socket.socket, size: int) -> None:
    """Set the receive buffer to ``size`` bytes, which the kernel doubles.

    Raises ``OSError``, but not because the privilege is missing."""
    _enlarge(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, size)


def enlarge_send(sock: socket.socket, size: int) -> None:
    """See ``enlarge_receive``."""
    _enlarge(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, size)


def _enlarge(sock: socket.socket, forced: int, plain: int, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, size)


def unsent(descriptor: int) -> int:
    """Bytes that wait in the send buffer of a packet or UDP socket, with the kernel's bookkeeping."""
    (found,) = struct.unpack("=i", fcntl.ioctl(descriptor, _SIOCOUTQ, bytes(4)))
    return int(found)
